//! `vdisk info`: the facts of an image.
//!
//! Promises: the image is only read, and looking works while it is attached and in use. The JSON
//! object has every field of the library's `Information`, under the same names; a chain is opened
//! with the caller's rights, and its object has the layers, the image first.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde::Serialize;
use virtdisk::Information;

use crate::failure::Result;
use crate::lineage::{Layer, Lineage};
use crate::parents::Parents;
use crate::{image, lineage, output, size};

/// Show the facts of an image.
///
/// Format, kind, sizes and identity, whether it is attached, and what is odd about it. --chain
/// shows a differencing image with all its parents instead: the identity of each, the one it wants
/// of its parent, where that was found, and what was looked at and not taken.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk info disk.vhd           for people
  vdisk info disk.vhd --json    for programs
  vdisk info child.vhdx --chain  the image and its parents, without the service

Sizes in JSON are bytes.")]
pub(crate) struct Info {
    /// The image
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show every layer of a differencing image
    #[arg(long)]
    chain: bool,
    #[command(flatten)]
    parents: Parents,
}

/// The chain, as JSON has it.
#[derive(Serialize)]
struct Chain {
    complete: bool,
    /// Why it is not.
    why: Option<String>,
    layers: Vec<Layer>,
}

/// Prints the facts.
pub(crate) fn run(verb: &Info) -> Result<()> {
    if verb.chain {
        return chain(verb);
    }
    let information = image::open_to_look(&verb.file, &verb.parents)?.information()?;
    if verb.json {
        return output::json(&information);
    }
    output::print(&output::table(rows(&information)))
}

/// Prints the layers, also those of a chain that ends too early, which is a failure then.
fn chain(verb: &Info) -> Result<()> {
    let Lineage { layers, broken } = lineage::of(&verb.file, &verb.parents)?;
    if verb.json {
        output::json(&Chain {
            complete: broken.is_none(),
            why: lineage::why(broken.as_ref()),
            layers,
        })?;
    } else {
        output::print(&lineage::text(&layers))?;
    }
    broken.map_or(Ok(()), Err)
}

/// Name and value of what a person wants to know.
fn rows(facts: &Information) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_string(), value]);
    row("file", facts.file.clone());
    row("format", facts.format.clone());
    row("kind", facts.kind.clone());
    row("virtual size", exactly(facts.virtual_size));
    row("physical size", exactly(facts.physical_size));
    row("allocated", exactly(facts.allocated_size));
    if facts.block_size != 0 {
        row("block size", size::show(facts.block_size.into()));
    }
    row("sector size", size::show(facts.sector_size.into()));
    if !is_zero(&facts.identifier) {
        row("identifier", facts.identifier.clone());
    }
    if !facts.creator.is_empty() {
        row("creator", facts.creator.clone());
    }
    if let Some(percent) = facts.fragmentation {
        row("fragmentation", format!("{percent} %"));
    }
    if let Some(bytes) = facts.smallest_safe_size {
        row("smallest safe", exactly(bytes));
    }
    let attached = match (facts.is_loaded, facts.device.as_str()) {
        (false, _) => "no".to_string(),
        (true, "") => "yes, without a device".to_string(),
        (true, device) => device.to_string(),
    };
    row("attached", attached);
    for notice in &facts.notices {
        row("notice", notice.clone());
    }
    rows
}

/// `10 GiB (10737418240 bytes)`.
fn exactly(bytes: u64) -> String {
    if bytes < 1024 {
        size::show(bytes)
    } else {
        format!("{} ({bytes} bytes)", size::show(bytes))
    }
}

fn is_zero(identifier: &str) -> bool {
    identifier
        .chars()
        .all(|character| character == '0' || character == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_described() {
        let facts = Information {
            file: "/a.vhd".into(),
            format: "vhd".into(),
            kind: "dynamic".into(),
            virtual_size: 10 << 30,
            block_size: 2 << 20,
            sector_size: 512,
            notices: vec!["odd".into()],
            ..Information::default()
        };
        let text = output::table(rows(&facts));
        assert!(
            text.contains("virtual size   10 GiB (10737418240 bytes)"),
            "{text}"
        );
        assert!(text.contains("block size     2 MiB"), "{text}");
        assert!(text.contains("attached       no"), "{text}");
        assert!(text.contains("notice         odd"), "{text}");
        assert!(!text.contains("identifier"), "{text}");
    }
}
