//! The znode tree: a pure state machine with ZooKeeper's data model.
//!
//! Znodes with data, versions and ACLs, ephemeral znodes that live as long as a session, sequential
//! names, containers, times to live, quotas. It knows no wire protocol, no connection and no clock: whether a session is alive is
//! soft state of the face, which proposes [`Op::CloseSession`] for one that went silent. Watches are
//! the face's too, fed by [`Change`].
//!
//! # The zxid is the commit timestamp
//! Every zxid here is the [`CommitTs`] of the minitransaction, as a signed 64-bit integer
//! ([`Zxid::from_commit`]): one order on every face. A zxid seen over ZooKeeper's protocol can be
//! compared with the time of an SQL commit. It grows, but does not count by one, and its high half is
//! no epoch. All ops of a minitransaction share a zxid, as those of a ZooKeeper `multi` do.
//!
//! Reading order: [`Op`], [`Check`], [`Refusal`], [`node`] and the other readers, [`acl`], `record.rs`
//! for the layout of keys.
//!
//! Source: ZooKeeper 3.9, `DataTree`, `PrepRequestProcessor`, Programmer's Guide.

pub mod acl;
mod apply;
mod lifetimes;
mod nodes;
pub mod path;
mod quota;
mod read;
mod record;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use proteus_machine::{Abort, Ctx, Machine, View};
use proteus_store::{Read, StoreError};
use proteus_types::CommitTs;
use serde::{Deserialize, Serialize};

pub use acl::{Acl, AclEntry, Credentials, Identity};
pub use read::{Node, children, data, ephemerals, node, node_count, session, sessions, stat};
pub use record::CONFIG as CONFIG_PATH;

/// Longest time to live, in milliseconds: ZooKeeper's, 34 years.
pub const TTL_MS_MAX: u64 = (1 << 40) - 1;

/// How long a container stays after its last child is gone, in milliseconds: the interval at which
/// ZooKeeper looks for such containers.
pub const CONTAINER_LINGER_MS: u64 = 60_000;

/// The machine: znodes, sessions, ephemerals, sequentials.
#[derive(Debug, Clone, Copy)]
pub struct Tree;

/// ZooKeeper's transaction id: here, the commit timestamp.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Zxid(pub i64);

impl Zxid {
    /// The zxid of what committed at `commit_ts`.
    pub fn from_commit(commit_ts: CommitTs) -> Zxid {
        // A commit timestamp fits until the year 3084; see `CommitTs`.
        Zxid(i64::try_from(commit_ts.0).unwrap_or(i64::MAX))
    }
}

/// A client's identity that outlives its connection. Never 0, which means "none" to clients.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Proof that a client owns a session.
pub type SessionPassword = [u8; 16];

/// A session as it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What a client must know to resume it.
    pub password: SessionPassword,
    /// How long it lives without a word from its client, in milliseconds.
    pub timeout_ms: u32,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("timeout_ms", &self.timeout_ms).finish_non_exhaustive()
    }
}

/// What ZooKeeper tells about a znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// When it was created.
    pub czxid: Zxid,
    /// When its data last changed.
    pub mzxid: Zxid,
    /// When its children last changed.
    pub pzxid: Zxid,
    /// Time of creation, in milliseconds since the Unix epoch.
    pub ctime_ms: i64,
    /// Time of the data's last change, in milliseconds since the Unix epoch.
    pub mtime_ms: i64,
    /// Changes of its data.
    pub version: i32,
    /// Creations and deletions of its children.
    pub cversion: i32,
    /// Changes of its ACL.
    pub aversion: i32,
    /// The session of an ephemeral; 0 for others.
    pub ephemeral_owner: i64,
    /// Length of its data, in bytes.
    pub data_length: i32,
    /// Number of its children.
    pub num_children: i32,
}

/// How long a new znode lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// Until deleted.
    Persistent,
    /// Until this session ends.
    Ephemeral(SessionId),
    /// Until its last child has been gone for [`CONTAINER_LINGER_MS`].
    Container,
    /// Until it has had no children, and its data has not been set, for so many milliseconds; 1 to
    /// [`TTL_MS_MAX`].
    TimeToLive(u64),
}

/// A znode to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNode {
    /// Where, under an existing parent; for a sequential one, what its name begins with.
    pub path: String,
    /// Its data; `None` is ZooKeeper's null, which is not empty data.
    pub data: Option<Bytes>,
    /// Who may do what with it.
    pub acl: Acl,
    /// How long it lives.
    pub kind: NodeKind,
    /// Appends the parent's counter to the name, ten digits.
    pub sequential: bool,
    /// Leaves a znode that is there as it is, instead of refusing.
    pub keep_existing: bool,
    /// Who asks.
    pub by: Credentials,
}

impl NewNode {
    /// A persistent znode, open to everyone, which the node itself creates.
    pub fn persistent(path: impl Into<String>, data: Option<Bytes>) -> NewNode {
        NewNode {
            path: path.into(),
            data,
            acl: Acl::OPEN,
            kind: NodeKind::Persistent,
            sequential: false,
            keep_existing: false,
            by: Credentials::TRUSTED,
        }
    }
}

/// What a znode must be like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The version of its data; any if `None`.
    pub version: Option<i32>,
    /// Its stat; any if `None`.
    pub stat: Option<Box<ExpectedStat>>,
}

/// What a znode's [`Stat`] must be; anything where `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of `Stat`")]
pub struct ExpectedStat {
    pub czxid: Option<Zxid>,
    pub mzxid: Option<Zxid>,
    pub pzxid: Option<Zxid>,
    pub ctime_ms: Option<i64>,
    pub mtime_ms: Option<i64>,
    pub version: Option<i32>,
    pub cversion: Option<i32>,
    pub aversion: Option<i32>,
    pub ephemeral_owner: Option<i64>,
    pub data_length: Option<i32>,
    pub num_children: Option<i32>,
}

impl ExpectedStat {
    /// Whether `stat` is what is expected.
    pub fn is_met(&self, stat: &Stat) -> bool {
        fn is<T: PartialEq>(expected: Option<T>, actual: T) -> bool {
            expected.is_none_or(|expected| expected == actual)
        }
        is(self.czxid, stat.czxid)
            && is(self.mzxid, stat.mzxid)
            && is(self.pzxid, stat.pzxid)
            && is(self.ctime_ms, stat.ctime_ms)
            && is(self.mtime_ms, stat.mtime_ms)
            && is(self.version, stat.version)
            && is(self.cversion, stat.cversion)
            && is(self.aversion, stat.aversion)
            && is(self.ephemeral_owner, stat.ephemeral_owner)
            && is(self.data_length, stat.data_length)
            && is(self.num_children, stat.num_children)
    }
}

/// A predicate on current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// There is a znode at `path`. With `czxid`, the very one that was created then; with `owner`,
    /// an ephemeral of that session. A holder of a lock znode fences its commits with all three.
    NodeExists {
        /// Where.
        path: String,
        /// When it must have been created.
        czxid: Option<Zxid>,
        /// Whose ephemeral it must be.
        owner: Option<SessionId>,
    },
    /// There is no znode at `path`.
    NodeAbsent {
        /// Where.
        path: String,
    },
    /// The znode's data is at `version`.
    NodeVersion {
        /// Where.
        path: String,
        /// The data version it must have.
        version: i32,
    },
    /// The session has neither been closed nor expired.
    SessionAlive {
        /// Which.
        session: SessionId,
    },
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Creates a znode.
    Create(NewNode),
    /// Deletes a znode that has no children.
    Delete {
        /// Where.
        path: String,
        /// The data version it must have; any if `None`.
        version: Option<i32>,
        /// Who asks.
        by: Credentials,
    },
    /// As [`Op::Delete`], but does nothing if there is no znode.
    DeleteIfPresent {
        /// Where.
        path: String,
        /// The data version it must have; any if `None`.
        version: Option<i32>,
        /// Who asks.
        by: Credentials,
    },
    /// Deletes a znode and all below it.
    DeleteSubtree {
        /// Where.
        path: String,
        /// Refuses if they are more than this, or than a hundred thousand.
        count_max: u32,
        /// Who asks.
        by: Credentials,
    },
    /// Replaces a znode's data.
    SetData {
        /// Where.
        path: String,
        /// The new data.
        data: Option<Bytes>,
        /// The data version it must have; any if `None`.
        version: Option<i32>,
        /// Who asks.
        by: Credentials,
    },
    /// Replaces a znode's ACL; counts in `aversion`.
    SetAcl {
        /// Where.
        path: String,
        /// The new ACL.
        acl: Acl,
        /// The ACL version it must have; any if `None`.
        version: Option<i32>,
        /// Who asks.
        by: Credentials,
    },
    /// Changes nothing and refuses like a change would: a `multi`'s check, held after the ops before
    /// it and before those after it.
    CheckNode {
        /// Where.
        path: String,
        /// The versions it must have.
        expected: Expected,
        /// Who asks.
        by: Credentials,
    },
    /// As [`Op::CheckNode`], but refuses if there is a znode.
    CheckAbsent {
        /// Where.
        path: String,
        /// Only at this data version; at any if `None`.
        version: Option<i32>,
        /// Who asks.
        by: Credentials,
    },
    /// Opens a session. Id and password are drawn by the proposer.
    CreateSession {
        /// Its id.
        session: SessionId,
        /// What a client must know to resume it.
        password: SessionPassword,
        /// How long it lives without a word from its client, in milliseconds.
        timeout_ms: u32,
    },
    /// Gives a session another timeout, as a client that resumes it may ask.
    SetSessionTimeout {
        /// Which.
        session: SessionId,
        /// The new timeout, in milliseconds.
        timeout_ms: u32,
    },
    /// Ends a session, because its client closed it or was silent for too long, and deletes its
    /// ephemerals in the same commit. Does nothing to a session that has ended.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// Tells everybody that the clients of these sessions were heard. Stores nothing.
    TouchSessions {
        /// Which.
        sessions: Vec<SessionId>,
    },
    /// Tells everybody which node holds a session now. Refused if it has ended; stores nothing.
    MoveSession {
        /// Which.
        session: SessionId,
        /// The node's number.
        to: u64,
    },
    /// Deletes a container, or a znode with a time to live, whose time has come. Does nothing
    /// otherwise.
    RemoveOverdue {
        /// Where.
        path: String,
        /// The time it was due, in milliseconds since the Unix epoch.
        due_ms: u64,
    },
    /// Writes the cluster's members to ZooKeeper's own znode for them, unless they stand there. What
    /// is written ends with the zxid of the change, which is the configuration's version.
    SetMembers {
        /// One line `server.N=…` for each, without a line's end behind the last.
        servers: String,
    },
}

/// What an op answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Op::Create`].
    Created {
        /// The znode's path, with its counter if it is sequential.
        path: String,
        /// Its stat.
        stat: Stat,
    },
    /// To [`Op::Delete`], [`Op::DeleteIfPresent`] and [`Op::DeleteSubtree`].
    Deleted,
    /// To [`Op::SetData`], [`Op::SetAcl`] and [`Op::SetMembers`].
    Changed {
        /// The znode's stat.
        stat: Stat,
    },
    /// To [`Op::CheckNode`] and [`Op::CheckAbsent`].
    Checked,
    /// To [`Op::CreateSession`] and [`Op::SetSessionTimeout`].
    SessionOpen,
    /// To [`Op::CloseSession`].
    SessionClosed {
        /// Whether it was open until now.
        was_open: bool,
    },
    /// To [`Op::RemoveOverdue`].
    OverdueVisited {
        /// Whether it was removed.
        removed: bool,
    },
}

/// Why a check or an op refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The znode, or the parent of the one to create, does not exist.
    #[error("there is no znode {path}")]
    NoNode {
        /// Where.
        path: String,
    },
    /// The znode exists already.
    #[error("there is a znode {path} already")]
    NodeExists {
        /// Where.
        path: String,
    },
    /// A znode with children cannot be deleted.
    #[error("znode {path} has children")]
    NotEmpty {
        /// Where.
        path: String,
    },
    /// The version is another.
    #[error("znode {path} is at version {actual}, not {expected}")]
    BadVersion {
        /// Where.
        path: String,
        /// The version asked for.
        expected: i32,
        /// The version it has.
        actual: i32,
    },
    /// The znode was deleted and created again, or belongs to another session.
    #[error("znode {path} is no longer the one that was created by this owner at that time")]
    NodeReplaced {
        /// Where.
        path: String,
    },
    /// The znode's stat is not the expected one.
    #[error("znode {path} has changed: its stat is not the expected one")]
    StatDiffers {
        /// Where.
        path: String,
    },
    /// Ephemerals have no children.
    #[error("znode {path} is ephemeral and can have no children")]
    NoChildrenForEphemerals {
        /// The parent.
        path: String,
    },
    /// The ACL does not permit this to who asks.
    #[error("the ACL on the way to {path} does not permit this")]
    NotPermitted {
        /// Where.
        path: String,
    },
    /// The hard limit of a quota would be exceeded.
    #[error("the quota of {path} would be exceeded; delete something below it or raise its limits")]
    QuotaExceeded {
        /// The subtree that the quota is for.
        path: String,
    },
    /// The session has ended.
    #[error("session {session} has expired or was closed")]
    SessionExpired {
        /// Which.
        session: SessionId,
    },
    /// The id is taken.
    #[error("session {session} exists already")]
    SessionExists {
        /// Which.
        session: SessionId,
    },
    /// The request makes no sense on any state.
    #[error("{why}")]
    BadArguments {
        /// What is wrong with it.
        why: String,
    },
}

/// What followers of the feed learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A znode came to be.
    NodeCreated {
        /// Where.
        path: String,
        /// Its ACL: who may not read it learns nothing of it.
        acl: Acl,
    },
    /// A znode is gone.
    NodeDeleted {
        /// Where.
        path: String,
        /// Its ACL: who may not read it learns nothing of it.
        acl: Acl,
    },
    /// A znode's data was set.
    NodeDataChanged {
        /// Where.
        path: String,
        /// Its ACL: who may not read it learns nothing of it.
        acl: Acl,
    },
    /// A child of this znode was created or deleted.
    ChildrenChanged {
        /// The parent.
        path: String,
        /// Its ACL: who may not read it learns nothing of it.
        acl: Acl,
    },
    /// A subtree has become larger than the soft limit of its quota.
    SoftQuotaExceeded {
        /// The subtree.
        path: String,
    },
    /// A session was opened, or has another timeout.
    SessionOpened {
        /// Which.
        session: SessionId,
        /// How long it lives without a word from its client, in milliseconds.
        timeout_ms: u32,
    },
    /// A session ended; its ephemerals' changes stand before this.
    SessionClosed {
        /// Which.
        session: SessionId,
    },
    /// The clients of these sessions were heard on some node.
    SessionsHeard {
        /// Which.
        sessions: Vec<SessionId>,
    },
    /// A session is held by another node now.
    SessionMoved {
        /// Which.
        session: SessionId,
        /// That node's number.
        to: u64,
    },
}

impl Machine for Tree {
    const SPACE: u8 = record::SPACE;
    type Check = Check;
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;
    type Change = Change;

    fn check(ctx: &mut Ctx<'_, Change>, check: &Check) -> Result<(), Abort<Refusal>> {
        apply::check(ctx, check)
    }

    fn apply(ctx: &mut Ctx<'_, Change>, op: &Op) -> Result<Reply, Abort<Refusal>> {
        apply::apply(ctx, op)
    }

    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Op>, StoreError> {
        let due = read::due(view.state, view.now_ms, count_max)?;
        Ok(due.into_iter().map(|(due_ms, path)| Op::RemoveOverdue { path, due_ms }).collect())
    }

    fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError> {
        read::next_due_ms(state)
    }
}
