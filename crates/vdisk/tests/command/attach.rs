//! `vdisk attach` and `vdisk list`: the device, its bytes, and what is refused.

use std::path::Path;
use std::process::{Command, Stdio};

use virtdisk_testkit::{corpus, has_program, skip};

use crate::house::{House, house, read_at, write_at};

#[test]
fn bytes_written_to_the_device_are_there_after_attaching_again() {
    let house = house!();
    let image = house.image("a.vhd", "64M");
    let device = house.attach(&[&image]);
    write_at(&device, b"written on a virtual disk", 33 << 20);
    house.good(&["detach", &image]);
    assert!(device.is_gone());
    assert!(house.list().is_empty());
    let device = house.attach(&[&image, "--read-only"]);
    assert_eq!(read_at(&device, 25, 33 << 20), b"written on a virtual disk");
    assert_eq!(read_at(&device, 512, 0), [0; 512]);
    assert!(try_write(&device).is_err());
    assert_eq!(read_at(&device, 25, 33 << 20), b"written on a virtual disk");
    house.good(&["detach", &image]);
}

/// Writes zeros at 33 MiB, down to the device.
fn try_write(device: &str) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().write(true).open(device)?;
    file.write_all_at(&[0; 4096], 33 << 20)?;
    file.sync_all()
}

#[test]
fn the_device_has_the_disks_size() {
    let house = house!();
    let image = house.image("a.vhd", "12M");
    let device = house.attach(&[&image]);
    let sectors = std::fs::read_to_string(device.replace("/dev/", "/sys/block/") + "/size");
    assert_eq!(sectors.unwrap().trim(), ((12 << 20) / 512).to_string());
    house.good(&["detach", &device]);
}

#[test]
fn the_list_shows_what_is_attached() {
    let house = house!();
    assert_eq!(house.good(&["list"]), "nothing is attached\n");
    let image = house.image("a.vhd", "8M");
    let device = house.attach(&[&image, "--read-only"]);
    let disks = house.list();
    assert_eq!(disks.len(), 1);
    let disk = &disks[0];
    assert_eq!(
        disk["file"],
        std::fs::canonicalize(&image).unwrap().to_str().unwrap()
    );
    assert_eq!(disk["device"], *device);
    assert_eq!(disk["format"], "vhd");
    assert_eq!(disk["read_only"], true);
    assert_eq!(disk["permanent"], true);
    assert_eq!(disk["state"], "attached");
    assert_eq!(disk["in_use_by"], serde_json::json!([]));
    let text = house.good(&["list"]);
    assert!(
        text.starts_with("FILE") && text.contains(&*device),
        "{text}"
    );
    assert!(
        text.contains("read-only") && text.contains("permanent"),
        "{text}"
    );
    house.good(&["detach", "--all"]);
    assert!(house.list().is_empty());
}

#[test]
fn an_attached_image_can_be_looked_at() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let device = house.attach(&[&image]);
    let facts = house.good(&["info", &image]);
    assert!(facts.contains(&*device), "{facts}");
    house.good(&["detach", &image]);
}

#[test]
fn attaching_twice_is_refused() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let device = house.attach(&[&image]);
    house.bad(&["attach", &image], "ERROR_SHARING_VIOLATION (32)");
    assert_eq!(house.list()[0]["device"], *device);
    house.good(&["detach", &image]);
}

#[test]
fn an_image_is_made_only_when_it_is_missing() {
    let house = house!();
    let image = house.path("a.vhd");
    let device = house.attach(&[&image, "--create", "16M"]);
    write_at(&device, b"kept", 0);
    house.good(&["detach", &image]);
    let device = house.attach(&[&image, "--create", "32M"]);
    assert_eq!(read_at(&device, 4, 0), b"kept");
    house.good(&["detach", &image]);
}

#[test]
fn an_iso_needs_read_only_and_the_hint_says_so() {
    let house = house!();
    let corpus = match corpus::corpus_of(&["iso9660.iso"]) {
        Ok(corpus) => corpus,
        Err(reason) => skip!("{reason}"),
    };
    let image = corpus.path("iso9660.iso").to_str().unwrap().to_string();
    let words = house.bad(&["attach", &image], "ERROR_");
    assert!(
        words.contains(&format!("vdisk attach --read-only {image}")),
        "{words}"
    );
    assert!(house.list().is_empty());
    let device = house.attach(&[&image, "--read-only"]);
    assert_eq!(read_at(&device, 5, 0x8001), b"CD001");
    house.good(&["detach", &image]);
}

#[test]
fn attach_mounts_and_a_failed_mount_leaves_nothing_attached() {
    let house = house!();
    if !has_program("mkfs.ext4") {
        skip!("mkfs.ext4 is not installed");
    }
    let (image, place) = (house.image("a.vhd", "64M"), house.path("mnt"));
    house.bad(&["attach", &image, "--mount", &place], "does not exist");
    std::fs::create_dir(&place).unwrap();
    let words = house.bad(
        &["attach", &image, "--mount", &place],
        "nothing could be mounted",
    );
    assert!(words.contains("hint: "), "{words}");
    assert!(house.list().is_empty());
    let device = house.attach(&[&image]);
    make_file_system(&device);
    house.good(&["detach", &image]);
    let device = house.attach(&[&image, "--mount", &place]);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(&place)).unwrap();
    assert!(line.starts_with(&*device), "{line}");
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    assert!(
        Command::new("umount")
            .arg(&place)
            .status()
            .unwrap()
            .success()
    );
    house.good(&["detach", &image, "--wait", "5s"]);
}

/// ext4 on a device.
pub(crate) fn make_file_system(device: &str) {
    let made = Command::new("mkfs.ext4")
        .args(["-q", device])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

#[test]
fn a_device_that_nobody_was_told_about_is_detached_again() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = house.command(&["attach", &image]);
    let status = command.stdout(full).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(house.list().is_empty());
}

#[test]
fn partitions_are_there_when_attach_returns() {
    let house = house!();
    if !has_program("sfdisk") {
        skip!("sfdisk is not installed");
    }
    let image = house.image("a.vhd", "64M");
    let device = house.attach(&[&image]);
    partition(&house, &device);
    house.good(&["detach", &image, "--wait", "5s"]);
    let device = house.attach(&[&image]);
    assert!(Path::new(&format!("{device}p1")).exists());
    assert!(Path::new(&format!("{device}p2")).exists());
    let disk = &house.list()[0];
    let wanted = [format!("{device}p1"), format!("{device}p2")];
    assert_eq!(disk["partitions"], serde_json::json!(wanted));
    house.good(&["detach", &wanted[1]]);
    assert!(house.list().is_empty());
}

/// Two partitions in a GPT.
fn partition(house: &House, device: &str) {
    let script = house.path("partitions");
    std::fs::write(&script, "label: gpt\nsize=16M\nsize=16M\n").unwrap();
    let input = std::fs::File::open(&script).unwrap();
    let mut command = Command::new("sfdisk");
    command
        .args(["--quiet", "--no-reread", "--no-tell-kernel", device])
        .stdin(input);
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}
