//! A node among others: messages to and from its shard, and the membership's upkeep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use proteus_env::task;
use proteus_kernel::{Call, GroupStatus, Links, Route, Service, Shard, Shards, TransportError};
use proteus_kernel_api::MembersChange;
use proteus_peer::{Answering, CallError, Dialer, Handler};
use proteus_shard_machine::Composed;
use proteus_types::{EntryId, LogIndex, Member, NodeId, ShardId, Term};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::admin::{
    AdminAnswer, AdminRequest, ClusterStatus, NodeStatus, SERVICE_ADMIN, SERVICE_AWAY,
    SERVICE_COMMITS, SERVICE_CONSENSUS, SERVICE_DIGESTS, SERVICE_IMAGE, SERVICE_LOG,
    SERVICE_PROPOSER, SERVICE_RELAY, ask_through, encode, fetch_log_here,
};
use crate::images::{self, Images};
use crate::numbers;
use crate::placement::Placement;
use crate::replicas::Place;
use crate::shards::{NodeShards, Opener};
use crate::upkeep::Upkeep;

/// How often a leader looks after the membership.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How long slots are moved for at most before whoever asked is told how many are left.
const MOVE_TIME: Duration = Duration::from_secs(2);

/// How often a change of members is asked for before it is given up.
const TRIES_MAX: usize = 10;

/// A follower that is at most so many entries behind may vote.
pub(crate) const BEHIND_MAX: u64 = 1_000;

/// A node that answered the leader within this time is there.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);

/// How a cluster keeps itself.
#[derive(Debug, Clone, Copy)]
pub struct UpkeepOptions {
    /// Nodes that vote, at most; the others follow. Odd.
    pub voters_max: usize,
    /// A voter that has been silent for so long is replaced by a node that follows, if there is one.
    pub dead_after: Duration,
}

/// Waits until it is time to look after things again; false once `stop` holds true.
pub(crate) async fn next_round(stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        () = task::sleep(UPKEEP_INTERVAL) => true,
        _ = stop.wait_for(|stop| *stop) => false,
    }
}

/// The links of a node's shards, over the dialer.
pub(crate) struct PeerLinks {
    pub(crate) dialer: Dialer,
}

impl Links for PeerLinks {
    fn call(&self, to: NodeId, member: &Member, route: Route, message: Bytes) -> Call {
        let mut routed = Vec::with_capacity(5 + message.len());
        routed.push(match route.service {
            Service::Consensus => SERVICE_CONSENSUS,
            Service::Proposer => SERVICE_PROPOSER,
            Service::Digests => SERVICE_DIGESTS,
            Service::Commits => SERVICE_COMMITS,
            Service::Away => SERVICE_AWAY,
        });
        routed.extend_from_slice(&route.shard.0.to_le_bytes());
        routed.extend_from_slice(&message);
        let call = self.dialer.call(&member.peer_address, Bytes::from(routed));
        Box::pin(async move {
            call.await.map_err(|error| match error {
                CallError::Unreachable(reason) | CallError::NotAdmitted(reason) => {
                    TransportError::Unreachable(format!("{to}: {reason}"))
                }
                CallError::NotSent(reason) => TransportError::NotSent(format!("{to}: {reason}")),
                CallError::Refused(reason) => TransportError::Refused(format!("{to}: {reason}")),
            })
        })
    }
}

/// What a node answers others.
pub(crate) struct Cluster {
    pub(crate) node: NodeId,
    /// The first shard: its members are the cluster's, and its leader leads that.
    pub(crate) shard: Arc<Shard<Composed>>,
    pub(crate) shards: Arc<NodeShards>,
    pub(crate) opener: Arc<Opener>,
    pub(crate) upkeep: UpkeepOptions,
    pub(crate) placement: Arc<Placement>,
    pub(crate) dialer: Dialer,
    pub(crate) images: Images,
}

/// The handler that the acceptor calls.
pub(crate) struct NodeHandler(pub(crate) Arc<Cluster>);

impl Handler for NodeHandler {
    fn handle(&self, mut message: Bytes) -> Answering {
        let refused =
            |reason: &str| -> Answering { Box::pin(std::future::ready(Err(reason.to_owned()))) };
        let Some(kind) = message.first().copied() else { return refused("an empty message") };
        message.advance(1);
        let service = match kind {
            SERVICE_CONSENSUS => Service::Consensus,
            SERVICE_PROPOSER => Service::Proposer,
            SERVICE_DIGESTS => Service::Digests,
            SERVICE_COMMITS => Service::Commits,
            SERVICE_AWAY => Service::Away,
            SERVICE_ADMIN => {
                let cluster = self.0.clone();
                return Box::pin(async move { cluster.answer(&message).await });
            }
            SERVICE_IMAGE => {
                let cluster = self.0.clone();
                return Box::pin(
                    async move { cluster.images.answer(&cluster.dialer, message).await },
                );
            }
            SERVICE_RELAY => {
                let cluster = self.0.clone();
                return Box::pin(async move { cluster.answer_relay(message).await });
            }
            SERVICE_LOG => {
                let cluster = self.0.clone();
                return Box::pin(async move { cluster.answer_log(message).await });
            }
            _ => return refused("a message for a service that is not known here"),
        };
        if message.len() < 4 {
            return refused("a message for no shard");
        }
        match self.0.shards.shard(ShardId(message.get_u32_le())) {
            Some(shard) => shard.answer(service, message),
            None => refused("a message for a shard that is not here"),
        }
    }
}

impl Cluster {
    async fn answer(&self, message: &[u8]) -> Result<Bytes, String> {
        let request: AdminRequest = serde_json::from_slice(message)
            .map_err(|error| format!("not a request known here: {error}"))?;
        let answer = match self.carry_out(&request).await {
            Ok(answer) => answer,
            Err(reason) => AdminAnswer::Refused(reason),
        };
        encode(&answer).map(Bytes::from)
    }

    /// Answers `shard u32 │ after u64`, little-endian, with what the shard's log has behind that entry.
    async fn answer_log(&self, mut message: Bytes) -> Result<Bytes, String> {
        // One more byte says that a node asks, which has no replica.
        let is_of_node = message.len() == 13;
        if message.len() != 12 && !is_of_node {
            return Err("not a question for a log".to_owned());
        }
        let (shard, after) = (ShardId(message.get_u32_le()), LogIndex(message.get_u64_le()));
        let Some(open) = self.shards.shard(shard) else {
            if is_of_node {
                return Err("that shard is not on this node".to_owned());
            }
            return self.fetch_log_elsewhere(shard, after).await;
        };
        let read = task::spawn_blocking(move || open.log_behind(after).map(|found| found.encode()));
        let found = read.await.map_err(|error| error.to_string())?;
        found.map_err(|error| error.to_string())
    }

    async fn fetch_log_elsewhere(&self, shard: ShardId, after: LogIndex) -> Result<Bytes, String> {
        let mut reason = format!("no node is known to have shard {shard}");
        for (_, member) in self.shards.away(shard).into_iter().flat_map(|away| away.holders()) {
            match fetch_log_here(&self.dialer, &member.peer_address, shard, after).await {
                Ok(found) => return Ok(found),
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }

    /// Looks after the shards that this node leads.
    pub(crate) fn upkeep_of_shards(&self) -> Upkeep {
        Upkeep { node: self.node, meta: self.shard.clone(), shards: self.shards.clone() }
    }

    async fn carry_out(&self, request: &AdminRequest) -> Result<AdminAnswer, String> {
        if let AdminRequest::SnapshotRate { bytes_per_second_max } = request {
            self.opener.set_pace(*bytes_per_second_max);
            return Ok(AdminAnswer::Done);
        }
        if matches!(request, AdminRequest::Standings) {
            return Ok(AdminAnswer::Standings(self.own_standings()));
        }
        if let AdminRequest::IsMember { shard, node } = request {
            return self.upkeep_of_shards().is_member(*shard, *node).await.map(AdminAnswer::Answer);
        }
        if let AdminRequest::BeginImage { shard } = request {
            let open = self.shards.shard(*shard).ok_or("that shard is not on this node")?;
            return self.images.begin(*shard, &open).await.map(AdminAnswer::Image);
        }
        if let AdminRequest::SetAside { shard, is_first } = request {
            let open = self.shards.shard(*shard).ok_or("that shard is not on this node")?;
            let entry = images::set_aside(&open, *is_first).await.map_err(|e| e.to_string())?;
            return Ok(AdminAnswer::Entry { term: entry.term.0, index: entry.index.0 });
        }
        if let AdminRequest::OpenAside { shard, term, index } = request {
            let open = self.shards.shard(*shard).ok_or("that shard is not on this node")?;
            let entry = EntryId { term: Term(*term), index: LogIndex(*index) };
            let begun = self.images.begin_aside(*shard, &open, entry).await;
            return begun.map(AdminAnswer::Image);
        }
        if let AdminRequest::MarkLog { shard, is_wanted } = request {
            let open = self.shards.shard(*shard).ok_or("that shard is not on this node")?;
            let index = images::mark_log(&open, *is_wanted).await.map_err(|e| e.to_string())?;
            return Ok(AdminAnswer::Entry { term: 0, index: index.0 });
        }
        if matches!(request, AdminRequest::BeginBackup) {
            let backup =
                self.images.begin_all(&self.placement.commits, &self.shards, &self.dialer).await;
            return backup.map(AdminAnswer::Backup);
        }
        if let AdminRequest::MarkLogs { seen } = request {
            let marked = images::mark_logs(&self.shards, &self.dialer, seen).await;
            return marked.map(AdminAnswer::Logs).map_err(|error| error.to_string());
        }
        if let AdminRequest::LeadShard { shard, node, keep_ms } = request {
            return self.lead_shard(*shard, *node, *keep_ms).await.map(|()| AdminAnswer::Done);
        }
        let leadership = self.shard.group().leadership();
        match leadership.leader {
            Some(leader) if leader == self.node => {}
            Some(leader) => {
                let member = self.shard.group().member(leader);
                let member = member.ok_or("the leader is not known here")?;
                return Ok(ask_through(&self.dialer, &member.peer_address, request).await?);
            }
            None if matches!(request, AdminRequest::Status) => {
                return Ok(AdminAnswer::Status(self.status()));
            }
            None => return Err("the cluster has no leader now; try again".to_owned()),
        }
        self.lead(request).await
    }

    async fn lead(&self, request: &AdminRequest) -> Result<AdminAnswer, String> {
        let group = self.shard.group();
        let membership = group.membership();
        let known = |node: &NodeId| {
            if membership.members.contains_key(node) {
                Ok(())
            } else {
                Err(format!("{node} is no node of this cluster; see `proteus cluster status`"))
            }
        };
        match request {
            AdminRequest::Join { member } => {
                let same =
                    |known: &&NodeId| membership.members[*known].incarnation == member.incarnation;
                let node = match membership.members.keys().find(same) {
                    Some(node) => *node,
                    None => numbers::next(&membership.members),
                };
                let known = membership.members.get(&node);
                self.set_member(node, with_what_is_known(member, known)).await?;
                info!(%node, address = member.peer_address, "a node joins the cluster");
                return Ok(AdminAnswer::Joined { node });
            }
            AdminRequest::Status => return Ok(AdminAnswer::Status(self.status())),
            AdminRequest::Remove { node } => {
                known(node)?;
                let count = self.replicas_on(*node);
                if count > 0 {
                    // So that it is given no others.
                    self.set_follows_only(*node, true).await?;
                    self.lead_shards_elsewhere(*node).await?;
                    return Ok(AdminAnswer::Emptying { count });
                }
                self.lead_shards_elsewhere(*node).await?;
                self.stop_voting(*node).await?;
                if let Some((heir, member)) = numbers::heir(&group.membership().members, *node) {
                    self.set_member(heir, member).await?;
                }
                group.remove_members(&BTreeSet::from([*node])).await.map_err(|e| e.to_string())?;
            }
            AdminRequest::Drain { node } => {
                known(node)?;
                // First, so that no leadership is given back to it.
                self.set_follows_only(*node, true).await?;
                self.lead_shards_elsewhere(*node).await?;
                self.stop_voting(*node).await?;
                let count = self.replicas_on(*node);
                if count > 0 {
                    return Ok(AdminAnswer::Emptying { count });
                }
            }
            AdminRequest::Vote { node } => {
                known(node)?;
                self.set_follows_only(*node, false).await?;
                let mut voters = membership.voters.clone();
                if voters.insert(*node) {
                    group.set_voters(&voters).await.map_err(|error| error.to_string())?;
                }
            }
            AdminRequest::Replace { old, new } => {
                known(old)?;
                known(new)?;
                let mut voters = membership.voters.clone();
                if !voters.remove(old) && voters.contains(new) {
                    return Ok(AdminAnswer::Done);
                }
                voters.insert(*new);
                self.set_follows_only(*old, true).await?;
                self.set_follows_only(*new, false).await?;
                group.set_voters(&voters).await.map_err(|error| error.to_string())?;
            }
            AdminRequest::Lead { node } => {
                known(node)?;
                if *node != self.node {
                    group.hand_over(*node).await.map_err(|error| error.to_string())?;
                }
            }
            AdminRequest::AddShard => {
                let shard = self.placement.add_shard().await?;
                return Ok(AdminAnswer::Added { shard });
            }
            AdminRequest::MoveSlots { first, last, to } => {
                let left = self.placement.move_slots((*first, *last), *to, MOVE_TIME).await?;
                return Ok(AdminAnswer::Moved { left });
            }
            AdminRequest::SetReplicas { count } => self.set_replicas(*count).await?,
            AdminRequest::MoveReplica { shard, from, to } => {
                known(from)?;
                known(to)?;
                self.move_replica(*shard, *from, *to).await?;
            }
            AdminRequest::SnapshotRate { .. }
            | AdminRequest::Standings
            | AdminRequest::IsMember { .. }
            | AdminRequest::SetAside { .. }
            | AdminRequest::OpenAside { .. }
            | AdminRequest::MarkLog { .. }
            | AdminRequest::BeginImage { .. }
            | AdminRequest::BeginBackup
            | AdminRequest::MarkLogs { .. }
            | AdminRequest::LeadShard { .. } => {}
        }
        Ok(AdminAnswer::Done)
    }

    /// Takes a node's vote, after leadership if it has that. Safe to repeat.
    async fn stop_voting(&self, node: NodeId) -> Result<(), String> {
        let group = self.shard.group();
        let mut voters = group.membership().voters;
        if !voters.remove(&node) {
            return Ok(());
        }
        let Some(heir) = voters.first() else {
            return Err(format!("{node} is the only voter; let another node join first"));
        };
        if node == self.node {
            group.hand_over(*heir).await.map_err(|error| error.to_string())?;
            return Err(format!("{node} led, and {heir} leads now; ask again"));
        }
        group.set_voters(&voters).await.map_err(|error| error.to_string())
    }

    async fn set_follows_only(&self, node: NodeId, follows_only: bool) -> Result<(), String> {
        match self.shard.group().member(node) {
            Some(member) if member.follows_only != follows_only => {
                self.set_member(node, Member { follows_only, ..member }).await
            }
            _ => Ok(()),
        }
    }

    async fn set_member(&self, node: NodeId, member: Member) -> Result<(), String> {
        let members = BTreeMap::from([(node, member)]);
        self.shard.group().set_members(members).await.map_err(|error| error.to_string())
    }

    /// Lets nodes vote and takes nodes out, through whichever node leads.
    pub(crate) async fn change_members(&self, change: &MembersChange) -> Result<(), String> {
        let voting = change.voting.iter().map(|node| AdminRequest::Vote { node: *node });
        let leaving = change.leaving.iter().map(|node| AdminRequest::Remove { node: *node });
        for request in voting.chain(leaving) {
            self.insist(&request).await?;
        }
        Ok(())
    }

    /// Asks until it is done: a leader that is to go hands over first, and says to ask again.
    async fn insist(&self, request: &AdminRequest) -> Result<(), String> {
        let mut reason = String::new();
        for _ in 0..TRIES_MAX {
            match self.carry_out(request).await {
                Ok(AdminAnswer::Emptying { count }) => {
                    reason = format!("{count} replicas are moved to other nodes first; ask again");
                }
                Ok(_) => return Ok(()),
                Err(refused) => reason = refused,
            }
            if let AdminRequest::Remove { node } = request
                && !self.shard.group().membership().members.contains_key(node)
            {
                return Ok(());
            }
            task::sleep(UPKEEP_INTERVAL).await;
        }
        Err(reason)
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        let status = self.shard.group_status();
        let leads = status.leadership.leader == Some(self.node);
        let node_status = |(node, member): (&NodeId, &Member)| {
            let is_leader = leads && *node == self.node;
            let behind = if is_leader { Some(0) } else { behind(&status, *node) };
            let silence = status.silent_for.get(node).map(|silence| silence.as_millis());
            NodeStatus {
                node: *node,
                member: member.clone(),
                is_voter: status.membership.voters.contains(node),
                behind,
                silent_for_ms: silence.and_then(|silence| u64::try_from(silence).ok()),
            }
        };
        ClusterStatus {
            answering: self.node,
            leader: status.leadership.leader,
            term: status.leadership.term.0,
            committed_index: status.committed_index.0,
            is_changing: status.membership.is_changing,
            nodes: status.membership.members.iter().map(node_status).collect(),
            shards: self.shard_standings(),
            replica_count: self.shards.replicas().count,
            next_place: self.next_place_text(leads),
        }
    }

    /// What is to be placed next, in words, if this node leads and knows.
    fn next_place_text(&self, leads: bool) -> Option<String> {
        if !leads || self.shards.replicas().are_everywhere() {
            return None;
        }
        let Place { shard, was, nodes } = self.next_place(self.upkeep)?;
        let list = |nodes: &[NodeId]| {
            let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
            if nodes.is_empty() { "every node".to_owned() } else { nodes.join(", ") }
        };
        Some(format!("shard {shard} from {} to {}", list(&was), list(&nodes)))
    }

    /// Looks after the membership while this node leads, until `stop` holds true: a node's own address,
    /// who votes, and who does not answer any more.
    pub(crate) async fn keep_up(
        self: Arc<Self>,
        own: Member,
        options: UpkeepOptions,
        mut stop: watch::Receiver<bool>,
    ) {
        while next_round(&mut stop).await {
            if !self.shard.leads() {
                continue;
            }
            let status = self.shard.group_status();
            if status.membership.is_changing {
                // A change that its leader did not live to end is ended by the next.
                let voters = wanted_voters(&status, self.node, options);
                self.change_voters(&status, &voters).await;
                continue;
            }
            let known = status.membership.members.get(&self.node);
            let own = with_what_is_known(&own, known);
            if known != Some(&own) {
                if let Err(reason) = self.set_member(self.node, own).await {
                    warn!(reason, "this node's address could not be told to the cluster");
                }
                continue;
            }
            let voters = wanted_voters(&status, self.node, options);
            if voters != status.membership.voters {
                self.change_voters(&status, &voters).await;
            }
        }
    }

    async fn change_voters(&self, status: &GroupStatus, voters: &BTreeSet<NodeId>) {
        info!(from = ?status.membership.voters, to = ?voters, "the voters change");
        if let Err(error) = self.shard.group().set_voters(voters).await {
            warn!(%error, "the voters could not be changed; it is tried again");
        }
    }
}

/// The member as it says of itself, with what only the cluster says of it.
fn with_what_is_known(member: &Member, known: Option<&Member>) -> Member {
    let known = known.cloned().unwrap_or_default();
    let Member { follows_only, greatest_number, .. } = known;
    Member { follows_only, greatest_number, ..member.clone() }
}

pub(crate) fn behind(status: &GroupStatus, node: NodeId) -> Option<u64> {
    let matched = status.matched.get(&node)?;
    Some(status.last_index.0.saturating_sub(matched.0))
}

/// Who should vote: those who do and were not drained since, less those long silent for whom another is there, and as many
/// followers that are up to date as make an odd number up to the bound.
fn wanted_voters(status: &GroupStatus, leader: NodeId, options: UpkeepOptions) -> BTreeSet<NodeId> {
    let mut voters = status.membership.voters.clone();
    let silence = |node: &NodeId| status.silent_for.get(node).copied();
    let is_dead = |node: &NodeId| {
        *node != leader && silence(node).is_some_and(|silence| silence > options.dead_after)
    };
    let follows_only = |node: &NodeId| {
        status.membership.members.get(node).is_some_and(|member| member.follows_only)
    };
    let is_ready = |node: &NodeId| {
        !follows_only(node)
            && silence(node).is_some_and(|silence| silence < SILENCE_MAX)
            && behind(status, *node).is_some_and(|behind| behind <= BEHIND_MAX)
    };
    // One that leads hands over first, when it is asked to.
    voters.retain(|node| *node == leader || !follows_only(node));
    let others = status.membership.members.keys().filter(|node| !voters.contains(node));
    let mut ready: Vec<NodeId> = others.filter(|node| is_ready(node)).copied().collect();
    let dead: Vec<NodeId> = voters.iter().filter(|node| is_dead(node)).copied().collect();
    for node in dead {
        if let Some(heir) = ready.pop() {
            voters.remove(&node);
            voters.insert(heir);
        }
    }
    // Two voters are worse than one: both must live. So their number is made odd, and kept so.
    loop {
        let missing = if voters.len().is_multiple_of(2) { 1 } else { 2 };
        if ready.len() < missing || voters.len() + missing > options.voters_max {
            return voters;
        }
        voters.extend(ready.drain(..missing));
    }
}

#[cfg(test)]
mod tests {
    use proteus_kernel::{Leadership, Membership};

    use super::*;

    const OPTIONS: UpkeepOptions =
        UpkeepOptions { voters_max: 3, dead_after: Duration::from_secs(60) };

    fn status(voters: &[u64], others: &[(u64, u64, u64)]) -> GroupStatus {
        let ids = voters.iter().copied().chain(others.iter().map(|(id, _, _)| *id));
        GroupStatus {
            leadership: Leadership { term: Term(1), leader: Some(NodeId(1)) },
            membership: Membership {
                members: ids.map(|id| (NodeId(id), Member::default())).collect(),
                voters: voters.iter().map(|id| NodeId(*id)).collect(),
                is_changing: false,
            },
            last_index: LogIndex(10_000),
            committed_index: LogIndex(10_000),
            matched: others.iter().map(|(id, at, _)| (NodeId(*id), LogIndex(*at))).collect(),
            silent_for: others
                .iter()
                .map(|(id, _, silent)| (NodeId(*id), Duration::from_secs(*silent)))
                .collect(),
        }
    }

    fn wanted(status: &GroupStatus) -> Vec<u64> {
        wanted_voters(status, NodeId(1), OPTIONS).into_iter().map(|node| node.0).collect()
    }

    #[test]
    fn one_follower_follows_and_two_make_three_voters() {
        assert_eq!(wanted(&status(&[1], &[(2, 10_000, 0)])), [1]);
        assert_eq!(wanted(&status(&[1], &[(2, 10_000, 0), (3, 9_990, 0)])), [1, 2, 3]);
        assert_eq!(wanted(&status(&[1], &[(2, 10_000, 0), (3, 5, 0)])), [1], "3 is far behind");
        let four = status(&[1], &[(2, 10_000, 0), (3, 10_000, 0), (4, 10_000, 0)]);
        assert_eq!(wanted(&four), [1, 2, 3]);
        assert_eq!(wanted(&status(&[1, 2], &[(2, 10_000, 0), (3, 10_000, 0)])), [1, 2, 3]);
    }

    #[test]
    fn a_voter_long_silent_is_replaced_if_there_is_another() {
        let silent = [(2, 10_000, 0), (3, 7, 90)];
        assert_eq!(wanted(&status(&[1, 2, 3], &silent)), [1, 2, 3]);
        let spare = [(2, 10_000, 0), (3, 7, 90), (4, 10_000, 1)];
        assert_eq!(wanted(&status(&[1, 2, 3], &spare)), [1, 2, 4]);
        let soon = [(2, 10_000, 0), (3, 7, 30), (4, 10_000, 1)];
        assert_eq!(wanted(&status(&[1, 2, 3], &soon)), [1, 2, 3]);
    }

    #[test]
    fn a_drained_node_gets_no_vote_back() {
        let drain = |mut status: GroupStatus, node: u64| {
            status.membership.members.entry(NodeId(node)).or_default().follows_only = true;
            status
        };
        let followers = [(2, 10_000, 0), (3, 10_000, 0)];
        assert_eq!(wanted(&drain(status(&[1, 2], &followers), 3)), [1, 2]);
        assert_eq!(wanted(&drain(status(&[1, 2, 3], &followers[..1]), 3)), [1, 2]);
        let spare = [(2, 10_000, 0), (3, 10_000, 0), (4, 10_000, 0)];
        assert_eq!(wanted(&drain(status(&[1, 2, 3], &spare), 3)), [1, 2, 4]);
    }
}
