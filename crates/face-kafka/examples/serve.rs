//! Serves the Kafka protocol over a kernel in memory, for trying clients by hand:
//! `cargo run -p proteus-face-kafka --example serve -- 127.0.0.1:9092`.

use std::net::SocketAddr;
use std::sync::Arc;

use proteus_env::{Clock, SystemClock, net};
use proteus_face::{
    Accounts, CONNECTIONS_MAX_DEFAULT, Metrics, ServeOptions, ShutdownHandle, serve,
};
use proteus_face_kafka::{KafkaFace, KafkaOptions};
use proteus_kernel_api::MemoryKernel;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let address: SocketAddr = address.parse()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::default();
    let face = KafkaFace::new(
        Arc::new(MemoryKernel::new(clock.clone())),
        clock,
        &metrics,
        Accounts::default(),
        KafkaOptions::default(),
    );
    let (_handle, shutdown) = ShutdownHandle::new();
    let options = ServeOptions { connections_max: CONNECTIONS_MAX_DEFAULT, metrics };
    let serving = serve(face, net::listen(address)?, options, shutdown)?;
    println!("listening on {}", serving.address);
    serving.stopped().await;
    Ok(())
}
