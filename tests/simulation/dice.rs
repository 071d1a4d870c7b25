//! Every choice of a history comes from here, so a seed replays it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

/// Shared by everything that chooses. SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(Arc<AtomicU64>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    }

    pub fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 <= answer < n.
    pub fn below(&self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }

    /// True once in `n` times; never for 0.
    pub fn one_in(&self, n: usize) -> bool {
        n > 0 && self.below(n) == 0
    }

    pub fn pick<'a, T>(&self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    pub fn word(&self, among: &[&'static str]) -> &'static str {
        among[self.below(among.len())]
    }

    pub fn uuid(&self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }
}
