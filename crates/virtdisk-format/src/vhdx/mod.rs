//! Virtual Hard Disk version 2, \[MS-VHDX\] 8.0, as Windows writes it.
//!
//! `layout` has every byte; `identifier`, `header`, `region`, `metadata`, `locator`, `bat`,
//! `bitmap`, `log` are its nouns, each checked once. `open` decides what a file is, `replay` puts
//! the log in its place, in the file or in an `overlay` over it, `scan` goes over the table once,
//! `map` answers where bytes are. `cache`, `shape`, `territory`, `usage` are what these compute
//! with. Changes of the file are `writer`'s.

#![allow(dead_code, reason = "the writer uses the rest")]

mod bat;
mod bitmap;
mod cache;
mod header;
mod identifier;
mod layout;
mod locator;
mod log;
mod map;
mod metadata;
mod open;
mod overlay;
mod region;
mod replay;
mod scan;
mod shape;
mod territory;
mod usage;
mod validate;
mod writer;

pub(crate) use open::open;
