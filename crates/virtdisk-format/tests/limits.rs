//! Hostile numbers: offsets that wrap, counts that lie, blocks that overlap (formats sheet, 7; the
//! VHD rows of its table of vulnerabilities).
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;

use disk::{Disk, pattern, reading, refusal, refused, writing};
use virtdisk_format::ErrorKind;
use virtdisk_testkit::MemoryStore;
use virtdisk_testkit::vhd_builder::{Locator, VhdBuilder};

const MIB: u64 = 1 << 20;

fn dynamic() -> VhdBuilder {
    let mut builder = VhdBuilder::dynamic(MIB, 64 << 10);
    builder.block(3, &pattern(64 << 10, 3));
    builder.block(5, &pattern(64 << 10, 5));
    builder
}

/// Both ways of opening refuse, with the same kind.
#[track_caller]
fn both_refuse(builder: &VhdBuilder, kind: ErrorKind) {
    assert_eq!(refusal(&builder.build(), &reading()), kind);
    assert_eq!(refusal(&builder.build(), &writing()), kind);
}

#[test]
fn impossible_block_sizes_are_refused() {
    // CVE-2014-0142: division by zero, endless loops.
    for size in [0, 1, 2, 256, 511, 513, 1000, 3 << 19, u32::MAX] {
        let mut builder = dynamic();
        builder.header().block_size = size;
        builder.header().max_table_entries = u32::MAX;
        builder.blocks.clear();
        builder.footer_at = Some(8192);
        both_refuse(&builder, ErrorKind::InvalidBlockSize);
    }
}

#[test]
fn counts_that_the_file_cannot_hold_are_refused_without_an_allocation() {
    // CVE-2014-0144, qemu b15deac795 (entries × 4 in 32 bits), S-2.
    for entries in [0x4000_0000, 0x4000_0001, 0x8000_0010, u32::MAX, 1 << 20] {
        let mut builder = dynamic();
        builder.header().max_table_entries = entries;
        both_refuse(&builder, ErrorKind::BatCorrupt);
    }
    let mut builder = dynamic();
    builder.header().max_table_entries = 0;
    both_refuse(&builder, ErrorKind::BatCorrupt);
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    // CVE-2014-0144, S-9, 1.9
    for (size, kind) in [
        (0, ErrorKind::InvalidSize),
        (511, ErrorKind::InvalidSize),
        (MIB + 1, ErrorKind::InvalidSize),
        ((2040 << 30) + 512, ErrorKind::InvalidSize),
        (u64::MAX - 511, ErrorKind::InvalidSize),
        (u64::MAX, ErrorKind::InvalidSize),
        (2040 << 30, ErrorKind::BatCorrupt),
    ] {
        let mut builder = dynamic();
        builder.footer.current_size = size;
        both_refuse(&builder, kind);
    }
    for size in [MIB + 512, 1 << 40, u64::MAX - 511] {
        let mut builder = VhdBuilder::fixed(&pattern(MIB, 1));
        builder.footer.current_size = size;
        both_refuse(&builder, ErrorKind::InvalidFileSize);
    }
}

#[test]
fn offsets_that_wrap_or_leave_the_file_are_refused() {
    // S-1
    for offset in [
        0,
        1,
        511,
        513,
        1 << 30,
        u64::MAX - 1023,
        u64::MAX - 511,
        u64::MAX,
    ] {
        let mut builder = dynamic();
        builder.footer.data_offset = offset;
        both_refuse(&builder, ErrorKind::HeaderCorrupt);
    }
    for offset in [
        0,
        512,
        1024,
        0x601,
        1 << 30,
        u64::MAX - 63,
        u64::MAX - 511,
        u64::MAX,
    ] {
        let mut builder = dynamic();
        builder.header().table_offset = offset;
        builder.footer_at = Some(0x40000);
        builder.cut = Some(0x40200);
        both_refuse(&builder, ErrorKind::BatCorrupt);
    }
}

#[test]
fn hostile_locators_do_not_move_the_end_of_the_headers() {
    // S-1, V-18
    for (data_space, data_offset) in [
        (4096, u64::MAX),
        (4096, u64::MAX - 100),
        (u32::MAX, u64::MAX),
        (4096, 0),
        (4096, 0x600),
    ] {
        let mut builder = dynamic();
        builder.header().locators[3] = Locator {
            platform_code: 1,
            data_space,
            data_length: data_space,
            reserved: 7,
            data_offset,
        };
        let store = Arc::new(MemoryStore::from_pages(builder.build()));
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        assert!(
            disk.notices("parent locator 3"),
            "{:?}",
            disk.image.facts().notices
        );
        disk.write(&pattern(512, 1), 0).unwrap();
        disk.image.close().unwrap();
        assert!(store.to_vec().len() < 0x10_0000);
        let disk = Disk::open(store, &reading()).unwrap();
        assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
    }
}

#[test]
fn a_structure_past_the_end_of_the_file_is_read_around_and_never_written_into() {
    // S-1, S-3, V-18: the file would grow into it, and the new blocks could not be read again.
    let end = dynamic().build().len();
    for (data_space, data_offset) in [
        (u32::MAX, 0x2000),
        (1 << 31, 0),
        (65536, end - 2048),
        (65536, end + 65536),
        (4096, 0xFFFF_FFFE * 512),
    ] {
        let mut builder = dynamic();
        builder.header().locators[3] = Locator {
            platform_code: 1,
            data_space,
            data_length: data_space,
            reserved: 0,
            data_offset,
        };
        let file = builder.build();
        let disk = Disk::open_pages(&file, &reading()).unwrap();
        assert!(disk.notices("parent locator 3"));
        assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
        let error = refused(&file, &writing());
        assert_eq!(error.kind(), ErrorKind::HeaderCorrupt);
        assert!(error.to_string().contains("parent locator"), "{error}");
    }
    // Space that ends a little behind stays free, and the blocks behind it are read again.
    let mut builder = dynamic();
    builder.header().locators[3] = Locator {
        platform_code: 1,
        data_space: 65536,
        data_length: 4,
        reserved: 0,
        data_offset: builder.next_place() - 512,
    };
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.write(&pattern(MIB, 9), 0).unwrap();
    disk.image.close().unwrap();
    let disk = Disk::open(store, &writing()).unwrap();
    assert!(disk.read(0, MIB).unwrap() == pattern(MIB, 9));
    // XenServer's batmap alike.
    let mut builder = dynamic();
    let mut batmap = b"tdbatmap".to_vec();
    batmap.extend_from_slice(&end.to_be_bytes());
    batmap.extend_from_slice(&8_u32.to_be_bytes());
    builder.patches.push((0x800, batmap));
    assert!(Disk::open_pages(&builder.build(), &reading()).is_ok());
    assert_eq!(
        refusal(&builder.build(), &writing()),
        ErrorKind::HeaderCorrupt
    );
}

#[test]
fn a_block_on_a_structure_is_never_served_or_written() {
    // S-3; libvhdi issue 17 and cloud-hypervisor d1868f638 in VHD's terms.
    let clean = dynamic();
    let footer = clean.next_place();
    for (at, what) in [
        (0, "footer copy"),
        (512, "dynamic header"),
        (0x600, "block allocation table"),
        (1024, "dynamic header"),
        (footer - 512, "outside the file"),
        (footer - 65536, "outside the file"),
        (1 << 40, "outside the file"),
        (0xFFFF_FFFE * 512, "outside the file"),
    ] {
        let mut builder = clean.clone();
        builder.table[0] = (at / 512) as u32;
        let error = refused(&builder.build(), &writing());
        assert_eq!(error.kind(), ErrorKind::BatCorrupt);
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(error.offset(), Some(0x600));
        let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
        assert!(disk.notices(what), "{:?}", disk.image.facts().notices);
        assert_eq!(disk.read(0, 512).unwrap_err().kind(), ErrorKind::BatCorrupt);
        // The others are read.
        assert!(disk.read(3 * 65536, 65536).unwrap() == pattern(65536, 3));
        assert!(disk.read(65536, 65536).unwrap() == vec![0; 65536]);
    }
}

#[test]
fn blocks_that_share_space_are_refused_for_writing_and_reported_for_reading() {
    // S-3
    let clean = dynamic();
    let at = clean.table[5];
    for sector in [at, at + 1, at - 1, at - 127, at - 128, clean.table[3] + 1] {
        let mut builder = clean.clone();
        builder.table[0] = sector;
        let error = refused(&builder.build(), &writing());
        assert_eq!(error.kind(), ErrorKind::BatCorrupt);
        let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
        assert!(disk.notices("to two blocks"), "{sector}");
    }
    // The next slot over is free, at either side.
    let mut builder = clean.clone();
    builder.table[0] = builder.table[5] + 129;
    builder.footer_at = Some(u64::from(builder.table[0] + 129) * 512);
    let mut file = builder.build();
    file.write(&[0; 1], u64::from(builder.table[0]) * 512);
    assert!(Disk::open_pages(&file, &writing()).is_ok());
    // More blocks than the file has room for need no list of them all.
    let mut builder = VhdBuilder::dynamic(1 << 30, 512);
    let end = (builder.end() / 512) as u32;
    builder.table.fill(end);
    builder.footer_at = Some(builder.end() + 4096);
    assert_eq!(refusal(&builder.build(), &writing()), ErrorKind::BatCorrupt);
}
