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
fn threads_on_neighbouring_bytes_do_not_disturb_each_other() {
    let mut rng = Rng::announced("threads_on_neighbouring_bytes_do_not_disturb_each_other");
    for format in [Format::Vhd, Format::Vhdx] {
        let folder = quick_folder();
        let (base, child) = (folder.path().join("base"), folder.path().join("child"));
        let shape = Shape { format, ..BASE };
        shape.create(&base, None);
        let parent = rng.bytes(6 * MIB as usize);
        let disk = open(&base, true).unwrap();
        disk.write_at(&parent, 0).unwrap();
        disk.close().unwrap();
        Shape { format, ..CHILD }.create_child(&child, &base);
        let disk = open(&child, true).unwrap();
        let seeds: Vec<u64> = (0..4).map(|_| rng.number()).collect();
        std::thread::scope(|scope| {
            for (thread, seed) in (0_u64..).zip(seeds) {
                let (disk, parent) = (&disk, &parent);
                scope.spawn(move || stripes(disk, parent, thread, &mut Rng::new(seed)));
            }
        });
        disk.validate().unwrap();
        disk.close().unwrap();
    }
}

/// Changes every fourth stripe of 5,000 bytes and looks at it, while others do so beside it.
fn stripes(disk: &Disk, parent: &[u8], thread: u64, rng: &mut Rng) {
    const STRIPE: u64 = 5000;
    for _ in 0..400 {
        let start = (rng.below(300) * 4 + thread) * STRIPE;
        let (from, to) = (rng.below(STRIPE), rng.below(STRIPE));
        let (offset, len) = (start + from.min(to), from.abs_diff(to));
        let mut wanted = vec![0x5A; STRIPE as usize];
        disk.read_at(&mut wanted, start).unwrap();
        let part = (offset - start) as usize..(offset - start + len) as usize;
        if rng.one_in(2) {
            let bytes = rng.bytes(len as usize);
            disk.write_at(&bytes, offset).unwrap();
            wanted[part].copy_from_slice(&bytes);
        } else {
            disk.zero(offset, len, rng.one_in(2)).unwrap();
            wanted[part].fill(0);
        }
        let mut found = vec![0xA5; STRIPE as usize];
        disk.read_at(&mut found, start).unwrap();
        assert!(found == wanted, "{len} bytes at {offset}");
    }
    // What nobody wrote is the parent's.
    let mut found = vec![0; 1000];
    disk.read_at(&mut found, 1200 * STRIPE).unwrap();
    assert!(found == parent[1200 * STRIPE as usize..][..1000]);
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
    let before = bytes_of(std::slice::from_ref(&base));
    let disk = open(&base, false).unwrap();
    must_agree(&disk, &model);
    // Its bytes are not those of the file, so nobody gets that.
    assert!(disk.file(0).is_none() && disk.direct().is_none());
    assert!(disk.physical().unwrap().file_length > 0);
    drop(disk);
    CHILD.create_child(&child, &base);
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
