//! Shards whose replicas are on other nodes: proposing to them from here, and asking them.
//!
//! Proposals go to the node that leads, one message after the other, each with all that came meanwhile; so they keep
//! their order, whoever leads. A node that does not lead takes none of a message and says who does. One that was sent
//! and not answered may have happened: its callers are told so. What finishes a commit over several shards
//! overtakes all others, which may wait for it.
//!
//! Each attempt to have a message taken has a number of its own, so that one that was repeated or overtaken on its way is
//! taken once or never. What finishes a commit may be repeated, and has none.
//!
//! A question is answered by any replica behind its read barrier.
//!
//! ```text
//! proposals = 1 │ newest ts u64 │ stream u64 │ attempt u64 │ count u32 │ { kind u8 │ durability u8 │ command count u32 │ steps, u32 + bytes } …
//! question  = 2 │ newest ts u64 │ bytes
//! answer    = 0 │ newest ts u64 │ …  or  1 │ leader u64, 0 if none is known  or  2 │ error
//!   to proposals: count u32 │ { 0 │ count u32 │ { outcome } …  or  1 │ error } …
//!   to a question: applied ts u64 │ tried ts u64 │ participants │ coordinators, each count u32 │ { shard u32 │ ts u64 } … │ bytes
//! ```
//! Little-endian.

mod codec;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use parking_lot::Mutex;
use proteus_consensus::TransportError;
use proteus_env::{Clock, random, task};
use proteus_machine::{KernelError, ShardMachine};
use proteus_types::{CommitTs, Durability, Member, NodeId, ShardId};
use tokio::sync::{mpsc, oneshot};

use crate::PROPOSAL_BYTES_MAX;
use crate::links::{Links, Route, Service};
use crate::pending::Kind;
use crate::shard::Shard;
use crate::step::{Step, StepOutcome, TransactionId, encode_command};
use crate::timestamps::Timestamps;
use crate::undecided::Standing;
use codec::{
    encode_failed, encode_told, put_proposal, put_result, take_error, take_proposals, take_results,
    take_told, take_u8, take_u64,
};

/// How long a proposal or a question looks for a node that takes it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an answer is waited for: longer than a leader keeps its own callers waiting.
const ANSWER_PATIENCE: Duration = Duration::from_secs(12);

/// How long one replica may take to answer a question before another is asked.
const QUESTION_PATIENCE: Duration = Duration::from_secs(3);

/// How long a node may be silent while another is said to lead, and how often that is looked at.
const SILENCE_MAX: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long others are tried before a node that could not be reached.
const AVOIDED: Duration = Duration::from_secs(1);

/// Pause before others are tried, after all were.
const RETRY: Duration = Duration::from_millis(20);

/// Bytes of steps in one message, unless one proposal alone has more.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// Proposals in one message.
const PROPOSALS_MAX: usize = 1024;

/// Bytes of proposals that wait for one shard; beyond it new ones are refused.
const WAITING_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Nodes, each start of one by itself, of which it is remembered what they sent.
const STREAMS_MAX: usize = 4_096;

/// Shards that one answer may tell of.
const SHARDS_MAX: usize = 65_536;

/// The nodes that have replicas, and who leads them, as this node knows.
#[derive(Debug, Clone, Default)]
struct Holders {
    members: BTreeMap<NodeId, Member>,
    leader: Option<NodeId>,
    /// Those that could not be reached, and until when others are tried before them.
    avoided: BTreeMap<NodeId, Duration>,
}

/// One caller's steps.
struct Waiting<O> {
    kind: Kind,
    durability: Durability,
    steps: Vec<u8>,
    count: u32,
    since: Duration,
    reply: oneshot::Sender<Result<Vec<StepOutcome<O>>, KernelError>>,
}

/// A shard that has no replica here.
pub struct Away<M: ShardMachine> {
    shard: ShardId,
    links: Arc<dyn Links>,
    clock: Arc<dyn Clock>,
    timestamps: Arc<Timestamps>,
    holders: Mutex<Holders>,
    proposals: mpsc::UnboundedSender<Waiting<M::Outcome>>,
    /// Drawn by this node for what it sends, and how often it has sent something.
    stream: u64,
    attempts: AtomicU64,
    waiting_bytes: Mutex<usize>,
}

/// What a shard elsewhere answered, and how its state stands to commits over several.
pub(crate) struct Told {
    pub(crate) applied_ts: CommitTs,
    pub(crate) standing: Standing,
    pub(crate) answer: Bytes,
}

impl<M: ShardMachine> Away<M> {
    /// Knows of no replicas yet.
    pub fn new(
        shard: ShardId,
        links: Arc<dyn Links>,
        clock: Arc<dyn Clock>,
        timestamps: Arc<Timestamps>,
    ) -> Arc<Away<M>> {
        let (proposals, arriving) = mpsc::unbounded_channel();
        let away = Arc::new(Away {
            shard,
            links,
            clock,
            timestamps,
            holders: Mutex::default(),
            proposals,
            stream: random::random_u64(),
            attempts: AtomicU64::new(0),
            waiting_bytes: Mutex::new(0),
        });
        task::spawn(carry(Arc::downgrade(&away), arriving));
        away
    }

    /// Says which nodes are to have replicas.
    pub fn set_holders(&self, members: BTreeMap<NodeId, Member>) {
        self.holders.lock().members = members;
    }

    /// Says who leads, as others tell.
    pub fn set_leader(&self, leader: Option<NodeId>) {
        self.holders.lock().leader = leader;
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.holders.lock().leader
    }

    /// The nodes that are to have replicas, in the order in which they are best asked: the leader first.
    pub fn holders(&self) -> Vec<(NodeId, Member)> {
        let now = self.clock.elapsed();
        let Holders { members, leader, mut avoided } = self.holders.lock().clone();
        avoided.retain(|_, until| *until > now);
        let mut all: Vec<(NodeId, Member)> = members.into_iter().collect();
        all.sort_by_key(|(node, _)| (avoided.contains_key(node), Some(*node) != leader, *node));
        all
    }

    /// Notes that a node could not be reached.
    fn avoid(&self, node: NodeId) {
        let until = self.clock.elapsed() + AVOIDED;
        self.holders.lock().avoided.insert(node, until);
        self.learn(node, None);
    }

    /// Takes a node's word for who leads; one that does not lead and knows of nobody is not asked first again.
    fn learn(&self, from: NodeId, leader: Option<NodeId>) {
        let mut holders = self.holders.lock();
        if leader.is_some() || holders.leader == Some(from) {
            holders.leader = leader;
        }
    }

    /// As [`Shard::propose_at`].
    pub(crate) fn propose(
        &self,
        durability: Durability,
        commands: &[M::Command],
    ) -> impl Future<Output = Result<Vec<M::Outcome>, KernelError>> + Send + use<M> {
        let mut steps = Vec::new();
        for command in commands {
            encode_command::<M>(command, &mut steps);
        }
        let submitted = self.submit(Kind::Plain, durability, steps, commands.len());
        async move {
            let outcomes = answered(submitted).await?;
            Ok(outcomes.into_iter().filter_map(StepOutcome::into_command).collect())
        }
    }

    /// As a shard here takes one step.
    pub(crate) fn step(
        &self,
        kind: Kind,
        step: &Step<M::Command>,
    ) -> impl Future<Output = Result<StepOutcome<M::Outcome>, KernelError>> + Send + use<M> {
        let mut steps = Vec::new();
        step.encode::<M>(&mut steps);
        let submitted = self.submit(kind, Durability::Flushed, steps, 1);
        async move {
            answered(submitted).await?.into_iter().next().ok_or_else(KernelError::unknown_answer)
        }
    }

    /// As [`Shard::finish`]; does not wait for anything here.
    pub(crate) async fn finish(
        &self,
        transaction: TransactionId,
        commit_ts: Option<CommitTs>,
    ) -> Result<bool, KernelError> {
        let mut steps = Vec::new();
        Step::<M::Command>::Finish { transaction, commit_ts }.encode::<M>(&mut steps);
        let mut message = Vec::new();
        message.put_u32_le(1);
        put_proposal(&mut message, (Kind::Finishes, Durability::Flushed), 1, &steps);
        let mut results = self.send(&message, true).await.map_err(Lost::into_error)?;
        match results.pop().ok_or_else(KernelError::unknown_answer)??.into_iter().next() {
            Some(StepOutcome::Finished(was_tried)) => Ok(was_tried),
            _ => Err(KernelError::unknown_answer()),
        }
    }

    fn submit(
        &self,
        kind: Kind,
        durability: Durability,
        steps: Vec<u8>,
        count: usize,
    ) -> Result<Receiver<M>, KernelError> {
        if steps.len() > PROPOSAL_BYTES_MAX {
            let (bytes, bytes_max) = (steps.len(), PROPOSAL_BYTES_MAX);
            return Err(KernelError::TooLarge { bytes, bytes_max });
        }
        let mut waiting_bytes = self.waiting_bytes.lock();
        if *waiting_bytes > WAITING_BYTES_MAX {
            let reason = "too much waits for a shard on other nodes";
            return Err(KernelError::Overloaded(reason.to_owned()));
        }
        *waiting_bytes += steps.len();
        let (reply, receiver) = oneshot::channel();
        let (since, count) = (self.clock.elapsed(), u32::try_from(count).unwrap_or(u32::MAX));
        // Under the lock, so that the order is that of the calls.
        let _ = self.proposals.send(Waiting { kind, durability, steps, count, since, reply });
        Ok(receiver)
    }

    fn head(&self, kind: u8) -> Vec<u8> {
        let mut message = vec![kind];
        message.put_u64_le(self.timestamps.newest().0);
        message
    }

    /// Sends proposals to whoever leads, until somebody takes them.
    async fn send(&self, proposals: &[u8], may_be_repeated: bool) -> Result<Results<M>, Lost> {
        let give_up_at = self.clock.elapsed() + PATIENCE;
        let mut reason = "no replica of it is known here".to_owned();
        loop {
            for (node, member) in self.holders() {
                let attempt = match may_be_repeated {
                    true => 0,
                    false => self.attempts.fetch_add(1, Ordering::Relaxed) + 1,
                };
                let mut message = self.head(PROPOSALS);
                message.put_u64_le(self.stream);
                message.put_u64_le(attempt);
                message.extend_from_slice(proposals);
                match self.propose_to(node, &member, Bytes::from(message)).await {
                    Ok(Answered::Taken(bytes)) => {
                        let results = take_results::<M>(bytes);
                        return results.ok_or(Lost::Unknown("its answer is not known".to_owned()));
                    }
                    Ok(Answered::Elsewhere(leader)) => {
                        reason = format!("{node} does not lead");
                        self.learn(node, leader);
                        if leader.is_some_and(|leader| leader != node) {
                            break;
                        }
                    }
                    Ok(Answered::Failed(error)) => return Err(Lost::Refused(error)),
                    Err(TransportError::NotSent(why) | TransportError::Refused(why)) => {
                        reason = why;
                        self.avoid(node);
                    }
                    Err(TransportError::Unreachable(why)) => {
                        self.avoid(node);
                        return Err(Lost::Unknown(why));
                    }
                }
            }
            if self.clock.elapsed() > give_up_at {
                return Err(Lost::Refused(KernelError::Unavailable(format!(
                    "no node takes what is for shard {}: {reason}",
                    self.shard
                ))));
            }
            task::sleep(RETRY).await;
        }
    }

    /// Asks a replica, whichever answers, what the shard's machine is to read.
    pub(crate) async fn ask_told(&self, question: &[u8]) -> Result<Told, KernelError> {
        let mut message = self.head(QUESTION);
        message.extend_from_slice(question);
        let message = Bytes::from(message);
        let give_up_at = self.clock.elapsed() + PATIENCE;
        let mut reason = "no replica of it is known here".to_owned();
        loop {
            for (node, member) in self.holders() {
                let call = self.call(node, &member, message.clone());
                let lost = || TransportError::Unreachable(format!("{node} did not answer in time"));
                match task::timeout(QUESTION_PATIENCE, call).await.unwrap_or_else(|| Err(lost())) {
                    Ok(Answered::Taken(bytes)) => {
                        return take_told(bytes).ok_or_else(KernelError::unknown_answer);
                    }
                    Ok(Answered::Elsewhere(leader)) => self.learn(node, leader),
                    Ok(Answered::Failed(error)) => reason = error.to_string(),
                    Err(error) => {
                        reason = error.to_string();
                        self.avoid(node);
                    }
                }
            }
            if self.clock.elapsed() > give_up_at {
                return Err(KernelError::Unavailable(format!(
                    "no node answers for shard {}: {reason}",
                    self.shard
                )));
            }
            task::sleep(RETRY).await;
        }
    }

    /// Asks a replica what the shard's machine is to read, as after every commit that was acknowledged before this
    /// call.
    ///
    /// # Errors
    /// If none answers.
    pub async fn ask(&self, question: &[u8]) -> Result<Bytes, KernelError> {
        Ok(self.ask_told(question).await?.answer)
    }

    /// Sends proposals to one node; gives up on one that is silent for long while another leads.
    async fn propose_to(
        &self,
        node: NodeId,
        member: &Member,
        message: Bytes,
    ) -> Result<Answered, TransportError> {
        let deposed = async {
            task::sleep(SILENCE_MAX).await;
            while self.leader().is_none_or(|leader| leader == node) {
                task::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            answered = self.call(node, member, message) => answered,
            () = deposed => {
                Err(TransportError::Unreachable(format!("{node} is silent, and leads no more")))
            }
        }
    }

    async fn call(
        &self,
        node: NodeId,
        member: &Member,
        message: Bytes,
    ) -> Result<Answered, TransportError> {
        let route = Route { shard: self.shard, service: Service::Away };
        let call = self.links.call(node, member, route, message);
        let lost = || TransportError::Unreachable(format!("{node} did not answer in time"));
        let mut bytes =
            task::timeout(ANSWER_PATIENCE, call).await.unwrap_or_else(|| Err(lost()))?;
        let unknown = || TransportError::Unreachable(format!("{node} gave an unknown answer"));
        match take_u8(&mut bytes).ok_or_else(unknown)? {
            TAKEN => {
                let newest = take_u64(&mut bytes).ok_or_else(unknown)?;
                self.timestamps.observe(CommitTs(newest));
                Ok(Answered::Taken(bytes))
            }
            ELSEWHERE => {
                let leader = take_u64(&mut bytes).ok_or_else(unknown)?;
                Ok(Answered::Elsewhere((leader != 0).then_some(NodeId(leader))))
            }
            _ => Ok(Answered::Failed(take_error(&mut bytes).ok_or_else(unknown)?)),
        }
    }
}

const PROPOSALS: u8 = 1;
const QUESTION: u8 = 2;

const TAKEN: u8 = 0;
const ELSEWHERE: u8 = 1;
const FAILED: u8 = 2;

type Receiver<M> =
    oneshot::Receiver<Result<Vec<StepOutcome<<M as ShardMachine>::Outcome>>, KernelError>>;

type Results<M> = Vec<Result<Vec<StepOutcome<<M as ShardMachine>::Outcome>>, KernelError>>;

/// What a node did with a message.
enum Answered {
    Taken(Bytes),
    /// It does not lead; perhaps it knows who does.
    Elsewhere(Option<NodeId>),
    Failed(KernelError),
}

/// Why proposals have no answer.
enum Lost {
    /// Nothing has happened.
    Refused(KernelError),
    /// They may have happened.
    Unknown(String),
}

impl Lost {
    fn into_error(self) -> KernelError {
        match self {
            Lost::Refused(error) => error,
            Lost::Unknown(reason) => KernelError::Unavailable(format!(
                "the node that leads was lost, and what was sent may still be committed ({reason})"
            )),
        }
    }
}

/// Carries proposals to whoever leads, in their order, as long as somebody has the shard.
async fn carry<M: ShardMachine>(
    away: std::sync::Weak<Away<M>>,
    mut arriving: mpsc::UnboundedReceiver<Waiting<M::Outcome>>,
) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match arriving.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let (mut bytes, mut together) = (first.steps.len(), vec![first]);
        while together.len() < PROPOSALS_MAX
            && let Ok(more) = arriving.try_recv()
        {
            if bytes + more.steps.len() > MESSAGE_BYTES {
                next = Some(more);
                break;
            }
            bytes += more.steps.len();
            together.push(more);
        }
        let Some(away) = away.upgrade() else { return };
        *away.waiting_bytes.lock() -= bytes;
        // Those who have waited for too long are told that nothing has happened.
        let now = away.clock.elapsed();
        let (late, together): (Vec<_>, Vec<_>) =
            together.into_iter().partition(|waiting| now.saturating_sub(waiting.since) > PATIENCE);
        for waiting in late {
            let reason = "no node led the shard in time, and nothing was changed";
            let _ = waiting.reply.send(Err(KernelError::Overloaded(reason.to_owned())));
        }
        if together.is_empty() {
            continue;
        }
        let mut message = Vec::new();
        message.put_u32_le(u32::try_from(together.len()).unwrap_or(u32::MAX));
        for waiting in &together {
            let how = (waiting.kind, waiting.durability);
            put_proposal(&mut message, how, waiting.count, &waiting.steps);
        }
        let mut results = match away.send(&message, false).await {
            Ok(results) => results.into_iter(),
            Err(lost) => {
                let error = lost.into_error();
                for waiting in together {
                    let _ = waiting.reply.send(Err(error.clone()));
                }
                continue;
            }
        };
        for waiting in together {
            // Who stopped waiting has its commit all the same.
            let _ = waiting
                .reply
                .send(results.next().unwrap_or_else(|| Err(KernelError::unknown_answer())));
        }
    }
}

async fn answered<T>(
    submitted: Result<oneshot::Receiver<Result<T, KernelError>>, KernelError>,
) -> Result<T, KernelError> {
    let ended = || KernelError::Unavailable("the node is stopping".to_owned());
    submitted?.await.unwrap_or_else(|_| Err(ended()))
}

impl<M: ShardMachine> Shard<M> {
    /// Answers a node that has no replica. Proposals have been handed over when this returns.
    pub(crate) fn answer_away(self: &Arc<Self>, mut message: Bytes) -> crate::shard::Answering {
        let refused = |reason: &str| -> crate::shard::Answering {
            Box::pin(std::future::ready(Err(reason.to_owned())))
        };
        let (Some(kind), Some(newest)) = (take_u8(&mut message), take_u64(&mut message)) else {
            return refused("a message cut short");
        };
        self.state().timestamps.observe(CommitTs(newest));
        if kind == QUESTION {
            let shard = self.clone();
            return Box::pin(async move {
                Ok(match shard.told(&message).await {
                    Ok((told, answer)) => {
                        encode_told(&told, &answer, shard.state().timestamps.newest())
                    }
                    Err(error) => encode_failed(&error),
                })
            });
        }
        if kind != PROPOSALS {
            return refused("a message of a kind that is not known here");
        }
        let (Some(stream), Some(attempt)) = (take_u64(&mut message), take_u64(&mut message)) else {
            return refused("proposals cut short");
        };
        if !self.is_first_time(stream, attempt) {
            return refused("proposals that were repeated on their way, or overtaken");
        }
        if !self.leads() {
            let leader = self.group().leadership().leader.map_or(0, |leader| leader.0);
            let mut answer = vec![ELSEWHERE];
            answer.put_u64_le(leader);
            return Box::pin(std::future::ready(Ok(Bytes::from(answer))));
        }
        let Some(proposals) = take_proposals(message) else {
            return refused("proposals cut short");
        };
        let handed: Vec<_> = proposals
            .into_iter()
            .map(|(kind, durability, count, steps)| {
                self.submit(kind, durability, steps, count as usize)
            })
            .collect();
        let shard = self.clone();
        Box::pin(async move {
            let mut answer = vec![TAKEN];
            let mut results = Vec::new();
            results.put_u32_le(u32::try_from(handed.len()).unwrap_or(u32::MAX));
            for submitted in handed {
                let outcome = match submitted {
                    Ok(receiver) => {
                        receiver.await.unwrap_or_else(|_| Err(KernelError::unknown_answer()))
                    }
                    Err(error) => Err(error),
                };
                put_result::<M>(&mut results, outcome.map(|(outcomes, _)| outcomes));
            }
            answer.put_u64_le(shard.state().timestamps.newest().0);
            answer.extend_from_slice(&results);
            Ok(Bytes::from(answer))
        })
    }

    /// Notes an attempt of another node; says whether none as new as it has come before.
    fn is_first_time(&self, stream: u64, attempt: u64) -> bool {
        if attempt == 0 {
            return true;
        }
        let mut seen = self.attempts.lock();
        if seen.len() >= STREAMS_MAX && !seen.contains_key(&stream) {
            seen.clear();
        }
        let last = seen.entry(stream).or_default();
        let is_new = attempt > *last;
        *last = attempt.max(*last);
        is_new
    }

    async fn told(&self, question: &[u8]) -> Result<(Told, Vec<u8>), KernelError> {
        if let Some(barrier) = self.read_barrier() {
            barrier.await.unwrap_or_else(|_| Err(KernelError::unknown_answer()))?;
        }
        self.told_here(question)
    }

    /// What this replica answers, as it is now.
    pub(crate) fn told_here(&self, question: &[u8]) -> Result<(Told, Vec<u8>), KernelError> {
        let mut found = Err(KernelError::unknown_answer());
        self.read_standing(&mut |view, standing| {
            found = M::answer(view, question).map_err(KernelError::from).map(|answer| {
                let standing = Standing {
                    undecided: standing.undecided,
                    decisions: Vec::new(),
                    participants: standing.participants.clone(),
                    coordinators: standing.coordinators.clone(),
                };
                (Told { applied_ts: view.applied_ts, standing, answer: Bytes::new() }, answer)
            });
        })?;
        found
    }
}
