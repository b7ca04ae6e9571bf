//! `vdisk convert`: a disk copied into a new image of another format.
//!
//! The format follows from the new file's extension, as with `vdisk create`. Promises: the new
//! image has its name only when it is complete and durable; a file that is there is never
//! overwritten; what failed leaves nothing behind. The source is only read.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum, ValueHint};
use virtdisk::StorageType;
use virtdisk_disk::{CreateOptions, Format, Kind, work};

use crate::command::create::bytes_32;
use crate::failure::{Failure, Result};
use crate::new_image::NewImage;
use crate::parents::Parents;
use crate::progress::Watch;
use crate::{code_map, offline};

/// Copy a disk into a new image of any format.
///
/// The format follows from the new file's extension: .vhd, .vhdx, .raw and .img. VHD and VHDX are
/// dynamic unless --fixed says otherwise. Zeros take up no space. A differencing image is read with
/// all its parents; the result stands alone. As DST, - is a raw stream on standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk convert disk.vhd disk.vhdx             a dynamic VHDX
  vdisk convert disk.vhdx disk.raw             a raw image with holes for zeros
  vdisk convert snapshot.avhdx whole.vhd       a chain becomes one image
  vdisk convert disk.raw disk.vhd --fixed      a fixed VHD
  vdisk convert disk.vhdx - | zstd -o disk.zst

An image that exists is never overwritten.")]
pub(crate) struct Convert {
    /// The image to copy
    #[arg(value_name = "SRC", value_hint = ValueHint::FilePath)]
    source: PathBuf,
    /// The image to make, or - for a raw stream
    #[arg(value_name = "DST", value_hint = ValueHint::FilePath)]
    target: PathBuf,
    /// Format of the new image, whatever its name
    #[arg(long, value_enum)]
    format: Option<Wanted>,
    /// Not dynamic: every block has its place in the file; zeros are holes
    #[arg(long)]
    fixed: bool,
    /// Reserve all space of a fixed or raw image in the file system
    #[arg(long)]
    preallocate: bool,
    /// Unit in which a dynamic image grows
    #[arg(long, value_name = "SIZE", value_parser = bytes_32, conflicts_with = "fixed")]
    block_size: Option<u32>,
    /// Logical sector of a VHDX: 512 or 4096 (the source's unless said)
    #[arg(long, value_name = "BYTES", value_parser = bytes_32)]
    sector_size: Option<u32>,
    /// Physical sector of a VHDX: 512 or 4096
    #[arg(long, value_name = "BYTES", value_parser = bytes_32)]
    physical_sector_size: Option<u32>,
    #[command(flatten)]
    parents: Parents,
}

/// Formats that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wanted {
    Vhd,
    Vhdx,
    Raw,
}

/// Copies.
pub(crate) fn run(verb: &Convert) -> Result<()> {
    if verb.target.as_os_str() == "-" {
        return stream(verb);
    }
    let options = options(verb)?;
    let source = offline::open(&verb.source, &verb.parents)?;
    let name = verb.target.to_string_lossy();
    let watch = Watch::begin(&name)?;
    let image = NewImage::begin(&verb.target)?;
    let file = image.file()?;
    let copied = watch.over(|job| work::convert(&source, file, &name, &options, job));
    copied.map_err(|stopped| code_map::of_work(&verb.target, stopped))?;
    image.keep()
}

/// Writes a raw stream.
fn stream(verb: &Convert) -> Result<()> {
    let shaped = verb.fixed
        || verb.preallocate
        || verb.block_size.is_some()
        || verb.sector_size.is_some()
        || verb.physical_sector_size.is_some();
    if shaped || verb.format.is_some_and(|format| format != Wanted::Raw) {
        return Err(Failure::new(
            "a stream on standard output is raw and has no options",
        ));
    }
    if std::io::stdout().is_terminal() {
        let failure = Failure::new("standard output is a terminal, and the stream is a whole disk");
        return Err(failure.hint("send it into a file or a pipe"));
    }
    let source = offline::open(&verb.source, &verb.parents)?;
    // Standard output's own buffer would only copy once more.
    let out = rustix::io::dup(std::io::stdout()).map_err(std::io::Error::from);
    let out = out.map_err(|error| Failure::new(format!("no standard output: {error}")))?;
    let mut out = std::fs::File::from(out);
    let watch = Watch::begin(&verb.source.to_string_lossy())?;
    let copied = watch.over(|job| work::write_raw(&source, &mut out, job));
    copied.map_err(|stopped| code_map::of_work(&verb.source, stopped))
}

fn options(verb: &Convert) -> Result<CreateOptions> {
    let format = format(&verb.target, verb.format)?;
    let kind = if verb.fixed || format == Format::Raw {
        Kind::Fixed
    } else {
        Kind::Dynamic
    };
    if verb.preallocate && kind != Kind::Fixed {
        let failure = Failure::new("a dynamic image takes its space as it is written");
        return Err(failure.hint("--fixed --preallocate reserves all space"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(CreateOptions {
        format,
        kind,
        block_size: verb.block_size.unwrap_or(0),
        logical_sector_size: verb.sector_size.unwrap_or(0),
        physical_sector_size: verb.physical_sector_size.unwrap_or(0),
        created_unix: now.map_or(0, |since| since.as_secs()),
        sparse: !verb.preallocate,
        // The source's; a new disk has an identity of its own.
        virtual_size: 0,
        identifier: None,
        parent: None,
    })
}

/// The format that is asked for, or the extension's.
fn format(path: &Path, wanted: Option<Wanted>) -> Result<Format> {
    match wanted {
        Some(Wanted::Vhd) => return Ok(Format::Vhd),
        Some(Wanted::Vhdx) => return Ok(Format::Vhdx),
        Some(Wanted::Raw) => return Ok(Format::Raw),
        None => {}
    }
    match StorageType::from_extension(path) {
        Some(StorageType::VHD) => Ok(Format::Vhd),
        Some(StorageType::VHDX) => Ok(Format::Vhdx),
        Some(StorageType::RAW) => Ok(Format::Raw),
        _ => {
            let message = format!("{}: the extension names no format", path.display());
            let failure = Failure::new(message);
            Err(failure.hint("use .vhd, .vhdx, .raw or .img, or say --format"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_decides_unless_a_format_is_named() {
        let of = |name: &str, wanted| format(Path::new(name), wanted).ok();
        assert_eq!(of("a.VHDX", None), Some(Format::Vhdx));
        assert_eq!(of("a.vhd", None), Some(Format::Vhd));
        assert_eq!(of("a.img", None), Some(Format::Raw));
        assert_eq!(of("a.bin", None), None);
        assert_eq!(of("a.iso", None), None);
        assert_eq!(of("a.bin", Some(Wanted::Raw)), Some(Format::Raw));
        assert_eq!(of("a.vhd", Some(Wanted::Vhdx)), Some(Format::Vhdx));
    }
}
