//! Other programs read what we write, and we read what they write: qemu-img, qemu-io, 7z.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use disk::{Disk, reading, writing};
use virtdisk_format::{CreateOptions, Format, Kind, create};
use virtdisk_testkit::{MemoryStore, Pages, Rng, SectorModel, Verb, has_program};

const MIB: u64 = 1 << 20;

fn call(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a program that must succeed; answers what it printed.
#[track_caller]
fn must(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = call(program, arguments);
    let said = [
        &output.stdout[..output.stdout.len().min(500)],
        &output.stderr,
    ]
    .concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}

fn load(path: &Path) -> Pages {
    Pages::from_bytes(&std::fs::read(path).unwrap())
}

/// Writes a file without its zeros.
fn save(pages: &Pages, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(pages.len()).unwrap();
    for at in (0..pages.len()).step_by(MIB as usize) {
        let mut piece = vec![0; MIB.min(pages.len() - at) as usize];
        assert!(pages.read(&mut piece, at));
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(&piece, at).unwrap();
        }
    }
}

/// A raw disk with something at its start, in its middle and at its end.
fn contents(size: u64, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    for at in [0, size / 3, size - 70_000] {
        rng.fill(&mut bytes[at as usize..][..70_000]);
    }
    bytes
}

#[test]
fn images_of_qemu_read_as_their_source() {
    // V-1, V-6, V-13: both subformats, with and without force_size, sizes that geometry cannot hit.
    if !has_program("qemu-img") {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    let mut rng = Rng::announced("images_of_qemu_read_as_their_source");
    let folder = tempfile::tempdir().unwrap();
    let (raw, vhd) = (
        folder.path().join("source.raw"),
        folder.path().join("image.vhd"),
    );
    let (raw_name, vhd_name) = (raw.to_str().unwrap(), vhd.to_str().unwrap());
    for size in [3 * MIB, 10 * MIB + 512, 17 * MIB - 1024] {
        let source = contents(size, &mut rng);
        std::fs::write(&raw, &source).unwrap();
        for subformat in ["fixed", "dynamic"] {
            for force in ["on", "off"] {
                let options = format!("subformat={subformat},force_size={force}");
                must(
                    "qemu-img",
                    &[
                        "convert", "-f", "raw", "-O", "vpc", "-o", &options, raw_name, vhd_name,
                    ],
                );
                let file = load(&vhd);
                for open in [reading(), writing()] {
                    let disk = Disk::open_pages(&file, &open).unwrap();
                    let kind = if subformat == "fixed" {
                        Kind::Fixed
                    } else {
                        Kind::Dynamic
                    };
                    assert_eq!(disk.image.facts().kind, kind);
                    assert_eq!(disk.image.facts().notices, [""; 0], "{options}");
                    let creator = if force == "on" {
                        "qem2 5.3"
                    } else {
                        "qemu 5.3"
                    };
                    assert_eq!(disk.image.facts().creator, creator);
                    // Without force_size QEMU rounds up to a geometry.
                    assert!(disk.size() == size || (force == "off" && disk.size() > size));
                    let bytes = disk.read(0, disk.size()).unwrap();
                    assert!(bytes[..size as usize] == source, "{options}, {size}");
                    assert!(bytes[size as usize..].iter().all(|&byte| byte == 0));
                    let info = must(
                        "qemu-img",
                        &["info", "-f", "vpc", "--output=json", vhd_name],
                    );
                    let size = format!("\"virtual-size\": {},", disk.size());
                    assert!(String::from_utf8_lossy(&info).contains(&size), "{size}");
                }
            }
        }
    }
}

/// A disk that went through random verbs, and what it must read.
fn used(kind: Kind, size: u64, block_size: u32, rng: &mut Rng) -> (Arc<MemoryStore>, SectorModel) {
    let options = CreateOptions {
        format: Format::Vhd,
        kind,
        virtual_size: size,
        block_size,
        identifier: None,
        created_unix: 1_700_000_000,
        sparse: true,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    };
    let store = Arc::new(MemoryStore::new());
    create(&*store, &options).unwrap();
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    let mut model = SectorModel::new(size);
    for _ in 0..60 {
        let verb = Verb::random(rng, size, 512, size / 5);
        disk.apply(&verb).unwrap();
        model.apply(&verb);
    }
    disk.image.close().unwrap();
    (store, model)
}

const SHAPES: [(Kind, u64, u32); 4] = [
    (Kind::Fixed, 5 * MIB + 512, 0),
    (Kind::Dynamic, 12 * MIB, 2 << 20),
    (Kind::Dynamic, 9 * MIB + 1536, 512 << 10),
    (Kind::Dynamic, 3 * MIB, 64 << 10),
];

#[test]
fn qemu_reads_and_checks_our_images() {
    if !has_program("qemu-img") {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    let mut rng = Rng::announced("qemu_reads_and_checks_our_images");
    let folder = tempfile::tempdir().unwrap();
    let (raw, vhd) = (
        folder.path().join("model.raw"),
        folder.path().join("ours.vhd"),
    );
    let (raw_name, vhd_name) = (raw.to_str().unwrap(), vhd.to_str().unwrap());
    for (kind, size, block) in SHAPES {
        let (store, model) = used(kind, size, block, &mut rng);
        save(&store.pages(), &vhd);
        std::fs::write(&raw, model.read(0, size)).unwrap();
        must(
            "qemu-img",
            &["compare", "-f", "vpc", "-F", "raw", vhd_name, raw_name],
        );
        // QEMU has no check for this format and says so with 63.
        let check = call("qemu-img", &["check", "-f", "vpc", vhd_name]);
        assert!(matches!(check.status.code(), Some(0 | 63)), "{check:?}");
    }
}

#[test]
fn writes_of_qemu_into_our_images_read_back() {
    if !has_program("qemu-io") {
        virtdisk_testkit::skip!("qemu-io is not installed");
    }
    let mut rng = Rng::announced("writes_of_qemu_into_our_images_read_back");
    let folder = tempfile::tempdir().unwrap();
    let (raw, vhd) = (
        folder.path().join("model.raw"),
        folder.path().join("ours.vhd"),
    );
    let (raw_name, name) = (raw.to_str().unwrap(), vhd.to_str().unwrap());
    for (kind, size, block) in SHAPES {
        let (store, mut model) = used(kind, size, block, &mut rng);
        save(&store.pages(), &vhd);
        let mut written = Vec::new();
        for value in 1..=12_u8 {
            let offset = rng.below(size / 512 - 200) * 512;
            let len = (1 + rng.below(199)) * 512;
            let write = format!("write -P {value} {offset} {len}");
            must("qemu-io", &["-f", "vpc", "-c", &write, name]);
            written.push(offset..offset + len);
            model.write(&vec![value; len as usize], offset);
        }
        // QEMU puts a new block over the aligned footer without zeroing it, so its disk shows that
        // footer in the block's seventh sector. What it wrote is there; elsewhere we read what it
        // reads.
        must(
            "qemu-img",
            &["convert", "-f", "vpc", "-O", "raw", name, raw_name],
        );
        let theirs = SectorModel::from_bytes(&std::fs::read(&raw).unwrap());
        for range in written {
            let len = range.end - range.start;
            assert!(theirs.read(range.start, len) == model.read(range.start, len));
        }
        let mut model = theirs;
        let store = Arc::new(MemoryStore::from_pages(load(&vhd)));
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        assert_eq!(disk.image.facts().notices, [""; 0]);
        disk.must_be(&model);
        // And on with ours, and theirs again.
        for _ in 0..20 {
            let verb = Verb::random(&mut rng, size, 512, size / 5);
            disk.apply(&verb).unwrap();
            model.apply(&verb);
        }
        disk.image.close().unwrap();
        save(&store.pages(), &vhd);
        std::fs::write(&raw, model.read(0, size)).unwrap();
        must(
            "qemu-img",
            &["compare", "-f", "vpc", "-F", "raw", name, raw_name],
        );
    }
}

#[test]
fn seven_zip_reads_our_images() {
    if !has_program("7z") {
        virtdisk_testkit::skip!("7z (p7zip-full) is not installed");
    }
    let mut rng = Rng::announced("seven_zip_reads_our_images");
    let folder = tempfile::tempdir().unwrap();
    let vhd = folder.path().join("ours.vhd");
    for (kind, size, block) in SHAPES {
        let (store, model) = used(kind, size, block, &mut rng);
        save(&store.pages(), &vhd);
        // Without -t it would go on into what it takes for the disk's own contents.
        let bytes = must("7z", &["x", "-so", "-tvhd", vhd.to_str().unwrap()]);
        assert!(
            bytes == model.read(0, size),
            "{kind:?} {size} {block}: {} bytes",
            bytes.len()
        );
    }
}
