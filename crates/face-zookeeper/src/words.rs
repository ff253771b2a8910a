//! Four-letter words: what operators and clients ask without a session.
//!
//! Source: ZooKeeper 3.9, `FourLetterCommands` and the classes beside it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;

use crate::figures::{self, Figures};
use crate::stats::ConnectionRecord;
use crate::{Shared, admin};

/// Every word of ZooKeeper.
pub const WORDS: [&str; 18] = [
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst",
    "srvr", "stat", "stmk", "wchc", "wchp", "wchs",
];

/// Words that are carried out; others are answered as if they did not exist. ZooKeeper's
/// `4lw.commands.whitelist`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordWhitelist(BTreeSet<&'static str>);

impl WordWhitelist {
    /// Those that tell nothing of a client and change nothing.
    pub const DEFAULT: &str = "envi,isro,mntr,ruok,srvr,stat";

    /// Words separated by commas, or `*` for all; `None` if one is no word.
    pub fn parse(text: &str) -> Option<WordWhitelist> {
        if text.trim() == "*" {
            return Some(WordWhitelist(WORDS.into()));
        }
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let known = words.map(|word| WORDS.into_iter().find(|known| *known == word));
        known.collect::<Option<_>>().map(WordWhitelist)
    }
}

impl Default for WordWhitelist {
    fn default() -> WordWhitelist {
        WordWhitelist::parse(WordWhitelist::DEFAULT).unwrap_or(WordWhitelist(BTreeSet::new()))
    }
}

/// The word that a connection's first four bytes are, if they are one.
pub(crate) fn recognise(first: &[u8]) -> Option<&'static str> {
    WORDS.into_iter().find(|word| word.as_bytes() == first)
}

/// What to answer before closing the connection.
pub(crate) fn answer(word: &str, shared: &Shared, local: SocketAddr) -> String {
    if !shared.options.words.0.contains(word) {
        return format!("{word} is not executed because it is not in the whitelist.\n");
    }
    let with_figures = |render: fn(&Shared, &Figures) -> String| match figures::read(shared) {
        Some(figures) => render(shared, &figures),
        None => "This ZooKeeper instance is not currently serving requests\n".to_owned(),
    };
    match word {
        "ruok" => "imok".to_owned(),
        "isro" => if shared.read_only.is_on() { "ro" } else { "rw" }.to_owned(),
        "envi" => environment(local),
        "conf" => lines(&figures::configuration(shared, local), '='),
        "cons" => connections(shared, true),
        "crst" => {
            shared.connections.all().iter().for_each(|record| record.traffic.reset());
            "Connection stats reset.\n".to_owned()
        }
        "srst" => {
            shared.traffic.reset();
            "Server stats reset.\n".to_owned()
        }
        "dirs" => "datadir_size: 0\nlogdir_size: 0\n".to_owned(),
        // There is no tracing to switch and no digest of the tree.
        "gtmk" | "stmk" => "0\n".to_owned(),
        "hash" => String::new(),
        "srvr" => with_figures(server),
        "stat" => with_figures(|shared, figures| {
            let server = server(shared, figures);
            let (version, rest) = server.split_once('\n').unwrap_or((&server, ""));
            format!("{version}\nClients:\n{}\n{rest}", connections(shared, false))
        }),
        "mntr" => with_figures(|shared, figures| {
            let mut text = String::new();
            for (name, value) in figures::monitor(shared, figures) {
                put(&mut text, format_args!("zk_{name}\t{value}\n"));
            }
            text
        }),
        "dump" => dump(shared),
        "wchs" => {
            let summary = shared.watches.summary();
            format!(
                "{} connections watching {} paths\nTotal watches:{}\n",
                summary.connection_count, summary.path_count, summary.watch_count
            )
        }
        "wchc" => nested(&admin::watches_by_session(shared)),
        "wchp" => nested(&admin::watches_by_path(shared)),
        _ => String::new(),
    }
}

fn put(text: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(part);
}

fn lines(pairs: &[(&'static str, String)], separator: char) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        put(&mut text, format_args!("{name}{separator}{value}\n"));
    }
    text
}

fn nested(groups: &[(String, Vec<String>)]) -> String {
    let mut text = String::new();
    for (head, members) in groups {
        put(&mut text, format_args!("{head}\n"));
        for member in members {
            put(&mut text, format_args!("\t{member}\n"));
        }
    }
    text
}

fn environment(local: SocketAddr) -> String {
    format!("Environment:\n{}", lines(&figures::environment(local), '='))
}

fn server(shared: &Shared, figures: &Figures) -> String {
    let latencies = shared.traffic.latencies();
    let (received, sent) = (shared.traffic.received(), shared.traffic.sent());
    format!(
        "Zookeeper version: {}\nLatency min/avg/max: {}/{:?}/{}\nReceived: {received}\nSent: {sent}\nConnections: {}\nOutstanding: {}\nZxid: {:#x}\nMode: {}\nNode count: {}\n",
        figures::version(),
        latencies.min_ms,
        latencies.avg_ms,
        latencies.max_ms,
        figures.connection_count,
        received.saturating_sub(sent),
        figures.zxid,
        figures::role(shared),
        figures.node_count,
    )
}

fn connections(shared: &Shared, is_full: bool) -> String {
    let mut text = String::new();
    for record in shared.connections.all() {
        let ConnectionRecord { peer, traffic, .. } = &*record;
        let (received, sent) = (traffic.received(), traffic.sent());
        let queued = received.saturating_sub(sent);
        put(&mut text, format_args!(" /{peer}[1](queued={queued},recved={received},sent={sent}"));
        if is_full {
            let (code, xid, zxid) = record.last();
            let latencies = traffic.latencies();
            put(
                &mut text,
                format_args!(
                    ",sid={:#x},lop={},est={},to={},lcxid={xid:#x},lzxid={zxid:#x},minlat={},avglat={:?},maxlat={}",
                    record.session_id,
                    figures::operation(code),
                    record.established_ms,
                    record.timeout_ms,
                    latencies.min_ms,
                    latencies.avg_ms,
                    latencies.max_ms
                ),
            );
        }
        text.push_str(")\n");
    }
    text
}

fn dump(shared: &Shared) -> String {
    let Some(dump) = figures::dump(shared) else {
        return "This ZooKeeper instance is not currently serving requests\n".to_owned();
    };
    let mut text = format!("SessionTracker dump:\nGlobal Sessions({}):\n", dump.sessions.len());
    for (id, timeout_ms) in &dump.sessions {
        put(&mut text, format_args!("{id}\t{timeout_ms}ms\n"));
    }
    put(
        &mut text,
        format_args!(
            "ephemeral nodes dump:\nSessions with Ephemerals ({}):\n",
            dump.ephemerals.len()
        ),
    );
    for (session, paths) in &dump.ephemerals {
        put(&mut text, format_args!("{session}:\n"));
        for path in paths {
            put(&mut text, format_args!("\t{path}\n"));
        }
    }
    let records = shared.connections.all();
    put(&mut text, format_args!("Connections dump:\nConnections ({}):\n", records.len()));
    for record in records {
        put(
            &mut text,
            format_args!("\tip: /{} sessionId: {:#x}\n", record.peer, record.session_id),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_in_the_support_table() {
        let table = include_str!("../../../docs/faces/zookeeper.md");
        for word in WORDS {
            assert!(table.contains(&format!("`{word}`")), "{word}");
        }
    }

    #[test]
    fn a_whitelist_has_words_or_all() {
        assert_eq!(WordWhitelist::parse("*"), Some(WordWhitelist(WORDS.into())));
        assert_eq!(
            WordWhitelist::parse(" stat, ruok "),
            Some(WordWhitelist(["ruok", "stat"].into()))
        );
        assert_eq!(WordWhitelist::parse(""), Some(WordWhitelist(BTreeSet::new())));
        assert_eq!(WordWhitelist::parse("stat,nope"), None);
        assert_eq!(WordWhitelist::default().0.len(), 6);
    }
}
