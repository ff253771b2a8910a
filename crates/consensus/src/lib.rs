//! The consensus library, wired to the node's log and to a replica's state machine.
//!
//! [`Group`] is one shard's consensus group as the kernel drives it; [`Replica`] is what the kernel
//! gives to be driven. Nothing of the library is visible outside this crate, so that its version is
//! this crate's affair alone. Source: Ongaro & Ousterhout, "In Search of an Understandable Consensus
//! Algorithm" (2014), as implemented by openraft.
//!
//! Messages to other nodes go through a [`Transport`] that the group's owner gives: sockets in a node,
//! a simulated network in tests.

mod config;
mod group;
mod log_storage;
mod network;
mod replica;
mod restored;
mod runtime;
mod transport;
mod watch;

pub use config::{PAYLOAD_ROOM_BYTES, Payload};
pub use group::{
    ChangeError, Group, GroupOptions, GroupStatus, Leadership, Membership, ProposeError, Timing,
};
pub use replica::{
    Applied, Image, ImageChunks, ReceivedImage, Replica, ReplicaFault, SnapshotPace,
};
pub use restored::{applied_entry, begin_after, members_of, purge_to};
pub use transport::{Call, Transport, TransportError, Unconnected};
