//! One-shot watches of all connections of this node.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use proteus_kernel_api::tree::Change;

use crate::codec::reply::{self, EventType};
use crate::outbox::Outbox;

/// Most watches of one connection. What they cost is memory of ours, some hundred bytes each.
pub(crate) const WATCHES_PER_CONNECTION_MAX: usize = 1 << 20;

/// What a watch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WatchKind {
    /// The znode's coming, going, or change of data.
    Data,
    /// The going of the znode, or a child's coming or going.
    Child,
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

type Watchers = HashMap<u64, Arc<Outbox>>;

/// Invariant: a connection stands under a path if and only if the path stands under the connection.
#[derive(Default)]
struct Table {
    data: HashMap<Arc<str>, Watchers>,
    child: HashMap<Arc<str>, Watchers>,
    by_connection: HashMap<u64, HashSet<(WatchKind, Arc<str>)>>,
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
        if own.len() >= WATCHES_PER_CONNECTION_MAX {
            return Err(TooManyWatches);
        }
        if own.insert((kind, path.clone())) {
            table.of_kind(kind).entry(path).or_default().insert(connection_id, outbox.clone());
        }
        Ok(())
    }

    /// Forgets the watches of a connection that has ended.
    pub(crate) fn forget(&self, connection_id: u64) {
        let mut table = self.table.lock();
        for (kind, path) in table.by_connection.remove(&connection_id).unwrap_or_default() {
            if let Entry::Occupied(mut entry) = table.of_kind(kind).entry(path) {
                entry.get_mut().remove(&connection_id);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
    }

    /// How many watches are set.
    pub(crate) fn count(&self) -> usize {
        self.table.lock().by_connection.values().map(HashSet::len).sum()
    }

    /// Fires the watches that wait for `change`.
    pub(crate) fn on_change(&self, change: &Change) {
        let mut table = self.table.lock();
        if table.by_connection.is_empty() {
            return;
        }
        match change {
            Change::NodeCreated { path } => {
                let watchers = table.take(WatchKind::Data, path);
                send(EventType::NodeCreated, path, &watchers);
            }
            Change::NodeDataChanged { path } => {
                let watchers = table.take(WatchKind::Data, path);
                send(EventType::NodeDataChanged, path, &watchers);
            }
            Change::NodeDeleted { path } => {
                // One event to a client that watches both.
                let mut watchers = table.take(WatchKind::Data, path);
                watchers.extend(table.take(WatchKind::Child, path));
                send(EventType::NodeDeleted, path, &watchers);
            }
            Change::ChildrenChanged { path } => {
                let watchers = table.take(WatchKind::Child, path);
                send(EventType::NodeChildrenChanged, path, &watchers);
            }
            Change::SessionOpened { .. } | Change::SessionClosed { .. } => {}
        }
    }
}

impl Table {
    fn of_kind(&mut self, kind: WatchKind) -> &mut HashMap<Arc<str>, Watchers> {
        match kind {
            WatchKind::Data => &mut self.data,
            WatchKind::Child => &mut self.child,
        }
    }

    fn take(&mut self, kind: WatchKind, path: &str) -> Watchers {
        let Some((path, watchers)) = self.of_kind(kind).remove_entry(path) else {
            return Watchers::new();
        };
        let key = (kind, path);
        for connection_id in watchers.keys() {
            if let Entry::Occupied(mut own) = self.by_connection.entry(*connection_id) {
                own.get_mut().remove(&key);
                if own.get().is_empty() {
                    own.remove();
                }
            }
        }
        watchers
    }
}

fn send(event: EventType, path: &str, watchers: &Watchers) {
    if watchers.is_empty() {
        return;
    }
    let mut encoded = BytesMut::new();
    reply::event(&mut encoded, event, path);
    for outbox in watchers.values() {
        outbox.push_event(&encoded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(path: &str) -> Change {
        Change::NodeDataChanged { path: path.to_owned() }
    }

    #[test]
    fn a_watch_fires_once_and_leaves_nothing_behind() {
        let (watches, outbox) = (Watches::default(), Arc::new(Outbox::default()));
        for _ in 0..2 {
            watches.register(WatchKind::Data, "/a", 1, &outbox).expect("few watches");
        }
        watches.register(WatchKind::Data, "/b", 1, &outbox).expect("few watches");
        assert_eq!(watches.count(), 2);
        watches.on_change(&changed("/a"));
        let once = outbox.len();
        assert!(once > 0);
        watches.on_change(&changed("/a"));
        assert_eq!(outbox.len(), once);
        watches.forget(1);
        assert_eq!(watches.count(), 0);
        watches.on_change(&changed("/b"));
        assert_eq!(outbox.len(), once);
        let table = watches.table.lock();
        assert!(table.data.is_empty() && table.child.is_empty() && table.by_connection.is_empty());
    }

    #[test]
    fn a_deletion_is_told_once_to_who_watches_data_and_children() {
        let (watches, outbox) = (Watches::default(), Arc::new(Outbox::default()));
        watches.register(WatchKind::Data, "/a", 1, &outbox).expect("few watches");
        watches.register(WatchKind::Child, "/a", 1, &outbox).expect("few watches");
        watches.on_change(&Change::NodeDeleted { path: "/a".to_owned() });
        let mut expected = BytesMut::new();
        reply::event(&mut expected, EventType::NodeDeleted, "/a");
        let mut queued = BytesMut::new();
        outbox.take(&mut queued);
        assert_eq!(queued, expected);
        assert_eq!(watches.count(), 0);
    }
}
