//! Which MiBs of the file have an owner, and which of the others can be given to a block at once.
//!
//! Everything in a VHDX behind its header section lies on whole MiBs, so a bit per MiB is the whole
//! overlap map (S-3). Space is given out only where it reads as zeros and always will after a power
//! cut (S-10): behind the old end of the file, or zeroed and flushed since. Space that a block lost
//! waits here until a flush made the loss durable. This file only computes; `allocate` extends,
//! zeroes and flushes.

use std::collections::VecDeque;

use super::layout::MIB;
use super::usage::Usage;

/// A run of MiBs of the file: the first, and how many.
pub(crate) type Run = (u64, u64);

/// The free space of an image that is open for writing.
pub(crate) struct Space {
    usage: Usage,
    /// MiBs of the file; what its last one lacks counts as there.
    end: u64,
    /// Runs without an owner that read as zeros, now and after a power cut; in order.
    ready: Vec<Run>,
    /// There is no unclean run of so many MiBs.
    none_of: u64,
    /// Runs that lost their owner, which the next flush makes durable; and whether they read zeros.
    lost: VecDeque<(Run, bool)>,
    /// Runs that were lost before those.
    lost_before: u64,
}

impl Space {
    /// The space of a file of `len` bytes whose owners are all in `usage`.
    pub(crate) fn new(usage: Usage, len: u64) -> Space {
        Space {
            end: len.div_ceil(MIB).max(usage.end()),
            usage,
            ready: Vec::new(),
            none_of: u64::MAX,
            lost: VecDeque::new(),
            lost_before: 0,
        }
    }

    /// Takes `count` MiBs that are ready; answers the first.
    pub(crate) fn take(&mut self, count: u64) -> Option<u64> {
        let index = self.ready.iter().position(|run| run.1 >= count)?;
        let run = &mut self.ready[index];
        let first = run.0;
        *run = (first + count, run.1 - count);
        if run.1 == 0 {
            self.ready.remove(index);
        }
        self.usage.set(first, first + count, true);
        Some(first)
    }

    /// Puts back what [`Space::take`] gave and nobody wrote to.
    pub(crate) fn put_back(&mut self, run: Run) {
        self.usage.set(run.0, run.0 + run.1, false);
        self.add_ready(run);
    }

    /// Whether `counts`, each a number of MiBs in one run, could all be taken one after the other.
    pub(crate) fn can_take(&self, counts: &[u64]) -> bool {
        let mut ready = self.ready.clone();
        counts.iter().all(|&count| {
            let run = ready.iter_mut().find(|run| run.1 >= count);
            run.is_some_and(|run| {
                *run = (run.0 + count, run.1 - count);
                true
            })
        })
    }

    /// Takes a run of `count` MiBs inside the file that nobody owns and whose bytes are unknown.
    pub(crate) fn take_unclean(&mut self, count: u64) -> Option<Run> {
        let run = (self.find_unclean(count)?, count);
        self.usage.set(run.0, run.0 + run.1, true);
        Some(run)
    }

    /// Puts back what [`Space::take_unclean`] gave and what was not zeroed.
    pub(crate) fn put_back_unclean(&mut self, run: Run) {
        self.usage.set(run.0, run.0 + run.1, false);
        self.none_of = u64::MAX;
    }

    fn find_unclean(&mut self, count: u64) -> Option<u64> {
        if count >= self.none_of {
            return None;
        }
        let mut from = 0;
        loop {
            let Some(first) = self.usage.find(count, from, self.end) else {
                self.none_of = count;
                return None;
            };
            let ready = self.ready.iter().find(|run| {
                let (start, len) = **run;
                start < first + count && first < start + len
            });
            let lost = self.lost.iter().map(|(run, _)| run).find(|run| {
                let (start, len) = **run;
                start < first + count && first < start + len
            });
            match ready.or(lost) {
                Some(&(start, len)) => from = start + len,
                None => return Some(first),
            }
        }
    }

    /// A run that nobody owns reads as zeros, durably.
    fn add_ready(&mut self, run: Run) {
        let at = self.ready.partition_point(|known| known.0 < run.0);
        self.ready.insert(at, run);
        self.ready.dedup_by(|next, run| {
            let joins = run.0 + run.1 == next.0;
            if joins {
                run.1 += next.1;
            }
            joins
        });
    }

    /// The file was made longer, up to `end` MiBs; everything that was added is ready.
    pub(crate) fn extended(&mut self, end: u64) {
        if end > self.end {
            self.add_ready((self.end, end - self.end));
            self.end = end;
        }
    }

    /// MiBs of the file.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The end of the last run that has an owner, in MiBs.
    pub(crate) fn used_end(&self) -> u64 {
        self.usage.end()
    }

    /// A run lost its owner in a change that is not durable yet. It keeps its bits until then.
    pub(crate) fn lose(&mut self, run: Run, zeroed: bool) {
        self.lost.push_back((run, zeroed));
    }

    /// Runs that were lost since open.
    pub(crate) fn lost(&self) -> u64 {
        self.lost_before + self.lost.len() as u64
    }

    /// The first `count` runs that were lost since open are lost for good.
    pub(crate) fn settle_lost(&mut self, count: u64) {
        while self.lost_before < count
            && let Some((run, zeroed)) = self.lost.pop_front()
        {
            self.lost_before += 1;
            self.usage.set(run.0, run.0 + run.1, false);
            if zeroed {
                self.add_ready(run);
            } else {
                self.none_of = u64::MAX;
            }
        }
    }

    /// Forgets what is ready, for the file is cut.
    pub(crate) fn forget(&mut self) {
        self.ready = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_given_out_only_when_that_is_durable() {
        //
        let mut usage = Usage::default();
        usage.claim(0, 8 * MIB).unwrap();
        let mut space = Space::new(usage, 8 * MIB);
        assert_eq!(space.take(1), None);
        space.lose((4, 2), true);
        space.lose((6, 1), false);
        assert_eq!((space.take(1), space.take_unclean(1)), (None, None));
        space.settle_lost(2);
        assert_eq!((space.take(2), space.take(1)), (Some(4), None));
        assert_eq!(space.take_unclean(1), Some((6, 1)));
        space.put_back_unclean((6, 1));
        space.extended(12);
        assert!(space.can_take(&[2, 2]) && !space.can_take(&[3, 2]));
        assert_eq!((space.take(3), space.take(1)), (Some(8), Some(11)));
        space.put_back((9, 2));
        assert_eq!(space.take(2), Some(9));
    }
}
