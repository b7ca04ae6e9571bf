//! Stores, models and checks for the tests of every floor.
//!
//! This crate is a dev-dependency of the others' `tests/` folders only; it may use the format and
//! disk floors. Nothing in it is random without a seed that is printed, and nothing in it turns a
//! missing tool into a pass: [`skip!`] prints the line that `xtask` counts.
//!
//! Helpers here panic with a plain sentence when the test's own set-up is wrong; a store's errors
//! are returned as a real file would return them.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod corpus;
pub mod crash;
pub mod fault;
pub mod memory;
pub mod model;
pub mod mounted;
pub mod pages;
pub mod rng;
pub mod toy;
pub mod vhd_builder;

pub use crash::{CrashImage, CrashStore};
pub use fault::{Fault, FaultStore, Which};
pub use memory::MemoryStore;
pub use model::{SectorModel, Verb};
pub use pages::Pages;
pub use rng::Rng;

/// Prints `SKIP <test>: <reason>` and returns from the test.
///
/// The test's name is the thread's, as the test harness names it. `xtask` counts these lines, so a
/// test that lacks a tool, a right or the corpus is never a silent pass.
///
/// ```no_run
/// # fn main() {
/// # let tool_is_here = true;
/// if !tool_is_here {
///     virtdisk_testkit::skip!("qemu-img is not installed");
/// }
/// # }
/// ```
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::report_skip(&format!($($reason)*));
        return;
    }};
}

/// Writes the line of [`skip!`] to the process's own standard error, past the harness's capture,
/// and appends it to the file that `VIRTDISK_SKIP_LOG` names, where runners that keep the output
/// of passing tests to themselves can't hide it.
pub fn report_skip(reason: &str) {
    use std::io::Write as _;
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed test");
    let name = std::env::var("NEXTEST_TEST_NAME").unwrap_or_else(|_| name.to_owned());
    let suite = std::env::current_exe().unwrap_or_default();
    let suite = suite
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    // Cargo puts a hash behind the name of a test program.
    let suite = suite
        .rsplit_once('-')
        .map_or(suite.as_str(), |(suite, _)| suite);
    let reason = reason.replace('\n', " ");
    // The harness captures print macros, not a handle's own writes: the line always shows.
    let line = format!("SKIP {suite} {name}: {reason}\n");
    drop(std::io::stderr().write_all(line.as_bytes()));
    if let Some(log) = std::env::var_os("VIRTDISK_SKIP_LOG") {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log);
        drop(log.and_then(|mut log| log.write_all(line.as_bytes())));
    }
}

/// Whether a program of that name stands in one of the folders of `PATH`.
#[must_use]
pub fn has_program(name: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}
