//! Choices that every replica makes alike: drawn from a seed that the op carries.

/// A sequence of numbers that a seed determines (SplitMix64).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}

/// A hash of `bytes` that never changes: words multiplied as FNV-1a does bytes, mixed at the end.
pub(crate) fn hash32(bytes: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    if let Some(front) = last.get_mut(..rest.len()) {
        front.copy_from_slice(rest);
    }
    // The length tells bytes from those with zeros behind them.
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    for word in words.iter().chain([&last]) {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        // A product's high bits know of all below them, its low bits of none above.
        hash ^= hash >> 32;
    }
    (Random::new(hash).next() >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_that_differ_little_are_spread_out() {
        let mut seen = BTreeSet::new();
        let mut buckets = [0u32; 64];
        for number in 0..20_000u32 {
            let hash = hash32(format!("key:{number:012}").as_bytes());
            seen.insert(hash);
            buckets[(hash >> 26) as usize] += 1;
        }
        assert!(seen.len() > 19_990, "{} of 20000", seen.len());
        // 312 on average.
        assert!(buckets.iter().all(|count| (220..410).contains(count)), "{buckets:?}");
        let zeros: BTreeSet<u32> = (0..40).map(|length| hash32(&vec![0; length])).collect();
        assert_eq!(zeros.len(), 40);
    }
}
