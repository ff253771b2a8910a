//! Watches of all connections of this node.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use proteus_kernel_api::tree::{self, Acl, Change, Zxid};

use crate::codec::reply::{self, EventType};
use crate::outbox::Outbox;

/// Most memory that the watches of one connection may take, in bytes: about a million of them.
pub(crate) const WATCH_BYTES_PER_CONNECTION_MAX: usize = 256 * 1024 * 1024;

/// What a watch takes beyond its path, in bytes: its places in two tables.
const WATCH_OVERHEAD_BYTES: usize = 192;

/// What a watch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WatchKind {
    /// The znode's coming, going, or change of data; once.
    Data,
    /// The going of the znode, or a child's coming or going; once.
    Child,
    /// All of that, every time.
    Persistent,
    /// Coming, going and change of data of the znode and all below it, every time.
    PersistentRecursive,
}

impl WatchKind {
    /// All kinds.
    pub(crate) const ALL: [WatchKind; 4] =
        [WatchKind::Data, WatchKind::Child, WatchKind::Persistent, WatchKind::PersistentRecursive];
}

/// The connection has too many watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyWatches;

/// The table of watches. Registering happens within a read of the state, firing within a commit;
/// those exclude each other, so no change falls between a read and its watch.
#[derive(Default)]
pub(crate) struct Watches {
    table: Mutex<Table>,
}

/// What `wchs` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WatchSummary {
    pub(crate) connection_count: usize,
    pub(crate) path_count: usize,
    pub(crate) watch_count: usize,
}

type Watchers = HashMap<u64, Arc<Outbox>>;

/// Invariant: a connection stands under a path if and only if the path stands under the connection.
#[derive(Default)]
struct Table {
    data: HashMap<Arc<str>, Watchers>,
    child: HashMap<Arc<str>, Watchers>,
    persistent: HashMap<Arc<str>, Watchers>,
    recursive: HashMap<Arc<str>, Watchers>,
    by_connection: HashMap<u64, Own>,
}

/// The watches of one connection.
#[derive(Default)]
struct Own {
    watches: HashSet<(WatchKind, Arc<str>)>,
    bytes: usize,
}

fn cost(path: &str) -> usize {
    path.len() + WATCH_OVERHEAD_BYTES
}

impl Watches {
    /// Sets a watch; setting it twice is the same as once.
    pub(crate) fn register(
        &self,
        kind: WatchKind,
        path: &str,
        connection_id: u64,
        outbox: &Arc<Outbox>,
    ) -> Result<(), TooManyWatches> {
        let mut table = self.table.lock();
        let path: Arc<str> = match table.of_kind(kind).get_key_value(path) {
            Some((path, _)) => path.clone(),
            None => Arc::from(path),
        };
        let own = table.by_connection.entry(connection_id).or_default();
        if own.bytes + cost(&path) > WATCH_BYTES_PER_CONNECTION_MAX {
            return Err(TooManyWatches);
        }
        if own.watches.insert((kind, path.clone())) {
            own.bytes += cost(&path);
            table.of_kind(kind).entry(path).or_default().insert(connection_id, outbox.clone());
        }
        Ok(())
    }

    /// Forgets the watches of a connection that has ended.
    pub(crate) fn forget(&self, connection_id: u64) {
        let mut table = self.table.lock();
        let own = table.by_connection.remove(&connection_id).unwrap_or_default();
        for (kind, path) in own.watches {
            if let Entry::Occupied(mut entry) = table.of_kind(kind).entry(path) {
                entry.get_mut().remove(&connection_id);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
    }

    /// How many watches are set, on how many paths, by how many connections.
    pub(crate) fn summary(&self) -> WatchSummary {
        let table = self.table.lock();
        let of_kinds = [&table.data, &table.child, &table.persistent, &table.recursive];
        WatchSummary {
            connection_count: table.by_connection.len(),
            // A path that is watched in two ways is two entries, as in ZooKeeper's two tables.
            path_count: of_kinds.iter().map(|paths| paths.len()).sum(),
            watch_count: table.by_connection.values().map(|own| own.watches.len()).sum(),
        }
    }

    /// Every watch: whose, and on what.
    pub(crate) fn all(&self) -> Vec<(u64, Arc<str>)> {
        let table = self.table.lock();
        let watches = table.by_connection.iter().flat_map(|(connection_id, own)| {
            own.watches.iter().map(|(_, path)| (*connection_id, path.clone()))
        });
        watches.collect()
    }

    /// Fires the watches that wait for `change`.
    pub(crate) fn on_change(&self, change: &Change, zxid: Zxid) {
        let mut table = self.table.lock();
        if table.by_connection.is_empty() {
            return;
        }
        let (event, path, acl) = match change {
            Change::NodeCreated { path, acl } => (EventType::NodeCreated, path, acl),
            Change::NodeDataChanged { path, acl } => (EventType::NodeDataChanged, path, acl),
            Change::NodeDeleted { path, acl } => (EventType::NodeDeleted, path, acl),
            Change::ChildrenChanged { path, acl } => (EventType::NodeChildrenChanged, path, acl),
            Change::SoftQuotaExceeded { .. }
            | Change::SessionOpened { .. }
            | Change::SessionClosed { .. }
            | Change::SessionsHeard { .. }
            | Change::SessionMoved { .. } => return,
        };
        // One event to each client, however many of its watches wait for it.
        let mut watchers = Watchers::new();
        if event != EventType::NodeChildrenChanged {
            watchers.extend(table.take(WatchKind::Data, path));
            table.add_recursive(path, &mut watchers);
        }
        if matches!(event, EventType::NodeChildrenChanged | EventType::NodeDeleted) {
            watchers.extend(table.take(WatchKind::Child, path));
        }
        if let Some(persistent) = table.persistent.get(path.as_str()) {
            add(persistent, &mut watchers);
        }
        send((event, path, zxid), acl, &watchers);
    }

    /// Whether the connection has such a watch.
    pub(crate) fn is_watching(&self, kind: WatchKind, path: &str, connection_id: u64) -> bool {
        let mut table = self.table.lock();
        table.of_kind(kind).get(path).is_some_and(|watchers| watchers.contains_key(&connection_id))
    }

    /// Takes a watch away; false if there was none.
    pub(crate) fn unregister(&self, kind: WatchKind, path: &str, connection_id: u64) -> bool {
        let mut table = self.table.lock();
        let Some((path, mut watchers)) = table.of_kind(kind).remove_entry(path) else {
            return false;
        };
        let is_removed = watchers.remove(&connection_id).is_some();
        if !watchers.is_empty() {
            table.of_kind(kind).insert(path.clone(), watchers);
        }
        if is_removed {
            table.disown(connection_id, &(kind, path));
        }
        is_removed
    }
}

impl Table {
    fn of_kind(&mut self, kind: WatchKind) -> &mut HashMap<Arc<str>, Watchers> {
        match kind {
            WatchKind::Data => &mut self.data,
            WatchKind::Child => &mut self.child,
            WatchKind::Persistent => &mut self.persistent,
            WatchKind::PersistentRecursive => &mut self.recursive,
        }
    }

    fn take(&mut self, kind: WatchKind, path: &str) -> Watchers {
        let Some((path, watchers)) = self.of_kind(kind).remove_entry(path) else {
            return Watchers::new();
        };
        let key = (kind, path);
        for connection_id in watchers.keys() {
            self.disown(*connection_id, &key);
        }
        watchers
    }

    fn disown(&mut self, connection_id: u64, key: &(WatchKind, Arc<str>)) {
        if let Entry::Occupied(mut own) = self.by_connection.entry(connection_id) {
            let connection = own.get_mut();
            if connection.watches.remove(key) {
                connection.bytes -= cost(&key.1);
            }
            if connection.watches.is_empty() {
                own.remove();
            }
        }
    }

    /// Adds those who watch all below a path that `path` is at or below.
    fn add_recursive(&self, path: &str, watchers: &mut Watchers) {
        if self.recursive.is_empty() {
            return;
        }
        let mut at = Some(path);
        while let Some(path) = at {
            if let Some(recursive) = self.recursive.get(path) {
                add(recursive, watchers);
            }
            at = tree::path::split(path).map(|(parent, _)| parent);
        }
    }
}

fn add(some: &Watchers, to: &mut Watchers) {
    to.extend(some.iter().map(|(connection_id, outbox)| (*connection_id, outbox.clone())));
}

fn send((event, path, zxid): (EventType, &str, Zxid), acl: &Acl, watchers: &Watchers) {
    if watchers.is_empty() {
        return;
    }
    let mut encoded = BytesMut::new();
    reply::event(&mut encoded, event, path, zxid.0);
    for outbox in watchers.values() {
        outbox.push_event(&encoded, acl);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proteus_kernel_api::tree::{AclEntry, Credentials, Identity};

    fn changed(path: &str) -> Change {
        Change::NodeDataChanged { path: path.to_owned(), acl: Acl::OPEN }
    }

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(Credentials::of(&[])))
    }

    #[test]
    fn nobody_learns_of_what_it_may_not_read() {
        let (watches, ann, bob) = (Watches::default(), outbox(), outbox());
        let identity = Identity { scheme: "digest".to_owned(), id: "ann:x".to_owned() };
        ann.set_credentials(Credentials::of(&[identity]));
        let entry =
            AclEntry { permissions: 31, scheme: "digest".to_owned(), id: "ann:x".to_owned() };
        let acl = Acl::new(vec![entry]);
        for (connection_id, outbox) in [(1, &ann), (2, &bob)] {
            let kind = WatchKind::PersistentRecursive;
            watches.register(kind, "/", connection_id, outbox).expect("few watches");
        }
        watches.on_change(&Change::NodeCreated { path: "/a".to_owned(), acl }, Zxid(7));
        assert!(ann.len() > 0);
        assert_eq!(bob.len(), 0);
    }

    #[test]
    fn a_watch_fires_once_and_leaves_nothing_behind() {
        let (watches, outbox) = (Watches::default(), outbox());
        for _ in 0..2 {
            watches.register(WatchKind::Data, "/a", 1, &outbox).expect("few watches");
        }
        watches.register(WatchKind::Data, "/b", 1, &outbox).expect("few watches");
        assert_eq!(watches.summary().watch_count, 2);
        watches.on_change(&changed("/a"), Zxid(7));
        let once = outbox.len();
        assert!(once > 0);
        watches.on_change(&changed("/a"), Zxid(7));
        assert_eq!(outbox.len(), once);
        watches.forget(1);
        assert_eq!(watches.summary().watch_count, 0);
        watches.on_change(&changed("/b"), Zxid(7));
        assert_eq!(outbox.len(), once);
        let table = watches.table.lock();
        assert!(table.data.is_empty() && table.child.is_empty() && table.by_connection.is_empty());
    }

    #[test]
    fn persistent_watches_stay_and_reach_below_if_recursive() {
        let (watches, outbox) = (Watches::default(), outbox());
        let told = |change: &Change| {
            let mut queued = BytesMut::new();
            watches.on_change(change, Zxid(7));
            outbox.take(&mut queued);
            !queued.is_empty()
        };
        let children_changed =
            |path: &str| Change::ChildrenChanged { path: path.to_owned(), acl: Acl::OPEN };
        watches.register(WatchKind::PersistentRecursive, "/a", 1, &outbox).expect("few watches");
        for _ in 0..2 {
            assert!(told(&changed("/a")) && told(&changed("/a/b/c")));
            assert!(!told(&changed("/ab")) && !told(&children_changed("/a")));
        }
        assert!(watches.unregister(WatchKind::PersistentRecursive, "/a", 1));
        assert!(!watches.unregister(WatchKind::PersistentRecursive, "/a", 1));
        assert!(!told(&changed("/a")));

        watches.register(WatchKind::Persistent, "/a", 1, &outbox).expect("few watches");
        for _ in 0..2 {
            assert!(told(&changed("/a")) && told(&children_changed("/a")));
            assert!(!told(&changed("/a/b")));
        }
        assert!(watches.is_watching(WatchKind::Persistent, "/a", 1));
        watches.forget(1);
        assert_eq!(watches.summary().watch_count, 0);
    }

    #[test]
    fn a_deletion_is_told_once_to_who_watches_data_and_children() {
        let (watches, outbox) = (Watches::default(), outbox());
        watches.register(WatchKind::Data, "/a", 1, &outbox).expect("few watches");
        watches.register(WatchKind::Child, "/a", 1, &outbox).expect("few watches");
        watches.on_change(&Change::NodeDeleted { path: "/a".to_owned(), acl: Acl::OPEN }, Zxid(7));
        let mut expected = BytesMut::new();
        reply::event(&mut expected, EventType::NodeDeleted, "/a", 7);
        let mut queued = BytesMut::new();
        outbox.take(&mut queued);
        assert_eq!(queued, expected);
        assert_eq!(watches.summary().watch_count, 0);
    }
}
