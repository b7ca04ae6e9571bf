//! A store that remembers every change and every flush, and builds what a power cut can leave.
//!
//! Between two flushes a disk may have kept none of the changes, the first few, any one alone, all
//! but one, or a part of one: a 512-byte sector is whole, nothing larger is promised. Images are
//! built one at a time. A kill of the process (not of the machine) loses nothing that was written:
//! [`CrashStore::kill_images`].
//!
//! Tests call [`CrashStore::mark`] when an operation on the disk was answered, and learn from each
//! image how many of those marks it must show.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use virtdisk_format::Store;

use crate::memory::{check_inside, read_pages};
use crate::pages::Pages;

/// Bytes that a disk writes whole or not at all.
const ATOM: u64 = 512;

/// What a cut left of the file.
pub struct CrashImage {
    /// The file's contents.
    pub pages: Pages,
    /// Marks that a flush has followed: what they stand for must be in the file.
    pub settled: usize,
    /// Marks that came before the cut: what they stand for may be in the file.
    pub begun: usize,
    /// The cut in words, for the message of a failing test.
    pub what: String,
}

#[derive(Clone)]
enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    Zero { offset: u64, len: u64 },
    Length(u64),
}

#[derive(Clone)]
enum Entry {
    Change(Change),
    Flush,
    Mark,
}

/// What of an epoch's changes a cut has kept.
#[derive(Clone, Copy, Debug)]
enum Case {
    Prefix(usize),
    Alone(usize),
    AllBut(usize),
    /// The changes before it, or none of them, and `part` of this one.
    Torn {
        change: usize,
        after_prefix: bool,
        part: Part,
    },
}

/// Which sectors of a torn change arrived.
#[derive(Clone, Copy, Debug)]
enum Part {
    FirstSector,
    FirstHalf,
    AllButLastSector,
    LastSector,
    SecondHalf,
}

const PARTS: [Part; 5] = [
    Part::FirstSector,
    Part::FirstHalf,
    Part::AllButLastSector,
    Part::LastSector,
    Part::SecondHalf,
];

struct Recording {
    start: Pages,
    now: Pages,
    entries: Vec<Entry>,
}

/// A file in memory that records.
pub struct CrashStore {
    recording: Mutex<Recording>,
}

impl Default for CrashStore {
    fn default() -> Self {
        Self::new()
    }
}

impl CrashStore {
    /// An empty file; the recording starts here.
    #[must_use]
    pub fn new() -> Self {
        Self::from_pages(Pages::default())
    }

    /// A file with these contents, all of them durable; the recording starts here.
    #[must_use]
    pub fn from_pages(start: Pages) -> Self {
        let now = start.clone();
        Self {
            recording: Mutex::new(Recording {
                start,
                now,
                entries: Vec::new(),
            }),
        }
    }

    /// Notes that an operation on the disk was answered.
    pub fn mark(&self) {
        self.recording.lock().entries.push(Entry::Mark);
    }

    /// The contents now, as the next reader of the file would see them.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.recording.lock().now.clone()
    }

    /// Forgets the recording so far; the contents now count as durable.
    pub fn restart(&self) {
        let mut recording = self.recording.lock();
        recording.start = recording.now.clone();
        recording.entries.clear();
    }

    /// Changes recorded so far.
    #[must_use]
    pub fn changes(&self) -> usize {
        let recording = self.recording.lock();
        recording
            .entries
            .iter()
            .filter(|entry| matches!(entry, Entry::Change(_)))
            .count()
    }

    /// Every file that a power cut during the recording can have left.
    pub fn crash_images(&self) -> impl Iterator<Item = CrashImage> + use<> {
        epochs(&self.recording.lock()).flat_map(|epoch| {
            let epoch = Arc::new(epoch);
            let cases = epoch.cases();
            cases.into_iter().map(move |case| epoch.image(case))
        })
    }

    /// Every file that a kill of the process during the recording can have left: all changes up to
    /// some point, flushed or not. There `settled` and `begun` are the same: answered is kept.
    pub fn kill_images(&self) -> impl Iterator<Item = CrashImage> + use<> {
        let recording = self.recording.lock();
        let (mut pages, mut marks) = (recording.start.clone(), 0);
        let entries = recording.entries.clone();
        entries
            .into_iter()
            .enumerate()
            .filter_map(move |(index, entry)| {
                match entry {
                    Entry::Change(change) => change.apply(&mut pages),
                    Entry::Mark => marks += 1,
                    Entry::Flush => return None,
                }
                let what = format!("kill after entry {index}");
                Some(CrashImage {
                    pages: pages.clone(),
                    settled: marks,
                    begun: marks,
                    what,
                })
            })
    }

    fn change(&self, change: Change) {
        let mut recording = self.recording.lock();
        change.apply(&mut recording.now);
        recording.entries.push(Entry::Change(change));
    }
}

/// What happened between two flushes.
struct Epoch {
    number: usize,
    base: Pages,
    changes: Vec<Change>,
    settled: usize,
    /// Marks before each change, and at the end.
    begun: Vec<usize>,
    last: bool,
}

/// Splits a recording at its flushes.
fn epochs(recording: &Recording) -> impl Iterator<Item = Epoch> + use<> {
    let entries = recording.entries.clone();
    let mut base = recording.start.clone();
    let (mut position, mut settled, mut number) = (0, 0, 0);
    std::iter::from_fn(move || {
        if position >= entries.len() {
            return None;
        }
        let (mut changes, mut begun, mut marks) = (Vec::new(), Vec::new(), settled);
        let mut flushed = false;
        while let Some(entry) = entries.get(position) {
            position += 1;
            match entry {
                Entry::Change(change) => {
                    changes.push(change.clone());
                    begun.push(marks);
                }
                Entry::Mark => marks += 1,
                Entry::Flush => {
                    flushed = true;
                    break;
                }
            }
        }
        begun.push(marks);
        let last = position >= entries.len();
        let epoch = Epoch {
            number,
            base: base.clone(),
            changes,
            settled,
            begun,
            last,
        };
        epoch
            .changes
            .iter()
            .for_each(|change| change.apply(&mut base));
        number += 1;
        settled = if flushed { marks } else { settled };
        Some(epoch)
    })
}

impl Epoch {
    fn cases(&self) -> Vec<Case> {
        let count = self.changes.len();
        // The whole prefix is the next epoch's start, so only the last epoch shows it.
        let prefixes = if self.last {
            count
        } else {
            count.saturating_sub(1)
        };
        let mut cases: Vec<Case> = (0..=prefixes).map(Case::Prefix).collect();
        cases.extend((1..count).map(Case::Alone));
        if count > 2 {
            cases.extend((0..count - 1).map(Case::AllBut));
        }
        for (index, change) in self.changes.iter().enumerate() {
            for part in PARTS
                .into_iter()
                .filter(|&part| change.torn(part).is_some())
            {
                cases.push(Case::Torn {
                    change: index,
                    after_prefix: true,
                    part,
                });
                if index > 0 {
                    cases.push(Case::Torn {
                        change: index,
                        after_prefix: false,
                        part,
                    });
                }
            }
        }
        cases
    }

    fn image(&self, case: Case) -> CrashImage {
        let mut pages = self.base.clone();
        let mut apply = |changes: &[Change]| {
            changes.iter().for_each(|change| change.apply(&mut pages));
        };
        match case {
            Case::Prefix(count) => apply(&self.changes[..count]),
            Case::Alone(index) => apply(&self.changes[index..=index]),
            Case::AllBut(index) => {
                apply(&self.changes[..index]);
                apply(&self.changes[index + 1..]);
            }
            Case::Torn {
                change,
                after_prefix,
                part,
            } => {
                if after_prefix {
                    apply(&self.changes[..change]);
                }
                if let Some(torn) = self.changes[change].torn(part) {
                    apply(&[torn]);
                }
            }
        }
        let begun = match case {
            Case::Prefix(count) => self.begun[count],
            Case::Alone(index) => self.begun[index + 1],
            Case::AllBut(_) => self.begun[self.changes.len()],
            Case::Torn { change, .. } => self.begun[change + 1],
        };
        let what = format!(
            "power cut in flush interval {} of {} changes: {case:?}",
            self.number,
            self.changes.len()
        );
        CrashImage {
            pages,
            settled: self.settled,
            begun,
            what,
        }
    }
}

impl Change {
    fn apply(&self, pages: &mut Pages) {
        match self {
            Self::Write { offset, bytes } => pages.write(bytes, *offset),
            Self::Zero { offset, len } => pages.zero(*offset, *len),
            Self::Length(len) => pages.set_len(*len),
        }
    }

    /// The change with only `part` of its sectors; `None` if it touches a single sector, or if the
    /// part is one that another part already names.
    fn torn(&self, part: Part) -> Option<Self> {
        let (offset, len) = match self {
            Self::Write { offset, bytes } => (*offset, bytes.len() as u64),
            Self::Zero { offset, len } => (*offset, *len),
            Self::Length(_) => return None,
        };
        let end = offset + len;
        let (first, behind) = (offset / ATOM, end.div_ceil(ATOM));
        let sectors = behind - first;
        let repeats = match part {
            Part::FirstSector | Part::LastSector => sectors < 2,
            Part::FirstHalf | Part::SecondHalf => sectors < 4,
            Part::AllButLastSector => sectors < 3,
        };
        if repeats {
            return None;
        }
        let (from, to) = match part {
            Part::FirstSector => (first, first + 1),
            Part::FirstHalf => (first, first + sectors / 2),
            Part::AllButLastSector => (first, behind - 1),
            Part::LastSector => (behind - 1, behind),
            Part::SecondHalf => (first + sectors / 2, behind),
        };
        let (from, to) = ((from * ATOM).max(offset), (to * ATOM).min(end));
        Some(match self {
            Self::Write { bytes, .. } => Self::Write {
                offset: from,
                bytes: bytes[(from - offset) as usize..(to - offset) as usize].into(),
            },
            _ => Self::Zero {
                offset: from,
                len: to - from,
            },
        })
    }
}

impl Store for CrashStore {
    fn len(&self) -> io::Result<u64> {
        Ok(self.recording.lock().now.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len));
        Ok(())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        read_pages(&self.recording.lock().now, buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if !buf.is_empty() {
            self.change(Change::Write {
                offset,
                bytes: buf.into(),
            });
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.recording.lock().entries.push(Entry::Flush);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        check_inside(&self.recording.lock().now, offset, len)?;
        if len > 0 {
            self.change(Change::Zero { offset, len });
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if Store::len(self)? < len {
            self.change(Change::Length(len));
        }
        Ok(())
    }
}
