//! `proteus cluster`: how a cluster stands, and changing it, through any of its nodes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use proteus_env::{disk, random, task};
use proteus_node::admin::{
    AdminAnswer, AdminRequest, ClusterStatus, NodeStatus, ShardStanding, ask, ask_through,
};
use proteus_node::{Credentials, Dialer, PeerTls, Secret};
use proteus_types::{NodeId, SLOT_COUNT, ShardId};

use crate::config::Config;
use crate::progress::progress;

/// Port at which nodes listen for each other, before the port offset.
pub const PEER_PORT: u16 = 7000;

/// Pause before it is asked again whether a node is empty.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What to do with the cluster.
#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Show nodes, who leads, who votes, and who is behind or silent.
    Status(Through),
    /// Take a node out of the cluster. Its data directory stays as it is.
    Remove {
        /// The node's number, as the status shows it
        node: u64,
        #[command(flatten)]
        through: Through,
    },
    /// Let a node follow only, until it is added again: it gives up its vote, and leadership if it has
    /// that.
    Drain {
        /// The node's number
        node: u64,
        #[command(flatten)]
        through: Through,
    },
    /// Let a node vote that follows: after a drain, or beyond what the cluster does by itself. A new node
    /// joins with `proteus start --join`.
    Add {
        /// The node's number
        node: u64,
        #[command(flatten)]
        through: Through,
    },
    /// Let one node vote in place of another.
    Replace {
        /// The node that votes now
        old: u64,
        /// The node that shall vote instead
        new: u64,
        #[command(flatten)]
        through: Through,
    },
    /// Hand leadership to a node: of the cluster, or of one shard.
    Lead {
        /// The node's number
        node: u64,
        /// The shard's number; shard 0 leads the cluster
        #[arg(long, default_value_t = 0)]
        shard: u32,
        /// Minutes that it stays there before leaders are spread over the nodes again; not for shard 0,
        /// which is left where it is
        #[arg(long, value_name = "MINUTES", default_value_t = 10)]
        keep: u32,
        #[command(flatten)]
        through: Through,
    },
    /// Add a shard. It has no slots until some are moved to it.
    AddShard(Through),
    /// Move slots of the cache's keys to a shard, while they are read and written. Asking again goes on
    /// where it was interrupted.
    Move {
        /// The slots: all, one, or a range such as 0-8191
        #[arg(value_parser = parse_slots)]
        slots: (u16, u16),
        /// The shard's number
        #[arg(long)]
        to: u32,
        #[command(flatten)]
        through: Through,
    },
    /// Say how many nodes shall have a replica of each shard but the first: a number from 1 to 7, or all. Replicas
    /// are moved one by one, while they are read and written.
    Replicas {
        /// The number, or all
        #[arg(value_parser = parse_replicas)]
        count: u32,
        #[command(flatten)]
        through: Through,
    },
    /// Move a replica of a shard from one node to another. The rule that nodes have about as many goes on, and may
    /// move another in its place.
    MoveReplica {
        /// The shard's number
        shard: u32,
        /// The node that has it
        #[arg(long)]
        from: u64,
        /// The node that shall have it
        #[arg(long)]
        to: u64,
        #[command(flatten)]
        through: Through,
    },
    /// Bound how fast one node sends its whole state to others, from now until it stops.
    SnapshotRate {
        /// MiB a second; 0 for no bound
        mib_per_s: u64,
        #[command(flatten)]
        through: Through,
    },
}

/// How to reach the cluster.
#[derive(Args)]
pub struct Through {
    /// Any node of the cluster, at its port for other nodes
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7000")]
    peer: String,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The status as JSON
    #[arg(long)]
    json: bool,
}

/// Carries the command out and returns what to print.
///
/// # Errors
/// What the cluster answers, or why it cannot be asked.
pub async fn run(command: ClusterCommand, config: &Config) -> Result<String, String> {
    let credentials = credentials(config)?;
    let (request, through, what) = match command {
        ClusterCommand::Status(through) => {
            let status = status(&through, &credentials).await?;
            return if through.json {
                serde_json::to_string_pretty(&status).map_err(|error| error.to_string())
            } else {
                Ok(render(&status))
            };
        }
        ClusterCommand::Remove { node, through } => {
            let node = NodeId(node);
            (AdminRequest::Remove { node }, through, format!("take {node} out of the cluster"))
        }
        ClusterCommand::Drain { node, through } => {
            let node = NodeId(node);
            (AdminRequest::Drain { node }, through, format!("let {node} follow only"))
        }
        ClusterCommand::Add { node, through } => {
            let node = NodeId(node);
            (AdminRequest::Vote { node }, through, format!("let {node} vote"))
        }
        ClusterCommand::Replace { old, new, through } => {
            let (old, new) = (NodeId(old), NodeId(new));
            (
                AdminRequest::Replace { old, new },
                through,
                format!("let {new} vote in place of {old}"),
            )
        }
        ClusterCommand::Lead { node, shard, keep, through } => {
            let (node, shard) = (NodeId(node), ShardId(shard));
            match shard {
                ShardId::META => (AdminRequest::Lead { node }, through, format!("let {node} lead")),
                shard => (
                    AdminRequest::LeadShard { shard, node, keep_ms: u64::from(keep) * 60_000 },
                    through,
                    format!("let {node} lead shard {}", shard.0),
                ),
            }
        }
        ClusterCommand::AddShard(through) => {
            (AdminRequest::AddShard, through, "add a shard".to_owned())
        }
        ClusterCommand::Move { slots: (first, last), to, through } => {
            let request = AdminRequest::MoveSlots { first, last, to: ShardId(to) };
            (request, through, format!("move slots {first} to {last} to shard {to}"))
        }
        ClusterCommand::Replicas { count, through } => {
            let what = match count {
                0 => "have every shard on every node".to_owned(),
                count => format!("have {count} replicas of each shard but the first"),
            };
            (AdminRequest::SetReplicas { count }, through, what)
        }
        ClusterCommand::MoveReplica { shard, from, to, through } => {
            let (shard, from, to) = (ShardId(shard), NodeId(from), NodeId(to));
            let what = format!("move a replica of shard {} from {from} to {to}", shard.0);
            (AdminRequest::MoveReplica { shard, from, to }, through, what)
        }
        ClusterCommand::SnapshotRate { mib_per_s, through } => {
            let request = AdminRequest::SnapshotRate { bytes_per_second_max: mib_per_s << 20 };
            let what = format!("bound {} to {mib_per_s} MiB/s of state sent", through.peer);
            (request, through, what)
        }
    };
    if through.dry_run {
        let status = status(&through, &credentials).await?;
        return Ok(format!("Would {what}. Now:\n\n{}", render(&status)));
    }
    let dialer = Dialer::new(credentials);
    let mut bar = None;
    loop {
        match ask_through(&dialer, &through.peer, &request).await? {
            AdminAnswer::Done | AdminAnswer::Moved { left: 0 } => {
                return Ok(format!("Done: {what}."));
            }
            AdminAnswer::Emptying { count } => {
                let bar = bar
                    .get_or_insert_with(|| progress(Some(count as u64), "replicas to move away"));
                bar.set_position(bar.length().unwrap_or(0).saturating_sub(count as u64));
                task::sleep(ASK_AGAIN).await;
            }
            AdminAnswer::Added { shard } => return Ok(format!("Shard {} is added.", shard.0)),
            AdminAnswer::Moved { left } => {
                let bar = bar.get_or_insert_with(|| progress(Some(u64::from(left)), "slots left"));
                bar.set_position(bar.length().unwrap_or(0).saturating_sub(u64::from(left)));
            }
            other => return Err(format!("an answer to another question: {other:?}")),
        }
    }
}

fn parse_replicas(text: &str) -> Result<u32, String> {
    crate::config::parse_replicas(text)
        .ok_or_else(|| format!("{text:?} is neither all nor a number from 1 to 7"))
}

fn parse_slots(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| {
        let slot = text.trim().parse().ok().filter(|slot| *slot < SLOT_COUNT);
        slot.ok_or_else(|| format!("{text:?} is not a slot from 0 to {}", SLOT_COUNT - 1))
    };
    match text.split_once('-') {
        _ if text == "all" => Ok((0, SLOT_COUNT - 1)),
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(text).map(|slot| (slot, slot)),
    }
}

async fn status(through: &Through, credentials: &Credentials) -> Result<ClusterStatus, String> {
    match ask(&through.peer, credentials, &AdminRequest::Status).await? {
        AdminAnswer::Status(status) => Ok(status),
        other => Err(format!("an answer to another question: {other:?}")),
    }
}

fn render(status: &ClusterStatus) -> String {
    let mut text = String::new();
    match status.leader {
        Some(leader) => text.push_str(&format!(
            "{leader} leads in term {}; committed up to entry {}{}\n\n",
            status.term,
            status.committed_index,
            if status.is_changing { "; the voters are changing" } else { "" },
        )),
        None => text.push_str(&format!(
            "No leader is known to {}: too few voters answer each other\n\n",
            status.answering
        )),
    }
    text.push_str("  node   peer address           role       leads  behind    silent\n");
    for node in &status.nodes {
        let NodeStatus { node: id, member, is_voter, behind, silent_for_ms } = node;
        let role = match (status.leader == Some(*id), is_voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) if member.follows_only => "drained",
            (false, false) => "follower",
        };
        let behind = behind.map_or_else(|| "?".to_owned(), |count| count.to_string());
        let silent = match silent_for_ms {
            Some(ms) if *ms >= 1_000 => format!("{} s", ms / 1_000),
            Some(_) => "-".to_owned(),
            None if role == "leader" => "-".to_owned(),
            None => "?".to_owned(),
        };
        let leads = status.shards.iter().filter(|standing| standing.leader == Some(*id)).count();
        text.push_str(&format!(
            "  {:<6} {:<22} {role:<10} {leads:<6} {behind:<9} {silent}\n",
            id.to_string(),
            member.peer_address
        ));
    }
    if status.shards.len() > 1 {
        text.push_str("\n  shard  leader  replicas         entry      slots\n");
        for standing in &status.shards {
            let leader = standing.leader.map_or_else(|| "?".to_owned(), |node| node.to_string());
            let range = |(first, last): &(u16, u16)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            };
            let slots: Vec<String> = standing.slots.iter().map(range).collect();
            let slots = if slots.is_empty() { "none".to_owned() } else { slots.join(" ") };
            text.push_str(&format!(
                "  {:<6} {leader:<7} {:<16} {:<10} {slots}{}{}\n",
                standing.shard.0,
                replicas(standing),
                standing.applied_index,
                moving(standing),
                kept(standing)
            ));
        }
    }
    if status.replica_count > 0 {
        let count = status.replica_count;
        text.push_str(&format!("\n  Each shard but the first is to have {count} replicas.\n"));
    }
    if let Some(next) = &status.next_place {
        text.push_str(&format!("  Next the replicas are to be placed of {next}.\n"));
    }
    text
}

/// The nodes that have a replica, by their numbers; those that do not vote in brackets.
fn replicas(standing: &ShardStanding) -> String {
    let number = |node: &NodeId| match standing.voters.contains(node) {
        true => node.0.to_string(),
        false => format!("({})", node.0),
    };
    standing.members.iter().map(number).collect::<Vec<_>>().join(" ")
}

/// Which replicas are on their way.
fn moving(standing: &ShardStanding) -> String {
    let ShardStanding { placed, members, .. } = standing;
    if placed.is_empty() {
        return String::new();
    }
    let list = |nodes: Vec<&NodeId>| {
        nodes.iter().map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
    };
    let coming = list(placed.iter().filter(|node| !members.contains(node)).collect());
    let going = list(members.iter().filter(|node| !placed.contains(node)).collect());
    match (coming.is_empty(), going.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!("  (a replica comes to {coming})"),
        (true, false) => format!("  (the replica on {going} goes)"),
        (false, false) => format!("  (a replica moves from {going} to {coming})"),
    }
}

/// For how long an operator's choice of the shard's leader holds.
fn kept(standing: &ShardStanding) -> String {
    let (Some(chosen), Some(kept_ms)) = (standing.chosen, standing.kept_ms) else {
        return String::new();
    };
    let minutes = kept_ms.div_ceil(60_000);
    if standing.leader == Some(chosen) {
        format!("  (its leader was chosen, and stays for {minutes} min)")
    } else {
        format!(
            "  ({chosen} was chosen to lead it for {minutes} min more, and does as soon as it can)"
        )
    }
}

/// By what the cluster's nodes know each other.
///
/// # Errors
/// If the secret cannot be kept, or a certificate cannot be read.
pub fn credentials(config: &Config) -> Result<Credentials, String> {
    let secret = secret(config)?;
    let Some(authorities) = &config.cluster_ca else { return Ok(secret.into()) };
    let Some(files) = &config.tls else {
        return Err(
            "cluster_ca needs tls_certificate and tls_key, which nodes show each other".to_owned()
        );
    };
    let read = |file: &std::path::Path| {
        disk::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
    };
    let tls = PeerTls::new(&read(&files.certificate)?, &read(&files.key)?, &read(authorities)?)?;
    Ok(Credentials { secret, tls: Some(tls) })
}

/// The cluster's secret: configured, or one that this user's nodes on this machine share.
///
/// # Errors
/// If the file that keeps it cannot be read or created.
fn secret(config: &Config) -> Result<Secret, String> {
    if let Some(secret) = &config.cluster_secret {
        return Ok(Secret::new(secret.as_bytes()));
    }
    let directory = match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => PathBuf::from(home).join(".proteus"),
        None => config.data_directory.clone(),
    };
    let path = directory.join("cluster-secret");
    let fresh: String =
        random::random_bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
    disk::read_or_create_private(&path, fresh.as_bytes()).map(Secret::new).map_err(|error| {
        format!(
            "cannot keep the cluster's secret in {}: {error}; set cluster_secret instead",
            path.display()
        )
    })
}
