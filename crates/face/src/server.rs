//! Accepting connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proteus_env::net::{TcpListener, TcpStream};
use proteus_env::task;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::{Connection, ConnectionError, Face, Metrics, Shutdown};

/// Connections a face holds at once by default: the idle sessions of a large fleet.
pub const CONNECTIONS_MAX_DEFAULT: usize = 20_000;

/// How long connections may finish their request under way once the node stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// How long to wait when the operating system has no socket for us.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Limits and surroundings of a face.
#[derive(Clone)]
pub struct ServeOptions {
    /// Connections open at once; one more is refused.
    pub connections_max: usize,
    /// Where to count.
    pub metrics: Metrics,
}

/// A face that accepts connections.
pub struct ServingFace {
    /// Where it listens.
    pub address: SocketAddr,
    accepting: task::JoinHandle<()>,
}

impl ServingFace {
    /// Waits until all its connections have ended, after the node was asked to stop.
    pub async fn stopped(self) {
        if let Err(error) = self.accepting.await {
            warn!(%error, "a face ended abnormally");
        }
    }
}

/// Accepts connections of `face` from `listener` until `shutdown`.
///
/// # Errors
/// If the listener has no address, which means that it is no longer a socket.
pub fn serve(
    face: Arc<dyn Face>,
    listener: TcpListener,
    options: ServeOptions,
    shutdown: Shutdown,
) -> std::io::Result<ServingFace> {
    let address = listener.local_addr()?;
    let accepting = task::spawn(accept(face, listener, options, shutdown));
    Ok(ServingFace { address, accepting })
}

async fn accept(
    face: Arc<dyn Face>,
    listener: TcpListener,
    options: ServeOptions,
    mut shutdown: Shutdown,
) {
    let permits = u32::try_from(options.connections_max).unwrap_or(u32::MAX);
    let budget = Arc::new(Semaphore::new(permits as usize));
    let mut connection_id = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(face = face.name(), %error, "cannot accept a connection; raise the limit of open files if this repeats");
                task::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = budget.clone().try_acquire_owned() else {
            warn!(face = face.name(), %peer, connections_max = options.connections_max, "connection refused: the face's connection budget is spent");
            refuse(stream, face.budget_refusal());
            continue;
        };
        connection_id += 1;
        let connection = match open(stream, peer, connection_id, shutdown.clone()) {
            Ok(connection) => connection,
            Err(error) => {
                debug!(face = face.name(), %peer, %error, "the client left before it was served");
                continue;
            }
        };
        let (face, metrics) = (face.clone(), options.metrics.clone());
        task::spawn(async move {
            run(face, connection, &metrics).await;
            drop(permit);
        });
    }
    drop(listener);
    let all_closed = budget.acquire_many(permits);
    if task::timeout(SHUTDOWN_GRACE, all_closed).await.is_none() {
        info!(face = face.name(), "closing connections that are still busy");
    }
}

fn open(
    stream: TcpStream,
    peer: SocketAddr,
    connection_id: u64,
    shutdown: Shutdown,
) -> std::io::Result<Connection> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    Ok(Connection { stream, peer, local, connection_id, shutdown })
}

async fn run(face: Arc<dyn Face>, connection: Connection, metrics: &Metrics) {
    let (name, peer) = (face.name(), connection.peer);
    metrics.connection_opened(name);
    // In a task of its own, so that a fault in one connection cannot take the count with it.
    let ended = task::spawn(face.serve(connection)).await;
    let failed = match ended {
        Ok(Ok(())) => false,
        Ok(Err(ConnectionError::Io(error))) => {
            debug!(face = name, %peer, reason = %error, "connection lost");
            true
        }
        Ok(Err(error)) => {
            warn!(face = name, %peer, reason = %error, "connection closed");
            true
        }
        Err(fault) => {
            tracing::error!(face = name, %peer, %fault, "a fault in the face closed this connection; please report it");
            true
        }
    };
    metrics.connection_closed(name, failed);
}

fn refuse(mut stream: TcpStream, refusal: &'static [u8]) {
    task::spawn(async move {
        // The client is turned away either way; whether it reads the reason is its own affair.
        let _ = stream.write_all(refusal).await;
        let _ = stream.shutdown().await;
    });
}
