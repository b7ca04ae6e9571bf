//! What differencing images say of their parents.
//!
//! The input is what `virtdisk_fuzz` says; a panic, a hang or too much memory is a finding, whose
//! input libFuzzer keeps.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: virtdisk_fuzz::seeds::instead_of_fuzzing("parent_locators"),
    |input: &[u8]| virtdisk_fuzz::parent_locators(input)
);
