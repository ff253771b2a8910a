//! The library's types, chosen once.

use std::fmt;
use std::io;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::type_config::alias::{CommittedLeaderIdOf, EntryOf, LogIdOf, StoredMembershipOf};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership};
use proteus_types::{EntryId, LogIndex, Member, Term};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// Opaque payloads, no replies: outcomes reach their proposers through the replica.
    pub TypeConfig:
        D = Payload,
        R = (),
        NodeId = u64,
        Node = Member,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = crate::runtime::Runtime,
);

pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type Entry = EntryOf<TypeConfig>;

/// Bytes of an entry, which only the kernel understands, behind one byte of room.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    bytes: Bytes,
    /// What its proposer asked for; no part of the entry, and so unknown to others.
    #[serde(skip)]
    pub(crate) is_relaxed: bool,
}

/// Bytes that stand before what a [`Payload`] is made of.
pub const PAYLOAD_ROOM_BYTES: usize = 1;

impl Payload {
    /// Of bytes whose first [`PAYLOAD_ROOM_BYTES`] are of no meaning, so that the log needs no copy of the
    /// others.
    ///
    /// # Panics
    /// If it is shorter.
    pub fn behind_room(mut bytes: Vec<u8>) -> Payload {
        bytes[0] = KIND_NORMAL;
        Payload { bytes: Bytes::from(bytes), is_relaxed: false }
    }

    /// What only the kernel understands.
    pub fn content(&self) -> Bytes {
        self.bytes.slice(PAYLOAD_ROOM_BYTES..)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

/// First byte of an entry in the log: what follows.
const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

pub(crate) fn entry_id(log_id: &LogId) -> EntryId {
    EntryId { term: Term(log_id.committed_leader_id().term), index: LogIndex(log_id.index) }
}

/// The committed leader of a term; with one leader a term, the term names it.
pub(crate) fn leader_of_term(term: Term) -> CommittedLeaderIdOf<TypeConfig> {
    openraft::impls::leader_id_std::LeaderId { term: term.0, voted_for: 0 }.to_committed()
}

pub(crate) fn log_id(id: EntryId) -> LogId {
    LogId::new(leader_of_term(id.term), id.index.0)
}

/// The entry as the log keeps it: kind, then payload or membership.
pub(crate) fn encode_entry(entry: &Entry) -> io::Result<Bytes> {
    Ok(match &entry.payload {
        EntryPayload::Blank => Bytes::from_static(&[KIND_BLANK]),
        EntryPayload::Normal(payload) => payload.bytes.clone(),
        EntryPayload::Membership(membership) => {
            let mut bytes = vec![KIND_MEMBERSHIP];
            bytes.extend(to_bytes(membership)?);
            Bytes::from(bytes)
        }
    })
}

pub(crate) fn decode_entry(id: EntryId, bytes: &Bytes) -> io::Result<Entry> {
    let payload = match bytes.first() {
        Some(&KIND_BLANK) => EntryPayload::Blank,
        Some(&KIND_NORMAL) => {
            EntryPayload::Normal(Payload { bytes: bytes.clone(), is_relaxed: false })
        }
        Some(&KIND_MEMBERSHIP) => {
            let membership: Membership<u64, Member> = from_bytes(&bytes[1..])?;
            EntryPayload::Membership(membership)
        }
        kind => {
            let message = format!("entry {} has the unknown kind {kind:?}", id.index);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
    };
    Ok(Entry::new(log_id(id), payload))
}

pub(crate) fn to_bytes<T: Serialize>(value: &T) -> io::Result<Bytes> {
    postcard::to_stdvec(value).map(Bytes::from).map_err(io::Error::other)
}

pub(crate) fn from_bytes<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}
