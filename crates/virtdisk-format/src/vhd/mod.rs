//! Virtual Hard Disk images, specification 1.0 of 2006 as Windows writes it.
//!
//! `layout` has every byte; `footer`, `header`, `locator`, `bat`, `bitmap` are its nouns, each
//! checked once. `locate` and `open` decide what a file is, `parent` what it says of its parent,
//! `map` answers where bytes are, and `allocate`, `trim`, `differencing`, `close` change the file,
//! each with the order of its writes in its head. Fixed disks are a run of the file and need none
//! of that.

mod allocate;
mod bat;
mod bitmap;
mod bitmaps;
mod check;
mod child;
mod close;
mod create;
mod differencing;
mod footer;
mod geometry;
mod header;
mod layout;
mod locate;
mod locator;
mod map;
mod open;
mod parent;
mod scan;
mod shape;
mod space;
mod trim;

pub(crate) use check::check;
pub(crate) use close::check_len;
pub(crate) use create::{create, flush, reserve};
pub(crate) use locate::read_footers;
pub(crate) use open::open;
pub(crate) use shape::inside;
