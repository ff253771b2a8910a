//! Fuzzing as ordinary functions.
//!
//! A fuzz target is `fn(&[u8])` that panics when its property is broken. [`run`] feeds it mutations
//! of a corpus for a fixed budget from a fixed seed, so that `cargo test` is repeatable;
//! `PROTEUS_FUZZ_SEED` and `PROTEUS_FUZZ_RUNS` choose others.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Inputs that a test run tries of each target.
const RUNS_DEFAULT: u64 = 20_000;

/// Longest input, in bytes. Decoders meet larger lengths as numbers, not as bytes.
const INPUT_BYTES_MAX: usize = 4096;

/// Bytes that often stand at an edge of a format.
const EDGES: [u8; 12] = [0, 1, 0x7F, 0x80, 0xFE, 0xFF, b'\r', b'\n', b'$', b'*', b'-', b'0'];

/// Feeds `target` mutations of `corpus`.
///
/// # Panics
/// With the target's panic, after printing the seed and the input that cause it.
pub fn run(name: &str, corpus: &[Vec<u8>], target: impl Fn(&[u8])) {
    let variable = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seed: u64 = variable("PROTEUS_FUZZ_SEED").unwrap_or(0x5EED);
    let runs: u64 = variable("PROTEUS_FUZZ_RUNS").unwrap_or(RUNS_DEFAULT);
    for run in 0..runs {
        let mut random = Random(seed.wrapping_add(run).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let input = random.input(corpus);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            eprintln!(
                "fuzz target {name} failed: PROTEUS_FUZZ_SEED={} PROTEUS_FUZZ_RUNS=1, input {}",
                seed.wrapping_add(run),
                input.escape_ascii()
            );
            resume_unwind(panic);
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        if self.below(2) == 0 { EDGES[self.below(EDGES.len())] } else { self.below(256) as u8 }
    }

    fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = match corpus.len() {
            0 => Vec::new(),
            count => corpus[self.below(count)].clone(),
        };
        if self.below(8) == 0 {
            input = (0..self.below(256)).map(|_| self.byte()).collect();
        }
        for _ in 0..self.below(6) {
            self.mutate(&mut input, corpus);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let place = self.below(input.len() + 1);
        match self.below(6) {
            0 => input.truncate(place),
            1 => input.insert(place, self.byte()),
            2 if place < input.len() => {
                input.remove(place);
            }
            3 if place < input.len() => input[place] ^= 1 << self.below(8),
            4 if !corpus.is_empty() => {
                let other = &corpus[self.below(corpus.len())];
                let start = self.below(other.len() + 1);
                input.extend_from_slice(&other[start..]);
            }
            _ if place < input.len() => input[place] = self.byte(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_is_found() {
        let corpus = [b"PING\r\n".to_vec()];
        let found = catch_unwind(|| {
            run("canary", &corpus, |input| assert!(!input.starts_with(b"PONG"), "canary"));
        });
        // One bit turns an I into an O only by way of two flips; a byte mutation does it at once.
        assert!(found.is_err(), "the fuzzer no longer finds a planted failure");
    }
}
