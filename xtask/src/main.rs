//! The project's own commands. `check` reads, `fix` writes.
//!
//! ```text
//! cargo xtask check            format, clippy, layers and tidiness, as CI has them
//! cargo xtask fix              formats, and applies clippy's suggestions
//! cargo xtask layers           the crates and what each may depend on
//! cargo xtask fuzz NAME [N]    runs a decoder's fuzz target N times (default 1,000,000)
//! cargo xtask sim [--seeds N] [--seed S]   simulates N runs from seed S on (default 1000 from 0)
//! cargo xtask deps             how many packages the lock file holds
//! ```
#![allow(clippy::disallowed_methods, reason = "a tool of the developers, outside the product")]

mod layers;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Fuzz targets by name: package and test.
const FUZZ_TARGETS: &[(&str, &str)] = &[
    ("log", "proteus-log"),
    ("redis", "proteus-face-redis"),
    ("zookeeper", "proteus-face-zookeeper"),
    ("kafka", "proteus-face-kafka"),
    ("records", "proteus-machine-topic"),
    ("commands", "proteus-shard-machine"),
    ("postgres", "proteus-face-postgres"),
    ("sql", "proteus-sql"),
];

/// Simulated worlds: test binary and test.
const WORLDS: &[(&str, &str)] = &[
    ("machines", "machines_keep_their_claims"),
    ("shard", "the_shard_keeps_its_claims_on_a_failing_disk"),
    ("cluster", "a_cluster_keeps_its_claims_in_trouble"),
    ("cluster", "a_replica_that_computes_otherwise"),
    ("kafka", "producers_and_consumers_keep_their_promises"),
    ("objects", "objects_are_linearizable"),
    ("transfers", "commits_over_several_shards_keep_their_claims"),
    ("zookeeper", "sessions_and_watches_keep_their_claims"),
];

/// The repository's root.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let status = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .status()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {} failed", arguments.join(" "))) }
}

fn report(problems: &[String]) -> Result<(), String> {
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn lint() -> Result<(), String> {
    run("cargo", &["fmt", "--all", "--check"])?;
    run("cargo", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

fn check() -> Result<(), String> {
    lint()?;
    report(&layers::problems(&root())?)?;
    report(&tidy::problems(&root()))
}

fn fix() -> Result<(), String> {
    run("cargo", &["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty"])?;
    run("cargo", &["fmt", "--all"])
}

fn fuzz(name: &str, runs: &str) -> Result<(), String> {
    let Some((_, package)) = FUZZ_TARGETS.iter().find(|(target, _)| *target == name) else {
        let names: Vec<&str> = FUZZ_TARGETS.iter().map(|(target, _)| *target).collect();
        return Err(format!("no fuzz target {name:?}; there are {}", names.join(", ")));
    };
    let status = Command::new("cargo")
        .args(["test", "--release", "-p", package, "fuzz"])
        .env("PROTEUS_FUZZ_RUNS", runs)
        .current_dir(root())
        .status()
        .map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("fuzz target {name} failed")) }
}

fn sim(options: &[&str]) -> Result<(), String> {
    let usage = || "usage: cargo xtask sim [--seeds N] [--seed S]".to_owned();
    let (mut seeds, mut seed) = (None, None);
    for pair in options.chunks(2) {
        match pair {
            ["--seeds", count] => seeds = Some(*count),
            ["--seed", first] => seed = Some(*first),
            _ => return Err(usage()),
        }
    }
    if seeds.into_iter().chain(seed).any(|number| number.parse::<u64>().is_err()) {
        return Err(usage());
    }
    // One seed is a failure to be repeated; without one there is much to be tried.
    let seeds = seeds.unwrap_or(if seed.is_some() { "1" } else { "1000" });
    let world = |test: &str, name: &str| {
        let mut command = Command::new("cargo");
        command
            .args(["test", "--release", "-p", "proteus-sim", "--test", test, name])
            .args(["--", "--nocapture"])
            .env("PROTEUS_SIM_SEEDS", seeds)
            .env("PROTEUS_SIM_SEED", seed.unwrap_or("0"))
            .current_dir(root());
        command
    };
    run("cargo", &["test", "--release", "-p", "proteus-sim", "--no-run"])?;
    let mut running = Vec::new();
    for (test, name) in WORLDS {
        let child = world(test, name).spawn().map_err(|error| error.to_string())?;
        running.push((name, child));
    }
    let mut failed = Vec::new();
    for (name, mut child) in running {
        if !child.wait().is_ok_and(|status| status.success()) {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("the simulation failed: {}", failed.join(", ")))
    }
}

fn deps() -> Result<(), String> {
    let lock =
        std::fs::read_to_string(root().join("Cargo.lock")).map_err(|error| error.to_string())?;
    println!("{} packages", lock.lines().filter(|line| *line == "[[package]]").count());
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["check"] => check(),
        ["fix"] => fix(),
        ["layers"] => layers::print(&root()),
        ["fuzz", name] => fuzz(name, "1000000"),
        ["fuzz", name, runs] => fuzz(name, runs),
        ["sim", options @ ..] => sim(options),
        ["deps"] => deps(),
        _ => Err("usage: cargo xtask check | fix | layers | fuzz NAME [RUNS] | sim [--seeds N] [--seed S] | deps".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    /// The lints are part of the tests. They hold more than style: the only door to clock, randomness,
    /// disk and network is a lint.
    #[test]
    fn format_and_lints_hold() {
        super::lint().unwrap();
    }
}
