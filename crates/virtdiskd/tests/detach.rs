//! DetachVirtualDisk against real devices: every rule of its page.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use support::*;
use virtdisk::{
    AccessMask, AttachFlags, CreateFlags, DetachFlags, DetachOptions, InUse, OpenFlags,
    OpenOptions, OpenParameters, VirtualDisk,
};

/// Code of a failed detach.
fn refused(disk: &VirtualDisk) -> u32 {
    disk.detach(DetachFlags::NONE).unwrap_err().code().0
}

/// Detaches and requires that the device is gone.
fn gone(disk: &VirtualDisk) {
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
}

// R-DET-1, R-DET-6, R-DET-22, R-ATT-17
#[test]
fn the_attaching_handle_detaches_every_format_and_may_attach_again() {
    let host = host!();
    for (name, flags) in [
        ("dynamic.vhd", CreateFlags::NONE),
        ("fixed.vhd", CreateFlags::FULL_PHYSICAL_ALLOCATION),
        ("raw.img", CreateFlags::NONE),
    ] {
        let disk = host.create(name, 8 * MIB, flags);
        for round in 0..3_u8 {
            let device = attach_permanent(&disk).device;
            let before = read_device(&device, 4096, 0);
            assert_eq!(
                before,
                vec![if round == 0 { 0 } else { round }; 4096],
                "{name}"
            );
            write_device(&device, &[round + 1; 4096], 0);
            gone(&disk);
            assert!(!is_bound(&device), "{name}");
            assert!(host.attached().is_empty());
        }
    }
}

// R-DET-2
#[test]
fn a_handle_without_the_right_is_refused() {
    let host = host!();
    let owner = host.dynamic("a.vhd", 8 * MIB);
    attach_permanent(&owner);
    drop(owner);
    let info = OpenOptions {
        parameters: OpenParameters::V2 {
            get_info_only: true,
            read_only: true,
            resiliency_guid: uuid::Uuid::nil(),
        },
        ..OpenOptions::default()
    };
    let info = host.service().open(host.path("a.vhd"), &info).unwrap();
    assert_eq!(refused(&info), 5);
    assert_eq!(host.attached().len(), 1);
}

// R-DET-3, R-OPEN-16
#[test]
fn a_version_2_handle_detaches() {
    let host = host!();
    let device = attach_permanent(&host.dynamic("a.vhd", 8 * MIB)).device;
    gone(&host.open_v2("a.vhd", true).unwrap());
    assert!(!is_bound(&device));
}

// R-DET-4, R-DET-5, R-DET-8, R-DET-26
#[test]
fn flags_are_refused_before_anything_else_is_looked_at() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    for flags in [1, 0x8000_0000] {
        let flags = DetachFlags::from_bits_retain(flags);
        // Not attached: the flags still come first.
        assert_eq!(disk.detach(flags).unwrap_err().code().0, 87);
    }
    let device = attach_permanent(&disk).device;
    let options = DetachOptions {
        provider_flags: 1,
        ..DetachOptions::default()
    };
    assert_eq!(disk.detach_with(&options).unwrap_err().code().0, 87);
    assert!(is_bound(&device));
}

// R-DET-7, R-HND-5
#[test]
fn a_connection_without_a_disk_is_no_handle() {
    let host = host!();
    let stream = std::os::unix::net::UnixStream::connect(host.run().join("socket")).unwrap();
    let disk = VirtualDisk::from_fd(stream.into()).unwrap();
    assert_eq!(refused(&disk), 87);
    assert_eq!(disk.physical_path().unwrap_err().code().0, 87);
    assert_eq!(
        disk.attach(&attach_with(AttachFlags::NONE))
            .unwrap_err()
            .code()
            .0,
        87
    );
}

// R-DET-9, R-HOST-1, R-HOST-2, R-OPEN-23
#[test]
fn a_compressed_image_file_is_refused_unless_the_handle_supports_it() {
    let host = host!();
    need_tool!("chattr", "mkfs.ext4");
    // ext4 carries the attribute without compressing anything: the flag is what counts.
    let volume = host.path("volume");
    File::create(&volume).unwrap().set_len(64 * MIB).unwrap();
    run("mkfs.ext4", &["-q", volume.to_str().unwrap()]);
    let mounted = Mounted::new(&volume, &host.path("mnt"));
    let image = mounted.0.join("a.vhd");
    let options = virtdisk::CreateOptions {
        parameters: virtdisk::CreateParameters {
            maximum_size: 8 * MIB,
            ..virtdisk::CreateParameters::default()
        },
        ..virtdisk::CreateOptions::default()
    };
    let disk = host.service().create(&image, &options).unwrap();
    let device = attach_permanent(&disk).device;
    if !Command::new("chattr")
        .arg("+c")
        .arg(&image)
        .status()
        .unwrap()
        .success()
    {
        gone(&disk);
        virtdisk_testkit::skip!("this file system has no compression attribute");
    }
    assert_eq!(refused(&disk), 0xC03A_001A);
    assert!(is_bound(&device));
    drop(disk);
    let opened = host
        .service()
        .open(&image, &OpenOptions::with_access(AccessMask::READ));
    assert_eq!(opened.unwrap_err().code().0, 0xC03A_001A);
    let supporting = OpenOptions {
        flags: OpenFlags::SUPPORT_COMPRESSED_VOLUMES,
        ..OpenOptions::with_access(AccessMask::READ)
    };
    gone(&host.service().open(&image, &supporting).unwrap());
    assert!(!is_bound(&device));
}

// R-DET-10
#[test]
fn another_open_handle_keeps_the_disk_attached() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    let device = attach_permanent(&disk).device;
    let other = host
        .open("a.vhd", AccessMask::GET_INFO | AccessMask::DETACH)
        .unwrap();
    assert_eq!(refused(&disk), 32);
    assert_eq!(refused(&other), 32);
    assert!(is_bound(&device));
    drop(other);
    wait_for("the other handle to close", || {
        host.attached()[0].handles == 1
    });
    gone(&disk);
    assert!(!is_bound(&device));
}

// R-DET-11, R-DET-23, R-ATT-10
#[test]
fn a_fresh_handle_detaches_what_outlived_its_attaching_handle() {
    let host = host!();
    let device = attach_permanent(&host.dynamic("a.vhd", 8 * MIB)).device;
    wait_for("the attaching handle to close", || {
        host.attached()[0].handles == 0
    });
    assert!(is_bound(&device));
    gone(&host.open("a.vhd", AccessMask::DETACH).unwrap());
    assert!(!is_bound(&device));
    fs::remove_file(host.path("a.vhd")).unwrap();
}

// R-DET-12: the sentence "can succeed but the VHD will remain attached".
#[test]
fn in_use_and_permanent_with_the_attaching_handle_closed_succeeds_and_drains() {
    let host = host!();
    let device = attach_permanent(&host.dynamic("a.vhd", 8 * MIB)).device;
    let holder = File::open(&device).unwrap();
    let handle = host
        .open("a.vhd", AccessMask::DETACH | AccessMask::GET_INFO)
        .unwrap();
    let answer = handle.detach(DetachFlags::NONE).unwrap();
    assert!(!answer.gone);
    assert_eq!(answer.holders[0].pid, std::process::id());
    assert!(is_bound(&device));
    assert_eq!(host.attached()[0].state, "detaching");
    assert_eq!(read_device(&device, 512, 0), vec![0; 512]);
    drop(holder);
    wait_for("the drained device to go", || !is_bound(&device));
    wait_for("the disk to leave the list", || host.attached().is_empty());
    assert_eq!(refused(&handle), 21);
}

// Design 3: in use while not permanent, or with the attaching handle open.
#[test]
fn in_use_is_busy_names_the_holder_and_changes_nothing() {
    let host = host!();
    for flags in [AttachFlags::NONE, AttachFlags::PERMANENT_LIFETIME] {
        let name = format!("{}.vhd", flags.bits());
        let disk = host.dynamic(&name, 8 * MIB);
        let device = attach(&disk, flags).device;
        let holder = File::open(&device).unwrap();
        let error = disk.detach(DetachFlags::NONE).unwrap_err();
        assert_eq!(error.code().0, 170);
        let process = &error.holders()[0];
        assert_eq!(
            (process.kind.as_str(), process.pid),
            ("process", std::process::id())
        );
        assert_eq!(process.node, device.to_str().unwrap());
        assert!(!process.command.is_empty());
        let listed = host
            .attached()
            .into_iter()
            .find(|d| Path::new(&d.device) == device);
        let listed = listed.unwrap();
        assert_eq!(listed.state, "attached");
        assert_eq!(listed.permanent, flags == AttachFlags::PERMANENT_LIFETIME);
        drop(holder);
        gone(&disk);
    }
}

#[test]
fn refuse_and_when_free_are_kept_apart() {
    let host = host!();
    let device = attach_permanent(&host.dynamic("a.vhd", 8 * MIB)).device;
    let holder = File::open(&device).unwrap();
    let handle = host.open("a.vhd", AccessMask::DETACH).unwrap();
    let refuse = DetachOptions {
        in_use: InUse::Refuse,
        ..DetachOptions::default()
    };
    assert_eq!(handle.detach_with(&refuse).unwrap_err().code().0, 170);
    assert!(host.attached()[0].permanent);
    let when_free = DetachOptions {
        in_use: InUse::WhenFree,
        ..DetachOptions::default()
    };
    assert!(!handle.detach_with(&when_free).unwrap().gone);
    drop(holder);
    wait_for("the drained device to go", || !is_bound(&device));
}

// R-DET-13, R-LIFE-1, R-ATT-9
#[test]
fn the_last_handle_ends_an_attachment_that_is_not_permanent() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    let device = attach(&disk, AttachFlags::NONE).device;
    let other = host.open("a.vhd", AccessMask::GET_INFO).unwrap();
    drop(disk);
    wait_for("the first handle to close", || {
        host.attached()[0].handles == 1
    });
    assert!(is_bound(&device));
    drop(other);
    wait_for("the device to go", || !is_bound(&device));
    wait_for("the worker to go", || host.workers().is_empty());
}

// R-DET-14, R-PROV-4
#[test]
fn a_file_without_a_provider_has_no_handle_to_detach_with() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    let device = attach_permanent(&disk).device;
    drop(disk);
    let foreign = OpenOptions {
        storage_type: virtdisk::StorageType::new(2, uuid::Uuid::from_u128(1)),
        ..OpenOptions::with_access(AccessMask::DETACH)
    };
    let error = host
        .service()
        .open(host.path("a.vhd"), &foreign)
        .unwrap_err();
    assert_eq!(error.code().0, 0xC03A_0014);
    assert!(is_bound(&device));
}

// R-DET-15
#[test]
fn a_truncated_image_is_refused_with_the_formats_code() {
    let host = host!();
    for (name, flags) in [
        ("dynamic.vhd", CreateFlags::NONE),
        ("fixed.vhd", CreateFlags::FULL_PHYSICAL_ALLOCATION),
    ] {
        let disk = host.create(name, 8 * MIB, flags);
        let device = attach_permanent(&disk).device;
        write_device(&device, &[7; 4096], 4 * MIB);
        let path = host.path(name);
        let whole = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(whole.len() as u64 - 512).unwrap();
        let code = refused(&disk);
        assert!(
            (0xC03A_0001..=0xC03A_0013).contains(&code),
            "{name}: {code:#x}"
        );
        assert!(is_bound(&device), "{name}");
        // Put back what was cut off: now it detaches.
        use std::os::unix::fs::FileExt;
        let tail = &whole[whole.len() - 512..];
        file.write_all_at(tail, whole.len() as u64 - 512).unwrap();
        gone(&disk);
    }
}

// R-DET-16, R-DET-24, R-DET-25
#[test]
fn what_is_not_attached_is_not_ready() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    assert_eq!(refused(&disk), 21);
    attach_permanent(&disk);
    assert!(disk.information().unwrap().is_loaded);
    gone(&disk);
    assert_eq!(refused(&disk), 21);
    assert_eq!(disk.physical_path().unwrap_err().code().0, 55);
    assert!(!disk.information().unwrap().is_loaded);
    assert!(host.attached().is_empty());
    drop(disk);
    wait_for("the handle to close", || {
        host.open("a.vhd", AccessMask::ALL).is_ok()
    });
}

// R-DET-17, R-PRV-1, R-DET-18
#[test]
fn without_the_privilege_or_the_right_to_the_file_it_stays_attached() {
    let host = host!();
    need_tool!("setpriv");
    let device = attach_permanent(&host.dynamic("a.vhd", 8 * MIB)).device;
    // Everybody may get at the folder and the service; the file itself decides.
    let folder = host.path("");
    run(
        "chmod",
        &[
            "755",
            folder.to_str().unwrap(),
            host.run().to_str().unwrap(),
        ],
    );
    let probe = |mode: &str| -> String {
        run("chmod", &[mode, host.path("a.vhd").to_str().unwrap()]);
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "as_somebody_else", "--nocapture"])
            .env("VIRTDISKD_TEST_RUN", host.run())
            .env("VIRTDISKD_TEST_IMAGE", host.path("a.vhd"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let answer = probe("644");
    if !answer.contains("CODE") {
        virtdisk_testkit::skip!("the test program can't be run as somebody else: {answer}");
    }
    assert!(answer.contains("CODE detach 1314"), "{answer}");
    let answer = probe("600");
    assert!(answer.contains("CODE open 5"), "{answer}");
    assert!(is_bound(&device));
}

/// Run by the test above as another user.
#[test]
fn as_somebody_else() {
    let (Some(run), Some(image)) = (
        std::env::var_os("VIRTDISKD_TEST_RUN"),
        std::env::var_os("VIRTDISKD_TEST_IMAGE"),
    ) else {
        return;
    };
    let service = virtdisk::Service::at(Path::new(&run));
    match service.open(
        Path::new(&image),
        &OpenOptions::with_access(AccessMask::READ),
    ) {
        Ok(disk) => println!("CODE detach {}", refused(&disk)),
        Err(error) => println!("CODE open {}", error.code().0),
    }
}

// R-DET-21, R-DET-30
#[test]
fn after_success_nothing_is_left_and_the_data_are_in_the_file() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 64 * MIB);
    let device = attach_permanent(&disk).device;
    let pattern: Vec<u8> = (0..4 * MIB as u32).map(|i| (i % 251) as u8).collect();
    // Written through the page cache, not synced: detach has to take care.
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(&device).unwrap();
    file.write_all_at(&pattern, 9 * MIB + 512).unwrap();
    drop(file);
    gone(&disk);
    assert!(!is_bound(&device));
    assert!(
        host.workers().is_empty(),
        "no worker serves a detached disk"
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(" - fuse"), "{mounts}");
    drop(disk);
    // A second reader agrees.
    need_tool!("qemu-img");
    let raw = host.path("a.raw");
    let arguments = [
        "convert",
        "-f",
        "vpc",
        "-O",
        "raw",
        "-o",
        "preallocation=off",
    ]
    .map(str::to_owned);
    let mut arguments: Vec<String> = arguments.to_vec();
    arguments.push(host.path("a.vhd").display().to_string());
    arguments.push(raw.display().to_string());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run("qemu-img", &arguments);
    assert_eq!(read_device(&raw, pattern.len(), 9 * MIB + 512), pattern);
}

// R-DET-28: AT_BOOT is refused, so there is no registration that a detach could leave behind.
#[test]
fn nothing_is_registered_to_attach_again_after_a_detach() {
    let mut host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    let at_boot = AttachFlags::AT_BOOT | AttachFlags::PERMANENT_LIFETIME;
    let error = disk.attach(&attach_with(at_boot)).unwrap_err();
    assert_eq!(error.code().0, 50);
    assert_eq!(refused(&disk), 21);
    attach_permanent(&disk);
    gone(&disk);
    drop(disk);
    host.kill_broker();
    host.start_broker();
    assert!(host.attached().is_empty());
}

// R-DET-27
#[test]
fn a_disk_without_a_host_device_detaches_the_same() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    let attached = attach(&disk, AttachFlags::NO_LOCAL_HOST);
    assert_eq!(attached.device, Path::new(""));
    assert_eq!(disk.physical_path().unwrap_err().code().0, 55);
    use std::os::unix::fs::FileExt;
    let raw = attached.raw_file.unwrap();
    raw.write_all_at(&[9; 4096], 2 * MIB).unwrap();
    gone(&disk);
    assert!(
        raw.read_at(&mut [0; 512], 0).is_err(),
        "the file ends with the attachment"
    );
    let device = attach_permanent(&disk).device;
    assert_eq!(read_device(&device, 4096, 2 * MIB), vec![9; 4096]);
    gone(&disk);
}

// R-DET-29: open files on the disk's volumes. The mount is never torn out.
#[test]
fn a_mounted_volume_is_never_torn_out() {
    let host = host!();
    need_tool!("mkfs.ext4");
    let disk = host.dynamic("a.vhd", 64 * MIB);
    let device = attach_permanent(&disk).device;
    run("mkfs.ext4", &["-q", device.to_str().unwrap()]);
    let mounted = Mounted::new(&device, &host.path("mnt"));
    let error = disk.detach(DetachFlags::NONE).unwrap_err();
    assert_eq!(error.code().0, 170);
    let mount = error.holders().iter().find(|h| h.kind == "mount").unwrap();
    assert_eq!(Path::new(&mount.place), mounted.0);
    fs::write(mounted.0.join("file"), "still here").unwrap();
    drop(mounted);
    gone(&disk);
}

#[test]
fn swap_and_a_device_on_top_are_named() {
    let host = host!();
    need_tool!("mkswap", "swapon", "losetup");
    let disk = host.dynamic("a.vhd", 64 * MIB);
    let device = attach_permanent(&disk).device;
    let name = device.to_str().unwrap();
    run("mkswap", &[name]);
    let swapped = Command::new("swapon")
        .arg(name)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    if swapped.success() {
        let error = disk.detach(DetachFlags::NONE).unwrap_err();
        run("swapoff", &[name]);
        assert_eq!(error.code().0, 170);
        assert!(
            error.holders().iter().any(|h| h.kind == "swap"),
            "{:?}",
            error.holders()
        );
    } else {
        virtdisk_testkit::report_skip("detach", "swapon is not allowed here");
    }
    let upper = run("losetup", &["-f", "--show", name]);
    let error = disk.detach(DetachFlags::NONE).unwrap_err();
    run("losetup", &["-d", upper.trim()]);
    assert_eq!(error.code().0, 170);
    let device_holder = error.holders().iter().find(|h| h.kind == "device").unwrap();
    assert_eq!(device_holder.place, upper.trim());
    gone(&disk);
}

// Detach races with an opener: whoever wins, nothing is lost or half done.
#[test]
fn detach_against_a_racing_opener_is_gone_or_busy_never_between() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    let (mut went, mut stayed) = (0, 0);
    for round in 0..24 {
        let device = attach_permanent(&disk).device;
        let racer = {
            let device = device.clone();
            std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(round * round));
                File::open(device).map(|f| {
                    std::thread::sleep(std::time::Duration::from_millis(400));
                    drop(f);
                })
            })
        };
        match disk.detach(DetachFlags::NONE) {
            Ok(answer) => {
                assert!(answer.gone);
                assert!(!is_bound(&device));
                went += 1;
            }
            Err(error) => {
                assert_eq!(error.code().0, 170);
                assert!(is_bound(&device));
                stayed += 1;
            }
        }
        drop(racer.join().unwrap());
        // A test beside this one may have opened the same node while it was free.
        wait_for("the device to be free", || {
            match disk.detach(DetachFlags::NONE) {
                Ok(answer) => answer.gone,
                Err(error) => error.code().0 == 21,
            }
        });
        if went > 1 && stayed > 1 {
            break;
        }
    }
    assert!(went > 0, "{went} went, {stayed} stayed");
}
