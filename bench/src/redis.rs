//! redis-benchmark, Redis' own load generator, against both.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::measure::{Sample, Table, version};
use crate::processes::{Durability, Proteus, start_redis};
use crate::{Options, Result, redis_mix};

/// What redis-benchmark does: about two seconds each on a small machine.
const LOADS: &[Load] = &[
    Load { clients: 50, pipeline: 1, value_bytes: 16, requests: 100_000, commands: ALL },
    Load { clients: 50, pipeline: 16, value_bytes: 16, requests: 500_000, commands: ALL },
    Load { clients: 1, pipeline: 1, value_bytes: 16, requests: 15_000, commands: ALL },
    Load { clients: 500, pipeline: 1, value_bytes: 16, requests: 100_000, commands: SET_GET },
    Load { clients: 50, pipeline: 64, value_bytes: 16, requests: 1_000_000, commands: SET_GET },
    Load { clients: 50, pipeline: 1, value_bytes: 1_024, requests: 100_000, commands: SET_GET },
    Load { clients: 50, pipeline: 16, value_bytes: 1_024, requests: 200_000, commands: SET_GET },
    Load { clients: 50, pipeline: 1, value_bytes: 65_536, requests: 10_000, commands: SET_GET },
];

const ALL: &[&str] = &["set", "get", "incr", "hset"];
const SET_GET: &[&str] = &["set", "get"];

/// Keys that commands pick from at random; of large values fewer, so that they fit into memory on both sides.
const KEYS: u32 = 100_000;
const KEYS_BYTES_MAX: u32 = 256 << 20;

/// Mixed loads: clients, commands in one go.
const MIXES: &[(usize, usize)] = &[(50, 1), (50, 16), (500, 1)];

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    if version("redis-benchmark", &["--version"]).is_none() {
        println!("redis: skipped, redis-benchmark is not installed (package redis-tools)\n");
        return Ok(());
    }
    for durability in options.durabilities() {
        compare(options, proteus, durability).await?;
    }
    Ok(())
}

async fn compare(options: &Options, proteus: &Path, durability: Durability) -> Result<()> {
    let ours = Proteus::start(proteus, options.temporary()?, durability)?;
    let peer = start_redis(options.temporary()?, durability)?;
    if peer.is_none() {
        println!("redis-server is not installed (package redis-server): our figures alone\n");
    }
    let meaning = match durability {
        Durability::Flushed => "every write flushed (Redis: appendfsync always)",
        Durability::Relaxed => "flushed within a second (Redis: appendfsync everysec)",
    };
    let table = Table::begin(&format!("Redis: {meaning}"), Some("redis"));
    let peer_at = peer.as_ref().map(|(peer, _)| peer.address);
    let both = [Some(ours.server.address), peer_at];
    for load in LOADS {
        for command in load.commands {
            let case = load.case(command);
            if !options.wants(&case) {
                continue;
            }
            let run = async |address| load.run(command, address, options);
            let samples = in_turns(options, both, run).await?;
            table.row(&case, &samples[0], &samples[1]);
        }
    }
    for (clients, pipeline) in MIXES {
        let case = format!("1 SET : 10 GET · {clients} clients · pipeline {pipeline}");
        if !options.wants(&case) {
            continue;
        }
        let duration = options.seconds(2.0);
        let run = async |address| redis_mix::run(address, *clients, *pipeline, duration).await;
        let samples = in_turns(options, both, run).await?;
        table.row(&case, &samples[0], &samples[1]);
    }
    table.end();
    Ok(())
}

/// What both sides do, one after the other, round after round.
async fn in_turns(
    options: &Options,
    both: [Option<SocketAddr>; 2],
    run: impl AsyncFn(SocketAddr) -> Result<Sample>,
) -> Result<[Vec<Sample>; 2]> {
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for (address, samples) in both.iter().zip(&mut samples) {
            if let Some(address) = address {
                samples.push(run(*address).await?);
            }
        }
    }
    Ok(samples)
}

struct Load {
    clients: u32,
    /// Commands in one go.
    pipeline: u32,
    value_bytes: u32,
    /// In all.
    requests: u64,
    commands: &'static [&'static str],
}

impl Load {
    fn case(&self, command: &str) -> String {
        let Load { clients, pipeline, value_bytes, .. } = self;
        let plural = if *clients == 1 { "" } else { "s" };
        let value = match value_bytes {
            0..=16 => String::new(),
            bytes => format!(" · {} KiB", bytes / 1024),
        };
        format!(
            "{} · {clients} client{plural} · pipeline {pipeline}{value}",
            command.to_uppercase()
        )
    }

    fn run(&self, command: &str, address: SocketAddr, options: &Options) -> Result<Sample> {
        let keys = KEYS.min(KEYS_BYTES_MAX / self.value_bytes);
        let arguments = [
            ("-h", address.ip().to_string()),
            ("-p", address.port().to_string()),
            ("-t", command.to_owned()),
            ("-d", self.value_bytes.to_string()),
            ("-r", keys.to_string()),
            ("-c", self.clients.to_string()),
            ("-P", self.pipeline.to_string()),
            ("-n", options.scaled(self.requests).to_string()),
            ("--precision", "3".to_owned()),
        ];
        let output = Command::new("redis-benchmark")
            .args(arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]))
            .output()
            .map_err(|error| format!("cannot run redis-benchmark: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse(&text).ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("redis-benchmark said: {}{errors}", last_line(&text))
        })
    }
}

fn last_line(text: &str) -> &str {
    text.split(['\r', '\n']).rfind(|line| !line.is_empty()).unwrap_or_default()
}

/// What redis-benchmark says of one test: lines such as `99.902% <= 0.415 milliseconds (…)`, and in the end
/// `throughput summary: 1000.50 requests per second`.
fn parse(text: &str) -> Option<Sample> {
    let mut lines = text.split(['\r', '\n']).map(str::trim);
    let mut percentiles = Vec::new();
    for line in lines.by_ref().take_while(|line| !line.starts_with("Cumulative distribution")) {
        if let Some((share, rest)) = line.split_once("% <= ")
            && let Some((ms, _)) = rest.split_once(' ')
        {
            percentiles.push((share.parse::<f64>().ok()?, ms.parse::<f64>().ok()?));
        }
    }
    let percentile =
        |wanted: f64| percentiles.iter().find(|(share, _)| *share >= wanted).map(|(_, ms)| *ms);
    let throughput = lines.find_map(|line| line.strip_prefix("throughput summary: "))?;
    let per_second = throughput.split(' ').next()?.parse().ok()?;
    Some(Sample {
        per_second,
        p50_ms: percentile(50.0)?,
        p99_ms: percentile(99.0)?,
        p999_ms: percentile(99.9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_benchmark_says() {
        let text = "SET: rps=0.0\rSET: rps=1.0\r====== SET ======\n\
            Latency by percentile distribution:\n\
            0.000% <= 0.031 milliseconds (cumulative count 1)\n\
            50.000% <= 0.2 milliseconds (cumulative count 50)\n\
            99.219% <= 0.4 milliseconds (cumulative count 99)\n\
            99.902% <= 0.8 milliseconds (cumulative count 100)\n\
            100.000% <= 9.0 milliseconds (cumulative count 100)\n\n\
            Cumulative distribution of latencies:\n50.0% <= 0.303 milliseconds (cumulative count 50)\n\n\
            Summary:\n  throughput summary: 1000.50 requests per second\n";
        let sample = parse(text).unwrap();
        let figures = (sample.per_second, sample.p50_ms, sample.p99_ms, sample.p999_ms);
        assert_eq!(figures, (1000.5, 0.2, 0.4, 0.8));
        assert!(parse("Error from server").is_none());
        assert_eq!(last_line("a\nError from server\n"), "Error from server");
    }
}
