//! Serves the face over a kernel in memory: `cargo run -p proteus-face-postgres --example serve 5433`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use proteus_env::{SystemClock, net};
use proteus_face::{Accounts, Face, Metrics, ServeOptions, ShutdownHandle, serve};
use proteus_face_postgres::{PostgresFace, PostgresOptions};
use proteus_testkit::memory_kernel;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).map_or(Ok(5433), |port| port.parse())?;
    let metrics = Metrics::default();
    let face = PostgresFace::new(
        memory_kernel(),
        Arc::new(SystemClock::new()),
        &metrics,
        Accounts::default(),
        &PostgresOptions::default(),
    )?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eprintln!("{}", face.try_it(address));
    let (_handle, shutdown) = ShutdownHandle::new();
    let options = ServeOptions { connections_max: 1000, metrics };
    serve(Arc::new(face), net::listen(address)?, options, shutdown)?.stopped().await;
    Ok(())
}
