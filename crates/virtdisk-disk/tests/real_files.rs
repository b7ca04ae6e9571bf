//! Disks over real files, in every format: against the model, cut, full, reopened, from the corpus.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use virtdisk_disk::{CreateOptions, Disk, ErrorKind, Format, Kind};
use virtdisk_testkit::conformance::{self, must_agree};
use virtdisk_testkit::corpus::{SAMPLES, corpus, sha256_of};
use virtdisk_testkit::mounted::Mounted;
use virtdisk_testkit::{Rng, SectorModel, skip};

const MIB: u64 = 1 << 20;

/// What the tests are run on.
#[derive(Clone, Copy, Debug)]
struct Shape {
    format: Format,
    kind: Kind,
    size: u64,
    block: u32,
}

const SHAPES: [Shape; 8] = [
    Shape {
        format: Format::Raw,
        kind: Kind::Fixed,
        size: 5 * MIB,
        block: 0,
    },
    Shape {
        format: Format::Vhd,
        kind: Kind::Fixed,
        size: 5 * MIB,
        block: 0,
    },
    Shape {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        size: 11 * MIB,
        block: 0,
    },
    Shape {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        size: 7 * MIB + 512,
        block: 512 << 10,
    },
    Shape {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        size: 3 * MIB + 1024,
        block: 4096,
    },
    Shape {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        size: 64 << 10,
        block: 512,
    },
    Shape {
        format: Format::Vhdx,
        kind: Kind::Fixed,
        size: 5 * MIB,
        block: 0,
    },
    Shape {
        format: Format::Vhdx,
        kind: Kind::Dynamic,
        size: 11 * MIB,
        block: 1 << 20,
    },
];

impl Shape {
    fn create(self, folder: &Path) -> PathBuf {
        let path = folder.join(format!(
            "{:?}-{:?}-{}.img",
            self.format, self.kind, self.block
        ));
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let options = CreateOptions {
            format: self.format,
            kind: self.kind,
            virtual_size: self.size,
            block_size: self.block,
            identifier: None,
            created_unix: 1_800_000_000,
            sparse: true,
            logical_sector_size: 0,
            physical_sector_size: 0,
            parent: None,
        };
        Disk::create(file, &path.to_string_lossy(), &options).unwrap();
        path
    }
}

/// A folder where a flush costs nothing, for tests with thousands of them.
fn quick_folder() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

fn open(path: &Path, writable: bool) -> virtdisk_disk::Result<Disk> {
    let file = OpenOptions::new()
        .read(true)
        .write(writable)
        .open(path)
        .unwrap();
    let options = virtdisk_disk::OpenOptions {
        writable,
        extension: path
            .extension()
            .map(|text| text.to_string_lossy().into_owned()),
        ..Default::default()
    };
    Disk::open(file, &path.to_string_lossy(), &options)
}

#[test]
fn every_format_conforms_over_a_real_file() {
    let mut rng = Rng::announced("every_format_conforms_over_a_real_file");
    let folder = quick_folder();
    for shape in SHAPES {
        let path = shape.create(folder.path());
        let disk = open(&path, true).unwrap();
        assert_eq!(
            (disk.facts().format, disk.facts().kind),
            (shape.format, shape.kind)
        );
        assert_eq!(disk.facts().virtual_size, shape.size, "{shape:?}");
        conformance::run(&disk, &mut rng);
        disk.validate().unwrap();
        disk.close().unwrap();
    }
}

#[test]
fn every_format_agrees_with_the_model_through_closes_and_kills() {
    let mut rng = Rng::announced("every_format_agrees_with_the_model_through_closes_and_kills");
    let folder = quick_folder();
    for shape in SHAPES {
        let path = shape.create(folder.path());
        let mut model = SectorModel::new(shape.size);
        for session in 0..5 {
            let disk = open(&path, true).unwrap();
            must_agree(&disk, &model);
            conformance::random_verbs(&disk, &mut model, &mut rng, 60);
            disk.validate().unwrap();
            // Every second session ends like a killed process: nothing is said, nothing flushed.
            if session % 2 == 0 {
                disk.close().unwrap();
            }
        }
        let before = std::fs::read(&path).unwrap();
        let disk = open(&path, false).unwrap();
        must_agree(&disk, &model);
        disk.close().unwrap();
        assert!(
            std::fs::read(&path).unwrap() == before,
            "reading changed the file of {shape:?}"
        );
    }
}

#[test]
fn a_disk_opened_for_reading_refuses_changes_with_erofs() {
    let folder = TempDir::new().unwrap();
    for shape in SHAPES {
        let disk = open(&shape.create(folder.path()), false).unwrap();
        assert!(disk.is_read_only());
        for answer in [
            disk.write_at(&[1; 512], 0),
            disk.zero(0, 512, false),
            disk.zero(0, 512, true),
            disk.trim(0, 512),
        ] {
            assert_eq!(answer.unwrap_err().errno(), 30, "{shape:?}");
        }
        disk.flush().unwrap();
    }
}

#[test]
fn the_corpus_reads_as_its_hashes_say() {
    // R-OPEN: what Windows, Virtual PC and others wrote, through file and disk.
    let corpus = match corpus() {
        Ok(corpus) => corpus,
        Err(reason) => skip!("{reason}"),
    };
    for sample in SAMPLES {
        let answer = open(&corpus.path(sample.name), false);
        if sample.name.contains("differential") {
            let kind = answer.err().map(|error| error.kind());
            assert_eq!(kind, Some(ErrorKind::ParentMissing), "{}", sample.name);
            continue;
        }
        let disk = answer.unwrap();
        assert_eq!(
            disk.facts().virtual_size,
            sample.virtual_size,
            "{}",
            sample.name
        );
        if sample.virtual_size > 1 << 32 {
            // Too long to hash: one is empty, the other a swap area of which little is used.
            let extents = disk.extents(0, sample.virtual_size).unwrap();
            let data = extents.iter().filter(|extent| !extent.is_zero());
            let len: u64 = data.map(|extent| extent.len).sum();
            let most = if sample.name == "hyperv-swap.vhdx" {
                32 * MIB
            } else {
                0
            };
            assert!(len <= most, "{}: {len} bytes of data", sample.name);
            continue;
        }
        let hash = sha256_of(sample.virtual_size, |buf, offset| disk.read_at(buf, offset));
        assert_eq!(hash.unwrap(), sample.sha256, "{}", sample.name);
        disk.validate().unwrap();
    }
}

#[test]
fn a_file_cut_while_open_is_an_error_and_never_zeros() {
    // R-DET-15
    let folder = TempDir::new().unwrap();
    for shape in SHAPES {
        let path = shape.create(folder.path());
        let disk = open(&path, true).unwrap();
        disk.write_at(&vec![7; shape.size as usize], 0).unwrap();
        disk.validate().unwrap();
        // A dynamic VHDX has space ahead of need: only this is sure to cut data.
        let length = shape.size / 2;
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length).unwrap();
        assert!(disk.validate().is_err(), "{shape:?}: validate saw nothing");
        let mut piece = vec![0; 512];
        let mut errors = 0;
        for offset in (0..shape.size).step_by(512) {
            match disk.read_at(&mut piece, offset) {
                Ok(()) => assert!(piece.iter().all(|&byte| byte == 7), "{shape:?} at {offset}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidFileSize, "{error}");
                    assert!(
                        error.to_string().contains("cut while it was open"),
                        "{error}"
                    );
                    errors += 1;
                }
            }
        }
        assert!(errors > 0, "{shape:?}");
        let error = disk.write_at(&[1; 512], shape.size - 512).unwrap_err();
        assert_eq!(error.errno(), 5, "{error}");
        assert_eq!(
            file.metadata().unwrap().len(),
            length,
            "the write made a hole"
        );
    }
}

#[test]
fn a_file_that_grew_while_open_is_noticed() {
    // R-DET-15
    let folder = TempDir::new().unwrap();
    // A VHDX may be longer than it says; its length is its own affair.
    let theirs = |shape: &Shape| shape.format != Format::Vhdx;
    for shape in SHAPES.into_iter().filter(theirs) {
        let path = shape.create(folder.path());
        let disk = open(&path, true).unwrap();
        disk.write_at(&[7; 4096], 0).unwrap();
        disk.validate().unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[0xEE; 4096]).unwrap();
        let error = disk.validate().unwrap_err();
        println!("{error}");
        let mut bytes = [0; 4096];
        disk.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == [7; 4096], "{shape:?}");
    }
}

#[test]
fn a_dynamic_disk_is_made_where_its_size_would_not_fit() {
    // R-HOST-4
    let mounted = match Mounted::tmpfs(MIB) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let shape = Shape {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        size: 64 << 30,
        block: 0,
    };
    let disk = open(&shape.create(mounted.path()), true).unwrap();
    assert_eq!(disk.facts().virtual_size, 64 << 30);
    assert_eq!(disk.extents(0, 64 << 30).unwrap().len(), 1);
}

#[test]
fn a_full_file_system_is_enospc_and_the_image_stays_valid() {
    for shape in SHAPES
        .into_iter()
        .filter(|shape| shape.format == Format::Vhd && shape.kind == Kind::Dynamic)
        .filter(|shape| shape.block != 512)
    {
        let mounted = match Mounted::tmpfs(2 * MIB + 300 * 1024) {
            Ok(mounted) => mounted,
            Err(reason) => skip!("{reason}"),
        };
        let path = shape.create(mounted.path());
        let filler = mounted.path().join("filler");
        std::fs::write(&filler, vec![1; 1 << 20]).unwrap();
        let disk = open(&path, true).unwrap();
        let mut model = SectorModel::new(shape.size);
        let mut rng = Rng::announced("a_full_file_system_is_enospc_and_the_image_stays_valid");
        let mut offset = 0;
        let error = loop {
            let bytes = rng.bytes(64 << 10);
            match disk.write_at(&bytes, offset) {
                Ok(()) => model.write(&bytes, offset),
                Err(error) => break error,
            }
            offset += 64 << 10;
        };
        assert_eq!(
            (error.kind(), error.errno()),
            (ErrorKind::NoSpace, 28),
            "{error:?}"
        );
        // The failed write may have left old or new bytes; what was answered before is there.
        let check = |disk: &Disk| {
            let mut bytes = vec![0; offset as usize];
            disk.read_at(&mut bytes, 0).unwrap();
            assert!(bytes == model.read(0, offset), "{shape:?}");
        };
        check(&disk);
        disk.validate().unwrap();
        check(&open(&path, false).unwrap());
        // With room again the same disk goes on.
        std::fs::remove_file(&filler).unwrap();
        disk.write_at(&[3; 64 << 10], offset).unwrap();
        disk.flush().unwrap();
        drop(disk);
        let disk = open(&path, true).unwrap();
        check(&disk);
        let mut bytes = vec![0; 64 << 10];
        disk.read_at(&mut bytes, offset).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 3));
    }
}

#[test]
fn only_a_disk_that_is_one_run_is_direct() {
    let folder = TempDir::new().unwrap();
    for shape in SHAPES {
        let disk = open(&shape.create(folder.path()), true).unwrap();
        let offset = disk.direct();
        assert_eq!(offset.is_some(), shape.kind == Kind::Fixed, "{shape:?}");
        let from_start = shape.format != Format::Vhdx;
        assert!(
            offset.is_none_or(|at| (at == 0) == from_start),
            "{shape:?}: {offset:?}"
        );
    }
    // A raw file that ends inside a sector needs padding, so it is not.
    let path = folder.path().join("odd.img");
    std::fs::write(&path, [9; 1000]).unwrap();
    let disk = open(&path, true).unwrap();
    assert_eq!((disk.direct(), disk.facts().virtual_size), (None, 1024));
    assert!(disk.is_read_only());
    let mut bytes = [1; 1024];
    disk.read_at(&mut bytes, 0).unwrap();
    assert!(bytes[..1000] == [9; 1000] && bytes[1000..] == [0; 24]);
}

#[test]
fn space_is_counted_and_given_back_by_a_trim() {
    let folder = TempDir::new().unwrap();
    let shape = SHAPES[2];
    let path = shape.create(folder.path());
    let disk = open(&path, true).unwrap();
    assert_eq!(disk.physical().unwrap().blocks_allocated, 0);
    disk.write_at(&vec![1; 6 << 20], 0).unwrap();
    disk.flush().unwrap();
    let full = disk.physical().unwrap();
    assert_eq!(full.blocks_allocated, 3);
    assert!(full.data_aligned_4k);
    assert!(full.allocated_bytes >= 6 * MIB, "{full:?}");
    disk.trim(0, 4 * MIB).unwrap();
    disk.flush().unwrap();
    let trimmed = disk.physical().unwrap();
    // The file system may need a block more to write down where the holes are.
    assert_eq!(trimmed.blocks_allocated, 1);
    assert!(
        trimmed.allocated_bytes <= full.allocated_bytes - 4 * MIB + 64 * 1024,
        "{trimmed:?}"
    );
}

#[test]
fn errors_name_the_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("broken.vhd");
    let shape = SHAPES[2];
    std::fs::rename(shape.create(folder.path()), &path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0x600 / 2..].fill(0xEE);
    std::fs::write(&path, bytes).unwrap();
    let error = open(&path, false).err().unwrap();
    assert!(error.to_string().contains("broken.vhd: "), "{error}");
    assert!(File::open(error.file()).is_ok());
}
