//! The project's own chores: `cargo xtask setup | test | tidy | demo | bench`.
//!
//! May assume: started by cargo from inside the workspace, on Linux. Promises: what a chore
//! needs and lacks is named; nothing is left behind on the machine; the exit code is 0 only
//! when the chore did all that its name says. Few dependencies, so that it starts fast on a
//! fresh clone.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod fuzz;
mod leftovers;
mod place;
mod run;
mod service;
mod setup;
mod tally;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask CHORE

  setup                   install the programs that tests and demo use, where they are missing
  test                    everything that must hold: format, tidy, clippy, tests, docs
  tidy                    house rules: crate edges, lengths, names, heads
  demo                    the main job on a real disk: create, attach, use, detach, attach again
  bench attach [--quick|--direct|--served]
                          speed of attached disks beside a plain loop device and others
  bench convert [--quick] speed of conversions beside qemu-img and cp
  fuzz [TARGET] [--seconds N]
                          the fuzz targets, 600 s each
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = run::catch_signals() {
        eprintln!("xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    let done = match words.as_slice() {
        ["setup"] => setup::run(setup::Need::Everything).map(|()| true),
        ["test"] => test::run(),
        ["tidy"] => tidy::run(),
        ["demo"] => demo::run(),
        ["bench", "attach"] => bench::run(bench::Length::Full),
        ["bench", "attach", "--quick"] => bench::run(bench::Length::Quick),
        ["bench", "attach", "--direct"] => bench::run(bench::Length::Direct),
        ["bench", "attach", "--served"] => bench::run(bench::Length::Served),
        ["bench", "convert"] => bench::convert(false),
        ["bench", "convert", "--quick"] => bench::convert(true),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
