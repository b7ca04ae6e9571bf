//! `libvirtdisk.so`: the Windows Virtual Disk API for C, C++ and whoever calls C.
//!
//! `include/virtdisk.h` is the documentation and the contract; this crate answers it with the
//! crate `virtdisk`. Every exported function is a fence against panics, reads what the caller's
//! struct owns by its version and not a byte more, and writes results on success only. Pointers
//! are read and written in `pointer.rs` alone; handles are numbers and never followed.
#![allow(
    unsafe_code,
    reason = "the C ABI is pointers; each block says what makes it sound"
)]

mod descriptor;
mod fence;
mod function;
mod handle;
mod information;
mod layout;
mod letter;
mod pointer;
