//! Counts tests: out of the words of nextest and cargo test, and the log of skips.
//!
//! May assume: the closing lines of the two runners as they are since years. Promises: a test
//! that skipped is not counted as passed, and a runner that said nothing is not counted as good.

use std::collections::BTreeSet;

/// Tests that passed, failed, and lines of skips.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Ran to their end and said nothing of a skip.
    pub(crate) passed: u64,
    /// Failed, were stopped or never ran.
    pub(crate) failed: u64,
    /// `SKIP` lines.
    pub(crate) skipped: u64,
}

impl Tally {
    /// Adds `other`.
    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Takes the skips of `log` (a line each, `SKIP NAME: REASON`) into account: their tests
    /// returned early, which the runner took for passing.
    pub(crate) fn take_skips(&mut self, log: &str) -> Vec<String> {
        let lines: BTreeSet<&str> = log
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("SKIP "))
            .collect();
        let names: BTreeSet<&str> = lines
            .iter()
            .filter_map(|line| line["SKIP ".len()..].split(": ").next())
            .collect();
        self.skipped += names.len() as u64;
        self.passed = self.passed.saturating_sub(names.len() as u64);
        lines.into_iter().map(str::to_string).collect()
    }

    /// The closing line of `cargo xtask test`.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Reads one line of a runner's output; `None` when it is not a closing line.
pub(crate) fn closing_line(line: &str) -> Option<Tally> {
    let line = plain(line);
    nextest(&line).or_else(|| cargo_test(&line))
}

/// `Summary [   1.0s] 12 tests run: 10 passed (1 slow), 2 failed, 0 skipped`; `9/12 tests run`
/// when it gave up early.
fn nextest(line: &str) -> Option<Tally> {
    let rest = line.trim_start().strip_prefix("Summary [")?;
    let counts = rest.split_once(']')?.1;
    let (ran, outcome) = counts
        .split_once(" tests run:")
        .or_else(|| counts.split_once(" test run:"))?;
    let wanted: u64 = ran.trim().rsplit('/').next()?.parse().ok()?;
    let passed = number_before(outcome, " passed").unwrap_or(0);
    Some(Tally {
        passed,
        failed: wanted.saturating_sub(passed),
        skipped: 0,
    })
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`
fn cargo_test(line: &str) -> Option<Tally> {
    let counts = line.trim_start().strip_prefix("test result: ")?;
    Some(Tally {
        passed: number_before(counts, " passed")?,
        failed: number_before(counts, " failed")?,
        skipped: number_before(counts, " ignored").unwrap_or(0),
    })
}

fn number_before(text: &str, word: &str) -> Option<u64> {
    text.split_once(word)?
        .0
        .rsplit([' ', ',', ';', '.', ':'])
        .next()?
        .parse()
        .ok()
}

/// `line` without colour codes (`ESC [ … letter`).
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character != '\u{1b}' {
            out.push(character);
        } else if characters.next() == Some('[') {
            characters.find(char::is_ascii_alphabetic);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn nextest_summaries_are_counted() {
        let line = "     Summary [   0.012s] 12 tests run: 10 passed (1 slow), 2 failed, 3 skipped";
        assert_eq!(closing_line(line), Some(tally(10, 2, 0)));
        let line = "     Summary [   9.2s] 1 test run: 1 passed, 0 skipped";
        assert_eq!(closing_line(line), Some(tally(1, 0, 0)));
    }

    #[test]
    fn tests_that_never_ran_count_as_failed() {
        let line = "\u{1b}[31m     Summary\u{1b}[0m [   1s] 3/10 tests run: 2 passed, 1 timed out";
        assert_eq!(closing_line(line), Some(tally(2, 8, 0)));
    }

    #[test]
    fn cargo_test_results_are_counted() {
        let line = "test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out";
        assert_eq!(closing_line(line), Some(tally(5, 1, 2)));
        assert_eq!(closing_line("test attach ... ok"), None);
    }

    #[test]
    fn skipped_tests_are_not_passed() {
        let mut sum = tally(5, 0, 0);
        let lines = sum.take_skips("SKIP a: no fio\nSKIP a: no root\nnoise\nSKIP b: no 7z\n");
        assert_eq!(sum, tally(3, 0, 2));
        assert_eq!(lines.len(), 3);
        assert_eq!(sum.line(), "3 passed, 0 failed, 2 skipped");
    }
}
