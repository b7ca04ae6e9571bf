//! Thousands of damaged images of each format: nothing panics, hangs or takes much memory, a
//! read-only open changes nothing, what reads once reads the same again, what is written is there
//! (S-1, S-2, S-7, S-14). The long run of the same is `cargo xtask fuzz`.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use virtdisk_format::open;
use virtdisk_testkit::mutation::{Subject, mutate, random_program};
use virtdisk_testkit::{MemoryStore, Rng, strain, subjects};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes of memory and time that one image may cost.
const MOST_MEMORY: usize = 64 << 20;
const MOST_TIME: Duration = Duration::from_secs(5);

/// The tests here take turns: the allocator counts for the whole process.
static TURN: Mutex<()> = Mutex::new(());

/// One program on one subject.
fn strained(subject: &Subject, program: &[u8], choice: u8, seed: u64) -> (bool, bool) {
    let file = mutate(subject, program);
    let options = strain::options(choice, subject.extension);
    let (before, started) = (MEMORY.current_usage(), Instant::now());
    MEMORY.reset_peak_usage();
    let read = strain::read(&file, &options);
    if subject.name.contains("dirty") {
        strain::replayed_alike(&file, &options);
    }
    let written = strain::write(&file, &options, seed);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken < MOST_MEMORY, "{taken} bytes of memory");
    assert!(started.elapsed() < MOST_TIME, "{:?}", started.elapsed());
    (read, written)
}

/// `count` programs on each subject whose name begins with `word`.
fn mutations(test: &str, word: &str, count: u64) {
    let turn = TURN.lock();
    let mut rng = Rng::announced(test);
    for subject in subjects::named(word) {
        for choice in 0..4 {
            let sound = strained(&subject, &[], choice, 1);
            let why = || {
                open(
                    Arc::new(MemoryStore::from_pages(subject.pages.clone())),
                    &Default::default(),
                )
                .err()
            };
            assert!(sound.0, "{} does not open: {:?}", subject.name, why());
        }
        let mut opened = (0, 0);
        for _ in 0..count {
            let program = random_program(&mut rng);
            let (choice, seed) = (rng.number().to_le_bytes()[0], rng.number());
            let done = catch_unwind(AssertUnwindSafe(|| {
                strained(&subject, &program, choice, seed)
            }));
            let Ok((read, written)) = done else {
                panic!("{}: {program:?}, {choice}, {seed}", subject.name);
            };
            opened.0 += u64::from(read);
            opened.1 += u64::from(written);
        }
        println!(
            "{}: {count} mutations, {} opened for reading, {} for writing",
            subject.name, opened.0, opened.1
        );
    }
    drop(turn);
}

#[test]
fn a_mutated_vhd_does_no_harm() {
    mutations("a_mutated_vhd_does_no_harm", "vhd ", 3000);
}

#[test]
fn a_mutated_vhdx_does_no_harm() {
    mutations("a_mutated_vhdx_does_no_harm", "vhdx ", 500);
}

#[test]
fn a_mutated_optical_image_does_no_harm() {
    mutations("a_mutated_optical_image_does_no_harm", "iso", 3000);
}

#[test]
fn mutated_bytes_of_no_format_do_no_harm() {
    mutations("mutated_bytes_of_no_format_do_no_harm", "raw", 1000);
}
