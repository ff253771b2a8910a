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
    // That of an earlier run may be asked for before there is another.
    let mut unvouched = Unvouched::begin(&state, last);
    loop {
        tokio::select! {
            biased;
            () = task::sleep(options.look_interval) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let bytes_due = state.active_bytes() >= options.checkpoint_bytes
            || log.disk_bytes() >= options.replay_bytes_max;
        let time_due = clock.elapsed().saturating_sub(last) >= options.checkpoint_interval;
        let index = state.applied_index();
        if index != last_index && (bytes_due || time_due) {
            let writer = state.clone();
            match task::spawn_blocking(move || writer.checkpoint()).await {
                Ok(Ok(())) => {
                    debug!(%index, "checkpoint written");
                    last = clock.elapsed();
                    last_index = index;
                    let since = unvouched.map_or(last, |unvouched| unvouched.since);
                    unvouched = Unvouched::begin(&state, since);
                }
                Ok(Err(fault)) => {
                    warn!(%fault, "cannot write a checkpoint; the log grows until it succeeds");
                    task::sleep(CHECKPOINT_RETRY).await;
                    continue;
                }
                Err(fault) => {
                    warn!(%fault, "a checkpoint ended abnormally");
                    task::sleep(CHECKPOINT_RETRY).await;
                    continue;
                }
            }
        }
        if let Some(waiting) = &mut unvouched
            && waiting.is_vouched(&state, &voters, clock.elapsed()).await
        {
            unvouched = None;
            if group.purge_checkpointed().await.is_err() {
                return;
            }
        }
    }
}

/// A checkpoint that nobody vouched for yet: the log that leads to it has to stay.
struct Unvouched {
    index: LogIndex,
    /// Since when checkpoints have been waiting without anybody saying that they are wrong.
    since: Duration,
}

impl Unvouched {
    fn begin<M: ShardMachine>(state: &ShardState<M>, since: Duration) -> Option<Unvouched> {
        let (id, _) = state.checkpointed()?;
        Some(Unvouched { index: id.index, since })
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
