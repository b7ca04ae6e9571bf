//! What every disk must do, whatever its format and whatever it stands on.
//!
//! [`run`] changes the disk's contents. Each check is a function of its own, so that a test can
//! also run one alone; all of them panic with a sentence that names the range.

use virtdisk_disk::{Disk, ErrorKind, LayerExtent, Place};

use crate::model::{SectorModel, Verb};
use crate::rng::Rng;

/// Runs all checks on a writable disk of at least 64 KiB that nobody else uses meanwhile.
///
/// # Panics
/// If the disk does not do what a disk must do.
pub fn run(disk: &Disk, rng: &mut Rng) {
    ranges_past_the_end_are_refused(disk);
    bytes_come_back_at_any_alignment(disk, rng);
    zeroed_ranges_read_zeros_and_neighbours_stay(disk, rng);
    extents_cover_exactly_the_range(disk, rng);
    writers_side_by_side_do_not_mix(disk, rng);
    let mut model = model_of(disk);
    random_verbs(disk, &mut model, rng, 200);
}

/// The contents of a disk as a model.
///
/// # Panics
/// If the disk cannot be read.
#[must_use]
pub fn model_of(disk: &Disk) -> SectorModel {
    let mut model = SectorModel::new(disk.facts().virtual_size);
    for extent in all_extents(disk) {
        if extent.place == Place::Zero {
            continue;
        }
        let mut offset = extent.start;
        while offset < extent.end() {
            let len = (extent.end() - offset).min(1 << 20);
            model.write(&read(disk, offset, len), offset);
            offset += len;
        }
    }
    model
}

/// Requires that the whole disk reads as the model says.
///
/// # Panics
/// If it does not; the message names the first byte.
#[allow(clippy::panic)]
pub fn must_agree(disk: &Disk, model: &SectorModel) {
    if let Err(difference) = model.compare(|buf, offset| disk.read_at(buf, offset)) {
        panic!("{}: {difference}", disk.name());
    }
}

/// Does a verb to a disk.
///
/// # Errors
/// The disk's.
pub fn apply(disk: &Disk, verb: &Verb) -> virtdisk_disk::Result<()> {
    match *verb {
        Verb::Write { offset, len, seed } => disk.write_at(&Verb::bytes(len, seed), offset),
        Verb::Zero { offset, len, unmap } => disk.zero(offset, len, unmap),
        Verb::Trim { offset, len } => disk.trim(offset, len),
        Verb::Flush => disk.flush(),
    }
}

/// Does random verbs to the disk and to the model and requires that they agree all the while.
///
/// # Panics
/// If they don't.
#[allow(clippy::panic)]
pub fn random_verbs(disk: &Disk, model: &mut SectorModel, rng: &mut Rng, count: usize) {
    let size = disk.facts().virtual_size;
    for step in 0..count {
        let align = *rng.pick(&[1, 512, 512, 4096]);
        let verb = Verb::random(rng, size, align.min(size), 1 << 22);
        if let Err(error) = apply(disk, &verb) {
            panic!("{error} at step {step}: {verb:?} (seed {})", rng.seed());
        }
        model.apply(&verb);
        let range = verb.range();
        let from = range.start.saturating_sub(4096);
        let to = (range.end + 4096).min(size);
        let place = format!("step {step}: {verb:?} (seed {})", rng.seed());
        let (found, wanted) = (read(disk, from, to - from), model.read(from, to - from));
        let differs = found
            .iter()
            .zip(&wanted)
            .position(|(found, wanted)| found != wanted);
        if let Some(differs) = differs {
            let byte = from + differs as u64;
            let (found, wanted) = (found[differs], wanted[differs]);
            panic!("byte {byte} is {found:#04x}, wanted {wanted:#04x} after {place}");
        }
        // Somewhere else too: a write that lands twice is the mistake to catch.
        let elsewhere = rng.below(size);
        let len = (size - elsewhere).min(8192);
        assert!(
            read(disk, elsewhere, len) == model.read(elsewhere, len),
            "beside {place}"
        );
    }
    must_agree(disk, model);
}

/// A range that is not inside the disk is refused by every verb, and nothing changes.
///
/// # Panics
/// If it is not.
pub fn ranges_past_the_end_are_refused(disk: &Disk) {
    let size = disk.facts().virtual_size;
    let tail = read(disk, size - 512, 512);
    for (offset, len) in [
        (size, 1),
        (size - 1, 2),
        (size + 1, 0),
        (u64::MAX, 1),
        (u64::MAX, 0),
    ] {
        let mut buf = vec![1; len as usize];
        let answers = [
            disk.read_at(&mut buf, offset),
            disk.write_at(&buf, offset),
            disk.zero(offset, len, false),
            disk.zero(offset, len, true),
            disk.trim(offset, len),
            disk.extents(offset, len).map(drop),
        ];
        for (verb, answer) in answers.into_iter().enumerate() {
            let kind = answer.err().map(|error| error.kind());
            assert_eq!(
                kind,
                Some(ErrorKind::OutOfRange),
                "verb {verb} at {offset}, {len} bytes"
            );
        }
    }
    let too_long = [disk.zero(0, u64::MAX, false), disk.trim(1, u64::MAX)];
    assert!(too_long.iter().all(Result::is_err));
    assert!(
        read(disk, size - 512, 512) == tail,
        "a refused write changed the disk"
    );
    for offset in [0, size] {
        assert!(disk.read_at(&mut [], offset).is_ok() && disk.write_at(&[], offset).is_ok());
        assert!(disk.zero(offset, 0, false).is_ok() && disk.trim(offset, 0).is_ok());
        assert!(
            disk.extents(offset, 0)
                .is_ok_and(|extents| extents.is_empty())
        );
    }
}

/// What is written at odd offsets and lengths comes back, to the disk's last byte.
///
/// # Panics
/// If it does not.
pub fn bytes_come_back_at_any_alignment(disk: &Disk, rng: &mut Rng) {
    let size = disk.facts().virtual_size;
    for (offset, len) in [
        (0, 1),
        (1, 511),
        (511, 2),
        (4095, 4098),
        (size - 1, 1),
        (size - 513, 513),
    ] {
        let around = (offset.saturating_sub(600), (offset + len + 600).min(size));
        let before = read(disk, around.0, around.1 - around.0);
        let bytes = rng.bytes(len as usize);
        must(disk.write_at(&bytes, offset));
        let mut wanted = before;
        let start = (offset - around.0) as usize;
        wanted[start..start + bytes.len()].copy_from_slice(&bytes);
        let found = read(disk, around.0, around.1 - around.0);
        assert!(found == wanted, "write of {len} bytes at {offset}");
    }
    must(disk.flush());
}

/// Zero with and without unmap, and trim: zeros inside, the neighbours as they were, and the range
/// can be written again.
///
/// # Panics
/// If not.
pub fn zeroed_ranges_read_zeros_and_neighbours_stay(disk: &Disk, rng: &mut Rng) {
    let size = disk.facts().virtual_size;
    let span = size.min(3 << 21);
    for (offset, len) in [
        (512, 512),
        (700, 9000),
        (0, span),
        (span / 3, span / 3),
        (1, span - 2),
    ] {
        for verb in [
            Verb::Zero {
                offset,
                len,
                unmap: false,
            },
            Verb::Zero {
                offset,
                len,
                unmap: true,
            },
            Verb::Trim { offset, len },
        ] {
            must(disk.write_at(&rng.bytes(span as usize), 0));
            let mut wanted = read(disk, 0, span);
            must(apply(disk, &verb));
            wanted[offset as usize..(offset + len) as usize].fill(0);
            assert!(read(disk, 0, span) == wanted, "{verb:?}");
            // Again on what is zero already, then new data in the middle of it.
            must(apply(disk, &verb));
            let middle = (offset + len / 2) as usize;
            must(disk.write_at(&[0xEE], middle as u64));
            wanted[middle] = 0xEE;
            assert!(read(disk, 0, span) == wanted, "write after {verb:?}");
        }
    }
}

/// Extents are sorted, without gap or overlap, merged, and zero extents read zeros.
///
/// # Panics
/// If not.
pub fn extents_cover_exactly_the_range(disk: &Disk, rng: &mut Rng) {
    let size = disk.facts().virtual_size;
    must(disk.trim(0, size));
    for _ in 0..4 {
        let offset = rng.below(size - 4096);
        must(disk.write_at(&rng.bytes(4096), offset));
    }
    for _ in 0..20 {
        let start = rng.below(size);
        let len = 1 + rng.below(size - start);
        let extents = match disk.extents(start, len) {
            Ok(extents) => extents,
            Err(error) => unwanted(&error),
        };
        let mut next = start;
        for extent in &extents {
            assert!(
                extent.start == next && extent.len > 0,
                "gap or overlap at {next}"
            );
            next = extent.end();
            if extent.place == Place::Zero {
                let piece = extent.len.min(1 << 16);
                let bytes = read(disk, extent.start, piece);
                assert!(
                    bytes.iter().all(|&byte| byte == 0),
                    "zero extent at {}",
                    extent.start
                );
            }
        }
        assert_eq!(next, start + len, "extents end elsewhere");
        let merged = extents.windows(2).all(|pair| {
            let zeros = pair[0].is_zero() && pair[1].is_zero();
            !zeros || pair[0].layer != pair[1].layer
        });
        assert!(merged, "neighbouring zero extents of one layer");
    }
}

/// Four threads write, read and trim in ranges of their own, interleaved sector by sector so that
/// they meet in every block.
///
/// # Panics
/// If one finds another's bytes.
pub fn writers_side_by_side_do_not_mix(disk: &Disk, rng: &mut Rng) {
    const THREADS: u64 = 4;
    let size = disk.facts().virtual_size.min(8 << 20);
    let stripes = (size / 512 / THREADS).min(256);
    let stride = size / stripes / 512 / THREADS * 512 * THREADS;
    let seeds: Vec<u64> = (0..THREADS).map(|_| rng.number()).collect();
    std::thread::scope(|scope| {
        for (thread, seed) in (0..THREADS).zip(seeds) {
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                for round in 0..2 {
                    for stripe in 0..stripes {
                        let offset = stripe * stride + thread * 512;
                        let bytes = rng.bytes(512);
                        must(disk.write_at(&bytes, offset));
                        assert!(
                            read(disk, offset, 512) == bytes,
                            "at {offset}, round {round}"
                        );
                        if stripe % 64 == 63 {
                            must(disk.trim(offset, 512));
                            assert!(read(disk, offset, 512) == [0; 512], "trimmed {offset}");
                        }
                    }
                    must(disk.flush());
                }
            });
        }
    });
}

fn all_extents(disk: &Disk) -> Vec<LayerExtent> {
    match disk.extents(0, disk.facts().virtual_size) {
        Ok(extents) => extents.into_vec(),
        Err(error) => unwanted(&error),
    }
}

fn read(disk: &Disk, offset: u64, len: u64) -> Vec<u8> {
    // Filled first, so that bytes which nobody delivers are seen.
    let mut bytes = vec![0x5A; len as usize];
    must(disk.read_at(&mut bytes, offset));
    bytes
}

fn must(answer: virtdisk_disk::Result<()>) {
    if let Err(error) = answer {
        unwanted(&error);
    }
}

#[allow(clippy::panic)]
fn unwanted(error: &virtdisk_disk::Error) -> ! {
    panic!("the disk refused what it must do: {error:?}")
}
