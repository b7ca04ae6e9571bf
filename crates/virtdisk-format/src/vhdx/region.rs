//! The region tables: where the block allocation table and the metadata are.
//!
//! The first sound table counts; one that differs from it is noted, and is put right through
//! the log by whoever writes the image. What a [`Regions`] names lies on whole MiBs, behind the
//! header section, inside the file, and apart from the log and from each other.

use uuid::Uuid;
use zerocopy::FromBytes;

use super::header::LogPlace;
use super::layout::{
    BAT_REGION, CHECKSUM_AT, HEADER_SECTION, LARGEST_METADATA, METADATA_REGION, MIB, MOST_ENTRIES,
    REGION_REQUIRED, REGION_SIGNATURE, REGION_TABLE, REGION_TABLES_AT, RawRegion, RawRegionHeader,
    checksum, guid,
};
use super::territory::Owned;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Severity, Sink};
use crate::store::Store;

/// Bytes of a table, for buffers.
const TABLE_BYTES: usize = 64 << 10;

/// What a region is called that is not known.
const UNKNOWN: &str = "unknown region";

/// A region of the file. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The regions of a file.
pub(crate) struct Regions {
    pub(crate) bat: Region,
    pub(crate) metadata: Region,
    /// All regions, the unknown ones too: nothing is ever put there.
    pub(crate) owned: Vec<Owned>,
    /// The table that counts, all of its 64 KiB.
    pub(crate) table: Vec<u8>,
    /// Where the table stands that is not the same: it must be written again.
    pub(crate) unlike: Option<u64>,
}

/// Why a table does not count, `None` where it does.
fn flaw(bytes: &[u8], at: u64) -> Option<Error> {
    let new = |kind, message| Error::new(kind, "VHDX region table", message).by("X-4");
    let Ok((header, _)) = RawRegionHeader::read_from_prefix(bytes) else {
        return Some(new(ErrorKind::RegionCorrupt, "is cut short").at(at));
    };
    if header.signature != REGION_SIGNATURE {
        let error = new(ErrorKind::RegionCorrupt, "is missing").at(at);
        return Some(error.with_wanted("regi"));
    }
    let sum = checksum(bytes);
    if header.checksum.get() != sum {
        return Some(
            new(ErrorKind::RegionCorrupt, "has a wrong checksum")
                .at(at.saturating_add(CHECKSUM_AT as u64))
                .with_found(format_args!("{:08x}", header.checksum.get()))
                .with_wanted(format_args!("{sum:08x}")),
        );
    }
    (header.count.get() > MOST_ENTRIES.into() || header.reserved.get() != 0).then(|| {
        new(ErrorKind::RegionCorrupt, "has an impossible head")
            .at(at.saturating_add(8))
            .with_found(format_args!(
                "{} entries, reserved {}",
                header.count.get(),
                header.reserved.get()
            ))
            .with_wanted(format_args!("at most {MOST_ENTRIES} entries, reserved 0"))
    })
}

impl Regions {
    /// Reads the tables of a file of `file_len` bytes with its log at `log`.
    pub(crate) fn read(
        store: &dyn Store,
        file_len: u64,
        log: LogPlace,
        sink: &mut dyn Sink,
    ) -> Result<Regions> {
        let [first, second] = [read_table(store, 0)?, read_table(store, 1)?];
        let flaws = [
            flaw(&first, REGION_TABLES_AT[0]),
            flaw(&second, REGION_TABLES_AT[1]),
        ];
        let (table, at, unlike) = match flaws {
            [None, None] if first == second => (first, REGION_TABLES_AT[0], None),
            [None, None] => {
                let differing = (REGION_TABLES_AT[1]..).zip(first.iter().zip(&second));
                let mut differing = differing.filter(|(_, (one, other))| one != other);
                let (at, _) = differing
                    .find(|(at, _)| !(4..8).contains(&(at - REGION_TABLES_AT[1])))
                    .unwrap_or((REGION_TABLES_AT[1], (&0, &0)));
                let message = "differs from the first";
                let error = Error::new(
                    ErrorKind::RegionCorrupt,
                    "second VHDX region table",
                    message,
                );
                sink.mendable(error.at(at).by("X-4"));
                (first, REGION_TABLES_AT[0], Some(REGION_TABLES_AT[1]))
            }
            [None, Some(error)] => {
                sink.mendable(error);
                (first, REGION_TABLES_AT[0], Some(REGION_TABLES_AT[1]))
            }
            [Some(error), None] => {
                sink.mendable(error);
                (second, REGION_TABLES_AT[1], Some(REGION_TABLES_AT[0]))
            }
            [Some(first), Some(second)] => {
                sink.fault(first)?;
                return Err(second);
            }
        };
        let place = Place { at, file_len, log };
        let (bat, metadata, owned) = place.check(&table, sink)?;
        Ok(Regions {
            bat,
            metadata,
            owned,
            table,
            unlike,
        })
    }
}

/// What the entries of the table at `at` are checked against.
struct Place {
    at: u64,
    file_len: u64,
    log: LogPlace,
}

impl Place {
    fn check(&self, table: &[u8], sink: &mut dyn Sink) -> Result<(Region, Region, Vec<Owned>)> {
        let (head, body) = table.split_at(size_of::<RawRegionHeader>().min(table.len()));
        let count = RawRegionHeader::read_from_bytes(head).map_or(0, |head| head.count.get());
        let (mut bat, mut metadata) = (None, None);
        let mut seen: Vec<Uuid> = Vec::new();
        let mut owned = Vec::new();
        let entries = body.chunks_exact(size_of::<RawRegion>());
        for (index, bytes) in (0..count).zip(entries) {
            let Ok(raw) = RawRegion::read_from_bytes(bytes) else {
                break;
            };
            let at = self.at + 16 + 32 * u64::from(index);
            let id = guid(raw.guid);
            let region = match self.region(&raw, at) {
                Ok(region) => region,
                Err(error) if matches!(id, BAT_REGION | METADATA_REGION) => return Err(error),
                Err(error) => {
                    sink.fault(error)?;
                    continue;
                }
            };
            if raw.flags.get() & !REGION_REQUIRED != 0 {
                let error = self
                    .wrong(format!("gives the region {id} flags that are not known"))
                    .at(at.saturating_add(28))
                    .with_found(format_args!("{:#x}", raw.flags.get()))
                    .with_wanted("0 or 1");
                sink.fault(error)?;
            }
            let what = match id {
                BAT_REGION => {
                    bat = Some(region);
                    "block allocation table"
                }
                METADATA_REGION => {
                    metadata = Some(region);
                    "metadata"
                }
                _ => unknown(&raw, id, at, sink)?,
            };
            if raw.flags.get() & REGION_REQUIRED == 0 && what != UNKNOWN {
                let error = self.wrong(format!("does not require the region {id}"));
                let error = error.at(at.saturating_add(28)).with_found(0).with_wanted(1);
                sink.oddity(Severity::Note, error);
            }
            seen.push(id);
            owned.push(Owned::new(region.offset, region.length, what));
        }
        seen.sort_unstable();
        if let Some(pair) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            sink.fault(self.wrong(format!("names the region {} twice", pair[0])))?;
        }
        if let Err(error) = self.check_apart(&mut owned) {
            sink.fault(error)?;
        }
        let missing = |name: &str| self.wrong(format!("names no {name} region"));
        let bat = bat.ok_or_else(|| missing("block allocation table"))?;
        let metadata = metadata.ok_or_else(|| missing("metadata"))?;
        // S-2
        if metadata.length > LARGEST_METADATA {
            return Err(self
                .wrong("names a metadata region that is too large")
                .with_found(metadata.length)
                .with_wanted(format_args!("at most {LARGEST_METADATA}")));
        }
        Ok((bat, metadata, owned))
    }

    /// One entry: aligned, behind the header section, inside the file.
    fn region(&self, raw: &RawRegion, at: u64) -> Result<Region> {
        let region = Region {
            offset: raw.offset.get(),
            length: raw.length.get().into(),
        };
        let aligned = region.offset.is_multiple_of(MIB) && region.length.is_multiple_of(MIB);
        // The last MiB of a file may be cut short.
        let room = self.file_len.checked_next_multiple_of(MIB);
        let inside = region
            .offset
            .checked_add(region.length)
            .is_some_and(|end| room.is_none_or(|room| end <= room));
        if aligned && inside && region.length > 0 && region.offset >= HEADER_SECTION {
            return Ok(region);
        }
        let message = format!("puts the region {} where it cannot be", guid(raw.guid));
        Err(
            Error::new(ErrorKind::RegionCorrupt, "VHDX region table", message)
                .at(at)
                .with_found(format_args!("{} bytes at {}", region.length, region.offset))
                .with_wanted(format_args!(
                    "whole MiBs between {HEADER_SECTION} and {}",
                    self.file_len
                ))
                .by("X-6"),
        )
    }

    /// No region shares a byte with another or with the log. Sorts them.
    fn check_apart(&self, owned: &mut [Owned]) -> Result<()> {
        owned.sort_by_key(|range| range.start);
        let log_end = self.log.offset.saturating_add(self.log.length);
        let on_log = |range: &&Owned| range.touches(self.log.offset, log_end);
        if let Some(range) = owned.iter().find(on_log).filter(|_| self.log.length > 0) {
            return Err(self
                .wrong(format!("puts the {} onto the log", range.what))
                .with_found(format_args!("bytes {} to {}", range.start, range.end)));
        }
        match owned.windows(2).find(|pair| pair[1].start < pair[0].end) {
            None => Ok(()),
            Some(pair) => Err(self
                .wrong(format!(
                    "gives the bytes at {} to two regions",
                    pair[1].start
                ))
                .with_found(format_args!("{} and {}", pair[0].what, pair[1].what))),
        }
    }

    fn wrong(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::RegionCorrupt, "VHDX region table", message)
            .at(self.at)
            .by("X-6")
    }
}

/// A region that is not known: refused where it is required, kept otherwise.
fn unknown(raw: &RawRegion, id: Uuid, at: u64, sink: &mut dyn Sink) -> Result<&'static str> {
    let tell = |verb: &str| {
        Error::new(
            ErrorKind::UnsupportedFeature,
            "VHDX region table",
            format!("{verb} the region {id}, which is not known"),
        )
        .at(at)
        .by("X-5")
    };
    if raw.flags.get() & REGION_REQUIRED == 0 {
        sink.oddity(Severity::Note, tell("names"));
    } else {
        sink.fault(tell("requires"))?;
    }
    Ok(UNKNOWN)
}

fn read_table(store: &dyn Store, place: usize) -> Result<Vec<u8>> {
    const _: () = assert!(TABLE_BYTES as u64 == REGION_TABLE);
    let mut bytes = vec![0; TABLE_BYTES];
    let at = REGION_TABLES_AT[place];
    store
        .read_exact_at(&mut bytes, at)
        .map_err(|error| Error::io("VHDX region table", "cannot be read", error).at(at))?;
    Ok(bytes)
}
