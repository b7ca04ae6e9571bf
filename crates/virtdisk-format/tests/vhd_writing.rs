//! What is written and where: creation, placement, allocation, trim, close (formats sheet, 6.2).
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;

use disk::{Disk, pattern, reading, refusal, writing};
use virtdisk_format::{CreateOptions, ErrorKind, Extents, Format, Kind, Place, Store, create};
use virtdisk_testkit::vhd_builder::{FOOTER_CHECKSUM_AT, HEADER_CHECKSUM_AT, VhdBuilder, checksum};
use virtdisk_testkit::{MemoryStore, Pages, SectorModel};

const MIB: u64 = 1 << 20;

fn options(kind: Kind, virtual_size: u64, block_size: u32) -> CreateOptions {
    CreateOptions {
        format: Format::Vhd,
        kind,
        virtual_size,
        block_size,
        identifier: None,
        created_unix: 1_800_000_000,
        sparse: false,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    }
}

fn created(options: &CreateOptions) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    create(&*store, options).unwrap();
    store
}

fn dynamic(virtual_size: u64, block_size: u32) -> Arc<MemoryStore> {
    created(&options(Kind::Dynamic, virtual_size, block_size))
}

fn word(file: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(file[at..at + 4].try_into().unwrap())
}

#[test]
fn a_new_dynamic_disk_has_the_layout_of_windows() {
    // V-30, V-34, V-41; the sizes of ntfs-dynamic.vhd before its first write.
    let store = dynamic(4 * MIB, 0);
    let file = store.to_vec();
    assert_eq!(file.len(), 0x2000);
    let footer = &file[0x1E00..];
    assert_eq!(&file[..512], footer);
    assert_eq!(&footer[..8], b"conectix");
    assert_eq!((word(footer, 8), word(footer, 12)), (2, 0x10000));
    assert_eq!(footer[16..24], 512_u64.to_be_bytes());
    assert_eq!(word(footer, 24), 1_800_000_000 - 946_684_800);
    assert_eq!(&footer[28..40], b"win \x00\x0a\x00\x00Wi2k");
    assert_eq!(footer[40..48], (4 * MIB).to_be_bytes());
    assert_eq!(footer[48..56], (4 * MIB).to_be_bytes());
    assert_eq!(
        (&footer[56..60], word(footer, 60)),
        (&[0, 120, 4, 17][..], 3)
    );
    assert_eq!(word(footer, 64), checksum(footer, FOOTER_CHECKSUM_AT));
    assert_ne!(footer[68..84], [0; 16]);
    assert_eq!(footer[84..], [0; 428]);
    let header = &file[512..1536];
    assert_eq!(&header[..8], b"cxsparse");
    assert_eq!(header[8..16], [0xFF; 8]);
    assert_eq!(header[16..24], 0x600_u64.to_be_bytes());
    assert_eq!(
        (word(header, 24), word(header, 28), word(header, 32)),
        (0x10000, 2, 2 << 20)
    );
    assert_eq!(word(header, 36), checksum(header, HEADER_CHECKSUM_AT));
    assert_eq!(header[40..], [0; 984]);
    assert_eq!(file[0x600..0x800], [0xFF; 512]);
    assert_eq!(file[0x800..0x1E00], [0; 0x1600]);
}

#[test]
fn a_new_fixed_disk_is_its_space_and_a_footer() {
    // V-41, R-CRE-16
    for sparse in [false, true] {
        let made = CreateOptions {
            sparse,
            ..options(Kind::Fixed, 3 * MIB + 1024, 0)
        };
        let store = created(&made);
        assert_eq!(store.to_vec().len() as u64, 3 * MIB + 1024 + 512);
        let disk = Disk::open(store, &writing()).unwrap();
        assert_eq!((disk.image.whole(), disk.size()), (Some(0), 3 * MIB + 1024));
        assert_eq!(disk.image.facts().created_unix, 1_800_000_000);
        assert_eq!(disk.image.facts().notices, [""; 0]);
        disk.write(&pattern(4096, 1), 3 * MIB + 1024 - 4096)
            .unwrap();
        disk.image.validate().unwrap();
    }
}

#[test]
fn an_identifier_is_kept_or_made() {
    let id = uuid_of(*b"ABCDEFGHIJKLMNOP");
    let named = CreateOptions {
        identifier: Some(id),
        ..options(Kind::Dynamic, MIB, 0)
    };
    let disk = Disk::open(created(&named), &reading()).unwrap();
    assert_eq!(disk.image.facts().identifier, id);
    let nil = CreateOptions {
        identifier: Some(uuid_of([0; 16])),
        ..named.clone()
    };
    let ids = [
        nil,
        options(Kind::Fixed, MIB, 0),
        options(Kind::Fixed, MIB, 0),
    ]
    .map(|options| {
        Disk::open(created(&options), &reading())
            .unwrap()
            .image
            .facts()
            .identifier
    });
    assert!(ids.iter().all(|id| !id.is_nil()));
    assert_ne!(ids[1], ids[2]);
}

fn uuid_of(bytes: [u8; 16]) -> uuid::Uuid {
    uuid::Uuid::from_bytes(bytes)
}

#[test]
fn what_cannot_be_created_is_refused_before_anything_is_written() {
    let refused = |options: &CreateOptions| {
        let store = MemoryStore::new();
        let kind = create(&store, options).unwrap_err().kind();
        assert_eq!(store.len().unwrap(), 0);
        kind
    };
    let dynamic = |size, block| options(Kind::Dynamic, size, block);
    assert_eq!(refused(&dynamic(0, 0)), ErrorKind::InvalidSize);
    assert_eq!(refused(&dynamic(MIB + 1, 0)), ErrorKind::InvalidSize);
    assert_eq!(
        refused(&dynamic((2040 << 30) + 512, 0)),
        ErrorKind::InvalidSize
    );
    assert_eq!(
        refused(&options(Kind::Fixed, (2040 << 30) + 512, 0)),
        ErrorKind::InvalidSize
    );
    assert_eq!(refused(&dynamic(u64::MAX - 511, 0)), ErrorKind::InvalidSize);
    // 2040 GiB in blocks of 4 KiB would need more than 2 TiB of file offsets.
    assert_eq!(refused(&dynamic(2040 << 30, 4096)), ErrorKind::InvalidSize);
    for block in [1, 256, 513, 3 << 19, 4 << 20, 1 << 31] {
        assert_eq!(refused(&dynamic(MIB, block)), ErrorKind::InvalidBlockSize);
    }
    assert_eq!(
        refused(&options(Kind::Fixed, MIB, 2 << 20)),
        ErrorKind::InvalidBlockSize
    );
    let differencing = options(Kind::Differencing, MIB, 0);
    assert_eq!(refused(&differencing), ErrorKind::ParentMissing);
    let iso = CreateOptions {
        format: Format::Iso,
        ..options(Kind::Fixed, MIB, 0)
    };
    assert_eq!(refused(&iso), ErrorKind::InvalidParameter);
    let raw = CreateOptions {
        format: Format::Raw,
        ..dynamic(MIB, 0)
    };
    assert_eq!(refused(&raw), ErrorKind::InvalidParameter);
    let store = MemoryStore::from_bytes(&[1]);
    let error = create(&store, &dynamic(MIB, 0)).unwrap_err();
    assert_eq!(
        (error.kind(), store.to_vec()),
        (ErrorKind::InvalidParameter, vec![1])
    );
}

#[test]
fn a_new_raw_disk_reads_zeros() {
    let raw = CreateOptions {
        format: Format::Raw,
        ..options(Kind::Fixed, MIB, 0)
    };
    let disk = Disk::open(created(&raw), &writing()).unwrap();
    assert_eq!(
        (disk.image.facts().format, disk.image.whole()),
        (Format::Raw, Some(0))
    );
    disk.must_be(&SectorModel::new(MIB));
}

#[test]
fn the_largest_disk_is_created_and_filled_at_its_ends() {
    // 1.9; V-30: 2040 GiB with 512 KiB blocks only fits packed.
    for block in [512 << 10, 2 << 20] {
        let size = 2040_u64 << 30;
        let store = dynamic(size, block);
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        for at in [0, size / 2, size - 4096] {
            disk.write(&pattern(4096, 3), at).unwrap();
        }
        disk.image.close().unwrap();
        let disk = Disk::open(store, &reading()).unwrap();
        for at in [0, size / 2, size - 4096] {
            assert!(disk.read(at, 4096).unwrap() == pattern(4096, 3), "{at}");
            let other = if at == 0 { 4096 } else { at - 4096 };
            assert!(disk.read(other, 4096).unwrap() == [0; 4096], "{other}");
        }
        assert_eq!(
            disk.image.physical().unwrap().data_aligned_4k,
            block == 2 << 20
        );
    }
}

#[test]
fn blocks_are_placed_as_windows_places_them() {
    // V-30: bitmaps at 0x1E00, 0x202E00, … and a length that is a multiple of 4096.
    let store = dynamic(64 * MIB, 0);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    for (index, block) in [5_u64, 0, 31].into_iter().enumerate() {
        disk.write(&pattern(512, 1), block * 2 * MIB + 1024)
            .unwrap();
        let extent = disk.extents(block * 2 * MIB, 2 * MIB).unwrap()[0];
        let bitmap = 0x1E00 + index as u64 * (2 * MIB + 4096);
        assert_eq!(
            extent.place,
            Place::Data {
                file_offset: bitmap + 512
            }
        );
        assert_eq!(extent.len, 2 * MIB);
        assert_eq!(store.to_vec()[bitmap as usize..][..512], [0xFF; 512]);
        assert_eq!(store.len().unwrap() % 4096, 0);
        disk.image.validate().unwrap();
    }
    disk.image.close().unwrap();
    assert_eq!(store.len().unwrap(), 0x1E00 + 3 * (2 * MIB + 4096) + 512);
    let physical = disk.image.physical().unwrap();
    assert_eq!(
        (physical.blocks_allocated, physical.data_aligned_4k),
        (3, true)
    );
    // In the order of the disk the blocks are 0, 5, 31 and lie second, first, third.
    assert_eq!(physical.fragmentation_percent, Some(66));
}

#[test]
fn a_block_with_a_single_write_reads_zeros_elsewhere() {
    // V-32, S-10
    for block_size in [512, 4096, 65536, 2 << 20] {
        let size = 16 * u64::from(block_size);
        let store = dynamic(size, block_size);
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        let mut model = SectorModel::new(size);
        for at in [size / 2, 0, size - 512] {
            disk.write(&pattern(512, 9), at).unwrap();
            model.write(&pattern(512, 9), at);
            disk.must_be(&model);
        }
        disk.image.close().unwrap();
        Disk::open(store, &reading()).unwrap().must_be(&model);
    }
}

#[test]
fn reused_space_is_zeroed_before_it_is_seen() {
    // S-10, V-32: a block is trimmed and its space goes to another one.
    let store = dynamic(16 * 65536, 65536);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.write(&pattern(4 * 65536, 0xEE), 0).unwrap();
    disk.image.flush().unwrap();
    let len = store.len().unwrap();
    disk.image.trim(0, 2 * 65536).unwrap();
    let zero = disk.extents(0, 2 * 65536).unwrap();
    assert_eq!((zero.len(), zero[0].place), (1, Place::Zero));
    let mut model = SectorModel::new(16 * 65536);
    model.write(&pattern(4 * 65536, 0xEE)[2 * 65536..], 2 * 65536);
    disk.must_be(&model);
    for block in [8_u64, 9] {
        disk.write(&pattern(512, 1), block * 65536 + 512).unwrap();
        model.write(&pattern(512, 1), block * 65536 + 512);
    }
    disk.must_be(&model);
    assert_eq!(store.len().unwrap(), len, "the free slots were not used");
    disk.image.close().unwrap();
    // The same with dirt from a file that we did not write: holes and slack.
    let mut builder = VhdBuilder::dynamic(16 * 65536, 65536);
    builder.block(0, &pattern(65536, 1));
    let hole = builder.block(1, &pattern(65536, 0xEE));
    builder.block(2, &pattern(65536, 2));
    builder.table[1] = u32::MAX;
    let end = builder.end();
    builder.footer_at = Some(end + (1 << 20) + 3584);
    builder.patches.push((end, vec![0xEE; 1 << 20]));
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    let mut model = SectorModel::new(16 * 65536);
    model.write(&pattern(65536, 1), 0);
    model.write(&pattern(65536, 2), 2 * 65536);
    disk.must_be(&model);
    for block in 3..16_u64 {
        disk.write(&pattern(512, 3), block * 65536).unwrap();
        model.write(&pattern(512, 3), block * 65536);
        disk.must_be(&model);
    }
    let used: Vec<Place> = (3..16)
        .map(|block| disk.extents(block * 65536, 512).unwrap()[0].place)
        .collect();
    assert!(
        used.contains(&Place::Data {
            file_offset: hole + 512
        }),
        "{used:?}"
    );
    assert_eq!(
        store.len().unwrap(),
        builder.build().len(),
        "slack was not used"
    );
}

#[test]
fn a_partial_block_becomes_whole_with_its_first_write() {
    // V-11, V-32
    let mut builder = VhdBuilder::dynamic(16 * 65536, 65536);
    let mut bitmap = vec![0xCB; 512];
    bitmap[0] = 0;
    let at = builder.block_with(4, &pattern(65536, 0xEE), bitmap.clone());
    let mut model = SectorModel::new(16 * 65536);
    for sector in 0..128_usize {
        if bitmap[sector / 8] >> (7 - sector % 8) & 1 == 1 {
            let data = pattern(65536, 0xEE)[sector * 512..][..512].to_vec();
            model.write(&data, 4 * 65536 + sector as u64 * 512);
        }
    }
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.must_be(&model);
    let before = disk.extents(4 * 65536, 65536).unwrap().len();
    assert!(before > 40, "{before}");
    disk.write(&pattern(1000, 1), 4 * 65536 + 2000).unwrap();
    model.write(&pattern(1000, 1), 4 * 65536 + 2000);
    disk.must_be(&model);
    assert_eq!(disk.extents(4 * 65536, 65536).unwrap().len(), 1);
    assert_eq!(store.to_vec()[at as usize..][..512], [0xFF; 512]);
    Disk::open(store, &reading()).unwrap().must_be(&model);
}

#[test]
fn a_bitmap_is_forgotten_when_its_block_changes() {
    // Blocks 0 and 1024 × 1024 share a slot of the table's cache: reading one forgets the other.
    let (size, other) = (513 * MIB, 512 * MIB);
    let mut builder = VhdBuilder::dynamic(size, 512);
    builder.block_with(0, &pattern(512, 0xEE), vec![0]);
    let file = builder.build();
    for trim in [false, true] {
        let disk = Disk::open_pages(&file, &writing()).unwrap();
        assert!(disk.read(0, 512).unwrap() == [0; 512]);
        if trim {
            disk.image.trim(0, 512).unwrap();
        }
        disk.write(&pattern(512, 1), 0).unwrap();
        assert!(disk.read(other, 512).unwrap() == [0; 512]);
        assert!(disk.read(0, 512).unwrap() == pattern(512, 1), "trim {trim}");
    }
}

#[test]
fn trim_frees_whole_blocks_and_zeroes_parts() {
    let store = dynamic(64 * 4096 + 512, 4096);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    let size = disk.size();
    disk.write(&pattern(size, 5), 0).unwrap();
    let mut model = SectorModel::new(size);
    model.write(&pattern(size, 5), 0);
    let mut allocated = 65;
    for (start, len, freed) in [
        (4096 * 2, 4096, 1),
        (4096 * 3 + 100, 5000, 0),
        (4096 * 5 + 512, 4096 * 4, 3),
        (size - 512, 512, 1),
        (4096 * 2, 4096, 0),
        (4096 * 20, 0, 0),
        (4096 * 62 - 1, 1, 0),
    ] {
        disk.image.trim(start, len).unwrap();
        model.zero(start, len);
        disk.must_be(&model);
        allocated -= freed;
        assert_eq!(disk.image.physical().unwrap().blocks_allocated, allocated);
    }
    disk.image.trim(0, size).unwrap();
    assert_eq!(disk.image.physical().unwrap().blocks_allocated, 0);
    disk.must_be(&SectorModel::new(size));
    disk.write(&pattern(512, 6), 4096).unwrap();
    disk.image.close().unwrap();
    let file = store.to_vec();
    // One slot is left: the first one.
    assert_eq!(file.len(), 0x4000, "the end was not given back");
    assert_eq!(
        Disk::open(store, &reading())
            .unwrap()
            .read(4096, 512)
            .unwrap(),
        pattern(512, 6)
    );
}

#[test]
fn trimmed_space_is_given_back_to_the_file_system() {
    let store = dynamic(64 * MIB, 0);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.write(&pattern(8 * MIB, 5), 0).unwrap();
    let full = store.allocated();
    disk.image.trim(0, 4 * MIB).unwrap();
    assert!(store.allocated() < full - 4 * MIB + 65536);
    disk.image.trim(4 * MIB + 8192, MIB).unwrap();
    assert!(store.allocated() < full - 5 * MIB + 65536);
}

#[test]
fn space_taken_ahead_is_given_back_at_close_and_reused_after_a_kill() {
    let store = dynamic(64 * 65536, 65536);
    let fill = |disk: &Disk, blocks: std::ops::Range<u64>| {
        for block in blocks {
            disk.write(&pattern(65536, block as u8), block * 65536)
                .unwrap();
        }
    };
    let slot = 65536 + 4096;
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    fill(&disk, 0..9);
    let ahead = store.len().unwrap();
    assert!(ahead > 0x2000 + 9 * slot, "nothing was taken ahead");
    // Killed: no close. The next session finds the slack and uses it.
    drop(disk);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    fill(&disk, 9..12);
    assert_eq!(store.len().unwrap(), ahead);
    drop(disk);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.image.close().unwrap();
    assert_eq!(store.len().unwrap(), 0x2000 + 12 * slot);
    assert_eq!(
        disk.write(&[0; 512], 0).unwrap_err().kind(),
        ErrorKind::WritesRefused
    );
    assert_eq!(
        disk.image.flush().unwrap_err().kind(),
        ErrorKind::WritesRefused
    );
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    for block in 0..12 {
        assert_eq!(
            disk.read(block * 65536, 65536).unwrap(),
            pattern(65536, block as u8)
        );
    }
    // Never more than the disk needs.
    fill(&disk, 12..64);
    assert_eq!(store.len().unwrap(), 0x2000 + 64 * slot);
}

#[test]
fn a_session_that_wrote_nothing_changes_nothing() {
    let mut builder = VhdBuilder::dynamic(16 * 65536, 65536);
    builder.block(2, &pattern(65536, 1));
    // Slack that is not ours.
    builder.footer_at = Some(builder.end() + 20_000 * 512);
    let file = builder.build();
    let store = Arc::new(MemoryStore::from_pages(file.clone()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.read(0, disk.size()).unwrap();
    disk.image.flush().unwrap();
    disk.image.close().unwrap();
    assert_eq!(store.counts().writes, 0);
    assert_eq!(store.to_vec(), file.to_vec());
}

#[test]
fn allocation_flushes_before_the_table_names_the_block() {
    // V-31: two flushes for a batch of blocks, none for the blocks that it provides for.
    let store = dynamic(256 * MIB, 0);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    let mut flushes = Vec::new();
    for block in 0..32 {
        let before = store.counts().flushes;
        disk.write(&[1; 512], block * 2 * MIB).unwrap();
        flushes.push(store.counts().flushes - before);
    }
    assert_eq!(flushes[..8], [2, 2, 0, 2, 0, 0, 0, 2]);
    assert!(flushes.iter().sum::<u64>() <= 12, "{flushes:?}");
    let before = store.counts();
    disk.write(&[2; 4096], 0).unwrap();
    let after = store.counts();
    assert_eq!(
        (after.writes - before.writes, after.flushes),
        (1, before.flushes)
    );
}

#[test]
fn a_packed_file_of_another_writer_is_continued_aligned() {
    // V-30: qemu and Virtual PC leave no gap; the footer follows the last block directly.
    let mut builder = VhdBuilder::dynamic(16 * 65536, 65536);
    builder.block(0, &pattern(65536, 1));
    builder.blocks[0].at = 0x800;
    builder.table[0] = 4;
    builder.footer_at = Some(builder.end());
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    assert!(!disk.image.physical().unwrap().data_aligned_4k);
    let mut model = SectorModel::new(16 * 65536);
    model.write(&pattern(65536, 1), 0);
    for block in 1..16 {
        disk.write(&pattern(65536, block), u64::from(block) * 65536)
            .unwrap();
        model.write(&pattern(65536, block), u64::from(block) * 65536);
        let extent = disk.extents(u64::from(block) * 65536, 1).unwrap()[0];
        assert!(matches!(extent.place, Place::Data { file_offset } if file_offset % 4096 == 0));
    }
    disk.image.close().unwrap();
    Disk::open(store, &writing()).unwrap().must_be(&model);
}

#[test]
fn an_image_open_for_reading_is_not_written() {
    let store = dynamic(MIB, 0);
    let disk = Disk::open(store.clone(), &reading()).unwrap();
    let mut out = Extents::new();
    assert_eq!(
        disk.image.reserve(0, 512, &mut out).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    assert_eq!(
        disk.image.trim(0, 512).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    disk.image.flush().unwrap();
    disk.image.close().unwrap();
    assert_eq!(store.counts().flushes, 2, "those of create");
}

#[test]
fn a_file_cut_short_is_refused_for_writing_and_says_which_block() {
    let mut builder = VhdBuilder::dynamic(16 * 65536, 65536);
    builder.block(0, &pattern(65536, 1));
    builder.block(1, &pattern(65536, 2));
    builder.cut = Some(builder.blocks[1].at + 1000);
    let file: Pages = builder.build();
    assert_eq!(refusal(&file, &writing()), ErrorKind::BatCorrupt);
    let disk = Disk::open_pages(&file, &reading()).unwrap();
    assert!(disk.read(0, 65536).unwrap() == pattern(65536, 1));
    let error = disk.read(65536, 512).unwrap_err();
    assert_eq!(
        (error.kind(), error.offset()),
        (ErrorKind::BatCorrupt, Some(0x604))
    );
}
