//! Partition tables made by the usual tools, by hand, and by chance.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use virtdisk_disk::partition::{self, Partition};
use virtdisk_disk::{Disk, Format, Store};
use virtdisk_testkit::toy::{FlatImage, flat_disk};
use virtdisk_testkit::{MemoryStore, Pages, Rng, has_program, skip};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
const SECTOR: usize = 512;

fn sfdisk(path: &Path, script: &str) {
    let mut command = Command::new("sfdisk");
    command
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(path);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "sfdisk refused: {script}");
}

/// An empty file. Its name ends in a letter: behind a digit sfdisk writes a "p" before the number.
fn image_file() -> tempfile::NamedTempFile {
    tempfile::Builder::new().suffix(".img").tempfile().unwrap()
}

/// A 64 MiB disk with the table that a tool makes.
fn with_table(make: impl FnOnce(&Path)) -> Vec<u8> {
    let file = image_file();
    file.as_file().set_len(SIZE).unwrap();
    make(file.path());
    std::fs::read(file.path()).unwrap()
}

/// The partitions that `sfdisk --dump` prints, in bytes.
fn dumped(bytes: &[u8]) -> Vec<Partition> {
    let file = image_file();
    std::fs::write(file.path(), bytes).unwrap();
    let output = Command::new("sfdisk")
        .arg("--dump")
        .arg(file.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let prefix = format!("{}", file.path().display());
    let field = |line: &str, name: &str| -> u64 {
        let rest = &line[line.find(name).unwrap() + name.len()..];
        rest.trim_start()
            .split(',')
            .next()
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    let lines = text.lines().filter(|line| line.starts_with(&prefix));
    lines
        .map(|line| Partition {
            number: line[prefix.len()..]
                .split(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap(),
            offset: field(line, "start=") * 512,
            len: field(line, "size=") * 512,
        })
        .collect()
}

fn read(bytes: &[u8]) -> Vec<Partition> {
    partition::read(&flat_disk(Pages::from_bytes(bytes))).unwrap()
}

fn safe_size(bytes: &[u8]) -> Option<u64> {
    partition::smallest_safe_size(&flat_disk(Pages::from_bytes(bytes))).unwrap()
}

fn part(number: u32, offset: u64, len: u64) -> Partition {
    Partition {
        number,
        offset,
        len,
    }
}

fn gpt_table() -> Vec<u8> {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let script = "label: gpt\nsize=10M\nstart=30M, size=4M\n3: start=40M, size=5000\n";
    TABLE
        .get_or_init(|| with_table(|path| sfdisk(path, script)))
        .clone()
}

fn mbr_table() -> Vec<u8> {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let script = "label: dos\n\
                  1: start=2048, size=10M, type=7, bootable\n\
                  2: start=16M, size=40M, type=f\n\
                  3: start=58M, size=1M, type=83\n\
                  5: size=4M\n6: size=5M\n7: size=6M\n";
    TABLE
        .get_or_init(|| with_table(|path| sfdisk(path, script)))
        .clone()
}

#[test]
fn a_gpt_by_sgdisk_is_read() {
    if !has_program("sgdisk") || !has_program("sfdisk") {
        skip!("sgdisk (gdisk) or sfdisk (fdisk) is not installed");
    }
    let bytes = with_table(|path| {
        let mut command = Command::new("sgdisk");
        command.args(["-n", "1:2048:+8M", "-n", "3:40M:+3M", "-n", "128:50M:+1M"]);
        assert!(
            command
                .arg(path)
                .stdout(Stdio::null())
                .status()
                .unwrap()
                .success()
        );
    });
    let found = read(&bytes);
    assert_eq!(found, dumped(&bytes));
    let numbers: Vec<u32> = found.iter().map(|partition| partition.number).collect();
    assert_eq!(numbers, [1, 3, 128]);
    assert_eq!(found[0], part(1, MIB, 8 * MIB));
}

#[test]
fn a_gpt_and_an_mbr_by_sfdisk_are_read() {
    if !has_program("sfdisk") {
        skip!("sfdisk (fdisk) is not installed");
    }
    let bytes = gpt_table();
    assert_eq!(read(&bytes), dumped(&bytes));
    assert_eq!(read(&bytes).len(), 3);

    let bytes = mbr_table();
    let mut wanted = dumped(&bytes);
    // The kernel shows no more of an extended partition than a boot loader needs.
    assert_eq!(wanted[1], part(2, 16 * MIB, 40 * MIB));
    wanted[1].len = 1024;
    assert_eq!(read(&bytes), wanted);
    assert_eq!(wanted.len(), 6);
}

#[test]
fn a_gpt_whose_front_is_damaged_is_read_from_its_copy() {
    if !has_program("sfdisk") {
        skip!("sfdisk (fdisk) is not installed");
    }
    let mut bytes = gpt_table();
    let wanted = read(&bytes);
    bytes[SECTOR + 40] ^= 1;
    assert_eq!(read(&bytes), wanted);
    let mut bytes = gpt_table();
    bytes[2 * SECTOR + 33] ^= 1; // an entry: its checksum is in the header
    assert_eq!(read(&bytes), wanted);
    let last = bytes.len() - SECTOR;
    bytes[last] ^= 1;
    assert_eq!(read(&bytes), []);
}

#[test]
fn the_smallest_safe_size_keeps_every_partition_and_the_table() {
    if !has_program("sfdisk") {
        skip!("sfdisk (fdisk) is not installed");
    }
    // The last partition ends at 40 MiB + 5000 sectors; behind it 32 sectors of entries and one of
    // header.
    assert_eq!(safe_size(&gpt_table()), Some(40 * MIB + (5000 + 33) * 512));
    assert_eq!(safe_size(&mbr_table()), Some(59 * MIB));
    assert_eq!(safe_size(&[0; 4096]), None);
}

#[test]
fn without_a_table_there_are_no_partitions() {
    assert_eq!(read(&vec![0; SIZE as usize]), []);
    assert_eq!(read(&[0; SECTOR]), []);
    assert_eq!(read(&[0xFF; 4096]), []);
    // A file system's own first sector: the signature, and text where a table would be.
    let mut bytes = vec![0; 1 << 20];
    bytes[0x1BE..0x1FE].fill(b'x');
    bytes[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    assert_eq!(read(&bytes), []);
}

#[test]
fn an_optical_disk_has_no_partitions() {
    let mut bytes = vec![0; 1 << 20];
    put_entry(&mut bytes, 0, 0, 0x17, 1, 100);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::from_bytes(&bytes));
    let mut image = FlatImage::new(Arc::clone(&store), 0, 1 << 20);
    image.facts_mut().format = Format::Iso;
    image.facts_mut().logical_sector_size = 2048;
    let disk = Disk::over(Box::new(image), store, "hybrid.iso");
    assert_eq!(partition::read(&disk).unwrap(), []);
    assert_eq!(read(&bytes), [part(1, 512, 51_200)]);
}

#[test]
fn sectors_of_4096_bytes_count_as_such() {
    let mut cursor = std::io::Cursor::new(vec![0; SIZE as usize]);
    let mut gpt = gptman::GPT::new_from(&mut cursor, 4096, [1; 16]).unwrap();
    gpt[2] = gptman::GPTPartitionEntry {
        partition_type_guid: [9; 16],
        unique_partition_guid: [8; 16],
        starting_lba: 512,
        ending_lba: 1023,
        attribute_bits: 0,
        partition_name: "four".into(),
    };
    gpt.write_into(&mut cursor).unwrap();
    gptman::GPT::write_protective_mbr_into(&mut cursor, 4096).unwrap();
    let bytes = cursor.into_inner();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::from_bytes(&bytes));
    let mut image = FlatImage::new(Arc::clone(&store), 0, SIZE);
    image.facts_mut().logical_sector_size = 4096;
    let disk = Disk::over(Box::new(image), store, "4k.img");
    assert_eq!(partition::read(&disk).unwrap(), [part(2, 2 * MIB, 2 * MIB)]);
    // On a disk of 512-byte sectors it is no table, as the kernel sees it.
    assert_eq!(read(&bytes), []);
}

/// Puts an entry into the boot record at sector `record`.
fn put_entry(bytes: &mut [u8], record: usize, slot: usize, kind: u8, start: u32, sectors: u32) {
    let entry = record * SECTOR + 0x1BE + slot * 16;
    bytes[entry + 4] = kind;
    bytes[entry + 8..entry + 12].copy_from_slice(&start.to_le_bytes());
    bytes[entry + 12..entry + 16].copy_from_slice(&sectors.to_le_bytes());
    bytes[record * SECTOR + 0x1FE..][..2].copy_from_slice(&[0x55, 0xAA]);
}

#[test]
fn partitions_are_cut_at_the_end_and_dropped_behind_it() {
    let mut bytes = vec![0; 1 << 20]; // 2048 sectors
    put_entry(&mut bytes, 0, 0, 0x83, 1000, 5000);
    put_entry(&mut bytes, 0, 1, 0x83, 2048, 1);
    put_entry(&mut bytes, 0, 2, 0x83, u32::MAX, u32::MAX);
    put_entry(&mut bytes, 0, 3, 0x83, 900, 200);
    // The first and the last overlap; both are kept.
    assert_eq!(
        read(&bytes),
        [part(1, 512_000, 536_576), part(4, 460_800, 102_400)]
    );
    assert_eq!(safe_size(&bytes), Some(1 << 20));
}

#[test]
fn a_chain_that_bites_its_tail_ends() {
    let mut bytes = vec![0; 1 << 20];
    put_entry(&mut bytes, 0, 0, 0x0F, 100, 1000);
    put_entry(&mut bytes, 100, 0, 0x83, 1, 10);
    put_entry(&mut bytes, 100, 1, 0x05, 50, 100);
    put_entry(&mut bytes, 150, 0, 0x83, 2, 10);
    // Back to 150 for ever.
    put_entry(&mut bytes, 150, 1, 0x05, 50, 100);
    let found = read(&bytes);
    assert_eq!(
        found[..3],
        [
            part(1, 51_200, 1024),
            part(5, 51_712, 5120),
            part(6, 77_824, 5120)
        ]
    );
    assert!(found.len() <= 128, "{} partitions", found.len());
    // A link to numbers that no disk has.
    put_entry(&mut bytes, 150, 1, 0x05, u32::MAX, 100);
    assert_eq!(read(&bytes).len(), 3);
}

/// Makes the checksums of the primary table right again.
fn seal(bytes: &mut [u8]) {
    let number = |bytes: &[u8], at: usize| -> u64 {
        u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
    };
    let header = SECTOR;
    let array = number(bytes, header + 80) * number(bytes, header + 84);
    let start = number(bytes, header + 72) * SECTOR as u64;
    if let Some(entries) = start
        .checked_add(array)
        .filter(|&end| end <= bytes.len() as u64)
    {
        let sum = crc(&bytes[start as usize..entries as usize]);
        bytes[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
    }
    bytes[header + 16..header + 20].fill(0);
    let sum = crc(&bytes[header..header + 92]);
    bytes[header + 16..header + 20].copy_from_slice(&sum.to_le_bytes());
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn a_hostile_gpt_header_with_right_checksums_is_no_table() {
    if !has_program("sfdisk") {
        skip!("sfdisk (fdisk) is not installed");
    }
    let wanted = read(&gpt_table());
    // Entry count, entry size, first sector of the entries, own sector.
    for (at, value) in [
        (80, u32::MAX),
        (80, 0),
        (84, 256),
        (84, 0),
        (84, u32::MAX),
        (72, u32::MAX),
        (76, u32::MAX),
        (76, 0x0080_0000),
        (24, 7),
    ] {
        let mut bytes = gpt_table();
        bytes[SECTOR + at..SECTOR + at + 4].copy_from_slice(&value.to_le_bytes());
        seal(&mut bytes);
        // The copy at the end is sound and serves.
        assert_eq!(read(&bytes), wanted, "{value:#x} at {at}");
        bytes.truncate(bytes.len() - SECTOR);
        assert_eq!(read(&bytes), [], "{value:#x} at {at}");
    }
}

#[test]
fn random_damage_never_panics_and_stays_bounded() {
    if !has_program("sfdisk") {
        skip!("sfdisk (fdisk) is not installed");
    }
    let mut rng = Rng::announced("random_damage_never_panics_and_stays_bounded");
    let tables = [gpt_table(), mbr_table()].map(|bytes| {
        // The table's own sectors are what can be damaged: front, back, and the records within.
        (Pages::from_bytes(&bytes), used_sectors(&bytes))
    });
    let mut still_tables = 0;
    for round in 0..2000 {
        let (pages, sectors) = &tables[round % 2];
        let mut pages = pages.clone();
        for _ in 0..1 + rng.below(8) {
            let at = rng.pick(sectors) * SECTOR as u64 + rng.below(SECTOR as u64);
            let len = 1 + rng.below(8) as usize;
            let mut damage = rng.bytes(len);
            if rng.one_in(3) {
                damage.fill(*rng.pick(&[0, 0xFF, 0x7F, 0x05]));
            }
            let room = (SIZE - at) as usize;
            pages.write(&damage[..len.min(room)], at);
        }
        if rng.one_in(2) {
            let mut front = vec![0; 40 * SECTOR];
            assert!(pages.read(&mut front, 0));
            seal(&mut front);
            pages.write(&front, 0);
        }
        let memory = Arc::new(MemoryStore::from_pages(pages));
        let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&memory);
        let image = FlatImage::new(Arc::clone(&store), 0, SIZE);
        let disk = Disk::over(Box::new(image), store, "damaged.img");
        let found = partition::read(&disk).unwrap();
        still_tables += usize::from(!found.is_empty());
        assert!(found.len() <= 128, "{} partitions", found.len());
        for partition in &found {
            let end = partition.offset.checked_add(partition.len).unwrap();
            assert!(
                partition.len > 0 && end <= SIZE,
                "{partition:?} (seed {})",
                rng.seed()
            );
        }
        let counts = memory.counts();
        assert!(counts.reads < 4096 && counts.bytes_read < MIB, "{counts:?}");
        if let Some(size) = partition::smallest_safe_size(&disk).unwrap() {
            assert!(size <= SIZE);
        }
    }
    // Otherwise the damage never got past the first check.
    assert!(
        still_tables > 400,
        "only {still_tables} of 2000 were still tables"
    );
}

/// Sectors that are not all zeros.
fn used_sectors(bytes: &[u8]) -> Vec<u64> {
    let sectors = bytes.chunks(SECTOR).enumerate();
    let used = sectors.filter(|(_, sector)| *sector != [0; SECTOR]);
    used.map(|(index, _)| index as u64).collect()
}
