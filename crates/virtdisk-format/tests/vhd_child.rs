//! New differencing VHDs: their layout, what they say of their parent, what cannot be made.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::sync::Arc;

use disk::{Disk, pattern, reading, writing};
use layered::{Layered, inherited};
use uuid::Uuid;
use virtdisk_format::{
    CreateOptions, ErrorKind, Format, HintKind, Kind, NewParent, ParentHint, Place, Store, create,
};
use virtdisk_testkit::vhd_builder::{HEADER_CHECKSUM_AT, checksum};
use virtdisk_testkit::{MemoryStore, SectorModel};

const MIB: u64 = 1 << 20;
const PARENT: [u8; 16] = *b"the parent's own";

fn parent_of(size: u64) -> SectorModel {
    SectorModel::from_bytes(&pattern(size, 0xAA))
}

fn little(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn big(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn word(file: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(file[at..at + 4].try_into().unwrap())
}

fn options(virtual_size: u64, block_size: u32) -> CreateOptions {
    CreateOptions {
        format: Format::Vhd,
        kind: Kind::Differencing,
        virtual_size,
        block_size,
        identifier: None,
        created_unix: 1_800_000_000,
        sparse: false,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: Some(NewParent {
            content_id: Uuid::from_bytes(PARENT),
            modified_unix: 0,
            relative_path: r".\parent.vhd".to_owned(),
            absolute_path: r"C:\vm\parent.vhd".to_owned(),
            inherited: Vec::new(),
        }),
    }
}

fn created(options: &CreateOptions) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    create(&*store, options).unwrap();
    store
}

#[test]
fn a_new_child_has_the_layout_of_windows() {
    // 1.7, V-30, V-34, V-41; the offsets of fat-differential.vhd.
    let store = created(&options(4 * MIB, 0));
    let file = store.to_vec();
    assert_eq!(file.len(), 0x1_4000);
    let (footer, header) = (&file[0x1_3E00..], &file[512..1536]);
    assert_eq!(&file[..512], footer);
    assert_eq!(word(footer, 60), 4);
    assert_eq!(&header[..8], b"cxsparse");
    assert_eq!(header[16..24], 0x2000_u64.to_be_bytes());
    assert_eq!((word(header, 28), word(header, 32)), (2, 2 << 20));
    assert_eq!(word(header, 36), checksum(header, HEADER_CHECKSUM_AT));
    assert_eq!(header[40..56], PARENT);
    assert_eq!(word(header, 56), 0);
    let name = big(r"C:\vm\parent.vhd");
    assert_eq!(header[64..64 + name.len()], name);
    let (absolute, relative) = (little(r"C:\vm\parent.vhd"), little(r".\parent.vhd"));
    let locator = |slot: usize| {
        let at = 576 + slot * 24;
        let offset = u64::from_be_bytes(header[at + 16..at + 24].try_into().unwrap());
        let code = header[at..at + 4].to_vec();
        (
            code,
            word(header, at + 4),
            word(header, at + 8),
            word(header, at + 12),
            offset,
        )
    };
    let length = |data: &[u8]| data.len() as u32;
    assert_eq!(
        locator(0),
        (b"W2ku".to_vec(), 4096, length(&absolute), 0, 0x1000)
    );
    assert_eq!(
        locator(1),
        (b"W2ru".to_vec(), 65536, length(&relative), 0, 0x3000)
    );
    assert_eq!(header[624..], [0; 400]);
    assert_eq!(file[0x1000..0x1000 + absolute.len()], absolute);
    assert_eq!(file[0x3000..0x3000 + relative.len()], relative);
    assert_eq!(file[0x2000..0x2200], [0xFF; 512]);
    let used = [
        0x1000 + absolute.len()..0x2000,
        0x3000 + relative.len()..0x1_3E00,
    ];
    assert!(
        used.into_iter()
            .all(|range| file[range].iter().all(|&byte| byte == 0))
    );
    // The first block goes where Windows puts it.
    let layers = Layered::open(store.clone(), &writing(), &parent_of(4 * MIB)).unwrap();
    layers.write(&pattern(512, 1), 2 * MIB).unwrap();
    assert_eq!(word(&store.to_vec(), 0x2004), 0x9F);
}

#[test]
fn a_new_child_shows_its_parent() {
    for (size, block, parent_size) in [
        (MIB, 0, MIB),
        (MIB + 512, 512, 2 * MIB),
        (3 * MIB, 65536, MIB),
        (MIB, 4096, 512),
    ] {
        let parent = parent_of(parent_size);
        let store = created(&options(size, block));
        let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
        let mut model = inherited(&parent, size);
        assert_eq!(layers.disk.image.facts().notices, [""; 0]);
        layers.must_be(&model);
        layers.write(&pattern(1536, 1), size - 2048).unwrap();
        model.write(&pattern(1536, 1), size - 2048);
        layers.must_be(&model);
        layers.disk.image.close().unwrap();
        Layered::open(store, &writing(), &parent)
            .unwrap()
            .must_be(&model);
    }
}

#[test]
fn a_new_child_says_what_it_was_told_of_its_parent() {
    let link = |options: &CreateOptions| {
        let disk = Disk::open(created(options), &reading()).unwrap();
        assert_eq!(disk.image.facts().notices, [""; 0]);
        disk.image.facts().parent.clone().unwrap()
    };
    let told = |absolute: &str, relative: &str, modified_unix| {
        let mut options = options(4 * MIB, 0);
        let parent = options.parent.as_mut().unwrap();
        parent.absolute_path = absolute.to_owned();
        parent.relative_path = relative.to_owned();
        parent.modified_unix = modified_unix;
        options
    };
    let hint = |kind, text: &str| ParentHint {
        kind,
        text: text.to_owned(),
    };
    let both = link(&told(r"C:\vm\größe.vhd", r".\größe.vhd", 1_800_000_000));
    assert_eq!(both.identities, [Uuid::from_bytes(PARENT)]);
    assert_eq!(both.modified_unix, Some(1_800_000_000));
    let wanted = [
        hint(HintKind::Relative, r".\größe.vhd"),
        hint(HintKind::Absolute, r"C:\vm\größe.vhd"),
        hint(HintKind::Name, r"C:\vm\größe.vhd"),
    ];
    assert_eq!(both.hints, wanted);
    let relative = link(&told("", r"..\a\b.vhd", 0));
    let wanted = [
        hint(HintKind::Relative, r"..\a\b.vhd"),
        hint(HintKind::Name, "b.vhd"),
    ];
    assert_eq!(
        (relative.hints, relative.modified_unix),
        (wanted.to_vec(), None)
    );
    assert_eq!(link(&told("", "", 0)).hints, []);
    // The longest path: the table makes room, the name is the last part.
    let long = format!(r"C:\{}\parent.vhd", "x".repeat(32_767 - 14));
    let options = told(&long, &format!(".{}", &long[2..32_000]), 0);
    let found = link(&options);
    assert_eq!(found.hints[1], hint(HintKind::Absolute, &long));
    assert_eq!(found.hints[2], hint(HintKind::Name, "parent.vhd"));
    let layers = Layered::open(created(&options), &writing(), &parent_of(4 * MIB)).unwrap();
    layers.write(&pattern(512, 1), 0).unwrap();
    layers.disk.image.close().unwrap();
}

#[test]
fn a_child_that_cannot_be_is_refused_before_anything_is_written() {
    let refused = |change: &dyn Fn(&mut CreateOptions)| {
        let mut options = options(MIB, 0);
        change(&mut options);
        let store = MemoryStore::new();
        let kind = create(&store, &options).unwrap_err().kind();
        assert_eq!(store.len().unwrap(), 0);
        kind
    };
    let wrong = ErrorKind::InvalidParameter;
    assert_eq!(
        refused(&|options| options.parent = None),
        ErrorKind::ParentMissing
    );
    assert_eq!(refused(&|options| options.kind = Kind::Dynamic), wrong);
    assert_eq!(refused(&|options| options.kind = Kind::Fixed), wrong);
    assert_eq!(
        refused(&|options| options.logical_sector_size = 4096),
        wrong
    );
    // S-13
    let own = |options: &mut CreateOptions| options.identifier = Some(Uuid::from_bytes(PARENT));
    assert_eq!(refused(&own), wrong);
    let nil = |options: &mut CreateOptions| {
        options.parent.as_mut().unwrap().content_id = Uuid::nil();
    };
    assert_eq!(refused(&nil), wrong);
    for path in ["x".repeat(32_768), "a\0b".to_owned()] {
        let absolute = |options: &mut CreateOptions| {
            options.parent.as_mut().unwrap().absolute_path = path.clone();
        };
        assert_eq!(refused(&absolute), wrong);
        let relative = |options: &mut CreateOptions| {
            options.parent.as_mut().unwrap().relative_path = path.clone();
        };
        assert_eq!(refused(&relative), wrong);
    }
    let block = |options: &mut CreateOptions| options.block_size = 4 << 20;
    assert_eq!(refused(&block), ErrorKind::InvalidBlockSize);
    let large = |options: &mut CreateOptions| options.virtual_size = (2040 << 30) + 512;
    assert_eq!(refused(&large), ErrorKind::InvalidSize);
}

#[test]
fn the_largest_child_is_filled_at_its_ends() {
    let size = 2040_u64 << 30;
    let store = created(&options(size, 0));
    let parent = SectorModel::new(MIB);
    let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
    for at in [0, size / 2, size - 512] {
        layers.write(&pattern(512, 1), at).unwrap();
        assert!(layers.read(at, 512).unwrap() == pattern(512, 1));
    }
    layers.disk.image.close().unwrap();
    let disk = Disk::open(store, &reading()).unwrap();
    assert_eq!(disk.image.facts().notices, [""; 0]);
    assert!(disk.read(size - 512, 512).unwrap() == pattern(512, 1));
    let extents = disk.extents(0, size).unwrap();
    let parents = extents
        .iter()
        .filter(|extent| extent.place == Place::Parent);
    assert_eq!((extents.len(), parents.count()), (5, 2));
}

#[test]
fn a_trim_of_the_whole_of_a_large_disk_goes_through_in_pieces() {
    let size = 1_u64 << 30;
    let store = created(&options(size, 512 << 10));
    let parent = SectorModel::new(size);
    let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
    layers.disk.image.trim(0, size).unwrap();
    assert_eq!(layers.disk.image.physical().unwrap().blocks_allocated, 2048);
    assert_eq!(
        layers.disk.extents(0, size).unwrap()[0].place,
        data_place(&layers.disk, 0)
    );
    assert!(store.counts().flushes < 200, "{:?}", store.counts());
}

fn data_place(disk: &Disk, at: u64) -> Place {
    disk.extents(at, 512).unwrap()[0].place
}
