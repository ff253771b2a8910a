//! Stands in for the crate of the same name, which the consensus library records statistics with
//! that only its feature `runtime-stats` can show.
//!
//! That crate computes some 25 MiB of tables at first use, and each record costs time on the commit
//! path. With the feature off nobody can ask for the figures, so here a histogram counts its samples
//! and forgets their values. The interface is as much of the original's as openraft 0.10 compiles
//! against.

use std::fmt;

/// Counts samples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    sample_count: u64,
    slot: Option<T>,
}

impl<T> Histogram<T> {
    /// Without samples.
    pub fn new() -> Histogram<T> {
        Histogram { sample_count: 0, slot: None }
    }

    /// Counts one sample.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `count` samples.
    pub fn record_n(&mut self, _value: u64, count: u64) {
        self.sample_count = self.sample_count.wrapping_add(count);
    }

    /// Samples counted.
    pub fn total(&self) -> u64 {
        self.sample_count
    }

    /// The number of samples, and zeros: values are not kept.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats { samples: self.sample_count, ..PercentileStats::default() }
    }
}

/// Percentiles of a histogram; zeros here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field's name is its meaning")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples", self.samples)
    }
}

/// A chart without bars.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// Empty, as it stays.
    pub fn new() -> AsciiChart {
        AsciiChart
    }

    /// Takes a series and draws nothing of it.
    #[must_use]
    pub fn add(self, _name: &str, _histogram: Histogram) -> AsciiChart {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
