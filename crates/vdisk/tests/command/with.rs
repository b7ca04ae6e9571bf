//! `vdisk with`: attached for the run of a command.

use std::process::{Command, Stdio};

use crate::house::{Device, house, said, soon};

#[test]
fn the_command_finds_the_device_and_its_exit_code_is_passed_on() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let script = "test -b $VDISK_DEVICE && echo $VDISK_DEVICE; exit 7";
    let said = house.run(&["with", &image, "--", "sh", "-c", script]);
    assert_eq!(said.code, 7, "{said:?}");
    assert!(said.out.starts_with("/dev/loop"), "{said:?}");
    assert!(house.list().is_empty());
    house.good(&["with", &image, "--read-only", "--", "true"]);
}

#[test]
fn a_command_ended_by_a_signal_is_128_and_its_number() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let said = house.run(&["with", &image, "--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(said.code, 137, "{said:?}");
}

#[test]
fn a_command_that_does_not_start_leaves_nothing_attached() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    house.bad(
        &["with", &image, "--", "/no/such/program"],
        "/no/such/program",
    );
    assert!(house.list().is_empty());
}

#[test]
fn a_signal_is_passed_on_to_the_command() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let ready = house.path("ready");
    let script = "trap 'exit 9' TERM; touch $1; while :; do sleep 0.05; done";
    let mut command = house.command(&["with", &image, "--", "sh", "-c", script, "sh", &ready]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(soon(|| std::path::Path::new(&ready).exists()));
    let sent = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, 9, "{said:?}");
    assert!(house.list().is_empty());
}

#[test]
fn a_killed_vdisk_leaves_nothing_attached() {
    let house = house!();
    let image = house.image("a.vhd", "8M");
    let ready = house.path("ready");
    let script = "echo $VDISK_DEVICE > $1.new; mv $1.new $1; exec sleep 1";
    let mut command = house.command(&["with", &image, "--", "sh", "-c", script, "sh", &ready]);
    let mut child = command.spawn().unwrap();
    assert!(soon(|| std::path::Path::new(&ready).exists()));
    child.kill().unwrap();
    child.wait().unwrap();
    let device = Device::now(std::fs::read_to_string(&ready).unwrap().trim());
    assert!(soon(|| device.is_gone()));
    assert!(soon(|| house.list().is_empty()));
}
