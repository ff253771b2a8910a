//! What operators and joining nodes ask of a cluster: messages as JSON, so that any version can say what
//! it does not understand.

use std::time::Duration;

use bytes::Bytes;
pub use proteus_kernel::{LogBehind, LogPart};
use proteus_peer::{CallError, Credentials, Dialer};
use proteus_types::{CommitTs, LogIndex, Member, NodeId, ShardId};
use serde::{Deserialize, Serialize};

/// First byte of a message between nodes: for whom it is.
pub(crate) const SERVICE_CONSENSUS: u8 = 0;
pub(crate) const SERVICE_PROPOSER: u8 = 1;
pub(crate) const SERVICE_ADMIN: u8 = 2;
pub(crate) const SERVICE_IMAGE: u8 = 3;
pub(crate) const SERVICE_DIGESTS: u8 = 4;
pub(crate) const SERVICE_COMMITS: u8 = 5;
pub(crate) const SERVICE_LOG: u8 = 6;
pub(crate) const SERVICE_AWAY: u8 = 7;
pub(crate) const SERVICE_RELAY: u8 = 8;

/// How long an operator waits for an answer; membership changes wait for a majority.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A question or an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum AdminRequest {
    /// Takes a new node into the cluster, or tells one that was taken before its number.
    Join {
        /// The node.
        member: Member,
    },
    /// Asks how the cluster stands.
    Status,
    /// Takes a node out of the cluster.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Lets a node follow only, without voting or leading.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// Lets a node vote.
    Vote {
        /// The node.
        node: NodeId,
    },
    /// Lets one node vote in place of another, which then only follows.
    Replace {
        /// The one that votes now.
        old: NodeId,
        /// The one that shall.
        new: NodeId,
    },
    /// Hands leadership to a node.
    Lead {
        /// The node.
        node: NodeId,
    },
    /// Adds a shard, which has no slots at first.
    AddShard,
    /// Moves slots to a shard, those of them that it does not have; some, if they are many. Asking again
    /// moves more.
    MoveSlots {
        /// The first slot.
        first: u16,
        /// The last.
        last: u16,
        /// The shard.
        to: ShardId,
    },
    /// Hands leadership of one shard to a node.
    LeadShard {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
        /// How long it shall lead before leaders are spread over the nodes again, in milliseconds.
        #[serde(default)]
        keep_ms: u64,
    },
    /// Asks how the shards stand that have replicas on the node that is asked.
    Standings,
    /// Asks whether a node is a member of a shard, of the shard's leader.
    IsMember {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
    /// Says how many replicas each shard but the first shall have; 0: one on every node.
    SetReplicas {
        /// So many.
        count: u32,
    },
    /// Moves a replica of a shard from one node to another.
    MoveReplica {
        /// The shard.
        shard: ShardId,
        /// The node that has it.
        from: NodeId,
        /// The node that shall have it.
        to: NodeId,
    },
    /// Sets the state of a shard aside that is held still by a commit over several, and begins an image of it, on the
    /// node that leads the shard.
    SetAside {
        /// The shard.
        shard: ShardId,
        /// Whether it is about to be held still, and only has to have little left to be written.
        is_first: bool,
    },
    /// Begins an image of a state that was set aside.
    OpenAside {
        /// The shard.
        shard: ShardId,
        /// Term of its last entry.
        term: u64,
        /// Its index.
        index: u64,
    },
    /// As [`AdminRequest::MarkLogs`], of one shard that has a replica on the node that is asked.
    MarkLog {
        /// The shard.
        shard: ShardId,
        /// Whether a commit is wanted, so that it comes to a new moment.
        is_wanted: bool,
    },
    /// Begins an image of a shard's whole state of the node that is asked. It may lack what was acknowledged
    /// before the question.
    BeginImage {
        /// The shard.
        #[serde(default)]
        shard: ShardId,
    },
    /// Begins images of all shards at one moment, of the node that is asked, with all that was acknowledged
    /// before the question.
    BeginBackup,
    /// Asks up to which entry each shard's log has to be fetched for all that was acknowledged before the question,
    /// in any of them. If anything happened since `seen` there is a commit in each.
    MarkLogs {
        /// The last entries of the shards that are known.
        seen: Vec<(ShardId, LogIndex)>,
    },
    /// Bounds how fast whole states are sent to other nodes, in bytes a second; 0 is no bound.
    SnapshotRate {
        /// The bound.
        bytes_per_second_max: u64,
    },
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum AdminAnswer {
    /// The joining node's number.
    Joined {
        /// Its number.
        node: NodeId,
    },
    /// How the cluster stands.
    Status(ClusterStatus),
    /// The image to be fetched.
    Image(ImageStart),
    /// The images to be fetched.
    Backup(BackupStart),
    /// Up to which entry the log of each shard has to be fetched, ascending by shard.
    Logs(Vec<(ShardId, LogIndex)>),
    /// Slots have moved.
    Moved {
        /// How many are still to be.
        left: u16,
    },
    /// The shard that was added.
    Added {
        /// Its number.
        shard: ShardId,
    },
    /// How shards stand.
    Standings(Vec<ShardStanding>),
    /// The last entry in a state that was set aside, or that a log has to be fetched up to.
    Entry {
        /// Its term.
        term: u64,
        /// Its index.
        index: u64,
    },
    /// Whether it is so.
    Answer(bool),
    /// So many replicas are moved away from the node first; ask again.
    Emptying {
        /// So many.
        count: usize,
    },
    /// It is done.
    Done,
    /// It is not done, because of this.
    Refused(String),
}

/// Images of all shards at one moment, begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupStart {
    /// Everything that was committed up to here is in them, and nothing later.
    pub commit_ts: CommitTs,
    /// When they were taken, in milliseconds of Unix time.
    pub taken_at_ms: u64,
    /// The image of each shard, ascending.
    pub images: Vec<ImageStart>,
}

/// An image of a shard's whole state, begun.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ImageStart {
    /// The shard.
    pub shard: ShardId,
    /// What to call it in [`fetch_image`].
    pub transfer: u64,
    /// Term of the last entry that it contains.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// How a cluster stands, as its leader sees it, or the node that was asked if it knows of none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The node that answers.
    pub answering: NodeId,
    /// The leader, if there is one.
    pub leader: Option<NodeId>,
    /// The newest term.
    pub term: u64,
    /// Last entry known to be committed.
    pub committed_index: u64,
    /// Whether the membership is being changed.
    pub is_changing: bool,
    /// All nodes, by their numbers.
    pub nodes: Vec<NodeStatus>,
    /// All shards, by their numbers.
    #[serde(default)]
    pub shards: Vec<ShardStanding>,
    /// How many replicas each shard but the first shall have; 0: one on every node.
    #[serde(default)]
    pub replica_count: u32,
    /// What is to be placed next, in words; of shards whose replicas are on some nodes only.
    #[serde(default)]
    pub next_place: Option<String>,
}

/// How one shard stands, as the node that answers sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShardStanding {
    /// Its number.
    pub shard: ShardId,
    /// Its leader, if there is one.
    pub leader: Option<NodeId>,
    /// The node that an operator chose to lead it; it does whenever it can.
    #[serde(default)]
    pub chosen: Option<NodeId>,
    /// How much longer that choice holds, in milliseconds.
    #[serde(default)]
    pub kept_ms: Option<u64>,
    /// Its newest term.
    pub term: u64,
    /// Its last entry applied on the node that answers.
    pub applied_index: u64,
    /// Who votes in it.
    pub voters: Vec<NodeId>,
    /// Who has a replica of it, ascending.
    #[serde(default)]
    pub members: Vec<NodeId>,
    /// Who is chosen to have one, ascending; none: every node.
    #[serde(default)]
    pub placed: Vec<NodeId>,
    /// Whether its voters are being changed.
    #[serde(default)]
    pub is_changing: bool,
    /// Its slots, as first and last of each range.
    pub slots: Vec<(u16, u16)>,
}

impl ShardStanding {
    /// Of a shard in which these nodes vote, and the first of them leads.
    #[cfg(test)]
    pub(crate) fn of_members(shard: ShardId, members: Vec<NodeId>) -> ShardStanding {
        ShardStanding {
            shard,
            leader: members.first().copied(),
            chosen: None,
            kept_ms: None,
            term: 1,
            applied_index: 1,
            voters: members.clone(),
            placed: members.clone(),
            members,
            is_changing: false,
            slots: Vec::new(),
        }
    }
}

/// How one node stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its number.
    pub node: NodeId,
    /// How others reach it.
    pub member: Member,
    /// Whether it votes.
    pub is_voter: bool,
    /// Entries that it is behind the leader's log, if the leader knows.
    pub behind: Option<u64>,
    /// How long it has not answered the leader, if the leader knows.
    pub silent_for_ms: Option<u64>,
}

/// Why an operator's request was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AskError {
    /// The node that was asked does not accept this one, or the other way around: another secret, another
    /// version. Asking again does not help.
    #[error("{0}")]
    NotAdmitted(String),
    /// It cannot be reached, or refuses.
    #[error("{0}")]
    Failed(String),
}

impl From<AskError> for String {
    fn from(error: AskError) -> String {
        error.to_string()
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    serde_json::to_vec(value).map_err(|error| error.to_string())
}

/// Asks the cluster through any of its nodes.
///
/// # Errors
/// If that node cannot be reached, does not accept the secret, or refuses.
pub async fn ask(
    address: &str,
    credentials: &Credentials,
    request: &AdminRequest,
) -> Result<AdminAnswer, AskError> {
    ask_through(&Dialer::new(credentials.clone()), address, request).await
}

async fn call(dialer: &Dialer, address: &str, message: Vec<u8>) -> Result<Bytes, AskError> {
    call_within(ADMIN_TIMEOUT, dialer, address, message).await
}

/// Sends a message whose first byte says for whom it is.
pub(crate) async fn call_within(
    patience: Duration,
    dialer: &Dialer,
    address: &str,
    message: Vec<u8>,
) -> Result<Bytes, AskError> {
    let call = dialer.call(address, Bytes::from(message));
    let answer = proteus_env::task::timeout(patience, call)
        .await
        .ok_or_else(|| AskError::Failed(format!("{address} did not answer in time")))?;
    answer.map_err(|error| match error {
        CallError::NotAdmitted(reason) => AskError::NotAdmitted(reason),
        other => AskError::Failed(other.to_string()),
    })
}

/// Fetches one piece of an image from the node that began it; an empty one is the end. Asking once more
/// for the last piece gives it once more.
///
/// # Errors
/// If that node cannot be reached, or does not have the image any more.
pub async fn fetch_image(
    dialer: &Dialer,
    address: &str,
    transfer: u64,
    sequence: u64,
) -> Result<Bytes, String> {
    let mut message = vec![SERVICE_IMAGE];
    message.extend_from_slice(&transfer.to_le_bytes());
    message.extend_from_slice(&sequence.to_le_bytes());
    Ok(call(dialer, address, message).await?)
}

/// Fetches what a shard's log has behind an entry, of what the node that is asked has applied.
///
/// # Errors
/// If that node cannot be reached, or has no such shard.
pub async fn fetch_log(
    dialer: &Dialer,
    address: &str,
    shard: ShardId,
    after: LogIndex,
) -> Result<LogBehind, String> {
    let message = log_question(shard, after);
    let answer = call(dialer, address, message).await?;
    LogBehind::decode(answer).ok_or_else(|| "an answer that is not known here".to_owned())
}

fn log_question(shard: ShardId, after: LogIndex) -> Vec<u8> {
    let mut message = vec![SERVICE_LOG];
    message.extend_from_slice(&shard.0.to_le_bytes());
    message.extend_from_slice(&after.0.to_le_bytes());
    message
}

/// As [`fetch_log`], as it comes, of a node that has a replica itself.
pub(crate) async fn fetch_log_here(
    dialer: &Dialer,
    address: &str,
    shard: ShardId,
    after: LogIndex,
) -> Result<Bytes, String> {
    let mut message = log_question(shard, after);
    message.push(1);
    Ok(call(dialer, address, message).await?)
}

/// As [`ask`], through connections that are kept.
///
/// # Errors
/// As [`ask`].
pub async fn ask_through(
    dialer: &Dialer,
    address: &str,
    request: &AdminRequest,
) -> Result<AdminAnswer, AskError> {
    let mut message = vec![SERVICE_ADMIN];
    message.extend(encode(request).map_err(AskError::Failed)?);
    let bytes = call(dialer, address, message).await?;
    match serde_json::from_slice(&bytes).map_err(|error| AskError::Failed(error.to_string()))? {
        AdminAnswer::Refused(reason) => Err(AskError::Failed(reason)),
        answer => Ok(answer),
    }
}
