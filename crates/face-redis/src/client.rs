//! What others may know of a connection and do to it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_kernel_api::cache::Reply;
use tokio::sync::Notify;

use crate::reply::text;

/// Bytes of messages that may wait for one client, as Redis' client-output-buffer-limit for
/// subscribers; beyond it the client is closed.
const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What the server sends of its own accord.
#[derive(Debug, Clone)]
pub(crate) enum Push {
    /// A message to a channel.
    Message { channel: Bytes, message: Bytes },
    /// A message to a channel that fits a pattern.
    PatternMessage { pattern: Bytes, channel: Bytes, message: Bytes },
    /// A message to a sharded channel.
    ShardMessage { channel: Bytes, message: Bytes },
    /// Keys that the client may hold have changed; all of them if there are none.
    Invalidate(Option<Vec<Bytes>>),
    /// The same, for a client that listens on behalf of another.
    RedirectedInvalidate(Option<Vec<Bytes>>),
    /// The client that was to be told of changes is gone.
    RedirectBroken(u64),
    /// A line for MONITOR.
    Monitor(Bytes),
}

impl Push {
    fn size_bytes(&self) -> usize {
        let keys = |keys: &Option<Vec<Bytes>>| keys.iter().flatten().map(Bytes::len).sum();
        64 + match self {
            Push::Message { channel, message } | Push::ShardMessage { channel, message } => {
                channel.len() + message.len()
            }
            Push::PatternMessage { pattern, channel, message } => {
                pattern.len() + channel.len() + message.len()
            }
            Push::Invalidate(all) | Push::RedirectedInvalidate(all) => keys(all),
            Push::RedirectBroken(_) => 0,
            Push::Monitor(line) => line.len(),
        }
    }

    /// The parts that a client is sent.
    pub(crate) fn parts(self) -> Vec<Reply> {
        let keys = |keys: Option<Vec<Bytes>>| keys.map_or(Reply::Nil, Reply::bulks);
        match self {
            Push::Message { channel, message } => {
                vec![text("message"), Reply::Bulk(channel), Reply::Bulk(message)]
            }
            Push::PatternMessage { pattern, channel, message } => vec![
                text("pmessage"),
                Reply::Bulk(pattern),
                Reply::Bulk(channel),
                Reply::Bulk(message),
            ],
            Push::ShardMessage { channel, message } => {
                vec![text("smessage"), Reply::Bulk(channel), Reply::Bulk(message)]
            }
            Push::Invalidate(all) => vec![text("invalidate"), keys(all)],
            Push::RedirectedInvalidate(all) => {
                vec![text("message"), text("__redis__:invalidate"), keys(all)]
            }
            Push::RedirectBroken(id) => {
                let id = i64::try_from(id).unwrap_or(i64::MAX);
                vec![text("tracking-redir-broken"), Reply::Integer(id)]
            }
            Push::Monitor(_) => Vec::new(),
        }
    }
}

/// How CLIENT UNBLOCK ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unblock {
    Timeout,
    Error,
}

/// What CLIENT LIST tells, kept up to date by the connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub(crate) name: Bytes,
    pub(crate) library_name: Bytes,
    pub(crate) library_version: Bytes,
    pub(crate) user: String,
    pub(crate) db: u8,
    pub(crate) is_resp3: bool,
    pub(crate) channels: usize,
    pub(crate) patterns: usize,
    pub(crate) sharded: usize,
    /// Commands that MULTI has queued; -1 outside.
    pub(crate) queued: i64,
    pub(crate) watched: usize,
    pub(crate) last_command: String,
    pub(crate) last_ms: u64,
    pub(crate) is_blocked: bool,
    pub(crate) is_monitor: bool,
    pub(crate) is_tracking: bool,
    pub(crate) is_broadcast: bool,
    pub(crate) redirect: Option<u64>,
    pub(crate) no_evict: bool,
    pub(crate) no_touch: bool,
}

/// A connection as others see it.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) since_ms: u64,
    pub(crate) about: Mutex<About>,
    /// Whoever changes something here calls it.
    pub(crate) wake: Notify,
    /// Marks this client's own commands in the log, if it asked not to be told of its own changes.
    pub(crate) origin: AtomicU64,
    is_killed: AtomicBool,
    queue: Mutex<(VecDeque<Push>, usize)>,
    unblock: Mutex<Option<Unblock>>,
}

impl Client {
    pub(crate) fn new(id: u64, peer: SocketAddr, local: SocketAddr, since_ms: u64) -> Client {
        let about = About { queued: -1, last_ms: since_ms, ..About::default() };
        Client {
            id,
            peer,
            local,
            since_ms,
            about: Mutex::new(about),
            wake: Notify::new(),
            origin: AtomicU64::new(0),
            is_killed: AtomicBool::new(false),
            queue: Mutex::default(),
            unblock: Mutex::new(None),
        }
    }

    /// Queues something to send; a client that does not read is closed.
    pub(crate) fn push(&self, push: Push) {
        let mut queue = self.queue.lock();
        queue.1 += push.size_bytes();
        if queue.1 > QUEUE_BYTES_MAX {
            queue.0.clear();
            self.is_killed.store(true, Ordering::Release);
        } else {
            queue.0.push_back(push);
        }
        drop(queue);
        self.wake.notify_one();
    }

    pub(crate) fn take_pushes(&self) -> VecDeque<Push> {
        let mut queue = self.queue.lock();
        queue.1 = 0;
        std::mem::take(&mut queue.0)
    }

    pub(crate) fn kill(&self) {
        self.is_killed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::Acquire)
    }

    /// Asks a waiting command to end; says whether one waits.
    pub(crate) fn unblock(&self, how: Unblock) -> bool {
        let is_blocked = self.about.lock().is_blocked;
        if is_blocked {
            *self.unblock.lock() = Some(how);
            self.wake.notify_one();
        }
        is_blocked
    }

    pub(crate) fn take_unblock(&self) -> Option<Unblock> {
        self.unblock.lock().take()
    }

    /// The line of CLIENT LIST, without its end.
    pub(crate) fn line(&self, now_ms: u64) -> String {
        let about = self.about.lock().clone();
        let mut flags = String::new();
        for (flag, is_set) in [
            ('P', about.channels + about.patterns + about.sharded > 0),
            ('b', about.is_blocked),
            ('x', about.queued >= 0),
            ('O', about.is_monitor),
            ('t', about.is_tracking),
            ('B', about.is_broadcast),
            ('e', about.no_evict),
            ('T', about.no_touch),
        ] {
            if is_set {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let redirect = match (about.is_tracking, about.redirect) {
            (false, _) => -1,
            (true, None) => 0,
            (true, Some(id)) => i64::try_from(id).unwrap_or(i64::MAX),
        };
        format!(
            "id={} addr={} laddr={} fd=8 name={} age={} idle={} flags={flags} db={} sub={} psub={} ssub={} multi={} watch={} qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=1024 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} user={} redir={redirect} resp={} lib-name={} lib-ver={}",
            self.id,
            self.peer,
            self.local,
            String::from_utf8_lossy(&about.name),
            now_ms.saturating_sub(self.since_ms) / 1000,
            now_ms.saturating_sub(about.last_ms) / 1000,
            about.db,
            about.channels,
            about.patterns,
            about.sharded,
            about.queued,
            about.watched,
            if about.last_command.is_empty() { "NULL" } else { &about.last_command },
            about.user,
            if about.is_resp3 { 3 } else { 2 },
            String::from_utf8_lossy(&about.library_name),
            String::from_utf8_lossy(&about.library_version),
        )
    }
}
