//! What is counted: for the server since its start or the last reset, and for each connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Requests and how long they took. Reset and counting may overlap; a figure is then off by one.
#[derive(Debug)]
pub(crate) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    latency_min_us: AtomicU64,
    latency_max_us: AtomicU64,
    latency_sum_us: AtomicU64,
    latency_count: AtomicU64,
}

impl Default for Traffic {
    fn default() -> Traffic {
        let zero = || AtomicU64::new(0);
        Traffic {
            received: zero(),
            sent: zero(),
            latency_min_us: AtomicU64::new(u64::MAX),
            latency_max_us: zero(),
            latency_sum_us: zero(),
            latency_count: zero(),
        }
    }
}

/// Latencies in milliseconds, as ZooKeeper tells them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Latencies {
    pub(crate) min_ms: u64,
    pub(crate) avg_ms: f64,
    pub(crate) max_ms: u64,
}

impl Traffic {
    pub(crate) fn on_received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn on_answered(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.latency_sum_us.fetch_add(took_us, Ordering::Relaxed);
        self.latency_count.fetch_add(1, Ordering::Relaxed);
        if took_us < self.latency_min_us.load(Ordering::Relaxed) {
            self.latency_min_us.fetch_min(took_us, Ordering::Relaxed);
        }
        if took_us > self.latency_max_us.load(Ordering::Relaxed) {
            self.latency_max_us.fetch_max(took_us, Ordering::Relaxed);
        }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn latencies(&self) -> Latencies {
        let count = self.latency_count.load(Ordering::Relaxed);
        if count == 0 {
            return Latencies::default();
        }
        let sum_us = self.latency_sum_us.load(Ordering::Relaxed);
        let avg_us = sum_us as f64 / count as f64;
        Latencies {
            min_ms: self.latency_min_us.load(Ordering::Relaxed) / 1_000,
            avg_ms: (avg_us * 10.0).round() / 10_000.0,
            max_ms: self.latency_max_us.load(Ordering::Relaxed) / 1_000,
        }
    }

    pub(crate) fn reset(&self) {
        let fresh = Traffic::default();
        for (figure, value) in [
            (&self.received, fresh.received),
            (&self.sent, fresh.sent),
            (&self.latency_min_us, fresh.latency_min_us),
            (&self.latency_max_us, fresh.latency_max_us),
            (&self.latency_sum_us, fresh.latency_sum_us),
            (&self.latency_count, fresh.latency_count),
        ] {
            figure.store(value.into_inner(), Ordering::Relaxed);
        }
    }
}

/// A connection with a session.
#[derive(Debug)]
pub(crate) struct ConnectionRecord {
    pub(crate) peer: SocketAddr,
    pub(crate) session_id: i64,
    pub(crate) timeout_ms: u32,
    /// Since when, in milliseconds since the Unix epoch.
    pub(crate) established_ms: u64,
    pub(crate) is_encrypted: bool,
    pub(crate) traffic: Traffic,
    last_code: AtomicI32,
    last_xid: AtomicI32,
    last_zxid: AtomicI64,
}

impl ConnectionRecord {
    pub(crate) fn new(
        peer: SocketAddr,
        session_id: i64,
        timeout_ms: u32,
        established_ms: u64,
        is_encrypted: bool,
    ) -> ConnectionRecord {
        ConnectionRecord {
            peer,
            session_id,
            timeout_ms,
            established_ms,
            is_encrypted,
            traffic: Traffic::default(),
            last_code: AtomicI32::new(0),
            last_xid: AtomicI32::new(0),
            last_zxid: AtomicI64::new(0),
        }
    }

    pub(crate) fn on_answered(&self, code: i32, xid: i32, zxid: i64, took: Duration) {
        self.traffic.on_answered(took);
        self.last_code.store(code, Ordering::Relaxed);
        self.last_xid.store(xid, Ordering::Relaxed);
        self.last_zxid.store(zxid, Ordering::Relaxed);
    }

    /// Type, xid and zxid of the last request answered.
    pub(crate) fn last(&self) -> (i32, i32, i64) {
        (
            self.last_code.load(Ordering::Relaxed),
            self.last_xid.load(Ordering::Relaxed),
            self.last_zxid.load(Ordering::Relaxed),
        )
    }
}

/// Connections with a session, by their id.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<BTreeMap<u64, Arc<ConnectionRecord>>>,
}

impl Connections {
    pub(crate) fn opened(&self, connection_id: u64, record: &Arc<ConnectionRecord>) {
        self.open.lock().insert(connection_id, record.clone());
    }

    pub(crate) fn closed(&self, connection_id: u64) {
        self.open.lock().remove(&connection_id);
    }

    pub(crate) fn get(&self, connection_id: u64) -> Option<Arc<ConnectionRecord>> {
        self.open.lock().get(&connection_id).cloned()
    }

    /// All, in the order in which they were opened.
    pub(crate) fn all(&self) -> Vec<Arc<ConnectionRecord>> {
        self.open.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_in_milliseconds_until_reset() {
        let traffic = Traffic::default();
        assert_eq!(traffic.latencies(), Latencies::default());
        for took_us in [1_500, 2_500, 9_999] {
            traffic.on_received();
            traffic.on_answered(Duration::from_micros(took_us));
        }
        let expected = Latencies { min_ms: 1, avg_ms: 4.6663, max_ms: 9 };
        assert_eq!(traffic.latencies(), expected);
        assert_eq!((traffic.received(), traffic.sent()), (3, 3));
        traffic.reset();
        assert_eq!(traffic.latencies(), Latencies::default());
        assert_eq!(traffic.sent(), 0);
    }
}
