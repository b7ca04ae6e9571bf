//! What an image is read as: sizes, footers, types, bitmaps, tables (formats sheet, 6.1).
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use disk::{Disk, named, pattern, reading, refusal, refused, sized, writing};
use virtdisk_format::{ErrorKind, Format, Kind, OpenOptions, Place, SizeRule};
use virtdisk_testkit::vhd_builder::{Footer, Locator, VhdBuilder};
use virtdisk_testkit::{MemoryStore, Pages, SectorModel};

const MIB: u64 = 1 << 20;

fn dynamic() -> VhdBuilder {
    let mut builder = VhdBuilder::dynamic(MIB, 64 << 10);
    builder.block(3, &pattern(64 << 10, 3));
    builder
}

#[test]
fn the_visible_size_follows_the_creator() {
    // V-1: table 1.4; geometry of 4 MiB is 4177920 bytes.
    for (creator, size) in [
        (b"vpc ", 4_177_920),
        (b"qemu", 4_177_920),
        (b"vs  ", 4 * MIB),
        (b"win ", 4 * MIB),
        (b"d2v\0", 4 * MIB),
        (b"tap\0", 4 * MIB),
        (b"CTXS", 4 * MIB),
        (b"wa\0\0", 4 * MIB),
        (b"qem2", 4 * MIB),
        (b"\0\0\0\0", 4 * MIB),
        (b"Nobd", 4 * MIB),
    ] {
        let mut builder = VhdBuilder::fixed(&pattern(4 * MIB, 1));
        builder.footer.creator_application = *creator;
        let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
        assert_eq!(disk.size(), size, "{creator:?}");
        assert_eq!(disk.image.whole(), Some(0));
        assert_eq!(
            disk.read(size - 512, 512).unwrap(),
            builder.data[size as usize - 512..][..512]
        );
    }
}

#[test]
fn the_largest_geometry_means_that_the_current_size_counts() {
    // V-1
    for creator in [b"vpc ", b"qemu"] {
        let mut builder = VhdBuilder::fixed(&pattern(MIB, 1));
        builder.footer.creator_application = *creator;
        (builder.footer.cylinders, builder.footer.heads) = (65535, 16);
        builder.footer.sectors_per_track = 255;
        let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
        assert_eq!(disk.size(), MIB);
    }
}

#[test]
fn the_caller_may_say_which_size_counts() {
    // V-2
    let mut builder = VhdBuilder::fixed(&pattern(4 * MIB, 1));
    for creator in [b"win ", b"vpc "] {
        builder.footer.creator_application = *creator;
        let size = |rule| {
            Disk::open_pages(&builder.build(), &sized(rule))
                .unwrap()
                .size()
        };
        assert_eq!(size(SizeRule::Chs), 4_177_920);
        assert_eq!(size(SizeRule::CurrentSize), 4 * MIB);
    }
    builder.footer.cylinders = 0;
    assert_eq!(
        refusal(&builder.build(), &sized(SizeRule::Chs)),
        ErrorKind::InvalidSize
    );
}

#[test]
fn a_wrong_footer_checksum_is_an_error_unless_recovering() {
    // V-3
    let mut builder = VhdBuilder::fixed(&pattern(MIB, 1));
    builder.footer.checksum = Some(0x1234_5678);
    let error = refused(&builder.build(), &reading());
    assert_eq!(error.kind(), ErrorKind::FooterChecksum);
    assert_eq!(error.offset(), Some(MIB + 64));
    assert_eq!(error.found(), "12345678");
    assert!(!error.wanted().is_empty());
    let recovering = OpenOptions {
        recover: true,
        ..writing()
    };
    let disk = Disk::open_pages(&builder.build(), &recovering).unwrap();
    assert!(disk.notices("checksum"));
    assert!(disk.image.facts().read_only);
    assert!(disk.read(0, MIB).unwrap() == builder.data);
    assert_eq!(
        disk.write(&[1; 512], 0).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    // A wrong sum and an impossible type stay an error.
    builder.footer.disk_type = 5;
    assert_eq!(
        refusal(&builder.build(), &recovering),
        ErrorKind::FooterCorrupt
    );
}

#[test]
fn recovery_reads_a_dynamic_disk_with_both_footers_damaged() {
    // V-3
    let mut builder = dynamic();
    builder.footer.checksum = Some(1);
    assert_eq!(
        refusal(&builder.build(), &reading()),
        ErrorKind::FooterChecksum
    );
    let recovering = OpenOptions {
        recover: true,
        ..writing()
    };
    let disk = Disk::open_pages(&builder.build(), &recovering).unwrap();
    assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
    assert!(disk.image.facts().read_only);
    // The trailing one is not even plausible: the other one is tried.
    builder.copy = Some(builder.footer.clone());
    builder.footer.disk_type = 77;
    let disk = Disk::open_pages(&builder.build(), &recovering).unwrap();
    assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
}

#[test]
fn a_bad_trailing_footer_is_replaced_by_the_copy_and_reported() {
    // V-4
    let good = dynamic();
    let mut wrong_sum = good.clone();
    wrong_sum.copy = Some(good.footer.clone());
    wrong_sum.footer.checksum = Some(7);
    let mut none = good.clone();
    none.write_footer = false;
    let mut cut_in_the_footer = good.clone();
    cut_in_the_footer.cut = Some(good.build().len() - 100);
    for builder in [wrong_sum, none, cut_in_the_footer] {
        let before = builder.build();
        let store = std::sync::Arc::new(MemoryStore::from_pages(before.clone()));
        let disk = Disk::open(store.clone(), &reading()).unwrap();
        assert!(
            disk.notices("the copy at 0 is used"),
            "{:?}",
            disk.image.facts().notices
        );
        assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
        assert!(disk.read(0, 3 * 65536).unwrap() == vec![0; 3 * 65536]);
        assert_eq!(store.to_vec(), before.to_vec(), "reading changed the file");
        assert!(disk.image.validate().is_ok());

        let disk = Disk::open(store.clone(), &writing()).unwrap();
        assert!(disk.notices("the copy at 0 is used"));
        assert!(disk.image.validate().is_ok());
        let repaired = store.to_vec();
        assert_eq!(repaired[repaired.len() - 512..], good.footer.bytes());
        let disk = Disk::open(store, &reading()).unwrap();
        assert_eq!(disk.image.facts().notices, [""; 0]);
        assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
    }
}

#[test]
fn a_differing_or_damaged_copy_is_reported_and_the_trailing_footer_counts() {
    // V-4, V-33
    for damaged in [false, true] {
        let mut builder = dynamic();
        let mut copy = builder.footer.clone();
        copy.unique_id = [9; 16];
        copy.current_size = 512;
        copy.checksum = damaged.then_some(1);
        builder.copy = Some(copy.clone());
        let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
        assert!(disk.notices(if damaged { "is damaged" } else { "differs" }));
        assert_eq!(disk.size(), MIB);
        assert_eq!(
            disk.image.facts().identifier.as_bytes(),
            b"0123456789abcdef"
        );
        let store = std::sync::Arc::new(MemoryStore::from_pages(builder.build()));
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        assert_eq!(store.to_vec()[..512], builder.footer.bytes());
        assert!(disk.image.validate().is_ok());
    }
}

#[test]
fn a_footer_without_its_last_byte_is_accepted() {
    // V-5
    let mut builder = VhdBuilder::fixed(&pattern(MIB, 1));
    builder.short_footer = true;
    let disk = Disk::open_pages(&builder.build(), &writing()).unwrap();
    assert_eq!((disk.size(), disk.image.whole()), (MIB, Some(0)));
    assert!(disk.read(0, MIB).unwrap() == builder.data);
    assert!(disk.image.validate().is_ok());
    // The byte that is missing counts as 0, whatever the writer summed.
    let mut builder = dynamic();
    builder.short_footer = true;
    let file = builder.build();
    assert_eq!(file.len() % 512, 511);
    let disk = Disk::open_pages(&file, &reading()).unwrap();
    assert_eq!(disk.image.facts().notices, [""; 0]);
    assert!(disk.image.validate().is_ok());
    let store = std::sync::Arc::new(MemoryStore::from_pages(file));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.write(&pattern(4096, 5), 0).unwrap();
    disk.image.close().unwrap();
    assert_eq!(store.to_vec().len() % 4096, 0);
    let disk = Disk::open(store, &reading()).unwrap();
    assert!(disk.read(0, 4096).unwrap() == pattern(4096, 5));
    assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
}

#[test]
fn the_disk_type_alone_decides_the_kind() {
    // V-6
    let mut fixed = VhdBuilder::fixed(&pattern(MIB, 1));
    fixed.footer.data_offset = 512;
    let disk = Disk::open_pages(&fixed.build(), &reading()).unwrap();
    assert_eq!(
        (disk.image.facts().kind, disk.image.whole()),
        (Kind::Fixed, Some(0))
    );
    assert!(disk.notices("found 512"));
    for disk_type in [0, 1, 5, 6, 7, u32::MAX] {
        fixed.footer.disk_type = disk_type;
        assert_eq!(
            refusal(&fixed.build(), &reading()),
            ErrorKind::FooterCorrupt,
            "{disk_type}"
        );
    }
    let mut headless = dynamic();
    headless.header().cookie = *b"cxsparsf";
    assert_eq!(
        refusal(&headless.build(), &reading()),
        ErrorKind::HeaderCorrupt
    );
    let mut nowhere = dynamic();
    nowhere.footer.data_offset = u64::MAX;
    assert_eq!(
        refusal(&nowhere.build(), &reading()),
        ErrorKind::HeaderCorrupt
    );
}

#[test]
fn known_oddities_are_accepted_and_reported() {
    // V-7
    let odd = |change: fn(&mut Footer), words: &str| {
        let mut builder = VhdBuilder::fixed(&pattern(MIB, 1));
        change(&mut builder.footer);
        let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
        assert!(
            disk.notices(words),
            "{words}: {:?}",
            disk.image.facts().notices
        );
        assert!(disk.read(0, MIB).unwrap() == builder.data);
    };
    odd(|footer| footer.features = 0, "features: found 0x00000000");
    odd(
        |footer| footer.features = 0x42,
        "features: found 0x00000042",
    );
    odd(|footer| footer.reserved[100] = 1, "reserved");
    odd(
        |footer| footer.data_offset = 0xFFFF_FFFF,
        "00000000FFFFFFFF",
    );
    odd(|footer| footer.saved_state = 2, "saved state: found 2");
    // A temporary disk is nothing odd.
    let mut builder = VhdBuilder::fixed(&pattern(MIB, 1));
    builder.footer.features = 3;
    let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
    assert_eq!(disk.image.facts().notices, [""; 0]);
}

#[test]
fn unknown_versions_are_refused() {
    let mut builder = dynamic();
    builder.footer.version = 0x0002_0000;
    assert_eq!(
        refusal(&builder.build(), &reading()),
        ErrorKind::VersionUnsupported
    );
    let mut builder = dynamic();
    builder.header().version = 0x0002_0000;
    assert_eq!(
        refusal(&builder.build(), &reading()),
        ErrorKind::HeaderVersion
    );
    let mut builder = dynamic();
    builder.header().checksum = Some(3);
    assert_eq!(
        refusal(&builder.build(), &reading()),
        ErrorKind::HeaderChecksum
    );
    let recovering = OpenOptions {
        recover: true,
        ..writing()
    };
    let disk = Disk::open_pages(&builder.build(), &recovering).unwrap();
    assert!(disk.image.facts().read_only && disk.notices("has a wrong checksum, accepted"));
    assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
}

/// A disk of 64 KiB blocks (128 sectors), one with this bitmap byte for sectors 16..24.
fn with_bitmap_byte(byte: u8) -> Pages {
    let mut builder = VhdBuilder::dynamic(MIB, 64 << 10);
    let mut bitmap = vec![0xFF; 512];
    bitmap[2] = byte;
    builder.block_with(1, &pattern(64 << 10, 7), bitmap);
    builder.build()
}

#[test]
fn bitmap_bits_count_from_the_most_significant_one() {
    // V-10, V-11: a 0 bit is zeros though the file holds other bytes there.
    let data = pattern(64 << 10, 7);
    for byte in [0xCB, 0x00, 0x01, 0x80, 0x7F, 0xFE] {
        let file = with_bitmap_byte(byte);
        for options in [reading(), writing()] {
            let disk = Disk::open_pages(&file, &options).unwrap();
            let mut model = SectorModel::new(MIB);
            model.write(&data, 65536);
            for bit in 0..8_u64 {
                if byte >> (7 - bit) & 1 == 0 {
                    model.zero(65536 + (16 + bit) * 512, 512);
                }
            }
            disk.must_be(&model);
            // Sub-sector ranges on both sides of a change of bits.
            for start in [
                65536 + 16 * 512 - 3,
                65536 + 18 * 512 + 100,
                65536 + 24 * 512 - 1,
            ] {
                assert_eq!(disk.read(start, 1030).unwrap(), model.read(start, 1030));
            }
        }
    }
}

#[test]
fn early_xenserver_bitmaps_are_read_the_other_way_round() {
    // 1.10
    let mut builder = VhdBuilder::dynamic(MIB, 64 << 10);
    builder.footer.creator_application = *b"tap\0";
    builder.footer.creator_version = 1;
    let mut bitmap = vec![0; 512];
    bitmap[0] = 0x01;
    builder.block_with(0, &pattern(64 << 10, 7), bitmap);
    let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
    let mut model = SectorModel::new(MIB);
    model.write(&pattern(512, 7), 0);
    disk.must_be(&model);
}

#[test]
fn a_table_longer_than_the_disk_needs_is_accepted_and_a_shorter_one_refused() {
    // V-12
    let mut builder = dynamic();
    builder.header().max_table_entries = 100;
    // What stands behind the entries that count is never looked at.
    builder.table.resize(100, 0);
    builder.table_padding = 0;
    let disk = Disk::open_pages(&builder.build(), &writing()).unwrap();
    assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
    disk.write(&pattern(4096, 9), MIB - 4096).unwrap();
    assert!(disk.read(MIB - 4096, 4096).unwrap() == pattern(4096, 9));
    let mut builder = dynamic();
    builder.header().max_table_entries = 15;
    let error = refused(&builder.build(), &reading());
    assert_eq!(error.kind(), ErrorKind::BatCorrupt);
    assert_eq!((error.found(), error.wanted()), ("15", "16"));
}

#[test]
fn a_disk_may_end_within_its_last_block() {
    // V-13
    let size = MIB - 3 * 512;
    let mut builder = VhdBuilder::dynamic(size, 64 << 10);
    // Bits of sectors that are not the disk's do not count.
    let mut bitmap = vec![0; 512];
    bitmap[..15].fill(0xFF);
    bitmap[15] = 0xF8;
    builder.block_with(15, &pattern(64 << 10, 4), bitmap);
    let disk = Disk::open_pages(&builder.build(), &writing()).unwrap();
    assert_eq!(disk.size(), size);
    let mut model = SectorModel::new(size);
    model.write(&pattern(65536 - 3 * 512, 4), 15 * 65536);
    disk.must_be(&model);
    assert!(matches!(
        disk.extents(15 * 65536, 512).unwrap()[0].place,
        Place::Data { .. }
    ));
    for (start, len) in [(size, 1), (size - 1, 2), (u64::MAX, 2), (0, size + 1)] {
        let mut out = virtdisk_format::Extents::new();
        let error = disk.image.map(start, len, &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        let error = disk.image.reserve(start, len, &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert_eq!(
            disk.image.trim(start, len).unwrap_err().kind(),
            ErrorKind::OutOfRange
        );
        assert!(out.is_empty());
    }
    disk.image
        .map(size, 0, &mut virtdisk_format::Extents::new())
        .unwrap();
    // The last block's data may be cut off behind what the disk shows.
    let file = builder.build();
    builder.footer_at = Some(builder.end() - 3 * 512);
    let mut cut = builder.build();
    cut.set_len(builder.end() - 3 * 512 + 512);
    assert!(cut.len() < file.len());
    for options in [reading(), writing()] {
        let disk = Disk::open_pages(&cut, &options).unwrap();
        disk.must_be(&model);
    }
    let disk = Disk::open_pages(&cut, &writing()).unwrap();
    disk.write(&pattern(65536, 8), 0).unwrap();
    model.write(&pattern(65536, 8), 0);
    disk.must_be(&model);
}

#[test]
fn locator_data_belong_to_nobody_else() {
    // V-17, V-18: one locator in bytes, one in sectors; blocks are put behind both.
    let mut builder = VhdBuilder::dynamic(MIB, 64 << 10);
    let code = u32::from_be_bytes(*b"W2ku");
    let locator = |data_space, data_offset| Locator {
        platform_code: code,
        data_space,
        data_length: 84,
        reserved: 0,
        data_offset,
    };
    builder.header().locators[0] = locator(4096, 0x2000);
    builder.header().locators[7] = locator(16, 0x4000);
    builder.patches.push((0x2000, vec![0x11; 4096]));
    builder.patches.push((0x4000, vec![0x22; 8192]));
    builder.footer_at = Some(0x7E00);
    let store = std::sync::Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    for block in 0..16 {
        disk.write(&pattern(65536, block as u8), block * 65536)
            .unwrap();
    }
    disk.image.close().unwrap();
    let file = store.to_vec();
    assert!(file[0x2000..0x3000].iter().all(|&byte| byte == 0x11));
    assert!(file[0x4000..0x6000].iter().all(|&byte| byte == 0x22));
    let disk = Disk::open(store, &reading()).unwrap();
    for block in 0..16 {
        assert_eq!(
            disk.read(block * 65536, 65536).unwrap(),
            pattern(65536, block as u8)
        );
    }
    // A block in a locator's space is an error for writing and for reading it.
    let mut clash = builder.clone();
    clash.table[0] = 0x2000 / 512;
    clash.footer_at = Some(0x2_0000);
    assert_eq!(refusal(&clash.build(), &writing()), ErrorKind::BatCorrupt);
    let disk = Disk::open_pages(&clash.build(), &reading()).unwrap();
    assert!(
        disk.notices("parent locator"),
        "{:?}",
        disk.image.facts().notices
    );
    assert_eq!(disk.read(0, 512).unwrap_err().kind(), ErrorKind::BatCorrupt);
    assert_eq!(disk.read(65536, 512).unwrap(), [0; 512]);
}

#[test]
fn a_xenserver_batmap_is_not_written_over() {
    // 1.10
    let mut builder = VhdBuilder::dynamic(MIB, 64 << 10);
    let mut batmap = b"tdbatmap".to_vec();
    batmap.extend_from_slice(&0xA00_u64.to_be_bytes());
    batmap.extend_from_slice(&32_u32.to_be_bytes());
    batmap.resize(512, 0);
    builder.patches.push((0x800, batmap.clone()));
    builder.patches.push((0xA00, vec![0x33; 32 * 512]));
    builder.footer_at = Some(0x4A00);
    let store = std::sync::Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.write(&pattern(MIB, 1), 0).unwrap();
    disk.image.trim(0, MIB).unwrap();
    disk.write(&pattern(MIB, 2), 0).unwrap();
    disk.image.close().unwrap();
    let file = store.to_vec();
    assert_eq!(file[0x800..0xA00], batmap);
    assert!(file[0xA00..0x4A00].iter().all(|&byte| byte == 0x33));
    assert_eq!(
        Disk::open(store, &reading()).unwrap().read(0, MIB).unwrap(),
        pattern(MIB, 2)
    );
}

#[test]
fn the_first_part_of_a_split_disk_is_refused_by_name() {
    // V-20
    let part = Pages::from_bytes(&pattern(MIB, 1));
    let options = OpenOptions {
        sibling_v01: true,
        ..named("vhd")
    };
    let error = refused(&part, &options);
    assert_eq!(error.kind(), ErrorKind::UnsupportedFeature);
    assert!(error.to_string().contains("split"), "{error}");
    assert_eq!(refusal(&part, &named("vhd")), ErrorKind::FooterMissing);
}

#[test]
fn a_suspended_machines_disk_can_be_read() {
    // V-21
    let mut builder = dynamic();
    builder.footer.saved_state = 1;
    let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
    assert!(disk.image.facts().saved_state);
    assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
}

#[test]
fn the_facts_are_those_of_the_footer() {
    let disk = Disk::open_pages(&dynamic().build(), &reading()).unwrap();
    let facts = disk.image.facts();
    assert_eq!((facts.format, facts.kind), (Format::Vhd, Kind::Dynamic));
    assert_eq!((facts.block_size, facts.logical_sector_size), (65536, 512));
    assert_eq!(facts.identifier.as_bytes(), b"0123456789abcdef");
    assert_eq!(facts.created_unix, 946_684_800 + 0x2715_AB07);
    assert_eq!(facts.creator, "win 10.0");
    assert!(!facts.read_only && !facts.saved_state);
    assert_eq!(facts.notices, [""; 0]);
    assert_eq!(disk.image.whole(), None);
}

#[test]
fn validate_sees_what_changed_behind_the_image() {
    // R-DET-15, at this floor
    let fixed = VhdBuilder::fixed(&pattern(MIB, 1)).build();
    let dynamic = dynamic().build();
    let kinds = |file: &Pages, change: &dyn Fn(&MemoryStore)| {
        [reading(), writing()].map(|options| {
            let store = std::sync::Arc::new(MemoryStore::from_pages(file.clone()));
            let disk = Disk::open(store.clone(), &options).unwrap();
            disk.image.validate().unwrap();
            change(&store);
            disk.image.validate().map_err(|error| error.kind())
        })
    };
    let both = |kind| [Err(kind), Err(kind)];
    for file in [&fixed, &dynamic] {
        let end = file.len() - 512;
        let cut = kinds(file, &|store| store.cut(end));
        assert_eq!(cut, both(ErrorKind::InvalidFileSize));
        let longer = kinds(file, &|store| store.poke(&[1], end + 512));
        assert_eq!(longer, both(ErrorKind::InvalidFileSize));
        let gone = kinds(file, &|store| store.poke(&[0; 512], end));
        assert_eq!(gone, both(ErrorKind::FooterMissing));
        let damaged = kinds(file, &|store| store.poke(&[1; 8], end + 40));
        assert_eq!(damaged, both(ErrorKind::FooterChecksum));
        let mut other = Footer::new(2, MIB);
        other.unique_id = [1; 16];
        let replaced = kinds(file, &|store| store.poke(&other.bytes(), end));
        assert_eq!(replaced, both(ErrorKind::FooterCorrupt));
    }
    let header = kinds(&dynamic, &|store| store.poke(&[1], 512 + 28));
    assert_eq!(header, both(ErrorKind::HeaderCorrupt));
    let copy = kinds(&dynamic, &|store| store.poke(&[1], 3));
    assert_eq!(copy, both(ErrorKind::FooterMissing));
}
