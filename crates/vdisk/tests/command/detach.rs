//! `vdisk detach`: in use or free, by file or by device, now or later.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use virtdisk_testkit::{has_program, skip};

use crate::attach::make_file_system;
use crate::house::{house, soon};

#[test]
fn a_disk_in_use_is_left_as_it_is_and_its_user_is_named() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let device = house.attach(&[&image]);
    let user = File::open(&*device).unwrap();
    let words = house.bad(&["detach", &image], "ERROR_BUSY (170)");
    let process = format!("open in process {}", std::process::id());
    assert!(words.contains(&process), "{words}");
    assert!(words.contains("hint: "), "{words}");
    let disk = &house.list()[0];
    assert_eq!(disk["state"], "attached");
    assert_eq!(disk["in_use_by"][0]["pid"], std::process::id());
    assert_eq!(disk["permanent"], true);
    drop(user);
    house.good(&["detach", &image]);
    assert!(device.is_gone());
}

#[test]
fn a_mounted_disk_is_not_torn_out() {
    let house = house!();
    if !has_program("mkfs.ext4") {
        skip!("mkfs.ext4 is not installed");
    }
    let (image, place) = (house.image("a.vhd", "64M"), house.path("mnt"));
    std::fs::create_dir(&place).unwrap();
    let device = house.attach(&[&image]);
    make_file_system(&device);
    let mounted = Command::new("mount")
        .args([&*device, &place])
        .status()
        .unwrap();
    assert!(mounted.success());
    let words = house.bad(&["detach", &device], "ERROR_BUSY (170)");
    assert!(words.contains(&format!("mounted on {place}")), "{words}");
    assert!(
        Command::new("umount")
            .arg(&place)
            .status()
            .unwrap()
            .success()
    );
    house.good(&["detach", &image, "--wait", "5s"]);
}

#[test]
fn waiting_ends_when_the_user_lets_go() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let device = house.attach(&[&image]);
    let user = File::open(&*device).unwrap();
    let user = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        drop(user);
    });
    house.good(&["detach", &image, "--wait", "20s"]);
    assert!(device.is_gone());
    user.join().unwrap();
}

#[test]
fn waiting_ends_after_its_time() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let device = house.attach(&[&image]);
    let user = File::open(&*device).unwrap();
    house.bad(&["detach", &image, "--wait", "300ms"], "ERROR_BUSY (170)");
    drop(user);
    house.good(&["detach", &image]);
}

#[test]
fn when_free_returns_now_and_detaches_when_the_last_user_lets_go() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let device = house.attach(&[&image]);
    let user = File::open(&*device).unwrap();
    let said = house.run(&["detach", &image, "--when-free"]);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{said:?}");
    assert!(
        said.err.contains("detaches when its last user lets go"),
        "{}",
        said.err
    );
    assert_eq!(house.list()[0]["state"], "detaching");
    assert!(!device.is_gone());
    drop(user);
    assert!(soon(|| device.is_gone()));
    assert!(soon(|| house.list().is_empty()));
}

#[test]
fn a_disk_that_is_not_attached_can_not_be_detached() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    house.bad(&["detach", &image], "ERROR_NOT_READY (21)");
    let device = house.attach(&[&image]);
    house.good(&["detach", &image]);
    house.bad(&["detach", &image], "ERROR_NOT_READY (21)");
    house.bad(&["detach", &device], "ERROR_");
    house.bad(&["detach", "/dev/null"], "ERROR_");
    house.bad(&["detach", "/dev/no-such-device"], "ERROR_");
}

#[test]
fn all_detaches_what_is_free_and_names_what_is_not() {
    let house = house!();
    let free = house.image("free.vhd", "8M");
    let used = house.image("used.vhd", "8M");
    let (free_device, used_device) = (house.attach(&[&free]), house.attach(&[&used]));
    let user = File::open(&*used_device).unwrap();
    let words = house.bad(&["detach", "--all"], "ERROR_BUSY (170)");
    assert!(words.contains(&*used_device), "{words}");
    assert!(free_device.is_gone());
    assert_eq!(house.list().len(), 1);
    drop(user);
    house.good(&["detach", "--all"]);
    assert!(house.list().is_empty());
    house.good(&["detach", "--all"]);
}

#[test]
fn an_image_that_was_removed_or_renamed_can_be_detached() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    house.attach(&[&image]);
    let renamed = house.path("b.vhd");
    std::fs::rename(&image, &renamed).unwrap();
    house.good(&["detach", &renamed]);
    let device = house.attach(&[&renamed]);
    std::fs::remove_file(&renamed).unwrap();
    house.good(&["detach", &renamed]);
    assert!(device.is_gone());
    assert!(house.list().is_empty());
}
