//! `vdisk attach`: an image becomes a block device.
//!
//! The attachment is permanent (it outlives this process) unless `--temporary` holds it. Promises:
//! stdout is the device path and nothing else; when anything fails after the attach, the disk is
//! detached again.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use virtdisk::{
    AttachFlags, AttachOptions, Attached, Code, CreateParameters, DetachOptions, InUse, VirtualDisk,
};

use crate::command::create;
use crate::command::detach::{self, Patience};
use crate::failure::{Failure, Result};
use crate::parents::Parents;
use crate::signals::{Event, Events};
use crate::{image, mount, output, size};

/// Attach an image as a block device and print the device's path.
///
/// The disk stays attached until `vdisk detach`, whatever becomes of this process. Partitions are
/// there when the command returns, as /dev/loopNp1 and so on. The device belongs to the owner and
/// group of the image file, with its mode.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk attach disk.vhd                          prints /dev/loopN
  vdisk attach image.iso --read-only             an ISO is never written
  vdisk attach disk.vhd --create 10G             makes it when it is missing
  vdisk attach disk.vhd --mount /mnt             attaches and mounts
  vdisk attach disk.vhd --temporary              until Ctrl-C or the end of input

Only the device's path is printed, so a script can write: device=$(vdisk attach disk.vhd)")]
pub(crate) struct Attach {
    /// The image
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Attach it so that nothing can write to it; ISO images need this
    #[arg(long)]
    read_only: bool,
    /// Make the image with this size (K, M, G, T = powers of 1024) when it is missing
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "read_only")]
    create: Option<u64>,
    /// Mount the first file system on this directory, without devices and set-user-id programs
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    mount: Option<PathBuf>,
    /// Hold the disk until Ctrl-C, SIGTERM or the end of standard input, then detach it
    #[arg(long)]
    temporary: bool,
    #[command(flatten)]
    parents: Parents,
}

/// Attaches, prints, and with `--temporary` waits and detaches.
pub(crate) fn run(verb: &Attach) -> Result<()> {
    if let Some(place) = &verb.mount {
        mount::check_place(place)?;
    }
    // From here on a signal must not end us between attach and detach.
    let events = if verb.temporary {
        Some(Events::listen()?)
    } else {
        None
    };
    let disk = open(verb)?;
    let attached = attach(&disk, &verb.file, verb.read_only, !verb.temporary)?;
    let announced = announce(verb, &attached);
    if announced.is_err() {
        detach::from_handle(&disk, InUse::Refuse, Patience::short())?;
    }
    announced?;
    let Some(events) = events else { return Ok(()) };
    events.watch_input();
    while matches!(events.next(), Event::ChildEnded(_)) {}
    if let Some(place) = &verb.mount {
        mount::unmount(place)?;
    }
    release(&disk, &verb.file)
}

/// Mounts where asked, then prints the device.
fn announce(verb: &Attach, attached: &Attached) -> Result<()> {
    if let Some(place) = &verb.mount {
        mount::first_file_system(attached, place, verb.read_only)?;
    }
    let printed = output::print(&format!("{}\n", attached.device.display()));
    if let (Err(_), Some(place)) = (&printed, &verb.mount) {
        mount::unmount(place)?;
    }
    printed
}

/// Opens the image, or makes it with `--create` when it is missing.
fn open(verb: &Attach) -> Result<VirtualDisk> {
    let opened = image::open_to_attach(&verb.file, verb.read_only, &verb.parents);
    let (Err(failure), Some(size)) = (&opened, verb.create) else {
        return opened;
    };
    if failure.code() != Some(Code::ERROR_FILE_NOT_FOUND) {
        return opened;
    }
    let parameters = CreateParameters {
        maximum_size: size,
        ..CreateParameters::default()
    };
    match create::image(&verb.file, false, parameters, &verb.parents) {
        // Somebody made it meanwhile: then it is not missing.
        Err(error) if error.code() == Code::ERROR_FILE_EXISTS => {
            image::open_to_attach(&verb.file, verb.read_only, &verb.parents)
        }
        made => Ok(made?),
    }
}

/// Attaches an open image; `permanent` is whether the attachment outlives the handle.
pub(crate) fn attach(
    disk: &VirtualDisk,
    file: &Path,
    read_only: bool,
    permanent: bool,
) -> Result<Attached> {
    let mut flags = AttachFlags::NONE;
    flags.set(AttachFlags::READ_ONLY, read_only);
    flags.set(AttachFlags::PERMANENT_LIFETIME, permanent);
    let attached = disk.attach(&AttachOptions {
        flags,
        ..AttachOptions::default()
    });
    attached.map_err(|error| {
        let failure = Failure::from(error);
        if !read_only && image::refused_to_write(&failure) {
            return failure.hint(image::read_only_hint(file));
        }
        failure
    })
}

/// Detaches at the end of a temporary attachment. A disk that is still used then goes when its
/// last user lets go, which is worth an error: the caller's next step may count on it.
pub(crate) fn release(disk: &VirtualDisk, file: &Path) -> Result<()> {
    match detach::from_handle(disk, InUse::Refuse, Patience::short()) {
        Err(failure) if failure.code() == Some(Code::ERROR_BUSY) => {}
        done => return done.map(drop),
    }
    let options = DetachOptions {
        in_use: InUse::WhenFree,
        ..DetachOptions::default()
    };
    let detached = disk.detach_with(&options)?;
    if detached.gone {
        return Ok(());
    }
    Err(Failure::new(format!("{}: still in use", file.display()))
        .holders(detached.holders)
        .hint("it detaches by itself when the last of them lets go"))
}
