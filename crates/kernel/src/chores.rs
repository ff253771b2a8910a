//! What is done because time passes: expiry, checkpoints, answers to those who have waited too long.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proteus_consensus::{Group, Replica};
use proteus_env::{Clock, task};
use proteus_log::Log;
use proteus_machine::{KernelError, ShardMachine, View};
use proteus_store::StoreError;
use proteus_types::LogIndex;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, error, warn};

use crate::digests::{Testimony, Voters};
use crate::proposer::LEADER_PATIENCE;
use crate::shard::Shard;
use crate::state::ShardState;

/// How often, and how many times, those are answered who proposed while the shard was stopping.
const STOPPED_SWEEP_INTERVAL: Duration = Duration::from_millis(100);
const STOPPED_SWEEPS: usize = 50;

/// Commands due that are proposed at once.
const DUE_COUNT_MAX: usize = 1_000;

/// How often to look at the wall clock while nothing is due: it may be set.
const CLOCK_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// So many times less often is looked whether changes are old enough for a checkpoint, or the log long enough,
/// while nothing else changes.
const IDLE_ROUNDS: u32 = 10;

/// Checkpoints that are written at once: they share one disk, and each takes a thread.
const CHECKPOINTS_MAX: usize = 4;

/// Pause after a checkpoint that failed, as when the disk is full.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(5);

/// How long a checkpoint waits for voters that do not answer. It may be the only copy there is.
const VOUCH_PATIENCE: Duration = Duration::from_secs(30);

/// How long the log behind a checkpoint is kept for a voter that is behind, so that it need not be sent the
/// whole state, and how many times what is replayed after a crash it may become meanwhile.
const LAGGARD_PATIENCE: Duration = Duration::from_secs(10);
const KEPT_LOGS: u64 = 4;

/// How often to look for callers who have waited too long.
const PATIENCE_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// When to look for what is due, and when to take a checkpoint: whichever bound is reached first.
#[derive(Debug, Clone)]
pub struct ChoreOptions {
    /// How often to look for what is due, while anything is or may be. Expiry is this late at most, or a second
    /// after the wall clock was set; readers never see it.
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

/// Proposes what is due, until asked to stop. A shard in which nothing happens and nothing is due is not looked at:
/// a node may have many.
pub(crate) async fn propose_due<M: ShardMachine>(
    shard: Arc<Shard<M>>,
    clock: Arc<dyn Clock>,
    look_interval: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let state = shard.state().clone();
    // Up to which entry there is nothing due before which time.
    let mut quiet: Option<(LogIndex, u64)> = None;
    loop {
        let waiting = async {
            while let Some((index, next_ms)) = quiet {
                let left_ms = next_ms.saturating_sub(clock.wall_ms());
                if left_ms == 0 {
                    break;
                }
                let left = Duration::from_millis(left_ms).min(CLOCK_LOOK_INTERVAL);
                if task::timeout(left, state.wait_applied(index.next())).await.is_some() {
                    break;
                }
            }
            // What arrives in the meantime is looked at together.
            task::sleep(look_interval).await;
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = waiting => {}
        }
        quiet = match look(&shard).await {
            Some(quiet) => quiet,
            None => return,
        };
    }
}

/// Proposes what is due now, if this node leads; says until which entry nothing is before which time, if that is
/// known, and nothing at all once the shard has stopped.
async fn look<M: ShardMachine>(shard: &Shard<M>) -> Option<Option<(LogIndex, u64)>> {
    if !shard.leads() {
        return Some(None);
    }
    loop {
        let index = shard.state().applied_index();
        let mut due = Ok((Vec::new(), u64::MAX));
        let find = |view: View<'_>| {
            let next_ms = M::next_due_ms(view.state)?.unwrap_or(u64::MAX);
            let is_due = next_ms <= view.now_ms;
            let commands = if is_due { M::due(view, DUE_COUNT_MAX)? } else { Vec::new() };
            Ok::<_, StoreError>((commands, next_ms))
        };
        shard.read(&mut |view| due = find(view)).ok()?;
        match due {
            Ok((commands, next_ms)) if commands.is_empty() => return Some(Some((index, next_ms))),
            Ok((commands, _)) => {
                let is_all = commands.len() < DUE_COUNT_MAX;
                let Ok(outcomes) = shard.propose(&commands).await else { return Some(None) };
                let due = commands.into_iter().zip(outcomes);
                let wide = due.filter(|(_, outcome)| M::concerns_others(outcome));
                let wide: Vec<M::Command> = wide.map(|(command, _)| command).collect();
                if !shard.commit_widely(wide).await || is_all {
                    return Some(None);
                }
            }
            Err(fault) => {
                warn!(%fault, "cannot look for what is due");
                return Some(None);
            }
        }
    }
}

/// Bounds how many shards of a node write a checkpoint at once.
#[derive(Debug)]
pub struct CheckpointTurns(Semaphore);

impl Default for CheckpointTurns {
    fn default() -> CheckpointTurns {
        CheckpointTurns(Semaphore::new(CHECKPOINTS_MAX))
    }
}

/// What takes a shard's checkpoints.
pub(crate) struct Checkpoints<M: ShardMachine> {
    pub(crate) state: Arc<ShardState<M>>,
    pub(crate) voters: Arc<Voters>,
    pub(crate) group: Group,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: ChoreOptions,
}

/// How far checkpoints are.
struct Taken {
    /// When the last was taken, what it contains, and how long the log was then.
    at: Duration,
    index: LogIndex,
    log_bytes: u64,
    /// What was applied when this was looked at last.
    seen: LogIndex,
    /// That of an earlier run may be asked for before there is another.
    kept: Option<KeptLog>,
}

impl Taken {
    /// Whether all that was seen is in a checkpoint.
    fn is_all(&self) -> bool {
        self.seen == self.index
    }
}

impl<M: ShardMachine> Checkpoints<M> {
    /// Takes checkpoints and lets the log behind them go, until asked to stop.
    pub(crate) async fn take(self, turns: Arc<CheckpointTurns>, mut stop: watch::Receiver<bool>) {
        let at = self.clock.elapsed();
        let index = self.state.checkpointed().map_or(LogIndex::default(), |(id, _)| id.index);
        let kept = KeptLog::behind(&self.state, at);
        // What was replayed at the start is in no checkpoint.
        let mut taken = Taken { at, index, log_bytes: 0, seen: self.state.applied_index(), kept };
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.wait(&taken) => {}
            }
            if taken.is_all() {
                // What others wrote before is not replayed for what follows.
                taken.log_bytes = self.log.disk_bytes();
            }
            taken.seen = self.state.applied_index();
            if self.is_due(&mut taken) {
                let Ok(_turn) = turns.0.acquire().await else { return };
                if let Err(fault) = self.write().await {
                    warn!(fault, "cannot write a checkpoint; the log grows until it succeeds");
                    task::sleep(CHECKPOINT_RETRY).await;
                    continue;
                }
                debug!(index = %taken.seen, "checkpoint written");
                taken.at = self.clock.elapsed();
                taken.index = taken.seen;
                taken.log_bytes = self.log.disk_bytes();
                let since = taken.kept.map_or(taken.at, |kept| kept.since);
                taken.kept = KeptLog::behind(&self.state, since);
            }
            if self.lets_go(&mut taken).await && self.group.purge_checkpointed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until it is time to look again.
    async fn wait(&self, taken: &Taken) {
        if taken.kept.is_none() {
            let changed = self.state.wait_applied(taken.seen.next());
            if taken.is_all() {
                // Nothing can become due before that.
                changed.await;
            } else {
                // Whether that is so makes no difference to when is looked.
                let _ = task::timeout(self.options.look_interval * IDLE_ROUNDS, changed).await;
            }
        }
        task::sleep(self.options.look_interval).await;
    }

    fn is_due(&self, taken: &mut Taken) -> bool {
        if taken.is_all() {
            return false;
        }
        // What is kept for others is not replayed here.
        let disk_bytes = self.log.disk_bytes();
        taken.log_bytes = disk_bytes.min(taken.log_bytes);
        self.state.active_bytes() >= self.options.checkpoint_bytes
            || disk_bytes - taken.log_bytes >= self.options.replay_bytes_max
            || self.clock.elapsed().saturating_sub(taken.at) >= self.options.checkpoint_interval
    }

    async fn write(&self) -> Result<(), String> {
        let writer = self.state.clone();
        match task::spawn_blocking(move || writer.checkpoint()).await {
            Ok(written) => written.map_err(|fault| fault.to_string()),
            Err(fault) => Err(fault.to_string()),
        }
    }

    /// Whether the log that was kept is needed no more.
    async fn lets_go(&self, taken: &mut Taken) -> bool {
        let Some(keeping) = &mut taken.kept else { return false };
        if !keeping.is_vouched(&self.state, &self.voters, self.clock.elapsed()).await {
            return false;
        }
        let long_bytes = self.options.replay_bytes_max.saturating_mul(KEPT_LOGS);
        let is_old = self.clock.elapsed().saturating_sub(keeping.since) >= LAGGARD_PATIENCE;
        let is_needed = !is_old && self.voters.need_log(keeping.index);
        if is_needed && self.log.disk_bytes() < long_bytes {
            return false;
        }
        taken.kept = None;
        true
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

/// Answers those who have waited too long for an entry to be committed: a majority is out of reach.
pub(crate) async fn sweep_impatient<M: ShardMachine>(
    state: Arc<ShardState<M>>,
    clock: Arc<dyn Clock>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            () = task::sleep(PATIENCE_SWEEP_INTERVAL) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if let Some(since) = clock.elapsed().checked_sub(LEADER_PATIENCE) {
            let error = KernelError::Unavailable(
                "no majority of the shard's voters has answered; what was sent may still be committed"
                    .to_owned(),
            );
            state.pending.fail_older(since, &error);
        }
    }
}

/// Notes why the group has stopped, once it has, and answers those who still wait.
pub(crate) async fn watch_group<M: ShardMachine>(
    group: Group,
    state: Arc<ShardState<M>>,
    stopped: Arc<Mutex<Option<String>>>,
) {
    let reason = group.stopped().await;
    stopped.lock().get_or_insert_with(|| {
        error!(reason, "the shard stopped; restart the node once the cause is mended");
        reason.clone()
    });
    // No proposal is accepted from here on. One that the group took while it was stopping reaches
    // the waiting list only afterwards, and must not wait for ever.
    for _ in 0..STOPPED_SWEEPS {
        state.pending.fail(&KernelError::Stopped(reason.clone()));
        task::sleep(STOPPED_SWEEP_INTERVAL).await;
    }
}
