//! `vdisk create` and `vdisk info`, with the service.

use serde_json::Value;

use crate::house::{house, read_at, write_at};

#[test]
fn a_created_image_has_the_facts_it_was_asked_for() {
    let house = house!();
    let image = house.path("a.vhd");
    assert_eq!(house.good(&["create", &image, "--size", "10G"]), "");
    let facts: Value = serde_json::from_str(&house.good(&["info", &image, "--json"])).unwrap();
    assert_eq!(facts["format"], "vhd");
    assert_eq!(facts["kind"], "dynamic");
    assert_eq!(facts["virtual_size"], 10u64 << 30);
    assert_eq!(facts["block_size"], 2 << 20);
    assert_eq!(facts["sector_size"], 512);
    assert_eq!(facts["is_loaded"], false);
    assert!(facts["physical_size"].as_u64().unwrap() < 1 << 20);
    assert_ne!(facts["identifier"], "00000000-0000-0000-0000-000000000000");
    let text = house.good(&["info", &image]);
    assert!(text.contains("10 GiB (10737418240 bytes)"), "{text}");
}

#[test]
fn a_fixed_image_has_all_its_space() {
    let house = house!();
    let image = house.path("a.vhd");
    house.good(&["create", &image, "--size", "8M", "--fixed"]);
    let facts: Value = serde_json::from_str(&house.good(&["info", &image, "--json"])).unwrap();
    assert_eq!(facts["kind"], "fixed");
    assert_eq!(facts["physical_size"], (8 << 20) + 512);
    assert!(facts["allocated_size"].as_u64().unwrap() >= 8 << 20);
}

#[test]
fn a_raw_image_is_made_by_its_extension() {
    let house = house!();
    let image = house.path("a.raw");
    house.good(&["create", &image, "--size", "8M"]);
    let facts: Value = serde_json::from_str(&house.good(&["info", &image, "--json"])).unwrap();
    assert_eq!(facts["format"], "raw");
    assert_eq!(facts["virtual_size"], 8 << 20);
}

#[test]
fn an_image_that_exists_is_never_overwritten() {
    let house = house!();
    let image = house.path("a.vhd");
    std::fs::write(&image, "precious").unwrap();
    house.bad(
        &["create", &image, "--size", "10G"],
        "ERROR_FILE_EXISTS (80)",
    );
    assert_eq!(std::fs::read_to_string(&image).unwrap(), "precious");
}

#[test]
fn a_create_that_fails_leaves_no_file() {
    let house = house!();
    let image = house.path("a.vhd");
    // R-CRE-4: at least 3 MiB.
    house.bad(
        &["create", &image, "--size", "1M"],
        "ERROR_INVALID_PARAMETER (87)",
    );
    assert!(!std::path::Path::new(&image).exists());
}

#[test]
fn a_relative_path_names_the_same_image() {
    let house = house!();
    house.image("a.vhd", "8M");
    let facts: Value = serde_json::from_str(&house.good(&["info", "a.vhd", "--json"])).unwrap();
    assert_eq!(
        facts["file"],
        std::fs::canonicalize(house.path("a.vhd"))
            .unwrap()
            .to_str()
            .unwrap()
    );
}

#[test]
fn damage_is_told_by_its_name() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[512] ^= 0xff;
    std::fs::write(&image, bytes).unwrap();
    let words = house.bad(&["info", &image], "ERROR_VHD_SPARSE_HEADER_CORRUPT");
    assert!(words.contains(&image), "{words}");
}

#[test]
fn a_vhdx_has_the_sectors_and_blocks_it_was_asked_for() {
    let house = house!();
    let image = house.path("a.vhdx");
    let words = ["create", &image, "--size", "1G", "--block-size", "1M"];
    let sectors = ["--sector-size", "4096", "--physical-sector-size", "4096"];
    assert_eq!(house.good(&[&words[..], &sectors].concat()), "");
    let facts: Value = serde_json::from_str(&house.good(&["info", &image, "--json"])).unwrap();
    assert_eq!(facts["format"], "vhdx");
    assert_eq!(facts["kind"], "dynamic");
    assert_eq!(facts["virtual_size"], 1 << 30);
    assert_eq!(facts["block_size"], 1 << 20);
    assert_eq!(facts["sector_size"], 4096);
}

#[test]
fn a_child_reads_as_its_parent_until_it_is_written() {
    let house = house!();
    for ending in ["vhd", "vhdx"] {
        let raw = house.path("a.raw");
        std::fs::write(&raw, vec![7; 8 << 20]).unwrap();
        let parent = house.path(&format!("parent.{ending}"));
        house.good(&["convert", &raw, &parent]);
        let child = house.path(&format!("child.{ending}"));
        assert_eq!(house.good(&["create", &child, "--parent", &parent]), "");
        assert_eq!(house.good(&["diff", &child, &parent]), "");
        let hash = house.good(&["hash", &parent]);
        {
            let device = house.attach(&[&child]);
            assert_eq!(read_at(&device, 4096, 1 << 20), [7; 4096]);
            write_at(&device, &[9; 4096], 1 << 20);
            house.good(&["detach", &child]);
        }
        assert_eq!(house.good(&["hash", &parent]), hash);
        let changed = house.run(&["diff", &child, &parent]);
        assert_eq!((changed.code, changed.out.as_str()), (1, "1048576 4096\n"));
        let grandchild = house.path(&format!("grandchild.{ending}"));
        house.good(&["create", &grandchild, "--parent", &child]);
        assert_eq!(house.good(&["diff", &grandchild, &child]), "");
        let map: Value =
            serde_json::from_str(&house.good(&["map", &grandchild, "--json"])).unwrap();
        assert_eq!(map["layers"].as_array().unwrap().len(), 3);
        std::fs::remove_file(raw).unwrap();
    }
}

#[test]
fn a_parent_that_was_moved_is_found_where_the_caller_says() {
    let house = house!();
    let parent = house.image("parent.vhdx", "8M");
    let child = house.path("child.vhdx");
    house.good(&["create", &child, "--parent", &parent]);
    let elsewhere = house.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::rename(&parent, house.path("elsewhere/renamed.vhdx")).unwrap();
    // P-6
    let words = house.bad(&["info", &child], "ERROR_VHD_PARENT_VHD_NOT_FOUND");
    assert!(words.contains("parent.vhdx"), "{words}");
    house.bad(&["attach", &child], "ERROR_VHD_PARENT_VHD_NOT_FOUND");
    house.good(&["info", &child, "--search", &elsewhere]);
    house.good(&["hash", &child, "--search", &elsewhere]);
    let device = house.attach(&[&child, "--search", &elsewhere]);
    house.good(&["detach", &device]);
    assert!(device.is_gone());
}
