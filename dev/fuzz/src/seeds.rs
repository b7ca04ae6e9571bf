//! The inputs that fuzzing starts from.
//!
//! Each target writes its own, when `VIRTDISK_SEEDS` names a folder, and ends: a program that does
//! not link libFuzzer cannot be built with its instrumentation.

use std::io;
use std::path::Path;

use virtdisk_testkit::Rng;
use virtdisk_testkit::mutation::random_program;

use crate::{TARGETS, subjects_of};

/// Random programs for each subject.
const PROGRAMS: u64 = 64;

/// Writes the seeds of a target and ends the process, where that is what it was started for.
pub fn instead_of_fuzzing(target: &str) {
    let Some(folder) = std::env::var_os("VIRTDISK_SEEDS") else {
        return;
    };
    let Some((_, words)) = TARGETS.iter().find(|(name, _)| *name == target) else {
        return;
    };
    match write(Path::new(&folder), target, words) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("seeds of {target}: {error}");
            std::process::exit(1);
        }
    }
}

/// The seeds of one target.
fn write(place: &Path, target: &str, words: &str) -> io::Result<()> {
    std::fs::create_dir_all(place)?;
    let mut rng = Rng::new(1);
    for (number, subject) in (0_u8..).zip(subjects_of(words)) {
        if target == "bytes" {
            let mut input = vec![1, 0, number];
            input.extend(subject.pages.to_vec());
            if input.len() < 128 << 10 {
                std::fs::write(place.join(format!("seed-{number}")), input)?;
            }
            continue;
        }
        for index in 0..PROGRAMS {
            let mut input = vec![number, (index % 32) as u8, index as u8];
            if index > 0 {
                input.extend(random_program(&mut rng));
            }
            std::fs::write(place.join(format!("seed-{number}-{index}")), input)?;
        }
    }
    Ok(())
}
