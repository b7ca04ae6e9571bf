//! `cargo xtask setup`: installs the Debian packages that tests, demo and bench use.
//!
//! Promises: a package is installed only when a command of it is missing; without root, apt or a
//! network it says what is missing and goes on, for tests count what they lack as skipped.
//! `apt-get update` runs only when an install failed without it.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::run;

/// A command and the Debian package that brings it.
struct Tool {
    command: &'static str,
    package: &'static str,
    need: Need,
}

/// For which chore a tool is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// The demo's few commands.
    Demo,
    /// Tests (and the demo).
    Tests,
    /// The peers and the load generator of the bench (and all else).
    Everything,
}

const fn tool(need: Need, command: &'static str, package: &'static str) -> Tool {
    Tool {
        command,
        package,
        need,
    }
}

/// Every foreign program that this project runs.
const TOOLS: &[Tool] = &[
    tool(Need::Demo, "gcc", "gcc"),
    tool(Need::Demo, "ld", "binutils"),
    tool(Need::Demo, "mkfs.ext4", "e2fsprogs"),
    tool(Need::Demo, "mount", "mount"),
    tool(Need::Demo, "losetup", "mount"),
    tool(Need::Demo, "sha256sum", "coreutils"),
    tool(Need::Tests, "fio", "fio"),
    tool(Need::Tests, "qemu-img", "qemu-utils"),
    tool(Need::Tests, "qemu-nbd", "qemu-utils"),
    tool(Need::Tests, "qemu-io", "qemu-utils"),
    tool(Need::Tests, "7z", "p7zip-full"),
    tool(Need::Tests, "mkfs.xfs", "xfsprogs"),
    tool(Need::Tests, "mkfs.btrfs", "btrfs-progs"),
    tool(Need::Tests, "ntfs-3g", "ntfs-3g"),
    tool(Need::Tests, "mkntfs", "ntfs-3g"),
    tool(Need::Tests, "valgrind", "valgrind"),
    tool(Need::Tests, "sgdisk", "gdisk"),
    tool(Need::Tests, "sfdisk", "fdisk"),
    tool(Need::Tests, "pkg-config", "pkg-config"),
    tool(Need::Tests, "runuser", "util-linux"),
    tool(Need::Tests, "setpriv", "util-linux"),
    tool(Need::Tests, "blockdev", "util-linux"),
    tool(Need::Tests, "setfattr", "attr"),
    tool(Need::Tests, "man", "man-db"),
    tool(Need::Tests, "xorriso", "xorriso"),
    tool(Need::Tests, "systemd-socket-activate", "systemd"),
    tool(Need::Tests, "qemu-storage-daemon", "qemu-utils"),
    tool(Need::Everything, "nbdfuse", "libnbd-bin"),
];

/// Installs what `need` lacks. Fails never for a missing package, only says so.
pub(crate) fn run(need: Need) -> Result<()> {
    let missing = missing(need);
    if missing.is_empty() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    if !run::is_root() {
        say_missing(&missing, "not root");
        return Ok(());
    }
    if run::find("apt-get").is_none() {
        say_missing(&missing, "no apt-get here");
        return Ok(());
    }
    println!("setup: installing {}", missing.join(" "));
    if !apt(&install(&missing)) && apt(&["update", "-qq"]) && !apt(&install(&missing)) {
        // One unknown name fails the whole list: try each alone.
        for package in &missing {
            apt(&install(&[*package]));
        }
    }
    let left = self::missing(need);
    if !left.is_empty() {
        say_missing(&left, "apt-get could not install them");
    }
    Ok(())
}

fn say_missing(packages: &[&str], why: &str) {
    println!(
        "setup: missing packages, tests that need them are skipped ({why}): {}",
        packages.join(" ")
    );
}

/// Packages of which a command is missing, each once.
fn missing(need: Need) -> Vec<&'static str> {
    let mut packages: Vec<&str> = TOOLS
        .iter()
        .filter(|tool| wanted(tool.need, need) && run::find(tool.command).is_none())
        .map(|tool| tool.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Whether a tool of `tool` belongs to a chore that needs `chore`.
fn wanted(tool: Need, chore: Need) -> bool {
    match chore {
        Need::Demo => tool == Need::Demo,
        Need::Tests => tool != Need::Everything,
        Need::Everything => true,
    }
}

fn install<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["install", "-qq", "-y", "--no-install-recommends"];
    words.extend(packages);
    words
}

/// Runs apt-get without questions; true when it ended well.
fn apt(arguments: &[&str]) -> bool {
    Command::new("apt-get")
        .args(["-o", "Acquire::Retries=2", "-o", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_named_once() {
        let mut commands: Vec<&str> = TOOLS.iter().map(|tool| tool.command).collect();
        commands.sort_unstable();
        let before = commands.len();
        commands.dedup();
        assert_eq!(before, commands.len());
    }

    #[test]
    fn larger_chores_want_what_smaller_ones_do() {
        for need in [Need::Demo, Need::Tests, Need::Everything] {
            assert!(wanted(need, Need::Everything));
        }
        assert!(wanted(Need::Demo, Need::Tests));
        assert!(!wanted(Need::Tests, Need::Demo));
        assert!(!wanted(Need::Everything, Need::Tests));
    }
}
