//! What INFO tells.

use std::fmt::Write;

use proteus_env::disk::resident_memory_bytes;

use crate::REDIS_VERSION;

/// Figures that INFO reports.
pub(crate) struct Figures {
    pub(crate) uptime_s: u64,
    pub(crate) connected_clients: usize,
    pub(crate) key_count: i64,
    pub(crate) tcp_port: u16,
}

/// The sections asked for, all if none is named. Names of unknown sections are passed over, as in
/// Redis.
pub(crate) fn render(figures: &Figures, asked: &[String]) -> String {
    let everything = ["all", "default", "everything"];
    let all = asked.is_empty() || asked.iter().any(|name| everything.contains(&name.as_str()));
    let memory_bytes = resident_memory_bytes().unwrap_or(0);
    let sections = [
        (
            "Server",
            format!(
                "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nproteus_version:{}\r\nos:{}\r\narch_bits:64\r\nprocess_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{}\r\n",
                env!("CARGO_PKG_VERSION"),
                std::env::consts::OS,
                std::process::id(),
                figures.tcp_port,
                figures.uptime_s,
            ),
        ),
        ("Clients", format!("connected_clients:{}\r\n", figures.connected_clients)),
        (
            "Memory",
            format!(
                "used_memory:{memory_bytes}\r\nused_memory_rss:{memory_bytes}\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"
            ),
        ),
        ("Persistence", "loading:0\r\naof_enabled:1\r\naof_last_write_status:ok\r\n".to_owned()),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Cluster", "cluster_enabled:0\r\n".to_owned()),
        (
            "Keyspace",
            match figures.key_count {
                0 => String::new(),
                count => format!("db0:keys={count}\r\n"),
            },
        ),
    ];
    let mut text = String::new();
    for (name, body) in sections {
        if all || asked.iter().any(|asked| asked.eq_ignore_ascii_case(name)) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{gap}# {name}\r\n{body}");
        }
    }
    text
}
