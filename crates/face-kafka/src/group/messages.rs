//! What goes into a group and comes out of it.

use bytes::Bytes;

/// Names a request that waits for its answer.
pub(crate) type Ticket = u64;

/// What happens to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Join {
        ticket: Ticket,
        join: Join,
    },
    Sync {
        ticket: Ticket,
        sync: Sync,
    },
    Heartbeat {
        ticket: Ticket,
        identity: Identity,
        generation: i32,
    },
    Leave {
        ticket: Ticket,
        identity: Identity,
    },
    /// Time passed; see [`Group::next_deadline_ms`].
    Tick,
}

/// Who a member says it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// Empty if it has none yet.
    pub member_id: String,
    /// Of a static member, which keeps its place across restarts.
    pub instance_id: Option<String>,
}

/// A request to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Join {
    pub identity: Identity,
    /// The id it gets if it has none: random, so chosen outside.
    pub new_member_id: String,
    /// Whether a new member must come back with its id before it counts (KIP-394).
    pub needs_known_id: bool,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: u64,
    pub rebalance_timeout_ms: u64,
    pub protocol_type: String,
    /// Assignment strategies with the member's metadata for each, preferred first.
    pub protocols: Vec<(String, Bytes)>,
}

/// A request for one's assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sync {
    pub identity: Identity,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    /// From the leader: by member id.
    pub assignments: Vec<(String, Bytes)>,
}

/// What a group does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Answer a request.
    Answer { ticket: Ticket, answer: Answer },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Joined(Joined),
    /// Not joined; with the id to come back with, or the one it came with.
    NotJoined {
        error: GroupError,
        member_id: String,
    },
    Synced {
        protocol_type: String,
        protocol_name: String,
        assignment: Bytes,
    },
    Done,
    Refused(GroupError),
}

/// A member of a new generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub generation: i32,
    pub protocol_type: String,
    pub protocol_name: String,
    pub leader: String,
    pub member_id: String,
    /// For the leader, who assigns: member id, instance id, metadata.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

/// Why a member is refused. The names are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupError {
    UnknownMemberId,
    MemberIdRequired,
    IllegalGeneration,
    RebalanceInProgress,
    InconsistentGroupProtocol,
    FencedInstanceId,
    InvalidSessionTimeout,
    GroupMaxSizeReached,
    FencedMemberEpoch,
    StaleMemberEpoch,
    UnreleasedInstanceId,
    /// The group has members of the other protocol.
    OtherProtocol,
    /// Another node coordinates.
    NotCoordinator,
}

/// A group for those who list and describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub state: &'static str,
    pub protocol_type: String,
    pub protocol_name: String,
    pub members: Vec<DescribedMember>,
}

/// A member of a [`Description`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DescribedMember {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub metadata: Bytes,
    pub assignment: Bytes,
}
