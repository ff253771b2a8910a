//! A thread on which all follows from a seed.
//!
//! A simulated world runs on one thread, in a runtime that runs tasks in turn, in paused time. What would
//! still differ from run to run is randomness and what other threads do, so on such a thread both are
//! replaced: numbers follow from the seed, and what blocks is done in its turn like any task.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// While it lives, this thread is simulated.
#[derive(Debug)]
pub struct Simulation {
    before: Option<u64>,
    /// It ends on the thread on which it began.
    _thread: PhantomData<*const ()>,
}

impl Simulation {
    /// Makes this thread's randomness follow from `seed`, and has it do what blocks by itself.
    pub fn begin(seed: u64) -> Simulation {
        Simulation { before: STATE.replace(Some(seed)), _thread: PhantomData }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        STATE.set(self.before);
    }
}

/// Whether this thread is simulated.
pub(crate) fn is_on() -> bool {
    STATE.get().is_some()
}

/// The next number of this thread's seed, if it is simulated.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), SplitMix64.
pub(crate) fn number() -> Option<u64> {
    let state = STATE.get()?.wrapping_add(0x9E37_79B9_7F4A_7C15);
    STATE.set(Some(state));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    Some(mixed ^ (mixed >> 31))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{random_bytes, random_u64};

    #[test]
    fn numbers_follow_from_the_seed_until_it_ends() {
        let draw = |seed| {
            let _simulation = Simulation::begin(seed);
            (random_u64(), random_bytes::<20>())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(!is_on());
        assert_ne!(random_u64(), random_u64());
    }
}
