//! Requests.

use bytes::Bytes;
use proteus_kernel_api::tree::{AclEntry, Stat};

use super::kinds::*;
use super::{Input, Malformed};

/// What stands before every request but the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// The client's number for the request; its reply carries the same.
    pub xid: i32,
    /// The request's type.
    pub code: i32,
}

/// A znode to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// `create`, `create2`, `createContainer`, `createTTL` or `CreateIfNotExists`: they differ in what
    /// is created and answered.
    pub code: i32,
    /// Where.
    pub path: String,
    /// Its data, or null.
    pub data: Option<Bytes>,
    /// Who may do what.
    pub acl: Vec<AclEntry>,
    /// The create mode.
    pub flags: i32,
    /// Time to live, for `createTTL`.
    pub ttl_ms: Option<i64>,
}

/// A znode to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Where.
    pub path: String,
    /// At which version; any if -1.
    pub version: i32,
    /// Whether it is fine if there is none: `TryRemove`.
    pub is_tolerant: bool,
}

/// One op of a `multi`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MultiOp {
    /// Create a znode.
    Create(CreateRequest),
    /// Delete one.
    Delete(DeleteRequest),
    /// Delete one and all below it, if they are not more than so many.
    DeleteSubtree {
        /// Where.
        path: String,
        /// How many at most.
        count_max: u32,
    },
    /// Set one's data.
    SetData {
        /// Where.
        path: String,
        /// To what.
        data: Option<Bytes>,
        /// At which version; any if -1.
        version: i32,
    },
    /// Demand that one exists at a version.
    Check {
        /// Where.
        path: String,
        /// At which version; any if -1.
        version: i32,
    },
    /// Demand that one has this stat.
    CheckStat(CheckStat),
    /// Demand that none exists, at a version.
    CheckAbsent {
        /// Where.
        path: String,
        /// At which version; any if -1.
        version: i32,
    },
}

/// A demand on a znode's stat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckStat {
    /// Where.
    pub path: String,
    /// At which version; any if -1.
    pub version: i32,
    /// What else; -1 in a field is anything.
    pub stat: Stat,
}

/// Which children a listing tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildFilter {
    /// All.
    All = 0,
    /// Those that are not ephemeral.
    Persistent = 1,
    /// Those that are.
    Ephemeral = 2,
}

impl ChildFilter {
    pub(super) fn decode(input: &mut Input) -> Result<ChildFilter, Malformed> {
        match input.byte("list request type")? {
            0 => Ok(ChildFilter::All),
            1 => Ok(ChildFilter::Persistent),
            2 => Ok(ChildFilter::Ephemeral),
            value => Err(Malformed::Unknown { what: "filter of children", value: value.into() }),
        }
    }
}

/// What a listing tells of each child beside its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildDetails {
    /// Its stat.
    pub stat: bool,
    /// Its data.
    pub data: bool,
}

/// What is read of a znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadKind {
    /// Its stat, or that it is not there.
    Exists,
    /// Its data and stat.
    Data,
    /// Its children.
    Children,
    /// Its children and stat.
    ChildrenAndStat,
    /// Some children, and more of each if asked for.
    FilteredList(ChildFilter, Option<ChildDetails>),
}

/// A read of one znode, by itself or within a `multiRead`. There ZooKeeper has data and children only,
/// ClickHouse Keeper all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// What.
    pub kind: ReadKind,
    /// Where.
    pub path: String,
    /// Whether to watch it from then on.
    pub watch: bool,
}

/// Which watches `checkWatches` and `removeWatches` mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatcherType {
    /// Those on children.
    Children = 1,
    /// Those on data.
    Data = 2,
    /// All.
    Any = 3,
    /// Persistent ones.
    Persistent = 4,
    /// Persistent ones on all below as well.
    PersistentRecursive = 5,
}

impl WatcherType {
    pub(super) fn decode(input: &mut Input) -> Result<WatcherType, Malformed> {
        match input.int("type")? {
            1 => Ok(WatcherType::Children),
            2 => Ok(WatcherType::Data),
            3 => Ok(WatcherType::Any),
            4 => Ok(WatcherType::Persistent),
            5 => Ok(WatcherType::PersistentRecursive),
            value => Err(Malformed::Unknown { what: "type of a watcher", value }),
        }
    }
}

/// The watches that a client had when its connection was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchSets {
    /// What it has seen: a watch whose znode changed since then fires at once.
    pub relative_zxid: i64,
    /// On data of znodes that existed.
    pub data: Vec<String>,
    /// On znodes that did not exist.
    pub exist: Vec<String>,
    /// On children.
    pub child: Vec<String>,
    /// Persistent ones, and recursive ones; only `setWatches2` has them.
    pub persistent: Option<(Vec<String>, Vec<String>)>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of zookeeper.jute")]
pub enum Request {
    Create(CreateRequest),
    Delete(DeleteRequest),
    DeleteSubtree { path: String, count_max: u32 },
    Read(ReadRequest),
    SetData { path: String, data: Option<Bytes>, version: i32 },
    GetAcl { path: String },
    SetAcl { path: String, acl: Vec<AclEntry>, version: i32 },
    ListRecursive { path: String, count_max: u32 },
    GetAllChildrenNumber { path: String },
    Sync { path: String },
    Ping,
    Check { path: String, version: i32 },
    CheckStat(CheckStat),
    CheckAbsent { path: String, version: i32 },
    Multi(Vec<MultiOp>),
    MultiRead(Vec<ReadRequest>),
    Reconfig(ReconfigRequest),
    Auth { scheme: String, secret: Bytes },
    Sasl { token: Bytes },
    WhoAmI,
    GetEphemerals { prefix: String },
    AddWatch { path: String, is_recursive: bool },
    CheckWatches { path: String, watcher_type: WatcherType },
    RemoveWatches { path: String, watcher_type: WatcherType },
    SetWatches(WatchSets),
    CloseSession,
}

/// A change of the ensemble's members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconfigRequest {
    /// Servers to add.
    pub joining: Option<String>,
    /// Servers to remove.
    pub leaving: Option<String>,
    /// All servers from now on.
    pub new_members: Option<String>,
    /// At which configuration; any if -1.
    pub config_id: i64,
}

impl Request {
    /// The number of the request's type.
    pub fn code(&self) -> i32 {
        match self {
            Request::Create(create) => create.code,
            Request::Delete(delete) => delete.code(),
            Request::DeleteSubtree { .. } => REMOVE_RECURSIVE,
            Request::Read(read) => read.kind.code(),
            Request::SetData { .. } => SET_DATA,
            Request::GetAcl { .. } => GET_ACL,
            Request::SetAcl { .. } => SET_ACL,
            Request::ListRecursive { .. } => LIST_RECURSIVE,
            Request::GetAllChildrenNumber { .. } => GET_ALL_CHILDREN_NUMBER,
            Request::Sync { .. } => SYNC,
            Request::Ping => PING,
            Request::Check { .. } => CHECK,
            Request::CheckStat(_) => CHECK_STAT,
            Request::CheckAbsent { .. } => CHECK_NOT_EXISTS,
            Request::Multi(_) => MULTI,
            Request::MultiRead(_) => MULTI_READ,
            Request::Reconfig(_) => RECONFIG,
            Request::Auth { .. } => AUTH,
            Request::Sasl { .. } => SASL,
            Request::WhoAmI => WHO_AM_I,
            Request::GetEphemerals { .. } => GET_EPHEMERALS,
            Request::AddWatch { .. } => ADD_WATCH,
            Request::CheckWatches { .. } => CHECK_WATCHES,
            Request::RemoveWatches { .. } => REMOVE_WATCHES,
            Request::SetWatches(WatchSets { persistent: None, .. }) => SET_WATCHES,
            Request::SetWatches(_) => SET_WATCHES2,
            Request::CloseSession => CLOSE_SESSION,
        }
    }
}

impl DeleteRequest {
    pub(crate) fn code(&self) -> i32 {
        if self.is_tolerant { TRY_REMOVE } else { DELETE }
    }
}

impl MultiOp {
    pub(crate) fn code(&self) -> i32 {
        match self {
            MultiOp::Create(create) => create.code,
            MultiOp::Delete(delete) => delete.code(),
            MultiOp::DeleteSubtree { .. } => REMOVE_RECURSIVE,
            MultiOp::SetData { .. } => SET_DATA,
            MultiOp::Check { .. } => CHECK,
            MultiOp::CheckStat(_) => CHECK_STAT,
            MultiOp::CheckAbsent { .. } => CHECK_NOT_EXISTS,
        }
    }
}

impl Request {
    /// A read of one znode.
    pub fn read(kind: ReadKind, path: &str, watch: bool) -> Request {
        Request::Read(ReadRequest { kind, path: path.to_owned(), watch })
    }
}

impl ReadKind {
    /// The kind that a type of request asks for, if it asks to read one znode, and what follows path
    /// and watch.
    pub(super) fn decode(code: i32, rest: &mut Input) -> Result<Option<ReadKind>, Malformed> {
        Ok(Some(match code {
            EXISTS => ReadKind::Exists,
            GET_DATA => ReadKind::Data,
            GET_CHILDREN => ReadKind::Children,
            GET_CHILDREN2 => ReadKind::ChildrenAndStat,
            FILTERED_LIST => ReadKind::FilteredList(ChildFilter::decode(rest)?, None),
            FILTERED_LIST_WITH_STATS_AND_DATA => {
                let filter = ChildFilter::decode(rest)?;
                let stat = rest.boolean("with_stat")?;
                let details = ChildDetails { stat, data: rest.boolean("with_data")? };
                ReadKind::FilteredList(filter, Some(details))
            }
            _ => return Ok(None),
        }))
    }

    pub(crate) fn code(self) -> i32 {
        match self {
            ReadKind::Exists => EXISTS,
            ReadKind::Data => GET_DATA,
            ReadKind::Children => GET_CHILDREN,
            ReadKind::ChildrenAndStat => GET_CHILDREN2,
            ReadKind::FilteredList(_, None) => FILTERED_LIST,
            ReadKind::FilteredList(_, Some(_)) => FILTERED_LIST_WITH_STATS_AND_DATA,
        }
    }
}
