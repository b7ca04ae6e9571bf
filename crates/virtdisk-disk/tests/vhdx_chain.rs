//! Chains of VHDX files: what is not as with VHD.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

mod family;

use std::fs;
use std::path::{Path, PathBuf};

use family::{Shape, bytes_of, file, open, options, quick_folder};
use virtdisk_disk::{Disk, ErrorKind, Format, Kind, Result};
use virtdisk_testkit::conformance::{self, must_agree};
use virtdisk_testkit::{Rng, SectorModel};

const MIB: u64 = 1 << 20;

const BASE: Shape = Shape {
    format: Format::Vhdx,
    kind: Kind::Dynamic,
    size: 8 * MIB,
    block: 1 << 20,
    sector: 512,
};
const CHILD: Shape = Shape {
    kind: Kind::Differencing,
    ..BASE
};

fn pair(folder: &Path) -> (PathBuf, PathBuf) {
    let (base, child) = (folder.join("base.vhdx"), folder.join("child.vhdx"));
    BASE.create(&base, None);
    CHILD.create_child(&child, &base);
    (base, child)
}

fn kind_of(answer: Result<Disk>) -> Option<ErrorKind> {
    let kind = answer.as_ref().err().map(virtdisk_disk::Error::kind);
    if let Err(error) = answer {
        println!("{error}");
    }
    kind
}

#[test]
fn a_chain_agrees_with_the_model_through_closes_and_kills() {
    // P-7, P-10, X-9, X-10, X-42: a killed session leaves a log, which is replayed in memory while
    // the image is a parent
    let mut rng = Rng::announced("a_chain_agrees_with_the_model_through_closes_and_kills");
    for sector in [512, 4096] {
        let folder = quick_folder();
        let base = folder.path().join("0.vhdx");
        let shape = Shape { sector, ..BASE };
        shape.create(&base, None);
        let mut model = SectorModel::new(shape.size);
        let disk = open(&base, true).unwrap();
        conformance::random_verbs(&disk, &mut model, &mut rng, 40);
        drop(disk);
        let mut paths = vec![base];
        for (number, (size, block)) in [(12, 2 << 20), (5, 1 << 20), (8, 32 << 20)]
            .into_iter()
            .enumerate()
        {
            let child = folder.path().join(format!("{}.vhdx", number + 1));
            let shape = Shape {
                size: size * MIB,
                block,
                sector,
                ..CHILD
            };
            shape.create_child(&child, paths.last().unwrap());
            let mut wider = SectorModel::new(shape.size);
            wider.write(&model.read(0, shape.size.min(model.size())), 0);
            model = wider;
            let before = bytes_of(&paths);
            for session in 0..3 {
                let disk = open(&child, true).unwrap();
                must_agree(&disk, &model);
                conformance::random_verbs(&disk, &mut model, &mut rng, 30);
                disk.validate().unwrap();
                assert_eq!(disk.layers().len(), number + 2);
                // The last session of each ends like a killed process.
                if session == 1 {
                    disk.close().unwrap();
                }
            }
            assert!(bytes_of(&paths) == before, "a parent was written to");
            paths.push(child);
        }
    }
}

#[test]
fn a_child_conforms_over_a_real_parent() {
    let mut rng = Rng::announced("a_child_conforms_over_a_real_parent");
    for sector in [512, 4096] {
        let folder = quick_folder();
        let (base, child) = (folder.path().join("b.vhdx"), folder.path().join("c.vhdx"));
        Shape { sector, ..BASE }.create(&base, None);
        let disk = open(&base, true).unwrap();
        disk.write_at(&rng.bytes(7 * MIB as usize), 0).unwrap();
        disk.close().unwrap();
        Shape { sector, ..CHILD }.create_child(&child, &base);
        let disk = open(&child, true).unwrap();
        conformance::run(&disk, &mut rng);
        disk.validate().unwrap();
        disk.close().unwrap();
    }
}

#[test]
fn a_parent_that_was_written_to_is_another_one() {
    // P-1, X-60
    let folder = quick_folder();
    let (base, child) = pair(folder.path());
    open(&child, false).unwrap();
    let disk = open(&base, true).unwrap();
    disk.close().unwrap();
    open(&child, false).unwrap();
    let disk = open(&base, true).unwrap();
    disk.write_at(&[1; 512], 0).unwrap();
    disk.close().unwrap();
    assert_eq!(
        kind_of(open(&child, false)),
        Some(ErrorKind::ParentMismatch)
    );
}

#[test]
fn a_disk_that_was_touched_is_another_parent() {
    // X-60: written around the handle, straight in the file
    let folder = quick_folder();
    let (base, child) = pair(folder.path());
    let disk = open(&base, true).unwrap();
    disk.touch().unwrap();
    disk.close().unwrap();
    assert_eq!(
        kind_of(open(&child, false)),
        Some(ErrorKind::ParentMismatch)
    );
}

#[test]
fn a_parent_of_other_sectors_or_format_is_not_taken() {
    // X-10
    let folder = quick_folder();
    let path = |name: &str| folder.path().join(name);
    let large = Shape {
        sector: 4096,
        ..BASE
    };
    large.create(&path("large.vhdx"), None);
    let id = Disk::open(file(&path("large.vhdx"), false), "large", &options(false)).unwrap();
    let mut parent = id.as_parent(r".\large.vhdx", "").unwrap();
    parent.inherited.clear();
    CHILD.create(&path("child.vhdx"), Some(parent.clone()));
    assert_eq!(
        kind_of(open(&path("child.vhdx"), false)),
        Some(ErrorKind::ParentMismatch)
    );
    let vhd = Shape {
        format: Format::Vhd,
        block: 0,
        ..CHILD
    };
    vhd.create(&path("child.vhd"), Some(parent));
    assert_eq!(
        kind_of(open(&path("child.vhd"), false)),
        Some(ErrorKind::ParentMissing)
    );
}

#[test]
fn a_trim_over_the_edge_of_a_block_is_in_the_log_as_a_whole() {
    // X-69: block 1 as a whole and a part of block 2, which gets its space by that
    let folder = quick_folder();
    let (base, child) = (
        folder.path().join("base.vhdx"),
        folder.path().join("child.vhdx"),
    );
    BASE.create(&base, None);
    let disk = open(&base, true).unwrap();
    disk.write_at(&vec![7; 8 * MIB as usize], 0).unwrap();
    disk.close().unwrap();
    CHILD.create_child(&child, &base);
    let disk = open(&child, true).unwrap();
    disk.trim(MIB, MIB + 65_536).unwrap();
    let mut model = SectorModel::from_bytes(&vec![7; 8 * MIB as usize]);
    model.zero(MIB, MIB + 65_536);
    must_agree(&disk, &model);
    // As after a kill.
    drop(disk);
    must_agree(&open(&child, true).unwrap(), &model);
}

#[test]
fn a_parent_with_a_log_to_replay_is_read_through_memory() {
    // P-7
    let mut rng = Rng::announced("a_parent_with_a_log_to_replay_is_read_through_memory");
    let folder = quick_folder();
    let base = folder.path().join("base.vhdx");
    let child = folder.path().join("child.vhdx");
    BASE.create(&base, None);
    let disk = open(&base, true).unwrap();
    let mut model = SectorModel::new(BASE.size);
    conformance::random_verbs(&disk, &mut model, &mut rng, 60);
    // As the file is when its process is killed now.
    fs::copy(&base, folder.path().join("killed.vhdx")).unwrap();
    drop(disk);
    fs::rename(folder.path().join("killed.vhdx"), &base).unwrap();
    CHILD.create_child(&child, &base);
    let before = bytes_of(std::slice::from_ref(&base));
    let disk = open(&child, true).unwrap();
    must_agree(&disk, &model);
    conformance::random_verbs(&disk, &mut model, &mut rng, 40);
    disk.validate().unwrap();
    disk.close().unwrap();
    assert!(
        bytes_of(&[base]) == before,
        "the parent was replayed in its file"
    );
    must_agree(&open(&child, false).unwrap(), &model);
}
