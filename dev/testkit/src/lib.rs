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
pub mod mutation;
pub mod pages;
pub mod rng;
pub mod seal;
pub mod strain;
pub mod subjects;
pub mod toy;
pub mod toy_child;
pub mod vhd_builder;
pub mod vhdx_builder;

pub use crash::{CrashImage, CrashStore};
pub use fault::{Fault, FaultStore, Which};
pub use memory::MemoryStore;
pub use model::{SectorModel, Verb};
pub use pages::Pages;
pub use rng::Rng;

/// Prints `SKIP <test>: <reason>` on a line of its own and returns from the test.
///
/// `xtask` counts these lines, so a test that lacks a tool, a right or the corpus is never a silent
/// pass.
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
        fn here() {}
        $crate::report_skip(std::any::type_name_of_val(&here), &format!($($reason)*));
        return;
    }};
}

/// Writes the line of [`skip!`] to the process's own standard error, past the harness's capture.
/// `place` is the path of an item inside the test.
pub fn report_skip(place: &str, reason: &str) {
    use std::io::Write as _;
    let test = place.strip_suffix("::here").unwrap_or(place);
    let reason = reason.replace('\n', " ");
    // The harness captures print macros, not a handle's own writes: the line always shows. It may
    // have left "test NAME ... " on the line before.
    let line = format!("\nSKIP {test}: {reason}\n");
    drop(std::io::stderr().write_all(line.as_bytes()));
    // A runner that keeps the output of passing tests to itself reads the skips here.
    if let Some(log) = std::env::var_os("VIRTDISK_SKIP_LOG") {
        let log = std::fs::File::options().append(true).create(true).open(log);
        drop(log.and_then(|mut log| log.write_all(line.trim_start().as_bytes())));
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
