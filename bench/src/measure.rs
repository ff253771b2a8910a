//! Figures and tables.

use std::process::Command;
use std::time::Duration;

use crate::Options;

/// One measurement of one side.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
}

impl Sample {
    /// Throughput and percentiles of requests that took these times within `elapsed`.
    pub(crate) fn of(mut latencies: Vec<Duration>, elapsed: Duration) -> Sample {
        latencies.sort_unstable();
        let percentile = |share: f64| {
            let last = latencies.len().saturating_sub(1);
            let place = (latencies.len() as f64 * share) as usize;
            latencies.get(place.min(last)).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
        };
        Sample {
            per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
            p50_ms: percentile(0.50),
            p99_ms: percentile(0.99),
            p999_ms: percentile(0.999),
        }
    }

    /// The median of each figure.
    pub(crate) fn median(samples: &[Sample]) -> Sample {
        let of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
        Sample {
            per_second: of(|sample| sample.per_second),
            p50_ms: of(|sample| sample.p50_ms),
            p99_ms: of(|sample| sample.p99_ms),
            p999_ms: of(|sample| sample.p999_ms),
        }
    }
}

/// The middle one, or the upper of the two in the middle; zero if there is none.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

/// Rows of one comparison, printed as they come.
pub(crate) struct Table {
    peer: Option<&'static str>,
}

impl Table {
    /// Prints the title and the head. Without a peer only our figures are shown.
    pub(crate) fn begin(title: &str, peer: Option<&'static str>) -> Table {
        println!("### {title}\n");
        match peer {
            Some(peer) => {
                println!(
                    "| case | proteus /s | {peer} /s | ratio | proteus p50 / p99 / p99.9 ms | {peer} p50 / p99 / p99.9 ms |"
                );
                println!("| --- | ---: | ---: | ---: | ---: | ---: |");
            }
            None => {
                println!("| case | /s | p50 / p99 / p99.9 ms |");
                println!("| --- | ---: | ---: |");
            }
        }
        Table { peer }
    }

    /// Prints the medians of one case.
    pub(crate) fn row(&self, case: &str, ours: &[Sample], peers: &[Sample]) {
        let ours = Sample::median(ours);
        if self.peer.is_none() {
            println!("| {case} | {} | {} |", count(ours.per_second), latency(&ours));
            return;
        }
        if peers.is_empty() {
            println!("| {case} | {} | – | – | {} | – |", count(ours.per_second), latency(&ours));
            return;
        }
        let peer = Sample::median(peers);
        println!(
            "| {case} | {} | {} | {:.2} | {} | {} |",
            count(ours.per_second),
            count(peer.per_second),
            ours.per_second / peer.per_second,
            latency(&ours),
            latency(&peer),
        );
    }

    pub(crate) fn end(self) {
        println!();
    }
}

fn latency(sample: &Sample) -> String {
    format!("{:.2} / {:.2} / {:.2}", sample.p50_ms, sample.p99_ms, sample.p999_ms)
}

/// A whole number with its thousands apart.
pub(crate) fn count(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What the figures hold for.
pub(crate) fn machine(options: &Options) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1).map(str::to_owned))
        .unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_kib: u64 = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    format!(
        "{cores} cores ({processor}), {} GiB, load before {}; {} rounds{}",
        memory_kib >> 20,
        load.join(" "),
        options.rounds,
        if options.quick { ", quick" } else { "" },
    )
}

/// The first line of what a program says of its version, if it is installed.
pub(crate) fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(Vec::new()), 0.0);
        let latencies = (1..=100).map(Duration::from_millis).collect();
        let sample = Sample::of(latencies, Duration::from_secs(2));
        assert_eq!((sample.per_second, sample.p50_ms, sample.p99_ms), (50.0, 51.0, 100.0));
        assert_eq!(count(1_234_567.4), "1,234,567");
        assert_eq!(count(999.0), "999");
    }
}
