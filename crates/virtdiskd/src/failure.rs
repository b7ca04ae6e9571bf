//! How the service says no: a Windows code, one sentence, and what to do next.
//!
//! Every failure of a verb is made here, so that each carries the file's name, and those of a
//! device in use carry who holds it.

use std::io;

use virtdisk::Code;
use virtdisk::frame::{Failure, Holder};

use crate::code_map::code_of_io;
use crate::question::Refusal;

/// Result of everything that a caller asked for.
pub type Result<T> = std::result::Result<T, Failure>;

/// A failure with a sentence and no hint.
pub fn fail(code: Code, message: impl Into<String>) -> Failure {
    hinted(code, message, "")
}

/// A failure with a sentence and what to do next.
pub fn hinted(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure {
        code: code.0,
        message: message.into(),
        hint: hint.into(),
        holders: Vec::new(),
    }
}

/// ERROR_BUSY, with those who hold the device.
pub fn busy(file: &str, device: &str, holders: Vec<Holder>) -> Failure {
    Failure {
        code: Code::ERROR_BUSY.0,
        message: format!("{file}: {device} is in use, nothing was changed"),
        hint: "unmount or close what holds it, or detach with --wait or --when-free".to_owned(),
        holders,
    }
}

/// What the operating system said while doing something to a file or device.
pub fn system(what: &str, error: &io::Error) -> Failure {
    fail(code_of_io(error), format!("{what}: {error}"))
}

/// What a worker said.
pub fn refused(refusal: Refusal) -> Failure {
    Failure {
        code: refusal.code,
        message: refusal.message,
        hint: String::new(),
        holders: Vec::new(),
    }
}
