//! What an inspection finds, and whom it tells.
//!
//! The functions that turn raw structures into checked ones serve two masters through a [`Sink`]:
//! opening, for which the first fault is the end and the rest are notices, and a check, which
//! writes everything down and goes on wherever that makes sense. So what a check calls sound is
//! what opening accepts, by construction.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Unusual and harmless, or worth knowing.
    Note,
    /// The disk reads right, and something is damaged, left over from a crash, or a trap for
    /// other programs.
    Warning,
    /// A rule is broken: the image is refused, or some of it can be neither read nor trusted.
    Error,
}

impl Severity {
    /// Its word: "note", "warning", "error".
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The numbered rule that does not hold, such as "V-4"; "" where no single rule says so.
    pub rule: &'static str,
    /// The structure it is about, such as "VHD footer".
    pub structure: &'static str,
    /// The byte offset in the file, where there is one.
    pub offset: Option<u64>,
    /// A clause that says what is wrong: "has a wrong checksum".
    pub message: String,
    /// What was found, or "".
    pub found: String,
    /// What was wanted, or "".
    pub wanted: String,
    /// [`repair`](crate::repair()) puts it right, and cannot do harm.
    pub repairable: bool,
}

impl Finding {
    fn new(severity: Severity, error: &Error, repairable: bool) -> Finding {
        Finding {
            severity,
            rule: error.rule(),
            structure: error.structure(),
            offset: error.offset(),
            message: error.message().to_owned(),
            found: error.found().to_owned(),
            wanted: error.wanted().to_owned(),
            repairable,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {}", self.structure)?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, " {}", self.message)?;
        let mut before = ": ";
        for (word, value) in [("found", &self.found), ("wanted", &self.wanted)] {
            if !value.is_empty() {
                write!(f, "{before}{word} {value}")?;
                before = ", ";
            }
        }
        Ok(())
    }
}

/// Where an inspection tells what it finds.
pub(crate) trait Sink {
    /// What no reader may accept. `Ok` means: go on as well as it can be done.
    fn fault(&mut self, error: Error) -> Result<()>;

    /// What is accepted and told.
    fn oddity(&mut self, severity: Severity, error: Error);

    /// Damage that opening for writing puts right.
    fn mendable(&mut self, error: Error);
}

/// Opening: the first fault ends it, what is odd is a notice, notes are for checks only.
impl Sink for Vec<String> {
    fn fault(&mut self, error: Error) -> Result<()> {
        Err(error)
    }

    fn oddity(&mut self, severity: Severity, error: Error) {
        if severity > Severity::Note {
            self.push(error.to_string());
        }
    }

    fn mendable(&mut self, error: Error) {
        self.push(error.to_string());
    }
}

/// Opening for reading where a fault concerns one block of many: the first few are notices, and
/// the block itself is refused when it is asked for.
pub(crate) struct Lenient<'a> {
    notices: &'a mut Vec<String>,
    left: usize,
}

impl<'a> Lenient<'a> {
    /// At most `most` faults become notices.
    pub(crate) fn new(notices: &'a mut Vec<String>, most: usize) -> Lenient<'a> {
        Lenient {
            notices,
            left: most,
        }
    }
}

impl Sink for Lenient<'_> {
    fn fault(&mut self, error: Error) -> Result<()> {
        if self.left > 0 {
            self.left -= 1;
            self.notices.push(error.to_string());
        }
        Ok(())
    }

    fn oddity(&mut self, severity: Severity, error: Error) {
        if self.left > 0 && severity > Severity::Note {
            self.left -= 1;
            self.notices.push(error.to_string());
        }
    }

    fn mendable(&mut self, error: Error) {
        self.oddity(Severity::Warning, error);
    }
}

/// Faults after which one inspection is given up: a hostile table has millions.
const MOST_FAULTS: u64 = 1000;
/// The first oddity of an inspection that is not told.
const LAST_ODDITY: u64 = MOST_FAULTS + 1;

/// A check: everything becomes a [`Finding`].
pub(crate) struct Findings<'a> {
    report: &'a mut dyn FnMut(Finding),
    /// Findings so far: notes, warnings, errors.
    pub(crate) counts: [u64; 3],
    /// Faults of the inspection that runs now.
    faults: u64,
    oddities: u64,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(report: &'a mut dyn FnMut(Finding)) -> Findings<'a> {
        Findings {
            report,
            counts: [0; 3],
            faults: 0,
            oddities: 0,
        }
    }

    fn tell(&mut self, severity: Severity, error: &Error, repairable: bool) {
        self.counts[severity as usize] += 1;
        (self.report)(Finding::new(severity, error, repairable));
    }

    /// The value of an inspection that came to its end. What ended it otherwise is a finding, but
    /// for a file that cannot be read: that ends the check.
    pub(crate) fn end<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        (self.faults, self.oddities) = (0, 0);
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::Io => Err(error),
            Err(error) => {
                self.tell(Severity::Error, &error, false);
                Ok(None)
            }
        }
    }
}

impl Sink for Findings<'_> {
    fn fault(&mut self, error: Error) -> Result<()> {
        self.faults += 1;
        if self.faults > MOST_FAULTS {
            return Err(Error::new(
                error.kind(),
                error.structure(),
                format!("has more than {MOST_FAULTS} faults: the rest is not told"),
            )
            .by(error.rule()));
        }
        self.tell(Severity::Error, &error, false);
        Ok(())
    }

    fn oddity(&mut self, severity: Severity, error: Error) {
        self.oddities += 1;
        match self.oddities {
            0..=MOST_FAULTS => self.tell(severity, &error, false),
            LAST_ODDITY => {
                let message = format!("has more than {MOST_FAULTS} oddities: the rest is not told");
                let rest = Error::new(error.kind(), error.structure(), message).by(error.rule());
                self.tell(severity, &rest, false);
            }
            _ => {}
        }
    }

    fn mendable(&mut self, error: Error) {
        self.tell(Severity::Warning, &error, true);
    }
}
