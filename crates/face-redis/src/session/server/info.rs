//! INFO.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proteus_env::disk::resident_memory_bytes;
use proteus_kernel_api::cache::{self, Reply};

use crate::REDIS_VERSION;
use crate::session::Session;

fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "K", "M", "G"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{value:.2}{unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.2}T")
}

impl Session {
    /// The sections asked for, all if none is named. Names of unknown sections are passed over, as in
    /// Redis.
    pub(super) fn info(&self, arguments: &[Bytes]) -> Reply {
        let asked: Vec<String> = arguments
            .iter()
            .skip(1)
            .map(|name| String::from_utf8_lossy(name).to_lowercase())
            .collect();
        let everything = ["all", "default", "everything"];
        let all = asked.is_empty() || asked.iter().any(|name| everything.contains(&name.as_str()));
        let mut out = String::new();
        for (name, body) in self.sections() {
            if all || asked.iter().any(|asked| asked.eq_ignore_ascii_case(name)) {
                let gap = if out.is_empty() { "" } else { "\r\n" };
                // Writing to a string cannot fail.
                let _ = write!(out, "{gap}# {name}\r\n{body}");
            }
        }
        Reply::Verbatim("txt", Bytes::from(out))
    }

    fn sections(&self) -> Vec<(&'static str, String)> {
        let face = &self.face;
        let uptime_s = face.clock.elapsed().as_secs();
        let memory_bytes = resident_memory_bytes().unwrap_or(0);
        let clients = face.hub.clients();
        let blocked = clients.iter().filter(|client| client.about.lock().is_blocked).count();
        let tracking = clients.iter().filter(|client| client.about.lock().is_tracking).count();
        let counts = face.kernel.read(cache::database_counts).unwrap_or_default();
        let keyspace: String = counts
            .iter()
            .enumerate()
            .filter(|(_, (keys, _))| *keys > 0)
            .map(|(db, (keys, expires))| {
                format!("db{db}:keys={keys},expires={expires},avg_ttl=0,subexpiry=0\r\n")
            })
            .collect();
        vec![
            (
                "Server",
                format!(
                    "redis_version:{REDIS_VERSION}\r\nredis_git_sha1:00000000\r\nredis_git_dirty:0\r\nredis_mode:standalone\r\nproteus_version:{}\r\nos:{}\r\narch_bits:64\r\nprocess_id:{}\r\nrun_id:{:040x}\r\ntcp_port:{}\r\nserver_time_usec:{}\r\nuptime_in_seconds:{uptime_s}\r\nuptime_in_days:{}\r\nhz:10\r\nconfigured_hz:10\r\n",
                    env!("CARGO_PKG_VERSION"),
                    std::env::consts::OS,
                    std::process::id(),
                    face.run_id,
                    self.connection.local.port(),
                    face.clock.wall_ms() * 1000,
                    uptime_s / 86_400,
                ),
            ),
            (
                "Clients",
                format!(
                    "connected_clients:{}\r\nmaxclients:20000\r\nblocked_clients:{blocked}\r\ntracking_clients:{tracking}\r\npubsub_clients:0\r\nwatching_clients:0\r\n",
                    clients.len()
                ),
            ),
            (
                "Memory",
                format!(
                    "used_memory:{memory_bytes}\r\nused_memory_human:{human}\r\nused_memory_rss:{memory_bytes}\r\nused_memory_rss_human:{human}\r\nused_memory_peak:{memory_bytes}\r\nused_memory_peak_human:{human}\r\nmaxmemory:{}\r\nmaxmemory_human:0B\r\nmaxmemory_policy:{}\r\nmem_fragmentation_ratio:1.00\r\nmem_allocator:system\r\n",
                    face.settings.get("maxmemory"),
                    face.settings.get("maxmemory-policy"),
                    human = human(memory_bytes),
                ),
            ),
            (
                "Persistence",
                "loading:0\r\nasync_loading:0\r\nrdb_changes_since_last_save:0\r\nrdb_bgsave_in_progress:0\r\nrdb_last_save_time:0\r\nrdb_last_bgsave_status:ok\r\naof_enabled:1\r\naof_rewrite_in_progress:0\r\naof_last_bgrewrite_status:ok\r\naof_last_write_status:ok\r\n".to_owned(),
            ),
            (
                "Stats",
                format!(
                    "total_connections_received:{}\r\ntotal_commands_processed:{}\r\npubsub_channels:{}\r\npubsub_patterns:{}\r\n",
                    face.hub.connections.load(Ordering::Relaxed),
                    face.hub.commands.load(Ordering::Relaxed),
                    face.hub.channels(crate::hub::Subscription::Channel, None).len(),
                    face.hub.pattern_count(),
                ),
            ),
            (
                "Replication",
                format!(
                    "role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\nmaster_replid:{:040x}\r\nmaster_repl_offset:0\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:0\r\n",
                    face.run_id
                ),
            ),
            ("Modules", String::new()),
            ("Errorstats", String::new()),
            ("Cluster", "cluster_enabled:0\r\n".to_owned()),
            ("Keyspace", keyspace),
        ]
    }
}
