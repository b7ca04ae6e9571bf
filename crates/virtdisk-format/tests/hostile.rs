//! Hostile images: what container formats were attacked with (formats sheet, 7.1 and 7.2), a test
//! each, within 64 MiB of memory and 5 s. VHD's numbers are in `limits` too, VHDX's fields in
//! `vhdx_damage`, its log in `vhdx_log`; parents are the business of the floors above.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use disk::{Disk, pattern, reading, refusal, writing};
use peak_alloc::PeakAlloc;
use virtdisk_format::{ErrorKind, Format, OpenOptions, Store};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::vhdx_builder::{
    BAT_REGION, Item, METADATA_REGION, PARENT_LOCATOR, VIRTUAL_SIZE, VhdxBuilder, locator, utf16,
};
use virtdisk_testkit::{MemoryStore, Pages};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

static TURN: Mutex<()> = Mutex::new(());

const MIB: u64 = 1 << 20;
const MOST_MEMORY: usize = 64 << 20;
const MOST_TIME: Duration = Duration::from_secs(5);

/// Runs a test in its turn and within the limits.
#[track_caller]
fn cheaply<T>(run: impl FnOnce() -> T) -> T {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (before, started) = (MEMORY.current_usage(), Instant::now());
    MEMORY.reset_peak_usage();
    let answer = run();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken < MOST_MEMORY, "{taken} bytes of memory");
    assert!(started.elapsed() < MOST_TIME, "{:?}", started.elapsed());
    answer
}

fn dynamic() -> VhdxBuilder {
    let mut builder = VhdxBuilder::dynamic(4 * MIB, 1 << 20);
    builder.block(1, &pattern(MIB, 1));
    builder.block(3, &pattern(MIB, 3));
    builder
}

/// Both ways of opening refuse, with one of these kinds.
#[track_caller]
fn both_refuse(builder: &VhdxBuilder, kinds: &[ErrorKind]) {
    let file = builder.build();
    for options in [reading(), writing()] {
        let kind = cheaply(|| refusal(&file, &options));
        assert!(kinds.contains(&kind), "{kind:?}");
    }
}

/// Sets a region's place in both tables.
fn set_region(builder: &mut VhdxBuilder, guid: [u8; 16], offset: u64, length: u32) {
    for table in &mut builder.tables {
        for region in &mut table.regions {
            if region.guid == guid {
                (region.offset, region.length) = (offset, length);
            }
        }
    }
}

#[test]
fn impossible_block_and_sector_sizes_are_refused_before_any_division() {
    // CVE-2014-0148, X-8
    for (block, sector) in [
        (0, 512),
        (1, 512),
        (3 << 19, 512),
        (1 << 19, 512),
        (512 << 20, 512),
        (u32::MAX, 512),
        (1 << 20, 0),
        (1 << 20, 1),
        (1 << 20, 513),
        (1 << 20, 1024),
        (1 << 20, u32::MAX),
    ] {
        let mut builder = dynamic();
        builder.metadata.items[0].data[..4].copy_from_slice(&u32::to_le_bytes(block));
        builder.metadata.items[2].data = sector.to_le_bytes().to_vec();
        both_refuse(
            &builder,
            &[
                ErrorKind::InvalidBlockSize,
                ErrorKind::MetadataCorrupt,
                ErrorKind::InvalidSize,
            ],
        );
    }
}

#[test]
fn regions_that_claim_gigabytes_cost_nothing() {
    // S-2, X-51, cloud-hypervisor e27ed9354
    for length in [u32::MAX, 0xFFF0_0000, 1 << 30] {
        for guid in [BAT_REGION, METADATA_REGION] {
            let mut builder = dynamic();
            let offset = builder.end();
            set_region(&mut builder, guid, offset, length);
            let file = builder.build();
            for options in [reading(), writing()] {
                cheaply(|| drop(Disk::open_pages(&file, &options)));
            }
        }
        let mut builder = dynamic();
        builder.dirty(*b"the log's guid..");
        let end = builder.end();
        for header in &mut builder.headers {
            (header.log_offset, header.log_length) = (end, length & 0xFFF0_0000);
        }
        let mut file = builder.build();
        for len in [file.len(), 8 << 30] {
            // All of it a hole: the ring is there and empty.
            file.set_len(len);
            for options in [reading(), writing()] {
                cheaply(|| assert!(Disk::open_pages(&file, &options).is_err()));
            }
        }
    }
}

#[test]
fn regions_that_wrap_or_overlap_are_refused() {
    // X-6, S-1, cloud-hypervisor fe8bd6e62 and 6882276e2
    for offset in [
        0,
        MIB / 2,
        MIB,
        2 * MIB,
        2 * MIB + 512,
        1 << 62,
        1 << 63,
        u64::MAX - MIB + 1,
        u64::MAX,
    ] {
        let mut builder = dynamic();
        set_region(&mut builder, BAT_REGION, offset, 1 << 20);
        both_refuse(
            &builder,
            &[
                ErrorKind::RegionCorrupt,
                ErrorKind::InvalidFileSize,
                ErrorKind::HeaderCorrupt,
            ],
        );
    }
}

#[test]
fn a_disk_of_64_tib_in_a_file_of_5_mib_is_refused_or_costs_nothing() {
    // S-2, S-9
    for size in [64 << 40, (64 << 40) + 512, 1 << 62, u64::MAX - 511, 0, 511] {
        let mut builder = dynamic();
        builder.metadata.item(VIRTUAL_SIZE).data = u64::to_le_bytes(size).to_vec();
        let file = builder.build();
        for options in [reading(), writing()] {
            cheaply(|| {
                if let Ok(disk) = Disk::open_pages(&file, &options) {
                    drop(disk.image.physical());
                    drop(disk.read(disk.size() - 512, 512));
                }
            });
        }
    }
}

/// A file whose first MiB only changes where the headers stand.
struct Guarded(MemoryStore);

impl Store for Guarded {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let header = [64 << 10, 128 << 10].contains(&offset) && buf.len() <= 4096;
        assert!(header || offset >= 192 << 10, "a write at {offset}");
        assert!(
            header || offset >= MIB || buf.len() <= 4096,
            "guest data at {offset}"
        );
        self.0.write_all_at(buf, offset)
    }
    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        assert!(offset >= MIB, "zeros at {offset}");
        self.0.zero(offset, len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
}

#[test]
fn a_block_at_0_never_lets_the_guest_over_the_headers() {
    // S-11; libvhdi issue 17, cloud-hypervisor d1868f638
    for (state, offset) in [
        (0, 0),
        (2, 0),
        (3, 0),
        (6, 0),
        (6, MIB),
        (6, 2 * MIB),
        (0, 3 * MIB),
    ] {
        let mut builder = dynamic();
        builder.set(0, state, offset);
        let file = builder.build();
        cheaply(|| {
            let disk = Disk::open_pages(&file, &reading());
            if let Ok(bytes) = disk.and_then(|disk| disk.read(0, 4096)) {
                assert_eq!(bytes, [0; 4096], "state {state}");
            }
            let store = Arc::new(Guarded(MemoryStore::from_pages(file.clone())));
            if let Ok(disk) = Disk::open(store, &writing()) {
                assert!(state != 6, "a block on a structure is written");
                disk.write(&pattern(MIB, 9), 0).unwrap();
                disk.image.trim(0, MIB).unwrap();
                disk.write(&pattern(512, 8), 512).unwrap();
                disk.image.close().unwrap();
            }
        });
    }
}

#[test]
fn blocks_that_share_space_are_refused_for_writing_and_reported_for_reading() {
    // S-3, X-45, X-46: a soft anchor owns its space too.
    let at = dynamic().end() - MIB;
    for state in [6, 1, 3] {
        let mut builder = dynamic();
        builder.set(0, state, at);
        let file = builder.build();
        cheaply(|| {
            assert_eq!(refusal(&file, &writing()), ErrorKind::BatCorrupt);
            if state == 6 {
                let disk = Disk::open_pages(&file, &reading()).unwrap();
                assert!(!disk.image.facts().notices.is_empty());
            }
        });
    }
}

#[test]
fn sequence_numbers_do_not_pass_their_end() {
    // X-2, cloud-hypervisor PR 8799
    let mut builder = dynamic();
    builder.headers[0].sequence = u64::MAX - 1;
    builder.headers[1].sequence = u64::MAX;
    let file = builder.build();
    cheaply(|| {
        assert!(Disk::open_pages(&file, &reading()).is_ok());
        let store = Arc::new(MemoryStore::from_pages(file.clone()));
        if let Ok(disk) = Disk::open(store.clone(), &writing()) {
            drop(disk.write(&pattern(512, 5), 0));
            drop(disk.image.close());
        }
        // Whatever came of it, the disk is there.
        let disk = Disk::open(store, &reading()).unwrap();
        assert!(disk.read(MIB, MIB).unwrap() == pattern(MIB, 1));
    });
}

#[test]
fn a_locator_of_thousands_of_pairs_or_of_wild_text_does_no_harm() {
    // S-8
    let mut many = locator(&[("parent_linkage", "{f88d4d92-6fcc-408d-9bef-9b7c89f15c89}")]);
    many[18..20].copy_from_slice(&u16::MAX.to_le_bytes());
    let mut most = many.clone();
    most.resize(1 << 20, 0x41);
    let mut wild = utf16(".\\\u{1b}]0;title\u{7}\u{202e}.vhdx");
    wild.extend([0x00, 0xD8, 0x41, 0x00]);
    for data in [many, most, vec![0; 20], vec![0xFF; 4096], wild] {
        let mut builder = VhdxBuilder::differencing(2 * MIB, 1 << 20);
        builder
            .metadata
            .items
            .retain(|item| item.guid != PARENT_LOCATOR);
        builder
            .metadata
            .items
            .push(Item::new(PARENT_LOCATOR, 4, &data));
        let file = builder.build();
        for options in [reading(), writing()] {
            cheaply(|| match Disk::open_pages(&file, &options) {
                Ok(disk) => assert!(disk.image.facts().parent.is_some()),
                Err(error) => assert!(!error.to_string().contains(char::is_control)),
            });
        }
    }
}

#[test]
fn a_file_that_is_two_things_is_decided_once_and_can_be_forced() {
    // S-12
    let vhd = VhdBuilder::fixed(&dynamic().build().to_vec()).build();
    let forced = |format| OpenOptions {
        format: Some(format),
        ..OpenOptions::default()
    };
    cheaply(|| {
        let disk = Disk::open_pages(&vhd, &reading()).unwrap();
        assert_eq!(disk.image.facts().format, Format::Vhdx);
        let disk = Disk::open_pages(&vhd, &forced(Format::Raw)).unwrap();
        assert_eq!(disk.size(), vhd.len());
        let disk = Disk::open_pages(&vhd, &forced(Format::Vhd));
        if let Ok(disk) = disk {
            assert_eq!(disk.image.facts().format, Format::Vhd);
        }
    });
}

#[test]
fn a_footer_that_lies_about_its_kind_is_refused() {
    // qemu 7da9623cc0, blktap PR 436, V-6
    for kind in [0, 1, 3, 4, 5, 6, u32::MAX] {
        let mut builder = VhdBuilder::fixed(&pattern(MIB, 1));
        builder.footer.disk_type = kind;
        let file = builder.build();
        for options in [reading(), writing()] {
            cheaply(|| assert!(Disk::open_pages(&file, &options).is_err(), "{kind}"));
        }
    }
}

#[test]
fn a_file_of_a_few_bytes_is_read_as_what_it_is() {
    // S-1
    for len in [0, 1, 7, 8, 9, 511, 512, 513, 4096, 65536] {
        let mut file = Pages::zeroed(len);
        let bytes = b"vhdxfile";
        file.write(&bytes[..bytes.len().min(len as usize)], 0);
        for options in [reading(), writing(), disk::named("vhdx")] {
            cheaply(|| {
                if let Ok(disk) = Disk::open_pages(&file, &options) {
                    assert_eq!(disk.image.facts().format, Format::Raw);
                }
            });
        }
    }
}
