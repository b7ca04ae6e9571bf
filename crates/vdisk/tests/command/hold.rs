//! `vdisk attach --temporary`: the disk is held as long as the process, however that ends.

use std::fs::File;
use std::process::Command;

use crate::house::{house, soon};

#[test]
fn the_end_of_input_detaches() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let (mut holder, device) = house.hold(&[&image]);
    assert_eq!(house.list()[0]["permanent"], false);
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    assert!(device.is_gone());
    assert!(house.list().is_empty());
}

#[test]
fn a_signal_detaches() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    for signal in ["-INT", "-TERM"] {
        let (mut holder, device) = house.hold(&[&image]);
        let sent = Command::new("kill")
            .args([signal, &holder.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        assert!(holder.wait().unwrap().success());
        assert!(device.is_gone());
    }
}

#[test]
fn a_killed_holder_holds_nothing() {
    // R-LIFE-2
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let (mut holder, device) = house.hold(&[&image]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(soon(|| device.is_gone()));
    assert!(soon(|| house.list().is_empty()));
}

#[test]
fn a_disk_still_used_at_the_end_is_an_error_and_goes_later() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let (mut holder, device) = house.hold(&[&image]);
    let user = File::open(&*device).unwrap();
    drop(holder.stdin.take());
    assert_eq!(holder.wait().unwrap().code(), Some(1));
    assert!(!device.is_gone());
    drop(user);
    assert!(soon(|| device.is_gone()));
}

#[test]
fn a_held_disk_is_not_detached_from_outside_by_accident() {
    // R-DET-10: other open handles keep a disk.
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let (mut holder, device) = house.hold(&[&image]);
    house.bad(&["detach", &image], "ERROR_SHARING_VIOLATION (32)");
    assert!(!device.is_gone());
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}
