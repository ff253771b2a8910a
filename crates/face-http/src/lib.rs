//! The HTTP face: `/healthz`, `/readyz` and `/metrics` for probes and Prometheus.
//!
//! Healthy means that the process answers; ready means that it serves reads, which it stops to do
//! when its disk or state has failed. Other faces may add commands for operators.
//!
//! And the registry of schemas ([`RegistryFace`]), on a port of its own.

mod registry;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use proteus_face::{AdminCommands, Connection, ConnectionError, Face, Metrics, Serving};
use proteus_kernel_api::Kernel;

pub use registry::RegistryFace;

/// The content type of Prometheus' text format as `prometheus-client` writes it.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a client is told for whom there is no room.
const BUDGET_REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The HTTP server side.
pub struct HttpFace {
    router: Router,
}

#[derive(Clone)]
struct Shared {
    kernel: Arc<dyn Kernel>,
    metrics: Metrics,
    /// Brings figures that are sampled up to date.
    sample: Arc<dyn Fn() + Send + Sync>,
}

impl HttpFace {
    /// A face over `kernel`; `sample` is called before metrics are rendered.
    pub fn new(
        kernel: Arc<dyn Kernel>,
        metrics: Metrics,
        sample: Arc<dyn Fn() + Send + Sync>,
    ) -> HttpFace {
        let router = Router::new()
            .route("/", get(index))
            .route("/healthz", get(healthy))
            .route("/readyz", get(ready))
            .route("/metrics", get(render_metrics))
            .fallback(not_found)
            .with_state(Shared { kernel, metrics, sample });
        HttpFace { router }
    }

    /// Answers `/commands` and `/commands/NAME` as ZooKeeper's AdminServer does on this port.
    #[must_use]
    pub fn with_commands(self, commands: Arc<dyn AdminCommands>) -> HttpFace {
        let commands = Router::new()
            .route("/commands", get(list_commands))
            .route("/commands/", get(list_commands))
            .route("/commands/{name}", get(run_command))
            .with_state(commands);
        HttpFace { router: self.router.merge(commands) }
    }
}

async fn list_commands(State(commands): State<Arc<dyn AdminCommands>>) -> Html<String> {
    let links = commands.names().into_iter();
    Html(links.map(|name| format!("<a href=\"/commands/{name}\">{name}</a>\n<br/>\n")).collect())
}

async fn run_command(
    State(commands): State<Arc<dyn AdminCommands>>,
    Path(name): Path<String>,
) -> impl IntoResponse {
    match commands.run(&name) {
        Some(json) => Ok(([(header::CONTENT_TYPE, "application/json")], json)),
        None => Err((StatusCode::NOT_FOUND, "no such command; see /commands\n")),
    }
}

async fn index() -> &'static str {
    "Proteus\n\n/healthz  whether the process answers\n/readyz   whether it serves\n/metrics  figures for Prometheus\n/commands what ZooKeeper's AdminServer tells\n"
}

async fn healthy() -> &'static str {
    "ok\n"
}

async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    match shared.kernel.read_dyn(&mut |_| {}) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

async fn render_metrics(State(shared): State<Shared>) -> impl IntoResponse {
    (shared.sample)();
    match shared.metrics.render() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, METRICS_TYPE)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))),
    }
}

async fn not_found() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, "not found; see / for what there is\n")
}

impl Face for HttpFace {
    fn name(&self) -> &'static str {
        "http"
    }

    fn standard_port(&self) -> u16 {
        8080
    }

    fn tls_port(&self) -> Option<u16> {
        Some(8443)
    }

    fn try_it(&self, address: SocketAddr) -> String {
        format!("curl http://{address}/metrics")
    }

    /// Nothing here is a client's data, so nothing is asked for.
    fn authenticates(&self) -> bool {
        true
    }

    fn budget_refusal(&self) -> &'static [u8] {
        BUDGET_REFUSAL
    }

    fn serve(self: Arc<Self>, connection: Connection) -> Serving {
        serve_router(self.router.clone(), connection)
    }
}

/// Answers the requests of a connection.
fn serve_router(router: Router, connection: Connection) -> Serving {
    let service = TowerToHyperService::new(router);
    Box::pin(async move {
        let Connection { stream, mut shutdown, .. } = connection;
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new());
        let serving = builder.serve_connection(TokioIo::new(stream), service);
        let mut serving = std::pin::pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = shutdown.requested() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        ended.map_err(|error| ConnectionError::Malformed(error.to_string()))
    })
}
