//! MEMORY.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proteus_env::disk::resident_memory_bytes;
use proteus_kernel_api::cache::{self, Answer, Question, Reply, parse_integer};

use super::{help, unknown, word};
use crate::errors::{NOT_AN_INTEGER, SYNTAX, of_kernel};
use crate::reply::text;
use crate::session::Session;

const HELP: &[&str] = &[
    "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DOCTOR",
    "    Return memory problems reports.",
    "MALLOC-STATS",
    "    Return internal statistics report from the memory allocator.",
    "PURGE",
    "    Attempt to purge dirty pages for reclamation by the allocator.",
    "STATS",
    "    Return information about the memory usage of the server.",
    "USAGE <key> [SAMPLES <count>]",
    "    Return memory in bytes used by <key> and its value. Nested values are",
    "    sampled up to <count> times (default: 5, 0 means sample all).",
    "HELP",
    "    Print this help.",
];

fn bytes(count: u64) -> Reply {
    Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

impl Session {
    /// Learns what all keys take where this node does not have them all.
    pub(in crate::session) async fn learn_figures(&mut self) {
        if self.face.kernel.has_all() {
            self.figures = None;
            return;
        }
        if let Ok(Answer::Figures { used_bytes, counts }) =
            self.face.kernel.ask(Question::Figures).await
        {
            self.figures = Some((used_bytes, counts));
        }
    }

    /// What all keys take, and how many each database has and how many of them expire.
    pub(in crate::session) fn figures(&self) -> (u64, Vec<(u64, u64)>) {
        if let Some(figures) = &self.figures {
            return figures.clone();
        }
        let kernel = &self.face.kernel;
        let used = kernel.read(cache::used_bytes).unwrap_or(0);
        (used, kernel.read(cache::database_counts).unwrap_or_default())
    }

    pub(super) async fn memory(&self, arguments: &[Bytes]) -> Reply {
        match (word(arguments).as_slice(), arguments.len()) {
            (b"USAGE", 3 | 5) => {
                if let [_, _, _, option, samples] = arguments {
                    match parse_integer(samples) {
                        _ if !option.eq_ignore_ascii_case(b"SAMPLES") => return SYNTAX,
                        None => return NOT_AN_INTEGER,
                        Some(samples) if samples < 0 => return SYNTAX,
                        Some(_) => {}
                    }
                }
                let (db, key) = (self.db, &arguments[2]);
                let size = |answer| match answer {
                    Answer::Size(size) => Some(size),
                    _ => None,
                };
                let question = Question::Size { db, key: key.clone() };
                let size = self.face.kernel.read_or_ask(question, size).await;
                match size {
                    Ok(size) => size.map_or(Reply::Nil, bytes),
                    Err(error) => of_kernel(&error),
                }
            }
            (b"DOCTOR", 2) => self.memory_doctor(),
            (b"PURGE", 2) => Reply::OK,
            (b"MALLOC-STATS", 2) => text("Stats not supported for the current allocator"),
            (b"STATS", 2) => self.memory_stats(),
            (b"HELP", 2) => help(HELP),
            _ => unknown("memory", arguments),
        }
    }

    fn memory_doctor(&self) -> Reply {
        let (used, _) = self.figures();
        let maxmemory = self.face.hub.settings.maxmemory.load(Ordering::Relaxed);
        let report = if maxmemory > 0 && used > maxmemory / 10 * 9 {
            format!(
                "Sam, I detected a few issues in this Proteus node's memory:\n\n * The keys take {used} bytes of the {maxmemory} that maxmemory allows; with the policy {} {} keys have been evicted so far.\n",
                self.face.hub.settings.get("maxmemory-policy"),
                self.face.hub.evicted.load(Ordering::Relaxed),
            )
        } else {
            "Hi Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n".to_owned()
        };
        Reply::Verbatim("txt", Bytes::from(report))
    }

    fn memory_stats(&self) -> Reply {
        let resident = resident_memory_bytes().unwrap_or(0);
        let (used, counts) = self.figures();
        let keys = u64::try_from(self.key_count()).unwrap_or(0);
        let mut stats = vec![
            (text("peak.allocated"), bytes(self.face.hub.peak(used))),
            (text("total.allocated"), bytes(used)),
            (text("startup.allocated"), Reply::ZERO),
            (text("replication.backlog"), Reply::ZERO),
            (text("clients.slaves"), Reply::ZERO),
            (text("clients.normal"), Reply::ZERO),
            (text("cluster.links"), Reply::ZERO),
            (text("aof.buffer"), Reply::ZERO),
            (text("lua.caches"), Reply::ZERO),
            (text("functions.caches"), Reply::ZERO),
        ];
        for (db, (keys, expiring)) in counts.iter().enumerate().filter(|(_, (keys, _))| *keys > 0) {
            let tables = vec![
                (text("overhead.hashtable.main"), bytes(keys * 56)),
                (text("overhead.hashtable.expires"), bytes(expiring * 56)),
            ];
            stats.push((text(format!("db.{db}")), Reply::Map(tables)));
        }
        stats.extend([
            (text("overhead.total"), bytes(keys * 56)),
            (text("keys.count"), bytes(keys)),
            (text("keys.bytes-per-key"), bytes(used.checked_div(keys).unwrap_or(0))),
            (text("dataset.bytes"), bytes(used)),
            (text("dataset.percentage"), Reply::Double(100.0)),
            (text("peak.percentage"), Reply::Double(100.0)),
            (text("allocator.allocated"), bytes(used)),
            (text("allocator.active"), bytes(resident)),
            (text("allocator.resident"), bytes(resident)),
            (text("fragmentation"), Reply::Double(1.0)),
        ]);
        Reply::Map(stats)
    }
}
