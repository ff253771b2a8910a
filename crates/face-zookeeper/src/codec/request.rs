//! Requests.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Input, Malformed, Output};

/// All permissions of an ACL: read, write, create, delete, admin.
pub const PERMISSIONS_ALL: i32 = 31;

/// A request type of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestType {
    /// Its number on the wire.
    pub code: i32,
    /// Its name in `ZooDefs.OpCode`.
    pub name: &'static str,
    /// Whether it is answered with anything but "unimplemented".
    pub is_supported: bool,
}

const fn yes(code: i32, name: &'static str) -> RequestType {
    RequestType { code, name, is_supported: true }
}

const fn no(code: i32, name: &'static str) -> RequestType {
    RequestType { code, name, is_supported: false }
}

/// Every request type of ZooKeeper 3.8, in the order of docs/faces/zookeeper.md.
pub const REQUEST_TYPES: &[RequestType] = &[
    yes(CREATE, "create"),
    yes(DELETE, "delete"),
    yes(EXISTS, "exists"),
    yes(GET_DATA, "getData"),
    yes(SET_DATA, "setData"),
    yes(GET_ACL, "getACL"),
    yes(SET_ACL, "setACL"),
    yes(GET_CHILDREN, "getChildren"),
    yes(SYNC, "sync"),
    yes(PING, "ping"),
    yes(GET_CHILDREN2, "getChildren2"),
    yes(CHECK, "check"),
    yes(MULTI, "multi"),
    yes(CREATE2, "create2"),
    no(16, "reconfig"),
    yes(CHECK_WATCHES, "checkWatches"),
    yes(REMOVE_WATCHES, "removeWatches"),
    yes(CREATE_CONTAINER, "createContainer"),
    no(20, "deleteContainer"),
    no(CREATE_TTL, "createTTL"),
    yes(MULTI_READ, "multiRead"),
    yes(AUTH, "auth"),
    yes(SET_WATCHES, "setWatches"),
    no(102, "sasl"),
    yes(GET_EPHEMERALS, "getEphemerals"),
    no(104, "getAllChildrenNumber"),
    yes(SET_WATCHES2, "setWatches2"),
    yes(ADD_WATCH, "addWatch"),
    no(107, "whoAmI"),
    no(-10, "createSession"),
    yes(CLOSE_SESSION, "closeSession"),
];

pub(crate) const CREATE: i32 = 1;
pub(crate) const DELETE: i32 = 2;
const EXISTS: i32 = 3;
pub(crate) const GET_DATA: i32 = 4;
pub(crate) const SET_DATA: i32 = 5;
const GET_ACL: i32 = 6;
const SET_ACL: i32 = 7;
pub(crate) const GET_CHILDREN: i32 = 8;
const SYNC: i32 = 9;
const PING: i32 = 11;
const GET_CHILDREN2: i32 = 12;
pub(crate) const CHECK: i32 = 13;
const MULTI: i32 = 14;
pub(crate) const CREATE2: i32 = 15;
pub(crate) const CREATE_CONTAINER: i32 = 19;
const CHECK_WATCHES: i32 = 17;
const REMOVE_WATCHES: i32 = 18;
const CREATE_TTL: i32 = 21;
const MULTI_READ: i32 = 22;
const AUTH: i32 = 100;
const SET_WATCHES: i32 = 101;
const GET_EPHEMERALS: i32 = 103;
const SET_WATCHES2: i32 = 105;
const ADD_WATCH: i32 = 106;
const CLOSE_SESSION: i32 = -11;

/// What stands before every request but the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// The client's number for the request; its reply carries the same.
    pub xid: i32,
    /// The request's type.
    pub code: i32,
}

/// Who may do what, as one entry of a znode's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    /// Bits: read, write, create, delete, admin.
    pub permissions: i32,
    /// How `id` is proven.
    pub scheme: String,
    /// Whose permissions they are.
    pub id: String,
}

impl Acl {
    /// Everyone may do everything: ZooKeeper's `OPEN_ACL_UNSAFE`.
    pub fn is_open(&self) -> bool {
        self.permissions == PERMISSIONS_ALL && self.scheme == "world" && self.id == "anyone"
    }
}

/// A znode to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// `create`, `create2`, `createContainer` or `createTTL`: they differ in what is answered.
    pub code: i32,
    /// Where.
    pub path: String,
    /// Its data, or null.
    pub data: Option<Bytes>,
    /// Who may do what.
    pub acl: Vec<Acl>,
    /// The create mode.
    pub flags: i32,
    /// Time to live, for `createTTL`.
    pub ttl_ms: Option<i64>,
}

/// One op of a `multi`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MultiOp {
    /// Create a znode.
    Create(CreateRequest),
    /// Delete one.
    Delete {
        /// Where.
        path: String,
        /// At which version; any if -1.
        version: i32,
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
}

/// One read of a `multiRead`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of zookeeper.jute")]
pub enum ReadOp {
    GetData { path: String },
    GetChildren { path: String },
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
}

impl WatcherType {
    fn decode(input: &mut Input) -> Result<WatcherType, Malformed> {
        match input.int("type")? {
            1 => Ok(WatcherType::Children),
            2 => Ok(WatcherType::Data),
            3 => Ok(WatcherType::Any),
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
    Delete { path: String, version: i32 },
    Exists { path: String, watch: bool },
    GetData { path: String, watch: bool },
    SetData { path: String, data: Option<Bytes>, version: i32 },
    GetAcl { path: String },
    SetAcl { path: String, acl: Vec<Acl>, version: i32 },
    GetChildren { path: String, watch: bool, with_stat: bool },
    Sync { path: String },
    Ping,
    Check { path: String, version: i32 },
    Multi(Vec<MultiOp>),
    MultiRead(Vec<ReadOp>),
    Auth { scheme: String, secret: Bytes },
    GetEphemerals { prefix: String },
    AddWatch { path: String, is_recursive: bool },
    CheckWatches { path: String, watcher_type: WatcherType },
    RemoveWatches { path: String, watcher_type: WatcherType },
    SetWatches(WatchSets),
    CloseSession,
}

/// A frame after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Number and type.
    pub header: RequestHeader,
    /// The request; `None` if its type is not supported.
    pub request: Option<Request>,
}

impl Decoded {
    /// Reads the body of a frame.
    ///
    /// # Errors
    /// If it is not a request. Bytes after a supported request are refused as well.
    pub fn decode(frame: Bytes) -> Result<Decoded, Malformed> {
        let mut input = Input::new(frame);
        let header = RequestHeader { xid: input.int("xid")?, code: input.int("type")? };
        let request = Request::decode(header.code, &mut input)?;
        if request.is_some() && input.remaining() > 0 {
            let extra = i32::try_from(input.remaining()).unwrap_or(i32::MAX);
            return Err(Malformed::Unknown {
                what: "bytes after the request, count",
                value: extra,
            });
        }
        Ok(Decoded { header, request })
    }
}

impl Request {
    fn decode(code: i32, input: &mut Input) -> Result<Option<Request>, Malformed> {
        let request = match code {
            CREATE | CREATE2 | CREATE_CONTAINER | CREATE_TTL => {
                Request::Create(CreateRequest::decode(code, input)?)
            }
            DELETE => {
                Request::Delete { path: input.string("path")?, version: input.int("version")? }
            }
            EXISTS => {
                Request::Exists { path: input.string("path")?, watch: input.boolean("watch")? }
            }
            GET_DATA => {
                Request::GetData { path: input.string("path")?, watch: input.boolean("watch")? }
            }
            SET_DATA => Request::SetData {
                path: input.string("path")?,
                data: input.buffer("data")?,
                version: input.int("version")?,
            },
            GET_ACL => Request::GetAcl { path: input.string("path")? },
            SET_ACL => Request::SetAcl {
                path: input.string("path")?,
                acl: decode_acl(input)?,
                version: input.int("version")?,
            },
            GET_CHILDREN | GET_CHILDREN2 => Request::GetChildren {
                path: input.string("path")?,
                watch: input.boolean("watch")?,
                with_stat: code == GET_CHILDREN2,
            },
            SYNC => Request::Sync { path: input.string("path")? },
            PING => Request::Ping,
            CHECK => Request::Check { path: input.string("path")?, version: input.int("version")? },
            MULTI => Request::Multi(decode_multi(input)?),
            MULTI_READ => Request::MultiRead(decode_multi_read(input)?),
            GET_EPHEMERALS => Request::GetEphemerals { prefix: input.string("prefixPath")? },
            ADD_WATCH => {
                let path = input.string("path")?;
                match input.int("mode")? {
                    0 => Request::AddWatch { path, is_recursive: false },
                    1 => Request::AddWatch { path, is_recursive: true },
                    value => return Err(Malformed::Unknown { what: "mode of a watch", value }),
                }
            }
            CHECK_WATCHES => Request::CheckWatches {
                path: input.string("path")?,
                watcher_type: WatcherType::decode(input)?,
            },
            REMOVE_WATCHES => Request::RemoveWatches {
                path: input.string("path")?,
                watcher_type: WatcherType::decode(input)?,
            },
            AUTH => {
                input.int("type")?;
                Request::Auth {
                    scheme: input.string("scheme")?,
                    secret: input.buffer("auth")?.unwrap_or_default(),
                }
            }
            SET_WATCHES | SET_WATCHES2 => {
                Request::SetWatches(WatchSets::decode(code == SET_WATCHES2, input)?)
            }
            CLOSE_SESSION => Request::CloseSession,
            _ => return Ok(None),
        };
        Ok(Some(request))
    }

    /// The number of the request's type.
    pub fn code(&self) -> i32 {
        match self {
            Request::Create(create) => create.code,
            Request::Delete { .. } => DELETE,
            Request::Exists { .. } => EXISTS,
            Request::GetData { .. } => GET_DATA,
            Request::SetData { .. } => SET_DATA,
            Request::GetAcl { .. } => GET_ACL,
            Request::SetAcl { .. } => SET_ACL,
            Request::GetChildren { with_stat: false, .. } => GET_CHILDREN,
            Request::GetChildren { with_stat: true, .. } => GET_CHILDREN2,
            Request::Sync { .. } => SYNC,
            Request::Ping => PING,
            Request::Check { .. } => CHECK,
            Request::Multi(_) => MULTI,
            Request::MultiRead(_) => MULTI_READ,
            Request::Auth { .. } => AUTH,
            Request::GetEphemerals { .. } => GET_EPHEMERALS,
            Request::AddWatch { .. } => ADD_WATCH,
            Request::CheckWatches { .. } => CHECK_WATCHES,
            Request::RemoveWatches { .. } => REMOVE_WATCHES,
            Request::SetWatches(WatchSets { persistent: None, .. }) => SET_WATCHES,
            Request::SetWatches(_) => SET_WATCHES2,
            Request::CloseSession => CLOSE_SESSION,
        }
    }

    /// Appends the whole frame, as a client sends it.
    pub fn encode(&self, xid: i32, into: &mut BytesMut) {
        let mut body = BytesMut::new();
        body.put_i32(xid);
        body.put_i32(self.code());
        self.encode_body(&mut body);
        into.count(body.len());
        into.extend_from_slice(&body);
    }

    fn encode_body(&self, into: &mut BytesMut) {
        match self {
            Request::Create(create) => create.encode(into),
            Request::Delete { path, version } | Request::Check { path, version } => {
                into.string(path);
                into.put_i32(*version);
            }
            Request::Exists { path, watch }
            | Request::GetData { path, watch }
            | Request::GetChildren { path, watch, .. } => {
                into.string(path);
                into.boolean(*watch);
            }
            Request::SetData { path, data, version } => {
                into.string(path);
                into.buffer(data.as_deref());
                into.put_i32(*version);
            }
            Request::GetAcl { path }
            | Request::Sync { path }
            | Request::GetEphemerals { prefix: path } => into.string(path),
            Request::AddWatch { path, is_recursive } => {
                into.string(path);
                into.put_i32(i32::from(*is_recursive));
            }
            Request::CheckWatches { path, watcher_type }
            | Request::RemoveWatches { path, watcher_type } => {
                into.string(path);
                into.put_i32(*watcher_type as i32);
            }
            Request::SetAcl { path, acl, version } => {
                into.string(path);
                encode_acl(acl, into);
                into.put_i32(*version);
            }
            Request::Multi(ops) => encode_multi(ops, into),
            Request::MultiRead(ops) => encode_multi_read(ops, into),
            Request::Auth { scheme, secret } => {
                into.put_i32(0);
                into.string(scheme);
                into.buffer(Some(secret));
            }
            Request::SetWatches(sets) => sets.encode(into),
            Request::Ping | Request::CloseSession => {}
        }
    }
}

impl CreateRequest {
    fn decode(code: i32, input: &mut Input) -> Result<CreateRequest, Malformed> {
        Ok(CreateRequest {
            code,
            path: input.string("path")?,
            data: input.buffer("data")?,
            acl: decode_acl(input)?,
            flags: input.int("flags")?,
            ttl_ms: if code == CREATE_TTL { Some(input.long("ttl")?) } else { None },
        })
    }

    fn encode(&self, into: &mut BytesMut) {
        into.string(&self.path);
        into.buffer(self.data.as_deref());
        encode_acl(&self.acl, into);
        into.put_i32(self.flags);
        if let Some(ttl_ms) = self.ttl_ms {
            into.put_i64(ttl_ms);
        }
    }
}

fn decode_acl(input: &mut Input) -> Result<Vec<Acl>, Malformed> {
    input.vector("acl", 12, |input| {
        Ok(Acl {
            permissions: input.int("perms")?,
            scheme: input.string("scheme")?,
            id: input.string("id")?,
        })
    })
}

fn encode_acl(acl: &[Acl], into: &mut BytesMut) {
    into.count(acl.len());
    for entry in acl {
        into.put_i32(entry.permissions);
        into.string(&entry.scheme);
        into.string(&entry.id);
    }
}

fn decode_multi(input: &mut Input) -> Result<Vec<MultiOp>, Malformed> {
    let mut ops = Vec::new();
    loop {
        let code = input.int("multi type")?;
        let is_done = input.boolean("multi done")?;
        input.int("multi err")?;
        if is_done {
            return Ok(ops);
        }
        ops.push(match code {
            CREATE | CREATE2 | CREATE_CONTAINER | CREATE_TTL => {
                MultiOp::Create(CreateRequest::decode(code, input)?)
            }
            DELETE => {
                MultiOp::Delete { path: input.string("path")?, version: input.int("version")? }
            }
            SET_DATA => MultiOp::SetData {
                path: input.string("path")?,
                data: input.buffer("data")?,
                version: input.int("version")?,
            },
            CHECK => MultiOp::Check { path: input.string("path")?, version: input.int("version")? },
            _ => return Err(Malformed::Unknown { what: "type of an op in multi", value: code }),
        });
    }
}

fn decode_multi_read(input: &mut Input) -> Result<Vec<ReadOp>, Malformed> {
    let mut ops = Vec::new();
    loop {
        let code = input.int("multiRead type")?;
        let is_done = input.boolean("multiRead done")?;
        input.int("multiRead err")?;
        if is_done {
            return Ok(ops);
        }
        let path = input.string("path")?;
        // A multiRead sets no watches; ZooKeeper reads the flag and ignores it.
        input.boolean("watch")?;
        ops.push(match code {
            GET_DATA => ReadOp::GetData { path },
            GET_CHILDREN => ReadOp::GetChildren { path },
            _ => {
                return Err(Malformed::Unknown { what: "type of an op in multiRead", value: code });
            }
        });
    }
}

fn encode_multi_read(ops: &[ReadOp], into: &mut BytesMut) {
    for op in ops {
        let (code, path) = match op {
            ReadOp::GetData { path } => (GET_DATA, path),
            ReadOp::GetChildren { path } => (GET_CHILDREN, path),
        };
        into.put_i32(code);
        into.boolean(false);
        into.put_i32(-1);
        into.string(path);
        into.boolean(false);
    }
    super::reply::multi_end(into);
}

fn encode_multi(ops: &[MultiOp], into: &mut BytesMut) {
    for op in ops {
        let code = match op {
            MultiOp::Create(create) => create.code,
            MultiOp::Delete { .. } => DELETE,
            MultiOp::SetData { .. } => SET_DATA,
            MultiOp::Check { .. } => CHECK,
        };
        into.put_i32(code);
        into.boolean(false);
        into.put_i32(-1);
        match op {
            MultiOp::Create(create) => create.encode(into),
            MultiOp::Delete { path, version } | MultiOp::Check { path, version } => {
                into.string(path);
                into.put_i32(*version);
            }
            MultiOp::SetData { path, data, version } => {
                into.string(path);
                into.buffer(data.as_deref());
                into.put_i32(*version);
            }
        }
    }
    super::reply::multi_end(into);
}

impl WatchSets {
    fn decode(with_persistent: bool, input: &mut Input) -> Result<WatchSets, Malformed> {
        let paths = |input: &mut Input, what| input.vector(what, 4, |input| input.string(what));
        Ok(WatchSets {
            relative_zxid: input.long("relativeZxid")?,
            data: paths(input, "dataWatches")?,
            exist: paths(input, "existWatches")?,
            child: paths(input, "childWatches")?,
            persistent: if with_persistent {
                let persistent = paths(input, "persistentWatches")?;
                Some((persistent, paths(input, "persistentRecursiveWatches")?))
            } else {
                None
            },
        })
    }

    fn encode(&self, into: &mut BytesMut) {
        into.put_i64(self.relative_zxid);
        for paths in [&self.data, &self.exist, &self.child] {
            super::reply::strings(into, paths);
        }
        if let Some((persistent, recursive)) = &self.persistent {
            super::reply::strings(into, persistent);
            super::reply::strings(into, recursive);
        }
    }
}
