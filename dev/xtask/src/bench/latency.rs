//! How long attach and detach take: a 100 GiB dynamic VHD, by the command, again and again.
//!
//! Wanted: at most [`LIMIT_MS`] each. The clock runs around the whole `vdisk` process. Promises:
//! the first pair, which also starts the service, is told apart from the others, during which
//! another disk keeps the service there.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::run;
use crate::service::Service;

/// Longest attach and longest detach, in milliseconds, on an idle machine.
const LIMIT_MS: f64 = 30.0;

/// Times of one kind, each pair attach and detach.
pub(super) struct Latency {
    /// With a service that must be started.
    first: (Duration, Duration),
    /// With a running service.
    others: Vec<(Duration, Duration)>,
}

/// Attaches and detaches `times` times.
pub(super) fn measure(service: &Service, folder: &Path, times: usize) -> Result<Latency> {
    let image = folder.join("latency.vhd");
    let image = image.to_str().context("a folder without a name in UTF-8")?;
    let keeper = folder.join("keeper.vhd");
    let keeper = keeper
        .to_str()
        .context("a folder without a name in UTF-8")?;
    let vdisk = |words: &[&str]| -> Result<Duration> {
        let mut command: Command = service.command("vdisk");
        command.args(words);
        let started = Instant::now();
        run::output(&mut command)?;
        Ok(started.elapsed())
    };
    vdisk(&["create", image, "--size", "100G"])?;
    vdisk(&["create", keeper, "--size", "16M"])?;
    service.ended(Duration::from_secs(10));
    let pair = || -> Result<(Duration, Duration)> {
        let attach = vdisk(&["attach", image])?;
        Ok((attach, vdisk(&["detach", image])?))
    };
    let first = pair()?;
    vdisk(&["attach", keeper])?;
    let others = (0..times).map(|_| pair()).collect::<Result<Vec<_>>>();
    vdisk(&["detach", keeper])?;
    Ok(Latency {
        first,
        others: others?,
    })
}

/// Prints the medians in milliseconds.
pub(super) fn print(latency: &Latency) {
    let milliseconds = |time: &Duration| time.as_secs_f64() * 1000.0;
    let middle = |side: fn(&(Duration, Duration)) -> Duration| {
        let times = latency
            .others
            .iter()
            .map(|pair| milliseconds(&side(pair)))
            .collect();
        super::median(times).unwrap_or(f64::NAN)
    };
    println!();
    println!(
        "100 GiB dynamic VHD, the whole `vdisk` process, median of {}:",
        latency.others.len()
    );
    for (verb, time) in [
        ("attach", middle(|pair| pair.0)),
        ("detach", middle(|pair| pair.1)),
    ] {
        let word = if time <= LIMIT_MS { "holds " } else { "MISSED" };
        println!("{word} {verb}: {time:.1} ms, wanted {LIMIT_MS} ms at most");
    }
    println!(
        "with the service not running before: attach {:.1} ms, detach {:.1} ms",
        milliseconds(&latency.first.0),
        milliseconds(&latency.first.1)
    );
}
