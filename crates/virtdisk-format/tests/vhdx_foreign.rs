//! Writing into VHDXs that others made: Windows' own of the corpus, new ones of QEMU, and files
//! whose second copy of something is damaged. Afterwards they read as their models and QEMU finds
//! no error in them.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::process::Command;
use std::sync::Arc;

use disk::{pattern, reading, writing};
use layered::Layered;
use virtdisk_format::{CreateOptions, Format, Kind, Store, create};
use virtdisk_testkit::corpus::corpus_of;
use virtdisk_testkit::{MemoryStore, Pages, Rng, SectorModel, Verb, has_program};

const MIB: u64 = 1 << 20;

/// Compares the start and the end of the disk and what a verb changed.
fn compare(layers: &Layered, model: &SectorModel, verb: &Verb) -> Result<(), String> {
    let (range, size) = (verb.range(), model.size());
    for at in [0, range.start, range.end, size] {
        let at = at.saturating_sub(8192).min(size - 16384) / 4096 * 4096;
        model.compare_part(at, 16384, &[], |buf, at| layers.read_at(buf, at))?;
    }
    Ok(())
}

/// Random verbs in two sessions, the first of them killed; then closed. Answers the file.
fn use_it(name: &str, start: Pages, parent: &SectorModel, rng: &mut Rng) -> (Pages, SectorModel) {
    let mut store = Arc::new(MemoryStore::from_pages(start));
    let mut layers = Layered::open(store.clone(), &writing(), parent).unwrap();
    let size = layers.size();
    let mut model = SectorModel::new(size);
    for at in (0..size).step_by(MIB as usize) {
        let piece = layers.read(at, MIB.min(size - at)).unwrap();
        if piece.iter().any(|&byte| byte != 0) {
            model.write(&piece, at);
        }
    }
    for step in 0..60 {
        // Half of the verbs go where data are.
        let end = if rng.one_in(2) {
            size
        } else {
            size.min(8 * MIB)
        };
        let verb = Verb::random(rng, end, 512, 3 * MIB);
        layers
            .apply(&verb)
            .unwrap_or_else(|error| panic!("{name}, {step}, {verb:?}: {error}"));
        model.apply(&verb);
        let held = compare(&layers, &model, &verb);
        held.unwrap_or_else(|error| panic!("{name}, {step}, {verb:?}: {error}"));
        if step == 30 {
            store = Arc::new(MemoryStore::from_pages(store.pages()));
            layers = Layered::open(store.clone(), &writing(), parent).unwrap();
        }
    }
    layers.disk.image.validate().unwrap();
    layers.disk.image.close().unwrap();
    let again = Layered::open(store.clone(), &reading(), parent).unwrap();
    assert_eq!(again.disk.image.facts().notices, [""; 0], "{name}");
    for at in (0..size).step_by(MIB as usize) {
        let len = MIB.min(size - at);
        let held = model.compare_part(at, len, &[], |buf, at| again.read_at(buf, at));
        held.unwrap_or_else(|error| panic!("{name}, closed: {error}"));
    }
    (store.pages(), model)
}

/// What QEMU says of a file, which must be that it is good.
fn qemu_checks(name: &str, pages: &Pages) {
    if !has_program("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.vhdx");
    std::fs::write(&path, pages.to_vec()).unwrap();
    let check = Command::new("qemu-img")
        .args(["check", "-f", "vhdx"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(said.contains("No errors"), "{name}: {check:?}");
}

#[test]
fn images_of_windows_are_written_like_our_own() {
    let names = [
        "fat-parent.vhdx",
        "fat-differential.vhdx",
        "ntfs-differential.vhdx",
        "ntfs-fixed.vhdx",
        "ntfs-dynamic.vhdx",
        "windows8-dynamic.vhdx",
    ];
    let corpus = match corpus_of(&names) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    let mut rng = Rng::announced("images_of_windows_are_written_like_our_own");
    for name in names {
        let start = Pages::from_bytes(&corpus.bytes(name));
        let parent = SectorModel::from_bytes(&pattern(4 * MIB, 0xAA));
        let (file, _) = use_it(name, start, &parent, &mut rng);
        if !name.contains("differential") {
            qemu_checks(name, &file);
        }
    }
}

#[test]
fn images_of_qemu_are_written_like_our_own() {
    // no region is required, a fixed disk has no block present.
    if !has_program("qemu-img") {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    let mut rng = Rng::announced("images_of_qemu_are_written_like_our_own");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.vhdx");
    for (kind, size) in [("dynamic", 12 * MIB), ("fixed", 9 * MIB + 512)] {
        let options = format!("subformat={kind},block_size=1M");
        let made = Command::new("qemu-img")
            .args(["create", "-f", "vhdx", "-o", &options])
            .arg(&path)
            .arg(size.to_string())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let start = Pages::from_bytes(&std::fs::read(&path).unwrap());
        let len = start.len();
        let (file, _) = use_it(kind, start, &SectorModel::new(512), &mut rng);
        qemu_checks(kind, &file);
        //
        assert!(
            kind == "dynamic" || file.len() >= len,
            "{} of {len}",
            file.len()
        );
    }
}

fn created() -> Arc<MemoryStore> {
    let options = CreateOptions {
        format: Format::Vhdx,
        kind: Kind::Dynamic,
        virtual_size: 4 * MIB,
        block_size: 1 << 20,
        identifier: None,
        created_unix: 0,
        sparse: true,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    };
    let store = Arc::new(MemoryStore::new());
    create(&*store, &options).unwrap();
    store
}

fn bytes(store: &MemoryStore, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    store.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

#[test]
fn a_damaged_region_table_is_put_right_through_the_log() {
    // either table, at the first change of any kind; before that it is left alone.
    for at in [192 << 10, 256 << 10] {
        for whole_block in [false, true] {
            let store = created();
            let sound = bytes(&store, 192 << 10, 64 << 10);
            if !whole_block {
                let layers = Layered::open(store.clone(), &writing(), &SectorModel::new(512));
                let layers = layers.unwrap();
                layers.write(&pattern(4 * MIB, 1), 0).unwrap();
                layers.disk.image.close().unwrap();
            }
            store.write_all_at(&[0xEE; 512], at + 4096).unwrap();
            let layers = Layered::open(store.clone(), &writing(), &SectorModel::new(512)).unwrap();
            assert!(bytes(&store, at, 64 << 10) != sound);
            layers.write(&pattern(512, 2), 512).unwrap();
            layers.disk.image.validate().unwrap();
            layers.disk.image.close().unwrap();
            for at in [192 << 10, 256 << 10] {
                assert!(bytes(&store, at, 64 << 10) == sound, "table at {at}");
            }
            let again = Layered::open(store, &reading(), &SectorModel::new(512)).unwrap();
            assert_eq!(again.disk.image.facts().notices, [""; 0]);
        }
    }
}

#[test]
fn a_damaged_header_is_put_right_with_the_first_change() {
    //
    for at in [64 << 10, 128 << 10] {
        let store = created();
        store.write_all_at(&[0xEE; 512], at).unwrap();
        let layers = Layered::open(store.clone(), &writing(), &SectorModel::new(512)).unwrap();
        layers.write(&pattern(512, 2), 512).unwrap();
        layers.disk.image.close().unwrap();
        let again = Layered::open(store, &reading(), &SectorModel::new(512)).unwrap();
        assert_eq!(again.disk.image.facts().notices, [""; 0]);
        assert!(again.read(512, 512).unwrap() == pattern(512, 2));
    }
}
