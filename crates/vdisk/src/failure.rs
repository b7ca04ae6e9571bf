//! Why a verb failed, as a person reads it: a sentence, the Windows code's name, what to do next.
//!
//! Errors of the library carry all three already; what fails here (a mount, a signal, a pipe)
//! gets the same shape. Promises: everything goes to stderr, with colours only on a terminal.

use std::error::Error as _;
use std::fmt::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use virtdisk::{Code, Holder};

use crate::output::plain;

const LABEL: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Yellow.on_default().bold();

/// Result of a verb.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// One failure.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    sentence: String,
    code: Option<Code>,
    hint: String,
    holders: Vec<Holder>,
    /// Failures beside this one, for `--all`.
    others: Vec<Failure>,
    /// Nobody reads our stdout any more: no words are due.
    silent: bool,
}

impl Failure {
    /// A failure of our own.
    pub(crate) fn new(sentence: impl Into<String>) -> Failure {
        Failure {
            sentence: sentence.into(),
            ..Failure::default()
        }
    }

    /// Adds, or replaces, what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = hint.into();
        self
    }

    /// Adds who holds the device.
    pub(crate) fn holders(mut self, holders: Vec<Holder>) -> Failure {
        self.holders = holders;
        self
    }

    /// Our stdout is closed: a pipe's reader is done with us.
    pub(crate) fn closed_pipe() -> Failure {
        Failure {
            silent: true,
            ..Failure::default()
        }
    }

    /// What went wrong, without the code.
    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }

    /// The Windows code, when the library gave one.
    pub(crate) fn code(&self) -> Option<Code> {
        self.code
    }

    /// All of `failures` as one; `None` when there are none.
    pub(crate) fn all(failures: Vec<Failure>) -> Option<Failure> {
        let mut failures = failures.into_iter();
        let mut first = failures.next()?;
        first.others = failures.collect();
        Some(first)
    }

    /// Prints everything; the exit code of the failed command.
    pub(crate) fn report(&self) -> ExitCode {
        if self.silent {
            return ExitCode::SUCCESS;
        }
        anstream::eprint!("{}", self.text());
        for other in &self.others {
            anstream::eprint!("{}", other.text());
        }
        ExitCode::FAILURE
    }

    /// The lines for stderr, styled.
    fn text(&self) -> String {
        let mut text = format!("{LABEL}error:{LABEL:#} {}", plain(&self.sentence));
        if let Some(code) = self.code {
            let _ = write!(text, ": {code}");
        }
        text.push('\n');
        for holder in &self.holders {
            let _ = writeln!(text, "  {}", plain(&holding(holder)));
        }
        if !self.hint.is_empty() {
            let _ = writeln!(text, "{HINT}hint:{HINT:#} {}", plain(&self.hint));
        }
        text
    }
}

impl From<virtdisk::Error> for Failure {
    fn from(error: virtdisk::Error) -> Failure {
        let mut sentence = error.message().to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            let _ = write!(sentence, ": {source}");
            cause = source.source();
        }
        let hint = match next_step(error.code()) {
            Some(step) if error.hint().is_empty() || error.code() == Code::ERROR_BUSY => step,
            _ => error.hint(),
        };
        Failure {
            sentence,
            code: Some(error.code()),
            hint: hint.to_string(),
            holders: error.holders().to_vec(),
            ..Failure::default()
        }
    }
}

/// What to do next, in words of this command, for codes that the library can't know these for.
fn next_step(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::ERROR_FILE_NOT_FOUND | Code::ERROR_PATH_NOT_FOUND => {
            "`vdisk create FILE --size SIZE` makes a new image"
        }
        Code::ERROR_FILE_EXISTS => "no image is ever overwritten: take another name",
        Code::ERROR_SHARING_VIOLATION => "`vdisk list` shows whether it is attached already",
        Code::ERROR_NOT_READY => "`vdisk list` shows what is attached",
        Code::ERROR_PRIVILEGE_NOT_HELD => "run it as root or as a member of the group virtdisk",
        Code::ERROR_BUSY => {
            "unmount or close it first; --wait 30s waits for that, --when-free detaches later"
        }
        _ => return None,
    })
}

/// Who holds what, in one line.
pub(crate) fn holding(holder: &Holder) -> String {
    let Holder {
        kind,
        node,
        place,
        pid,
        command,
    } = holder;
    let who = match kind.as_str() {
        "mount" => format!("mounted on {place}"),
        "swap" => format!("swap space {place}"),
        "device" => format!("under {place}"),
        _ if *pid != 0 => format!("open in process {pid} ({command})"),
        other => format!("held by {other} {place}"),
    };
    format!("{node} is {who}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(kind: &str, place: &str, pid: u32) -> Holder {
        Holder {
            kind: kind.to_string(),
            node: "/dev/loop7".to_string(),
            place: place.to_string(),
            pid,
            command: "fio".to_string(),
        }
    }

    #[test]
    fn holders_are_told_in_words() {
        assert_eq!(
            holding(&holder("mount", "/mnt", 0)),
            "/dev/loop7 is mounted on /mnt"
        );
        assert_eq!(
            holding(&holder("process", "", 12)),
            "/dev/loop7 is open in process 12 (fio)"
        );
    }

    #[test]
    fn an_error_has_sentence_code_holders_and_hint() {
        let error = virtdisk::Error::new(Code::ERROR_BUSY, "a.vhd: in use")
            .with_holders(vec![holder("mount", "/mnt", 0)]);
        let text = anstream::adapter::strip_str(&Failure::from(error).text()).to_string();
        assert_eq!(
            text,
            "error: a.vhd: in use: ERROR_BUSY (170)\n  /dev/loop7 is mounted on /mnt\n\
             hint: unmount or close it first; --wait 30s waits for that, --when-free detaches \
             later\n"
        );
    }

    #[test]
    fn several_failures_are_one() {
        assert!(Failure::all(Vec::new()).is_none());
        let all = Failure::all(vec![Failure::new("one"), Failure::new("two")]).unwrap();
        assert_eq!(all.others.len(), 1);
    }
}
