//! What a run could leave behind on the machine: loop devices, FUSE mounts, services.
//!
//! Promises: [`seen`] names each such thing in one line, so that two looks can be compared;
//! [`new_since`] waits a while for what goes by itself before it calls anything left behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// One look at the machine: a line for each thing.
pub(crate) type Seen = BTreeSet<String>;

/// What is there now.
pub(crate) fn seen() -> Seen {
    let mut seen = Seen::new();
    loop_devices(Path::new("/sys/block"), &mut seen);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    seen.extend(mounts.lines().filter_map(mount));
    fuse_connections(Path::new("/sys/fs/fuse/connections"), &mut seen);
    services(Path::new("/proc"), &mut seen);
    seen
}

/// What is there now and was not in `before`, after up to `patience` for it to go.
pub(crate) fn new_since(before: &Seen, patience: Duration) -> Vec<String> {
    let until = Instant::now() + patience;
    loop {
        let left: Vec<String> = seen().difference(before).cloned().collect();
        if left.is_empty() || Instant::now() >= until {
            return left;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn loop_devices(block: &Path, seen: &mut Seen) {
    for entry in block.read_dir().into_iter().flatten().flatten() {
        if let Ok(file) = std::fs::read_to_string(entry.path().join("loop/backing_file")) {
            let name = entry.file_name();
            seen.insert(format!(
                "loop device /dev/{} on {}",
                name.display(),
                file.trim_end()
            ));
        }
    }
}

/// A line of `/proc/self/mounts` that is a FUSE file system or lies on a loop device.
fn mount(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    let (source, place, kind) = (words.next()?, words.next()?, words.next()?);
    let fuse = kind == "fuse" || kind == "fuseblk" || kind.starts_with("fuse.");
    (fuse || source.starts_with("/dev/loop"))
        .then(|| format!("mount of {source} ({kind}) on {place}"))
}

fn fuse_connections(connections: &Path, seen: &mut Seen) {
    for entry in connections.read_dir().into_iter().flatten().flatten() {
        seen.insert(format!("FUSE connection {}", entry.file_name().display()));
    }
}

fn services(processes: &Path, seen: &mut Seen) {
    for entry in processes.read_dir().into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        // A process that has ended and waits for its parent's wait has no command line.
        if read("comm").starts_with(b"virtdiskd") && !read("cmdline").is_empty() {
            seen.insert(format!("process {} virtdiskd", entry.file_name().display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fuse_and_loop_mounts_count() {
        assert!(mount("/dev/loop3p1 /mnt ext4 rw 0 0").is_some());
        assert!(mount("vdisk /run/x fuse.vdisk rw 0 0").is_some());
        assert!(mount("/dev/loop1 /mnt fuseblk rw 0 0").is_some());
        assert!(mount("fusectl /sys/fs/fuse/connections fusectl rw 0 0").is_none());
        assert!(mount("/dev/vda / ext4 rw 0 0").is_none());
        assert!(mount("").is_none());
    }

    #[test]
    fn a_service_is_seen_until_it_has_ended() {
        let scratch = crate::place::Scratch::new(&std::env::temp_dir(), "left").unwrap();
        for (process, line) in [("11", "virtdiskd\0"), ("12", "")] {
            let folder = scratch.path().join(process);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("comm"), "virtdiskd\n").unwrap();
            std::fs::write(folder.join("cmdline"), line).unwrap();
        }
        let mut seen = Seen::new();
        services(scratch.path(), &mut seen);
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            ["process 11 virtdiskd"]
        );
    }

    #[test]
    fn a_bound_loop_device_is_seen() {
        let scratch = crate::place::Scratch::new(&std::env::temp_dir(), "left").unwrap();
        let device = scratch.path().join("loop7/loop");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::create_dir_all(scratch.path().join("loop8")).unwrap();
        std::fs::write(device.join("backing_file"), "/tmp/a.vhd\n").unwrap();
        let mut seen = Seen::new();
        loop_devices(scratch.path(), &mut seen);
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            ["loop device /dev/loop7 on /tmp/a.vhd"]
        );
    }
}
