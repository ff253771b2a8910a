//! What the node knows of itself, for four-letter words and the commands of HTTP.

use std::net::SocketAddr;

use proteus_kernel_api::tree::{self, SessionId, Zxid};

use crate::Shared;
use crate::codec::kinds::{PING, REQUEST_TYPES};

/// The ZooKeeper release whose behaviour is followed, as clients that adapt to it parse it.
const FOLLOWED_VERSION: &str = "3.9.0";

/// Sessions read from the store at once.
const PAGE_COUNT_MAX: usize = 1_000;

pub(crate) fn version() -> String {
    format!(
        "{FOLLOWED_VERSION}-proteus-{}, built on 2026-01-01 00:00 UTC",
        env!("CARGO_PKG_VERSION")
    )
}

/// Figures of the state.
pub(crate) struct Figures {
    pub(crate) zxid: i64,
    pub(crate) node_count: u64,
    pub(crate) connection_count: usize,
}

/// `None` while the node does not serve.
pub(crate) fn read(shared: &Shared) -> Option<Figures> {
    let connection_count = shared.connections.all().len();
    let read = shared.kernel.read(|view| {
        Ok(Figures {
            zxid: Zxid::from_commit(view.applied_ts).0,
            node_count: tree::node_count(view.state)?,
            connection_count,
        })
    });
    read.ok()
}

/// Sessions and who owns which ephemerals.
pub(crate) struct Dump {
    pub(crate) sessions: Vec<(SessionId, u32)>,
    pub(crate) ephemerals: Vec<(SessionId, Vec<String>)>,
}

/// `None` while the node does not serve.
pub(crate) fn dump(shared: &Shared) -> Option<Dump> {
    let mut dump = Dump { sessions: Vec::new(), ephemerals: Vec::new() };
    let mut after = None;
    loop {
        let last = shared.kernel.read(|view| {
            let page = tree::sessions(view.state, after, PAGE_COUNT_MAX)?;
            for (id, session) in &page {
                dump.sessions.push((*id, session.timeout_ms));
                let paths = tree::ephemerals(view.state, *id)?;
                if !paths.is_empty() {
                    dump.ephemerals.push((*id, paths));
                }
            }
            Ok(page.last().map(|(id, _)| *id))
        });
        match last.ok()? {
            Some(id) => after = Some(id),
            None => return Some(dump),
        }
    }
}

pub(crate) fn environment(local: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("zookeeper.version", version()),
        ("host.name", local.ip().to_string()),
        ("os.name", std::env::consts::OS.to_owned()),
        ("os.arch", std::env::consts::ARCH.to_owned()),
    ]
}

pub(crate) fn configuration(shared: &Shared, local: SocketAddr) -> Vec<(&'static str, String)> {
    let options = &shared.options;
    vec![
        ("clientPort", local.port().to_string()),
        ("tickTime", crate::TICK_MS.to_string()),
        ("minSessionTimeout", options.session_timeout_ms_min.to_string()),
        ("maxSessionTimeout", options.session_timeout_ms_max.to_string()),
        ("jute.maxbuffer", options.frame_bytes_max.to_string()),
        ("serverId", shared.kernel.cluster().node.0.to_string()),
    ]
}

/// What this node is, in ZooKeeper's words.
pub(crate) fn role(shared: &Shared) -> &'static str {
    if shared.read_only.is_on() {
        return "read-only";
    }
    let cluster = shared.kernel.cluster();
    match (cluster.members.len(), cluster.leads()) {
        (0 | 1, _) => "standalone",
        (_, true) => "leader",
        (_, false) if cluster.voters.contains(&cluster.node) => "follower",
        (_, false) => "observer",
    }
}

/// Names without ZooKeeper's `zk_`.
pub(crate) fn monitor(shared: &Shared, figures: &Figures) -> Vec<(&'static str, String)> {
    let latencies = shared.traffic.latencies();
    let (received, sent) = (shared.traffic.received(), shared.traffic.sent());
    let uptime = shared.clock.elapsed().saturating_sub(shared.started);
    vec![
        ("version", version()),
        ("server_state", role(shared).to_owned()),
        ("avg_latency", format!("{:?}", latencies.avg_ms)),
        ("max_latency", latencies.max_ms.to_string()),
        ("min_latency", latencies.min_ms.to_string()),
        ("packets_received", received.to_string()),
        ("packets_sent", sent.to_string()),
        ("num_alive_connections", figures.connection_count.to_string()),
        ("outstanding_requests", received.saturating_sub(sent).to_string()),
        ("znode_count", figures.node_count.to_string()),
        ("watch_count", shared.watches.summary().watch_count.to_string()),
        ("global_sessions", shared.sessions.count().to_string()),
        ("uptime", uptime.as_millis().to_string()),
    ]
}

/// The name of a request type.
pub(crate) fn operation(code: i32) -> &'static str {
    if code == PING {
        return "PING";
    }
    REQUEST_TYPES.iter().find(|known| known.code == code).map_or("NA", |known| known.name)
}
