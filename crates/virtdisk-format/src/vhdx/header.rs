//! The two headers: which one counts, where the log is, and how they are changed.
//!
//! Reading keeps the header that counts, whole, with its reserved bytes. A change writes the
//! other place with the next sequence number, flushes, and does the same again for the place that
//! counted before: a cut at any instant leaves one good header, the old or the new one.

use uuid::Uuid;
use zerocopy::{FromZeros, IntoBytes};

use super::layout::{
    CHECKSUM_AT, HEADER_SECTION, HEADER_SIGNATURE, HEADERS_AT, MIB, RawHeader, VERSION, checksum,
    guid,
};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Severity, Sink};
use crate::store::Store;

/// The header that counts, and in which of the two places it stands.
#[derive(Clone)]
pub(crate) struct Headers {
    pub(crate) current: RawHeader,
    place: usize,
}

/// The log's place in the file, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPlace {
    /// File offset in bytes.
    pub(crate) offset: u64,
    /// Bytes; 0 only where there is nothing to replay.
    pub(crate) length: u64,
}

/// Why a header does not count, `None` where it does.
fn flaw(raw: &RawHeader, place: usize) -> Option<Error> {
    let at = HEADERS_AT[place];
    if raw.signature != HEADER_SIGNATURE {
        let error = Error::new(ErrorKind::HeaderCorrupt, "VHDX header", "is missing");
        return Some(error.at(at).with_wanted("head").by("X-1"));
    }
    let sum = checksum(raw.as_bytes());
    if raw.checksum.get() != sum {
        return Some(
            Error::new(
                ErrorKind::HeaderChecksum,
                "VHDX header",
                "has a wrong checksum",
            )
            .at(at.saturating_add(CHECKSUM_AT as u64))
            .with_found(format_args!("{:08x}", raw.checksum.get()))
            .with_wanted(format_args!("{sum:08x}"))
            .by("X-1"),
        );
    }
    (raw.version.get() != VERSION).then(|| {
        Error::new(
            ErrorKind::HeaderVersion,
            "VHDX header",
            "has a version that is not known",
        )
        .at(at.saturating_add(66))
        .with_found(raw.version.get())
        .with_wanted(VERSION)
        .by("X-1")
    })
}

impl RawHeader {
    /// Whether it is one that can count, at either place.
    pub(crate) fn is_sound(&self) -> bool {
        flaw(self, 0).is_none()
    }
}

impl Headers {
    /// Reads both headers. In recovery one with a wrong checksum may count, and two that tie.
    pub(crate) fn read(store: &dyn Store, recover: bool, sink: &mut dyn Sink) -> Result<Headers> {
        let raws = [read_raw(store, 0)?, read_raw(store, 1)?];
        let [first, second] = [flaw(&raws[0], 0), flaw(&raws[1], 1)];
        let place = match (first, second) {
            (None, None) => Headers::newer(&raws, recover, sink)?,
            (None, Some(error)) => {
                sink.mendable(error);
                0
            }
            (Some(error), None) => {
                sink.mendable(error);
                1
            }
            (Some(first), Some(second)) => {
                let usable = |error: &Error| error.kind() == ErrorKind::HeaderChecksum;
                let flaws = [first, second];
                let sequence = |place: &usize| raws[*place].sequence.get();
                let best = [0, 1]
                    .into_iter()
                    .filter(|&place| usable(&flaws[place]))
                    .filter(|&place| raws[place].version.get() == VERSION)
                    .max_by_key(sequence);
                let [first, second] = flaws;
                match best.filter(|_| recover) {
                    Some(place) => {
                        let message =
                            format!("is damaged, accepted for recovery: {first}; {second}");
                        let error = Error::new(ErrorKind::HeaderCorrupt, "VHDX header", message);
                        sink.oddity(Severity::Warning, error.at(HEADERS_AT[place]).by("X-1"));
                        place
                    }
                    // What is no header at all says less than one that is damaged.
                    None if first.kind() == ErrorKind::HeaderCorrupt => {
                        sink.fault(second)?;
                        return Err(first);
                    }
                    None => {
                        sink.fault(first)?;
                        return Err(second);
                    }
                }
            }
        };
        let [one, two] = raws;
        Ok(Headers {
            current: if place == 0 { one } else { two },
            place,
        })
    }

    /// The one of two sound headers that counts.
    fn newer(raws: &[RawHeader; 2], recover: bool, sink: &mut dyn Sink) -> Result<usize> {
        let [first, second] = [raws[0].sequence.get(), raws[1].sequence.get()];
        if first != second || raws[0].as_bytes() == raws[1].as_bytes() {
            return Ok(usize::from(second > first));
        }
        let tie = |message| {
            Error::new(ErrorKind::HeaderCorrupt, "VHDX header", message)
                .at(HEADERS_AT[0])
                .with_found(first)
                .by("X-1")
        };
        if recover {
            let message = "ties with the other one and differs from it, taken for recovery";
            sink.oddity(Severity::Warning, tie(message));
        } else {
            let message = "has the sequence number of the other one and differs from it";
            sink.fault(tie(message))?;
        }
        Ok(0)
    }

    /// The id of what the log holds; nil where there is nothing to replay.
    pub(crate) fn log_guid(&self) -> Uuid {
        guid(self.current.log_guid)
    }

    /// What changes with everything that a guest can see.
    pub(crate) fn data_write_guid(&self) -> Uuid {
        guid(self.current.data_write_guid)
    }

    /// File offset of the header that counts.
    pub(crate) fn offset(&self) -> u64 {
        HEADERS_AT[self.place]
    }

    /// The log's place, inside a file of `file_len` bytes.
    pub(crate) fn log(&self, file_len: u64) -> Result<LogPlace> {
        let log = LogPlace {
            offset: self.current.log_offset.get(),
            length: self.current.log_length.get().into(),
        };
        let wrong = |message| {
            Error::new(ErrorKind::HeaderCorrupt, "VHDX header", message)
                .at(self.offset().saturating_add(68))
                .with_found(format_args!("{} bytes at {}", log.length, log.offset))
                .by("X-13")
        };
        if log.length == 0 {
            if self.log_guid().is_nil() {
                return Ok(log);
            }
            return Err(wrong("has no log, and one that must be replayed")
                .with_wanted("a positive multiple of 1 MiB"));
        }
        if !log.length.is_multiple_of(MIB) || !log.offset.is_multiple_of(MIB) {
            return Err(wrong("has a log that is not aligned").with_wanted("multiples of 1 MiB"));
        }
        let end = log.offset.checked_add(log.length);
        if log.offset < HEADER_SECTION || end.is_none_or(|end| end > file_len) {
            return Err(wrong("has a log outside the file")
                .with_wanted(format_args!("{HEADER_SECTION} to {file_len}")));
        }
        Ok(log)
    }
}

/// Reads one of the two headers.
pub(crate) fn read_raw(store: &dyn Store, place: usize) -> Result<RawHeader> {
    let mut raw = RawHeader::new_zeroed();
    let at = HEADERS_AT[place];
    store
        .read_exact_at(raw.as_mut_bytes(), at)
        .map_err(|error| Error::io("VHDX header", "cannot be read", error).at(at))?;
    Ok(raw)
}

/// Changes the header that counts, in both places and durably. After an error `headers` is
/// the last one that is known to be durable; the caller writes no more.
pub(crate) fn update(
    store: &dyn Store,
    headers: &mut Headers,
    change: impl FnOnce(&mut RawHeader),
) -> Result<()> {
    let mut next = headers.current;
    change(&mut next);
    for _ in 0..2 {
        //
        let sequence = next.sequence.get().checked_add(1).ok_or_else(|| {
            Error::new(
                ErrorKind::HeaderCorrupt,
                "VHDX header",
                "has the last sequence number there is",
            )
            .at(headers.offset())
            .with_found(next.sequence.get())
        })?;
        next.sequence.set(sequence);
        next.checksum.set(checksum(next.as_bytes()));
        let place = 1 - headers.place;
        store
            .write_all_at(next.as_bytes(), HEADERS_AT[place])
            .and_then(|()| store.flush())
            .map_err(|error| {
                Error::io("VHDX header", "cannot be written", error).at(HEADERS_AT[place])
            })?;
        *headers = Headers {
            current: next,
            place,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_windows_has_the_checksum_that_it_says() {
        // 2.3, the vectors.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c::crc32c(&[0; 4096]), 0x98F9_4189);
        let text = "686561644 50d8d3a 0600000000000000 b1a92cb421b79d4faf9bc02e39cc9748
            453c2e39bf7df44b911fcc0d255448d3 00000000000000000000000000000000 0000 0100
            00001000 0000100000000000";
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let mut raw = RawHeader::new_zeroed();
        for (byte, pair) in raw.as_mut_bytes().iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
        assert_eq!(checksum(raw.as_bytes()), 0x3A8D_0D45);
        assert!(flaw(&raw, 0).is_none());
        assert_eq!((raw.sequence.get(), raw.log_length.get()), (6, 1 << 20));
        raw.reserved[4015] = 1;
        assert_eq!(flaw(&raw, 1).unwrap().kind(), ErrorKind::HeaderChecksum);
    }
}
