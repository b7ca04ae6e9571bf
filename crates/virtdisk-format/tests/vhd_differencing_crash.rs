//! Power cuts and kills of a differencing VHD, at every flush: whatever is left opens, every sector
//! that was not written shows the parent, what was flushed is there, and elsewhere stands either
//! the old sector or the new one (V-9, V-31, V-32, V-35).
//!
//! After a kill of the process every write that was answered is there, flushed or not.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use disk::{named, pattern, reading, writing};
use layered::{Layered, inherited};
use uuid::Uuid;
use virtdisk_format::{CreateOptions, Format, Kind, NewParent, Store, create};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::{CrashImage, CrashStore, MemoryStore, Pages, Rng, SectorModel, Verb};

const PARENT: [u8; 16] = *b"the parent's own";

fn options(virtual_size: u64, block_size: u32) -> CreateOptions {
    CreateOptions {
        format: Format::Vhd,
        kind: Kind::Differencing,
        virtual_size,
        block_size,
        identifier: None,
        created_unix: 0,
        sparse: false,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: Some(NewParent {
            content_id: Uuid::from_bytes(PARENT),
            relative_path: r".\parent.vhd".to_owned(),
            ..NewParent::default()
        }),
    }
}

fn created(virtual_size: u64, block_size: u32) -> Pages {
    let store = MemoryStore::new();
    create(&store, &options(virtual_size, block_size)).unwrap();
    store.pages()
}

/// A parent in which no two sectors are the same, a little shorter than its child.
fn parent_of(size: u64) -> SectorModel {
    SectorModel::from_bytes(&pattern(size - 1536, 0xAA))
}

/// Does the verbs, marking each when it is answered, and closes.
fn record(start: &Pages, parent: &SectorModel, verbs: &[Verb], close: bool) -> CrashStore {
    let store = Arc::new(CrashStore::from_pages(start.clone()));
    let layers = Layered::open(store.clone(), &writing(), parent).unwrap();
    for verb in verbs {
        layers.apply(verb).unwrap();
        store.mark();
    }
    if close {
        layers.disk.image.close().unwrap();
    }
    drop(layers);
    Arc::into_inner(store).unwrap()
}

/// What every state of one recording is held against.
struct Story<'a> {
    parent: &'a SectorModel,
    start: SectorModel,
    verbs: &'a [Verb],
    /// The trailing footer is good at every instant.
    sound: bool,
}

/// A state holds what it must, now and after it was used again.
fn check(image: &CrashImage, story: &Story<'_>) {
    let (what, parent) = (&image.what, story.parent);
    let mut model = story.start.clone();
    let verbs = story.verbs;
    verbs[..image.settled]
        .iter()
        .for_each(|verb| model.apply(verb));
    let later = &verbs[image.settled..(image.begun + 1).min(verbs.len())];
    let held = |layers: &Layered, step: &str| {
        let found = model.compare_after_crash(later, |buf, at| layers.read_at(buf, at));
        found.unwrap_or_else(|error| panic!("{what}, {step}: {error}"));
    };
    let layers = Layered::open_pages(&image.pages, &reading(), parent)
        .unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
    held(&layers, "reading");
    disk::must_pass_check(&image.pages, what);
    let notices = &layers.disk.image.facts().notices;
    assert!(!story.sound || notices.is_empty(), "{what}: {notices:?}");
    let store = Arc::new(MemoryStore::from_pages(image.pages.clone()));
    let layers = Layered::open(store.clone(), &writing(), parent)
        .unwrap_or_else(|error| panic!("{what}: does not open for writing: {error}"));
    held(&layers, "open for writing");
    let mut used = SectorModel::new(layers.size());
    used.write(&layers.read(0, layers.size()).unwrap(), 0);
    for at in [0, layers.size() / 2 / 512 * 512, layers.size() - 1024] {
        layers.write(&pattern(1024, 0xC4), at).unwrap();
        used.write(&pattern(1024, 0xC4), at);
    }
    layers.must_be(&used);
    layers.disk.image.validate().unwrap();
    layers.disk.image.close().unwrap();
    let again = Layered::open(store, &writing(), parent).unwrap();
    again.must_be(&used);
    let notices = &again.disk.image.facts().notices;
    assert_eq!(*notices, [""; 0], "{what}: not repaired");
}

/// All states of a recording, on two threads; answers how many there were.
fn check_all(name: &str, start: &Pages, verbs: &[Verb], close: bool) -> usize {
    let size = Layered::open_pages(start, &reading(), &SectorModel::new(512))
        .unwrap()
        .size();
    let parent = parent_of(size);
    let opened = Layered::open_pages(start, &reading(), &parent).unwrap();
    let story = Story {
        parent: &parent,
        start: SectorModel::from_bytes(&opened.read(0, size).unwrap()),
        verbs,
        sound: opened.disk.image.facts().notices.is_empty(),
    };
    let store = record(start, &parent, verbs, close);
    let (cuts, kills) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, story, cuts, kills) = (&store, &story, &cuts, &kills);
            scope.spawn(move || {
                for image in store.crash_images().skip(thread).step_by(2) {
                    check(&image, story);
                    cuts.fetch_add(1, Ordering::Relaxed);
                }
                for image in store.kill_images().skip(thread).step_by(2) {
                    check(&image, story);
                    kills.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (cuts, kills) = (cuts.into_inner(), kills.into_inner());
    println!("{name}: {cuts} states after a power cut, {kills} after a kill, all good");
    assert!(
        cuts > 10 && kills > 10,
        "{cuts} and {kills} states are too few to mean anything"
    );
    cuts + kills
}

fn write(offset: u64, len: u64) -> Verb {
    Verb::Write {
        offset,
        len,
        seed: offset ^ len,
    }
}

fn trim(offset: u64, len: u64) -> Verb {
    Verb::Trim { offset, len }
}

/// First writes to blocks, one over several blocks, sectors beside each other, overwrites, trims of
/// what is the parent's and of what is not, whole blocks.
fn story(block: u64) -> Vec<Verb> {
    vec![
        write(0, 512),
        write(512, 1024),
        write(1024, 512),
        Verb::Flush,
        write(3 * block - 512, 1024),
        write(5 * block, 2 * block),
        trim(5 * block, block),
        write(6 * block + 512, 512),
        Verb::Flush,
        trim(block * 2, 2 * block),
        write(9 * block, 512),
        write(10 * block + 1024, 1024),
        trim(512, 512),
        trim(10 * block + 512, 2048),
        write(5 * block + 512, 512),
        Verb::Flush,
        write(12 * block, 3 * block),
        write(15 * block + 512, 512),
        trim(9 * block, 7 * block),
        write(11 * block + 512, 1024),
    ]
}

#[test]
fn a_new_child_survives_a_cut_at_any_write() {
    for block in [4096, 65536] {
        let start = created(16 * block, block as u32);
        check_all("new child", &start, &story(block), true);
    }
}

#[test]
fn a_child_that_ends_within_a_block_survives_a_cut_at_any_write() {
    let start = created(15 * 4096 + 1024, 4096);
    let mut verbs = story(4096);
    verbs.truncate(15);
    verbs.extend([write(15 * 4096, 1024), trim(15 * 4096, 1024)]);
    check_all("short last block", &start, &verbs, true);
}

/// A packed file with blocks that are the child's in part and dirt where nobody owns it.
fn foreign() -> Pages {
    let mut builder = VhdBuilder::differencing(16 * 4096, 4096, PARENT);
    builder.block_with(2, &pattern(4096, 0xE1), vec![0b0101_0011]);
    builder.block_with(5, &pattern(4096, 0xE2), vec![0]);
    builder.block(6, &pattern(4096, 0xE3));
    builder.block(1, &pattern(4096, 0xEE));
    builder.block_with(9, &pattern(4096, 0xE4), vec![0b1000_0001]);
    builder.table[1] = u32::MAX;
    let end = builder.end();
    builder.patches.push((end, vec![0xEE; 5 * 4608]));
    builder.footer_at = Some(end + 5 * 4608);
    builder.build()
}

#[test]
fn a_foreign_child_survives_a_cut_at_any_write() {
    // S-10: neither dirt in slack and holes nor what lies under 0 bits ever shows.
    check_all("foreign child", &foreign(), &story(4096), true);
}

#[test]
fn bitmaps_of_several_sectors_survive_being_torn() {
    // 4 MiB blocks have bitmaps of 1024 bytes; the write sets bits in both sectors.
    let block = 4_u64 << 20;
    let mut builder = VhdBuilder::differencing(block + 4096, block as u32, PARENT);
    let mut bitmap = vec![0; 1024];
    (bitmap[511], bitmap[512]) = (0x5A, 0x5A);
    builder.block_with(0, &pattern(block, 0xE1), bitmap);
    let middle = 4096 * 512;
    let verbs = [
        write(middle - 4096, 8192),
        write(middle - 64 * 512, 100 * 512),
        Verb::Flush,
        write(block + 512, 512),
        trim(middle - 4096, 65536),
    ];
    check_all("torn bitmaps", &builder.build(), &verbs, true);
}

#[test]
fn a_repair_of_a_child_survives_a_cut_at_any_write() {
    // V-4, V-33
    let mut lost = VhdBuilder::differencing(16 * 4096, 4096, PARENT);
    lost.block_with(3, &pattern(4096, 1), vec![0x0F]);
    lost.write_footer = false;
    let mut short = lost.clone();
    short.write_footer = true;
    short.short_footer = true;
    for builder in [lost, short] {
        check_all("repair", &builder.build(), &story(4096)[..9], true);
    }
}

#[test]
fn a_session_after_a_kill_survives_a_cut() {
    let start = created(16 * 4096, 4096);
    let killed = record(&start, &parent_of(16 * 4096), &story(4096)[..10], false);
    for image in killed.kill_images().step_by(7) {
        check_all("after a kill", &image.pages, &story(4096)[5..13], true);
    }
}

#[test]
fn random_sessions_over_a_parent_survive_a_cut_at_any_write() {
    let mut rng = Rng::announced("random_sessions_over_a_parent_survive_a_cut_at_any_write");
    let mut states = 0;
    // How many states a session has is its verbs' affair; there must be this many of them.
    while states < 30_000 {
        let (block, start) = match rng.below(3) {
            0 => (4096, foreign()),
            1 => (1024, created(16 * 1024, 1024)),
            _ => (4096, created(16 * 4096, 4096)),
        };
        let verbs: Vec<Verb> = (0..60)
            .map(|_| Verb::random(&mut rng, 16 * block, 512, 3 * block))
            .collect();
        states += check_all("random", &start, &verbs, rng.one_in(2));
    }
    println!("{states} states of random sessions");
}

/// A store whose flush keeps what was written when it began, and then takes its time.
struct Slow(CrashStore);

impl Store for Slow {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }
    fn flush(&self) -> io::Result<()> {
        self.0.flush()?;
        std::thread::sleep(Duration::from_micros(500));
        Ok(())
    }
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.zero(offset, len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
}

#[test]
fn threads_over_a_parent_survive_a_cut_at_any_write() {
    // Writes that wait for a flush together: no bit is ever durable before the data of its sector,
    // whoever flushed, and no bit of another thread's write goes with one's own.
    let size = 8 * 4096;
    let (parent, start) = (parent_of(size), created(size, 4096));
    let store = Arc::new(Slow(CrashStore::from_pages(start)));
    let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
    let answered = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (layers, store, answered) = (&layers, &store, &answered);
            scope.spawn(move || {
                for number in (thread..64).step_by(4) {
                    let verb = write((number * 7) % 64 * 512, 512);
                    layers.apply(&verb).unwrap();
                    let mut answered = answered.lock().unwrap();
                    answered.push(verb);
                    store.0.mark();
                }
            });
        }
    });
    let verbs = answered.into_inner().unwrap();
    assert_eq!(verbs.len(), 64);
    let (mut states, empty) = (0, inherited(&parent, size));
    for image in store.0.crash_images().chain(store.0.kill_images()) {
        let mut model = empty.clone();
        let (settled, later) = verbs.split_at(image.settled);
        settled.iter().for_each(|verb| model.apply(verb));
        let layers = Layered::open_pages(&image.pages, &reading(), &parent).unwrap();
        let found = model.compare_after_crash(later, |buf, at| layers.read_at(buf, at));
        found.unwrap_or_else(|error| panic!("{}: {error}", image.what));
        states += 1;
    }
    println!("threads: {states} states, all good");
    assert!(states > 300, "{states}");
}

#[test]
fn a_cut_during_create_leaves_no_image_or_an_empty_child() {
    let store = CrashStore::new();
    create(&store, &options(16 * 4096, 4096)).unwrap();
    let parent = parent_of(16 * 4096);
    let model = inherited(&parent, 16 * 4096);
    let (mut states, mut opened) = (0, 0);
    for image in store.crash_images().chain(store.kill_images()) {
        if let Ok(layers) = Layered::open_pages(&image.pages, &named("vhd"), &parent)
            && layers.disk.image.facts().format == Format::Vhd
        {
            let facts = layers.disk.image.facts();
            let link = facts.parent.as_ref().unwrap();
            assert_eq!(link.identities, [Uuid::from_bytes(PARENT)]);
            assert_eq!(link.hints.len(), 2);
            layers.must_be(&model);
            opened += 1;
        }
        states += 1;
    }
    println!("create: {states} states, {opened} of them an image");
    assert!(states > 10 && opened > 0);
}
