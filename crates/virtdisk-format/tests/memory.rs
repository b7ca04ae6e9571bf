//! Memory: what an image costs does not follow from what it claims.
//!
//! The process's resident memory is measured, so the tests here take turns.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use disk::{Disk, reading, refusal, writing};
use virtdisk_format::{CreateOptions, ErrorKind, Format, Kind, Store, check, create};
use virtdisk_testkit::MemoryStore;
use virtdisk_testkit::vhd_builder::VhdBuilder;

static TURN: Mutex<()> = Mutex::new(());

/// Bytes of memory that this process has in use.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

#[test]
fn the_largest_disk_opens_like_a_small_one() {
    let _turn = TURN.lock();
    let size = 2040_u64 << 30;
    let store = Arc::new(MemoryStore::new());
    let options = CreateOptions {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        virtual_size: size,
        block_size: 0,
        identifier: None,
        created_unix: 0,
        sparse: false,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    };
    create(&*store, &options).unwrap();
    for options in [reading(), writing()] {
        let (before, counts, start) = (resident(), store.counts(), Instant::now());
        let disk = Disk::open(store.clone(), &options).unwrap();
        let read = store.counts().bytes_read - counts.bytes_read;
        assert!(read < (4 << 20) + 65536, "{read} bytes read");
        assert!(
            resident() < before + (4 << 20),
            "{} bytes kept",
            resident() - before
        );
        // A request reads the page of the table that it needs.
        let counts = store.counts();
        assert_eq!(disk.read(size / 2, 4096).unwrap(), [0; 4096]);
        assert_eq!(store.counts().bytes_read - counts.bytes_read, 4096);
        assert!(start.elapsed().as_secs() < 20);
    }
}

#[test]
fn a_table_of_gigabytes_is_neither_read_nor_kept() {
    // S-2, S-7: 64 GiB in blocks of 512 bytes, a table of 512 MiB, all holes in the file.
    let _turn = TURN.lock();
    let mut builder = VhdBuilder::dynamic(1 << 20, 512);
    builder.footer.current_size = 64 << 30;
    builder.header().max_table_entries = 1 << 27;
    builder.table.clear();
    builder.footer_at = Some(1 << 30);
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let before = resident();
    let disk = Disk::open(store.clone(), &reading()).unwrap();
    assert_eq!(
        disk.read(1 << 30, 512).unwrap_err().kind(),
        ErrorKind::BatCorrupt
    );
    assert!(store.counts().bytes_read < 1 << 20);
    assert!(resident() < before + (16 << 20));
    assert_eq!(
        refusal(&builder.build(), &writing()),
        ErrorKind::InvalidBlockSize
    );
    // Going through the whole of it costs no more than its slots.
    for at in (0..64 << 30).step_by(2 << 20) {
        disk.read(at, 512).unwrap_err();
    }
    assert!(resident() < before + (32 << 20), "{}", resident() - before);
}

#[test]
fn a_small_file_that_claims_a_large_table_costs_nothing() {
    // S-2, CVE-2014-0144
    let _turn = TURN.lock();
    let before = resident();
    for entries in [1 << 20, 1 << 30, u32::MAX] {
        for locators in [0, u32::MAX] {
            let mut builder = VhdBuilder::dynamic(1 << 20, 65536);
            builder.header().max_table_entries = entries;
            builder.header().locators[0].platform_code = 1;
            builder.header().locators[0].data_space = locators;
            builder.footer.current_size = 2040 << 30;
            assert_eq!(refusal(&builder.build(), &writing()), ErrorKind::BatCorrupt);
        }
    }
    assert!(resident() < before + (2 << 20), "{}", resident() - before);
}

#[test]
fn a_child_with_a_million_partial_blocks_keeps_few_bitmaps() {
    // S-2: every block of 2040 GiB at the same place of the file, of which every bitmap is read.
    let _turn = TURN.lock();
    let size = 2040_u64 << 30;
    let mut builder = VhdBuilder::differencing(size, 2 << 20, [7; 16]);
    let at = builder.block_with(0, &[1], vec![0x80]);
    builder.table.fill((at / 512) as u32);
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    drop(builder);
    let before = resident();
    let disk = Disk::open(store.clone(), &reading()).unwrap();
    assert!(disk.notices("to two blocks"));
    for block in (0..size / (2 << 20)).step_by(8) {
        assert_eq!(disk.extents(block * (2 << 20), 1024).unwrap().len(), 2);
    }
    // Bitmaps at most 8 MiB, and the table's pages.
    assert!(resident() < before + (16 << 20), "{}", resident() - before);
    assert_eq!(refusal(&store.pages(), &writing()), ErrorKind::BatCorrupt);
}

#[test]
fn a_check_costs_what_the_file_justifies() {
    // S-2, S-7: the largest disks of either format, and 8 Mi blocks that all have a place.
    let _turn = TURN.lock();
    let created = |format, virtual_size, block_size| {
        let store = MemoryStore::new();
        let options = CreateOptions {
            format,
            kind: Kind::Dynamic,
            virtual_size,
            block_size,
            identifier: None,
            created_unix: 0,
            sparse: false,
            logical_sector_size: 0,
            physical_sector_size: 0,
            parent: None,
        };
        create(&store, &options).unwrap();
        store.pages()
    };
    let mut full = VhdBuilder::dynamic(4 << 30, 512);
    let first = (full.end() / 512) as u32;
    for (entry, sector) in full.table.iter_mut().zip((first..).step_by(2)) {
        *entry = sector;
    }
    full.footer_at = Some((u64::from(first) + 2 * full.table.len() as u64) * 512);
    for pages in [
        created(Format::Vhd, 2040 << 30, 0),
        created(Format::Vhdx, 64 << 40, 1 << 20),
        full.build(),
    ] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::from_pages(pages));
        let (before, start) = (resident(), Instant::now());
        let summary = check(&store, &reading(), &mut |_| ()).unwrap();
        assert_eq!(summary.errors, 0);
        assert!(
            resident() < before + (64 << 20),
            "{} bytes kept",
            resident() - before
        );
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
