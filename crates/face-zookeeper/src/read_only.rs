//! Serving readers while no majority can be reached.
//!
//! A node that cannot tell whether it is up to date closes its connections and then serves, from its
//! own state, those clients alone that say that a read-only server will do. Their sessions are of this
//! node only; nothing can be changed. Once the node hears of a majority again, it closes those
//! connections too, and the clients come back as usual.
//!
//! Source: ZooKeeper 3.9, `ReadOnlyZooKeeperServer`, `ReadOnlyRequestProcessor`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use proteus_env::task;
use tracing::{debug, info, warn};

use crate::Shared;
use crate::outbox::{Closing, Outbox};

/// How long a read barrier may take before the majority counts as lost: longer than an election.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(500);

/// Whether this node serves readers only.
#[derive(Default)]
pub(crate) struct ReadOnly {
    is_on: AtomicBool,
    /// Connections that may stay only as long as it lasts.
    readers: Mutex<Vec<Weak<Outbox>>>,
}

impl ReadOnly {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Takes a connection in; false if it has ended meanwhile.
    pub(crate) fn admit(&self, outbox: &Arc<Outbox>) -> bool {
        let mut readers = self.readers.lock();
        if readers.len().is_power_of_two() {
            readers.retain(|reader| reader.strong_count() > 0);
        }
        readers.push(Arc::downgrade(outbox));
        self.is_on()
    }

    fn begin(&self) -> bool {
        !self.is_on.swap(true, Ordering::AcqRel)
    }

    fn end(&self) -> bool {
        // Under the lock, so that whoever is admitted is closed as well.
        let mut readers = self.readers.lock();
        let was_on = self.is_on.swap(false, Ordering::AcqRel);
        for reader in readers.drain(..).filter_map(|reader| reader.upgrade()) {
            reader.close(Closing::ServerChanges);
        }
        was_on
    }
}

/// Resolves once this node is up to date. One that is in no cluster, or leads one and holds its lease,
/// waits for nothing.
async fn pass_barrier(shared: &Shared) {
    while let Err(reason) = shared.kernel.pass_read_barrier().await {
        debug!(%reason, "this node cannot tell whether it is up to date");
        task::sleep(INTERVAL).await;
    }
}

/// Looks whether there is a majority, for as long as the face lives.
pub(crate) async fn watch(shared: Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let is_current = task::timeout(PATIENCE, pass_barrier(&shared)).await.is_some();
        if is_current && shared.read_only.end() {
            info!("there is a majority again: ZooKeeper clients are served as usual");
        }
        if !is_current && shared.read_only.begin() {
            warn!("no majority can be reached: ZooKeeper clients are served read-only, if at all");
            shared.sessions.close_connections();
        }
        drop(shared);
        task::sleep(INTERVAL).await;
    }
}
