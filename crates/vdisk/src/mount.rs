//! Mounts a freshly attached disk, for `vdisk attach --mount`.
//!
//! The work is mount(8)'s: it finds the file system's type and calls helpers like ntfs-3g. What is
//! mounted is never trusted with devices or set-user-id programs. Promises: nothing is mounted when
//! an error comes back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use virtdisk::Attached;

use crate::failure::{Failure, Result};

/// Refuses a place that can't be a mount point, before anything is attached.
pub(crate) fn check_place(place: &Path) -> Result<()> {
    if place.is_dir() {
        return Ok(());
    }
    let what = if place.exists() {
        "is no directory"
    } else {
        "does not exist"
    };
    Err(
        Failure::new(format!("the mount point {} {what}", place.display()))
            .hint(format!("make it first: mkdir -p {}", place.display())),
    )
}

/// Mounts the first file system of `disk` on `place`: of its partitions when it has any, else of
/// the whole disk.
pub(crate) fn first_file_system(disk: &Attached, place: &Path, read_only: bool) -> Result<()> {
    let whole = [disk.device.clone()];
    let nodes: &[PathBuf] = if disk.partitions.is_empty() {
        &whole
    } else {
        &disk.partitions
    };
    let mut refusals = Vec::new();
    for node in nodes {
        match mount(node, place, read_only) {
            Ok(()) => return Ok(()),
            Err(words) => refusals.push(words),
        }
    }
    Err(
        Failure::new(format!("nothing could be mounted: {}", refusals.join("; ")))
            .hint("attach it without --mount and make a file system on it, or mount it by hand"),
    )
}

fn mount(node: &Path, place: &Path, read_only: bool) -> std::result::Result<(), String> {
    let options = if read_only {
        "ro,nosuid,nodev"
    } else {
        "nosuid,nodev"
    };
    let mut command = Command::new("mount");
    command
        .args(["-o", options])
        .arg("--")
        .args([node, place])
        .stdin(Stdio::null());
    said(&mut command)
}

/// Takes away what is mounted on `place`.
pub(crate) fn unmount(place: &Path) -> Result<()> {
    let mut command = Command::new("umount");
    command.arg("--").arg(place).stdin(Stdio::null());
    said(&mut command)
        .map_err(|words| Failure::new(format!("{} is still mounted: {words}", place.display())))
}

/// Runs `command`; when it fails, its words in one line.
fn said(command: &mut Command) -> std::result::Result<(), String> {
    let name = command.get_program().display().to_string();
    match command.output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => {
            let words = String::from_utf8_lossy(&done.stderr)
                .trim()
                .replace('\n', " ");
            Err(if words.is_empty() {
                format!("{name} ended with {}", done.status)
            } else {
                words
            })
        }
        Err(error) => Err(format!("{name} does not start: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_must_be_a_directory() {
        assert!(check_place(Path::new("/")).is_ok());
        assert!(check_place(Path::new("/proc/self/cmdline")).is_err());
        assert!(check_place(Path::new("/no/such/place")).is_err());
    }

    #[test]
    fn words_of_a_failing_program_are_kept() {
        let mut command = Command::new("sh");
        assert_eq!(
            said(command.args(["-c", "echo no >&2; exit 32"])),
            Err("no".to_string())
        );
        assert!(said(&mut Command::new("no-such-program")).is_err());
    }
}
