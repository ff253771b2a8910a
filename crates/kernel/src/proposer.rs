//! From many proposals to few log entries.
//!
//! The proposer takes whatever has arrived while the entries before were on their way and makes one
//! batch of it. So at low load a batch carries one command and latency is one flush; at high load the
//! number of batches stays small and throughput is bounded by bytes and CPU.
//!
//! On the leader a batch becomes a log entry; on another node it is handed to the leader.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proteus_consensus::{Group, Leadership};
use proteus_env::{Clock, task};
use proteus_log::Log;
use proteus_machine::{KernelError, ShardMachine};
use proteus_types::{CommitTs, Durability, NodeId, ProposalId, ShardId, Term};
use tokio::sync::{mpsc, oneshot};

use crate::envelope::{ORIGIN_BYTES, Origin, ROOM_BYTES, seal};
use crate::forward::{Forward, ForwardAnswer, first_proposal};
use crate::links::{Links, Route, Service};
use crate::pending::{Batch, Kind, Proposal};
use crate::state::ShardState;
use crate::step::StepOutcome;

/// A batch is closed once it has this many bytes, so that a small command behind it waits for
/// milliseconds only. A single larger proposal makes a larger batch.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Batches on their way to being applied. More than one keeps disk and CPU busy at the same time;
/// many would make batches small.
const IN_FLIGHT_MAX: usize = 3;

/// How long a proposal waits for a leader before it is answered with an error.
pub(crate) const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// Pause before a batch that the leader did not take is handed to it again.
const FORWARD_RETRY: Duration = Duration::from_millis(10);

/// How often a leader whose lease has run out looks whether it has been renewed.
const LEASE_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How often one who waits looks whether the group has stopped.
const STOP_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long the leader may take over one batch of another node.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

type Answered<M> = StepOutcome<<M as ShardMachine>::Outcome>;

/// What comes to the proposer.
pub(crate) enum Arrival<O> {
    /// Of a caller on this node.
    Own(Proposal<O>),
    /// Of another node, which waits for `taken` to tell whether it was proposed.
    Foreign(Taking),
}

pub(crate) struct Proposer<M: ShardMachine> {
    pub(crate) shard: ShardId,
    pub(crate) node: NodeId,
    pub(crate) state: Arc<ShardState<M>>,
    pub(crate) group: Group,
    pub(crate) links: Arc<dyn Links>,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) arriving: mpsc::UnboundedReceiver<Arrival<Answered<M>>>,
    /// What finishes a commit over several shards: it comes before everything else.
    pub(crate) finishing: mpsc::UnboundedReceiver<Proposal<Answered<M>>>,
    /// The next commit timestamp is this or later.
    pub(crate) next_ts: CommitTs,
    /// The number of the next batch; unique to this run of this node.
    pub(crate) next_proposal: ProposalId,
    /// Whether the entry that this node proposed last gates the shard, if it holds.
    pub(crate) gate_on_its_way: bool,
    /// The term in which batches were handed to another node last, and the last of them.
    pub(crate) stream: (Term, ProposalId),
    /// The number of the stream, and how often callers had been given up on when it began.
    pub(crate) stream_number: (u32, usize),
}

/// Where a batch goes.
enum Place {
    Here(Term),
    Other(NodeId, Term),
}

/// What became of waiting for a commit over several shards.
enum Gate {
    Passed,
    LeadsNoMore,
    Impatient,
}

/// Another node's batch.
pub(crate) struct Taking {
    pub(crate) forward: Forward,
    /// Its sender, who waits for it to be proposed.
    pub(crate) taken: oneshot::Sender<Result<(), KernelError>>,
    /// When it came, by this node's elapsed time. Its node keeps the time for its callers; but those of this node
    /// that are behind it must not wait for it as long again.
    pub(crate) since: Duration,
}

/// What was gathered into one batch.
struct Gathered<O> {
    durability: Durability,
    /// Room for an envelope, then commands of this node's callers.
    commands: Vec<u8>,
    own: Vec<Proposal<O>>,
    foreign: Vec<Taking>,
}

impl<M: ShardMachine> Proposer<M> {
    /// Makes batches of what arrives until all senders are gone.
    pub(crate) async fn run(mut self) {
        let mut held = VecDeque::new();
        loop {
            // A leader that hands leadership over takes nothing meanwhile, and would be asked at once.
            if self.state.pending.take_rejected() {
                task::sleep(LEASE_LOOK_INTERVAL).await;
            }
            let Some(first) = self.next(&mut held).await else { return };
            if !self.wait_for_room(&first).await {
                let error =
                    "no majority of the shard's voters has answered; this was not sent to them";
                let impatient = Gathered::of(first);
                let error = KernelError::Unavailable(error.to_owned());
                self.refuse(impatient.own, impatient.foreign, &error);
                continue;
            }
            // Callers that were answered together, or whose requests arrived together, come one after
            // another: without this the first of them would have a flush of its own.
            task::yield_now().await;
            let gathered = self.gather(first, &mut held);
            self.hand_over(gathered).await;
        }
    }

    async fn hand_over(&mut self, gathered: Gathered<Answered<M>>) {
        let refusal = loop {
            match self.place(&gathered).await {
                Some(Place::Here(term)) => match self.pass_gate(&gathered, term).await {
                    Gate::Passed => {
                        self.gate_on_its_way = gathered.gates();
                        return self.propose(gathered, term).await;
                    }
                    Gate::LeadsNoMore => {}
                    Gate::Impatient => break "a commit over several shards is not decided",
                },
                Some(Place::Other(leader, term)) => return self.forward(gathered, leader, term),
                None => break "the shard has no leader now",
            }
        };
        let error = KernelError::Unavailable(refusal.to_owned());
        self.refuse(gathered.own, gathered.foreign, &error);
    }

    /// Waits, leading in `term`, until no part of a commit over several shards is tried and unfinished
    /// here. Meanwhile what finishes it is proposed, and nothing else.
    async fn pass_gate(&mut self, gathered: &Gathered<Answered<M>>, term: Term) -> Gate {
        let since = self.since(gathered);
        loop {
            let applied = self.state.applied_changed.notified();
            // What gates the shard may be on its way, and be refused.
            self.gate_on_its_way &= self.state.pending.own_entries() > 0;
            if !self.gate_on_its_way && !self.state.is_gated() {
                return Gate::Passed;
            }
            if self.group.leadership() != (Leadership { term, leader: Some(self.node) }) {
                return Gate::LeadsNoMore;
            }
            let Some(patience) = self.patience_left(since) else { return Gate::Impatient };
            tokio::select! {
                biased;
                () = applied => {}
                () = self.state.pending.changed.notified() => {}
                Some(finish) = self.finishing.recv() => self.finish(finish).await,
                () = task::sleep(patience.min(STOP_LOOK_INTERVAL)) => {}
            }
        }
    }

    /// Proposes what finishes a commit over several shards, if this node leads.
    async fn finish(&mut self, finish: Proposal<Answered<M>>) {
        let leadership = self.group.leadership();
        let gathered = Gathered::of(Arrival::Own(finish));
        if leadership.leader == Some(self.node) && self.group.holds_lease(self.state.applied_term())
        {
            return self.propose(gathered, leadership.term).await;
        }
        let error = KernelError::Unavailable("this node does not lead the shard".to_owned());
        self.refuse(gathered.own, gathered.foreign, &error);
    }

    /// Since when the first of this node's callers waits, or else the first batch of another node.
    fn since(&self, gathered: &Gathered<Answered<M>>) -> Duration {
        let own = gathered.own.first().map(|proposal| proposal.since);
        let foreign = || gathered.foreign.first().map(|taking| taking.since);
        own.or_else(foreign).unwrap_or_else(|| self.clock.elapsed())
    }

    /// Waits until another batch may be on its way; false if `first` has waited for too long.
    async fn wait_for_room(&self, first: &Arrival<Answered<M>>) -> bool {
        let since = match first {
            Arrival::Own(proposal) => proposal.since,
            Arrival::Foreign(taking) => taking.since,
        };
        while self.state.pending.in_flight() >= IN_FLIGHT_MAX {
            let Some(patience) = self.patience_left(since) else { return false };
            task::timeout(patience.min(STOP_LOOK_INTERVAL), self.state.pending.changed.notified())
                .await;
        }
        true
    }

    /// The next that waits: what is to be proposed again before what has arrived since.
    async fn next(
        &mut self,
        held: &mut VecDeque<Arrival<Answered<M>>>,
    ) -> Option<Arrival<Answered<M>>> {
        loop {
            if let Some(lost) = self.state.pending.take_lost() {
                return Some(Arrival::Own(lost));
            }
            if let Some(held) = held.pop_front() {
                return Some(held);
            }
            tokio::select! {
                biased;
                Some(finish) = self.finishing.recv() => self.finish(finish).await,
                arrived = self.arriving.recv() => return arrived,
                () = self.state.pending.changed.notified() => {}
            }
        }
    }

    /// One batch of `first` and whatever else waits and need be as durable, up to the bound; what is not
    /// taken is held for the next.
    fn gather(
        &mut self,
        first: Arrival<Answered<M>>,
        held: &mut VecDeque<Arrival<Answered<M>>>,
    ) -> Gathered<Answered<M>> {
        let parts = self.group.may_relax();
        // Also if it may be relaxed by the time that it is proposed: it has what must be flushed.
        let durability = if parts { first.durability() } else { Durability::Flushed };
        let (mut bytes, mut is_full) = (first.bytes(), first.gates());
        let mut taken = vec![first];
        let mut others = VecDeque::new();
        while !is_full {
            let lost = self.state.pending.take_lost().map(Arrival::Own);
            let next = lost.or_else(|| held.pop_front()).or_else(|| self.arriving.try_recv().ok());
            let Some(arrival) = next else { break };
            // What gates the shard stands in an entry by itself, and nothing overtakes it.
            is_full = arrival.gates() || bytes + arrival.bytes() > BATCH_BYTES_MAX;
            if is_full || (parts && arrival.durability() != durability) {
                others.push_back(arrival);
            } else {
                bytes += arrival.bytes();
                taken.push(arrival);
            }
        }
        // All at once: a batch of long values is not copied again as it grows.
        let mut gathered = Gathered::with_room(durability, bytes + taken.len() * ORIGIN_BYTES);
        taken.into_iter().for_each(|arrival| gathered.add(arrival));
        others.append(held);
        *held = others;
        gathered
    }

    /// Where the batch is to go, once there is a leader; `None` if there was none for too long.
    async fn place(&mut self, gathered: &Gathered<Answered<M>>) -> Option<Place> {
        let oldest = self.since(gathered);
        loop {
            let leadership = self.group.leadership();
            match leadership.leader {
                Some(leader) if leader != self.node => {
                    return Some(Place::Other(leader, leadership.term));
                }
                // A leader may stamp timestamps once it has applied all that was committed before it.
                Some(_) if self.group.holds_lease(self.state.applied_term()) => {
                    return Some(Place::Here(leadership.term));
                }
                _ => {}
            }
            let patience = self.patience_left(oldest)?;
            self.wait_for_leader(leadership, patience).await?;
        }
    }

    /// How much longer what was proposed at `since` may wait; `None` if it may not, or in vain.
    fn patience_left(&self, since: Duration) -> Option<Duration> {
        if self.group.has_stopped() {
            return None;
        }
        let waited = self.clock.elapsed().saturating_sub(since);
        LEADER_PATIENCE.checked_sub(waited).filter(|left| !left.is_zero())
    }

    async fn wait_for_leader(&self, seen: Leadership, patience: Duration) -> Option<()> {
        let applied = self.state.applied_changed.notified();
        if self.group.leadership() != seen {
            return Some(());
        }
        task::timeout(patience, async {
            tokio::select! {
                biased;
                _ = self.group.leadership_after(seen) => {}
                () = applied => {}
                () = task::sleep(LEASE_LOOK_INTERVAL) => {}
            }
        })
        .await
    }

    async fn propose(&mut self, gathered: Gathered<Answered<M>>, term: Term) {
        let Gathered { durability, mut commands, own, foreign } = gathered;
        let proposal = self.take_number();
        let mut origins = Vec::with_capacity(1 + foreign.len());
        if !own.is_empty() {
            let command_count = own.iter().map(|proposal| proposal.command_count).sum();
            origins.push(Origin { node: self.node, proposal, command_count });
        }
        for Taking { forward, .. } in &foreign {
            self.state.timestamps.observe(forward.newest);
            commands.extend_from_slice(&forward.commands);
            let Forward { node, proposal, command_count, .. } = *forward;
            origins.push(Origin { node, proposal, command_count });
        }
        if let Err(error) = self.admit(commands.len()) {
            return self.refuse(own, foreign, &error);
        }
        let command_count: u64 = origins.iter().map(|origin| u64::from(origin.command_count)).sum();
        let now = CommitTs::from_physical_ms(self.clock.wall_ms());
        // The leader may have applied later timestamps of leaders before it.
        let newest = self.state.timestamps.newest();
        let first_ts = self.next_ts.max(now).max(newest.plus(1));
        self.next_ts = first_ts.plus(command_count.max(1));
        let entry = seal(commands, first_ts, self.state.digests.newest(), &origins);
        if !own.is_empty() {
            let batch = Batch { proposal, term, proposals: own, confirmed: true, outcomes: None };
            self.state.pending.push(batch);
            self.settle(term);
        }
        for Taking { taken, .. } in foreign {
            // A node that is gone asks again.
            let _ = taken.send(Ok(()));
        }
        self.state.pending.entry_proposed(term);
        let state = self.state.clone();
        let rejected = move || {
            state.pending.rejected(proposal, term);
            for origin in &origins {
                state.intake.reject(term, origin.node, origin.proposal);
            }
        };
        if let Err(stopped) = self.group.propose(entry, durability, term, rejected).await {
            self.state.pending.fail(&KernelError::Stopped(stopped.to_string()));
        }
    }

    fn forward(&mut self, gathered: Gathered<Answered<M>>, leader: NodeId, term: Term) {
        let gates = gathered.gates();
        let Gathered { commands, own, foreign, .. } = gathered;
        let Some(member) = self.group.member(leader) else {
            let error = KernelError::Unavailable(format!("{leader} is not known here"));
            return self.refuse(own, foreign, &error);
        };
        // They asked this node as leader, which it is no longer.
        drop(foreign);
        if own.is_empty() {
            return;
        }
        let given_up = self.state.pending.given_up();
        if self.stream_number.1 != given_up {
            self.stream_number = (self.stream_number.0.wrapping_add(1), given_up);
            self.next_proposal = first_proposal(self.stream_number.0);
            self.stream = (term, ProposalId(0));
        }
        let proposal = self.take_number();
        let previous = if self.stream.0 == term { self.stream.1 } else { ProposalId(0) };
        self.stream = (term, proposal);
        let command_count = own.iter().map(|proposal| proposal.command_count).sum();
        let commands = Bytes::from(commands).slice(ROOM_BYTES..);
        let newest = self.state.timestamps.newest();
        let node = self.node;
        let forward =
            Forward { term, node, proposal, previous, newest, gates, command_count, commands };
        let batch = Batch { proposal, term, proposals: own, confirmed: false, outcomes: None };
        self.state.pending.push(batch);
        self.settle(term);
        let message = forward.encode();
        let route = Route { shard: self.shard, service: Service::Proposer };
        // Called here and not in the task, so that batches leave in their order.
        let mut call = self.links.call(leader, &member, route, message.clone());
        let (links, state, group) = (self.links.clone(), self.state.clone(), self.group.clone());
        let clock = self.clock.clone();
        let give_up_at = clock.elapsed() + LEADER_PATIENCE * 2;
        task::spawn(async move {
            loop {
                let answer = task::timeout(FORWARD_TIMEOUT, call).await.and_then(Result::ok);
                match answer.and_then(|bytes| ForwardAnswer::decode(&bytes)) {
                    Some(ForwardAnswer::Applied) => return state.pending.confirm(proposal),
                    Some(ForwardAnswer::DiskFull(reason)) => {
                        return state.pending.refuse(proposal, &KernelError::DiskFull(reason));
                    }
                    // What became of it shows when an entry of a later term is applied.
                    Some(ForwardAnswer::NotLeading) => return,
                    Some(ForwardAnswer::TryAgain) | None => task::sleep(FORWARD_RETRY).await,
                }
                // Those behind it in its stream wait for it, also if its own callers do not any more.
                if group.leadership().term != term || clock.elapsed() > give_up_at {
                    return;
                }
                call = links.call(leader, &member, route, message.clone());
            }
        });
    }

    /// Another term may have begun since `term` was looked up; its first entry, once applied, says that
    /// what was handed over in `term` is lost, and must not have said so too early to be heard.
    fn settle(&self, term: Term) {
        let applied_term = self.state.applied_term();
        if applied_term > term {
            self.state.pending.term_began(applied_term);
        }
    }

    fn take_number(&mut self) -> ProposalId {
        let proposal = self.next_proposal;
        self.next_proposal = ProposalId(proposal.0 + 1);
        proposal
    }

    fn admit(&self, bytes: usize) -> Result<(), KernelError> {
        self.log.admit(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => KernelError::DiskFull(error.to_string()),
            _ => KernelError::Unavailable(error.to_string()),
        })
    }

    fn refuse(&self, own: Vec<Proposal<Answered<M>>>, foreign: Vec<Taking>, error: &KernelError) {
        for proposal in own {
            self.state.pending.answer(proposal, Err(error.clone()));
        }
        for Taking { taken, .. } in foreign {
            let _ = taken.send(Err(error.clone()));
        }
    }
}

impl<O> Arrival<O> {
    fn bytes(&self) -> usize {
        match self {
            Arrival::Own(proposal) => proposal.commands.len(),
            Arrival::Foreign(taking) => taking.forward.commands.len(),
        }
    }

    /// Other nodes' need be flushed: there are several.
    fn durability(&self) -> Durability {
        match self {
            Arrival::Own(proposal) => proposal.durability,
            Arrival::Foreign(_) => Durability::Flushed,
        }
    }

    /// Whether nothing may follow it in the log until a commit over several shards is finished.
    fn gates(&self) -> bool {
        match self {
            Arrival::Own(proposal) => proposal.kind == Kind::Gates,
            Arrival::Foreign(taking) => taking.forward.gates,
        }
    }
}

impl<O> Gathered<O> {
    /// Nothing yet, with room for so many bytes of commands and origins.
    fn with_room(durability: Durability, bytes: usize) -> Gathered<O> {
        let mut commands = Vec::with_capacity(ROOM_BYTES + bytes);
        commands.resize(ROOM_BYTES, 0);
        Gathered { durability, commands, own: Vec::new(), foreign: Vec::new() }
    }

    /// One by itself, to be flushed.
    fn of(arrival: Arrival<O>) -> Gathered<O> {
        let bytes = arrival.bytes() + ORIGIN_BYTES;
        let mut gathered = Gathered::with_room(Durability::Flushed, bytes);
        gathered.add(arrival);
        gathered
    }

    fn gates(&self) -> bool {
        self.own.iter().any(|proposal| proposal.kind == Kind::Gates)
            || self.foreign.iter().any(|taking| taking.forward.gates)
    }

    fn add(&mut self, arrival: Arrival<O>) {
        match arrival {
            Arrival::Own(proposal) => {
                self.commands.extend_from_slice(&proposal.commands);
                self.own.push(proposal);
            }
            Arrival::Foreign(taking) => self.foreign.push(taking),
        }
    }
}
