//! Which opens may stand beside which, and what each may do: the rules without a service.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use virtdisk::AccessMask;
use virtdisk::frame::OpenRequest;
use virtdisk_disk::lock::Level;
use virtdiskd::handle::{AttachedNow, Handle, may_open, need, rights, writes};

fn v1(mask: AccessMask) -> Handle {
    let request = OpenRequest {
        version: 1,
        rw_depth: 1,
        access_mask: mask.bits(),
        ..OpenRequest::default()
    };
    handle(&request)
}

fn v2(read_only: bool, info: bool, guid: &str) -> Handle {
    handle(&OpenRequest {
        version: 2,
        read_only,
        get_info_only: info,
        resiliency_guid: guid.to_owned(),
        ..OpenRequest::default()
    })
}

fn handle(request: &OpenRequest) -> Handle {
    Handle {
        rights: rights(request),
        first_version: request.version <= 1,
        resiliency_guid: request.resiliency_guid.clone(),
        flags: 0,
        file: None,
        writes: writes(request),
        parents: Vec::new(),
    }
}

fn beside(wanted: &Handle, others: &[Handle], now: Option<AttachedNow>) -> u32 {
    may_open("x", wanted, others.iter(), now)
        .err()
        .map_or(0, |f| f.code)
}

// R-SHR-1, R-SHR-5
#[test]
fn an_attaching_open_stands_only_beside_quiet_ones() {
    let quiet = v1(AccessMask::DETACH | AccessMask::GET_INFO);
    assert_eq!(beside(&v1(AccessMask::ATTACH_RO), &[quiet], None), 0);
    assert_eq!(
        beside(
            &v1(AccessMask::ATTACH_RO),
            &[v1(AccessMask::ATTACH_RO)],
            None
        ),
        32
    );
    assert_eq!(
        beside(&v1(AccessMask::GET_INFO), &[v1(AccessMask::ALL)], None),
        0
    );
}

// R-SHR-3
#[test]
fn metaops_is_exclusive() {
    let meta = v1(AccessMask::METAOPS);
    assert_eq!(beside(&meta, &[v1(AccessMask::ATTACH_RO)], None), 32);
    assert_eq!(
        beside(&v1(AccessMask::ATTACH_RO), &[v1(AccessMask::METAOPS)], None),
        32
    );
    assert_eq!(beside(&meta, &[v1(AccessMask::GET_INFO)], None), 0);
}

// R-SHR-4, R-OPEN-19
#[test]
fn second_version_opens_share_by_identity_or_when_both_read() {
    assert_eq!(
        beside(&v2(false, false, "a"), &[v2(false, false, "a")], None),
        0
    );
    assert_eq!(
        beside(&v2(true, false, "b"), &[v2(true, false, "a")], None),
        0
    );
    assert_eq!(
        beside(&v2(false, false, "b"), &[v2(true, false, "a")], None),
        32
    );
}

// R-OPEN-15
#[test]
fn a_permanently_attached_disk_opens_with_detach_and_without_new_writes() {
    let now = Some(AttachedNow {
        read_only: true,
        permanent: true,
    });
    assert_eq!(beside(&v1(AccessMask::READ), &[], now), 0);
    assert_eq!(beside(&v1(AccessMask::GET_INFO), &[], now), 32);
    assert_eq!(beside(&v1(AccessMask::ALL), &[], now), 32);
    // R-OPEN-16
    assert_eq!(beside(&v2(false, false, ""), &[], now), 0);
}

// R-OPEN-17
#[test]
fn an_information_handle_may_change_nothing() {
    let info = v2(false, true, "");
    assert!(need("x", &info, AccessMask::GET_INFO, "ask").is_ok());
    for right in [
        AccessMask::DETACH,
        AccessMask::ATTACH_RO,
        AccessMask::METAOPS,
    ] {
        assert_eq!(need("x", &info, right, "do").unwrap_err().code, 5);
    }
    assert_eq!(info.level(), Level::None);
}

// R-OPEN-9, R-OPEN-10
#[test]
fn depth_0_and_reading_masks_do_not_write() {
    let mut request = OpenRequest {
        version: 1,
        rw_depth: 0,
        access_mask: AccessMask::ALL.bits(),
        ..OpenRequest::default()
    };
    assert!(!writes(&request));
    request.rw_depth = 1;
    assert!(writes(&request));
    request.access_mask = AccessMask::READ.bits();
    assert!(!writes(&request));
}
