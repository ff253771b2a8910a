//! CONFIG: parameters that clients ask for or set while the node runs.
//!
//! What is set is a setting of the cluster: durable, and the same on every node as soon as it is
//! acknowledged. Parameters of what this server does not have keep the values that hold here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use proteus_kernel_api::cache::{matches, settings};
use proteus_kernel_api::{Durability, Kernel, KernelError};
use tokio::sync::Notify;

use crate::events::{event_text, parse_events};
use crate::evict::Policy;
use crate::follow::PrimaryName;

/// What a setting's name begins with that holds a parameter.
pub(crate) const PREFIX: &str = "config/";

/// The primary that is followed, as `host port`; REPLICAOF sets it.
pub(crate) const PRIMARY: &str = "replicaof";

/// What a parameter may be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// What holds here and cannot be changed while the node runs.
    Fixed,
    /// Classes of keyspace events.
    Events,
    /// Bytes, with a unit.
    Memory,
    /// A whole number from the first to the second.
    Integer(i64, i64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// `yes` or `no`.
    Flag,
    /// Anything.
    Text,
}

const POLICIES: &[&str] = &[
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "noeviction",
];

const FLUSHING: &str = "appendfsync";

/// Its values; `no` is the second here.
pub(crate) const ALWAYS: &str = "always";
pub(crate) const EVERY_SECOND: &str = "everysec";

const ANY: Kind = Kind::Integer(0, i64::MAX);
const SMALL: Kind = Kind::Integer(0, i32::MAX as i64);

/// Parameters, what holds at the start, and what each may be.
const PARAMETERS: &[(&str, &str, Kind)] = &[
    ("acllog-max-len", "128", Kind::Fixed),
    ("activedefrag", "no", Kind::Fixed),
    ("active-expire-effort", "1", Kind::Integer(1, 10)),
    (FLUSHING, ALWAYS, Kind::Word(&[ALWAYS, EVERY_SECOND, "no"])),
    ("appendonly", "yes", Kind::Fixed),
    ("bind", "", Kind::Fixed),
    ("busy-reply-threshold", "5000", ANY),
    ("client-output-buffer-limit", "normal 0 0 0 slave 0 0 0 pubsub 33554432 0 0", Kind::Fixed),
    ("cluster-enabled", "no", Kind::Flag),
    ("databases", "16", Kind::Fixed),
    ("dbfilename", "dump.rdb", Kind::Fixed),
    ("dir", "", Kind::Fixed),
    ("hash-max-listpack-entries", "512", Kind::Fixed),
    ("hash-max-listpack-value", "64", Kind::Fixed),
    ("hash-max-ziplist-entries", "512", Kind::Fixed),
    ("hash-max-ziplist-value", "64", Kind::Fixed),
    ("hz", "10", Kind::Integer(1, 500)),
    ("io-threads", "1", Kind::Fixed),
    ("latency-monitor-threshold", "0", ANY),
    ("lazyfree-lazy-eviction", "no", Kind::Flag),
    ("lazyfree-lazy-expire", "no", Kind::Flag),
    ("lazyfree-lazy-server-del", "no", Kind::Flag),
    ("lazyfree-lazy-user-del", "no", Kind::Flag),
    ("lazyfree-lazy-user-flush", "no", Kind::Flag),
    ("lfu-decay-time", "1", SMALL),
    ("lfu-log-factor", "10", SMALL),
    ("list-compress-depth", "0", Kind::Fixed),
    ("list-max-listpack-size", "-2", Kind::Fixed),
    ("lua-time-limit", "5000", ANY),
    ("masterauth", "", Kind::Text),
    ("masteruser", "", Kind::Text),
    ("maxclients", "20000", Kind::Fixed),
    ("maxmemory", "0", Kind::Memory),
    ("maxmemory-clients", "0", Kind::Fixed),
    ("maxmemory-eviction-tenacity", "10", Kind::Integer(0, 100)),
    ("maxmemory-policy", "noeviction", Kind::Word(POLICIES)),
    ("maxmemory-samples", "5", Kind::Integer(1, 64)),
    ("min-replicas-to-write", "0", Kind::Fixed),
    ("notify-keyspace-events", "", Kind::Events),
    ("port", "6379", Kind::Fixed),
    ("proto-max-bulk-len", "33554432", Kind::Fixed),
    ("replica-read-only", "yes", Kind::Flag),
    (PRIMARY, "", Kind::Fixed),
    ("save", "", Kind::Fixed),
    ("set-max-intset-entries", "512", Kind::Fixed),
    ("set-max-listpack-entries", "128", Kind::Fixed),
    ("slowlog-log-slower-than", "10000", Kind::Integer(-1, i64::MAX)),
    ("slowlog-max-len", "128", Kind::Integer(0, 100_000)),
    ("stream-node-max-entries", "100", Kind::Fixed),
    ("tcp-keepalive", "300", Kind::Fixed),
    ("timeout", "0", SMALL),
    ("tracking-table-max-keys", "1000000", Kind::Fixed),
    ("zset-max-listpack-entries", "128", Kind::Fixed),
    ("zset-max-listpack-value", "64", Kind::Fixed),
    ("zset-max-ziplist-entries", "128", Kind::Fixed),
    ("zset-max-ziplist-value", "64", Kind::Fixed),
];

fn parameter(name: &str) -> Option<&'static (&'static str, &'static str, Kind)> {
    PARAMETERS.iter().find(|(other, _, _)| *other == name)
}

/// The parameters of a face.
#[derive(Default)]
pub(crate) struct Settings {
    /// Those that are not as at the start.
    values: RwLock<BTreeMap<&'static str, String>>,
    /// What requests look at.
    pub(crate) maxmemory: AtomicU64,
    policy: AtomicU8,
    pub(crate) samples: AtomicU32,
    pub(crate) lfu_log_factor: AtomicU32,
    pub(crate) lfu_decay_minutes: AtomicU32,
    pub(crate) slower_than_us: AtomicI64,
    pub(crate) slowlog_max: AtomicU32,
    pub(crate) latency_ms: AtomicU64,
    pub(crate) idle_s: AtomicU64,
    /// Clients that have not said otherwise are told which node leads the slots of their keys.
    pub(crate) redirects: AtomicBool,
    /// Which events are announced on channels.
    pub(crate) events: AtomicU32,
    /// What the node was started with.
    durability: Durability,
    /// Whether writes are acknowledged before they are flushed.
    relaxes: AtomicBool,
    /// A primary is followed, and nobody else may write meanwhile.
    follows: AtomicBool,
    is_read_only: AtomicBool,
    /// Wakes who follows.
    pub(crate) primary_changed: Notify,
    is_stale: AtomicBool,
}

impl Settings {
    /// `durability` is what the node was started with.
    pub(crate) fn new(durability: Durability) -> Settings {
        let made = Settings { durability, ..Settings::default() };
        for (name, _, _) in PARAMETERS {
            made.take_effect(name, made.at_start(name));
        }
        made
    }

    /// The primary that is to be followed.
    pub(crate) fn primary(&self) -> Option<PrimaryName> {
        if !self.follows.load(Ordering::Acquire) {
            return None;
        }
        PrimaryName::read(&self.get(PRIMARY))
    }

    /// Whether clients may not write, because a primary does.
    pub(crate) fn refuses_writes(&self) -> bool {
        self.follows.load(Ordering::Relaxed) && self.is_read_only.load(Ordering::Relaxed)
    }

    /// What holds for connections that do not choose.
    pub(crate) fn durability(&self) -> Durability {
        match self.relaxes.load(Ordering::Relaxed) {
            true => Durability::Relaxed,
            false => Durability::Flushed,
        }
    }

    /// What a parameter is as long as nobody has set it.
    fn at_start(&self, name: &str) -> &'static str {
        match (name, self.durability) {
            (FLUSHING, Durability::Relaxed) => EVERY_SECOND,
            _ => parameter(name).map_or("", |(_, value, _)| value),
        }
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy::from_number(self.policy.load(Ordering::Relaxed))
    }

    pub(crate) fn get(&self, name: &str) -> String {
        let values = self.values.read();
        values.get(name).map_or(self.at_start(name), String::as_str).to_owned()
    }

    /// Parameters whose names fit one of the patterns.
    pub(crate) fn matching(&self, patterns: &[Bytes]) -> Vec<(&'static str, String)> {
        let patterns: Vec<Vec<u8>> =
            patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
        let fits = |name: &str| patterns.iter().any(|pattern| matches(pattern, name.as_bytes()));
        let names = PARAMETERS.iter().map(|(name, _, _)| *name).filter(|name| fits(name));
        names.map(|name| (name, self.get(name))).collect()
    }

    /// Names and values, as they are to be shown, of what a client wants to set; all or none.
    pub(crate) fn checked(&self, pairs: &[Bytes]) -> Result<Vec<(&'static str, String)>, String> {
        let mut changes: Vec<(&'static str, String)> = Vec::new();
        for pair in pairs.chunks_exact(2) {
            let name = String::from_utf8_lossy(&pair[0]).to_lowercase();
            let value = String::from_utf8_lossy(&pair[1]).into_owned();
            let Some((known, _, kind)) = parameter(&name) else {
                return Err(format!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{}'",
                    name.replace(['\r', '\n'], " ")
                ));
            };
            let failed = |why: String| {
                format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}")
            };
            if changes.iter().any(|(other, _)| other == known) {
                return Err(failed("duplicate parameter".to_owned()));
            }
            let value = match kind {
                Kind::Fixed if self.get(known) == value => value,
                kind => normal(*kind, &value).map_err(failed)?,
            };
            changes.push((known, value));
        }
        Ok(changes)
    }

    /// Learns of a changed setting.
    pub(crate) fn note(&self, name: &str, value: Option<&Bytes>) {
        let Some((known, _, _)) = parameter(name) else { return };
        let mut values = self.values.write();
        match value.map(|value| String::from_utf8_lossy(value).into_owned()) {
            Some(value) => {
                self.take_effect(known, &value);
                values.insert(known, value);
            }
            None => {
                self.take_effect(known, self.at_start(known));
                values.remove(known);
            }
        }
        drop(values);
        self.primary_changed.notify_waiters();
    }

    /// Makes the next one who looks read all settings again.
    pub(crate) fn mark_stale(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    /// Takes over what the settings say, if it is not known to be that already.
    pub(crate) fn refresh(&self, kernel: &dyn Kernel) -> Result<(), KernelError> {
        if !self.is_stale.load(Ordering::Acquire) {
            return Ok(());
        }
        kernel.read(|view| {
            for (name, value) in settings(view.state, PREFIX)? {
                self.note(name.strip_prefix(PREFIX).unwrap_or_default(), Some(&value));
            }
            self.is_stale.store(false, Ordering::Release);
            Ok(())
        })
    }

    fn take_effect(&self, name: &str, value: &str) {
        let small = || value.parse().unwrap_or(0);
        let number = || value.parse().unwrap_or(0);
        match name {
            "maxmemory" => self.maxmemory.store(number(), Ordering::Relaxed),
            "maxmemory-policy" => {
                self.policy.store(Policy::from_name(value) as u8, Ordering::Relaxed);
            }
            "maxmemory-samples" => self.samples.store(small(), Ordering::Relaxed),
            "lfu-log-factor" => self.lfu_log_factor.store(small(), Ordering::Relaxed),
            "lfu-decay-time" => self.lfu_decay_minutes.store(small(), Ordering::Relaxed),
            "slowlog-log-slower-than" => {
                self.slower_than_us.store(value.parse().unwrap_or(-1), Ordering::Relaxed);
            }
            "slowlog-max-len" => self.slowlog_max.store(small(), Ordering::Relaxed),
            "latency-monitor-threshold" => self.latency_ms.store(number(), Ordering::Relaxed),
            FLUSHING => self.relaxes.store(value != ALWAYS, Ordering::Relaxed),
            "cluster-enabled" => self.redirects.store(value == "yes", Ordering::Relaxed),
            PRIMARY => self.follows.store(!value.is_empty(), Ordering::Release),
            "replica-read-only" => self.is_read_only.store(value == "yes", Ordering::Relaxed),
            "timeout" => self.idle_s.store(number(), Ordering::Relaxed),
            "notify-keyspace-events" => {
                self.events.store(parse_events(value).unwrap_or(0), Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// A value as it is to be shown.
fn normal(kind: Kind, value: &str) -> Result<String, String> {
    match kind {
        Kind::Text => Ok(value.to_owned()),
        Kind::Fixed => Err("can't set immutable config".to_owned()),
        Kind::Events => match parse_events(value) {
            Some(events) => Ok(event_text(events)),
            None => Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_owned()),
        },
        Kind::Memory => match memory(value) {
            Some(bytes) => Ok(bytes.to_string()),
            None => Err("argument must be a memory value".to_owned()),
        },
        Kind::Integer(least, greatest) => match value.parse::<i64>() {
            Ok(number) if (least..=greatest).contains(&number) => Ok(number.to_string()),
            Ok(_) => Err(format!("argument must be between {least} and {greatest} inclusive")),
            Err(_) => Err("argument couldn't be parsed into an integer".to_owned()),
        },
        Kind::Word(words) => match words.iter().find(|word| word.eq_ignore_ascii_case(value)) {
            Some(word) => Ok((*word).to_owned()),
            None => Err(format!("argument(s) must be one of the following: {}", words.join(", "))),
        },
        Kind::Flag => match value.to_ascii_lowercase().as_str() {
            flag @ ("yes" | "no") => Ok(flag.to_owned()),
            _ => Err("argument must be 'yes' or 'no'".to_owned()),
        },
    }
}

/// Bytes by a number with Redis' units: `1k` is 1000, `1kb` is 1024.
fn memory(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(settings: &Settings, name: &str, value: &str) -> Result<String, String> {
        let pair = [name, value].map(|part| Bytes::copy_from_slice(part.as_bytes()));
        let (known, value) = settings.checked(&pair)?.remove(0);
        settings.note(known, Some(&Bytes::from(value)));
        Ok(settings.get(name))
    }

    #[test]
    fn parameters_are_in_order_and_take_their_own_values() {
        let settings = Settings::new(Durability::Flushed);
        for (name, value, kind) in PARAMETERS {
            assert_eq!(set(&settings, name, value).as_deref(), Ok(*value), "{name} {kind:?}");
        }
    }

    #[test]
    fn values_are_checked_and_shown_as_redis_shows_them() {
        let settings = Settings::new(Durability::Flushed);
        assert_eq!(set(&settings, "maxmemory", "100mb").as_deref(), Ok("104857600"));
        assert_eq!(settings.maxmemory.load(Ordering::Relaxed), 104_857_600);
        assert_eq!(set(&settings, "maxmemory-policy", "ALLKEYS-LRU").as_deref(), Ok("allkeys-lru"));
        assert_eq!(settings.policy(), Policy::from_name("allkeys-lru"));
        assert_eq!(set(&settings, "notify-keyspace-events", "KEA").as_deref(), Ok("AKE"));
        for (name, value, why) in [
            ("maxmemory", "10zb", "argument must be a memory value"),
            ("maxmemory-samples", "0", "argument must be between 1 and 64 inclusive"),
            ("maxmemory-samples", "x", "argument couldn't be parsed into an integer"),
            ("lazyfree-lazy-expire", "maybe", "argument must be 'yes' or 'no'"),
            ("port", "1", "can't set immutable config"),
        ] {
            let refused = set(&settings, name, value).unwrap_err();
            assert!(refused.ends_with(why), "{refused}");
        }
        assert!(set(&settings, "nonsense", "1").unwrap_err().contains("Unknown option"));
    }
}
