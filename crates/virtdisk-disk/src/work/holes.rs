//! Holes of a file, as its file system knows them.
//!
//! The descriptor of a disk is never sought on: whoever sent it may use its cursor. So the file is
//! opened once more through `/proc/self/fd`, for reading and without its locks; where that is not
//! to be had (a sandbox, no `/proc`), the file has no holes that we know of, and all is read.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A file, asked for its holes.
pub(super) struct Holes {
    file: File,
}

/// What stands at an offset, and for how many bytes at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    /// A hole: zeros.
    Hole(u64),
    /// Bytes to be read, zeros among them perhaps.
    Data(u64),
}

impl Holes {
    /// `None` where the file cannot be opened once more.
    pub(super) fn of(file: impl AsFd) -> Option<Self> {
        let number = file.as_fd().as_raw_fd();
        let file = File::open(format!("/proc/self/fd/{number}")).ok()?;
        Some(Self { file })
    }

    /// What stands at `offset`, looked at up to `len` bytes; never longer than that, never empty
    /// unless `len` is 0.
    pub(super) fn at(&self, offset: u64, len: u64) -> Stretch {
        let data = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // No data from here to the end of the file. What ends behind that end is no hole: the
            // file was cut, and whoever reads there finds out.
            Err(Errno::NXIO) if self.holds(offset, len) => return Stretch::Hole(len),
            Err(_) => return Stretch::Data(len),
        };
        if let Some(hole) = data.checked_sub(offset).filter(|&hole| hole > 0) {
            return Stretch::Hole(hole.min(len));
        }
        match seek(&self.file, SeekFrom::Hole(offset)) {
            Ok(hole) if hole > offset => Stretch::Data((hole - offset).min(len)),
            _ => Stretch::Data(len),
        }
    }

    fn holds(&self, offset: u64, len: u64) -> bool {
        let end = offset.checked_add(len);
        let length = self.file.metadata().map(|facts| facts.len());
        matches!((end, length), (Some(end), Ok(length)) if end <= length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_and_data_are_told_apart_and_the_cursor_stays() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[1; 65536], 1 << 20).unwrap();
        let holes = Holes::of(&file).unwrap();
        if holes.at(0, 4 << 20) == Stretch::Data(4 << 20) {
            return; // A file system without holes.
        }
        assert_eq!(holes.at(0, 4 << 20), Stretch::Hole(1 << 20));
        assert_eq!(holes.at(0, 100), Stretch::Hole(100));
        assert_eq!(holes.at(1 << 20, 4096), Stretch::Data(4096));
        assert_eq!(holes.at(2 << 20, 2 << 20), Stretch::Hole(2 << 20));
        // Behind the end is no hole: the file was cut.
        assert_eq!(holes.at(3 << 20, 2 << 20), Stretch::Data(2 << 20));
        assert_eq!(seek(&file, SeekFrom::Current(0)), Ok(0));
    }
}
