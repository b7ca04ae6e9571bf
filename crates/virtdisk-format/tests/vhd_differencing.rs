//! Differencing VHDs: what they say of their parent, which bytes are whose, and what is written
//! where (formats sheet, 1.6 to 1.8, V-8 to V-10, V-14 to V-19, V-32, V-35).
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::sync::Arc;

use disk::{Disk, named, pattern, reading, refusal, refused, writing};
use layered::{Layered, inherited};
use uuid::Uuid;
use virtdisk_format::{ErrorKind, Extents, Format, HintKind, Kind, ParentHint, Place, Store};
use virtdisk_testkit::corpus::{corpus_of, sample_named, sha256_of};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::{MemoryStore, Pages, SectorModel};

const MIB: u64 = 1 << 20;
const PARENT: [u8; 16] = *b"the parent's own";

fn child() -> VhdBuilder {
    VhdBuilder::differencing(MIB, 64 << 10, PARENT)
}

fn parent_of(size: u64) -> SectorModel {
    SectorModel::from_bytes(&pattern(size, 0xAA))
}

fn hints(file: &Pages) -> Vec<(HintKind, String)> {
    let disk = Disk::open_pages(file, &reading()).unwrap();
    let link = disk.image.facts().parent.clone().unwrap();
    let pair = |hint: ParentHint| (hint.kind, hint.text);
    link.hints.into_iter().map(pair).collect()
}

fn little(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn big(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn word(file: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(file[at..at + 4].try_into().unwrap())
}

#[test]
fn differencing_disks_of_windows_read_as_their_table_says() {
    // V-8, V-10: joined with their parents; nothing is changed by opening, even for writing.
    for name in ["fat", "ntfs"] {
        let (child, parent) = (
            format!("{name}-differential.vhd"),
            format!("{name}-parent.vhd"),
        );
        let corpus = match corpus_of(&[&child, &parent]) {
            Ok(corpus) => corpus,
            Err(reason) => virtdisk_testkit::skip!("{reason}"),
        };
        let base = Pages::from_bytes(&corpus.bytes(&parent));
        let base = Disk::open_pages(&base, &reading()).unwrap();
        let model = SectorModel::from_bytes(&base.read(0, base.size()).unwrap());
        let bytes = corpus.bytes(&child);
        for options in [reading(), named("vhd"), writing()] {
            let store = Arc::new(MemoryStore::from_bytes(&bytes));
            let layers = Layered::open(store.clone(), &options, &model).unwrap();
            let facts = layers.disk.image.facts();
            assert_eq!(
                (facts.format, facts.kind),
                (Format::Vhd, Kind::Differencing)
            );
            assert_eq!(facts.notices, [""; 0], "{child}");
            let link = facts.parent.as_ref().unwrap();
            // P-1
            assert_eq!(link.identities, [base.image.facts().content_id]);
            assert_eq!(link.modified_unix, None);
            let sample = sample_named(&child);
            assert_eq!(layers.size(), sample.virtual_size);
            let hash = sha256_of(layers.size(), |buf, at| layers.read_at(buf, at)).unwrap();
            assert_eq!(hash, sample.sha256, "{child}");
            layers.disk.image.validate().unwrap();
            layers.disk.image.close().unwrap();
            assert!(store.to_vec() == bytes, "{child} was changed");
        }
        let absolute = format!(r"C:\Projects\dfvfs\test_data\{parent}");
        let wanted = [
            (HintKind::Relative, format!(r".\{parent}")),
            (HintKind::Absolute, absolute.clone()),
            (HintKind::Name, absolute),
        ];
        assert_eq!(hints(&Pages::from_bytes(&bytes)), wanted);
    }
}

#[test]
fn places_of_the_parent_are_listed_in_their_order() {
    // P-2, V-15: whatever the slots, empty ones between them too.
    let mut builder = child();
    builder.header().locators = Default::default();
    builder.locator_data.clear();
    builder.header().parent_name = big("base.vhd");
    let texts: [([u8; 4], Vec<u8>); 5] = [
        (*b"Wi2k", b"D:\\old\\base.vhd".to_vec()),
        (*b"W2ku", little(r"C:\vm\base.vhd")),
        (*b"MacX", b"file:///Users/x/base%20disk.vhd".to_vec()),
        (*b"Wi2r", b"..\\old\\base.vhd".to_vec()),
        (*b"W2ru", little(r"..\vm\base.vhd")),
    ];
    for (index, (code, data)) in texts.iter().enumerate() {
        let at = 0x4000 + index as u64 * 512;
        builder.locator(7 - index, *code, (at, 512), data);
    }
    let wanted = [
        (HintKind::Relative, r"..\vm\base.vhd"),
        (HintKind::Url, "file:///Users/x/base%20disk.vhd"),
        (HintKind::Absolute, r"C:\vm\base.vhd"),
        (HintKind::Relative, r"..\old\base.vhd"),
        (HintKind::Absolute, r"D:\old\base.vhd"),
        (HintKind::Name, "base.vhd"),
    ]
    .map(|(kind, text)| (kind, text.to_owned()));
    assert_eq!(hints(&builder.build()), wanted);
}

#[test]
fn paths_are_little_endian_and_the_name_is_big_endian() {
    // V-16, with XenServer's other order as a fallback. V-17: length counts, in either unit.
    let path = r"C:\Festplatten\übergeordnet-日本.vhd";
    for (locator, name) in [(little(path), big(path)), (big(path), little(path))] {
        for space in [512, 4096, 1] {
            let mut builder = child();
            builder.header().locators = Default::default();
            builder.locator(2, *b"W2ku", (0x1000, 4096), &locator);
            builder.header().locators[2].data_space = space;
            builder.header().parent_name = name.clone();
            let path = path.to_owned();
            let wanted = [(HintKind::Absolute, path.clone()), (HintKind::Name, path)];
            assert_eq!(hints(&builder.build()), wanted);
        }
    }
}

#[test]
fn a_place_that_cannot_be_read_is_left_out_and_noted() {
    // S-8, S-1
    let cases: [(u64, u32); 5] = [
        (u64::MAX - 3, 8),
        (1 << 40, 8),
        (0x1000, 0),
        (0x1000, u32::MAX),
        (0x1000, 65_537),
    ];
    for (at, len) in cases {
        let mut builder = child();
        let locator = &mut builder.header().locators[0];
        (locator.data_offset, locator.data_length) = (at, len);
        let file = builder.build();
        for options in [reading(), writing()] {
            // Where blocks could come to lie on it, it is not written.
            if options.writable && (at == 1 << 40 || len == u32::MAX) {
                assert_eq!(refusal(&file, &options), ErrorKind::HeaderCorrupt);
                continue;
            }
            let disk = Disk::open_pages(&file, &options).unwrap();
            assert!(disk.notices("parent locator 0"), "{at:#x} {len}");
            let link = disk.image.facts().parent.clone().unwrap();
            let kinds: Vec<HintKind> = link.hints.iter().map(|hint| hint.kind).collect();
            assert_eq!(kinds, [HintKind::Relative, HintKind::Name]);
        }
    }
    let mut builder = child();
    builder.locator_data[0].data = little("C:\0\\x");
    builder.header().locators[0].data_length = 10;
    builder.header().parent_name = big("a\0b");
    assert_eq!(
        hints(&builder.build()),
        [(HintKind::Relative, r".\parent.vhd".to_owned())]
    );
}

#[test]
fn the_parent_is_named_by_its_identifier_and_its_time_is_advice() {
    // V-14
    let mut builder = child();
    let link = |builder: &VhdBuilder| {
        let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
        disk.image.facts().parent.clone()
    };
    assert_eq!(link(&builder).unwrap().modified_unix, None);
    builder.header().parent_time_stamp = 5;
    let found = link(&builder).unwrap();
    assert_eq!(found.modified_unix, Some(946_684_805));
    assert_eq!(found.identities, [Uuid::from_bytes(PARENT)]);
    builder.header().parent_id = [0; 16];
    let error = refused(&builder.build(), &reading());
    assert_eq!(
        (error.kind(), error.offset()),
        (ErrorKind::HeaderCorrupt, Some(552))
    );
    // A disk without a parent has no link, whatever its header says.
    let mut dynamic = VhdBuilder::dynamic(MIB, 64 << 10);
    dynamic.header().parent_id = PARENT;
    assert_eq!(link(&dynamic), None);
    let disk = Disk::open_pages(&dynamic.build(), &reading()).unwrap();
    let facts = disk.image.facts();
    assert_eq!(facts.content_id, Uuid::from_bytes(*b"0123456789abcdef"));
    assert_eq!(facts.identifier, facts.content_id);
}

#[test]
fn a_differencing_disk_without_a_header_is_refused() {
    // V-6
    let mut builder = child();
    builder.header().cookie = [0; 8];
    assert_eq!(
        refusal(&builder.build(), &reading()),
        ErrorKind::HeaderCorrupt
    );
    let mut builder = child();
    builder.header = None;
    builder.data = pattern(MIB, 1);
    builder.write_copy = false;
    assert_eq!(
        refusal(&builder.build(), &writing()),
        ErrorKind::HeaderCorrupt
    );
}

#[test]
fn a_sector_is_the_parents_or_the_childs() {
    // V-8, V-10: 0xCB is what Windows wrote for sectors of which 0, 1, 4, 6, 7 are present.
    let mut builder = child();
    let mut bitmap = vec![0; 16];
    (bitmap[0], bitmap[15]) = (0xCB, 0x01);
    let at = builder.block_with(3, &pattern(65536, 0xCC), bitmap);
    builder.block(5, &pattern(65536, 0xDD));
    let file = builder.build();
    let disk = Disk::open_pages(&file, &reading()).unwrap();
    let block = 3 * 65536;
    let extents = disk.extents(0, MIB).unwrap();
    let data = at + 512;
    let wanted = [
        (0, block, None),
        (block, 1024, Some(data)),
        (block + 1024, 1024, None),
        (block + 2048, 512, Some(data + 2048)),
        (block + 2560, 512, None),
        (block + 3072, 1024, Some(data + 3072)),
        (block + 4096, 65536 - 4096 - 512, None),
        (block + 65536 - 512, 512, Some(data + 65536 - 512)),
        (4 * 65536, 65536, None),
        (5 * 65536, 65536, Some(builder.blocks[1].at + 512)),
        (6 * 65536, MIB - 6 * 65536, None),
    ];
    let found: Vec<_> = extents
        .iter()
        .map(|extent| match extent.place {
            Place::Data { file_offset } => (extent.start, extent.len, Some(file_offset)),
            Place::Parent => (extent.start, extent.len, None),
            Place::Zero => panic!("{extent:?}"),
        })
        .collect();
    assert_eq!(found, wanted);
    // Ranges that begin and end within sectors.
    let extents = disk.extents(block + 1000, 100).unwrap();
    assert_eq!(
        (extents[0].len, extents[1].len, extents[1].place),
        (24, 76, Place::Parent)
    );
    // V-19: a shorter parent, and a longer one.
    for size in [512, block + 1536, 2 * MIB] {
        let parent = parent_of(size);
        let mut model = inherited(&parent, MIB);
        let own = pattern(65536, 0xCC);
        for sector in [0, 1, 4, 6, 7, 127] {
            let from = sector * 512;
            model.write(&own[from..from + 512], block + from as u64);
        }
        model.write(&pattern(65536, 0xDD), 5 * 65536);
        Layered::open_pages(&file, &reading(), &parent)
            .unwrap()
            .must_be(&model);
    }
}

#[test]
fn only_the_bits_of_what_was_written_are_set() {
    // V-9, V-32
    let store = Arc::new(MemoryStore::from_pages(child().build()));
    let parent = parent_of(MIB);
    let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
    let mut model = inherited(&parent, MIB);
    let bitmap_of = |file: &[u8], block: usize| {
        let at = word(file, 0x2000 + block * 4) as usize * 512;
        file[at..at + 16].to_vec()
    };
    let mut write = |offset: u64, len: u64, salt: u8| {
        layers.write(&pattern(len, salt), offset).unwrap();
        model.write(&pattern(len, salt), offset);
        layers.must_be(&model);
    };
    write(65536 + 1024, 1024, 1);
    let mut wanted = vec![0; 16];
    wanted[0] = 0b0011_0000;
    assert_eq!(bitmap_of(&store.to_vec(), 1), wanted);
    write(65536 + 120 * 512, 8 * 512, 2);
    wanted[15] = 0xFF;
    assert_eq!(bitmap_of(&store.to_vec(), 1), wanted);
    // Over the border of two blocks.
    write(2 * 65536 - 512, 1024, 3);
    assert_eq!(bitmap_of(&store.to_vec(), 2)[..2], [0x80, 0]);
    // Until the whole block is the child's.
    write(65536, 65536, 4);
    assert_eq!(bitmap_of(&store.to_vec(), 1), [0xFF; 16]);
    let file = Pages::from_bytes(&store.to_vec());
    Layered::open_pages(&file, &reading(), &parent)
        .unwrap()
        .must_be(&model);
    layers.disk.image.close().unwrap();
    let again = Layered::open(store, &writing(), &parent).unwrap();
    again.must_be(&model);
    again.disk.image.validate().unwrap();
}

#[test]
fn data_are_durable_before_their_bits() {
    // V-32, and what the child has already costs neither flush nor bitmap.
    let store = Arc::new(MemoryStore::from_pages(child().build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.write(&pattern(512, 1), 0).unwrap();
    let mut extents = Extents::new();
    let before = (store.counts(), store.to_vec());
    let ticket = disk.image.reserve(512, 1024, &mut extents).unwrap();
    assert_eq!(ticket.range(), Some((512, 1024)));
    assert!(
        store.to_vec() == before.1,
        "the block had its space already"
    );
    let Place::Data { file_offset } = extents[0].place else {
        panic!("{extents:?}");
    };
    store.write_all_at(&pattern(1024, 2), file_offset).unwrap();
    assert_eq!(disk.extents(512, 1).unwrap()[0].place, Place::Parent);
    disk.image.complete(ticket).unwrap();
    let after = store.counts();
    assert_eq!(after.flushes - before.0.flushes, 1);
    assert_eq!(after.writes - before.0.writes, 2);
    assert_eq!(after.bytes_written - before.0.bytes_written, 1024 + 1);
    assert_eq!(
        disk.extents(512, 1).unwrap()[0].place,
        Place::Data { file_offset }
    );
    let mut extents = Extents::new();
    let ticket = disk.image.reserve(100, 1300, &mut extents).unwrap();
    assert_eq!(ticket.range(), None);
    disk.image.complete(ticket).unwrap();
    assert_eq!(store.counts(), after);
    // A ticket that is dropped leaves the parent's bytes.
    let mut extents = Extents::new();
    drop(disk.image.reserve(8 * 65536, 512, &mut extents).unwrap());
    assert_eq!(
        disk.extents(8 * 65536, 512).unwrap()[0].place,
        Place::Parent
    );
}

#[test]
fn a_range_that_cuts_a_sector_of_the_parent_is_refused() {
    let store = Arc::new(MemoryStore::from_pages(child().build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.write(&pattern(512, 1), 1024).unwrap();
    let before = store.to_vec();
    for (start, len) in [
        (1, 511),
        (0, 1),
        (513, 1023),
        (1100, 500),
        (1600, 100),
        (65535, 1),
        (900, 200),
        (65536 * 9 + 7, 512),
    ] {
        let mut extents = Extents::new();
        let error = disk.image.reserve(start, len, &mut extents).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{start} {len}");
        let error = disk.image.trim(start, len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{start} {len}");
    }
    assert!(store.to_vec() == before, "something was changed");
    disk.write(&[7; 100], 1100).unwrap();
    assert_eq!(disk.read(1100, 100).unwrap(), [7; 100]);
}

#[test]
fn zeros_are_stored_where_the_parent_has_data() {
    // V-35: no block is ever given back, for what is behind it is the parent.
    let store = Arc::new(MemoryStore::from_pages(child().build()));
    let parent = parent_of(MIB);
    let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
    let mut model = inherited(&parent, MIB);
    layers.write(&pattern(4096, 9), 6 * 65536 + 4096).unwrap();
    model.write(&pattern(4096, 9), 6 * 65536 + 4096);
    for (start, len) in [
        (512, 512),
        (65536, 65536),
        (3 * 65536 - 1024, 2048),
        (6 * 65536, 3 * 65536),
        (MIB - 512, 512),
        (0, MIB),
    ] {
        layers.disk.image.trim(start, len).unwrap();
        model.zero(start, len);
        layers.must_be(&model);
        let seen = Layered::open_pages(&store.pages(), &reading(), &parent).unwrap();
        seen.must_be(&model);
    }
    let physical = layers.disk.image.physical().unwrap();
    assert_eq!(physical.blocks_allocated, 16);
    assert!(physical.data_aligned_4k);
    layers.disk.image.close().unwrap();
    // Zeros take no room in the file system, apart from what a page holds together.
    assert!(store.allocated() < 32 * 8192, "{}", store.allocated());
    let again = Layered::open(store, &writing(), &parent).unwrap();
    again.must_be(&model);
}

#[test]
fn locators_of_a_differencing_disk_are_never_written_over() {
    // V-18: between table and blocks, behind blocks, and with space counted in sectors (V-17).
    let mut builder = child();
    builder.header().locators[2] = builder.header().locators[0];
    builder.locator(2, *b"MacX", (0x3_0000, 16), b"file:///x");
    builder.locator_data[2].space = 8192;
    builder.locator_data[2].data.resize(8192, 0x22);
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    let before = store.to_vec();
    for block in 0..16 {
        disk.write(&pattern(65536, block as u8), block * 65536)
            .unwrap();
    }
    disk.image.close().unwrap();
    let after = store.to_vec();
    for range in [0x1000..0x2000, 0x3000..0x1_3000, 0x3_0000..0x3_2000] {
        assert!(
            before[range.clone()] == after[range],
            "a locator was changed"
        );
    }
    let disk = Disk::open(store, &reading()).unwrap();
    assert_eq!(disk.image.facts().notices, [""; 0]);
    for block in 0..16 {
        assert!(disk.read(block * 65536, 65536).unwrap() == pattern(65536, block as u8));
    }
}

#[test]
fn a_locator_whose_space_ends_behind_the_file_keeps_its_data() {
    // V-17, V-18: 64 KiB of space as XenServer and Windows write it, and a file that ends before.
    let mut builder = child();
    builder.locator_data[1].space = 512;
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    assert!(disk.notices("too little space for parent locator 1"));
    assert_eq!(disk.image.facts().parent.as_ref().unwrap().hints.len(), 3);
    disk.write(&pattern(4 * 65536, 1), 0).unwrap();
    disk.image.close().unwrap();
    let found = hints(&store.pages());
    let disk = Disk::open(store, &writing()).unwrap();
    assert!(disk.read(0, 4 * 65536).unwrap() == pattern(4 * 65536, 1));
    assert_eq!(found[0], (HintKind::Relative, r".\parent.vhd".to_owned()));
}

#[test]
fn a_foreign_child_is_continued() {
    // Packed, with dirt under 0 bits and in the slack; early XenServer's bit order (1.10).
    let mut builder = VhdBuilder::differencing(MIB + 1536, 4096, PARENT);
    builder.footer.creator_application = *b"tap\0";
    builder.footer.creator_version = 1;
    builder.block_with(0, &pattern(4096, 0xE0), vec![0b0000_0101]);
    builder.block_with(256, &pattern(4096, 0xE1), vec![0b0000_0001]);
    builder.patches.push((builder.end(), vec![0xEE; 3 * 4608]));
    builder.footer_at = Some(builder.end() + 3 * 4608);
    let parent = parent_of(MIB + 1536);
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
    let mut model = inherited(&parent, MIB + 1536);
    model.write(&pattern(4096, 0xE0)[..512], 0);
    model.write(&pattern(4096, 0xE0)[1024..1536], 1024);
    model.write(&pattern(4096, 0xE1)[..512], MIB);
    layers.must_be(&model);
    for at in [512, 4096 + 512, MIB + 512, MIB + 1024, MIB - 512] {
        layers.write(&pattern(512, 3), at).unwrap();
        model.write(&pattern(512, 3), at);
        layers.must_be(&model);
    }
    let file = store.to_vec();
    assert_eq!(file[builder.blocks[0].at as usize], 0b0000_0111);
    // All three sectors that count: the block is in one run.
    assert_eq!(file[builder.blocks[1].at as usize], 0b0000_0111);
    assert_eq!(layers.disk.extents(MIB, 1536).unwrap().len(), 1);
    layers.disk.image.close().unwrap();
    Layered::open(store, &reading(), &parent)
        .unwrap()
        .must_be(&model);
}
