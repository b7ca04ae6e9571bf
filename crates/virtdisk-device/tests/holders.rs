//! Who holds a device, found for each kind of holder.

#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use support::{Loop, Mounted, Process, file_of, folder, needs, options, run};
use virtdisk_device::holders::{Holder, HolderKind, find};
use virtdisk_device::loop_device::Release;

const MIB: u64 = 1 << 20;
const NOW: Duration = Duration::ZERO;
/// Taken by tests that mount: a new mount namespace holds copies of everybody's mounts.
static MOUNTS: Mutex<()> = Mutex::new(());

/// A device on a new file.
fn device(folder: &Path, name: &str, length: u64) -> Loop {
    Loop::on(&options(&file_of(&folder.join(name), length)))
}

/// Waits until somebody of that kind holds the device.
fn wait_for(device: &Loop, kind: HolderKind) -> Vec<Holder> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let found = find(device.device.index);
        if found.iter().any(|h| h.kind == kind) {
            return found;
        }
        assert!(Instant::now() < deadline, "nobody found: {found:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A shell that says when it is ready.
fn shell(script: &str) -> Process {
    let mut child = Command::new("sh")
        .args(["-c", &format!("{script}; echo ready; exec sleep 60")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    let read = std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready);
    let process = Process(child);
    read.unwrap();
    process
}

#[test]
fn a_device_that_nobody_uses_has_no_holder() {
    needs!();
    let folder = folder();
    let device = device(folder.path(), "image", MIB);
    let own = device.open();
    assert_eq!(find(device.device.index), []);
    drop(own);
    device.release();
}

#[test]
fn a_mount_is_found_and_the_process_that_sits_in_it() {
    needs!("mkfs.ext4");
    let _alone = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let device = device(folder.path(), "image", 16 * MIB);
    run("mkfs.ext4", &["-q", "-F", &device.path()]);
    let place = folder.path().join("mount point");
    let mounted = Mounted::new(&device.path(), &place);
    let mount = Holder {
        kind: HolderKind::Mount,
        node: device.path(),
        place: place.display().to_string(),
        pid: 0,
        command: String::new(),
    };
    assert_eq!(find(device.device.index), std::slice::from_ref(&mount));
    assert_eq!(device.device.release(NOW).unwrap(), Release::Busy);

    let inside = shell(&format!("cd '{}'", place.display()));
    let found = find(device.device.index);
    assert_eq!(found[0], mount);
    assert_eq!(
        (found[1].kind, found[1].pid),
        (HolderKind::Process, inside.0.id())
    );
    assert_eq!((found[1].command.as_str(), found.len()), ("sleep", 2));
    drop(inside);
    drop(mounted);
    device.release();
}

#[test]
fn a_mount_of_a_partition_names_the_partition() {
    needs!("mkfs.ext4");
    let _alone = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let device = device(folder.path(), "image", 16 * MIB);
    let nodes = device.device.add_partitions(&[(3, MIB, 12 * MIB)]).unwrap();
    let node = nodes[0].display().to_string();
    run("mkfs.ext4", &["-q", "-F", &node]);
    let mounted = Mounted::new(&node, &folder.path().join("mnt"));
    let found = find(device.device.index);
    assert_eq!(
        (found.len(), found[0].kind, &found[0].node),
        (1, HolderKind::Mount, &node)
    );
    assert_eq!(device.device.release(NOW).unwrap(), Release::Busy);
    drop(mounted);
    device.release();
}

#[test]
fn a_mount_in_another_mount_namespace_is_found() {
    needs!("mkfs.ext4", "unshare");
    let _alone = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let device = device(folder.path(), "image", 16 * MIB);
    run("mkfs.ext4", &["-q", "-F", &device.path()]);
    let place = folder.path().join("hidden");
    std::fs::create_dir(&place).unwrap();
    let script = format!("mount {} '{}'", device.path(), place.display());
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("{script} && exec sleep 60"))
        .stdin(Stdio::null())
        .spawn();
    let mut other = Process(child.unwrap());
    let found = wait_for(&device, HolderKind::Mount);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&found[0].place, found[0].pid),
        (&place.display().to_string(), other.0.id())
    );
    assert!(["sh", "sleep"].contains(&found[0].command.as_str()));
    assert_eq!(device.device.release(NOW).unwrap(), Release::Busy);
    other.kill();
    device.release();
}

#[test]
fn a_process_with_the_device_open_is_found() {
    needs!();
    let folder = folder();
    let device = device(folder.path(), "image", MIB);
    let mut holder = shell(&format!("exec 7<{}; exec 8<{0}", device.path()));
    let wanted = Holder {
        kind: HolderKind::Process,
        node: device.path(),
        place: String::new(),
        pid: holder.0.id(),
        command: "sleep".to_owned(),
    };
    // The command is the shell's until it became sleep.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(find(device.device.index), [wanted]);
    assert_eq!(device.device.release(NOW).unwrap(), Release::Busy);
    holder.kill();
    device.release();
}

#[test]
fn a_file_on_a_volume_that_was_unmounted_lazily_is_found() {
    needs!("mkfs.ext4");
    let _alone = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let device = device(folder.path(), "image", 16 * MIB);
    run("mkfs.ext4", &["-q", "-F", &device.path()]);
    let place = folder.path().join("mnt");
    let mounted = Mounted::new(&device.path(), &place);
    let mut holder = shell(&format!("exec 7>'{}/file'", place.display()));
    run("umount", &["-l", place.to_str().unwrap()]);
    drop(mounted);
    let found = find(device.device.index);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].kind, found[0].pid),
        (HolderKind::Process, holder.0.id())
    );
    assert!(found[0].place.ends_with("file"), "{}", found[0].place);
    holder.kill();
    device.release();
}

/// Swap that is turned off with the test.
struct Swap(String);

impl Drop for Swap {
    fn drop(&mut self) {
        drop(Command::new("swapoff").arg(&self.0).status());
    }
}

#[test]
fn swap_is_found() {
    needs!("mkswap", "swapon", "swapoff");
    let folder = folder();
    // Swap wants a device that does not lie in the memory it extends.
    let folder_on_disk = tempfile::tempdir().unwrap();
    drop(folder);
    let device = device(folder_on_disk.path(), "image", 16 * MIB);
    run("mkswap", &[&device.path()]);
    let swap = Swap(device.path());
    if !Command::new("swapon")
        .arg(device.path())
        .status()
        .unwrap()
        .success()
    {
        support::skip!("this kernel refuses swap on {}", device.path());
    }
    let found = find(device.device.index);
    assert_eq!((found.len(), found[0].kind), (1, HolderKind::Swap));
    assert_eq!(
        (&found[0].node, &found[0].place),
        (&device.path(), &device.path())
    );
    assert_eq!(device.device.release(NOW).unwrap(), Release::Busy);
    drop(swap);
    device.release();
}

#[test]
fn a_loop_device_on_the_device_is_found() {
    needs!();
    let folder = folder();
    let lower = device(folder.path(), "image", MIB);
    let upper = {
        let node = lower.open();
        Loop::on(&options(&node))
    };
    let found = find(lower.device.index);
    assert_eq!((found.len(), found[0].kind), (1, HolderKind::Device));
    assert_eq!(
        (&found[0].node, &found[0].place),
        (&lower.path(), &upper.path())
    );
    assert_eq!(lower.device.release(NOW).unwrap(), Release::Busy);
    upper.release();
    lower.release();
}

#[test]
fn a_btrfs_mount_is_found_on_each_of_its_devices() {
    needs!("mkfs.btrfs");
    let _alone = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let first = device(folder.path(), "image1", 128 * MIB);
    let second = device(folder.path(), "image2", 128 * MIB);
    run(
        "mkfs.btrfs",
        &[
            "-q",
            "-f",
            "-d",
            "single",
            "-m",
            "raid1",
            &first.path(),
            &second.path(),
        ],
    );
    let place = folder.path().join("mnt");
    let mounted = Mounted::new(&first.path(), &place);
    for device in [&first, &second] {
        let found = find(device.device.index);
        let wanted = (
            HolderKind::Mount,
            device.path(),
            place.display().to_string(),
        );
        let holder = found
            .first()
            .map(|h| (h.kind, h.node.clone(), h.place.clone()));
        assert_eq!(holder, Some(wanted), "{found:?}");
        assert_eq!(device.device.release(NOW).unwrap(), Release::Busy);
    }
    drop(mounted);
    // btrfs remembers the devices it scanned.
    run("btrfs", &["device", "scan", "--forget", &first.path()]);
    first.release();
    second.release();
}
