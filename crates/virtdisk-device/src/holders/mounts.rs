//! Mounts of a device, in every mount namespace that a process is in.
//!
//! A mount names its device by number; file systems that span devices (btrfs) show a number of
//! their own instead, and are found by the source they were mounted from and by the devices that
//! btrfs lists in sysfs. A mount that several namespaces share is one holder.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{Holder, HolderKind, Node, Number, block_number, device_number, processes, unescape};

/// One line of a mountinfo table.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    number: Number,
    place: String,
    kind: String,
    source: String,
}

/// Mounts of the nodes; those that this process's own namespace has come without a process.
pub(super) fn find(nodes: &[Node]) -> Vec<Holder> {
    let pools = btrfs_pools(nodes);
    let mut sources = HashMap::new();
    let mut seen_namespaces = HashSet::new();
    let mut seen_mounts = HashSet::new();
    let mut found = Vec::new();
    // Zero stands for this process and sorts first: what we see ourselves needs no other witness.
    for pid in [0].into_iter().chain(processes::pids()) {
        let folder = match pid {
            0 => PathBuf::from("/proc/self"),
            pid => Path::new("/proc").join(pid.to_string()),
        };
        let Ok(namespace) = fs::read_link(folder.join("ns/mnt")) else {
            continue;
        };
        if !seen_namespaces.insert(namespace) {
            continue;
        }
        let table = fs::read(folder.join("mountinfo")).unwrap_or_default();
        for line in String::from_utf8_lossy(&table).lines().filter_map(line) {
            let Some(node) = node_of(&line, nodes, &pools, &mut sources) else {
                continue;
            };
            if seen_mounts.insert((node.number, line.place.clone())) {
                found.push(Holder {
                    kind: HolderKind::Mount,
                    node: node.path.clone(),
                    place: line.place,
                    pid,
                    command: if pid == 0 {
                        String::new()
                    } else {
                        processes::command(pid)
                    },
                });
            }
        }
    }
    found
}

/// The node that a mount holds, if it holds one.
fn node_of<'a>(
    line: &Line,
    nodes: &'a [Node],
    pools: &HashMap<Number, &'a Node>,
    sources: &mut HashMap<String, Option<Number>>,
) -> Option<&'a Node> {
    if let Some(node) = nodes.iter().find(|n| n.number == line.number) {
        return Some(node);
    }
    // Major number 0: the file system has no device of its own to show.
    if line.number.0 != 0 || !line.source.starts_with("/dev/") {
        return None;
    }
    let number = *sources
        .entry(line.source.clone())
        .or_insert_with(|| block_number(Path::new(&line.source)));
    let number = number?;
    let by_source = nodes.iter().find(|n| n.number == number);
    by_source.or_else(|| pools.get(&number).copied().filter(|_| line.kind == "btrfs"))
}

/// For each btrfs that has one of the nodes among its devices: every device of it → that node.
fn btrfs_pools(nodes: &[Node]) -> HashMap<Number, &Node> {
    let mut pools = HashMap::new();
    for pool in fs::read_dir("/sys/fs/btrfs")
        .into_iter()
        .flatten()
        .flatten()
    {
        let members: Vec<Number> = fs::read_dir(pool.path().join("devices"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|member| fs::read_to_string(member.path().join("dev")).ok())
            .filter_map(|text| device_number(text.trim()))
            .collect();
        if let Some(node) = nodes.iter().find(|n| members.contains(&n.number)) {
            pools.extend(members.into_iter().map(|number| (number, node)));
        }
    }
    pools
}

/// One line: `36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/sda rw`.
fn line(text: &str) -> Option<Line> {
    let (before, after) = text.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let number = device_number(fields.next()?)?;
    let place = unescape(fields.nth(1)?);
    let mut fields = after.split(' ');
    let kind = fields.next()?.to_owned();
    let source = unescape(fields.next()?);
    Some(Line {
        number,
        place,
        kind,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_gives_device_place_and_source() {
        let text = r"36 35 98:0 /a /mnt/b\040c rw,noatime master:1 shared:2 - ext3 /dev/root rw";
        let wanted = Line {
            number: (98, 0),
            place: "/mnt/b c".to_owned(),
            kind: "ext3".to_owned(),
            source: "/dev/root".to_owned(),
        };
        assert_eq!(line(text), Some(wanted));
    }

    #[test]
    fn cut_off_lines_are_no_mounts() {
        for text in [
            "",
            "36 35",
            "36 35 98:0 / /mnt rw - ",
            "36 35 9x:0 / /m rw - ext4 /dev/a rw",
        ] {
            assert!(line(text).is_none_or(|l| l.kind.is_empty()), "{text}");
        }
    }
}
