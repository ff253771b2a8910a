//! Serves the face over a kernel in memory, to try real clients against it:
//! `cargo run -p proteus-face-zookeeper --example serve -- 127.0.0.1:2181`

use std::net::SocketAddr;
use std::sync::Arc;

use proteus_env::{Clock, SystemClock, net};
use proteus_face::{
    Accounts, CONNECTIONS_MAX_DEFAULT, Face, Metrics, ServeOptions, ShutdownHandle, serve,
};
use proteus_face_zookeeper::{ZookeeperFace, ZookeeperOptions};
use proteus_testkit::memory_kernel;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    let listener = net::listen(address.parse::<SocketAddr>()?)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::default();
    let face: Arc<dyn Face> = Arc::new(ZookeeperFace::new(
        memory_kernel(),
        clock,
        &metrics,
        Accounts::default(),
        ZookeeperOptions::default(),
    ));
    let (_handle, shutdown) = ShutdownHandle::new();
    let options = ServeOptions { connections_max: CONNECTIONS_MAX_DEFAULT, metrics };
    let serving = serve(face.clone(), listener, options, shutdown)?;
    println!("{}", face.try_it(serving.address));
    serving.stopped().await;
    Ok(())
}
