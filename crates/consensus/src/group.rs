//! One shard's consensus group.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::impls::ProgressResponder;
use openraft::metrics::RaftMetrics;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{ChangeMembers, Config, Instant, Raft, ReadPolicy, SnapshotPolicy};
use parking_lot::Mutex;
use proteus_env::task;
use proteus_log::Log;
use proteus_types::{Durability, LogIndex, Member, NodeId, ShardId, Term};

use crate::config::{Payload, TypeConfig, leader_of_term};
use crate::log_storage::LogStorage;
use crate::network::{Answer, Message, Peers, call, decode, encode};
use crate::replica::{ReceivedImage, Replica, ReplicaMachine, SnapshotHandle, SnapshotPace};
use crate::transport::{Transport, TransportError};

/// How often a node that was taken back looks whether it has caught up with what it had.
const FLOOR_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long a group of one voter may take until it leads itself and has replayed its log. A bounded
/// log replays in a small part of this, also on a slow disk.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the leader may take to say up to where a reader must have applied.
const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(2);

/// Times of a group. All nodes of a cluster must have the same.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often a leader that has nothing to say says so.
    pub heartbeat: Duration,
    /// A follower that has heard no leader for `election_max` waits between `election_min` and
    /// `election_max` more, at random, and stands for election.
    pub election_min: Duration,
    /// See there. It is also how long a leader that a majority has answered may serve reads without
    /// asking: its lease.
    pub election_max: Duration,
    /// What the lease is shortened by, in parts of a thousand, so that clocks may run so much faster
    /// or slower than each other.
    pub clock_drift_permille: u32,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(350),
            election_max: Duration::from_millis(700),
            clock_drift_permille: 50,
        }
    }
}

/// Who and how.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// The shard that the group replicates.
    pub shard: ShardId,
    /// This node.
    pub node: NodeId,
    /// This node as others reach it.
    pub member: Member,
    /// Whether a group that has no log yet is founded with this node as its only voter. Otherwise it
    /// waits until a leader adds this node.
    pub found: bool,
    /// Times.
    pub timing: Timing,
}

/// Why a payload was not taken.
#[derive(Debug, thiserror::Error)]
#[error("the consensus group has stopped: {0}")]
pub struct ProposeError(String);

/// Why the membership was not changed, or leadership not handed over.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ChangeError(String);

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// The newest term that this node knows of.
    pub term: Term,
    /// Its leader, if it has one that this node knows.
    pub leader: Option<NodeId>,
}

/// A group's members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// All members.
    pub members: BTreeMap<NodeId, Member>,
    /// Those that vote; the others only follow. While it changes: those of both configurations.
    pub voters: BTreeSet<NodeId>,
    /// Whether a change is under way.
    pub is_changing: bool,
}

/// A group's figures on this node.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    /// Who leads.
    pub leadership: Leadership,
    /// The members.
    pub membership: Membership,
    /// Last entry in the log here.
    pub last_index: LogIndex,
    /// Last entry known to be committed.
    pub committed_index: LogIndex,
    /// On the leader: the last entry that each other member is known to have.
    pub matched: BTreeMap<NodeId, LogIndex>,
    /// On the leader: how long ago each other member answered.
    pub silent_for: BTreeMap<NodeId, Duration>,
}

/// A consensus group's replica on this node. Clones share it.
#[derive(Clone)]
pub struct Group {
    raft: Raft<TypeConfig, ReplicaMachine>,
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    timing: Timing,
    replica: Arc<dyn Replica>,
    transport: Arc<dyn Transport>,
    pace: Arc<SnapshotPace>,
    incoming: Mutex<Option<Incoming>>,
    storage: LogStorage,
    /// Changes of the membership that are under way.
    changes: AtomicUsize,
    metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
}

/// A log snapshot that is arriving.
struct Incoming {
    transfer: u64,
    next_sequence: u64,
    image: Box<dyn ReceivedImage>,
}

impl Group {
    /// Opens the group over what `log` holds, founds it, or waits to be added; see
    /// [`GroupOptions::found`]. A group whose only voter is this node leads and has applied all that
    /// was committed when this returns; another may still be looking for its leader.
    ///
    /// # Errors
    /// If log or replica fail.
    pub async fn open(
        options: GroupOptions,
        log: Log,
        replica: Arc<dyn Replica>,
        transport: Arc<dyn Transport>,
    ) -> io::Result<Group> {
        Group::boxed_open(options, log, replica, transport).await
    }

    /// Behind a pointer, so that the library is compiled in this crate, once and as its profile says, and
    /// not again in whatever awaits it.
    fn boxed_open(
        options: GroupOptions,
        log: Log,
        replica: Arc<dyn Replica>,
        transport: Arc<dyn Transport>,
    ) -> BoxFuture<'static, io::Result<Group>> {
        Box::pin(Group::open_here(options, log, replica, transport))
    }

    async fn open_here(
        options: GroupOptions,
        log: Log,
        replica: Arc<dyn Replica>,
        transport: Arc<dyn Transport>,
    ) -> io::Result<Group> {
        let config = Arc::new(config_of(&options).validate().map_err(io::Error::other)?);
        let storage = LogStorage::new(log, options.shard);
        let machine = ReplicaMachine { replica: replica.clone() };
        let pace = Arc::new(SnapshotPace::default());
        let peers = Peers {
            transport: transport.clone(),
            pace: pace.clone(),
            transfers: Arc::new(AtomicU64::new(0)),
        };
        let node = options.node;
        let raft = Raft::new(node.0, config, peers, storage.clone(), machine)
            .await
            .map_err(io::Error::other)?;
        let shared = Shared {
            node,
            timing: options.timing,
            replica,
            transport,
            pace,
            incoming: Mutex::default(),
            storage,
            changes: AtomicUsize::new(0),
            metrics: raft.metrics(),
        };
        let group = Group { raft, shared: Arc::new(shared) };
        if group.shared.storage.is_below_floor() {
            // It may take itself for a voter, by what it has of the log so far.
            group.raft.runtime_config().elect(false);
            task::spawn(group.clone().elect_from_floor_on());
        }
        if options.found && !group.raft.is_initialized().await.map_err(io::Error::other)? {
            let founder = BTreeMap::from([(node.0, options.member)]);
            group.raft.initialize(founder).await.map_err(io::Error::other)?;
            // What is told of the group may not say so yet.
            group.wait_until_recovered().await?;
        } else if group.membership().voters == BTreeSet::from([node])
            && !group.shared.storage.is_below_floor()
        {
            group.wait_until_recovered().await?;
        }
        task::spawn(group.clone().rest_if_alone());
        Ok(group)
    }

    /// Lets a node that was removed and taken back stand for election once it has what it had.
    async fn elect_from_floor_on(self) {
        while !self.has_stopped() {
            if !self.shared.storage.is_below_floor() {
                self.raft.runtime_config().elect(true);
                return;
            }
            task::sleep(FLOOR_LOOK_INTERVAL).await;
        }
    }

    async fn wait_until_recovered(&self) -> io::Result<()> {
        let node = self.shared.node.0;
        // Nobody else can lead, so there is nobody to wait for.
        self.raft.trigger().elect(false).await.map_err(io::Error::other)?;
        self.raft
            .wait(Some(READY_TIMEOUT))
            .metrics(|metrics| metrics.current_leader == Some(node), "leads itself")
            .await
            .map_err(io::Error::other)?;
        self.raft.wait_for_recovery(Some(READY_TIMEOUT)).await.map_err(io::Error::other)?;
        Ok(())
    }

    /// Lets a group rest that has no other members, once it leads: nobody is to be told so, and nobody else can
    /// lead. A node may have many such groups.
    async fn rest_if_alone(self) {
        if !self.has_one_member().await {
            return;
        }
        let node = self.shared.node.0;
        let waiting = self.raft.wait(Some(READY_TIMEOUT));
        let leads = waiting.metrics(|metrics| metrics.current_leader == Some(node), "leads itself");
        if leads.await.is_err() || !self.has_one_member().await {
            return;
        }
        self.raft.runtime_config().tick(false);
        // Whoever changes the members has the ticks go on first; that may have been just now.
        let is_changing = self.shared.changes.load(Ordering::Acquire) > 0;
        if is_changing || !self.has_one_member().await {
            self.raft.runtime_config().tick(true);
        }
    }

    /// Whether this node is the only member, also while what is told of the group does not say so yet.
    async fn has_one_member(&self) -> bool {
        let node = self.shared.node.0;
        let is_alone = self.raft.with_raft_state(move |state| {
            let members: Vec<u64> =
                state.membership_state.effective().nodes().map(|(id, _)| *id).collect();
            members == [node]
        });
        is_alone.await.unwrap_or(false)
    }

    /// Hands a payload over, to be appended after those handed over before, if this node still leads
    /// in `term` then. What becomes of it the replica learns when it is applied: in `term` or never. A
    /// leader whose lease has run out takes nothing, and may lead on afterwards: `rejected` is called
    /// then. A group of one voter never rejects. One of several members always flushes.
    ///
    /// # Errors
    /// If the group has stopped; the payload is then not in the log.
    pub async fn propose(
        &self,
        mut payload: Payload,
        durability: Durability,
        term: Term,
        rejected: impl FnOnce() + Send + 'static,
    ) -> Result<(), ProposeError> {
        let stopped = |fatal: openraft::errors::Fatal<TypeConfig>| ProposeError(fatal.to_string());
        payload.is_relaxed = durability == Durability::Relaxed && self.may_relax();
        let request = self.raft.write(payload).with_leader(leader_of_term(term));
        if self.is_alone() {
            return request.await.map_err(stopped);
        }
        let (responder, answer) = ProgressResponder::complete_only();
        request.responder(responder).await.map_err(stopped)?;
        task::spawn(async move {
            if let Ok(Err(ClientWriteError::ForwardToLeader(forward))) = answer.await
                && forward.reason != ForwardReason::NotLeader
            {
                rejected();
            }
        });
        Ok(())
    }

    /// Whether the group has stopped; see [`Group::stopped`].
    pub fn has_stopped(&self) -> bool {
        self.shared.metrics.borrow_watched().running_state.is_err()
    }

    /// Whether this node is the only voter.
    fn is_alone(&self) -> bool {
        only_voter(&self.shared.metrics.borrow_watched()) == Some(self.shared.node.0)
    }

    /// Whether what is proposed need not be flushed before it is acknowledged: nobody else has it.
    pub fn may_relax(&self) -> bool {
        let metrics = self.shared.metrics.borrow_watched();
        let is_only = metrics.membership_config.membership().nodes().nth(1).is_none();
        is_only && self.shared.changes.load(Ordering::Acquire) == 0
    }

    /// Who leads, as far as this node knows.
    pub fn leadership(&self) -> Leadership {
        let metrics = self.shared.metrics.borrow_watched();
        Leadership {
            term: Term(metrics.vote.leader_id().term),
            leader: metrics.current_leader.map(NodeId),
        }
    }

    /// Resolves when [`Group::leadership`] is no longer `seen`, with what it is then; never if the
    /// group has stopped.
    pub async fn leadership_after(&self, seen: Leadership) -> Leadership {
        let mut metrics = self.raft.metrics();
        loop {
            let now = self.leadership();
            if now != seen {
                return now;
            }
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether this node leads in `term` and no other can lead yet: it is the only voter, or a majority
    /// has answered it so recently that none of them would elect another.
    pub fn holds_lease(&self, term: Term) -> bool {
        let own = self.shared.node.0;
        let metrics = self.shared.metrics.borrow_watched();
        let leader = metrics.vote.leader_id();
        if !metrics.vote.is_committed() || leader.term != term.0 || leader.voted_for != own {
            return false;
        }
        if let Some(voter) = only_voter(&metrics) {
            return voter == own;
        }
        let permille = 1000 - self.shared.timing.clock_drift_permille.min(1000);
        let lease = self.shared.timing.election_max * permille / 1000;
        metrics.last_quorum_acked.is_some_and(|acked| TypeConfig::now() < *acked + lease)
    }

    /// Asks the leader, which may be this node, up to which entry a reader must have applied to see
    /// every commit that was acknowledged before this call. The leader makes sure that it leads.
    ///
    /// # Errors
    /// If there is no leader that can be sure of it.
    pub async fn read_index(&self) -> Result<LogIndex, TransportError> {
        let leadership = self.leadership();
        match leadership.leader {
            None => Err(TransportError::Unreachable("the shard has no leader now".to_owned())),
            Some(leader) if leader == self.shared.node => self.own_read_index().await,
            Some(leader) => {
                let message = Message::ReadIndex;
                match self.call(leader, &message, READ_INDEX_TIMEOUT).await? {
                    Answer::ReadIndex(index) => Ok(LogIndex(index)),
                    Answer::Refused(reason) => Err(TransportError::Refused(reason)),
                    _ => Err(TransportError::Refused("an answer to another question".to_owned())),
                }
            }
        }
    }

    async fn own_read_index(&self) -> Result<LogIndex, TransportError> {
        let refused = |error: String| TransportError::Refused(error);
        let linearizer = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        let linearizer = linearizer.await.map_err(|error| refused(error.to_string()))?;
        Ok(LogIndex(linearizer.read_log_id().log_id().index))
    }

    async fn call(
        &self,
        to: NodeId,
        message: &Message,
        timeout: Duration,
    ) -> Result<Answer, TransportError> {
        let member = self.member(to).ok_or_else(|| {
            TransportError::Unreachable(format!("{to} is no member of the group"))
        })?;
        call(&*self.shared.transport, to, &member, message, timeout).await
    }

    /// A member, by its number.
    pub fn member(&self, node: NodeId) -> Option<Member> {
        let metrics = self.shared.metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&node.0).cloned()
    }

    /// The members as the newest entry that changed them says, committed or not.
    pub fn membership(&self) -> Membership {
        let metrics = self.shared.metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        Membership {
            members: membership.nodes().map(|(id, member)| (NodeId(*id), member.clone())).collect(),
            voters: membership.voter_ids().map(NodeId).collect(),
            is_changing: membership.get_joint_config().len() > 1,
        }
    }

    /// The group's figures.
    pub fn status(&self) -> GroupStatus {
        let (leadership, membership) = (self.leadership(), self.membership());
        let metrics = self.shared.metrics.borrow_watched();
        let own = self.shared.node.0;
        let matched = metrics.replication.iter().flatten().filter(|(id, _)| **id != own);
        let heard = metrics.heartbeat.iter().flatten().filter(|(id, _)| **id != own);
        GroupStatus {
            leadership,
            membership,
            last_index: LogIndex(metrics.last_log_index.unwrap_or(0)),
            committed_index: LogIndex(metrics.cluster_committed.map_or(0, |id| id.index)),
            matched: matched
                .map(|(id, last)| (NodeId(*id), LogIndex(last.map_or(0, |last| last.index))))
                .collect(),
            silent_for: heard
                .filter_map(|(id, at)| Some((NodeId(*id), at.as_ref()?.elapsed())))
                .collect(),
        }
    }

    /// Adds members that follow without voting, or changes the addresses of those that are there.
    ///
    /// # Errors
    /// If this node does not lead, or another change is under way.
    pub async fn set_members(&self, members: BTreeMap<NodeId, Member>) -> Result<(), ChangeError> {
        let nodes = members.into_iter().map(|(id, member)| (id.0, member)).collect();
        self.change(ChangeMembers::SetNodes(nodes)).await
    }

    /// Makes exactly these members vote; the others stay as followers.
    ///
    /// # Errors
    /// As [`Group::set_members`], or if one of them is no member.
    pub async fn set_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let voters: BTreeSet<u64> = voters.iter().map(|id| id.0).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Removes members that do not vote.
    ///
    /// # Errors
    /// As [`Group::set_members`], or if one of them votes.
    pub async fn remove_members(&self, members: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let members: BTreeSet<u64> = members.iter().map(|id| id.0).collect();
        self.change(ChangeMembers::RemoveNodes(members)).await
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), ChangeError> {
        // Whoever joins must not be told of what may yet be lost here.
        let _under_way = UnderWay::begin(&self.shared.changes);
        self.raft.runtime_config().tick(true);
        let changed = match self.shared.storage.flush().await {
            Ok(()) => self.raft.change_membership(change, true).await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        changed.map(|_| ()).map_err(ChangeError)
    }

    /// Hands leadership over to a voter, and returns once somebody else leads.
    ///
    /// # Errors
    /// If it is no voter, and this node leads on; if nobody leads within twice an election's time.
    pub async fn hand_over(&self, to: NodeId) -> Result<(), ChangeError> {
        // The library does not look: it would take nothing more, and if nobody else votes nobody would ever lead.
        if !self.membership().voters.contains(&to) {
            return Err(ChangeError(format!("{to} does not vote, and cannot lead")));
        }
        let seen = self.leadership();
        self.raft
            .trigger()
            .transfer_leader(to.0)
            .await
            .map_err(|fatal| ChangeError(fatal.to_string()))?;
        let mut now = seen;
        let waiting = async {
            while now.leader.is_none() || now.leader == Some(self.shared.node) {
                now = self.leadership_after(now).await;
            }
        };
        task::timeout(self.shared.timing.election_max * 2, waiting)
            .await
            .ok_or_else(|| ChangeError(format!("{to} did not take over")))
    }

    /// Answers a message that another node's transport carried here.
    ///
    /// # Errors
    /// If it is no message of a version known here.
    pub async fn answer(&self, message: &[u8]) -> io::Result<Bytes> {
        let refused = |error: String| Answer::Refused(error);
        let answer = match decode(message)? {
            Message::Append(request) => match self.raft.append_entries(request).await {
                Ok(response) => Answer::Append(response),
                Err(error) => refused(error.to_string()),
            },
            // It had more of the log than that, and was removed and taken back since.
            Message::Vote(request) | Message::PreVote(request)
                if self.shared.storage.had_more_than(request.last_log_id.as_ref()) =>
            {
                refused("this node has known a log that goes further".to_owned())
            }
            Message::Vote(request) => match self.raft.vote(request).await {
                Ok(response) => Answer::Vote(response),
                Err(error) => refused(error.to_string()),
            },
            Message::PreVote(request) => match self.raft.pre_vote(request).await {
                Ok(response) => Answer::Vote(response),
                Err(error) => refused(error.to_string()),
            },
            Message::TransferLeader(_) if self.shared.storage.is_below_floor() => {
                refused("this node has known a log that goes further".to_owned())
            }
            Message::TransferLeader(request) => {
                match self.raft.handle_transfer_leader(request).await {
                    Ok(response) => Answer::TransferLeader(response),
                    Err(fatal) => refused(fatal.to_string()),
                }
            }
            Message::ReadIndex => match self.own_read_index().await {
                Ok(index) => Answer::ReadIndex(index.0),
                Err(error) => refused(error.to_string()),
            },
            Message::SnapshotChunk { transfer, sequence, bytes } => {
                let group = self.clone();
                let taken =
                    task::spawn_blocking(move || group.take_chunk(transfer, sequence, &bytes));
                match taken.await.map_err(io::Error::other)? {
                    Ok(()) => Answer::ChunkTaken,
                    Err(reason) => refused(reason),
                }
            }
            Message::SnapshotEnd { transfer, chunk_count, vote, meta } => {
                match self.take_image(transfer, chunk_count) {
                    Ok(image) => {
                        let snapshot =
                            openraft::Snapshot { meta, snapshot: SnapshotHandle::Received(image) };
                        match self.raft.install_full_snapshot(vote, snapshot).await {
                            Ok(response) => Answer::SnapshotInstalled(response),
                            Err(fatal) => refused(fatal.to_string()),
                        }
                    }
                    Err(reason) => refused(reason),
                }
            }
        };
        encode(&answer)
    }

    fn take_chunk(&self, transfer: u64, sequence: u64, bytes: &[u8]) -> Result<(), String> {
        let mut incoming = self.shared.incoming.lock();
        if sequence == 0 {
            // Given up before another is begun: both would be in the same place.
            *incoming = None;
            let image = self.shared.replica.receive_image().map_err(|fault| fault.to_string())?;
            *incoming = Some(Incoming { transfer, next_sequence: 0, image });
        }
        match &mut *incoming {
            Some(arriving)
                if arriving.transfer == transfer && arriving.next_sequence == sequence =>
            {
                arriving.next_sequence += 1;
                arriving.image.take_chunk(bytes).map_err(|fault| fault.to_string())
            }
            _ => {
                Err(format!("part {sequence} of a log snapshot does not follow what was received"))
            }
        }
    }

    fn take_image(
        &self,
        transfer: u64,
        chunk_count: u64,
    ) -> Result<Box<dyn ReceivedImage>, String> {
        match self.shared.incoming.lock().take() {
            Some(arrived)
                if arrived.transfer == transfer && arrived.next_sequence == chunk_count =>
            {
                Ok(arrived.image)
            }
            _ => Err("the log snapshot did not arrive whole".to_owned()),
        }
    }

    /// Bounds how fast log snapshots leave this node.
    pub fn snapshot_pace(&self) -> &SnapshotPace {
        &self.shared.pace
    }

    /// Lets the log before the replica's newest checkpoint be purged. Returns at once.
    ///
    /// # Errors
    /// If the group has stopped.
    pub async fn purge_checkpointed(&self) -> Result<(), ProposeError> {
        self.raft.trigger().snapshot().await.map_err(|fatal| ProposeError(fatal.to_string()))
    }

    /// Resolves when the group has stopped, with the reason: its disk or its replica failed, or it
    /// was shut down.
    pub async fn stopped(&self) -> String {
        // These figures seldom change, where those with the log's progress do with every entry; both end with
        // the library's task.
        let mut seldom = self.raft.server_metrics();
        while !self.has_stopped() && seldom.changed().await.is_ok() {}
        match &self.shared.metrics.borrow_watched().running_state {
            Err(fatal) => fatal.to_string(),
            Ok(()) => "stopped".to_owned(),
        }
    }

    /// Stops the group. What was proposed and not applied may or may not be committed.
    pub async fn shutdown(&self) {
        // An error means that it has already ended.
        let _ = self.raft.shutdown().await;
    }
}

/// Counts a change for as long as somebody waits for it.
struct UnderWay<'c>(&'c AtomicUsize);

impl UnderWay<'_> {
    fn begin(count: &AtomicUsize) -> UnderWay<'_> {
        count.fetch_add(1, Ordering::AcqRel);
        UnderWay(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The voter of a group that has only one, and is not about to have others.
fn only_voter(metrics: &RaftMetrics<TypeConfig>) -> Option<u64> {
    match metrics.membership_config.membership().get_joint_config().as_slice() {
        [voters] if voters.len() == 1 => voters.first().copied(),
        _ => None,
    }
}

fn config_of(options: &GroupOptions) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let timing = options.timing;
    Config {
        cluster_name: options.shard.to_string(),
        // A checkpoint is taken when the kernel says so, by bytes and time.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        // Every start is a new term, so that what others handed to this node before is not taken twice.
        enable_leader_restore: Some(false),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        // A node that comes back from the other side of a cut network must not depose a leader.
        enable_pre_vote: Some(true),
        ..Config::default()
    }
}
