//! Argument rules of a create, one test per rule of the API sheet.

use virtdisk::check::{Geometry, create, create_type, geometry, source_size};
use virtdisk::frame::CreateRequest;
use virtdisk::{AccessMask, CreateFlags, StorageType};

const INVALID: u32 = 87;
const NO_PROVIDER: u32 = 0xC03A_0014;
const INVALID_SIZE: u32 = 0xC03A_0012;
const NOT_SUPPORTED: u32 = 50;
const FIXED: u32 = CreateFlags::FULL_PHYSICAL_ALLOCATION.bits();
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn typed(storage_type: StorageType) -> CreateRequest {
    CreateRequest {
        path: "/images/a.vhd".to_owned(),
        device_id: storage_type.device_id,
        vendor_id: storage_type.vendor_id.to_string(),
        version: 2,
        maximum_size: 64 * MIB,
        ..CreateRequest::default()
    }
}

fn vhd() -> CreateRequest {
    typed(StorageType::VHD)
}

fn sized(storage_type: StorageType, maximum_size: u64) -> u32 {
    code(&CreateRequest {
        maximum_size,
        ..typed(storage_type)
    })
}

fn code(request: &CreateRequest) -> u32 {
    create(request).map_or_else(|failure| failure.code, |()| 0)
}

// R-CRE-1
#[test]
fn create_needs_a_type_a_path_and_a_known_version() {
    assert_eq!(code(&vhd()), 0);
    for version in [0, 5, u32::MAX] {
        assert_eq!(
            code(&CreateRequest { version, ..vhd() }),
            INVALID,
            "{version}"
        );
    }
    for version in [1, 2, 3, 4] {
        assert_eq!(code(&CreateRequest { version, ..vhd() }), 0, "{version}");
    }
    assert_eq!(
        code(&CreateRequest {
            path: String::new(),
            ..vhd()
        }),
        INVALID
    );
    let no_guid = CreateRequest {
        vendor_id: "x".to_owned(),
        ..vhd()
    };
    assert_eq!(code(&no_guid), INVALID);
}

// R-CRE-2
#[test]
fn create_refuses_a_mask_with_version_2_and_up() {
    let access_mask = AccessMask::CREATE.bits();
    for version in [2, 3, 4] {
        assert_eq!(
            code(&CreateRequest {
                version,
                access_mask,
                ..vhd()
            }),
            INVALID
        );
    }
    assert_eq!(
        code(&CreateRequest {
            version: 1,
            access_mask,
            ..vhd()
        }),
        0
    );
    let all = AccessMask::ALL.bits();
    assert_eq!(
        code(&CreateRequest {
            version: 1,
            access_mask: all,
            ..vhd()
        }),
        0
    );
}

// R-CRE-3
#[test]
fn create_refuses_unknown_mask_bits_and_flags() {
    let version_1 = CreateRequest {
        version: 1,
        ..vhd()
    };
    let outside = CreateRequest {
        access_mask: 0x0040_0000,
        ..version_1.clone()
    };
    assert_eq!(code(&outside), INVALID);
    assert_eq!(
        code(&CreateRequest {
            flags: 0x800,
            ..vhd()
        }),
        INVALID
    );
    assert_eq!(
        code(&CreateRequest {
            open_flags: 0x1000,
            ..vhd()
        }),
        INVALID
    );
    assert_eq!(
        code(&CreateRequest {
            provider_flags: 1,
            ..vhd()
        }),
        INVALID
    );
    let later_field = CreateRequest {
        physical_sector_size: 512,
        ..version_1
    };
    assert_eq!(code(&later_field), INVALID);
}

// R-CRE-4
#[test]
fn create_needs_3_mib_for_a_vhd_and_a_sector_for_a_raw_image() {
    for flags in [0, FIXED] {
        let with = |maximum_size| {
            code(&CreateRequest {
                flags,
                maximum_size,
                ..vhd()
            })
        };
        assert_eq!(with(0), INVALID);
        assert_eq!(with(3 * MIB - 512), INVALID);
        assert_eq!(with(3 * MIB), 0);
    }
    assert_eq!(sized(StorageType::RAW, 0), INVALID);
    assert_eq!(sized(StorageType::RAW, 512), 0);
}

// R-CRE-5
#[test]
fn create_needs_whole_sectors() {
    for size in [3 * MIB + 1, 3 * MIB + 511, 64 * MIB - 1] {
        assert_eq!(sized(StorageType::VHD, size), INVALID, "{size}");
    }
    assert_eq!(sized(StorageType::RAW, 513), INVALID);
    let vhdx_4k = |maximum_size| CreateRequest {
        sector_size: 4096,
        maximum_size,
        ..typed(StorageType::VHDX)
    };
    assert_eq!(code(&vhdx_4k(64 * MIB + 512)), INVALID);
    assert_eq!(code(&vhdx_4k(64 * MIB + 4096)), 0);
}

// R-CRE-6
#[test]
fn create_takes_any_number_of_sectors() {
    for size in [0x0301_0200, 0x0301_0400, 0x0081_0400] {
        assert_eq!(sized(StorageType::VHD, size), 0, "{size:#X}");
    }
}

// R-CRE-7
#[test]
fn create_takes_the_block_sizes_of_the_format() {
    let block = |block_size| {
        code(&CreateRequest {
            block_size,
            ..vhd()
        })
    };
    for size in [0, 0x8_0000, 0x20_0000] {
        assert_eq!(block(size), 0, "{size:#X}");
    }
    for size in [1, 512, 0x10_0000, 0x40_0000, u32::MAX] {
        assert_eq!(block(size), INVALID, "{size:#X}");
    }
    let fixed = CreateRequest {
        flags: FIXED,
        ..vhd()
    };
    assert_eq!(
        code(&CreateRequest {
            block_size: 0x20_0000,
            ..fixed
        }),
        INVALID
    );
    let vhdx = |block_size| {
        geometry(&CreateRequest {
            block_size,
            ..typed(StorageType::VHDX)
        })
        .map(|it| it.block_size)
    };
    assert_eq!(vhdx(0x10_0000).unwrap(), 0x10_0000);
    assert_eq!(vhdx(0x1000_0000).unwrap(), 0x1000_0000);
    for size in [0x8_0000, 0x30_0000, 0x2000_0000] {
        assert_eq!(vhdx(size).unwrap_err().code, INVALID, "{size:#X}");
    }
    let raw = CreateRequest {
        block_size: 0x20_0000,
        ..typed(StorageType::RAW)
    };
    assert_eq!(code(&raw), INVALID);
}

// R-CRE-8
#[test]
fn defaults_are_those_of_the_format() {
    let sizes = |block_size, sector_size, physical_sector_size| Geometry {
        block_size,
        sector_size,
        physical_sector_size,
    };
    assert_eq!(geometry(&vhd()).unwrap(), sizes(0x20_0000, 512, 512));
    let fixed = CreateRequest {
        flags: FIXED,
        ..vhd()
    };
    assert_eq!(geometry(&fixed).unwrap(), sizes(0, 512, 512));
    let vhdx = typed(StorageType::VHDX);
    assert_eq!(geometry(&vhdx).unwrap(), sizes(32 << 20, 512, 4096));
    let child = CreateRequest {
        parent_path: "/p.vhdx".to_owned(),
        ..vhdx
    };
    assert_eq!(geometry(&child).unwrap(), sizes(2 << 20, 512, 4096));
    assert_eq!(
        geometry(&typed(StorageType::RAW)).unwrap(),
        sizes(0, 512, 512)
    );
    let sectors_4k = CreateRequest {
        sector_size: 4096,
        ..vhd()
    };
    assert_eq!(code(&sectors_4k), INVALID);
    let physical_4k = CreateRequest {
        physical_sector_size: 4096,
        ..vhd()
    };
    assert_eq!(code(&physical_4k), INVALID);
}

// R-CRE-9
#[test]
fn create_takes_a_parent_or_a_source_by_its_absolute_path() {
    let parent = CreateRequest {
        parent_path: "/p.vhd".to_owned(),
        maximum_size: 0,
        ..vhd()
    };
    assert_eq!(code(&parent), 0);
    for (changed, wanted) in [
        (
            CreateRequest {
                flags: FIXED,
                ..parent.clone()
            },
            INVALID,
        ),
        (
            CreateRequest {
                parent_path: parent.parent_path.clone(),
                maximum_size: 0,
                ..typed(StorageType::RAW)
            },
            NOT_SUPPORTED,
        ),
    ] {
        assert_eq!(code(&changed), wanted);
    }
    let both = CreateRequest {
        source_path: "/s.vhd".to_owned(),
        ..parent.clone()
    };
    assert_eq!(code(&both), INVALID);
    assert_eq!(
        code(&CreateRequest {
            maximum_size: 64 * MIB,
            ..parent.clone()
        }),
        INVALID
    );
    let relative = CreateRequest {
        parent_path: "p.vhd".to_owned(),
        ..parent
    };
    assert_eq!(code(&relative), INVALID);
    assert_eq!(
        code(&CreateRequest {
            source_path: "s.vhd".to_owned(),
            ..vhd()
        }),
        INVALID
    );
}

// R-CRE-11
#[test]
fn a_copy_is_as_large_as_its_source_or_larger() {
    let copy = |maximum_size| {
        code(&CreateRequest {
            source_path: "/s.vhd".to_owned(),
            maximum_size,
            ..vhd()
        })
    };
    assert_eq!(copy(0), 0);
    assert_eq!(copy(512), INVALID);
    assert_eq!(source_size("/a.vhd", 0, 5 * MIB).unwrap(), 5 * MIB);
    assert_eq!(source_size("/a.vhd", 6 * MIB, 5 * MIB).unwrap(), 6 * MIB);
    assert_eq!(
        source_size("/a.vhd", 4 * MIB, 5 * MIB).unwrap_err().code,
        INVALID
    );
}

// R-CRE-15
#[test]
fn create_stops_at_the_largest_size_of_the_format() {
    assert_eq!(sized(StorageType::VHD, 2040 * GIB), 0);
    assert_eq!(sized(StorageType::VHD, 2040 * GIB + 512), INVALID_SIZE);
    assert_eq!(sized(StorageType::VHDX, 64 * 1024 * GIB), 0);
    assert_eq!(
        sized(StorageType::VHDX, 64 * 1024 * GIB + 512),
        INVALID_SIZE
    );
    assert_eq!(sized(StorageType::RAW, 1 << 62), 0);
    assert_eq!(sized(StorageType::RAW, 1 << 63), INVALID_SIZE);
    assert_eq!(sized(StorageType::RAW, u64::MAX - 511), INVALID_SIZE);
}

// R-CRE-17
#[test]
fn a_vhdx_needs_version_2() {
    let version_1 = CreateRequest {
        version: 1,
        ..typed(StorageType::VHDX)
    };
    assert_eq!(code(&version_1), INVALID);
    let by_name = CreateRequest {
        path: "/a.vhdx".to_owned(),
        version: 1,
        ..typed(StorageType::UNKNOWN)
    };
    assert_eq!(code(&by_name), INVALID);
    assert_eq!(code(&typed(StorageType::VHDX)), 0);
}

// R-CRE-18
#[test]
fn a_vhdx_gets_the_sector_sizes_of_windows() {
    for ((sector_size, physical_sector_size), wanted) in [
        ((0, 0), Ok((512, 4096))),
        ((4096, 0), Ok((4096, 4096))),
        ((512, 0), Ok((512, 4096))),
        ((512, 512), Ok((512, 512))),
        ((4096, 512), Err(INVALID)),
    ] {
        let request = CreateRequest {
            sector_size,
            physical_sector_size,
            ..typed(StorageType::VHDX)
        };
        let found = geometry(&request);
        let found = found.map(|found| (found.sector_size, found.physical_sector_size));
        assert_eq!(found.map_err(|failure| failure.code), wanted);
    }
}

// R-CRE-22
#[test]
fn an_iso_is_never_created() {
    assert_eq!(code(&typed(StorageType::ISO)), NOT_SUPPORTED);
    assert_eq!(code(&typed(StorageType::VHDSET)), NOT_SUPPORTED);
    let by_name = CreateRequest {
        path: "/a.iso".to_owned(),
        ..typed(StorageType::UNKNOWN)
    };
    assert_eq!(code(&by_name), NOT_SUPPORTED);
}

// R-PROV-1, R-PROV-4
#[test]
fn an_unknown_type_goes_by_the_extension() {
    let named = |path: &str| {
        create_type(&CreateRequest {
            path: path.to_owned(),
            ..typed(StorageType::UNKNOWN)
        })
    };
    assert_eq!(named("/a.VHD").unwrap(), StorageType::VHD);
    assert_eq!(named("/a.img").unwrap(), StorageType::RAW);
    assert_eq!(named("/a.vhdx").unwrap(), StorageType::VHDX);
    for path in ["/a", "/a.txt", "/vhd"] {
        assert_eq!(named(path).unwrap_err().code, NO_PROVIDER, "{path}");
    }
}
