//! The n-th operation of the file fails, for every n: a clean error, an image that still opens, old
//! data intact, and no write succeeds on ground that an earlier failure left unsure.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{Disk, pattern, reading, writing};
use virtdisk_format::{CreateOptions, ErrorKind, Format, Kind, Store, create};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::{Fault, FaultStore, MemoryStore, Pages, SectorModel, Verb, Which};

const BLOCK: u64 = 4096;
const FAULTS: [Fault; 3] = [Fault::Io, Fault::NoSpace, Fault::Short];

fn write(offset: u64, len: u64) -> Verb {
    Verb::Write {
        offset,
        len,
        seed: offset ^ len,
    }
}

fn verbs() -> Vec<Verb> {
    vec![
        write(0, 512),
        write(3 * BLOCK - 512, 1024),
        Verb::Flush,
        write(5 * BLOCK, 2 * BLOCK),
        Verb::Trim {
            offset: 5 * BLOCK,
            len: BLOCK,
        },
        write(8 * BLOCK + 512, 512),
        Verb::Trim {
            offset: 512,
            len: 512,
        },
        Verb::Flush,
        Verb::Trim {
            offset: 2 * BLOCK,
            len: 5 * BLOCK,
        },
        write(9 * BLOCK, 5 * BLOCK),
        write(6 * BLOCK, 512),
        Verb::Flush,
    ]
}

/// A packed image with a whole, a partial and an empty-bitmap block, and one lost footer.
fn start(lost_footer: bool) -> Pages {
    let mut builder = VhdBuilder::dynamic(16 * BLOCK, BLOCK as u32);
    builder.block(0, &pattern(BLOCK, 1));
    builder.block_with(2, &pattern(BLOCK, 2), vec![0b0101_0011]);
    builder.block_with(8, &pattern(BLOCK, 3), vec![0]);
    builder.footer_at = Some(builder.end());
    builder.write_footer = !lost_footer;
    builder.build()
}

fn model_of(pages: &Pages) -> SectorModel {
    let disk = Disk::open_pages(pages, &reading()).unwrap();
    SectorModel::from_bytes(&disk.read(0, disk.size()).unwrap())
}

/// What a run with one fault came to.
struct Outcome {
    /// The fault was reached.
    failed: bool,
    /// Verbs that answered an error.
    errors: usize,
}

/// Runs the verbs with the n-th operation failing and checks everything that must hold.
fn run(start: &Pages, n: u64, fault: Fault, which: Which, lasting: bool) -> Outcome {
    let inner = Arc::new(MemoryStore::from_pages(start.clone()));
    let mut store = FaultStore::new(inner.clone(), which, fault);
    if lasting {
        store = store.lasting();
    }
    let store = Arc::new(store);
    store.fail_at(n);
    let context = format!("operation {n}, {fault:?}, {which:?}, lasting {lasting}");
    let mut settled = model_of(start);
    let mut unsure = Vec::new();
    let mut outcome = Outcome {
        failed: false,
        errors: 0,
    };
    match Disk::open(store.clone(), &writing()) {
        Err(error) => {
            assert!(store.has_failed(), "{context}: {error}");
            outcome = Outcome {
                failed: true,
                errors: 1,
            };
        }
        Ok(disk) => {
            let mut refused = false;
            for verb in verbs() {
                match disk.apply(&verb) {
                    Ok(()) => {
                        assert!(!refused, "{context}: {verb:?} succeeded after a refusal");
                        settled.apply(&verb);
                    }
                    Err(error) => {
                        assert!(store.has_failed(), "{context}: {verb:?}: {error}");
                        refused |= error.kind() == ErrorKind::WritesRefused;
                        unsure.push(verb);
                        outcome.errors += 1;
                    }
                }
            }
            // The fault came, or comes while closing: in both cases the disk reads what it should.
            outcome.failed = store.has_failed();
            if !outcome.failed {
                drop(disk.image.close());
                outcome.failed = store.has_failed();
            }
            store.fail_at(0);
            let held = settled.compare_after_crash(&unsure, |buf, at| disk.read_at(buf, at));
            held.unwrap_or_else(|error| panic!("{context}: {error}"));
        }
    }
    for options in [reading(), writing()] {
        let disk = Disk::open_pages(&inner.pages(), &options)
            .unwrap_or_else(|error| panic!("{context}: does not open again: {error}"));
        let held = settled.compare_after_crash(&unsure, |buf, at| disk.read_at(buf, at));
        held.unwrap_or_else(|error| panic!("{context}, reopened: {error}"));
    }
    outcome
}

#[test]
fn any_single_failure_is_reported_and_harms_nothing() {
    for (lost_footer, fault, which, lasting) in [
        (false, FAULTS, Which::All, false),
        (true, FAULTS, Which::All, false),
        (false, FAULTS, Which::Changes, true),
        (true, FAULTS, Which::Space, true),
    ]
    .into_iter()
    .flat_map(|(lost, faults, which, lasting)| faults.map(|fault| (lost, fault, which, lasting)))
    {
        let start = start(lost_footer);
        let mut n = 1;
        loop {
            let outcome = run(&start, n, fault, which, lasting);
            if !outcome.failed {
                assert_eq!(outcome.errors, 0);
                break;
            }
            n += 1;
        }
        println!("lost footer {lost_footer}, {fault:?}, {which:?}, lasting {lasting}: {n} runs");
        assert!(n > 20, "{n}");
    }
}

fn new_disk() -> (Arc<MemoryStore>, Arc<FaultStore>, Fault) {
    let inner = Arc::new(MemoryStore::new());
    let options = CreateOptions {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        virtual_size: 16 * BLOCK,
        block_size: BLOCK as u32,
        identifier: None,
        created_unix: 0,
        sparse: false,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    };
    create(&*inner, &options).unwrap();
    let store = Arc::new(FaultStore::new(
        inner.clone(),
        Which::Changes,
        Fault::NoSpace,
    ));
    (inner, store, Fault::NoSpace)
}

#[test]
fn a_full_file_system_leaves_the_image_as_it_was_and_open_for_writing() {
    // NoSpace at the footer's move, and at a new block's bitmap: nothing is poisoned.
    for n in [1, 3] {
        let (inner, store, _) = new_disk();
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        let before = inner.to_vec();
        store.fail_at(n);
        let error = disk.write(&pattern(512, 1), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{n}");
        if n == 1 {
            assert!(inner.to_vec() == before, "something changed");
        }
        disk.image.validate().unwrap();
        Disk::open_pages(&inner.pages(), &reading())
            .unwrap()
            .must_be(&SectorModel::new(16 * BLOCK));
        // Room again: the same write goes through.
        disk.write(&pattern(512, 1), 0).unwrap();
        disk.image.close().unwrap();
        let again = Disk::open_pages(&inner.pages(), &reading()).unwrap();
        assert!(again.read(0, 512).unwrap() == pattern(512, 1));
    }
}

/// A file system with room up to a file offset: the write that reaches it arrives in part.
struct Small {
    inner: MemoryStore,
    room: AtomicU64,
}

impl Store for Small {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let fits = self.room.load(Ordering::Relaxed).saturating_sub(offset) as usize;
        if fits >= buf.len() {
            return self.inner.write_all_at(buf, offset);
        }
        // A file that was made longer before its bytes arrived.
        self.inner
            .set_len(self.inner.len()?.max(offset + fits as u64))?;
        self.inner.write_all_at(&buf[..fits], offset)?;
        Err(io::Error::from_raw_os_error(28))
    }
    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.zero(offset, len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }
}

#[test]
fn a_file_system_that_fills_up_within_a_write_leaves_a_good_image() {
    for room in (0x2000..0x2_0000).step_by(0x100) {
        let (inner, _, _) = new_disk();
        let inner = MemoryStore::from_pages(inner.pages());
        let store = Arc::new(Small {
            inner,
            room: AtomicU64::new(room),
        });
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        let mut model = SectorModel::new(16 * BLOCK);
        let mut full = 0;
        for block in 0..16 {
            let before = store.len().unwrap();
            match disk.write(&pattern(512, block as u8), block * BLOCK) {
                Ok(()) => model.write(&pattern(512, block as u8), block * BLOCK),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "{room:#x}: {error}");
                    full += 1;
                    assert!(store.len().unwrap() >= before);
                }
            }
            let now = Disk::open_pages(&store.inner.pages(), &reading()).unwrap();
            assert_eq!(
                now.image.facts().notices,
                [""; 0],
                "{room:#x}: the footer is not at the end"
            );
            now.must_be(&model);
        }
        assert!(full > 0 || room > 0x1_0000, "{room:#x}");
        store.room.store(u64::MAX, Ordering::Relaxed);
        disk.write(&pattern(16 * BLOCK, 5), 0).unwrap();
        disk.image.close().unwrap();
        let again = Disk::open_pages(&store.inner.pages(), &reading()).unwrap();
        assert!(again.read(0, 16 * BLOCK).unwrap() == pattern(16 * BLOCK, 5));
    }
}

#[test]
fn after_a_failed_metadata_write_all_writes_are_refused_until_reopened() {
    // Operations of a first write: footer, flush, bitmap, flush, table entry.
    for (n, fault) in [
        (1, Fault::Io),
        (2, Fault::Io),
        (2, Fault::NoSpace),
        (3, Fault::Io),
        (4, Fault::Io),
        (5, Fault::Io),
        (5, Fault::NoSpace),
        (5, Fault::Short),
    ] {
        let (inner, _, _) = new_disk();
        let store = Arc::new(FaultStore::new(inner.clone(), Which::Changes, fault));
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        store.fail_at(n);
        let error = disk.write(&pattern(512, 1), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{n} {fault:?}");
        store.fail_at(0);
        let refused = |result: virtdisk_format::Result<()>| {
            assert_eq!(
                result.unwrap_err().kind(),
                ErrorKind::WritesRefused,
                "{n} {fault:?}"
            );
        };
        refused(disk.write(&pattern(512, 1), 0));
        refused(disk.write(&pattern(512, 1), 7 * BLOCK));
        refused(disk.image.trim(0, BLOCK));
        refused(disk.image.flush());
        refused(disk.image.close());
        assert_eq!(disk.read(0, 512).unwrap(), [0; 512]);
        let disk = Disk::open(inner, &writing()).unwrap();
        disk.write(&pattern(512, 1), 0).unwrap();
        assert!(disk.read(0, 512).unwrap() == pattern(512, 1));
    }
}

#[test]
fn a_failed_flush_is_never_followed_by_a_good_one() {
    // The system reports lost pages once: the next flush would say that all is well.
    let dynamic = new_disk().0.pages();
    let fixed = VhdBuilder::fixed(&pattern(65536, 1)).build();
    for file in [dynamic, fixed, Pages::zeroed(65536)] {
        let inner = Arc::new(MemoryStore::from_pages(file));
        let store = Arc::new(FaultStore::new(inner, Which::Changes, Fault::Io));
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        disk.write(&pattern(512, 1), 0).unwrap();
        store.fail_at(1);
        assert_eq!(disk.image.flush().unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(
            disk.image.flush().unwrap_err().kind(),
            ErrorKind::WritesRefused
        );
        assert_eq!(
            disk.write(&[1; 512], 0).unwrap_err().kind(),
            ErrorKind::WritesRefused
        );
        assert!(disk.read(0, 512).unwrap() == pattern(512, 1));
    }
}

#[test]
fn a_create_that_fails_says_so_and_leaves_no_wrong_image() {
    let kinds = [
        (Format::Raw, Kind::Fixed),
        (Format::Vhd, Kind::Fixed),
        (Format::Vhd, Kind::Dynamic),
    ];
    for ((format, kind), fault) in kinds
        .into_iter()
        .flat_map(|kind| FAULTS.map(|fault| (kind, fault)))
    {
        for n in 1.. {
            let inner = Arc::new(MemoryStore::new());
            let store = FaultStore::new(inner.clone(), Which::Changes, fault);
            store.fail_at(n);
            let options = CreateOptions {
                format,
                kind,
                virtual_size: 16 * BLOCK,
                block_size: 0,
                identifier: None,
                created_unix: 0,
                sparse: false,
                logical_sector_size: 0,
                physical_sector_size: 0,
                parent: None,
            };
            let result = create(&store, &options);
            if !store.has_failed() {
                result.unwrap();
                assert!(n > 2);
                break;
            }
            let wanted = if fault == Fault::NoSpace {
                ErrorKind::NoSpace
            } else {
                ErrorKind::Io
            };
            assert_eq!(result.unwrap_err().kind(), wanted);
            if let Ok(disk) = Disk::open_pages(&inner.pages(), &disk::named("vhd")) {
                disk.must_be(&SectorModel::new(16 * BLOCK));
            }
        }
    }
}

#[test]
fn a_fixed_disk_passes_errors_on() {
    let inner = Arc::new(MemoryStore::from_pages(
        VhdBuilder::fixed(&pattern(65536, 1)).build(),
    ));
    let store = Arc::new(FaultStore::new(inner, Which::Changes, Fault::Io));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    store.fail_at(1);
    assert_eq!(disk.image.trim(0, 512).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(store.len().unwrap(), 65536 + 512);
}
