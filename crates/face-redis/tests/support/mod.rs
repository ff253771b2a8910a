//! What the tests of the face share.

pub mod commands;
pub mod real;
pub mod wire;

use std::sync::Arc;

use proteus_env::SystemClock;
use proteus_face::{Accounts, Metrics};
use proteus_face_redis::RedisFace;
use proteus_testkit::{ServedFace, memory_kernel, serve_face};

/// The face over a kernel in memory.
pub fn serve() -> ServedFace {
    let clock = Arc::new(SystemClock::new());
    let face = RedisFace::new(memory_kernel(), clock, &Metrics::default(), Accounts::default());
    serve_face(Arc::new(face))
}

/// A sequence of numbers that a seed determines (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub fn pick<'a>(&mut self, values: &[&'a str]) -> &'a str {
        values[self.below(values.len() as u64) as usize]
    }
}
