//! CLUSTER, ROLE, INFO's replication, WAIT: what the node knows of its cluster, in Redis Cluster's words.
//!
//! The node that leads a shard is the master of its slots, the others that have it and lead nothing are its
//! replicas; for what is not about slots the one that leads the cluster is the master. Each serves every key,
//! reads as well as writes; a client that knows slots asks who leads them, and may have itself redirected
//! (`session/redirect`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use proteus_env::task;
use proteus_kernel_api::cache::{Answer, Question, Reply, hash_slot, parse_integer};
use proteus_kernel_api::{ClusterView, KernelError, NodeId, ShardId, Slot, SlotsLed};

use super::{help, word};
use crate::errors::{NOT_AN_INTEGER, of_kernel, unknown_subcommand, wrong_arity};
use crate::replication::Follower;
use crate::reply::text;
use crate::session::Session;

const SLOT_COUNT: i64 = 16384;

/// How often those who follow are asked how far they are while somebody waits.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Redis Cluster's nodes listen for each other this far above their clients' port.
const BUS_OFFSET: u32 = 10_000;

const HELP: &[&str] = &[
    "CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "COUNTKEYSINSLOT <slot>",
    "    Return the number of keys in <slot>.",
    "GETKEYSINSLOT <slot> <count>",
    "    Return key names stored by current node in a slot.",
    "INFO",
    "    Return information about the cluster.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "LINKS",
    "    Return information about all network links between this node and its peers.",
    "MYID",
    "    Return the node id.",
    "MYSHARDID",
    "    Return the node's shard id.",
    "NODES",
    "    Return cluster configuration seen by node.",
    "REPLICAS <node-id>",
    "    Return <node-id> replicas.",
    "SHARDS",
    "    Return information about slot range mappings and the nodes associated with them.",
    "SLOTS",
    "    Return information about slots range mappings.",
    "HELP",
    "    Print this help.",
];

/// A node as clients of Redis Cluster see it.
struct Node {
    number: NodeId,
    id: String,
    host: String,
    port: u16,
    is_own: bool,
    leads: bool,
}

/// All nodes, the master first.
struct Nodes {
    all: Vec<Node>,
    term: u64,
    has_leader: bool,
    /// Copies beyond the leader's that have every acknowledged write.
    copies: usize,
}

fn number(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

impl Nodes {
    fn master(&self) -> Option<&Node> {
        self.all.iter().find(|node| node.leads)
    }

    /// Whether a node leads these slots. A kernel that is in no cluster has one node.
    fn lead(&self, led: &SlotsLed, node: &Node) -> bool {
        led.leader == Some(node.number) || (self.all.len() == 1 && node.leads)
    }

    /// Whether a node leads neither the cluster nor any slot. Clients take a node for one or the other, so
    /// no leader is shown as a replica of other slots, which it is as well.
    fn only_follows(&self, led: &[SlotsLed], node: &Node) -> bool {
        !node.leads && !led.iter().any(|led| self.lead(led, node))
    }

    fn own_leads(&self) -> bool {
        self.all.iter().any(|node| node.is_own && node.leads)
    }
}

impl Session {
    fn nodes(&self) -> Nodes {
        let view = self.face.kernel.cluster();
        let ClusterView { node: own, leader, term, members, voters } = view;
        let local = self.connection.local;
        let own_offset = members.get(&own).map_or(0, |member| member.port_offset);
        let standard_port = local.port().saturating_sub(own_offset);
        let mut all: Vec<Node> = members
            .iter()
            .map(|(id, member)| Node {
                number: *id,
                id: format!("{:024x}{:016x}", id.0, member.incarnation),
                host: match *id == own {
                    // How the client has reached this node is how it can.
                    true => local.ip().to_string(),
                    false => member.client_host.clone(),
                },
                port: match *id == own {
                    true => local.port(),
                    false => standard_port.saturating_add(member.port_offset),
                },
                is_own: *id == own,
                leads: leader == Some(*id),
            })
            .collect();
        if all.is_empty() {
            all.push(Node {
                number: own,
                id: format!("{:040x}", self.face.run_id),
                host: local.ip().to_string(),
                port: local.port(),
                is_own: true,
                leads: leader == Some(own) || own == NodeId(1),
            });
        }
        all.sort_by_key(|node| !node.leads);
        let has_leader = all.iter().any(|node| node.leads);
        Nodes { all, term: term.0, has_leader, copies: voters.len() / 2 }
    }

    /// Where the node listens that leads a slot; `None` if nobody is known to, or this one does.
    pub(in crate::session) fn leader_of(&self, slot: Slot) -> Option<(String, u16)> {
        let led = self.face.kernel.slots_led();
        let led = led.iter().find(|led| (led.first..=led.last).contains(&slot.number()))?;
        let nodes = self.nodes();
        let leader = nodes.all.into_iter().find(|node| led.leader == Some(node.number))?;
        (!leader.is_own).then_some((leader.host, leader.port))
    }

    /// Where this node's state stands: its last commit timestamp.
    fn replication_offset(&self) -> u64 {
        let stream = self.face.hub.replication.offset();
        stream.unwrap_or_else(|| self.face.kernel.read(|view| Ok(view.applied_ts.0)).unwrap_or(0))
    }

    pub(super) async fn cluster(&self, arguments: &[Bytes]) -> Reply {
        let slot = |at: usize| {
            arguments
                .get(at)
                .and_then(|text| parse_integer(text))
                .filter(|slot| (0..SLOT_COUNT).contains(slot))
        };
        let own_id = || {
            let nodes = self.nodes();
            nodes.all.into_iter().find(|node| node.is_own).map_or(String::new(), |node| node.id)
        };
        match (word(arguments).as_slice(), arguments.len()) {
            (b"KEYSLOT", 3) => Reply::Integer(hash_slot(&arguments[2]).into()),
            (b"MYID", 2) => text(own_id()),
            (b"MYSHARDID", 2) => text(format!("{:040x}", 0)),
            (b"INFO", 2) => self.cluster_info(),
            (b"NODES", 2) => Reply::Verbatim("txt", Bytes::from(self.node_lines(true))),
            (b"REPLICAS" | b"SLAVES", 3) => self.replicas_of(&arguments[2]),
            (b"SLOTS", 2) => self.slots(),
            (b"SHARDS", 2) => self.shards(),
            (b"LINKS", 2) => Reply::Array(Vec::new()),
            (b"COUNT-FAILURE-REPORTS", 3) => Reply::ZERO,
            (b"COUNTKEYSINSLOT", 3) => match slot(2) {
                None => Reply::error("ERR Invalid slot"),
                Some(slot) => match self.keys_in_slot(slot as u16, usize::MAX).await {
                    Ok(keys) => Reply::count(keys.len()),
                    Err(error) => of_kernel(&error),
                },
            },
            (b"GETKEYSINSLOT", 4) => {
                let count =
                    parse_integer(&arguments[3]).and_then(|count| usize::try_from(count).ok());
                match (slot(2), count) {
                    (Some(slot), Some(count)) => {
                        match self.keys_in_slot(slot as u16, count).await {
                            Ok(keys) => Reply::bulks(keys),
                            Err(error) => of_kernel(&error),
                        }
                    }
                    (None, _) => Reply::error("ERR Invalid slot or number of keys"),
                    _ => NOT_AN_INTEGER,
                }
            }
            (b"HELP", 2) => help(HELP),
            (
                b"KEYSLOT" | b"MYID" | b"MYSHARDID" | b"INFO" | b"NODES" | b"REPLICAS" | b"SLAVES"
                | b"SLOTS" | b"SHARDS" | b"LINKS" | b"COUNTKEYSINSLOT" | b"GETKEYSINSLOT" | b"HELP",
                _,
            ) => {
                let word = String::from_utf8_lossy(&word(arguments)).to_lowercase();
                wrong_arity(&format!("cluster|{word}"))
            }
            _ => unknown_subcommand("cluster", arguments.get(1).map_or(b"", |word| &word[..])),
        }
    }

    async fn keys_in_slot(&self, slot: u16, count: usize) -> Result<Vec<Bytes>, KernelError> {
        let count_max = u32::try_from(count).unwrap_or(u32::MAX);
        let keys = |answer| match answer {
            Answer::Keys(keys) => Some(keys),
            _ => None,
        };
        self.face.kernel.read_or_ask(Question::InSlot { slot, count_max }, keys).await
    }

    fn cluster_info(&self) -> Reply {
        let nodes = self.nodes();
        let state = if nodes.has_leader { "ok" } else { "fail" };
        let (known, term) = (nodes.all.len(), nodes.term);
        let led = self.face.kernel.slots_led();
        let size = led.iter().map(|led| led.leader).collect::<BTreeSet<_>>().len();
        Reply::Verbatim(
            "txt",
            Bytes::from(format!(
                "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{known}\r\ncluster_size:{size}\r\ncluster_current_epoch:{term}\r\ncluster_my_epoch:{term}\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n"
            )),
        )
    }

    /// The lines of all nodes, or of those that only follow.
    fn node_lines(&self, all: bool) -> String {
        let nodes = self.nodes();
        let master = nodes.master().map_or("-", |node| &node.id);
        let led = self.face.kernel.slots_led();
        let is_wanted = |node: &&Node| all || nodes.only_follows(&led, node);
        let mut out = String::new();
        for node in nodes.all.iter().filter(is_wanted) {
            let myself = if node.is_own { "myself," } else { "" };
            let mut slots = String::new();
            for SlotsLed { first, last, .. } in led.iter().filter(|led| nodes.lead(led, node)) {
                // Writing to a string cannot fail.
                let _ = match first == last {
                    true => write!(slots, " {first}"),
                    false => write!(slots, " {first}-{last}"),
                };
            }
            let (role, of) = match nodes.only_follows(&led, node) {
                true => ("slave", master),
                false => ("master", "-"),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{} {}:{}@{} {myself}{role} {of} 0 0 {} connected{slots}",
                node.id,
                node.host,
                node.port,
                u32::from(node.port) + BUS_OFFSET,
                nodes.term,
            );
        }
        out
    }

    fn replicas_of(&self, id: &[u8]) -> Reply {
        let id = String::from_utf8_lossy(id).to_lowercase();
        let (nodes, led) = (self.nodes(), self.face.kernel.slots_led());
        match nodes.all.iter().find(|node| node.id == id) {
            None => {
                Reply::Error(format!("ERR Unknown node {}", id.replace(['\r', '\n'], " ")).into())
            }
            Some(node) if nodes.only_follows(&led, node) => {
                Reply::error("ERR The specified node is not a master")
            }
            Some(_) => {
                let lines = self.node_lines(false);
                Reply::Array(lines.lines().map(text).collect())
            }
        }
    }

    fn slots(&self) -> Reply {
        let nodes = self.nodes();
        // Without a leader nobody could say who the first is.
        if !nodes.has_leader {
            return Reply::Array(Vec::new());
        }
        let all_led = self.face.kernel.slots_led();
        let about = |node: &Node| {
            let (host, port) = (text(node.host.clone()), Reply::Integer(node.port.into()));
            Reply::Array(vec![host, port, text(node.id.clone()), Reply::Array(Vec::new())])
        };
        let row = |led: &SlotsLed| {
            let leading = nodes.all.iter().filter(|node| nodes.lead(led, node));
            let holders = self.face.kernel.holders(led.shard);
            let follows =
                |node: &&Node| nodes.only_follows(&all_led, node) && holders.contains(&node.number);
            let others = nodes.all.iter().filter(follows);
            let mut row = vec![Reply::Integer(led.first.into()), Reply::Integer(led.last.into())];
            row.extend(leading.chain(others).map(about));
            Reply::Array(row)
        };
        Reply::Array(all_led.iter().map(row).collect())
    }

    fn shards(&self) -> Reply {
        let offset = self.replication_offset();
        let nodes = self.nodes();
        let about = |node: &Node, leads: bool| {
            let role = if leads { "master" } else { "replica" };
            Reply::Map(vec![
                (text("id"), text(node.id.clone())),
                (text("port"), Reply::Integer(node.port.into())),
                (text("ip"), text(node.host.clone())),
                (text("endpoint"), text(node.host.clone())),
                (text("role"), text(role)),
                (text("replication-offset"), number(offset)),
                (text("health"), text("online")),
            ])
        };
        let mut shards: BTreeMap<ShardId, Vec<SlotsLed>> = BTreeMap::new();
        let all_led = self.face.kernel.slots_led();
        for led in all_led.iter().copied() {
            shards.entry(led.shard).or_default().push(led);
        }
        let shard = |own: Vec<SlotsLed>| {
            let leads = |node: &Node| own.first().is_some_and(|led| nodes.lead(led, node));
            let holders = own.first().map(|led| self.face.kernel.holders(led.shard));
            let has_it =
                |node: &Node| holders.as_ref().is_some_and(|all| all.contains(&node.number));
            let is_of =
                |node: &&Node| leads(node) || nodes.only_follows(&all_led, node) && has_it(node);
            let rows = nodes.all.iter().filter(is_of);
            let rows = rows.map(|node| about(node, leads(node))).collect();
            let bounds = own.iter().flat_map(|led| [led.first, led.last]);
            let slots = bounds.map(|slot| Reply::Integer(slot.into())).collect();
            Reply::Map(vec![
                (text("slots"), Reply::Array(slots)),
                (text("nodes"), Reply::Array(rows)),
            ])
        };
        Reply::Array(shards.into_values().map(shard).collect())
    }

    pub(super) fn role(&self) -> Reply {
        if let Some(role) = self.role_of_follower() {
            return role;
        }
        let (nodes, offset) = (self.nodes(), self.replication_offset());
        let mut followers = Vec::new();
        self.face.hub.replication.each_follower(|follower| {
            let port = follower.port.to_string();
            let parts = [follower.address.clone(), port, follower.acked.to_string()];
            followers.push(Reply::Array(parts.map(text).to_vec()));
        });
        if nodes.own_leads() {
            let replicas = nodes.all.iter().filter(|node| !node.leads);
            let row = |node: &Node| {
                let (host, port) = (text(node.host.clone()), text(node.port.to_string()));
                Reply::Array(vec![host, port, text(offset.to_string())])
            };
            return Reply::Array(vec![
                text("master"),
                number(offset),
                Reply::Array(replicas.map(row).chain(followers).collect()),
            ]);
        }
        let (host, port) =
            nodes.master().map_or((String::new(), 0), |node| (node.host.clone(), node.port));
        let state = if nodes.has_leader { "connected" } else { "connect" };
        Reply::Array(vec![
            text("slave"),
            text(host),
            Reply::Integer(port.into()),
            text(state),
            number(offset),
        ])
    }

    pub(super) fn info_replication(&self) -> String {
        let (nodes, offset) = (self.nodes(), self.replication_offset());
        let now_ms = self.face.clock.wall_ms();
        let mut followers = Vec::new();
        self.face.hub.replication.each_follower(|follower| {
            let Follower { address, port, is_online, acked, acked_ms } = follower;
            let state = if *is_online { "online" } else { "send_bulk" };
            let lag_s = now_ms.saturating_sub(*acked_ms) / 1000;
            followers
                .push(format!("ip={address},port={port},state={state},offset={acked},lag={lag_s}"));
        });
        let followed = self.info_of_follower();
        let (mut out, mut id) = (String::new(), self.face.hub.replication.id());
        let (mut offset, mut first) = (offset, 0);
        if let Some((about, followed_id, place)) = followed {
            // Writing to a string cannot fail, here and below.
            let _ = write!(out, "{about}connected_slaves:{}\r\n", followers.len());
            offset = place;
            id = if followed_id.is_empty() { id } else { followed_id };
        } else if nodes.own_leads() {
            first = nodes.all.len().saturating_sub(1);
            let replicas: Vec<&Node> = nodes.all.iter().filter(|node| !node.leads).collect();
            let count = replicas.len() + followers.len();
            let _ = write!(out, "role:master\r\nconnected_slaves:{count}\r\n");
            for (at, node) in replicas.iter().enumerate() {
                let _ = write!(
                    out,
                    "slave{at}:ip={},port={},state=online,offset={offset},lag=0\r\n",
                    node.host, node.port
                );
            }
        } else {
            let (host, port) =
                nodes.master().map_or((String::new(), 0), |node| (node.host.clone(), node.port));
            let link = if nodes.has_leader { "up" } else { "down" };
            let _ = write!(
                out,
                "role:slave\r\nmaster_host:{host}\r\nmaster_port:{port}\r\nmaster_link_status:{link}\r\nmaster_last_io_seconds_ago:0\r\nmaster_sync_in_progress:0\r\nslave_read_repl_offset:{offset}\r\nslave_repl_offset:{offset}\r\nslave_priority:100\r\nslave_read_only:0\r\nreplica_announced:1\r\nconnected_slaves:{}\r\n",
                followers.len()
            );
        }
        for (at, line) in followers.iter().enumerate() {
            let _ = write!(out, "slave{}:{line}\r\n", first + at);
        }
        let _ = write!(
            out,
            "master_failover_state:no-failover\r\nmaster_replid:{}\r\nmaster_replid2:{:040x}\r\nmaster_repl_offset:{offset}\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:0\r\nrepl_backlog_size:0\r\nrepl_backlog_first_byte_offset:0\r\nrepl_backlog_histlen:0\r\n",
            id, 0
        );
        out
    }

    /// How many copies beyond the leader's hold what this client was acknowledged: half of the voters,
    /// which have flushed it, and the replicas that say so. Waits until there are as many as asked for.
    pub(in crate::session) async fn wait_copies(&mut self, arguments: &[Bytes]) -> Reply {
        let number = |at: usize| arguments.get(at).and_then(|text| parse_integer(text));
        let Some(wanted) = number(1) else { return NOT_AN_INTEGER };
        let Some(timeout_ms) = number(2) else {
            return Reply::error("ERR timeout is not an integer or out of range");
        };
        let Ok(timeout_ms) = u64::try_from(timeout_ms) else {
            return Reply::error("ERR timeout is negative");
        };
        let deadline = async {
            match timeout_ms {
                0 => std::future::pending().await,
                timeout_ms => task::sleep(Duration::from_millis(timeout_ms)).await,
            }
        };
        tokio::pin!(deadline);
        let (face, client) = (self.face.clone(), self.client.clone());
        let replication = &face.hub.replication;
        let copies = self.nodes().copies;
        let noted = replication.noted();
        let (mut asks, mut is_woken) = (true, false);
        let count = loop {
            let acked = replication.acked.notified();
            tokio::pin!(acked);
            acked.as_mut().enable();
            let count = copies + replication.count_of(noted, std::mem::take(&mut asks));
            if i64::try_from(count).is_ok_and(|count| count >= wanted) {
                break count;
            }
            tokio::select! {
                () = acked => {}
                () = task::sleep(ASK_INTERVAL) => asks = true,
                () = &mut deadline => break count,
                () = client.wake.notified() => {
                    is_woken = true;
                    if client.is_killed() || client.take_unblock().is_some() {
                        break count;
                    }
                }
                () = self.connection.shutdown.requested() => {
                    self.is_closing = true;
                    break count;
                }
            }
        };
        if is_woken {
            // Whatever else there was is looked at behind the reply.
            client.wake.notify_one();
        }
        Reply::count(count)
    }

    pub(super) async fn wait_aof(&self, arguments: &[Bytes]) -> Reply {
        let number = |at: usize| arguments.get(at).and_then(|text| parse_integer(text));
        let (Some(local), Some(_), Some(timeout)) = (number(1), number(2), number(3)) else {
            return NOT_AN_INTEGER;
        };
        if timeout < 0 {
            return Reply::error("ERR timeout is negative");
        }
        if !(0..=1).contains(&local) {
            return Reply::error("ERR value is out of range, must be between 0 and 1");
        }
        if let Err(error) = self.flush().await {
            return error;
        }
        Reply::Array(vec![Reply::Integer(1), Reply::count(self.nodes().copies)])
    }
}
