//! `vdisk completions`: the words of every verb, for a shell.
//!
//! Generated from the definitions that also parse the command line, so they can't disagree.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::{Failure, Result};
use crate::output;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk completions bash > /usr/share/bash-completion/completions/vdisk
  vdisk completions zsh > /usr/share/zsh/vendor-completions/_vdisk
  vdisk completions fish > /usr/share/fish/vendor_completions.d/vdisk.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(verb: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(verb.shell, &mut Arguments::command(), "vdisk", &mut script);
    let script = String::from_utf8(script)
        .map_err(|error| Failure::new(format!("the script is no text: {error}")))?;
    output::print(&script)
}
