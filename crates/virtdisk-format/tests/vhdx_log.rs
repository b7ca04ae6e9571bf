//! The log of a VHDX: which entries are replayed, in memory and in the file (formats sheet, 6.4).
//!
//! Every replay is done both ways and must come to the same disk; the one in memory leaves the file
//! as it was.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;
use std::time::Instant;

use disk::{Disk, pattern, reading, refusal, writing};
use virtdisk_format::{ErrorKind, OpenOptions, Place, Store};
use virtdisk_testkit::vhdx_builder::{Descriptor, HEADERS_AT, LogEntry, MIB, VhdxBuilder};
use virtdisk_testkit::{CrashStore, MemoryStore, Pages, Rng};

const LOG: [u8; 16] = *b"the log's own id";
const SECTOR: usize = 4096;

/// 16 MiB in blocks of 1 MiB; what was written in block 0 is there, block 1 is in the log only.
fn dirty() -> (VhdxBuilder, Vec<u8>) {
    let mut builder = VhdxBuilder::dynamic(16 * MIB, 1 << 20);
    builder.block(0, &pattern(MIB, 4));
    let at = builder.block(1, &pattern(MIB, 5));
    let mut page = vec![0; SECTOR];
    page[..8].copy_from_slice(&builder.bat[0].to_le_bytes());
    page[8..16].copy_from_slice(&(at | 6).to_le_bytes());
    builder.set(1, 0, 0);
    builder.dirty(LOG);
    (builder, page)
}

/// An entry for the file of that builder.
fn entry(builder: &VhdxBuilder, sequence: u64, tail: u32) -> LogEntry {
    LogEntry::new(LOG, sequence, tail, builder.end())
}

/// The image of [`dirty`] with one entry, which adds block 1.
fn with_one_entry() -> VhdxBuilder {
    let (mut builder, page) = dirty();
    let one = entry(&builder, 1, 0).data(builder.bat_at, &page);
    builder.log_entry(0, &one);
    builder
}

/// Opens both ways. The file is untouched by reading; writing leaves a clean file that reads the
/// same.
#[track_caller]
fn replayed(file: &Pages) -> [Disk; 3] {
    let store = Arc::new(MemoryStore::from_pages(file.clone()));
    let in_memory = Disk::open(store.clone(), &reading()).unwrap();
    assert!(in_memory.image.bytes().is_some() && in_memory.notices("replayed in memory"));
    assert_eq!(in_memory.image.whole(), None);
    in_memory.image.validate().unwrap();
    assert_eq!((store.counts().writes, store.counts().flushes), (0, 0));
    let store = Arc::new(MemoryStore::from_pages(file.clone()));
    let in_file = Disk::open(store.clone(), &writing()).unwrap();
    assert!(in_file.image.bytes().is_none());
    in_file.image.validate().unwrap();
    in_file.image.close().unwrap();
    let again = Disk::open_pages(&store.pages(), &reading()).unwrap();
    assert!(
        again.image.bytes().is_none(),
        "a replay leaves a clean file"
    );
    let size = in_memory.size();
    for disk in [&in_file, &again] {
        for at in (0..size).step_by(1 << 20) {
            let len = MIB.min(size - at);
            assert!(in_memory.read(at, len).unwrap() == disk.read(at, len).unwrap());
        }
        assert_eq!(
            in_memory.extents(0, size).unwrap(),
            disk.extents(0, size).unwrap()
        );
    }
    [in_memory, in_file, again]
}

/// Whether block 1 is there, both ways.
#[track_caller]
fn has_block_1(builder: &VhdxBuilder) -> bool {
    let [disk, ..] = replayed(&builder.build());
    assert!(disk.read(0, MIB).unwrap() == pattern(MIB, 4));
    let bytes = disk.read(MIB, MIB).unwrap();
    assert!(bytes == pattern(MIB, 5) || bytes == vec![0; 1 << 20]);
    bytes[0] != 0
}

/// The error, which must be the same both ways.
#[track_caller]
fn refused_both_ways(file: &Pages) -> ErrorKind {
    let kind = refusal(file, &reading());
    assert_eq!(kind, refusal(file, &writing()));
    kind
}

/// The header that counts: sequence, FileWriteGuid, DataWriteGuid, LogGuid.
fn header(file: &Pages) -> (u64, Vec<u8>, Vec<u8>, Vec<u8>) {
    let one = |at: u64| {
        let mut bytes = vec![0; 64];
        assert!(file.read(&mut bytes, at));
        let sequence = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let part = |from: usize| bytes[from..from + 16].to_vec();
        (sequence, part(16), part(32), part(48))
    };
    let (first, second) = (one(HEADERS_AT[0]), one(HEADERS_AT[1]));
    assert_eq!(first.0.abs_diff(second.0), 1, "both headers are current");
    assert_eq!(
        (&first.1, &first.2, &first.3),
        (&second.1, &second.2, &second.3)
    );
    if first.0 > second.0 { first } else { second }
}

#[test]
fn a_clean_header_means_no_replay_whatever_the_log_holds() {
    // Windows leaves valid entries behind.
    let mut builder = with_one_entry();
    builder.dirty([0; 16]);
    for options in [reading(), writing()] {
        let store = Arc::new(MemoryStore::from_pages(builder.build()));
        let disk = Disk::open(store.clone(), &options).unwrap();
        assert_eq!(disk.extents(MIB, 15 * MIB).unwrap()[0].place, Place::Zero);
        assert!(disk.image.bytes().is_none());
        assert_eq!(store.counts().writes, 0);
    }
}

#[test]
fn a_dirty_log_is_replayed_in_memory_for_reading_and_in_the_file_for_writing() {
    //
    assert!(has_block_1(&with_one_entry()));
    // What recovery accepts is not written to: in memory then, too.
    let options = OpenOptions {
        recover: true,
        ..writing()
    };
    let store = Arc::new(MemoryStore::from_pages(with_one_entry().build()));
    let disk = Disk::open(store.clone(), &options).unwrap();
    assert!(disk.image.bytes().is_some() && disk.image.facts().read_only);
    assert_eq!(store.counts().writes, 0);
}

#[test]
fn a_replay_in_the_file_is_a_modification_and_ends_with_a_clean_header() {
    // FileWriteGuid only.
    let builder = with_one_entry();
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    drop(Disk::open(store.clone(), &writing()).unwrap());
    let (sequence, file_write, data_write, log) = header(&store.pages());
    assert_eq!(sequence, 7 + 4);
    assert_ne!(file_write, b"file write guid.");
    assert_eq!(data_write, b"data write guid.");
    assert_eq!(log, [0; 16]);
}

#[test]
fn a_header_without_a_next_number_takes_no_replay() {
    //
    let mut builder = with_one_entry();
    builder.headers[1].sequence = u64::MAX - 1;
    assert_eq!(
        refusal(&builder.build(), &writing()),
        ErrorKind::HeaderCorrupt
    );
    assert!(Disk::open_pages(&builder.build(), &reading()).is_ok());
}

#[test]
fn an_entry_with_anything_wrong_is_none() {
    //
    type Change = (&'static str, fn(&mut LogEntry));
    let changes: [Change; 15] = [
        ("signature", |entry| entry.signature = *b"logf"),
        ("checksum", |entry| entry.checksum = Some(1)),
        ("length 0", |entry| entry.length = Some(0)),
        ("length odd", |entry| entry.length = Some(8191)),
        ("short", |entry| entry.length = Some(4096)),
        ("long", |entry| entry.length = Some(12288)),
        ("as long as the log", |entry| entry.length = Some(1 << 20)),
        ("tail unaligned", |entry| entry.tail = 512),
        ("tail outside", |entry| entry.tail = 1 << 20),
        ("sequence 0", |entry| entry.sequence = 0),
        ("another log's", |entry| entry.log_guid = [1; 16]),
        ("count", |entry| entry.count = Some(2)),
        ("huge count", |entry| entry.count = Some(u32::MAX)),
        ("descriptor's number", |entry| {
            entry.descriptor_sequence = Some(2)
        }),
        ("data's number", |entry| {
            entry.data_sequence = Some(1 << 32 | 1)
        }),
    ];
    let (clean, page) = dirty();
    for (name, change) in changes {
        let mut builder = clean.clone();
        let mut one = entry(&builder, 1, 0).data(builder.bat_at, &page);
        change(&mut one);
        builder.log_entry(0, &one);
        assert_eq!(
            refused_both_ways(&builder.build()),
            ErrorKind::LogCorrupt,
            "{name}"
        );
        // Behind a good entry it is the end of the sequence.
        let mut builder = clean.clone();
        let first = entry(&builder, 8, 0);
        let next = builder.log_entry(0, &first);
        let mut one = entry(&builder, 9, 0).data(builder.bat_at, &page);
        change(&mut one);
        one.descriptor_sequence = one.descriptor_sequence.map(|_| 8);
        builder.log_entry(next, &one);
        if name != "sequence 0" {
            assert!(!has_block_1(&builder), "{name}");
        }
    }
}

#[test]
fn an_entry_with_a_changed_byte_is_none() {
    //
    for (what, at) in [
        ("data signature", 4096),
        ("descriptor", 64),
        ("last byte", 8191),
    ] {
        let mut builder = with_one_entry();
        let mut bytes = builder.log.remove(0).1;
        bytes[at] ^= 1;
        builder.log.push((0, bytes.clone()));
        assert_eq!(
            refused_both_ways(&builder.build()),
            ErrorKind::LogCorrupt,
            "{what}"
        );
        // A right checksum does not make it right.
        virtdisk_testkit::vhdx_builder::reseal(&mut bytes);
        builder.log = vec![(0, bytes)];
        assert_eq!(
            refused_both_ways(&builder.build()),
            ErrorKind::LogCorrupt,
            "{what}"
        );
    }
}

#[test]
fn data_sectors_begin_on_the_boundary_behind_the_descriptors() {
    // 126 descriptors fill the first sector, 127 begin a second one, 254 fill it.
    for count in [1_u64, 2, 125, 126, 127, 253, 254, 255, 300] {
        let (mut builder, page) = dirty();
        let (ring, log_at) = (2 * MIB, builder.take(2 * MIB));
        for header in &mut builder.headers {
            (header.log_offset, header.log_length) = (log_at, ring as u32);
        }
        let data = builder.take(2 * MIB);
        let mut one = entry(&builder, 1, 0);
        for index in 1..count {
            one = one.data(data + index * 4096, &pattern(4096, index as u8));
        }
        one = one.data(builder.bat_at, &page);
        // Around the end of the ring as well.
        for at in [0, ring - 4096, ring - 8192] {
            let mut builder = builder.clone();
            one.tail = at as u32;
            builder.log_entry(at, &one);
            assert!(has_block_1(&builder), "{count} at {at}");
            let store = Arc::new(MemoryStore::from_pages(builder.build()));
            let disk = Disk::open(store, &reading()).unwrap();
            let bytes = disk.image.bytes().unwrap();
            for index in 1..count {
                let mut sector = [0; SECTOR];
                bytes
                    .read_exact_at(&mut sector, data + index * 4096)
                    .unwrap();
                assert!(
                    sector[..] == pattern(4096, index as u8),
                    "{index} of {count}"
                );
            }
        }
    }
}

#[test]
fn the_newest_sequence_is_found_wherever_it_stands() {
    //
    let (clean, page) = dirty();
    let with = |at: u64, others: &[(u64, LogEntry)]| {
        let mut builder = clean.clone();
        let one = entry(&builder, 100, at as u32).data(builder.bat_at, &page);
        for (at, entry) in others {
            builder.log_entry(*at, entry);
        }
        builder.log_entry(at, &one);
        builder
    };
    // Behind empty sectors, behind garbage, around the end.
    for at in [0, 4096, 81920, (1 << 20) - 4096] {
        assert!(has_block_1(&with(at, &[])), "{at}");
    }
    let old = |sequence, tail| entry(&clean, sequence, tail);
    let undo = old(99, 0).zero(clean.bat_at, 4096);
    // An older sequence with a gap in its numbers, before and behind it.
    for at in [0, 16384] {
        let older = old(98, at).zero(clean.bat_at, 4096);
        assert!(has_block_1(&with(8192, &[(u64::from(at), older)])));
    }
    // The entry before it, which it continues and names no more.
    assert!(has_block_1(&with(4096, &[(0, undo.clone())])));
    // A sequence with larger numbers wins.
    let newer = old(500, 16384);
    assert!(!has_block_1(&with(0, &[(16384, newer)])));
    // One whose last entry names a tail that is none of its entries does not count.
    let lost = old(500, 20480);
    assert!(has_block_1(&with(0, &[(16384, lost)])));
    // Two that end with the same number: nobody knows which is the newer one.
    let twin = old(100, 16384);
    assert_eq!(
        refused_both_ways(&with(0, &[(16384, twin)]).build()),
        ErrorKind::LogCorrupt
    );
}

#[test]
fn a_sequence_goes_around_the_end_of_the_log() {
    //
    let (mut builder, page) = dirty();
    let mut at = (1 << 20) - 3 * 8192;
    let tail = at as u32;
    let target = builder.take(MIB);
    for sequence in 1..=8 {
        let mut one = entry(&builder, sequence, tail);
        one = if sequence == 2 {
            one.data(builder.bat_at, &page)
        } else {
            one.data(target, &pattern(4096, sequence as u8))
        };
        at = builder.log_entry(at, &one);
    }
    assert!(has_block_1(&builder));
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    drop(Disk::open(store.clone(), &writing()).unwrap());
    let mut sector = [0; SECTOR];
    store.read_exact_at(&mut sector, target).unwrap();
    assert!(sector[..] == pattern(4096, 8), "the last one holds");
}

#[test]
fn only_what_the_last_entry_names_is_replayed() {
    // earlier entries may be about space that holds data by now.
    let (mut builder, page) = dirty();
    let data_at = builder.blocks[0].0;
    let mut at = 0;
    let mut places = Vec::new();
    for sequence in 1..=3 {
        places.push(at);
        at = builder.log_entry(at, &entry(&builder, sequence, 0).zero(data_at, 8192));
    }
    let tail = at as u32;
    let fourth = entry(&builder, 4, 0).data(builder.bat_at, &page);
    at = builder.log_entry(at, &fourth);
    let fifth = entry(&builder, 5, tail);
    builder.log_entry(at, &fifth);
    assert!(has_block_1(&builder));
    // Named, it would have been replayed.
    let mut all = builder.clone();
    let mut last = fifth;
    last.tail = places[2] as u32;
    all.log_entry(at, &last);
    let [disk, ..] = replayed(&all.build());
    assert!(disk.read(0, 8192).unwrap() == vec![0; 8192]);
}

#[test]
fn a_log_without_a_valid_sequence_and_a_file_that_was_cut_are_refused() {
    //
    let (builder, _) = dirty();
    assert_eq!(refused_both_ways(&builder.build()), ErrorKind::LogCorrupt);
    let mut builder = with_one_entry();
    builder.len = Some(builder.end() - 1);
    assert_eq!(
        refused_both_ways(&builder.build()),
        ErrorKind::InvalidFileSize
    );
    // Only the last entry's length counts; 0 occurs in files of Windows 8.
    let (mut builder, page) = dirty();
    let mut first = entry(&builder, 1, 0);
    first.flushed = 1 << 40;
    let next = builder.log_entry(0, &first);
    let mut second = entry(&builder, 2, 0).data(builder.bat_at, &page);
    (second.flushed, second.last) = (0, 0);
    builder.log_entry(next, &second);
    assert!(has_block_1(&builder));
}

#[test]
fn an_entry_that_would_change_headers_or_log_is_none() {
    //
    let (clean, page) = dirty();
    let log_end = 2 * MIB;
    for (offset, length) in [
        (0, 4096),
        (64 << 10, 4096),
        (188 << 10, 4096),
        (188 << 10, 8192),
        (MIB, 4096),
        (log_end - 4096, 4096),
        (192 << 10, 2 * MIB),
        (MIB - 4096, 8192),
        (8 * MIB + 512, 4096),
        (8 * MIB, 4097),
        (8 * MIB, u64::MAX),
        (u64::MAX - 4095, 4096),
        (1 << 63, 4096),
        (8 * MIB, (1 << 63) - 4096),
    ] {
        let mut builder = clean.clone();
        let bad = entry(&builder, 1, 0).zero(offset, length);
        builder.log_entry(0, &bad.clone().data(builder.bat_at, &page));
        let kind = refused_both_ways(&builder.build());
        assert_eq!(kind, ErrorKind::LogCorrupt, "{length} at {offset}");
        if length == 4096 {
            let mut builder = clean.clone();
            let bad = entry(&builder, 1, 0).data(offset, &page);
            builder.log_entry(0, &bad);
            assert_eq!(refused_both_ways(&builder.build()), ErrorKind::LogCorrupt);
        }
    }
    for offset in [192 << 10, 256 << 10, MIB - 4096, log_end] {
        let mut builder = clean.clone();
        let fine = entry(&builder, 1, 0).zero(offset, 0);
        builder.log_entry(0, &fine.data(builder.bat_at, &page));
        assert!(has_block_1(&builder), "{offset}");
    }
}

#[test]
fn zeros_without_end_cost_nothing_and_make_no_file_longer() {
    //
    let (mut builder, page) = dirty();
    let end = builder.end();
    let one = entry(&builder, 1, 0)
        .zero(8 * MIB, (1 << 62) - 8 * MIB)
        .zero(end, 1 << 40)
        .data(builder.bat_at, &page);
    builder.log_entry(0, &one);
    assert!(has_block_1(&builder));
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    drop(Disk::open(store.clone(), &writing()).unwrap());
    assert_eq!(store.pages().len(), end);
}

#[test]
fn a_replay_extends_the_file_to_what_it_must_hold() {
    //
    let (mut builder, mut page) = dirty();
    let end = builder.end();
    // The table names a block behind the end, which the log fills.
    page[16..24].copy_from_slice(&(end | 6).to_le_bytes());
    let mut one = entry(&builder, 1, 0)
        .data(builder.bat_at, &page)
        .data(end + 4096, &pattern(4096, 9));
    one.last = end + MIB;
    builder.log_entry(0, &one);
    let [disk, ..] = replayed(&builder.build());
    let mut wanted = vec![0; 1 << 20];
    wanted[4096..8192].copy_from_slice(&pattern(4096, 9));
    assert!(disk.read(2 * MIB, MIB).unwrap() == wanted);
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    drop(Disk::open(store.clone(), &writing()).unwrap());
    assert_eq!(store.pages().len(), end + MIB);
    // A length that no file has.
    let (mut builder, page) = dirty();
    let mut one = entry(&builder, 1, 0).data(builder.bat_at, &page);
    one.last = 1 << 60;
    builder.log_entry(0, &one);
    assert_eq!(refused_both_ways(&builder.build()), ErrorKind::LogCorrupt);
}

#[test]
fn a_cut_during_a_replay_leaves_a_file_that_replays_to_the_same() {
    //
    let (mut builder, page) = dirty();
    let target = builder.take(MIB);
    let mut at = 8192;
    for sequence in 1..=5 {
        let mut one = entry(&builder, sequence, 8192).zero(target, 16384).data(
            target + 4096 * (sequence % 3),
            &pattern(4096, sequence as u8),
        );
        one.last = builder.end() + MIB;
        if sequence == 3 {
            one = one.data(builder.bat_at, &page);
        }
        at = builder.log_entry(at, &one);
    }
    let [wanted, ..] = replayed(&builder.build());
    let wanted_disk = wanted.read(0, 3 * MIB).unwrap();
    let wanted_bytes = |store: &dyn Store| {
        let mut bytes = vec![0; 16384];
        store.read_exact_at(&mut bytes, target).unwrap();
        bytes
    };
    let target_bytes = wanted_bytes(&*wanted.image.bytes().unwrap());
    let store = Arc::new(CrashStore::from_pages(builder.build()));
    drop(Disk::open(store.clone(), &writing()).unwrap());
    let mut states = 0;
    for image in store.crash_images().chain(store.kill_images()) {
        let file = Arc::new(MemoryStore::from_pages(image.pages.clone()));
        for options in [reading(), writing()] {
            let disk = Disk::open(file.clone(), &options).unwrap();
            assert!(
                disk.read(0, 3 * MIB).unwrap() == wanted_disk,
                "{}",
                image.what
            );
            let store = disk.image.bytes().unwrap_or_else(|| file.clone());
            assert!(wanted_bytes(&*store) == target_bytes, "{}", image.what);
        }
        assert_eq!(file.pages().len(), builder.end() + MIB, "{}", image.what);
        states += 1;
    }
    println!("{states} states of a replay");
    assert!(states > 50, "{states}");
}

#[test]
fn an_empty_entry_alone_is_a_sequence_with_nothing_to_do() {
    //
    let (mut builder, _) = dirty();
    builder.log_entry(4096, &entry(&builder, 0x7FFF_FFFF_FFFF_FFFF, 4096));
    assert!(!has_block_1(&builder));
}

#[test]
fn the_logs_version_matters_only_where_it_must_be_replayed() {
    //
    let mut builder = with_one_entry();
    for header in &mut builder.headers {
        header.log_version = 1;
    }
    assert_eq!(
        refused_both_ways(&builder.build()),
        ErrorKind::HeaderVersion
    );
    builder.dirty([0; 16]);
    assert!(Disk::open_pages(&builder.build(), &writing()).is_ok());
}

#[test]
fn everything_is_checked_anew_behind_the_log() {
    // S-6: both region tables and the metadata are what the log says.
    let (mut builder, _) = dirty();
    let mut sector = builder.metadata.bytes()[..SECTOR].to_vec();
    for change in [0, 1, 2] {
        let mut builder = builder.clone();
        let one = entry(&builder, 1, 0);
        let (one, kind) = match change {
            0 => (one.zero(192 << 10, 128 << 10), ErrorKind::RegionCorrupt),
            1 => (one.zero(2 * MIB, 4096), ErrorKind::MetadataCorrupt),
            _ => {
                sector[32 + 16] = 1;
                (one.data(2 * MIB, &sector), ErrorKind::MetadataCorrupt)
            }
        };
        builder.log_entry(0, &one);
        assert_eq!(refused_both_ways(&builder.build()), kind);
    }
    // And the other way: what is broken in the file is whole in the log.
    let table = builder.tables[0].bytes();
    let mut one = entry(&builder, 1, 0);
    for (place, chunk) in table.chunks(SECTOR).enumerate() {
        one = one.data((192 << 10) + place as u64 * 4096, chunk);
    }
    builder.log_entry(0, &one);
    for table in &mut builder.tables {
        table.signature = [0; 4];
    }
    let [disk, ..] = replayed(&builder.build());
    assert!(
        disk.notices("region table"),
        "the second one is still broken"
    );
}

#[test]
fn random_entries_come_to_the_same_disk_both_ways() {
    // against a model that does one after the other.
    let mut rng = Rng::announced("random_entries_come_to_the_same_disk_both_ways");
    for _ in 0..60 {
        let mut builder = VhdxBuilder::dynamic(4 * MIB, 1 << 20);
        let start = builder.block(0, &rng.bytes(1 << 20));
        let mut model = builder.blocks[0].1.clone();
        builder.dirty(LOG);
        let mut at = rng.below(256) * 4096;
        let (tail, first) = (at as u32, 1 + rng.below(1 << 40));
        for sequence in first..first + 1 + rng.below(5) {
            let mut one = entry(&builder, sequence, tail);
            for _ in 0..rng.below(9) {
                let place = rng.below(32);
                if rng.one_in(2) {
                    one = one.data(start + place * 4096, &rng.bytes(SECTOR));
                } else {
                    let sectors = rng.below(33 - place);
                    one = one.zero(start + place * 4096, sectors * 4096);
                }
            }
            for descriptor in &one.descriptors {
                let (offset, bytes) = match descriptor {
                    Descriptor::Data { offset, bytes } => (offset, bytes.clone()),
                    Descriptor::Zero { offset, length } => (offset, vec![0; *length as usize]),
                };
                let from = (offset - start) as usize;
                model[from..from + bytes.len()].copy_from_slice(&bytes);
            }
            at = builder.log_entry(at, &one);
        }
        let [disk, ..] = replayed(&builder.build());
        assert!(disk.read(0, MIB).unwrap() == model);
        for _ in 0..20 {
            let (from, len) = (rng.below(MIB - 9000), 1 + rng.below(9000));
            let part = &model[from as usize..(from + len) as usize];
            assert!(disk.read(from, len).unwrap() == part, "{len} at {from}");
        }
    }
}

#[test]
fn a_hostile_log_costs_no_more_than_its_length() {
    // S-7, S-2: every sector an entry of its own, each of which claims the whole ring; and entries
    // that all have a tail which is none of them.
    const RING: u64 = 64 << 20;
    let (clean, _) = dirty();
    let mut claims = entry(&clean, 1, 0);
    claims.length = Some((RING - 4096) as u32);
    let lost = entry(&clean, 1, 4096 * 77);
    for hostile in [claims, lost] {
        let mut file = {
            let mut builder = clean.clone();
            for header in &mut builder.headers {
                (header.log_offset, header.log_length) = (16 * MIB, RING as u32);
            }
            builder.len = Some(16 * MIB + RING);
            builder.build()
        };
        for sector in 0..RING / 4096 {
            let mut one = hostile.clone();
            one.sequence = 1 + sector * if one.length.is_some() { 1 } else { 2 };
            // None is its own tail.
            one.tail += if sector == 77 { 4096 } else { 0 };
            file.write(&one.bytes(), 16 * MIB + sector * 4096);
        }
        let store = Arc::new(MemoryStore::from_pages(file.clone()));
        let start = Instant::now();
        let error = Disk::open(store.clone(), &reading()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LogCorrupt);
        assert!(store.counts().bytes_read < 3 * RING, "{:?}", store.counts());
        assert!(start.elapsed().as_secs() < 60);
    }
    // A log that is larger than any is.
    let mut builder = clean.clone();
    for header in &mut builder.headers {
        (header.log_offset, header.log_length) = (16 * MIB, (2 << 30) as u32);
    }
    builder.len = Some(16 * MIB + (2 << 30));
    assert_eq!(refused_both_ways(&builder.build()), ErrorKind::LogCorrupt);
}
