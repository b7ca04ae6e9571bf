//! Each thread keeps to its own processors.
//!
//! Left to itself, the scheduler wakes the threads of a server where their request came from, often
//! both on one processor, which costs a part of the speed at depth (decision 011). So the
//! processors that the process may use are dealt out in turn. All of it is advice: where a share
//! can't be had, the thread runs anywhere.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Gives the calling thread, number `number` of `threads`, its share.
pub(super) fn keep_to_share(number: usize, threads: usize) {
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    if let Some(share) = share(&allowed, number, threads) {
        // Refused where somebody forbids it, or took the processors away meanwhile.
        let _ = sched_setaffinity(None, &share);
    }
}

/// Every `threads`-th processor of those allowed, from the one with number `number` on. `None`
/// where there are fewer than threads, or one thread.
fn share(allowed: &CpuSet, number: usize, threads: usize) -> Option<CpuSet> {
    let count = allowed.count() as usize;
    if threads < 2 || count < threads {
        return None;
    }
    let processors = (0..CpuSet::MAX_CPU).filter(|at| allowed.is_set(*at));
    let mut share = CpuSet::new();
    for processor in processors.skip(number % threads).step_by(threads) {
        share.set(processor);
    }
    Some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(processors: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        for processor in processors {
            set.set(*processor);
        }
        set
    }

    #[test]
    fn shares_are_disjoint_and_together_all() {
        let allowed = set(&[1, 3, 4, 8, 9]);
        assert_eq!(share(&allowed, 0, 2), Some(set(&[1, 4, 9])));
        assert_eq!(share(&allowed, 1, 2), Some(set(&[3, 8])));
        for (number, processor) in [1, 3, 4, 8, 9].into_iter().enumerate() {
            assert_eq!(share(&allowed, number, 5), Some(set(&[processor])));
        }
    }

    #[test]
    fn too_few_processors_are_not_shared() {
        assert_eq!(share(&set(&[7]), 0, 2), None);
        assert_eq!(share(&set(&[0, 1, 2]), 1, 4), None);
        assert_eq!(share(&set(&[0, 1, 2]), 0, 1), None);
    }

    #[test]
    fn a_thread_keeps_to_its_share() {
        let allowed = sched_getaffinity(None).expect("affinity");
        for number in 0..2 {
            let kept = std::thread::spawn(move || {
                keep_to_share(number, 2);
                sched_getaffinity(None).expect("affinity")
            });
            let kept = kept.join().expect("thread");
            let expected = share(&allowed, number, 2).unwrap_or(allowed);
            assert_eq!(kept, expected);
        }
    }
}
