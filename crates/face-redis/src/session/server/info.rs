//! INFO.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proteus_env::disk::resident_memory_bytes;
use proteus_kernel_api::cache::Reply;

use crate::REDIS_VERSION;
use crate::hub::Subscription;
use crate::session::Session;
use crate::table;

/// Sections that are told only where they are asked for, or all are.
const EXTRA: &[&str] = &["Commandstats", "Latencystats"];

pub(super) fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "K", "M", "G"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{value:.2}{unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.2}T")
}

/// Lines of a section.
fn lines<const N: usize>(pairs: [(&str, String); N]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        // Writing to a string cannot fail.
        let _ = write!(out, "{name}:{value}\r\n");
    }
    out
}

fn text(value: impl ToString) -> String {
    value.to_string()
}

impl Session {
    /// The sections asked for, the usual ones if none is named. Names of unknown sections are passed over,
    /// as in Redis.
    pub(super) fn info(&self, arguments: &[Bytes]) -> Reply {
        let asked: Vec<String> = arguments
            .iter()
            .skip(1)
            .map(|name| String::from_utf8_lossy(name).to_lowercase())
            .collect();
        let names = |word: &str| asked.iter().any(|name| name == word);
        let usual = asked.is_empty() || names("default");
        let all = names("all") || names("everything");
        let mut out = String::new();
        for (name, section) in SECTIONS {
            let is_wanted = all
                || usual && !EXTRA.contains(name)
                || asked.iter().any(|asked| asked.eq_ignore_ascii_case(name));
            if is_wanted {
                let gap = if out.is_empty() { "" } else { "\r\n" };
                // Writing to a string cannot fail.
                let _ = write!(out, "{gap}# {name}\r\n{}", section(self));
            }
        }
        Reply::Verbatim("txt", Bytes::from(out))
    }

    fn info_server(&self) -> String {
        let face = &self.face;
        let uptime_s = face.clock.elapsed().as_secs();
        lines([
            ("redis_version", text(REDIS_VERSION)),
            ("redis_git_sha1", text("00000000")),
            ("redis_git_dirty", text("0")),
            ("redis_build_id", text("0")),
            ("redis_mode", text(self.mode())),
            ("proteus_version", text(env!("CARGO_PKG_VERSION"))),
            ("os", text(std::env::consts::OS)),
            ("arch_bits", text(usize::BITS)),
            ("multiplexing_api", text("epoll")),
            ("process_id", text(std::process::id())),
            ("process_supervised", text("no")),
            ("run_id", format!("{:040x}", face.run_id)),
            ("tcp_port", text(self.connection.local.port())),
            ("server_time_usec", text(face.clock.wall_ms() * 1000)),
            ("uptime_in_seconds", text(uptime_s)),
            ("uptime_in_days", text(uptime_s / 86_400)),
            ("hz", face.hub.settings.get("hz")),
            ("configured_hz", face.hub.settings.get("hz")),
            ("lru_clock", text(face.clock.wall_ms() / 1000 % (1 << 24))),
            ("executable", String::new()),
            ("config_file", String::new()),
            ("io_threads_active", text("0")),
        ])
    }

    fn info_clients(&self) -> String {
        let clients = self.face.hub.clients();
        let count = |fits: &dyn Fn(&crate::client::About) -> bool| {
            text(clients.iter().filter(|client| fits(&client.about.lock())).count())
        };
        lines([
            ("connected_clients", text(clients.len())),
            ("cluster_connections", text("0")),
            ("maxclients", self.face.hub.settings.get("maxclients")),
            ("client_recent_max_input_buffer", text("0")),
            ("client_recent_max_output_buffer", text("0")),
            ("blocked_clients", count(&|about| about.is_blocked)),
            ("tracking_clients", count(&|about| about.is_tracking)),
            ("pubsub_clients", count(&|a| a.channels + a.patterns + a.sharded > 0)),
            ("watching_clients", count(&|about| about.watched > 0)),
            ("clients_in_timeout_table", text("0")),
            (
                "total_watched_keys",
                text(clients.iter().map(|c| c.about.lock().watched).sum::<usize>()),
            ),
            ("total_blocking_keys", text(self.face.hub.blocked.key_count())),
        ])
    }

    fn info_memory(&self) -> String {
        let settings = &self.face.hub.settings;
        let (used, _) = self.figures();
        let resident = resident_memory_bytes().unwrap_or(0);
        let peak = self.face.hub.peak(used);
        let maxmemory = settings.maxmemory.load(Ordering::Relaxed);
        let ratio = format!("{:.2}", resident as f64 / used.max(1) as f64);
        lines([
            ("used_memory", text(used)),
            ("used_memory_human", human(used)),
            ("used_memory_rss", text(resident)),
            ("used_memory_rss_human", human(resident)),
            ("used_memory_peak", text(peak)),
            ("used_memory_peak_human", human(peak)),
            ("used_memory_peak_perc", format!("{:.2}%", used as f64 / peak.max(1) as f64 * 100.0)),
            ("used_memory_overhead", text("0")),
            ("used_memory_startup", text("0")),
            ("used_memory_dataset", text(used)),
            ("used_memory_dataset_perc", text("100.00%")),
            ("used_memory_lua", text("0")),
            ("used_memory_scripts", text("0")),
            ("maxmemory", text(maxmemory)),
            ("maxmemory_human", human(maxmemory)),
            ("maxmemory_policy", settings.get("maxmemory-policy")),
            ("allocator_frag_ratio", text("1.00")),
            ("mem_fragmentation_ratio", ratio),
            ("mem_fragmentation_bytes", text(resident.saturating_sub(used))),
            ("mem_not_counted_for_evict", text("0")),
            ("mem_replication_backlog", text("0")),
            ("mem_clients_slaves", text("0")),
            ("mem_clients_normal", text("0")),
            ("mem_aof_buffer", text("0")),
            ("mem_allocator", text("system")),
            ("active_defrag_running", text("0")),
            ("lazyfree_pending_objects", text("0")),
        ])
    }

    fn info_persistence(&self) -> String {
        // What was acknowledged is on disk, so the last save is now.
        lines([
            ("loading", text("0")),
            ("async_loading", text("0")),
            ("rdb_changes_since_last_save", text("0")),
            ("rdb_bgsave_in_progress", text("0")),
            ("rdb_last_save_time", text(self.face.clock.wall_ms() / 1000)),
            ("rdb_last_bgsave_status", text("ok")),
            ("rdb_last_bgsave_time_sec", text("0")),
            ("rdb_current_bgsave_time_sec", text("-1")),
            ("rdb_saves", text("0")),
            ("aof_enabled", text("1")),
            ("aof_rewrite_in_progress", text("0")),
            ("aof_rewrite_scheduled", text("0")),
            ("aof_last_rewrite_time_sec", text("-1")),
            ("aof_current_rewrite_time_sec", text("-1")),
            ("aof_last_bgrewrite_status", text("ok")),
            ("aof_last_write_status", text("ok")),
        ])
    }

    fn info_stats(&self) -> String {
        let hub = &self.face.hub;
        let load = |number: &std::sync::atomic::AtomicU64| text(number.load(Ordering::Relaxed));
        lines([
            ("total_connections_received", load(&hub.connections)),
            ("total_commands_processed", load(&hub.commands)),
            ("instantaneous_ops_per_sec", text("0")),
            ("total_net_input_bytes", text("0")),
            ("total_net_output_bytes", text("0")),
            ("rejected_connections", text("0")),
            ("sync_full", text("0")),
            ("sync_partial_ok", text("0")),
            ("sync_partial_err", text("0")),
            ("expired_keys", load(&hub.expired)),
            ("evicted_keys", load(&self.face.hub.evicted)),
            ("evicted_clients", text("0")),
            ("keyspace_hits", load(&hub.hits)),
            ("keyspace_misses", load(&hub.misses)),
            ("pubsub_channels", text(hub.channels(Subscription::Channel, None).len())),
            ("pubsub_patterns", text(hub.pattern_count())),
            ("pubsubshard_channels", text(hub.channels(Subscription::Shard, None).len())),
            ("latest_fork_usec", text("0")),
            ("total_forks", text("0")),
            ("total_error_replies", load(&hub.errors)),
            ("acl_access_denied_auth", load(&hub.users.denied_auth)),
            ("acl_access_denied_cmd", load(&hub.users.denied_command)),
            ("acl_access_denied_key", load(&hub.users.denied_key)),
            ("acl_access_denied_channel", load(&hub.users.denied_channel)),
        ])
    }

    fn info_cpu(&self) -> String {
        let (user_s, system_s) = proteus_env::disk::processor_seconds().unwrap_or((0.0, 0.0));
        lines([
            ("used_cpu_sys", format!("{system_s:.6}")),
            ("used_cpu_user", format!("{user_s:.6}")),
            ("used_cpu_sys_children", text("0.000000")),
            ("used_cpu_user_children", text("0.000000")),
        ])
    }

    fn info_commands(&self) -> String {
        let mut out = String::new();
        for found in table::in_order() {
            let Some(times) = self.face.slow.times(found.index()) else { continue };
            let calls = times.calls.load(Ordering::Relaxed);
            let rejected = times.rejected.load(Ordering::Relaxed);
            if calls + rejected > 0 {
                let us = times.took_us.load(Ordering::Relaxed);
                // Writing to a string cannot fail.
                let _ = write!(
                    out,
                    "cmdstat_{}:calls={calls},usec={us},usec_per_call={:.2},rejected_calls={rejected},failed_calls={}\r\n",
                    found.name(),
                    us as f64 / calls.max(1) as f64,
                    times.failed.load(Ordering::Relaxed),
                );
            }
        }
        out
    }

    fn info_errors(&self) -> String {
        let mut out = String::new();
        for (code, count) in self.face.hub.errors_by_code() {
            // Writing to a string cannot fail.
            let _ = write!(out, "errorstat_{code}:count={count}\r\n");
        }
        out
    }

    fn info_latencies(&self) -> String {
        let mut out = String::new();
        for found in table::in_order() {
            let Some(times) = self.face.slow.times(found.index()) else { continue };
            let histogram = times.histogram();
            let Some((_, calls)) = histogram.last() else { continue };
            let at = |share: f64| {
                let wanted = (*calls as f64 * share).ceil() as u64;
                histogram.iter().find(|(_, count)| *count >= wanted).map_or(0, |(us, _)| *us)
            };
            // Writing to a string cannot fail.
            let _ = write!(
                out,
                "latency_percentiles_usec_{}:p50={}.000,p99={}.000,p99.9={}.000\r\n",
                found.name(),
                at(0.5),
                at(0.99),
                at(0.999),
            );
        }
        out
    }

    fn info_keyspace(&self) -> String {
        let (_, counts) = self.figures();
        let filled = counts.iter().enumerate().filter(|(_, (keys, _))| *keys > 0);
        filled
            .map(|(db, (keys, expires))| {
                format!("db{db}:keys={keys},expires={expires},avg_ttl=0,subexpiry=0\r\n")
            })
            .collect()
    }
}

type Section = fn(&Session) -> String;

const SECTIONS: &[(&str, Section)] = &[
    ("Server", Session::info_server),
    ("Clients", Session::info_clients),
    ("Memory", Session::info_memory),
    ("Persistence", Session::info_persistence),
    ("Stats", Session::info_stats),
    ("Replication", Session::info_replication),
    ("CPU", Session::info_cpu),
    ("Modules", |_| String::new()),
    ("Commandstats", Session::info_commands),
    ("Errorstats", Session::info_errors),
    ("Latencystats", Session::info_latencies),
    ("Cluster", |session| lines([("cluster_enabled", text(u8::from(session.redirects())))])),
    ("Keyspace", Session::info_keyspace),
];
