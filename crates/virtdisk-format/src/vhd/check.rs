//! Checking a VHD: every rule that can be broken by bytes, asked of every structure.
//!
//! The same functions as for opening, in the same order, with a sink that goes on. What they do
//! not ask, because no reader needs it, is asked here: structures that overlap, fields that mean
//! nothing and are not empty, space that belongs to nobody. Blocks' data are never read: a VHD has
//! no sums over them.

use std::sync::Arc;

use super::bat::Bat;
use super::footer::{Footer, note_details};
use super::header::{self, Bounds, Header};
use super::layout::{ALIGNMENT, FOOTER, LOCATOR, LOCATORS_AT, SECTOR, UNALLOCATED};
use super::locate::{Footers, read_footers};
use super::locator::{Owned, stated_space, territory};
use super::open::{check_room, choose, facts_of};
use super::parent::{is_known_platform, link};
use super::scan::scan;
use super::shape::Shape;
use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Facts, Kind};
use crate::finding::{Findings, Severity, Sink};
use crate::open::OpenOptions;
use crate::store::Store;

/// Most blocks whose places are compared with each other: blocks of 256 KiB on the largest disk.
/// Four bytes are held for each one that has space.
const MOST_BLOCKS: u32 = 8 << 20;

/// Checks a file that was found, or is said, to be a VHD. Answers its kind, if it has one.
pub(crate) fn check(
    store: &Arc<dyn Store>,
    options: &OpenOptions,
    sink: &mut Findings<'_>,
) -> Result<Option<Kind>> {
    let footers = read_footers(store)?;
    let chosen = choose(&footers, options, sink);
    let Some((raw, at)) = sink.end(chosen)? else {
        return Ok(None);
    };
    let footer = Footer::check(raw, at, sink);
    let Some(footer) = sink.end(footer)? else {
        return Ok(None);
    };
    note_details(&footer, at, sink);
    note_place(&footers, &footer, sink);
    let facts = facts_of(&footer, options).map_err(|error| error.at(at.saturating_add(48)));
    let Some(facts) = sink.end(facts)? else {
        return Ok(Some(footer.kind));
    };
    if footer.kind == Kind::Fixed {
        check_fixed(&footers, &facts, sink)?;
    } else {
        check_blocks(store, options, &footers, &facts, &footer, sink)?;
    }
    Ok(Some(footer.kind))
}

/// Where the trailing footer stands (V-5).
fn note_place(footers: &Footers, footer: &Footer, sink: &mut dyn Sink) {
    let odd =
        |message| Error::new(ErrorKind::FooterCorrupt, "VHD footer", message).at(footers.end_at);
    let size = footers.len - footers.end_at;
    if (1..FOOTER).contains(&size) {
        let error = odd("is that of a product before Virtual PC 2004, a byte short");
        let error = error.with_found(size).with_wanted(FOOTER).by("V-5");
        if footer.kind == Kind::Fixed {
            sink.oddity(Severity::Warning, error);
        } else {
            sink.mendable(error);
        }
    } else if !footers.end_at.is_multiple_of(SECTOR) {
        let error = odd("does not begin on a sector").with_wanted("a multiple of 512");
        sink.oddity(Severity::Note, error.by("V-30"));
    }
}

/// A fixed disk: all of it is there, and nothing else (V-39).
fn check_fixed(footers: &Footers, facts: &Facts, sink: &mut Findings<'_>) -> Result<()> {
    let room = footers.end_at;
    let enough = check_room(room, facts.virtual_size).map_err(|error| error.at(room));
    if sink.end(enough)?.is_some() && room > facts.virtual_size {
        let error = Error::new(
            ErrorKind::InvalidFileSize,
            "file",
            "has bytes between the disk's end and the footer",
        )
        .at(facts.virtual_size)
        .with_found(room - facts.virtual_size)
        .with_wanted(0)
        .by("V-39");
        sink.oddity(Severity::Note, error);
    }
    Ok(())
}

/// A disk of blocks: header, table, and where every block lies.
fn check_blocks(
    store: &Arc<dyn Store>,
    options: &OpenOptions,
    footers: &Footers,
    facts: &Facts,
    footer: &Footer,
    sink: &mut Findings<'_>,
) -> Result<()> {
    let data_end = footers.end_at;
    let bounds = Bounds {
        data_end,
        virtual_size: facts.virtual_size,
        recover: options.recover,
    };
    let header = Header::read(store, footer.data_offset, &bounds, sink);
    let Some(header) = sink.end(header)? else {
        return Ok(());
    };
    header::note_details(&header, sink);
    if footer.kind == Kind::Differencing {
        check_parent(store, &header, footer, data_end, sink)?;
    } else {
        note_parent_fields(&header, sink);
    }
    let owned = territory(store, &header, data_end, sink);
    let Some(owned) = sink.end(owned)? else {
        return Ok(());
    };
    check_apart(&owned, sink)?;
    let shape = Shape::new(facts.virtual_size, header.block_size, header.blocks, owned);
    let bat = Bat::new(Arc::clone(store), header.table_offset, header.blocks);
    if bat.blocks() > MOST_BLOCKS {
        let error = Error::new(
            ErrorKind::InvalidBlockSize,
            "VHD dynamic header",
            "has so many blocks that their places are not compared with each other",
        )
        .at(header.offset.saturating_add(28))
        .with_found(bat.blocks())
        .with_wanted(format_args!("at most {MOST_BLOCKS}"))
        .by("S-3");
        sink.oddity(Severity::Warning, error);
        let entries = check_entries(&bat, &shape, data_end, sink);
        sink.end(entries)?;
        return Ok(());
    }
    let found = scan(&bat, &shape, data_end, sink);
    if let Some(found) = sink.end(found)? {
        note_space(&shape, data_end, found.tail, found.free.len(), sink);
        let aligned = note_alignment(&bat, &shape, sink);
        sink.end(aligned)?;
    }
    Ok(())
}

/// Every entry by itself.
fn check_entries(bat: &Bat, shape: &Shape, data_end: u64, sink: &mut dyn Sink) -> Result<()> {
    bat.stream(|block, sector| {
        shape
            .check_entry(block, sector, data_end, bat.offset_of(block))
            .or_else(|error| sink.fault(error))
    })
}

/// No two structures share a byte. What a locator lies on is told where the locators are read.
fn check_apart(owned: &[Owned], sink: &mut Findings<'_>) -> Result<()> {
    const LOCATOR: &str = "parent locator";
    for (index, one) in owned.iter().enumerate() {
        for other in owned.iter().skip(index + 1) {
            if one.what == LOCATOR || other.what == LOCATOR || !one.touches(other.start, other.end)
            {
                continue;
            }
            let error = Error::new(
                ErrorKind::HeaderCorrupt,
                "VHD dynamic header",
                format!("puts the {} onto the {}", other.what, one.what),
            )
            .at(other.start)
            .with_wanted(format_args!("behind byte {}", one.end))
            .by("S-3");
            sink.fault(error)?;
        }
    }
    Ok(())
}

/// What a differencing disk says of its parent (V-14 to V-17).
fn check_parent(
    store: &Arc<dyn Store>,
    header: &Header,
    footer: &Footer,
    data_end: u64,
    sink: &mut Findings<'_>,
) -> Result<()> {
    let odd = |field: u64, message: String| {
        Error::new(ErrorKind::HeaderCorrupt, "VHD dynamic header", message)
            .at(header.offset.saturating_add(field))
    };
    let link = link(store, header, data_end, sink);
    let link = sink.end(link)?;
    if header.raw.parent_id == footer.raw.unique_id {
        let message = "names the disk itself as its parent".to_owned();
        sink.fault(odd(40, message).by("S-13"))?;
    }
    if link.is_some_and(|link| link.hints.is_empty()) {
        let message = "says nowhere where the parent may be".to_owned();
        sink.oddity(Severity::Warning, odd(576, message).by("P-6"));
    }
    for (index, slot) in (0_u64..).zip(&header.raw.locators) {
        let field = LOCATORS_AT + index * LOCATOR;
        let (code, space, used) = (slot.platform_code, slot.data_space, slot.data_length);
        if code.get() != 0 && !is_known_platform(code.get()) {
            let error = odd(
                field,
                format!("has parent locator {index} of an unknown platform"),
            );
            let found = code.get().to_be_bytes();
            sink.oddity(
                Severity::Note,
                error.with_found(found.escape_ascii()).by("V-15"),
            );
        }
        if code.get() == 0 && (space.get(), used.get(), slot.data_offset.get()) != (0, 0, 0) {
            let error = odd(
                field,
                format!("has parent locator {index} without a platform"),
            );
            sink.oddity(Severity::Note, error.by("V-15"));
        }
        if slot.reserved.get() != 0 {
            let message = format!("has bytes other than 0 reserved in parent locator {index}");
            let error = odd(field + 12, message).with_found(slot.reserved.get());
            sink.oddity(Severity::Note, error.by("V-7"));
        }
        if code.get() != 0 && stated_space(slot) < used.get().into() {
            let error = odd(
                field + 4,
                format!("has parent locator {index} with too little space"),
            );
            let error = error.with_found(space.get()).with_wanted(used.get());
            sink.oddity(Severity::Note, error.by("V-17"));
        }
    }
    Ok(())
}

/// What only a differencing disk has is empty in every other.
fn note_parent_fields(header: &Header, sink: &mut dyn Sink) {
    let raw = &header.raw;
    let fields: [(u64, bool, &str); 4] = [
        (40, raw.parent_id != [0; 16], "has a parent's unique id"),
        (
            56,
            raw.parent_time_stamp.get() != 0,
            "has a parent's time stamp",
        ),
        (64, raw.parent_name != [0; 512], "has a parent's name"),
        (
            576,
            raw.locators
                .iter()
                .any(|slot| slot.platform_code.get() != 0),
            "has parent locators",
        ),
    ];
    for (field, _, message) in fields.into_iter().filter(|(_, set, _)| *set) {
        let error = Error::new(ErrorKind::HeaderCorrupt, "VHD dynamic header", message)
            .at(header.offset.saturating_add(field))
            .with_wanted("zeros in a disk without a parent")
            .by("V-8");
        sink.oddity(Severity::Note, error);
    }
}

/// Space of the file that belongs to no block: harmless, and worth a compact.
fn note_space(shape: &Shape, data_end: u64, tail: u64, free: usize, sink: &mut dyn Sink) {
    let note = |at: u64, message: &'static str, bytes: u64| {
        Error::new(ErrorKind::InvalidFileSize, "file", message)
            .at(at)
            .with_found(format_args!("{bytes} bytes"))
            .by("V-18")
    };
    if free > 0 {
        let bytes = shape.slot().saturating_mul(free as u64);
        let error = note(
            0,
            "has holes between its blocks where more blocks would fit",
            bytes,
        );
        sink.oddity(Severity::Note, error);
    }
    let slack = data_end.saturating_sub(tail);
    if slack >= shape.slot() + ALIGNMENT {
        let error = note(tail, "has unused space behind its last block", slack);
        sink.oddity(Severity::Note, error);
    }
}

/// Blocks whose data start off 4 KiB boundaries are slow on today's disks (V-30).
fn note_alignment(bat: &Bat, shape: &Shape, sink: &mut dyn Sink) -> Result<()> {
    let mut first = None;
    bat.stream(|block, sector| {
        let aligned = sector == UNALLOCATED || shape.data_at(sector).is_multiple_of(ALIGNMENT);
        if !aligned && first.is_none() {
            first = Some((block, sector));
        }
        Ok(())
    })?;
    if let Some((block, sector)) = first {
        let error = Error::new(
            ErrorKind::BatCorrupt,
            "VHD block allocation table",
            format!("puts block {block} and maybe others off 4 KiB boundaries"),
        )
        .at(bat.offset_of(block))
        .with_found(format_args!("data at byte {}", shape.data_at(sector)))
        .by("V-30");
        sink.oddity(Severity::Note, error);
    }
    Ok(())
}
