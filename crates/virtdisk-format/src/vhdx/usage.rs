//! Which MiBs of the file have an owner.
//!
//! Everything in a VHDX behind its header section lies on whole MiBs, so a bit per MiB is the whole
//! overlap map (S-3). It is as long as the last owner needs, at most 32 MiB.

use super::layout::MIB;

/// Offsets in a file that is looked at here stay below this many MiBs (2.9).
pub(crate) const MOST_MIBS: u64 = 1 << 28;

/// A bit per MiB of the file: has an owner.
#[derive(Default)]
pub(crate) struct Usage {
    words: Vec<u64>,
}

impl Usage {
    /// Gives the MiBs that hold the `len` bytes at `offset` to an owner. `Err` names the byte
    /// offset of the first that has one already, or that lies where no offset may be.
    pub(crate) fn claim(&mut self, offset: u64, len: u64) -> std::result::Result<(), u64> {
        let first = offset / MIB;
        let end = offset
            .checked_add(len)
            .map(|end| end.div_ceil(MIB))
            .filter(|&end| end <= MOST_MIBS)
            .ok_or(offset)?;
        if let Some(mib) = (first..end).find(|&mib| self.is_used(mib)) {
            return Err(mib * MIB);
        }
        self.set(first, end, true);
        Ok(())
    }

    /// Whether a MiB has an owner.
    pub(crate) fn is_used(&self, mib: u64) -> bool {
        let word = usize::try_from(mib / 64).ok();
        word.and_then(|word| self.words.get(word))
            .is_some_and(|word| word >> (mib % 64) & 1 == 1)
    }

    /// The MiBs `first..end`, below [`MOST_MIBS`], have an owner from now on, or none.
    pub(crate) fn set(&mut self, first: u64, end: u64, used: bool) {
        let end = end.min(MOST_MIBS);
        let needed = usize::try_from(end.div_ceil(64)).unwrap_or(0);
        if used && self.words.len() < needed {
            self.words.resize(needed, 0);
        }
        for mib in first..end {
            let word = usize::try_from(mib / 64).unwrap_or(usize::MAX);
            if let Some(word) = self.words.get_mut(word) {
                let bit = 1 << (mib % 64);
                *word = if used { *word | bit } else { *word & !bit };
            }
        }
    }

    /// The first of the MiBs below `end` that has no owner, and how many of them have none.
    pub(crate) fn free_below(&self, end: u64) -> Option<(u64, u64)> {
        let end = end.min(MOST_MIBS);
        let (mut first, mut used) = (None, 0);
        for (word, start) in self.words.iter().zip((0..end).step_by(64)) {
            let counts = match end - start {
                left @ 0..64 => (1 << left) - 1,
                _ => u64::MAX,
            };
            let taken = word | !counts;
            if first.is_none() && taken != u64::MAX {
                first = Some(start + u64::from(taken.trailing_ones()));
            }
            used += u64::from((word & counts).count_ones());
        }
        let behind = self.words.len() as u64 * 64;
        let first = first.or((behind < end).then_some(behind))?;
        Some((first, end.saturating_sub(used)))
    }

    /// The end of the last MiB that has an owner, in MiBs.
    pub(crate) fn end(&self) -> u64 {
        let last = self.words.iter().rposition(|&word| word != 0);
        last.map_or(0, |index| {
            let top = 64 - u64::from(self.words[index].leading_zeros());
            index as u64 * 64 + top
        })
    }

    /// The first run of `count` MiBs without an owner in `from..end`.
    pub(crate) fn find(&self, count: u64, from: u64, end: u64) -> Option<u64> {
        let (mut start, mut mib) = (from, from);
        while mib < end {
            let word = usize::try_from(mib / 64).unwrap_or(usize::MAX);
            match self.words.get(word) {
                Some(&u64::MAX) => {
                    mib = (mib / 64 + 1) * 64;
                    start = mib;
                    continue;
                }
                Some(_) if self.is_used(mib) => start = mib + 1,
                Some(_) => {}
                // Nobody owns anything from here on.
                None => mib = end - 1,
            }
            mib += 1;
            if mib - start >= count && start + count <= end {
                return Some(start);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_runs_are_found_between_owners_and_behind_them() {
        let mut usage = Usage::default();
        usage.claim(0, 64 * MIB).unwrap();
        usage.claim(66 * MIB, 2 * MIB).unwrap();
        assert_eq!(usage.find(2, 0, 400), Some(64));
        assert_eq!(usage.find(3, 0, 400), Some(68));
        assert_eq!(usage.find(300, 0, 400), Some(68));
        assert_eq!(usage.find(333, 0, 400), None);
        assert_eq!(usage.find(2, 65, 69), None);
        assert_eq!(usage.find(1, 65, 69), Some(65));
    }

    #[test]
    fn an_overlap_is_found_and_named() {
        // S-3
        let mut usage = Usage::default();
        usage.claim(3 * MIB, 2 * MIB).unwrap();
        usage.claim(5 * MIB, 1).unwrap();
        assert_eq!(usage.claim(4 * MIB, MIB), Err(4 * MIB));
        assert_eq!(usage.claim(2 * MIB, 4 * MIB), Err(3 * MIB));
        assert_eq!(usage.claim(5 * MIB + 9, 1), Err(5 * MIB));
        assert_eq!(usage.claim(u64::MAX, 1), Err(u64::MAX));
        assert_eq!(usage.claim(MOST_MIBS * MIB, 1), Err(MOST_MIBS * MIB));
        assert_eq!(usage.end(), 6);
        assert_eq!(usage.free_below(6), Some((0, 3)));
        assert_eq!(usage.free_below(1000), Some((0, 997)));
        usage.set(0, 3, true);
        assert_eq!(usage.free_below(6), None);
        assert_eq!(usage.free_below(7), Some((6, 1)));
        usage.set(6, 64, true);
        assert_eq!(usage.free_below(66), Some((64, 2)));
        usage.set(5, 6, false);
        assert_eq!(usage.free_below(64), Some((5, 1)));
        usage.set(6, 64, false);
        assert_eq!(usage.end(), 5);
    }
}
