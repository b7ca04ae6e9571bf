//! Checking an image, and repairing what is sure to be right afterwards.
//!
//! A check reads the structures, never the data, and writes nothing. It tells every rule of the
//! formats sheet that does not hold, goes on after each, and keeps memory and time bounded
//! whatever the file claims. A repair is what opening for writing does anyway (the other copy of a
//! footer, header or region table; the replay of a log), done only where the check found nothing
//! that speaks against it, with every overwritten byte handed out first.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Format, Kind};
use crate::finding::{Finding, Findings, Severity};
use crate::open::{OpenOptions, open};
use crate::probe::probe;
use crate::recorder::{Recorder, Undo};
use crate::store::Store;
use crate::{vhd, vhdx};

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The format, by content or as asked for.
    pub format: Format,
    /// The kind, where that much of the image makes sense.
    pub kind: Option<Kind>,
    /// Findings of [`Severity::Error`].
    pub errors: u64,
    /// Findings of [`Severity::Warning`].
    pub warnings: u64,
    /// Findings of [`Severity::Note`].
    pub notes: u64,
}

/// Checks what `store` holds and tells every finding to `report`. Nothing is written. A
/// differencing image is checked alone, without its parent.
///
/// # Errors
/// `UnsupportedFeature`, `FormatUnknown` for what is no image that can be checked; `Io`. Everything
/// else that is wrong is a finding.
pub fn check(
    store: &Arc<dyn Store>,
    options: &OpenOptions,
    report: &mut dyn FnMut(Finding),
) -> Result<Summary> {
    let mut findings = Findings::new(report);
    let format = match options.format {
        Some(format) => format,
        None => match probe(store, options.extension.as_deref()) {
            // It is called a VHDX: then its first bytes are what is wrong.
            Err(error) if error.kind() == ErrorKind::FormatUnknown => Format::Vhdx,
            other => other?,
        },
    };
    let kind = match format {
        Format::Vhd => vhd::check(store, options, &mut findings)?,
        Format::Vhdx => vhdx::check(store, options, &mut findings)?,
        Format::Iso | Format::Raw => {
            let opened = open(Arc::clone(store), options);
            findings.end(opened)?.map(|image| image.facts().kind)
        }
    };
    let [notes, warnings, errors] = findings.counts;
    Ok(Summary {
        format,
        kind,
        errors,
        warnings,
        notes,
    })
}

/// Repairs what [`check`] calls repairable, and answers that. `undo` is given every range before
/// it is overwritten or cut off, and must have it durable before it answers. Where the image has
/// any fault that this cannot repair, or nothing to repair, nothing is written.
///
/// # Errors
/// `InvalidParameter` where there are faults that no repair is sure to put right; `Io`, `NoSpace`.
pub fn repair(store: &Arc<dyn Store>, options: &OpenOptions, undo: Undo) -> Result<Vec<Finding>> {
    let (mut repairable, mut fatal) = (Vec::new(), None);
    let mut sort = |finding: Finding| {
        if finding.repairable {
            repairable.push(finding);
        } else if finding.severity == Severity::Error && fatal.is_none() {
            fatal = Some(finding);
        }
    };
    let summary = check(store, options, &mut sort)?;
    if let Some(fault) = fatal {
        return Err(Error::new(
            ErrorKind::InvalidParameter,
            "image",
            "has faults that no repair is sure to put right; nothing was changed",
        )
        .with_found(fault));
    }
    if repairable.is_empty() {
        return Ok(repairable);
    }
    let recorder: Arc<dyn Store> = Arc::new(Recorder::new(Arc::clone(store), undo));
    if summary.format == Format::Vhdx {
        vhdx::mend(&recorder)?;
    } else {
        let options = OpenOptions {
            writable: true,
            recover: false,
            ..options.clone()
        };
        drop(open(Arc::clone(&recorder), &options)?);
    }
    recorder
        .flush()
        .map_err(|error| Error::io("image", "cannot be made durable", error))?;
    let mut left = Vec::new();
    check(store, options, &mut |finding| left.push(finding))?;
    repairable.retain(|finding| !left.contains(finding));
    Ok(repairable)
}
