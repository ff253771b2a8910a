//! The order in which one node's proposals reach its shards, where some concern several of them.
//!
//! A commit over several shards reaches them one after another. Whoever proposes to one of them meanwhile
//! waits until that has been reached, so that the proposals of one connection keep their order in every
//! shard. While there are no such commits nobody waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use proteus_machine::KernelError;
use proteus_types::ShardId;
use tokio::sync::Notify;

/// Proposals that wait for their turn, over all shards.
const WAITING_MAX: usize = 100_000;

/// The lanes of one node: one for each shard.
#[derive(Default)]
pub(crate) struct Lanes {
    queues: Mutex<BTreeMap<ShardId, VecDeque<Arc<Ticket>>>>,
}

struct Ticket {
    called: Notify,
}

/// A place in the lanes of some shards. Dropping it leaves those that were not left yet.
pub(crate) struct Turn {
    lanes: Arc<Lanes>,
    ticket: Arc<Ticket>,
    shards: Vec<ShardId>,
}

impl Lanes {
    /// Calls `hand_over` at once if nobody waits for `shard`; otherwise gives it back with a turn to wait
    /// for.
    pub(crate) fn pass<T, F: FnOnce() -> T>(
        self: &Arc<Self>,
        shard: ShardId,
        hand_over: F,
    ) -> Result<Result<T, (F, Turn)>, KernelError> {
        let mut queues = self.queues.lock();
        if queues.get(&shard).is_none_or(VecDeque::is_empty) {
            // Under the lock, so that no commit over several shards comes in between.
            return Ok(Ok(hand_over()));
        }
        let turn = self.queue(&mut queues, vec![shard])?;
        Ok(Err((hand_over, turn)))
    }

    /// Takes a place in the lanes of all `shards`.
    pub(crate) fn enter(self: &Arc<Self>, shards: Vec<ShardId>) -> Result<Turn, KernelError> {
        self.queue(&mut self.queues.lock(), shards)
    }

    fn queue(
        self: &Arc<Self>,
        queues: &mut BTreeMap<ShardId, VecDeque<Arc<Ticket>>>,
        shards: Vec<ShardId>,
    ) -> Result<Turn, KernelError> {
        if queues.values().map(VecDeque::len).sum::<usize>() >= WAITING_MAX {
            let reason = format!("{WAITING_MAX} proposals wait behind commits over several shards");
            return Err(KernelError::Overloaded(reason));
        }
        let ticket = Arc::new(Ticket { called: Notify::new() });
        for shard in &shards {
            queues.entry(*shard).or_default().push_back(ticket.clone());
        }
        Ok(Turn { lanes: self.clone(), ticket, shards })
    }
}

impl Turn {
    /// Resolves once nobody is before this in any of its lanes.
    pub(crate) async fn come(&self) {
        loop {
            let called = self.ticket.called.notified();
            if self.is_first() {
                return;
            }
            called.await;
        }
    }

    fn is_first(&self) -> bool {
        let queues = self.lanes.queues.lock();
        self.shards.iter().all(|shard| {
            let first = queues.get(shard).and_then(VecDeque::front);
            first.is_some_and(|first| Arc::ptr_eq(first, &self.ticket))
        })
    }

    /// Lets the next go to `shard`, which has been reached.
    pub(crate) fn leave(&mut self, shard: ShardId) {
        self.shards.retain(|own| *own != shard);
        self.leave_lane(shard);
    }

    fn leave_lane(&self, shard: ShardId) {
        let mut queues = self.lanes.queues.lock();
        let Some(queue) = queues.get_mut(&shard) else { return };
        queue.retain(|ticket| !Arc::ptr_eq(ticket, &self.ticket));
        match queue.front() {
            Some(next) => next.called.notify_one(),
            None => _ = queues.remove(&shard),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        for shard in std::mem::take(&mut self.shards) {
            self.leave_lane(shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    const A: ShardId = ShardId(1);
    const B: ShardId = ShardId(2);

    fn has_come(turn: &Turn) -> bool {
        let mut coming = std::pin::pin!(turn.come());
        coming.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn who_comes_later_waits_in_the_lanes_that_were_not_left() {
        let lanes = Arc::new(Lanes::default());
        assert!(matches!(lanes.pass(A, || 1), Ok(Ok(1))), "nobody waits");
        let mut first = lanes.enter(vec![A, B]).unwrap();
        let second = lanes.enter(vec![A, B]).unwrap();
        let Ok(Err((hand_over, third))) = lanes.pass(B, || 3) else { panic!("passed") };
        assert!(has_come(&first) && !has_come(&second) && !has_come(&third));
        first.leave(B);
        assert!(!has_come(&second), "one of its lanes is not free");
        first.leave(A);
        assert!(has_come(&second) && !has_come(&third));
        drop(second);
        assert!(has_come(&third));
        assert_eq!(hand_over(), 3);
        drop(third);
        assert!(lanes.queues.lock().is_empty());
    }
}
