//! Every request against a disk in memory of which only a part is shown.
//!
//! A unit test, as what it asks is private to the transport; long, so in a file of its own.

use std::sync::Mutex;

use super::*;

/// Bytes in memory.
struct Bytes(Mutex<Vec<u8>>);

impl Served for Bytes {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), i32> {
        let at = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.0.lock().unwrap()[at..at + buffer.len()]);
        Ok(())
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), i32> {
        let at = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), i32> {
        self.write_at(&vec![0; usize::try_from(length).unwrap()], offset)
    }
    fn trim(&self, offset: u64, length: u64) -> Result<(), i32> {
        self.zero(offset, length)
    }
    fn flush(&self) -> Result<(), i32> {
        Err(5)
    }
    fn look(&self, offset: u64, look: Look) -> Result<Option<u64>, i32> {
        let bytes = self.0.lock().unwrap();
        let wanted = |byte: &u8| (*byte == 0) == (look == Look::Hole);
        let from = usize::try_from(offset).unwrap();
        Ok(bytes
            .iter()
            .skip(from)
            .position(wanted)
            .map(|at| offset + at as u64))
    }
}

/// Bytes 10 to 19 of 30 bytes that say their own offset.
fn shown(read_only: bool) -> (Bytes, View) {
    (
        Bytes(Mutex::new((0..30).collect())),
        View {
            offset: 10,
            length: 10,
            read_only,
        },
    )
}

/// The reply, and the data that goes with it; a WRITE carries bytes of 99.
fn ask(disk: &Bytes, view: &View, operation: Operation) -> (Reply, Vec<u8>) {
    let mut data = vec![99; 128];
    let reply = answer(disk, view, operation, &mut data);
    if let Reply::Data(length) = reply {
        data.truncate(length);
    }
    (reply, data)
}

#[test]
fn reads_stay_inside_the_part_that_is_shown() {
    let (disk, view) = shown(false);
    for (offset, size, wanted) in [(0, 4, 10..14), (8, 100, 18..20), (10, 1, 0..0)] {
        let (reply, data) = ask(&disk, &view, Operation::Read { offset, size });
        assert_eq!(reply, Reply::Data(wanted.len()));
        assert!(data.iter().copied().eq(wanted));
    }
    let past = Operation::Read {
        offset: u64::MAX,
        size: u32::MAX,
    };
    assert_eq!(ask(&disk, &view, past).0, Reply::Data(0));
    // More than the buffer can hold.
    let big = Operation::Read { offset: 0, size: 9 };
    assert_eq!(answer(&disk, &view, big, &mut [0; 8]), Reply::Error(22));
}

#[test]
fn nothing_outside_the_part_that_is_shown_is_written() {
    let (disk, view) = shown(false);
    let write = |offset, size| ask(&disk, &view, Operation::Write { offset, size });
    assert_eq!(write(8, 4), (Reply::Data(8), vec![2, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(write(10, 4).0, Reply::Error(28));
    assert_eq!(write(u64::MAX, 4).0, Reply::Error(28));
    let mut wanted: Vec<u8> = (0..30).collect();
    wanted[18..20].fill(99);
    assert_eq!(*disk.0.lock().unwrap(), wanted);
}

#[test]
fn nothing_outside_the_part_that_is_shown_is_zeroed() {
    let (disk, view) = shown(false);
    let allocate = |offset, length, mode| {
        ask(
            &disk,
            &view,
            Operation::Allocate {
                offset,
                length,
                mode,
            },
        )
        .0
    };
    for (offset, length) in [(5, 100), (10, 5), (200, 1)] {
        for mode in [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE] {
            assert_eq!(allocate(offset, length, mode), Reply::DONE);
        }
    }
    let mut wanted: Vec<u8> = (0..30).collect();
    wanted[15..20].fill(0);
    assert_eq!(*disk.0.lock().unwrap(), wanted);
    // It would grow; it would only reserve; its end is no number.
    assert_eq!(allocate(5, 6, ZERO_RANGE), Reply::Error(28));
    assert_eq!(allocate(0, 6, 0), Reply::Error(95));
    assert_eq!(allocate(9, u64::MAX, PUNCH_HOLE), Reply::Error(27));
    assert_eq!(*disk.0.lock().unwrap(), wanted);
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let (disk, view) = shown(true);
    let refused = [
        Operation::Write { offset: 0, size: 1 },
        Operation::Allocate {
            offset: 0,
            length: 1,
            mode: PUNCH_HOLE | KEEP_SIZE,
        },
        Operation::Open { flags: 1 },
        Operation::Open { flags: 2 },
    ];
    for operation in refused {
        assert_eq!(ask(&disk, &view, operation).0, Reply::Error(30));
    }
    assert_eq!(
        ask(&disk, &view, Operation::Open { flags: 0 }).0,
        Reply::Data(16)
    );
    assert!(disk.0.lock().unwrap().iter().copied().eq(0..30));
}

#[test]
fn the_size_can_be_set_to_what_it_is_and_nothing_else_changed() {
    let (disk, view) = shown(false);
    let set = |valid, size| ask(&disk, &view, Operation::SetAttributes { valid, size }).0;
    assert_eq!(set(FATTR_SIZE | FATTR_SILENT, 10), Reply::Data(104));
    assert_eq!(set(FATTR_SIZE, 0), Reply::Error(1));
    assert_eq!(set(1, 0), Reply::Error(1));
}

#[test]
fn errors_of_the_disk_and_unknown_requests_are_answered() {
    let (disk, view) = shown(false);
    assert_eq!(ask(&disk, &view, Operation::Fsync).0, Reply::Error(5));
    assert_eq!(ask(&disk, &view, Operation::Unknown).0, Reply::Error(38));
    assert_eq!(ask(&disk, &view, Operation::Silent).0, Reply::Silence);
    assert_eq!(ask(&disk, &view, Operation::Nothing).0, Reply::DONE);
}

#[test]
fn seeking_finds_data_and_holes_inside_the_part_that_is_shown() {
    let (disk, view) = shown(false);
    disk.0.lock().unwrap()[10..13].fill(0);
    let seek = |offset, whence| ask(&disk, &view, Operation::Seek { offset, whence });
    let at = |offset: u64| (Reply::Data(8), offset.to_ne_bytes().to_vec());
    assert_eq!(seek(0, SEEK_DATA), at(3));
    assert_eq!(seek(0, SEEK_HOLE), at(0));
    assert_eq!(seek(3, SEEK_HOLE), at(10));
    assert_eq!(seek(10, SEEK_DATA).0, Reply::Error(6));
    assert_eq!(seek(0, 0).0, Reply::Error(22));
    disk.0.lock().unwrap()[10..20].fill(0);
    assert_eq!(seek(0, SEEK_DATA).0, Reply::Error(6));
}
