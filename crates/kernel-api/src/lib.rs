//! All that faces and engines see of the kernel.
//!
//! ```text
//!   propose(minitransactions) ──▶ log ──▶ apply ──▶ outcomes
//!                                           │
//!   read(|view| …) ◀── state ◀──────────────┤
//!                                           └──▶ feed ──▶ listeners, waiters, cursors
//! ```
//!
//! A face translates its protocol into these three calls and nothing else: [`Kernel::propose`],
//! [`Kernel::read`], [`Kernel::follow`]. [`MemoryKernel`] answers them from memory, for tests.

mod feed;
mod gate;
mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use proteus_machine::Committed;

pub use feed::{Feed, FeedLagged, Waiter, Waiters};
pub use gate::ReadGate;
pub use memory::MemoryKernel;
pub use proteus_machine::{KernelError, View};
pub use proteus_shard_machine::{
    Change, Check, Minitransaction, Op, Outcome, Refusal, Reply, cache, table, topic, tree,
};
pub use proteus_store::{Direction, Read, StoreError};
pub use proteus_types::{CommitTs, Durability, Member, NodeId, SLOT_COUNT, ShardId, Slot, Term};

/// One commit as followers of the feed see it.
pub type Commit = Committed<Change>;

/// The answer to come of a proposal: one outcome per minitransaction, in order.
pub type Proposal = Pin<Box<dyn Future<Output = Result<Vec<Outcome>, KernelError>> + Send>>;

/// What a read waits for; see [`Kernel::read_barrier`].
pub type ReadBarrier = Pin<Box<dyn Future<Output = Result<(), KernelError>> + Send>>;

/// An answer to come; see [`Kernel::ask`].
pub type Asking = Pin<Box<dyn Future<Output = Result<cache::Answer, KernelError>> + Send>>;

/// The cluster as one of its nodes sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// This node.
    pub node: NodeId,
    /// The node that leads, if this one knows of any.
    pub leader: Option<NodeId>,
    /// The newest term.
    pub term: Term,
    /// All nodes. Empty for a kernel that is in no cluster.
    pub members: BTreeMap<NodeId, Member>,
    /// Those of them that vote: a commit is on more than half of these.
    pub voters: BTreeSet<NodeId>,
}

/// Consecutive slots of the cache's keys, and who leads the shard that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotsLed {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// The shard.
    pub shard: ShardId,
    /// Its leader, if this node knows of any.
    pub leader: Option<NodeId>,
}

/// A change of a cluster's members, as an operator asks for it through a face.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MembersChange {
    /// Nodes that shall vote.
    pub voting: BTreeSet<NodeId>,
    /// Nodes that shall be no members any more.
    pub leaving: BTreeSet<NodeId>,
}

/// A change of members under way; the error says in words why it did not happen.
pub type MembersChanging = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl ClusterView {
    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.node)
    }
}

/// A function called under the feed's order; see [`Kernel::follow`].
pub trait Listener: Send + Sync + 'static {
    /// Learns of one commit. Called in commit order, before any reader can see the commit's effects
    /// and before its proposer is answered; so an event queued here precedes the data that caused
    /// it. It must not block, nor call the kernel: it may only mark, queue and wake.
    fn on_commit(&self, commit: &Commit);

    /// Learns that commits happened that are not told one by one, because this node took its state over
    /// from another. Whoever waits for something must look again. The same rules apply.
    fn on_gap(&self) {}
}

/// The kernel.
pub trait Kernel: Send + Sync + 'static {
    /// Commits minitransactions. They enter the log consecutively and in this order, and each is
    /// atomic by itself: one refused does not undo its neighbours. The proposal is handed over when
    /// this returns; awaiting the result is optional.
    ///
    /// An outcome means: as durable as [`Kernel::durability`], applied, and visible to every later
    /// [`Kernel::read`] on this node. An error means what it says about whether it happened.
    fn propose(&self, minitransactions: Vec<Minitransaction>) -> Proposal {
        self.propose_at(self.durability(), minitransactions)
    }

    /// As [`Kernel::propose`], acknowledged as soon as `durability` asks for. Proposals of different
    /// durability may overtake each other: who cares awaits the one before the other.
    fn propose_at(
        &self,
        durability: Durability,
        minitransactions: Vec<Minitransaction>,
    ) -> Proposal;

    /// What this node was started with, for those who do not choose.
    fn durability(&self) -> Durability {
        Durability::Flushed
    }

    /// What to wait for so that the next [`Kernel::read`] sees every commit that was acknowledged, on
    /// any node, before this call; `None` if there is nothing to wait for, as on a leader most of the
    /// time. One barrier serves any number of reads that begin after it was asked for.
    fn read_barrier(&self) -> Option<ReadBarrier> {
        None
    }

    /// As [`Kernel::read_barrier`], for readers to whom a state will do that has every commit acknowledged
    /// `staleness_max` ago or earlier: on a node that keeps up there is nothing to wait for, and no other node
    /// is asked for each read. What one node shows never goes back.
    fn read_barrier_within(&self, staleness_max: Duration) -> Option<ReadBarrier> {
        let _ = staleness_max;
        self.read_barrier()
    }

    /// As [`Kernel::read_barrier_within`], for reads of nothing but the cache's keys in these slots.
    fn slots_barrier_within(&self, slots: &[Slot], staleness_max: Duration) -> Option<ReadBarrier> {
        let _ = slots;
        self.read_barrier_within(staleness_max)
    }

    /// Whether the cache's keys are in several shards, so that [`read_slots`](Self::read_slots_dyn) has to wait
    /// for less than [`Kernel::read_barrier`].
    fn is_spread(&self) -> bool {
        false
    }

    /// As [`Kernel::read_barrier`], for reads of nothing but the cache's keys in these slots, with the shards
    /// that it makes sure of.
    fn slots_barrier(&self, slots: &[Slot]) -> (BTreeSet<ShardId>, Option<ReadBarrier>) {
        let _ = slots;
        (BTreeSet::from([ShardId::META]), self.read_barrier())
    }

    /// As [`Kernel::read_dyn`], of nothing but the cache's keys in `slots`, if they are all in `shards`; says
    /// whether they are. Otherwise `reader` is not called: they have moved.
    ///
    /// # Errors
    /// As [`Kernel::read_dyn`].
    fn read_slots_dyn(
        &self,
        slots: &[Slot],
        shards: &BTreeSet<ShardId>,
        reader: &mut dyn FnMut(View<'_>),
    ) -> Result<bool, KernelError> {
        let _ = (slots, shards);
        self.read_dyn(reader).map(|()| true)
    }

    /// The cluster as this node sees it.
    fn cluster(&self) -> ClusterView {
        ClusterView { node: NodeId(1), leader: Some(NodeId(1)), ..ClusterView::default() }
    }

    /// Which shard has which slots, in their order, and who leads it.
    fn slots_led(&self) -> Vec<SlotsLed> {
        let leader = self.cluster().leader;
        vec![SlotsLed { first: 0, last: SLOT_COUNT - 1, shard: ShardId::META, leader }]
    }

    /// The nodes that have a replica of a shard, as far as this node knows.
    fn holders(&self, shard: ShardId) -> BTreeSet<NodeId> {
        let _ = shard;
        self.cluster().members.into_keys().collect()
    }

    /// Whether this node leads: [`ClusterView::leads`], for those who ask at every request.
    fn leads(&self) -> bool {
        self.cluster().leads()
    }

    /// Whether this node leads the shard that has this slot; asked for at every request.
    fn leads_slot(&self, slot: Slot) -> bool {
        let _ = slot;
        self.leads()
    }

    /// Changes the cluster's members, through whichever node leads. Safe to repeat.
    fn change_members(&self, change: MembersChange) -> MembersChanging {
        let _ = change;
        Box::pin(std::future::ready(Err("this node is in no cluster".to_owned())))
    }

    /// The newest term: [`ClusterView::term`], for those who ask at every request.
    fn term(&self) -> Term {
        self.cluster().term
    }

    /// Calls `reader` once with the state at the last applied commit here; linearizable behind
    /// [`Kernel::read_barrier`]. Commits wait meanwhile: read little, or in pieces at one read
    /// timestamp.
    ///
    /// # Errors
    /// If this node has stopped serving.
    fn read_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError>;

    /// As [`Kernel::read_dyn`], of nothing but the cache's keys of one slot, and what every shard has: it
    /// need not look at other shards. `slot` is asked for only if there are any.
    ///
    /// # Errors
    /// As [`Kernel::read_dyn`].
    fn read_slot_dyn(
        &self,
        slot: &dyn Fn() -> Slot,
        reader: &mut dyn FnMut(View<'_>),
    ) -> Result<(), KernelError> {
        let _ = slot;
        self.read_dyn(reader)
    }

    /// Whether this node has a replica of every shard, so that all keys can be read here. Otherwise those who read
    /// keys of a shard that is not here are answered with an error, and [`Kernel::ask`] instead.
    fn has_all(&self) -> bool {
        true
    }

    /// Reads keys of the cache wherever they are, as they are after every commit that was acknowledged before this
    /// call.
    fn ask(&self, question: cache::Question) -> Asking {
        let mut answer = Ok(cache::Answer::Nothing);
        let read = self.read_dyn(&mut |view| {
            answer = question.answer(view).map_err(KernelError::from);
        });
        Box::pin(std::future::ready(read.and(answer)))
    }

    /// As [`Kernel::read_dyn`], of nothing but what is in the first shard, which every node has.
    ///
    /// # Errors
    /// As [`Kernel::read_dyn`].
    fn read_first_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.read_dyn(reader)
    }

    /// Adds a listener to the feed, for as long as the kernel lives.
    fn follow(&self, listener: Arc<dyn Listener>);

    /// The feed's recent past, for followers with a cursor.
    fn feed(&self) -> &Feed;
}

impl dyn Kernel {
    /// [`Kernel::read_dyn`] with a result.
    ///
    /// # Errors
    /// As [`Kernel::read_dyn`], or if the store fails under `reader`.
    pub fn read<T>(
        &self,
        reader: impl FnOnce(View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, KernelError> {
        once(reader, |reader| self.read_dyn(reader))
    }

    /// [`Kernel::read_first_dyn`] with a result.
    ///
    /// # Errors
    /// As [`Kernel::read`](Self::read).
    pub fn read_first<T>(
        &self,
        reader: impl FnOnce(View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, KernelError> {
        once(reader, |reader| self.read_first_dyn(reader))
    }

    /// Answers a question about keys of the cache from the state here, as [`Kernel::read`](Self::read) sees it, where
    /// this node has all keys, and by [`Kernel::ask`] otherwise; `take` picks what was asked for.
    ///
    /// # Errors
    /// As of these two.
    pub async fn read_or_ask<T>(
        &self,
        question: cache::Question,
        take: impl FnOnce(cache::Answer) -> Option<T>,
    ) -> Result<T, KernelError> {
        let answer = match self.has_all() {
            true => self.read(|view| question.answer(view))?,
            false => self.ask(question).await?,
        };
        take(answer).ok_or_else(KernelError::unknown_answer)
    }

    /// As [`Kernel::read_slot_dyn`] with a result, of the slot of `key`.
    ///
    /// # Errors
    /// As [`Kernel::read`](Self::read).
    pub fn read_key<T>(
        &self,
        key: &[u8],
        reader: impl FnOnce(View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, KernelError> {
        once(reader, |reader| self.read_slot_dyn(&|| Slot::of_key(key), reader))
    }

    /// [`Kernel::read_slot_dyn`] with a result.
    ///
    /// # Errors
    /// As [`Kernel::read`](Self::read).
    pub fn read_slot<T>(
        &self,
        slot: Slot,
        reader: impl FnOnce(View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, KernelError> {
        once(reader, |reader| self.read_slot_dyn(&|| slot, reader))
    }

    /// Reads the cache's keys in `slots` and nothing else, as they are after every commit that was acknowledged
    /// before this call. It waits for their shards only.
    ///
    /// # Errors
    /// As [`Kernel::read`](Self::read), or if this node cannot tell whether it is up to date.
    pub async fn read_slots<T: Send>(
        &self,
        slots: &[Slot],
        reader: impl FnOnce(View<'_>) -> Result<T, StoreError> + Send,
    ) -> Result<T, KernelError> {
        let (shards, barrier) = self.slots_barrier(slots);
        if let Some(barrier) = barrier {
            barrier.await?;
        }
        let (mut reader, mut result) = (Some(reader), None);
        let mut read = |view: View<'_>| {
            if let Some(reader) = reader.take() {
                result = Some(reader(view));
            }
        };
        if !self.read_slots_dyn(slots, &shards, &mut read)? {
            self.pass_read_barrier().await?;
            self.read_dyn(&mut read)?;
        }
        read_once(result)
    }

    /// Waits until the next [`Kernel::read`] sees every commit acknowledged before this call.
    ///
    /// # Errors
    /// If this node cannot tell whether it is up to date.
    pub async fn pass_read_barrier(&self) -> Result<(), KernelError> {
        match self.read_barrier() {
            None => Ok(()),
            Some(barrier) => barrier.await,
        }
    }

    /// Commits one minitransaction and waits for what becomes of it.
    ///
    /// # Errors
    /// As [`Kernel::propose`].
    pub async fn commit(&self, minitransaction: Minitransaction) -> Result<Outcome, KernelError> {
        self.commit_at(self.durability(), minitransaction).await
    }

    /// As [`Kernel::commit`](Self::commit), acknowledged as soon as `durability` asks for.
    ///
    /// # Errors
    /// As [`Kernel::propose`].
    pub async fn commit_at(
        &self,
        durability: Durability,
        minitransaction: Minitransaction,
    ) -> Result<Outcome, KernelError> {
        let outcomes = self.propose_at(durability, vec![minitransaction]).await?;
        outcomes.into_iter().next().ok_or_else(|| {
            KernelError::Unavailable("the kernel answered without an outcome".to_owned())
        })
    }
}

/// Reads with a function that is called at most once.
fn once<T>(
    reader: impl FnOnce(View<'_>) -> Result<T, StoreError>,
    read: impl FnOnce(&mut dyn FnMut(View<'_>)) -> Result<(), KernelError>,
) -> Result<T, KernelError> {
    let mut reader = Some(reader);
    let mut result = None;
    read(&mut |view| {
        if let Some(reader) = reader.take() {
            result = Some(reader(view));
        }
    })?;
    read_once(result)
}

fn read_once<T>(result: Option<Result<T, StoreError>>) -> Result<T, KernelError> {
    match result {
        Some(result) => Ok(result?),
        None => Err(KernelError::Unavailable("the read was not carried out".to_owned())),
    }
}
