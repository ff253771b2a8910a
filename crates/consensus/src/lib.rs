//! The consensus library, wired to the node's log and to a replica's state machine.
//!
//! [`Group`] is one shard's consensus group as the kernel drives it; [`Replica`] is what the kernel
//! gives to be driven. Nothing of the library is visible outside this crate, so that its version is
//! this crate's affair alone. Source: Ongaro & Ousterhout, "In Search of an Understandable Consensus
//! Algorithm" (2014), as implemented by openraft.
//!
//! Groups have one voter so far: replication to other nodes needs the transport that comes with
//! clusters, and [`network`] says so to whoever asks.

mod config;
mod group;
mod log_storage;
mod network;
mod replica;

pub use group::{Group, GroupOptions, ProposeError};
pub use replica::{Applied, Replica, ReplicaFault};
