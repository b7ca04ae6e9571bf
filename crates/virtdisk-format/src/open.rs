//! Opening an image: which format it is, and then that format's own opening.
//!
//! Nothing is written unless the image is opened for writing, and then only what `vhd/open` and
//! `vhdx/open` say.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::facts::Format;
use crate::image::Image;
use crate::probe::{Content, content, probe};
use crate::store::Store;
use crate::vhd::{self, read_footers};
use crate::{iso, raw, vhdx};

/// Which of a VHD's two sizes is the visible one (V-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SizeRule {
    /// By the creator application (table 1.4): what Windows and QEMU do.
    #[default]
    ByCreator,
    /// Cylinders × heads × sectors × 512.
    Chs,
    /// The footer's current size.
    CurrentSize,
}

/// How to open an image.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Open for writing: repairs what may be repaired (V-4) and checks for overlaps (S-3).
    pub writable: bool,
    /// The format that must be there; `None` asks the content.
    pub format: Option<Format>,
    /// The file name's extension without the dot: a tie-breaker, never a decision against the
    /// content.
    pub extension: Option<String>,
    /// Which size of a VHD counts.
    pub size_rule: SizeRule,
    /// Recovery: accept a footer or header whose checksum is wrong where the rest is plausible
    /// (V-3). Such an image is always read-only.
    pub recover: bool,
    /// A file of the same name with the extension `.v01` lies beside this one (V-20).
    pub sibling_v01: bool,
}

/// Opens what `store` holds.
///
/// # Errors
/// The kind of what is wrong with it. A format asked for that the content contradicts is
/// `FormatUnknown`, `FooterMissing` or `IsoCorrupt` (R-PROV-3). Raw is never contradicted: it is
/// how a file that could be two things is opened as the plain one (S-12).
pub fn open(store: Arc<dyn Store>, options: &OpenOptions) -> Result<Box<dyn Image>> {
    let format = match options.format {
        Some(format) => format,
        None => probe(&*store, options.extension.as_deref())?,
    };
    match format {
        Format::Vhd => open_vhd(store, options),
        Format::Vhdx => vhdx::open(store, options),
        Format::Iso => iso::open(store, options),
        Format::Raw => {
            let mut notices = Vec::new();
            if options.format.is_some() && content(&*store)? != Content::Other {
                notices.push("opened as raw though its content is an image of another kind".into());
            }
            raw::open(store, options, notices)
        }
    }
}

/// As VHD. What is plainly something else is called that, not a VHD without a footer.
fn open_vhd(store: Arc<dyn Store>, options: &OpenOptions) -> Result<Box<dyn Image>> {
    if read_footers(&*store)?.is_vhd() {
        return vhd::open(store, options);
    }
    match content(&*store)? {
        Content::Vhdx => Err(Error::new(
            ErrorKind::FormatUnknown,
            "image",
            "is a VHDX and no VHD",
        )),
        Content::Iso | Content::RawDump => Err(Error::new(
            ErrorKind::FormatUnknown,
            "image",
            "is an optical image and no VHD",
        )),
        Content::Vhd | Content::Other => vhd::open(store, options),
    }
}
