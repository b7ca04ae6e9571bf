//! Opening a VHD: which footer counts, what is checked, what is repaired.
//!
//! Everything is checked before anything is written, and only an image opened for writing is
//! repaired: a bad or short trailing footer and a differing copy at 0 are rewritten from the one
//! that counts, the trailing one first (V-4). A differencing disk is opened alone; what it says of
//! its parent is a fact like others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;
use uuid::Uuid;
use zerocopy::IntoBytes;

use super::bat::Bat;
use super::bitmap::BitOrder;
use super::bitmaps::Bitmaps;
use super::close::{check_len, compare_footer};
use super::footer::{Footer, Seal};
use super::header::{Bounds, Header};
use super::layout::{FOOTER, LARGEST_DISK, RawFooter, SECTOR};
use super::locate::{Footers, read_footers};
use super::locator::{check_growth, territory};
use super::map::{Dynamic, Seen};
use super::parent::link;
use super::scan::{MOST_BLOCKS, MOST_BLOCKS_READING, MOST_NOTICES, scan};
use super::shape::Shape;
use super::space::{Placement, Space};
use crate::commit::Commit;
use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Facts, Format, Kind};
use crate::finding::{Lenient, Severity, Sink};
use crate::image::Image;
use crate::open::OpenOptions;
use crate::run::Run;
use crate::store::Store;

/// Opens a file that was found, or is said, to be a VHD.
pub(crate) fn open(store: Arc<dyn Store>, options: &OpenOptions) -> Result<Box<dyn Image>> {
    let footers = read_footers(&*store)?;
    let mut notices: Vec<String> = Vec::new();
    let (raw, at) = choose(&footers, options, &mut notices)?;
    let footer = Footer::check(raw, at, &mut notices)?;
    let mut facts = facts_of(&footer, options)?;
    // What was accepted with a wrong checksum is never written to (V-3).
    facts.read_only = raw.seal() == Seal::Broken;
    facts.notices = notices;
    match footer.kind {
        Kind::Fixed => open_fixed(store, options, &footers, facts, raw),
        Kind::Dynamic | Kind::Differencing => {
            open_dynamic(store, options, &footers, facts, &footer)
        }
    }
}

/// The footer that counts and where it stands (V-3, V-4).
pub(super) fn choose(
    footers: &Footers,
    options: &OpenOptions,
    sink: &mut dyn Sink,
) -> Result<(RawFooter, u64)> {
    let end = footers.end_seal;
    if end == Seal::Sound {
        if footers.end.has_header() {
            compare_copy(footers, sink);
        }
        return Ok((footers.end, footers.end_at));
    }
    if footers.start_counts() {
        let (message, field) = match end {
            Seal::Missing => ("is missing at the file's end, the copy at 0 is used", 0),
            _ => (
                "is damaged at the file's end, the copy at 0 is used",
                difference(&footers.end, &footers.start).map_or(0, |(at, ..)| at),
            ),
        };
        let at = footers.end_at.min(footers.len.saturating_sub(FOOTER));
        let error = Error::new(ErrorKind::FooterMissing, "VHD footer", message);
        sink.mendable(error.at(at.saturating_add(field)).by("V-4"));
        return Ok((footers.start, 0));
    }
    if footers.is_vhd() {
        let (mut raw, mut at) = (footers.end, footers.end_at);
        let useless =
            end == Seal::Missing || Footer::check(raw, at, &mut Vec::<String>::new()).is_err();
        if useless && footers.start_has_header {
            (raw, at) = (footers.start, 0);
        }
        let wrong = |message| {
            Error::new(ErrorKind::FooterChecksum, "VHD footer", message)
                .at(at.saturating_add(64))
                .with_found(format_args!("{:08x}", raw.checksum.get()))
                .with_wanted(format_args!("{:08x}", raw.sum()))
                .by("V-3")
        };
        if options.recover {
            let error = wrong("has a wrong checksum, accepted for recovery");
            sink.oddity(Severity::Warning, error);
        } else {
            sink.fault(wrong("has a wrong checksum"))?;
        }
        return Ok((raw, at));
    }
    if options.sibling_v01 {
        return Err(Error::new(
            ErrorKind::UnsupportedFeature,
            "image",
            "is the first part of a split VHD (.vhd, .v01, ...), which is not read",
        ));
    }
    Err(
        Error::new(ErrorKind::FooterMissing, "VHD footer", "is missing")
            .at(footers.len.saturating_sub(FOOTER))
            .with_wanted("conectix in the last 512 bytes")
            .by("V-4"),
    )
}

/// The copy at 0 is the footer that counts, byte for byte (V-4).
fn compare_copy(footers: &Footers, sink: &mut dyn Sink) {
    let Some((at, here, there)) = difference(&footers.start, &footers.end) else {
        return;
    };
    let message = match footers.start_seal {
        Seal::Sound => "differs from the footer",
        _ => "is damaged",
    };
    let error = Error::new(ErrorKind::FooterCorrupt, "copy of the VHD footer", message)
        .at(at)
        .with_found(format_args!("{here:02x}"))
        .with_wanted(format_args!("{there:02x}"));
    sink.mendable(error.by("V-4"));
}

/// The first byte in which two footers differ, if possible not one of the checksum: its place in
/// the structure and what it is in each.
fn difference(one: &RawFooter, other: &RawFooter) -> Option<(u64, u8, u8)> {
    let pairs = (0_u64..).zip(one.as_bytes().iter().zip(other.as_bytes()));
    let mut differing = pairs.filter(|(_, (here, there))| here != there);
    let first = differing.next()?;
    let at_sum = |at: u64| (64..68).contains(&at);
    let better = differing.find(|(at, _)| at_sum(first.0) && !at_sum(*at));
    let (at, (&here, &there)) = better.unwrap_or(first);
    Some((at, here, there))
}

/// The facts that the footer tells, with the size that counts (V-1, V-2).
pub(super) fn facts_of(footer: &Footer, options: &OpenOptions) -> Result<Facts> {
    let size = footer.geometry.visible_size(
        footer.raw.creator_application,
        footer.current_size,
        options.size_rule,
    );
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return Err(Error::new(
            ErrorKind::InvalidSize,
            "VHD footer",
            "has a size that no disk can have",
        )
        .with_found(size)
        .with_wanted("a positive multiple of 512")
        .by("V-1"));
    }
    let mut facts = Facts::new(Format::Vhd, footer.kind, size);
    facts.identifier = Uuid::from_bytes(footer.raw.unique_id);
    facts.content_id = facts.identifier;
    facts.creator = footer.creator();
    facts.created_unix = footer.created_unix();
    facts.saved_state = footer.raw.saved_state != 0;
    Ok(facts)
}

/// The file holds the whole of a fixed disk (S-1).
pub(super) fn check_room(room: u64, virtual_size: u64) -> Result<()> {
    if virtual_size <= room {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidFileSize,
        "file",
        "is too short for the fixed disk in it",
    )
    .with_found(format_args!("{room} bytes of data"))
    .with_wanted(virtual_size)
    .by("S-1"))
}

fn open_fixed(
    store: Arc<dyn Store>,
    options: &OpenOptions,
    footers: &Footers,
    mut facts: Facts,
    raw: RawFooter,
) -> Result<Box<dyn Image>> {
    let room = footers.end_at;
    check_room(room, facts.virtual_size)?;
    if facts.virtual_size > LARGEST_DISK {
        facts
            .notices
            .push("the disk is larger than the 2040 GiB that Windows accepts".to_owned());
    }
    let whole_footer = footers.len - room == FOOTER;
    let len = footers.len;
    let run = Run::new(store, facts, options.writable, room, move |store| {
        check_len(store, len)?;
        if whole_footer {
            compare_footer(store, room, &raw)
        } else {
            Ok(())
        }
    });
    Ok(Box::new(run))
}

fn open_dynamic(
    store: Arc<dyn Store>,
    options: &OpenOptions,
    footers: &Footers,
    mut facts: Facts,
    footer: &Footer,
) -> Result<Box<dyn Image>> {
    let data_end = footers.end_at;
    let bounds = Bounds {
        data_end,
        virtual_size: facts.virtual_size,
        recover: options.recover,
    };
    let notices = &mut facts.notices;
    let header = Header::read(&*store, footer.data_offset, &bounds, notices)?;
    if facts.kind == Kind::Differencing {
        facts.parent = Some(link(&*store, &header, data_end, notices)?);
    }
    facts.read_only |= !header.is_sound();
    let writable = options.writable && !facts.read_only;
    let owned = territory(&*store, &header, data_end, notices)?;
    let shape = Shape::new(facts.virtual_size, header.block_size, header.blocks, owned);
    let bat = Bat::new(Arc::clone(&store), header.table_offset, header.blocks);
    facts.block_size = header.block_size;
    let mut seen = Seen {
        footer: footer.raw,
        at_end: footers.end_seal != Seal::Missing
            && footers.end.as_bytes() == footer.raw.as_bytes(),
        at_start: footers.start.as_bytes() == footer.raw.as_bytes(),
        header: header.raw,
        header_at: header.offset,
        len: footers.len,
    };
    let mut space = None;
    if writable {
        check_growth(&*store, &header, data_end)?;
        check_table_size(&bat)?;
        let free = survey(&bat, &shape, footers, footer.raw, &mut facts.notices)?;
        repair(&*store, footers, &mut seen, free.footer_at)?;
        space = Some(Mutex::new(free));
    } else if bat.blocks() <= MOST_BLOCKS_READING {
        let mut lenient = Lenient::new(&mut facts.notices, MOST_NOTICES);
        scan(&bat, &shape, data_end, &mut lenient)?;
    }
    let end = space
        .as_mut()
        .map_or(data_end, |space| space.get_mut().footer_at);
    Ok(Box::new(Dynamic {
        facts,
        bat,
        bitmaps: Bitmaps::new(shape.block_size, shape.blocks, bit_order(&footer.raw)),
        shape,
        data_end: AtomicU64::new(end),
        space,
        refused: AtomicBool::new(false),
        commit: Commit::default(),
        seen,
        store,
    }))
}

/// The order of bits is that of the specification, but for XenServer's first version (1.10).
fn bit_order(footer: &RawFooter) -> BitOrder {
    let creator = (footer.creator_application, footer.creator_version.get());
    if creator == (*b"tap\0", 1) {
        BitOrder::LeastSignificantFirst
    } else {
        BitOrder::MostSignificantFirst
    }
}

/// The free space of an image that is opened for writing, every block checked.
fn survey(
    bat: &Bat,
    shape: &Shape,
    footers: &Footers,
    footer: RawFooter,
    notices: &mut Vec<String>,
) -> Result<Space> {
    let found = scan(bat, shape, footers.end_at, notices)?;
    let left = shape.blocks.saturating_sub(found.allocated);
    let reused = u32::try_from(found.free.len()).unwrap_or(u32::MAX);
    let placement = Placement::choose(shape, found.tail, left.saturating_sub(reused));
    // Without a footer at the end a new one takes the last sector, if that is nobody's, or goes
    // behind everything.
    let in_place = footers
        .len
        .checked_sub(FOOTER)
        .filter(|&at| at.is_multiple_of(SECTOR) && at >= found.tail);
    let footer_at = if footers.end_at < footers.len {
        Some(footers.end_at)
    } else {
        in_place.or_else(|| placement.footer_behind(found.tail.max(footers.len)))
    };
    let footer_at = footer_at.ok_or_else(|| {
        Error::new(ErrorKind::InvalidFileSize, "file", "is too long for a VHD")
            .with_found(footers.len)
    })?;
    Ok(Space::new(
        placement,
        found.free,
        found.tail,
        (footer_at, footer),
        left,
    ))
}

/// Puts the footer that counts where it is missing, damaged, short or different: at the end first.
fn repair(store: &dyn Store, footers: &Footers, seen: &mut Seen, footer_at: u64) -> Result<()> {
    let write = |at: u64| {
        store
            .write_all_at(seen.footer.as_bytes(), at)
            .and_then(|()| store.flush())
            .map_err(|error| Error::io("VHD footer", "cannot be repaired", error).at(at))
    };
    if !seen.at_end || footers.len != footer_at.saturating_add(FOOTER) {
        write(footer_at)?;
    }
    if !seen.at_start {
        write(0)?;
    }
    (seen.at_end, seen.at_start) = (true, true);
    Ok(())
}

/// Whether the table is one that can be gone through.
fn check_table_size(bat: &Bat) -> Result<()> {
    if bat.blocks() <= MOST_BLOCKS {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidBlockSize,
        "VHD dynamic header",
        "has blocks too small for a disk of this size to be written",
    )
    .with_found(format_args!("{} blocks", bat.blocks()))
    .with_wanted(format_args!("at most {MOST_BLOCKS}")))
}
