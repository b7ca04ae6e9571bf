//! The chain of an image: every layer, what each says of its parent, and where that was found.
//!
//! The chain is opened as every other verb opens it, with a gate that takes notes; so what is told
//! here is what `attach` and `convert` would do. Promises: where the chain ends too early, all that
//! was found is told, with every candidate and the reason why it was not taken.

use std::path::{Path, PathBuf};

use serde::Serialize;
use virtdisk_disk::{
    Candidate, Disk, ErrorKind, Facts, Format, Gate, HintKind, Kind, Need, ParentLink,
};

use crate::failure::{Failure, Result};
use crate::offline::{self, Search};
use crate::output::{plain, table};
use crate::parents::Parents;
use crate::size;

/// A chain, as far as it was found.
pub(crate) struct Lineage {
    /// The image first, its parents behind it.
    pub(crate) layers: Vec<Layer>,
    /// Why the last of them has no parent, though it needs one.
    pub(crate) broken: Option<Failure>,
}

/// One image of a chain.
#[derive(Debug, Serialize)]
pub(crate) struct Layer {
    pub(crate) file: String,
    format: &'static str,
    kind: &'static str,
    virtual_size: u64,
    /// What a child of it records: VHD unique id, VHDX DataWriteGuid.
    identity: String,
    parent: Option<Link>,
    notices: Vec<String>,
}

/// What an image says of its parent, and what came of it.
#[derive(Debug, Serialize)]
struct Link {
    /// The parent's identity must be one of these.
    identities: Vec<String>,
    /// Unix seconds, where the image records it.
    modified: Option<u64>,
    hints: Vec<Named>,
    /// Where the parent was found.
    found: Option<String>,
    /// What was looked at and not taken.
    rejected: Vec<Rejected>,
}

#[derive(Debug, Serialize)]
struct Named {
    kind: &'static str,
    text: String,
}

#[derive(Clone, Debug, Serialize)]
struct Rejected {
    file: String,
    reason: String,
}

/// The gate that takes notes.
struct Notes {
    search: Search,
    /// For each parent that was asked for: what was given last, and what was not taken before it.
    asked: Vec<(Option<PathBuf>, Vec<Rejected>)>,
}

impl Gate for Notes {
    fn parent(&mut self, need: &Need<'_>) -> virtdisk_disk::Result<Option<Candidate>> {
        let given = self.search.parent(need)?;
        let depth = usize::try_from(need.depth).unwrap_or(usize::MAX);
        let refused = need.rejected.iter().map(|rejected| Rejected {
            file: rejected.name.clone(),
            reason: rejected.reason.clone(),
        });
        let passed = self.search.passed().into_iter();
        let passed = passed.map(|(file, reason)| Rejected { file, reason });
        let path = given
            .as_ref()
            .map(|candidate| PathBuf::from(&candidate.name));
        self.asked.truncate(depth.saturating_sub(1));
        self.asked.push((path, refused.chain(passed).collect()));
        Ok(given)
    }
}

/// Opens the chain of the image at `path` and tells what it is.
pub(crate) fn of(path: &Path, parents: &Parents) -> Result<Lineage> {
    let mut gate = Notes {
        search: Search::new(path, parents),
        asked: Vec::new(),
    };
    let file = offline::open_locked(path)?;
    let name = path.to_string_lossy();
    let opened = Disk::open_with(file, &name, &offline::options(path), &mut gate);
    let broken = match opened {
        Ok(disk) => {
            let facts = disk
                .layers()
                .into_iter()
                .map(|layer| (layer.name, layer.facts));
            return Ok(Lineage {
                layers: layers(facts.collect(), &gate.asked),
                broken: None,
            });
        }
        Err(error) => match error.kind() {
            ErrorKind::ParentMissing | ErrorKind::ParentMismatch | ErrorKind::ChainCycle => {
                gate.search.explain(error)
            }
            _ => return Err(error.into()),
        },
    };
    let found = gate.asked.iter().filter_map(|(path, _)| path.as_deref());
    let mut facts = Vec::new();
    for path in std::iter::once(path).chain(found) {
        let file = offline::open_locked(path)?;
        let name = path.to_string_lossy();
        let alone = Disk::open_alone(file, &name, &offline::options(path))?;
        facts.push((name.into_owned(), alone.facts().clone()));
    }
    Ok(Lineage {
        layers: layers(facts, &gate.asked),
        broken: Some(broken),
    })
}

fn layers(facts: Vec<(String, Facts)>, asked: &[(Option<PathBuf>, Vec<Rejected>)]) -> Vec<Layer> {
    let names: Vec<String> = facts.iter().map(|(name, _)| name.clone()).collect();
    let layer = |(number, (file, facts)): (usize, (String, Facts))| Layer {
        file,
        format: format_word(facts.format),
        kind: kind_word(facts.kind),
        virtual_size: facts.virtual_size,
        identity: facts.content_id.to_string(),
        parent: facts.parent.as_ref().map(|link| {
            let rejected = asked.get(number).map(|(_, rejected)| rejected.clone());
            parent(
                link,
                names.get(number + 1).cloned(),
                rejected.unwrap_or_default(),
            )
        }),
        notices: facts.notices,
    };
    facts.into_iter().enumerate().map(layer).collect()
}

fn parent(link: &ParentLink, found: Option<String>, rejected: Vec<Rejected>) -> Link {
    Link {
        identities: link.identities.iter().map(ToString::to_string).collect(),
        modified: link.modified_unix,
        hints: link
            .hints
            .iter()
            .map(|hint| Named {
                kind: hint_word(hint.kind),
                text: hint.text.clone(),
            })
            .collect(),
        found,
        rejected,
    }
}

/// Name and value of all that a person wants to know of the layers.
pub(crate) fn text(layers: &[Layer]) -> String {
    let mut rows = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let mut row = |name: &str, value: String| rows.push(vec![name.to_string(), value]);
        if number > 0 {
            row("", String::new());
        }
        row("layer", number.to_string());
        row("file", layer.file.clone());
        row("format", format!("{} {}", layer.kind, layer.format));
        let bytes = layer.virtual_size;
        row(
            "virtual size",
            format!("{} ({bytes} bytes)", size::show(bytes)),
        );
        row("identity", layer.identity.clone());
        if let Some(link) = &layer.parent {
            row("parent", link.identities.join(" or "));
            for hint in &link.hints {
                row("may be at", format!("{} ({})", hint.text, hint.kind));
            }
            for rejected in &link.rejected {
                row(
                    "not taken",
                    format!("{}: {}", rejected.file, rejected.reason),
                );
            }
            let found = link.found.as_deref().unwrap_or("nowhere");
            row("found", found.to_string());
        }
        for notice in &layer.notices {
            row("notice", notice.clone());
        }
    }
    table(rows)
}

/// A failure's sentence, for JSON.
pub(crate) fn why(broken: Option<&Failure>) -> Option<String> {
    broken.map(|failure| plain(failure.sentence()))
}

pub(crate) fn format_word(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Iso => "iso",
        Format::Vhd => "vhd",
        Format::Vhdx => "vhdx",
    }
}

pub(crate) fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Fixed => "fixed",
        Kind::Dynamic => "dynamic",
        Kind::Differencing => "differencing",
    }
}

fn hint_word(kind: HintKind) -> &'static str {
    match kind {
        HintKind::Relative => "relative path",
        HintKind::Absolute => "absolute path",
        HintKind::Volume => "volume path",
        HintKind::Url => "URL",
        HintKind::Name => "name",
    }
}
