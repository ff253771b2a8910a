//! Wall time and elapsed time.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time. Faces and the kernel hold one; state machines never do.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump, in either direction.
    fn wall_ms(&self) -> u64;
    /// Time since some fixed moment of this process. Never goes back.
    fn elapsed(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose elapsed time counts from now.
    pub fn new() -> SystemClock {
        SystemClock { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        // A wall clock before 1970 is a broken clock; it reads as the epoch itself.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ms: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now_ms` until it is moved.
    pub fn at(now_ms: u64) -> ManualClock {
        ManualClock { now_ms: AtomicU64::new(now_ms) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.now_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// Sets the clock, also backwards, as a real wall clock may be.
    pub fn set_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.wall_ms())
    }
}

/// The runtime's own time, which a simulation pauses and moves, with a wall clock that may run wrong.
#[derive(Debug)]
pub struct RuntimeClock {
    started: tokio::time::Instant,
    start_ms: u64,
    /// How much faster than real time the wall clock runs, in parts of a thousand.
    drift_permille: i64,
    /// What the wall clock has been set forward by, or back.
    jumped_ms: AtomicI64,
}

impl RuntimeClock {
    /// A clock that shows `start_ms` now.
    pub fn new(start_ms: u64, drift_permille: i64) -> RuntimeClock {
        let started = tokio::time::Instant::now();
        RuntimeClock { started, start_ms, drift_permille, jumped_ms: AtomicI64::new(0) }
    }

    /// Sets the wall clock forward, or back.
    pub fn jump(&self, by_ms: i64) {
        self.jumped_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for RuntimeClock {
    fn wall_ms(&self) -> u64 {
        let elapsed_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        let shown_ms = elapsed_ms.saturating_mul(1000 + self.drift_permille) / 1000;
        let jumped_ms = self.jumped_ms.load(Ordering::SeqCst);
        self.start_ms.saturating_add_signed(shown_ms).saturating_add_signed(jumped_ms)
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
