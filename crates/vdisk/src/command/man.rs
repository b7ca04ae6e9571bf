//! `vdisk man`: man pages of `vdisk` and of each verb.
//!
//! Generated from the definitions that also parse the command line, so they can't disagree.
//! Promises: `DIR/vdisk.1` and `DIR/vdisk-VERB.1`, and no other file.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, ValueHint};

use crate::arguments::Arguments;
use crate::failure::{Failure, Result};

/// Write the man pages into a directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  vdisk man /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Where to write vdisk.1 and the pages of the verbs
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: PathBuf,
}

/// Writes the pages.
pub(crate) fn run(verb: &Man) -> Result<()> {
    let command = Arguments::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &verb.directory).map_err(|error| {
        let place = verb.directory.display();
        Failure::new(format!(
            "the man pages can't be written to {place}: {error}"
        ))
    })
}
