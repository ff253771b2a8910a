//! What connections share: who is there, who listens to what, who holds which keys.
//!
//! The hub is told of every commit, in their order and before any reader can see it; so a message or an
//! invalidation is queued before the data that caused it can be read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_face::Accounts;
use proteus_kernel_api::Change as AnyChange;
use proteus_kernel_api::cache::commands::Keys;
use proteus_kernel_api::cache::{Change, Class, Reply, matches};
use proteus_kernel_api::{Commit, Durability, Listener};
use tokio::sync::Notify;

use crate::acl::{self, Users};
use crate::blocked::Blocked;
use crate::client::{Client, Push};
use crate::events::{KEYEVENT, KEYSPACE, class_bits};
use crate::replication::Replication;
use crate::settings::{self, Settings};

/// Which of the three kinds of subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subscription {
    Channel,
    Pattern,
    Shard,
}

/// Subscribers by what they listen to, then by client.
type Subscribers = BTreeMap<Bytes, BTreeMap<u64, Arc<Client>>>;

#[derive(Default)]
struct Subscriptions {
    channels: Subscribers,
    patterns: Subscribers,
    sharded: Subscribers,
}

impl Subscriptions {
    fn of(&mut self, kind: Subscription) -> &mut Subscribers {
        match kind {
            Subscription::Channel => &mut self.channels,
            Subscription::Pattern => &mut self.patterns,
            Subscription::Shard => &mut self.sharded,
        }
    }
}

/// Most keys that the server remembers for tracking clients, as tracking-table-max-keys; beyond it,
/// clients are told that some have changed.
const TRACKED_KEYS_MAX: usize = 1_000_000;

/// Clients that keep copies of what they read.
#[derive(Default)]
struct Tracking {
    /// Clients by key that they may hold.
    keys: HashMap<Bytes, BTreeSet<u64>>,
    /// Clients that want to know of all keys with a prefix.
    prefixes: BTreeMap<(Bytes, u64), ()>,
}

/// What all connections of a face share.
pub(crate) struct Hub {
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
    subscriptions: Mutex<Subscriptions>,
    has_subscribers: AtomicBool,
    tracking: Mutex<Tracking>,
    is_tracking: AtomicBool,
    pub(crate) settings: Settings,
    pub(crate) users: Users,
    pub(crate) blocked: Blocked,
    pub(crate) replication: Replication,
    has_monitors: AtomicBool,
    pub(crate) commands: AtomicU64,
    pub(crate) connections: AtomicU64,
    /// Reads that found something, and that found nothing.
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    /// Keys that expired and were removed, as far as this node was told.
    pub(crate) expired: AtomicU64,
    /// Keys that were evicted, as far as this node was told.
    pub(crate) evicted: AtomicU64,
    /// Wakes who looks at how much memory keys take, where that is bounded.
    pub(crate) memory_changed: Notify,
    /// Errors answered, and how many of each code.
    pub(crate) errors: AtomicU64,
    errors_by_code: Mutex<BTreeMap<String, u64>>,
    /// The most that the keys were seen to take, in bytes.
    peak_bytes: AtomicU64,
}

/// Codes of errors that are told apart.
const ERROR_CODES_MAX: usize = 128;

impl Hub {
    pub(crate) fn new(accounts: &Accounts, durability: Durability) -> Hub {
        Hub {
            clients: Mutex::default(),
            subscriptions: Mutex::default(),
            has_subscribers: AtomicBool::new(false),
            tracking: Mutex::default(),
            is_tracking: AtomicBool::new(false),
            settings: Settings::new(durability),
            users: Users::new(accounts),
            blocked: Blocked::default(),
            replication: Replication::default(),
            has_monitors: AtomicBool::new(false),
            commands: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            memory_changed: Notify::new(),
            errors: AtomicU64::new(0),
            errors_by_code: Mutex::default(),
            peak_bytes: AtomicU64::new(0),
        }
    }

    /// Counts a read by whether it found something.
    pub(crate) fn note_read(&self, keys: Keys, reply: &Reply) {
        match reply {
            _ if keys == Keys::None => {}
            Reply::Nil | Reply::NilArray => _ = self.misses.fetch_add(1, Ordering::Relaxed),
            _ => _ = self.hits.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Counts an error that was answered.
    pub(crate) fn note_error(&self, reply: &Reply) {
        let Reply::Error(text) = reply else { return };
        self.errors.fetch_add(1, Ordering::Relaxed);
        let code = text.split(' ').next().unwrap_or_default();
        let mut all = self.errors_by_code.lock();
        if let Some(count) = all.get_mut(code) {
            *count += 1;
        } else if all.len() < ERROR_CODES_MAX {
            all.insert(code.to_owned(), 1);
        }
    }

    pub(crate) fn errors_by_code(&self) -> BTreeMap<String, u64> {
        self.errors_by_code.lock().clone()
    }

    pub(crate) fn forget_errors(&self) {
        self.errors_by_code.lock().clear();
    }

    /// The most that the keys were seen to take, now that they take so much.
    pub(crate) fn peak(&self, used_bytes: u64) -> u64 {
        self.peak_bytes.fetch_max(used_bytes, Ordering::Relaxed).max(used_bytes)
    }

    pub(crate) fn join(&self, client: &Arc<Client>) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.clients.lock().insert(client.id, client.clone());
    }

    /// Forgets a connection and all that it listened to.
    pub(crate) fn leave(&self, client: &Client, subscribed: &[(Subscription, Bytes)]) {
        for (kind, name) in subscribed {
            self.unsubscribe(client, *kind, name);
        }
        self.clients.lock().remove(&client.id);
        if client.about.lock().is_tracking {
            self.stop_tracking(client.id);
        }
        if client.about.lock().is_monitor {
            let any = self.clients.lock().values().any(|client| client.about.lock().is_monitor);
            self.has_monitors.store(any, Ordering::Release);
        }
    }

    pub(crate) fn clients(&self) -> Vec<Arc<Client>> {
        self.clients.lock().values().cloned().collect()
    }

    pub(crate) fn client(&self, id: u64) -> Option<Arc<Client>> {
        self.clients.lock().get(&id).cloned()
    }

    pub(crate) fn monitor(&self, client: &Client) {
        client.about.lock().is_monitor = true;
        self.has_monitors.store(true, Ordering::Release);
    }

    pub(crate) fn has_monitors(&self) -> bool {
        self.has_monitors.load(Ordering::Acquire)
    }

    pub(crate) fn show_monitors(&self, line: &Bytes) {
        for client in self.clients.lock().values() {
            if client.about.lock().is_monitor {
                client.push(Push::Monitor(line.clone()));
            }
        }
    }

    pub(crate) fn subscribe(&self, client: &Arc<Client>, kind: Subscription, name: &Bytes) {
        let mut all = self.subscriptions.lock();
        all.of(kind).entry(name.clone()).or_default().insert(client.id, client.clone());
        self.has_subscribers.store(true, Ordering::Release);
    }

    pub(crate) fn unsubscribe(&self, client: &Client, kind: Subscription, name: &Bytes) {
        let mut all = self.subscriptions.lock();
        let subscribers = all.of(kind);
        if let Some(of_name) = subscribers.get_mut(name) {
            of_name.remove(&client.id);
            if of_name.is_empty() {
                subscribers.remove(name);
            }
        }
        let is_empty = all.channels.is_empty() && all.patterns.is_empty() && all.sharded.is_empty();
        self.has_subscribers.store(!is_empty, Ordering::Release);
    }

    /// How many clients a message to the channel reaches here.
    pub(crate) fn receivers(&self, channel: &[u8], is_sharded: bool) -> i64 {
        if !self.has_subscribers.load(Ordering::Acquire) {
            return 0;
        }
        let all = self.subscriptions.lock();
        let count = if is_sharded {
            all.sharded.get(channel).map_or(0, BTreeMap::len)
        } else {
            let direct = all.channels.get(channel).map_or(0, BTreeMap::len);
            let fitting = all.patterns.iter().filter(|(pattern, _)| matches(pattern, channel));
            direct + fitting.map(|(_, clients)| clients.len()).sum::<usize>()
        };
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    /// Channels with subscribers that fit a pattern.
    pub(crate) fn channels(&self, kind: Subscription, pattern: Option<&Bytes>) -> Vec<Bytes> {
        let mut all = self.subscriptions.lock();
        let fits = |name: &&Bytes| pattern.is_none_or(|pattern| matches(pattern, name));
        all.of(kind).keys().filter(fits).cloned().collect()
    }

    pub(crate) fn subscriber_count(&self, kind: Subscription, name: &[u8]) -> usize {
        self.subscriptions.lock().of(kind).get(name).map_or(0, BTreeMap::len)
    }

    pub(crate) fn pattern_count(&self) -> usize {
        self.subscriptions.lock().patterns.len()
    }

    fn deliver(&self, channel: &Bytes, message: &Bytes, is_sharded: bool) {
        if !self.has_subscribers.load(Ordering::Acquire) {
            return;
        }
        let all = self.subscriptions.lock();
        if is_sharded {
            for client in all.sharded.get(channel).into_iter().flat_map(BTreeMap::values) {
                let (channel, message) = (channel.clone(), message.clone());
                client.push(Push::ShardMessage { channel, message });
            }
            return;
        }
        for client in all.channels.get(channel).into_iter().flat_map(BTreeMap::values) {
            client.push(Push::Message { channel: channel.clone(), message: message.clone() });
        }
        for (pattern, clients) in &all.patterns {
            if matches(pattern, channel) {
                for client in clients.values() {
                    client.push(Push::PatternMessage {
                        pattern: pattern.clone(),
                        channel: channel.clone(),
                        message: message.clone(),
                    });
                }
            }
        }
    }

    fn announce(&self, db: u8, class: Class, event: &'static str, key: &Bytes) {
        let events = self.settings.events.load(Ordering::Relaxed);
        // What no client of Redis knows stays inside.
        if events & class_bits(class) == 0 || matches!(event, "xack" | "swapdb" | "invalidated") {
            return;
        }
        if events & KEYSPACE != 0 {
            let channel = [format!("__keyspace@{db}__:").as_bytes(), key].concat();
            self.deliver(&Bytes::from(channel), &Bytes::from_static(event.as_bytes()), false);
        }
        if events & KEYEVENT != 0 {
            let channel = format!("__keyevent@{db}__:{event}");
            self.deliver(&Bytes::from(channel), key, false);
        }
    }

    /// Lets a client know of all keys that begin with one of the prefixes.
    pub(crate) fn track_prefixes(&self, client: u64, prefixes: &[Bytes]) {
        let mut tracking = self.tracking.lock();
        for prefix in prefixes {
            tracking.prefixes.insert((prefix.clone(), client), ());
        }
        self.is_tracking.store(true, Ordering::Release);
    }

    /// Notes that a client is about to read keys. Before the read, so that no change falls between.
    pub(crate) fn track_keys(&self, client: u64, keys: impl Iterator<Item = Bytes>) {
        let mut tracking = self.tracking.lock();
        for key in keys {
            tracking.keys.entry(key).or_default().insert(client);
        }
        self.is_tracking.store(true, Ordering::Release);
        while tracking.keys.len() > TRACKED_KEYS_MAX {
            let Some(key) = tracking.keys.keys().next().cloned() else { break };
            let holders = tracking.keys.remove(&key).unwrap_or_default();
            for holder in holders {
                self.invalidate(holder, Some(vec![key.clone()]), 0);
            }
        }
    }

    pub(crate) fn stop_tracking(&self, client: u64) {
        let mut tracking = self.tracking.lock();
        tracking.prefixes.retain(|(_, other), _| *other != client);
        tracking.keys.retain(|_, holders| {
            holders.remove(&client);
            !holders.is_empty()
        });
        let is_used = !tracking.prefixes.is_empty() || !tracking.keys.is_empty();
        self.is_tracking.store(is_used, Ordering::Release);
    }

    /// Tells a client, or whom it has named instead, that keys have changed.
    fn invalidate(&self, client: u64, keys: Option<Vec<Bytes>>, origin: u64) {
        let Some(client) = self.client(client) else { return };
        if origin != 0 && client.origin.load(Ordering::Relaxed) == origin {
            return;
        }
        let redirect = client.about.lock().redirect;
        match redirect {
            None => client.push(Push::Invalidate(keys)),
            Some(id) => match self.client(id) {
                None => client.push(Push::RedirectBroken(id)),
                Some(other) if other.about.lock().is_resp3 => other.push(Push::Invalidate(keys)),
                Some(other) => other.push(Push::RedirectedInvalidate(keys)),
            },
        }
    }

    fn note_change(&self, key: &Bytes, origin: u64) {
        let mut tracking = self.tracking.lock();
        let holders = tracking.keys.remove(key).unwrap_or_default();
        let fitting = tracking.prefixes.keys().filter(|(prefix, _)| key.starts_with(prefix));
        let told: BTreeSet<u64> = fitting.map(|(_, client)| *client).chain(holders).collect();
        drop(tracking);
        for client in told {
            self.invalidate(client, Some(vec![key.clone()]), origin);
        }
    }

    fn note_setting(&self, name: &str, value: Option<&Bytes>) {
        if let Some(name) = name.strip_prefix(settings::PREFIX) {
            self.settings.note(name, value);
        } else if let Some(name) = name.strip_prefix(acl::PREFIX) {
            self.users.note(name, value);
            // Each looks what it may still do.
            for client in self.clients.lock().values() {
                client.wake.notify_one();
            }
        }
    }

    fn note_cleared(&self) {
        let mut tracking = self.tracking.lock();
        let mut told: BTreeSet<u64> = tracking.prefixes.keys().map(|(_, client)| *client).collect();
        told.extend(tracking.keys.values().flatten());
        tracking.keys.clear();
        drop(tracking);
        for client in told {
            self.invalidate(client, None, 0);
        }
    }
}

impl Listener for Hub {
    fn on_commit(&self, commit: &Commit) {
        self.replication.note(commit);
        let is_tracking = self.is_tracking.load(Ordering::Acquire);
        let announces = self.settings.events.load(Ordering::Relaxed) != 0
            && self.has_subscribers.load(Ordering::Acquire);
        if self.settings.maxmemory.load(Ordering::Relaxed) != 0 {
            self.memory_changed.notify_waiters();
        }
        let mut last: Option<(&Bytes, u8)> = None;
        for change in &commit.changes {
            let AnyChange::Cache(change) = change else { continue };
            match change {
                // Where keys are is the kernel's affair.
                Change::Slots(_) | Change::Replicas | Change::Declared(_) => {}
                Change::Key { db, key, class, event, origin } => {
                    match class {
                        Class::Expired => _ = self.expired.fetch_add(1, Ordering::Relaxed),
                        Class::Evicted => _ = self.evicted.fetch_add(1, Ordering::Relaxed),
                        _ => {}
                    }
                    if last != Some((key, *db)) {
                        self.blocked.note(*db, key);
                        if is_tracking {
                            self.note_change(key, *origin);
                        }
                        last = Some((key, *db));
                    }
                    if announces {
                        self.announce(*db, *class, event, key);
                    }
                }
                Change::Cleared { .. } => {
                    if is_tracking {
                        self.note_cleared();
                    }
                }
                Change::Setting { name, value } => self.note_setting(name, value.as_ref()),
                Change::Published { channel, message, is_sharded } => {
                    self.deliver(channel, message, *is_sharded);
                }
            }
        }
    }

    fn on_gap(&self) {
        self.memory_changed.notify_waiters();
        self.replication.note_gap();
        // Whatever a client keeps may have changed, and whatever it waits for may be there.
        if self.is_tracking.load(Ordering::Acquire) {
            self.note_cleared();
        }
        self.blocked.note_all();
        self.settings.mark_stale();
        self.users.mark_stale();
    }
}
