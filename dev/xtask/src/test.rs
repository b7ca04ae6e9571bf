//! `cargo xtask test`: everything that must hold, from a fresh clone to the last test.
//!
//! Order: cheap checks first, each goes on when another fails, only a build that fails ends the
//! run. Promises: the last line is `N passed, N failed, N skipped`, a check that failed counts as
//! one failed; a device, mount or service that a test left behind fails the run.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::leftovers;
use crate::place::{self, Profile, Scratch};
use crate::run::cargo;
use crate::setup::{self, Need};
use crate::tally::{Tally, closing_line};
use crate::{run, tidy};

/// What one run has found so far.
struct Run {
    tally: Tally,
    failures: Vec<String>,
    locked: bool,
    scratch: Scratch,
}

/// Runs all; false when anything failed.
pub(crate) fn run() -> Result<bool> {
    let started = Instant::now();
    let before = leftovers::seen();
    setup::run(Need::Tests)?;
    let mut run = Run {
        tally: Tally::default(),
        failures: Vec::new(),
        locked: std::env::var_os("CI").is_some(),
        scratch: Scratch::new(&std::env::temp_dir(), "test")?,
    };
    run.checks()?;
    if run.check("build", &["build", "--workspace"])? {
        run.tests()?;
    }
    let left = leftovers::new_since(&before, Duration::from_secs(15));
    run.failures.extend(
        left.into_iter()
            .map(|thing| format!("left behind: {thing}")),
    );
    Ok(run.report(started))
}

impl Run {
    /// Format, house rules, lints, documentation.
    fn checks(&mut self) -> Result<()> {
        self.check("format", &["fmt", "--all", "--check", "--", "-l"])?;
        println!("$ cargo xtask tidy");
        if !tidy::run()? {
            self.failures.push("tidy".to_string());
        }
        let clippy = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ];
        self.check("clippy", &clippy)?;
        self.check(
            "documentation",
            &["doc", "--workspace", "--no-deps", "--quiet"],
        )?;
        Ok(())
    }

    /// One cargo command that must end well; keeps its name when it does not.
    fn check(&mut self, name: &str, words: &[&str]) -> Result<bool> {
        let started = Instant::now();
        let mut command = self.cargo(words);
        command.env("RUSTDOCFLAGS", "-D warnings");
        let good = run::shown(&mut command)?;
        println!("  {name}: {} s", started.elapsed().as_secs());
        if !good {
            self.failures.push(name.to_string());
        }
        Ok(good)
    }

    /// `cargo WORDS`, with `--locked` where a changed lock file would be a mistake.
    fn cargo(&self, words: &[&str]) -> Command {
        let mut words = words.to_vec();
        if self.locked && words.first() != Some(&"fmt") {
            words.insert(1, "--locked");
        }
        cargo(&words)
    }

    fn tests(&mut self) -> Result<()> {
        let nextest = run::output(&mut cargo(&["nextest", "--version"])).is_ok();
        let colour = if std::env::var_os("CI").is_some() {
            "never"
        } else {
            "auto"
        };
        if nextest {
            let words = [
                "nextest",
                "run",
                "--workspace",
                "--no-fail-fast",
                "--no-tests=pass",
                "--color",
            ];
            self.runner("tests", &[&words[..], &[colour]].concat(), 1)?;
        } else {
            self.runner(
                "tests",
                &["test", "--workspace", "--no-fail-fast", "--all-targets"],
                0,
            )?;
        }
        self.runner(
            "doc tests",
            &["test", "--workspace", "--doc", "--no-fail-fast"],
            0,
        )
    }

    /// Runs a test runner, shows its output, counts its closing lines. `--locked` goes behind
    /// the first `1 + verbs` words.
    fn runner(&mut self, name: &str, words: &[&str], verbs: usize) -> Result<()> {
        run::go_on()?;
        let started = Instant::now();
        let mut words = words.to_vec();
        if self.locked {
            words.insert(1 + verbs, "--locked");
        }
        let mut command = cargo(&words);
        let log = self.skip_log();
        command.env("VIRTDISK_SKIP_LOG", &log);
        command.env("VIRTDISKD", place::built(Profile::Dev)?.join("virtdiskd"));
        println!("$ {}", run::line(&command));
        let (good, counted) = counted_run(&mut command)?;
        println!("  {name}: {} s", started.elapsed().as_secs());
        if !good && counted.failed == 0 {
            self.failures.push(name.to_string());
        }
        self.tally.add(counted);
        Ok(())
    }

    fn skip_log(&self) -> std::path::PathBuf {
        self.scratch.path().join("skips")
    }

    /// Prints skips, failures and the closing line; true when all is well.
    fn report(mut self, started: Instant) -> bool {
        for line in self.tally.take_skips(&read(&self.skip_log())) {
            println!("{line}");
        }
        self.tally.failed += self.failures.len() as u64;
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        println!("took {} s", started.elapsed().as_secs());
        println!("{}", self.tally.line());
        self.tally.failed == 0 && self.tally.passed > 0
    }
}

fn read(file: &Path) -> String {
    std::fs::read(file)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Runs `command` with stdout and stderr in one pipe, passes its lines on and counts them.
fn counted_run(command: &mut Command) -> Result<(bool, Tally)> {
    let shown = run::line(command);
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    let second = writer.try_clone().context("copy a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(second)
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    // The command keeps our ends of the pipe until it is told otherwise.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tally = Tally::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("read the runner's output")?;
        let text = String::from_utf8_lossy(&line);
        println!("{text}");
        if let Some(counted) = closing_line(&text) {
            tally.add(counted);
        }
    }
    Ok((
        child.wait().context("wait for the runner")?.success(),
        tally,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_a_runner_are_added_up() {
        let mut command = Command::new("sh");
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; \
                      echo 'test result: FAILED. 1 passed; 3 failed; 0 ignored' >&2; exit 1";
        command.args(["-c", script]);
        let (good, tally) = counted_run(&mut command).unwrap();
        assert!(!good);
        assert_eq!(
            tally,
            Tally {
                passed: 3,
                failed: 3,
                skipped: 0
            }
        );
    }
}
