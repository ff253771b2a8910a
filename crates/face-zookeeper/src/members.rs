//! The cluster's members in ZooKeeper's words: `/zookeeper/config`, `getConfig` and `reconfig`.
//!
//! ```text
//!   server.N=HOST:PORT:PORT:participant;CLIENT_HOST:CLIENT_PORT     a node that votes
//!   server.N=HOST:PORT:PORT:observer;CLIENT_HOST:CLIENT_PORT        a node that follows
//!   version=ZXID                                                    in hexadecimal digits
//! ```
//! Nodes meet at one port, which stands for both that ZooKeeper has. The node that leads writes the
//! znode when the members have changed, so that it can be watched like any other; a node that is in no
//! cluster leaves it empty, as a standalone ZooKeeper does.
//!
//! A node joins by being started, gets its number then, and votes when the cluster wants it to. So
//! `reconfig` takes nodes out and lets nodes vote that have joined; it cannot add one that nobody has
//! started, which ZooKeeper refuses as well.
//!
//! Source: ZooKeeper 3.9, `PrepRequestProcessor`, `QuorumMaj`, `QuorumPeer.QuorumServer`.

use std::collections::BTreeSet;

use bytes::Bytes;
use proteus_kernel_api::tree::acl::permission;
use proteus_kernel_api::tree::{self, CONFIG_PATH, Credentials, Stat, Zxid};
use proteus_kernel_api::{
    ClusterView, Kernel, KernelError, MembersChange, Minitransaction, NodeId, Op, Outcome, Reply,
};
use tracing::{debug, warn};

use crate::Shared;
use crate::codec::ReconfigRequest;
use crate::errors::{ErrorCode, of_refusal};

/// Standard port of this face.
const CLIENT_PORT: u16 = 2181;

/// A configuration as clients read it.
pub(crate) struct Configuration {
    pub(crate) text: Option<Bytes>,
    pub(crate) stat: Stat,
    pub(crate) zxid: i64,
}

/// One line for each member; `None` for a node that is in no cluster.
fn servers(cluster: &ClusterView) -> Option<String> {
    let mut lines = Vec::with_capacity(cluster.members.len());
    for (node, member) in &cluster.members {
        let (_, port) = member.peer_address.rsplit_once(':')?;
        let role = if cluster.voters.contains(node) { "participant" } else { "observer" };
        let client_host = match member.client_host.as_str() {
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        let client_port = u32::from(CLIENT_PORT) + u32::from(member.port_offset);
        lines.push(format!(
            "server.{}={}:{port}:{role};{client_host}:{client_port}",
            node.0, member.peer_address
        ));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Writes the members if this node leads and they have changed since `written`.
pub(crate) async fn publish(shared: &Shared, written: &mut Option<String>) {
    let servers = servers(&shared.kernel.cluster());
    if servers == *written {
        return;
    }
    let Some(members) = servers.clone() else { return };
    let op = tree::Op::SetMembers { servers: members };
    match shared.kernel.commit(Minitransaction::of(Op::Tree(op))).await {
        Ok(_) => *written = servers,
        Err(error) => debug!(%error, "the members were not written; trying again"),
    }
}

/// Carries out a `reconfig` of who has these credentials.
///
/// # Errors
/// If the kernel cannot tell what became of it.
pub(crate) async fn reconfigure(
    shared: &Shared,
    request: ReconfigRequest,
    by: Credentials,
) -> Result<Result<Configuration, ErrorCode>, KernelError> {
    if !shared.options.has_reconfig {
        return Ok(Err(ErrorCode::RECONFIG_DISABLED));
    }
    shared.kernel.pass_read_barrier().await?;
    let before = read(&*shared.kernel)?;
    let cluster = shared.kernel.cluster();
    let judged = judge(&request, &cluster, version(&before));
    let is_permitted = shared.kernel.read(|view| {
        let node = tree::node(view.state, CONFIG_PATH)?;
        Ok(node.is_some_and(|node| node.acl().permits(permission::WRITE, &by)))
    })?;
    let change = match judged {
        // Who may not change the members is not told which there are.
        Ok(_) | Err(ErrorCode::NEW_CONFIG_NO_QUORUM) if !is_permitted => {
            return Ok(Err(ErrorCode::NO_AUTH));
        }
        Ok(change) => change,
        Err(code) => return Ok(Err(code)),
    };
    if let Err(reason) = shared.kernel.change_members(change).await {
        warn!(reason, "a reconfig that a client asked for was not carried out");
        return Ok(Err(ErrorCode::NEW_CONFIG_NO_QUORUM));
    }
    shared.kernel.pass_read_barrier().await?;
    let Some(servers) = servers(&shared.kernel.cluster()) else {
        return Ok(Err(ErrorCode::UNIMPLEMENTED));
    };
    let op = tree::Op::SetMembers { servers };
    match shared.kernel.commit(Minitransaction::of(Op::Tree(op))).await? {
        Outcome::Committed { replies, .. } => {
            debug_assert!(matches!(replies.as_slice(), [Reply::Tree(_)]), "one op, one reply");
            Ok(Ok(read(&*shared.kernel)?))
        }
        Outcome::Refused { refusal, .. } | Outcome::CheckFailed { refusal, .. } => {
            Ok(Err(of_refusal(&refusal)))
        }
    }
}

fn read(kernel: &dyn Kernel) -> Result<Configuration, KernelError> {
    kernel.read(|view| {
        let (text, stat) = tree::data(view.state, CONFIG_PATH)?.unwrap_or_default();
        Ok(Configuration { text, stat, zxid: Zxid::from_commit(view.applied_ts).0 })
    })
}

/// The version that the configuration says it has; 0 if it says none.
fn version(configuration: &Configuration) -> i64 {
    let text = configuration.text.as_deref().unwrap_or_default();
    let digits = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    std::str::from_utf8(digits)
        .ok()
        .and_then(|line| i64::from_str_radix(line.strip_prefix("version=")?, 16).ok())
        .unwrap_or_default()
}

/// What a request means for the cluster, refused in the order in which ZooKeeper judges.
fn judge(
    request: &ReconfigRequest,
    cluster: &ClusterView,
    version: i64,
) -> Result<MembersChange, ErrorCode> {
    if servers(cluster).is_none() {
        return Err(ErrorCode::UNIMPLEMENTED);
    }
    if request.config_id != -1 && request.config_id != version {
        return Err(ErrorCode::BAD_VERSION);
    }
    let listed = |text: &Option<String>| -> Vec<String> {
        let text = text.as_deref().unwrap_or_default();
        let parts = text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty());
        parts.filter(|part| !part.starts_with("version=")).map(str::to_owned).collect()
    };
    let mut change = MembersChange::default();
    let named = if request.new_members.is_some() { &request.new_members } else { &request.joining };
    let mut staying = BTreeSet::new();
    for server in listed(named) {
        let (node, votes) = parse_server(&server).ok_or(ErrorCode::BAD_ARGUMENTS)?;
        if !cluster.members.contains_key(&node) {
            return Err(ErrorCode::NEW_CONFIG_NO_QUORUM);
        }
        staying.insert(node);
        match (votes, cluster.voters.contains(&node)) {
            (true, false) => drop(change.voting.insert(node)),
            // Who of those that may vote does not is the cluster's own affair.
            (false, true) => return Err(ErrorCode::BAD_ARGUMENTS),
            _ => {}
        }
    }
    if request.new_members.is_some() {
        let others = cluster.members.keys().filter(|node| !staying.contains(node));
        change.leaving.extend(others.copied());
    } else {
        for server in listed(&request.leaving) {
            let node = server.parse().map(NodeId).map_err(|_| ErrorCode::BAD_ARGUMENTS)?;
            // One that is no member has left.
            if cluster.members.contains_key(&node) {
                change.leaving.insert(node);
            }
        }
    }
    let voters = cluster.voters.union(&change.voting);
    if voters.filter(|node| !change.leaving.contains(node)).count() == 0 {
        return Err(ErrorCode::BAD_ARGUMENTS);
    }
    Ok(change)
}

/// Number and role in `server.N=HOST:PORT:PORT[:ROLE];[HOST:]PORT`.
fn parse_server(text: &str) -> Option<(NodeId, bool)> {
    let (name, addresses) = text.split_once('=')?;
    let node = NodeId(name.trim().rsplit('.').next()?.parse().ok()?);
    let (server, client) = addresses.split_once(';')?;
    client.rsplit(':').next()?.trim().parse::<u16>().ok()?;
    let parts: Vec<&str> = server.trim().rsplit(':').collect();
    let (votes, ports) = match parts.as_slice() {
        ["participant", ports @ ..] => (true, ports),
        ["observer", ports @ ..] => (false, ports),
        ports => (true, ports),
    };
    let [election, quorum, host @ ..] = ports else { return None };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    (is_port(election) && is_port(quorum) && !host.is_empty()).then_some((node, votes))
}

#[cfg(test)]
mod tests {
    use proteus_kernel_api::Member;

    use super::*;

    fn cluster(voters: &[u64], followers: &[u64]) -> ClusterView {
        let member = |node: &u64| {
            let member = Member {
                peer_address: format!("10.0.0.{node}:7000"),
                client_host: format!("10.0.0.{node}"),
                port_offset: 10,
                incarnation: *node,
                ..Member::default()
            };
            (NodeId(*node), member)
        };
        ClusterView {
            node: NodeId(1),
            members: voters.iter().chain(followers).map(member).collect(),
            voters: voters.iter().map(|node| NodeId(*node)).collect(),
            ..ClusterView::default()
        }
    }

    fn request(joining: &str, leaving: &str, new_members: &str) -> ReconfigRequest {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        ReconfigRequest {
            joining: text(joining),
            leaving: text(leaving),
            new_members: text(new_members),
            config_id: -1,
        }
    }

    #[test]
    fn members_are_written_as_zookeeper_does() {
        let expected = "server.1=10.0.0.1:7000:7000:participant;10.0.0.1:2191\n\
                        server.2=10.0.0.2:7000:7000:observer;10.0.0.2:2191";
        assert_eq!(servers(&cluster(&[1], &[2])).as_deref(), Some(expected));
        assert_eq!(servers(&ClusterView::default()), None);
        let mut alone = cluster(&[1], &[]);
        alone.members.insert(NodeId(1), Member::default());
        assert_eq!(servers(&alone), None);
        for line in expected.lines() {
            assert!(parse_server(line).is_some(), "{line}");
        }
    }

    #[test]
    fn servers_are_understood_as_zookeeper_understands_them() {
        for (text, expected) in [
            ("server.3=h:1:2;3", Some((NodeId(3), true))),
            ("server.3=h:1:2:observer;h:3", Some((NodeId(3), false))),
            ("server.3=[::1]:1:2:participant;[::1]:3", Some((NodeId(3), true))),
            ("server.3=h:1;3", None),
            ("server.3=h:1:2", None),
            ("server.x=h:1:2;3", None),
            ("server.3=h:1:2;port", None),
            ("", None),
        ] {
            assert_eq!(parse_server(text), expected, "{text}");
        }
    }

    #[test]
    fn a_reconfig_takes_out_and_lets_vote_those_that_are_there() {
        let cluster = cluster(&[1, 2, 3], &[4]);
        let nodes = |nodes: &[u64]| nodes.iter().map(|node| NodeId(*node)).collect();
        let change = |voting: &[u64], leaving: &[u64]| {
            Ok(MembersChange { voting: nodes(voting), leaving: nodes(leaving) })
        };
        let four = "server.4=10.0.0.4:7000:7000:participant;2191";
        for (request, expected) in [
            (request("", "3", ""), change(&[], &[3])),
            (request("", "3,4,9", ""), change(&[], &[3, 4])),
            (request(four, "1", ""), change(&[4], &[1])),
            (request("", "", &format!("{four}\nserver.1=h:1:1;1")), change(&[4], &[2, 3])),
            (request("", "1,2,3", ""), Err(ErrorCode::BAD_ARGUMENTS)),
            (request("", "x", ""), Err(ErrorCode::BAD_ARGUMENTS)),
            (request("server.4=10.0.0.4;1", "", ""), Err(ErrorCode::BAD_ARGUMENTS)),
            (request("server.1=h:1:1:observer;1", "", ""), Err(ErrorCode::BAD_ARGUMENTS)),
            (request("server.5=h:1:1;1", "", ""), Err(ErrorCode::NEW_CONFIG_NO_QUORUM)),
        ] {
            assert_eq!(judge(&request, &cluster, 7), expected, "{request:?}");
        }
        let at = |config_id| ReconfigRequest { config_id, ..request("", "3", "") };
        assert_eq!(judge(&at(7), &cluster, 7), change(&[], &[3]));
        assert_eq!(judge(&at(6), &cluster, 7), Err(ErrorCode::BAD_VERSION));
        let nowhere = ClusterView::default();
        assert_eq!(judge(&at(-1), &nowhere, 7), Err(ErrorCode::UNIMPLEMENTED));
    }
}
