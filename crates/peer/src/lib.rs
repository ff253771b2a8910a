//! Connections between the nodes of a cluster: requests and answers over TCP, for those who know the
//! cluster's secret.
//!
//! ```text
//!   Dialer::call ─▶ one connection per address ─▶ Acceptor ─▶ Handler::handle, in order of arrival
//!          answer ◀──────────────────────────────────────────── when its future is done
//! ```
//! It knows no consensus and no shard: a message is bytes. The secret proves who may speak; it does not
//! hide what is said, so without TLS the network between nodes must be a trusted one.
//!
//! Reading order: [`Secret`], [`Credentials`], [`frame`], [`Dialer`], [`serve`].

mod accept;
mod dial;
pub mod frame;
mod handshake;
mod tls;

pub use accept::{Answering, Handler, serve};
pub use dial::{CallError, Calling, Dialer};
pub use handshake::{HandshakeError, Secret};
pub use tls::{Credentials, PeerTls};
