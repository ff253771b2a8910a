//! How long commands take: SLOWLOG, LATENCY, and INFO's commandstats. Soft state of the node.
//!
//! A command that reads is timed by itself. Writes of one receipt are committed together, and each is
//! charged its part; if that took long, the log names the first script among them, or the first command.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::settings::Settings;

/// Arguments that an entry keeps, and bytes of each, as in Redis.
const ARGUMENTS_MAX: usize = 32;
const ARGUMENT_BYTES_MAX: usize = 128;

/// Latencies kept for each event, as in Redis.
const SAMPLES_MAX: usize = 160;

/// Powers of two of microseconds.
const BUCKETS: usize = 40;

/// A command that took long.
#[derive(Debug, Clone)]
pub(crate) struct SlowEntry {
    pub(crate) id: u64,
    pub(crate) at_s: u64,
    pub(crate) took_us: u64,
    pub(crate) arguments: Vec<Bytes>,
    pub(crate) client: String,
    pub(crate) client_name: Bytes,
}

/// What is known of one command's times.
pub(crate) struct Times {
    pub(crate) took_us: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) rejected: AtomicU64,
    /// By the power of two that is at least the time in microseconds.
    buckets: [AtomicU64; BUCKETS],
}

/// When, in seconds since the epoch; and how long, in milliseconds.
type Sample = (u64, u64);

/// Calls of one command in a row, whose time is taken together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Calls {
    /// The command's place in the table.
    pub(crate) index: usize,
    pub(crate) count: u64,
    /// Of these were answered with an error.
    pub(crate) failed: u64,
}

impl Calls {
    /// Whether a call of the command at this place goes with these.
    pub(crate) fn takes(self, index: usize) -> bool {
        self.count == 0 || self.index == index
    }

    pub(crate) fn add(&mut self, index: usize, is_error: bool) {
        self.index = index;
        self.count += 1;
        self.failed += u64::from(is_error);
    }
}

/// The times of a node.
pub(crate) struct Slow {
    log: Mutex<(VecDeque<SlowEntry>, u64)>,
    times: Vec<Times>,
    /// Latencies by event.
    latencies: Mutex<BTreeMap<&'static str, (VecDeque<Sample>, u64)>>,
}

impl Slow {
    pub(crate) fn new(command_count: usize) -> Slow {
        let times = || Times {
            took_us: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Slow {
            log: Mutex::default(),
            times: (0..command_count).map(|_| times()).collect(),
            latencies: Mutex::default(),
        }
    }

    /// Notes calls of one command.
    pub(crate) fn observe(&self, calls: Calls, took_us: u64) {
        let Some(times) = self.times.get(calls.index).filter(|_| calls.count > 0) else { return };
        times.calls.fetch_add(calls.count, Ordering::Relaxed);
        times.took_us.fetch_add(took_us, Ordering::Relaxed);
        if calls.failed > 0 {
            times.failed.fetch_add(calls.failed, Ordering::Relaxed);
        }
        let each_us = took_us / calls.count;
        let bucket = (u64::BITS - each_us.saturating_sub(1).leading_zeros()) as usize;
        if let Some(bucket) = times.buckets.get(bucket.min(BUCKETS - 1)) {
            bucket.fetch_add(calls.count, Ordering::Relaxed);
        }
    }

    pub(crate) fn reject(&self, index: usize) {
        if let Some(times) = self.times.get(index) {
            times.rejected.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn times(&self, index: usize) -> Option<&Times> {
        self.times.get(index)
    }

    /// Forgets what commands took.
    pub(crate) fn reset_times(&self) {
        for times in &self.times {
            for number in [&times.took_us, &times.calls, &times.failed, &times.rejected] {
                number.store(0, Ordering::Relaxed);
            }
            for bucket in &times.buckets {
                bucket.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Whether a time is one for the log or for LATENCY.
    pub(crate) fn is_slow(settings: &Settings, took_us: u64) -> bool {
        let slower_than = settings.slower_than_us.load(Ordering::Relaxed);
        let latency_ms = settings.latency_ms.load(Ordering::Relaxed);
        u64::try_from(slower_than).is_ok_and(|limit| took_us >= limit)
            || latency_ms > 0 && took_us / 1000 >= latency_ms
    }

    /// Notes a command that took long.
    pub(crate) fn note(
        &self,
        settings: &Settings,
        arguments: &[Bytes],
        is_fast: bool,
        took_us: u64,
        at_s: u64,
        client: (String, Bytes),
    ) {
        let slower_than = settings.slower_than_us.load(Ordering::Relaxed);
        if u64::try_from(slower_than).is_ok_and(|limit| took_us >= limit) {
            let mut log = self.log.lock();
            let id = log.1;
            log.1 += 1;
            let arguments = shown(arguments);
            let (client, client_name) = client;
            log.0.push_front(SlowEntry { id, at_s, took_us, arguments, client, client_name });
            log.0.truncate(settings.slowlog_max.load(Ordering::Relaxed) as usize);
        }
        let latency_ms = settings.latency_ms.load(Ordering::Relaxed);
        if latency_ms > 0 && took_us / 1000 >= latency_ms {
            let event = if is_fast { "fast-command" } else { "command" };
            let mut latencies = self.latencies.lock();
            let (samples, greatest) = latencies.entry(event).or_default();
            let ms = took_us / 1000;
            *greatest = ms.max(*greatest);
            match samples.back_mut() {
                // One for each second, the longest.
                Some((second, longest)) if *second == at_s => *longest = ms.max(*longest),
                _ => samples.push_back((at_s, ms)),
            }
            if samples.len() > SAMPLES_MAX {
                samples.pop_front();
            }
        }
    }

    /// The newest entries of the log.
    pub(crate) fn entries(&self, count_max: usize) -> Vec<SlowEntry> {
        self.log.lock().0.iter().take(count_max).cloned().collect()
    }

    pub(crate) fn entry_count(&self) -> usize {
        self.log.lock().0.len()
    }

    pub(crate) fn forget(&self) {
        self.log.lock().0.clear();
    }

    /// The latencies of an event.
    pub(crate) fn latencies(&self, event: &str) -> Vec<Sample> {
        let latencies = self.latencies.lock();
        latencies
            .get(event)
            .map(|(samples, _)| samples.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Each event with its last latency and the greatest.
    pub(crate) fn latest(&self) -> Vec<(&'static str, Sample, u64)> {
        let latencies = self.latencies.lock();
        let last = |(event, (samples, greatest)): (&&'static str, &(VecDeque<Sample>, u64))| {
            samples.back().map(|last| (*event, *last, *greatest))
        };
        latencies.iter().filter_map(last).collect()
    }

    /// Forgets the latencies of these events, of all if there are none; says of how many.
    pub(crate) fn reset_latencies(&self, events: &[Bytes]) -> usize {
        let mut latencies = self.latencies.lock();
        let before = latencies.len();
        latencies.retain(|event, _| {
            !events.is_empty() && !events.iter().any(|other| other[..] == *event.as_bytes())
        });
        before - latencies.len()
    }
}

impl Times {
    /// Upper bounds in microseconds and how many calls took at most that; of those that there are.
    pub(crate) fn histogram(&self) -> Vec<(u64, u64)> {
        let mut sum = 0;
        let mut found = Vec::new();
        for (power, bucket) in self.buckets.iter().enumerate() {
            let count = bucket.load(Ordering::Relaxed);
            if count > 0 {
                sum += count;
                found.push((1 << power, sum));
            }
        }
        found
    }
}

/// Arguments as the log shows them: some, and the beginning of each.
fn shown(arguments: &[Bytes]) -> Vec<Bytes> {
    let mut shown: Vec<Bytes> = arguments
        .iter()
        .take(if arguments.len() > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { ARGUMENTS_MAX })
        .map(|argument| match argument.get(..ARGUMENT_BYTES_MAX) {
            Some(beginning) if argument.len() > ARGUMENT_BYTES_MAX => {
                let more = argument.len() - ARGUMENT_BYTES_MAX;
                Bytes::from([beginning, format!("... ({more} more bytes)").as_bytes()].concat())
            }
            _ => argument.clone(),
        })
        .collect();
    if arguments.len() > ARGUMENTS_MAX {
        let more = arguments.len() - ARGUMENTS_MAX + 1;
        shown.push(Bytes::from(format!("... ({more} more arguments)")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use proteus_kernel_api::Durability;

    use super::*;

    #[test]
    fn the_log_keeps_the_newest_and_shortens_what_is_long() {
        let (slow, settings) = (Slow::new(1), Settings::new(Durability::Flushed));
        let long = Bytes::from(vec![b'x'; 200]);
        let arguments = vec![long; 40];
        for at in 0..200 {
            slow.note(&settings, &arguments, false, 20_000, at, (String::new(), Bytes::new()));
        }
        slow.note(&settings, &arguments, false, 5_000, 0, (String::new(), Bytes::new()));
        let entries = slow.entries(500);
        assert_eq!((entries.len(), entries[0].id, entries[127].id), (128, 199, 72));
        assert_eq!(entries[0].arguments.len(), 32);
        assert!(entries[0].arguments[0].ends_with(b"... (72 more bytes)"));
        assert_eq!(&entries[0].arguments[31][..], b"... (9 more arguments)");
    }

    #[test]
    fn calls_are_counted_by_powers_of_two() {
        let slow = Slow::new(1);
        for took_us in [0, 1, 2, 3, 1000, u64::MAX] {
            slow.observe(Calls { index: 0, count: 1, failed: 0 }, took_us);
        }
        let histogram = slow.times(0).unwrap().histogram();
        assert_eq!(histogram, [(1, 2), (2, 3), (4, 4), (1024, 5), (1 << 39, 6)]);
    }
}
