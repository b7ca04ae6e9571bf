//! Damaged images from short programs of bytes.
//!
//! A mutation is an image that is sound and a program: a flag byte, then operations on the places
//! where the image's structures stand. The same programs come from a seeded generator in the tests
//! and from a fuzzer in `dev/fuzz`, which thereby changes structures of files of many MiB with
//! inputs of a few bytes. Checksums are made right again afterwards unless a flag says otherwise:
//! a mutation that only breaks a checksum finds nothing.
//!
//! Any bytes are a program; the same bytes give the same image.

use std::ops::Range;

use crate::pages::Pages;
use crate::rng::Rng;
use crate::seal::{Seal, seal};

/// Longest file that a mutation makes, in bytes: large enough to hold lies, too large to copy.
const LARGEST: u64 = 1 << 41;
/// Flag of a program: leave the checksums broken.
const BROKEN_SUMS: u8 = 1;
/// Flag of a program: leave the inner numbers of log entries as they are.
const SHALLOW: u8 = 2;
/// Numbers at which arithmetic goes wrong.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    6,
    7,
    0x7F,
    0xFF,
    0x1FF,
    0x200,
    0x1000,
    0xFFFF,
    0x1_0000,
    0x10_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_F000,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
    0x100_0000_0000,
    0x7FFF_FFFF_FFF0_0000,
    0x8000_0000_0000_0000,
    0xFFFF_FFFF_FFFF_F000,
    0xFFFF_FFFF_FFFF_FFFF,
];

/// A sound image and where its structures stand.
#[derive(Clone)]
pub struct Subject {
    /// What it is, for messages.
    pub name: &'static str,
    /// The extension that such files have.
    pub extension: &'static str,
    /// The file.
    pub pages: Pages,
    /// Where changes are interesting, each shorter than 64 KiB.
    pub places: Vec<Range<u64>>,
    /// Of these, what names the parent.
    pub locators: Vec<Range<u64>>,
    /// How its checksums are made right again.
    pub seal: Seal,
}

/// The bytes of a program that were not used yet; zeros behind its end.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u64 {
        u64::from(self.byte()) | u64::from(self.byte()) << 8
    }

    /// A place in the image: one of the subject's ranges, an offset in it.
    fn place(&mut self, subject: &Subject) -> u64 {
        let index = usize::from(self.byte()) % subject.places.len().max(1);
        let Some(range) = subject.places.get(index) else {
            return 0;
        };
        range.start + self.word() % (range.end - range.start).max(1)
    }
}

/// The image that `program` makes of `subject`.
#[must_use]
pub fn mutate(subject: &Subject, program: &[u8]) -> Pages {
    let mut file = subject.pages.clone();
    let mut program = Program(program);
    let flags = program.byte();
    // More operations than this only cost time.
    for _ in 0..64 {
        if program.0.is_empty() {
            break;
        }
        step(subject, &mut file, &mut program);
    }
    if flags & BROKEN_SUMS == 0 {
        seal(&mut file, subject.seal, flags & SHALLOW == 0);
    }
    file
}

/// One operation.
fn step(subject: &Subject, file: &mut Pages, program: &mut Program<'_>) {
    let operation = program.byte();
    if operation % 16 == 15 {
        set_length(file, program);
        return;
    }
    let at = program.place(subject);
    match operation % 8 {
        0 | 1 => {
            let width = [1, 2, 4, 8][usize::from(operation >> 4) % 4];
            number(file, at, width, operation, program.byte());
        }
        2 => {
            let width = [1, 2, 4, 8][usize::from(operation >> 4) % 4];
            add(file, at, width, operation, program.byte());
        }
        3 => {
            let bit = program.byte() % 8;
            let mut byte = [0];
            if file.read(&mut byte, at) {
                write(file, &[byte[0] ^ 1 << bit], at);
            }
        }
        4 => {
            let from = program.place(subject);
            let mut bytes = vec![0; usize::from(program.byte() % 64) + 1];
            if file.read(&mut bytes, from) {
                write(file, &bytes, at);
            }
        }
        5 => {
            let fill = if operation & 16 == 0 { 0 } else { 0xFF };
            let len = usize::from(program.byte() % 64) + 1;
            write(file, &vec![fill; len], at);
        }
        6 => {
            let from = program.place(subject) / 4096 * 4096;
            let mut bytes = vec![0; 4096];
            if file.read(&mut bytes, from) {
                write(file, &bytes, at / 4096 * 4096);
            }
        }
        _ => {
            let len = usize::from(operation >> 4) + 1;
            let bytes: Vec<u8> = (0..len).map(|_| program.byte()).collect();
            write(file, &bytes, at);
        }
    }
}

/// Writes inside the length: what a mutation changes it does not also extend.
fn write(file: &mut Pages, bytes: &[u8], at: u64) {
    let room = file.len().saturating_sub(at).min(bytes.len() as u64);
    file.write(&bytes[..room as usize], at.min(file.len()));
}

/// The bytes of a number in either order.
fn ordered(value: u64, width: usize, operation: u8) -> Vec<u8> {
    if operation & 8 == 0 {
        value.to_le_bytes()[..width].to_vec()
    } else {
        value.to_be_bytes()[8 - width..].to_vec()
    }
}

fn number(file: &mut Pages, at: u64, width: usize, operation: u8, which: u8) {
    let at = at - at % width as u64;
    let value = match NUMBERS.get(usize::from(which)) {
        Some(&value) => value,
        // Near the file's end, in bytes, sectors and MiB.
        None if which < 64 => (file.len() + u64::from(which) * 512).saturating_sub(16384),
        None if which < 96 => (file.len() / 512 + u64::from(which)).saturating_sub(80),
        None if which < 128 => ((file.len() >> 20) + u64::from(which)).saturating_sub(112) << 20,
        None => 1 << (which % 64),
    };
    write(file, &ordered(value, width, operation), at);
}

fn add(file: &mut Pages, at: u64, width: usize, operation: u8, by: u8) {
    let at = at - at % width as u64;
    let mut bytes = vec![0; width];
    if !file.read(&mut bytes, at) {
        return;
    }
    let mut whole = [0; 8];
    let value = if operation & 8 == 0 {
        whole[..width].copy_from_slice(&bytes);
        u64::from_le_bytes(whole)
    } else {
        whole[8 - width..].copy_from_slice(&bytes);
        u64::from_be_bytes(whole)
    };
    let by = i64::from(by.cast_signed());
    write(
        file,
        &ordered(value.wrapping_add_signed(by), width, operation),
        at,
    );
}

fn set_length(file: &mut Pages, program: &mut Program<'_>) {
    let (how, amount) = (program.byte(), program.word());
    let len = file.len();
    let new = match how % 6 {
        0 => len.saturating_sub(amount),
        1 => len.saturating_sub(amount * 512),
        2 => len + amount,
        3 => len + (amount << 20),
        4 => amount * 4096,
        _ => amount << 12 << (how / 6 % 16),
    };
    file.set_len(new.min(LARGEST));
}

/// A program of up to eight operations.
pub fn random_program(rng: &mut Rng) -> Vec<u8> {
    // Three of four with right sums.
    let mut program = vec![rng.number().to_le_bytes()[0]];
    if !rng.one_in(4) {
        program[0] &= !BROKEN_SUMS;
    }
    let most = 1 << rng.below(4);
    for _ in 0..1 + rng.below(most) {
        let mut operation = rng.bytes(6);
        // Small numbers choose the interesting ones.
        if rng.one_in(2) {
            operation[4] %= 32;
        }
        if operation[0] % 8 == 7 || operation[0] % 8 == 4 {
            operation.extend(rng.bytes(12));
        }
        program.extend(operation);
    }
    program
}
