//! `cargo xtask bench convert`: how fast `vdisk convert` is, beside qemu-img and cp, in one run.
//!
//! A half-full disk goes from raw to VHD and VHDX and back, in `/dev/shm`, so that the processor
//! decides. In every round each program does the same step, in turns, and the ratio of their times
//! counts. On a file system that shares extents, a small and a large disk are to take equally long.
//! Promises: what we made is compared with the source by qemu-img; a step that can't be done is a
//! SKIP that says why; nothing is left behind.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{machine, median};
use crate::place::{self, Profile, Scratch};
use crate::run;
use crate::setup::{self, Need};

/// Times faster than qemu-img, wanted.
const QEMU_FLOOR: f64 = 1.5;
/// Of the speed of `cp --sparse=always` on the raw disk, wanted.
const CP_FLOOR: f64 = 0.9;
/// Data and holes of the source take turns in stretches of this many bytes.
const STRETCH: u64 = 4 << 20;

/// How much and how often.
struct Effort {
    size_bytes: u64,
    rounds: usize,
    /// Data of the disks whose extents are shared.
    shared_bytes: [u64; 2],
}

const FULL: Effort = Effort {
    size_bytes: 4 << 30,
    rounds: 5,
    shared_bytes: [256 << 20, 2 << 30],
};
const QUICK: Effort = Effort {
    size_bytes: 256 << 20,
    rounds: 1,
    shared_bytes: [16 << 20, 64 << 20],
};

/// One step: what the source is called, what it becomes, and that in qemu-img's words.
struct Step {
    from: &'static str,
    to: &'static str,
    qemu: &'static [&'static str],
}

const STEPS: [Step; 4] = [
    Step {
        from: "disk.raw",
        to: "disk.vhd",
        qemu: &["-O", "vpc", "-o", "subformat=dynamic,force_size=on"],
    },
    Step {
        from: "disk.vhd",
        to: "back.raw",
        qemu: &["-O", "raw"],
    },
    Step {
        from: "disk.raw",
        to: "disk.vhdx",
        qemu: &["-O", "vhdx"],
    },
    Step {
        from: "disk.vhdx",
        to: "back.raw",
        qemu: &["-O", "raw"],
    },
];

/// Seconds of each round.
#[derive(Default)]
struct Times {
    ours: Vec<f64>,
    qemu: Vec<f64>,
    cp: Vec<f64>,
}

/// Runs the bench and prints its figures, which decide nothing about the exit code.
pub(super) fn run(quick: bool) -> Result<bool> {
    setup::run(Need::Everything)?;
    let effort = if quick { QUICK } else { FULL };
    let mut build = run::cargo(&["build", "--quiet", "--release", "-p", "vdisk"]);
    ensure!(run::shown(&mut build)?, "the program does not build");
    let vdisk = place::built(Profile::Release)?.join("vdisk");
    let scratch = Scratch::new(Path::new("/dev/shm"), "bench")?;
    half_full(&scratch.path().join("disk.raw"), effort.size_bytes)?;
    println!(
        "{} MiB half full in /dev/shm, {} rounds; times faster (1.00 = as fast)",
        effort.size_bytes >> 20,
        effort.rounds
    );
    for step in &STEPS {
        match measure(&vdisk, scratch.path(), step, effort.rounds) {
            Ok(times) => print(step, effort.size_bytes, times),
            Err(error) if run::go_on().is_ok() => {
                println!("SKIP {} to {}: {error:#}", step.from, step.to);
            }
            Err(error) => return Err(error),
        }
    }
    std::fs::remove_file(scratch.path().join("disk.raw"))?;
    match shared(&vdisk, scratch.path(), effort.shared_bytes) {
        Ok(line) => println!("{line}"),
        Err(error) => println!("SKIP sharing extents: {error:#}"),
    }
    println!("{}", machine());
    Ok(true)
}

/// A raw disk, every other stretch of it random data, the others holes.
fn half_full(path: &Path, size_bytes: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(size_bytes)?;
    let mut bytes = vec![0; STRETCH as usize];
    // Xorshift; the seed is any but 0.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for start in (0..size_bytes).step_by(2 * STRETCH as usize) {
        run::go_on()?;
        for word in bytes.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all_at(&bytes, start)?;
    }
    Ok(())
}

fn measure(vdisk: &Path, folder: &Path, step: &Step, rounds: usize) -> Result<Times> {
    let mut times = Times::default();
    let mut command = |round: usize, who: usize| -> Result<()> {
        let (from, to) = (folder.join(step.from), folder.join("new").join(step.to));
        std::fs::create_dir(folder.join("new"))?;
        let mut program = Command::new(if who == 0 {
            vdisk
        } else {
            Path::new("qemu-img")
        });
        match who {
            0 => program.arg("convert").arg(&from).arg(&to),
            1 => {
                program.args(["convert", "-f", format(step.from)]);
                program.args(step.qemu).arg(&from).arg(&to)
            }
            _ => {
                program = Command::new("cp");
                program.arg("--sparse=always");
                program.arg(folder.join("disk.raw")).arg(&to)
            }
        };
        let seconds = seconds(&mut program)?;
        match who {
            0 => times.ours.push(seconds),
            1 => times.qemu.push(seconds),
            _ => times.cp.push(seconds),
        }
        if who == 0 && round == 0 {
            let mut compare = Command::new("qemu-img");
            compare.args(["compare", "-f", "raw", "-F", format(step.to)]);
            run::output(compare.arg(folder.join("disk.raw")).arg(&to))?;
            if step.from == "disk.raw" {
                std::fs::rename(&to, folder.join(step.to))?;
            }
        }
        Ok(std::fs::remove_dir_all(folder.join("new"))?)
    };
    for round in 0..rounds {
        // Whoever comes first must not always be the same.
        for turn in 0..3 {
            run::go_on()?;
            if let Err(error) = command(round, (turn + round) % 3) {
                drop(std::fs::remove_dir_all(folder.join("new")));
                return Err(error);
            }
        }
    }
    Ok(times)
}

/// qemu-img's word for the format of a file of that name.
fn format(name: &str) -> &'static str {
    match Path::new(name).extension().and_then(|text| text.to_str()) {
        Some("vhd") => "vpc",
        Some("vhdx") => "vhdx",
        _ => "raw",
    }
}

/// How long a command takes.
fn seconds(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    run::output(command)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn print(step: &Step, size_bytes: u64, times: Times) {
    let ratio = |theirs: &[f64]| {
        let ratios = theirs.iter().zip(&times.ours);
        median(ratios.map(|(theirs, ours)| theirs / ours).collect()).unwrap_or(0.0)
    };
    let (qemu, cp) = (ratio(&times.qemu), ratio(&times.cp));
    let word = |ratio: f64, floor: f64| if ratio >= floor { "holds" } else { "MISSED" };
    let seconds = median(times.ours.clone()).unwrap_or(f64::INFINITY);
    println!(
        "{} to {}: {:.0} MiB/s; {} {qemu:.2} × qemu-img, wanted {QEMU_FLOOR:.2}; {} {cp:.2} × cp, \
         wanted {CP_FLOOR:.2}",
        step.from,
        step.to,
        size_bytes as f64 / f64::from(1 << 20) / seconds,
        word(qemu, QEMU_FLOOR),
        word(cp, CP_FLOOR)
    );
}

/// Converts a small and a large disk on xfs, where extents are shared: milliseconds of both.
fn shared(vdisk: &Path, folder: &Path, sizes: [u64; 2]) -> Result<String> {
    ensure!(run::is_root(), "mounting needs root");
    let volume = Volume::new(folder, 2 * sizes.iter().sum::<u64>() + (512 << 20))?;
    let mut times = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        run::go_on()?;
        let from = volume.place.join(format!("{number}.raw"));
        half_full(&from, 2 * size)?;
        File::open(&from)?.sync_all()?;
        let mut convert = Command::new(vdisk);
        convert.arg("convert").arg(&from);
        convert.arg(volume.place.join(format!("{number}.vhd")));
        times.push(seconds(&mut convert)? * 1000.0);
    }
    Ok(format!(
        "extents shared on xfs: {} MiB of data in {:.0} ms, {} MiB in {:.0} ms",
        sizes[0] >> 20,
        times[0],
        sizes[1] >> 20,
        times[1]
    ))
}

/// An xfs on a file, unmounted when dropped.
struct Volume {
    place: PathBuf,
}

impl Volume {
    fn new(folder: &Path, bytes: u64) -> Result<Volume> {
        let (file, place) = (folder.join("xfs"), folder.join("mounted"));
        File::create(&file)?.set_len(bytes)?;
        let mut mkfs = Command::new(run::find("mkfs.xfs").context("mkfs.xfs is not installed")?);
        run::output(mkfs.args(["-q", "-m", "reflink=1"]).arg(&file))?;
        std::fs::create_dir(&place)?;
        run::output(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&file)
                .arg(&place),
        )?;
        Ok(Volume { place })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = run::output(Command::new("umount").arg(&self.place)) {
            eprintln!("xtask: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_half_full() {
        use std::os::unix::fs::MetadataExt as _;
        let scratch = Scratch::new(&std::env::temp_dir(), "convert").unwrap();
        let path = scratch.path().join("disk.raw");
        half_full(&path, 32 << 20).unwrap();
        let facts = path.metadata().unwrap();
        assert_eq!(facts.len(), 32 << 20);
        assert!(facts.blocks() * 512 <= (16 << 20) + (64 << 10));
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[..4096].iter().any(|byte| *byte != 0));
        assert!(bytes[4 << 20..8 << 20].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn every_source_is_there_before_it_is_needed() {
        let mut there = vec!["disk.raw"];
        for step in &STEPS {
            assert!(there.contains(&step.from), "{}", step.from);
            there.push(step.to);
        }
    }
}
