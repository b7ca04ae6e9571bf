//! Random verbs and several threads on differencing VHDs, beside a model; what the fast path costs;
//! what 7-Zip reads of them. QEMU and libvhdi are no judges here (V-8, V-9, V-10).
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use disk::{Disk, pattern, reading, writing};
use layered::{Layered, inherited};
use uuid::Uuid;
use virtdisk_format::{CreateOptions, Extents, Format, Kind, NewParent, Place, create};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::{MemoryStore, Pages, Rng, SectorModel, Verb, has_program};

const MIB: u64 = 1 << 20;
const PARENT: [u8; 16] = *b"the parent's own";

fn options(virtual_size: u64, block_size: u32) -> CreateOptions {
    CreateOptions {
        format: Format::Vhd,
        kind: Kind::Differencing,
        virtual_size,
        block_size,
        identifier: None,
        created_unix: 1_700_000_000,
        sparse: true,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: Some(NewParent {
            content_id: Uuid::from_bytes(PARENT),
            modified_unix: 0,
            relative_path: r".\parent.vhd".to_owned(),
            absolute_path: r"C:\vm\parent.vhd".to_owned(),
            inherited: Vec::new(),
        }),
    }
}

fn created(virtual_size: u64, block_size: u32) -> Pages {
    let store = MemoryStore::new();
    create(&store, &options(virtual_size, block_size)).unwrap();
    store.pages()
}

/// A child of another writer: packed, with holes, slack, dirt under 0 bits.
fn foreign(rng: &mut Rng, size: u64, block: u32) -> Pages {
    let mut builder = VhdBuilder::differencing(size, block, PARENT);
    let bytes = builder.bitmap_len() as usize;
    for number in 0..builder.table.len() as u32 {
        let bitmap = match rng.below(4) {
            0 => vec![0xFF; bytes],
            1 => rng.bytes(bytes),
            2 => vec![0; bytes],
            _ => continue,
        };
        let packed = builder.end() + rng.below(3) * 512;
        builder.block_with(number, &pattern(block.into(), number as u8), bitmap);
        if rng.one_in(2) {
            builder.blocks.last_mut().unwrap().at = packed;
            builder.table[number as usize] = (packed / 512) as u32;
        }
    }
    builder.footer_at = Some(builder.end() + rng.below(64) * 512);
    builder.build()
}

/// Runs verbs on a child, reopening it now and then, with and without a close.
fn run(start: Pages, parent: &SectorModel, rng: &mut Rng, verbs: usize, align: u64) {
    let mut store = Arc::new(MemoryStore::from_pages(start));
    let mut layers = Layered::open(store.clone(), &writing(), parent).unwrap();
    let size = layers.size();
    let mut model = SectorModel::from_bytes(&layers.read(0, size).unwrap());
    for step in 0..verbs {
        let verb = Verb::random(rng, size, align, size / 4);
        layers
            .apply(&verb)
            .unwrap_or_else(|error| panic!("{step}, {verb:?}: {error}"));
        model.apply(&verb);
        let held = model.compare(|buf, at| layers.read_at(buf, at));
        held.unwrap_or_else(|error| panic!("step {step}, {verb:?}: {error}"));
        if rng.one_in(12) {
            if rng.one_in(2) {
                layers.disk.image.close().unwrap();
            }
            store = Arc::new(MemoryStore::from_pages(store.pages()));
            let reader = Layered::open(store.clone(), &reading(), parent).unwrap();
            reader.must_be(&model);
            layers = Layered::open(store.clone(), &writing(), parent).unwrap();
            layers.disk.image.validate().unwrap();
        }
    }
    layers.must_be(&model);
}

#[test]
fn a_new_child_behaves_like_its_model() {
    let mut rng = Rng::announced("a_new_child_behaves_like_its_model");
    for (size, block, align) in [
        (64 << 10, 512, 512),
        (256 << 10, 4096, 1),
        (255 << 10, 16 << 10, 512),
        (1 << 20, 65536, 1),
    ] {
        let parent = SectorModel::from_bytes(&pattern(size - 3 * 512, 0xAA));
        run(created(size, block), &parent, &mut rng, 500, align);
    }
}

#[test]
fn a_foreign_child_behaves_like_its_model() {
    let mut rng = Rng::announced("a_foreign_child_behaves_like_its_model");
    for round in 0..6 {
        let block = [512, 4096, 16384][round % 3];
        let size = 48 * u64::from(block) - 512 * (round as u64 / 3);
        let parent = SectorModel::from_bytes(&pattern(size, 0xAA));
        let start = foreign(&mut rng, size, block);
        let align = if round < 3 { 512 } else { 1 };
        run(start, &parent, &mut rng, 100, align);
    }
}

/// The bytes of a sector in a round; never zeros.
fn sector(number: u64, round: u8) -> Vec<u8> {
    let mut bytes = vec![round; 512];
    bytes[..8].copy_from_slice(&(number + 1).to_le_bytes());
    bytes
}

/// Stops the readers when it goes away, in a panic too: a failed test must end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every thread writes the sectors that are its own, in an order of its own, so that all of them
/// meet in every block; two readers require old or new sectors meanwhile.
fn storm(layers: &Layered, seed: u64, before: &SectorModel) -> SectorModel {
    const THREADS: u64 = 4;
    let (sectors, done) = (layers.size() / 512, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed ^ thread);
                    let mut own: Vec<u64> = (0..sectors)
                        .filter(|number| number % THREADS == thread)
                        .collect();
                    for index in (1..own.len()).rev() {
                        own.swap(index, rng.below(index as u64 + 1) as usize);
                    }
                    for number in own {
                        layers.write(&sector(number, 7), number * 512).unwrap();
                        assert!(layers.read(number * 512, 512).unwrap() == sector(number, 7));
                        if rng.one_in(100) {
                            layers.disk.image.flush().unwrap();
                        }
                    }
                })
            })
            .collect();
        for reader in 0..2 {
            let done = &done;
            scope.spawn(move || {
                let mut rng = Rng::new(seed ^ 99 ^ reader);
                while !done.load(Ordering::Relaxed) {
                    let number = rng.below(sectors);
                    let found = layers.read(number * 512, 512).unwrap();
                    let old = before.read(number * 512, 512);
                    assert!(
                        found == old || found == sector(number, 7),
                        "sector {number}"
                    );
                }
            });
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
    let mut model = SectorModel::new(layers.size());
    (0..sectors).for_each(|number| model.write(&sector(number, 7), number * 512));
    model
}

#[test]
fn threads_that_meet_over_a_parent_lose_nothing() {
    let mut rng = Rng::announced("threads_that_meet_over_a_parent_lose_nothing");
    for (size, block) in [
        (MIB, 4096),
        (MIB, 512),
        (2 * MIB, 65536),
        (4 * MIB, 2 << 20),
    ] {
        let parent = SectorModel::from_bytes(&pattern(size, 0xAA));
        for start in [created(size, block), foreign(&mut rng, size, block)] {
            let store = Arc::new(MemoryStore::from_pages(start));
            let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
            let before = SectorModel::from_bytes(&layers.read(0, size).unwrap());
            let model = storm(&layers, rng.number(), &before);
            layers.must_be(&model);
            layers.disk.image.close().unwrap();
            // Every sector was written: every block is in one run.
            let again = Layered::open(store, &writing(), &parent).unwrap();
            again.must_be(&model);
            let extents = again.disk.extents(0, size).unwrap();
            assert!(extents.len() as u64 <= size.div_ceil(block.into()));
        }
    }
}

#[test]
fn threads_share_more_bitmaps_than_are_kept() {
    // 64 Ki blocks of which one sector in two is the child's: four for each slot.
    let (blocks, parent) = (64 << 10, SectorModel::new(512));
    let size = blocks * 1024;
    let store = Arc::new(MemoryStore::from_pages(created(size, 1024)));
    let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
    let stride = size / 4;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let layers = &layers;
            scope.spawn(move || {
                for number in 0..100 {
                    for part in 0..4 {
                        let at = part * stride + (number * 4 + thread) * 1024;
                        layers.write(&sector(at, 1), at).unwrap();
                        assert!(layers.read(at, 512).unwrap() == sector(at, 1));
                        assert!(layers.read(at + 512, 512).unwrap() == [0; 512]);
                    }
                }
            });
        }
    });
    layers.disk.image.close().unwrap();
    let layers = Layered::open(store, &reading(), &parent).unwrap();
    for number in 0..400 {
        for part in 0..4 {
            let at = part * stride + number * 1024;
            assert!(layers.read(at, 512).unwrap() == sector(at, 1));
        }
    }
}

#[test]
fn a_request_for_own_sectors_touches_neither_file_nor_lock() {
    // One 4 KiB in two is the child's, so that no block is whole.
    let size = 64 * MIB;
    let store = Arc::new(MemoryStore::from_pages(created(size, 2 << 20)));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    for at in (0..size).step_by(8192) {
        disk.write(&pattern(4096, 1), at).unwrap();
    }
    drop(disk);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.extents(0, size).unwrap();
    let before = store.counts();
    let mut out = Extents::new();
    let (rounds, start) = (1_000_000_u64, Instant::now());
    for round in 0..rounds {
        let at = round.wrapping_mul(0x9E37_79B9) % (8 << 10) * 8192;
        out.clear();
        if round % 4 == 0 {
            let ticket = disk.image.reserve(at, 4096, &mut out).unwrap();
            assert_eq!(ticket.range(), None);
            disk.image.complete(ticket).unwrap();
        } else {
            disk.image.map(at, 4096, &mut out).unwrap();
        }
        assert!(matches!(out[0].place, Place::Data { .. }) && out.len() == 1);
    }
    let each = start.elapsed().as_nanos() as f64 / rounds as f64;
    println!("{each:.1} ns for a 4 KiB map or reserve of a block that is the child's in part");
    assert_eq!(store.counts(), before);
}

#[test]
fn seven_zip_reads_our_children() {
    if !has_program("7z") {
        virtdisk_testkit::skip!("7z (p7zip-full) is not installed");
    }
    let mut rng = Rng::announced("seven_zip_reads_our_children");
    for (size, block) in [
        (12 * MIB, 2 << 20),
        (9 * MIB + 1536, 512 << 10),
        (3 * MIB, 64 << 10),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let contents = rng.bytes(size as usize);
        let mut parent = VhdBuilder::fixed(&contents);
        parent.footer.unique_id = PARENT;
        let parent = parent.build();
        std::fs::write(folder.path().join("parent.vhd"), parent.to_vec()).unwrap();
        let base = SectorModel::from_bytes(&contents);
        let mut model = inherited(&base, size);
        let store = Arc::new(MemoryStore::from_pages(created(size, block)));
        let layers = Layered::open(store.clone(), &writing(), &base).unwrap();
        for _ in 0..40 {
            let verb = Verb::random(&mut rng, size, 512, size / 8);
            layers.apply(&verb).unwrap();
            model.apply(&verb);
        }
        layers.disk.image.close().unwrap();
        let child = folder.path().join("child.vhd");
        std::fs::write(&child, store.to_vec()).unwrap();
        // Without -t it would go on into what it takes for the disk's own contents.
        let output = Command::new("7z")
            .args(["x", "-so", "-tvhd", child.to_str().unwrap()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            output.stdout == model.read(0, size),
            "{size} {block}: {} bytes; {said}",
            output.stdout.len()
        );
    }
}
