//! A child over its parent whose n-th file operation fails, for every n: a clean error, each sector
//! as it was or as the verb makes it, now and when the image is opened again, and a parent that
//! nobody wrote to.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

use std::sync::Arc;

use virtdisk_disk::{
    CreateOptions, Disk, ErrorKind, Format, Image, Kind, NewParent, OpenOptions, Store,
};
use virtdisk_format::{create, open};
use virtdisk_testkit::conformance::apply;
use virtdisk_testkit::toy::FlatImage;
use virtdisk_testkit::{Fault, FaultStore, MemoryStore, Pages, Rng, SectorModel, Verb, Which};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 4 * MIB;

/// A child of that format, block and sector size, with some sectors of its own in block 1.
fn child(format: Format, block: u32, sector: u32, parent: &[u8]) -> Pages {
    let store = Arc::new(MemoryStore::new());
    let options = CreateOptions {
        format,
        kind: Kind::Differencing,
        virtual_size: SIZE,
        block_size: block,
        logical_sector_size: sector,
        physical_sector_size: 0,
        identifier: None,
        parent: Some(NewParent {
            content_id: "6f1d7a52-0b6e-4a7a-9d0e-0d5f5a1b2c3d".parse().unwrap(),
            relative_path: r".\base".into(),
            ..NewParent::default()
        }),
        created_unix: 1_800_000_000,
        sparse: true,
    };
    create(&*store, &options).unwrap();
    let disk = over(store.clone(), parent).unwrap();
    disk.write_at(&[7; 8192], u64::from(block) + 8192).unwrap();
    disk.close().unwrap();
    store.pages()
}

/// The disk over the store of a child, and over a parent that fails whoever writes to it.
fn over(store: Arc<dyn Store>, parent: &[u8]) -> virtdisk_format::Result<Disk> {
    let options = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    let image = open(Arc::clone(&store), &options)?;
    let base: Arc<dyn Store> = Arc::new(MemoryStore::from_bytes(parent));
    let guarded = FaultStore::new(base, Which::Changes, Fault::Io).lasting();
    guarded.fail_at(1);
    let base: Arc<dyn Store> = Arc::new(guarded);
    let flat: Box<dyn Image> = Box::new(FlatImage::new(Arc::clone(&base), 0, parent.len() as u64));
    Ok(Disk::over_parents(
        (image, store, "child"),
        vec![(flat, base, "parent")],
    ))
}

fn verbs(block: u64) -> Vec<Verb> {
    let write = |offset, len| Verb::Write {
        offset,
        len,
        seed: offset ^ len,
    };
    let zero = |offset, len, unmap| Verb::Zero { offset, len, unmap };
    let trim = |offset, len| Verb::Trim { offset, len };
    vec![
        write(4096, 4096),
        write(100, 20),
        write(block - 1000, 3000),
        write(block + 10_000, 20),
        zero(block + 100, 9000, false),
        zero(300, block, false),
        zero(300, block, true),
        trim(block, block),
        trim(block - 5000, block + 9000),
        // Past the parent's end everything is zero.
        trim(3 * MIB, MIB),
        write(3 * MIB + 1, 3),
    ]
}

#[test]
fn every_failure_over_a_parent_is_clean_and_loses_nothing() {
    // S-10, V-32, V-35, X-67
    let mut rng = Rng::announced("every_failure_over_a_parent_is_clean_and_loses_nothing");
    let parent = rng.bytes(3 * MIB as usize);
    let shapes = [
        (Format::Vhd, 64 << 10, 512),
        (Format::Vhdx, 1 << 20, 512),
        (Format::Vhdx, 1 << 20, 4096),
    ];
    for (format, block, sector) in shapes {
        let start = child(format, block, sector, &parent);
        let mut settled = SectorModel::new(SIZE);
        settled.write(&parent, 0);
        settled.write(&[7; 8192], u64::from(block) + 8192);
        let mut failures = 0;
        for verb in verbs(block.into()) {
            for fault in [Fault::Io, Fault::NoSpace] {
                let mut n = 1;
                while fails(&start, &parent, &settled, &verb, (n, fault)) {
                    failures += 1;
                    n += 1;
                    assert!(n < 500, "{verb:?} has no end");
                }
            }
        }
        assert!(failures > 40, "{format:?}: only {failures} failures");
        println!("{format:?} with sectors of {sector}: {failures} failures");
    }
}

/// Does the verb with its n-th operation failing; answers whether that came.
fn fails(
    start: &Pages,
    parent: &[u8],
    settled: &SectorModel,
    verb: &Verb,
    (n, fault): (u64, Fault),
) -> bool {
    let memory = Arc::new(MemoryStore::from_pages(start.clone()));
    let store = Arc::new(FaultStore::new(memory.clone(), Which::All, fault));
    let disk = over(store.clone(), parent).unwrap();
    store.fail_at(n);
    let answer = apply(&disk, verb);
    let failed = store.has_failed();
    store.fail_at(0);
    let place = format!("{verb:?}, operation {n}, {fault:?}: {answer:?}");
    if let Err(error) = &answer {
        assert!(failed, "{place}");
        let kinds = [ErrorKind::Io, ErrorKind::NoSpace];
        assert!(kinds.contains(&error.kind()), "{place}");
        assert_eq!(error.file(), "child", "{place}");
    }
    let mut after = settled.clone();
    after.apply(verb);
    let check = |disk: &Disk| {
        let read = |buf: &mut [u8], offset| disk.read_at(buf, offset);
        let found = if answer.is_ok() {
            after.compare(read)
        } else {
            settled.compare_after_crash(std::slice::from_ref(verb), read)
        };
        assert!(found.is_ok(), "{place}: {found:?}");
    };
    check(&disk);
    // As after a kill.
    drop(disk);
    check(&over(memory, parent).unwrap());
    failed
}
