//! The parents of a differencing image: asked of the gate, looked at, taken or rejected.
//!
//! A parent is taken only if it is of the child's format, its identity is one that the child
//! recorded (P-1), its sectors are the child's and it is not in the chain already (P-5). Raw
//! files are never parents. Parents are opened for reading, and a log is replayed in memory (P-7).
//! A parent that is not found fails the opening, with all candidates named (P-6): its bytes are
//! never taken for zeros.

use virtdisk_format::{ErrorKind, OpenOptions, ParentHint, ParentLink};

use crate::error::{Error, Result, printable};
use crate::gate::{Candidate, Gate, Need, Rejected};
use crate::layer::Layer;

/// Most layers of a disk, the leaf with them (P-5).
const MOST_LAYERS: usize = 250;
/// Most candidates for one layer: a gate that never ends must not hold up an opening for ever.
const MOST_CANDIDATES: usize = 1024;
/// Most candidates that an error names.
const MOST_NAMED: usize = 64;
/// Most characters of a hint in an error.
const HINT_CHARACTERS: usize = 300;

/// Opens the parents of `leaf`, nearest first. `name` is the leaf's, as it was given.
pub(crate) fn parents(leaf: &mut Layer, name: &str, gate: &mut dyn Gate) -> Result<Vec<Layer>> {
    let mut parents: Vec<Layer> = Vec::new();
    let mut child_name = name.to_owned();
    loop {
        let child = parents.last().unwrap_or(&*leaf);
        let Some(link) = child.image.facts().parent.clone() else {
            return Ok(parents);
        };
        if parents.len() + 1 >= MOST_LAYERS {
            let message = "is longer than any that is made";
            let error = virtdisk_format::Error::new(ErrorKind::ChainCycle, "chain", message);
            return Err(leaf.error(error.with_wanted(format_args!("{MOST_LAYERS} layers at most"))));
        }
        let (parent, parent_name) = parent(leaf, &parents, &child_name, &link, gate)?;
        let notice = stamp_notice(&link, &parent);
        let child = parents.last_mut().unwrap_or(&mut *leaf);
        child.notices.extend(notice);
        parents.push(parent);
        child_name = parent_name;
    }
}

/// Asks the gate until a candidate is taken: the parent of the last layer.
fn parent(
    leaf: &Layer,
    parents: &[Layer],
    child_name: &str,
    link: &ParentLink,
    gate: &mut dyn Gate,
) -> Result<(Layer, String)> {
    let child = parents.last().unwrap_or(leaf);
    let mut rejected = Vec::new();
    while rejected.len() < MOST_CANDIDATES {
        let need = Need {
            child: child_name,
            depth: u32::try_from(parents.len() + 1).unwrap_or(u32::MAX),
            format: child.image.facts().format,
            link,
            rejected: &rejected,
        };
        let Some(Candidate { file, name }) = gate.parent(&need)? else {
            break;
        };
        let options = OpenOptions {
            format: Some(need.format),
            ..OpenOptions::default()
        };
        let opened = Layer::open(file, &name, &options)
            .and_then(|layer| is_parent(&layer, leaf, parents, link).map(|()| layer));
        match opened {
            Ok(layer) => return Ok((layer, name)),
            Err(error) => rejected.push(Rejected {
                name,
                kind: error.kind(),
                reason: error.format_error().to_string(),
            }),
        }
    }
    Err(not_found(child, link, &rejected))
}

/// Whether a candidate is the parent of the last layer.
fn is_parent(candidate: &Layer, leaf: &Layer, parents: &[Layer], link: &ParentLink) -> Result<()> {
    let facts = candidate.image.facts();
    let mismatch =
        |message| virtdisk_format::Error::new(ErrorKind::ParentMismatch, "image", message);
    if !link.identities.contains(&facts.content_id) {
        let error = mismatch("is another one than the child was made of");
        let error = error.with_found(facts.content_id).with_wanted(ids(link));
        return Err(candidate.error(error));
    }
    let in_chain = |layer: &Layer| {
        layer.image.facts().content_id == facts.content_id
            || (layer.identity.is_some() && layer.identity == candidate.identity)
    };
    if in_chain(leaf) || parents.iter().any(in_chain) {
        return Err(candidate.fail(
            ErrorKind::ChainCycle,
            "image",
            "is in the chain already: the chain comes back to itself",
        ));
    }
    let child = parents.last().unwrap_or(leaf).image.facts();
    if facts.logical_sector_size != child.logical_sector_size {
        let error = mismatch("has logical sectors of another size than its child");
        let error = error.with_found(facts.logical_sector_size);
        return Err(candidate.error(error.with_wanted(child.logical_sector_size)));
    }
    Ok(())
}

/// V-14: the time is advice; another one is said and not refused.
fn stamp_notice(link: &ParentLink, parent: &Layer) -> Option<String> {
    let recorded = link.modified_unix.filter(|&seconds| seconds > 0)?;
    let found = parent.modified_unix()?;
    (found != recorded).then(|| {
        format!(
            "the parent {} was changed at {found} and the image recorded {recorded} (seconds since \
             1970): its identity is right, the time is only advice",
            parent.name
        )
    })
}

/// The error after the last candidate (P-6). If all of them were other disks it is a mismatch, if
/// one closed a cycle that is it.
fn not_found(child: &Layer, link: &ParentLink, rejected: &[Rejected]) -> Error {
    let any = |kind| rejected.iter().any(|rejected| rejected.kind == kind);
    let all = |kind| rejected.iter().all(|rejected| rejected.kind == kind);
    let kind = if any(ErrorKind::ChainCycle) {
        ErrorKind::ChainCycle
    } else if !rejected.is_empty() && all(ErrorKind::ParentMismatch) {
        ErrorKind::ParentMismatch
    } else {
        ErrorKind::ParentMissing
    };
    let mut message = String::from("of this differencing image was not found; tried ");
    if rejected.is_empty() {
        message.push_str("nothing");
    }
    for (index, Rejected { name, reason, .. }) in rejected.iter().take(MOST_NAMED).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        message.push_str(&format!("{comma}{} ({reason})", printable(name)));
    }
    if let Some(more) = rejected.len().checked_sub(MOST_NAMED + 1) {
        message.push_str(&format!(" and {} more", more + 1));
    }
    message.push_str("; the image says ");
    if link.hints.is_empty() {
        message.push_str("nothing of where it is");
    }
    for (index, ParentHint { kind, text }) in link.hints.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let text: String = text.chars().take(HINT_CHARACTERS).collect();
        message.push_str(&format!("{comma}{} \"{}\"", word(*kind), printable(&text)));
    }
    child.error(virtdisk_format::Error::new(kind, "parent", message).with_wanted(ids(link)))
}

fn word(kind: virtdisk_format::HintKind) -> &'static str {
    use virtdisk_format::HintKind as Kind;
    match kind {
        Kind::Relative => "relative path",
        Kind::Absolute => "path",
        Kind::Volume => "volume path",
        Kind::Url => "URL",
        Kind::Name => "name",
    }
}

fn ids(link: &ParentLink) -> String {
    let texts: Vec<String> = link.identities.iter().map(ToString::to_string).collect();
    texts.join(" or ")
}
