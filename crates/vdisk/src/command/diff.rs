//! `vdisk diff`: where two disks differ.
//!
//! Promises: ranges in order, in whole sectors of 512 bytes; exit code 0 for equal disks, 1 for
//! disks that differ, as with `cmp`. What both take from the same place of the same file is not
//! read, so two children of one parent are compared quickly.

use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use virtdisk_disk::work::{self, Difference, Stopped};

use crate::failure::Result;
use crate::parents::Parents;
use crate::progress::Watch;
use crate::{code_map, offline};

/// Show where two virtual disks differ.
///
/// Each line is a range of bytes: its start and its length. Images of different formats can be
/// compared, and an image with its parent. Where one disk is larger, what it has more differs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk diff disk.vhd disk.vhdx             ranges that differ: start and length, in bytes
  vdisk diff snapshot.avhdx base.vhdx       what the snapshot changed
  vdisk diff a.vhd b.vhd --json             for programs: an array of objects

Exit codes: 0 the disks are equal, 1 they differ or an error was printed.")]
pub(crate) struct Diff {
    /// One image
    #[arg(value_hint = ValueHint::FilePath)]
    a: PathBuf,
    /// The other image
    #[arg(value_hint = ValueHint::FilePath)]
    b: PathBuf,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    parents: Parents,
}

/// Compares and prints.
pub(crate) fn run(verb: &Diff) -> Result<ExitCode> {
    let (a, b) = (
        offline::open(&verb.a, &verb.parents)?,
        offline::open(&verb.b, &verb.parents)?,
    );
    let name = format!("{} and {}", verb.a.display(), verb.b.display());
    let compared = Watch::begin(&name)?.over(|job| {
        let mut out = BufWriter::new(std::io::stdout().lock());
        let mut differences = 0_u64;
        let mut print = |range: Difference| {
            differences += 1;
            line(&mut out, range, verb.json, differences == 1)
        };
        work::diff(&a, &b, job, &mut print)?;
        let end = match (verb.json, differences) {
            (false, _) => "",
            (true, 0) => "[]\n",
            (true, _) => "\n]\n",
        };
        let ended = out.write_all(end.as_bytes()).and_then(|()| out.flush());
        ended.map_err(Stopped::Stream)?;
        Ok(differences)
    });
    match compared.map_err(|stopped| code_map::of_work(&verb.a, stopped))? {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

fn line(
    out: &mut impl std::io::Write,
    range: Difference,
    json: bool,
    first: bool,
) -> std::io::Result<()> {
    let Difference { start, len } = range;
    if !json {
        return writeln!(out, "{start} {len}");
    }
    let before = if first { "[\n" } else { ",\n" };
    write!(out, "{before}  {{ \"start\": {start}, \"length\": {len} }}")
}
