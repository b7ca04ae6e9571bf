//! The one error of the API: a Windows code, a sentence, and what to do next.
//!
//! The service's [`Failure`] becomes an [`Error`] word for word; errors of the client itself have
//! the same shape, so that nobody has to ask which side failed. The code is never 0.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::code::Code;
use crate::frame::{Failure, Holder};

/// Result of every call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
    hint: String,
    holders: Vec<Holder>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with a code and one sentence, which names the file and does not end with a stop.
    /// Code 0 would be a success and becomes [`Code::ERROR_GEN_FAILURE`].
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let code = if code == Code::ERROR_SUCCESS {
            Code::ERROR_GEN_FAILURE
        } else {
            code
        };
        let message = message.into();
        Self {
            code,
            message,
            hint: String::new(),
            holders: Vec::new(),
            source: None,
        }
    }

    /// An error whose code follows from a host error, which becomes its source.
    #[must_use]
    pub fn from_io(message: impl Into<String>, source: io::Error) -> Self {
        Self::new(Code::from_io(&source), message).with_source(source)
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds who holds the device.
    #[must_use]
    pub fn with_holders(mut self, holders: Vec<Holder>) -> Self {
        self.holders = holders;
        self
    }

    /// Adds the cause below.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// The Windows code, never 0.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What is wrong, in one sentence with the file's name; does not repeat the source.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do next; may be empty.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Who holds the device, for [`Code::ERROR_BUSY`].
    #[must_use]
    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }
}

impl fmt::Display for Error {
    /// The sentence, then the code: `/a.vhd: no such file: ERROR_FILE_NOT_FOUND (2)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.code)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Failure> for Error {
    /// A code of 0 can only come from a broken service and becomes
    /// [`Code::ERROR_INVALID_DATA`].
    fn from(failure: Failure) -> Self {
        let code = match failure.code {
            0 => Code::ERROR_INVALID_DATA,
            number => Code(number),
        };
        Self::new(code, failure.message)
            .with_hint(failure.hint)
            .with_holders(failure.holders)
    }
}

impl From<Error> for Failure {
    /// The causes below are appended to the sentence, since a frame has no place for them.
    fn from(error: Error) -> Self {
        let mut message = error.message;
        let mut cause = error
            .source
            .as_deref()
            .map(|source| source as &dyn StdError);
        while let Some(source) = cause {
            message = format!("{message}: {source}");
            cause = source.source();
        }
        Self {
            code: error.code.0,
            message,
            hint: error.hint,
            holders: error.holders,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-HND-1
    #[test]
    fn no_error_carries_the_code_of_success() {
        assert_eq!(Error::new(Code(0), "x").code(), Code::ERROR_GEN_FAILURE);
        assert_eq!(
            Error::from(Failure::default()).code(),
            Code::ERROR_INVALID_DATA
        );
        let io = Error::from_io("x", io::Error::from_raw_os_error(0));
        assert_ne!(io.code(), Code::ERROR_SUCCESS);
    }

    #[test]
    fn failure_keeps_the_cause_in_its_sentence() {
        let source = io::Error::new(io::ErrorKind::StorageFull, "no space");
        let failure = Failure::from(Error::from_io("/a.vhd: can't grow", source).with_hint("h"));
        assert_eq!(failure.code, 112);
        assert_eq!(failure.message, "/a.vhd: can't grow: no space");
        assert_eq!(failure.hint, "h");
    }

    #[test]
    fn display_is_sentence_and_code() {
        let error = Error::new(Code::ERROR_BUSY, "/a.vhd: the device is in use");
        assert_eq!(
            error.to_string(),
            "/a.vhd: the device is in use: ERROR_BUSY (170)"
        );
    }
}
