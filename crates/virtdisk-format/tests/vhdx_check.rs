//! Checking and repairing VHDX: every field that can be broken is found at its offset, what is
//! sound has no findings, and a repair can be undone to the byte.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use disk::{Disk, named, pattern, reading};
use parking_lot::Mutex;
use virtdisk_format::{Finding, Format, Kind, Severity, Store, Summary, check, repair};
use virtdisk_testkit::corpus::{SAMPLES, corpus_of};
use virtdisk_testkit::vhdx_builder::{
    DISK_ID, ENTRY_FIELDS, FILE_PARAMETERS, HEADER_FIELDS, HEADERS_AT, INCOMPLETE_FILE, Item,
    LOGICAL_SECTOR, LogEntry, MIB, PARENT_LOCATOR, TABLE_FIELDS, TABLES_AT, VIRTUAL_SIZE,
    VhdxBuilder, locator, reseal,
};
use virtdisk_testkit::{CrashStore, MemoryStore, Pages, Rng, has_program};

const GUID: [u8; 16] = *b"log guid of test";
/// Where the builder's metadata table and its first item stand.
const METADATA: u64 = 2 * MIB;
const ITEMS: u64 = METADATA + 0x1_0000;

/// A disk with blocks, one of them whole.
fn dynamic() -> VhdxBuilder {
    let mut builder = VhdxBuilder::dynamic(10 * MIB, 1 << 20);
    builder.block(3, &pattern(MIB, 3));
    builder.block(0, &pattern(MIB, 4));
    builder
}

fn differencing() -> VhdxBuilder {
    let mut builder = VhdxBuilder::differencing(10 * MIB, 1 << 20);
    builder.block_in_state(2, 7, &pattern(MIB, 3));
    builder.bitmap(0, &[0x55; 4096]);
    builder
}

fn inspect(file: &Pages) -> (Summary, Vec<Finding>) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::from_pages(file.clone()));
    let mut findings = Vec::new();
    let summary = check(&store, &named("vhdx"), &mut |finding| {
        findings.push(finding)
    })
    .unwrap();
    (summary, findings)
}

fn findings(file: &Pages) -> Vec<Finding> {
    inspect(file).1
}

/// A finding at `offset`, which must be there, with that severity and rule.
#[track_caller]
fn expect(file: &Pages, offset: u64, severity: Severity, rule: &str) {
    let found = findings(file);
    let fits = |one: &&Finding| one.severity == severity && one.rule == rule;
    let here = found.iter().filter(|one| one.offset == Some(offset));
    assert!(
        here.clone().find(fits).is_some(),
        "no {severity:?} of {rule} at {offset}: {found:#?}"
    );
}

/// `file` with other bytes at `field` of a structure of `len` bytes at `start`, sealed again.
fn sealed(file: &Pages, start: u64, len: usize, field: usize, value: &[u8]) -> Pages {
    let mut bytes = vec![0; len];
    assert!(file.read(&mut bytes, start));
    bytes[field..field + value.len()].copy_from_slice(value);
    if !(4..8).contains(&field) {
        reseal(&mut bytes);
    }
    let mut file = file.clone();
    file.write(&bytes, start);
    file
}

fn patched(file: &Pages, at: u64, bytes: &[u8]) -> Pages {
    let mut file = file.clone();
    file.write(bytes, at);
    file
}

#[test]
fn a_sound_image_has_no_findings() {
    let mut fixed = VhdxBuilder::new(1, 4 * MIB, 1 << 20, 4096);
    for block in 0..4 {
        fixed.block(block, &pattern(MIB, 1));
    }
    for (builder, kind) in [
        (fixed, Kind::Fixed),
        (dynamic(), Kind::Dynamic),
        (differencing(), Kind::Differencing),
    ] {
        let (summary, found) = inspect(&builder.build());
        assert_eq!(found, []);
        assert_eq!((summary.errors, summary.warnings, summary.notes), (0, 0, 0));
        assert_eq!((summary.format, summary.kind), (Format::Vhdx, Some(kind)));
    }
}

#[test]
fn every_field_of_the_header_that_counts_is_found() {
    //
    let file = dynamic().build();
    for (field, value, severity, rule) in [
        (16, &[0; 16][..], Severity::Note, "X-60"),
        (32, &[0; 16], Severity::Warning, "X-60"),
        (64, &[1], Severity::Note, "X-33"),
        (80, &[1], Severity::Note, "X-3"),
        (4095, &[1], Severity::Note, "X-3"),
    ] {
        let file = sealed(&file, HEADERS_AT[1], 4096, field, value);
        expect(&file, HEADERS_AT[1] + field as u64, severity, rule);
    }
    for (field, value) in [
        (68, &[1][..]),
        (68, &[0, 0, 0xF0, 0x7F]),
        (72, &[1]),
        (72, &[0; 8]),
        (72, &[0, 0, 0xF0, 0xFF]),
    ] {
        let file = sealed(&file, HEADERS_AT[1], 4096, field, value);
        expect(&file, HEADERS_AT[1] + 68, Severity::Error, "X-13");
    }
    // A log that must be replayed and is none.
    let file = sealed(&file, HEADERS_AT[1], 4096, 48, &GUID);
    expect(&file, MIB, Severity::Error, "X-27");
}

#[test]
fn a_damaged_header_is_found_field_by_field_and_mended_from_the_other() {
    //
    let file = dynamic().build();
    for (name, field, len) in HEADER_FIELDS {
        for place in [0, 1] {
            for seal in [true, false] {
                let at = HEADERS_AT[place] + field as u64;
                let mut value = vec![0; len];
                assert!(file.read(&mut value, at));
                value[0] ^= 0x40;
                let damaged = match seal {
                    true => sealed(&file, HEADERS_AT[place], 4096, field, &value),
                    false => patched(&file, at, &value),
                };
                let offset = match name {
                    "signature" => HEADERS_AT[place],
                    "checksum" => HEADERS_AT[place] + 4,
                    // Only the older header's fields are beyond doubt; the newer one counts.
                    "version" if seal => HEADERS_AT[place] + 66,
                    "sequence number" if seal => continue,
                    _ if seal && place == 1 => continue,
                    _ if seal => at,
                    _ => HEADERS_AT[place] + 4,
                };
                let found = findings(&damaged);
                let found = found.iter().find(|one| one.offset == Some(offset));
                let found = found.unwrap_or_else(|| panic!("{name} of {place}: nothing"));
                assert!(found.repairable, "{name} of {place}: {found:?}");
                let (result, after, undone) = mended(&damaged);
                assert!(!result.unwrap().is_empty(), "{name} of {place}");
                assert_eq!(findings(&after), [], "{name} of {place}");
                assert!(
                    undone.to_vec() == damaged.to_vec(),
                    "{name} of {place}: not undone"
                );
            }
        }
    }
    // Both damaged, and a tie.
    let both = patched(
        &patched(&file, HEADERS_AT[0] + 9, &[9]),
        HEADERS_AT[1] + 9,
        &[9],
    );
    expect(&both, HEADERS_AT[0] + 4, Severity::Error, "X-1");
    expect(&both, HEADERS_AT[1] + 4, Severity::Error, "X-1");
    let mut tie = dynamic();
    tie.headers[1].sequence = tie.headers[0].sequence;
    tie.headers[1].file_write_guid = [7; 16];
    expect(&tie.build(), HEADERS_AT[0], Severity::Error, "X-1");
}

#[test]
fn a_region_table_that_differs_is_found_and_mended_from_the_other() {
    //
    let file = dynamic().build();
    for (name, field, len) in TABLE_FIELDS {
        for place in [0, 1] {
            let at = TABLES_AT[place] + field as u64;
            let mut value = vec![0; len];
            assert!(file.read(&mut value, at));
            value[0] ^= 0x40;
            let mut cases = vec![(patched(&file, at, &value), TABLES_AT[place] + 4)];
            if place == 1 && field >= 16 {
                cases.push((sealed(&file, TABLES_AT[1], 65536, field, &value), at));
            }
            for (damaged, offset) in cases {
                let offset = match name {
                    "signature" => TABLES_AT[place],
                    _ => offset,
                };
                let found = findings(&damaged);
                let found = found.iter().find(|one| one.offset == Some(offset));
                let found = found.unwrap_or_else(|| panic!("{name} of {place}: nothing"));
                assert!(found.repairable && found.rule == "X-4", "{name}: {found:?}");
                let (result, after, undone) = mended(&damaged);
                assert!(!result.unwrap().is_empty(), "{name} of {place}");
                assert_eq!(findings(&after), [], "{name} of {place}");
                assert!(
                    undone.to_vec() == damaged.to_vec(),
                    "{name} of {place}: not undone"
                );
                let disk = Disk::open_pages(&after, &reading()).unwrap();
                assert!(disk.read(3 * MIB, MIB).unwrap() == pattern(MIB, 3));
            }
        }
    }
}

#[test]
fn every_broken_field_of_both_region_tables_is_found_at_its_offset() {
    //
    let both = |field: usize, value: &[u8]| {
        let file = sealed(&dynamic().build(), TABLES_AT[0], 65536, field, value);
        sealed(&file, TABLES_AT[1], 65536, field, value)
    };
    let entry = TABLES_AT[0] + 16;
    expect(&both(8, &[0, 8]), TABLES_AT[0] + 8, Severity::Error, "X-4");
    expect(&both(12, &[1]), TABLES_AT[0] + 8, Severity::Error, "X-4");
    expect(&both(32, &[1]), entry, Severity::Error, "X-6");
    expect(&both(32, &[0; 8]), entry, Severity::Error, "X-6");
    expect(&both(40, &[0; 4]), entry, Severity::Error, "X-6");
    expect(&both(44, &[0]), entry + 28, Severity::Note, "X-6");
    expect(&both(44, &[3]), entry + 28, Severity::Error, "X-6");
    expect(&both(16, &[1]), entry, Severity::Error, "X-5");
    // Onto the log, and onto each other.
    expect(&both(32, &[0, 0, 16]), TABLES_AT[0], Severity::Error, "X-6");
    expect(&both(32, &[0, 0, 32]), TABLES_AT[0], Severity::Error, "X-6");
}

#[test]
fn every_broken_field_of_the_metadata_is_found_at_its_offset() {
    //
    let file = dynamic().build();
    for (at, value, severity, rule, found) in [
        (0, &b"metadatb"[..], Severity::Error, "X-7", METADATA),
        (8, &[1], Severity::Error, "X-7", METADATA + 8),
        (11, &[0xFF], Severity::Error, "X-7", METADATA + 8),
        (20, &[1], Severity::Error, "X-7", METADATA + 8),
        (32, &[0], Severity::Error, "X-5", METADATA + 32),
        (48, &[0, 0, 0], Severity::Error, "X-7", METADATA + 48),
        (52, &[0, 0, 0, 9], Severity::Error, "X-7", METADATA + 48),
        (52, &[9], Severity::Error, "X-7", ITEMS),
        (56, &[0], Severity::Note, "X-7", METADATA + 56),
        (56, &[6], Severity::Error, "X-7", ITEMS),
        (56, &[0x14], Severity::Error, "X-7", METADATA + 32),
        (60, &[1], Severity::Error, "X-7", METADATA + 32),
    ] {
        expect(&patched(&file, METADATA + at, value), found, severity, rule);
    }
    // The items: block size, flags, virtual size, sector sizes, id.
    for (at, value, severity, rule) in [
        (0, &[0, 0, 0x30][..], Severity::Error, "X-8"),
        (0, &[0; 4], Severity::Error, "X-8"),
        (8, &[1], Severity::Error, "X-8"),
        (8, &[0; 8], Severity::Error, "X-8"),
        (16, &[1], Severity::Error, "X-7"),
        (20, &[1], Severity::Error, "X-7"),
        (24, &[0; 16], Severity::Warning, "X-7"),
    ] {
        expect(
            &patched(&file, ITEMS + at, value),
            ITEMS + at,
            severity,
            rule,
        );
    }
    expect(
        &patched(&file, ITEMS + 4, &[8]),
        ITEMS + 4,
        Severity::Error,
        "X-7",
    );
    // All of them at once.
    let mut all = file.clone();
    all.write(&[0; 24], ITEMS);
    assert_eq!(inspect(&all).0.errors, 4, "{:#?}", findings(&all));
    let mut builder = dynamic();
    builder
        .metadata
        .items
        .push(Item::new(INCOMPLETE_FILE, 4, &[1; 4]));
    expect(&builder.build(), ITEMS + 40, Severity::Error, "X-14");
    for missing in [FILE_PARAMETERS, VIRTUAL_SIZE, LOGICAL_SECTOR, DISK_ID] {
        let mut builder = dynamic();
        builder.metadata.items.retain(|item| item.guid != missing);
        expect(&builder.build(), METADATA, Severity::Error, "X-7");
    }
    // What is unknown and not required is kept, and told.
    for (user, severity) in [(0, Severity::Note), (4, Severity::Error)] {
        let mut builder = dynamic();
        builder
            .metadata
            .items
            .push(Item::new([9; 16], user, &[1; 4]));
        expect(&builder.build(), METADATA + 32 + 5 * 32, severity, "X-5");
    }
}

#[test]
fn a_broken_parent_locator_is_found() {
    // S-8, S-13, P-6
    let at = ITEMS + 40;
    let with = |pairs: &[(&str, &str)]| {
        let mut builder = differencing();
        builder.metadata.item(PARENT_LOCATOR).data = locator(pairs);
        builder.build()
    };
    let id = "{f88d4d92-6fcc-408d-9bef-9b7c89f15c89}";
    expect(
        &with(&[("parent_linkage", id)]),
        at,
        Severity::Warning,
        "P-6",
    );
    expect(&with(&[("relative_path", "a")]), at, Severity::Error, "S-8");
    expect(
        &with(&[("parent_linkage", "x")]),
        at,
        Severity::Error,
        "S-8",
    );
    // The builder's DataWriteGuid, as text.
    let own = "{61746164-7720-6972-7465-20677569642e}";
    let own = with(&[("parent_linkage", own), ("relative_path", "a")]);
    expect(&own, at, Severity::Error, "S-13");
    let mut none = differencing();
    none.metadata
        .items
        .retain(|item| item.guid != PARENT_LOCATOR);
    assert!(findings(&none.build()).iter().any(|one| one.rule == "P-6"));
    let mut orphan = dynamic();
    let item = Item::new(PARENT_LOCATOR, 4, &locator(&[("parent_linkage", id)]));
    orphan.metadata.items.push(item);
    expect(&orphan.build(), at, Severity::Warning, "X-7");
}

#[test]
fn every_broken_table_entry_is_found_at_its_offset() {
    // S-3; all of them in one go.
    let mut builder = dynamic();
    let (end, first) = (builder.end(), builder.bat[0] & !0xF_FFFF);
    let cases = [
        (1, 4, 0, Severity::Error, "X-44"),
        (2, 5, 0, Severity::Error, "X-44"),
        (4, 6, 0, Severity::Error, "X-45"),
        (5, 6, MIB, Severity::Error, "X-45"),
        (6, 6, end, Severity::Error, "X-45"),
        (7, 7, end - MIB, Severity::Error, "X-43"),
        (8, 2, MIB, Severity::Note, "X-47"),
        (9, 6, first, Severity::Error, "S-3"),
    ];
    for (block, state, offset, ..) in cases {
        builder.set(block, state, offset);
    }
    builder.bat.push(0x10_0006);
    let file = builder.build();
    for (block, .., severity, rule) in cases {
        expect(&file, builder.entry_at(block), severity, rule);
    }
    assert_eq!(inspect(&file).0.errors, 7, "{:#?}", findings(&file));
    let mut odd = dynamic();
    odd.bat[1] = 8;
    expect(&odd.build(), odd.entry_at(1), Severity::Error, "X-44");
    // A partially present block without its bitmap, and a bitmap in no state.
    let mut builder = differencing();
    let bitmap = builder.bitmap_index(0);
    builder.bat[bitmap] = 0;
    expect(
        &builder.build(),
        builder.entry_at(2),
        Severity::Error,
        "X-43",
    );
    builder.bat[bitmap] = 2;
    expect(
        &builder.build(),
        3 * MIB + bitmap as u64 * 8,
        Severity::Error,
        "X-44",
    );
    // Behind the last block, and space that nobody has.
    let mut builder = differencing();
    builder.bat[11] = 6;
    expect(&builder.build(), 3 * MIB + 88, Severity::Note, "X-7");
    let mut builder = dynamic();
    let hole = builder.take(3 * MIB);
    expect(&builder.build(), hole, Severity::Note, "X-68");
    let mut small = dynamic();
    for table in &mut small.tables {
        table.regions[0].length = 0;
    }
    assert!(inspect(&small.build()).0.errors > 0);
}

/// An image whose log changes block 5's entry.
fn dirty() -> (VhdxBuilder, u64) {
    let mut builder = dynamic();
    let at = builder.take(MIB);
    builder.blocks.push((at, pattern(MIB, 9)));
    let mut page: Vec<u8> = builder
        .bat
        .iter()
        .flat_map(|one| one.to_le_bytes())
        .collect();
    page.resize(4096, 0);
    page[40..48].copy_from_slice(&(at | 6).to_le_bytes());
    builder.dirty(GUID);
    let entry = LogEntry::new(GUID, 7, 0, builder.end()).data(3 * MIB, &page);
    builder.log_entry(0, &entry);
    (builder, at)
}

#[test]
fn a_log_is_replayed_by_a_repair_which_can_be_undone() {
    // S-6
    let (builder, _) = dirty();
    let file = builder.build();
    let (summary, found) = inspect(&file);
    assert_eq!((summary.errors, summary.warnings), (0, 1), "{found:#?}");
    assert!(found[0].repairable && found[0].rule == "X-21");
    assert_eq!(found[0].offset, Some(MIB));
    let (result, after, undone) = mended(&file);
    assert_eq!(result.unwrap().len(), 1);
    assert_eq!(findings(&after), []);
    assert!(undone.to_vec() == file.to_vec());
    let disk = Disk::open_pages(&after, &reading()).unwrap();
    assert!(disk.read(5 * MIB, MIB).unwrap() == pattern(MIB, 9));
    // The parent's identity stays, for its children's sake.
    let before = Disk::open_pages(&file, &reading()).unwrap();
    assert_eq!(
        disk.image.facts().content_id,
        before.image.facts().content_id
    );
    // What the log brings is checked too, and then nothing is replayed.
    let (mut builder, at) = dirty();
    builder.set(3, 6, at);
    let mut page: Vec<u8> = builder
        .bat
        .iter()
        .flat_map(|one| one.to_le_bytes())
        .collect();
    page.resize(4096, 0);
    page[40..48].copy_from_slice(&(at | 6).to_le_bytes());
    builder.log.clear();
    let entry = LogEntry::new(GUID, 7, 0, builder.end()).data(3 * MIB, &page);
    builder.log_entry(0, &entry);
    let file = builder.build();
    assert_eq!(inspect(&file).0.errors, 1);
    let (result, after, _) = mended(&file);
    assert!(result.is_err() && after.to_vec() == file.to_vec());
}

#[test]
fn every_broken_field_of_a_log_entry_is_found() {
    // the one entry that is to be replayed; without it the log is none.
    let (builder, _) = dirty();
    let file = builder.build();
    for (name, field, len) in ENTRY_FIELDS {
        let mut value = vec![0; len];
        assert!(file.read(&mut value, MIB + field as u64));
        value[len - 1] ^= 0x11;
        let file = patched(&file, MIB + field as u64, &value);
        expect(&file, MIB, Severity::Error, "X-27");
        // Without signature or id it is no entry of this log at all.
        if !matches!(name, "signature" | "LogGuid") {
            expect(&file, MIB, Severity::Note, "X-23");
        }
    }
}

#[test]
fn a_file_that_ends_inside_its_last_block_is_made_longer() {
    //
    let mut builder = dynamic();
    builder.len = Some(builder.end() - MIB / 2);
    let file = builder.build();
    expect(&file, file.len(), Severity::Warning, "X-11");
    let (result, after, undone) = mended(&file);
    assert_eq!(result.unwrap().len(), 1);
    assert_eq!(after.len(), builder.end());
    assert_eq!(findings(&after), []);
    assert!(undone.to_vec() == file.to_vec());
}

/// Repairs; answers the findings that are gone, the file, and the file as it is after undoing.
fn mended(file: &Pages) -> (virtdisk_format::Result<Vec<Finding>>, Pages, Pages) {
    let memory = Arc::new(MemoryStore::from_pages(file.clone()));
    let store: Arc<dyn Store> = memory.clone();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let undo = {
        let kept = Arc::clone(&kept);
        Box::new(move |offset: u64, old: &[u8]| {
            kept.lock().push((offset, old.to_vec()));
            Ok(())
        })
    };
    let result = repair(&store, &named("vhdx"), undo);
    let after = memory.pages();
    let mut undone = after.clone();
    for (offset, old) in kept.lock().iter().rev() {
        undone.write(old, *offset);
    }
    undone.set_len(file.len());
    (result, after, undone)
}

#[test]
fn what_check_passes_can_be_opened_and_what_cannot_be_opened_is_found() {
    // Nonsense over every structure: the check and opening agree.
    let mut rng = Rng::announced("check_and_open_agree");
    let (file, mut sound, mut broken) = (differencing().build(), 0, 0);
    for round in 0..600 {
        let mut damaged = file.clone();
        for _ in 0..=rng.below(2) {
            let (start, len, sealed_len) = match rng.below(5) {
                0 => (HEADERS_AT[rng.below(2) as usize], 80, 4096),
                1 => (TABLES_AT[rng.below(2) as usize], 80, 65536),
                2 => (METADATA, 32 + 6 * 32, 0),
                3 => (ITEMS, 300, 0),
                _ => (3 * MIB, 96, 0),
            };
            let (size, field) = (1 + rng.below(4) as usize, rng.below(len - 4) as usize);
            let mut value = rng.bytes(size);
            if rng.one_in(3) {
                value.fill(0);
            }
            damaged = match sealed_len {
                0 => patched(&damaged, start + field as u64, &value),
                _ if rng.one_in(4) => patched(&damaged, start + field as u64, &value),
                sealed_len => sealed(&damaged, start, sealed_len, field, &value),
            };
        }
        let (summary, found) = inspect(&damaged);
        let opened = Disk::open_pages(&damaged, &reading());
        match &opened {
            Err(error) => assert!(summary.errors > 0, "{round}: {error:?}, {found:#?}"),
            Ok(disk) if summary.errors == 0 => {
                let mut extents = virtdisk_format::Extents::new();
                disk.image.map(0, disk.size(), &mut extents).unwrap();
            }
            Ok(_) => {}
        }
        if summary.errors == 0 {
            sound += 1;
        } else {
            broken += 1;
        }
    }
    assert!(sound > 30 && broken > 100, "{sound} {broken}");
}

#[test]
fn hostile_tables_are_checked_in_bounded_time() {
    // S-2, S-7 (5 s at most in a build for use): 64 TiB in blocks of 1 MiB, every entry wrong, and
    // every entry with an oddity.
    for entry in [4, 0x10_0002] {
        let mut builder = VhdxBuilder::dynamic(64 << 40, 1 << 20);
        builder.bat.truncate(8 << 20);
        builder.bat.fill(entry);
        let (file, start) = (builder.build(), Instant::now());
        let (_, found) = inspect(&file);
        assert!(found.len() < 2100, "{}", found.len());
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}

#[test]
fn windows_images_have_no_errors() {
    let names: Vec<&str> = SAMPLES
        .iter()
        .map(|sample| sample.name)
        .filter(|name| name.ends_with(".vhdx"))
        .collect();
    let corpus = match corpus_of(&names) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    for name in names {
        let file = Pages::from_bytes(&corpus.bytes(name));
        let (summary, found) = inspect(&file);
        let told = (summary.errors, summary.warnings);
        assert_eq!(told, (0, 0), "{name}: {found:#?}");
    }
}

#[test]
fn qemu_agrees_on_plain_images() {
    if !has_program("qemu-img") {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let qemu = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    // Theirs: required = 0 on both regions is all that is to say.
    for subformat in ["dynamic", "fixed"] {
        let (file, options) = (name("theirs.vhdx"), format!("subformat={subformat}"));
        let (code, said) = qemu(&["create", "-f", "vhdx", "-o", &options, &file, "20M"]);
        assert_eq!(code, Some(0), "{said}");
        let (summary, found) = inspect(&Pages::from_bytes(&std::fs::read(&file).unwrap()));
        assert_eq!((summary.errors, summary.warnings), (0, 0), "{found:#?}");
        assert!(found.iter().any(|one| one.rule == "X-6"), "{found:#?}");
    }
    // Ours, sound and with a log to be replayed, of which QEMU says so (exit code 2 or 3).
    let file = name("ours.vhdx");
    let (dirty, _) = dirty();
    for (pages, clean) in [(dynamic().build(), true), (dirty.build(), false)] {
        std::fs::write(&file, pages.to_vec()).unwrap();
        let (code, said) = qemu(&["check", "-f", "vhdx", &file]);
        assert_eq!(code == Some(0), clean, "{said}");
        let (summary, found) = inspect(&pages);
        assert_eq!(summary.warnings == 0, clean, "{found:#?}");
        // After our repair QEMU has nothing to say.
        std::fs::write(&file, mended(&pages).1.to_vec()).unwrap();
        let (code, said) = qemu(&["check", "-f", "vhdx", &file]);
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn a_repair_that_is_cut_leaves_an_image_with_the_same_disk() {
    // a damaged header, a damaged table, a log, a short file, and all of it.
    let whole = dynamic().build();
    let (log, _) = dirty();
    let log = log.build();
    let broken_header = [0xEE; 64];
    let mut all = log.clone();
    all.write(&broken_header, HEADERS_AT[0]);
    all.write(&broken_header, TABLES_AT[0]);
    for (what, file) in [
        ("header 1", patched(&whole, HEADERS_AT[0], &broken_header)),
        ("header 2", patched(&whole, HEADERS_AT[1], &broken_header)),
        ("table 1", patched(&whole, TABLES_AT[0], &broken_header)),
        ("table 2", patched(&whole, TABLES_AT[1], &broken_header)),
        ("log", log),
        ("all", all),
    ] {
        let before = Disk::open_pages(&file, &reading()).unwrap();
        let wanted = before.read(0, 10 * MIB).unwrap();
        let content_id = before.image.facts().content_id;
        let crash = Arc::new(CrashStore::from_pages(file.clone()));
        let store: Arc<dyn Store> = crash.clone();
        let none = Box::new(|_: u64, _: &[u8]| Ok(()));
        assert!(
            !repair(&store, &reading(), none).unwrap().is_empty(),
            "{what}"
        );
        drop(store);
        let crash = Arc::into_inner(crash).unwrap();
        let mut states = 0;
        for image in crash.crash_images().chain(crash.kill_images()) {
            let (summary, found) = inspect(&image.pages);
            assert_eq!(summary.errors, 0, "{what}, {}: {found:#?}", image.what);
            let disk = Disk::open_pages(&image.pages, &reading()).unwrap();
            assert!(disk.read(0, 10 * MIB).unwrap() == wanted, "{what}");
            assert_eq!(disk.image.facts().content_id, content_id);
            states += 1;
        }
        println!("{what}: {states} states, all good");
        assert!(states > 3, "{what}: {states}");
    }
}
