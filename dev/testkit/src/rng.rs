//! Numbers that look random and are the same for the same seed.
//!
//! [`Rng::announced`] takes its seed from `VIRTDISK_SEED` or the clock and prints it, so that a
//! failure can be run again. The generator is SplitMix64: enough for tests, not for secrets.

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator with its seed.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    seed: u64,
}

/// What the state of SplitMix64 goes up by with each number.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Rng {
    /// The generator of that seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed, seed }
    }

    /// A generator whose seed is `VIRTDISK_SEED` if set, else the clock; the seed is printed with
    /// the test's `name` (the harness shows it when the test fails).
    #[must_use]
    pub fn announced(name: &str) -> Self {
        let from_clock = || {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            u64::from(now.subsec_nanos()) ^ now.as_secs().rotate_left(32)
        };
        let given = std::env::var("VIRTDISK_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(from_clock);
        println!("{name}: VIRTDISK_SEED={seed}");
        Self::new(seed)
    }

    /// The seed that it started from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next number, of 64 bits.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Leaves out the next `numbers` numbers.
    pub fn skip(&mut self, numbers: u64) {
        self.state = self.state.wrapping_add(STEP.wrapping_mul(numbers));
    }

    /// A number from 0 to `end` - 1; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias of the remainder is far below what a test could notice.
        self.number().checked_rem(end).unwrap_or(0)
    }

    /// Whether an event of one in `n` happens.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of the items, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Fills `buf`.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let bytes = self.number().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}
