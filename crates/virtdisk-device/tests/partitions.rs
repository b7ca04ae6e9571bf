//! Partition nodes on loop devices.

#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use support::{Loop, file_of, folder, needs, options, run};
use virtdisk_device::loop_device::LoopOptions;

const MIB: u64 = 1 << 20;

fn names(device: &Loop, numbers: &[u32]) -> Vec<PathBuf> {
    numbers
        .iter()
        .map(|n| PathBuf::from(format!("{}p{n}", device.path())))
        .collect()
}

#[test]
fn the_nodes_exist_and_show_their_part_when_the_call_returns() {
    needs!("sgdisk");
    let folder = folder();
    let path = folder.path().join("image");
    let file = file_of(&path, 16 * MIB);
    let image = path.to_str().unwrap();
    run(
        "sgdisk",
        &[
            "-n",
            "1:2048:+2M",
            "-n",
            "2:8192:+4M",
            "-n",
            "14:0:0",
            image,
        ],
    );
    // What a reader of the table finds: sectors, as sgdisk was told or tells.
    let told = run("sgdisk", &["-i", "14", image]);
    let sector = |label: &str| -> u64 {
        let line = told
            .lines()
            .find_map(|line| line.strip_prefix(label))
            .unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (first, last) = (sector("First sector: "), sector("Last sector: "));
    let parts = [
        (1, 2048 * 512, 2 * MIB),
        (2, 8192 * 512, 4 * MIB),
        (14, first * 512, (last - first + 1) * 512),
    ];
    file.write_all_at(b"first", parts[0].1).unwrap();
    file.write_all_at(b"second", parts[1].1 + parts[1].2 - 6)
        .unwrap();

    let device = Loop::on(&options(&file));
    let nodes = device.device.add_partitions(&parts).unwrap();
    assert_eq!(nodes, names(&device, &[1, 2, 14]));
    let mut bytes = [0; 5];
    File::open(&nodes[0])
        .unwrap()
        .read_exact_at(&mut bytes, 0)
        .unwrap();
    assert_eq!(&bytes, b"first");
    let mut bytes = [0; 6];
    File::open(&nodes[1])
        .unwrap()
        .read_exact_at(&mut bytes, 4 * MIB - 6)
        .unwrap();
    assert_eq!(&bytes, b"second");
    // Opening the disk does not make the kernel look for itself and find none.
    drop(File::open(device.path()).unwrap());
    assert_eq!(device.device.partition_paths().unwrap(), nodes);
    device.release();
    assert!(nodes.iter().all(|node| !node.exists()));
}

#[test]
fn adding_again_changes_nothing_and_new_bounds_replace_old_ones() {
    needs!();
    let folder = folder();
    let file = file_of(&folder.path().join("image"), 16 * MIB);
    let device = Loop::on(&options(&file));
    let nodes = device.device.add_partitions(&[(1, MIB, MIB)]).unwrap();
    let open = File::open(&nodes[0]).unwrap();
    assert_eq!(
        device.device.add_partitions(&[(1, MIB, MIB)]).unwrap(),
        nodes
    );
    assert!(
        device.device.add_partitions(&[(1, MIB, 2 * MIB)]).is_err(),
        "it is in use"
    );
    drop(open);
    assert_eq!(
        device.device.add_partitions(&[(1, MIB, 2 * MIB)]).unwrap(),
        nodes
    );
    let size = format!("/sys/class/block/loop{}p1/size", device.device.index);
    assert_eq!(std::fs::read_to_string(size).unwrap().trim(), "4096");
    device.device.remove_partitions().unwrap();
    assert!(device.device.partition_paths().unwrap().is_empty() && !nodes[0].exists());
    device.release();
}

#[test]
fn partitions_that_cannot_be_shown_are_left_out() {
    needs!();
    let folder = folder();
    let file = file_of(&folder.path().join("image"), 16 * MIB);
    let device = Loop::on(&LoopOptions {
        block_size: 4096,
        ..options(&file)
    });
    let nodes = device.device.add_partitions(&[
        (1, MIB, MIB),
        (2, MIB + 4096, MIB),
        (3, 5 * MIB + 512, MIB),
        (4, 15 * MIB, 2 * MIB),
        (5, u64::MAX, u64::MAX),
        (0, 8 * MIB, MIB),
        (u32::MAX, 8 * MIB, MIB),
        (6, 8 * MIB, 0),
        (7, 10 * MIB, MIB),
    ]);
    assert_eq!(nodes.unwrap(), names(&device, &[1, 7]));
    device.release();
}

#[test]
fn a_device_without_partitions_has_no_nodes() {
    needs!();
    let folder = folder();
    let file = file_of(&folder.path().join("image"), MIB);
    let device = Loop::on(&options(&file));
    assert!(device.device.partition_paths().unwrap().is_empty());
    assert!(device.device.add_partitions(&[]).unwrap().is_empty());
    device.release();
}
