//! Virtual Hard Disk version 2, \[MS-VHDX\] 8.0, as Windows writes it.
//!
//! `layout` has every byte; `identifier`, `header`, `region`, `metadata`, `locator`, `bat`,
//! `bitmap`, `log` are its nouns, each checked once. `open` decides what a file is, `replay` puts
//! the log in its place, in the file or in an `overlay` over it, `scan` goes over the table once,
//! `map` answers where bytes are. `cache`, `shape`, `territory`, `usage` are what these compute
//! with. Changes of the file are `writer`'s: `session` and `close` say in the headers what goes on,
//! `allocate`, `mark`, `trim` collect a `change`, `journal` logs it, `pending` has it meanwhile.

mod allocate;
mod bat;
mod bitmap;
mod cache;
mod change;
mod check;
mod close;
mod create;
mod header;
mod identifier;
mod items;
mod journal;
mod layout;
mod locator;
mod log;
mod map;
mod mark;
mod metadata;
mod open;
mod overlay;
mod pending;
mod region;
mod replay;
mod scan;
mod session;
mod shape;
mod space;
mod territory;
mod trim;
mod usage;
mod validate;
mod writer;

pub(crate) use check::{check, mend};
pub(crate) use create::create;
pub(crate) use open::open;
