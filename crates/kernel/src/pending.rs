//! Who waits for proposals that are on their way.
//!
//! A proposal is handed to the leader of one term, and can be in the log in that term only. So its
//! fate is known here as soon as an entry of a later term has been applied: it was applied before, or
//! it never will be, and is proposed again. Nobody who waits notices but by the time it takes.
//!
//! An answer is given when the proposal has been applied *here*, so that the caller's next read on
//! this node sees it, *and* by the leader, so that the leader may answer reads from its own state.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proteus_env::task;
use proteus_machine::KernelError;
use proteus_types::{Durability, ProposalId, Term};
use tokio::sync::{Notify, oneshot};

/// Bytes of proposals that wait or are on their way; beyond it new ones are refused.
const PENDING_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How often one who waits for all to be answered looks.
const SETTLE_LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// The outcomes of a proposal, and its encoded commands.
pub(crate) type Answered<O> = Result<(Vec<O>, Vec<u8>), KernelError>;

pub(crate) type Reply<O> = oneshot::Sender<Answered<O>>;

/// How a proposal stands to commits over several shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It waits while one is not finished.
    Plain,
    /// It tries a part of one: nothing may follow it until that is finished.
    Gates,
    /// It finishes one. It is proposed by the leader's own node, and only there.
    Finishes,
}

/// Encoded commands of one caller.
pub(crate) struct Proposal<O> {
    pub(crate) kind: Kind,
    pub(crate) durability: Durability,
    pub(crate) commands: Vec<u8>,
    pub(crate) command_count: u32,
    pub(crate) reply: Reply<O>,
    /// When it was proposed, by the node's elapsed time.
    pub(crate) since: Duration,
}

/// Proposals of callers that were handed over together.
pub(crate) struct Batch<O> {
    pub(crate) proposal: ProposalId,
    /// The leader's term that it was handed over in.
    pub(crate) term: Term,
    /// With all that is needed to propose once more.
    pub(crate) proposals: Vec<Proposal<O>>,
    /// Whether the leader is known to have applied it.
    pub(crate) confirmed: bool,
    /// What it was answered here.
    pub(crate) outcomes: Option<Vec<O>>,
}

pub(crate) struct Pending<O> {
    batches: Mutex<VecDeque<Batch<O>>>,
    /// Proposals that were not committed in the term they were handed over in, oldest first.
    lost: Mutex<VecDeque<Proposal<O>>>,
    /// Bytes of all proposals not yet answered.
    bytes: AtomicUsize,
    /// Log entries that this node proposed as leader of a term and has not applied yet.
    entries: Mutex<(Term, usize)>,
    /// How often callers were told that nobody answers.
    given_up: AtomicUsize,
    /// Whether an entry was not taken into the log since this was last asked.
    is_rejected: AtomicBool,
    /// Wakes the proposer.
    pub(crate) changed: Notify,
}

impl<O> Default for Pending<O> {
    fn default() -> Pending<O> {
        Pending {
            batches: Mutex::default(),
            lost: Mutex::default(),
            bytes: AtomicUsize::new(0),
            entries: Mutex::default(),
            given_up: AtomicUsize::new(0),
            is_rejected: AtomicBool::new(false),
            changed: Notify::new(),
        }
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

    /// Answers a caller and gives its room back.
    pub(crate) fn answer(&self, proposal: Proposal<O>, result: Result<Vec<O>, KernelError>) {
        let Proposal { commands, reply, .. } = proposal;
        self.bytes.fetch_sub(commands.len(), Ordering::Relaxed);
        // A caller that stopped waiting has its commit all the same.
        let _ = reply.send(result.map(|outcomes| (outcomes, commands)));
    }

    /// Resolves once everybody was answered.
    pub(crate) async fn wait_settled(&self) {
        while self.bytes.load(Ordering::Relaxed) > 0 {
            task::sleep(SETTLE_LOOK_INTERVAL).await;
        }
    }

    pub(crate) fn push(&self, batch: Batch<O>) {
        self.batches.lock().push_back(batch);
    }

    /// Entries on their way that this node proposed as leader.
    pub(crate) fn own_entries(&self) -> usize {
        self.entries.lock().1
    }

    /// Entries and batches on their way, whichever are more.
    pub(crate) fn in_flight(&self) -> usize {
        self.batches.lock().len().max(self.entries.lock().1)
    }

    /// Notes that this node, leader in `term`, has proposed an entry.
    pub(crate) fn entry_proposed(&self, term: Term) {
        let mut entries = self.entries.lock();
        if entries.0 <= term {
            *entries = if entries.0 == term { (term, entries.1 + 1) } else { (term, 1) };
        }
    }

    /// Notes that an entry with commands was applied, which the leader of `term` proposed. Others, of consensus
    /// itself, are not counted.
    pub(crate) fn entry_applied(&self, term: Term) {
        let mut entries = self.entries.lock();
        if entries.0 == term {
            entries.1 = entries.1.saturating_sub(1);
            drop(entries);
            self.changed.notify_one();
        }
    }

    /// The oldest proposal that is to be proposed again.
    pub(crate) fn take_lost(&self) -> Option<Proposal<O>> {
        self.lost.lock().pop_front()
    }

    /// Notes what a proposal was answered here, if somebody here waits for it.
    pub(crate) fn applied(&self, proposal: ProposalId, outcomes: Vec<O>) {
        let done = {
            let mut batches = self.batches.lock();
            let Some(at) = position(&batches, proposal) else { return };
            batches[at].outcomes = Some(outcomes);
            if batches[at].confirmed { batches.remove(at) } else { None }
        };
        if let Some(batch) = done {
            self.finish(batch);
        }
    }

    /// Notes that the leader has applied a proposal of this node.
    pub(crate) fn confirm(&self, proposal: ProposalId) {
        let done = {
            let mut batches = self.batches.lock();
            let Some(at) = position(&batches, proposal) else { return };
            batches[at].confirmed = true;
            if batches[at].outcomes.is_some() { batches.remove(at) } else { None }
        };
        if let Some(batch) = done {
            self.finish(batch);
        }
    }

    /// Answers the callers of a batch that the leader did not take.
    pub(crate) fn refuse(&self, proposal: ProposalId, error: &KernelError) {
        let batch = {
            let mut batches = self.batches.lock();
            position(&batches, proposal).and_then(|at| batches.remove(at))
        };
        for proposal in batch.into_iter().flat_map(|batch| batch.proposals) {
            self.answer(proposal, Err(error.clone()));
        }
        self.changed.notify_one();
    }

    fn finish(&self, batch: Batch<O>) {
        let mut outcomes = batch.outcomes.unwrap_or_default().into_iter();
        for proposal in batch.proposals {
            let own = outcomes.by_ref().take(proposal.command_count as usize).collect();
            self.answer(proposal, Ok(own));
        }
        self.changed.notify_one();
    }

    /// An entry of `term` has been applied: what was handed over in an earlier term and is not applied
    /// by now never will be.
    pub(crate) fn term_began(&self, term: Term) {
        let ended: Vec<Batch<O>> = {
            let mut batches = self.batches.lock();
            let (ended, going_on): (Vec<_>, Vec<_>) =
                batches.drain(..).partition(|batch| batch.term < term);
            batches.extend(going_on);
            ended
        };
        let mut lost = Vec::new();
        for batch in ended {
            if batch.outcomes.is_some() {
                // Applied, and so it will be by any later leader before that serves.
                self.finish(batch);
            } else {
                lost.extend(batch.proposals);
            }
        }
        self.lose(lost);
        let mut entries = self.entries.lock();
        if entries.0 < term {
            *entries = (term, 0);
        }
        drop(entries);
        self.changed.notify_one();
    }

    /// An entry of `term` was not taken into the log, with this batch in it: it is proposed again.
    pub(crate) fn rejected(&self, proposal: ProposalId, term: Term) {
        let batch = {
            let mut batches = self.batches.lock();
            position(&batches, proposal).and_then(|at| batches.remove(at))
        };
        self.lose(batch.into_iter().flat_map(|batch| batch.proposals));
        self.is_rejected.store(true, Ordering::Release);
        self.entry_applied(term);
        self.changed.notify_one();
    }

    /// Notes proposals that are not in the log and never will be as they were proposed.
    fn lose(&self, proposals: impl IntoIterator<Item = Proposal<O>>) {
        for proposal in proposals {
            if proposal.kind == Kind::Finishes {
                // Another node leads now, and who asked for it asks there.
                let error = KernelError::Unavailable("another node leads the shard now".to_owned());
                self.answer(proposal, Err(error));
            } else {
                self.lost.lock().push_back(proposal);
            }
        }
    }

    /// Whether an entry was not taken into the log since this was last asked.
    pub(crate) fn take_rejected(&self) -> bool {
        self.is_rejected.swap(false, Ordering::AcqRel)
    }

    /// Answers everyone with `error`.
    pub(crate) fn fail(&self, error: &KernelError) {
        let batches = std::mem::take(&mut *self.batches.lock());
        let lost = std::mem::take(&mut *self.lost.lock());
        for proposal in batches.into_iter().flat_map(|batch| batch.proposals).chain(lost) {
            self.answer(proposal, Err(error.clone()));
        }
        self.changed.notify_one();
    }

    /// Answers with `error` those of this node that have waited since before `since`. What they
    /// proposed may still be committed.
    pub(crate) fn fail_older(&self, since: Duration, error: &KernelError) {
        let is_old =
            |batch: &Batch<O>| batch.proposals.iter().all(|proposal| proposal.since < since);
        let old: Vec<Batch<O>> = {
            let mut batches = self.batches.lock();
            if !batches.front().is_some_and(is_old) {
                return;
            }
            let (old, young): (Vec<_>, Vec<_>) = batches.drain(..).partition(is_old);
            batches.extend(young);
            old
        };
        self.given_up.fetch_add(1, Ordering::Release);
        for proposal in old.into_iter().flat_map(|batch| batch.proposals) {
            self.answer(proposal, Err(error.clone()));
        }
        self.changed.notify_one();
    }

    /// How often callers were told that nobody answers. What was handed over before is not waited for
    /// any more, and what comes after must not wait behind it.
    pub(crate) fn given_up(&self) -> usize {
        self.given_up.load(Ordering::Acquire)
    }
}

fn position<O>(batches: &VecDeque<Batch<O>>, proposal: ProposalId) -> Option<usize> {
    batches.iter().position(|batch| batch.proposal == proposal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(proposal: u64, term: u64) -> (Batch<u8>, oneshot::Receiver<Answered<u8>>) {
        let (reply, answer) = oneshot::channel();
        let caller = Proposal {
            kind: Kind::Plain,
            durability: Durability::Flushed,
            commands: vec![7],
            command_count: 1,
            reply,
            since: Duration::ZERO,
        };
        let batch = Batch {
            proposal: ProposalId(proposal),
            term: Term(term),
            proposals: vec![caller],
            confirmed: false,
            outcomes: None,
        };
        (batch, answer)
    }

    #[test]
    fn an_answer_waits_for_both_replicas() {
        for applied_first in [true, false] {
            let pending = Pending::default();
            let (batch, mut answer) = batch(1, 1);
            pending.push(batch);
            let apply = || pending.applied(ProposalId(1), vec![5]);
            let confirm = || pending.confirm(ProposalId(1));
            if applied_first {
                apply()
            } else {
                confirm()
            }
            assert!(answer.try_recv().is_err());
            if applied_first {
                confirm()
            } else {
                apply()
            }
            assert_eq!(answer.try_recv().unwrap().unwrap().0, [5]);
            assert_eq!(pending.in_flight(), 0);
        }
    }

    #[test]
    fn a_new_term_tells_the_fate_of_what_was_handed_over_before() {
        let pending = Pending::default();
        let (first, mut first_answer) = batch(1, 1);
        let (second, mut second_answer) = batch(2, 1);
        let (third, mut third_answer) = batch(3, 2);
        for batch in [first, second, third] {
            pending.push(batch);
        }
        pending.applied(ProposalId(1), vec![5]);
        pending.term_began(Term(2));
        assert_eq!(
            first_answer.try_recv().unwrap().unwrap().0,
            [5],
            "applied before the term ended"
        );
        assert!(second_answer.try_recv().is_err() && third_answer.try_recv().is_err());
        assert_eq!(pending.take_lost().unwrap().commands, [7], "the second is proposed again");
        assert!(pending.take_lost().is_none());
        assert_eq!(pending.in_flight(), 1);
    }
}
