//! Power cuts and kills of a dynamic VHD, at every flush: whatever is left opens, holds what was
//! flushed, and elsewhere either the old bytes or the new ones (V-31, V-32, V-4).
//!
//! The crash store keeps none of the writes between two flushes, each prefix, each one alone, all
//! but one, and torn ones. Every state is read, then opened for writing, written, closed and read
//! again.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;

use disk::{Disk, pattern, reading, writing};
use virtdisk_format::{CreateOptions, Format, Kind, create};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::{CrashImage, CrashStore, MemoryStore, Pages, Rng, SectorModel, Verb};

fn options(virtual_size: u64, block_size: u32) -> CreateOptions {
    CreateOptions {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        virtual_size,
        block_size,
        identifier: None,
        created_unix: 0,
        sparse: false,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    }
}

fn created(virtual_size: u64, block_size: u32) -> Pages {
    let store = MemoryStore::new();
    create(&store, &options(virtual_size, block_size)).unwrap();
    store.pages()
}

/// Does the verbs, marking each when it is answered, and closes.
fn record(start: &Pages, verbs: &[Verb], close: bool) -> CrashStore {
    let store = Arc::new(CrashStore::from_pages(start.clone()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    for verb in verbs {
        disk.apply(verb).unwrap();
        store.mark();
    }
    if close {
        disk.image.close().unwrap();
    }
    drop(disk);
    Arc::into_inner(store).unwrap()
}

/// A state holds what it must, now and after it was used again. Where the session started `sound`
/// the trailing footer is good at every instant, and the copy at 0 is never needed.
fn check(image: &CrashImage, start: &SectorModel, verbs: &[Verb], sound: bool) {
    let what = &image.what;
    let mut model = start.clone();
    verbs[..image.settled]
        .iter()
        .for_each(|verb| model.apply(verb));
    let later = &verbs[image.settled..(image.begun + 1).min(verbs.len())];
    let held = |disk: &Disk, step: &str| {
        let found = model.compare_after_crash(later, |buf, at| disk.read_at(buf, at));
        found.unwrap_or_else(|error| panic!("{what}, {step}: {error}"));
    };
    let disk = Disk::open_pages(&image.pages, &reading())
        .unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
    held(&disk, "reading");
    disk::must_pass_check(&image.pages, what);
    let notices = &disk.image.facts().notices;
    assert!(!sound || notices.is_empty(), "{what}: {notices:?}");
    let store = Arc::new(MemoryStore::from_pages(image.pages.clone()));
    let disk = Disk::open(store.clone(), &writing())
        .unwrap_or_else(|error| panic!("{what}: does not open for writing: {error}"));
    held(&disk, "open for writing");
    let mut used = SectorModel::new(disk.size());
    let whole = disk.read(0, disk.size()).unwrap();
    used.write(&whole, 0);
    for at in [0, disk.size() / 2 / 512 * 512, disk.size() - 1024] {
        disk.write(&pattern(1024, 0xC4), at).unwrap();
        used.write(&pattern(1024, 0xC4), at);
        disk.must_be(&used);
    }
    disk.image.validate().unwrap();
    disk.image.close().unwrap();
    let again = Disk::open(store, &writing()).unwrap();
    again.must_be(&used);
    assert_eq!(again.image.facts().notices, [""; 0], "{what}: not repaired");
}

/// All states of a recording; answers how many there were.
fn check_all(name: &str, start: &Pages, verbs: &[Verb], close: bool) {
    let opened = Disk::open_pages(start, &reading()).unwrap();
    let model = SectorModel::from_bytes(&opened.read(0, opened.size()).unwrap());
    let sound = opened.image.facts().notices.is_empty();
    let store = record(start, verbs, close);
    let (mut cuts, mut kills) = (0, 0);
    for image in store.crash_images() {
        check(&image, &model, verbs, sound);
        cuts += 1;
    }
    for image in store.kill_images() {
        check(&image, &model, verbs, sound);
        kills += 1;
    }
    println!("{name}: {cuts} states after a power cut, {kills} after a kill, all good");
    assert!(
        cuts > 10 && kills > 10,
        "{cuts} and {kills} states are too few to mean anything"
    );
}

fn write(offset: u64, len: u64) -> Verb {
    Verb::Write {
        offset,
        len,
        seed: offset ^ len,
    }
}

/// First writes to blocks, one over several blocks, overwrites, trims of wholes and parts, reuse.
fn story(block: u64) -> Vec<Verb> {
    vec![
        write(0, 512),
        write(512, 1024),
        Verb::Flush,
        write(3 * block - 512, 1024),
        write(5 * block, 2 * block),
        Verb::Trim {
            offset: 5 * block,
            len: block,
        },
        write(6 * block + 512, 512),
        Verb::Flush,
        Verb::Trim {
            offset: block * 2,
            len: 2 * block,
        },
        write(9 * block, 512),
        write(10 * block, 512),
        Verb::Trim {
            offset: 512,
            len: 512,
        },
        write(5 * block + 512, 512),
        Verb::Flush,
        write(12 * block, 3 * block),
        write(15 * block + 512, 512),
        Verb::Trim {
            offset: 9 * block,
            len: 7 * block,
        },
    ]
}

#[test]
fn a_new_disk_survives_a_cut_at_any_write() {
    // V-31, V-32
    for block in [4096, 65536] {
        let start = created(16 * block, block as u32);
        check_all("new disk", &start, &story(block), true);
    }
}

#[test]
fn a_disk_that_ends_within_a_block_survives_a_cut_at_any_write() {
    let start = created(15 * 4096 + 1024, 4096);
    let mut verbs = story(4096);
    verbs.truncate(13);
    verbs.extend([
        write(15 * 4096, 1024),
        Verb::Trim {
            offset: 15 * 4096,
            len: 1024,
        },
    ]);
    check_all("short last block", &start, &verbs, true);
}

#[test]
fn a_packed_disk_with_partial_blocks_survives_a_cut_at_any_write() {
    // V-11: blocks become whole; V-30: the footer stands directly behind the last block.
    let mut builder = VhdBuilder::dynamic(16 * 4096, 4096);
    builder.block_with(2, &pattern(4096, 0xE1), vec![0b0101_0011]);
    builder.block_with(5, &pattern(4096, 0xE2), vec![0]);
    builder.block(6, &pattern(4096, 0xE3));
    builder.footer_at = Some(builder.end());
    check_all("packed and partial", &builder.build(), &story(4096), true);
}

#[test]
fn bitmaps_of_several_sectors_survive_being_torn() {
    // 4 MiB blocks have bitmaps of 1024 bytes; holes under both sectors.
    let block = 4_u64 << 20;
    let mut builder = VhdBuilder::dynamic(block + 4096, block as u32);
    let mut bitmap = vec![0xFF; 1024];
    (bitmap[7], bitmap[519]) = (0x5A, 0x5A);
    builder.block_with(0, &pattern(block, 0xE1), bitmap);
    let verbs = [
        write(56 * 512, 4096),
        write((519 * 8 + 1) * 512, 512),
        Verb::Flush,
        write(block + 512, 512),
        Verb::Flush,
        write(block + 1024, 512),
    ];
    check_all("torn bitmaps", &builder.build(), &verbs, true);
}

#[test]
fn dirt_in_slack_and_holes_never_shows_after_a_cut() {
    // S-10
    let mut builder = VhdBuilder::dynamic(16 * 4096, 4096);
    builder.block(0, &pattern(4096, 1));
    builder.block(1, &pattern(4096, 0xEE));
    builder.block(2, &pattern(4096, 2));
    builder.table[1] = u32::MAX;
    let end = builder.end();
    builder.patches.push((end, vec![0xEE; 9 * 8192]));
    builder.footer_at = Some(end + 9 * 8192 + 3584);
    check_all("dirty slack", &builder.build(), &story(4096), true);
}

#[test]
fn a_repair_survives_a_cut_at_any_write() {
    // V-4, V-33: trailing footer first, copy last.
    let mut lost = VhdBuilder::dynamic(16 * 4096, 4096);
    lost.block(3, &pattern(4096, 1));
    lost.write_footer = false;
    let mut differs = lost.clone();
    differs.write_footer = true;
    let mut copy = differs.footer.clone();
    copy.unique_id = [1; 16];
    differs.copy = Some(copy);
    let mut short = differs.clone();
    short.copy = None;
    short.short_footer = true;
    let mut short_and_differs = differs.clone();
    short_and_differs.short_footer = true;
    for builder in [lost, differs, short, short_and_differs] {
        check_all("repair", &builder.build(), &story(4096)[..8], true);
    }
}

#[test]
fn a_session_after_a_kill_survives_a_cut() {
    let killed = record(&created(16 * 4096, 4096), &story(4096)[..8], false);
    for image in killed.kill_images().step_by(7) {
        check_all("after a kill", &image.pages, &story(4096)[5..12], true);
    }
}

#[test]
fn random_sessions_survive_a_cut_at_any_write() {
    let mut rng = Rng::announced("random_sessions_survive_a_cut_at_any_write");
    for _ in 0..4 {
        let start = created(16 * 4096, 4096);
        let verbs: Vec<Verb> = (0..25)
            .map(|_| Verb::random(&mut rng, 16 * 4096, 512, 3 * 4096))
            .collect();
        check_all("random", &start, &verbs, rng.one_in(2));
    }
}

#[test]
fn a_cut_during_create_leaves_no_image_or_an_empty_one() {
    let store = CrashStore::new();
    create(&store, &options(16 * 4096, 4096)).unwrap();
    let (mut states, mut opened) = (0, 0);
    for image in store.crash_images().chain(store.kill_images()) {
        let named = disk::named("vhd");
        if let Ok(disk) = Disk::open_pages(&image.pages, &named) {
            disk.must_be(&SectorModel::new(16 * 4096));
            opened += 1;
        }
        states += 1;
    }
    println!("create: {states} states, {opened} of them an image");
    assert!(states > 10 && opened > 0);
}
