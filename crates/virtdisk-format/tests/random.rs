//! Random verbs on a disk and on a model of its sectors, compared after each verb and after each
//! reopening: dynamic, fixed and raw, new and foreign.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;

use disk::{Disk, pattern, reading, writing};
use virtdisk_format::{CreateOptions, Format, Kind, create};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::{MemoryStore, Pages, Rng, SectorModel, Verb};

fn created(format: Format, kind: Kind, virtual_size: u64, block_size: u32) -> Pages {
    let options = CreateOptions {
        format,
        kind,
        virtual_size,
        block_size,
        identifier: None,
        created_unix: 0,
        sparse: true,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    };
    let store = MemoryStore::new();
    create(&store, &options).unwrap();
    store.pages()
}

/// A foreign file: packed, with holes, slack, partial blocks and a table that is too long.
fn foreign(rng: &mut Rng, size: u64, block: u32) -> Pages {
    let mut builder = VhdBuilder::dynamic(size, block);
    let blocks = builder.table.len() as u32;
    builder.header().max_table_entries = blocks + 7;
    builder.table.resize(blocks as usize + 7, 5);
    let bytes = builder.bitmap_len() as usize;
    for number in 0..blocks {
        let bitmap = match rng.below(4) {
            0 => vec![0xFF; bytes],
            1 => rng.bytes(bytes),
            2 => vec![0; bytes],
            _ => continue,
        };
        let packed = builder.end() + rng.below(3) * 512;
        let at = builder.block_with(number, &pattern(block.into(), number as u8), bitmap);
        if rng.one_in(2) {
            let added = builder.blocks.last_mut().unwrap();
            assert_eq!(added.at, at);
            added.at = packed;
            builder.table[number as usize] = (packed / 512) as u32;
        }
    }
    builder.footer_at = Some(builder.end() + rng.below(64) * 512);
    builder.build()
}

/// Runs verbs on a disk, reopening it now and then, with and without a close.
fn run(name: &str, start: Pages, rng: &mut Rng, verbs: usize, align: u64) {
    let mut store = Arc::new(MemoryStore::from_pages(start));
    let mut disk = Disk::open(store.clone(), &writing()).unwrap();
    let size = disk.size();
    let mut model = SectorModel::from_bytes(&disk.read(0, size).unwrap());
    for step in 0..verbs {
        let verb = Verb::random(rng, size, align, size / 4);
        disk.apply(&verb)
            .unwrap_or_else(|error| panic!("{name}, {step}, {verb:?}: {error}"));
        model.apply(&verb);
        let held = model.compare(|buf, at| disk.read_at(buf, at));
        held.unwrap_or_else(|error| panic!("{name}, step {step}, {verb:?}: {error}"));
        if rng.one_in(12) {
            if rng.one_in(2) {
                disk.image.close().unwrap();
            }
            store = Arc::new(MemoryStore::from_pages(store.pages()));
            let reader = Disk::open(store.clone(), &reading()).unwrap();
            reader.must_be(&model);
            disk = Disk::open(store.clone(), &writing()).unwrap();
            disk.image.validate().unwrap();
        }
    }
    disk.must_be(&model);
}

#[test]
fn a_dynamic_disk_behaves_like_its_model() {
    let mut rng = Rng::announced("a_dynamic_disk_behaves_like_its_model");
    for (size, block, align) in [
        (64 << 10, 512, 512),
        (256 << 10, 4096, 1),
        (255 << 10, 16 << 10, 512),
        (1 << 20, 65536, 1),
    ] {
        let start = created(Format::Vhd, Kind::Dynamic, size, block);
        run("dynamic", start, &mut rng, 600, align);
    }
}

#[test]
fn a_foreign_dynamic_disk_behaves_like_its_model() {
    let mut rng = Rng::announced("a_foreign_dynamic_disk_behaves_like_its_model");
    for round in 0..6 {
        let block = [512, 4096, 16384][round % 3];
        let size = 48 * u64::from(block) - 512 * (round as u64 / 3);
        let start = foreign(&mut rng, size, block);
        run(
            "foreign",
            start,
            &mut rng,
            100,
            if round < 3 { 512 } else { 1 },
        );
    }
}

#[test]
fn fixed_and_raw_disks_behave_like_their_models() {
    let mut rng = Rng::announced("fixed_and_raw_disks_behave_like_their_models");
    for format in [Format::Vhd, Format::Raw] {
        let start = created(format, Kind::Fixed, 128 << 10, 0);
        run("fixed", start, &mut rng, 400, 1);
    }
}

mod shrinking {
    use proptest::prelude::*;

    use super::*;

    fn verb(size: u64) -> impl Strategy<Value = Verb> {
        let range = (0..size).prop_flat_map(move |offset| (Just(offset), 1..=size - offset));
        let write = (range.clone(), any::<u64>()).prop_map(|((offset, len), seed)| Verb::Write {
            offset,
            len,
            seed,
        });
        let zero = (range.clone(), any::<bool>()).prop_map(|((offset, len), unmap)| Verb::Zero {
            offset,
            len,
            unmap,
        });
        let trim = range.prop_map(|(offset, len)| Verb::Trim { offset, len });
        prop_oneof![4 => write, 1 => zero, 2 => trim, 1 => Just(Verb::Flush)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None,
            ..ProptestConfig::default() })]

        /// The same as above with verbs that proptest can make smaller when they fail.
        #[test]
        fn short_stories_end_as_the_model_says(
            verbs in proptest::collection::vec(verb(10 * 2048), 1..24),
            reopen in any::<bool>(),
        ) {
            let size = 10 * 2048;
            let start = created(Format::Vhd, Kind::Dynamic, size, 2048);
            let store = Arc::new(MemoryStore::from_pages(start));
            let disk = Disk::open(store.clone(), &writing()).unwrap();
            let mut model = SectorModel::new(size);
            for verb in &verbs {
                disk.apply(verb).unwrap();
                model.apply(verb);
            }
            if reopen {
                disk.image.close().unwrap();
                let again = Disk::open(store, &writing()).unwrap();
                model.compare(|buf, at| again.read_at(buf, at)).unwrap();
            } else {
                model.compare(|buf, at| disk.read_at(buf, at)).unwrap();
            }
        }
    }
}
