//! New VHDXs and what is written into them: the bytes that stand in the file, and what QEMU says.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use virtdisk_format::{CreateOptions, ErrorKind, Format, Kind, MetadataItem, NewParent, create};
use virtdisk_testkit::{MemoryStore, Pages, has_program};

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
