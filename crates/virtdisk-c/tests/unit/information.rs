//! Information classes, on facts as the service answers them.
//!
//! Part of `src/information.rs`, which keeps its tests here because of their length.

use api::{Information, StorageType, Uuid};

use super::{facts, is_known};

/// A dynamic VHD as R-INFO-7 expects it when it was just created.
fn fresh() -> Information {
    Information {
        device_id: 2,
        vendor_id: StorageType::VENDOR_MICROSOFT.to_string(),
        virtual_size: 0x0301_0200,
        physical_size: 2048,
        block_size: 0x20_0000,
        sector_size: 512,
        physical_sector_size: 512,
        identifier: "01020304-0506-0708-090a-0b0c0d0e0f10".to_owned(),
        virtual_disk_id: "11121314-1516-1718-191a-1b1c1d1e1f20".to_owned(),
        subtype: 3,
        is_4k_aligned: true,
        host_logical_sector_size: 512,
        host_physical_sector_size: 4096,
        fragmentation: Some(0),
        ..Information::default()
    }
}

fn code(class: u32, disk: &Information) -> u32 {
    facts(class, disk).err().map_or(0, |failed| failed.0.0)
}

// R-INFO-7, R-INFO-3
#[test]
fn classes_have_the_lengths_and_bytes_of_the_sheet() {
    // By class; 0 where a fresh VHD has no answer.
    let lengths = [0, 32, 24, 0, 0, 0, 28, 12, 12, 20, 12, 0, 12, 12, 24, 18];
    for (class, length) in (0..).zip(lengths).filter(|(_, length)| *length != 0) {
        let bytes = facts(class, &fresh()).unwrap();
        assert_eq!(
            bytes.len() + crate::layout::INFO_FACTS_OFFSET,
            length,
            "{class}"
        );
    }
    let size = facts(1, &fresh()).unwrap();
    assert_eq!(size[..8], 0x0301_0200_u64.to_le_bytes());
    assert_eq!(size[16..24], [0, 0, 0x20, 0, 0, 2, 0, 0]);
    assert_eq!(facts(2, &fresh()).unwrap()[..6], [4, 3, 2, 1, 6, 5]);
    let storage_type = facts(6, &fresh()).unwrap();
    assert_eq!(storage_type[..8], [2, 0, 0, 0, 0xEC, 0x4A, 0x98, 0xEC]);
    assert_eq!(facts(7, &fresh()).unwrap(), [3, 0, 0, 0]);
    assert_eq!(facts(8, &fresh()).unwrap(), [1, 0, 0, 0]);
    assert_eq!(
        facts(9, &fresh()).unwrap(),
        [0, 2, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(facts(15, &fresh()).unwrap(), [0; 10]);
}

// R-INFO-2
#[test]
fn unknown_classes_are_invalid() {
    for class in [0, 16, u32::MAX] {
        assert_eq!(code(class, &fresh()), 87, "{class}");
        assert!(!is_known(class));
    }
}

// R-INFO-5
#[test]
fn parent_facts_need_a_differencing_disk() {
    for class in [3, 4, 5] {
        assert_eq!(code(class, &fresh()), 0xC03A_001B, "{class}");
    }
}

// R-INFO-7
#[test]
fn what_can_not_be_said_is_an_error() {
    assert_eq!(code(11, &fresh()), 0xC03A_0026);
    let known = Information {
        smallest_safe_size: Some(3 << 20),
        ..fresh()
    };
    assert_eq!(facts(11, &known).unwrap(), (3_u64 << 20).to_le_bytes());
    assert_eq!(
        code(
            12,
            &Information {
                fragmentation: None,
                ..fresh()
            }
        ),
        0xC03A_001B
    );
    let nil = Uuid::nil().to_string();
    assert_eq!(
        code(
            2,
            &Information {
                identifier: nil,
                ..fresh()
            }
        ),
        0xC03A_001B
    );
    let nonsense = Information {
        identifier: "x".to_owned(),
        ..fresh()
    };
    assert_eq!(code(2, &nonsense), 13);
}

// R-INFO-5, R-INFO-6
#[test]
fn only_a_differencing_disk_says_where_its_parent_is() {
    for class in 3..=5 {
        assert_eq!(code(class, &fresh()), 0xC03A_001B);
    }
    let open = Information {
        subtype: 4,
        parent_resolved: true,
        parents: vec!["/b".to_owned(), "/a".to_owned()],
        parent_hints: vec![r".\b".to_owned()],
        parent_identifier: "01020304-0506-0708-090a-0b0c0d0e0f10".to_owned(),
        parent_timestamp: 7,
        ..fresh()
    };
    let location = [1, 0, 0, 0, b'/', 0, b'b', 0, 0, 0];
    assert_eq!(facts(3, &open).unwrap(), location);
    assert_eq!(facts(4, &open).unwrap()[..6], [4, 3, 2, 1, 6, 5]);
    assert_eq!(facts(5, &open).unwrap(), [7, 0, 0, 0]);
    let alone = Information {
        parent_resolved: false,
        parents: Vec::new(),
        parent_hints: vec!["a".to_owned(), "b".to_owned()],
        ..open
    };
    let location = [0, 0, 0, 0, b'a', 0, 0, 0, b'b', 0, 0, 0, 0, 0];
    assert_eq!(facts(3, &alone).unwrap(), location);
}

// R-INFO-11
#[test]
fn iso_knows_its_size_and_its_type() {
    let iso = Information {
        device_id: 1,
        sector_size: 2048,
        ..fresh()
    };
    assert_eq!(facts(1, &iso).unwrap()[20..], 2048_u32.to_le_bytes());
    assert_eq!(facts(6, &iso).unwrap()[..4], [1, 0, 0, 0]);
    for class in (2..=15).filter(|class| *class != 6) {
        assert_eq!(code(class, &iso), 0xC03A_001B, "{class}");
    }
    assert_eq!(code(16, &iso), 87);
}
