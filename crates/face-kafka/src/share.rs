//! Share groups (KIP-932): their members, and who holds which records.
//!
//! What must survive is the topic machine's (`machine-topic/src/shares.rs`). Here is the soft state of the
//! node that leads: members ([`group`]), and for each partition of each group which records are held by
//! whom and until when ([`partition`]). It belongs to one term; whoever leads next begins with what is
//! durable, and delivers again what was held.

pub(crate) mod group;
pub(crate) mod partition;

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use parking_lot::Mutex;
use proteus_kernel_api::topic::shares::{self, ShareRange};
use proteus_kernel_api::topic::{self, TopicId};
use proteus_kernel_api::{Kernel, Minitransaction, Proposal};

use crate::errors::Failure;
use partition::SharePartition;

/// Partitions of share groups with soft state at once.
const PARTITIONS_MAX: usize = 200_000;

/// A partition as a share group consumes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Share {
    pub group: Arc<str>,
    pub topic_id: TopicId,
    pub partition: u32,
}

/// Who holds which records, of all share groups.
#[derive(Default)]
pub(crate) struct Shares {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// Of the leadership that this belongs to.
    term: u64,
    partitions: HashMap<Share, SharePartition>,
}

impl Shares {
    /// Calls `step` with a group's partition; `None` if the group has not begun to consume it.
    pub(crate) fn with<R>(
        &self,
        kernel: &dyn Kernel,
        share: &Share,
        step: impl FnOnce(&mut SharePartition) -> R,
    ) -> Result<Option<R>, Failure> {
        let mut held = self.held.lock();
        let term = kernel.term().0;
        if !kernel.leads() {
            held.partitions.clear();
            let message = "share groups consume at the broker that leads";
            return Err(Failure::new(ResponseError::NotLeaderOrFollower, message));
        }
        if held.term != term {
            held.partitions.clear();
            held.term = term;
        }
        if let Some(partition) = held.partitions.get_mut(share) {
            return Ok(Some(step(partition)));
        }
        let (group, topic_id) = (&*share.group, share.topic_id);
        let stored = kernel
            .read(|view| shares::share_partition(view.state, group, topic_id, share.partition))?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        if held.partitions.len() >= PARTITIONS_MAX {
            held.partitions.retain(|_, partition| partition.is_held());
        }
        if held.partitions.len() >= PARTITIONS_MAX {
            let message = format!("share groups consume {PARTITIONS_MAX} partitions already");
            return Err(Failure::new(ResponseError::ShareSessionLimitReached, message));
        }
        let mut partition = SharePartition::of(&stored);
        let result = step(&mut partition);
        held.partitions.insert(share.clone(), partition);
        Ok(Some(result))
    }

    /// Calls `step` with all partitions of a group that have soft state, and collects what it gives.
    pub(crate) fn of_group<R>(
        &self,
        group: &str,
        mut step: impl FnMut(&Share, &mut SharePartition) -> Option<R>,
    ) -> Vec<(Share, R)> {
        let mut held = self.held.lock();
        let of_group = held.partitions.iter_mut().filter(|(share, _)| *share.group == *group);
        of_group.filter_map(|(share, state)| Some((share.clone(), step(share, state)?))).collect()
    }

    /// The soft state is not what is durable, or will not be: the next look begins anew.
    pub(crate) fn forget(&self, share: &Share) {
        self.held.lock().partitions.remove(share);
    }

    /// [`Shares::forget`] for all partitions of a group.
    pub(crate) fn forget_group(&self, group: &str) {
        self.held.lock().partitions.retain(|share, _| *share.group != *group);
    }
}

/// Proposes what has become of records. Whoever calls this under [`Shares::with`] hands changes over in
/// the order in which they were made.
pub(crate) fn propose(kernel: &dyn Kernel, share: &Share, ranges: Vec<ShareRange>) -> Proposal {
    kernel.propose(vec![Minitransaction::of(topic::Op::UpdateShare {
        group: share.group.to_string(),
        topic_id: share.topic_id,
        partition: share.partition,
        ranges,
    })])
}
