//! Any bytes as a file, under any name.
//!
//! The input is what `virtdisk_fuzz` says; a panic, a hang or too much memory is a finding, whose
//! input libFuzzer keeps.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: virtdisk_fuzz::seeds::instead_of_fuzzing("bytes"),
    |input: &[u8]| virtdisk_fuzz::bytes(input)
);
