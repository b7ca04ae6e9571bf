//! Checking and repairing VHDs: every field that can be broken is found at its offset, what is
//! sound has no findings, and a repair can be undone to the byte.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;
use std::time::Instant;

use disk::{Disk, named, pattern, writing};
use parking_lot::Mutex;
use virtdisk_format::{Finding, Format, Kind, Severity, Store, Summary, check, repair};
use virtdisk_testkit::corpus::{SAMPLES, corpus_of};
use virtdisk_testkit::vhd_builder::{
    FOOTER_CHECKSUM_AT, FOOTER_FIELDS, HEADER_CHECKSUM_AT, HEADER_FIELDS, Locator, VhdBuilder,
    reseal,
};
use virtdisk_testkit::{MemoryStore, Pages, Rng};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 65536;

/// A disk of 4 MiB, whose geometry the builder knows.
fn dynamic() -> VhdBuilder {
    let mut builder = VhdBuilder::dynamic(4 * MIB, BLOCK as u32);
    builder.block(3, &pattern(BLOCK, 3));
    builder.block(0, &pattern(BLOCK, 4));
    builder
}

fn fixed() -> VhdBuilder {
    VhdBuilder::fixed(&pattern(4 * MIB, 1))
}

fn inspect(file: &Pages) -> (Summary, Vec<Finding>) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::from_pages(file.clone()));
    let mut findings = Vec::new();
    let summary = check(&store, &named("vhd"), &mut |finding| findings.push(finding)).unwrap();
    (summary, findings)
}

fn findings(file: &Pages) -> Vec<Finding> {
    inspect(file).1
}

/// The one finding at `offset`, which must be there.
#[track_caller]
fn at(findings: &[Finding], offset: u64) -> Finding {
    let found = findings.iter().find(|one| one.offset == Some(offset));
    found
        .unwrap_or_else(|| panic!("nothing at {offset}: {findings:#?}"))
        .clone()
}

/// `file` with other bytes at `offset`, and the structure of `len` bytes around it sealed again.
fn damaged(file: &Pages, structure: (u64, usize, usize), field: usize, value: &[u8]) -> Pages {
    let (start, len, seal) = structure;
    let mut bytes = vec![0; len];
    assert!(file.read(&mut bytes, start));
    bytes[field..field + value.len()].copy_from_slice(value);
    if !(seal..seal + 4).contains(&field) {
        reseal(&mut bytes, seal);
    }
    let mut file = file.clone();
    file.write(&bytes, start);
    file
}

#[test]
fn a_sound_image_has_no_findings() {
    for builder in [fixed(), dynamic()] {
        let (summary, found) = inspect(&builder.build());
        assert_eq!(found, []);
        assert_eq!((summary.errors, summary.warnings, summary.notes), (0, 0, 0));
        assert_eq!(summary.format, Format::Vhd);
        let kind = if builder.header.is_some() {
            Kind::Dynamic
        } else {
            Kind::Fixed
        };
        assert_eq!(summary.kind, Some(kind));
    }
}

#[test]
fn every_broken_footer_field_is_found_at_its_offset() {
    // V-3, V-5, V-6, V-7, V-14, V-21, V-41: sealed, so that only the field itself tells.
    let file = fixed().build();
    let footer = (4 * MIB, 512, FOOTER_CHECKSUM_AT);
    for (field, value, severity, rule) in [
        (8, &[0, 0, 0, 0][..], Severity::Warning, "V-7"),
        (12, &[0, 2, 0, 0], Severity::Error, ""),
        (16, &[0; 8], Severity::Warning, "V-6"),
        (
            16,
            &[0, 0, 0, 0, 255, 255, 255, 255],
            Severity::Warning,
            "V-7",
        ),
        (36, b"Plan", Severity::Note, "V-41"),
        (40, &[0, 0, 0, 0, 0, 0, 0, 1], Severity::Note, "V-41"),
        (48, &[0; 8], Severity::Error, "V-1"),
        (48, &[0, 0, 0, 0, 0, 0, 0, 1], Severity::Error, "V-1"),
        (56, &[0, 1], Severity::Note, "V-41"),
        (60, &[0, 0, 0, 9], Severity::Error, "V-6"),
        (64, &[1, 2, 3, 4], Severity::Error, "V-3"),
        (68, &[0; 16], Severity::Note, "V-14"),
        (84, &[7], Severity::Warning, "V-21"),
        (84, &[1], Severity::Note, "V-21"),
        (85, &[1], Severity::Warning, "V-7"),
        (200, &[1], Severity::Warning, "V-7"),
    ] {
        let found = findings(&damaged(&file, footer, field, value));
        let here: Vec<&Finding> = found
            .iter()
            .filter(|one| one.offset == Some(4 * MIB + field as u64))
            .collect();
        assert!(
            here.iter()
                .any(|one| one.severity == severity && one.rule == rule),
            "{field}: {found:#?}"
        );
    }
    // Heads and sectors per track are parts of the one geometry.
    for field in [58, 59] {
        at(
            &findings(&damaged(&file, footer, field, &[99])),
            4 * MIB + 56,
        );
    }
    // No cookie, no VHD.
    let found = findings(&damaged(&file, footer, 0, b"x"));
    assert_eq!(at(&found, 4 * MIB).rule, "V-4");
}

#[test]
fn a_field_without_a_new_checksum_is_found_by_the_checksum() {
    // V-3
    let (alone, file) = (fixed().build(), dynamic().build());
    for (name, field, len) in FOOTER_FIELDS.into_iter().skip(1) {
        let mut damaged = alone.clone();
        let mut bytes = vec![0; len];
        assert!(alone.read(&mut bytes, 4 * MIB + field as u64));
        bytes[len - 1] ^= 0x55;
        damaged.write(&bytes, 4 * MIB + field as u64);
        // XenServer's hidden byte may be outside the sum (1.10).
        at(&findings(&damaged), 4 * MIB + 64);
        if name == "hidden" {
            assert_eq!(inspect(&damaged).0.errors, 0);
        }
    }
    for (_, field, len) in HEADER_FIELDS.into_iter().skip(1) {
        let mut damaged = file.clone();
        let mut bytes = vec![0; len];
        assert!(file.read(&mut bytes, 512 + field as u64));
        bytes[len - 1] ^= 0x55;
        damaged.write(&bytes, 512 + field as u64);
        let found = at(&findings(&damaged), 512 + 36);
        assert_eq!((found.severity, found.rule), (Severity::Error, "V-3"));
    }
}

#[test]
fn a_copy_that_differs_is_found_field_by_field() {
    // V-4: the copy with a right and with a wrong checksum, and the footer with a wrong one.
    let file = dynamic().build();
    let end = file.len() - 512;
    for (name, field, len) in FOOTER_FIELDS {
        for (start, sealed) in [(0, true), (0, false), (end, false)] {
            let mut bytes = vec![0; 512];
            assert!(file.read(&mut bytes, start));
            bytes[field..field + len]
                .iter_mut()
                .for_each(|byte| *byte ^= 0x80);
            if sealed {
                reseal(&mut bytes, FOOTER_CHECKSUM_AT);
            }
            let mut damaged = file.clone();
            damaged.write(&bytes, start);
            let found = findings(&damaged);
            if name == "hidden" && start == end {
                // The footer counts, and its copy is what differs.
                assert!(at(&found, 85).repairable, "{found:#?}");
            } else if name == "cookie" && start == end {
                assert!(at(&found, end).repairable, "{found:#?}");
            } else if name != "checksum" || !sealed {
                let found = at(&found, start + field as u64);
                assert!(found.repairable && found.rule == "V-4", "{name}: {found:?}");
                assert_eq!(found.severity, Severity::Warning);
            }
        }
    }
}

#[test]
fn every_broken_header_field_is_found_at_its_offset() {
    // V-6, V-7, V-8, V-12, V-34, S-1
    let file = dynamic().build();
    let header = (512, 1024, HEADER_CHECKSUM_AT);
    for (field, value, severity, rule) in [
        (0, &b"cxsparsf"[..], Severity::Error, "V-6"),
        (8, &[0; 8], Severity::Note, "V-7"),
        (16, &[0xFF; 8], Severity::Error, "S-1"),
        (16, &[0, 0, 0, 0, 0, 0, 2, 0], Severity::Error, "S-1"),
        (16, &[0, 0, 0, 0, 0, 0, 6, 1], Severity::Error, "S-1"),
        (24, &[0, 3, 0, 0], Severity::Error, ""),
        (28, &[0, 0, 0, 63], Severity::Error, "V-12"),
        (28, &[0, 0, 0, 65], Severity::Note, "V-34"),
        (32, &[0, 0, 0, 0], Severity::Error, "V-12"),
        (32, &[0, 0, 3, 0], Severity::Error, "V-12"),
        (36, &[1, 2, 3, 4], Severity::Error, "V-3"),
        (40, &[1; 16], Severity::Note, "V-8"),
        (56, &[1; 4], Severity::Note, "V-8"),
        (60, &[1], Severity::Warning, "V-7"),
        (64, &[0, 65], Severity::Note, "V-8"),
        (576, b"W2ru", Severity::Note, "V-8"),
        (600, b"W2ru", Severity::Note, "V-8"),
        (900, &[1], Severity::Warning, "V-7"),
    ] {
        let found = findings(&damaged(&file, header, field, value));
        let place = match field {
            600 => 512 + 576,
            field => 512 + field as u64,
        };
        let fits = |one: &&Finding| one.severity == severity && one.rule == rule;
        let found = found
            .iter()
            .filter(|one| one.offset == Some(place))
            .find(fits)
            .unwrap_or_else(|| panic!("{field}: {found:#?}"));
        assert!(!found.repairable);
    }
}

#[test]
fn locators_that_lie_wrong_are_found() {
    // V-17, V-18
    for (index, offset, on) in [
        (0, u64::MAX - 10, "outside the file"),
        (3, 0, "footer copy"),
        (7, 0x600, "block allocation table"),
    ] {
        let mut builder = dynamic();
        builder.header().locators[index] = Locator {
            platform_code: u32::from_be_bytes(*b"W2ku"),
            data_space: 4096,
            data_length: 84,
            reserved: 0,
            data_offset: offset,
        };
        let found = findings(&builder.build());
        let found = at(&found, 512 + 576 + index as u64 * 24 + 16);
        assert!(found.message.contains(on), "{found:?}");
        assert_eq!((found.severity, found.rule), (Severity::Warning, "V-18"));
    }
}

#[test]
fn every_broken_table_entry_is_found_at_its_offset() {
    // V-12, S-1, S-3; all of them in one go.
    let mut builder = dynamic();
    let end = (builder.next_place() / 512) as u32;
    for (block, sector) in [(5, 0), (6, 1), (7, 3), (8, end), (9, 0xFFFF_FFFE)] {
        builder.table[block] = sector;
    }
    builder.table[10] = builder.table[3] + 7;
    let (summary, found) = inspect(&builder.build());
    assert_eq!(summary.errors, 6, "{found:#?}");
    for block in 5..10 {
        let found = at(&found, 0x600 + block * 4);
        assert_eq!(
            (found.severity, found.rule),
            (Severity::Error, "S-1"),
            "{found:?}"
        );
        assert!(found.found.starts_with("bytes "), "{found:?}");
    }
    let shared = at(&found, u64::from(builder.table[10]) * 512);
    assert_eq!((shared.severity, shared.rule), (Severity::Error, "S-3"));
}

#[test]
fn a_file_of_the_wrong_length_is_found() {
    // S-1, V-5, V-39
    let mut short = fixed();
    short.data.truncate(2 * MIB as usize);
    let found = findings(&short.build());
    assert_eq!(at(&found, 2 * MIB).severity, Severity::Error);
    let mut long = fixed();
    long.footer_at = Some(4 * MIB + 1024);
    let found = at(&findings(&long.build()), 4 * MIB);
    assert_eq!(
        (found.severity, found.found.as_str()),
        (Severity::Note, "1024")
    );
    for (mut builder, repairable) in [(fixed(), false), (dynamic(), true)] {
        builder.short_footer = true;
        let found = findings(&builder.build());
        let found = found.iter().find(|one| one.rule == "V-5").unwrap();
        assert_eq!(
            (found.severity, found.repairable),
            (Severity::Warning, repairable)
        );
    }
}

#[test]
fn what_check_passes_can_be_opened_and_what_cannot_be_opened_is_found() {
    // Every field of every structure with nonsense: the check and opening for writing agree.
    let mut rng = Rng::announced("check_and_open_agree");
    let (file, mut sound, mut broken) = (dynamic().build(), 0, 0);
    let places = [
        (0, 512, FOOTER_CHECKSUM_AT, &FOOTER_FIELDS[..]),
        (
            file.len() - 512,
            512,
            FOOTER_CHECKSUM_AT,
            &FOOTER_FIELDS[..],
        ),
        (512, 1024, HEADER_CHECKSUM_AT, &HEADER_FIELDS[..]),
    ];
    for (start, len, seal, fields) in places {
        for &(name, field, size) in fields {
            for round in 0..6 {
                let mut value = rng.bytes(size);
                match round {
                    0 => value.fill(0),
                    1 => value.fill(0xFF),
                    2 => value[..size - 1].fill(0),
                    _ => {}
                }
                let damaged = damaged(&file, (start, len, seal), field, &value);
                let (summary, found) = inspect(&damaged);
                let opened = Disk::open_pages(&damaged, &writing());
                assert_eq!(
                    summary.errors == 0,
                    opened.is_ok(),
                    "{name} at {start}: {:?}, {found:#?}",
                    opened.err()
                );
                if summary.errors == 0 {
                    sound += 1;
                } else {
                    broken += 1;
                }
            }
        }
    }
    assert!(sound > 50 && broken > 50, "{sound} {broken}");
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
    let result = repair(&store, &named("vhd"), undo);
    let after = memory.pages();
    let mut undone = after.clone();
    for (offset, old) in kept.lock().iter().rev() {
        undone.write(old, *offset);
    }
    undone.set_len(file.len());
    (result, after, undone)
}

fn same(one: &Pages, other: &Pages) -> bool {
    one.to_vec() == other.to_vec()
}

#[test]
fn a_repair_mends_either_footer_and_can_be_undone() {
    // V-4, V-5
    let whole = dynamic().build();
    let end = whole.len() - 512;
    let mut cases = Vec::new();
    for (start, bytes) in [
        (0, vec![0xEE; 512]),
        (30, vec![1]),
        (end, vec![0xEE; 512]),
        (end + 30, vec![1]),
    ] {
        let mut file = whole.clone();
        file.write(&bytes, start);
        cases.push(file);
    }
    let mut cut = whole.clone();
    cut.set_len(end);
    cases.push(cut);
    let mut cut = whole.clone();
    cut.set_len(whole.len() - 1);
    cases.push(cut);
    let mut differing = dynamic();
    differing.copy = Some(differing.footer.clone());
    differing.footer.unique_id = [9; 16];
    cases.push(differing.build());
    for (number, file) in cases.iter().enumerate() {
        assert_ne!(findings(file), [], "{number}");
        let (result, after, undone) = mended(file);
        let result = result.unwrap();
        assert!(
            !result.is_empty() && result.iter().all(|one| one.repairable),
            "{number}"
        );
        assert_eq!(findings(&after), [], "{number}");
        assert!(same(&undone, file), "{number}: not undone");
        let disk = Disk::open_pages(&after, &named("vhd")).unwrap();
        assert!(disk.read(3 * BLOCK, BLOCK).unwrap() == pattern(BLOCK, 3));
    }
}

#[test]
fn a_repair_touches_nothing_that_is_sound_or_beyond_it() {
    let whole = dynamic().build();
    let (result, after, _) = mended(&whole);
    assert_eq!(result.unwrap(), []);
    assert!(same(&after, &whole));
    // A damaged copy, and a block on the header: which one to believe is nobody's guess.
    let mut builder = dynamic();
    builder.table[7] = 1;
    builder.patches.push((30, vec![1]));
    let file = builder.build();
    let (result, after, _) = mended(&file);
    let error = result.unwrap_err();
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert!(same(&after, &file));
    // Both footers gone.
    let mut file = whole.clone();
    file.write(&[1], 30);
    file.write(&[1], whole.len() - 512 + 30);
    let (result, after, _) = mended(&file);
    assert!(result.is_err() && same(&after, &file));
}

#[test]
fn a_repair_whose_undo_fails_writes_nothing() {
    let mut file = dynamic().build();
    file.write(&[1], 30);
    let memory = Arc::new(MemoryStore::from_pages(file.clone()));
    let store: Arc<dyn Store> = memory.clone();
    let full = Box::new(|_: u64, _: &[u8]| Err(std::io::ErrorKind::StorageFull.into()));
    assert!(repair(&store, &named("vhd"), full).is_err());
    assert!(same(&memory.pages(), &file));
}

#[test]
fn hostile_tables_are_checked_in_bounded_time() {
    // S-2, S-7: a table of 128 Mi entries in holes, and 8 Mi blocks that all share one place.
    let mut holes = VhdBuilder::dynamic(MIB, 512);
    holes.footer.current_size = 64 << 30;
    holes.header().max_table_entries = 1 << 27;
    holes.table.clear();
    holes.footer_at = Some(1 << 30);
    let mut shared = VhdBuilder::dynamic(512 << 20, 512);
    let end = (shared.end() / 512) as u32;
    shared.table.fill(end);
    shared.footer_at = Some(shared.end() + 4096);
    for builder in [holes, shared] {
        let (file, start) = (builder.build(), Instant::now());
        let (summary, found) = inspect(&file);
        assert!(summary.errors > 0 && found.len() < 1100, "{}", found.len());
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}

#[test]
fn windows_images_have_no_errors() {
    let names: Vec<&str> = SAMPLES
        .iter()
        .map(|sample| sample.name)
        .filter(|name| name.ends_with(".vhd"))
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
