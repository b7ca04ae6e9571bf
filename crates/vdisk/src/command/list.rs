//! `vdisk list`: what is attached, and who uses it.
//!
//! Promises: one row, or one JSON object, for each attached disk that the caller may see, in the
//! order of attachment; the JSON has every field of the library's `AttachedDisk`.

use clap::Args;
use virtdisk::AttachedDisk;

use crate::failure::{Result, holding};
use crate::output;

/// List the attached disks and who uses them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk list                           for people
  vdisk list --json                    for programs: an array of objects
  vdisk list --json | jq '.[].file'    the images

States: attached, detaching (goes when its last user lets go), failed.")]
pub(crate) struct List {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub(crate) fn run(verb: &List) -> Result<()> {
    let disks = virtdisk::attached()?;
    if verb.json {
        return output::json(&disks);
    }
    if disks.is_empty() {
        return output::print("nothing is attached\n");
    }
    let heading = [
        "FILE",
        "DEVICE",
        "FORMAT",
        "ACCESS",
        "LIFETIME",
        "STATE",
        "IN USE BY",
    ];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    rows.extend(disks.iter().map(row));
    output::print(&output::table(rows))
}

fn row(disk: &AttachedDisk) -> Vec<String> {
    let users: Vec<String> = disk.in_use_by.iter().map(holding).collect();
    let or_none = |text: &str| {
        if text.is_empty() {
            "-".to_string()
        } else {
            text.to_string()
        }
    };
    vec![
        disk.file.clone(),
        or_none(&disk.device),
        format!("{} {}", disk.format, disk.kind),
        (if disk.read_only {
            "read-only"
        } else {
            "read-write"
        })
        .to_string(),
        (if disk.permanent {
            "permanent"
        } else {
            "temporary"
        })
        .to_string(),
        disk.state.clone(),
        or_none(&users.join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_it_all() {
        let disk = AttachedDisk {
            file: "/a.vhd".into(),
            device: "/dev/loop0".into(),
            format: "vhd".into(),
            kind: "dynamic".into(),
            state: "attached".into(),
            permanent: true,
            ..AttachedDisk::default()
        };
        let wanted = [
            "/a.vhd",
            "/dev/loop0",
            "vhd dynamic",
            "read-write",
            "permanent",
            "attached",
            "-",
        ];
        assert_eq!(row(&disk), wanted);
    }
}
