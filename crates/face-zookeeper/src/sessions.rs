//! Which sessions are alive: soft state, rebuilt from the stored sessions.
//!
//! That a session exists is durable; when its client was last heard is not. After a restart every
//! stored session gets its full timeout again, as ZooKeeper's new leader gives it.
//!
//! In a cluster the leader ends silent sessions. The other nodes tell it through the log, now and then
//! and for many sessions at once, whom they heard; that is told to everybody and stored nowhere.
//!
//! A *local* session is not stored: it is cheap to open, ends with this process, and is stored (is
//! *upgraded*) when it first creates an ephemeral.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proteus_kernel_api::tree::{SessionId, SessionPassword};

use crate::outbox::{Closing, Outbox};

/// One session as this node knows it.
pub(crate) struct LiveSession {
    pub(crate) id: SessionId,
    timeout_ms: AtomicU32,
    /// When its client was last heard, on the clock that never goes back.
    heard_ms: AtomicU64,
    /// Its end has been proposed; it can no longer be resumed.
    is_ending: AtomicBool,
    /// The password of a local session; a stored one's is in the store.
    local: Mutex<Option<SessionPassword>>,
    holder: Mutex<Option<Holder>>,
}

/// The connection that holds a session.
struct Holder {
    connection_id: u64,
    outbox: Arc<Outbox>,
}

impl LiveSession {
    fn new(id: SessionId, timeout_ms: u32, local: Option<SessionPassword>) -> Arc<LiveSession> {
        Arc::new(LiveSession {
            id,
            timeout_ms: AtomicU32::new(timeout_ms),
            heard_ms: AtomicU64::new(0),
            is_ending: AtomicBool::new(false),
            local: Mutex::new(local),
            holder: Mutex::new(None),
        })
    }

    /// Notes that the client was heard.
    pub(crate) fn hear(&self, now: Duration) {
        self.heard_ms.fetch_max(millis(now), Ordering::Relaxed);
    }

    pub(crate) fn timeout_ms(&self) -> u32 {
        self.timeout_ms.load(Ordering::Relaxed)
    }

    /// The password, if the session is local.
    pub(crate) fn local_password(&self) -> Option<SessionPassword> {
        *self.local.lock()
    }

    /// Gives a local session another timeout, as a client that resumes it may ask.
    pub(crate) fn set_timeout(&self, timeout_ms: u32) {
        self.timeout_ms.store(timeout_ms, Ordering::Relaxed);
    }

    /// Moves the session to a connection and closes the one that held it. False if it is ending.
    pub(crate) fn attach(&self, connection_id: u64, outbox: &Arc<Outbox>) -> bool {
        let mut holder = self.holder.lock();
        if self.is_ending.load(Ordering::Relaxed) {
            return false;
        }
        let before = holder.replace(Holder { connection_id, outbox: outbox.clone() });
        if let Some(before) = before {
            before.outbox.close(Closing::SessionMoved);
        }
        true
    }

    /// Lets go of the session, if this connection still holds it.
    pub(crate) fn detach(&self, connection_id: u64) {
        let mut holder = self.holder.lock();
        if holder.as_ref().is_some_and(|holder| holder.connection_id == connection_id) {
            *holder = None;
        }
    }
}

/// Which sessions a node may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// All, as the leader.
    All,
    /// Those that no other node knows of.
    LocalOnly,
}

/// All sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    live: Mutex<HashMap<SessionId, Arc<LiveSession>>>,
    /// Whether those that are stored are known.
    is_loaded: AtomicBool,
}

impl Sessions {
    /// Learns of a stored session, or of its new timeout; its time starts now.
    pub(crate) fn on_opened(&self, id: SessionId, timeout_ms: u32, now: Duration) {
        let mut live = self.live.lock();
        let session = live.entry(id).or_insert_with(|| LiveSession::new(id, timeout_ms, None));
        session.timeout_ms.store(timeout_ms, Ordering::Relaxed);
        *session.local.lock() = None;
        session.hear(now);
    }

    /// Opens a local session; `None` if the id is taken.
    pub(crate) fn open_local(
        &self,
        id: SessionId,
        password: SessionPassword,
        timeout_ms: u32,
        now: Duration,
    ) -> Option<Arc<LiveSession>> {
        match self.live.lock().entry(id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                let session = LiveSession::new(id, timeout_ms, Some(password));
                session.hear(now);
                Some(vacant.insert(session).clone())
            }
        }
    }

    /// Forgets a session that has ended and closes its connection.
    pub(crate) fn on_closed(&self, id: SessionId) {
        let ended = self.live.lock().remove(&id);
        if let Some(session) = ended
            && let Some(holder) = session.holder.lock().take()
        {
            holder.outbox.close(Closing::SessionEnded);
        }
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<Arc<LiveSession>> {
        self.live.lock().get(&id).cloned()
    }

    pub(crate) fn count(&self) -> usize {
        self.live.lock().len()
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Acquire)
    }

    pub(crate) fn loaded(&self) {
        self.is_loaded.store(true, Ordering::Release);
    }

    /// Other nodes heard these.
    pub(crate) fn on_heard(&self, ids: &[SessionId], now: Duration) {
        let live = self.live.lock();
        for session in ids.iter().filter_map(|id| live.get(id)) {
            session.hear(now);
        }
    }

    /// Another node holds the session now.
    pub(crate) fn on_moved(&self, id: SessionId) {
        if let Some(session) = self.get(id)
            && let Some(holder) = session.holder.lock().take()
        {
            holder.outbox.close(Closing::SessionMoved);
        }
    }

    /// Whatever this node knew may be wrong: forgets all sessions and closes their connections. Those
    /// that are stored are loaded again.
    pub(crate) fn on_gap(&self) {
        self.is_loaded.store(false, Ordering::Release);
        let forgotten = std::mem::take(&mut *self.live.lock());
        for session in forgotten.into_values() {
            if let Some(holder) = session.holder.lock().take() {
                holder.outbox.close(Closing::SessionMoved);
            }
        }
    }

    /// Closes the connections of all sessions, which live on.
    pub(crate) fn close_connections(&self) {
        for session in self.live.lock().values() {
            if let Some(holder) = session.holder.lock().take() {
                holder.outbox.close(Closing::ServerChanges);
            }
        }
    }

    /// Sessions held here whose clients were heard since `since`.
    pub(crate) fn heard_since(&self, since: Duration) -> Vec<SessionId> {
        let is_heard = |session: &&Arc<LiveSession>| {
            session.local_password().is_none()
                && session.heard_ms.load(Ordering::Relaxed) >= millis(since)
                && session.holder.lock().is_some()
        };
        let mut heard: Vec<SessionId> =
            self.live.lock().values().filter(is_heard).map(|session| session.id).collect();
        heard.sort_unstable();
        heard
    }

    /// Gives every session its full timeout from now on, as whoever comes to lead does: it has not
    /// heard whom the leader before it heard.
    pub(crate) fn renew(&self, now: Duration) {
        for session in self.live.lock().values() {
            session.hear(now);
            session.is_ending.store(false, Ordering::Relaxed);
        }
    }

    /// Sessions not heard for their timeout; each is told once, until [`Sessions::spare`].
    pub(crate) fn expire(&self, whose: Whose, now: Duration) -> Vec<SessionId> {
        let now_ms = millis(now);
        let mut expired: Vec<SessionId> = Vec::new();
        for session in self.live.lock().values() {
            if whose == Whose::LocalOnly && session.local_password().is_none() {
                continue;
            }
            let _holder = session.holder.lock();
            let heard_ms = session.heard_ms.load(Ordering::Relaxed);
            let end_ms = heard_ms.saturating_add(u64::from(session.timeout_ms()));
            if end_ms <= now_ms && !session.is_ending.swap(true, Ordering::Relaxed) {
                expired.push(session.id);
            }
        }
        expired.sort_unstable();
        expired
    }

    /// Lets sessions live on whose end could not be proposed; it will be tried again.
    pub(crate) fn spare(&self, ids: &[SessionId]) {
        let live = self.live.lock();
        for session in ids.iter().filter_map(|id| live.get(id)) {
            session.is_ending.store(false, Ordering::Relaxed);
        }
    }

    /// Gives every session more time: this process did not run for so long, and could not hear. None
    /// gets more than its timeout from `now`.
    pub(crate) fn extend(&self, by: Duration, now: Duration) {
        for session in self.live.lock().values() {
            let heard_ms = session.heard_ms.load(Ordering::Relaxed);
            let extended_ms = heard_ms.saturating_add(millis(by)).min(millis(now));
            session.heard_ms.fetch_max(extended_ms, Ordering::Relaxed);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proteus_kernel_api::tree::Credentials;

    use super::*;

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(Credentials::of(&[])))
    }

    const ID: SessionId = SessionId(7);

    fn at(now_ms: u64) -> Duration {
        Duration::from_millis(now_ms)
    }

    #[test]
    fn a_silent_session_expires_once_at_its_timeout() {
        let sessions = Sessions::default();
        sessions.on_opened(ID, 4_000, at(100));
        assert_eq!(sessions.expire(Whose::All, at(4_099)), []);
        sessions.get(ID).expect("opened").hear(at(200));
        assert_eq!(sessions.expire(Whose::All, at(4_100)), []);
        assert_eq!(sessions.expire(Whose::All, at(4_200)), [ID]);
        assert_eq!(sessions.expire(Whose::All, at(9_000)), []);
        sessions.spare(&[ID]);
        assert_eq!(sessions.expire(Whose::All, at(9_000)), [ID]);
        sessions.on_closed(ID);
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn time_in_which_the_process_stood_still_does_not_count() {
        let sessions = Sessions::default();
        sessions.on_opened(ID, 4_000, at(0));
        sessions.extend(at(60_000), at(60_500));
        assert_eq!(sessions.expire(Whose::All, at(63_999)), []);
        assert_eq!(sessions.expire(Whose::All, at(64_000)), [ID]);
    }

    #[test]
    fn nobody_is_heard_in_the_future() {
        let sessions = Sessions::default();
        sessions.on_opened(ID, 4_000, at(59_000));
        sessions.extend(at(60_000), at(60_000));
        assert_eq!(sessions.expire(Whose::All, at(63_999)), []);
        assert_eq!(sessions.expire(Whose::All, at(64_000)), [ID]);
    }

    #[test]
    fn a_session_moves_to_the_connection_that_resumes_it() {
        let sessions = Sessions::default();
        sessions.on_opened(ID, 4_000, at(0));
        let session = sessions.get(ID).expect("opened");
        let (first, second) = (outbox(), outbox());
        assert!(session.attach(1, &first));
        assert!(session.attach(2, &second));
        assert_eq!(first.closing(), Some(Closing::SessionMoved));
        session.detach(1);
        sessions.on_closed(ID);
        assert_eq!(second.closing(), Some(Closing::SessionEnded));
    }

    #[test]
    fn a_local_session_is_stored_from_its_upgrade_on() {
        let sessions = Sessions::default();
        let session = sessions.open_local(ID, [7; 16], 4_000, at(0)).expect("a free id");
        assert!(sessions.open_local(ID, [8; 16], 4_000, at(0)).is_none());
        assert_eq!(session.local_password(), Some([7; 16]));
        assert_eq!(sessions.expire(Whose::All, at(3_999)), []);
        sessions.on_opened(ID, 5_000, at(10));
        assert_eq!((session.local_password(), session.timeout_ms()), (None, 5_000));
    }

    #[test]
    fn an_expired_session_cannot_be_resumed() {
        let sessions = Sessions::default();
        sessions.on_opened(ID, 4_000, at(0));
        let session = sessions.get(ID).expect("opened");
        assert_eq!(sessions.expire(Whose::All, at(4_000)), [ID]);
        assert!(!session.attach(1, &outbox()));
    }
}
