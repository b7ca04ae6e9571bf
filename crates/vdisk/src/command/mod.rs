//! The verbs, a file each: its words and their help, and one function that does it.
//!
//! Each `run` answers when the thing is done, with its result printed; nothing here exits the
//! process or reads the environment.

pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod detach;
pub(crate) mod diff;
pub(crate) mod hash;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod map;
pub(crate) mod with;
