//! Small sound images of every format, for mutations to start from.
//!
//! Together they have every structure that a reader looks at, in files of a few MiB at most.

use std::ops::Range;

use crate::mutation::Subject;
use crate::pages::Pages;
use crate::rng::Rng;
use crate::seal::Seal;
use crate::vhd_builder::VhdBuilder;
use crate::vhdx_builder::{LogEntry, MIB, VhdxBuilder};

const KIB: u64 = 1 << 10;

/// A subject of each kind.
#[must_use]
pub fn subjects() -> Vec<Subject> {
    let mut subjects = vhd();
    subjects.extend(vhdx());
    subjects.extend(dirty());
    subjects.extend(optical());
    subjects
}

/// Those whose name begins with a word.
#[must_use]
pub fn named(word: &str) -> Vec<Subject> {
    let mut subjects = subjects();
    subjects.retain(|subject| subject.name.starts_with(word));
    subjects
}

/// VHDs: fixed, dynamic in two block sizes, differencing, without a footer.
fn vhd() -> Vec<Subject> {
    let mut rng = Rng::new(1);
    let mut bytes = |len: u64| rng.bytes(len as usize);
    let fixed = VhdBuilder::fixed(&bytes(64 * KIB));
    let mut dynamic = VhdBuilder::dynamic(512 * KIB, 64 << 10);
    dynamic.block(3, &bytes(64 * KIB));
    dynamic.block(0, &bytes(64 * KIB));
    let mut ends_inside = VhdBuilder::dynamic(40 * KIB + 512, 16 << 10);
    ends_inside.block(1, &bytes(16 * KIB));
    ends_inside.block_with(2, &bytes(16 * KIB), vec![0x5A; 512]);
    let mut child = VhdBuilder::differencing(256 * KIB, 32 << 10, *b"the parent's own");
    child.block_with(1, &bytes(32 * KIB), vec![0xC3; 512]);
    child.block_with(6, &bytes(32 * KIB), vec![0xFF; 512]);
    let mut headless = dynamic.clone();
    headless.write_footer = false;
    [
        ("vhd fixed", fixed),
        ("vhd dynamic", dynamic),
        ("vhd dynamic that ends inside a block", ends_inside),
        ("vhd differencing", child),
        ("vhd without its footer", headless),
    ]
    .map(|(name, builder)| vhd_subject(name, &builder))
    .to_vec()
}

fn vhd_subject(name: &'static str, builder: &VhdBuilder) -> Subject {
    let pages = builder.build();
    let end = pages.len();
    let mut places: Vec<Range<u64>> = Vec::new();
    places.push(end - 512..end - 512 + 96);
    if let Some(header) = &builder.header {
        let table = header.table_offset;
        places.extend([0..96, 512..512 + 64, 512 + 576..512 + 768, 512 + 64..1536]);
        places.push(table..table + builder.table.len() as u64 * 4);
        let bitmaps = builder.blocks.iter().map(|block| block.at..block.at + 16);
        places.extend(bitmaps);
        if table > 0x1000 {
            places.push(0x1000..0x1000 + 64);
        }
    }
    let locators = match builder.footer.disk_type {
        4 => vec![512 + 40..512 + 768, 512 + 576..512 + 768, 0x1000..0x1040],
        _ => Vec::new(),
    };
    Subject {
        name,
        extension: "vhd",
        pages,
        places,
        locators,
        seal: Seal::Vhd,
    }
}

/// VHDXs without anything in the log.
fn vhdx() -> Vec<Subject> {
    let mut rng = Rng::new(2);
    let mut bytes = |len: u64| rng.bytes(len as usize);
    let mut dynamic = VhdxBuilder::dynamic(3 * MIB + 512, 1 << 20);
    dynamic.block(2, &bytes(16 * KIB));
    dynamic.block(0, &bytes(16 * KIB));
    let mut large = VhdxBuilder::new(0, 2 * MIB + 4096, 1 << 20, 4096);
    large.block(1, &bytes(16 * KIB));
    large.set(0, 2, 0);
    let mut fixed = VhdxBuilder::new(1, 2 * MIB, 2 << 20, 512);
    fixed.block(0, &bytes(64 * KIB));
    let child = vhdx_child(&mut bytes);
    [
        ("vhdx dynamic", dynamic),
        ("vhdx dynamic with large sectors", large),
        ("vhdx fixed", fixed),
        ("vhdx differencing", child),
    ]
    .map(|(name, builder)| vhdx_subject(name, &builder))
    .to_vec()
}

fn vhdx_child(bytes: &mut impl FnMut(u64) -> Vec<u8>) -> VhdxBuilder {
    let mut child = VhdxBuilder::differencing(5 * MIB, 1 << 20);
    child.bitmap(0, &[vec![0; 256], vec![0xC3; 256]].concat());
    child.block_in_state(1, 7, &bytes(16 * KIB));
    child.block(3, &bytes(16 * KIB));
    child.set(4, 2, 0);
    child
}

/// VHDXs with a log to replay: one whose entries change the table, one that wraps, one of a child.
fn dirty() -> Vec<Subject> {
    let guid = *b"the log's guid..";
    let mut rng = Rng::new(3);
    let mut builders = Vec::new();
    for at in [0x5000, MIB - 0x2000] {
        let mut builder = VhdxBuilder::dynamic(3 * MIB, 1 << 20);
        builder.dirty(guid);
        let block = builder.take(MIB);
        builder.blocks.push((block, rng.bytes(8192)));
        let mut page = vec![0; 4096];
        page[..8].copy_from_slice(&(block | 6).to_le_bytes());
        page[8..16].copy_from_slice(&2_u64.to_le_bytes());
        let (table, end) = (builder.bat_at, builder.end());
        let first = LogEntry::new(guid, 41, at as u32, end);
        let next = builder.log_entry(at, &first);
        let second = LogEntry::new(guid, 42, at as u32, end)
            .data(table, &page)
            .zero(block + 4096, 4096);
        let next = builder.log_entry(next, &second);
        let mut third = LogEntry::new(guid, 43, at as u32, end).data(table, &page);
        third.last = end + MIB;
        builder.log_entry(next, &third);
        builders.push(builder);
    }
    let mut child = vhdx_child(&mut |len| rng.bytes(len as usize));
    child.dirty(guid);
    let bits = vec![0x5A; 4096];
    let bitmap = child.bat[child.bitmap_index(0)] & !7;
    let entry = LogEntry::new(guid, 7, 0, child.end()).data(bitmap, &bits);
    child.log_entry(0, &entry);
    builders.push(child);
    let names = [
        "vhdx dirty",
        "vhdx dirty around the log's end",
        "vhdx dirty differencing",
    ];
    let pairs = names.into_iter().zip(&builders);
    pairs
        .map(|(name, builder)| vhdx_subject(name, builder))
        .collect()
}

fn vhdx_subject(name: &'static str, builder: &VhdxBuilder) -> Subject {
    let mut places: Vec<Range<u64>> = Vec::new();
    for at in [64 * KIB, 128 * KIB] {
        places.push(at..at + 80);
    }
    for at in [192 * KIB, 256 * KIB] {
        places.push(at..at + 96);
    }
    let items = builder.metadata.items.len() as u64;
    let (table, metadata) = (builder.bat_at, builder.metadata_at);
    places.extend([
        metadata..metadata + 32 + 32 * items,
        metadata + 64 * KIB..metadata + 64 * KIB + 80,
        table..table + builder.bat.len().min(16) as u64 * 8,
    ]);
    let mut locators = Vec::new();
    if items > 5 {
        let locator = metadata + 64 * KIB + 40;
        locators.push(locator..locator + 56);
        locators.push(locator..locator + 512);
        locators.push(metadata + 32 * 6..metadata + 32 * 7);
        // The chunk's bitmap, and its entry.
        places.push(builder.blocks[0].0 + 128..builder.blocks[0].0 + 384);
        let entry = table + builder.bitmap_index(0) as u64 * 8;
        places.push(entry..entry + 8);
    }
    places.extend(locators.iter().cloned());
    for (at, bytes) in &builder.log {
        for sector in (0..bytes.len() as u64).step_by(4096) {
            let place = MIB + (at + sector) % MIB;
            places.push(place..place + 160);
        }
    }
    Subject {
        name,
        extension: "vhdx",
        pages: builder.build(),
        places,
        locators,
        seal: Seal::Vhdx,
    }
}

/// ISO 9660 and UDF, and bytes that are none.
fn optical() -> Vec<Subject> {
    let mut iso = Pages::zeroed(64 * KIB);
    iso.write(b"\x01CD001\x01", 32768);
    iso.write(&2048_u16.to_le_bytes(), 32768 + 128);
    iso.write(&2048_u16.to_be_bytes(), 32768 + 130);
    iso.write(b"\xFFCD001\x01", 34816);
    let mut udf = Pages::zeroed(520 * KIB);
    for (index, name) in [b"BEA01", b"NSR03", b"TEA01"].into_iter().enumerate() {
        udf.write(name, 32769 + 2048 * index as u64);
    }
    udf.write(&[2, 0, 3, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 1], 256 * 2048);
    let mut raw = Pages::zeroed(96 * KIB + 512);
    raw.write(&[0x55, 0xAA], 510);
    let one = |name, extension, pages, places: &[Range<u64>]| Subject {
        name,
        extension,
        pages,
        places: places.to_vec(),
        locators: Vec::new(),
        seal: Seal::Plain,
    };
    let descriptors = [0..16, 32768..32768 + 192, 34816..34816 + 16];
    let anchors = [
        32768..32768 + 6,
        34816..34822,
        36864..36870,
        524_288..524_304,
    ];
    vec![
        one("iso", "iso", iso, &descriptors),
        one("iso udf", "iso", udf, &anchors),
        one("raw", "img", raw, &[0..64, 32768..32800, 98_304..98_400]),
    ]
}
