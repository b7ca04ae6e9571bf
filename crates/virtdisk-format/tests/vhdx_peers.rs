//! VHDX images of qemu are read as what they were made of, and logs are replayed as it does.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use disk::{Disk, reading, writing};
use virtdisk_format::{Format, Kind};
use virtdisk_testkit::vhdx_builder::{LogEntry, VhdxBuilder};
use virtdisk_testkit::{MemoryStore, Pages, Rng, has_program};

const MIB: u64 = 1 << 20;

/// Runs a program; answers whether it succeeded and what it printed.
fn call(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

#[track_caller]
fn must(program: &str, arguments: &[&str]) {
    let (success, said) = call(program, arguments);
    assert!(success, "{program} {arguments:?}: {said}");
}

fn load(path: &Path) -> Pages {
    Pages::from_bytes(&std::fs::read(path).unwrap())
}

fn named(folder: &Path, name: &str) -> (PathBuf, String) {
    let path = folder.join(name);
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

#[test]
fn images_of_qemu_read_as_their_source() {
    // X-6, X-48: regions that are not required, fixed disks with ZERO blocks.
    if !has_program("qemu-img") {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    let mut rng = Rng::announced("images_of_qemu_read_as_their_source");
    let folder = tempfile::tempdir().unwrap();
    let (raw, raw_name) = named(folder.path(), "source.raw");
    let (vhdx, vhdx_name) = named(folder.path(), "image.vhdx");
    let mut made = 0;
    for size in [3 * MIB, 10 * MIB + 512, 33 * MIB - 1024] {
        let mut source = vec![0; size as usize];
        for at in [0, size / 3, size - 70_000] {
            rng.fill(&mut source[at as usize..][..70_000]);
        }
        std::fs::write(&raw, &source).unwrap();
        for subformat in ["fixed", "dynamic"] {
            for block_size in ["1M", "2M", "8M", "32M"] {
                for log_size in ["1M", "4M"] {
                    let options = format!(
                        "subformat={subformat},block_size={block_size},log_size={log_size}"
                    );
                    must(
                        "qemu-img",
                        &[
                            "convert", "-q", "-f", "raw", "-O", "vhdx", "-o", &options, &raw_name,
                            &vhdx_name,
                        ],
                    );
                    let file = load(&vhdx);
                    for how in [reading(), writing()] {
                        let disk = Disk::open_pages(&file, &how).unwrap();
                        let facts = disk.image.facts();
                        let fixed = facts.kind == Kind::Fixed;
                        assert_eq!((facts.format, disk.size()), (Format::Vhdx, size));
                        assert_eq!(fixed, subformat == "fixed");
                        assert!(facts.creator.starts_with("QEMU"), "{}", facts.creator);
                        assert_eq!(facts.notices, [""; 0], "{options}");
                        assert!(disk.read(0, size).unwrap() == source, "{options}");
                    }
                    made += 1;
                }
            }
        }
    }
    println!("{made} images of qemu-img");
}

#[test]
fn a_disk_on_which_qemu_was_killed_is_what_it_wrote() {
    if !has_program("qemu-img") || !has_program("qemu-io") {
        virtdisk_testkit::skip!("qemu-img and qemu-io are not installed");
    }
    let mut rng = Rng::announced("a_disk_on_which_qemu_was_killed_is_what_it_wrote");
    let folder = tempfile::tempdir().unwrap();
    let (vhdx, name) = named(folder.path(), "image.vhdx");
    let size = 64 * MIB;
    for round in 0..3 {
        let options = "subformat=dynamic,block_size=1M";
        must(
            "qemu-img",
            &["create", "-q", "-f", "vhdx", "-o", options, &name, "64M"],
        );
        let mut wanted = vec![0; size as usize];
        let mut verbs = Vec::new();
        for _ in 0..1 + round * 6 {
            let at = rng.below(size / 4096 - 16) * 4096;
            let len = (1 + rng.below(16)) * 4096;
            let byte = 1 + rng.below(255) as u8;
            wanted[at as usize..(at + len) as usize].fill(byte);
            verbs.push(format!("write -P {byte} {at} {len}"));
        }
        verbs.push("abort".to_owned());
        let mut arguments = vec!["-f", "vhdx"];
        for verb in &verbs {
            arguments.extend(["-c", verb]);
        }
        arguments.push(&name);
        assert!(!call("qemu-io", &arguments).0, "abort ends it");
        let file = load(&vhdx);
        for how in [reading(), writing()] {
            let disk = Disk::open_pages(&file, &how).unwrap();
            assert!(disk.read(0, size).unwrap() == wanted, "{verbs:?}");
        }
    }
}

/// 8 MiB with random entries in its log, over table and data, the first of them the tail. The last
/// one may go around the end of the ring. Otherwise qemu goes other ways: it replays entries before
/// the tail too, and takes those behind the end of the ring for a sequence without their tail.
fn random_log(rng: &mut Rng) -> VhdxBuilder {
    let log = *b"the log's own id";
    let mut builder = VhdxBuilder::dynamic(8 * MIB, 1 << 20);
    let start = builder.block(0, &rng.bytes(1 << 20));
    builder.block(5, &rng.bytes(1 << 20));
    let mut page = vec![0; 4096];
    for (place, entry) in page.chunks_exact_mut(8).zip(&builder.bat) {
        place.copy_from_slice(&entry.to_le_bytes());
    }
    // Block 5 is known to the log alone.
    builder.set(5, 0, 0);
    builder.dirty(log);
    let first = 1 + rng.below(1 << 40);
    let mut entries = vec![LogEntry::new(log, first, 0, builder.end())];
    for sequence in first + 1..first + 1 + rng.below(5) {
        let mut one = LogEntry::new(log, sequence, 0, builder.end());
        for _ in 0..rng.below(70) {
            let place = rng.below(256);
            one = if rng.one_in(3) {
                let sectors = 1 + rng.below(256 - place);
                one.zero(start + place * 4096, sectors * 4096)
            } else {
                one.data(start + place * 4096, &rng.bytes(4096))
            };
        }
        entries.push(one.data(builder.bat_at, &page));
    }
    let lengths: Vec<u64> = entries.iter().map(|one| one.bytes().len() as u64).collect();
    let before_last: u64 = lengths.iter().rev().skip(1).sum();
    let mut at = rng.below((MIB - before_last) / 4096) * 4096;
    // An empty entry changes nothing, and may be left out.
    let tail = if rng.one_in(2) && lengths.len() > 1 {
        at + lengths[0]
    } else {
        at
    };
    for one in &mut entries {
        one.tail = tail as u32;
        at = builder.log_entry(at, one);
    }
    builder
}

#[test]
fn a_log_is_replayed_as_qemu_replays_it() {
    // X-23 to X-29
    if !has_program("qemu-img") {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    let mut rng = Rng::announced("a_log_is_replayed_as_qemu_replays_it");
    let folder = tempfile::tempdir().unwrap();
    let (path, name) = named(folder.path(), "dirty.vhdx");
    let (raw, raw_name) = named(folder.path(), "read.raw");
    let size = 8 * MIB;
    for round in 0..8 {
        let file = random_log(&mut rng).build();
        let ours = Disk::open_pages(&file, &reading()).unwrap();
        assert!(ours.image.bytes().is_some());
        std::fs::write(&path, file.to_vec()).unwrap();
        must(
            "qemu-img",
            &["check", "-q", "-r", "all", "-f", "vhdx", &name],
        );
        must(
            "qemu-img",
            &["convert", "-q", "-f", "vhdx", "-O", "raw", &name, &raw_name],
        );
        let theirs = std::fs::read(&raw).unwrap();
        assert!(ours.read(0, size).unwrap() == theirs, "round {round}");
        // Replayed by us in the file: qemu finds nothing to do and reads the same.
        let store = Arc::new(MemoryStore::from_pages(file));
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        disk.image.close().unwrap();
        std::fs::write(&path, store.to_vec()).unwrap();
        must("qemu-img", &["check", "-q", "-f", "vhdx", &name]);
        must(
            "qemu-img",
            &["convert", "-q", "-f", "vhdx", "-O", "raw", &name, &raw_name],
        );
        assert!(std::fs::read(&raw).unwrap() == theirs, "round {round}");
    }
}
