//! `vdisk create`: makes a new image.
//!
//! The format follows from the file's extension, as with CreateVirtualDisk and no storage type.
//! Promises: a file that is there is never overwritten; what a failed create made is removed by
//! the library.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use virtdisk::{CreateFlags, CreateOptions, CreateParameters, VirtualDisk};

use crate::failure::Result;
use crate::size;

/// Make a new image.
///
/// The format follows from the extension: .vhd is a VHD, .raw and .img are raw images. A VHD is
/// dynamic, its file grows as it is written, unless --fixed asks for all its space at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk create disk.vhd --size 10G            a dynamic VHD
  vdisk create disk.vhd --size 10G --fixed    all space allocated now
  vdisk create disk.raw --size 512M           a raw image

An image that exists is never overwritten.")]
pub(crate) struct Create {
    /// The image to make
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Size of the disk in bytes, or with K, M, G, T (powers of 1024)
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    size: u64,
    /// Allocate all space now
    #[arg(long)]
    fixed: bool,
    /// Unit in which a dynamic image grows: 512K or 2M (the default)
    #[arg(long, value_name = "SIZE", value_parser = block_size, conflicts_with = "fixed")]
    block_size: Option<u32>,
}

fn block_size(text: &str) -> std::result::Result<u32, String> {
    u32::try_from(size::parse(text)?).map_err(|_| "no format has blocks this large".to_string())
}

/// Makes the image.
pub(crate) fn run(verb: &Create) -> Result<()> {
    image(
        &verb.file,
        verb.size,
        verb.fixed,
        verb.block_size.unwrap_or(0),
    )?;
    Ok(())
}

/// Makes an image of `size` bytes; the answer is a handle with every right.
pub(crate) fn image(
    file: &Path,
    size: u64,
    fixed: bool,
    block_size: u32,
) -> virtdisk::Result<VirtualDisk> {
    let parameters = CreateParameters {
        maximum_size: size,
        block_size,
        ..CreateParameters::default()
    };
    let flags = if fixed {
        CreateFlags::FULL_PHYSICAL_ALLOCATION
    } else {
        CreateFlags::NONE
    };
    VirtualDisk::create(
        file,
        &CreateOptions {
            flags,
            parameters,
            ..CreateOptions::default()
        },
    )
}
