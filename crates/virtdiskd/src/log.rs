//! Where the service's words go: standard error, or a file when nobody reads that.
//!
//! A service that a client started has no standard error. Its words, and those of its workers, go
//! to `log` in the runtime directory, which starts anew when it has grown too long.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use tracing_subscriber::EnvFilter;

/// Longest log kept from an earlier service, bytes.
const KEEP_BYTES: u64 = 1 << 20;

/// The log file, when there is one.
static FILE: OnceLock<File> = OnceLock::new();

/// Starts telling. Without a directory, or with somebody who reads standard error, it goes there.
pub fn start(dir: Option<&Path>) {
    let filter =
        EnvFilter::try_from_env("VIRTDISKD_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let telling = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false);
    let file = dir
        .filter(|_| is_null(io::stderr()))
        .and_then(|dir| open(dir).ok());
    match file.and_then(|file| Some((file.try_clone().ok()?, file))) {
        Some((copy, file)) => {
            let _ = FILE.set(file);
            telling.with_writer(Mutex::new(copy)).init();
        }
        None => telling.with_writer(io::stderr).init(),
    }
}

/// Standard error for a worker.
pub fn for_worker() -> std::process::Stdio {
    match FILE.get().and_then(|file| file.try_clone().ok()) {
        Some(file) => file.into(),
        None => std::process::Stdio::inherit(),
    }
}

/// Opens the log; only this user can read it.
fn open(dir: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join("log");
    let long = std::fs::metadata(&path).is_ok_and(|m| m.len() > KEEP_BYTES);
    File::options()
        .create(true)
        .append(!long)
        .write(true)
        .truncate(long)
        .mode(0o600)
        .open(path)
}

/// Is this descriptor /dev/null?
fn is_null(fd: impl AsFd) -> bool {
    let found = rustix::fs::fstat(fd);
    let null = rustix::fs::stat("/dev/null");
    matches!((found, null), (Ok(a), Ok(b)) if a.st_rdev == b.st_rdev && a.st_mode == b.st_mode)
}
