//! The verbs of the API, one file each, all methods of the engine.
//!
//! A verb checks its arguments, then rights and state under the disk's lock, in the order of the
//! API sheet; only then it changes something, and takes back what a later step can't complete.

pub mod attach;
pub mod create;
pub mod detach;
pub mod information;
pub mod list;
pub mod open;
pub mod parent;
