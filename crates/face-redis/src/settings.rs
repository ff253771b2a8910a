//! CONFIG: parameters that clients ask for or may set while the node runs.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_kernel_api::cache::matches;

use crate::hub::{ALL_CLASSES, Hub, KEYEVENT, KEYSPACE, event_bits};

/// Parameters and what holds at the start.
const PARAMETERS: &[(&str, &str)] = &[
    ("appendfsync", "always"),
    ("appendonly", "yes"),
    ("bind", ""),
    ("client-output-buffer-limit", "normal 0 0 0 slave 0 0 0 pubsub 33554432 0 0"),
    ("cluster-enabled", "no"),
    ("databases", "16"),
    ("dir", ""),
    ("hash-max-listpack-entries", "512"),
    ("hash-max-listpack-value", "64"),
    ("hz", "10"),
    ("list-max-listpack-size", "-2"),
    ("maxclients", "20000"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("notify-keyspace-events", ""),
    ("port", "6379"),
    ("proto-max-bulk-len", "33554432"),
    ("requirepass", ""),
    ("save", ""),
    ("set-max-intset-entries", "512"),
    ("set-max-listpack-entries", "128"),
    ("slowlog-log-slower-than", "-1"),
    ("timeout", "0"),
    ("tracking-table-max-keys", "1000000"),
    ("zset-max-listpack-entries", "128"),
    ("zset-max-listpack-value", "64"),
];

/// The parameters of a face.
pub(crate) struct Settings {
    values: Mutex<Vec<(&'static str, String)>>,
}

impl Settings {
    pub(crate) fn new() -> Settings {
        let values = PARAMETERS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Settings { values: Mutex::new(values) }
    }

    pub(crate) fn get(&self, name: &str) -> String {
        let values = self.values.lock();
        values.iter().find(|(other, _)| *other == name).map_or_else(String::new, |(_, v)| v.clone())
    }

    /// Parameters whose names fit one of the patterns.
    pub(crate) fn matching(&self, patterns: &[Bytes]) -> Vec<(&'static str, String)> {
        let patterns: Vec<Vec<u8>> =
            patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
        let fits = |name: &str| patterns.iter().any(|pattern| matches(pattern, name.as_bytes()));
        self.values.lock().iter().filter(|(name, _)| fits(name)).cloned().collect()
    }

    /// Sets parameters, all or none. What has no effect here may be set to what holds only.
    pub(crate) fn set(&self, pairs: &[Bytes], hub: &Hub) -> Result<(), String> {
        let mut values = self.values.lock();
        let mut changes = Vec::new();
        for pair in pairs.chunks_exact(2) {
            let name = String::from_utf8_lossy(&pair[0]).to_lowercase();
            let value = String::from_utf8_lossy(&pair[1]).into_owned();
            let Some(at) = values.iter().position(|(other, _)| *other == name) else {
                return Err(format!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
                ));
            };
            let failed = |why: &str| {
                Err(format!(
                    "ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"
                ))
            };
            let value = match name.as_str() {
                "notify-keyspace-events" => match parse_events(&value) {
                    Some(events) => event_text(events),
                    None => return failed("Invalid event class character. Use 'Ag$lshzxeKEtmdn'."),
                },
                _ if values[at].1 == value => value,
                _ => return failed("it is fixed here; see `proteus config`"),
            };
            changes.push((at, value));
        }
        for (at, value) in changes {
            if values[at].0 == "notify-keyspace-events" {
                hub.events.store(parse_events(&value).unwrap_or(0), Ordering::Relaxed);
            }
            values[at].1 = value;
        }
        Ok(())
    }
}

fn parse_events(text: &str) -> Option<u32> {
    let mut events = 0;
    for letter in text.bytes() {
        if letter == b'A' {
            events |= ALL_CLASSES.iter().filter_map(|class| event_bits(*class)).sum::<u32>();
        } else {
            events |= event_bits(letter)?;
        }
    }
    Some(events)
}

/// The flags in the order in which Redis shows them.
fn event_text(events: u32) -> String {
    let has = |letter: u8| event_bits(letter).is_some_and(|bit| events & bit != 0);
    let mut text = String::new();
    if ALL_CLASSES.iter().all(|class| has(*class)) {
        text.push('A');
    } else {
        text.extend(b"g$lshzxetd".iter().filter(|class| has(**class)).map(|class| *class as char));
    }
    for (letter, bit) in [('K', KEYSPACE), ('E', KEYEVENT)] {
        if events & bit != 0 {
            text.push(letter);
        }
    }
    for letter in [b'm', b'n'] {
        if has(letter) {
            text.push(letter as char);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_as_redis_shows_them() {
        for (given, shown) in [("KEA", "AKE"), ("Ex", "xE"), ("", ""), ("Kg$n", "g$Kn")] {
            assert_eq!(event_text(parse_events(given).unwrap()), shown);
        }
        assert_eq!(parse_events("q"), None);
    }
}
