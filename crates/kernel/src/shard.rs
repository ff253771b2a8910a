//! The handle to a shard on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_consensus::{Group, GroupOptions, GroupStatus, Leadership, Timing};
use proteus_env::{Clock, task};
use proteus_log::Log;
use proteus_machine::{Committed, KernelError, ShardMachine, View};
use proteus_types::{CommitTs, Durability, EntryId, LogIndex, Member, NodeId, ShardId};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

use crate::PROPOSAL_BYTES_MAX;
use crate::chores::{
    CheckpointTurns, Checkpoints, ChoreOptions, propose_due, sweep_impatient, watch_group,
};
use crate::digests::{Testimony, Voters, differs, judge_differences, mark_difference};
use crate::forward::{Forward, ForwardAnswer, Taken, first_proposal};
use crate::image::StateImage;
use crate::links::{Links, Route, Service, ServiceLinks};
use crate::pending::{Answered, Kind, Proposal};
use crate::proposer::{Arrival, Proposer, Taking};
use crate::reads::{Readers, Recency, ask_for_readers};
use crate::state::ShardState;
use crate::step::{FinishMessage, Finished, Step, StepOutcome, TransactionId, encode_command};
use crate::timestamps::Timestamps;
use crate::undecided::{Decision, Standing, Undecided};

/// Where committed changes go: the feed. Called in commit order under the state's lock, so it may
/// only mark, queue and wake.
pub trait CommitSink<C>: Send + Sync + 'static {
    /// Learns of one commit that changed something.
    fn on_commit(&self, commit: Committed<C>);

    /// Learns that this replica's state was replaced by the leader's, as of `applied_ts`: commits up to
    /// it happened that are not told one by one.
    fn on_gap(&self, applied_ts: CommitTs);
}

/// Who commits what is due in a shard and concerns others, too.
pub trait Wide<M: ShardMachine>: Send + Sync + 'static {
    /// Commits the commands over all shards that they concern.
    fn commit(&self, commands: Vec<M::Command>) -> Committing;
}

/// A commit on its way.
pub type Committing = Pin<Box<dyn Future<Output = Result<(), KernelError>> + Send>>;

/// Bytes that a command takes most likely, or less.
const COMMAND_BYTES_GUESS: usize = 96;

/// How long a shard that stops waits for what is on its way.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);

/// How long a leader keeps another node waiting before it says to ask again.
const APPLY_PATIENCE: Duration = Duration::from_secs(2);

/// How long an image waits for the other voters to tell that they came to the same, and pause before they
/// are asked about another.
const IMAGE_PATIENCE: Duration = Duration::from_secs(10);
const IMAGE_RETRY: Duration = Duration::from_millis(100);

/// The outcomes to come of one proposal.
pub(crate) type Answer<O> = oneshot::Receiver<Answered<O>>;

/// Commands that were proposed, as they are kept until they are answered: whoever may have to propose them again
/// need not keep them meanwhile.
pub struct Proposed(Vec<u8>);

impl Proposed {
    /// The commands.
    ///
    /// # Errors
    /// If they are those of another machine.
    pub fn commands<M: ShardMachine>(&self) -> Result<Vec<M::Command>, KernelError> {
        let (mut commands, mut rest) = (Vec::new(), self.0.as_slice());
        while !rest.is_empty() {
            let (step, behind) = Step::decode::<M>(rest)?;
            if let Step::Command(command) = step {
                commands.push(command);
            }
            rest = behind;
        }
        Ok(commands)
    }
}

/// An answer to another node's message.
pub type Answering = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// What a shard needs to open.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// Which shard.
    pub shard: ShardId,
    /// This node.
    pub node: NodeId,
    /// This node as others reach it.
    pub member: Member,
    /// Whether a shard without a log is founded here, or waits to be added to one elsewhere.
    pub found: bool,
    /// Drawn anew at each start, so that no proposal of an earlier run is taken for one of this.
    pub run: u32,
    /// Times of consensus.
    pub timing: Timing,
    /// When to take checkpoints.
    pub chores: ChoreOptions,
    /// What all shards of the node share.
    pub timestamps: Arc<Timestamps>,
    /// Likewise: how many of them write a checkpoint at once.
    pub checkpoints: Arc<CheckpointTurns>,
}

impl ShardOptions {
    /// A shard on one node by itself.
    pub fn alone(shard: ShardId, run: u32, chores: ChoreOptions) -> ShardOptions {
        ShardOptions {
            shard,
            node: NodeId(1),
            member: Member::default(),
            found: true,
            run,
            timing: Timing::default(),
            chores,
            timestamps: Arc::default(),
            checkpoints: Arc::default(),
        }
    }
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
    /// Batches that were proposed and not applied yet.
    pub in_flight: usize,
    /// Memory of changes that no checkpoint contains, in bytes.
    pub active_bytes: usize,
    /// Size of the node's log, in bytes.
    pub log_bytes: u64,
}

/// A shard on this node: propose, read, follow through the sink.
pub struct Shard<M: ShardMachine> {
    node: NodeId,
    state: Arc<ShardState<M>>,
    group: Group,
    log: Log,
    clock: Arc<dyn Clock>,
    proposals: mpsc::UnboundedSender<Arrival<StepOutcome<M::Outcome>>>,
    finishing: mpsc::UnboundedSender<Proposal<StepOutcome<M::Outcome>>>,
    shard: ShardId,
    links: Arc<dyn Links>,
    readers: Readers,
    recency: Arc<Recency>,
    /// By stream, the newest attempt of nodes that have no replica.
    pub(crate) attempts: Mutex<BTreeMap<u64, u64>>,
    voters: Arc<Voters>,
    wide: OnceLock<Arc<dyn Wide<M>>>,
    stop: watch::Sender<bool>,
    /// Why the shard serves no more, once it does not.
    stopped: Arc<Mutex<Option<String>>>,
}

impl<M: ShardMachine> Shard<M> {
    /// Opens the shard: recovers the store, and, if this node is the only voter, replays the log
    /// behind it and returns once it serves. With other voters it returns while they are being found.
    ///
    /// # Errors
    /// If store or log cannot be opened, or the group does not come to lead itself.
    pub async fn open(
        options: ShardOptions,
        store_directory: &Path,
        log: Log,
        clock: Arc<dyn Clock>,
        sink: Arc<dyn CommitSink<M::Change>>,
        links: Arc<dyn Links>,
    ) -> Result<Arc<Shard<M>>, KernelError> {
        let ShardOptions { shard, node, .. } = options;
        if differs(store_directory) {
            let reason = "its state differs from the other replicas' and has to be rebuilt";
            return Err(KernelError::Stopped(reason.to_owned()));
        }
        let state: Arc<ShardState<M>> = ShardState::open(
            (shard, node),
            store_directory,
            clock.clone(),
            options.timestamps,
            sink,
            log.clone(),
        )?;
        let group_options = GroupOptions {
            shard,
            node,
            member: options.member,
            found: options.found,
            timing: options.timing,
        };
        let route = Route { shard, service: Service::Consensus };
        let transport = Arc::new(ServiceLinks { links: links.clone(), route });
        let group = Group::open(group_options, log.clone(), state.clone(), transport)
            .await
            .map_err(|error| KernelError::Stopped(error.to_string()))?;
        let (proposals, arriving) = mpsc::unbounded_channel();
        let (finishing, finishing_here) = mpsc::unbounded_channel();
        let (stop, stopping) = watch::channel(false);
        let proposer = Proposer {
            shard,
            node,
            state: state.clone(),
            group: group.clone(),
            links: links.clone(),
            log: log.clone(),
            clock: clock.clone(),
            arriving,
            finishing: finishing_here,
            next_ts: state.applied_ts().plus(1),
            next_proposal: first_proposal(options.run),
            gate_on_its_way: false,
            stream: Default::default(),
            stream_number: (options.run, 0),
        };
        task::spawn(proposer.run());
        let (readers, reading) = mpsc::unbounded_channel();
        let recency = Arc::new(Recency::new(clock.clone()));
        task::spawn(ask_for_readers(group.clone(), state.clone(), recency.clone(), reading));
        let stopped = Arc::new(Mutex::new(None));
        let voters = Arc::new(Voters::new(node, shard, group.clone(), links.clone()));
        let opened = Arc::new(Shard {
            node,
            state: state.clone(),
            group: group.clone(),
            log: log.clone(),
            clock: clock.clone(),
            proposals,
            finishing,
            shard,
            links: links.clone(),
            readers,
            recency,
            attempts: Mutex::default(),
            voters: voters.clone(),
            wide: OnceLock::new(),
            stop,
            stopped: stopped.clone(),
        });
        task::spawn(watch_group(group.clone(), state.clone(), stopped));
        task::spawn(judge_differences(opened.clone(), voters.clone(), stopping.clone()));
        task::spawn(sweep_impatient(state.clone(), clock.clone(), stopping.clone()));
        let look_interval = options.chores.look_interval;
        task::spawn(propose_due(opened.clone(), clock.clone(), look_interval, stopping.clone()));
        let checkpoints = Checkpoints { state, voters, group, log, clock, options: options.chores };
        task::spawn(checkpoints.take(options.checkpoints, stopping));
        Ok(opened)
    }

    /// Says who commits what is due here and concerns other shards, too; once.
    pub fn set_wide(&self, wide: Arc<dyn Wide<M>>) {
        let _ = self.wide.set(wide);
    }

    /// Commits what is due here and concerns other shards, too; says whether that has happened.
    pub(crate) async fn commit_widely(&self, commands: Vec<M::Command>) -> bool {
        if commands.is_empty() {
            return true;
        }
        let Some(wide) = self.wide.get() else { return false };
        let committed = wide.commit(commands).await;
        committed.inspect_err(|error| info!(%error, "what is due is tried again")).is_ok()
    }

    /// Commits commands: consecutive in the log, each atomic by itself. They are on their way when
    /// this returns, whether or not the result is awaited. On a node that does not lead they go to the
    /// leader; they wait while there is none.
    pub fn propose(
        &self,
        commands: &[M::Command],
    ) -> impl Future<Output = Result<Vec<M::Outcome>, KernelError>> + Send + use<M> {
        self.propose_at(Durability::Flushed, commands)
    }

    /// As [`Shard::propose`], acknowledged as soon as `durability` asks for.
    pub fn propose_at(
        &self,
        durability: Durability,
        commands: &[M::Command],
    ) -> impl Future<Output = Result<Vec<M::Outcome>, KernelError>> + Send + use<M> {
        let proposed = self.propose_returning(durability, commands);
        async move { Ok(proposed.await?.0) }
    }

    /// As [`Shard::propose_at`], and gives the commands back.
    pub fn propose_returning(
        &self,
        durability: Durability,
        commands: &[M::Command],
    ) -> impl Future<Output = Result<(Vec<M::Outcome>, Proposed), KernelError>> + Send + use<M>
    {
        let mut encoded = Vec::with_capacity(commands.len().saturating_mul(COMMAND_BYTES_GUESS));
        for command in commands {
            encode_command::<M>(command, &mut encoded);
        }
        let submitted = self.submit(Kind::Plain, durability, encoded, commands.len());
        async move {
            let (outcomes, encoded) = answered(submitted).await?;
            let outcomes = outcomes.into_iter().filter_map(StepOutcome::into_command).collect();
            Ok((outcomes, Proposed(encoded)))
        }
    }

    pub(crate) fn submit(
        &self,
        kind: Kind,
        durability: Durability,
        encoded: Vec<u8>,
        command_count: usize,
    ) -> Result<Answer<StepOutcome<M::Outcome>>, KernelError> {
        self.serving()?;
        if encoded.len() > PROPOSAL_BYTES_MAX {
            let bytes = encoded.len();
            return Err(KernelError::TooLarge { bytes, bytes_max: PROPOSAL_BYTES_MAX });
        }
        self.state.pending.admit(encoded.len())?;
        let (reply, receiver) = oneshot::channel();
        let command_count = u32::try_from(command_count).unwrap_or(u32::MAX);
        let since = self.clock.elapsed();
        let proposal =
            Proposal { kind, durability, commands: encoded, command_count, reply, since };
        let sent = match kind {
            Kind::Finishes => self.finishing.send(proposal).is_ok(),
            Kind::Plain | Kind::Gates => self.proposals.send(Arrival::Own(proposal)).is_ok(),
        };
        if sent { Ok(receiver) } else { Err(stopping()) }
    }

    /// Proposes one step; it is on its way when this returns.
    pub(crate) fn step(
        &self,
        kind: Kind,
        step: &Step<M::Command>,
    ) -> impl Future<Output = Result<StepOutcome<M::Outcome>, KernelError>> + Send + use<M> {
        let mut encoded = Vec::new();
        step.encode::<M>(&mut encoded);
        let submitted = self.submit(kind, Durability::Flushed, encoded, 1);
        async move { answered(submitted).await?.0.into_iter().next().ok_or_else(stopping) }
    }

    /// Carries out what was tried here, or lets go of it, through whichever node leads; returns once this
    /// node has applied that, with whether it had not been finished before. Safe to repeat.
    pub(crate) async fn finish(
        &self,
        transaction: TransactionId,
        commit_ts: Option<CommitTs>,
    ) -> Result<bool, KernelError> {
        let leadership = self.group.leadership();
        let Some(leader) = leadership.leader else {
            return Err(KernelError::Unavailable("the shard has no leader now".to_owned()));
        };
        if leader == self.node {
            return Ok(self.finish_here(transaction, commit_ts).await?.was_tried);
        }
        let unknown = || KernelError::Unavailable(format!("{leader} is not known here"));
        let member = self.group.member(leader).ok_or_else(unknown)?;
        let route = Route { shard: self.shard, service: Service::Commits };
        let newest = self.state.timestamps.newest();
        let message = FinishMessage { transaction, commit_ts, newest }.encode();
        let call = self.links.call(leader, &member, route, message);
        let failed = |reason: String| KernelError::Unavailable(reason);
        let answer = task::timeout(APPLY_PATIENCE, call).await;
        let answer = answer.ok_or_else(|| failed(format!("{leader} did not answer in time")))?;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let finished = Finished::decode(&answer);
        let finished =
            finished.ok_or_else(|| failed("an answer to another question".to_owned()))?;
        match task::timeout(APPLY_PATIENCE, self.state.wait_applied(finished.index)).await {
            Some(()) => Ok(finished.was_tried),
            None => Err(failed("this node is behind the shard's leader".to_owned())),
        }
    }

    /// As [`Shard::finish`], on the leader; answers with an index at which it has been done.
    async fn finish_here(
        &self,
        transaction: TransactionId,
        commit_ts: Option<CommitTs>,
    ) -> Result<Finished, KernelError> {
        // What follows has later timestamps than what was decided.
        self.state.timestamps.observe(commit_ts.unwrap_or_default());
        let done = self.step(Kind::Finishes, &Step::Finish { transaction, commit_ts }).await?;
        let was_tried = matches!(done, StepOutcome::Finished(true));
        Ok(Finished { index: self.state.applied_index(), was_tried })
    }

    /// The part of a commit over several shards that was tried here and is not finished.
    pub(crate) fn undecided(&self) -> Option<Undecided> {
        self.state.undecided()
    }

    /// Whether a commit over several shards is not carried out everywhere yet, as far as this shard knows.
    pub fn has_unfinished(&self) -> bool {
        self.undecided().is_some() || self.decisions().is_ok_and(|decisions| !decisions.is_empty())
    }

    /// What this shard decided and is not known to be carried out everywhere.
    pub(crate) fn decisions(&self) -> Result<Vec<Decision>, KernelError> {
        Ok(self.state.decisions()?)
    }

    /// Calls `reader` once with the state at the last applied commit here. It sees every commit that
    /// was acknowledged before [`Shard::read_barrier`] was passed.
    ///
    /// # Errors
    /// If the shard has stopped.
    pub fn read(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.read_standing(&mut |view, _| reader(view))
    }

    /// As [`Shard::read`], with how the state stands to commits over several shards.
    pub(crate) fn read_standing(
        &self,
        reader: &mut dyn FnMut(View<'_>, &Standing),
    ) -> Result<(), KernelError> {
        self.serving()?;
        if self.state.read(reader) {
            Ok(())
        } else {
            Err(KernelError::Stopped("the node is stopping".to_owned()))
        }
    }

    /// Whether a read may follow at once; if not, what to wait for first.
    pub fn read_barrier(&self) -> Option<oneshot::Receiver<Result<(), KernelError>>> {
        let term = self.state.applied_term();
        // A commit that was tried here may have been acknowledged, and is not seen yet.
        if self.group.holds_lease(term) && !self.state.is_gated() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        // If nobody asks any more the receiver learns it.
        let _ = self.readers.send(sender);
        Some(receiver)
    }

    /// As [`Shard::read_barrier`], for a reader to whom a state will do that has all that was acknowledged
    /// `staleness_max` ago.
    pub fn read_barrier_within(
        &self,
        staleness_max: Duration,
    ) -> Option<oneshot::Receiver<Result<(), KernelError>>> {
        if self.recency.is_within(staleness_max, &self.readers) {
            return None;
        }
        self.read_barrier()
    }

    /// Answers a message that another node's links carried here. What must happen in the order of
    /// arrival has happened when this returns.
    pub fn answer(self: &Arc<Self>, service: Service, message: Bytes) -> Answering {
        match service {
            Service::Consensus => {
                let group = self.group.clone();
                Box::pin(async move { group.answer(&message).await.map_err(|e| e.to_string()) })
            }
            Service::Commits => match FinishMessage::decode(&message) {
                Some(FinishMessage { transaction, commit_ts, newest }) => {
                    let shard = self.clone();
                    self.state.timestamps.observe(newest);
                    Box::pin(async move {
                        let done = shard.finish_here(transaction, commit_ts).await;
                        done.map(Finished::encode).map_err(|error| error.to_string())
                    })
                }
                None => Box::pin(std::future::ready(Err("not a question known here".to_owned()))),
            },
            Service::Away => self.answer_away(message),
            Service::Digests => Box::pin(std::future::ready(self.state.digests.answer(&message))),
            Service::Proposer => match Forward::decode(&message) {
                Some(forward) => {
                    let taken = self.take(&forward);
                    let shard = self.clone();
                    Box::pin(async move { Ok(shard.follow_up(forward, taken).await.encode()) })
                }
                None => Box::pin(std::future::ready(Err("not a proposal known here".to_owned()))),
            },
        }
    }

    /// Queues a batch of another node, if it is the next of its stream.
    fn take(&self, forward: &Forward) -> Option<oneshot::Receiver<Result<(), KernelError>>> {
        if self.group.leadership() != self.own_leadership(forward)
            || self.state.applied_term() != forward.term
            || self.state.intake.take(forward) != Taken::Now
        {
            return None;
        }
        let (taken, receiver) = oneshot::channel();
        let since = self.clock.elapsed();
        let taking = Taking { forward: forward.clone(), taken, since };
        self.proposals.send(Arrival::Foreign(taking)).ok()?;
        Some(receiver)
    }

    fn own_leadership(&self, forward: &Forward) -> Leadership {
        Leadership { term: forward.term, leader: Some(self.node) }
    }

    async fn follow_up(
        &self,
        forward: Forward,
        taken: Option<oneshot::Receiver<Result<(), KernelError>>>,
    ) -> ForwardAnswer {
        if let Some(taken) = taken
            && let Ok(Err(error)) = taken.await
        {
            return match error {
                KernelError::DiskFull(reason) => ForwardAnswer::DiskFull(reason),
                _ => ForwardAnswer::NotLeading,
            };
        }
        let applied = async {
            loop {
                let changed = self.state.intake.changed.notified();
                if self.state.intake.is_applied(&forward) {
                    return;
                }
                changed.await;
            }
        };
        match task::timeout(APPLY_PATIENCE, applied).await {
            Some(()) => ForwardAnswer::Applied,
            None if self.group.leadership() == self.own_leadership(&forward) => {
                ForwardAnswer::TryAgain
            }
            None => ForwardAnswer::NotLeading,
        }
    }

    /// The whole state at one commit, which is no earlier than any acknowledged before this call and
    /// stays as it is while the image is held. Commits go on meanwhile. A majority of the voters came to the
    /// same there.
    ///
    /// # Errors
    /// If there is no leader to ask, no majority can tell, or the disk fails.
    pub async fn image(&self) -> Result<StateImage, KernelError> {
        if let Some(barrier) = self.read_barrier() {
            barrier.await.unwrap_or_else(|_| Err(stopping()))?;
        }
        self.vouched_image(0).await
    }

    /// As [`Shard::image`], of what was applied here, which may lack what was acknowledged elsewhere: for a
    /// voter that was found to be wrong. It needs no leader, and one voter less than a majority.
    ///
    /// # Errors
    /// If the shard has stopped, too few voters can tell, or the disk fails.
    pub async fn image_to_rebuild(&self) -> Result<StateImage, KernelError> {
        self.vouched_image(1).await
    }

    async fn vouched_image(&self, wrong: usize) -> Result<StateImage, KernelError> {
        let give_up_at = self.clock.elapsed() + IMAGE_PATIENCE;
        loop {
            self.serving()?;
            let state = self.state.clone();
            let image = task::spawn_blocking(move || state.image()).await;
            let image = image.map_err(|_| stopping())??;
            let digests = &self.state.digests;
            if self.voters.vouch(digests, image.id.index, wrong).await == Testimony::Vouched {
                return Ok(image);
            }
            if self.clock.elapsed() > give_up_at {
                return Err(nobody_can_tell());
            }
            task::sleep(IMAGE_RETRY).await;
        }
    }

    /// Makes durable what the state has come to, so that little is left to be written.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn checkpoint(&self) -> Result<(), KernelError> {
        let state = self.state.clone();
        Ok(task::spawn_blocking(move || state.checkpoint()).await.map_err(|_| stopping())??)
    }

    /// Whether the shard is held still by a commit over several, as far as this node has applied.
    pub fn is_held(&self) -> bool {
        self.undecided().is_some()
    }

    /// Sets the state aside as it is now, for [`Shard::image_set_aside`].
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn set_aside(&self) -> Result<EntryId, KernelError> {
        let state = self.state.clone();
        Ok(task::spawn_blocking(move || state.set_aside()).await.map_err(|_| stopping())??)
    }

    /// As [`Shard::image`], of the state that was set aside last.
    ///
    /// # Errors
    /// As [`Shard::image`], or if another checkpoint was taken since.
    pub async fn image_set_aside(&self, id: EntryId) -> Result<StateImage, KernelError> {
        let state = self.state.clone();
        let image = task::spawn_blocking(move || state.image_set_aside(id)).await;
        let another = || KernelError::Unavailable("another checkpoint was taken since".to_owned());
        let image = image.map_err(|_| stopping())??.ok_or_else(another)?;
        let give_up_at = self.clock.elapsed() + IMAGE_PATIENCE;
        while self.voters.vouch(&self.state.digests, id.index, 0).await != Testimony::Vouched {
            self.serving()?;
            if self.clock.elapsed() > give_up_at {
                return Err(nobody_can_tell());
            }
            task::sleep(IMAGE_RETRY).await;
        }
        Ok(image)
    }

    pub(crate) fn state(&self) -> &Arc<ShardState<M>> {
        &self.state
    }

    /// Its number.
    pub(crate) fn id(&self) -> ShardId {
        self.shard
    }

    /// The node's log.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The consensus group, for its membership.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The group's figures.
    pub fn group_status(&self) -> GroupStatus {
        self.group.status()
    }

    /// Whether this node leads the shard and may propose.
    pub fn leads(&self) -> bool {
        let leadership = self.group.leadership();
        leadership.leader == Some(self.node) && self.state.applied_term() == leadership.term
    }

    /// The shard's figures.
    pub fn status(&self) -> ShardStatus {
        ShardStatus {
            applied_index: self.state.applied_index(),
            applied_ts: self.state.applied_ts(),
            applied_count: self.state.applied_count.load(Ordering::Relaxed),
            in_flight: self.state.pending.in_flight(),
            active_bytes: self.state.active_bytes(),
            log_bytes: self.log.disk_bytes(),
        }
    }

    /// Why the shard serves no more, or `None` while it does.
    pub fn stop_reason(&self) -> Option<String> {
        self.stopped.lock().clone()
    }

    /// Takes this replica out of service, because its state differs from the other replicas'. The next
    /// start has to put another in its place; see [`crate::differs`].
    pub(crate) async fn condemn(&self, reason: String) {
        error!(reason, "this replica is taken out of service and has to be rebuilt");
        if let Err(fault) = mark_difference(self.state.store_directory()) {
            error!(%fault, "that cannot be noted on disk");
        }
        self.hand_over().await;
        *self.stopped.lock() = Some(reason);
        self.group.shutdown().await;
    }

    /// Stops serving, leaving a checkpoint behind so that the next start replays nothing. A leader
    /// hands leadership over first, if another voter is there to take it.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.stop.send_replace(true);
        *self.stopped.lock() = Some("the node is stopping".to_owned());
        // What is on its way is applied first, so that the next start need not.
        task::timeout(SETTLE_PATIENCE, self.state.pending.wait_settled()).await;
        self.group.shutdown().await;
        let state = self.state.clone();
        match task::spawn_blocking(move || state.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                error!(%fault, "no checkpoint at shutdown; the next start replays the log")
            }
            Err(fault) => error!(%fault, "the checkpoint at shutdown ended abnormally"),
        }
        self.state.pending.fail(&stopping());
    }

    /// Stops at once and leaves nothing behind but what is on disk already, as a crash does. For
    /// simulations, in which the process goes on.
    pub async fn abandon(&self) {
        self.stop.send_replace(true);
        *self.stopped.lock() = Some("the node has crashed".to_owned());
        self.group.shutdown().await;
        self.state.abandon();
        self.state.pending.fail(&KernelError::Unavailable("the node has crashed".to_owned()));
    }

    async fn hand_over(&self) {
        if !self.leads() {
            return;
        }
        let status = self.group.status();
        let others: BTreeSet<NodeId> =
            status.membership.voters.iter().copied().filter(|voter| *voter != self.node).collect();
        let ahead = others.iter().max_by_key(|voter| status.matched.get(voter));
        if let Some(to) = ahead
            && let Err(fault) = self.group.hand_over(*to).await
        {
            error!(%fault, "leadership was not handed over; the others elect a leader once they miss this one");
        }
    }

    fn serving(&self) -> Result<(), KernelError> {
        match &*self.stopped.lock() {
            Some(reason) => Err(KernelError::Stopped(reason.clone())),
            None => Ok(()),
        }
    }
}

async fn answered<O>(submitted: Result<Answer<O>, KernelError>) -> Answered<O> {
    submitted?.await.unwrap_or_else(|_| Err(stopping()))
}

fn nobody_can_tell() -> KernelError {
    KernelError::Unavailable(
        "too few replicas can tell whether this one's state is right".to_owned(),
    )
}

fn stopping() -> KernelError {
    KernelError::Unavailable("the node is stopping".to_owned())
}
