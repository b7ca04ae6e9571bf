//! What a VHDX is read as: headers, regions, metadata, table (formats sheet, 6.3 and 6.5).
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;

use disk::{Disk, named, pattern, reading, refusal, refused, writing};
use virtdisk_format::{ErrorKind, Format, Kind, OpenOptions, Place};
use virtdisk_testkit::vhdx_builder::{
    BAT_REGION, DISK_ID, FILE_PARAMETERS, INCOMPLETE_FILE, Item, LOGICAL_SECTOR, MIB, Metadata,
    PARENT_LOCATOR, PHYSICAL_SECTOR, Region, TABLES_AT, VIRTUAL_SIZE, VhdxBuilder,
};
use virtdisk_testkit::{MemoryStore, Pages};

const GIB: u64 = 1 << 30;

fn recovering() -> OpenOptions {
    OpenOptions {
        recover: true,
        ..OpenOptions::default()
    }
}

/// 16 MiB in blocks of 1 MiB, of which 3 and 0 are there.
fn dynamic() -> VhdxBuilder {
    let mut builder = VhdxBuilder::dynamic(16 * MIB, 1 << 20);
    builder.block(3, &pattern(MIB, 3));
    builder.block(0, &pattern(MIB, 4));
    builder
}

/// The disk is that of [`dynamic`].
#[track_caller]
fn must_be_dynamic(disk: &Disk) {
    assert_eq!(disk.size(), 16 * MIB);
    assert!(disk.read(0, MIB).unwrap() == pattern(MIB, 4));
    assert!(disk.read(3 * MIB, MIB).unwrap() == pattern(MIB, 3));
    assert!(disk.read(MIB, 2 * MIB).unwrap() == vec![0; 2 << 20]);
    assert!(disk.read(4 * MIB, 12 * MIB).unwrap() == vec![0; 12 << 20]);
}

fn open(builder: &VhdxBuilder) -> Disk {
    Disk::open_pages(&builder.build(), &reading()).unwrap()
}

fn kind_of(builder: &VhdxBuilder) -> ErrorKind {
    refusal(&builder.build(), &reading())
}

/// Both tables name these regions.
fn with_regions(builder: &VhdxBuilder, change: impl Fn(&mut Vec<Region>)) -> VhdxBuilder {
    let mut builder = builder.clone();
    for table in &mut builder.tables {
        change(&mut table.regions);
    }
    builder
}

#[test]
fn a_dynamic_disk_is_what_its_table_says() {
    let builder = dynamic();
    let disk = open(&builder);
    must_be_dynamic(&disk);
    let facts = disk.image.facts();
    assert_eq!((facts.format, facts.kind), (Format::Vhdx, Kind::Dynamic));
    assert_eq!(facts.block_size, 1 << 20);
    assert_eq!(
        (facts.logical_sector_size, facts.physical_sector_size),
        (512, 4096)
    );
    assert_eq!(facts.identifier.to_bytes_le(), *b"virtual disk id.");
    assert_eq!(facts.content_id.to_bytes_le(), *b"data write guid.");
    assert_eq!((&facts.parent, facts.read_only), (&None, false));
    assert_eq!(facts.notices, [""; 0]);
    assert_eq!(disk.image.whole(), None);
    assert!(disk.image.bytes().is_none());
    let physical = disk.image.physical().unwrap();
    assert_eq!(
        (physical.blocks_allocated, physical.fragmentation_percent),
        (2, Some(50))
    );
    // what a child takes over.
    let ids: Vec<_> = disk.image.inherited().unwrap();
    assert_eq!(ids.len(), 4);
    assert!(
        ids.iter()
            .all(|item| item.required && item.virtual_disk && !item.user)
    );
}

#[test]
fn the_header_with_the_larger_number_counts() {
    //
    for (one, two, counts) in [(6, 7, 1), (7, 6, 0), (u64::MAX, 1, 0), (1, u64::MAX, 1)] {
        let mut builder = dynamic();
        for (header, sequence) in builder.headers.iter_mut().zip([one, two]) {
            header.sequence = sequence;
            header.data_write_guid = [sequence as u8; 16];
        }
        let wanted = [one, two][counts] as u8;
        let id = open(&builder).image.facts().content_id;
        assert_eq!(id.to_bytes_le(), [wanted; 16]);
    }
}

#[test]
fn one_damaged_header_is_no_matter() {
    // the checksum covers the whole 4096 bytes.
    for place in [0, 1] {
        for damage in 0..4 {
            let mut builder = dynamic();
            let header = &mut builder.headers[place];
            header.sequence = 99;
            match damage {
                0 => header.signature = *b"haed",
                1 => header.checksum = Some(1),
                2 => header.version = 2,
                _ => {
                    let at = virtdisk_testkit::vhdx_builder::HEADERS_AT[place] + 4095;
                    builder.patches.push((at, vec![1]));
                }
            }
            let disk = open(&builder);
            must_be_dynamic(&disk);
            assert!(
                disk.notices("VHDX header"),
                "{:?}",
                disk.image.facts().notices
            );
        }
    }
    let mut builder = dynamic();
    builder.headers[0].signature = [0; 4];
    builder.headers[1].checksum = Some(1);
    assert_eq!(kind_of(&builder), ErrorKind::HeaderChecksum);
    let disk = Disk::open_pages(&builder.build(), &recovering()).unwrap();
    must_be_dynamic(&disk);
    assert!(disk.image.facts().read_only);
    builder.headers[1].signature = [0; 4];
    assert_eq!(kind_of(&builder), ErrorKind::HeaderCorrupt);
    for header in &mut builder.headers {
        (header.signature, header.checksum, header.version) = (*b"head", None, 2);
    }
    assert_eq!(kind_of(&builder), ErrorKind::HeaderVersion);
}

#[test]
fn two_headers_with_one_number_must_be_the_same() {
    // Disk2vhd writes two copies with sequence 1.
    let mut builder = dynamic();
    for header in &mut builder.headers {
        header.sequence = 1;
    }
    must_be_dynamic(&open(&builder));
    builder.headers[1].data_write_guid = [9; 16];
    assert_eq!(kind_of(&builder), ErrorKind::HeaderCorrupt);
    let disk = Disk::open_pages(&builder.build(), &recovering()).unwrap();
    assert!(disk.image.facts().read_only && disk.notices("VHDX header"));
}

#[test]
fn reserved_bytes_of_a_header_are_no_matter() {
    //
    let mut builder = dynamic();
    for header in &mut builder.headers {
        header.reserved = vec![0xAA; 4016];
    }
    must_be_dynamic(&open(&builder));
}

#[test]
fn one_damaged_region_table_is_no_matter() {
    //
    for place in [0, 1] {
        for damage in 0..3 {
            let mut builder = dynamic();
            let table = &mut builder.tables[place];
            match damage {
                0 => table.signature = *b"rige",
                1 => table.checksum = Some(1),
                _ => table.count = Some(2048),
            }
            let disk = open(&builder);
            must_be_dynamic(&disk);
            assert!(disk.notices("region table"));
            disk.image.validate().unwrap();
        }
    }
    let mut builder = dynamic();
    builder.tables[1].regions[0].offset = 8 * MIB;
    let disk = open(&builder);
    must_be_dynamic(&disk);
    assert!(disk.notices("differs"));
    builder.tables[0].checksum = Some(1);
    builder.tables[1].checksum = Some(1);
    let error = refused(&builder.build(), &reading());
    assert_eq!(error.kind(), ErrorKind::RegionCorrupt);
    assert_eq!(
        (error.offset(), error.found()),
        (Some(TABLES_AT[0] + 4), "00000001")
    );
}

#[test]
fn unknown_regions_are_kept_unless_they_are_required() {
    //
    let unknown = |flags| {
        with_regions(&dynamic(), |regions| {
            regions.push(Region {
                guid: [7; 16],
                offset: 5 * MIB,
                length: 1 << 20,
                flags,
            });
        })
    };
    let error = refused(&unknown(1).build(), &reading());
    assert_eq!(error.kind(), ErrorKind::UnsupportedFeature);
    assert!(error.to_string().contains("07070707-0707"), "{error}");
    // Not required: nothing may lie on it, and a block does.
    let mut builder = unknown(0);
    let disk = open(&builder);
    assert!(disk.notices("unknown region"));
    assert_eq!(disk.read(0, 512).unwrap_err().kind(), ErrorKind::BatCorrupt);
    builder.set(0, 0, 0);
    assert!(!open(&builder).notices("unknown region"));
    builder.set(0, 6, builder.end());
    builder.len = Some(builder.end() + MIB);
    assert!(open(&builder).read(0, MIB).is_ok());
}

#[test]
fn unknown_items_are_ignored_unless_they_are_required() {
    //
    let with = |flags| {
        let mut builder = dynamic();
        builder
            .metadata
            .items
            .insert(0, Item::new([8; 16], flags, b"something"));
        builder
    };
    for flags in [0, 1, 2, 3] {
        let disk = open(&with(flags));
        must_be_dynamic(&disk);
        let items = disk.image.inherited().unwrap();
        let kept = items.iter().find(|item| item.data == b"something");
        assert_eq!(kept.is_some(), flags & 2 != 0);
        assert!(kept.is_none_or(|item| item.user == (flags & 1 != 0)));
    }
    let error = refused(&with(4).build(), &reading());
    assert_eq!(error.kind(), ErrorKind::UnsupportedFeature);
    assert!(error.to_string().contains("08080808-0808"), "{error}");
    assert_eq!(kind_of(&with(5)), ErrorKind::MetadataCorrupt);
    assert_eq!(kind_of(&with(8)), ErrorKind::MetadataCorrupt);
}

#[test]
fn known_regions_need_not_be_required() {
    // all files of qemu.
    let builder = with_regions(&dynamic(), |regions| {
        for region in regions.iter_mut() {
            region.flags = 0;
        }
        regions.reverse();
    });
    must_be_dynamic(&open(&builder));
}

#[test]
fn regions_lie_apart_on_whole_mibs_inside_the_file() {
    // X-6, S-1, S-2
    type Change = (&'static str, fn(&mut Vec<Region>));
    let changes: [Change; 13] = [
        ("twice", |regions| regions.push(regions[0])),
        ("length 0", |regions| regions[0].length = 0),
        ("length odd", |regions| regions[0].length = 4096),
        ("offset 0", |regions| regions[0].offset = 0),
        ("in the headers", |regions| regions[0].offset = 256 << 10),
        ("unaligned", |regions| regions[0].offset = 3 * MIB + 4096),
        ("on the other", |regions| regions[0].offset = 2 * MIB),
        ("on the log", |regions| regions[0].offset = MIB),
        ("over the end", |regions| regions[0].offset = 64 * MIB),
        ("past 2^64", |regions| {
            regions[0].offset = u64::MAX - MIB + 1
        }),
        ("no table", |regions| {
            regions.retain(|one| one.guid != BAT_REGION)
        }),
        ("no metadata", |regions| regions.truncate(1)),
        ("flags", |regions| regions[0].flags = 3),
    ];
    for (name, change) in changes {
        let builder = with_regions(&dynamic(), change);
        assert_eq!(kind_of(&builder), ErrorKind::RegionCorrupt, "{name}");
    }
    let mut builder = with_regions(&dynamic(), |regions| regions[1].length = 256 << 20);
    for table in &mut builder.tables {
        table.regions[1].offset = 512 * MIB;
    }
    builder.len = Some(GIB);
    assert_eq!(
        kind_of(&builder),
        ErrorKind::RegionCorrupt,
        "256 MiB of metadata"
    );
}

#[test]
fn items_lie_apart_inside_their_region_and_have_their_lengths() {
    //
    type Change = (&'static str, fn(&mut Metadata));
    let changes: [Change; 23] = [
        ("signature", |it| it.signature = *b"metadaba"),
        ("reserved", |it| it.reserved = 1),
        ("reserved end", |it| it.reserved_end[19] = 1),
        ("2048 items", |it| it.count = Some(2048)),
        ("item reserved", |it| it.items[0].reserved = 1),
        ("item flags", |it| it.items[0].flags = 12),
        ("in the table", |it| it.items[0].offset = Some(4096)),
        ("behind the region", |it| {
            it.items[0].offset = Some(0xF_FFFC)
        }),
        ("past 2^32", |it| it.items[0].offset = Some(u32::MAX)),
        ("on another", |it| it.items[0].offset = Some(0x1_0009)),
        ("too long", |it| it.items[0].length = Some((1 << 20) + 1)),
        ("length 0", |it| it.items[0].length = Some(0)),
        ("length 7", |it| it.item(FILE_PARAMETERS).length = Some(7)),
        ("length 4", |it| it.item(VIRTUAL_SIZE).length = Some(4)),
        ("length 15", |it| it.item(DISK_ID).length = Some(15)),
        ("length 3", |it| it.item(LOGICAL_SECTOR).length = Some(3)),
        ("length 2", |it| it.item(PHYSICAL_SECTOR).length = Some(2)),
        ("of the disk", |it| it.item(FILE_PARAMETERS).flags = 6),
        ("not of the disk", |it| it.item(VIRTUAL_SIZE).flags = 4),
        ("not of the disk", |it| it.item(DISK_ID).flags = 4),
        ("no id", |it| it.items[4].guid = [0; 16]),
        ("twice", |it| it.items[4].guid = VIRTUAL_SIZE),
        ("the user's", |it| it.item(VIRTUAL_SIZE).flags = 3),
    ];
    for (name, change) in changes {
        let mut builder = dynamic();
        change(&mut builder.metadata);
        assert_eq!(kind_of(&builder), ErrorKind::MetadataCorrupt, "{name}");
    }
    for index in 0..5 {
        let mut builder = dynamic();
        builder.metadata.items.remove(index);
        assert_eq!(
            kind_of(&builder),
            ErrorKind::MetadataCorrupt,
            "without {index}"
        );
    }
}

#[test]
fn items_of_the_user_stand_beside_the_formats_own() {
    // an id twice is two items where one of them is the user's; an empty one is nowhere.
    let mut builder = dynamic();
    builder
        .metadata
        .items
        .push(Item::new(VIRTUAL_SIZE, 1, &[0; 8]));
    builder.metadata.items.push(Item::new([3; 16], 1, &[]));
    must_be_dynamic(&open(&builder));
    // A virtual disk id of zeros is odd, and harms no byte.
    builder.metadata.item(DISK_ID).data = vec![0; 16];
    assert!(open(&builder).notices("virtual disk id"));
}

#[test]
fn sizes_are_possible_ones() {
    // X-8, CVE-2014-0148
    for block in [
        0,
        1,
        512,
        1 << 19,
        (1 << 20) + 512,
        3 << 20,
        1 << 29,
        1 << 31,
        u32::MAX,
    ] {
        let mut builder = dynamic();
        builder.metadata.item(FILE_PARAMETERS).data[..4].copy_from_slice(&block.to_le_bytes());
        assert_eq!(kind_of(&builder), ErrorKind::InvalidBlockSize, "{block}");
    }
    for item in [LOGICAL_SECTOR, PHYSICAL_SECTOR] {
        for sector in [0_u32, 1, 256, 513, 1024, 2048, 8192, u32::MAX] {
            let mut builder = dynamic();
            builder.metadata.item(item).data = sector.to_le_bytes().to_vec();
            assert_eq!(kind_of(&builder), ErrorKind::MetadataCorrupt, "{sector}");
        }
    }
    for size in [0, 1, 511, 513, (64 << 40) + 512, u64::MAX - 511, u64::MAX] {
        let mut builder = dynamic();
        builder.metadata.item(VIRTUAL_SIZE).data = size.to_le_bytes().to_vec();
        assert_eq!(kind_of(&builder), ErrorKind::InvalidSize, "{size}");
    }
    for flags in [4_u32, 8, 0x8000_0000, u32::MAX] {
        let mut builder = dynamic();
        builder.metadata.item(FILE_PARAMETERS).data[4..].copy_from_slice(&flags.to_le_bytes());
        assert_eq!(kind_of(&builder), ErrorKind::MetadataCorrupt, "{flags}");
    }
}

#[test]
fn sectors_of_4096_bytes_make_larger_chunks() {
    // a chunk of 32 GiB; logical 4096 with physical 512 exists.
    let size = 64 * GIB + 32 * MIB;
    let mut builder = VhdxBuilder::new(2, size, 32 << 20, 4096);
    builder.metadata.item(PHYSICAL_SECTOR).data = 512_u32.to_le_bytes().to_vec();
    let at = builder.block_in_state(1024, 7, &pattern(32 * MIB, 1));
    // The chunk's second, third and tenth sector.
    builder.bitmap(1, &[0b0000_0110, 0b10]);
    builder.block(1023, &pattern(32 * MIB, 2));
    builder.block(2048, &pattern(32 * MIB, 3));
    let disk = open(&builder);
    let facts = disk.image.facts();
    assert_eq!(
        (facts.logical_sector_size, facts.physical_sector_size),
        (4096, 512)
    );
    let start = 32 * GIB;
    let extents: Vec<_> = disk
        .extents(start - 512, 12 * 4096 + 512)
        .unwrap()
        .iter()
        .map(|extent| (extent.start, extent.len, extent.place))
        .collect();
    let Place::Data {
        file_offset: before,
    } = extents[0].2
    else {
        panic!("{extents:?}");
    };
    let data = |file_offset| Place::Data { file_offset };
    assert_eq!(
        extents,
        [
            (start - 512, 512, data(before)),
            (start, 4096, Place::Parent),
            (start + 4096, 8192, data(at + 4096)),
            (start + 3 * 4096, 6 * 4096, Place::Parent),
            (start + 9 * 4096, 4096, data(at + 9 * 4096)),
            (start + 10 * 4096, 2 * 4096, Place::Parent),
        ]
    );
    assert!(disk.read(64 * GIB, 4096).unwrap() == pattern(4096, 3));
    assert_eq!(disk.extents(0, GIB).unwrap()[0].place, Place::Parent);
    let mut odd = builder.clone();
    odd.metadata.item(VIRTUAL_SIZE).data = (size + 512).to_le_bytes().to_vec();
    assert_eq!(kind_of(&odd), ErrorKind::InvalidSize);
}

#[test]
fn entries_are_found_around_every_border_of_a_chunk() {
    // 4 GiB at 512 bytes, 32 GiB at 4096.
    for (sector, chunk) in [(512, 4 * GIB), (4096, 32 * GIB)] {
        for block_size in [1_u64 << 20, 32 << 20, 256 << 20] {
            let size = 2 * chunk + 3 * block_size;
            let mut builder = VhdxBuilder::new(0, size, block_size as u32, sector);
            let per_chunk = chunk / block_size;
            let blocks = [per_chunk - 1, per_chunk, 2 * per_chunk - 1, 2 * per_chunk];
            for block in blocks {
                builder.block(block, &pattern(512, block as u8));
            }
            let disk = open(&builder);
            for block in blocks {
                assert!(disk.read(block * block_size, 512).unwrap() == pattern(512, block as u8));
            }
            assert_eq!(disk.image.physical().unwrap().blocks_allocated, 4);
            assert_eq!(disk.extents(0, chunk - block_size).unwrap().len(), 1);
            let after = disk
                .extents(2 * chunk + block_size, 2 * block_size)
                .unwrap();
            assert_eq!((after.len(), after[0].place), (1, Place::Zero));
        }
    }
}

#[test]
fn a_file_may_be_any_number_of_bytes_long() {
    // Disk2vhd writes 260 MiB + 512; old files of qemu end inside their last block.
    let mut builder = dynamic();
    builder.len = Some(builder.end() + 512);
    must_be_dynamic(&open(&builder));
    builder.len = Some(builder.end() - MIB + 4096);
    let mut wanted = pattern(MIB, 4);
    wanted[4096..].fill(0);
    let disk = open(&builder);
    assert!(disk.read(0, MIB).unwrap() == wanted);
    assert!(disk.notices("ends inside block"));
    // Before the block is written the file gets all of it.
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    assert_eq!(store.pages().len(), builder.end());
    assert!(disk.read(0, MIB).unwrap() == wanted);
    assert!(matches!(disk.extents(0, MIB).unwrap()[..], [one] if one.place != Place::Zero));
    // A block of which nothing is there was not short, it was lost.
    builder.len = Some(builder.end() - MIB);
    let disk = open(&builder);
    assert!(disk.notices("which was cut"));
    assert_eq!(
        disk.read(0, 512).unwrap_err().kind(),
        ErrorKind::InvalidFileSize
    );
    assert!(disk.read(3 * MIB, MIB).unwrap() == pattern(MIB, 3));
    assert_eq!(
        refusal(&builder.build(), &writing()),
        ErrorKind::InvalidFileSize
    );
}

#[test]
fn the_creator_changes_nothing() {
    //
    for creator in [
        vec![],
        vec![0xFF; 512],
        b"d\x002\0v\0".to_vec(),
        vec![0x00, 0xD8],
    ] {
        let mut builder = dynamic();
        builder.creator = creator;
        let disk = open(&builder);
        must_be_dynamic(&disk);
        assert!(disk.image.facts().creator.is_ascii());
        assert_eq!(disk.image.facts().notices, [""; 0]);
    }
}

#[test]
fn the_log_lies_inside_the_file_apart_from_everything() {
    //
    let with = |offset, length| {
        let mut builder = dynamic();
        for header in &mut builder.headers {
            (header.log_offset, header.log_length) = (offset, length);
        }
        builder
    };
    for (offset, length) in [
        (0, 1 << 20),
        (512 << 10, 1 << 20),
        (MIB + 4096, 1 << 20),
        (MIB, 4096),
        (6 * MIB, 1 << 20),
        (MIB, u32::MAX - (1 << 20) + 1),
        (u64::MAX - MIB + 1, 1 << 20),
    ] {
        let kind = kind_of(&with(offset, length));
        assert_eq!(kind, ErrorKind::HeaderCorrupt, "{length} at {offset}");
    }
    for offset in [2 * MIB, 3 * MIB] {
        assert_eq!(kind_of(&with(offset, 1 << 20)), ErrorKind::RegionCorrupt);
    }
    assert!(open(&with(4 * MIB, 1 << 20)).notices("onto the log"));
    // No log: nothing to replay, and nothing can be written.
    let disk = Disk::open_pages(&with(0, 0).build(), &writing()).unwrap();
    must_be_dynamic(&disk);
    assert!(disk.image.facts().read_only);
    assert_eq!(
        disk.write(&[1; 512], 0).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    let mut dirty = with(0, 0);
    dirty.dirty([1; 16]);
    assert_eq!(kind_of(&dirty), ErrorKind::HeaderCorrupt);
}

#[test]
fn an_image_that_was_never_finished_is_refused() {
    //
    for flags in [0, 4] {
        let mut builder = dynamic();
        builder
            .metadata
            .items
            .push(Item::new(INCOMPLETE_FILE, flags, &[1]));
        let error = refused(&builder.build(), &reading());
        assert_eq!(error.kind(), ErrorKind::MetadataCorrupt);
        assert!(error.to_string().contains("interrupted"), "{error}");
    }
}

#[test]
fn a_vhdx_is_no_vhd_and_a_vhd_is_no_vhdx() {
    let file = dynamic().build();
    let forced = |format| OpenOptions {
        format: Some(format),
        ..OpenOptions::default()
    };
    assert_eq!(
        refusal(&file, &forced(Format::Vhd)),
        ErrorKind::FormatUnknown
    );
    assert_eq!(
        refusal(&Pages::zeroed(8 * MIB), &forced(Format::Vhdx)),
        ErrorKind::FormatUnknown
    );
    assert_eq!(
        refusal(&file, &named("vhds")),
        ErrorKind::UnsupportedFeature
    );
    let disk = Disk::open_pages(&file, &forced(Format::Raw)).unwrap();
    assert!(disk.notices("another kind"));
}

#[test]
fn blocks_without_data_are_zeros_wherever_their_entry_points() {
    //
    let mut builder = dynamic();
    for (block, state) in [(4, 0), (5, 1), (6, 2), (7, 3)] {
        builder.set(block, state, 0);
    }
    must_be_dynamic(&open(&builder));
    for (block, state) in [(4, 0), (5, 2)] {
        builder.set(block, state, 5 * MIB);
        builder.set(block + 4, state, 77 << 40);
    }
    let anchor = builder.take(MIB);
    builder.set(6, 1, anchor);
    let other = builder.take(MIB);
    builder.set(7, 3, other);
    for options in [reading(), writing()] {
        let disk = Disk::open_pages(&builder.build(), &options).unwrap();
        must_be_dynamic(&disk);
        assert_eq!(disk.image.facts().notices, [""; 0]);
    }
    // An anchor owns its space.
    builder.set(8, 6, anchor);
    assert!(open(&builder).notices("to two blocks"));
    assert_eq!(refusal(&builder.build(), &writing()), ErrorKind::BatCorrupt);
}

#[test]
fn only_blocks_that_are_not_present_are_the_parents() {
    //
    let mut builder = VhdxBuilder::differencing(8 * MIB, 1 << 20);
    builder.set(1, 1, 0);
    builder.set(2, 2, 0);
    builder.set(3, 3, 0);
    // Fully present: the bitmap, which does not exist, is not asked.
    let at = builder.block(4, &pattern(MIB, 1));
    let disk = open(&builder);
    let extents: Vec<_> = disk
        .extents(0, 8 * MIB)
        .unwrap()
        .iter()
        .map(|extent| (extent.start / MIB, extent.len / MIB, extent.place))
        .collect();
    assert_eq!(
        extents,
        [
            (0, 1, Place::Parent),
            (1, 3, Place::Zero),
            (4, 1, Place::Data { file_offset: at }),
            (5, 3, Place::Parent),
        ]
    );
    let link = disk.image.facts().parent.clone().unwrap();
    assert_eq!(
        link.identities[0].to_string(),
        "f88d4d92-6fcc-408d-9bef-9b7c89f15c89"
    );
    assert_eq!(link.hints.len(), 2);
}

#[test]
fn a_partially_present_block_needs_its_bitmap() {
    //
    let mut builder = VhdxBuilder::differencing(8 * MIB, 1 << 20);
    builder.block_in_state(1, 7, &pattern(MIB, 1));
    let disk = open(&builder);
    assert_eq!(
        disk.read(MIB, 512).unwrap_err().kind(),
        ErrorKind::BitmapMismatch
    );
    assert!(disk.notices("no sector bitmap"));
    assert_eq!(
        refusal(&builder.build(), &writing()),
        ErrorKind::BitmapMismatch
    );
    let bitmap = builder.bitmap(0, &[0xFF; 4096]);
    assert!(open(&builder).read(MIB, 4096).unwrap() == pattern(4096, 1));
    for raw in [
        bitmap | 7,
        bitmap | 2,
        bitmap | 6 | 8,
        6,
        (2 * MIB) | 6,
        (900 * MIB) | 6,
    ] {
        let mut builder = builder.clone();
        let index = builder.bitmap_index(0);
        builder.bat[index] = raw;
        let disk = open(&builder);
        assert!(disk.read(MIB, 512).is_err(), "{raw:#x}");
        assert!(!disk.image.facts().notices.is_empty());
        Disk::open_pages(&builder.build(), &writing())
            .map(drop)
            .unwrap_err();
    }
    // Without a parent there is no such state, but in recovery.
    let mut builder = dynamic();
    builder.bat[3] |= 1;
    assert_eq!(
        open(&builder).read(3 * MIB, 512).unwrap_err().kind(),
        ErrorKind::BatCorrupt
    );
    assert_eq!(refusal(&builder.build(), &writing()), ErrorKind::BatCorrupt);
    must_be_dynamic(&Disk::open_pages(&builder.build(), &recovering()).unwrap());
}

#[test]
fn a_bitmap_is_read_by_the_bit_from_the_least_significant_one() {
    // 2.6, V-10's proof: 0xD3 for sectors 184 to 191 says 184, 185, 188, 190, 191.
    let mut builder = VhdxBuilder::differencing(8 * MIB, 1 << 20);
    let at = builder.block_in_state(0, 7, &pattern(MIB, 1));
    let mut bits = vec![0; 4096];
    bits[23] = 0xD3;
    builder.bitmap(0, &bits);
    let disk = open(&builder);
    let present: Vec<u64> = (184..192)
        .filter(|sector| {
            let extent = disk.extents(sector * 512, 512).unwrap()[0];
            let data = Place::Data {
                file_offset: at + sector * 512,
            };
            assert!(extent.place == data || extent.place == Place::Parent);
            extent.place == data
        })
        .collect();
    assert_eq!(present, [184, 185, 188, 190, 191]);
    assert_eq!(disk.extents(0, 184 * 512).unwrap()[0].place, Place::Parent);
    // Ranges that begin and end inside a sector.
    let inside = disk.extents(184 * 512 + 7, 1024).unwrap();
    assert_eq!((inside[0].len, inside[1].len, inside.len()), (1017, 7, 2));
}

#[test]
fn bits_behind_the_end_of_the_disk_are_arbitrary() {
    // a disk of 3 MiB and 512 bytes, its last block cut by its end.
    let size = 3 * MIB + 512;
    let mut builder = VhdxBuilder::differencing(size, 2 << 20);
    builder.block_in_state(1, 7, &pattern(2 * MIB, 1));
    builder.bitmap(0, &vec![0xFF; 1 << 20]);
    let disk = open(&builder);
    assert_eq!(disk.image.facts().notices, [""; 0]);
    assert!(disk.read(2 * MIB, MIB + 512).unwrap() == pattern(MIB + 512, 1));
    assert_eq!(
        disk.read(size - 1, 2).unwrap_err().kind(),
        ErrorKind::OutOfRange
    );
}

#[test]
fn states_and_bits_that_are_not_known_are_refused() {
    //
    for extra in [4, 5, 6 | 8, 6 | 1 << 19, 3 | 1 << 4, 1 << 3] {
        let mut builder = dynamic();
        let at = builder.take(MIB);
        builder.set(5, extra, at);
        let disk = open(&builder);
        assert_eq!(
            disk.read(5 * MIB, 512).unwrap_err().kind(),
            ErrorKind::BatCorrupt
        );
        assert!(disk.read(3 * MIB, MIB).unwrap() == pattern(MIB, 3));
        assert!(!disk.image.facts().notices.is_empty());
        let error = refused(&builder.build(), &writing());
        assert_eq!(
            (error.kind(), error.offset()),
            (ErrorKind::BatCorrupt, Some(builder.entry_at(5)))
        );
        let disk = Disk::open_pages(&builder.build(), &recovering()).unwrap();
        assert_eq!(disk.read(5 * MIB, 512).is_ok(), extra == 5);
    }
}

#[test]
fn a_block_lies_on_nothing_else_and_inside_the_file() {
    // X-45, S-3, cloud-hypervisor d1868f638: offset 0 is the file's own headers.
    let at = dynamic().end();
    for (offset, kind) in [
        (0, ErrorKind::BatCorrupt),
        (MIB, ErrorKind::BatCorrupt),
        (2 * MIB, ErrorKind::BatCorrupt),
        (3 * MIB, ErrorKind::BatCorrupt),
        (at, ErrorKind::InvalidFileSize),
        (1 << 50, ErrorKind::InvalidFileSize),
        (u64::MAX - MIB + 1, ErrorKind::InvalidFileSize),
    ] {
        let mut builder = dynamic();
        builder.set(5, 6, offset);
        let disk = open(&builder);
        assert_eq!(
            disk.read(5 * MIB, 512).unwrap_err().kind(),
            kind,
            "{offset}"
        );
        assert!(disk.notices("block 5"));
        assert_eq!(refusal(&builder.build(), &writing()), kind, "{offset}");
    }
    let mut builder = dynamic();
    builder.set(5, 6, 4 * MIB);
    assert!(open(&builder).notices("to two blocks"));
    assert_eq!(refusal(&builder.build(), &writing()), ErrorKind::BatCorrupt);
}

#[test]
fn a_fixed_disk_may_have_blocks_that_are_not_there() {
    // all fixed files of qemu.
    let mut builder = VhdxBuilder::new(1, 4 * MIB, 1 << 20, 512);
    for block in 0..4 {
        builder.set(block, 2, 0);
    }
    let disk = open(&builder);
    let facts = disk.image.facts();
    assert_eq!((facts.kind, facts.block_size), (Kind::Fixed, 0));
    assert!(disk.read(0, 4 * MIB).unwrap() == vec![0; 4 << 20]);
    assert_eq!(disk.image.whole(), None);
}

#[test]
fn a_disk_in_one_run_is_known_as_one() {
    let mut builder = VhdxBuilder::new(1, 3 * MIB + 512, 1 << 20, 512);
    for block in 0..4 {
        builder.block(block, &pattern(MIB, block as u8));
    }
    let whole = |builder: &VhdxBuilder| open(builder).image.whole();
    assert_eq!(whole(&builder), Some(4 * MIB));
    // The end of the last block may be missing as far as it is no part of the disk.
    builder.len = Some(7 * MIB + 512);
    assert_eq!(whole(&builder), Some(4 * MIB));
    builder.len = Some(7 * MIB + 511);
    assert_eq!(whole(&builder), None);
    builder.len = None;
    let mut hole = builder.clone();
    hole.set(2, 2, 0);
    assert_eq!(whole(&hole), None);
    let mut swapped = builder.clone();
    swapped.set(2, 6, 7 * MIB);
    swapped.set(3, 6, 6 * MIB);
    assert_eq!(whole(&swapped), None);
    let mut first = builder.clone();
    first.set(0, 0, 0);
    assert_eq!(whole(&first), None);
}

#[test]
fn a_table_may_be_larger_than_it_must_be_and_no_smaller() {
    //
    let builder = with_regions(&dynamic(), |regions| {
        regions[0].offset = 16 * MIB;
        regions[0].length = 0xFFF0_0000;
    });
    let mut builder = builder.clone();
    builder.bat_at = 16 * MIB;
    builder.len = Some(16 * MIB + 0xFFF0_0000);
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &reading()).unwrap();
    must_be_dynamic(&disk);
    assert!(store.counts().bytes_read < 20 * MIB, "{:?}", store.counts());
    // 512 GiB in blocks of 1 MiB need 4 MiB and a little.
    let mut builder = VhdxBuilder::dynamic(512 * GIB, 1 << 20);
    assert_eq!(builder.tables[0].regions[0].length, 5 << 20);
    must_open(&builder);
    for table in &mut builder.tables {
        table.regions[0].length = 4 << 20;
    }
    assert_eq!(kind_of(&builder), ErrorKind::BatCorrupt);
    let named = builder.tables[0].regions[0].guid;
    assert_eq!(named, BAT_REGION);
}

fn must_open(builder: &VhdxBuilder) {
    assert_eq!(open(builder).image.facts().notices, [""; 0]);
}

#[test]
fn a_differencing_disk_needs_a_locator_and_others_need_none() {
    let mut builder = VhdxBuilder::differencing(8 * MIB, 1 << 20);
    builder
        .metadata
        .items
        .retain(|item| item.guid != PARENT_LOCATOR);
    assert_eq!(kind_of(&builder), ErrorKind::MetadataCorrupt);
    let mut builder = dynamic();
    builder
        .metadata
        .items
        .push(Item::new(PARENT_LOCATOR, 4, b"whatever"));
    let disk = open(&builder);
    must_be_dynamic(&disk);
    assert!(disk.notices("parent locator"));
}
