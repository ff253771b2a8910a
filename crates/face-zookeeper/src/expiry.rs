//! Ending the sessions of clients that went silent.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use proteus_env::task;
use proteus_kernel_api::tree::{self, SessionId};
use proteus_kernel_api::{KernelError, Minitransaction, Op};
use tracing::{debug, info, warn};

use crate::Shared;

/// How often to look. A session outlives its timeout by at most this and a commit.
const INTERVAL: Duration = Duration::from_millis(250);

/// Waking later than this means that the process stood still, and could not hear its clients.
const STANDSTILL_MIN: Duration = Duration::from_secs(1);

/// Sessions read from the store, and ended, at a time.
const PAGE_COUNT_MAX: usize = 1_000;

/// Starts looking after the sessions, unless that has been started.
pub(crate) fn start(shared: &Arc<Shared>) {
    if !shared.is_expiring.swap(true, Ordering::AcqRel) {
        task::spawn(run(Arc::downgrade(shared)));
    }
}

/// Learns of the sessions that are stored, unless that has been done. Until then none can be
/// resumed here.
pub(crate) fn load(shared: &Shared) -> Result<(), KernelError> {
    if shared.is_loaded.load(Ordering::Acquire) {
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
    shared.is_loaded.store(true, Ordering::Release);
    Ok(())
}

async fn run(shared: Weak<Shared>) {
    let mut looked_at = None;
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
        } else {
            expire(&shared, now).await;
        }
        drop(shared);
        task::sleep(INTERVAL).await;
    }
}

async fn expire(shared: &Shared, now: Duration) {
    let (local, expired): (Vec<SessionId>, Vec<SessionId>) =
        shared.sessions.expire(now).into_iter().partition(|id| {
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
