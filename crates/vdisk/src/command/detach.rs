//! `vdisk detach`: the device goes, the data is in the file.
//!
//! An image is found by its file or by its device. Promises: success means the device is gone,
//! except with `--when-free`; a disk in use is an error that names who uses it and changes
//! nothing.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use virtdisk::{Code, DetachOptions, Detached, InUse, VirtualDisk};

use crate::failure::{Failure, Result, holding};
use crate::output::plain;
use crate::parents::Parents;
use crate::{duration, image};

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Detach a disk.
///
/// When the command succeeds, the device is gone and all data is in the image file. A disk in use
/// (mounted, opened, swap, below another device) is left as it is, and the error says who uses it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk detach disk.vhd                by the image
  vdisk detach /dev/loop0              by the device, or one of its partitions
  vdisk detach --all                   everything that is attached
  vdisk detach disk.vhd --wait 30s     waits for its users to let go
  vdisk detach disk.vhd --when-free    returns now, detaches when the last user lets go")]
pub(crate) struct Detach {
    /// The image, or the device it is attached as
    #[arg(value_hint = ValueHint::FilePath, value_name = "FILE|DEVICE")]
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    target: Option<PathBuf>,
    /// Detach every disk
    #[arg(long)]
    all: bool,
    /// Wait this long for a disk in use: 30s, 500ms, 2m
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "when_free")]
    wait: Option<Duration>,
    /// Don't fail for a disk in use: it detaches when its last user lets go
    #[arg(long)]
    when_free: bool,
}

/// How long to try again while a disk is in use.
#[derive(Clone, Copy)]
pub(crate) struct Patience(Duration);

impl Patience {
    /// Long enough for those who look at every new device for a moment.
    pub(crate) fn short() -> Patience {
        Patience(Duration::from_secs(2))
    }
}

/// Detaches what is asked for.
pub(crate) fn run(verb: &Detach) -> Result<()> {
    let patience = Patience(verb.wait.unwrap_or_default());
    let in_use = if verb.when_free {
        InUse::WhenFree
    } else {
        InUse::Refuse
    };
    let Some(target) = &verb.target else {
        return all(in_use, patience);
    };
    let disk = find(target)?;
    tell(target, &from_handle(&disk, in_use, patience)?);
    Ok(())
}

/// Detaches every disk; one that can't be does not keep the others.
fn all(in_use: InUse, patience: Patience) -> Result<()> {
    let mut failures = Vec::new();
    for disk in virtdisk::attached()? {
        // A disk without a device is found by its file.
        let target = if disk.device.is_empty() {
            &disk.file
        } else {
            &disk.device
        };
        let target = Path::new(target);
        match find(target).and_then(|handle| from_handle(&handle, in_use, patience)) {
            Ok(detached) => tell(target, &detached),
            // It went by itself since the list was made.
            Err(failure) if failure.code() == Some(Code::ERROR_NOT_READY) => {}
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures).map_or(Ok(()), Err)
}

/// A handle to the disk that `target` names: a device, or an image file.
fn find(target: &Path) -> Result<VirtualDisk> {
    let is_device = target
        .metadata()
        .is_ok_and(|facts| facts.file_type().is_block_device());
    if is_device || target.starts_with("/dev/") && !target.is_file() {
        return Ok(VirtualDisk::open_attached(target)?);
    }
    image::open_to_look(target, &Parents::default()).or_else(|failure| match deleted(target) {
        // The image was removed or renamed while attached.
        Some(device) if failure.code() == Some(Code::ERROR_FILE_NOT_FOUND) => {
            Ok(VirtualDisk::open_attached(device)?)
        }
        _ => Err(failure),
    })
}

/// Device of the attached image whose file used to be `target`.
fn deleted(target: &Path) -> Option<PathBuf> {
    let target = std::path::absolute(target).ok()?;
    let mut disks = virtdisk::attached().ok()?.into_iter();
    let disk = disks.find(|disk| {
        Path::new(disk.file.strip_suffix(" (deleted)").unwrap_or(&disk.file)) == target
    })?;
    (!disk.device.is_empty()).then(|| PathBuf::from(disk.device))
}

/// Detaches by an open handle, again and again while the disk is in use and patience lasts.
pub(crate) fn from_handle(
    disk: &VirtualDisk,
    in_use: InUse,
    patience: Patience,
) -> Result<Detached> {
    let until = Instant::now() + patience.0;
    loop {
        let options = DetachOptions {
            in_use,
            ..DetachOptions::default()
        };
        match disk.detach_with(&options) {
            Err(error) if is_busy(error.code()) && Instant::now() < until => {
                std::thread::sleep(PAUSE.min(until.saturating_duration_since(Instant::now())));
            }
            done => return Ok(done?),
        }
    }
}

/// The device is in use, or another handle to the disk is open.
fn is_busy(code: Code) -> bool {
    code == Code::ERROR_BUSY || code == Code::ERROR_SHARING_VIOLATION
}

/// Says on stderr that a disk is not gone yet.
fn tell(target: &Path, detached: &Detached) {
    if detached.gone {
        return;
    }
    let name = target.display().to_string();
    eprintln!("{} detaches when its last user lets go:", plain(&name));
    for holder in &detached.holders {
        eprintln!("  {}", plain(&holding(holder)));
    }
}
