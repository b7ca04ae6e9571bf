//! `cargo xtask fuzz [TARGET] [--seconds N]`: the fuzz targets of `dev/fuzz`, one after the other.
//!
//! Needs no other toolchain than the project's: libFuzzer with the compiler's own coverage pass.
//! Inputs that found something new are kept in `target/fuzz/corpus` for the next run, seeds are
//! written there first. Promises: false when any target failed; what made it fail lies in
//! `target/fuzz/found/TARGET`, and the target run on that file alone shows it again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::place::{self, Profile};
use crate::run;

/// Every target, quickest to find something first.
const TARGETS: [&str; 8] = [
    "vhd_read",
    "vhdx_read",
    "vhd_write",
    "vhdx_write",
    "vhdx_replay",
    "parent_locators",
    "optical_read",
    "bytes",
];
/// Seconds of each target where nothing else is said.
const SECONDS: u32 = 600;
/// Coverage of every edge, and the numbers that are compared, told to libFuzzer.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    targets: Vec<&'static str>,
    seconds: u32,
}

impl Wish {
    /// Of the words behind `fuzz`.
    fn of(words: &[&str]) -> Result<Wish> {
        let mut wish = Wish {
            targets: TARGETS.to_vec(),
            seconds: SECONDS,
        };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            if word == "--seconds" {
                let seconds = words.next().and_then(|seconds| seconds.parse().ok());
                wish.seconds = seconds.context("--seconds wants a number")?;
            } else if let Some(&target) = TARGETS.iter().find(|&&target| target == word) {
                wish.targets = vec![target];
            } else {
                bail!(
                    "there is no target {word}; there are {}",
                    TARGETS.join(", ")
                );
            }
        }
        Ok(wish)
    }
}

/// Builds and runs the targets; false when one of them failed.
pub(crate) fn run(words: &[&str]) -> Result<bool> {
    let wish = Wish::of(words)?;
    let home = folder()?;
    let programs = build(&home)?;
    let mut failed = Vec::new();
    for target in wish.targets {
        if !fuzz(&programs.join(target), target, &home, wish.seconds)? {
            failed.push(target);
        }
    }
    for target in &failed {
        println!("FAILED {target}: see {}", found(&home, target).display());
    }
    Ok(failed.is_empty())
}

/// Where all of it lies.
fn folder() -> Result<PathBuf> {
    let built = place::built(Profile::Dev)?;
    let target = built.parent().context("the target directory")?;
    Ok(target.join("fuzz"))
}

fn found(home: &Path, target: &str) -> PathBuf {
    home.join("found").join(target)
}

/// Builds all targets, for this machine by name: only then are build scripts and macros left
/// without the flags. Answers where the programs are.
fn build(home: &Path) -> Result<PathBuf> {
    let host = run::output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say its host")?;
    let mut cargo = run::cargo(&[
        "build",
        "--release",
        "--manifest-path=dev/fuzz/Cargo.toml",
        "--target",
        host,
    ]);
    cargo
        .env("RUSTFLAGS", FLAGS.join(" "))
        .env("CARGO_TARGET_DIR", home);
    if !run::shown(&mut cargo)? {
        bail!("the fuzz targets do not build");
    }
    Ok(home.join(host).join("release"))
}

/// Runs one target for so many seconds; true when it found nothing.
fn fuzz(program: &Path, target: &str, home: &Path, seconds: u32) -> Result<bool> {
    run::go_on()?;
    let (corpus, found) = (home.join("corpus").join(target), found(home, target));
    for folder in [&corpus, &found] {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("make the folder {}", folder.display()))?;
    }
    run::output(Command::new(program).env("VIRTDISK_SEEDS", &corpus))?;
    let mut command = Command::new(program);
    command
        .arg(&corpus)
        .args(["-timeout=5", "-rss_limit_mb=512", "-max_len=4096"])
        .args(["-print_final_stats=1", "-verbosity=0"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .stdin(Stdio::null());
    run::shown(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_names_a_target_and_its_time() {
        let all = Wish::of(&[]).unwrap();
        assert_eq!((all.targets.len(), all.seconds), (TARGETS.len(), SECONDS));
        let one = Wish::of(&["vhd_read", "--seconds", "7"]).unwrap();
        assert_eq!((one.targets, one.seconds), (vec!["vhd_read"], 7));
        assert!(Wish::of(&["--seconds"]).is_err());
        assert!(Wish::of(&["vmdk"]).is_err());
    }

    #[test]
    fn every_target_has_a_source() {
        let targets = place::workspace().join("dev/fuzz/targets");
        for target in TARGETS {
            assert!(targets.join(format!("{target}.rs")).is_file(), "{target}");
        }
        assert_eq!(targets.read_dir().unwrap().count(), TARGETS.len());
    }
}
