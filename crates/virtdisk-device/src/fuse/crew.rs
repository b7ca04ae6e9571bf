//! How the threads of one server share its requests.
//!
//! A sleep between two requests costs more than a small answer does: waking an idle processor
//! takes 20 to 30 µs in a virtual machine, and every thread that waits in the kernel is woken in
//! turn. So while requests come one by one and are answered quickly, only the lead thread takes
//! them, and looks out for the next one for a moment before it sleeps; the others rest. They come
//! in when there is more than one request, when an answer takes long or may, and when the lead is
//! stuck with one. All counts are advice: a race costs microseconds. What must not be lost is
//! the end, and that the lead is watched while it answers.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An answer that takes longer is slow: others should be there meanwhile.
const SLOW: Duration = Duration::from_micros(50);
/// Longest look out for the next request: a caller's turnaround on an idle machine, twice.
const LOOK_OUT: Duration = Duration::from_micros(100);
/// Most chances to look out that are left out after looking in vain.
const MOST_ABSTINENCE: u32 = 1024;
/// For how many requests all threads stay after they were wanted.
const STAY: u32 = 64;
/// How many requests in a row must have been waiting for the lead before others are wanted.
const WAITING: u32 = 8;
/// How often a resting thread looks whether the lead is stuck.
const WATCH: Duration = Duration::from_millis(2);

/// The state that the threads share.
#[derive(Debug)]
pub(super) struct Crew {
    /// Requests taken so far; wraps.
    taken: AtomicU32,
    /// Threads that are answering.
    answering: AtomicU32,
    /// Requests for which all threads are wanted.
    wanted: AtomicU32,
    /// The connection is gone.
    over: AtomicBool,
    /// Threads that rest.
    resting: AtomicU32,
    /// Some of them do not even watch, as nothing was going on.
    asleep: AtomicBool,
    door: Mutex<()>,
    knock: Condvar,
}

/// What the lead remembers from one look out to the next.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    /// Requests in a row that were there already.
    waiting: u32,
    /// Chances to leave out.
    abstain: u32,
    /// How many to leave out after the next look in vain.
    abstinence: u32,
}

impl Crew {
    /// A crew that begins with everybody wanted.
    pub(super) fn new() -> Self {
        Self {
            taken: AtomicU32::new(0),
            answering: AtomicU32::new(0),
            wanted: AtomicU32::new(STAY),
            over: AtomicBool::new(false),
            resting: AtomicU32::new(0),
            asleep: AtomicBool::new(false),
            door: Mutex::new(()),
            knock: Condvar::new(),
        }
    }

    /// All threads are wanted for a while.
    pub(super) fn want(&self) {
        // Whoever set it to this woke the others.
        if self.wanted.load(Ordering::Relaxed) == STAY {
            return;
        }
        if self.wanted.swap(STAY, Ordering::SeqCst) == 0 && self.resting.load(Ordering::SeqCst) > 0
        {
            self.wake();
        }
    }

    /// The connection is gone: nobody rests any more.
    pub(super) fn finish(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// A thread has taken a request, and tells how to end it. `lengthy`: it may take long.
    pub(super) fn begin(&self, lengthy: bool) -> Begun {
        self.taken.fetch_add(1, Ordering::SeqCst);
        let alone = self.answering.fetch_add(1, Ordering::SeqCst) == 0;
        if lengthy || !alone {
            self.want();
        }
        if self.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        let wanted = self.wanted.load(Ordering::Relaxed);
        Begun {
            alone,
            at: (wanted <= STAY / 2).then(Instant::now),
        }
    }

    /// The thread has answered.
    pub(super) fn end(&self, begun: &Begun) {
        self.answering.fetch_sub(1, Ordering::SeqCst);
        if begun.at.is_some_and(|at| at.elapsed() > SLOW) {
            self.want();
        } else if begun.alone {
            let wanted = self.wanted.load(Ordering::Relaxed);
            self.wanted
                .store(wanted.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// Called by the lead before it sleeps: looks for the next request with `is_there`, if that
    /// may pay.
    pub(super) fn look_out(&self, own: &mut Lookout, mut is_there: impl FnMut() -> bool) {
        if self.wanted.load(Ordering::Relaxed) > 0 {
            return;
        }
        if own.abstain > 0 {
            own.abstain -= 1;
            return;
        }
        if is_there() {
            own.waiting += 1;
            if own.waiting >= WAITING {
                own.waiting = 0;
                self.want();
            }
            return;
        }
        own.waiting = 0;
        let start = Instant::now();
        while start.elapsed() < LOOK_OUT {
            if is_there() {
                own.abstinence = 0;
                return;
            }
        }
        own.abstinence = (own.abstinence * 2).clamp(1, MOST_ABSTINENCE);
        own.abstain = own.abstinence;
    }

    /// Called by all but the lead before they take a request: rests until there is a need.
    pub(super) fn rest(&self) {
        let mut idle = false;
        while self.wanted.load(Ordering::SeqCst) == 0 && !self.over.load(Ordering::SeqCst) {
            let seen = self.taken.load(Ordering::SeqCst);
            self.doze(idle, seen);
            let moved = self.taken.load(Ordering::SeqCst) != seen;
            let at_work = self.answering.load(Ordering::SeqCst) > 0;
            if at_work && !moved {
                // The lead has been busy with one request all the time.
                self.want();
            }
            idle = !at_work && !moved;
        }
    }

    /// Sleeps for a watch; when nothing is going on, until somebody knocks.
    fn doze(&self, idle: bool, seen: u32) {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.resting.fetch_add(1, Ordering::SeqCst);
        self.asleep.fetch_or(idle, Ordering::SeqCst);
        // Whoever changes one of these looks at `resting` or `asleep` afterwards, and knocks with
        // the door in hand: either we see the change now, or the knock finds us sleeping.
        let news = self.wanted.load(Ordering::SeqCst) > 0
            || self.over.load(Ordering::SeqCst)
            || self.taken.load(Ordering::SeqCst) != seen;
        if !news && idle {
            drop(self.knock.wait(door));
        } else if !news {
            drop(self.knock.wait_timeout(door, WATCH));
        }
        self.resting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes whoever rests.
    fn wake(&self) {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(false, Ordering::SeqCst);
        self.knock.notify_all();
        drop(door);
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Begun {
    /// Nobody else was answering when it was taken.
    alone: bool,
    /// When, unless the others stay for a while whatever it takes.
    at: Option<Instant>,
}

#[cfg(test)]
mod tests;
