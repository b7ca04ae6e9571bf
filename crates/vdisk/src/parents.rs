//! Where parents of differencing images may lie: the options that say so, for every verb that
//! opens one.
//!
//! Without them a parent lies in the image's own folder or below. They only ever allow more places;
//! which file is taken is decided by its identity.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use virtdisk_parent::Policy;

/// Where parents of differencing images may lie.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Parents of a differencing image")]
pub(crate) struct Parents {
    /// What an image says of its parent may lead into this folder, not only beside or below itself
    #[arg(long = "allow-parent-dir", value_name = "DIR", value_hint = ValueHint::DirPath)]
    allow: Vec<PathBuf>,
    /// A Windows folder and where it is here: 'C:\vm=/srv/vm'
    #[arg(long = "parent-map", value_name = "FROM=TO", value_parser = mapping)]
    map: Vec<(String, PathBuf)>,
    /// Look for parents in this folder too, whatever their names: their identity decides
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    search: Vec<PathBuf>,
}

impl Parents {
    /// The policy of these options.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            allow_dirs: self.allow.clone(),
            map: self.map.clone(),
            search: self.search.clone(),
            ignore_relative: false,
        }
    }
}

fn mapping(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.into(), to.into())),
        _ => Err("a map is a Windows folder, =, and a folder here: C:\\vm=/srv/vm".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_two_sides() {
        assert_eq!(
            mapping(r"C:\vm=/srv/vm"),
            Ok((r"C:\vm".to_string(), PathBuf::from("/srv/vm")))
        );
        for text in ["", "C:", "=", r"C:\vm=", "=/srv"] {
            assert!(mapping(text).is_err(), "{text}");
        }
    }
}
