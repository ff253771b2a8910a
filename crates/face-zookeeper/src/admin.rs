//! The commands of ZooKeeper's AdminServer, answered in JSON.
//!
//! They tell what the four-letter words tell. Each answer has `command` and `error`, as there.
//!
//! Source: ZooKeeper 3.9, `server.admin.Commands`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use proteus_face::AdminCommands;
use serde_json::{Map, Value, json};

use crate::Shared;
use crate::figures;

/// A command, its other names, and whether it tells of clients.
const COMMANDS: [(&str, &[&str], bool); 14] = [
    ("configuration", &["conf", "config"], false),
    ("connection_stat_reset", &["crst"], false),
    ("connections", &["cons"], true),
    ("dirs", &[], false),
    ("dump", &[], true),
    ("environment", &["env", "envi"], false),
    ("is_read_only", &["isro"], false),
    ("leader", &["lead"], false),
    ("monitor", &["mntr"], false),
    ("ruok", &[], false),
    ("server_stats", &["srvr"], false),
    ("stats", &["stat"], true),
    ("stat_reset", &["srst"], false),
    ("watch_summary", &["wchs"], false),
];

/// Commands that tell who watches what.
const WATCH_COMMANDS: [(&str, &[&str], bool); 2] =
    [("watches", &["wchc"], true), ("watches_by_path", &["wchp"], true)];

/// The commands over a face.
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
}

impl AdminCommands for Admin {
    fn names(&self) -> Vec<&'static str> {
        COMMANDS.iter().chain(&WATCH_COMMANDS).map(|(name, ..)| *name).collect()
    }

    fn run(&self, asked: &str) -> Option<String> {
        let (name, _, is_private) = COMMANDS
            .iter()
            .chain(&WATCH_COMMANDS)
            .find(|(name, others, _)| *name == asked || others.contains(&asked))?;
        let is_admitted = self.shared.accounts.is_open() || !is_private;
        let mut answer = Map::new();
        answer.insert("command".to_owned(), json!(name));
        let error = match is_admitted.then(|| body(&self.shared, name)) {
            Some(Some(Value::Object(body))) => {
                answer.extend(body);
                Value::Null
            }
            Some(_) => json!("This ZooKeeper instance is not currently serving requests"),
            None => json!("this tells of clients, and the node has accounts"),
        };
        answer.insert("error".to_owned(), error);
        Some(Value::Object(answer).to_string())
    }
}

fn pairs(pairs: Vec<(&'static str, String)>) -> Value {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), number_or_text(value))).collect()
}

fn number_or_text(text: String) -> Value {
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(number), _) => json!(number),
        (_, Ok(number)) => json!(number),
        _ => json!(text),
    }
}

fn groups(name: &str, groups: Vec<(String, Vec<String>)>) -> Value {
    let groups: Map<String, Value> =
        groups.into_iter().map(|(head, members)| (head, json!(members))).collect();
    json!({ name: groups })
}

/// `None` while the node does not serve.
fn body(shared: &Shared, name: &str) -> Option<Value> {
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    Some(match name {
        "configuration" => {
            let configuration = figures::configuration(shared, local);
            pairs(configuration.into_iter().filter(|(name, _)| *name != "clientPort").collect())
        }
        "connection_stat_reset" => {
            shared.connections.all().iter().for_each(|record| record.traffic.reset());
            json!({})
        }
        "stat_reset" => {
            shared.traffic.reset();
            json!({})
        }
        "connections" => json!({ "connections": connections(shared, false),
            "secure_connections": connections(shared, true) }),
        "dirs" => json!({ "datadir_size": 0, "logdir_size": 0 }),
        "dump" => {
            let dump = figures::dump(shared)?;
            let ephemerals: Map<String, Value> = dump
                .ephemerals
                .into_iter()
                .map(|(session, paths)| (session.to_string(), json!(paths)))
                .collect();
            let sessions: Vec<String> =
                dump.sessions.iter().map(|(session, _)| session.to_string()).collect();
            json!({ "global_sessions": sessions, "session_id_to_ephemeral_paths": ephemerals })
        }
        "environment" => pairs(figures::environment(local)),
        "is_read_only" => json!({ "read_only": shared.read_only.is_on() }),
        "leader" => json!({ "is_leader": shared.kernel.leads() }),
        "monitor" => pairs(figures::monitor(shared, &figures::read(shared)?)),
        "ruok" => json!({}),
        "server_stats" => json!({ "version": figures::version(),
            "read_only": shared.read_only.is_on(), "server_stats": server(shared)? }),
        "stats" => json!({ "version": figures::version(),
            "read_only": shared.read_only.is_on(),
            "server_stats": server(shared)?, "node_count": figures::read(shared)?.node_count,
            "connections": connections(shared, false),
            "secure_connections": connections(shared, true) }),
        "watch_summary" => {
            let summary = shared.watches.summary();
            json!({ "num_connections": summary.connection_count, "num_paths": summary.path_count,
                "num_total_watches": summary.watch_count })
        }
        "watches" => groups("session_id_to_watched_paths", watches_by_session(shared)),
        "watches_by_path" => groups("path_to_session_ids", watches_by_path(shared)),
        _ => return None,
    })
}

fn server(shared: &Shared) -> Option<Value> {
    let figures = figures::read(shared)?;
    let latencies = shared.traffic.latencies();
    let (received, sent) = (shared.traffic.received(), shared.traffic.sent());
    Some(json!({
        "packets_sent": sent,
        "packets_received": received,
        "outstanding_requests": received.saturating_sub(sent),
        "min_latency": latencies.min_ms,
        "avg_latency": latencies.avg_ms,
        "max_latency": latencies.max_ms,
        "server_state": "standalone",
        "num_alive_client_connections": figures.connection_count,
        "last_processed_zxid": figures.zxid,
        "uptime": shared.clock.elapsed().saturating_sub(shared.started).as_millis() as u64,
    }))
}

fn connections(shared: &Shared, is_encrypted: bool) -> Value {
    let all = shared.connections.all();
    let told = all.iter().filter(|record| record.is_encrypted == is_encrypted).map(|record| {
        let (code, xid, zxid) = record.last();
        let latencies = record.traffic.latencies();
        json!({
            "remote_socket_address": record.peer.to_string(),
            "session_id": record.session_id,
            "session_timeout": record.timeout_ms,
            "started": record.established_ms,
            "packets_received": record.traffic.received(),
            "packets_sent": record.traffic.sent(),
            "last_operation": figures::operation(code),
            "last_cxid": xid,
            "last_zxid": zxid,
            "min_latency": latencies.min_ms,
            "avg_latency": latencies.avg_ms,
            "max_latency": latencies.max_ms,
        })
    });
    Value::Array(told.collect())
}

fn session(shared: &Shared, connection_id: u64) -> Option<String> {
    shared.connections.get(connection_id).map(|record| format!("{:#x}", record.session_id))
}

pub(crate) fn watches_by_session(shared: &Shared) -> Vec<(String, Vec<String>)> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (connection_id, path) in shared.watches.all() {
        if let Some(session) = session(shared, connection_id) {
            found.entry(session).or_default().push(path.to_string());
        }
    }
    sorted(found)
}

pub(crate) fn watches_by_path(shared: &Shared) -> Vec<(String, Vec<String>)> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (connection_id, path) in shared.watches.all() {
        if let Some(session) = session(shared, connection_id) {
            found.entry(path.to_string()).or_default().push(session);
        }
    }
    sorted(found)
}

fn sorted(found: BTreeMap<String, Vec<String>>) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = found.into_iter().collect();
    for (_, members) in &mut groups {
        members.sort();
        members.dedup();
    }
    groups
}
