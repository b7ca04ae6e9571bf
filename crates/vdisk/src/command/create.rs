//! `vdisk create`: makes a new image.
//!
//! The format follows from the file's extension, as with CreateVirtualDisk and no storage type.
//! Promises: a file that is there is never overwritten; what a failed create made is removed by
//! the library.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use virtdisk::{CreateFlags, CreateOptions, CreateParameters, Service, VirtualDisk};

use crate::failure::Result;
use crate::parents::Parents;
use crate::size;

/// Make a new image.
///
/// The format follows from the extension: .vhd and .vhdx, .raw and .img for raw images. A VHD or
/// VHDX is dynamic, its file grows as it is written, unless --fixed asks for all its space at once.
/// With --parent it is differencing: it holds what is written to it and reads the rest from there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk create disk.vhd --size 10G            a dynamic VHD
  vdisk create disk.vhd --size 10G --fixed    all space allocated now
  vdisk create disk.raw --size 512M           a raw image
  vdisk create disk.vhdx --size 2T --sector-size 4096
  vdisk create child.vhdx --parent disk.vhdx  a differencing VHDX

An image that exists is never overwritten.")]
pub(crate) struct Create {
    /// The image to make
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Size of the disk in bytes, or with K, M, G, T (powers of 1024)
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    #[arg(required_unless_present = "parent", conflicts_with = "parent")]
    size: Option<u64>,
    /// Allocate all space now
    #[arg(long)]
    fixed: bool,
    /// Unit in which a dynamic image grows: VHD 512K or 2M (the default), VHDX 1M to 256M (32M)
    #[arg(long, value_name = "SIZE", value_parser = bytes_32, conflicts_with = "fixed")]
    block_size: Option<u32>,
    /// Logical sector: 512 (the default), or 4096 for a VHDX
    #[arg(long, value_name = "BYTES", value_parser = bytes_32)]
    sector_size: Option<u32>,
    /// Physical sector that the disk states: 512 or 4096
    #[arg(long, value_name = "BYTES", value_parser = bytes_32)]
    physical_sector_size: Option<u32>,
    /// The image of which this one is to be the child; it must not be changed from then on
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "fixed")]
    parent: Option<PathBuf>,
    #[command(flatten)]
    parents: Parents,
}

/// Reads a size that formats keep in 32 bits.
pub(crate) fn bytes_32(text: &str) -> std::result::Result<u32, String> {
    u32::try_from(size::parse(text)?).map_err(|_| "no format has any this large".to_string())
}

/// Makes the image.
pub(crate) fn run(verb: &Create) -> Result<()> {
    let parent = verb.parent.as_deref().map(absolute).transpose()?;
    let parameters = CreateParameters {
        maximum_size: verb.size.unwrap_or(0),
        block_size: verb.block_size.unwrap_or(0),
        sector_size: verb.sector_size.unwrap_or(0),
        physical_sector_size: verb.physical_sector_size.unwrap_or(0),
        parent_path: parent,
        ..CreateParameters::default()
    };
    image(&verb.file, verb.fixed, parameters, &verb.parents)?;
    Ok(())
}

/// The API wants whole paths of parents.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        let message = format!("{}: no absolute path", path.display());
        virtdisk::Error::from_io(message, error).into()
    })
}

/// Makes an image; the answer is a handle with every right.
pub(crate) fn image(
    file: &Path,
    fixed: bool,
    parameters: CreateParameters,
    parents: &Parents,
) -> virtdisk::Result<VirtualDisk> {
    let flags = if fixed {
        CreateFlags::FULL_PHYSICAL_ALLOCATION
    } else {
        CreateFlags::NONE
    };
    Service::find().with_parents(parents.policy()).create(
        file,
        &CreateOptions {
            flags,
            parameters,
            ..CreateOptions::default()
        },
    )
}
