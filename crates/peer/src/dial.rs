//! Asking other nodes.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use proteus_env::net;
use proteus_env::task;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::frame::{Frame, Kind};
use crate::handshake::{self, HandshakeError, VERSIONS};
use crate::tls::{Connection, Credentials};

/// How long connecting and the handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node that could not be reached is not tried again.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// Messages that wait to be written to one node; one more is refused.
const QUEUE_MAX: usize = 4096;

/// Written at once.
const WRITE_BYTES: usize = 256 * 1024;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The node cannot be reached, or the connection broke: whether it acted is not known.
    #[error("{0}")]
    Unreachable(String),
    /// The node cannot be reached, and was not sent the message.
    #[error("{0}")]
    NotSent(String),
    /// The node was reached, and one of the two does not accept the other: its secret, its version, or
    /// that it is no node. Asking again does not help.
    #[error("{0}")]
    NotAdmitted(String),
    /// The node says that it does not take the message.
    #[error("{0}")]
    Refused(String),
}

/// An answer to come.
pub type Calling = Pin<Box<dyn Future<Output = Result<Bytes, CallError>> + Send>>;

type Reply = oneshot::Sender<Result<Bytes, CallError>>;

/// What one connection is asked to send, and who waits.
type Requests = mpsc::Sender<(Bytes, Reply)>;

/// Holds a connection to each node that was asked. Clones share them.
#[derive(Clone)]
pub struct Dialer {
    credentials: Credentials,
    connections: Arc<Mutex<HashMap<String, Requests>>>,
    /// Those that were last found to be out of reach, so that it is said once.
    lost: Arc<Mutex<HashSet<String>>>,
}

impl Dialer {
    /// A dialer without connections.
    pub fn new(credentials: Credentials) -> Dialer {
        Dialer { credentials, connections: Arc::default(), lost: Arc::default() }
    }

    /// Asks the node at `address` (`host:port`). The message is on its way, behind those before it,
    /// when this returns.
    pub fn call(&self, address: &str, message: Bytes) -> Calling {
        let (reply, answer) = oneshot::channel();
        let queue = {
            let mut connections = self.connections.lock();
            match connections.get(address).filter(|queue| !queue.is_closed()) {
                Some(queue) => queue.clone(),
                None => {
                    let (queue, requests) = mpsc::channel(QUEUE_MAX);
                    connections.insert(address.to_owned(), queue.clone());
                    let (dialer, address) = (self.clone(), address.to_owned());
                    task::spawn(async move { dialer.connection(&address, requests).await });
                    queue
                }
            }
        };
        if queue.try_send((message, reply)).is_err() {
            let reason = format!("too much waits to be sent to {address}, or it cannot be reached");
            return Box::pin(std::future::ready(Err(CallError::NotSent(reason))));
        }
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                Err(CallError::Unreachable("the connection broke before the answer".to_owned()))
            })
        })
    }
}

impl Dialer {
    /// Lives as long as the connection does; whoever waits then learns that it broke.
    async fn connection(&self, address: &str, mut requests: mpsc::Receiver<(Bytes, Reply)>) {
        let failure =
            match task::timeout(CONNECT_TIMEOUT, connect(address, &self.credentials)).await {
                Some(Ok(stream)) => {
                    info!(address, "connected to a node");
                    self.lost.lock().remove(address);
                    let (reading, writing) = stream.halves();
                    let waiting = Arc::new(Mutex::new(HashMap::new()));
                    let ended = tokio::select! {
                        ended = read_answers(reading, &waiting) => ended,
                        ended = write_requests(writing, &mut requests, &waiting) => ended,
                    };
                    requests.close();
                    let reason = ended.err().map_or_else(|| "closed".to_owned(), |e| e.to_string());
                    debug!(address, reason, "a node's connection ended");
                    return;
                }
                Some(Err(failure)) => failure,
                None => CallError::Unreachable("no answer in time".to_owned()),
            };
        if self.lost.lock().insert(address.to_owned()) {
            warn!(address, %failure, "a node cannot be reached; it is tried again");
        }
        let error = match failure {
            CallError::NotAdmitted(reason) => {
                CallError::NotAdmitted(format!("{address}: {reason}"))
            }
            other => CallError::NotSent(format!("{address}: {other}")),
        };
        // Those who come meanwhile learn the same at once; nobody dials in a loop.
        let refusing = async {
            while let Some((_, reply)) = requests.recv().await {
                let _ = reply.send(Err(error.clone()));
            }
        };
        task::timeout(REDIAL_PAUSE, refusing).await;
        requests.close();
        while let Some((_, reply)) = requests.recv().await {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

async fn connect(
    address: &str,
    credentials: &Credentials,
) -> Result<Box<dyn Connection>, CallError> {
    let unreachable = |reason: String| CallError::Unreachable(reason);
    let stream = net::connect_to_host(address).await.map_err(|e| unreachable(e.to_string()))?;
    let mut stream = credentials.connect(stream).await.map_err(unreachable)?;
    match handshake::dial(&mut stream, &credentials.secret, VERSIONS).await {
        Ok(_) => Ok(stream),
        Err(HandshakeError::Io(error)) => Err(unreachable(error.to_string())),
        Err(refusal) => Err(CallError::NotAdmitted(refusal.to_string())),
    }
}

type Waiting = Arc<Mutex<HashMap<u64, Reply>>>;

async fn write_requests(
    mut stream: impl AsyncWrite + Unpin,
    requests: &mut mpsc::Receiver<(Bytes, Reply)>,
    waiting: &Waiting,
) -> io::Result<()> {
    let mut next_id = 0;
    let mut buffer = BytesMut::new();
    while let Some(first) = requests.recv().await {
        let mut next = Some(first);
        while let Some((body, reply)) = next {
            waiting.lock().insert(next_id, reply);
            Frame { kind: Kind::Request, id: next_id, body }.encode(&mut buffer);
            next_id += 1;
            next = if buffer.len() < WRITE_BYTES { requests.try_recv().ok() } else { None };
        }
        stream.write_all_buf(&mut buffer).await?;
        // Those who stopped waiting need not be remembered.
        if waiting.lock().len() > QUEUE_MAX {
            waiting.lock().retain(|_, reply| !reply.is_closed());
        }
    }
    Ok(())
}

async fn read_answers(mut stream: impl AsyncRead + Unpin, waiting: &Waiting) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        while let Some(frame) = Frame::decode(&mut buffer).map_err(invalid)? {
            let Some(reply) = waiting.lock().remove(&frame.id) else { continue };
            let result = match frame.kind {
                Kind::Answer => Ok(frame.body),
                Kind::Refusal | Kind::Request => {
                    Err(CallError::Refused(String::from_utf8_lossy(&frame.body).into_owned()))
                }
            };
            // Who stopped waiting needs no answer.
            let _ = reply.send(result);
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
