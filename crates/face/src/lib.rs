//! What every face shares, so that a face is only a codec, a session and a translation.
//!
//! A face implements [`Face`]; [`serve`] accepts its connections within a budget, runs each in a
//! task of its own, logs why it ended, and stops them on [`Shutdown`]. A face knows nothing of its
//! neighbours.
//!
//! Reading order: [`Face`], [`Connection`], [`Stream`], [`serve`], [`Tls`], [`Accounts`], [`Metrics`].

mod accounts;
mod metrics;
pub mod scram;
mod server;
mod shutdown;
mod stream;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

pub use accounts::{Accounts, StoredAccounts, WrongPassword};
pub use metrics::{Meter, Metrics};
pub use server::{CONNECTIONS_MAX_DEFAULT, Listening, Security, ServeOptions, ServingFace, serve};
pub use shutdown::{Shutdown, ShutdownHandle};
pub use stream::{BorrowedReadHalf, BorrowedWriteHalf, ReadHalf, Stream, WriteHalf};
pub use tls::{ClientCertificate, Tls, TlsError};

/// One accepted connection.
pub struct Connection {
    /// The client's bytes; Nagle's delay is off.
    pub stream: Stream,
    /// What a client that asks for encryption within the protocol is given; see
    /// [`Connection::encrypt`].
    pub upgrade: Option<Upgrade>,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address the client reached us at: what to advertise to it.
    pub local: SocketAddr,
    /// Unique within this face and run of the node.
    pub connection_id: u64,
    /// Resolves when the node stops; finish the request under way, then return.
    pub shutdown: Shutdown,
}

/// Encryption that a protocol negotiates on its standard port.
#[derive(Clone)]
pub struct Upgrade {
    pub(crate) tls: Tls,
    /// Whether a client that does not ask for it is turned away.
    pub is_required: bool,
}

impl Connection {
    /// Encrypts the connection, after the protocol's own answer that the client may begin. Nothing
    /// that the client sent after its request may have been read.
    ///
    /// # Errors
    /// If the client does not agree on keys, or the connection is encrypted already.
    pub async fn encrypt(self) -> Result<Connection, ConnectionError> {
        let Connection { stream, upgrade, peer, local, connection_id, shutdown } = self;
        let (Some(socket), Some(offered)) = (stream.into_plain(), &upgrade) else {
            return Err(ConnectionError::Malformed("TLS was asked for twice".to_owned()));
        };
        let stream = offered.tls.accept(socket).await?;
        Ok(Connection { stream, upgrade, peer, local, connection_id, shutdown })
    }
}

/// Why a connection ended before its client closed it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The network failed, or the client went away in the middle of a request.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The client sent what is not this protocol, or too much of it.
    #[error("malformed input: {0}")]
    Malformed(String),
    /// The client broke a limit of the face: idle time, unread output.
    #[error("limit reached: {0}")]
    Limit(String),
}

/// Questions that operators ask over HTTP about a face, as ZooKeeper's AdminServer has them.
pub trait AdminCommands: Send + Sync + 'static {
    /// Names of all commands.
    fn names(&self) -> Vec<&'static str>;

    /// The answer to a command, a JSON object; `None` if there is no such command.
    fn run(&self, name: &str) -> Option<String>;
}

/// The future that serves one connection.
pub type Serving = Pin<Box<dyn Future<Output = Result<(), ConnectionError>> + Send>>;

/// A protocol's server side: translates between its clients and the kernel, and keeps nothing that
/// must survive the process.
pub trait Face: Send + Sync + 'static {
    /// The protocol's name, as in configuration, metrics and logs.
    fn name(&self) -> &'static str;

    /// The protocol's standard port.
    fn standard_port(&self) -> u16;

    /// The port on which the protocol's clients expect encryption from the first byte. `None` where
    /// the protocol negotiates it on its standard port.
    fn tls_port(&self) -> Option<u16>;

    /// One line for a terminal that shows the face at work at `address`.
    fn try_it(&self, address: SocketAddr) -> String;

    /// Whether the face can check a client's password. One that cannot is not opened when the node
    /// has accounts.
    fn authenticates(&self) -> bool;

    /// What to send to a client that is refused because the connection budget is spent.
    fn budget_refusal(&self) -> &'static [u8] {
        b""
    }

    /// Whether its requests may keep a processor busy for long, so that they had better have threads that
    /// nobody else waits for.
    fn computes(&self) -> bool {
        false
    }

    /// Serves one connection until its client closes it, it fails, or the node stops.
    fn serve(self: Arc<Self>, connection: Connection) -> Serving;
}
