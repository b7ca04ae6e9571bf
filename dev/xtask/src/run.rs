//! Runs programs: quietly with their output in hand, or in the open as a person would type them.
//!
//! Promises: a program that is missing or fails becomes an error that says the whole command
//! line, its exit code and what it said on stderr. Signals end the chore at its next step, through
//! the guards that undo what it did.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on SIGINT and SIGTERM no longer end this process at once; see [`go_on`].
pub(crate) fn catch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, flag.clone()).context("catch signals")?;
    }
    Ok(())
}

/// An error once a signal has come: for every place where a long chore can end.
pub(crate) fn go_on() -> Result<()> {
    let interrupted = INTERRUPTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed));
    anyhow::ensure!(!interrupted, "interrupted");
    Ok(())
}

/// The command as one would type it, without the environment and the program's folder.
pub(crate) fn line(command: &Command) -> String {
    let program = command.get_program();
    std::iter::once(Path::new(program).file_name().unwrap_or(program))
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `command`, gives back what it printed on stdout. Fails when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = line(command);
    let done: Output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{shown}`"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("`{shown}` ended with {}: {}", done.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs `command` with our own stdout and stderr; true when it ended well.
pub(crate) fn shown(command: &mut Command) -> Result<bool> {
    go_on()?;
    let typed = line(command);
    println!("$ {typed}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start `{typed}`"))?;
    Ok(status.success())
}

/// Full path of the program `name`, in `$PATH` or where Debian keeps the administrator's.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(
            ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
                .iter()
                .map(PathBuf::from),
        )
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

/// True when this process is root, by the effective user of `/proc/self`.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|facts| facts.uid() == 0)
}

/// `cargo`, the one that started us, at the root of the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .current_dir(crate::place::workspace())
        .args(arguments);
    // Set by `cargo run` for xtask itself; they would make cargo build some things again.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("CARGO_MANIFEST_PATH");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_program_is_an_error_with_its_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken >&2; exit 3"]);
        let error = format!("{:#}", output(&mut command).unwrap_err());
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("broken"), "{error}");
    }

    #[test]
    fn missing_program_is_not_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
