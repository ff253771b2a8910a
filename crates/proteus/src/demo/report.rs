//! What the demo tells the person who runs it.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use proteus_env::{Clock, SystemClock};

use super::cluster::Ports;
use super::dataset::CREDIT;
use super::producer::Produced;
use super::verify::Check;

/// Figures gathered on the way.
pub(crate) struct Report {
    clock: SystemClock,
    events: usize,
    sensor_count: usize,
    ready_after: Duration,
    recovered_after: Duration,
    peak_memory_bytes: u64,
    produce: String,
    consume: String,
}

impl Report {
    pub(crate) fn new(events: usize, sensor_count: usize) -> Report {
        Report {
            clock: SystemClock::new(),
            events,
            sensor_count,
            ready_after: Duration::ZERO,
            recovered_after: Duration::ZERO,
            peak_memory_bytes: 0,
            produce: String::new(),
            consume: String::new(),
        }
    }

    pub(crate) fn opening(&self, directory: &Path) -> String {
        format!(
            "Proteus demo: {} of {}, through four protocols and one log\n  \
             data  {CREDIT}\n  node  {}\n\n",
            counted(self.events, "reading"),
            counted(self.sensor_count, "sensor"),
            directory.display()
        )
    }

    pub(crate) fn started(&mut self, ready_after: Duration) -> String {
        self.ready_after = ready_after;
        format!("  start    first answer after {}\n", shown(ready_after))
    }

    pub(crate) fn produced(&mut self, produced: &Produced) -> String {
        self.produce = format!(
            "{:<22} batch  {}",
            rate(produced.events, produced.took),
            percentiles(produced.latencies.clone())
        );
        format!(
            "  produce  {} to Kafka in {}\n",
            counted(produced.events, "reading"),
            shown(produced.took)
        )
    }

    pub(crate) fn killed(&self, acknowledged_rows: u64) -> String {
        format!(
            "  kill -9  worker and node, after {} acknowledged\n",
            were(acknowledged_rows as usize)
        )
    }

    pub(crate) fn recovered(&mut self, after: Duration, rows: usize) -> String {
        self.recovered_after = after;
        format!(
            "  recover  first answer after {}, {} there; the next worker waits until the dead one's lock expires\n",
            shown(after),
            are(rows)
        )
    }

    pub(crate) fn consumed(&mut self, took: Duration, latencies: Vec<Duration>) -> String {
        let commits = latencies.len();
        self.consume = format!("{:<22} commit {}", rate(self.events, took), percentiles(latencies));
        format!(
            "  commit   {} in {} in {}, restart and lock's expiry included\n",
            counted(self.events, "row"),
            counted(commits, "cross-face commit"),
            shown(took)
        )
    }

    pub(crate) fn peak_memory(&mut self, bytes: Option<u64>) {
        self.peak_memory_bytes = self.peak_memory_bytes.max(bytes.unwrap_or(0));
    }

    pub(crate) fn left_running(
        &self,
        ports: &Ports,
        process: Option<u32>,
        directory: &Path,
    ) -> String {
        let Some(process) = process else { return "\nThe node has ended.\n".to_owned() };
        format!(
            "\nThe node goes on: {}\n`kill {process}` stops it; its data is in {}\n",
            ports.summary(),
            directory.display()
        )
    }

    pub(crate) fn closing(&self, checks: &[Check]) -> String {
        let mut text = String::from("\nWhat every face says\n");
        for check in checks {
            let mark = if check.held { "holds" } else { "BROKEN" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {mark:<7} {:<10} {}", check.face, check.claim);
            for line in &check.answer {
                let _ = writeln!(text, "  {:<18} | {line}", "");
            }
        }
        let broken = checks.iter().filter(|check| !check.held).count();
        let _ = write!(
            text,
            "\nSummary\n  \
             events      {} of {}\n  \
             time        {}\n  \
             produce     {}\n  \
             commit      {}\n  \
             start       {} cold, {} after kill -9\n  \
             memory      {}\n  \
             verdict     ",
            counted(self.events, "reading"),
            counted(self.sensor_count, "sensor"),
            shown(self.clock.elapsed()),
            self.produce,
            self.consume,
            shown(self.ready_after),
            shown(self.recovered_after),
            match self.peak_memory_bytes >> 20 {
                0 => "not told by this operating system".to_owned(),
                mib => format!("the node's resident memory was at most {mib} MiB, all faces open"),
            },
        );
        text.push_str(&match broken {
            0 => format!(
                "all {} invariants held: nothing lost, nothing counted twice\n",
                checks.len()
            ),
            count => format!("{count} of {} invariants BROKEN\n", checks.len()),
        });
        text
    }
}

/// A number and its noun.
pub(super) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number as u64))
}

fn were(rows: usize) -> String {
    format!("{} {}", counted(rows, "row"), if rows == 1 { "was" } else { "were" })
}

fn are(rows: usize) -> String {
    format!("{} {}", counted(rows, "row"), if rows == 1 { "is" } else { "are" })
}

fn shown(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

fn rate(events: usize, took: Duration) -> String {
    let per_second = events as f64 / took.as_secs_f64().max(1e-9);
    if per_second < 10.0 {
        return format!("{per_second:.1} readings/s");
    }
    format!("{} readings/s", grouped(per_second as u64))
}

/// Median, 95th, 99th and highest, in milliseconds.
fn percentiles(mut latencies: Vec<Duration>) -> String {
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len().saturating_sub(1)) as f64 * share;
        latencies.get(place.round() as usize).copied().unwrap_or_default().as_secs_f64() * 1000.0
    };
    let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(at);
    format!("p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms, max {max:.1} ms")
}

/// A number with commas between its thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn percentiles_of_nothing_and_of_much() {
        assert!(percentiles(Vec::new()).contains("0.0"));
        let latencies = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentiles(latencies), "p50 51.0 ms, p95 95.0 ms, p99 99.0 ms, max 100.0 ms");
    }
}
