//! Writes into mutated VHDXs beside a model, and opening them again.
//!
//! The input is what `virtdisk_fuzz` says; a panic, a hang or too much memory is a finding, whose
//! input libFuzzer keeps.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: virtdisk_fuzz::seeds::instead_of_fuzzing("vhdx_write"),
    |input: &[u8]| virtdisk_fuzz::vhdx_write(input)
);
