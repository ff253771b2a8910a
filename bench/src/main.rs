//! Us and the real peers, side by side: same machine, same disk, same client, equal durability.
//!
//! Both sides run at once and are measured in turns (A B A B …), so that whatever else the machine
//! does meets both alike; the tables show medians over the rounds. A peer that is not installed is
//! skipped with a message. Everything listens on loopback, keeps its data in a temporary directory,
//! and is stopped in the end.
//!
//! Reading order: [`Options`], `measure`, `processes`, then one module per protocol.
#![allow(
    clippy::disallowed_methods,
    reason = "a measuring tool stands outside the door to clock, disk and network"
)]

mod etcd;
mod etcd_load;
mod failover;
mod kafka;
mod load;
mod measure;
mod postgres;
mod processes;
mod redis;
mod redis_mix;
mod shards;
mod start;
mod zookeeper;
mod zookeeper_load;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::processes::Durability;

/// What a bench may fail with: a sentence for a person.
type Result<T> = std::result::Result<T, String>;

#[derive(Parser)]
#[command(name = "proteus-bench", about = "Measures Proteus beside the systems it stands in for")]
struct Cli {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    options: Options,
}

/// How to measure.
#[derive(Args, Clone)]
struct Options {
    /// Measure a ZooKeeper server that is running, such as a profiled one, instead of starting ours
    #[arg(long, global = true, value_name = "IP:PORT")]
    zookeeper_at: Option<std::net::SocketAddr>,
    /// Times each side is measured, in turns; the tables show medians
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// A fifth of the load, for a first look
    #[arg(long, global = true)]
    quick: bool,
    /// The proteus binary; built from this workspace if not given
    #[arg(long, global = true, value_name = "PATH")]
    proteus: Option<PathBuf>,
    /// Where temporary data directories go: choose the disk to be measured
    #[arg(long, global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Only durability `flushed` or `relaxed`
    #[arg(long, global = true, value_enum)]
    durability: Option<Durability>,
    /// Only cases whose name contains this
    #[arg(long, global = true, value_name = "TEXT")]
    only: Option<String>,
}

#[derive(Subcommand, Clone, Copy, PartialEq)]
enum What {
    /// Beside redis-server, under redis-benchmark
    Redis,
    /// Beside ZooKeeper, under many sessions of one client
    Zookeeper,
    /// Produce and consume, beside what the disk alone does
    Kafka,
    /// Beside PostgreSQL, under many connections of one client
    Postgres,
    /// Three nodes beside three of etcd
    Etcd,
    /// Three nodes whose leader is killed again and again
    Failover,
    /// Time to the first answer, memory and processor time at rest
    Start,
    /// What a node costs that has 1, 16 and 256 shards
    Shards,
    /// All of these
    All,
}

impl Options {
    fn durabilities(&self) -> Vec<Durability> {
        match self.durability {
            Some(one) => vec![one],
            None => vec![Durability::Flushed, Durability::Relaxed],
        }
    }

    fn wants(&self, case: &str) -> bool {
        self.only.as_ref().is_none_or(|text| case.to_lowercase().contains(&text.to_lowercase()))
    }

    /// `count`, or a fifth of it when only a first look is wanted.
    fn scaled(&self, count: u64) -> u64 {
        if self.quick { count.div_ceil(5) } else { count }
    }

    fn seconds(&self, seconds: f64) -> std::time::Duration {
        std::time::Duration::from_secs_f64(if self.quick { seconds / 3.0 } else { seconds })
    }

    fn temporary(&self) -> Result<tempfile::TempDir> {
        let parent = self.directory.clone().unwrap_or_else(std::env::temp_dir);
        tempfile::Builder::new()
            .prefix("proteus-bench-")
            .tempdir_in(&parent)
            .map_err(|error| format!("cannot use {}: {error}", parent.display()))
    }

    /// The proteus binary, built first unless one was given.
    fn binary(&self) -> Result<PathBuf> {
        if let Some(path) = &self.proteus {
            return Ok(path.clone());
        }
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let built = Command::new(cargo)
            .args(["build", "--release", "-p", "proteus", "--bin", "proteus"])
            .status()
            .map_err(|error| {
                format!("cannot build proteus: {error}; give its path with --proteus")
            })?;
        if !built.success() {
            return Err("proteus does not build; give another with --proteus".to_owned());
        }
        // Beside this program when both were built in release mode.
        let here = std::env::current_exe().map_err(|error| error.to_string())?;
        let profile = here.parent().and_then(|directory| directory.parent());
        let path = profile.map(|target| target.join("release/proteus")).unwrap_or_default();
        if path.exists() {
            return Ok(path);
        }
        Err(format!("{} is not there; give its path with --proteus", path.display()))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("proteus-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let options = &cli.options;
    let proteus = options.binary()?;
    let wanted = |what| cli.what == what || cli.what == What::All;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    println!("{}\n", measure::machine(options));
    if wanted(What::Start) {
        runtime.block_on(start::run(options, &proteus))?;
    }
    if wanted(What::Shards) {
        runtime.block_on(shards::run(options, &proteus))?;
    }
    if wanted(What::Redis) {
        runtime.block_on(redis::run(options, &proteus))?;
    }
    if wanted(What::Zookeeper) {
        runtime.block_on(zookeeper::run(options, &proteus))?;
    }
    if wanted(What::Etcd) {
        runtime.block_on(etcd::run(options, &proteus))?;
    }
    if wanted(What::Failover) {
        failover::run(options, &proteus)?;
    }
    if wanted(What::Kafka) {
        runtime.block_on(kafka::run(options, &proteus))?;
    }
    if wanted(What::Postgres) {
        runtime.block_on(postgres::run(options, &proteus))?;
    }
    Ok(())
}
