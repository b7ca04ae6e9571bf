//! One flush for all who wait for it: group commit.
//!
//! Whoever must know that what it wrote is durable joins. A flush that was begun before it joined
//! is not enough, the next one is, and that one serves all who joined meanwhile. After a flush that
//! failed nobody is told that anything is durable.

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};

/// The flushes of one file.
#[derive(Default)]
pub(crate) struct Commit {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Flushes begun, and the last one that ended.
    begun: u64,
    ended: u64,
    running: bool,
    failed: bool,
}

impl Commit {
    /// Returns when a flush that was begun after this call has ended; `flush` does it where nobody
    /// else does.
    ///
    /// # Errors
    /// What `flush` answered, to the one who did it; `WritesRefused` to everybody else and later.
    pub(crate) fn join(&self, flush: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut state = self.state.lock();
        let mine = state.begun + 1;
        while state.running && state.ended < mine {
            self.ended.wait(&mut state);
        }
        if state.failed {
            return Err(Error::refused());
        }
        if state.ended >= mine {
            return Ok(());
        }
        state.running = true;
        state.begun += 1;
        let flushed = MutexGuard::unlocked(&mut state, flush);
        state.running = false;
        state.ended = state.begun;
        state.failed |= flushed.is_err();
        self.ended.notify_all();
        flushed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn those_who_wait_together_share_a_flush() {
        let (commit, flushes) = (Commit::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let flush = || {
                            std::thread::sleep(Duration::from_millis(2));
                            flushes.fetch_add(1, Ordering::Relaxed);
                            Ok(())
                        };
                        commit.join(flush).unwrap();
                    }
                });
            }
        });
        let flushes = flushes.load(Ordering::Relaxed);
        assert!((20..200).contains(&flushes), "{flushes} flushes for 320");
    }

    #[test]
    fn a_flush_that_was_begun_earlier_is_not_enough() {
        let (commit, written) = (Commit::default(), AtomicU64::new(0));
        let durable = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                        let flush = || {
                            let seen = written.load(Ordering::SeqCst);
                            std::thread::sleep(Duration::from_micros(300));
                            durable.fetch_max(seen, Ordering::SeqCst);
                            Ok(())
                        };
                        commit.join(flush).unwrap();
                        assert!(durable.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
    }

    #[test]
    fn after_a_failed_flush_nothing_is_durable() {
        let commit = Commit::default();
        let failing = || Err(Error::new(ErrorKind::Io, "image", "cannot be made durable"));
        let error = commit.join(failing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let error = commit.join(|| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WritesRefused);
    }
}
