//! A server process that is killed with SIGKILL, again and again, under load.
//!
//! Nobody above the file may notice more than a pause: no I/O error, no lost or torn write, and
//! the last server ends by itself when the device is freed. The images are a raw file and a dynamic
//! VHD, whose blocks are allocated and freed while servers die.

#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

mod support;

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use support::{
    Loop, Process, child_server, during, file_of, fio_verify, folder, needs, open_disk, options,
    run,
};
use virtdisk_device::fuse::{mount, open_root};
use virtdisk_disk::{CreateOptions, Disk, Format, Kind};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 96 * MIB;
const PAUSE: Duration = Duration::from_millis(40);

/// The server process of the other tests; does nothing unless their environment asks for it.
#[test]
fn serve_as_child() {
    support::serve_as_child();
}

/// A new raw image.
fn raw(folder: &Path) -> PathBuf {
    let image = folder.join("image.img");
    file_of(&image, SIZE);
    image
}

/// A new dynamic VHD with small blocks, so that there are many to allocate.
fn vhd(folder: &Path) -> PathBuf {
    let image = folder.join("image.vhd");
    let options = CreateOptions {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        virtual_size: SIZE,
        block_size: 512 * 1024,
        identifier: None,
        created_unix: 1_800_000_000,
        sparse: false,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&image)
        .unwrap();
    Disk::create(file, "image.vhd", &options).unwrap();
    image
}

/// Kills the server and starts the next one.
fn replace(server: &Mutex<Process>, connection: &OwnedFd, image: &Path) {
    let mut server = server.lock().unwrap();
    server.kill();
    *server = child_server(connection, image, true);
}

/// Runs `load` on a loop device whose server is killed every [`PAUSE`]; then lets the last server
/// end. Answers how often one was killed.
fn killed(image: &Path, load: impl FnOnce(&str)) -> u32 {
    let (connection, root) = mount(SIZE, false).unwrap();
    let server = Mutex::new(child_server(&connection, image, false));
    let file = open_root(&root, false).unwrap();
    let device = Loop::on(&options(&file));
    let mut kills = 0;
    during(
        || load(&device.path()),
        || {
            thread::sleep(PAUSE);
            replace(&server, &connection, image);
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
fn killing_the_server_of_a_raw_image_loses_nothing() {
    needs!("fio");
    let folder = folder();
    let kills = killed(&raw(folder.path()), |device| {
        fio_verify(device, "4k", 32, "64M", 2);
        fio_verify(device, "1M", 8, "96M", 8);
    });
    assert!(kills >= 8, "only {kills} kills");
}

#[test]
fn killing_the_server_of_a_dynamic_vhd_loses_nothing() {
    needs!("fio", "blkdiscard");
    let folder = folder();
    let image = vhd(folder.path());
    let kills = killed(&image, |device| {
        for _ in 0..3 {
            fio_verify(device, "4k", 32, "64M", 1);
            fio_verify(device, "1M", 8, "96M", 2);
            // All blocks are free again, and the next round allocates them anew.
            run("blkdiscard", &[device]);
            let mut bytes = vec![1; MIB as usize];
            File::open(device)
                .unwrap()
                .read_exact_at(&mut bytes, 33 * MIB)
                .unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    });
    assert!(kills >= 8, "only {kills} kills");
    let disk = open_disk(&image);
    assert_eq!(disk.physical().unwrap().blocks_allocated, 0);
    disk.validate().unwrap();
}

#[test]
fn sectors_written_and_discarded_while_servers_die_are_what_was_answered_last() {
    needs!("blkdiscard");
    let folder = folder();
    let image = vhd(folder.path());
    let mut wanted = vec![0_u8; (8 * MIB) as usize];
    let kills = killed(&image, |device| {
        let o_direct = 0o40000;
        let node = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(o_direct)
            .open(device)
            .unwrap();
        let mut memory = vec![0; 64 * 1024 + 4096];
        let start = memory.as_ptr().align_offset(4096);
        for round in 0..400_u64 {
            let offset = round * 7919 % 2048 * 4096;
            let length = [4096, 65_536, 512, 16_384][(round % 4) as usize].min(8 * MIB - offset);
            let range = offset as usize..(offset + length) as usize;
            if round % 9 == 0 {
                let (at, bytes) = (offset.to_string(), length.to_string());
                run("blkdiscard", &["-o", &at, "-l", &bytes, device]);
                wanted[range].fill(0);
            } else {
                let bytes = &mut memory[start..start + length as usize];
                bytes.fill(round as u8);
                node.write_all_at(bytes, offset).unwrap();
                wanted[range].fill(round as u8);
            }
        }
    });
    assert!(kills >= 2, "only {kills} kills");
    let mut bytes = vec![0; wanted.len()];
    open_disk(&image).read_at(&mut bytes, 0).unwrap();
    assert!(bytes == wanted);
}
