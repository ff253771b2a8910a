//! What is to be sent to one client, in order: replies and watch events in one queue.
//!
//! A watch event is queued while the commit that caused it is being applied, before any reader can
//! see that commit; a read's reply is queued while the state it was read from cannot change. So a
//! client never learns of a change by a reply before it learns of it by its watch, nor of the end of
//! a watch before the reply that set it.

use bytes::BytesMut;
use parking_lot::Mutex;
use proteus_kernel_api::tree::acl::permission;
use proteus_kernel_api::tree::{Acl, Credentials};
use tokio::sync::Notify;

/// Most bytes of watch events that may wait for a client that does not read. A watch fires once, so
/// this is some hundred thousand watches fired while the client was away.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Memory kept for the next replies once a queue has been sent; what a large reply took is freed.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// The session was resumed on another connection.
    SessionMoved,
    /// The session expired or was closed.
    SessionEnded,
    /// The client does not read its events.
    EventsUnread,
    /// The server begins or ends to serve readers only.
    ServerChanges,
}

/// The queue of one connection.
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    grown: Notify,
}

struct Queue {
    /// Whose connection it is: no event tells of a znode that it may not read.
    credentials: Credentials,
    bytes: BytesMut,
    event_bytes: usize,
    closing: Option<Closing>,
}

impl Outbox {
    /// The queue of a connection with these credentials.
    pub(crate) fn new(credentials: Credentials) -> Outbox {
        let queue = Queue { credentials, bytes: BytesMut::new(), event_bytes: 0, closing: None };
        Outbox { queue: Mutex::new(queue), grown: Notify::new() }
    }

    /// From now on the connection has these credentials.
    pub(crate) fn set_credentials(&self, credentials: Credentials) {
        self.queue.lock().credentials = credentials;
    }

    /// Queues what `write` appends. Only the connection's own task calls this, so it need not wake.
    pub(crate) fn push(&self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.queue.lock().bytes);
    }

    /// Queues an encoded watch event about a znode with this ACL, and wakes the connection.
    pub(crate) fn push_event(&self, event: &[u8], acl: &Acl) {
        let mut queue = self.queue.lock();
        if queue.closing.is_some() || !acl.permits(permission::READ, &queue.credentials) {
            return;
        }
        if queue.event_bytes + event.len() > EVENT_BYTES_MAX {
            queue.closing = Some(Closing::EventsUnread);
        } else {
            queue.event_bytes += event.len();
            queue.bytes.extend_from_slice(event);
        }
        drop(queue);
        self.grown.notify_one();
    }

    /// Asks the connection to end once it has sent what is queued now.
    pub(crate) fn close(&self, closing: Closing) {
        self.queue.lock().closing.get_or_insert(closing);
        self.grown.notify_one();
    }

    /// Why the connection is to end, if it is.
    pub(crate) fn closing(&self) -> Option<Closing> {
        self.queue.lock().closing
    }

    /// Bytes queued.
    pub(crate) fn len(&self) -> usize {
        self.queue.lock().bytes.len()
    }

    /// Exchanges what is queued for `sent`, whose bytes have all been sent.
    pub(crate) fn take(&self, sent: &mut BytesMut) {
        if sent.capacity() > KEPT_BYTES_MAX {
            *sent = BytesMut::new();
        }
        sent.clear();
        let mut queue = self.queue.lock();
        std::mem::swap(&mut queue.bytes, sent);
        queue.event_bytes = 0;
    }

    /// Resolves when an event was queued or closing was asked for.
    pub(crate) async fn grown(&self) {
        self.grown.notified().await;
    }
}
