//! Power cuts and kills of dynamic and differencing VHDXs, at every flush: whatever is left opens,
//! its log replays, it holds what was flushed, and elsewhere either the old bytes or the new ones
//! (X-31, X-60 to X-70, S-10). After a kill of the process every answered write is there.
//!
//! Every state is read with its log replayed in memory and in the file; every fourth one is
//! written, closed and read again too. Of the disk those parts are compared that any verb changed,
//! and the edges of all blocks; of every 64th state of a small disk all of it.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use disk::{named, pattern, reading, writing};
use layered::{Layered, inherited};
use uuid::Uuid;
use virtdisk_format::{CreateOptions, Format, Kind, NewParent, create};
use virtdisk_testkit::{CrashImage, CrashStore, MemoryStore, Pages, Rng, SectorModel, Verb};

const BLOCK: u64 = 1 << 20;

fn options(kind: Kind, virtual_size: u64, sector: u32) -> CreateOptions {
    let parent = NewParent {
        content_id: Uuid::from_u128(7),
        relative_path: r".\parent.vhdx".to_owned(),
        ..NewParent::default()
    };
    CreateOptions {
        format: Format::Vhdx,
        kind,
        virtual_size,
        block_size: BLOCK as u32,
        identifier: None,
        created_unix: 0,
        sparse: true,
        logical_sector_size: sector,
        physical_sector_size: 0,
        parent: (kind == Kind::Differencing).then_some(parent),
    }
}

fn created(kind: Kind, virtual_size: u64, sector: u32) -> Pages {
    let store = MemoryStore::new();
    create(&store, &options(kind, virtual_size, sector)).unwrap();
    store.pages()
}

/// A parent in which no two sectors are the same, with a hole, shorter than its child.
fn parent_of(kind: Kind, size: u64) -> SectorModel {
    if kind != Kind::Differencing {
        return SectorModel::new(512);
    }
    let mut parent = SectorModel::from_bytes(&pattern(size.min(6 * BLOCK) - 1536, 0xAA));
    parent.zero(BLOCK / 2, BLOCK / 4);
    parent
}

/// What is recorded, and what all states of it are held against.
struct Story {
    parent: SectorModel,
    start: Pages,
    verbs: Vec<Verb>,
    close: bool,
}

impl Story {
    fn new(kind: Kind, start: Pages, verbs: Vec<Verb>, close: bool) -> Story {
        let size = Layered::open_pages(&start, &reading(), &SectorModel::new(512))
            .unwrap()
            .size();
        Story {
            parent: parent_of(kind, size),
            start,
            verbs,
            close,
        }
    }

    /// Does the verbs, marking each when it is answered, and closes.
    fn record(&self) -> CrashStore {
        let store = Arc::new(CrashStore::from_pages(self.start.clone()));
        let layers = Layered::open(store.clone(), &writing(), &self.parent).unwrap();
        for verb in &self.verbs {
            layers
                .apply(verb)
                .unwrap_or_else(|error| panic!("{verb:?}: {error}"));
            store.mark();
        }
        if self.close {
            layers.disk.image.close().unwrap();
        }
        drop(layers);
        Arc::into_inner(store).unwrap()
    }

    /// The parts of the disk that are compared: around the edges of every verb and every block.
    fn parts(&self, size: u64) -> Vec<(u64, u64)> {
        let edges = self.verbs.iter().flat_map(|verb| {
            let range = verb.range();
            [range.start, range.end]
        });
        let blocks = (0..=size.min(16 * BLOCK)).step_by(BLOCK as usize);
        let mut parts: Vec<u64> = edges
            .chain(blocks)
            .map(|edge| edge.saturating_sub(2048) / 4096 * 4096)
            .flat_map(|at| [at, at + 4096])
            .filter(|&at| at < size)
            .collect();
        parts.sort_unstable();
        parts.dedup();
        parts
            .into_iter()
            .map(|at| (at, 4096.min(size - at)))
            .collect()
    }

    /// Checks all states on two threads; answers how many there were.
    fn check_all(&self, name: &str) -> usize {
        let store = self.record();
        let opened = Layered::open_pages(&self.start, &reading(), &self.parent).unwrap();
        let mut start = SectorModel::new(opened.size());
        start.write(&opened.read(0, opened.size()).unwrap(), 0);
        let parts = self.parts(opened.size());
        let (cuts, kills) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (store, parts, cuts, kills, start) = (&store, &parts, &cuts, &kills, &start);
                scope.spawn(move || {
                    let mut checker = Checker::new(self, parts, start);
                    for image in store.crash_images().skip(thread).step_by(2) {
                        checker.check(&image);
                        cuts.fetch_add(1, Ordering::Relaxed);
                    }
                    let mut checker = Checker::new(self, parts, start);
                    for image in store.kill_images().skip(thread).step_by(2) {
                        checker.check(&image);
                        kills.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let (cuts, kills) = (cuts.into_inner(), kills.into_inner());
        println!("{name}: {cuts} states after a power cut, {kills} after a kill, all good");
        assert!(
            cuts > 10 && kills > 10,
            "{cuts} and {kills} states are too few"
        );
        cuts + kills
    }
}

/// Holds states against a story, in their order.
struct Checker<'a> {
    story: &'a Story,
    parts: &'a [(u64, u64)],
    /// The disk after the first verbs, and how many these are.
    model: SectorModel,
    applied: usize,
    states: usize,
}

impl<'a> Checker<'a> {
    fn new(story: &'a Story, parts: &'a [(u64, u64)], start: &SectorModel) -> Checker<'a> {
        Checker {
            story,
            parts,
            model: start.clone(),
            applied: 0,
            states: 0,
        }
    }

    fn held(&self, layers: &Layered, model: &SectorModel, later: &[Verb]) -> Result<(), String> {
        if self.states.is_multiple_of(64) && model.size() <= 16 * BLOCK {
            return model.compare_after_crash(later, |buf, at| layers.read_at(buf, at));
        }
        for &(at, len) in self.parts {
            model.compare_part(at, len, later, |buf, at| layers.read_at(buf, at))?;
        }
        Ok(())
    }

    fn check(&mut self, image: &CrashImage) {
        let (what, story) = (&image.what, self.story);
        let verbs = &story.verbs;
        assert!(
            self.applied <= image.settled,
            "{what}: states are not in order"
        );
        verbs[self.applied..image.settled]
            .iter()
            .for_each(|verb| self.model.apply(verb));
        (self.applied, self.states) = (image.settled, self.states + 1);
        let later = &verbs[image.settled..(image.begun + 1).min(verbs.len())];
        let layers = Layered::open_pages(&image.pages, &reading(), &story.parent)
            .unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
        self.held(&layers, &self.model, later)
            .unwrap_or_else(|error| panic!("{what}, reading: {error}"));
        disk::must_pass_check(&image.pages, what);
        let store = Arc::new(MemoryStore::from_pages(image.pages.clone()));
        let layers = Layered::open(store.clone(), &writing(), &story.parent)
            .unwrap_or_else(|error| panic!("{what}: does not open for writing: {error}"));
        self.held(&layers, &self.model, later)
            .unwrap_or_else(|error| panic!("{what}, open for writing: {error}"));
        if self.states.is_multiple_of(4) {
            self.use_again(&layers, what);
            drop(layers);
            let again = Layered::open(store, &reading(), &story.parent).unwrap();
            let notices = &again.disk.image.facts().notices;
            assert_eq!(*notices, [""; 0], "{what}: not repaired");
        }
    }

    /// Writes into old and new blocks and closes: what was written is there, and all that was.
    fn use_again(&self, layers: &Layered, what: &str) {
        let size = layers.size();
        let mut used = SectorModel::new(size);
        for &(at, len) in self.parts {
            used.write(&layers.read(at, len).unwrap(), at);
        }
        for at in [0, size / 2 / 4096 * 4096, size - 1024] {
            layers.write(&pattern(1024, 0xC4), at).unwrap();
            used.write(&pattern(1024, 0xC4), at);
        }
        layers.disk.image.validate().unwrap();
        layers.disk.image.close().unwrap();
        for &(at, len) in self.parts {
            let held = used.compare_part(at, len, &[], |buf, at| layers.read_at(buf, at));
            held.unwrap_or_else(|error| panic!("{what}, used again: {error}"));
        }
    }
}

fn write(offset: u64, len: u64) -> Verb {
    let seed = offset ^ len;
    Verb::Write { offset, len, seed }
}

fn trim(offset: u64, len: u64) -> Verb {
    Verb::Trim { offset, len }
}

/// First writes to blocks, one over several blocks, overwrites, trims of wholes and parts, reuse,
/// and a block that is filled sector by sector.
fn story() -> Vec<Verb> {
    vec![
        write(0, 512),
        write(512, 4096),
        Verb::Flush,
        write(2 * BLOCK - 512, 1024),
        write(3 * BLOCK, BLOCK),
        trim(3 * BLOCK, BLOCK),
        write(3 * BLOCK + 512, 512),
        Verb::Flush,
        trim(BLOCK, BLOCK),
        write(4 * BLOCK, 512),
        trim(512, 512),
        write(BLOCK + 512, 512),
        Verb::Flush,
        write(2 * BLOCK, BLOCK - 512),
        write(3 * BLOCK - 512, 512),
        trim(5 * BLOCK + 512, 1024),
        Verb::Flush,
        trim(0, 5 * BLOCK),
        write(4 * BLOCK - 512, 512),
    ]
}

fn kinds() -> [Kind; 2] {
    [Kind::Dynamic, Kind::Differencing]
}

#[test]
fn a_new_disk_survives_a_cut_at_any_write() {
    // X-60 to X-70
    for kind in kinds() {
        for (size, sector, close) in [
            (6 * BLOCK, 512, true),
            (5 * BLOCK + 4096, 512, false),
            (6 * BLOCK, 4096, true),
        ] {
            let start = created(kind, size, sector);
            Story::new(kind, start, story(), close).check_all(&format!("new {kind:?} disk"));
        }
    }
}

#[test]
fn random_sessions_survive_a_cut_at_any_write() {
    let mut rng = Rng::announced("random_sessions_survive_a_cut_at_any_write");
    for kind in kinds() {
        let (mut states, mut sessions) = (0, 0);
        while states < 30_000 {
            let size = (3 + rng.below(4)) * BLOCK + rng.below(2) * 4096;
            let sector = *rng.pick(&[512, 512, 4096]);
            let verbs: Vec<Verb> = (0..25)
                .map(|_| {
                    let longest = *rng.pick(&[4096, 4096, 4096, 16384, 2 * BLOCK]);
                    Verb::random(&mut rng, size, 512, longest)
                })
                .collect();
            let start = created(kind, size, sector);
            let story = Story::new(kind, start, verbs, rng.one_in(2));
            states += story.check_all(&format!("random {kind:?} session"));
            sessions += 1;
        }
        println!("{kind:?}: {states} states of {sessions} random sessions, all good");
    }
}

#[test]
fn a_log_that_wraps_survives_a_cut_at_any_write() {
    // X-63: a ring of 1 MiB, entries of 8 KiB and more; few flushes of the caller's own.
    for kind in kinds() {
        let size = 64 * BLOCK;
        let mut verbs = Vec::new();
        for round in 0..2 {
            for block in 0..64 {
                verbs.push(write(block * BLOCK + round * 512, 512));
                if block % 29 == 28 {
                    verbs.push(Verb::Flush);
                }
            }
            verbs.push(trim(round * 7 * BLOCK, 40 * BLOCK));
        }
        let start = created(kind, size, 512);
        Story::new(kind, start, verbs, true).check_all(&format!("{kind:?} disk with a full log"));
    }
}

#[test]
fn a_session_after_a_kill_survives_a_cut() {
    // X-31: also while the log of the session before is replayed.
    for kind in kinds() {
        let start = created(kind, 6 * BLOCK, 512);
        let killed = Story::new(kind, start, story()[..8].to_vec(), false).record();
        for image in killed.kill_images().step_by(9) {
            let verbs = story()[7..13].to_vec();
            Story::new(kind, image.pages, verbs, true).check_all("after a kill");
        }
    }
}

#[test]
fn dirt_behind_the_last_block_never_shows_after_a_cut() {
    // S-10, X-65
    for kind in kinds() {
        let mut start = created(kind, 6 * BLOCK, 512);
        let len = start.len();
        start.write(&vec![0xEE; 7 * BLOCK as usize + 512], len);
        let story = Story::new(kind, start, story(), true);
        story.check_all("dirt behind the last block");
    }
}

#[test]
fn a_cut_during_create_leaves_no_image_or_an_empty_one() {
    for kind in [Kind::Dynamic, Kind::Fixed, Kind::Differencing] {
        let size = 2 * BLOCK + 512;
        let store = CrashStore::new();
        create(&store, &options(kind, size, 512)).unwrap();
        let parent = parent_of(kind, size);
        let (mut states, mut opened) = (0, 0);
        for image in store.crash_images().chain(store.kill_images()) {
            if let Ok(layers) = Layered::open_pages(&image.pages, &named("vhdx"), &parent) {
                layers.must_be(&inherited(&parent, size));
                opened += 1;
            }
            states += 1;
        }
        println!("create {kind:?}: {states} states, {opened} of them an image");
        assert!(states > 10 && opened > 0);
    }
}
