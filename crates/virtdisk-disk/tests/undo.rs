//! Repairs of real files and their undo files: whole, torn, damaged, and of a repair that failed.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use virtdisk_disk::check::{check, repair, restore};
use virtdisk_disk::{ErrorKind, Finding, OpenOptions};
use virtdisk_testkit::vhd_builder::VhdBuilder;

const MIB: u64 = 1 << 20;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A VHD whose copy at 0 is damaged and whose trailing footer is a byte short: two writes.
    fn damaged() -> Place {
        let mut builder = VhdBuilder::dynamic(4 * MIB, 1 << 19);
        builder.block(1, &[7; 512]);
        builder.short_footer = true;
        builder.patches.push((40, vec![1; 8]));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.vhd"), builder.build().to_vec()).unwrap();
        Place { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self) -> File {
        let path = self.path("a.vhd");
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path("a.vhd")).unwrap()
    }

    fn repair(&self) -> virtdisk_disk::Result<Vec<Finding>> {
        let undo = self.path("undo");
        let make = move || File::options().write(true).create_new(true).open(undo);
        repair(self.image(), "a.vhd", &OpenOptions::default(), make)
    }

    fn restore(&self) -> virtdisk_disk::Result<u64> {
        let undo = File::open(self.path("undo")).unwrap();
        restore(self.image(), "a.vhd", &undo).map(|restored| restored.bytes)
    }

    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut keep = |finding| found.push(finding);
        check(self.image(), "a.vhd", &OpenOptions::default(), &mut keep).unwrap();
        found
    }
}

#[test]
fn a_repair_is_undone_to_the_byte_as_often_as_wanted() {
    let place = Place::damaged();
    let before = place.bytes();
    assert_eq!(place.findings().len(), 2);
    assert_eq!(place.repair().unwrap().len(), 2);
    assert_eq!(place.findings(), []);
    let after = place.bytes();
    assert_eq!(after.len(), before.len() + 1);
    for _ in 0..2 {
        assert_eq!(place.restore().unwrap(), 511 + 512);
        assert!(place.bytes() == before);
    }
}

#[test]
fn a_torn_last_record_guards_nothing_and_any_other_damage_refuses() {
    let place = Place::damaged();
    let before = place.bytes();
    place.repair().unwrap();
    let after = place.bytes();
    let undo = std::fs::read(place.path("undo")).unwrap();
    let (first, second) = (32, 32 + 16 + 511);
    assert_eq!(undo.len(), second + 16 + 512);
    let with = |bytes: &[u8]| {
        place.image().write_all_at(&after, 0).unwrap();
        place.image().set_len(after.len() as u64).unwrap();
        std::fs::write(place.path("undo"), bytes).unwrap();
        place.restore()
    };
    // Cut inside the last record: the first is put back, and the length.
    for len in [second, second + 1, second + 15, second + 16, undo.len() - 1] {
        assert_eq!(with(&undo[..len]).unwrap(), 511, "{len}");
        assert_eq!(place.bytes().len(), before.len());
    }
    let mut zeros = undo.clone();
    zeros[second..].fill(0);
    assert_eq!(with(&zeros).unwrap(), 511);
    let mut last = undo.clone();
    last[undo.len() - 1] ^= 1;
    assert_eq!(with(&last).unwrap(), 511);
    // Anything else is no torn write.
    for at in [0, 8, 16, 24, first + 12, first + 30, first + 8] {
        let mut damaged = undo.clone();
        damaged[at] ^= 1;
        let error = with(&damaged).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{at}: {error}");
        assert!(place.bytes() == after, "{at}: something was put back");
    }
    assert!(with(&[]).is_err());
    assert_eq!(with(&undo).unwrap(), 511 + 512);
    assert!(place.bytes() == before);
}

#[test]
fn nothing_is_written_where_the_undo_file_cannot_be_made() {
    let place = Place::damaged();
    let before = place.bytes();
    std::fs::write(place.path("undo"), "precious").unwrap();
    assert!(place.repair().is_err());
    assert!(place.bytes() == before);
    assert_eq!(std::fs::read(place.path("undo")).unwrap(), b"precious");
}
