//! Long work over real files: hash, compare, convert, stream; sparse, shared, stopped, failing.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use virtdisk_disk::work::{
    Difference, Job, Progress, Stopped, convert, diff, hash, runs, write_raw,
};
use virtdisk_disk::{CreateOptions, Disk, ErrorKind, Format, Kind, Place};
use virtdisk_testkit::corpus::sha256_of;
use virtdisk_testkit::mounted::{Mounted, run};
use virtdisk_testkit::{Rng, skip};

const MIB: u64 = 1 << 20;

fn options(format: Format, kind: Kind, block_size: u32) -> CreateOptions {
    CreateOptions {
        format,
        kind,
        virtual_size: 0,
        block_size,
        logical_sector_size: 0,
        physical_sector_size: 0,
        identifier: None,
        parent: None,
        created_unix: 1_800_000_000,
        sparse: true,
    }
}

/// What is converted into what.
const SHAPES: [(Format, Kind, u32); 8] = [
    (Format::Raw, Kind::Fixed, 0),
    (Format::Vhd, Kind::Fixed, 0),
    (Format::Vhd, Kind::Dynamic, 0),
    (Format::Vhd, Kind::Dynamic, 512 << 10),
    (Format::Vhd, Kind::Dynamic, 4096),
    (Format::Vhdx, Kind::Fixed, 0),
    (Format::Vhdx, Kind::Dynamic, 1 << 20),
    (Format::Vhdx, Kind::Dynamic, 0),
];

fn open(path: &Path) -> Disk {
    let file = File::open(path).unwrap();
    let options = virtdisk_disk::OpenOptions {
        extension: path
            .extension()
            .map(|text| text.to_string_lossy().into_owned()),
        ..Default::default()
    };
    Disk::open(file, &path.to_string_lossy(), &options).unwrap()
}

fn new_file(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options.open(path).unwrap()
}

/// A raw file of `len` bytes with a few dense, sparse and zero-filled stretches.
fn raw(folder: &Path, len: u64, rng: &mut Rng) -> PathBuf {
    let path = folder.join(format!("source-{len}.raw"));
    let file = new_file(&path);
    file.set_len(len).unwrap();
    for _ in 0..20 {
        let start = rng.below(len);
        let stretch = rng.below(300_000).min(len - start);
        let mut bytes = vec![0; usize::try_from(stretch).unwrap()];
        if rng.below(4) > 0 {
            rng.fill(&mut bytes);
        }
        file.write_all_at(&bytes, start).unwrap();
    }
    path
}

fn made(source: &Disk, path: &Path, options: &CreateOptions) -> Disk {
    let job = Job::new();
    let name = path.to_string_lossy();
    convert(source, new_file(path), &name, options, &job).unwrap();
    let total = source.facts().virtual_size;
    assert_eq!(job.progress(), Progress { done: total, total });
    open(path)
}

fn differences(left: &Disk, right: &Disk) -> Vec<Difference> {
    let mut found = Vec::new();
    diff(left, right, &Job::new(), &mut |difference| {
        found.push(difference);
        Ok(())
    })
    .unwrap();
    found
}

fn extension(format: Format) -> &'static str {
    match format {
        Format::Vhd => "vhd",
        Format::Vhdx => "vhdx",
        _ => "raw",
    }
}

#[test]
fn every_format_becomes_every_other_and_stays_the_same_disk() {
    let mut rng = Rng::announced("every_format_becomes_every_other_and_stays_the_same_disk");
    let folder = TempDir::new().unwrap();
    for len in [3 * MIB, 11 * MIB + 512, 5 * MIB + 4096 * 3] {
        let source = raw(folder.path(), len, &mut rng);
        let source = open(&source);
        let wanted = sha256_of(len, |buf, at| source.read_at(buf, at)).unwrap();
        assert_eq!(hash(&source, &Job::new()).unwrap().to_string(), wanted);
        for (first, (format, kind, block)) in SHAPES.into_iter().enumerate() {
            let name = format!("{len}-{first}.{}", extension(format));
            let one = made(
                &source,
                &folder.path().join(name),
                &options(format, kind, block),
            );
            assert_eq!((one.facts().format, one.facts().kind), (format, kind));
            assert_eq!(one.facts().virtual_size, len);
            assert_eq!(differences(&source, &one), []);
            for (second, (format, kind, block)) in SHAPES.into_iter().enumerate() {
                let name = format!("{len}-{first}-{second}.{}", extension(format));
                let other = made(
                    &one,
                    &folder.path().join(name),
                    &options(format, kind, block),
                );
                assert_eq!(hash(&other, &Job::new()).unwrap().to_string(), wanted);
                assert_eq!(differences(&one, &other), []);
            }
        }
    }
}

#[test]
fn zeros_take_up_no_space_whether_written_or_not() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("zeros.raw");
    let file = new_file(&path);
    file.write_all_at(&vec![0; 16 << 20], 0).unwrap();
    file.write_all_at(&[1; 4096], 5 << 20).unwrap();
    let source = open(&path);
    for (format, kind, block) in SHAPES {
        let path = folder
            .path()
            .join(format!("{format:?}-{kind:?}-{block}.img"));
        let made = made(&source, &path, &options(format, kind, block));
        if kind == Kind::Dynamic {
            let blocks = made.physical().unwrap().blocks_allocated;
            assert_eq!(blocks, 1, "{format:?}");
        }
        // Data and tables only: of a VHD with blocks of 4 KiB 16 KiB. A VHDX has its regions, the
        // log among them, whose space is reserved.
        let space = path.metadata().unwrap().blocks() * 512;
        let most = if format == Format::Vhdx {
            5 << 20
        } else {
            128 << 10
        };
        assert!(space <= most, "{format:?} {kind:?} {block}: {space}");
    }
}

// S-9: what a file says of its size reserves nothing.
#[test]
fn a_huge_empty_disk_is_converted_at_once() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("huge.raw");
    new_file(&path).set_len(1 << 40).unwrap();
    let source = open(&path);
    let target = folder.path().join("huge.vhd");
    let made = made(&source, &target, &options(Format::Vhd, Kind::Dynamic, 0));
    assert_eq!(differences(&source, &made), []);
    assert!(target.metadata().unwrap().blocks() * 512 < 4 << 20);
}

#[test]
fn a_stream_is_what_the_disk_reads_as() {
    let mut rng = Rng::announced("a_stream_is_what_the_disk_reads_as");
    let folder = TempDir::new().unwrap();
    let source = raw(folder.path(), 9 * MIB + 512, &mut rng);
    let bytes = std::fs::read(&source).unwrap();
    let source = open(&source);
    let image = folder.path().join("a.vhd");
    let image = made(&source, &image, &options(Format::Vhd, Kind::Dynamic, 0));
    let mut stream = Vec::new();
    write_raw(&image, &mut stream, &Job::new()).unwrap();
    assert!(stream == bytes);
}

#[test]
fn differences_are_whole_sectors_in_order() {
    let folder = TempDir::new().unwrap();
    let one = folder.path().join("one.raw");
    let other = folder.path().join("other.raw");
    for path in [&one, &other] {
        new_file(path).set_len(8 * MIB).unwrap();
    }
    let one = OpenOptions::new().write(true).open(&one).unwrap();
    one.write_all_at(&[1], 700).unwrap();
    one.write_all_at(&[1; 1024], (4 << 20) - 512).unwrap();
    one.set_len(8 * MIB + 1024).unwrap();
    let (one, other) = (
        open(&folder.path().join("one.raw")),
        open(&folder.path().join("other.raw")),
    );
    let range = |start, len| Difference { start, len };
    let wanted = [
        range(512, 512),
        range((4 << 20) - 512, 1024),
        range(8 << 20, 1024),
    ];
    assert_eq!(differences(&one, &other), wanted);
    assert_eq!(differences(&other, &one), wanted);
    assert_eq!(differences(&one, &one.clone()), []);
}

#[test]
fn runs_cover_the_disk_and_join_across_windows() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.raw");
    new_file(&path).set_len(3 << 30).unwrap();
    let disk = open(&path);
    let all: Vec<_> = runs(&disk).collect::<Result<_, _>>().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].place, Place::Data { file_offset: 0 });
    assert_eq!((all[0].start, all[0].end()), (0, 3 << 30));
}

#[test]
fn a_cancelled_job_stops() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.raw");
    new_file(&path).set_len(64 << 20).unwrap();
    let disk = open(&path);
    let job = Job::new();
    job.cancel();
    assert!(matches!(hash(&disk, &job), Err(Stopped::Cancelled)));
    let target = new_file(&folder.path().join("b.vhd"));
    let options = options(Format::Vhd, Kind::Dynamic, 0);
    let stopped = convert(&disk, target, "b", &options, &job);
    assert!(matches!(stopped, Err(Stopped::Cancelled)));
    let stopped = diff(&disk, &disk, &job, &mut |_| Ok(()));
    assert!(matches!(stopped, Err(Stopped::Cancelled)));
}

fn kind_of(stopped: Result<(), Stopped>) -> ErrorKind {
    match stopped {
        Err(Stopped::Disk(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_source_that_was_cut_is_an_error_and_not_zeros() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.raw");
    new_file(&path).write_all_at(&[1; 8 << 20], 0).unwrap();
    let disk = open(&path);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(4 << 20).unwrap();
    let hashed = hash(&disk, &Job::new()).map(drop);
    assert_eq!(kind_of(hashed), ErrorKind::InvalidFileSize);
    let target = new_file(&folder.path().join("b.vhd"));
    let options = options(Format::Vhd, Kind::Dynamic, 0);
    let stopped = convert(&disk, target, "b", &options, &Job::new());
    assert_eq!(kind_of(stopped), ErrorKind::InvalidFileSize);
}

#[test]
fn a_target_that_is_not_empty_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.raw");
    new_file(&path).set_len(4 << 20).unwrap();
    let disk = open(&path);
    let path = folder.path().join("b.raw");
    let target = new_file(&path);
    target.write_all_at(b"precious", 0).unwrap();
    let options = options(Format::Raw, Kind::Fixed, 0);
    let stopped = convert(&disk, target, "b", &options, &Job::new());
    assert_eq!(kind_of(stopped), ErrorKind::InvalidParameter);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_larger_disk_ends_in_zeros_and_a_smaller_one_is_refused() {
    let mut rng = Rng::announced("a_larger_disk_ends_in_zeros_and_a_smaller_one_is_refused");
    let folder = TempDir::new().unwrap();
    let source = open(&raw(folder.path(), 4 * MIB, &mut rng));
    let mut options = options(Format::Vhd, Kind::Dynamic, 0);
    options.virtual_size = 6 * MIB;
    let job = Job::new();
    let path = folder.path().join("larger.vhd");
    convert(&source, new_file(&path), "larger", &options, &job).unwrap();
    let wanted = Difference {
        start: 4 * MIB,
        len: 2 * MIB,
    };
    assert_eq!(differences(&source, &open(&path)), [wanted]);
    options.virtual_size = 3 * MIB;
    let target = new_file(&folder.path().join("smaller.vhd"));
    let stopped = convert(&source, target, "smaller", &options, &job);
    assert_eq!(kind_of(stopped), ErrorKind::InvalidSize);
}

#[test]
fn a_full_file_system_is_no_space() {
    let mounted = match Mounted::tmpfs(4 << 20) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.raw");
    new_file(&path).write_all_at(&vec![1; 16 << 20], 0).unwrap();
    let disk = open(&path);
    for (format, kind, block) in SHAPES {
        let path = mounted.path().join("b");
        let options = options(format, kind, block);
        let stopped = convert(&disk, new_file(&path), "b", &options, &Job::new());
        assert_eq!(kind_of(stopped), ErrorKind::NoSpace, "{format:?} {kind:?}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_file_system_that_shares_extents_stores_the_data_once() {
    let mut rng = Rng::announced("a_file_system_that_shares_extents_stores_the_data_once");
    let mut file_systems = 0;
    for mkfs in [
        ["mkfs.btrfs", "-q"].as_slice(),
        &["mkfs.xfs", "-q", "-m", "reflink=1"],
    ] {
        let Ok(mounted) = Mounted::block(mkfs, 600 << 20, 512) else {
            continue;
        };
        file_systems += 1;
        let path = mounted.path().join("a.raw");
        let mut bytes = vec![0; 48 << 20];
        rng.fill(&mut bytes);
        let file = new_file(&path);
        file.write_all_at(&bytes, 0).unwrap();
        // The last sectors are no whole block of the file system.
        file.set_len((64 << 20) + 512).unwrap();
        file.sync_all().unwrap();
        let source = open(&path);
        for (format, kind, block) in SHAPES.iter().filter(|shape| shape.2 == 0) {
            let used = used(mounted.path());
            let target = mounted.path().join("b");
            let made = made(&source, &target, &options(*format, *kind, *block));
            assert_eq!(differences(&source, &made), []);
            let more = self::used(mounted.path()).saturating_sub(used);
            assert!(more < 16 << 20, "{mkfs:?} {format:?} {kind:?}: {more}");
            std::fs::remove_file(target).unwrap();
        }
    }
    if file_systems == 0 {
        skip!("no file system that shares extents can be mounted here");
    }
}

/// Bytes that a file system has given away.
fn used(folder: &Path) -> u64 {
    run(std::process::Command::new("sync").arg("-f").arg(folder)).unwrap();
    let facts = rustix::fs::statvfs(folder).unwrap();
    (facts.f_blocks - facts.f_bfree) * facts.f_frsize
}
