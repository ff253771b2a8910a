//! Counters and histograms, one registry for all faces.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the latency buckets, in seconds: 50 µs to 3 s.
const LATENCY_BUCKETS_S: [f64; 12] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 3.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    face: &'static str,
    request: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaceLabels {
    face: &'static str,
}

/// What the node counts. Clones share it.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<RequestLabels, Counter>,
    errors: Family<RequestLabels, Counter>,
    seconds: Family<RequestLabels, Histogram>,
    connections_open: Family<FaceLabels, Gauge>,
    connections: Family<FaceLabels, Counter>,
    connections_failed: Family<FaceLabels, Counter>,
}

/// The counters of one kind of request. A face looks each up once, not per request.
#[derive(Clone)]
pub struct Meter {
    requests: Counter,
    errors: Counter,
    seconds: Histogram,
}

impl Meter {
    /// Counts one request answered after `took`.
    pub fn observe(&self, took: Duration, is_error: bool) {
        self.count(1, is_error);
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts requests whose latency is observed elsewhere, as in a pipeline.
    pub fn count(&self, requests: u64, is_error: bool) {
        self.requests.inc_by(requests);
        if is_error {
            self.errors.inc_by(requests);
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("proteus");
        let requests = Family::default();
        registry.register("requests", "Requests answered", requests.clone());
        let errors = Family::default();
        registry.register("request_errors", "Requests answered with an error", errors.clone());
        let seconds = Family::new_with_constructor(
            (|| Histogram::new(LATENCY_BUCKETS_S)) as fn() -> Histogram,
        );
        registry.register("request_seconds", "Time from request to answer", seconds.clone());
        let connections_open = Family::default();
        registry.register("connections_open", "Connections open now", connections_open.clone());
        let connections = Family::default();
        registry.register("connections", "Connections accepted", connections.clone());
        let connections_failed = Family::default();
        registry.register(
            "connections_failed",
            "Connections ended by malformed input, a limit or the network",
            connections_failed.clone(),
        );
        Metrics {
            registry: Arc::new(Mutex::new(registry)),
            requests,
            errors,
            seconds: seconds as Family<RequestLabels, Histogram>,
            connections_open,
            connections,
            connections_failed,
        }
    }
}

impl Metrics {
    /// The meter of one kind of request of one face.
    pub fn meter(&self, face: &'static str, request: &'static str) -> Meter {
        let labels = RequestLabels { face, request };
        Meter {
            requests: self.requests.get_or_create(&labels).clone(),
            errors: self.errors.get_or_create(&labels).clone(),
            seconds: self.seconds.get_or_create(&labels).clone(),
        }
    }

    /// Registers a figure whose owner keeps it up to date.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge<u64, AtomicU64> {
        let gauge = Gauge::<u64, AtomicU64>::default();
        self.registry.lock().register(name, help, gauge.clone());
        gauge
    }

    /// All figures in Prometheus' text format.
    ///
    /// # Errors
    /// If formatting fails, which only a metric with a broken label can cause.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }

    pub(crate) fn connection_opened(&self, face: &'static str) {
        let labels = FaceLabels { face };
        self.connections.get_or_create(&labels).inc();
        self.connections_open.get_or_create(&labels).inc();
    }

    pub(crate) fn connection_closed(&self, face: &'static str, failed: bool) {
        let labels = FaceLabels { face };
        self.connections_open.get_or_create(&labels).dec();
        if failed {
            self.connections_failed.get_or_create(&labels).inc();
        }
    }
}
