//! fio: the patterns, one measurement, a verify under concurrent writes.
//!
//! May assume: fio 3 is installed. Promises: figures come from its JSON output, in bytes or
//! operations per second, without the ramp-up.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run;

/// One way to use a disk.
pub(super) struct Pattern {
    /// Heading of its column.
    pub(super) name: &'static str,
    /// fio's `rw`.
    access: &'static str,
    /// fio's `bs`.
    block: &'static str,
    /// fio's `iodepth`.
    depth: u32,
    /// Writes to the disk.
    pub(super) writes: bool,
}

const fn pattern(
    name: &'static str,
    access: &'static str,
    block: &'static str,
    depth: u32,
    writes: bool,
) -> Pattern {
    Pattern {
        name,
        access,
        block,
        depth,
        writes,
    }
}

/// The columns of the table.
pub(super) const PATTERNS: &[Pattern] = &[
    pattern("seqread 1M", "read", "1M", 8, false),
    pattern("randread 4k QD1", "randread", "4k", 1, false),
    pattern("randread 4k QD32", "randread", "4k", 32, false),
    pattern("seqwrite 1M", "write", "1M", 8, true),
    pattern("randwrite 4k QD1", "randwrite", "4k", 1, true),
    pattern("randwrite 4k QD32", "randwrite", "4k", 32, true),
];

fn fio(device: &str, size_bytes: u64) -> Command {
    let mut command = Command::new("fio");
    command.args([
        "--name=bench",
        "--direct=1",
        "--ioengine=libaio",
        "--output-format=json",
    ]);
    command.args([
        format!("--filename={device}"),
        format!("--size={size_bytes}"),
    ]);
    command
}

/// Operations a second (4k) or bytes a second (1M).
pub(super) fn speed(device: &str, pattern: &Pattern, size_bytes: u64, millis: u32) -> Result<f64> {
    let mut command = fio(device, size_bytes);
    command.args([
        "--time_based",
        "--ramp_time=200ms",
        "--norandommap",
        "--randrepeat=0",
    ]);
    command.args([
        format!("--rw={}", pattern.access),
        format!("--bs={}", pattern.block),
        format!("--iodepth={}", pattern.depth),
        format!("--runtime={millis}ms"),
    ]);
    figure(
        &run::output(&mut command)?,
        pattern.writes,
        pattern.block == "1M",
    )
}

/// Reads fio's JSON: bytes a second when `bandwidth`, else operations a second.
fn figure(output: &str, writes: bool, bandwidth: bool) -> Result<f64> {
    // fio may print a warning before the object.
    let start = output.find('{').context("fio printed no JSON")?;
    let output: Value = serde_json::from_str(&output[start..]).context("read fio's JSON")?;
    let job = &output["jobs"][0];
    ensure!(
        job["error"].as_i64() == Some(0),
        "fio reports error {}",
        job["error"]
    );
    let side = &job[if writes { "write" } else { "read" }];
    let figure = side[if bandwidth { "bw_bytes" } else { "iops" }].as_f64();
    let figure = figure.context("fio's JSON has no such figure")?;
    ensure!(figure > 0.0, "fio did no I/O");
    Ok(figure)
}

/// Writes the whole disk once, so that a dynamic image has all its blocks.
pub(super) fn fill(device: &str, size_bytes: u64) -> Result<()> {
    let mut command = fio(device, size_bytes);
    command.args([
        "--rw=write",
        "--bs=1M",
        "--iodepth=8",
        "--refill_buffers",
        "--end_fsync=1",
    ]);
    run::output(&mut command).map(drop)
}

/// Overlapping writes at depth 32, then reads them back: true when all bytes are right.
pub(super) fn verify(device: &str, size_bytes: u64) -> bool {
    let passes = [["--bs=1M", "--iodepth=8"], ["--bs=4k", "--iodepth=32"]];
    passes.iter().all(|words| {
        let mut command = fio(device, size_bytes);
        command
            .args(["--rw=randwrite", "--verify=crc32c", "--verify_fatal=1"])
            .args(words);
        run::output(&mut command).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"fio: note
        {"jobs": [{"error": 0, "read": {"bw_bytes": 4096, "iops": 1.5},
                   "write": {"bw_bytes": 0, "iops": 0.0}}]}"#;

    #[test]
    fn figures_come_from_the_right_place() {
        assert_eq!(figure(OUTPUT, false, true).unwrap(), 4096.0);
        assert_eq!(figure(OUTPUT, false, false).unwrap(), 1.5);
    }

    #[test]
    fn no_figure_is_an_error() {
        assert!(figure(OUTPUT, true, false).is_err());
        assert!(figure("", true, false).is_err());
        assert!(figure(&OUTPUT.replace("\"error\": 0", "\"error\": 5"), false, true).is_err());
    }
}
