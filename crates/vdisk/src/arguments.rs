//! The command line as a whole: the verbs and what they have in common.
//!
//! Help, shell completions and man pages all come from these definitions, so a verb that is not
//! here does not exist. The words of a verb stand with the verb, in `command`.

use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};

use crate::command::{
    attach, check, completions, convert, create, detach, diff, hash, info, list, man, map, with,
};
use crate::failure::Result;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Create, attach, detach and inspect virtual disks.
///
/// An attached image is a block device like any other: partition it, make file systems on it,
/// mount it. Formats: VHD and VHDX (fixed, dynamic, differencing), ISO, raw.
#[derive(Debug, Parser)]
#[command(name = "vdisk", version, styles = STYLES, max_term_width = 100)]
#[command(after_help = "\
Examples:
  vdisk create disk.vhd --size 10G      make an image
  vdisk attach disk.vhd                 print the device that it now is
  vdisk list                            what is attached, and who uses it
  vdisk detach disk.vhd                 the device is gone, all data is in the file
  vdisk convert disk.vhd disk.vhdx      the same disk in another format

Exit codes: 0 done, 1 failed, 2 wrong usage. `vdisk help VERB` says more.")]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Create(create::Create),
    Info(info::Info),
    Check(check::Check),
    Attach(attach::Attach),
    Detach(detach::Detach),
    List(list::List),
    With(with::With),
    Convert(convert::Convert),
    Hash(hash::Hash),
    Diff(diff::Diff),
    Map(map::Map),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Verb {
    /// Does it; the exit code is the command's own for `with`, and says what `diff` found.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self {
            Verb::Create(verb) => create::run(&verb),
            Verb::Info(verb) => info::run(&verb),
            Verb::Check(verb) => return check::run(&verb),
            Verb::Attach(verb) => attach::run(&verb),
            Verb::Detach(verb) => detach::run(&verb),
            Verb::List(verb) => list::run(&verb),
            Verb::With(verb) => return with::run(&verb),
            Verb::Convert(verb) => convert::run(&verb),
            Verb::Hash(verb) => hash::run(&verb),
            Verb::Diff(verb) => return diff::run(&verb),
            Verb::Map(verb) => map::run(&verb),
            Verb::Completions(verb) => completions::run(&verb),
            Verb::Man(verb) => man::run(&verb),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn definitions_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_verb_says_what_it_does_and_shows_examples() {
        for verb in Arguments::command().get_subcommands() {
            let name = verb.get_name();
            assert!(verb.get_about().is_some(), "{name} has no description");
            let after = verb
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(after.contains("Example"), "{name} has no examples");
            assert!(
                after.contains(&format!("vdisk {name}")),
                "{name} shows other examples"
            );
        }
    }

    #[test]
    fn every_argument_is_explained() {
        for verb in Arguments::command().get_subcommands() {
            for argument in verb.get_arguments() {
                let (verb, name) = (verb.get_name(), argument.get_id());
                assert!(
                    argument.get_help().is_some(),
                    "{verb} {name} is not explained"
                );
            }
        }
    }

    #[test]
    fn examples_are_themselves_valid() {
        for verb in Arguments::command().get_subcommands() {
            let after = verb
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let lines = after
                .lines()
                .map(str::trim_start)
                .filter(|line| line.starts_with("vdisk "));
            for line in lines {
                let example = line.split("  ").next().unwrap_or(line);
                let example = example.split(['|', '>']).next().unwrap_or(example);
                let words = example
                    .split_whitespace()
                    .map(|word| word.trim_matches('\''));
                let parsed = Arguments::try_parse_from(words);
                assert!(parsed.is_ok(), "`{example}`: {}", parsed.unwrap_err());
            }
        }
    }
}
