//! Which format a file is, by its content (formats sheet, section 5).
//!
//! The order decides what a file is that could be two things: VHDX signature, VHD footers, optical
//! descriptors, and only then the name. The name never overrules content; a file that is called
//! .vhd and has no footer is a damaged VHD and not a raw disk.

use crate::error::{Error, ErrorKind, Result};
use crate::facts::Format;
use crate::iso::{Optical, raw_dump, recognise};
use crate::store::Store;
use crate::vhd::read_footers;

/// First bytes of a VHDX.
const VHDX_SIGNATURE: [u8; 8] = *b"vhdxfile";

/// What the content is, whether handled or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Vhdx,
    Vhd,
    Iso,
    RawDump,
    /// Nothing that we know.
    Other,
}

/// The format of what `store` holds. `extension` (without the dot) is looked at only where the
/// content says nothing.
///
/// # Errors
/// `UnsupportedFeature` for what is recognised and not handled (VHD Set, raw 2352-byte dumps), by
/// name; `FormatUnknown` for a file that is called VHDX and is none; `InvalidFileSize`
/// and `Io` from reading.
pub fn probe(store: &dyn Store, extension: Option<&str>) -> Result<Format> {
    let extension = extension.unwrap_or_default().to_ascii_lowercase();
    match content(store)? {
        Content::Vhd => Ok(Format::Vhd),
        Content::Iso => Ok(Format::Iso),
        Content::RawDump => Err(raw_dump()),
        Content::Vhdx if extension == "vhds" => Err(vhd_set()),
        Content::Vhdx => Ok(Format::Vhdx),
        Content::Other => by_name(&extension),
    }
}

/// What the content is.
pub(crate) fn content(store: &dyn Store) -> Result<Content> {
    let mut signature = [0; VHDX_SIGNATURE.len()];
    match store.read_exact_at(&mut signature, 0) {
        Ok(()) if signature == VHDX_SIGNATURE => return Ok(Content::Vhdx),
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Ok(Content::Other);
        }
        Err(error) => return Err(Error::io("file", "cannot be read", error).at(0)),
    }
    if read_footers(store)?.is_vhd() {
        return Ok(Content::Vhd);
    }
    Ok(match recognise(store)? {
        Optical::Volume => Content::Iso,
        Optical::RawDump => Content::RawDump,
        Optical::No => Content::Other,
    })
}

/// What the name says of content that says nothing.
fn by_name(extension: &str) -> Result<Format> {
    match extension {
        "vhd" | "avhd" | "vud" => Ok(Format::Vhd),
        "iso" => Ok(Format::Iso),
        "vhds" => Err(vhd_set()),
        "vhdx" | "avhdx" | "vhdpmem" | "hrl" => Err(Error::new(
            ErrorKind::FormatUnknown,
            "image",
            format!("is called .{extension} and is no VHDX"),
        )
        .at(0)
        .with_wanted("vhdxfile")),
        _ => Ok(Format::Raw),
    }
}

fn vhd_set() -> Error {
    Error::new(
        ErrorKind::UnsupportedFeature,
        "image",
        "is a VHD Set, whose layout is not published; its disks are the .avhdx files beside it",
    )
}
