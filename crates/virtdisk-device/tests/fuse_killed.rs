//! A server process that is killed with SIGKILL, again and again, under load.
//!
//! Nobody above the file may notice more than a pause: no I/O error, no lost or torn write, and
//! the last server ends by itself when the device is freed.

#[cfg(test)]
mod support;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use support::{Loop, Process, child_server, during, file_of, fio_verify, folder, needs, options};
use virtdisk_device::fuse::{mount, open_root};

const MIB: u64 = 1 << 20;

/// The server process; see the module `support`.
#[test]
#[ignore = "is a server process of the other tests"]
fn serve_as_child() {
    support::serve_as_child();
}

/// Kills the server and starts the next one.
fn replace(server: &Mutex<Process>, connection: &OwnedFd, image: &Path) {
    let mut server = server.lock().unwrap();
    server.kill();
    *server = child_server(connection, image, true);
}

/// Runs `load` on a loop device whose server is killed every `pause`; answers how often.
fn killed_every(pause: Duration, load: impl FnOnce(&str)) -> u32 {
    let folder = folder();
    let image = folder.path().join("image");
    file_of(&image, 96 * MIB);
    let (connection, root) = mount(96 * MIB, false).unwrap();
    let server = Mutex::new(child_server(&connection, &image, false));
    let file = open_root(&root, false).unwrap();
    let device = Loop::on(&options(&file));
    let mut kills = 0;
    during(
        || load(&device.path()),
        || {
            thread::sleep(pause);
            replace(&server, &connection, &image);
            kills += 1;
        },
    );
    device.release();
    drop((file, root, connection));
    // The last server sees the end of the connection.
    let mut server = server.into_inner().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let status = loop {
        match server.0.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < deadline, "the server does not end"),
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "the last server ended with {status}");
    kills
}

#[test]
fn killing_the_server_loses_no_small_write() {
    needs!("fio");
    let kills = killed_every(Duration::from_millis(40), |device| {
        fio_verify(device, "4k", 32, "64M", 4);
    });
    assert!(kills >= 10, "only {kills} kills");
}

#[test]
fn killing_the_server_loses_no_large_write() {
    needs!("fio");
    let kills = killed_every(Duration::from_millis(40), |device| {
        fio_verify(device, "1M", 8, "96M", 16);
    });
    assert!(kills >= 10, "only {kills} kills");
}
