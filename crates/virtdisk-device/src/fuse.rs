//! A disk as one regular file, served over FUSE.
//!
//! The mount has no mount point and no directory: its root is the file. The *node* half makes the
//! mount and opens the file (a loop device goes on it, or it is handed out as it is); the *serve*
//! half answers the kernel's requests from a [`Served`] disk and has no rights at all.
//!
//! A server may be killed at any instant: whoever keeps a copy of the connection starts another,
//! which has the kernel send again what was in flight. That takes writes that may be done twice,
//! and a kernel with `FUSE_NOTIFY_RESEND` (Linux 6.9).

mod answer;
mod buffer;
mod crew;
mod disk;
mod node;
mod processors;
mod serve;
mod served;
mod wire;

pub use node::{abort, mount, open_root};
pub use serve::{Ended, Server};
pub use served::{Look, Served};
