//! Argument rules of open, attach and detach, one test per rule of the API sheet.
//!
//! The rules are asked on frames, as the service asks them. What they say about NULL pointers is
//! tested in the C library.

use virtdisk::check::{attach, attach_iso, detach, open, open_iso};
use virtdisk::frame::{AttachRequest, DetachRequest, Failure, OpenRequest};
use virtdisk::{AccessMask, AttachFlags, OpenFlags, StorageType};

const INVALID: u32 = 87;
const NO_PROVIDER: u32 = 0xC03A_0014;

fn v1() -> OpenRequest {
    OpenRequest {
        path: "/images/a.vhd".to_owned(),
        device_id: StorageType::DEVICE_VHD,
        vendor_id: StorageType::VENDOR_MICROSOFT.to_string(),
        access_mask: AccessMask::ALL.bits(),
        version: 1,
        rw_depth: 1,
        ..OpenRequest::default()
    }
}

fn v2() -> OpenRequest {
    OpenRequest {
        access_mask: 0,
        version: 2,
        ..v1()
    }
}

fn iso() -> OpenRequest {
    OpenRequest {
        device_id: StorageType::DEVICE_ISO,
        access_mask: AccessMask::READ.bits(),
        ..v1()
    }
}

fn code(result: Result<(), Failure>) -> u32 {
    result.map_or_else(|failure| failure.code, |()| 0)
}

// R-OPEN-1
#[test]
fn open_needs_a_storage_type() {
    assert_eq!(code(open(&v1())), 0);
    let no_guid = OpenRequest {
        vendor_id: "microsoft".to_owned(),
        ..v1()
    };
    assert_eq!(code(open(&no_guid)), INVALID);
}

// R-OPEN-2
#[test]
fn open_needs_a_path() {
    assert_eq!(
        code(open(&OpenRequest {
            path: String::new(),
            ..v1()
        })),
        INVALID
    );
}

// R-OPEN-3
#[test]
fn open_refuses_mask_bits_outside_all() {
    for mask in [0x00FF_FFFF, 0x0040_0000, 1, 0x8000_0000] {
        let failure = open(&OpenRequest {
            access_mask: mask,
            ..v1()
        })
        .unwrap_err();
        assert_eq!(failure.code, INVALID, "{mask:#X}");
        assert!(
            failure.message.starts_with("/images/a.vhd: "),
            "{}",
            failure.message
        );
    }
    for bit in 16..22 {
        assert_eq!(
            code(open(&OpenRequest {
                access_mask: 1 << bit,
                ..v1()
            })),
            0
        );
    }
}

// R-OPEN-4
#[test]
fn open_refuses_unknown_flags() {
    for flags in [0x1000, 0x8000_0000, 0x1FFF] {
        assert_eq!(
            code(open(&OpenRequest { flags, ..v1() })),
            INVALID,
            "{flags:#X}"
        );
    }
    assert_eq!(
        code(open(&OpenRequest {
            flags: 0xFFF,
            ..v1()
        })),
        0
    );
}

// R-OPEN-5
#[test]
fn open_refuses_unknown_versions() {
    for version in [0, 4, u32::MAX] {
        assert_eq!(
            code(open(&OpenRequest { version, ..v1() })),
            INVALID,
            "{version}"
        );
    }
    assert_eq!(code(open(&OpenRequest { version: 3, ..v2() })), 0);
}

// R-OPEN-6
#[test]
fn open_refuses_a_mask_with_version_2_and_3() {
    let mask = AccessMask::GET_INFO.bits();
    for version in [2, 3] {
        let request = OpenRequest {
            version,
            access_mask: mask,
            ..v2()
        };
        assert_eq!(code(open(&request)), INVALID, "{version}");
    }
    assert_eq!(code(open(&v2())), 0);
}

// R-OPEN-7
#[test]
fn open_version_1_takes_an_empty_mask_and_any_depth() {
    for rw_depth in [0, 1, 0xCCCC_CCCC, u32::MAX] {
        assert_eq!(
            code(open(&OpenRequest {
                access_mask: 0,
                rw_depth,
                ..v1()
            })),
            0
        );
    }
}

// R-OPEN-8
#[test]
fn default_options_are_version_1_with_depth_1() {
    let parameters = virtdisk::OpenOptions::default().parameters;
    assert_eq!(parameters, virtdisk::OpenParameters::V1 { rw_depth: 1 });
}

// R-OPEN-12
#[test]
fn iso_refuses_every_right_that_writes() {
    assert_eq!(code(open(&iso())), 0);
    for mask in [
        AccessMask::CREATE,
        AccessMask::ALL,
        AccessMask::METAOPS,
        AccessMask::ATTACH_RW,
    ] {
        let request = OpenRequest {
            access_mask: mask.bits(),
            ..iso()
        };
        assert_eq!(code(open(&request)), INVALID, "{mask:?}");
        assert_eq!(code(open_iso(&request)), INVALID, "{mask:?}");
    }
}

// R-OPEN-13
#[test]
fn iso_refuses_the_flags_of_chains() {
    for flags in [
        OpenFlags::NO_PARENTS,
        OpenFlags::BLANK_FILE,
        OpenFlags::BOOT_DRIVE,
    ] {
        let request = OpenRequest {
            flags: flags.bits(),
            ..iso()
        };
        assert_eq!(code(open(&request)), INVALID, "{flags:?}");
    }
    let cached = OpenRequest {
        flags: OpenFlags::CACHED_IO.bits(),
        ..iso()
    };
    assert_eq!(code(open(&cached)), 0);
}

// R-OPEN-26
#[test]
fn open_takes_any_resiliency_guid() {
    for text in [
        "",
        "00000000-0000-0000-0000-000000000000",
        "cccccccc-cccc-cccc-cccc-cccccccccccc",
    ] {
        let resiliency_guid = text.to_owned();
        assert_eq!(
            code(open(&OpenRequest {
                resiliency_guid,
                ..v2()
            })),
            0,
            "{text}"
        );
    }
    let resiliency_guid = "{}".to_owned();
    assert_eq!(
        code(open(&OpenRequest {
            resiliency_guid,
            ..v2()
        })),
        INVALID
    );
}

// R-PROV-5
#[test]
fn a_type_that_nobody_knows_has_no_provider() {
    let unknown_vendor = OpenRequest {
        vendor_id: "11111111-2222-4333-8444-555555555555".to_owned(),
        ..v1()
    };
    assert_eq!(code(open(&unknown_vendor)), NO_PROVIDER);
    assert_eq!(
        code(open(&OpenRequest {
            device_id: 0,
            ..v1()
        })),
        NO_PROVIDER
    );
    assert_eq!(
        code(open(&OpenRequest {
            device_id: 5,
            ..v1()
        })),
        NO_PROVIDER
    );
    let probe = OpenRequest {
        device_id: 0,
        vendor_id: String::new(),
        ..v1()
    };
    assert_eq!(code(open(&probe)), 0);
}

#[test]
fn messages_hold_no_control_characters_of_the_path() {
    let path = "/a\u{1b}[31m\n.vhd".to_owned();
    let failure = open(&OpenRequest {
        path,
        flags: u32::MAX,
        ..v1()
    })
    .unwrap_err();
    assert!(
        !failure.message.chars().any(char::is_control),
        "{:?}",
        failure.message
    );
}

fn attach_v1() -> AttachRequest {
    AttachRequest {
        version: 1,
        ..AttachRequest::default()
    }
}

fn attach_v2(flags: AttachFlags, offset: u64, length: u64) -> AttachRequest {
    AttachRequest {
        version: 2,
        flags: flags.bits(),
        restricted_offset: offset,
        restricted_length: length,
        ..AttachRequest::default()
    }
}

// R-ATT-1
#[test]
fn attach_refuses_unknown_flags_and_versions() {
    assert_eq!(code(attach(&attach_v1())), 0);
    for flags in [0x800, 0x8000_0000] {
        assert_eq!(
            code(attach(&AttachRequest {
                flags,
                ..attach_v1()
            })),
            INVALID
        );
    }
    for version in [0, 3, u32::MAX] {
        assert_eq!(
            code(attach(&AttachRequest {
                version,
                ..attach_v1()
            })),
            INVALID
        );
    }
}

// R-ATT-3, R-ATT-14
#[test]
fn attach_range_and_flag_belong_together() {
    assert_eq!(code(attach(&attach_v2(AttachFlags::NONE, 0, 0))), 0);
    assert_eq!(code(attach(&attach_v2(AttachFlags::NONE, 512, 0))), INVALID);
    assert_eq!(code(attach(&attach_v2(AttachFlags::NONE, 0, 512))), INVALID);
    let restricted = AttachFlags::RESTRICTED_RANGE;
    assert_eq!(code(attach(&attach_v2(restricted, 512, 512))), 0);
    assert_eq!(code(attach(&attach_v2(restricted, 512, 0))), INVALID);
    assert_eq!(code(attach(&attach_v2(restricted, u64::MAX, 2))), INVALID);
    let version_1 = AttachRequest {
        flags: restricted.bits(),
        ..attach_v1()
    };
    assert_eq!(code(attach(&version_1)), INVALID);
}

// R-ATT-6
#[test]
fn attach_of_an_iso_is_read_only_and_on_this_host() {
    let read_only = AttachFlags::READ_ONLY;
    assert_eq!(code(attach_iso(&attach_v2(read_only, 0, 0))), 0);
    assert_eq!(code(attach_iso(&attach_v1())), INVALID);
    let raw = read_only | AttachFlags::NO_LOCAL_HOST;
    assert_eq!(code(attach_iso(&attach_v2(raw, 0, 0))), INVALID);
}

// R-ATT-22
#[test]
fn attach_knows_no_provider_flags() {
    assert_eq!(
        code(attach(&AttachRequest {
            provider_flags: 1,
            ..attach_v1()
        })),
        INVALID
    );
}

fn page() -> DetachRequest {
    DetachRequest {
        in_use: "page".to_owned(),
        ..DetachRequest::default()
    }
}

// R-DET-8, R-DET-4
#[test]
fn detach_knows_no_flags() {
    assert_eq!(code(detach(&page())), 0);
    for flags in [1, 0x8000_0000] {
        assert_eq!(code(detach(&DetachRequest { flags, ..page() })), INVALID);
    }
}

// R-DET-5
#[test]
fn detach_knows_no_provider_flags() {
    assert_eq!(
        code(detach(&DetachRequest {
            provider_flags: 1,
            ..page()
        })),
        INVALID
    );
}

// R-DET-26
#[test]
fn detach_arguments_are_refused_before_the_disk_is_asked() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(theirs);
    let disk = virtdisk::VirtualDisk::from_fd(ours.into()).unwrap();
    let bad = virtdisk::DetachFlags::from_bits_retain(1);
    assert_eq!(disk.detach(bad).unwrap_err().code().0, INVALID);
    let gone = disk.detach(virtdisk::DetachFlags::NONE).unwrap_err();
    assert_eq!(gone.code(), virtdisk::Code::ERROR_BROKEN_PIPE);
}

#[test]
fn detach_knows_three_words_for_a_device_in_use() {
    for word in ["page", "refuse", "when-free"] {
        let in_use = word.to_owned();
        assert_eq!(
            code(detach(&DetachRequest { in_use, ..page() })),
            0,
            "{word}"
        );
    }
    for word in ["", "force", "Page"] {
        let in_use = word.to_owned();
        assert_eq!(
            code(detach(&DetachRequest { in_use, ..page() })),
            INVALID,
            "{word}"
        );
    }
}
