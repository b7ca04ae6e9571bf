//! Workers and brokers are killed while disks are in use: no I/O error, no byte lost.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::*;
use virtdisk::{AccessMask, AttachFlags, CreateFlags, DetachFlags};

/// Kills a worker.
fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// A fio job that writes and verifies a device.
fn fio(device: &Path, extra: &[&str]) -> Command {
    let mut fio = Command::new("fio");
    fio.args([
        "--name=job",
        "--direct=1",
        "--ioengine=libaio",
        "--verify=crc32c",
    ])
    .args([
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--output-format=terse",
    ])
    .arg(format!("--filename={}", device.display()))
    .args(extra)
    .stdout(Stdio::null());
    fio
}

// Design 2.4, promise 2.
#[test]
fn a_worker_killed_again_and_again_loses_nothing() {
    let host = host!();
    need_tool!("fio", "qemu-img");
    let disk = host.dynamic("a.vhd", 96 * MIB);
    let device = attach_permanent(&disk).device;
    let mut kills = 0;
    for (block, depth) in [("4k", 32), ("1m", 8), ("16k", 4)] {
        let mut job = fio(
            &device,
            &[
                "--rw=randwrite",
                &format!("--bs={block}"),
                &format!("--iodepth={depth}"),
                "--size=96m",
                "--verify_backlog=64",
                "--do_verify=1",
                "--rate=48m",
            ],
        )
        .spawn()
        .unwrap();
        while job.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(120));
            for pid in host.workers() {
                kill(pid);
                kills += 1;
            }
        }
        assert!(job.wait().unwrap().success(), "fio {block} saw an error");
    }
    assert!(kills >= 10, "only {kills} kills");
    wait_for("a living worker", || host.workers().len() == 1);
    let seen = sha256(&device);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    assert!(!is_bound(&device));
    drop(disk);
    // The image holds what the device showed, by our reading and by another's.
    let again = host.open("a.vhd", AccessMask::READ);
    let again = again.or_else(|_| {
        std::thread::sleep(Duration::from_millis(300));
        host.open("a.vhd", AccessMask::READ)
    });
    let again = again.unwrap();
    let device = attach(&again, AttachFlags::READ_ONLY).device;
    assert_eq!(sha256(&device), seen);
    assert!(again.detach(DetachFlags::NONE).unwrap().gone);
    drop(again);
    let (image, raw) = (host.path("a.vhd"), host.path("a.raw"));
    let (image, raw_name) = (image.to_str().unwrap(), raw.to_str().unwrap());
    run(
        "qemu-img",
        &["convert", "-U", "-f", "vpc", "-O", "raw", image, raw_name],
    );
    // qemu takes the size from the geometry; what it reads of the disk must be the same.
    let length = std::fs::metadata(&raw).unwrap().len().min(96 * MIB);
    let ours = read_device_of(&host, length);
    assert!(ours == std::fs::read(&raw).unwrap()[..usize::try_from(length).unwrap()]);
    println!("{kills} kills");
}

/// Attaches again and reads the first bytes.
fn read_device_of(host: &Host, length: u64) -> Vec<u8> {
    let disk = host.open_soon(&host.path("a.vhd"), AccessMask::READ);
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    read_device(&device, usize::try_from(length).unwrap(), 0)
}

// Design 2.4: if the broker dies, workers go on, and the next broker adopts them.
#[test]
fn the_next_broker_adopts_what_is_attached() {
    let mut host = host!();
    let mut devices = Vec::new();
    for (name, flags) in [
        ("dynamic.vhd", CreateFlags::NONE),
        ("fixed.vhd", CreateFlags::FULL_PHYSICAL_ALLOCATION),
        ("raw.img", CreateFlags::NONE),
    ] {
        let device = attach_permanent(&host.create(name, 16 * MIB, flags)).device;
        write_device(&device, name.as_bytes(), 5 * MIB);
        devices.push((name, device));
    }
    for round in 0..3 {
        wait_for("handles to close", || {
            host.attached().iter().all(|d| d.handles == 0)
        });
        host.kill_broker();
        for (name, device) in &devices {
            // Nobody but the worker is there now.
            assert_eq!(read_device(device, name.len(), 5 * MIB), name.as_bytes());
            write_device(device, &[round; 512], 7 * MIB);
        }
        host.start_broker();
        let listed = host.attached();
        assert_eq!(listed.len(), 3);
        for ((name, device), disk) in devices.iter().zip(&listed) {
            assert_eq!(Path::new(&disk.device), device);
            assert!(disk.file.ends_with(name) && disk.permanent, "{disk:?}");
            assert_eq!(read_device(device, 512, 7 * MIB), vec![round; 512]);
        }
    }
    // An adopted worker that is killed gets a successor too.
    let served: Vec<i32> = orphans(&host);
    assert_eq!(served.len(), 1);
    kill(served[0]);
    let (name, device) = &devices[0];
    assert_eq!(read_device(device, name.len(), 5 * MIB), name.as_bytes());
    for (name, device) in &devices {
        let handle = host.open(name, AccessMask::DETACH).unwrap();
        assert!(handle.detach(DetachFlags::NONE).unwrap().gone);
        assert!(!is_bound(device));
        drop(handle);
        let disk = host.open_soon(&host.path(name), AccessMask::READ);
        let device = attach(&disk, AttachFlags::READ_ONLY).device;
        assert_eq!(read_device(&device, name.len(), 5 * MIB), name.as_bytes());
    }
}

/// Workers whose broker died: they serve a file of this host.
fn orphans(host: &Host) -> Vec<i32> {
    let folder = host.path("").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut targets = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        if line.starts_with(b"virtdiskd\0worker")
            && targets.any(|t| t.to_string_lossy().starts_with(&folder))
        {
            found.push(pid);
        }
    }
    found
}

// A handle ends with the broker's connection: what is not permanent ends too.
#[test]
fn a_broker_that_dies_takes_what_is_not_permanent_along() {
    let mut host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    let device = attach(&disk, AttachFlags::NONE).device;
    write_device(&device, &[3; 4096], MIB);
    host.kill_broker();
    assert_eq!(read_device(&device, 4096, MIB), vec![3; 4096]);
    host.start_broker();
    wait_for("the device to go", || !is_bound(&device));
    assert!(disk.physical_path().is_err());
    assert_eq!(read_device_after(&host), vec![3; 4096]);
}

/// Attaches the image again and reads what was written.
fn read_device_after(host: &Host) -> Vec<u8> {
    let disk = host.open_soon(&host.path("a.vhd"), AccessMask::READ);
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    read_device(&device, 4096, MIB)
}

// A full host disk: the writer gets ENOSPC, the image stays valid, nothing hangs.
#[test]
fn a_full_host_disk_is_the_writers_error_alone() {
    let host = host!();
    need_tool!("mkfs.ext4");
    let volume = host.path("volume");
    File::create(&volume).unwrap().set_len(64 * MIB).unwrap();
    run("mkfs.ext4", &["-q", volume.to_str().unwrap()]);
    let mounted = Mounted::new(&volume, &host.path("mnt"));
    let options = virtdisk::CreateOptions {
        parameters: virtdisk::CreateParameters {
            maximum_size: 512 * MIB,
            ..virtdisk::CreateParameters::default()
        },
        ..virtdisk::CreateOptions::default()
    };
    let image = mounted.0.join("a.vhd");
    let disk = host.service().create(&image, &options).unwrap();
    let device = attach_permanent(&disk).device;
    write_device(&device, &[1; 4096], 0);
    let file = File::options().write(true).open(&device).unwrap();
    let full = (1..256_u64).find_map(|i| {
        let wrote = file.write_all_at(&vec![2; MIB as usize], i * 2 * MIB);
        wrote.and_then(|()| file.sync_all()).err()
    });
    let full = full.expect("64 MiB do not hold 256 MiB");
    assert!(matches!(full.raw_os_error(), Some(28 | 5)), "{full}");
    drop(file);
    assert_eq!(read_device(&device, 4096, 0), vec![1; 4096]);
    // With room again, it detaches and opens.
    let answer = disk.detach(DetachFlags::NONE);
    assert!(answer.is_ok_and(|d| d.gone));
    drop(disk);
    let disk = host.open_soon(&image, AccessMask::READ);
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    assert_eq!(read_device(&device, 4096, 0), vec![1; 4096]);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
}

// The worst moment: the worker dies while detach waits for the device, which waits for it.
#[test]
fn a_worker_killed_during_detach_does_not_stop_it() {
    let host = host!();
    for round in 0..4_u8 {
        let name = format!("{round}.vhd");
        let disk = host.dynamic(&name, 64 * MIB);
        let device = attach_permanent(&disk).device;
        let pid = host.workers()[0];
        let worker = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(worker, rustix::process::Signal::STOP).unwrap();
        let file = File::options().write(true).open(&device).unwrap();
        file.write_all_at(&vec![round + 1; 8 << 20], MIB).unwrap();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            kill(pid);
        });
        // Closing the last writer writes back too, so it has to happen beside the detach.
        let closer = std::thread::spawn(move || drop(file));
        let answer = loop {
            match disk.detach(DetachFlags::NONE) {
                Err(error) if error.code().0 == 170 => std::thread::yield_now(),
                other => break other,
            }
        };
        assert!(answer.unwrap().gone);
        killer.join().unwrap();
        closer.join().unwrap();
        let device = attach(&disk, AttachFlags::READ_ONLY).device;
        assert_eq!(read_device(&device, 8 << 20, MIB), vec![round + 1; 8 << 20]);
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    }
}

// Decision 011: where there are enough processors, no two threads that serve a disk share one.
#[test]
fn the_threads_of_a_worker_share_no_processor() {
    let host = host!();
    let disk = host.dynamic("d.vhd", 64 * MIB);
    let _attached = attach(&disk, AttachFlags::NONE);
    let tasks = format!("/proc/{}/task", host.workers()[0]);
    let own = rustix::thread::sched_getaffinity(None).unwrap();
    // A thread may come a moment after the device.
    wait_for("two threads with processors of their own", || {
        let mut serving = Vec::new();
        for task in std::fs::read_dir(&tasks).unwrap() {
            let task = task.unwrap().path();
            let name = std::fs::read_to_string(task.join("comm")).unwrap();
            let number = name.trim().strip_prefix("serve-").map(str::parse::<u32>);
            if !matches!(number, Some(Ok(_))) {
                continue;
            }
            let thread: i32 = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let thread = rustix::process::Pid::from_raw(thread);
            serving.push(rustix::thread::sched_getaffinity(thread).unwrap());
        }
        let both = (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|at| serving.iter().all(|share| share.is_set(*at)))
            .count();
        serving.len() == 2 && both == usize::from(own.count() < 2)
    });
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
}

// Data that can't be made durable: detach says so and changes nothing; when the file works
// again, a later detach succeeds.
#[test]
fn a_failed_write_back_is_told_and_does_not_last_for_ever() {
    let host = host!();
    need_tool!("mkfs.ext4", "mount");
    let small = host.path("small");
    std::fs::create_dir(&small).unwrap();
    run(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "size=24m",
            "tmpfs",
            small.to_str().unwrap(),
        ],
    );
    let small = Mounted(small);
    let volume = small.0.join("volume");
    File::create(&volume).unwrap().set_len(256 * MIB).unwrap();
    let volume_name = volume.to_str().unwrap();
    run(
        "mkfs.ext4",
        &["-q", "-O", "^has_journal", "-E", "nodiscard", volume_name],
    );
    run("tune2fs", &["-e", "continue", volume_name]);
    let mounted = Mounted::new(&volume, &host.path("mnt"));
    let options = virtdisk::CreateOptions {
        parameters: virtdisk::CreateParameters {
            maximum_size: 128 * MIB,
            ..virtdisk::CreateParameters::default()
        },
        ..virtdisk::CreateOptions::default()
    };
    let disk = host
        .service()
        .create(mounted.0.join("a.vhd"), &options)
        .unwrap();
    let device = attach_permanent(&disk).device;
    // More than the tmpfs below holds, at places that are allocated already.
    let file = File::options().write(true).open(&device).unwrap();
    let mut failed = false;
    for i in 0..48_u64 {
        let wrote = file.write_all_at(&vec![7; MIB as usize], i * MIB);
        failed |= wrote.and_then(|()| file.sync_all()).is_err();
    }
    drop(file);
    assert!(failed, "24 MiB do not hold 48");
    let refused = disk.detach(DetachFlags::NONE);
    let first = refused.as_ref().err().map(|e| e.code().0);
    if let Some(code) = first {
        assert!(![21, 170].contains(&code), "{code} says something else");
        assert!(is_bound(&device));
    }
    run(
        "mount",
        &["-o", "remount,size=400m", small.0.to_str().unwrap()],
    );
    wait_for("detach to work again", || {
        match disk.detach(DetachFlags::NONE) {
            Ok(answer) => answer.gone,
            Err(error) => error.code().0 == 21,
        }
    });
    assert!(!is_bound(&device));
    println!("first detach: {first:?}");
}
