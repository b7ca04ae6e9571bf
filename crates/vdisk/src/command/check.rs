//! `vdisk check`: every rule of the format, asked of a file; and repair, and undoing a repair.
//!
//! Works on the file itself with the caller's rights, without the service. Promises: a check
//! writes nothing; a repair keeps what it overwrites in an undo file beside the image, before it
//! overwrites it; exit code 0 without errors, 1 with.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::{Args, ValueHint};
use serde::Serialize;
use virtdisk_disk::lock::{self, Level};
use virtdisk_disk::{Finding, OpenOptions, Severity, check};

use crate::code_map;
use crate::failure::{Failure, Result};
use crate::lineage::{self, Lineage};
use crate::output::{self, plain};
use crate::parents::Parents;

/// Most undo files beside one image.
const MOST_UNDO: u32 = 999;

/// Find everything that is wrong with an image.
///
/// Every structure is read and every rule of the format is asked; nothing is written. --repair puts
/// right what is sure to be right afterwards (the other copy of a footer, header or region table,
/// the replay of a log) and keeps what it overwrites in FILE.undo-1, FILE.undo-2, ...
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk check disk.vhdx                  what is wrong, with offset, found and wanted
  vdisk check disk.vhdx --json           the same for programs
  vdisk check child.vhdx --chain         the image, its parents, and how they belong together
  vdisk check disk.vhdx --repair         repair what is safe to repair
  vdisk check --undo disk.vhdx.undo-1    put back what that repair overwrote

Exit codes: 0 no errors, 1 errors were found or the check failed, 2 wrong usage. Warnings and
notes alone are 0.")]
pub(crate) struct Check {
    /// The image
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "undo")]
    file: Option<PathBuf>,
    /// Repair what is provably safe to repair
    #[arg(long, conflicts_with = "undo")]
    repair: bool,
    /// Undo a repair: put back what stands in this undo file
    #[arg(long, value_name = "UNDO", value_hint = ValueHint::FilePath, conflicts_with = "json")]
    undo: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Check the parents of a differencing image too, and that they are the ones it was made of
    #[arg(long, conflicts_with_all = ["undo", "repair"])]
    chain: bool,
    #[command(flatten)]
    parents: Parents,
}

/// What was found in a chain.
#[derive(Serialize)]
struct Chain {
    complete: bool,
    /// Why it is not.
    why: Option<String>,
    layers: Vec<Report>,
}

/// What was found in one file.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    format: &'static str,
    kind: Option<&'static str>,
    errors: u64,
    warnings: u64,
    notes: u64,
    findings: Vec<Found>,
    repaired: Vec<Found>,
    /// The undo file of the repair.
    undo: Option<String>,
}

/// A finding, as JSON has it.
#[derive(Debug, Serialize)]
struct Found {
    severity: &'static str,
    rule: &'static str,
    structure: &'static str,
    offset: Option<u64>,
    message: String,
    found: String,
    wanted: String,
    repairable: bool,
    #[serde(skip)]
    sentence: String,
}

impl From<&Finding> for Found {
    fn from(finding: &Finding) -> Found {
        Found {
            severity: finding.severity.word(),
            rule: finding.rule,
            structure: finding.structure,
            offset: finding.offset,
            message: plain(&finding.message),
            found: plain(&finding.found),
            wanted: plain(&finding.wanted),
            repairable: finding.repairable,
            sentence: plain(&finding.to_string()),
        }
    }
}

/// Checks, repairs or undoes.
pub(crate) fn run(verb: &Check) -> Result<ExitCode> {
    if let Some(undo) = &verb.undo {
        put_back(undo, verb.file.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let file = verb.file.as_deref().unwrap_or(Path::new(""));
    if verb.chain {
        return chain(verb, file);
    }
    let mut report = Repair::default();
    if verb.repair {
        report = repair(file)?;
    }
    let report = examine(file, report)?;
    if verb.json {
        output::json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    Ok(if report.errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Checks the image and each parent that was found, and tells where the chain ends too early.
fn chain(verb: &Check, file: &Path) -> Result<ExitCode> {
    // An image too broken to be opened is one whose own check says why.
    let leaf = examine(file, Repair::default())?;
    let (names, broken) = if leaf.errors == 0 {
        let Lineage { layers, broken } = lineage::of(file, &verb.parents)?;
        let names = layers.into_iter().map(|layer| PathBuf::from(layer.file));
        (names.skip(1).collect(), broken)
    } else {
        let why = format!(
            "{}: has errors, so its parents were not looked for",
            name(file)
        );
        (Vec::new(), Some(Failure::new(why)))
    };
    let mut layers = vec![leaf];
    for parent in names {
        layers.push(examine(&parent, Repair::default())?);
    }
    let sound = layers.iter().all(|layer| layer.errors == 0);
    if verb.json {
        output::json(&Chain {
            complete: broken.is_none(),
            why: lineage::why(broken.as_ref()),
            layers,
        })?;
    } else {
        let texts: Vec<String> = layers.iter().map(text).collect();
        output::print(&texts.concat())?;
    }
    match broken {
        Some(broken) => Err(broken),
        None if sound => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::FAILURE),
    }
}

/// What a repair did.
#[derive(Default)]
struct Repair {
    done: Vec<Finding>,
    undo: Option<PathBuf>,
}

/// The file as it is now.
fn examine(path: &Path, repair: Repair) -> Result<Report> {
    let file = open(path, false)?;
    lock(&file, path, Level::Read)?;
    let mut findings = Vec::new();
    let mut keep = |finding: Finding| findings.push(finding);
    let summary =
        check::check(file, &name(path), &options(path), &mut keep).map_err(Failure::from)?;
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.offset));
    Ok(Report {
        file: path.display().to_string(),
        format: lineage::format_word(summary.format),
        kind: summary.kind.map(lineage::kind_word),
        errors: summary.errors,
        warnings: summary.warnings,
        notes: summary.notes,
        findings: findings.iter().map(Found::from).collect(),
        repaired: repair.done.iter().map(Found::from).collect(),
        undo: repair.undo.map(|path| path.display().to_string()),
    })
}

/// Repairs what can be; faults that can't are left for the check that follows.
fn repair(path: &Path) -> Result<Repair> {
    let file = open(path, true)?;
    lock(&file, path, Level::Write)?;
    let (undo, image) = (undo_path(path)?, path.to_path_buf());
    let at = undo.clone();
    let make = move || {
        let file = File::options().write(true).create_new(true).open(&at)?;
        // The name is durable before the image changes.
        let folder = image
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(file)
    };
    let done = check::repair(file, &name(path), &options(path), make).or_else(|error| {
        if error.kind() == virtdisk_disk::ErrorKind::InvalidParameter && !undo.exists() {
            return Ok(Vec::new());
        }
        let failure = Failure::from(error);
        Err(if undo.exists() {
            failure.hint(format!("vdisk check --undo {} undoes it", undo.display()))
        } else {
            failure
        })
    })?;
    let undo = undo.exists().then_some(undo);
    Ok(Repair { done, undo })
}

/// The first name of an undo file that is free.
fn undo_path(path: &Path) -> Result<PathBuf> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".undo-{number}"));
        PathBuf::from(name)
    };
    let is_free = |path: &PathBuf| path.symlink_metadata().is_err();
    (1..=MOST_UNDO).map(numbered).find(is_free).ok_or_else(|| {
        Failure::new(format!("{} has {MOST_UNDO} undo files", name(path)))
            .hint("remove those that are not needed any more")
    })
}

/// Puts back what a repair overwrote.
fn put_back(undo: &Path, image: Option<&Path>) -> Result<()> {
    let image = match image {
        Some(image) => image.to_path_buf(),
        None => image_of(undo)?,
    };
    let kept = open(undo, false)?;
    let file = open(&image, true)?;
    lock(&file, &image, Level::Write)?;
    let restored = check::restore(file, &name(&image), &kept).map_err(Failure::from)?;
    output::print(&format!(
        "{}: {} bytes put back, the file has its old length of {} bytes\n",
        name(&image),
        restored.bytes,
        restored.file_length
    ))
}

/// `disk.vhd` of `disk.vhd.undo-1`.
fn image_of(undo: &Path) -> Result<PathBuf> {
    let text = undo.as_os_str().to_string_lossy();
    let cut = text.rsplit_once(".undo-").filter(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    match cut {
        Some((image, _)) if undo.as_os_str().to_str().is_some() => Ok(PathBuf::from(image)),
        _ => Err(Failure::new(format!(
            "{} does not tell its image by its name",
            name(undo)
        ))
        .hint("give the image too: vdisk check --undo UNDO FILE")),
    }
}

/// A regular file, without waiting for whatever else it may be.
fn open(path: &Path, writable: bool) -> Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = File::options()
        .read(true)
        .write(writable)
        .custom_flags(flags)
        .open(path);
    opened.map_err(|error| {
        let message = format!("{}: can't be opened", name(path));
        virtdisk::Error::from_io(message, error).into()
    })
}

fn lock(file: &File, path: &Path, level: Level) -> Result<()> {
    lock::acquire(file, level).map_err(|conflict| {
        code_map::of_lock(path, conflict)
            .hint("`vdisk list` shows whether it is attached: detach it first")
    })
}

fn options(path: &Path) -> OpenOptions {
    OpenOptions {
        extension: path
            .extension()
            .map(|extension| extension.to_string_lossy().into_owned()),
        sibling_v01: path.with_extension("v01").exists(),
        ..OpenOptions::default()
    }
}

fn name(path: &Path) -> String {
    plain(&path.display().to_string())
}

fn style(severity: &str) -> Style {
    match severity {
        word if word == Severity::Error.word() => AnsiColor::Red.on_default().bold(),
        word if word == Severity::Warning.word() => AnsiColor::Yellow.on_default().bold(),
        _ => AnsiColor::Cyan.on_default(),
    }
}

/// A line for each finding, and one for the whole.
fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |label: &str, style: Style, found: &Found, end: &str| {
        let rule = match found.rule {
            "" => String::new(),
            rule => format!(" [{rule}]"),
        };
        let sentence = &found.sentence;
        text.push_str(&format!("{style}{label}:{style:#} {sentence}{rule}{end}\n"));
    };
    for found in &report.repaired {
        line("repaired", AnsiColor::Green.on_default().bold(), found, "");
    }
    for found in &report.findings {
        let end = if found.repairable {
            ", --repair mends it"
        } else {
            ""
        };
        line(found.severity, style(found.severity), found, end);
    }
    let counted = |count: u64, word: &str| match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    let kind = report.kind.map_or(String::new(), |kind| format!(" {kind}"));
    text.push_str(&format!(
        "{}:{kind} {}: {}, {}, {}\n",
        plain(&report.file),
        report.format,
        counted(report.errors, "error"),
        counted(report.warnings, "warning"),
        counted(report.notes, "note"),
    ));
    if let Some(undo) = &report.undo {
        text.push_str(&format!(
            "vdisk check --undo {} undoes the repair\n",
            plain(undo)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undo_file_tells_its_image() {
        assert_eq!(
            image_of(Path::new("/a/b.vhd.undo-12")).unwrap(),
            Path::new("/a/b.vhd")
        );
        assert!(image_of(Path::new("/a/b.vhd.undo-")).is_err());
        assert!(image_of(Path::new("/a/b.vhd")).is_err());
    }
}
