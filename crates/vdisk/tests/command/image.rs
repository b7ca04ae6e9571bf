//! `vdisk create` and `vdisk info`, with the service.

use serde_json::Value;

use crate::house::house;

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
