//! The command `vdisk` from outside: its words, images without the service, and disks attached
//! for real.
//!
//! `usage` and `offline` need nothing. The others need root, loop devices and the service's
//! program; without them they are skipped, and say so. Each test has a service of its own, and
//! whatever happens its disks are detached again.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod attach;
mod check;
mod detach;
mod hold;
mod house;
mod image;
mod offline;
mod rights;
mod usage;
mod with;
