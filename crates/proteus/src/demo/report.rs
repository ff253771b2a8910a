//! What the demo tells the person who runs it.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::dataset::CREDIT;
use super::producer::Produced;
use super::verify::Check;

/// Figures gathered on the way.
pub(crate) struct Report {
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
            "Proteus demo: {} readings of {} sensors, through four protocols and one log\n  \
             data  {CREDIT}\n  node  {}\n\n",
            grouped(self.events as u64),
            self.sensor_count,
            directory.display()
        )
    }

    pub(crate) fn started(&mut self, ready_after: Duration) {
        self.ready_after = ready_after;
        println!("  start    first answer after {}", shown(ready_after));
    }

    pub(crate) fn produced(&mut self, produced: &Produced) -> String {
        self.produce = format!(
            "{}   batch {}",
            rate(produced.events, produced.took),
            percentiles(produced.latencies.clone())
        );
        format!(
            "  produce  {} readings to Kafka in {}: {}",
            grouped(produced.events as u64),
            shown(produced.took),
            self.produce
        )
    }

    pub(crate) fn killed(&self, acknowledged_rows: u64) -> String {
        format!(
            "  kill -9  worker and node, after {} rows were acknowledged",
            grouped(acknowledged_rows)
        )
    }

    pub(crate) fn recovered(&mut self, after: Duration, rows: usize) -> String {
        self.recovered_after = after;
        format!(
            "  recover  first answer after {}, {} rows are there; the dead worker's lock expires with its session",
            shown(after),
            grouped(rows as u64)
        )
    }

    pub(crate) fn consumed(&mut self, took: Duration, latencies: Vec<Duration>) -> String {
        let commits = latencies.len();
        self.consume = format!("{}   commit {}", rate(self.events, took), percentiles(latencies));
        format!(
            "  commit   {} rows in {} cross-face commits in {}, restart included: {}",
            grouped(self.events as u64),
            grouped(commits as u64),
            shown(took),
            self.consume
        )
    }

    pub(crate) fn peak_memory(&mut self, bytes: Option<u64>) {
        self.peak_memory_bytes = self.peak_memory_bytes.max(bytes.unwrap_or(0));
    }

    pub(crate) fn closing(&self, checks: &[Check]) -> String {
        let mut text = String::from("\nWhat every face says\n");
        for check in checks {
            let mark = if check.held { "holds" } else { "BROKEN" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {mark:<7} {:<10} {}", check.face, check.claim);
        }
        let broken = checks.iter().filter(|check| !check.held).count();
        let _ = write!(
            text,
            "\nSummary\n  \
             events      {} readings, {} sensors\n  \
             produce     {}\n  \
             commit      {}\n  \
             start       {} cold, {} after kill -9\n  \
             memory      {} MiB resident at most, all faces and data\n  \
             verdict     ",
            grouped(self.events as u64),
            self.sensor_count,
            self.produce,
            self.consume,
            shown(self.ready_after),
            shown(self.recovered_after),
            self.peak_memory_bytes >> 20,
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

fn shown(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

fn rate(events: usize, took: Duration) -> String {
    let per_second = events as f64 / took.as_secs_f64().max(1e-9);
    format!("{} readings/s", grouped(per_second as u64))
}

/// Median, 99th and highest, in milliseconds.
fn percentiles(mut latencies: Vec<Duration>) -> String {
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len().saturating_sub(1)) as f64 * share;
        latencies.get(place.round() as usize).copied().unwrap_or_default().as_secs_f64() * 1000.0
    };
    format!("p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", at(0.5), at(0.99), at(1.0))
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
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
        assert_eq!(percentiles(latencies), "p50 51.0 ms, p99 99.0 ms, max 100.0 ms");
    }
}
