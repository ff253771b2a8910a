//! What every node of a cluster knows of each other one.

use serde::{Deserialize, Serialize};

/// A node as the cluster's membership names it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// Where other nodes reach it: `host:port`.
    pub peer_address: String,
    /// The host at which clients reach its faces.
    pub client_host: String,
    /// What is added to every face's standard port.
    pub port_offset: u16,
    /// Drawn when its data directory was founded, so that a node that was removed cannot come back
    /// under a number that another has now.
    pub incarnation: u64,
    /// An operator has drained it: it is not to vote, whoever else is missing.
    pub follows_only: bool,
    /// A number that was given to a node, perhaps one that is gone: none up to it may be given again.
    pub greatest_number: u64,
}
