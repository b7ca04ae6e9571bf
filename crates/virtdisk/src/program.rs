//! The service's program: where it is, and how it is started.
//!
//! It is started as a child with everything that belongs to the caller left behind: no standard
//! streams, the root directory as its own, all descriptors close-on-exec. It makes a session of
//! its own. A thread waits for it, so that no dead child stays behind in a long-lived caller.

use std::env;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::process::{getegid, geteuid, getgid, getuid};

use crate::code::Code;
use crate::error::{Error, Result};
use crate::path::absolute;

/// Name of the service's program.
const PROGRAM: &str = "virtdiskd";
/// Where packages install it.
const INSTALLED: [&str; 2] = [
    "/usr/libexec/virtdisk/virtdiskd",
    "/usr/lib/virtdisk/virtdiskd",
];
/// Key of the auxiliary vector: the program was started with more rights than its caller has.
const AT_SECURE: usize = 23;

/// A variable of the environment, which a program with raised rights does not trust.
pub(crate) fn trusted_variable(name: &str) -> Option<PathBuf> {
    if is_secure() {
        return None;
    }
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// True when this process has more rights than the one that started it. What can't be found out
/// counts as such.
fn is_secure() -> bool {
    if getuid() != geteuid() || getgid() != getegid() {
        return true;
    }
    let mut bytes = Vec::new();
    let read = File::open("/proc/self/auxv").and_then(|mut file| file.read_to_end(&mut bytes));
    read.is_err() || secure_in(&bytes).unwrap_or(true)
}

/// The value of AT_SECURE in the bytes of an auxiliary vector.
fn secure_in(bytes: &[u8]) -> Option<bool> {
    const WORD: usize = size_of::<usize>();
    let word = |chunk: &[u8]| Some(usize::from_ne_bytes(chunk.try_into().ok()?));
    bytes.chunks_exact(2 * WORD).find_map(|pair| {
        let (key, value) = pair.split_at(WORD);
        (word(key)? == AT_SECURE).then_some(word(value)? != 0)
    })
}

/// The program: `$VIRTDISKD`, beside this executable, where packages put it, or in `PATH`.
///
/// # Errors
/// 1060 when it is nowhere.
pub(crate) fn find() -> Result<PathBuf> {
    if let Some(path) = trusted_variable("VIRTDISKD") {
        return absolute(&path);
    }
    let beside = env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name(PROGRAM));
    let beside = beside.filter(|_| !is_secure());
    let installed = INSTALLED.iter().map(PathBuf::from);
    let in_path = trusted_variable("PATH").into_iter().flat_map(|path| {
        env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(PROGRAM))
            .collect::<Vec<_>>()
    });
    beside
        .into_iter()
        .chain(installed)
        .chain(in_path)
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let message = format!("the virtual disk service {PROGRAM} is not installed");
            Error::new(Code::ERROR_SERVICE_DOES_NOT_EXIST, message)
                .with_hint("install it, or name it in the variable VIRTDISKD")
        })
}

/// A started program. Its end is told once.
#[derive(Debug)]
pub(crate) struct Started {
    /// Where it was found.
    pub(crate) program: PathBuf,
    ended: Receiver<Option<ExitStatus>>,
}

impl Started {
    /// How it ended, if it did and has not been asked before.
    pub(crate) fn ended(&self) -> Option<Option<ExitStatus>> {
        self.ended.try_recv().ok()
    }
}

/// Starts the service for a runtime directory.
///
/// # Errors
/// 1060 not installed, 1062 not startable.
pub(crate) fn start(runtime_directory: &Path) -> Result<Started> {
    let program = find()?;
    let mut command = Command::new(&program);
    command
        .arg("--runtime-dir")
        .arg(runtime_directory)
        .stdin(Stdio::null());
    spawn(command, program)
}

/// Starts a captive service whose control socket is its standard input.
///
/// # Errors
/// As [`start`].
pub(crate) fn start_private(control: OwnedFd) -> Result<Started> {
    let program = find()?;
    let mut command = Command::new(&program);
    command.arg("--private").stdin(Stdio::from(control));
    spawn(command, program)
}

fn spawn(mut command: Command, program: PathBuf) -> Result<Started> {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/");
    let child = command.spawn().map_err(|source| {
        let message = format!("{}: the service can't be started", program.display());
        Error::new(Code::ERROR_SERVICE_NOT_ACTIVE, message).with_source(source)
    })?;
    Ok(Started {
        program,
        ended: reap(child),
    })
}

/// Waits for the child in a thread of its own. Without a thread the child stays unreaped until
/// this process ends, which harms nobody.
fn reap(mut child: Child) -> Receiver<Option<ExitStatus>> {
    let (sender, ended) = channel();
    let wait = move || {
        let status = child.wait().ok();
        // Nobody listens any more once the service answered.
        let _ = sender.send(status);
    };
    let _ = thread::Builder::new()
        .name("virtdiskd-wait".to_owned())
        .stack_size(64 << 10)
        .spawn(wait);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raised_rights_are_read_from_the_auxiliary_vector() {
        let vector = |words: &[usize]| {
            words
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect::<Vec<u8>>()
        };
        assert_eq!(secure_in(&vector(&[6, 4096, 23, 1, 0, 0])), Some(true));
        assert_eq!(secure_in(&vector(&[6, 4096, 23, 0, 0, 0])), Some(false));
        assert_eq!(secure_in(&vector(&[6, 23, 0, 0])), None);
        assert_eq!(secure_in(b"short"), None);
        assert!(!is_secure());
    }
}
