//! The handle to a shard on this node.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use proteus_consensus::{Group, GroupOptions};
use proteus_env::{Clock, task};
use proteus_log::Log;
use proteus_machine::{Committed, KernelError, ShardMachine, View};
use proteus_store::DiskStore;
use proteus_types::{CommitTs, LogIndex, NodeId, ShardId};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use crate::PROPOSAL_BYTES_MAX;
use crate::chores::{ChoreOptions, propose_due, take_checkpoints};
use crate::proposer::{Proposal, Proposer};
use crate::state::ShardState;

/// Where committed changes go: the feed. Called in commit order under the state's lock, so it may
/// only mark, queue and wake.
pub trait CommitSink<C>: Send + Sync + 'static {
    /// Learns of one commit that changed something.
    fn on_commit(&self, commit: Committed<C>);
}

/// How often, and how many times, those are answered who proposed while the shard was stopping.
const STOPPED_SWEEP_INTERVAL: Duration = Duration::from_millis(100);
const STOPPED_SWEEPS: usize = 50;

/// The outcomes to come of one proposal.
type Answer<O> = oneshot::Receiver<Result<Vec<O>, KernelError>>;

/// What a shard needs to open.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// Which shard.
    pub shard: ShardId,
    /// This node.
    pub node: NodeId,
    /// When to take checkpoints.
    pub chores: ChoreOptions,
}

/// A shard's figures, for operators.
#[derive(Debug, Clone, Copy)]
pub struct ShardStatus {
    /// Last entry applied.
    pub applied_index: LogIndex,
    /// Timestamp of the last commit.
    pub applied_ts: CommitTs,
    /// Commands applied since start.
    pub applied_count: u64,
    /// Memory of changes that no checkpoint contains, in bytes.
    pub active_bytes: usize,
    /// Size of the node's log, in bytes.
    pub log_bytes: u64,
}

/// A shard on this node: propose, read, follow through the sink.
pub struct Shard<M: ShardMachine> {
    state: Arc<ShardState<M>>,
    group: Group,
    log: Log,
    proposals: mpsc::UnboundedSender<Proposal<M::Outcome>>,
    stop: watch::Sender<bool>,
    /// Why the shard serves no more, once it does not.
    stopped: Arc<Mutex<Option<String>>>,
}

impl<M: ShardMachine> Shard<M> {
    /// Opens the shard: recovers the store, replays the log behind it, and returns once it serves.
    ///
    /// # Errors
    /// If store or log cannot be opened, or the group does not come to lead itself.
    pub async fn open(
        options: ShardOptions,
        store_directory: &Path,
        log: Log,
        clock: Arc<dyn Clock>,
        sink: Arc<dyn CommitSink<M::Change>>,
    ) -> Result<Arc<Shard<M>>, KernelError> {
        let disk = DiskStore::open(store_directory)?;
        let state: Arc<ShardState<M>> =
            Arc::new(ShardState::open(options.node, disk, clock.clone(), sink)?);
        let group_options = GroupOptions { shard: options.shard, node: options.node };
        let group = Group::open(group_options, log.clone(), state.clone())
            .await
            .map_err(|error| KernelError::Stopped(error.to_string()))?;
        let (proposals, arriving) = mpsc::unbounded_channel();
        let (stop, stopping) = watch::channel(false);
        let proposer = Proposer {
            node: options.node,
            state: state.clone(),
            group: group.clone(),
            log: log.clone(),
            clock: clock.clone(),
            arriving,
            next_ts: state.applied_ts().plus(1),
            next_proposal: (state.applied_index().0 + 1) << 20,
        };
        task::spawn(proposer.run());
        let stopped = Arc::new(Mutex::new(None));
        let shard = Arc::new(Shard {
            state: state.clone(),
            group: group.clone(),
            log: log.clone(),
            proposals,
            stop,
            stopped: stopped.clone(),
        });
        task::spawn(watch_group(group.clone(), state.clone(), stopped));
        let look_interval = options.chores.look_interval;
        task::spawn(propose_due(shard.clone(), look_interval, stopping.clone()));
        task::spawn(take_checkpoints(state, group, log, clock, options.chores, stopping));
        Ok(shard)
    }

    /// Commits commands: consecutive in the log, each atomic by itself. They are on their way when
    /// this returns, whether or not the result is awaited.
    pub fn propose(
        &self,
        commands: &[M::Command],
    ) -> impl Future<Output = Result<Vec<M::Outcome>, KernelError>> + Send + use<M> {
        let submitted = self.submit(commands);
        async move {
            match submitted {
                Ok(receiver) => receiver.await.unwrap_or_else(|_| {
                    Err(KernelError::Unavailable("the node is stopping".to_owned()))
                }),
                Err(error) => Err(error),
            }
        }
    }

    fn submit(&self, commands: &[M::Command]) -> Result<Answer<M::Outcome>, KernelError> {
        self.serving()?;
        let mut encoded = Vec::new();
        for command in commands {
            M::encode(command, &mut encoded);
        }
        if encoded.len() > PROPOSAL_BYTES_MAX {
            let bytes = encoded.len();
            return Err(KernelError::TooLarge { bytes, bytes_max: PROPOSAL_BYTES_MAX });
        }
        self.state.pending.admit(encoded.len())?;
        let (reply, receiver) = oneshot::channel();
        let command_count = u32::try_from(commands.len()).unwrap_or(u32::MAX);
        let proposal = Proposal { commands: encoded, command_count, reply };
        self.proposals
            .send(proposal)
            .map_err(|_| KernelError::Unavailable("the node is stopping".to_owned()))?;
        Ok(receiver)
    }

    /// Calls `reader` once with the state at the last applied commit. With one voter every commit
    /// that was acknowledged is applied here, so the read is linearizable.
    ///
    /// # Errors
    /// If the shard has stopped.
    pub fn read(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.serving()?;
        if self.state.read(reader) {
            Ok(())
        } else {
            Err(KernelError::Stopped("the node is stopping".to_owned()))
        }
    }

    /// The shard's figures.
    pub fn status(&self) -> ShardStatus {
        ShardStatus {
            applied_index: self.state.applied_index(),
            applied_ts: self.state.applied_ts(),
            applied_count: self.state.applied_count.load(Ordering::Relaxed),
            active_bytes: self.state.active_bytes(),
            log_bytes: self.log.disk_bytes(),
        }
    }

    /// Why the shard serves no more, or `None` while it does.
    pub fn stop_reason(&self) -> Option<String> {
        self.stopped.lock().clone()
    }

    /// Stops serving, leaving a checkpoint behind so that the next start replays nothing.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        *self.stopped.lock() = Some("the node is stopping".to_owned());
        self.group.shutdown().await;
        let state = self.state.clone();
        match task::spawn_blocking(move || state.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                error!(%fault, "no checkpoint at shutdown; the next start replays the log")
            }
            Err(fault) => error!(%fault, "the checkpoint at shutdown ended abnormally"),
        }
        self.state.pending.fail(&KernelError::Unavailable("the node is stopping".to_owned()));
    }

    fn serving(&self) -> Result<(), KernelError> {
        match &*self.stopped.lock() {
            Some(reason) => Err(KernelError::Stopped(reason.clone())),
            None => Ok(()),
        }
    }
}

async fn watch_group<M: ShardMachine>(
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
