//! What went wrong with a disk: the format's error and the file's name.
//!
//! The text is one sentence, "FILE: …", that never repeats its source; [`Error::errno`] is the one
//! table from kinds to the numbers that the kernel understands.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use virtdisk_format::ErrorKind;

/// The result of what a disk does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a disk, with the file's name.
pub struct Error {
    file: Arc<str>,
    error: virtdisk_format::Error,
}

impl Error {
    /// The format's error, about the file of that name.
    pub(crate) fn new(file: &Arc<str>, error: virtdisk_format::Error) -> Self {
        Self {
            file: Arc::clone(file),
            error,
        }
    }

    /// An error about the file of that name, for a [`crate::Gate`] to end an opening with;
    /// `message` is a clause about `structure`, such as "is not to be read".
    #[must_use]
    pub fn about(
        file: &str,
        kind: ErrorKind,
        structure: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let error = virtdisk_format::Error::new(kind, structure, message);
        Self::new(&printable(file), error)
    }

    /// The kind, for acting on it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// The name of the file, as it was given to open or create, control characters escaped.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The format's error: structure, offset, found, wanted.
    #[must_use]
    pub fn format_error(&self) -> &virtdisk_format::Error {
        &self.error
    }

    /// The number that a kernel transport answers with, from `errno.h`; positive.
    ///
    /// `ENOSPC` and `EROFS` mean something to the file system above the device and stay what they
    /// are. A range or argument that cannot be is `EINVAL`; what the image or its file did wrong
    /// is `EIO`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        errno_of(self.kind()).raw_os_error()
    }
}

/// The table; it names every kind, so that a new one has to be thought about here.
fn errno_of(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NoSpace => Errno::NOSPC,
        ErrorKind::ReadOnly => Errno::ROFS,
        ErrorKind::OutOfRange | ErrorKind::InvalidParameter => Errno::INVAL,
        ErrorKind::FooterMissing
        | ErrorKind::FooterChecksum
        | ErrorKind::FooterCorrupt
        | ErrorKind::FormatUnknown
        | ErrorKind::VersionUnsupported
        | ErrorKind::HeaderChecksum
        | ErrorKind::HeaderVersion
        | ErrorKind::HeaderCorrupt
        | ErrorKind::BatCorrupt
        | ErrorKind::InvalidBlockSize
        | ErrorKind::BitmapMismatch
        | ErrorKind::InvalidSize
        | ErrorKind::InvalidFileSize
        | ErrorKind::IsoCorrupt
        | ErrorKind::UnsupportedFeature
        | ErrorKind::RegionCorrupt
        | ErrorKind::MetadataCorrupt
        | ErrorKind::LogCorrupt
        | ErrorKind::ParentMissing
        | ErrorKind::ParentMismatch
        | ErrorKind::ChainCycle
        | ErrorKind::WritesRefused
        | ErrorKind::Io => Errno::IO,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.error)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.file, self.error)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The format's error is already in the text; its own source is not.
        std::error::Error::source(&self.error)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = io::Error::from_raw_os_error(error.errno()).kind();
        Self::new(kind, error)
    }
}

/// A text as it may stand in a message: terminal escapes and line ends are shown, not sent (S-8).
pub(crate) fn printable(text: &str) -> Arc<str> {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_become_the_numbers_that_a_file_system_understands() {
        assert_eq!(errno_of(ErrorKind::NoSpace), Errno::NOSPC);
        assert_eq!(errno_of(ErrorKind::ReadOnly), Errno::ROFS);
        assert_eq!(errno_of(ErrorKind::OutOfRange), Errno::INVAL);
        assert_eq!(errno_of(ErrorKind::InvalidFileSize), Errno::IO);
        assert_eq!(errno_of(ErrorKind::WritesRefused), Errno::IO);
    }

    #[test]
    fn the_text_names_the_file_once_and_not_the_source() {
        let name: Arc<str> = "a.vhd".into();
        let source = io::Error::from_raw_os_error(28);
        let format = virtdisk_format::Error::io("VHD footer", "cannot be written", source);
        let error = Error::new(&name, format);
        assert_eq!(error.to_string(), "a.vhd: the VHD footer cannot be written");
        assert_eq!(error.errno(), 28);
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(source.is_some_and(|text| text.contains("No space")));
    }
}
