//! redis-benchmark, Redis' own load generator, against both.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::measure::{Sample, Table, version};
use crate::processes::{Durability, Proteus, start_redis};
use crate::{Options, Result};

/// Connections, commands in one go, and requests in all; about two seconds each.
const LOADS: &[(u32, u32, u64)] = &[(50, 1, 100_000), (50, 16, 500_000), (1, 1, 15_000)];

const COMMANDS: &[&str] = &["set", "get", "incr", "hset"];

/// Keys that commands pick from at random.
const KEYS: &str = "100000";

const VALUE_BYTES: &str = "16";

pub(crate) fn run(options: &Options, proteus: &Path) -> Result<()> {
    if version("redis-benchmark", &["--version"]).is_none() {
        println!("redis: skipped, redis-benchmark is not installed (package redis-tools)\n");
        return Ok(());
    }
    for durability in options.durabilities() {
        compare(options, proteus, durability)?;
    }
    Ok(())
}

fn compare(options: &Options, proteus: &Path, durability: Durability) -> Result<()> {
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
    for (clients, pipeline, requests) in LOADS {
        for command in COMMANDS {
            let case = format!(
                "{} · {clients} client{} · pipeline {pipeline}",
                command.to_uppercase(),
                if *clients == 1 { "" } else { "s" }
            );
            if !options.wants(&case) {
                continue;
            }
            let load = Load { command, clients: *clients, pipeline: *pipeline };
            let count = options.scaled(*requests);
            let (mut ours_samples, mut peer_samples) = (Vec::new(), Vec::new());
            for _ in 0..options.rounds {
                ours_samples.push(load.run(ours.server.address, count)?);
                if let Some((peer, _)) = &peer {
                    peer_samples.push(load.run(peer.address, count)?);
                }
            }
            table.row(&case, &ours_samples, &peer_samples);
        }
    }
    table.end();
    Ok(())
}

struct Load<'a> {
    command: &'a str,
    clients: u32,
    pipeline: u32,
}

impl Load<'_> {
    fn run(&self, address: SocketAddr, requests: u64) -> Result<Sample> {
        let output = Command::new("redis-benchmark")
            .args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "--csv"])
            .args(["-t", self.command, "-d", VALUE_BYTES, "-r", KEYS, "--precision", "3"])
            .args(["-c", &self.clients.to_string(), "-P", &self.pipeline.to_string()])
            .args(["-n", &requests.to_string()])
            .output()
            .map_err(|error| format!("cannot run redis-benchmark: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse(&text).ok_or_else(|| {
            format!("redis-benchmark said: {text}{}", String::from_utf8_lossy(&output.stderr))
        })
    }
}

/// The last line of redis-benchmark's CSV: test, rps, avg, min, p50, p95, p99, max.
fn parse(csv: &str) -> Option<Sample> {
    let line = csv.lines().rfind(|line| line.starts_with('"'))?;
    let figure = |place: usize| line.split(',').nth(place)?.trim_matches('"').parse().ok();
    Some(Sample { per_second: figure(1)?, p50_ms: figure(4)?, p99_ms: figure(6)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_csv() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"1000.50\",\"0.1\",\"0.1\",\"0.2\",\"0.3\",\"0.4\",\"9\"\n";
        let sample = parse(csv).unwrap();
        assert_eq!((sample.per_second, sample.p50_ms, sample.p99_ms), (1000.5, 0.2, 0.4));
        assert!(parse("Error from server").is_none());
    }
}
