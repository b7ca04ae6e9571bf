//! Attached disks beside a plain loop device, one against the other.
//!
//! A noisy machine moves single figures by more than the few percent that are asked about here. So
//! each of ours is measured right before or right after the other, again and again in turn, and the
//! ratios of these pairs are looked at: their median, and the range in which the true median lies
//! with 95 % confidence (order statistics, no assumption about the noise). Pairs are added until
//! that range lies above or below the floor, or until there are too many.

use std::path::Path;

use anyhow::{Context, Result};

use super::disk::{self, Disk, Kind};
use super::fio::{self, PATTERNS, Pattern};
use super::table;
use crate::run;
use crate::service::Service;

/// What a direct attachment must reach of its twin.
const FLOOR: f64 = 0.95;
/// Fewest and most pairs for a verdict.
const FEWEST: usize = 10;
const MOST: usize = 60;
/// How long one figure is measured, in milliseconds.
const MILLIS: u32 = 600;

/// All pairs of one of ours, on one pattern.
struct Paired {
    name: String,
    pattern: &'static str,
    /// What it is compared with.
    beside: &'static str,
    /// What it must reach of that.
    floor: f64,
    ratios: Vec<f64>,
}

/// Measures all direct attachments and prints the verdicts.
pub(super) fn run(service: &Service, folder: &Path, size_bytes: u64) -> Result<()> {
    let mut results = Vec::new();
    for kind in [Kind::Raw, Kind::Iso, Kind::Fixed] {
        let ours = disk::ours(service, folder, kind, size_bytes)?;
        let twin = disk::twin(folder, kind, size_bytes)?;
        if ours.writable {
            fio::fill(&ours.device, size_bytes)?;
        }
        for pattern in PATTERNS.iter().filter(|p| ours.writable || !p.writes) {
            let begun = Paired::new(
                &ours,
                pattern,
                "a plain loop device on the same file",
                FLOOR,
            );
            results.push(compare(begun, [&ours, &twin], pattern, size_bytes)?);
        }
    }
    tell(&results);
    Ok(())
}

/// Measures disks that a worker serves, beside a plain loop device on a raw file, and prints the
/// verdicts. The patterns with the least room come first.
pub(super) fn served(service: &Service, folder: &Path, size_bytes: u64) -> Result<()> {
    let raw = disk::raw_loop(folder, size_bytes, true)?;
    fio::fill(&raw.device, size_bytes)?;
    let mut results = Vec::new();
    for kind in [Kind::Dynamic, Kind::DynamicVhdx] {
        let ours = disk::ours(service, folder, kind, size_bytes)?;
        fio::fill(&ours.device, size_bytes)?;
        for (column, pattern) in PATTERNS.iter().enumerate().rev() {
            let floor = table::floor(kind, column);
            let begun = Paired::new(&ours, pattern, "a plain loop device on a raw file", floor);
            results.push(compare(begun, [&ours, &raw], pattern, size_bytes)?);
        }
    }
    tell(&results);
    Ok(())
}

fn tell(results: &[Paired]) {
    let held = results.iter().filter(|paired| paired.verdict() == "holds");
    println!("{} of {} hold", held.count(), results.len());
}

impl Paired {
    fn new(ours: &Disk, pattern: &Pattern, beside: &'static str, floor: f64) -> Paired {
        Paired {
            name: ours.name.clone(),
            pattern: pattern.name,
            beside,
            floor,
            ratios: Vec::new(),
        }
    }

    fn verdict(&self) -> &'static str {
        verdict(&self.ratios, self.floor)
    }
}

/// Pairs of one of ours and another disk until there is a verdict, which is printed.
fn compare(
    mut paired: Paired,
    [ours, twin]: [&Disk; 2],
    pattern: &Pattern,
    size_bytes: u64,
) -> Result<Paired> {
    let speed = |disk: &Disk| {
        fio::speed(&disk.device, pattern, size_bytes, MILLIS)
            .with_context(|| format!("{} on {}", pattern.name, disk.name))
    };
    while paired.ratios.len() < MOST {
        run::go_on()?;
        // Whoever comes first in a pair must not always be the same.
        let ratio = if paired.ratios.len().is_multiple_of(2) {
            let ours = speed(ours)?;
            ours / speed(twin)?
        } else {
            let twin = speed(twin)?;
            speed(ours)? / twin
        };
        paired.ratios.push(ratio);
        if paired.ratios.len() >= FEWEST && paired.verdict() != "open " {
            break;
        }
    }
    println!("{}", line(&paired));
    Ok(paired)
}

/// "holds", "MISSED", or "open " where the range of the median has the floor in it.
fn verdict(ratios: &[f64], floor: f64) -> &'static str {
    let (low, _, high) = median(ratios);
    if low >= floor {
        "holds"
    } else if high < floor {
        "MISSED"
    } else {
        "open "
    }
}

/// The median, and the range around it that holds the true one with 95 % confidence.
fn median(ratios: &[f64]) -> (f64, f64, f64) {
    let mut sorted = ratios.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let Some(last) = count.checked_sub(1) else {
        return (0.0, 0.0, f64::INFINITY);
    };
    // How many of the ratios lie below the true median is a binomial number: mean n/2, deviation
    // √n/2, of which 1.96 hold 95 %.
    let reach = 1.96 * (count as f64).sqrt() / 2.0;
    let low = (count as f64 / 2.0 - reach).floor().max(0.0) as usize;
    let middle = f64::midpoint(sorted[last / 2], sorted[count / 2]);
    (sorted[low.min(last)], middle, sorted[last - low.min(last)])
}

fn line(paired: &Paired) -> String {
    let (low, middle, high) = median(&paired.ratios);
    format!(
        "{} {} {}: {middle:.3} × {} ({low:.3} to {high:.3} at 95 %, {} pairs), wanted {:.2}",
        paired.verdict(),
        paired.name,
        paired.pattern,
        paired.beside,
        paired.ratios.len(),
        paired.floor
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_narrows_with_more_pairs_and_holds_the_median() {
        let ratios: Vec<f64> = (0..10).map(|at| 0.9 + f64::from(at) * 0.02).collect();
        let (low, middle, high) = median(&ratios);
        assert!(low < middle && middle < high);
        assert!((middle - 0.99).abs() < 1e-9);
        let many: Vec<f64> = (0..100).map(|at| 0.9 + f64::from(at) * 0.002).collect();
        let (nearer_low, _, nearer_high) = median(&many);
        assert!(nearer_high - nearer_low < high - low);
    }

    #[test]
    fn a_verdict_needs_the_whole_range_on_one_side() {
        assert_eq!(verdict(&[1.0; 12], FLOOR), "holds");
        assert_eq!(verdict(&[0.9; 12], FLOOR), "MISSED");
        let around: Vec<f64> = (0..12).map(|at| 0.90 + f64::from(at) * 0.01).collect();
        assert_eq!(verdict(&around, FLOOR), "open ");
        assert_eq!(verdict(&[], FLOOR), "open ");
    }
}
