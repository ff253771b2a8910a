//! Ending the sessions of clients that went silent.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use proteus_env::task;
use proteus_kernel_api::tree::{self, SessionId};
use proteus_kernel_api::{KernelError, Minitransaction, Op};
use tracing::{debug, info, warn};

use crate::sessions::Whose;
use crate::{Shared, members, read_only};

/// How often to look. A session outlives its timeout by at most this and a commit.
const INTERVAL: Duration = Duration::from_millis(250);

/// Waking later than this means that the process stood still, and could not hear its clients.
const STANDSTILL_MIN: Duration = Duration::from_secs(1);

/// How often a node that does not lead tells the leader whom it heard: well within the shortest timeout.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Sessions read from the store, and ended, at a time.
const PAGE_COUNT_MAX: usize = 1_000;

/// Starts looking after the sessions, unless that has been started.
pub(crate) fn start(shared: &Arc<Shared>) {
    if !shared.is_expiring.swap(true, Ordering::AcqRel) {
        task::spawn(run(Arc::downgrade(shared)));
        if shared.options.serves_read_only {
            task::spawn(read_only::watch(Arc::downgrade(shared)));
        }
    }
}

/// Learns of the sessions that are stored, unless that has been done. Until then none can be
/// resumed here.
pub(crate) fn load(shared: &Shared) -> Result<(), KernelError> {
    if shared.sessions.is_loaded() {
        return Ok(());
    }
    let mut after = None;
    loop {
        // Within one read, so that a session which ends meanwhile is not brought back.
        let last = shared.kernel.read(|view| {
            let page = tree::sessions(view.state, after, PAGE_COUNT_MAX)?;
            let now = shared.clock.elapsed();
            for (id, session) in &page {
                if shared.sessions.get(*id).is_none() {
                    shared.sessions.on_opened(*id, session.timeout_ms, now);
                }
            }
            Ok(page.last().map(|(id, _)| *id))
        })?;
        match last {
            Some(id) => after = Some(id),
            None => break,
        }
    }
    shared.sessions.loaded();
    Ok(())
}

async fn run(shared: Weak<Shared>) {
    let mut looked_at = None;
    let mut led = true;
    let mut reported_at = Duration::ZERO;
    let mut members_written = None;
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let now = shared.clock.elapsed();
        if let Some(before) = looked_at.replace(now) {
            let late = now.saturating_sub(before).saturating_sub(INTERVAL);
            if late > STANDSTILL_MIN {
                info!(
                    late_ms = late.as_millis(),
                    "the process stood still; sessions get that time"
                );
                shared.sessions.extend(late, now);
            }
        }
        if let Err(error) = load(&shared) {
            debug!(%error, "stored sessions cannot be read yet");
        } else if shared.kernel.leads() {
            if !led {
                shared.sessions.renew(now);
            }
            led = true;
            expire(&shared, Whose::All, now).await;
            // Sessions do not wait for it.
            let _ = task::timeout(INTERVAL, members::publish(&shared, &mut members_written)).await;
        } else {
            led = false;
            members_written = None;
            expire(&shared, Whose::LocalOnly, now).await;
            if now.saturating_sub(reported_at) >= REPORT_INTERVAL {
                report(&shared, reported_at).await;
                reported_at = now;
            }
        }
        drop(shared);
        task::sleep(INTERVAL).await;
    }
}

/// Tells the leader whom this node heard since `since`.
async fn report(shared: &Shared, since: Duration) {
    let heard = shared.sessions.heard_since(since);
    for sessions in heard.chunks(PAGE_COUNT_MAX) {
        let op = tree::Op::TouchSessions { sessions: sessions.to_vec() };
        if let Err(error) = shared.kernel.commit(Minitransaction::of(Op::Tree(op))).await {
            debug!(%error, "the leader was not told which sessions are alive; trying again");
        }
    }
}

async fn expire(shared: &Shared, whose: Whose, now: Duration) {
    let (local, expired): (Vec<SessionId>, Vec<SessionId>) =
        shared.sessions.expire(whose, now).into_iter().partition(|id| {
            shared.sessions.get(*id).is_some_and(|session| session.local_password().is_some())
        });
    // Nobody else knows of them, and they own nothing.
    local.into_iter().for_each(|id| shared.sessions.on_closed(id));
    for ids in expired.chunks(PAGE_COUNT_MAX) {
        debug!(count = ids.len(), "sessions expired");
        let close =
            |id: &SessionId| Minitransaction::of(Op::Tree(tree::Op::CloseSession { session: *id }));
        if let Err(error) = shared.kernel.propose(ids.iter().map(close).collect()).await {
            warn!(%error, count = ids.len(), "expired sessions could not be closed; trying again");
            shared.sessions.spare(ids);
        }
    }
}
