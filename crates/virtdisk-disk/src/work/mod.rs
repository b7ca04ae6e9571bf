//! Long work on whole disks: hash, compare, copy into another image or into a stream.
//!
//! Each kind of work is one function that blocks until it is done and runs under a [`Job`], which
//! another thread may ask for the progress or tell to stop. Threads that the work starts end
//! before it returns. It walks the disk by its [`runs`], so what is known to be zero costs no
//! reading; holes of the files below count as known. Nobody may write to a source meanwhile: that
//! is what its lock is for.

mod ahead;
mod clone;
mod convert;
mod diff;
mod hash;
mod holes;
mod job;
mod runs;
mod stream;
mod target;

pub use convert::convert;
pub use diff::{Difference, diff};
pub use hash::{Digest, hash};
pub use job::{Job, Progress, Stopped};
pub use runs::{Runs, runs};
pub use stream::write_raw;
