//! What a shard asks of whoever connects this node to others.

use bytes::Bytes;
use proteus_consensus::{Call, Transport};
use proteus_types::{Member, NodeId, ShardId};
use std::sync::Arc;

/// What of a shard a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Its consensus group.
    Consensus,
    /// Its proposer, which takes proposals from nodes that do not lead.
    Proposer,
    /// Its comparison of replicas' states.
    Digests,
    /// Any of its replicas, for nodes that have none.
    Away,
    /// Its leader, to finish what was tried of a commit over several shards.
    Commits,
}

/// Where in a node a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The shard.
    pub shard: ShardId,
    /// What of it.
    pub service: Service,
}

/// Connections to other nodes. A message arrives at the receiver's [`crate::Shard::answer`].
///
/// Messages of one sender to one receiver are handed over in the order of the calls as long as the
/// connection lasts; any may be lost, and one that was not answered may have been delivered.
pub trait Links: Send + Sync + 'static {
    /// Sends `message` on its way before this returns; the answer is awaited.
    fn call(&self, to: NodeId, member: &Member, route: Route, message: Bytes) -> Call;
}

/// The links as one service of one shard sees them.
pub(crate) struct ServiceLinks {
    pub(crate) links: Arc<dyn Links>,
    pub(crate) route: Route,
}

impl Transport for ServiceLinks {
    fn call(&self, to: NodeId, member: &Member, message: Bytes) -> Call {
        self.links.call(to, member, self.route, message)
    }
}

/// Connects to nobody: for a node by itself.
#[derive(Debug, Clone, Copy)]
pub struct Alone;

impl Links for Alone {
    fn call(&self, to: NodeId, member: &Member, _route: Route, message: Bytes) -> Call {
        proteus_consensus::Unconnected.call(to, member, message)
    }
}
