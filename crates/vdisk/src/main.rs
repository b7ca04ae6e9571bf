//! `vdisk`: virtual disks for people and scripts.
//!
//! A thin shell around the crates `virtdisk` (whatever needs the service) and `virtdisk-disk`
//! (whatever only reads and writes images): each verb is a file below `command`, which parses its
//! words, makes the calls and prints. Promises: stdout carries results only; exit code 0 done,
//! 1 failed, 2 usage; every error is one sentence, the Windows code's name and what to do next.
#![forbid(unsafe_code)]

mod arguments;
mod code_map;
mod command;
mod duration;
mod failure;
mod image;
mod lineage;
mod mount;
mod new_image;
mod offline;
mod output;
mod parents;
mod picture;
mod progress;
mod signals;
mod size;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match arguments::Arguments::parse().verb.run() {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
