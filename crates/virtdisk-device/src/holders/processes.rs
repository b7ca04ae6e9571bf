//! Processes that have a device, or a file on it, open.
//!
//! Looks at every descriptor, working directory, root and program of every process but this one.
//! Files on a file system of the device say who keeps it from being unmounted, and after
//! `umount -l` they are all that is left to name. (btrfs files can't be told: their device
//! number is one of btrfs's own.)

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::{Holder, HolderKind, Node, look};

/// Processes that hold the nodes. A process that holds one node through several descriptors is
/// one holder.
pub(super) fn find(nodes: &[Node]) -> Vec<Holder> {
    let mut found = Vec::new();
    for pid in pids().filter(|pid| *pid != std::process::id()) {
        let folder = Path::new("/proc").join(pid.to_string());
        let descriptors = fs::read_dir(folder.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let links = ["cwd", "root", "exe"].map(|name| folder.join(name));
        for link in descriptors.map(|entry| entry.path()).chain(links) {
            if let Some((node, place)) = held(&link, nodes) {
                let one = Holder {
                    kind: HolderKind::Process,
                    node: node.path.clone(),
                    place,
                    pid,
                    command: command(pid),
                };
                if !found.contains(&one) {
                    found.push(one);
                }
            }
        }
    }
    found
}

/// The node that a descriptor holds: directly (no place), or through a file that lies on it.
fn held<'a>(link: &Path, nodes: &'a [Node]) -> Option<(&'a Node, String)> {
    let (file_type, own, below) = look(link)?;
    if file_type == FileType::BlockDevice {
        return Some((nodes.iter().find(|n| n.number == own)?, String::new()));
    }
    let node = nodes.iter().find(|n| n.number == below)?;
    let place = fs::read_link(link).unwrap_or_else(|_| PathBuf::new());
    Some((node, place.to_string_lossy().into_owned()))
}

/// All processes, by number.
pub(super) fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Name of a process's program, without control characters.
pub(super) fn command(pid: u32) -> String {
    let name = fs::read(Path::new("/proc").join(pid.to_string()).join("comm"));
    let name = String::from_utf8_lossy(&name.unwrap_or_default()).into_owned();
    name.trim_end_matches('\n')
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
