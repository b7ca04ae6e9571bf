//! The service itself: started on demand, one per directory, gone when nothing is left; and its
//! workers without rights.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use support::*;
use virtdisk::{AttachFlags, CreateOptions, CreateParameters, DetachFlags, Service};

/// Options for a small image.
fn small() -> CreateOptions {
    CreateOptions {
        parameters: CreateParameters {
            maximum_size: 8 * MIB,
            ..CreateParameters::default()
        },
        ..CreateOptions::default()
    }
}

/// Processes that serve a runtime directory.
fn brokers(run: &Path) -> Vec<u32> {
    let name = run.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("--runtime-dir") && line.contains(name)
        })
        .collect()
}

/// A broker with a short patience.
fn start(run: &Path, idle: &str) -> std::process::Child {
    Command::new(PROGRAM)
        .args(["--idle", idle, "--runtime-dir"])
        .arg(run)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn it_ends_when_nothing_is_open_or_attached_and_not_before() {
    if let Err(reason) = able() {
        virtdisk_testkit::skip!("{reason}");
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut broker = start(&run, "1");
    wait_for("the socket", || {
        UnixStream::connect(run.join("socket")).is_ok()
    });
    let service = Service::at(&run);
    let disk = service
        .create(folder.path().join("a.vhd"), &small())
        .unwrap();
    let device = attach_permanent(&disk).device;
    drop(disk);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(
        broker.try_wait().unwrap().is_none(),
        "it left an attached disk alone"
    );
    let handle = service.open_attached(&device).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(handle.detach(DetachFlags::NONE).unwrap().gone);
    drop(handle);
    wait_for("the service to end", || {
        broker.try_wait().unwrap().is_some()
    });
    assert!(!run.join("socket").exists());
}

#[test]
fn two_that_start_at_once_leave_one() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut children: Vec<_> = (0..5).map(|_| start(&run, "2")).collect();
    wait_for("the socket", || {
        UnixStream::connect(run.join("socket")).is_ok()
    });
    wait_for("the others to give up", || {
        let running = children.iter_mut().map(|c| c.try_wait().unwrap().is_none());
        running.filter(|r| *r).count() <= 1
    });
    Service::at(&run).attached().unwrap();
    wait_for("the last to end", || {
        children.iter_mut().all(|c| c.try_wait().unwrap().is_some())
    });
    assert!(brokers(&run).is_empty());
}

// A client never meets a service that is just ending: it is served by it or by the next.
#[test]
fn clients_that_come_while_it_ends_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for _ in 0..8 {
        let mut broker = start(&run, "0");
        let mut served = 0;
        wait_for("an answer or the end", || {
            if let Ok(stream) = UnixStream::connect(run.join("socket")) {
                let disk = virtdisk::VirtualDisk::from_fd(stream.into()).unwrap();
                if disk.physical_path().is_err_and(|e| e.code().0 == 87) {
                    served += 1;
                }
            }
            served >= 3 || broker.try_wait().unwrap().is_some()
        });
        let _ = broker.kill();
        broker.wait().unwrap();
    }
}

#[test]
fn a_stale_socket_and_a_stale_record_do_not_disturb() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::create_dir_all(run.join("attachment")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(run.join("socket")).unwrap());
    fs::write(run.join("attachment/7.json"), "{ half a rec").unwrap();
    let mut broker = start(&run, "1");
    wait_for("the socket", || {
        UnixStream::connect(run.join("socket")).is_ok()
    });
    assert!(Service::at(&run).attached().unwrap().is_empty());
    // Only the service's user may hold the lock, read the log or reach the workers.
    for name in ["lock", "worker", "attachment"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(run.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    wait_for("the end", || broker.try_wait().unwrap().is_some());
    assert!(!run.join("attachment/7.json").exists());
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    run_chmod(&run, "777");
    let mut broker = start(&run, "1");
    assert!(!broker.wait().unwrap().success());
    assert!(!run.join("socket").exists());
}

/// Changes a mode.
fn run_chmod(path: &Path, mode: &str) {
    run("chmod", &[mode, path.to_str().unwrap()]);
}

#[test]
fn systemds_socket_is_served() {
    need_tool!("systemd-socket-activate");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("activated");
    let mut child = Command::new("systemd-socket-activate")
        .arg("-l")
        .arg(&socket)
        .arg(PROGRAM)
        .args(["--idle", "1", "--runtime-dir"])
        .arg(folder.path().join("run"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("systemd's socket", || socket.exists());
    let stream = UnixStream::connect(&socket).unwrap();
    let disk = virtdisk::VirtualDisk::from_fd(stream.into()).unwrap();
    assert_eq!(disk.physical_path().unwrap_err().code().0, 87);
    drop(disk);
    wait_for("the end", || child.try_wait().unwrap().is_some());
}

// A private service needs no directory and ends with its owner.
#[test]
fn a_private_service_ends_with_its_owner() {
    if let Err(reason) = able() {
        virtdisk_testkit::skip!("{reason}");
    }
    let folder = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "own_a_private_service", "--nocapture"])
        .env("VIRTDISKD", PROGRAM)
        .env("VIRTDISKD_TEST_FOLDER", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    let device = text.lines().find_map(|l| l.strip_prefix("DEVICE "));
    let device = device.unwrap_or_else(|| panic!("{text}"));
    wait_for("the device to go", || !is_bound(Path::new(device)));
}

/// Run by the test above.
#[test]
fn own_a_private_service() {
    let Some(folder) = std::env::var_os("VIRTDISKD_TEST_FOLDER") else {
        return;
    };
    let service = Service::private().unwrap();
    let disk = service
        .create(Path::new(&folder).join("a.vhd"), &small())
        .unwrap();
    let device = attach_permanent(&disk).device;
    assert_eq!(service.attached().unwrap().len(), 1);
    println!("\nDEVICE {}", device.display());
}

// Design 2.3: a worker has no capability, no new privilege, a filter, and no path.
#[test]
fn a_worker_has_no_rights() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    attach_permanent(&disk);
    let pid = host.workers()[0];
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    assert_eq!(value("NoNewPrivs:"), "1");
    assert_eq!(value("Seccomp:"), "2");
    // Nothing but its link, its image, its connection and its socket.
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = fs::read_link(fd.path()).unwrap();
        let text = target.to_string_lossy().into_owned();
        let known = ["socket:", "/dev/null", "/dev/fuse", "pipe:"];
        let known = known.iter().any(|k| text.starts_with(k));
        let is_output = ["1", "2"].contains(&fd.file_name().to_str().unwrap());
        assert!(known || is_output || target == host.path("a.vhd"), "{text}");
    }
}

// The broker looks at no image byte: it has the file, and never reads it.
#[test]
fn handles_are_inherited_and_passed_on_like_any_descriptor() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    let device = attach(&disk, AttachFlags::NONE).device;
    let copy = disk.into_fd();
    let second = copy.try_clone().unwrap();
    drop(copy);
    assert!(is_bound(&device));
    let disk = virtdisk::VirtualDisk::from_fd(second).unwrap();
    assert_eq!(disk.physical_path().unwrap(), device);
    drop(disk);
    wait_for("the device to go", || !is_bound(&device));
}
