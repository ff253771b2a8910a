//! What faces may read of the tree.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::key::{first_u64, take_u64};
use proteus_store::{Direction, Read, StoreError, prefix_end};

use crate::record::{self, BUILT_IN, Lifetime, NodeRecord};
use crate::{Acl, NodeKind, Session, SessionId, Stat};

/// A znode as a reader finds it: its record is read once, its data and children on demand.
#[derive(Clone)]
pub struct Node<'a> {
    read: &'a dyn Read,
    path: &'a str,
    record: NodeRecord,
}

/// The znode at `path`; `None` if there is none.
///
/// # Errors
/// If the store fails.
pub fn node<'a>(read: &'a dyn Read, path: &'a str) -> Result<Option<Node<'a>>, StoreError> {
    Ok(record::node(read, path)?.map(|record| Node { read, path, record }))
}

impl Node<'_> {
    /// Its stat.
    pub fn stat(&self) -> Stat {
        self.record.stat()
    }

    /// How long it lives.
    pub fn kind(&self) -> NodeKind {
        match self.record.lifetime {
            Lifetime::Persistent => NodeKind::Persistent,
            Lifetime::Ephemeral(session) => NodeKind::Ephemeral(session),
            Lifetime::Container => NodeKind::Container,
            Lifetime::TimeToLive(ttl_ms) => NodeKind::TimeToLive(ttl_ms),
        }
    }

    /// Its ACL.
    pub fn acl(&self) -> &Acl {
        &self.record.acl
    }

    /// Its data; `None` where a client set null.
    ///
    /// # Errors
    /// If the store fails.
    pub fn data(&self) -> Result<Option<Bytes>, StoreError> {
        if self.record.has_data {
            return record::data(self.read, self.path, &self.record).map(Some);
        }
        // ZooKeeper's own znodes begin with empty data, not null.
        let is_untouched =
            self.record.data_version == 0 && record::built_in_children(self.path).is_some();
        Ok(is_untouched.then(Bytes::new))
    }

    /// Names of its children, sorted.
    ///
    /// # Errors
    /// If the store fails.
    pub fn children(&self) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::with_capacity(self.record.child_count as usize);
        self.visit_children(&mut |name| names.push(name.to_owned()))?;
        Ok(names)
    }

    /// Calls `visit` with the name of each child, sorted.
    ///
    /// # Errors
    /// If the store fails.
    pub fn visit_children(&self, visit: &mut dyn FnMut(&str)) -> Result<(), StoreError> {
        if self.record.child_count == 0 {
            return Ok(());
        }
        visit_children(self.read, self.path, visit)
    }

    /// How many znodes there are below it, at any depth.
    ///
    /// # Errors
    /// If the store fails.
    pub fn descendant_count(&self) -> Result<u64, StoreError> {
        if self.path == "/" {
            return Ok(node_count(self.read)?.saturating_sub(1));
        }
        let prefix = record::below_prefix(self.path);
        let mut count = 0;
        self.read.scan_prefix(&prefix, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        for (path, _) in BUILT_IN {
            let key = record::node_key(path);
            if key.starts_with(&prefix) && self.read.get(&key)?.is_none() {
                count += 1;
            }
        }
        Ok(count)
    }
}

/// The stat of the znode at `path`; `None` if there is none.
///
/// # Errors
/// If the store fails.
pub fn stat(read: &dyn Read, path: &str) -> Result<Option<Stat>, StoreError> {
    Ok(node(read, path)?.map(|node| node.stat()))
}

/// Data and stat of the znode at `path`; the data is `None` where a client set null.
///
/// # Errors
/// If the store fails.
pub fn data(read: &dyn Read, path: &str) -> Result<Option<(Option<Bytes>, Stat)>, StoreError> {
    node(read, path)?.map(|node| Ok((node.data()?, node.stat()))).transpose()
}

/// Names of the children of the znode at `path`, sorted, and its stat.
///
/// # Errors
/// If the store fails.
pub fn children(read: &dyn Read, path: &str) -> Result<Option<(Vec<String>, Stat)>, StoreError> {
    node(read, path)?.map(|node| Ok((node.children()?, node.stat()))).transpose()
}

/// Names of the children of the znode at `path`, sorted; none if it does not exist.
pub(crate) fn child_names(read: &dyn Read, path: &str) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    visit_children(read, path, &mut |name| names.push(name.to_owned()))?;
    Ok(names)
}

fn visit_children(
    read: &dyn Read,
    path: &str,
    visit: &mut dyn FnMut(&str),
) -> Result<(), StoreError> {
    // Those that are built in come in between, whether stored or not.
    let mut built_in = record::built_in_children(path).unwrap_or_default().iter().peekable();
    let prefix = record::children_prefix(path);
    let mut damaged = None;
    read.scan_prefix(&prefix, &mut |key, _| {
        let name = key.get(prefix.len()..).unwrap_or_default();
        match std::str::from_utf8(name) {
            Ok(name) => {
                while let Some(before) = built_in.next_if(|built_in| **built_in <= name) {
                    if *before != name {
                        visit(before);
                    }
                }
                visit(name);
                ControlFlow::Continue(())
            }
            Err(error) => {
                damaged = Some(StoreError::corrupt(key, error.to_string()));
                ControlFlow::Break(())
            }
        }
    })?;
    built_in.for_each(|name| visit(name));
    damaged.map_or(Ok(()), Err)
}

/// What is known of `session`; `None` if it was closed, expired, or never was.
///
/// # Errors
/// If the store fails.
pub fn session(read: &dyn Read, session: SessionId) -> Result<Option<Session>, StoreError> {
    record::session(read, session)
}

/// At most `count_max` sessions in the order of their ids, from the first after `after`.
///
/// # Errors
/// If the store fails.
pub fn sessions(
    read: &dyn Read,
    after: Option<SessionId>,
    count_max: usize,
) -> Result<Vec<(SessionId, Session)>, StoreError> {
    let prefix = record::sessions_prefix();
    let start = match after {
        Some(session) => {
            let mut after = record::session_key(session).to_vec();
            after.push(0);
            after
        }
        None => prefix.clone(),
    };
    let mut found = Ok(Vec::new());
    read.scan(&start, &prefix_end(&prefix), Direction::Ascending, &mut |key, value| {
        let entry = match take_u64(key.get(prefix.len()..).unwrap_or_default()) {
            Some((id, [])) => record::decode_session(key, value)
                .map(|session| (SessionId(id.cast_signed()), session)),
            _ => Err(StoreError::corrupt(key, "not the key of a session")),
        };
        push_or_fail(&mut found, entry, count_max)
    })?;
    found
}

/// Paths of the ephemerals of `session`, sorted.
///
/// # Errors
/// If the store fails.
pub fn ephemerals(read: &dyn Read, session: SessionId) -> Result<Vec<String>, StoreError> {
    let prefix = record::ephemerals_prefix(session);
    let mut found = Ok(Vec::new());
    read.scan_prefix(&prefix, &mut |key, _| {
        push_or_fail(&mut found, name_after(key, prefix.len()), usize::MAX)
    })?;
    found
}

/// Containers and znodes with a time to live to look at by `now_ms`, with the time they were due.
pub(crate) fn due(
    read: &dyn Read,
    now_ms: u64,
    count_max: usize,
) -> Result<Vec<(u64, String)>, StoreError> {
    let start = record::due_from(0);
    let end = record::due_from(now_ms.saturating_add(1));
    let mut found = Ok(Vec::new());
    read.scan(&start, &end, Direction::Ascending, &mut |key, _| {
        let entry = match take_u64(key.get(2..).unwrap_or_default()) {
            Some((due_ms, _)) => name_after(key, 10).map(|path| (due_ms, path)),
            None => Err(StoreError::corrupt(key, "not the key of a znode that is due")),
        };
        push_or_fail(&mut found, entry, count_max)
    })?;
    found
}

/// When the first of them is to be looked at.
pub(crate) fn next_due_ms(read: &dyn Read) -> Result<Option<u64>, StoreError> {
    first_u64(read, record::SPACE, record::DUE)
}

/// How many znodes there are.
///
/// # Errors
/// If the store fails.
pub fn node_count(read: &dyn Read) -> Result<u64, StoreError> {
    let mut count = record::totals(read)?.stored_count;
    for (path, _) in BUILT_IN {
        if read.get(&record::node_key(path))?.is_none() {
            count += 1;
        }
    }
    Ok(count)
}

fn name_after(key: &[u8], prefix_bytes: usize) -> Result<String, StoreError> {
    let name = key.get(prefix_bytes..).unwrap_or_default();
    String::from_utf8(name.to_vec()).map_err(|error| StoreError::corrupt(key, error.to_string()))
}

fn push_or_fail<T>(
    found: &mut Result<Vec<T>, StoreError>,
    entry: Result<T, StoreError>,
    count_max: usize,
) -> ControlFlow<()> {
    match (found.as_mut(), entry) {
        (Ok(entries), Ok(entry)) if entries.len() < count_max => {
            entries.push(entry);
            if entries.len() < count_max {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        }
        (_, Err(error)) => {
            *found = Err(error);
            ControlFlow::Break(())
        }
        _ => ControlFlow::Break(()),
    }
}
