//! Facts about the host file, on real file systems.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use virtdisk_disk::host::{HostFile, inspect};
use virtdisk_testkit::mounted::{Mounted, run};
use virtdisk_testkit::{has_program, skip};

const MIB: u64 = 1 << 20;

fn look(path: &Path) -> HostFile {
    inspect(File::open(path).unwrap()).unwrap()
}

/// An ordinary file on a disk with these sectors.
fn plain(logical_sector: u32, physical_sector: u32) -> HostFile {
    HostFile {
        compressed: false,
        encrypted: false,
        remote: false,
        logical_sector,
        physical_sector,
    }
}

#[test]
fn a_compressed_file_on_btrfs_is_seen() {
    // R-HOST-1, R-HOST-2
    let mounted = match Mounted::block(&["mkfs.btrfs", "-q"], 128 * MIB, 512) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let (packed, other) = (
        mounted.path().join("packed.vhd"),
        mounted.path().join("plain.vhd"),
    );
    File::create(&packed).unwrap();
    File::create(&other).unwrap();
    if let Err(reason) = run(Command::new("chattr").arg("+c").arg(&packed)) {
        skip!("{reason}");
    }
    assert!(look(&packed).compressed);
    assert!(!look(&packed).encrypted);
    assert!(!look(&other).compressed);
}

#[test]
fn a_sparse_file_is_an_ordinary_file() {
    // R-HOST-3
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.vhd");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let host = look(&path);
    assert!(!host.compressed && !host.encrypted && !host.remote);
}

#[test]
fn an_encrypted_file_on_ext4_is_seen() {
    // R-HOST-1
    let mounted = match Mounted::block(&["mkfs.ext4", "-q", "-O", "encrypt"], 32 * MIB, 512) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let folder = mounted.path().join("secret");
    std::fs::create_dir(&folder).unwrap();
    if let Err(reason) = encrypt(mounted.path(), &folder) {
        skip!("{reason}");
    }
    let (hidden, other) = (folder.join("disk.vhd"), mounted.path().join("disk.vhd"));
    File::create(&hidden).unwrap();
    File::create(&other).unwrap();
    assert!(look(&hidden).encrypted);
    assert!(!look(&other).encrypted);
}

/// Gives the file system a key and a folder the policy that uses it (fscrypt version 2).
fn encrypt(root: &Path, folder: &Path) -> Result<(), String> {
    if !has_program("xfs_io") {
        return Err("xfs_io (xfsprogs) is not installed".into());
    }
    let mut child = Command::new("xfs_io")
        .args(["-c", "add_enckey"])
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&[7; 64])
        .map_err(|error| error.to_string())?;
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let key = text
        .split_whitespace()
        .last()
        .filter(|word| word.len() == 32);
    let key = key.ok_or("the kernel takes no encryption key")?;
    let policy = format!("set_encpolicy -v 2 {key}");
    run(Command::new("xfs_io").arg("-c").arg(policy).arg(folder)).map(drop)
}

#[test]
fn compressed_and_encrypted_files_on_ntfs_are_seen() {
    // R-HOST-1: EFS itself, as NTFS keeps it in the file's record.
    let prepare = |root: &Path| -> Result<(), String> {
        let folder = root.join("packed");
        std::fs::create_dir(&folder).map_err(|error| error.to_string())?;
        let mut command = Command::new("setfattr");
        command
            .args(["-n", "system.ntfs_attrib_be", "-v", "0x00000810"])
            .arg(&folder);
        run(&mut command)?;
        for name in ["packed/disk.vhd", "hidden.vhd", "plain.vhd"] {
            File::create(root.join(name)).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    if !has_program("setfattr") {
        skip!("setfattr (attr) is not installed");
    }
    let mounted = match Mounted::ntfs(16 * MIB, prepare, |volume| mark(volume, "hidden.vhd")) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let packed = look(&mounted.path().join("packed/disk.vhd"));
    assert!(packed.compressed && !packed.encrypted);
    let hidden = look(&mounted.path().join("hidden.vhd"));
    assert!(hidden.encrypted && !hidden.compressed);
    let plain = look(&mounted.path().join("plain.vhd"));
    assert!(!plain.encrypted && !plain.compressed && !plain.remote);
}

/// Makes a file of an NTFS volume say that it is encrypted, in its record's standard information
/// and in its data attribute.
fn mark(volume: &mut [u8], name: &str) {
    const STANDARD_INFORMATION: u8 = 0x10;
    const DATA: u8 = 0x80;
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut found = Vec::new();
    for record in volume.chunks_mut(1024) {
        let holds_name = record.windows(name.len()).any(|window| window == name);
        if !record.starts_with(b"FILE") || !holds_name {
            continue;
        }
        let short =
            |record: &[u8], at| usize::from(u16::from_le_bytes([record[at], record[at + 1]]));
        let mut attribute = short(record, 20);
        while record[attribute] != 0xFF {
            found.push(record[attribute]);
            match record[attribute] {
                STANDARD_INFORMATION => {
                    record[attribute + short(record, attribute + 20) + 33] |= 0x40
                }
                DATA => record[attribute + 13] |= 0x40,
                _ => {}
            }
            attribute += short(record, attribute + 4);
        }
    }
    assert!(
        found.contains(&STANDARD_INFORMATION) && found.contains(&DATA),
        "{found:x?}"
    );
}

#[test]
fn sectors_are_those_of_the_disk_below() {
    let ext4 = match Mounted::block(&["mkfs.ext4", "-q"], 16 * MIB, 4096) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let path = ext4.path().join("disk.vhd");
    File::create(&path).unwrap();
    assert_eq!(look(&path), plain(4096, 4096));
    let ext4 = match Mounted::block(&["mkfs.ext4", "-q"], 16 * MIB, 512) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let path = ext4.path().join("disk.vhd");
    File::create(&path).unwrap();
    assert_eq!(look(&path).logical_sector, 512);
}

#[test]
fn sectors_under_btrfs_are_found_by_its_mount() {
    // Its files have a device number that no disk has.
    let btrfs = match Mounted::block(&["mkfs.btrfs", "-q"], 128 * MIB, 4096) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let path = btrfs.path().join("disk.vhd");
    File::create(&path).unwrap();
    assert_eq!(look(&path), plain(4096, 4096));
}

#[test]
fn a_file_without_a_disk_has_the_usual_sectors() {
    let tmpfs = match Mounted::tmpfs(MIB) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let path = tmpfs.path().join("disk.vhd");
    File::create(&path).unwrap();
    assert_eq!(look(&path), plain(512, 4096));
}
