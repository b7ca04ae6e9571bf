//! What the fuzz targets do with their input.
//!
//! An input is three bytes and a program (`virtdisk_testkit::mutation`): which subject, which
//! options, which verbs, and how the subject is damaged. Checksums are made right again by the
//! mutation itself, so that inputs reach what stands behind them. The oracles are those of
//! `virtdisk_testkit::strain`; here they are joined by a limit on memory. A panic ends the run.
#![forbid(unsafe_code)]

pub mod seeds;

use std::sync::OnceLock;

use peak_alloc::PeakAlloc;
use virtdisk_testkit::mutation::{Subject, mutate};
use virtdisk_testkit::pages::Pages;
use virtdisk_testkit::seal::{Seal, seal};
use virtdisk_testkit::{strain, subjects};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes of memory that one image may cost.
const MOST_MEMORY: usize = 64 << 20;
/// Longest file of [`bytes`].
const LONGEST: usize = 1 << 20;

/// The targets, and the first words of the names of their subjects.
pub const TARGETS: [(&str, &str); 8] = [
    ("vhd_read", "vhd "),
    ("vhd_write", "vhd "),
    ("vhdx_read", "vhdx "),
    ("vhdx_replay", "vhdx dirty"),
    ("vhdx_write", "vhdx "),
    ("parent_locators", "vhd differencing|vhdx differencing"),
    ("optical_read", "iso|raw"),
    ("bytes", "vhd fixed|iso|raw"),
];

/// The subjects whose names begin with one of the words.
#[must_use]
pub fn subjects_of(words: &str) -> Vec<Subject> {
    words.split('|').flat_map(subjects::named).collect()
}

/// What `run` does must cost little memory.
fn measured(run: impl FnOnce()) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    run();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken < MOST_MEMORY, "{taken} bytes of memory");
}

/// The three bytes and the damaged image.
fn damaged(subjects: &[Subject], input: &[u8]) -> Option<(Pages, u8, u64, &'static str)> {
    let (&[which, choice, seed], program) = input.split_first_chunk()?;
    let subject = subjects.get(usize::from(which) % subjects.len().max(1))?;
    let file = mutate(subject, program);
    Some((file, choice, seed.into(), subject.extension))
}

fn read(subjects: &[Subject], input: &[u8]) {
    if let Some((file, choice, _, extension)) = damaged(subjects, input) {
        measured(|| {
            strain::read(&file, &strain::options(choice, extension));
        });
    }
}

fn write(subjects: &[Subject], input: &[u8]) {
    if let Some((file, choice, seed, extension)) = damaged(subjects, input) {
        measured(|| {
            strain::write(&file, &strain::options(choice, extension), seed);
        });
    }
}

/// Subjects that are made once.
macro_rules! subjects {
    ($words:literal) => {{
        static SUBJECTS: OnceLock<Vec<Subject>> = OnceLock::new();
        SUBJECTS.get_or_init(|| subjects_of($words))
    }};
}

/// VHDs.
pub fn vhd_read(input: &[u8]) {
    read(subjects!("vhd "), input);
}

/// VHDs, written.
pub fn vhd_write(input: &[u8]) {
    write(subjects!("vhd "), input);
}

/// VHDXs.
pub fn vhdx_read(input: &[u8]) {
    read(subjects!("vhdx "), input);
}

/// VHDXs with a log to replay; what is read must be the same whether it is replayed in memory or
/// in the file.
pub fn vhdx_replay(input: &[u8]) {
    if let Some((file, choice, seed, extension)) = damaged(subjects!("vhdx dirty"), input) {
        let options = strain::options(choice, extension);
        measured(|| {
            strain::read(&file, &options);
            strain::replayed_alike(&file, &options);
            strain::write(&file, &options, seed);
        });
    }
}

/// VHDXs, written.
pub fn vhdx_write(input: &[u8]) {
    write(subjects!("vhdx "), input);
}

/// Differencing images.
pub fn parent_locators(input: &[u8]) {
    let subjects = subjects!("vhd differencing|vhdx differencing");
    let mut narrow: Vec<Subject> = Vec::new();
    if let Some(subject) = subjects.get(usize::from(*input.first().unwrap_or(&0)) % 2) {
        let mut subject = subject.clone();
        subject.places.clone_from(&subject.locators);
        narrow.push(subject);
    }
    read(&narrow, input);
}

/// Optical images and what is none.
pub fn optical_read(input: &[u8]) {
    read(subjects!("iso|raw"), input);
}

/// The input itself as the file, with right checksums or not.
pub fn bytes(input: &[u8]) {
    let Some((&[flags, choice, seed], rest)) = input.split_first_chunk() else {
        return;
    };
    let mut file = Pages::from_bytes(&rest[..rest.len().min(LONGEST)]);
    if flags & 1 == 0 {
        seal(&mut file, Seal::Vhd, true);
    }
    let name = ["vhd", "vhdx", "iso", "img", "vhds", "avhdx", "", "vud"];
    let options = strain::options(choice, name[usize::from(flags >> 1) % name.len()]);
    measured(|| {
        strain::read(&file, &options);
        strain::write(&file, &options, seed.into());
    });
}
