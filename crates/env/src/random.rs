//! Unpredictable numbers, for session passwords, ids and jitter. Never for state machines.
//!
//! On a thread that is [simulated](crate::simulation) they follow from its seed.

use crate::simulation;

/// A random 64-bit number.
///
/// # Panics
/// If the operating system has no source of randomness, in which case nothing that needs a secret
/// may go on.
pub fn random_u64() -> u64 {
    u64::from_le_bytes(random_bytes())
}

/// `N` random bytes.
///
/// # Panics
/// As [`random_u64`].
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// Fills `bytes` at random.
///
/// # Panics
/// As [`random_u64`].
pub fn fill(bytes: &mut [u8]) {
    if simulation::is_on() {
        for chunk in bytes.chunks_mut(8) {
            let number = simulation::number().unwrap_or_default().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        return;
    }
    getrandom::fill(bytes).expect("the operating system provides randomness");
}
