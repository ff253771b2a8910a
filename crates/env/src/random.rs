//! Unpredictable numbers, for session passwords, ids and jitter. Never for state machines.

/// A random 64-bit number from the operating system.
///
/// # Panics
/// If the operating system has no source of randomness, in which case nothing that needs a secret
/// may go on.
pub fn random_u64() -> u64 {
    u64::from_le_bytes(random_bytes())
}

/// `N` random bytes from the operating system.
///
/// # Panics
/// As [`random_u64`].
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}
