//! The n-th operation of the file below a VHDX fails, for every n: a clean error, an image that
//! still opens, old data intact, and no write succeeds on ground that an earlier failure left
//! unsure.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::sync::Arc;

use disk::{named, pattern, reading, writing};
use layered::{Layered, inherited};
use uuid::Uuid;
use virtdisk_format::{CreateOptions, ErrorKind, Format, Kind, NewParent, Store, create};
use virtdisk_testkit::{Fault, FaultStore, MemoryStore, Pages, SectorModel, Verb, Which};

const BLOCK: u64 = 1 << 20;
const SIZE: u64 = 6 * BLOCK;
const FAULTS: [Fault; 3] = [Fault::Io, Fault::NoSpace, Fault::Short];
const KINDS: [Kind; 2] = [Kind::Dynamic, Kind::Differencing];

fn options(kind: Kind) -> CreateOptions {
    let parent = NewParent {
        content_id: Uuid::from_u128(7),
        ..NewParent::default()
    };
    CreateOptions {
        format: Format::Vhdx,
        kind,
        virtual_size: SIZE,
        block_size: BLOCK as u32,
        identifier: None,
        created_unix: 0,
        sparse: true,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: (kind == Kind::Differencing).then_some(parent),
    }
}

fn created(kind: Kind) -> Pages {
    let store = MemoryStore::new();
    create(&store, &options(kind)).unwrap();
    store.pages()
}

fn parent_of(kind: Kind) -> SectorModel {
    match kind {
        Kind::Differencing => SectorModel::from_bytes(&pattern(SIZE - 1536, 0xAA)),
        _ => SectorModel::new(512),
    }
}

fn write(offset: u64, len: u64) -> Verb {
    let seed = offset ^ len;
    Verb::Write { offset, len, seed }
}

fn trim(offset: u64, len: u64) -> Verb {
    Verb::Trim { offset, len }
}

fn verbs() -> Vec<Verb> {
    vec![
        write(0, 512),
        write(2 * BLOCK - 512, 1024),
        Verb::Flush,
        write(3 * BLOCK, BLOCK),
        trim(3 * BLOCK, BLOCK),
        write(4 * BLOCK + 512, 512),
        trim(4 * BLOCK + 512, 512),
        Verb::Flush,
        trim(BLOCK, BLOCK),
        write(5 * BLOCK, 512),
        write(3 * BLOCK, 512),
        write(512, 512),
        Verb::Flush,
    ]
}

/// A file with one used block, dirt behind it, and a log that is to be replayed if `killed`.
fn start(kind: Kind, killed: bool) -> Pages {
    let store = Arc::new(MemoryStore::from_pages(created(kind)));
    let layers = Layered::open(store.clone(), &writing(), &parent_of(kind)).unwrap();
    layers.apply(&write(2 * BLOCK, 1024)).unwrap();
    if !killed {
        layers.disk.image.close().unwrap();
    }
    let len = store.len().unwrap();
    let dirt = vec![0xEE; 2 * BLOCK as usize];
    store.write_all_at(&dirt, len).unwrap();
    store.pages()
}

/// What a run with one fault came to.
struct Outcome {
    /// The fault was reached.
    failed: bool,
    /// Verbs that answered an error.
    errors: usize,
}

/// One way to fail.
#[derive(Clone, Copy, Debug)]
struct Way {
    fault: Fault,
    which: Which,
    lasting: bool,
}

/// Compares the parts that verbs changed, and the edges of all blocks.
fn held(layers: &Layered, model: &SectorModel, unsure: &[Verb]) -> Result<(), String> {
    let edges = verbs();
    let edges = edges.iter().flat_map(|verb| {
        let range = verb.range();
        [range.start, range.end]
    });
    for at in edges.chain((0..SIZE).step_by(BLOCK as usize)) {
        let at = at.saturating_sub(2048).min(SIZE - 4096);
        model.compare_part(at, 4096, unsure, |buf, at| layers.read_at(buf, at))?;
    }
    Ok(())
}

/// Runs the verbs with the n-th operation failing and checks everything that must hold.
fn run(kind: Kind, start: &Pages, n: u64, way: Way) -> Outcome {
    let parent = parent_of(kind);
    let inner = Arc::new(MemoryStore::from_pages(start.clone()));
    let mut store = FaultStore::new(inner.clone(), way.which, way.fault);
    if way.lasting {
        store = store.lasting();
    }
    let store = Arc::new(store);
    store.fail_at(n);
    let context = format!("{kind:?}, operation {n}, {way:?}");
    let mut settled = inherited(&parent, SIZE);
    settled.apply(&write(2 * BLOCK, 1024));
    let mut unsure = Vec::new();
    let mut outcome = Outcome {
        failed: false,
        errors: 0,
    };
    match Layered::open(store.clone(), &writing(), &parent) {
        Err(error) => {
            assert!(store.has_failed(), "{context}: {error}");
            (outcome.failed, outcome.errors) = (true, 1);
        }
        Ok(layers) => {
            let mut refused = false;
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
                        outcome.errors += 1;
                    }
                }
            }
            // The fault came, or comes while closing: in both cases the disk reads what it should.
            outcome.failed = store.has_failed();
            if !outcome.failed {
                drop(layers.disk.image.close());
                outcome.failed = store.has_failed();
            }
            store.fail_at(0);
            held(&layers, &settled, &unsure).unwrap_or_else(|error| panic!("{context}: {error}"));
        }
    }
    for options in [reading(), writing()] {
        let layers = Layered::open_pages(&inner.pages(), &options, &parent)
            .unwrap_or_else(|error| panic!("{context}: does not open again: {error}"));
        held(&layers, &settled, &unsure)
            .unwrap_or_else(|error| panic!("{context}, reopened: {error}"));
    }
    outcome
}

#[test]
fn any_single_failure_is_reported_and_harms_nothing() {
    let ways = [
        (Which::All, false),
        (Which::Changes, true),
        (Which::Space, true),
    ];
    for kind in KINDS {
        for killed in [false, true] {
            let start = start(kind, killed);
            for ((which, lasting), fault) in ways
                .into_iter()
                .flat_map(|way| FAULTS.map(|fault| (way, fault)))
            {
                let way = Way {
                    fault,
                    which,
                    lasting,
                };
                let mut n = 1;
                loop {
                    let outcome = run(kind, &start, n, way);
                    if !outcome.failed {
                        assert_eq!(outcome.errors, 0);
                        break;
                    }
                    n += 1;
                }
                println!("{kind:?}, killed {killed}, {way:?}: {n} runs");
                assert!(n > 20, "{n}");
            }
        }
    }
}

#[test]
fn a_full_file_system_leaves_the_image_as_it_was_and_open_for_writing() {
    // The first write: log entry, header, header, length, log entry; flushes between them.
    for (kind, n) in KINDS.into_iter().flat_map(|kind| [1, 5].map(|n| (kind, n))) {
        let parent = parent_of(kind);
        let inner = Arc::new(MemoryStore::from_pages(created(kind)));
        let store = Arc::new(FaultStore::new(inner.clone(), Which::Space, Fault::NoSpace));
        let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
        store.fail_at(n);
        let error = layers.apply(&write(0, 512)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{n}: {error}");
        store.fail_at(0);
        layers.disk.image.validate().unwrap();
        Layered::open_pages(&inner.pages(), &reading(), &parent)
            .unwrap()
            .must_be(&inherited(&parent, SIZE));
        // Room again: the same write goes through.
        layers.apply(&write(0, 512)).unwrap();
        layers.disk.image.close().unwrap();
        let mut model = inherited(&parent, SIZE);
        model.apply(&write(0, 512));
        let again = Layered::open_pages(&inner.pages(), &reading(), &parent).unwrap();
        again.must_be(&model);
    }
}

#[test]
fn where_there_is_no_room_to_grow_ahead_the_file_grows_by_what_is_needed() {
    //
    for (kind, grown) in [(Kind::Dynamic, BLOCK), (Kind::Differencing, 2 * BLOCK)] {
        let inner = Arc::new(MemoryStore::from_pages(created(kind)));
        let before = inner.len().unwrap();
        let store = FaultStore::new(inner.clone(), Which::Space, Fault::NoSpace);
        let store = Arc::new(store);
        let layers = Layered::open(store.clone(), &writing(), &parent_of(kind)).unwrap();
        store.fail_at(4);
        layers.apply(&write(0, 512)).unwrap();
        assert!(store.has_failed());
        assert_eq!(inner.len().unwrap(), before + grown);
    }
}

#[test]
fn after_a_failed_metadata_write_all_writes_are_refused_until_reopened() {
    // Log entry, flush, header, flush, header, flush, length, log entry.
    for kind in KINDS {
        for n in 1..=8 {
            let parent = parent_of(kind);
            let inner = Arc::new(MemoryStore::from_pages(created(kind)));
            let store = Arc::new(FaultStore::new(inner.clone(), Which::Changes, Fault::Io));
            let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
            store.fail_at(n);
            let error = layers.apply(&write(0, 512)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{n}: {error}");
            store.fail_at(0);
            let refused = |result: virtdisk_format::Result<()>| {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::WritesRefused, "{n}");
            };
            refused(layers.apply(&write(0, 512)));
            refused(layers.apply(&write(5 * BLOCK, 512)));
            refused(layers.disk.image.trim(0, BLOCK));
            refused(layers.disk.image.touch());
            refused(layers.disk.image.flush());
            refused(layers.disk.image.close());
            layers.must_be(&inherited(&parent, SIZE));
            let layers = Layered::open(inner, &writing(), &parent).unwrap();
            layers.apply(&write(0, 512)).unwrap();
            layers.disk.image.close().unwrap();
        }
    }
}

#[test]
fn a_create_that_fails_says_so_and_leaves_no_wrong_image() {
    for (kind, fault) in [Kind::Fixed, Kind::Dynamic, Kind::Differencing]
        .into_iter()
        .flat_map(|kind| FAULTS.map(|fault| (kind, fault)))
    {
        for n in 1.. {
            let inner = Arc::new(MemoryStore::new());
            let store = FaultStore::new(inner.clone(), Which::Changes, fault);
            store.fail_at(n);
            let result = create(&store, &options(kind));
            if !store.has_failed() {
                result.unwrap();
                assert!(n > 5);
                break;
            }
            let wanted = match fault {
                Fault::NoSpace => ErrorKind::NoSpace,
                Fault::Io | Fault::Short => ErrorKind::Io,
            };
            assert_eq!(result.unwrap_err().kind(), wanted);
            let parent = parent_of(kind);
            if let Ok(layers) = Layered::open_pages(&inner.pages(), &named("vhdx"), &parent) {
                layers.must_be(&inherited(&parent, SIZE));
            }
        }
    }
}
