//! Who uses a block device: mounts, swap, devices on top of it, processes.
//!
//! For messages only: the truth about "in use" is the kernel's own answer in
//! [`LoopDevice::release`](crate::loop_device::LoopDevice::release). What is found here is a
//! snapshot of `/proc` and `/sys`, complete as far as this process may look (root sees all of its
//! own PID namespace). Looks at every mount namespace, never asks a network file system anything,
//! never opens the device. Leaves out this process and kernel threads.

mod mounts;
mod processes;

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};

/// What holds a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HolderKind {
    /// A mounted file system.
    Mount,
    /// Swap space.
    Swap,
    /// A device on top: device mapper, md, another loop device.
    Device,
    /// A process that has the device, or a file on it, open.
    Process,
}

/// One holder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// What it is.
    pub kind: HolderKind,
    /// The node that is held: `/dev/loop0`, `/dev/loop0p1`.
    pub node: String,
    /// Mount point (as its namespace sees it), swap node, upper device; for a process that holds
    /// a file on the device, that file; else empty.
    pub place: String,
    /// The process; for a mount in a mount namespace that is not ours, a process that sees it;
    /// else 0.
    pub pid: u32,
    /// That process's command, else empty.
    pub command: String,
}

/// A device number.
type Number = (u32, u32);

/// A node that can be held: the disk or one of its partitions.
#[derive(Debug, Clone)]
struct Node {
    /// `loop0p1`.
    name: String,
    /// `/dev/loop0p1`.
    path: String,
    number: Number,
}

/// Everybody who uses loop device `index` or a partition of it, mounts first.
pub fn find(index: u32) -> Vec<Holder> {
    let nodes = nodes(index);
    let mut found = mounts::find(&nodes);
    found.extend(swaps(&nodes));
    found.extend(devices(&nodes));
    found.extend(loops(&nodes));
    found.extend(processes::find(&nodes));
    found.sort();
    found.dedup();
    found
}

/// The disk and its partitions, as sysfs lists them.
fn nodes(index: u32) -> Vec<Node> {
    let disk = format!("loop{index}");
    let folder = Path::new("/sys/block").join(&disk);
    let mut nodes: Vec<Node> = node(&folder, &disk).into_iter().collect();
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().join("partition").exists() {
            nodes.extend(node(&entry.path(), &name));
        }
    }
    nodes
}

/// One node, by its sysfs folder.
fn node(folder: &Path, name: &str) -> Option<Node> {
    let number = device_number(fs::read_to_string(folder.join("dev")).ok()?.trim())?;
    Some(Node {
        name: name.to_owned(),
        path: format!("/dev/{name}"),
        number,
    })
}

/// `7:0` as a device number.
fn device_number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The number of the block device that `path` is a node of, following links.
fn block_number(path: &Path) -> Option<Number> {
    let (file_type, own, _) = look(path)?;
    (file_type == FileType::BlockDevice).then_some(own)
}

/// File type of what `path` leads to, its number if it is a device node, and the number of the
/// device that its file system lies on. Never asks a server behind a network file system.
fn look(path: &Path) -> Option<(FileType, Number, Number)> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let seen = rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE).ok()?;
    Some((
        FileType::from_raw_mode(seen.stx_mode.into()),
        (seen.stx_rdev_major, seen.stx_rdev_minor),
        (seen.stx_dev_major, seen.stx_dev_minor),
    ))
}

/// Undoes the octal escapes (`\040`) of the tables in `/proc`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Swap spaces on the nodes.
fn swaps(nodes: &[Node]) -> Vec<Holder> {
    let table = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let Some(place) = line.split_whitespace().next().map(unescape) else {
            continue;
        };
        let file = place.trim_end_matches(" (deleted)");
        let number = block_number(Path::new(file));
        for node in nodes {
            if node.path == file || Some(node.number) == number {
                found.push(holder(HolderKind::Swap, node, place.clone()));
            }
        }
    }
    found
}

/// Device-mapper and md devices on the nodes.
fn devices(nodes: &[Node]) -> Vec<Holder> {
    let mut found = Vec::new();
    for node in nodes {
        let folder = Path::new("/sys/class/block")
            .join(&node.name)
            .join("holders");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let mapped = fs::read_to_string(entry.path().join("dm/name"));
            let place = match mapped {
                Ok(name) => format!("/dev/mapper/{}", name.trim()),
                Err(_) => format!("/dev/{}", entry.file_name().to_string_lossy()),
            };
            found.push(holder(HolderKind::Device, node, place));
        }
    }
    found
}

/// Loop devices whose file is one of the nodes.
fn loops(nodes: &[Node]) -> Vec<Holder> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        let backing = PathBuf::from(backing.trim_end_matches('\n'));
        if !backing.starts_with("/dev") {
            continue;
        }
        let number = block_number(&backing);
        for node in nodes {
            if Some(node.number) == number {
                let upper = entry.file_name().to_string_lossy().into_owned();
                found.push(holder(HolderKind::Device, node, format!("/dev/{upper}")));
            }
        }
    }
    found
}

/// A holder without a process.
fn holder(kind: HolderKind, node: &Node, place: String) -> Holder {
    Holder {
        kind,
        node: node.path.clone(),
        place,
        pid: 0,
        command: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_are_undone_and_other_backslashes_stay() {
        assert_eq!(unescape(r"/mnt/a\040b\134"), r"/mnt/a b\");
        assert_eq!(unescape(r"a\9zz\04"), r"a\9zz\04");
        assert_eq!(unescape(r"\777"), r"\777");
    }

    #[test]
    fn device_numbers_are_read_whole_or_not_at_all() {
        assert_eq!(device_number("259:12"), Some((259, 12)));
        assert_eq!(device_number("7:"), None);
        assert_eq!(device_number("7:-1"), None);
        assert_eq!(device_number("70"), None);
    }

    #[test]
    fn a_device_that_does_not_exist_has_no_holders() {
        assert!(find(1_000_000).is_empty());
    }
}
