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

fn ask(disk: &Bytes, view: &View, operation: Operation, data: &mut [u8]) -> Reply {
    answer(disk, view, operation, data)
}

#[test]
fn reads_stay_inside_the_part_that_is_shown() {
    let (disk, view) = shown(false);
    for (offset, size, wanted) in [(0, 4, 10..14), (8, 100, 18..20), (10, 1, 0..0)] {
        let mut data = [0; 128];
        let reply = ask(&disk, &view, Operation::Read { offset, size }, &mut data);
        assert_eq!(reply, Reply::Data(wanted.len()));
        assert!(data[..wanted.len()].iter().copied().eq(wanted));
    }
    let past = Operation::Read {
        offset: u64::MAX,
        size: u32::MAX,
    };
    assert_eq!(ask(&disk, &view, past, &mut [0; 8]), Reply::Data(0));
    // More than the buffer can hold.
    let big = Operation::Read { offset: 0, size: 9 };
    assert_eq!(ask(&disk, &view, big, &mut [0; 8]), Reply::Error(22));
}

#[test]
fn nothing_outside_the_part_that_is_shown_is_written() {
    let (disk, view) = shown(false);
    let write =
        |offset, size, data: &mut [u8]| ask(&disk, &view, Operation::Write { offset, size }, data);
    assert!(matches!(write(8, 4, &mut [99; 4]), Reply::Words(words, 8) if words[0] == 2));
    assert_eq!(write(10, 4, &mut [99; 4]), Reply::Error(28));
    assert_eq!(write(u64::MAX, 4, &mut [99; 4]), Reply::Error(28));
    for (offset, length) in [(5, 100), (10, 5), (200, 1)] {
        for mode in [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE] {
            let allocate = Operation::Allocate {
                offset,
                length,
                mode,
            };
            assert_eq!(ask(&disk, &view, allocate, &mut []), Reply::Done);
        }
    }
    let mut wanted: Vec<u8> = (0..30).collect();
    wanted[15..20].fill(0);
    assert_eq!(*disk.0.lock().unwrap(), wanted);
    let grow = Operation::Allocate {
        offset: 5,
        length: 6,
        mode: ZERO_RANGE,
    };
    assert_eq!(ask(&disk, &view, grow, &mut []), Reply::Error(28));
    let reserve = Operation::Allocate {
        offset: 0,
        length: 6,
        mode: 0,
    };
    assert_eq!(ask(&disk, &view, reserve, &mut []), Reply::Error(95));
    let wraps = Operation::Allocate {
        offset: 9,
        length: u64::MAX,
        mode: PUNCH_HOLE,
    };
    assert_eq!(ask(&disk, &view, wraps, &mut []), Reply::Error(27));
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
        assert_eq!(ask(&disk, &view, operation, &mut [7; 1]), Reply::Error(30));
    }
    assert!(matches!(
        ask(&disk, &view, Operation::Open { flags: 0 }, &mut []),
        Reply::Words(_, 16)
    ));
    assert!(disk.0.lock().unwrap().iter().copied().eq(0..30));
}

#[test]
fn the_size_can_be_set_to_what_it_is_and_nothing_else_changed() {
    let (disk, view) = shown(false);
    let set = |valid, size| {
        ask(
            &disk,
            &view,
            Operation::SetAttributes { valid, size },
            &mut [],
        )
    };
    assert!(matches!(
        set(FATTR_SIZE | FATTR_SILENT, 10),
        Reply::Words(_, 104)
    ));
    assert_eq!(set(FATTR_SIZE, 0), Reply::Error(1));
    assert_eq!(set(1, 0), Reply::Error(1));
}

#[test]
fn errors_of_the_disk_and_unknown_requests_are_answered() {
    let (disk, view) = shown(false);
    assert_eq!(
        ask(&disk, &view, Operation::Fsync, &mut []),
        Reply::Error(5)
    );
    assert_eq!(
        ask(&disk, &view, Operation::Unknown, &mut []),
        Reply::Error(38)
    );
    assert_eq!(
        ask(&disk, &view, Operation::Silent, &mut []),
        Reply::Silence
    );
    assert_eq!(ask(&disk, &view, Operation::Nothing, &mut []), Reply::Done);
}

#[test]
fn seeking_finds_data_and_holes_inside_the_part_that_is_shown() {
    let (disk, view) = shown(false);
    disk.0.lock().unwrap()[10..13].fill(0);
    let seek = |offset, whence| ask(&disk, &view, Operation::Seek { offset, whence }, &mut []);
    let at = |offset| Reply::words(&SeekOut { offset });
    assert_eq!(seek(0, SEEK_DATA), at(3));
    assert_eq!(seek(0, SEEK_HOLE), at(0));
    assert_eq!(seek(3, SEEK_HOLE), at(10));
    assert_eq!(seek(10, SEEK_DATA), Reply::Error(6));
    assert_eq!(seek(0, 0), Reply::Error(22));
    disk.0.lock().unwrap()[10..20].fill(0);
    assert_eq!(seek(0, SEEK_DATA), Reply::Error(6));
}
