//! Keys and values of the tree in the ordered key space.
//!
//! ```text
//!   10 01 path                      → node record, and behind it data of at most 256 bytes
//!   10 02 path                      → data of more than that
//!   10 03 string(parent) name       → child entry, empty: listing is one prefix scan
//!   10 04 session:u64               → session record
//!   10 05 session:u64 path          → ephemeral of the session, empty
//!   10 06 due_ms:u64 path           → container or TTL znode to look at then, empty
//!   10 07                           → totals
//!   10 08 path                      → the znodes from here down have a quota, empty
//! ```
//! Every value begins with a version byte; an "empty" value is that byte alone. Long data
//! stands apart from the node record, so that creating a child does not rewrite its parent's data;
//! short data stands with it, so that most znodes are read and written as one value.

use bytes::Bytes;
use proteus_machine::key::{KeyBuilder, push_string};
use proteus_store::{Read, StoreError};
use proteus_types::CommitTs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::acl::permission;
use crate::{Acl, AclEntry, CONTAINER_LINGER_MS, Session, SessionId, Stat, Zxid};

pub(crate) const SPACE: u8 = 0x10;

const NODE: u8 = 1;
const DATA: u8 = 2;
const CHILD: u8 = 3;
const SESSION: u8 = 4;
const EPHEMERAL: u8 = 5;
pub(crate) const DUE: u8 = 6;
const TOTALS: u8 = 7;
const QUOTA: u8 = 8;

/// Bytes that nearly every record takes: all but those with long ACLs.
const RECORD_BYTES_USUAL: usize = 160;

/// Bytes that the keys of most lookups fit in.
const KEY_BYTES_USUAL: usize = 128;

/// Longest data that stands behind its znode's record.
const DATA_INLINE_BYTES_MAX: usize = 256;

/// Version of every value's format.
const VERSION: u8 = 2;

/// How long a znode lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lifetime {
    /// Until deleted.
    Persistent,
    /// As long as the session.
    Ephemeral(SessionId),
    /// Until its last child has been gone for a while.
    Container,
    /// Until it has had no children and its data has not been set for so long, in milliseconds.
    TimeToLive(u64),
}

/// Everything of a znode but long data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) created_zxid: Zxid,
    pub(crate) modified_zxid: Zxid,
    pub(crate) children_zxid: Zxid,
    pub(crate) created_ms: u64,
    pub(crate) modified_ms: u64,
    pub(crate) data_version: i32,
    pub(crate) acl_version: i32,
    /// Children ever created: the counter that names sequential children. Wraps, as ZooKeeper's.
    pub(crate) created_count: i32,
    /// Children that exist now.
    pub(crate) child_count: u32,
    pub(crate) data_bytes: u32,
    /// Whether it has data. ZooKeeper tells null from empty data.
    pub(crate) has_data: bool,
    pub(crate) lifetime: Lifetime,
    pub(crate) acl: Acl,
    /// Its data, unless that stands apart.
    #[serde(skip)]
    pub(crate) data_inline: Bytes,
}

impl NodeRecord {
    /// A znode that exists without having been created: the root and ZooKeeper's own.
    fn built_in(path: &str, child_count: u32) -> NodeRecord {
        // Who may read the members of an ensemble may not change them.
        let is_guarded = path == CONFIG;
        NodeRecord {
            created_zxid: Zxid(0),
            modified_zxid: Zxid(0),
            children_zxid: Zxid(0),
            created_ms: 0,
            modified_ms: 0,
            data_version: 0,
            acl_version: if is_guarded { -1 } else { 0 },
            created_count: 0,
            child_count,
            data_bytes: 0,
            has_data: false,
            lifetime: Lifetime::Persistent,
            acl: if is_guarded {
                Acl::new(vec![AclEntry { permissions: permission::READ, ..AclEntry::open() }])
            } else {
                Acl::OPEN
            },
            data_inline: Bytes::new(),
        }
    }

    /// Whether its data stands under a key of its own.
    pub(crate) fn is_data_apart(&self) -> bool {
        self.data_bytes as usize > DATA_INLINE_BYTES_MAX
    }

    /// Notes new data; true if it has to stand under a key of its own.
    pub(crate) fn take_data(&mut self, data: Option<&Bytes>) -> bool {
        self.has_data = data.is_some();
        self.data_bytes = data.map_or(0, |data| u32::try_from(data.len()).unwrap_or(u32::MAX));
        let is_apart = self.is_data_apart();
        self.data_inline = data.filter(|_| !is_apart).map_or_else(Bytes::new, |data| data.clone());
        is_apart
    }

    /// When to look whether it goes, in milliseconds since the Unix epoch, if it has no children:
    /// for a container since its last child went, which is when its children last changed.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        match self.lifetime {
            Lifetime::Persistent | Lifetime::Ephemeral(_) => None,
            Lifetime::Container => {
                let emptied_ms = CommitTs(self.children_zxid.0.cast_unsigned()).physical_ms();
                (self.created_count != 0).then(|| emptied_ms.saturating_add(CONTAINER_LINGER_MS))
            }
            Lifetime::TimeToLive(ttl_ms) => Some(self.modified_ms.saturating_add(ttl_ms)),
        }
    }

    /// The record in ZooKeeper's terms. `cversion` counts creations and deletions of children:
    /// every child ever created counts once, and once more if it is gone.
    pub(crate) fn stat(&self) -> Stat {
        let child_count = i32::try_from(self.child_count).unwrap_or(i32::MAX);
        Stat {
            czxid: self.created_zxid,
            mzxid: self.modified_zxid,
            pzxid: self.children_zxid,
            ctime_ms: i64::try_from(self.created_ms).unwrap_or(i64::MAX),
            mtime_ms: i64::try_from(self.modified_ms).unwrap_or(i64::MAX),
            version: self.data_version,
            cversion: self.created_count.wrapping_mul(2).wrapping_sub(child_count),
            aversion: self.acl_version,
            ephemeral_owner: match self.lifetime {
                Lifetime::Ephemeral(session) => session.0,
                // ZooKeeper keeps it there what kind of znode this is, but tells no client.
                Lifetime::Persistent | Lifetime::Container | Lifetime::TimeToLive(_) => 0,
            },
            data_length: i32::try_from(self.data_bytes).unwrap_or(i32::MAX),
            num_children: child_count,
        }
    }
}

/// ZooKeeper's own znode with the members of the ensemble.
pub const CONFIG: &str = "/zookeeper/config";

/// Znodes that exist in every tree, with their built-in children. As in ZooKeeper, they cannot be
/// deleted.
pub(crate) const BUILT_IN: [(&str, &[&str]); 4] = [
    ("/", &["zookeeper"]),
    ("/zookeeper", &["config", "quota"]),
    (CONFIG, &[]),
    ("/zookeeper/quota", &[]),
];

/// Built-in children of `path`; `None` if the znode itself is not built in.
pub(crate) fn built_in_children(path: &str) -> Option<&'static [&'static str]> {
    BUILT_IN.iter().find(|(name, _)| *name == path).map(|(_, children)| *children)
}

/// A key of one kind and a path, in one piece of memory of exactly its size.
fn path_key(kind: u8, path: &str) -> Bytes {
    let mut key = Vec::with_capacity(2 + path.len());
    key.extend_from_slice(&[SPACE, kind]);
    key.extend_from_slice(path.as_bytes());
    Bytes::from(key)
}

/// Calls `use_key` with such a key. Most fit on the stack, so that a lookup takes no memory.
fn with_path_key<T>(kind: u8, path: &str, use_key: impl FnOnce(&[u8]) -> T) -> T {
    let mut buffer = [0; KEY_BYTES_USUAL];
    match buffer.get_mut(..2 + path.len()) {
        Some(key) => {
            key[..2].copy_from_slice(&[SPACE, kind]);
            key[2..].copy_from_slice(path.as_bytes());
            use_key(key)
        }
        None => use_key(&path_key(kind, path)),
    }
}

pub(crate) fn node_key(path: &str) -> Bytes {
    path_key(NODE, path)
}

pub(crate) fn data_key(path: &str) -> Bytes {
    path_key(DATA, path)
}

/// What the keys of all children of `parent` begin with.
pub(crate) fn children_prefix(parent: &str) -> Vec<u8> {
    KeyBuilder::new(SPACE, CHILD).string(parent.as_bytes()).into_vec()
}

pub(crate) fn child_key(parent: &str, name: &str) -> Bytes {
    let mut key = Vec::with_capacity(4 + parent.len() + name.len());
    key.extend_from_slice(&[SPACE, CHILD]);
    // Paths hold no zero bytes, so that nothing is escaped and the size is exact.
    push_string(&mut key, parent.as_bytes());
    key.extend_from_slice(name.as_bytes());
    Bytes::from(key)
}

pub(crate) fn sessions_prefix() -> Vec<u8> {
    KeyBuilder::new(SPACE, SESSION).into_vec()
}

pub(crate) fn session_key(session: SessionId) -> Bytes {
    Bytes::copy_from_slice(&session_key_bytes(session))
}

fn session_key_bytes(session: SessionId) -> [u8; 10] {
    let mut key = [SPACE, SESSION, 0, 0, 0, 0, 0, 0, 0, 0];
    key[2..].copy_from_slice(&session.0.to_be_bytes());
    key
}

pub(crate) fn ephemerals_prefix(session: SessionId) -> Vec<u8> {
    KeyBuilder::new(SPACE, EPHEMERAL).u64(session.0.cast_unsigned()).into_vec()
}

pub(crate) fn ephemeral_key(session: SessionId, path: &str) -> Bytes {
    KeyBuilder::new(SPACE, EPHEMERAL).u64(session.0.cast_unsigned()).raw(path.as_bytes()).build()
}

/// Start of the keys of znodes that became due at or after `due_ms`.
pub(crate) fn due_from(due_ms: u64) -> Vec<u8> {
    KeyBuilder::new(SPACE, DUE).u64(due_ms).into_vec()
}

pub(crate) fn due_key(due_ms: u64, path: &str) -> Bytes {
    KeyBuilder::new(SPACE, DUE).u64(due_ms).raw(path.as_bytes()).build()
}

pub(crate) fn quota_key(path: &str) -> Bytes {
    path_key(QUOTA, path)
}

const TOTALS_KEY: &[u8] = &[SPACE, TOTALS];

/// The value of keys that say all there is to say.
pub(crate) fn marker() -> Bytes {
    Bytes::from_static(&[VERSION])
}

pub(crate) fn encode(value: &impl Serialize) -> Bytes {
    encode_with(value, &[])
}

pub(crate) fn encode_node(node: &NodeRecord) -> Bytes {
    encode_with(node, &node.data_inline)
}

/// The value's bytes, and `rest` behind them, in one piece of memory.
fn encode_with(value: &impl Serialize, rest: &[u8]) -> Bytes {
    // Nearly every record fits; one copy into memory of its size is less than growing there.
    let mut buffer = [0; RECORD_BYTES_USUAL];
    if let Ok(encoded) = postcard::to_slice(value, &mut buffer) {
        let mut bytes = Vec::with_capacity(1 + encoded.len() + rest.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(encoded);
        bytes.extend_from_slice(rest);
        return Bytes::from(bytes);
    }
    // Encoding plain data into a growing buffer has no way to fail.
    let mut bytes = postcard::to_extend(value, vec![VERSION]).expect("plain data encodes");
    bytes.extend_from_slice(rest);
    Bytes::from(bytes)
}

pub(crate) fn encode_data(data: &[u8]) -> Bytes {
    let mut value = Vec::with_capacity(1 + data.len());
    value.push(VERSION);
    value.extend_from_slice(data);
    Bytes::from(value)
}

fn decode<T: DeserializeOwned>(key: &[u8], value: &Bytes) -> Result<T, StoreError> {
    let encoded = without_version(key, value)?;
    postcard::from_bytes(encoded).map_err(|error| StoreError::corrupt(key, error.to_string()))
}

fn without_version<'a>(key: &[u8], value: &'a Bytes) -> Result<&'a [u8], StoreError> {
    match value.split_first() {
        Some((&VERSION, encoded)) => Ok(encoded),
        Some((version, _)) => Err(StoreError::corrupt(
            key,
            format!("format version {version}, but this binary reads {VERSION}"),
        )),
        None => Err(StoreError::corrupt(key, "no bytes")),
    }
}

/// The record of the znode at `path`.
pub(crate) fn node(read: &dyn Read, path: &str) -> Result<Option<NodeRecord>, StoreError> {
    let found = with_path_key(NODE, path, |key| {
        read.get(key)?.map(|value| decode_node(key, &value)).transpose()
    })?;
    match found {
        Some(node) => Ok(Some(node)),
        None => Ok(built_in_children(path).map(|children| {
            NodeRecord::built_in(path, u32::try_from(children.len()).unwrap_or(u32::MAX))
        })),
    }
}

/// The data of the znode at `path` with this record, which must have some.
pub(crate) fn data(read: &dyn Read, path: &str, node: &NodeRecord) -> Result<Bytes, StoreError> {
    if !node.is_data_apart() {
        return Ok(node.data_inline.clone());
    }
    let key = data_key(path);
    match read.get(&key)? {
        Some(value) => without_version(&key, &value).map(|data| value.slice_ref(data)),
        None => Err(StoreError::corrupt(&key, "the znode has data, but it is not here")),
    }
}

/// The session's record.
pub(crate) fn session(read: &dyn Read, session: SessionId) -> Result<Option<Session>, StoreError> {
    let key = session_key_bytes(session);
    read.get(&key)?.map(|value| decode(&key, &value)).transpose()
}

pub(crate) fn decode_session(key: &[u8], value: &Bytes) -> Result<Session, StoreError> {
    decode(key, value)
}

/// What is counted over the whole tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Znodes stored, which leaves out those built in that were never touched.
    pub(crate) stored_count: u64,
    /// Quotas. While there are none, no change looks for one.
    pub(crate) quota_count: u32,
}

pub(crate) fn totals(read: &dyn Read) -> Result<Totals, StoreError> {
    let value = read.get(TOTALS_KEY)?;
    Ok(value.map(|value| decode(TOTALS_KEY, &value)).transpose()?.unwrap_or_default())
}

/// Key and value of the totals. Of an empty tree there is nothing to store.
pub(crate) fn totals_entry(totals: Totals) -> (Bytes, Option<Bytes>) {
    (Bytes::from_static(TOTALS_KEY), (totals != Totals::default()).then(|| encode(&totals)))
}

/// What the keys of all znodes below `path` begin with.
pub(crate) fn below_prefix(path: &str) -> Vec<u8> {
    let separator: &[u8] = if path == "/" { b"" } else { b"/" };
    KeyBuilder::new(SPACE, NODE).raw(path.as_bytes()).raw(separator).into_vec()
}

/// The record in the value of a znode's key.
pub(crate) fn decode_node(key: &[u8], value: &Bytes) -> Result<NodeRecord, StoreError> {
    let encoded = without_version(key, value)?;
    let (mut node, rest) = postcard::take_from_bytes::<NodeRecord>(encoded)
        .map_err(|error| StoreError::corrupt(key, error.to_string()))?;
    let inline_bytes = if node.is_data_apart() { 0 } else { node.data_bytes as usize };
    if rest.len() != inline_bytes {
        return Err(StoreError::corrupt(key, "the znode's data has another length"));
    }
    if inline_bytes > 0 {
        node.data_inline = value.slice_ref(rest);
    }
    Ok(node)
}
