//! `vdisk`: virtual disks for people and scripts.
//!
//! A thin shell around the crate `virtdisk`: each verb is a file below `command`, which parses its
//! words, makes the calls and prints. Promises: stdout carries results only; exit code 0 done,
//! 1 failed, 2 usage; every error is one sentence, the Windows code's name and what to do next.
#![forbid(unsafe_code)]

mod arguments;
mod command;
mod duration;
mod failure;
mod image;
mod mount;
mod output;
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
