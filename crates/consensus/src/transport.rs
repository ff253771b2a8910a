//! What the group asks of whoever carries its messages.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use proteus_types::{Member, NodeId};

/// Why a message was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// The node cannot be reached now, or did not answer in time. Whether it acted is not known.
    #[error("{0}")]
    Unreachable(String),
    /// The node cannot be reached now, and the message was not sent to it.
    #[error("{0}")]
    NotSent(String),
    /// The node answered that it does not take the message.
    #[error("{0}")]
    Refused(String),
}

/// An answer to come.
pub type Call = Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send>>;

/// Carries a group's messages to other nodes. The receiver hands each to its own group's
/// [`crate::Group::answer`] and carries the result back.
pub trait Transport: Send + Sync + 'static {
    /// Sends `message` to a node. It may be lost, delayed, reordered or delivered twice.
    fn call(&self, to: NodeId, member: &Member, message: Bytes) -> Call;
}

/// Reaches nobody: for groups of one voter, and tests.
#[derive(Debug, Clone, Copy)]
pub struct Unconnected;

impl Transport for Unconnected {
    fn call(&self, to: NodeId, _member: &Member, _message: Bytes) -> Call {
        let reason = format!("{to} cannot be reached: this node speaks to no other");
        Box::pin(std::future::ready(Err(TransportError::Unreachable(reason))))
    }
}
