//! Why an image was refused or an operation failed.
//!
//! One opaque error: a small kind on which a caller can act, the structure it is about, the file
//! offset, what was found and what was wanted. Its text is one sentence without the file's name
//! (the floor above knows that) and without the source's text.

use std::fmt;
use std::io;

/// The result of everything that touches an image.
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A VHD was asked for and there is no footer.
    FooterMissing,
    /// A VHD footer is there and its checksum is wrong (V-3).
    FooterChecksum,
    /// A VHD footer is sound and says something impossible.
    FooterCorrupt,
    /// The content is not of the format that was asked for, or of none we know.
    FormatUnknown,
    /// The footer's format version is not 1.x.
    VersionUnsupported,
    /// The checksum of the dynamic header is wrong.
    HeaderChecksum,
    /// The dynamic header's version is not 1.x.
    HeaderVersion,
    /// The dynamic header is missing or says something impossible.
    HeaderCorrupt,
    /// The block allocation table is outside the file, too small, or points where it may not.
    BatCorrupt,
    /// The block size is no power of two of at least 512.
    InvalidBlockSize,
    /// A block's sector bitmap lies outside the file or cannot be what it claims.
    BitmapMismatch,
    /// The virtual size is 0, too large, or not a whole number of sectors.
    InvalidSize,
    /// The length of the file contradicts its structures, or changed while open.
    InvalidFileSize,
    /// An ISO was asked for and the descriptors are not plausible.
    IsoCorrupt,
    /// Recognised, and not handled: VHD Set, split files, raw 2352-byte dumps, required items and
    /// regions of a VHDX that are not known (X-5).
    UnsupportedFeature,
    /// A region table of a VHDX, or a region that it names, cannot be trusted.
    RegionCorrupt,
    /// The metadata of a VHDX, or a parent locator, cannot be trusted.
    MetadataCorrupt,
    /// The log of a VHDX must be replayed and cannot be.
    LogCorrupt,
    /// The bytes are the parent's, which is not open or was not found (V-8, P-6).
    ParentMissing,
    /// What was given as the parent is another disk (P-1).
    ParentMismatch,
    /// A chain of parents comes back to itself, or is too long (P-5).
    ChainCycle,
    /// The image is not open for writing, or its format forbids it.
    ReadOnly,
    /// A range outside the virtual disk.
    OutOfRange,
    /// An argument that cannot be meant, e.g. creating over a file that is not empty.
    InvalidParameter,
    /// No room in the file system; nothing was changed.
    NoSpace,
    /// An earlier metadata write failed, or the image was closed: reopen it.
    WritesRefused,
    /// The file could not be read or written.
    Io,
}

/// An error of this crate. See [`ErrorKind`] for what to do about it.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    structure: &'static str,
    message: String,
    offset: Option<u64>,
    found: String,
    wanted: String,
    rule: &'static str,
    source: Option<io::Error>,
}

impl Error {
    /// An error about `structure`; `message` is a clause such as "has a wrong checksum".
    #[must_use]
    pub fn new(kind: ErrorKind, structure: &'static str, message: impl Into<String>) -> Error {
        Error {
            inner: Box::new(Inner {
                kind,
                structure,
                message: message.into(),
                offset: None,
                found: String::new(),
                wanted: String::new(),
                rule: "",
                source: None,
            }),
        }
    }

    /// An I/O error while doing `action` ("cannot be read") to `structure`. A full file system is
    /// `NoSpace`, a file that ends too early `InvalidFileSize`, everything else `Io`.
    #[must_use]
    pub fn io(structure: &'static str, action: &'static str, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => ErrorKind::NoSpace,
            io::ErrorKind::UnexpectedEof => ErrorKind::InvalidFileSize,
            _ => ErrorKind::Io,
        };
        let mut error = Error::new(kind, structure, action);
        error.inner.source = Some(source);
        error
    }

    /// The error of every write and flush after one that failed, or after close.
    #[must_use]
    pub(crate) fn refused() -> Error {
        Error::new(
            ErrorKind::WritesRefused,
            "image",
            "takes no writes until it is opened again: an earlier one failed, or it was closed",
        )
    }

    /// With the byte offset in the file at which the trouble is.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Error {
        self.inner.offset = Some(offset);
        self
    }

    /// With what was found there.
    #[must_use]
    pub fn with_found(mut self, found: impl fmt::Display) -> Error {
        self.inner.found = found.to_string();
        self
    }

    /// With what would have been right.
    #[must_use]
    pub fn with_wanted(mut self, wanted: impl fmt::Display) -> Error {
        self.inner.wanted = wanted.to_string();
        self
    }

    /// With the numbered rule of the formats sheet that does not hold, such as "V-4".
    #[must_use]
    pub(crate) fn by(mut self, rule: &'static str) -> Error {
        self.inner.rule = rule;
        self
    }

    /// The same error, to be acted on as another kind.
    #[must_use]
    pub(crate) fn acted_on_as(mut self, kind: ErrorKind) -> Error {
        self.inner.kind = kind;
        self
    }

    /// The kind, for acting on it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The structure it is about, e.g. "VHD footer".
    #[must_use]
    pub fn structure(&self) -> &'static str {
        self.inner.structure
    }

    /// The byte offset in the file, where there is one.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.inner.offset
    }

    /// The numbered rule that does not hold, or "".
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.inner.rule
    }

    /// The clause that says what is wrong, as given to [`Error::new`].
    #[must_use]
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// What was found, or "".
    #[must_use]
    pub fn found(&self) -> &str {
        &self.inner.found
    }

    /// What was wanted, or "".
    #[must_use]
    pub fn wanted(&self) -> &str {
        &self.inner.wanted
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            structure,
            message,
            offset,
            found,
            wanted,
            ..
        } = &*self.inner;
        write!(f, "the {structure}")?;
        if let Some(offset) = offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, " {message}")?;
        match (found.is_empty(), wanted.is_empty()) {
            (true, true) => Ok(()),
            (false, true) => write!(f, ": found {found}"),
            (true, false) => write!(f, ": wanted {wanted}"),
            (false, false) => write!(f, ": found {found}, wanted {wanted}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.inner.kind)?;
        match &self.inner.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_ref().map(|source| source as _)
    }
}
