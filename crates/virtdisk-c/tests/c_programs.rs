//! C and C++ programs that use the library, compiled with warnings as errors.
//!
//! The programs check themselves; each also runs under valgrind, where a leak or a wrong access
//! fails it. Those that attach need root and a service's program.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod library;

use std::path::Path;
use std::process::Command;

use library::{Language, Program, compile_with_library, run};

/// Flags for source that was written for Windows.
const WINDOWS: &[&str] = &[
    "-fshort-wchar",
    concat!("-I", env!("CARGO_MANIFEST_DIR"), "/include/compat"),
];

/// Runs a program that can reach no service.
fn without_service(mut command: Command) {
    let folder = tempfile::tempdir().unwrap();
    command.env("VIRTDISK_RUNTIME_DIR", folder.path().join("run"));
    command
        .env("VIRTDISKD", "/no/such/program")
        .arg(folder.path());
    run(command);
}

/// Runs a program with a service of its own in a folder of its own.
fn with_service(mut command: Command, service: &Path) {
    let folder = tempfile::tempdir().unwrap();
    command.env("VIRTDISK_RUNTIME_DIR", folder.path().join("run"));
    command.env("VIRTDISKD", service).arg(folder.path());
    run(command);
}

/// Compiles a program or skips the test.
macro_rules! program {
    ($file:literal, $language:expr) => {
        program!($file, $language, &[])
    };
    ($file:literal, $language:expr, $flags:expr) => {
        match compile_with_library($file, $language, $flags) {
            Some(program) => program,
            None => virtdisk_testkit::skip!("no {:?} compiler", $language),
        }
    };
}

macro_rules! valgrind {
    ($program:expr) => {
        match Program::valgrind(&$program) {
            Some(command) => command,
            None => virtdisk_testkit::skip!("valgrind is not installed"),
        }
    };
}

// R-HND-2, R-HND-5, R-HND-7, R-OPEN-1 to R-OPEN-8, R-CRE-1, R-CRE-2
#[test]
fn arguments_are_refused_by_their_rules_in_c() {
    without_service(program!("arguments.c", Language::C).command());
}

#[test]
fn arguments_are_refused_by_their_rules_in_cpp() {
    without_service(program!("arguments.c", Language::Cpp).command());
}

#[test]
fn arguments_are_refused_without_a_wrong_access() {
    without_service(valgrind!(program!("arguments.c", Language::C)));
}

#[test]
fn source_written_for_windows_compiles_as_c() {
    without_service(program!("windows_source.c", Language::C, WINDOWS).command());
}

#[test]
fn source_written_for_windows_compiles_as_cpp() {
    without_service(program!("windows_source.c", Language::Cpp, WINDOWS).command());
}

#[test]
fn pkg_config_file_names_the_library_and_its_headers() {
    if !virtdisk_testkit::has_program("pkg-config") {
        virtdisk_testkit::skip!("pkg-config is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let text = include_str!("../virtdisk.pc.in")
        .replace("@prefix@", "/opt/v")
        .replace("@libdir@", "${prefix}/lib64")
        .replace("@includedir@", "${prefix}/include/v")
        .replace("@version@", env!("CARGO_PKG_VERSION"));
    std::fs::write(folder.path().join("virtdisk.pc"), text).unwrap();
    let mut command = Command::new("pkg-config");
    command
        .args(["--cflags", "--libs", "virtdisk"])
        .env("PKG_CONFIG_PATH", folder.path());
    assert_eq!(
        run(command).trim(),
        "-I/opt/v/include/v -L/opt/v/lib64 -lvirtdisk"
    );
}

/// The service's program, when a test may attach with it; otherwise skips the test.
macro_rules! service {
    () => {
        match library::service() {
            _ if !rustix::process::geteuid().is_root() => {
                virtdisk_testkit::skip!("attaching needs root")
            }
            _ if !Path::new("/dev/loop-control").exists() => {
                virtdisk_testkit::skip!("there are no loop devices")
            }
            Some(service) => service,
            None => virtdisk_testkit::skip!("virtdiskd is not built (VIRTDISKD)"),
        }
    };
}

// R-DET-20: the page's header and library.
// R-HND-3, R-ATT-17, R-DET-22, R-DET-24, R-DET-25, R-INFO-1 to R-INFO-7, R-PATH-1 to R-PATH-6
#[test]
fn disk_is_created_attached_written_and_detached_in_c() {
    let service = service!();
    with_service(program!("lifecycle.c", Language::C).command(), &service);
}

#[test]
fn disk_is_created_attached_written_and_detached_in_cpp() {
    let service = service!();
    with_service(program!("lifecycle.c", Language::Cpp).command(), &service);
}

#[test]
fn disk_is_created_attached_written_and_detached_without_a_wrong_access() {
    let service = service!();
    with_service(valgrind!(program!("lifecycle.c", Language::C)), &service);
}

// R-PAR-1, R-PAR-2, R-OPEN-14, R-INFO-5, R-INFO-6, R-CRE-10
#[test]
fn differencing_disk_is_made_and_given_its_parents_in_c() {
    let service = service!();
    with_service(program!("chain.c", Language::C).command(), &service);
}

#[test]
fn differencing_disk_is_made_and_given_its_parents_in_cpp() {
    let service = service!();
    with_service(program!("chain.c", Language::Cpp).command(), &service);
}

#[test]
fn differencing_disk_is_made_and_given_its_parents_without_a_wrong_access() {
    let service = service!();
    with_service(valgrind!(program!("chain.c", Language::C)), &service);
}
