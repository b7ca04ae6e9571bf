//! The bench's tables: medians as they are, and as ratios to the raw loop device.
//!
//! Promises: whether a floor of the project holds is printed in words, beside the figures that
//! say so; a disk that lost data is called CORRUPT whatever its speed.

use super::Measured;
use super::disk::Kind;
use super::fio::PATTERNS;

/// Rows 0 and 1 are the raw loop device with direct and buffered I/O.
const BASELINES: [usize; 2] = [0, 1];

/// Prints everything.
pub(super) fn print(results: &[Measured]) {
    rows("median, MiB/s or kIOPS", results, absolute);
    for base in BASELINES {
        let medians = results[base].medians.clone();
        let title = format!("ratio to {}", results[base].name);
        rows(&title, results, |column, value| {
            medians[column].map_or("-".to_string(), |whole| format!("{:.2}", value / whole))
        });
    }
    println!();
    println!("{}", noise(&results[BASELINES[0]]));
    for line in floors(results) {
        println!("{line}");
    }
}

/// How far the baseline itself went up and down: no ratio says more than this allows.
fn noise(baseline: &Measured) -> String {
    let spreads: Option<Vec<String>> = baseline
        .spreads
        .iter()
        .map(|spread| spread.map(|spread| format!("{:.0} %", spread * 100.0)))
        .collect();
    match spreads {
        Some(spreads) => {
            format!(
                "spread of {} over the rounds: {}",
                baseline.name,
                spreads.join(", ")
            )
        }
        None => "one round only: this shows that the bench works, not how fast anything is".into(),
    }
}

fn absolute(column: usize, value: f64) -> String {
    if PATTERNS[column].name.ends_with("1M") {
        format!("{:.0}", value / f64::from(1u32 << 20))
    } else {
        format!("{:.1}", value / 1000.0)
    }
}

fn rows(title: &str, results: &[Measured], cell: impl Fn(usize, f64) -> String) {
    println!();
    let heads: Vec<&str> = PATTERNS.iter().map(|pattern| pattern.name).collect();
    println!("| {title:23} | {} | verify |", heads.join(" | "));
    println!("|{}|{}---|", "-".repeat(25), "---|".repeat(heads.len()));
    for row in results {
        let cells: Vec<String> = row
            .medians
            .iter()
            .enumerate()
            .map(|(column, value)| {
                let text = value.map_or("-".to_string(), |value| cell(column, value));
                format!("{text:>width$}", width = heads[column].len())
            })
            .collect();
        let verified = row
            .verified
            .map_or("-", |good| if good { "ok" } else { "CORRUPT" });
        println!("| {:23} | {} | {verified} |", row.name, cells.join(" | "));
    }
}

/// The least a kind of ours must reach of the raw loop device, by pattern.
pub(super) fn floor(kind: Kind, column: usize) -> f64 {
    match kind {
        Kind::Raw | Kind::Iso | Kind::Fixed => 0.95,
        Kind::Dynamic | Kind::DynamicVhdx if PATTERNS[column].name.ends_with("1M") => 0.50,
        Kind::Dynamic | Kind::DynamicVhdx => 0.40,
    }
}

/// The least a dynamic VHD must reach of a peer's writes.
fn peer_floor(column: usize) -> f64 {
    if PATTERNS[column].name.ends_with("QD32") {
        4.0
    } else {
        1.5
    }
}

/// A line for every floor: `holds` or `MISSED`, and by what figure.
fn floors(results: &[Measured]) -> Vec<String> {
    let mut lines = Vec::new();
    let baseline = &results[BASELINES[0]];
    for row in results {
        let Some(kind) = row.floor else { continue };
        let twin = results.iter().find(|other| other.twin == Some(kind));
        let baseline = twin.unwrap_or(baseline);
        for column in 0..PATTERNS.len() {
            lines.extend(verdict(row, baseline, column, floor(kind, column)));
        }
    }
    let ours = results.iter().find(|row| row.floor == Some(Kind::Dynamic));
    let peers = results
        .iter()
        .skip(BASELINES.len())
        .filter(|row| row.floor.is_none() && row.twin.is_none());
    for peer in peers.filter(|peer| peer.verified == Some(true)) {
        for column in (0..PATTERNS.len()).filter(|column| PATTERNS[*column].writes) {
            lines.extend(ours.and_then(|ours| verdict(ours, peer, column, peer_floor(column))));
        }
    }
    lines
}

fn verdict(row: &Measured, other: &Measured, column: usize, least: f64) -> Option<String> {
    let ratio = row.medians[column]? / other.medians[column]?;
    let word = if ratio >= least { "holds " } else { "MISSED" };
    let pattern = PATTERNS[column].name;
    Some(format!(
        "{word} {} {pattern}: {ratio:.2} × {}, wanted {least:.2}",
        row.name, other.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, floor: Option<Kind>, value: f64) -> Measured {
        let medians = vec![Some(value); PATTERNS.len()];
        Measured {
            name: name.to_string(),
            floor,
            twin: None,
            medians,
            spreads: Vec::new(),
            verified: Some(true),
        }
    }

    #[test]
    fn floors_hold_or_are_missed() {
        let raw = || {
            [
                row("raw loop dio", None, 100.0),
                row("raw loop buf", None, 100.0),
            ]
        };
        let good = raw()
            .into_iter()
            .chain([row("fixed", Some(Kind::Fixed), 96.0)]);
        assert!(
            floors(&good.collect::<Vec<_>>())
                .iter()
                .all(|line| line.starts_with("holds"))
        );
        let bad = raw()
            .into_iter()
            .chain([row("fixed", Some(Kind::Fixed), 94.0)]);
        assert!(
            floors(&bad.collect::<Vec<_>>())
                .iter()
                .all(|line| line.starts_with("MISSED"))
        );
    }

    #[test]
    fn peers_are_compared_on_writes_only_when_their_data_survives() {
        let mut peer = row("peer", None, 10.0);
        let ours = || row("ours", Some(Kind::Dynamic), 60.0);
        let raw = || {
            [
                row("raw loop dio", None, 100.0),
                row("raw loop buf", None, 100.0),
            ]
        };
        let all: Vec<Measured> = raw().into_iter().chain([ours(), peer]).collect();
        let lines = floors(&all);
        assert_eq!(
            lines.iter().filter(|line| line.contains("× peer")).count(),
            3
        );
        peer = row("peer", None, 10.0);
        peer.verified = Some(false);
        let all: Vec<Measured> = raw().into_iter().chain([ours(), peer]).collect();
        assert!(!floors(&all).iter().any(|line| line.contains("× peer")));
    }
}
