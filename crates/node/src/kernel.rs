//! The kernel of a node, as faces see it.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proteus_kernel::{Shard, Shards};
use proteus_kernel_api::{
    Asking, ClusterView, Feed, Kernel, KernelError, Listener, MembersChange, MembersChanging,
    Minitransaction, Proposal, ReadBarrier, SlotsLed, View, cache,
};
use proteus_shard_machine::Composed;
use proteus_types::{Durability, NodeId, ShardId, Slot, SlotRange, Term};

use crate::cluster::Cluster;
use crate::router::Router;

/// The kernel over all shards of a node.
pub struct NodeKernel {
    node: NodeId,
    /// Who leads it leads the cluster.
    pub(crate) shard: Arc<Shard<Composed>>,
    pub(crate) router: Router,
    durability: Durability,
    feed: Arc<Feed>,
    /// Of a node that meets others.
    pub(crate) cluster: OnceLock<Arc<Cluster>>,
}

impl NodeKernel {
    pub(crate) fn new(
        node: NodeId,
        shard: Arc<Shard<Composed>>,
        router: Router,
        durability: Durability,
        feed: Arc<Feed>,
    ) -> Arc<NodeKernel> {
        Arc::new(NodeKernel { node, shard, router, durability, feed, cluster: OnceLock::new() })
    }
}

impl Kernel for NodeKernel {
    fn propose_at(
        &self,
        durability: Durability,
        minitransactions: Vec<Minitransaction>,
    ) -> Proposal {
        self.router.propose(durability, minitransactions)
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn read_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.router.read(reader)
    }

    fn read_slot_dyn(
        &self,
        slot: &dyn Fn() -> Slot,
        reader: &mut dyn FnMut(View<'_>),
    ) -> Result<(), KernelError> {
        self.router.read_slot(slot, reader)
    }

    fn read_first_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.shard.read(reader)
    }

    fn has_all(&self) -> bool {
        self.router.shards.has_all()
    }

    fn ask(&self, question: cache::Question) -> Asking {
        Box::pin(self.router.clone().ask(question))
    }

    fn read_barrier(&self) -> Option<ReadBarrier> {
        self.router.read_barrier()
    }

    fn read_barrier_within(&self, staleness_max: Duration) -> Option<ReadBarrier> {
        self.router.read_barrier_within(staleness_max)
    }

    fn slots_barrier_within(&self, slots: &[Slot], staleness_max: Duration) -> Option<ReadBarrier> {
        self.router.slots_barrier_within(slots, staleness_max)
    }

    fn is_spread(&self) -> bool {
        !self.router.shards.is_whole()
    }

    fn slots_barrier(&self, slots: &[Slot]) -> (BTreeSet<ShardId>, Option<ReadBarrier>) {
        self.router.slots_barrier(slots)
    }

    fn read_slots_dyn(
        &self,
        slots: &[Slot],
        shards: &BTreeSet<ShardId>,
        reader: &mut dyn FnMut(View<'_>),
    ) -> Result<bool, KernelError> {
        self.router.read_slots(slots, shards, reader)
    }

    fn cluster(&self) -> ClusterView {
        let (leadership, membership) =
            (self.shard.group().leadership(), self.shard.group().membership());
        ClusterView {
            node: self.node,
            leader: leadership.leader,
            term: leadership.term,
            members: membership.members,
            voters: membership.voters,
        }
    }

    fn slots_led(&self) -> Vec<SlotsLed> {
        let shards = &self.router.shards;
        let led = |range: SlotRange| {
            let SlotRange { first, last, shard } = range;
            SlotsLed { first, last, shard, leader: shards.leader_of(shard) }
        };
        shards.map().ranges().map(led).collect()
    }

    fn holders(&self, shard: ShardId) -> BTreeSet<NodeId> {
        self.router.shards.holders(shard)
    }

    fn change_members(&self, change: MembersChange) -> MembersChanging {
        match self.cluster.get().cloned() {
            Some(cluster) => Box::pin(async move { cluster.change_members(&change).await }),
            None => Box::pin(std::future::ready(Err("this node meets no others".to_owned()))),
        }
    }

    fn leads(&self) -> bool {
        self.shard.group().leadership().leader == Some(self.node)
    }

    fn leads_slot(&self, slot: Slot) -> bool {
        let shards = &self.router.shards;
        let open = shards.shard(shards.map().shard_of(slot));
        open.is_some_and(|open| open.group().leadership().leader == Some(self.node))
    }

    fn term(&self) -> Term {
        self.shard.group().leadership().term
    }

    fn follow(&self, listener: Arc<dyn Listener>) {
        self.feed.follow(listener);
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }
}

/// The kernel as those see it who read nothing but what is in the first shard.
pub(crate) struct FirstShardKernel(pub(crate) Arc<NodeKernel>);

impl Kernel for FirstShardKernel {
    fn propose_at(
        &self,
        durability: Durability,
        minitransactions: Vec<Minitransaction>,
    ) -> Proposal {
        self.0.propose_at(durability, minitransactions)
    }

    fn durability(&self) -> Durability {
        self.0.durability
    }

    fn read_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.0.shard.read(reader)
    }

    fn read_barrier(&self) -> Option<ReadBarrier> {
        self.0.router.first_barrier()
    }

    fn read_barrier_within(&self, staleness_max: Duration) -> Option<ReadBarrier> {
        self.0.router.first_barrier_within(staleness_max)
    }

    fn cluster(&self) -> ClusterView {
        self.0.cluster()
    }

    fn slots_led(&self) -> Vec<SlotsLed> {
        self.0.slots_led()
    }

    fn change_members(&self, change: MembersChange) -> MembersChanging {
        self.0.change_members(change)
    }

    fn leads(&self) -> bool {
        self.0.leads()
    }

    fn term(&self) -> Term {
        self.0.term()
    }

    fn follow(&self, listener: Arc<dyn Listener>) {
        self.0.follow(listener);
    }

    fn feed(&self) -> &Feed {
        self.0.feed()
    }
}
