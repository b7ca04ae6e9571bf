//! The built library and C programs that use it, for the tests of this folder.
//!
//! `cargo test` does not build a cdylib, so this asks cargo for it. Programs are compiled with
//! warnings as errors and run against a copy of the library under its soname.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// Folder of this crate.
const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// What a program is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// C11, by gcc.
    C,
    /// C++11, by g++.
    Cpp,
}

impl Language {
    fn compiler(self) -> &'static str {
        match self {
            Self::C => "gcc",
            Self::Cpp => "g++",
        }
    }
}

/// A compiled program in a folder of its own.
pub struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    /// The command that runs it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.path());
        command.env("LD_LIBRARY_PATH", self.folder.path());
        command
    }

    /// The command that runs it under valgrind; `None` without valgrind.
    pub fn valgrind(&self) -> Option<Command> {
        if !virtdisk_testkit::has_program("valgrind") {
            return None;
        }
        let mut command = Command::new("valgrind");
        command.args([
            "--quiet",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite,indirect",
        ]);
        command.args(["--show-leak-kinds=definite,indirect", "--error-exitcode=99"]);
        command.arg("--track-fds=no").arg(self.path());
        command.env("LD_LIBRARY_PATH", self.folder.path());
        Some(command)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("program")
    }
}

/// Compiles a program against the headers only; `None` without a compiler.
pub fn compile(name: &str, source: &str, language: Language, flags: &[&str]) -> Option<Program> {
    if !virtdisk_testkit::has_program(language.compiler()) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, source).unwrap();
    build(folder, &file, language, flags)
}

/// Compiles a program of `tests/c` and links it with the library; `None` without a compiler.
pub fn compile_with_library(file: &str, language: Language, flags: &[&str]) -> Option<Program> {
    if !virtdisk_testkit::has_program(language.compiler()) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["libvirtdisk.so", "libvirtdisk.so.0"] {
        fs::copy(library(), folder.path().join(name)).unwrap();
    }
    let source = Path::new(CRATE).join("tests/c").join(file);
    let search = format!("-L{}", folder.path().display());
    let mut all = vec![search.as_str(), "-lvirtdisk"];
    all.extend(flags);
    build(folder, &source, language, &all)
}

fn build(
    folder: tempfile::TempDir,
    source: &Path,
    language: Language,
    flags: &[&str],
) -> Option<Program> {
    let mut command = Command::new(language.compiler());
    command.args(match language {
        Language::C => ["-xc", "-std=gnu11"],
        Language::Cpp => ["-xc++", "-std=gnu++11"],
    });
    command
        .args(["-g", "-Wall", "-Wextra", "-Werror"])
        .arg(format!("-I{CRATE}/include"));
    command
        .arg(source)
        .args(["-xnone", "-o"])
        .arg(folder.path().join("program"))
        .args(flags);
    run(command);
    Some(Program { folder })
}

/// Runs a command that must succeed and answers what it prints.
pub fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{error}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The library, built by cargo.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut command = Command::new(env!("CARGO"));
        command.args([
            "build",
            "--quiet",
            "--package",
            "virtdisk-c",
            "--message-format=json",
        ]);
        let messages = run_in(command.current_dir(CRATE));
        let end = messages.find("/libvirtdisk.so\"").unwrap() + "/libvirtdisk.so".len();
        let start = messages[..end].rfind('"').unwrap() + 1;
        PathBuf::from(&messages[start..end])
    })
}

fn run_in(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The service's program: `$VIRTDISKD`, or what lies beside the library; `None` without one.
pub fn service() -> Option<PathBuf> {
    let path = match env::var_os("VIRTDISKD") {
        Some(path) => PathBuf::from(path),
        None => library().with_file_name("virtdiskd"),
    };
    path.is_file().then_some(path)
}
