//! Requests as the kernel sends them, cut, too short, too long, and made of garbage.
//!
//! A unit test, as what it asks is private to the transport; long, so in a file of its own.

use super::*;

fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(40 + body.len()).unwrap();
    let header = InHeader {
        length,
        opcode,
        unique: 77,
        node: ROOT,
        ..Default::default()
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn parse_whole(bytes: &[u8]) -> Result<Request, Malformed> {
    parse(&bytes[..bytes.len().min(HEAD_BYTES)], bytes.len())
}

#[test]
fn read_and_write_requests_give_offset_and_size() {
    let body = ReadIn {
        offset: 4096,
        size: 512,
        ..Default::default()
    };
    let mut long = body.as_bytes().to_vec();
    long.extend_from_slice(&[0; 16]);
    let request = parse_whole(&message(15, &long)).unwrap();
    assert_eq!(
        request.operation,
        Operation::Read {
            offset: 4096,
            size: 512
        }
    );
    assert_eq!(request.unique, 77);

    let body = WriteIn {
        offset: 1 << 40,
        size: 3,
        ..Default::default()
    };
    let mut long = body.as_bytes().to_vec();
    long.extend_from_slice(b"abc");
    let request = parse_whole(&message(16, &long)).unwrap();
    assert_eq!(
        request.operation,
        Operation::Write {
            offset: 1 << 40,
            size: 3
        }
    );
}

#[test]
fn a_request_sent_again_keeps_all_bits_of_its_number() {
    let mut bytes = message(3, &[0; 16]);
    bytes[8..16].copy_from_slice(&(1_u64 << 63 | 5).to_ne_bytes());
    assert_eq!(parse_whole(&bytes).unwrap().unique, 1 << 63 | 5);
}

#[test]
fn a_message_cut_at_any_length_is_refused() {
    let body = WriteIn {
        offset: 0,
        size: 8,
        ..Default::default()
    };
    let mut long = body.as_bytes().to_vec();
    long.extend_from_slice(&[1; 8]);
    let whole = message(16, &long);
    for length in 0..whole.len() {
        let answer = parse_whole(&whole[..length]);
        if length < 40 {
            assert_eq!(answer, Err(Malformed::NoHeader), "{length}");
        } else {
            let malformed = Malformed::Body {
                unique: 77,
                errno: Errno::IO,
            };
            assert_eq!(answer, Err(malformed), "{length}");
        }
    }
}

#[test]
fn a_body_too_short_for_its_opcode_is_refused() {
    for (opcode, needed) in [
        (4, 24),
        (14, 8),
        (15, 24),
        (16, 40),
        (26, 16),
        (43, 32),
        (46, 24),
    ] {
        let body = vec![0; needed - 1];
        assert!(parse_whole(&message(opcode, &body)).is_err(), "{opcode}");
        let body = vec![0; needed];
        assert!(parse_whole(&message(opcode, &body)).is_ok(), "{opcode}");
    }
}

#[test]
fn a_write_whose_size_differs_from_the_data_is_refused() {
    for size in [0, 7, 9, u32::MAX] {
        let body = WriteIn {
            size,
            ..Default::default()
        };
        let mut long = body.as_bytes().to_vec();
        long.extend_from_slice(&[1; 8]);
        assert!(parse_whole(&message(16, &long)).is_err(), "{size}");
    }
}

#[test]
fn a_request_for_another_file_is_refused() {
    let mut bytes = message(3, &[0; 16]);
    bytes[16..24].copy_from_slice(&2_u64.to_ne_bytes());
    let stale = Malformed::Body {
        unique: 77,
        errno: Errno::STALE,
    };
    assert_eq!(parse_whole(&bytes), Err(stale));
}

#[test]
fn garbage_never_panics() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..20_000 {
        let mut bytes = [0; 96];
        for chunk in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_ne_bytes());
        }
        let received = usize::try_from(state % 97).unwrap();
        bytes[..4].copy_from_slice(&u32::try_from(received).unwrap().to_ne_bytes());
        bytes[4..8].copy_from_slice(&u32::try_from(state >> 32 & 63).unwrap().to_ne_bytes());
        let _ = parse(&bytes[..received.min(HEAD_BYTES)], received);
        // A head shorter than the message claims is possible only by a mistake of ours.
        let _ = parse(&bytes[..received.min(30)], received);
    }
}

#[test]
fn an_init_without_the_second_flag_word_is_read() {
    let body: Vec<u8> = [7_u32, 31, 4096, 9]
        .iter()
        .flat_map(|n| n.to_ne_bytes())
        .collect();
    let request = parse_whole(&message(26, &body)).unwrap();
    let init = InitIn {
        major: 7,
        minor: 31,
        max_readahead: 4096,
        flags: 9,
        flags2: 0,
    };
    assert_eq!(request.operation, Operation::Init(init));
}
