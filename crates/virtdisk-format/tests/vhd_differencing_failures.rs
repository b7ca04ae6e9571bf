//! A differencing VHD whose n-th file operation fails, for every n: a clean error, an image that
//! still opens, the parent's and the old bytes intact. And nonsense in every field of it.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::sync::Arc;

use disk::{Disk, named, pattern, reading, writing};
use layered::{Layered, inherited};
use uuid::Uuid;
use virtdisk_format::{CreateOptions, ErrorKind, Extents, Format, Kind, NewParent, create};
use virtdisk_testkit::vhd_builder::{HEADER_CHECKSUM_AT, HEADER_FIELDS, VhdBuilder, reseal};
use virtdisk_testkit::{Fault, FaultStore, MemoryStore, Pages, Rng, SectorModel, Verb, Which};

const BLOCK: u64 = 4096;
const SIZE: u64 = 16 * BLOCK;
const PARENT: [u8; 16] = *b"the parent's own";
const FAULTS: [Fault; 3] = [Fault::Io, Fault::NoSpace, Fault::Short];

fn write(offset: u64, len: u64) -> Verb {
    Verb::Write {
        offset,
        len,
        seed: offset ^ len,
    }
}

fn trim(offset: u64, len: u64) -> Verb {
    Verb::Trim { offset, len }
}

fn verbs() -> Vec<Verb> {
    vec![
        write(0, 512),
        write(3 * BLOCK - 512, 1024),
        Verb::Flush,
        write(5 * BLOCK, 2 * BLOCK),
        trim(5 * BLOCK, BLOCK),
        write(8 * BLOCK + 512, 512),
        trim(512, 512),
        Verb::Flush,
        trim(2 * BLOCK, 5 * BLOCK),
        write(9 * BLOCK, 5 * BLOCK),
        write(6 * BLOCK, 512),
        Verb::Flush,
    ]
}

/// A packed image with a whole, a partial and an empty-bitmap block, and one lost footer.
fn start(lost_footer: bool) -> Pages {
    let mut builder = VhdBuilder::differencing(SIZE, BLOCK as u32, PARENT);
    builder.block(0, &pattern(BLOCK, 1));
    builder.block_with(2, &pattern(BLOCK, 2), vec![0b0101_0011]);
    builder.block_with(8, &pattern(BLOCK, 3), vec![0]);
    builder.footer_at = Some(builder.end());
    builder.write_footer = !lost_footer;
    builder.build()
}

fn parent() -> SectorModel {
    SectorModel::from_bytes(&pattern(SIZE, 0xAA))
}

/// What a run with one fault came to.
struct Outcome {
    /// The fault was reached.
    failed: bool,
    /// Verbs that answered an error.
    errors: usize,
}

/// Runs the verbs with the n-th operation failing and checks everything that must hold.
fn run(start: &Pages, n: u64, fault: Fault, which: Which, lasting: bool) -> Outcome {
    let inner = Arc::new(MemoryStore::from_pages(start.clone()));
    let mut store = FaultStore::new(inner.clone(), which, fault);
    if lasting {
        store = store.lasting();
    }
    let store = Arc::new(store);
    store.fail_at(n);
    let context = format!("operation {n}, {fault:?}, {which:?}, lasting {lasting}");
    let before = Layered::open_pages(start, &reading(), &parent()).unwrap();
    let mut settled = SectorModel::from_bytes(&before.read(0, SIZE).unwrap());
    let (mut unsure, mut failed, mut errors) = (Vec::new(), true, 1);
    if let Ok(layers) = Layered::open(store.clone(), &writing(), &parent()) {
        let mut refused = false;
        errors = 0;
        for verb in verbs() {
            match layers.apply(&verb) {
                Ok(()) => {
                    assert!(!refused, "{context}: {verb:?} succeeded after a refusal");
                    settled.apply(&verb);
                }
                Err(error) => {
                    assert!(store.has_failed(), "{context}: {verb:?}: {error}");
                    refused |= error.kind() == ErrorKind::WritesRefused;
                    unsure.push(verb);
                    errors += 1;
                }
            }
        }
        if !store.has_failed() {
            drop(layers.disk.image.close());
        }
        failed = store.has_failed();
        store.fail_at(0);
        let held = settled.compare_after_crash(&unsure, |buf, at| layers.read_at(buf, at));
        held.unwrap_or_else(|error| panic!("{context}: {error}"));
    } else {
        assert!(store.has_failed(), "{context}: does not open");
    }
    for options in [reading(), writing()] {
        let layers = Layered::open_pages(&inner.pages(), &options, &parent())
            .unwrap_or_else(|error| panic!("{context}: does not open again: {error}"));
        let held = settled.compare_after_crash(&unsure, |buf, at| layers.read_at(buf, at));
        held.unwrap_or_else(|error| panic!("{context}, reopened: {error}"));
    }
    Outcome { failed, errors }
}

#[test]
fn any_single_failure_is_reported_and_harms_nothing() {
    for (lost_footer, which, lasting) in [
        (false, Which::All, false),
        (true, Which::All, false),
        (false, Which::Changes, true),
        (true, Which::Space, true),
    ] {
        for fault in FAULTS {
            let start = start(lost_footer);
            let mut n = 1;
            loop {
                let outcome = run(&start, n, fault, which, lasting);
                if !outcome.failed {
                    assert_eq!(outcome.errors, 0);
                    break;
                }
                n += 1;
            }
            println!("lost {lost_footer}, {fault:?}, {which:?}, lasting {lasting}: {n} runs");
            assert!(n > 20, "{n}");
        }
    }
}

/// A child with one sector of its own in block 0, on a store that can fail.
fn one_sector() -> (Arc<MemoryStore>, Arc<FaultStore>, Disk) {
    one_sector_failing(Fault::Io)
}

fn one_sector_failing(fault: Fault) -> (Arc<MemoryStore>, Arc<FaultStore>, Disk) {
    let mut builder = VhdBuilder::differencing(SIZE, BLOCK as u32, PARENT);
    builder.block_with(0, &pattern(BLOCK, 1), vec![0x80]);
    let inner = Arc::new(MemoryStore::from_pages(builder.build()));
    let store = Arc::new(FaultStore::new(inner.clone(), Which::Changes, fault));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    (inner, store, disk)
}

#[test]
fn after_a_failed_flush_no_bit_is_set_and_nothing_is_written_any_more() {
    // Operations of a write over the parent: data, flush, bits.
    let (inner, store, disk) = one_sector();
    store.fail_at(2);
    let error = disk.write(&pattern(512, 2), 512).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    store.fail_at(0);
    let refused = |result: virtdisk_format::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::WritesRefused);
    };
    refused(disk.write(&pattern(512, 2), 512));
    refused(disk.write(&pattern(512, 2), 0));
    refused(disk.image.trim(0, BLOCK));
    refused(disk.image.flush());
    refused(disk.image.close());
    let layers = Layered::open_pages(&inner.pages(), &reading(), &parent()).unwrap();
    let mut model = inherited(&parent(), SIZE);
    model.write(&pattern(512, 1), 0);
    layers.must_be(&model);
}

#[test]
fn bits_that_cannot_be_written_are_not_believed() {
    for fault in FAULTS {
        let (inner, store, disk) = one_sector_failing(fault);
        store.fail_at(3);
        let error = disk.write(&pattern(512, 2), 512).unwrap_err();
        let full = fault == Fault::NoSpace;
        let wanted = if full {
            ErrorKind::NoSpace
        } else {
            ErrorKind::Io
        };
        assert_eq!(error.kind(), wanted);
        store.fail_at(0);
        let again = disk.write(&pattern(512, 2), 512);
        assert_eq!(again.is_ok(), full, "{fault:?}");
        let layers = Layered::open_pages(&inner.pages(), &reading(), &parent()).unwrap();
        let mut model = inherited(&parent(), SIZE);
        model.write(&pattern(512, 1), 0);
        if full {
            model.write(&pattern(512, 2), 512);
        }
        layers.must_be(&model);
    }
}

#[test]
fn a_full_file_system_leaves_the_child_as_it_was_and_open_for_writing() {
    for n in [1, 3] {
        let (inner, store, disk) = one_sector_failing(Fault::NoSpace);
        let before = inner.to_vec();
        store.fail_at(n);
        let error = disk.write(&pattern(512, 1), 3 * BLOCK).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{n}");
        if n == 1 {
            assert!(inner.to_vec() == before, "something changed");
        }
        disk.image.validate().unwrap();
        let mut model = inherited(&parent(), SIZE);
        model.write(&pattern(512, 1), 0);
        let layers = Layered::open_pages(&inner.pages(), &reading(), &parent()).unwrap();
        layers.must_be(&model);
        disk.write(&pattern(512, 1), 3 * BLOCK).unwrap();
        disk.image.close().unwrap();
        model.write(&pattern(512, 1), 3 * BLOCK);
        let layers = Layered::open_pages(&inner.pages(), &reading(), &parent()).unwrap();
        layers.must_be(&model);
    }
}

#[test]
fn a_create_that_fails_leaves_no_wrong_child() {
    for fault in FAULTS {
        for n in 1.. {
            let inner = Arc::new(MemoryStore::new());
            let store = FaultStore::new(inner.clone(), Which::Changes, fault);
            store.fail_at(n);
            let options = CreateOptions {
                format: Format::Vhd,
                kind: Kind::Differencing,
                virtual_size: SIZE,
                block_size: 0,
                identifier: None,
                created_unix: 0,
                sparse: false,
                logical_sector_size: 0,
                physical_sector_size: 0,
                parent: Some(NewParent {
                    content_id: Uuid::from_bytes(PARENT),
                    relative_path: r".\parent.vhd".to_owned(),
                    absolute_path: r"C:\parent.vhd".to_owned(),
                    ..NewParent::default()
                }),
            };
            let result = create(&store, &options);
            if !store.has_failed() {
                result.unwrap();
                assert!(n > 6);
                break;
            }
            result.unwrap_err();
            if let Ok(layers) = Layered::open_pages(&inner.pages(), &named("vhd"), &parent())
                && layers.disk.image.facts().format == Format::Vhd
            {
                layers.must_be(&inherited(&parent(), SIZE));
            }
        }
    }
}

/// Opens and uses a file that may be damaged: it must end, and end well or in an error.
fn exercise(file: &Pages) -> Option<ErrorKind> {
    for options in [reading(), writing()] {
        let layers = match Layered::open_pages(file, &options, &parent()) {
            Ok(layers) => layers,
            Err(error) => return Some(error.kind()),
        };
        let size = layers.size().min(1 << 20);
        for at in (0..size).step_by(BLOCK as usize) {
            let len = BLOCK.min(size - at);
            drop(layers.read(at, len));
            if options.writable {
                drop(layers.write(&pattern(512, 7), at));
                drop(layers.trim(at, len));
            }
        }
        let mut extents = Extents::new();
        drop(layers.disk.image.map(0, layers.size(), &mut extents));
        drop(layers.disk.image.close());
    }
    None
}

#[test]
fn every_field_and_entry_of_a_child_may_be_nonsense() {
    let mut rng = Rng::announced("every_field_and_entry_of_a_child_may_be_nonsense");
    let file = start(false);
    let mut header = vec![0; 1024];
    assert!(file.read(&mut header, 512));
    let slots = (0..8).map(|slot| ("locator", 576 + slot * 24, 24));
    for (name, at, len) in HEADER_FIELDS.into_iter().chain(slots) {
        for round in 0..12 {
            let mut bytes = header.clone();
            let field = &mut bytes[at..at + len];
            match round {
                0 => field.fill(0),
                1 => field.fill(0xFF),
                2 => field.fill(0x7F),
                3..=6 => {
                    let flipped = rng.below(len as u64 * 8);
                    field[(flipped / 8) as usize] ^= 1 << (flipped % 8);
                }
                _ => field.copy_from_slice(&rng.bytes(len)),
            }
            if name != "checksum" {
                reseal(&mut bytes, HEADER_CHECKSUM_AT);
            }
            let mut damaged = file.clone();
            damaged.write(&bytes, 512);
            exercise(&damaged);
        }
    }
    let mut refused = 0;
    for block in 0..16 {
        for entry in [0, 1, 2, 8, 16, 24, 30, 0xFFFF, 1 << 31, u32::MAX - 1] {
            let mut damaged = file.clone();
            damaged.write(&u32::to_be_bytes(entry), 0x2000 + block * 4);
            refused += u32::from(exercise(&damaged) == Some(ErrorKind::BatCorrupt));
        }
    }
    assert!(refused > 100, "{refused}");
}
