//! The disk floor's own rules, over images that are no format: ranges, the gate, errors, closing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use virtdisk_disk::{Disk, ErrorKind, Place, Store};
use virtdisk_testkit::toy::{BlockImage, FlatImage, flat_disk};
use virtdisk_testkit::{Fault, FaultStore, MemoryStore, Pages, Rng, Which, conformance};

#[test]
fn a_flat_disk_conforms() {
    let mut rng = Rng::announced("a_flat_disk_conforms");
    conformance::run(&flat_disk(Pages::zeroed(5 << 20)), &mut rng);
}

#[test]
fn a_block_disk_conforms() {
    let mut rng = Rng::announced("a_block_disk_conforms");
    for (size, block) in [
        (64 << 10, 4096),
        (5 << 20, 1 << 16),
        ((3 << 20) + 512, 1 << 21),
    ] {
        let (disk, _) = BlockImage::disk(size, block);
        conformance::run(&disk, &mut rng);
    }
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn no_trim_runs_beside_a_write() {
    // The image itself asserts that no reservation is open while it trims.
    let (disk, image) = BlockImage::disk(1 << 20, 4096);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (disk, stop) = (disk.clone(), &stop);
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                while !stop.load(Ordering::SeqCst) {
                    let offset = rng.below((1 << 20) - 8192);
                    disk.write_at(&[7; 8192], offset).unwrap();
                }
            });
        }
        // Also when the image's assertion fails, or the writers would go on for ever.
        let _stop = StopAtEnd(&stop);
        let start = Instant::now();
        while image.trims() < 50 && start.elapsed() < Duration::from_secs(20) {
            disk.trim(0, 1 << 20).unwrap();
        }
    });
    assert!(image.trims() >= 50, "only {} trims", image.trims());
}

#[test]
fn a_trim_of_what_is_zero_already_does_not_reach_the_image() {
    let (disk, image) = BlockImage::disk(1 << 20, 4096);
    disk.trim(0, 1 << 20).unwrap();
    disk.zero(0, 1 << 20, true).unwrap();
    assert_eq!(image.trims(), 0);
    disk.write_at(&[1], 5000).unwrap();
    disk.trim(0, 4096).unwrap();
    assert_eq!(image.trims(), 0);
    disk.trim(0, 8192).unwrap();
    assert_eq!(image.trims(), 1);
}

#[test]
fn a_closed_disk_refuses_everything_but_another_close() {
    let disk = flat_disk(Pages::zeroed(1 << 20));
    let clone = disk.clone();
    disk.close().unwrap();
    let mut buf = [0; 512];
    let answers = [
        clone.read_at(&mut buf, 0),
        clone.write_at(&buf, 0),
        clone.zero(0, 512, false),
        clone.trim(0, 512),
        clone.flush(),
        clone.validate(),
        clone.extents(0, 512).map(drop),
        clone.physical().map(drop),
    ];
    for (verb, answer) in answers.into_iter().enumerate() {
        let kind = answer.err().map(|error| error.kind());
        assert_eq!(kind, Some(ErrorKind::WritesRefused), "verb {verb}");
    }
    clone.close().unwrap();
}

#[test]
fn zeroing_without_unmap_keeps_the_space() {
    let (disk, image) = BlockImage::disk(1 << 20, 4096);
    disk.write_at(&[1; 8192], 0).unwrap();
    disk.zero(0, 1 << 20, false).unwrap();
    assert_eq!(image.trims(), 0);
    assert_eq!(disk.physical().unwrap().blocks_allocated, 2);
    let extents = disk.extents(0, 8192).unwrap();
    assert!(
        extents
            .iter()
            .all(|extent| matches!(extent.place, Place::Data { .. }))
    );
}

#[test]
fn a_full_file_system_is_enospc_and_the_disk_goes_on() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::from_pages(Pages::zeroed(1 << 20)));
    let faulty = Arc::new(FaultStore::new(memory, Which::Space, Fault::NoSpace));
    let store: Arc<dyn Store> = Arc::<FaultStore>::clone(&faulty);
    let image = FlatImage::new(Arc::clone(&store), 0, 1 << 20);
    let disk = Disk::over(Box::new(image), store, "full.img");
    faulty.fail_at(1);
    let error = disk.write_at(&[1; 512], 0).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::NoSpace, 28));
    assert_eq!(
        error.to_string(),
        "full.img: the data at byte 0 cannot be written"
    );
    disk.write_at(&[1; 512], 0).unwrap();
}

#[test]
fn a_broken_file_is_eio_for_every_verb() {
    for verb in 0..4 {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::from_pages(Pages::zeroed(1 << 20)));
        let faulty = Arc::new(FaultStore::new(memory, Which::All, Fault::Io));
        let store: Arc<dyn Store> = Arc::<FaultStore>::clone(&faulty);
        let image = FlatImage::new(Arc::clone(&store), 0, 1 << 20);
        let disk = Disk::over(Box::new(image), store, "broken.img");
        faulty.fail_at(1);
        let answer = match verb {
            0 => disk.read_at(&mut [0; 512], 0),
            1 => disk.write_at(&[0; 512], 0),
            2 => disk.flush(),
            _ => disk.zero(0, 512, false),
        };
        assert_eq!(answer.unwrap_err().errno(), 5, "verb {verb}");
    }
}

#[test]
fn writes_refused_by_the_format_reach_the_caller() {
    let (disk, image) = BlockImage::disk(1 << 20, 4096);
    disk.write_at(&[1; 512], 0).unwrap();
    image.refuse_writes();
    for answer in [
        disk.write_at(&[2; 512], 0),
        disk.zero(0, 512, false),
        disk.trim(0, 512),
    ] {
        let error = answer.unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::WritesRefused, 5));
    }
    let mut buf = [0; 512];
    disk.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf, [1; 512]);
}

#[test]
fn a_read_only_disk_refuses_changes_with_erofs_even_of_zeros() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::from_pages(Pages::zeroed(1 << 20)));
    let mut image = FlatImage::new(Arc::clone(&store), 0, 1 << 20);
    image.facts_mut().read_only = true;
    let disk = Disk::over(Box::new(image), store, "odd.img");
    assert!(disk.is_read_only());
    for answer in [
        disk.write_at(&[], 0),
        disk.write_at(&[0; 512], 0),
        disk.zero(0, 512, false),
        disk.zero(0, 512, true),
        disk.trim(0, 512),
    ] {
        assert_eq!(answer.unwrap_err().errno(), 30);
    }
    disk.flush().unwrap();
}

#[test]
fn a_store_that_became_shorter_is_an_error_and_never_zeros() {
    let memory = Arc::new(MemoryStore::from_bytes(&[7; 1 << 16]));
    let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&memory);
    let image = FlatImage::new(Arc::clone(&store), 0, 1 << 16);
    let disk = Disk::over(Box::new(image), store, "cut.img");
    memory.cut(5000);
    let mut buf = [0; 4096];
    disk.read_at(&mut buf, 0).unwrap();
    let error = disk.read_at(&mut buf, 4096).unwrap_err();
    assert_eq!(
        (error.kind(), error.errno()),
        (ErrorKind::InvalidFileSize, 5)
    );
    assert!(
        error.to_string().contains("cut while it was open"),
        "{error}"
    );
    let changes = [
        disk.write_at(&[1; 512], 60_000),
        disk.zero(60_000, 512, false),
    ];
    for answer in changes {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::InvalidFileSize);
    }
    assert_eq!(
        memory.pages().len(),
        5000,
        "a refused write made the file longer"
    );
}

#[test]
fn terminal_escapes_in_a_name_are_shown_and_not_sent() {
    // S-8
    let store: Arc<dyn Store> = Arc::new(MemoryStore::from_pages(Pages::zeroed(512)));
    let image = FlatImage::new(Arc::clone(&store), 0, 512);
    let disk = Disk::over(Box::new(image), store, "a\u{1b}[2Jb\n.vhd");
    assert_eq!(disk.name(), "a\\u{1b}[2Jb\\n.vhd");
    let error = disk.read_at(&mut [0], 512).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a\\u{1b}[2Jb\\n.vhd: the range of 1 bytes from byte 512 on is not inside the virtual \
         disk of 512 bytes"
    );
}
