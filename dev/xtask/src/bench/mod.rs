//! `cargo xtask bench attach`: how fast attached disks are, beside a plain loop device and beside
//! other programs, in one run. What `bench convert` does stands in `convert.rs`.
//!
//! All images lie in `/dev/shm`, so that processor cost and wake-ups decide. All disks are
//! attached first; then every round measures every disk on every pattern, so that a noisy moment
//! hits all alike; the medians over the rounds are compared. Promises: a peer that is not
//! installed is named as a SKIP; every device, mount and process is gone afterwards.

mod convert;
mod disk;
mod fio;
mod latency;
mod pairs;
mod peer;
mod table;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::place::{Profile, Scratch};
use crate::run;
use crate::service::Service;
use crate::setup::{self, Need};
use disk::Disk;
use fio::{PATTERNS, Pattern};

/// How much and how long.
struct Effort {
    size_bytes: u64,
    rounds: usize,
    seconds: u32,
    attaches: usize,
}

const FULL: Effort = Effort {
    size_bytes: 1 << 30,
    rounds: 5,
    seconds: 1,
    attaches: 20,
};
const QUICK: Effort = Effort {
    size_bytes: 256 << 20,
    rounds: 1,
    seconds: 1,
    attaches: 20,
};

/// Which bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// All, with enough rounds for medians.
    Full,
    /// One short round: shows that the bench works.
    Quick,
    /// Only what is attached straight on its file, pair by pair with a plain loop device on it.
    Direct,
    /// Only what a worker serves, pair by pair with a plain loop device on a raw file.
    Served,
}

/// Runs the bench of `vdisk convert`; `quick` only shows that it works.
pub(crate) fn convert(quick: bool) -> Result<bool> {
    convert::run(quick)
}

/// Runs the bench and prints its tables. The figures decide nothing about the exit code.
pub(crate) fn run(length: Length) -> Result<bool> {
    ensure!(
        run::is_root(),
        "the bench attaches block devices, which needs root"
    );
    setup::run(Need::Everything)?;
    ensure!(run::find("fio").is_some(), "the bench needs fio");
    let effort = match length {
        Length::Full | Length::Direct | Length::Served => FULL,
        Length::Quick => QUICK,
    };
    let service = Service::build(Profile::Release)?;
    let scratch = Scratch::new(Path::new("/dev/shm"), "bench")?;
    if length == Length::Direct {
        println!("{}", machine());
        pairs::run(&service, scratch.path(), effort.size_bytes)?;
        return ended(&service);
    }
    if length == Length::Served {
        println!("{}", machine());
        pairs::served(&service, scratch.path(), effort.size_bytes)?;
        return ended(&service);
    }
    let latency = latency::measure(&service, scratch.path(), effort.attaches)?;
    let disks = disks(&service, scratch.path(), &effort)?;
    let results = measure(&disks, &effort)?;
    drop(disks);
    ended(&service)?;
    println!();
    println!("{}", machine());
    println!(
        "{} MiB each, {} rounds of {} s, fio direct=1 libaio, images in /dev/shm",
        effort.size_bytes >> 20,
        effort.rounds,
        effort.seconds
    );
    table::print(&results);
    latency::print(&latency);
    Ok(true)
}

/// The service ends by itself when all is detached.
fn ended(service: &Service) -> Result<bool> {
    ensure!(
        service.ended(Duration::from_secs(10)),
        "the service did not end by itself"
    );
    Ok(true)
}

/// Everything that is compared, attached and filled.
fn disks(service: &Service, folder: &Path, effort: &Effort) -> Result<Vec<Disk>> {
    let size = effort.size_bytes;
    let mut disks = vec![
        disk::raw_loop(folder, size, true)?,
        disk::raw_loop(folder, size, false)?,
        disk::ours(service, folder, disk::Kind::Raw, size)?,
        disk::ours(service, folder, disk::Kind::Iso, size)?,
        disk::twin(folder, disk::Kind::Iso, size)?,
        disk::ours(service, folder, disk::Kind::Fixed, size)?,
        disk::twin(folder, disk::Kind::Fixed, size)?,
    ];
    disks.push(disk::ours(service, folder, disk::Kind::Dynamic, size)?);
    disks.push(disk::ours(service, folder, disk::Kind::DynamicVhdx, size)?);
    let peers: [fn(&Path, u64) -> Result<Disk>; 3] = [
        peer::storage_daemon,
        peer::nbdfuse_buffered,
        peer::nbdfuse_direct,
    ];
    for peer in peers {
        match peer(folder, size) {
            Ok(disk) => disks.push(disk),
            Err(error) => println!("SKIP {error:#}"),
        }
    }
    for disk in disks.iter().filter(|disk| disk.writable) {
        run::go_on()?;
        fio::fill(&disk.device, size)?;
    }
    Ok(disks)
}

/// The median of every pattern on one disk, and whether its data survived a verify.
struct Measured {
    name: String,
    floor: Option<disk::Kind>,
    twin: Option<disk::Kind>,
    /// In the order of [`PATTERNS`]; `None` where the disk can't be written.
    medians: Vec<Option<f64>>,
    /// Largest less smallest figure over the median, by pattern: how noisy the machine was.
    spreads: Vec<Option<f64>>,
    verified: Option<bool>,
}

fn measure(disks: &[Disk], effort: &Effort) -> Result<Vec<Measured>> {
    let mut samples = vec![vec![Vec::new(); PATTERNS.len()]; disks.len()];
    for round in 0..effort.rounds {
        for (column, pattern) in PATTERNS.iter().enumerate() {
            eprintln!("round {} of {}: {}", round + 1, effort.rounds, pattern.name);
            // Each round begins with another disk, so that none always follows the same one.
            let order = (0..disks.len()).map(|place| (place + round) % disks.len());
            for (row, disk) in order
                .map(|row| (row, &disks[row]))
                .filter(|(_, disk)| fits(disk, pattern))
            {
                run::go_on()?;
                let speed = fio::speed(
                    &disk.device,
                    pattern,
                    effort.size_bytes,
                    effort.seconds * 1000,
                )
                .with_context(|| format!("{} on {}", pattern.name, disk.name))?;
                samples[row][column].push(speed);
            }
        }
    }
    let verdicts = disks.iter().map(|disk| {
        disk.writable
            .then(|| fio::verify(&disk.device, effort.size_bytes.min(128 << 20)))
    });
    let rows = disks.iter().zip(samples).zip(verdicts);
    Ok(rows
        .map(|((disk, samples), verified)| Measured {
            name: disk.name.clone(),
            floor: disk.kind,
            twin: disk.twin,
            spreads: samples.iter().map(|samples| spread(samples)).collect(),
            medians: samples.into_iter().map(median).collect(),
            verified,
        })
        .collect())
}

fn fits(disk: &Disk, pattern: &Pattern) -> bool {
    disk.writable || !pattern.writes
}

/// The middle one; `None` of nothing.
fn median(mut samples: Vec<f64>) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    let upper = samples.get(middle).copied()?;
    Some(if samples.len() % 2 == 1 {
        upper
    } else {
        (samples[middle - 1] + upper) / 2.0
    })
}

/// Largest less smallest over the middle one; `None` of fewer than two.
fn spread(samples: &[f64]) -> Option<f64> {
    let largest = samples.iter().copied().reduce(f64::max)?;
    let smallest = samples.iter().copied().reduce(f64::min)?;
    (samples.len() > 1).then(|| (largest - smallest) / median(samples.to_vec()).unwrap_or(1.0))
}

/// One line about the machine, for whoever reads the figures later.
fn machine() -> String {
    let kernel = run::output(Command::new("uname").arg("-r")).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let model = model.unwrap_or("processor unknown");
    format!(
        "{cpus} × {model}, Linux {}, load {load} at the end",
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn spread_is_relative_to_the_middle() {
        assert_eq!(spread(&[5.0]), None);
        assert_eq!(spread(&[2.0, 1.0, 3.0]), Some(1.0));
    }
}
