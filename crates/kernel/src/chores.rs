//! What the leader does because time passes: expiry, checkpoints.

use std::sync::Arc;
use std::time::Duration;

use proteus_consensus::{Group, Replica};
use proteus_env::{Clock, task};
use proteus_log::Log;
use proteus_machine::ShardMachine;
use proteus_types::LogIndex;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::digests::{Testimony, Voters};
use crate::shard::Shard;
use crate::state::ShardState;

/// Commands due that are proposed at once.
const DUE_COUNT_MAX: usize = 1_000;

/// Pause after a checkpoint that failed, as when the disk is full.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(5);

/// How long a checkpoint waits for voters that do not answer. It may be the only copy there is.
const VOUCH_PATIENCE: Duration = Duration::from_secs(30);

/// How long the log behind a checkpoint is kept for a voter that is behind, so that it need not be sent the
/// whole state, and how many times what is replayed after a crash it may become meanwhile.
const LAGGARD_PATIENCE: Duration = Duration::from_secs(10);
const KEPT_LOGS: u64 = 4;

/// When to look for what is due, and when to take a checkpoint: whichever bound is reached first.
#[derive(Debug, Clone)]
pub struct ChoreOptions {
    /// How often to look for what is due. Expiry is this late at most; readers never see it.
    pub look_interval: Duration,
    /// Changes in memory, in bytes; a quarter of it or so is replayed after a crash on average.
    pub checkpoint_bytes: usize,
    /// Log to replay after a crash, in bytes.
    pub replay_bytes_max: u64,
    /// Age of the oldest change that no checkpoint contains.
    pub checkpoint_interval: Duration,
}

impl Default for ChoreOptions {
    fn default() -> ChoreOptions {
        ChoreOptions {
            look_interval: Duration::from_millis(100),
            checkpoint_bytes: 48 * 1024 * 1024,
            replay_bytes_max: 64 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(60),
        }
    }
}

/// Proposes what is due, until asked to stop.
pub(crate) async fn propose_due<M: ShardMachine>(
    shard: Arc<Shard<M>>,
    look_interval: Duration,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            () = task::sleep(look_interval) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if !shard.leads() {
            continue;
        }
        loop {
            let mut due = Ok(Vec::new());
            if shard.read(&mut |view| due = M::due(view, DUE_COUNT_MAX)).is_err() {
                return;
            }
            let commands = match due {
                Ok(commands) => commands,
                Err(fault) => {
                    warn!(%fault, "cannot look for what is due");
                    break;
                }
            };
            let count = commands.len();
            if count == 0 || shard.propose(&commands).await.is_err() || count < DUE_COUNT_MAX {
                break;
            }
        }
    }
}

/// Takes checkpoints and lets the log behind them go, until asked to stop.
pub(crate) async fn take_checkpoints<M: ShardMachine>(
    state: Arc<ShardState<M>>,
    voters: Arc<Voters>,
    group: Group,
    log: Log,
    clock: Arc<dyn Clock>,
    options: ChoreOptions,
    mut stop: watch::Receiver<bool>,
) {
    let mut last = clock.elapsed();
    let mut last_index = state.applied_index();
    let mut last_log_bytes = 0;
    // That of an earlier run may be asked for before there is another.
    let mut kept = KeptLog::behind(&state, last);
    loop {
        tokio::select! {
            biased;
            () = task::sleep(options.look_interval) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // What is kept for others is not replayed here.
        last_log_bytes = log.disk_bytes().min(last_log_bytes);
        let log_bytes = log.disk_bytes() - last_log_bytes;
        let bytes_due = state.active_bytes() >= options.checkpoint_bytes
            || log_bytes >= options.replay_bytes_max;
        let time_due = clock.elapsed().saturating_sub(last) >= options.checkpoint_interval;
        let index = state.applied_index();
        if index != last_index && (bytes_due || time_due) {
            let writer = state.clone();
            let written = task::spawn_blocking(move || writer.checkpoint()).await;
            let fault = match written {
                Ok(Ok(())) => None,
                Ok(Err(fault)) => Some(fault.to_string()),
                Err(fault) => Some(fault.to_string()),
            };
            if let Some(fault) = fault {
                warn!(fault, "cannot write a checkpoint; the log grows until it succeeds");
                task::sleep(CHECKPOINT_RETRY).await;
                continue;
            }
            debug!(%index, "checkpoint written");
            last = clock.elapsed();
            last_index = index;
            last_log_bytes = log.disk_bytes();
            let since = kept.map_or(last, |kept| kept.since);
            kept = KeptLog::behind(&state, since);
        }
        let Some(keeping) = &mut kept else { continue };
        if !keeping.is_vouched(&state, &voters, clock.elapsed()).await {
            continue;
        }
        let is_long = log.disk_bytes() >= options.replay_bytes_max.saturating_mul(KEPT_LOGS);
        let is_old = clock.elapsed().saturating_sub(keeping.since) >= LAGGARD_PATIENCE;
        if is_long || is_old || !voters.need_log(keeping.index) {
            kept = None;
            if group.purge_checkpointed().await.is_err() {
                return;
            }
        }
    }
}

/// The log that leads to a checkpoint: it stays until somebody has vouched for the checkpoint, and for a
/// while for voters that are behind it.
struct KeptLog {
    index: LogIndex,
    /// Since when checkpoints have been waiting, without anybody saying that they are wrong.
    since: Duration,
}

impl KeptLog {
    fn behind<M: ShardMachine>(state: &ShardState<M>, since: Duration) -> Option<KeptLog> {
        let (id, _) = state.checkpointed()?;
        Some(KeptLog { index: id.index, since })
    }

    async fn is_vouched<M: ShardMachine>(
        &mut self,
        state: &ShardState<M>,
        voters: &Voters,
        now: Duration,
    ) -> bool {
        match voters.vouch(&state.digests, self.index, 0).await {
            Testimony::Vouched => true,
            Testimony::Contradicted => {
                self.since = now;
                false
            }
            Testimony::Unknown if now.saturating_sub(self.since) >= VOUCH_PATIENCE => {
                warn!(index = %self.index, "too few replicas can tell whether this one's state is right; it is taken to be");
                state.digests.vouched().extend(self.index);
                true
            }
            Testimony::Unknown => false,
        }
    }
}
