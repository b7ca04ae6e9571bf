//! A service of our own for the demo and the bench: its own runtime folder, ended afterwards.
//!
//! May assume: the programs are built, and the service ends by itself when nothing is open or
//! attached. Promises: a service that does not is ended when this is dropped; no other process
//! is touched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::place::{self, Profile, Scratch};
use crate::run;

/// Where the programs lie and which service they speak to.
pub(crate) struct Service {
    programs: PathBuf,
    runtime: Scratch,
}

impl Service {
    /// Builds the programs and makes a runtime folder. Starts nothing: the first client does.
    pub(crate) fn build(profile: Profile) -> Result<Service> {
        let mut words = vec!["build", "--quiet", "-p", "vdisk", "-p", "virtdiskd"];
        if profile == Profile::Release {
            words.push("--release");
        }
        anyhow::ensure!(
            run::shown(&mut run::cargo(&words))?,
            "the programs do not build"
        );
        let programs = place::built(profile)?;
        let runtime = Scratch::new(&std::env::temp_dir(), "run")?;
        Ok(Service { programs, runtime })
    }

    /// A command of this project, or a foreign one that may call ours, bound to this service.
    pub(crate) fn command(&self, program: &str) -> Command {
        let ours = self.programs.join(program);
        let mut command = Command::new(program);
        if let Some(path) = self.path_with_ours() {
            command.env("PATH", path);
        }
        if ours.is_file() {
            command = Command::new(ours);
        }
        command
            .env("VIRTDISK_RUNTIME_DIR", self.runtime.path())
            .env("VIRTDISKD", self.programs.join("virtdiskd"));
        command
    }

    fn path_with_ours(&self) -> Option<std::ffi::OsString> {
        let path = std::env::var_os("PATH")?;
        let all = std::iter::once(self.programs.clone()).chain(std::env::split_paths(&path));
        std::env::join_paths(all).ok()
    }

    /// Waits up to `patience` until the service has ended; false when it has not.
    pub(crate) fn ended(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while !self.processes().is_empty() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Processes whose command line names our runtime folder.
    fn processes(&self) -> Vec<u32> {
        let folder = self.runtime.path().to_string_lossy().into_owned();
        process_ids(Path::new("/proc"), "virtdiskd", &folder)
    }
}

/// Ids of processes named `name` with `word` somewhere in their command line.
fn process_ids(processes: &Path, name: &str, word: &str) -> Vec<u32> {
    let entries = processes.read_dir().into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
            read("comm").starts_with(name.as_bytes())
                && String::from_utf8_lossy(&read("cmdline")).contains(word)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.ended(Duration::from_secs(5)) {
            return;
        }
        for process in self.processes() {
            eprintln!("xtask: the service {process} did not end by itself; ending it");
            let ended = Command::new("kill").arg(process.to_string()).status();
            if let Err(error) = ended.context("kill") {
                eprintln!("xtask: {error:#}");
            }
        }
        self.ended(Duration::from_secs(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_with_our_folder_is_found() {
        let scratch = Scratch::new(&std::env::temp_dir(), "proc").unwrap();
        for (id, name, line) in [
            ("11", "virtdiskd\n", "virtdiskd\0--runtime-dir\0/tmp/ours\0"),
            (
                "12",
                "virtdiskd\n",
                "virtdiskd\0--runtime-dir\0/tmp/other\0",
            ),
            ("13", "sh\n", "sh\0/tmp/ours\0"),
        ] {
            let folder = scratch.path().join(id);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("comm"), name).unwrap();
            std::fs::write(folder.join("cmdline"), line).unwrap();
        }
        assert_eq!(process_ids(scratch.path(), "virtdiskd", "/tmp/ours"), [11]);
    }
}
