//! Random verbs on VHDXs and on models of their sectors, compared after each verb and after each
//! reopening: dynamic, fixed and differencing, with both sector sizes.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::sync::Arc;

use disk::{pattern, reading, writing};
use layered::{Layered, inherited};
use uuid::Uuid;
use virtdisk_format::{CreateOptions, Format, Kind, NewParent, create};
use virtdisk_testkit::{MemoryStore, Pages, Rng, SectorModel, Verb};

const MIB: u64 = 1 << 20;

fn created(kind: Kind, virtual_size: u64, block_size: u32, sector: u32) -> Pages {
    let parent = NewParent {
        content_id: Uuid::from_u128(7),
        relative_path: r".\parent.vhdx".to_owned(),
        ..NewParent::default()
    };
    let options = CreateOptions {
        format: Format::Vhdx,
        kind,
        virtual_size,
        block_size,
        identifier: None,
        created_unix: 0,
        sparse: true,
        logical_sector_size: sector,
        physical_sector_size: 0,
        parent: (kind == Kind::Differencing).then_some(parent),
    };
    let store = MemoryStore::new();
    create(&store, &options).unwrap();
    store.pages()
}

/// Compares what a verb can have changed, and some of what is around it.
fn compare(layers: &Layered, model: &SectorModel, verb: &Verb) -> Result<(), String> {
    let range = verb.range();
    let from = range.start.saturating_sub(64 << 10);
    let to = (range.end + (64 << 10)).min(model.size());
    let found = layers
        .read(from, to - from)
        .map_err(|error| error.to_string())?;
    let wanted = model.read(from, to - from);
    match found
        .iter()
        .zip(&wanted)
        .position(|(one, other)| one != other)
    {
        Some(at) => Err(format!("byte {} differs", from + at as u64)),
        None => Ok(()),
    }
}

/// Runs verbs on a disk, reopening it now and then, with and without a close.
fn run(name: &str, start: Pages, parent: &SectorModel, rng: &mut Rng, verbs: usize, align: u64) {
    let mut store = Arc::new(MemoryStore::from_pages(start));
    let mut layers = Layered::open(store.clone(), &writing(), parent).unwrap();
    let size = layers.size();
    let mut model = inherited(parent, size);
    for step in 0..verbs {
        let longest = if rng.one_in(4) { size / 2 } else { 256 << 10 };
        let verb = Verb::random(rng, size, align, longest);
        layers
            .apply(&verb)
            .unwrap_or_else(|error| panic!("{name}, {step}, {verb:?}: {error}"));
        model.apply(&verb);
        let held = compare(&layers, &model, &verb);
        held.unwrap_or_else(|error| panic!("{name}, step {step}, {verb:?}: {error}"));
        if rng.one_in(12) {
            if rng.one_in(2) {
                layers.disk.image.close().unwrap();
            }
            store = Arc::new(MemoryStore::from_pages(store.pages()));
            let reader = Layered::open(store.clone(), &reading(), parent).unwrap();
            reader.must_be(&model);
            layers = Layered::open(store.clone(), &writing(), parent).unwrap();
            layers.disk.image.validate().unwrap();
            layers.must_be(&model);
        }
    }
    layers.disk.image.close().unwrap();
    let reader = Layered::open(store, &reading(), parent).unwrap();
    assert_eq!(reader.disk.image.facts().notices, [""; 0], "{name}");
    reader.must_be(&model);
}

#[test]
fn a_dynamic_disk_behaves_like_its_model() {
    let mut rng = Rng::announced("a_dynamic_disk_behaves_like_its_model");
    for (size, block, sector, align) in [
        (6 * MIB, 1 << 20, 512, 512),
        (5 * MIB + 512, 2 << 20, 512, 1),
        (9 * MIB + 4096, 1 << 20, 4096, 512),
        (40 * MIB, 32 << 20, 512, 4096),
    ] {
        let start = created(Kind::Dynamic, size, block, sector);
        run(
            "dynamic",
            start,
            &SectorModel::new(size),
            &mut rng,
            150,
            align,
        );
    }
}

#[test]
fn a_differencing_disk_behaves_like_its_model() {
    let mut rng = Rng::announced("a_differencing_disk_behaves_like_its_model");
    for (size, block, sector, align) in [
        (6 * MIB, 1 << 20, 512, 512),
        (5 * MIB + 512, 2 << 20, 512, 1),
        (9 * MIB + 4096, 1 << 20, 4096, 512),
        (20 * MIB, 16 << 20, 512, 4096),
    ] {
        let start = created(Kind::Differencing, size, block, sector);
        let parent = SectorModel::from_bytes(&pattern(size - size / 4, 0xAA));
        run("differencing", start, &parent, &mut rng, 150, align);
    }
}

#[test]
fn a_fixed_disk_behaves_like_its_model() {
    let mut rng = Rng::announced("a_fixed_disk_behaves_like_its_model");
    let start = created(Kind::Fixed, 5 * MIB + 512, 0, 0);
    let len = start.len();
    let store = Arc::new(MemoryStore::from_pages(start.clone()));
    run(
        "fixed",
        start,
        &SectorModel::new(5 * MIB + 512),
        &mut rng,
        150,
        1,
    );
    // X-69: what is trimmed keeps its place.
    let layers = Layered::open(store.clone(), &writing(), &SectorModel::new(MIB)).unwrap();
    layers.disk.image.trim(0, 4 * MIB).unwrap();
    layers.disk.image.close().unwrap();
    assert_eq!(store.pages().len(), len);
    assert_eq!(layers.disk.image.physical().unwrap().blocks_allocated, 3);
}
