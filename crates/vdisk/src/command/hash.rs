//! `vdisk hash`: the SHA-256 of a whole virtual disk.
//!
//! The same disk has the same hash in every format. Promises: the line is that of `sha256sum`, so
//! that tools which read those read these.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use virtdisk_disk::work;

use crate::failure::Result;
use crate::output::plain;
use crate::parents::Parents;
use crate::progress::Watch;
use crate::{code_map, offline, output};

/// Print the SHA-256 of a virtual disk.
///
/// Hashed is what the attached disk would hold, from its first byte to its last, so an image and
/// its conversion have the same hash. Zeros that the image or its file knows of are not read.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk hash disk.vhdx              the hash and the name, as sha256sum prints them
  vdisk hash disk.vhd disk.vhdx     of several images")]
pub(crate) struct Hash {
    /// The images
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    parents: Parents,
}

/// Hashes one image after the other.
pub(crate) fn run(verb: &Hash) -> Result<()> {
    for file in &verb.files {
        let disk = offline::open(file, &verb.parents)?;
        let name = file.to_string_lossy();
        let hashed = Watch::begin(&name)?.over(|job| work::hash(&disk, job));
        let digest = hashed.map_err(|stopped| code_map::of_work(file, stopped))?;
        output::print(&format!("{digest}  {}\n", plain(&name)))?;
    }
    Ok(())
}
