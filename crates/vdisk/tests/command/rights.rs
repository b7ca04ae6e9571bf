//! What a user without privilege may do: everything but attach and detach.
//!
//! The programs are copied to where anybody may run them; the service is a captive one, which is
//! the user's own.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use virtdisk_testkit::skip;

use crate::house::{Said, daemon, missing, said, soon};

/// Nobody's ids.
const NOBODY: u32 = 65534;

/// A folder that anybody may use, with the programs in it.
fn open_folder() -> TempDir {
    let folder = TempDir::with_prefix("vdisk-test-").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_vdisk"), folder.path().join("vdisk")).unwrap();
    std::fs::copy(daemon(), folder.path().join("virtdiskd")).unwrap();
    folder
}

/// Runs `vdisk` as nobody.
fn as_nobody(folder: &Path, arguments: &[&str]) -> Said {
    let mut command = Command::new(folder.join("vdisk"));
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null());
    for variable in ["VIRTDISK_RUNTIME_DIR", "VIRTDISKD", "XDG_RUNTIME_DIR"] {
        command.env_remove(variable);
    }
    said(command.uid(NOBODY).gid(NOBODY).output().unwrap())
}

/// Waits until the captive services of `folder` have ended.
fn end(folder: &Path) {
    let program = folder.join("virtdiskd");
    let running = || {
        let links = std::fs::read_dir("/proc").unwrap().flatten();
        links
            .filter_map(|entry| entry.path().join("exe").read_link().ok())
            .any(|exe| exe == program)
    };
    assert!(
        soon(|| !running()),
        "a captive service did not end by itself"
    );
}

#[test]
fn a_user_without_privilege_creates_and_looks_but_does_not_attach() {
    if let Some(reason) = missing() {
        skip!("{reason}");
    }
    let folder = open_folder();
    let run = |arguments: &[&str]| as_nobody(folder.path(), arguments);
    assert_eq!(run(&["create", "a.vhd", "--size", "8M"]).code, 0);
    assert_eq!(run(&["info", "a.vhd"]).code, 0);
    let refused = run(&["attach", "a.vhd"]);
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    assert!(
        refused.err.contains("ERROR_PRIVILEGE_NOT_HELD (1314)"),
        "{}",
        refused.err
    );
    assert!(refused.err.contains("hint: "), "{}", refused.err);
    assert_eq!(run(&["list"]).out, "nothing is attached\n");
    end(folder.path());
}

#[test]
fn an_image_that_can_not_be_written_is_offered_read_only() {
    if let Some(reason) = missing() {
        skip!("{reason}");
    }
    let folder = open_folder();
    let run = |arguments: &[&str]| as_nobody(folder.path(), arguments);
    let image = folder.path().join("a.vhd");
    assert_eq!(run(&["create", "a.vhd", "--size", "8M"]).code, 0);
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o444)).unwrap();
    // R-OPEN-10
    assert_eq!(run(&["info", "a.vhd"]).code, 0);
    let refused = run(&["attach", "a.vhd"]).err;
    assert!(refused.contains("ERROR_ACCESS_DENIED (5)"), "{refused}");
    assert!(
        refused.contains("vdisk attach --read-only a.vhd"),
        "{refused}"
    );
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o000)).unwrap();
    let refused = run(&["info", "a.vhd"]).err;
    assert!(refused.contains("ERROR_ACCESS_DENIED (5)"), "{refused}");
    end(folder.path());
}
