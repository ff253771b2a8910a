//! The commit timestamp: one order for every face.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bits of the logical counter below the physical milliseconds.
pub const LOGICAL_BITS: u32 = 18;

/// The one time at which a commit is visible on every face: physical milliseconds since the Unix
/// epoch in the high bits, a logical counter in the low [`LOGICAL_BITS`].
///
/// No two minitransactions of a cluster share one. It stays positive as an `i64` until the year
/// 3084, so that a zxid can be the commit timestamp.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct CommitTs(pub u64);

impl CommitTs {
    /// Before every commit.
    pub const ZERO: CommitTs = CommitTs(0);
    /// After every commit.
    pub const MAX: CommitTs = CommitTs(u64::MAX);

    /// The first timestamp of a physical millisecond.
    pub fn from_physical_ms(physical_ms: u64) -> CommitTs {
        CommitTs(physical_ms << LOGICAL_BITS)
    }

    /// Physical part, in milliseconds since the Unix epoch.
    pub fn physical_ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// Logical counter within the millisecond. It may carry into the physical part: order, not
    /// time of day, is what a commit timestamp promises.
    pub fn logical(self) -> u64 {
        self.0 & ((1 << LOGICAL_BITS) - 1)
    }

    /// The timestamp `count` places later.
    #[must_use]
    pub fn plus(self, count: u64) -> CommitTs {
        CommitTs(self.0 + count)
    }
}

impl fmt::Display for CommitTs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.physical_ms(), self.logical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_physical_then_logical() {
        let early = CommitTs::from_physical_ms(1_000);
        assert!(early < early.plus(1));
        assert!(early.plus(7) < CommitTs::from_physical_ms(1_001));
        assert_eq!(early.plus(7).physical_ms(), 1_000);
        assert_eq!(early.plus(7).logical(), 7);
    }

    #[test]
    fn fits_a_zxid_for_a_millennium() {
        let year_3000_ms = 32_503_680_000_000;
        assert!(i64::try_from(CommitTs::from_physical_ms(year_3000_ms).0).is_ok());
    }
}
