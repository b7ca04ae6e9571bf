//! Open, map and read of mutated VHDs.
//!
//! The input is what `virtdisk_fuzz` says; a panic, a hang or too much memory is a finding, whose
//! input libFuzzer keeps.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: virtdisk_fuzz::seeds::instead_of_fuzzing("vhd_read"),
    |input: &[u8]| virtdisk_fuzz::vhd_read(input)
);
