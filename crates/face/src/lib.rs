//! What every face shares, so that a face is only a codec, a session and a translation.
//!
//! A face implements [`Face`]; [`serve`] accepts its connections within a budget, runs each in a
//! task of its own, logs why it ended, and stops them on [`Shutdown`]. A face knows nothing of its
//! neighbours.
//!
//! Reading order: [`Face`], [`Connection`], [`serve`], [`Accounts`], [`Metrics`].

mod accounts;
mod metrics;
pub mod scram;
mod server;
mod shutdown;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use proteus_env::net::TcpStream;

pub use accounts::{Accounts, WrongPassword};
pub use metrics::{Meter, Metrics};
pub use server::{CONNECTIONS_MAX_DEFAULT, ServeOptions, ServingFace, serve};
pub use shutdown::{Shutdown, ShutdownHandle};

/// One accepted connection.
pub struct Connection {
    /// The socket; Nagle's delay is off.
    pub stream: TcpStream,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address the client reached us at: what to advertise to it.
    pub local: SocketAddr,
    /// Unique within this face and run of the node.
    pub connection_id: u64,
    /// Resolves when the node stops; finish the request under way, then return.
    pub shutdown: Shutdown,
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

/// The future that serves one connection.
pub type Serving = Pin<Box<dyn Future<Output = Result<(), ConnectionError>> + Send>>;

/// A protocol's server side: translates between its clients and the kernel, and keeps nothing that
/// must survive the process.
pub trait Face: Send + Sync + 'static {
    /// The protocol's name, as in configuration, metrics and logs.
    fn name(&self) -> &'static str;

    /// The protocol's standard port.
    fn standard_port(&self) -> u16;

    /// One line for a terminal that shows the face at work at `address`.
    fn try_it(&self, address: SocketAddr) -> String;

    /// Whether the face can check a client's password. One that cannot is not opened when the node
    /// has accounts.
    fn authenticates(&self) -> bool;

    /// What to send to a client that is refused because the connection budget is spent.
    fn budget_refusal(&self) -> &'static [u8] {
        b""
    }

    /// Serves one connection until its client closes it, it fails, or the node stops.
    fn serve(self: Arc<Self>, connection: Connection) -> Serving;
}
