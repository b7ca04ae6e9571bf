//! `cargo xtask demo`: the main job, on a real disk, as one would type it.
//!
//! Creates a dynamic VHD, attaches it, makes a file system, writes, detaches, attaches again and
//! finds the same bytes. Every line that starts with `$` is run as it stands, its output is real.
//! Promises: nothing is left behind, also when a step fails; the service is one of the demo's own.

use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::place::{Profile, Scratch};
use crate::run;
use crate::service::Service;
use crate::setup::{self, Need};

/// A folder with the image and the mount point, and the service.
struct Demo {
    service: Service,
    scratch: Scratch,
}

/// Runs the demo; false when the bytes are not the same.
pub(crate) fn run() -> Result<bool> {
    if !run::is_root() {
        println!(
            "The demo attaches a block device and mounts it, which needs root:\n\n  \
             sudo --preserve-env=PATH cargo xtask demo\n\n\
             Without root, `cargo xtask test` runs all tests that need none."
        );
        return Ok(false);
    }
    setup::run(Need::Demo)?;
    let service = Service::build(Profile::Dev)?;
    let scratch = Scratch::new(&std::env::temp_dir(), "demo")?;
    let demo = Demo { service, scratch };
    println!();
    demo.story()?;
    ensure!(
        demo.service.ended(Duration::from_secs(10)),
        "the service did not end by itself"
    );
    println!("\nThe same bytes came back. Nothing is attached, nothing is left behind.");
    Ok(true)
}

impl Demo {
    /// The whole of it.
    fn story(&self) -> Result<()> {
        self.say("a new dynamic VHD of 1 GiB: a few KiB in the file");
        self.step("vdisk create demo.vhd --size 1G")?;
        self.step("vdisk info demo.vhd")?;
        self.say("attached, it is a block device like any other");
        let device = self.attach()?;
        self.step(&format!("mkfs.ext4 -q {device}"))?;
        self.step(&format!("mkdir disk && mount {device} disk"))?;
        self.step("echo 'written on a virtual disk' > disk/note")?;
        self.step("cp $(command -v vdisk) disk/program")?;
        let before = self.answer("sha256sum disk/note disk/program")?;
        self.step("vdisk list")?;
        self.say("a disk in use is not torn out");
        ensure!(
            !self.shown("vdisk detach demo.vhd")?,
            "a mounted disk was detached"
        );
        self.say("when detach returns, the device is gone and all data is in the file");
        self.step("umount disk")?;
        self.step("vdisk detach demo.vhd")?;
        self.step("vdisk list")?;
        let devices = run::output(&mut self.command("losetup --list --noheadings"))?;
        let left = devices
            .lines()
            .any(|line| line.split_whitespace().next() == Some(&device));
        ensure!(!left, "the loop device {device} is left");
        self.say("attached again: the same bytes");
        let device = self.attach()?;
        self.step(&format!("mount -o ro {device} disk"))?;
        let after = self.answer("sha256sum disk/note disk/program")?;
        ensure!(before == after, "other bytes came back:\n{before}\n{after}");
        self.step("umount disk")?;
        self.step(&format!("vdisk detach {device}"))
    }

    /// `vdisk attach`; its stdout is the device.
    fn attach(&self) -> Result<String> {
        let device = self.answer("vdisk attach demo.vhd")?.trim().to_string();
        ensure!(device.starts_with("/dev/"), "`{device}` is no device");
        Ok(device)
    }

    fn say(&self, text: &str) {
        println!("\n# {text}");
    }

    /// Runs a line that must succeed.
    fn step(&self, line: &str) -> Result<()> {
        if !self.shown(line)? {
            bail!("`{line}` failed");
        }
        Ok(())
    }

    /// Runs a line that must succeed; gives back what it printed.
    fn answer(&self, line: &str) -> Result<String> {
        run::go_on()?;
        println!("$ {line}");
        let words = run::output(&mut self.command(line))?;
        print!("{words}");
        Ok(words)
    }

    /// Runs a line, its words in the order in which they come; true when it succeeded.
    fn shown(&self, line: &str) -> Result<bool> {
        run::go_on()?;
        println!("$ {line}");
        let out = std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .context("copy stdout")?;
        let status = self.command(line).stderr(out).status();
        Ok(status.with_context(|| format!("start `{line}`"))?.success())
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.service.command("sh");
        command
            .args(["-c", line])
            .current_dir(self.scratch.path())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Demo {
    /// Undoes what a failed step left; after a good run there is nothing to undo.
    fn drop(&mut self) {
        for line in ["umount disk", "vdisk detach demo.vhd"] {
            drop(run::output(&mut self.command(line)));
        }
    }
}
