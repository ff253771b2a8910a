//! Accepting connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proteus_env::net::{TcpListener, TcpStream};
use proteus_env::task;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::{Connection, ConnectionError, Face, Metrics, Shutdown, Tls, Upgrade};

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

/// What protects the bytes of a listener's connections.
#[derive(Clone)]
pub enum Security {
    /// Nothing.
    Plain,
    /// Encryption from the first byte.
    Encrypted(Tls),
    /// Encryption that the client asks for in the protocol's own way.
    Negotiated {
        /// What it gets.
        tls: Tls,
        /// Whether one that does not ask is turned away.
        is_required: bool,
    },
}

/// A socket that accepts connections of a face.
pub struct Listening {
    /// The socket.
    pub listener: TcpListener,
    /// What protects its connections.
    pub security: Security,
}

/// A face that accepts connections.
pub struct ServingFace {
    /// Where it listens: the first of its listeners.
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

/// Accepts connections of `face` from all of `listening` until `shutdown`.
///
/// # Errors
/// If there is no listener, or one has no address, which means that it is no longer a socket.
pub fn serve(
    face: Arc<dyn Face>,
    listening: Vec<Listening>,
    options: ServeOptions,
    shutdown: Shutdown,
) -> std::io::Result<ServingFace> {
    let first =
        listening.first().ok_or_else(|| std::io::Error::other("a face without listener"))?;
    let address = first.listener.local_addr()?;
    let permits = u32::try_from(options.connections_max).unwrap_or(u32::MAX);
    let reception = Arc::new(Reception {
        face,
        budget: Arc::new(Semaphore::new(permits as usize)),
        options,
        next_connection_id: AtomicU64::new(1),
    });
    let accepting = task::spawn(async move {
        let tasks: Vec<_> = listening
            .into_iter()
            .map(|listening| task::spawn(accept(reception.clone(), listening, shutdown.clone())))
            .collect();
        for accepting in tasks {
            if let Err(error) = accepting.await {
                warn!(%error, "a listener ended abnormally");
            }
        }
        let all_closed = reception.budget.acquire_many(permits);
        if task::timeout(SHUTDOWN_GRACE, all_closed).await.is_none() {
            info!(face = reception.face.name(), "closing connections that are still busy");
        }
    });
    Ok(ServingFace { address, accepting })
}

/// What all listeners of a face share.
struct Reception {
    face: Arc<dyn Face>,
    options: ServeOptions,
    budget: Arc<Semaphore>,
    next_connection_id: AtomicU64,
}

async fn accept(reception: Arc<Reception>, listening: Listening, mut shutdown: Shutdown) {
    let Listening { listener, security } = listening;
    let Reception { face, options, .. } = &*reception;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(face = face.name(), %error, "cannot accept a connection; raise the limit of open files if this repeats");
                task::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = reception.budget.clone().try_acquire_owned() else {
            warn!(face = face.name(), %peer, connections_max = options.connections_max, "connection refused: the face's connection budget is spent");
            // In words of the protocol, which an encrypting client would take for an alert.
            let is_encrypted = matches!(security, Security::Encrypted(_));
            refuse(stream, if is_encrypted { b"" } else { face.budget_refusal() });
            continue;
        };
        let (reception, security, shutdown) =
            (reception.clone(), security.clone(), shutdown.clone());
        task::spawn(async move {
            reception.run(stream, peer, security, shutdown).await;
            drop(permit);
        });
    }
}

impl Reception {
    async fn run(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        security: Security,
        shutdown: Shutdown,
    ) {
        let name = self.face.name();
        self.options.metrics.connection_opened(name);
        let failed = match self.open(stream, peer, security, shutdown).await {
            Ok(connection) => serve_one(self.face.clone(), connection).await,
            Err(error) => {
                debug!(face = name, %peer, reason = %error, "no connection came about");
                true
            }
        };
        self.options.metrics.connection_closed(name, failed);
    }

    async fn open(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        security: Security,
        mut shutdown: Shutdown,
    ) -> Result<Connection, ConnectionError> {
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let connection_id = self.next_connection_id.fetch_add(1, Ordering::Relaxed);
        let (stream, upgrade) = match security {
            Security::Plain => (stream.into(), None),
            Security::Encrypted(tls) => {
                let encrypted = tokio::select! {
                    encrypted = tls.accept(stream) => encrypted?,
                    () = shutdown.requested() => {
                        return Err(ConnectionError::Limit("the node stops".to_owned()));
                    }
                };
                (encrypted, None)
            }
            Security::Negotiated { tls, is_required } => {
                (stream.into(), Some(Upgrade { tls, is_required }))
            }
        };
        Ok(Connection { stream, upgrade, peer, local, connection_id, shutdown })
    }
}

/// Serves a connection to its end; true if it failed.
async fn serve_one(face: Arc<dyn Face>, connection: Connection) -> bool {
    let (name, peer) = (face.name(), connection.peer);
    // In a task of its own, so that a fault in one connection cannot take the count with it.
    let ended = task::spawn(face.serve(connection)).await;
    match ended {
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
    }
}

fn refuse(mut stream: TcpStream, refusal: &'static [u8]) {
    task::spawn(async move {
        // The client is turned away either way; whether it reads the reason is its own affair.
        let _ = stream.write_all(refusal).await;
        let _ = stream.shutdown().await;
    });
}
