//! Four-letter words: what operators and clients ask without a session.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use proteus_kernel_api::tree::{self, Zxid};

use crate::Shared;

/// The ZooKeeper release whose behaviour is followed, as clients that adapt to it parse it.
pub(crate) const FOLLOWED_VERSION: &str = "3.8.0";

/// Words that are answered.
pub(crate) const ANSWERED: [&str; 6] = ["envi", "isro", "mntr", "ruok", "srvr", "stat"];

/// Words of ZooKeeper that are refused, as it refuses those outside its whitelist.
pub(crate) const REFUSED: [&str; 13] = [
    "conf", "cons", "crst", "dirs", "dump", "gtmk", "hash", "srst", "stmk", "wchc", "wchp", "wchs",
    "orst",
];

/// The word that a connection's first four bytes are, if they are one.
pub(crate) fn recognise(first: &[u8]) -> Option<&'static str> {
    ANSWERED.into_iter().chain(REFUSED).find(|word| word.as_bytes() == first)
}

/// What to answer before closing the connection.
pub(crate) fn answer(word: &str, shared: &Shared, local: SocketAddr) -> String {
    match word {
        "ruok" => "imok".to_owned(),
        "isro" => "rw".to_owned(),
        "envi" => format!(
            "Environment:\nzookeeper.version={}\nhost.name={}\nos.name={}\nos.arch={}\n",
            version(),
            local.ip(),
            std::env::consts::OS,
            std::env::consts::ARCH,
        ),
        "srvr" | "stat" => server(shared),
        "mntr" => monitor(shared),
        _ => format!("{word} is not executed because it is not in the whitelist.\n"),
    }
}

fn version() -> String {
    format!(
        "{FOLLOWED_VERSION}-proteus-{}, built on 01/01/2026 00:00 UTC",
        env!("CARGO_PKG_VERSION")
    )
}

struct Figures {
    zxid: i64,
    node_count: u64,
}

fn figures(shared: &Shared) -> Option<Figures> {
    shared
        .kernel
        .read(|view| {
            Ok(Figures {
                zxid: Zxid::from_commit(view.applied_ts).0,
                node_count: tree::node_count(view.state)?,
            })
        })
        .ok()
}

fn server(shared: &Shared) -> String {
    let Some(figures) = figures(shared) else {
        return "This ZooKeeper instance is not currently serving requests\n".to_owned();
    };
    let requests = shared.requests.load(Ordering::Relaxed);
    let connections = shared.connections.load(Ordering::Relaxed);
    format!(
        "Zookeeper version: {}\nLatency min/avg/max: 0/0.0/0\nReceived: {requests}\nSent: {requests}\nConnections: {connections}\nOutstanding: 0\nZxid: {:#x}\nMode: standalone\nNode count: {}\n",
        version(),
        figures.zxid,
        figures.node_count,
    )
}

fn monitor(shared: &Shared) -> String {
    let Some(figures) = figures(shared) else {
        return "This ZooKeeper instance is not currently serving requests\n".to_owned();
    };
    let mut text = format!("zk_version\t{}\nzk_server_state\tstandalone\n", version());
    let requests = shared.requests.load(Ordering::Relaxed);
    let rows = [
        ("zk_znode_count", figures.node_count),
        ("zk_watch_count", shared.watches.count() as u64),
        ("zk_global_sessions", shared.sessions.count() as u64),
        ("zk_num_alive_connections", shared.connections.load(Ordering::Relaxed)),
        ("zk_packets_received", requests),
        ("zk_packets_sent", requests),
    ];
    for (name, value) in rows {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}\t{value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_in_the_support_table() {
        let table = include_str!("../../../docs/faces/zookeeper.md");
        for word in ANSWERED.into_iter().chain(REFUSED) {
            assert!(table.contains(&format!("`{word}`")), "{word}");
        }
    }
}
