//! New VHDXs and what is written into them: the bytes that stand in the file, and what QEMU says.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use disk::{pattern, reading, writing};
use layered::{Layered, inherited};
use virtdisk_format::{
    CreateOptions, ErrorKind, Extents, Format, Kind, MetadataItem, NewParent, Store, create,
};
use virtdisk_testkit::{MemoryStore, Pages, Rng, SectorModel, Verb, has_program};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn options(kind: Kind, virtual_size: u64) -> CreateOptions {
    CreateOptions {
        format: Format::Vhdx,
        kind,
        virtual_size,
        block_size: 0,
        identifier: None,
        created_unix: 0,
        sparse: true,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    }
}

fn created(options: &CreateOptions) -> Pages {
    let store = MemoryStore::new();
    create(&store, options).unwrap();
    store.pages()
}

fn bytes(pages: &Pages, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    assert!(pages.read(&mut bytes, at), "{len} bytes at {at}");
    bytes
}

fn number(pages: &Pages, at: u64) -> u64 {
    u64::from_le_bytes(bytes(pages, at, 8).try_into().unwrap())
}

/// Writes a file without its zeros.
fn save(pages: &Pages, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(pages.len()).unwrap();
    for at in (0..pages.len()).step_by(MIB as usize) {
        let piece = bytes(pages, at, MIB.min(pages.len() - at) as usize);
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(&piece, at).unwrap();
        }
    }
}

/// Runs qemu-img, which must succeed; answers what it printed.
#[track_caller]
fn qemu(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

#[test]
fn a_new_image_lies_as_windows_lays_it() {
    // X-72
    let pages = created(&options(Kind::Dynamic, 100 * GIB));
    assert_eq!(pages.len(), 4 * MIB);
    assert_eq!(bytes(&pages, 0, 8), *b"vhdxfile");
    for (at, sequence) in [(64 << 10, 1), (128 << 10, 2)] {
        assert_eq!(bytes(&pages, at, 4), *b"head");
        assert_eq!(number(&pages, at + 8), sequence);
        assert_eq!(bytes(&pages, at + 48, 16), [0; 16]);
        assert_eq!(number(&pages, at + 64), 0x0010_0000_0001_0000);
        assert_eq!(number(&pages, at + 72), MIB);
    }
    assert_eq!(
        bytes(&pages, (64 << 10) + 16, 32),
        bytes(&pages, (128 << 10) + 16, 32)
    );
    let tables = [192 << 10, 256 << 10].map(|at| bytes(&pages, at, 64 << 10));
    assert!(tables[0] == tables[1], "the region tables differ");
    for (entry, place) in [(16, 3 * MIB), (48, 2 * MIB)] {
        assert_eq!(number(&pages, (192 << 10) + entry + 16), place);
        assert_eq!(number(&pages, (192 << 10) + entry + 24), 1 << 32 | MIB);
    }
    assert_eq!(bytes(&pages, 2 * MIB, 12), *b"metadata\0\0\x05\0");
    assert_eq!(number(&pages, 2 * MIB + 0x1_0000), 32 << 20);
    assert_eq!(number(&pages, 2 * MIB + 0x1_0008), 100 * GIB);
    assert_eq!(number(&pages, 2 * MIB + 0x1_0010), 4096 << 32 | 512);
    assert_ne!(bytes(&pages, 2 * MIB + 0x1_0018, 16), [0; 16]);
    assert!(
        bytes(&pages, MIB, MIB as usize)
            .iter()
            .all(|&byte| byte == 0),
        "the log"
    );
    assert!(
        bytes(&pages, 3 * MIB, MIB as usize)
            .iter()
            .all(|&byte| byte == 0),
        "the table"
    );
}

#[test]
fn a_fixed_disk_has_all_its_blocks_from_the_start() {
    // 2.6: the entry of a chunk's bitmap block stands between the blocks; R-CRE-16.
    let mut fixed = options(Kind::Fixed, 5 * GIB + 512);
    fixed.block_size = 32 << 20;
    let pages = created(&fixed);
    let (blocks, ratio) = (161, 128);
    assert_eq!(pages.len(), 4 * MIB + blocks * 32 * MIB);
    for block in [0, 1, 127, 128, 160] {
        let entry = number(&pages, 3 * MIB + (block + block / ratio) * 8);
        assert_eq!(entry, (4 * MIB + block * 32 * MIB) | 6, "{block}");
    }
    assert_eq!(number(&pages, 3 * MIB + 128 * 8), 0);
    assert_eq!(number(&pages, 3 * MIB + 162 * 8), 0);
    assert_eq!(number(&pages, 2 * MIB + 0x1_0000), 1 << 32 | 32 << 20);
}

#[test]
fn the_table_has_room_for_bitmap_blocks_in_every_image() {
    // X-73, X-74: the largest table there is, 512.125 MiB.
    let mut large = options(Kind::Dynamic, 64 << 40);
    large.block_size = 1 << 20;
    assert_eq!(created(&large).len(), (3 + 513) * MIB);
    // 131072 blocks fill 1 MiB exactly; their 1024 bitmap entries need another one.
    let mut full = options(Kind::Dynamic, 4 << 40);
    full.block_size = 32 << 20;
    assert_eq!(created(&full).len(), 5 * MIB);
}

fn parent() -> NewParent {
    let item = |id, user, virtual_disk, data: &[u8]| MetadataItem {
        id,
        user,
        virtual_disk,
        required: false,
        data: data.to_vec(),
    };
    let id = |text: &str| text.parse().unwrap();
    NewParent {
        content_id: id("f88d4d92-6fcc-408d-9bef-9b7c89f15c89"),
        modified_unix: 0,
        relative_path: r".\base.vhdx".into(),
        absolute_path: r"C:\vm\base.vhdx".into(),
        inherited: vec![
            item(
                id("2fa54224-cd1b-4876-b211-5dbed83bf4b8"),
                false,
                true,
                &[9; 8],
            ),
            item(
                id("beca12ab-b2e6-4523-93ef-c309e000c746"),
                false,
                true,
                &[7; 16],
            ),
            item(
                id("8141bf1d-a96f-4709-ba47-f233a8faab5f"),
                false,
                true,
                &[0, 16, 0, 0],
            ),
            item(
                id("cda348c7-445d-4471-9cc9-e9885251c556"),
                false,
                true,
                &[0, 16, 0, 0],
            ),
            item(
                id("11111111-2222-3333-4444-555555555555"),
                true,
                true,
                b"of the guest",
            ),
            item(
                id("11111111-2222-3333-4444-666666666666"),
                true,
                false,
                b"of the file",
            ),
        ],
    }
}

#[test]
fn a_child_takes_over_what_belongs_to_the_disk() {
    // X-72, 2.8
    let mut child = options(Kind::Differencing, 10 * GIB);
    child.parent = Some(parent());
    let pages = created(&child);
    let items = 2 * MIB + 0x1_0000;
    assert_eq!(number(&pages, items), 2 << 32 | 2 << 20);
    assert_eq!(number(&pages, items + 8), 10 * GIB);
    assert_eq!(number(&pages, items + 0x10), 4096 << 32 | 4096);
    assert_eq!(bytes(&pages, items + 0x18, 16), [7; 16]);
    assert_eq!(bytes(&pages, 2 * MIB + 10, 2), [7, 0], "items");
    let region = bytes(&pages, 2 * MIB, MIB as usize);
    let holds = |text: &str, wide: bool| {
        let text: Vec<u8> = if wide {
            text.encode_utf16().flat_map(u16::to_le_bytes).collect()
        } else {
            text.into()
        };
        region.windows(text.len()).any(|window| window == text)
    };
    for text in [
        "parent_linkage{f88d4d92-6fcc-408d-9bef-9b7c89f15c89}",
        r"absolute_win32_pathC:\vm\base.vhdx",
        r"relative_path.\base.vhdx",
        "parent_linkage2{00000000-0000-0000-0000-000000000000}",
    ] {
        assert!(holds(text, true), "{text}");
    }
    assert!(!holds("volume_path", true));
    assert!(holds("of the guest", false) && !holds("of the file", false));
}

#[test]
fn what_no_vhdx_can_be_is_refused_before_anything_is_written() {
    let refused = |change: &dyn Fn(&mut CreateOptions)| {
        let mut options = options(Kind::Dynamic, GIB);
        change(&mut options);
        let store = MemoryStore::new();
        let error = create(&store, &options).unwrap_err();
        assert_eq!(store.pages().len(), 0, "{error}");
        error.kind()
    };
    assert_eq!(
        refused(&|new| new.virtual_size = (64 << 40) + 512),
        ErrorKind::InvalidSize
    );
    assert_eq!(
        refused(&|new| new.virtual_size = 513),
        ErrorKind::InvalidSize
    );
    for block_size in [512 << 10, 3 << 20, 512 << 20] {
        let kind = refused(&|new| new.block_size = block_size);
        assert_eq!(kind, ErrorKind::InvalidBlockSize);
    }
    let unaligned = refused(&|new| {
        new.logical_sector_size = 4096;
        new.virtual_size = GIB + 512;
    });
    assert_eq!(unaligned, ErrorKind::InvalidSize);
    assert_eq!(
        refused(&|new| new.logical_sector_size = 1024),
        ErrorKind::InvalidParameter
    );
    assert_eq!(
        refused(&|new| new.physical_sector_size = 513),
        ErrorKind::InvalidParameter
    );
    assert_eq!(
        refused(&|new| new.parent = Some(parent())),
        ErrorKind::InvalidParameter
    );
    assert_eq!(
        refused(&|new| new.kind = Kind::Differencing),
        ErrorKind::ParentMissing
    );
    // X-10: the sector of the parent is 4096.
    let other_sector = refused(&|new| {
        new.kind = Kind::Differencing;
        new.parent = Some(parent());
        new.logical_sector_size = 512;
    });
    assert_eq!(other_sector, ErrorKind::InvalidParameter);
    let nobody = refused(&|new| {
        new.kind = Kind::Differencing;
        new.parent = Some(NewParent::default());
    });
    assert_eq!(nobody, ErrorKind::ParentMismatch);
    let too_long = refused(&|new| {
        let mut parent = parent();
        parent.absolute_path = "x".repeat(32768);
        new.kind = Kind::Differencing;
        new.parent = Some(parent);
    });
    assert_eq!(too_long, ErrorKind::InvalidParameter);
}

#[test]
fn qemu_accepts_new_images() {
    if !has_program("qemu-img") {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.vhdx");
    let name = path.to_str().unwrap();
    for kind in [Kind::Dynamic, Kind::Fixed] {
        for block_size in [0, 1 << 20, 32 << 20, 256 << 20] {
            for size in [3 * MIB, 17 * MIB + 512, 5 * GIB + 512] {
                if kind == Kind::Fixed && size > GIB {
                    continue;
                }
                let mut options = options(kind, size);
                options.block_size = block_size;
                save(&created(&options), &path);
                let said = qemu(&["check", "-f", "vhdx", name]);
                assert!(said.contains("No errors were found"), "{said}");
                let said = qemu(&["info", "-f", "vhdx", "--output=json", name]);
                assert!(
                    said.contains(&format!("\"virtual-size\": {size},")),
                    "{said}"
                );
            }
        }
    }
}

/// A new small disk that is open for writing, over a parent where it is a child.
fn opened(kind: Kind, virtual_size: u64, block_size: u32) -> (Arc<MemoryStore>, Layered) {
    let mut options = options(kind, virtual_size);
    options.block_size = block_size;
    options.logical_sector_size = 512;
    options.parent = (kind == Kind::Differencing).then(|| NewParent {
        content_id: uuid::Uuid::from_u128(7),
        ..NewParent::default()
    });
    let store = Arc::new(MemoryStore::from_pages(created(&options)));
    let layers = Layered::open(store.clone(), &writing(), &parent_disk()).unwrap();
    (store, layers)
}

fn parent_disk() -> SectorModel {
    SectorModel::from_bytes(&pattern(4 * MIB, 0xAA))
}

/// FileWriteGuid, DataWriteGuid, LogGuid of the header that counts; both agree unless one is newer.
fn guids(store: &MemoryStore) -> [Vec<u8>; 3] {
    let pages = store.pages();
    let newer = number(&pages, (128 << 10) + 8) > number(&pages, (64 << 10) + 8);
    let at = if newer { 128 << 10 } else { 64 << 10 };
    let guids = |at: u64| [16, 32, 48].map(|field| bytes(&pages, at + field, 16));
    assert_eq!(
        guids(64 << 10),
        guids(128 << 10),
        "both headers are current"
    );
    guids(at)
}

/// The entry of a block in a table without bitmap entries before it.
fn entry(store: &MemoryStore, block: u64) -> u64 {
    number(&store.pages(), 3 * MIB + block * 8)
}

const NIL: [u8; 16] = [0; 16];

#[test]
fn headers_change_once_and_exactly_when_data_do() {
    // X-60, X-61
    for kind in [Kind::Fixed, Kind::Dynamic, Kind::Differencing] {
        let (store, layers) = opened(kind, 4 * MIB, 1 << 20);
        let before = guids(&store);
        let file = store.to_vec();
        layers.read(0, MIB).unwrap();
        layers.disk.image.flush().unwrap();
        layers.disk.image.close().unwrap();
        assert!(store.to_vec() == file, "{kind:?}: opened, read and closed");
        let layers = Layered::open(store.clone(), &writing(), &parent_disk()).unwrap();
        layers.write(&pattern(512, 1), 0).unwrap();
        let during = guids(&store);
        assert!(during[0] != before[0] && during[1] != before[1], "{kind:?}");
        assert_eq!(during[2] == NIL, kind == Kind::Fixed);
        layers.write(&pattern(512, 1), MIB).unwrap();
        layers.disk.image.flush().unwrap();
        assert_eq!(guids(&store), during);
        layers.disk.image.close().unwrap();
        let [file, data, log] = guids(&store);
        assert_eq!((&file, &data), (&during[0], &during[1]));
        assert_eq!(log, NIL);
    }
}

#[test]
fn a_disk_written_around_the_image_is_touched_first() {
    let (store, layers) = opened(Kind::Fixed, 4 * MIB, 1 << 20);
    let before = guids(&store);
    assert_eq!(layers.disk.image.whole(), Some(4 * MIB));
    layers.disk.image.touch().unwrap();
    layers.disk.image.touch().unwrap();
    let [file, data, log] = guids(&store);
    assert!(file != before[0] && data != before[1] && log == NIL);
    let sequences = [64 << 10, 128 << 10].map(|at| number(&store.pages(), at + 8));
    assert_eq!(sequences, [3, 4]);
}

#[test]
fn a_first_write_costs_no_flush_once_the_session_began() {
    // X-68: space ahead; what a kill leaves is in the log.
    for kind in [Kind::Dynamic, Kind::Differencing] {
        let (store, layers) = opened(kind, 64 * MIB, 1 << 20);
        layers.write(&pattern(512, 1), 0).unwrap();
        let before = store.counts();
        let mut out = Extents::new();
        for block in 1..11 {
            let ticket = layers.disk.image.reserve(block * MIB, 512, &mut out);
            drop(ticket.unwrap());
        }
        assert_eq!(store.counts().flushes, before.flushes, "{kind:?}");
        let killed = Layered::open_pages(&store.pages(), &reading(), &parent_disk()).unwrap();
        assert_eq!(killed.disk.image.physical().unwrap().blocks_allocated, 11);
    }
}

#[test]
fn a_partial_write_of_a_dynamic_disk_lies_at_its_place_among_zeros() {
    // X-66, S-10: the file had dirt behind its end.
    let (store, layers) = opened(Kind::Dynamic, 8 * MIB, 2 << 20);
    layers.disk.image.close().unwrap();
    let len = store.len().unwrap();
    store.write_all_at(&vec![0xEE; 5 << 20], len).unwrap();
    let layers = Layered::open(store.clone(), &writing(), &parent_disk()).unwrap();
    let mut model = SectorModel::new(8 * MIB);
    for at in [2 * MIB + 1536, 7 * MIB + 3 * 512] {
        layers.write(&pattern(1024, 3), at).unwrap();
        model.write(&pattern(1024, 3), at);
    }
    layers.must_be(&model);
    layers.disk.image.close().unwrap();
    let places = [0, 1, 2, 3].map(|block| entry(&store, block));
    assert_eq!(places, [0, (4 * MIB) | 6, 0, (6 * MIB) | 6]);
    assert_eq!(store.len().unwrap(), 8 * MIB, "cut behind the last block");
}

#[test]
fn a_partial_write_of_a_child_shows_the_parent_around_it() {
    // X-67
    let (store, layers) = opened(Kind::Differencing, 4 * MIB, 1 << 20);
    let mut model = inherited(&parent_disk(), 4 * MIB);
    layers.write(&pattern(1024, 3), MIB + 512).unwrap();
    model.write(&pattern(1024, 3), MIB + 512);
    // A whole block at once, and one sector by sector.
    layers.write(&pattern(MIB, 4), 2 * MIB).unwrap();
    model.write(&pattern(MIB, 4), 2 * MIB);
    layers.disk.image.trim(0, MIB).unwrap();
    layers.write(&pattern(512, 5), 512).unwrap();
    model.zero(0, MIB);
    model.write(&pattern(512, 5), 512);
    layers.must_be(&model);
    layers.disk.image.close().unwrap();
    let states = [0, 1, 2, 3].map(|block| entry(&store, block) & 7);
    assert_eq!(
        states,
        [6, 7, 6, 0],
        "ZERO becomes full, so that the parent never shows"
    );
    let bitmap = number(&store.pages(), 3 * MIB + 4096 * 8);
    assert_eq!(bitmap & 7, 6);
    let part = bytes(&store.pages(), bitmap / MIB * MIB + 256, 256);
    assert_eq!(
        (part[0], &part[1..]),
        (0b110, &[0; 255][..]),
        "least significant first"
    );
    let layers = Layered::open(store.clone(), &writing(), &parent_disk()).unwrap();
    for half in [0, MIB / 2] {
        layers.write(&pattern(MIB / 2, 6), MIB + half).unwrap();
    }
    layers.disk.image.close().unwrap();
    assert_eq!(
        entry(&store, 1) & 7,
        6,
        "the last sector makes the block full"
    );
}

#[test]
fn bits_that_another_writer_left_do_not_show_in_a_new_block() {
    // X-67: a bitmap block is there, and bits are set for a block that is not.
    for block in [MIB, 32 * MIB] {
        let (store, layers) = opened(Kind::Differencing, 3 * block, block as u32);
        let mut model = inherited(&parent_disk(), 3 * block);
        layers.write(&pattern(512, 3), 0).unwrap();
        model.write(&pattern(512, 3), 0);
        layers.disk.image.close().unwrap();
        let (ratio, part) = (4096 * MIB / block, block / 4096);
        let bitmap = number(&store.pages(), 3 * MIB + ratio * 8) / MIB * MIB;
        let ones = vec![0xFF; part as usize];
        store.write_all_at(&ones, bitmap + part).unwrap();
        let layers = Layered::open(store.clone(), &writing(), &parent_disk()).unwrap();
        layers.write(&pattern(512, 3), 2 * block - 512).unwrap();
        model.write(&pattern(512, 3), 2 * block - 512);
        let held = |layers: &Layered| {
            for at in [0, MIB, block, 2 * block - MIB, 2 * block] {
                let held = model.compare_part(at, MIB, &[], |buf, at| layers.read_at(buf, at));
                held.unwrap();
            }
        };
        held(&layers);
        layers.disk.image.close().unwrap();
        held(&Layered::open(store, &reading(), &parent_disk()).unwrap());
    }
}

#[test]
fn blocks_of_later_chunks_and_their_bitmaps_have_their_own_entries() {
    // X-40: chunks of 4 GiB; writes across their borders.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.vhdx");
    for kind in [Kind::Dynamic, Kind::Differencing] {
        let (store, layers) = opened(kind, 9 * GIB, 32 << 20);
        let places = [0, 4 * GIB - 1024, 8 * GIB - 1024, 9 * GIB - 2048];
        for at in places {
            layers.write(&[0x5A; 2048], at).unwrap();
        }
        layers.disk.image.close().unwrap();
        let again = Layered::open(store.clone(), &reading(), &parent_disk()).unwrap();
        for at in places {
            assert!(
                again.read(at, 2048).unwrap() == [0x5A; 2048],
                "{kind:?}: {at}"
            );
        }
        assert_eq!(again.disk.image.physical().unwrap().blocks_allocated, 6);
        let has_bitmap = [128, 2 * 129 - 1, 3 * 129 - 1]
            .map(|index| number(&store.pages(), 3 * MIB + index * 8) & 7 == 6);
        assert_eq!(has_bitmap, [kind == Kind::Differencing; 3]);
        if kind == Kind::Dynamic && has_program("qemu-img") && has_program("qemu-io") {
            save(&store.pages(), &path);
            let name = path.to_str().unwrap();
            qemu(&["check", "-f", "vhdx", name]);
            for at in places {
                let read = format!("read -P 0x5A {at} 2048");
                let output = Command::new("qemu-io")
                    .args(["-r", "-f", "vhdx", "-c", &read, name])
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(said.contains("read 2048/2048"), "{output:?}");
                assert!(!said.contains("verification failed"), "{output:?}");
            }
        }
    }
}

#[test]
fn what_is_trimmed_as_a_whole_becomes_zero_without_an_offset() {
    // X-47, X-70
    for kind in [Kind::Dynamic, Kind::Differencing] {
        let (store, layers) = opened(kind, 4 * MIB - 512, 1 << 20);
        layers.write(&pattern(4 * MIB - 512, 1), 0).unwrap();
        layers.disk.image.trim(MIB, 3 * MIB - 512).unwrap();
        layers.disk.image.close().unwrap();
        let states = [0, 1, 2, 3].map(|block| entry(&store, block));
        assert_eq!(
            (states[0] & 7, &states[1..]),
            (6, &[2; 3][..]),
            "with the short last one"
        );
        // The bitmap block of the child lies behind what was freed.
        let end = if kind == Kind::Dynamic { 5 } else { 9 };
        assert_eq!(store.len().unwrap(), end * MIB, "{kind:?}");
        // UNDEFINED stays UNDEFINED: backup tools skip it.
        store
            .write_all_at(&1_u64.to_le_bytes(), 3 * MIB + 8)
            .unwrap();
        let layers = Layered::open(store.clone(), &writing(), &parent_disk()).unwrap();
        layers.disk.image.trim(0, 4 * MIB - 512).unwrap();
        layers.disk.image.close().unwrap();
        assert_eq!([0, 1, 2].map(|block| entry(&store, block)), [2, 1, 2]);
    }
}

#[test]
fn trimmed_space_is_used_again_and_holds_nothing_of_before() {
    // X-70, S-10
    let (store, layers) = opened(Kind::Dynamic, 256 * MIB, 1 << 20);
    for round in 0..40 {
        layers.write(&pattern(2 * MIB, 7), round * 4 * MIB).unwrap();
        layers.disk.image.trim(round * 4 * MIB, 2 * MIB).unwrap();
        layers.disk.image.flush().unwrap();
        layers
            .write(&pattern(512, 8), round * 4 * MIB + 512)
            .unwrap();
        let block = layers.read(round * 4 * MIB, 2 * MIB).unwrap();
        assert!(
            block[..512]
                .iter()
                .chain(&block[1024..])
                .all(|&byte| byte == 0)
        );
    }
    assert!(store.len().unwrap() <= 80 * MIB, "{}", store.len().unwrap());
}

#[test]
fn the_file_identifier_is_never_touched() {
    // S-11
    let (store, layers) = opened(Kind::Differencing, 4 * MIB, 1 << 20);
    let before = bytes(&store.pages(), 0, 64 << 10);
    layers.write(&pattern(3 * MIB, 1), 512).unwrap();
    layers.disk.image.trim(0, 2 * MIB).unwrap();
    layers.disk.image.close().unwrap();
    assert!(bytes(&store.pages(), 0, 64 << 10) == before);
}

#[test]
fn qemu_reads_and_checks_what_was_written() {
    if !has_program("qemu-img") {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    let mut rng = Rng::announced("qemu_reads_and_checks_what_was_written");
    let folder = tempfile::tempdir().unwrap();
    let (raw, path) = (
        folder.path().join("model.raw"),
        folder.path().join("ours.vhdx"),
    );
    let (raw_name, name) = (raw.to_str().unwrap(), path.to_str().unwrap());
    for (kind, size, block, close) in [
        (Kind::Fixed, 5 * MIB + 512, 1 << 20, true),
        (Kind::Dynamic, 12 * MIB, 1 << 20, true),
        (Kind::Dynamic, 9 * MIB + 1536, 2 << 20, false),
        (Kind::Dynamic, 40 * MIB, 32 << 20, true),
    ] {
        let (store, layers) = opened(kind, size, block);
        let mut model = SectorModel::new(size);
        for _ in 0..60 {
            let verb = Verb::random(&mut rng, size, 512, size / 5);
            layers.apply(&verb).unwrap();
            model.apply(&verb);
        }
        if close {
            layers.disk.image.close().unwrap();
        }
        save(&store.pages(), &path);
        if !close {
            // X-31: a log of ours, replayed by QEMU.
            qemu(&["check", "-f", "vhdx", "-r", "all", name]);
        }
        let said = qemu(&["check", "-f", "vhdx", name]);
        assert!(said.contains("No errors were found"), "{said}");
        std::fs::write(&raw, model.read(0, size)).unwrap();
        qemu(&["compare", "-f", "vhdx", "-F", "raw", name, raw_name]);
    }
}
