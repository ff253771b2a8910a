//! SLOWLOG and LATENCY.

use bytes::Bytes;
use proteus_kernel_api::cache::{Reply, parse_integer};

use super::{help, unknown, word};
use crate::errors::wrong_arity;
use crate::reply::text;
use crate::session::Session;
use crate::slow::SlowEntry;
use crate::table;

const SLOWLOG_HELP: &[&str] = &[
    "SLOWLOG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET [<count>]",
    "    Return top <count> entries from the slowlog (default: 10, -1 mean all).",
    "    Entries are made of:",
    "    id, timestamp, time in microseconds, arguments array, client IP and port,",
    "    client name",
    "LEN",
    "    Return the length of the slowlog.",
    "RESET",
    "    Reset the slowlog.",
    "HELP",
    "    Print this help.",
];

const LATENCY_HELP: &[&str] = &[
    "LATENCY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DOCTOR",
    "    Return a human readable latency analysis report.",
    "GRAPH <event>",
    "    Return an ASCII latency graph for the <event> class.",
    "HISTORY <event>",
    "    Return time-latency samples for the <event> class.",
    "LATEST",
    "    Return the latest latency samples for all events.",
    "RESET [<event> ...]",
    "    Reset latency data of one or more <event> classes.",
    "    (default: reset all data for all event classes)",
    "HISTOGRAM [COMMAND ...]",
    "    Return a cumulative distribution of latencies in the format of a histogram for the specified command names.",
    "    If no commands are specified then all histograms are replied",
    "HELP",
    "    Print this help.",
];

fn number(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn slow_entry(entry: SlowEntry) -> Reply {
    Reply::Array(vec![
        number(entry.id),
        number(entry.at_s),
        number(entry.took_us),
        Reply::bulks(entry.arguments),
        text(entry.client),
        Reply::Bulk(entry.client_name),
    ])
}

impl Session {
    pub(super) fn slowlog(&self, arguments: &[Bytes]) -> Reply {
        let slow = &self.face.slow;
        match (word(arguments).as_slice(), arguments.len()) {
            (b"GET", 2 | 3) => {
                let count = match arguments.get(2).map(|count| parse_integer(count)) {
                    None => 10,
                    Some(Some(-1)) => usize::MAX,
                    Some(Some(count)) if count >= 0 => usize::try_from(count).unwrap_or(usize::MAX),
                    Some(_) => {
                        return Reply::error("ERR count should be greater than or equal to -1");
                    }
                };
                Reply::Array(slow.entries(count).into_iter().map(slow_entry).collect())
            }
            (b"LEN", 2) => Reply::count(slow.entry_count()),
            (b"RESET", 2) => {
                slow.forget();
                Reply::OK
            }
            (b"HELP", 2) => help(SLOWLOG_HELP),
            (b"GET" | b"LEN" | b"RESET" | b"HELP", _) => {
                let word = String::from_utf8_lossy(&word(arguments)).to_lowercase();
                wrong_arity(&format!("slowlog|{word}"))
            }
            _ => unknown("slowlog", arguments),
        }
    }

    pub(super) fn latency(&self, arguments: &[Bytes]) -> Reply {
        let slow = &self.face.slow;
        match (word(arguments).as_slice(), arguments.len()) {
            (b"LATEST", 2) => {
                let row = |(event, (at_s, ms), greatest): (&'static str, (u64, u64), u64)| {
                    Reply::Array(vec![text(event), number(at_s), number(ms), number(greatest)])
                };
                Reply::Array(slow.latest().into_iter().map(row).collect())
            }
            (b"HISTORY", 3) => {
                let samples = slow.latencies(&String::from_utf8_lossy(&arguments[2]));
                let row = |(at_s, ms)| Reply::Array(vec![number(at_s), number(ms)]);
                Reply::Array(samples.into_iter().map(row).collect())
            }
            (b"GRAPH", 3) => self.latency_graph(&arguments[2]),
            (b"RESET", _) => {
                Reply::count(slow.reset_latencies(arguments.get(2..).unwrap_or_default()))
            }
            (b"HISTOGRAM", _) => self.histograms(arguments.get(2..).unwrap_or_default()),
            (b"DOCTOR", 2) => self.latency_doctor(),
            (b"HELP", 2) => help(LATENCY_HELP),
            (b"LATEST" | b"HISTORY" | b"GRAPH" | b"DOCTOR" | b"HELP", _) => {
                let word = String::from_utf8_lossy(&word(arguments)).to_lowercase();
                wrong_arity(&format!("latency|{word}"))
            }
            _ => unknown("latency", arguments),
        }
    }

    fn latency_graph(&self, event: &[u8]) -> Reply {
        let event = String::from_utf8_lossy(event).replace(['\r', '\n'], " ");
        let samples = self.face.slow.latencies(&event);
        let Some(greatest) = samples.iter().map(|(_, ms)| *ms).max() else {
            return Reply::Error(format!("ERR No samples available for event '{event}'").into());
        };
        let least = samples.iter().map(|(_, ms)| *ms).min().unwrap_or(0);
        let mut graph = format!("{event} - high {greatest} ms, low {least} ms\n");
        graph.push_str(&"-".repeat(80));
        graph.push('\n');
        for (at_s, ms) in samples {
            let width = usize::try_from(ms * 60 / greatest.max(1)).unwrap_or(60);
            graph.push_str(&format!("{at_s} {} {ms} ms\n", "#".repeat(width.max(1))));
        }
        Reply::Verbatim("txt", Bytes::from(graph))
    }

    fn latency_doctor(&self) -> Reply {
        let latest = self.face.slow.latest();
        let report = if self.face.hub.settings.get("latency-monitor-threshold") == "0" {
            "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Redis instance. You may use \"CONFIG SET latency-monitor-threshold <milliseconds>.\" in order to enable it.\n".to_owned()
        } else if latest.is_empty() {
            "Dave, no latency spike was observed during the lifetime of this Redis instance, not in the slightest bit. I honestly think you ought to sit down calmly, take a stress pill, and think things over.\n".to_owned()
        } else {
            let lines = latest.into_iter().map(|(event, (_, ms), greatest)| {
                format!(
                    "{event}: last {ms} ms, at most {greatest} ms; SLOWLOG GET names the commands\n"
                )
            });
            lines.collect()
        };
        Reply::Verbatim("txt", Bytes::from(report))
    }

    fn histograms(&self, names: &[Bytes]) -> Reply {
        let wanted: Vec<table::Found> = if names.is_empty() {
            table::all()
        } else {
            names.iter().filter_map(|name| table::find(name)).collect()
        };
        let mut rows = Vec::new();
        for found in wanted {
            let Some(times) = self.face.slow.times(found.index()) else { continue };
            let histogram = times.histogram();
            let Some((_, calls)) = histogram.last() else { continue };
            let pairs = histogram.iter().map(|(us, count)| (number(*us), number(*count))).collect();
            let about =
                vec![(text("calls"), number(*calls)), (text("histogram_usec"), Reply::Map(pairs))];
            rows.push((text(found.name()), Reply::Map(about)));
        }
        Reply::Map(rows)
    }
}
