//! Queries that end before their last row: because the client asked on another connection, or left.
//!
//! A CancelRequest names a session by the number and the secret that the session's client was told.
//! What it interrupts is the making of rows. A change is never interrupted, since the client could
//! not know whether it was committed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use proteus_env::random;
use tokio::sync::Notify;

/// The sessions that may be named.
#[derive(Default)]
pub(crate) struct Cancels {
    next_id: AtomicU32,
    sessions: Mutex<HashMap<u32, (u32, Arc<Interrupt>)>>,
}

/// One session's entry; it is removed with the session.
pub(crate) struct Registered {
    cancels: Arc<Cancels>,
    /// The session's number, which stands where PostgreSQL has a process id.
    pub(crate) id: u32,
    /// What a client must know to cancel.
    pub(crate) secret: u32,
    pub(crate) interrupt: Arc<Interrupt>,
}

impl Cancels {
    /// Enters a session.
    pub(crate) fn register(self: &Arc<Cancels>) -> Registered {
        let secret = u32::from_be_bytes(random::random_bytes());
        let interrupt = Arc::new(Interrupt::default());
        let mut sessions = self.sessions.lock();
        // After four billion sessions the oldest may still be here.
        let id = loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if id != 0 && !sessions.contains_key(&id) {
                break id;
            }
        };
        sessions.insert(id, (secret, interrupt.clone()));
        Registered { cancels: self.clone(), id, secret, interrupt }
    }

    /// Interrupts the query of session `id`, if the secret is right. The protocol has no answer.
    pub(crate) fn cancel(&self, id: u32, secret: u32) {
        if let Some((own, interrupt)) = self.sessions.lock().get(&id)
            && *own == secret
        {
            interrupt.raise();
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.cancels.sessions.lock().remove(&self.id);
    }
}

/// Whether the request under way is to end.
#[derive(Default)]
pub(crate) struct Interrupt {
    is_raised: AtomicBool,
    notify: Notify,
}

impl Interrupt {
    fn raise(&self) {
        self.is_raised.store(true, Ordering::SeqCst);
        self.notify.notify_one();
    }

    /// Forgets what was raised: a request begins, and whatever came was meant for one before it.
    pub(crate) fn reset(&self) {
        self.is_raised.store(false, Ordering::SeqCst);
    }

    /// Resolves once the request under way is to end.
    pub(crate) async fn raised(&self) {
        while !self.is_raised.load(Ordering::SeqCst) {
            // A permit left from before only makes us look again.
            self.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_knows_the_secret_interrupts_and_only_the_request_under_way() {
        let cancels = Arc::new(Cancels::default());
        let session = cancels.register();
        let is_raised = || session.interrupt.is_raised.load(Ordering::SeqCst);
        cancels.cancel(session.id, session.secret.wrapping_add(1));
        cancels.cancel(session.id.wrapping_add(1), session.secret);
        assert!(!is_raised());
        cancels.cancel(session.id, session.secret);
        session.interrupt.raised().await;
        session.interrupt.reset();
        assert!(!is_raised());
        let id = session.id;
        drop(session);
        cancels.cancel(id, 0);
        assert!(cancels.sessions.lock().is_empty());
    }
}
