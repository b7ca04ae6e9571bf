//! `vdisk with`: a disk that is attached as long as a command runs.
//!
//! The attachment is not permanent: it ends with this process, however that ends. Promises: the
//! command finds the device in `VDISK_DEVICE`; the exit code is the command's, or 1 when the disk
//! could not be attached or was not free afterwards.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use clap::{Args, ValueHint};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::SIGINT;

use crate::command::attach;
use crate::failure::{Failure, Result};
use crate::image;
use crate::parents::Parents;
use crate::signals::{Event, Events};

/// Attach an image for the run of a command.
///
/// The command finds the device in the environment variable VDISK_DEVICE. The disk is detached
/// when the command ends, and also when vdisk is killed. Signals are passed on to the command.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk with disk.vhd -- sh -c 'mkfs.ext4 $VDISK_DEVICE'
  vdisk with disk.vhd --read-only -- sh -c 'sha256sum $VDISK_DEVICE'

The exit code is the command's, 128 + N when signal N ended it, 1 when attaching failed.")]
pub(crate) struct With {
    /// The image
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Attach it so that nothing can write to it; ISO images need this
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    parents: Parents,
    /// The command and its arguments
    #[arg(last = true, required = true, value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// Attaches, runs the command, detaches.
pub(crate) fn run(verb: &With) -> Result<ExitCode> {
    let Some((program, arguments)) = verb.command.split_first() else {
        return Err(Failure::new("no command is given"));
    };
    let events = Events::listen()?;
    let disk = image::open_to_attach(&verb.file, verb.read_only, &verb.parents)?;
    let attached = attach::attach(&disk, &verb.file, verb.read_only, false)?;
    let child = Command::new(program)
        .args(arguments)
        .env("VDISK_DEVICE", &attached.device)
        .spawn();
    let child = child.map_err(|error| {
        Failure::new(format!(
            "the command {} does not start: {error}",
            program.display()
        ))
    });
    let status = child.and_then(|child| until_ended(&events, child));
    let released = attach::release(&disk, &verb.file);
    let status = status?;
    match released {
        // The command's own failure says more than ours.
        Err(failure) if !status.success() => drop(failure.report()),
        Err(failure) => return Err(failure),
        Ok(()) => {}
    }
    Ok(exit_code(status))
}

/// Waits for `child`, passing signals on to it.
fn until_ended(events: &Events, child: std::process::Child) -> Result<ExitStatus> {
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    events.watch_child(child);
    loop {
        match events.next() {
            Event::ChildEnded(Ok(status)) => return Ok(status),
            Event::ChildEnded(Err(error)) => {
                return Err(Failure::new(format!(
                    "the command can't be waited for: {error}"
                )));
            }
            // Ctrl-C reaches the command by itself: the terminal sends it to all of us.
            Event::Signal(SIGINT) if std::io::stdin().is_terminal() => {}
            Event::Signal(number) => pass_on(process, number),
            Event::InputEnded => {}
        }
    }
}

fn pass_on(process: Option<Pid>, number: i32) {
    if let (Some(process), Some(signal)) = (process, Signal::from_named_raw(number)) {
        // A child that has just ended needs no signal.
        let _ = kill_process(process, signal);
    }
}

/// The command's exit code; 128 + N for signal N, as shells say it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_commands() {
        let code = |raw| format!("{:?}", exit_code(ExitStatus::from_raw(raw)));
        assert_eq!(code(0), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(3 << 8), format!("{:?}", ExitCode::from(3)));
        assert_eq!(code(9), format!("{:?}", ExitCode::from(137)));
    }
}
