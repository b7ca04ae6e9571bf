//! Damage: every field of every structure of a VHDX set to every kind of nonsense, bits flipped,
//! lengths cut. Never a panic, a hang or a large allocation; and where a checksum can tell, never
//! wrong data.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;

use disk::{Disk, pattern, reading, writing};
use virtdisk_format::{ErrorKind, Extents, Format, Kind, OpenOptions, Place, Result};
use virtdisk_testkit::vhd_builder::Field;
use virtdisk_testkit::vhdx_builder::{
    ENTRY_FIELDS, HEADER_FIELDS, HEADERS_AT, ITEM_FIELDS, LOCATOR_FIELDS, LogEntry,
    METADATA_FIELDS, MIB, TABLE_FIELDS, TABLES_AT, VhdxBuilder, reseal,
};
use virtdisk_testkit::{MemoryStore, Pages, Rng};

const LOG: [u8; 16] = *b"the log's own id";

/// 8 MiB in blocks of 1 MiB, of which 3 and 0 are there.
fn dynamic() -> VhdxBuilder {
    let mut builder = VhdxBuilder::dynamic(8 * MIB, 1 << 20);
    builder.block(3, &pattern(MIB, 3));
    builder.block(0, &pattern(MIB, 4));
    builder
}

/// The same size over a parent, with block 2 in part and 5 whole.
fn differencing() -> VhdxBuilder {
    let mut builder = VhdxBuilder::differencing(8 * MIB, 1 << 20);
    builder.block_in_state(2, 7, &pattern(MIB, 3));
    builder.bitmap(0, &[0x5A; 8192]);
    builder.block(5, &pattern(MIB, 4));
    builder
}

/// [`dynamic`] with a log to replay.
fn dirty() -> VhdxBuilder {
    let mut builder = dynamic();
    let one = LogEntry::new(LOG, 5, 4096, builder.end())
        .zero(builder.end() - MIB, 8192)
        .data(builder.end() - 4096, &pattern(4096, 7));
    let next = builder.log_entry(4096, &one);
    builder.log_entry(next, &LogEntry::new(LOG, 6, 4096, builder.end()));
    builder.dirty(LOG);
    builder
}

/// Everything that can be done with an image, as long as it lets us. Answers how it was opened.
fn exercise(file: &Pages) -> Vec<std::result::Result<Kind, ErrorKind>> {
    // Whatever is left of the signature: read as a VHDX.
    let vhdx = |options| OpenOptions {
        format: Some(Format::Vhdx),
        ..options
    };
    let recovering = OpenOptions {
        recover: true,
        ..reading()
    };
    [vhdx(reading()), vhdx(writing()), vhdx(recovering)]
        .iter()
        .map(|options| use_it(file, options).map_err(|error| error.kind()))
        .collect()
}

/// The bytes of a range that are the image's own.
fn own_bytes(disk: &Disk, start: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for extent in disk.extents(start, len)? {
        if extent.place == Place::Parent {
            bytes.resize(bytes.len() + extent.len as usize, 0xEE);
        } else {
            bytes.extend(disk.read(extent.start, extent.len)?);
        }
    }
    Ok(bytes)
}

fn use_it(file: &Pages, options: &OpenOptions) -> Result<Kind> {
    let store = Arc::new(MemoryStore::from_pages(file.clone()));
    let disk = Disk::open(store.clone(), options)?;
    let (size, facts) = (disk.size(), disk.image.facts());
    assert_eq!(facts.format, Format::Vhdx);
    let sector = u64::from(facts.logical_sector_size);
    assert!(size > 0 && size.is_multiple_of(sector));
    assert!(facts.creator.is_ascii() && !facts.creator.contains(|c: char| c.is_control()));
    assert_eq!(facts.parent.is_some(), facts.kind == Kind::Differencing);
    let window = (MIB + 8192).min(size);
    let mut extents = Extents::new();
    if size <= 64 << 30 && disk.image.map(0, size, &mut extents).is_ok() {
        disk::check(&extents, 0, size);
    }
    for at in [0, size / 2 / sector * sector, size - MIB.min(size)] {
        drop(own_bytes(&disk, at, window.min(size - at)));
    }
    let _ = disk.image.whole();
    drop(disk.image.inherited());
    if size <= 1 << 40 {
        drop(disk.image.physical());
    }
    drop(disk.image.validate());
    let len = 4096.min(size);
    for at in [0, (size - len) / sector * sector] {
        // What a write answers "done" to must be there.
        let bytes = pattern(len, 9);
        if disk.write(&bytes, at).is_ok() {
            assert!(disk.read(at, len).unwrap() == bytes);
        }
        drop(disk.image.trim(at, len));
    }
    let kind = facts.kind;
    drop(disk.image.flush());
    drop(disk.image.close());
    if !options.writable {
        assert_eq!(store.counts().writes, 0);
    }
    assert!(store.pages().allocated() < 64 << 20);
    Ok(kind)
}

/// Values for a field of that length.
fn nonsense(len: usize, rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut last_bit = vec![0; len];
    last_bit[len - 1] = 0x80;
    let mut one = vec![0; len];
    one[0] = 1;
    let mut almost = vec![0xFF; len];
    almost[0] = 0xFE;
    let mut large = vec![0xFF; len];
    large[len - 1] = 0x7F;
    vec![
        vec![0; len],
        vec![0xFF; len],
        last_bit,
        one,
        almost,
        large,
        rng.bytes(len),
    ]
}

/// Each field of the structure of `len` bytes at each of these places with each nonsense; where it
/// has a checksum, with a wrong and with a right one.
fn each_field(file: &Pages, places: &[u64], len: usize, sealed: bool, fields: &[Field]) {
    let mut rng = Rng::announced("vhdx damage");
    for &(name, offset, field) in fields {
        for value in nonsense(field, &mut rng) {
            for seal in if sealed { &[false, true][..] } else { &[false] } {
                let mut file = file.clone();
                for &at in places {
                    let mut bytes = vec![0; len];
                    assert!(file.read(&mut bytes, at));
                    bytes[offset..offset + field].copy_from_slice(&value);
                    if *seal {
                        reseal(&mut bytes);
                    }
                    file.write(&bytes, at);
                }
                let result = std::panic::catch_unwind(|| exercise(&file));
                assert!(result.is_ok(), "{name} = {value:02x?}, sealed {seal}");
            }
        }
    }
}

#[test]
fn every_header_field_may_be_nonsense() {
    for file in [dynamic().build(), dirty().build()] {
        each_field(&file, &HEADERS_AT[1..], 4096, true, &HEADER_FIELDS);
        each_field(&file, &HEADERS_AT, 4096, true, &HEADER_FIELDS);
    }
}

#[test]
fn every_region_table_field_may_be_nonsense() {
    let file = differencing().build();
    each_field(&file, &TABLES_AT[..1], 64 << 10, true, &TABLE_FIELDS);
    each_field(&file, &TABLES_AT, 64 << 10, true, &TABLE_FIELDS);
}

#[test]
fn every_metadata_field_may_be_nonsense() {
    let builder = differencing();
    let (file, at) = (builder.build(), builder.metadata_at);
    each_field(&file, &[at], 32, false, &METADATA_FIELDS);
    for item in 0..6 {
        each_field(&file, &[at + 32 + 32 * item], 32, false, &ITEM_FIELDS);
    }
    // File parameters, size, sector sizes, id; then the locator.
    let values: [Field; 6] = [
        ("block size", 0, 4),
        ("flags", 4, 4),
        ("virtual size", 8, 8),
        ("logical sector", 16, 4),
        ("physical sector", 20, 4),
        ("disk id", 24, 16),
    ];
    each_field(&file, &[at + (64 << 10)], 40, false, &values);
    each_field(&file, &[at + (64 << 10) + 40], 32, false, &LOCATOR_FIELDS);
}

#[test]
fn every_table_entry_may_be_nonsense() {
    let mut rng = Rng::announced("every_table_entry_may_be_nonsense");
    for builder in [dynamic(), differencing()] {
        let end = builder.end() / MIB;
        let mut offsets: Vec<u64> = (0..end + 3).collect();
        offsets.extend([1 << 20, 1 << 27, 1 << 43, (1 << 44) - 1]);
        let mut raws: Vec<u64> = (0..16).map(|_| rng.number()).collect();
        for offset in offsets {
            raws.extend([0, 1, 2, 3, 5, 6, 7, 6 | 8].map(|state| offset << 20 | state));
        }
        let indices = if builder.metadata.items.len() > 5 {
            vec![2, builder.bitmap_index(0)]
        } else {
            vec![0, 7]
        };
        for index in indices {
            for &raw in &raws {
                let mut damaged = builder.clone();
                damaged.bat[index] = raw;
                exercise(&damaged.build());
            }
        }
    }
}

#[test]
fn every_log_field_may_be_nonsense() {
    let builder = dirty();
    let file = builder.build();
    each_field(&file, &[MIB + 4096], 8192, true, &ENTRY_FIELDS);
    let mut data: Vec<Field> = vec![
        ("data signature", 4096, 4),
        ("upper half", 4100, 4),
        ("lower half", 8188, 4),
    ];
    data.push(("second descriptor", 96, 32));
    each_field(&file, &[MIB + 4096], 8192, true, &data);
    each_field(&file, &[MIB + 12288], 4096, true, &ENTRY_FIELDS);
}

#[test]
fn a_flipped_bit_in_a_header_or_region_table_costs_nothing_but_a_notice() {
    // the other one has the truth.
    let mut rng = Rng::announced("a_flipped_bit_in_a_header_or_region_table");
    let file = dynamic().build();
    for (places, len) in [(HEADERS_AT, 4096), (TABLES_AT, 65536)] {
        for at in places {
            let bits = (0..80 * 8).chain((0..200).map(|_| rng.below(len * 8)));
            for bit in bits.collect::<Vec<_>>() {
                let mut damaged = file.clone();
                let mut byte = [0];
                assert!(damaged.read(&mut byte, at + bit / 8));
                damaged.write(&[byte[0] ^ 1 << (bit % 8)], at + bit / 8);
                let disk = Disk::open_pages(&damaged, &reading()).unwrap();
                assert!(!disk.image.facts().notices.is_empty(), "bit {bit} at {at}");
                assert_eq!(
                    (disk.size(), disk.image.facts().kind),
                    (8 * MIB, Kind::Dynamic)
                );
                assert!(disk.read(3 * MIB, 4096).unwrap() == pattern(4096, 3));
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_a_log_entry_is_never_replayed() {
    //
    let mut rng = Rng::announced("a_flipped_bit_in_a_log_entry");
    let file = dirty().build();
    let bits = (0..128 * 8).chain((0..400).map(|_| rng.below(8192 * 8)));
    for bit in bits.collect::<Vec<_>>() {
        let mut damaged = file.clone();
        let mut byte = [0];
        let at = MIB + 4096 + bit / 8;
        assert!(damaged.read(&mut byte, at));
        damaged.write(&[byte[0] ^ 1 << (bit % 8)], at);
        // The last entry names it as the tail.
        let kind = Disk::open_pages(&damaged, &reading())
            .map(drop)
            .unwrap_err();
        assert_eq!(kind.kind(), ErrorKind::LogCorrupt, "bit {bit}");
    }
}

#[test]
fn a_file_cut_anywhere_reads_right_or_not_at_all() {
    // X-11, S-1: but for the end of the last block, whose loss is told.
    let builder = dynamic();
    let file = builder.build();
    let mut lengths: Vec<u64> = (0..file.len()).step_by(99_991).collect();
    lengths.extend((0..=file.len()).step_by(65536));
    lengths.extend([1, 8, 519, 520, 4096, file.len() - 1, file.len() - MIB - 1]);
    let mut opened = 0;
    for len in lengths {
        let mut cut = file.clone();
        cut.set_len(len);
        exercise(&cut);
        let options = OpenOptions {
            format: Some(Format::Vhdx),
            ..reading()
        };
        let Ok(disk) = Disk::open_pages(&cut, &options) else {
            continue;
        };
        opened += 1;
        assert_eq!(disk.size(), 8 * MIB);
        for (block, salt, at) in [(3, 3, builder.blocks[0].0), (0, 4, builder.blocks[1].0)] {
            let Ok(bytes) = disk.read(block * MIB, MIB) else {
                assert!(at >= len, "{len}");
                continue;
            };
            let mut wanted = pattern(MIB, salt);
            let there = (len - at).min(MIB) as usize;
            wanted[there..].fill(0);
            assert!(bytes == wanted, "{len}, block {block}");
            assert!(
                there == 1 << 20 || disk.notices("ends inside block"),
                "{len}"
            );
        }
    }
    assert!(opened > 20, "{opened}");
    let file = dirty().build();
    for len in (0..file.len()).step_by(65537) {
        let mut cut = file.clone();
        cut.set_len(len);
        //
        let options = OpenOptions {
            format: Some(Format::Vhdx),
            ..reading()
        };
        assert!(Disk::open_pages(&cut, &options).is_err(), "{len}");
    }
}

#[test]
fn random_bytes_over_the_structures_do_no_harm() {
    let mut rng = Rng::announced("random_bytes_over_the_structures_do_no_harm");
    let files = [dynamic(), differencing(), dirty()].map(|builder| builder.build());
    for _ in 0..400 {
        let mut file = rng.pick(&files).clone();
        for _ in 0..1 + rng.below(5) {
            let len = 1 + rng.below(16) as usize;
            let at = match rng.below(6) {
                0 => HEADERS_AT[rng.below(2) as usize] + rng.below(80),
                1 => TABLES_AT[rng.below(2) as usize] + rng.below(80),
                2 => 2 * MIB + rng.below(300),
                3 => 2 * MIB + (64 << 10) + rng.below(400),
                4 => 3 * MIB + rng.below(80),
                _ => MIB + 4096 + rng.below(16384),
            };
            let bytes = rng.bytes(len);
            file.write(&bytes, at);
        }
        // Half of them with sums that are right again.
        if rng.one_in(2) {
            for (at, len) in [
                (HEADERS_AT[0], 4096),
                (HEADERS_AT[1], 4096),
                (TABLES_AT[0], 65536),
                (TABLES_AT[1], 65536),
                (MIB + 4096, 8192),
                (MIB + 12288, 4096),
            ] {
                let mut bytes = vec![0; len];
                assert!(file.read(&mut bytes, at));
                reseal(&mut bytes);
                file.write(&bytes, at);
            }
        }
        exercise(&file);
    }
}
