//! The shards of a node put together, with the ways to them: all of a node but its directory, its identity and
//! its connections. A node has one, and so has each node of a simulation.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proteus_env::{Clock, task};
use proteus_kernel::{
    ChoreOptions, ChosenLeaders, Commits, Links, Shard, Shards, StateImage, image_whole,
};
use proteus_kernel_api::cache::Replicas;
use proteus_kernel_api::{Feed, KernelError, Minitransaction};
use proteus_log::Log;
use proteus_shard_machine::Composed;
use proteus_types::{CommitTs, Durability, Member, NodeId, ShardId};
use tokio::sync::watch;

use crate::kernel::NodeKernel;
use crate::placement::Placement;
use crate::retire;
use crate::router::{Router, WideRouter};
use crate::shards::{NodeShards, Opener};
use crate::upkeep::Upkeep;

/// What the shards of a node need to open.
pub struct AssemblyOptions {
    /// Below which their checkpoints are.
    pub directory: PathBuf,
    /// Where all of them write.
    pub log: Log,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// The way to other nodes.
    pub links: Arc<dyn Links>,
    /// This node.
    pub node: NodeId,
    /// This node as others reach it.
    pub member: Member,
    /// Drawn anew at each start.
    pub run: u32,
    /// When to take checkpoints.
    pub chores: ChoreOptions,
    /// What acknowledged means to those who do not say.
    pub durability: Durability,
    /// How often a reader of several shards looks again, letting other threads go on in between, if one has
    /// carried out its part of a commit and another has not.
    pub torn_tries: u32,
}

/// The shards of a node, and the ways to them.
pub struct Assembly {
    pub(crate) node: NodeId,
    pub(crate) opener: Arc<Opener>,
    pub(crate) shards: Arc<NodeShards>,
    pub(crate) commits: Arc<Commits<Composed>>,
    pub(crate) placement: Arc<Placement>,
    durability: Durability,
    torn_tries: u32,
}

impl Assembly {
    /// Opens nothing yet.
    pub fn new(options: AssemblyOptions) -> Assembly {
        let AssemblyOptions { directory, log, clock, links, node, member, .. } = options;
        let AssemblyOptions { run, chores, durability, torn_tries, .. } = options;
        let shards = Arc::new(NodeShards::default());
        let opener = Arc::new(Opener {
            directory,
            log,
            clock: clock.clone(),
            feed: Arc::new(Feed::default()),
            links,
            node,
            member,
            run,
            chores,
            timestamps: Arc::default(),
            checkpoints: Arc::default(),
            shards: shards.clone(),
            pace: AtomicU64::new(0),
            wide: OnceLock::new(),
            opening: Default::default(),
        });
        let commits = Commits::new(node, run, clock, shards.clone());
        let placement = Placement::new(opener.clone(), shards.clone(), commits.clone());
        Assembly {
            node,
            opener,
            shards,
            commits,
            placement: Arc::new(placement),
            durability,
            torn_tries,
        }
    }

    /// Opens one shard. `found` says whether it begins here, if it has not begun.
    ///
    /// # Errors
    /// As [`Shard::open`].
    pub async fn open(
        &self,
        shard: ShardId,
        found: bool,
    ) -> Result<Arc<Shard<Composed>>, KernelError> {
        self.opener.open(shard, found).await
    }

    /// Opens the first shard, and those that it says there are; follows it from then on, and finishes what
    /// others leave behind, until `stop` holds true.
    ///
    /// # Errors
    /// As [`Shard::open`].
    pub async fn open_all(
        &self,
        found: bool,
        stop: &watch::Receiver<bool>,
    ) -> Result<Arc<NodeKernel>, KernelError> {
        let first = self.opener.open(ShardId::META, found).await?;
        self.opener.open_all().await?;
        task::spawn(self.opener.clone().follow_map(stop.clone()));
        task::spawn(self.commits.clone().finish_abandoned(stop.clone()));
        let router = Router {
            meta: first.clone(),
            shards: self.shards.clone(),
            commits: self.commits.clone(),
            torn_tries: self.torn_tries,
        };
        self.opener.set_wide(WideRouter::new(&router));
        Ok(NodeKernel::new(self.node, first, router, self.durability, self.opener.feed.clone()))
    }

    /// Looks after members and voters of the shards that this node leads beside the first, until `stop` holds true.
    pub async fn keep_up_shards(&self, stop: watch::Receiver<bool>) {
        if let Some(upkeep) = self.upkeep() {
            upkeep.keep_up(stop).await;
        }
    }

    fn upkeep(&self) -> Option<Upkeep> {
        let (node, shards) = (self.node, self.shards.clone());
        Some(Upkeep { node, meta: shards.shard(ShardId::META)?, shards })
    }

    /// Whether a node has a replica of a shard that this node leads, by what is committed there.
    ///
    /// # Errors
    /// In words, why this node cannot tell.
    pub async fn is_member(&self, shard: ShardId, node: NodeId) -> Result<bool, String> {
        let upkeep = self.upkeep().ok_or("the first shard is not open")?;
        upkeep.is_member(shard, node).await
    }

    /// Which nodes are to have replicas of which shards, as this node knows.
    pub fn replicas(&self) -> Arc<Replicas> {
        self.shards.replicas()
    }

    /// Removes a shard that has no replica here any more, if `may_go` says so once it answers no more.
    ///
    /// # Errors
    /// In words, why it was not removed.
    pub async fn retire(
        &self,
        shard: ShardId,
        may_go: impl Future<Output = bool>,
    ) -> Result<(), String> {
        match self.shards.shard(shard) {
            Some(open) => self.opener.retire(shard, &open, may_go).await,
            None => Ok(()),
        }
    }

    /// Ends the removal of a shard that a crash interrupted. Before any is opened.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn finish_retiring(&self) -> std::io::Result<()> {
        retire::finish_retiring(&self.opener.directory, &self.opener.log).await
    }

    /// The shards that are open.
    pub fn shards(&self) -> Arc<dyn Shards<Composed>> {
        self.shards.clone()
    }

    /// The states of all of them at one moment, as for a backup, with the timestamp up to which all commits are in
    /// them.
    ///
    /// # Errors
    /// As [`proteus_kernel::image_whole`].
    pub async fn image_whole(&self) -> Result<(CommitTs, Vec<(ShardId, StateImage)>), KernelError> {
        image_whole(&self.commits, &self.shards.all(), Minitransaction::default).await
    }

    /// Whom an operator chose to lead them.
    pub fn chosen_leaders(&self) -> Arc<dyn ChosenLeaders> {
        self.shards.clone()
    }

    /// Moves slots to a shard, for `time` at most, as an operator's order does; says how many are left.
    ///
    /// # Errors
    /// In words, why they were not moved.
    pub async fn move_slots(
        &self,
        slots: (u16, u16),
        to: ShardId,
        time: Duration,
    ) -> Result<u16, String> {
        self.placement.move_slots(slots, to, time).await
    }
}
