//! One shard by itself, as faces see the kernel.

use std::sync::Arc;

use proteus_kernel::Shard;
use proteus_kernel_api::{
    Durability, Feed, Kernel, KernelError, Listener, Minitransaction, Proposal, ReadBarrier, View,
};

use crate::replica::Machine;

/// The kernel over one shard. Nobody follows it.
pub struct ShardKernel<M: Machine> {
    shard: Arc<Shard<M>>,
    feed: Feed,
}

impl<M: Machine> ShardKernel<M> {
    /// Over `shard`.
    pub fn new(shard: Arc<Shard<M>>) -> Arc<ShardKernel<M>> {
        Arc::new(ShardKernel { shard, feed: Feed::default() })
    }
}

impl<M: Machine> Kernel for ShardKernel<M> {
    fn propose_at(
        &self,
        durability: Durability,
        minitransactions: Vec<Minitransaction>,
    ) -> Proposal {
        Box::pin(self.shard.propose_at(durability, &minitransactions))
    }

    fn read_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.shard.read(reader)
    }

    fn read_barrier(&self) -> Option<ReadBarrier> {
        let barrier = self.shard.read_barrier()?;
        let stopping = || KernelError::Unavailable("the node is stopping".to_owned());
        Some(Box::pin(async move { barrier.await.unwrap_or_else(|_| Err(stopping())) }))
    }

    fn follow(&self, listener: Arc<dyn Listener>) {
        self.feed.follow(listener);
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }
}
