//! From many proposals to few log entries.
//!
//! The proposer takes whatever has arrived while the entries before were on their way and makes one
//! entry of it. So at low load an entry carries one command and latency is one flush; at high load
//! the number of entries stays small and throughput is bounded by bytes and CPU.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_consensus::Group;
use proteus_env::Clock;
use proteus_log::Log;
use proteus_machine::{KernelError, ShardMachine};
use proteus_types::{CommitTs, NodeId, ProposalId};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::envelope::{ENVELOPE_BYTES, Envelope};
use crate::state::ShardState;

/// An entry is closed once it has this many bytes, so that a small command behind it waits for
/// milliseconds only. A single larger proposal makes a larger entry.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Entries on their way to being applied. More than one keeps disk and CPU busy at the same time;
/// many would make entries small.
const ENTRIES_IN_FLIGHT_MAX: usize = 3;

/// Bytes of proposals that wait or are on their way; beyond it new ones are refused.
const PENDING_BYTES_MAX: usize = 256 * 1024 * 1024;

pub(crate) type Reply<O> = oneshot::Sender<Result<Vec<O>, KernelError>>;

/// Encoded commands of one caller.
pub(crate) struct Proposal<O> {
    pub(crate) commands: Vec<u8>,
    pub(crate) command_count: u32,
    pub(crate) reply: Reply<O>,
}

/// Who waits for the entries on their way.
pub(crate) struct Pending<O> {
    batches: Mutex<VecDeque<PendingBatch<O>>>,
    /// Bytes of all proposals not yet answered.
    bytes: AtomicUsize,
    completed: Notify,
}

struct PendingBatch<O> {
    proposal: ProposalId,
    bytes: usize,
    replies: Vec<(u32, Reply<O>)>,
}

impl<O> Default for Pending<O> {
    fn default() -> Pending<O> {
        Pending { batches: Mutex::default(), bytes: AtomicUsize::new(0), completed: Notify::new() }
    }
}

impl<O> Pending<O> {
    /// Takes room for a proposal.
    pub(crate) fn admit(&self, bytes: usize) -> Result<(), KernelError> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > PENDING_BYTES_MAX && before > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(KernelError::Overloaded(format!(
                "{} MiB wait to be committed",
                before >> 20
            )));
        }
        Ok(())
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Answers those who proposed the batch, in the order of their commands.
    pub(crate) fn complete(&self, proposal: ProposalId, outcomes: Vec<O>) {
        let batch = {
            let mut batches = self.batches.lock();
            // Entries of an earlier run of this node carry proposals that nobody waits for.
            match batches.front() {
                Some(front) if front.proposal == proposal => batches.pop_front(),
                _ => None,
            }
        };
        let Some(batch) = batch else { return };
        let mut outcomes = outcomes.into_iter();
        for (count, reply) in batch.replies {
            let own = outcomes.by_ref().take(count as usize).collect();
            // A caller that stopped waiting has its commit all the same.
            let _ = reply.send(Ok(own));
        }
        self.release(batch.bytes);
        self.completed.notify_one();
    }

    /// Answers all with `error`.
    pub(crate) fn fail(&self, error: &KernelError) {
        for batch in std::mem::take(&mut *self.batches.lock()) {
            for (_, reply) in batch.replies {
                let _ = reply.send(Err(error.clone()));
            }
            self.release(batch.bytes);
        }
        self.completed.notify_one();
    }

    fn in_flight(&self) -> usize {
        self.batches.lock().len()
    }
}

pub(crate) struct Proposer<M: ShardMachine> {
    pub(crate) node: NodeId,
    pub(crate) state: Arc<ShardState<M>>,
    pub(crate) group: Group,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) arriving: mpsc::UnboundedReceiver<Proposal<M::Outcome>>,
    /// The next commit timestamp is this or later.
    pub(crate) next_ts: CommitTs,
    /// Proposal ids of this run begin here, so that none repeats one in the log.
    pub(crate) next_proposal: u64,
}

impl<M: ShardMachine> Proposer<M> {
    /// Makes entries of what arrives until all senders are gone or the group has stopped.
    pub(crate) async fn run(mut self) {
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(held) => held,
                None => match self.arriving.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            while self.state.pending.in_flight() >= ENTRIES_IN_FLIGHT_MAX {
                self.state.pending.completed.notified().await;
            }
            let (batch, entry) = self.gather(first, &mut held);
            if let Err(error) = self.admit(entry.len()) {
                self.refuse(batch, &error);
                continue;
            }
            self.state.pending.batches.lock().push_back(batch);
            if let Err(stopped) = self.group.propose(entry).await {
                self.state.pending.fail(&KernelError::Stopped(stopped.to_string()));
            }
        }
    }

    /// One entry of `first` and whatever else has arrived, up to the bound; what would exceed it is
    /// held for the next.
    fn gather(
        &mut self,
        first: Proposal<M::Outcome>,
        held: &mut Option<Proposal<M::Outcome>>,
    ) -> (PendingBatch<M::Outcome>, Bytes) {
        let mut entry = Vec::with_capacity(ENVELOPE_BYTES + first.commands.len());
        entry.resize(ENVELOPE_BYTES, 0);
        let mut replies = Vec::new();
        let mut command_count = 0;
        let mut next = Some(first);
        while let Some(proposal) = next {
            entry.extend_from_slice(&proposal.commands);
            command_count += proposal.command_count;
            replies.push((proposal.command_count, proposal.reply));
            next = self.arriving.try_recv().ok();
            if let Some(waiting) = &next
                && entry.len() + waiting.commands.len() > BATCH_BYTES_MAX
            {
                *held = next.take();
            }
        }
        let now = CommitTs::from_physical_ms(self.clock.wall_ms());
        let first_ts = self.next_ts.max(now);
        self.next_ts = first_ts.plus(u64::from(command_count.max(1)));
        let proposal = ProposalId(self.next_proposal);
        self.next_proposal += 1;
        let envelope = Envelope { node: self.node, proposal, first_ts, command_count };
        envelope.seal(&mut entry);
        let bytes = entry.len() - ENVELOPE_BYTES;
        (PendingBatch { proposal, bytes, replies }, Bytes::from(entry))
    }

    fn admit(&self, bytes: usize) -> Result<(), KernelError> {
        self.log.admit(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => KernelError::DiskFull(error.to_string()),
            _ => KernelError::Unavailable(error.to_string()),
        })
    }

    fn refuse(&self, batch: PendingBatch<M::Outcome>, error: &KernelError) {
        for (_, reply) in batch.replies {
            let _ = reply.send(Err(error.clone()));
        }
        self.state.pending.release(batch.bytes);
    }
}
