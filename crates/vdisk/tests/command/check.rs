//! `vdisk check`: findings, exit codes, repair and undo. Needs no root and no service.

use assert_cmd::Command;
use serde_json::Value;
use virtdisk_testkit::Pages;
use virtdisk_testkit::vhd_builder::VhdBuilder;

use crate::house::{Said, said};

const MIB: u64 = 1 << 20;

fn vdisk(arguments: &[&str]) -> Said {
    said(
        Command::new(env!("CARGO_BIN_EXE_vdisk"))
            .args(arguments)
            .output()
            .unwrap(),
    )
}

struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    fn new(pages: &Pages) -> Image {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.vhd"), pages.to_vec()).unwrap();
        Image { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path("a.vhd")).unwrap()
    }
}

fn dynamic() -> VhdBuilder {
    let mut builder = VhdBuilder::dynamic(4 * MIB, 1 << 19);
    builder.block(2, &[7; 4096]);
    builder
}

#[test]
fn a_sound_image_has_no_faults() {
    let image = Image::new(&dynamic().build());
    let said = vdisk(&["check", &image.path("a.vhd")]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    let end = ": dynamic vhd: 0 errors, 0 warnings, 0 notes\n";
    assert!(said.out.ends_with(end), "{said:?}");
    let said = vdisk(&["check", &image.path("a.vhd"), "--json"]);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (&report["format"], &report["kind"]),
        (&"vhd".into(), &"dynamic".into())
    );
    assert_eq!(
        (&report["errors"], &report["findings"]),
        (&0.into(), &Value::Array(vec![]))
    );
    assert_eq!(report["undo"], Value::Null);
}

#[test]
fn an_error_is_told_with_offset_found_wanted_and_rule() {
    let mut builder = dynamic();
    builder.table[0] = 1;
    let image = Image::new(&builder.build());
    let said = vdisk(&["check", &image.path("a.vhd")]);
    assert_eq!(said.code, 1, "{said:?}");
    let line = "error: the VHD block allocation table at byte 1536 puts block 0 onto the dynamic \
                header: found bytes 512 to ";
    assert!(said.out.starts_with(line), "{said:?}");
    assert!(said.out.contains(" [S-1]\n"), "{said:?}");
    let said = vdisk(&["check", &image.path("a.vhd"), "--json"]);
    assert_eq!(said.code, 1, "{said:?}");
    let report: Value = serde_json::from_str(&said.out).unwrap();
    let finding = &report["findings"][0];
    assert_eq!(
        (&report["errors"], &finding["severity"]),
        (&1.into(), &"error".into())
    );
    assert_eq!(
        (&finding["offset"], &finding["rule"]),
        (&1536.into(), &"S-1".into())
    );
    assert_eq!(finding["repairable"], false);
    // A repair leaves it as it is.
    let before = image.bytes();
    let said = vdisk(&["check", &image.path("a.vhd"), "--repair"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(image.bytes() == before);
    assert!(!std::path::Path::new(&image.path("a.vhd.undo-1")).exists());
}

#[test]
fn a_repair_is_told_and_can_be_undone() {
    let mut builder = dynamic();
    builder.write_footer = false;
    let image = Image::new(&builder.build());
    let before = image.bytes();
    let file = image.path("a.vhd");
    let said = vdisk(&["check", &file]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.starts_with("warning: the VHD footer at byte "),
        "{said:?}"
    );
    assert!(said.out.contains("--repair mends it"), "{said:?}");
    assert!(image.bytes() == before);
    for number in [1, 2] {
        let said = vdisk(&["check", &file, "--repair"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.out.starts_with("repaired: the VHD footer"), "{said:?}");
        assert!(said.out.contains("0 errors, 0 warnings"), "{said:?}");
        let undo = image.path(&format!("a.vhd.undo-{number}"));
        assert!(said.out.contains(&format!("--undo {undo}")), "{said:?}");
        assert!(image.bytes() != before);
        let said = vdisk(&["check", "--undo", &undo]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(image.bytes() == before);
    }
    // What is no undo file changes nothing.
    let said = vdisk(&["check", "--undo", &file, &file]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("no undo file"), "{said:?}");
    let undo = image.path("a.vhd.undo-1");
    let mut torn = std::fs::read(&undo).unwrap();
    torn[20] ^= 1;
    std::fs::write(&undo, &torn).unwrap();
    let said = vdisk(&["check", "--undo", &undo]);
    assert!(said.err.contains("damaged"), "{said:?}");
    assert!(image.bytes() == before);
}

#[test]
fn what_is_not_there_or_in_use_is_said() {
    let image = Image::new(&dynamic().build());
    let said = vdisk(&["check", &image.path("b.vhd")]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("b.vhd"), "{said:?}");
    let said = vdisk(&["check", image.folder.path().to_str().unwrap()]);
    assert!(
        said.code == 1 && said.err.contains("not a regular file"),
        "{said:?}"
    );
    assert_eq!(vdisk(&["check"]).code, 2);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(image.path("a.vhd"))
        .unwrap();
    virtdisk_disk::lock::acquire(&file, virtdisk_disk::lock::Level::Write).unwrap();
    let said = vdisk(&["check", &image.path("a.vhd")]);
    assert!(
        said.code == 1 && said.err.contains("another program"),
        "{said:?}"
    );
}

/// A child beside its parent, `parent.vhd`.
fn family(parent_id: [u8; 16]) -> Image {
    let mut child = VhdBuilder::differencing(4 * MIB, 1 << 19, parent_id);
    child.footer.unique_id = *b"fedcba9876543210";
    let image = Image::new(&child.build());
    std::fs::write(image.path("parent.vhd"), dynamic().build().to_vec()).unwrap();
    image
}

const PARENT_ID: &str = "30313233-3435-3637-3839-616263646566";

#[test]
fn a_chain_is_shown_layer_by_layer() {
    let image = family(*b"0123456789abcdef");
    let said = vdisk(&["info", &image.path("a.vhd"), "--chain"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    for words in [
        PARENT_ID,
        "differencing vhd",
        "dynamic vhd",
        r".\parent.vhd (relative path)",
    ] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    let said = vdisk(&["info", &image.path("a.vhd"), "--chain", "--json"]);
    let chain: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(chain["complete"], true);
    assert_eq!(chain["layers"].as_array().unwrap().len(), 2);
    let (child, parent) = (&chain["layers"][0], &chain["layers"][1]);
    assert_eq!(child["parent"]["identities"][0], PARENT_ID);
    assert_eq!(parent["identity"], PARENT_ID);
    assert_eq!(child["parent"]["found"], parent["file"]);
    assert_eq!(parent["parent"], Value::Null);
    let said = vdisk(&["check", &image.path("a.vhd"), "--chain"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out.matches(": 0 errors, ").count(), 2, "{said:?}");
}

#[test]
fn a_chain_that_ends_too_early_says_what_does_not_match_and_why() {
    let image = family(*b"another identity");
    for verb in ["info", "check"] {
        let said = vdisk(&[verb, &image.path("a.vhd"), "--chain"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("ERROR_VHD_"), "{said:?}");
    }
    let said = vdisk(&["info", &image.path("a.vhd"), "--chain"]);
    assert!(said.out.contains("not taken"), "{said:?}");
    assert!(said.out.contains(PARENT_ID), "{said:?}");
    assert!(said.out.contains("nowhere"), "{said:?}");
    let said = vdisk(&["info", &image.path("a.vhd"), "--chain", "--json"]);
    let chain: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(chain["complete"], false);
    assert!(chain["why"].as_str().unwrap().contains("a.vhd"), "{chain}");
    let rejected = &chain["layers"][0]["parent"]["rejected"][0];
    assert!(
        rejected["file"].as_str().unwrap().ends_with("parent.vhd"),
        "{chain}"
    );
    std::fs::remove_file(image.path("parent.vhd")).unwrap();
    let said = vdisk(&["check", &image.path("a.vhd"), "--chain", "--json"]);
    assert_eq!(said.code, 1, "{said:?}");
    let chain: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (&chain["complete"], &chain["layers"][0]["errors"]),
        (&false.into(), &0.into())
    );
}
