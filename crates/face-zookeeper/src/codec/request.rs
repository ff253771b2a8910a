//! Requests.

use bytes::Bytes;
use proteus_kernel_api::tree::AclEntry;

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
    /// Demand that none exists, at a version.
    CheckAbsent {
        /// Where.
        path: String,
        /// At which version; any if -1.
        version: i32,
    },
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

/// One read of a `multiRead`. ZooKeeper has the first two, ClickHouse Keeper the others as well.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of zookeeper.jute")]
pub enum ReadOp {
    GetData { path: String },
    GetChildren { path: String },
    Exists { path: String },
    GetChildren2 { path: String },
    FilteredList { path: String, filter: ChildFilter },
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
    Exists { path: String, watch: bool },
    GetData { path: String, watch: bool },
    SetData { path: String, data: Option<Bytes>, version: i32 },
    GetAcl { path: String },
    SetAcl { path: String, acl: Vec<AclEntry>, version: i32 },
    GetChildren { path: String, watch: bool, with_stat: bool },
    FilteredList { path: String, watch: bool, filter: ChildFilter },
    GetAllChildrenNumber { path: String },
    Sync { path: String },
    Ping,
    Check { path: String, version: i32 },
    CheckAbsent { path: String, version: i32 },
    Multi(Vec<MultiOp>),
    MultiRead(Vec<ReadOp>),
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
            Request::Exists { .. } => EXISTS,
            Request::GetData { .. } => GET_DATA,
            Request::SetData { .. } => SET_DATA,
            Request::GetAcl { .. } => GET_ACL,
            Request::SetAcl { .. } => SET_ACL,
            Request::GetChildren { with_stat: false, .. } => GET_CHILDREN,
            Request::GetChildren { with_stat: true, .. } => GET_CHILDREN2,
            Request::FilteredList { .. } => FILTERED_LIST,
            Request::GetAllChildrenNumber { .. } => GET_ALL_CHILDREN_NUMBER,
            Request::Sync { .. } => SYNC,
            Request::Ping => PING,
            Request::Check { .. } => CHECK,
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
            MultiOp::CheckAbsent { .. } => CHECK_NOT_EXISTS,
        }
    }
}

impl ReadOp {
    pub(crate) fn code(&self) -> i32 {
        match self {
            ReadOp::GetData { .. } => GET_DATA,
            ReadOp::GetChildren { .. } => GET_CHILDREN,
            ReadOp::Exists { .. } => EXISTS,
            ReadOp::GetChildren2 { .. } => GET_CHILDREN2,
            ReadOp::FilteredList { .. } => FILTERED_LIST,
        }
    }
}
