//! Which crate may depend on which. A new edge is a decision record and a line here.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Every crate of the workspace and the crates of the workspace that it may depend on, lowest layer
/// first. Dev-dependencies are free, but for the kernel's ignorance of machines.
const ALLOWED: &[(&str, &[&str])] = &[
    ("proteus-types", &[]),
    ("proteus-env", &[]),
    ("proteus-log", &["proteus-env", "proteus-types"]),
    ("proteus-store", &["proteus-env", "proteus-types"]),
    ("proteus-consensus", &["proteus-env", "proteus-log", "proteus-types"]),
    ("proteus-peer", &["proteus-env"]),
    ("proteus-backup", &["proteus-objects", "proteus-types"]),
    ("proteus-objects", &["proteus-env"]),
    ("proteus-machine", &["proteus-store", "proteus-types"]),
    (
        "proteus-kernel",
        &[
            "proteus-consensus",
            "proteus-env",
            "proteus-log",
            "proteus-machine",
            "proteus-store",
            "proteus-types",
        ],
    ),
    ("proteus-machine-tree", MACHINE),
    ("proteus-machine-topic", MACHINE),
    ("proteus-machine-cache", MACHINE),
    ("proteus-machine-table", MACHINE),
    (
        "proteus-shard-machine",
        &[
            "proteus-machine",
            "proteus-machine-cache",
            "proteus-machine-table",
            "proteus-machine-topic",
            "proteus-machine-tree",
            "proteus-store",
            "proteus-types",
        ],
    ),
    (
        "proteus-kernel-api",
        &[
            "proteus-env",
            "proteus-machine",
            "proteus-shard-machine",
            "proteus-store",
            "proteus-types",
        ],
    ),
    ("proteus-schemas", &["proteus-env", "proteus-kernel-api"]),
    (
        "proteus-sql",
        &[
            "proteus-env",
            "proteus-kernel-api",
            "proteus-objects",
            "proteus-schemas",
            "proteus-types",
        ],
    ),
    ("proteus-face", &["proteus-env"]),
    ("proteus-face-redis", FACE),
    ("proteus-face-zookeeper", FACE),
    (
        "proteus-face-kafka",
        &["proteus-env", "proteus-face", "proteus-kernel-api", "proteus-objects", "proteus-types"],
    ),
    (
        "proteus-face-http",
        &["proteus-env", "proteus-face", "proteus-kernel-api", "proteus-schemas", "proteus-types"],
    ),
    (
        "proteus-face-postgres",
        &[
            "proteus-env",
            "proteus-face",
            "proteus-kernel-api",
            "proteus-objects",
            "proteus-sql",
            "proteus-types",
        ],
    ),
    (
        "proteus-node",
        &[
            "proteus-env",
            "proteus-kernel",
            "proteus-kernel-api",
            "proteus-log",
            "proteus-machine",
            "proteus-peer",
            "proteus-shard-machine",
            "proteus-types",
        ],
    ),
    (
        "proteus-sim",
        &[
            "proteus-env",
            "proteus-kernel",
            "proteus-kernel-api",
            "proteus-log",
            "proteus-machine",
            "proteus-node",
            "proteus-shard-machine",
            "proteus-store",
            "proteus-types",
        ],
    ),
    ("proteus-testkit", &["proteus-env", "proteus-face", "proteus-kernel-api"]),
    (
        "proteus",
        &[
            "proteus-backup",
            "proteus-env",
            "proteus-face",
            "proteus-face-http",
            "proteus-face-kafka",
            "proteus-face-postgres",
            "proteus-face-redis",
            "proteus-face-zookeeper",
            "proteus-kernel-api",
            "proteus-node",
            "proteus-objects",
            "proteus-sql",
            "proteus-types",
        ],
    ),
    ("proteus-bench", &[]),
    ("xtask", &[]),
];

const MACHINE: &[&str] = &["proteus-machine", "proteus-store", "proteus-types"];
const FACE: &[&str] = &["proteus-env", "proteus-face", "proteus-kernel-api", "proteus-types"];

/// Third-party crates that a pure crate must not name: a runtime, a socket, a clock, randomness.
const IMPURE: &[&str] =
    &["tokio", "futures", "rand", "getrandom", "chrono", "socket2", "parking_lot"];

/// The crates that are pure: state machines, and the contract they fulfil.
const PURE: &[&str] = &[
    "proteus-types",
    "proteus-machine",
    "proteus-machine-tree",
    "proteus-machine-topic",
    "proteus-machine-cache",
    "proteus-machine-table",
    "proteus-shard-machine",
];

/// Normal and build dependencies of each crate of the workspace.
fn dependencies(root: &Path) -> Result<BTreeMap<String, Vec<String>>, String> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
        format!("cargo metadata: {error}: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let names = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
            .collect();
        if let Some(name) = package["name"].as_str() {
            found.insert(name.to_owned(), names);
        }
    }
    Ok(found)
}

/// Edges that are not allowed, each with what to do.
pub fn problems(root: &Path) -> Result<Vec<String>, String> {
    let found = dependencies(root)?;
    let mut problems = Vec::new();
    for (package, names) in &found {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == package) else {
            problems
                .push(format!("{package} is not in xtask/src/layers.rs; give it its place there"));
            continue;
        };
        for name in names {
            if found.contains_key(name) && !allowed.contains(&name.as_str()) {
                problems.push(format!(
                    "{package} depends on {name}, against the direction of ARCHITECTURE.md; a new edge needs a decision record"
                ));
            }
            if PURE.contains(&package.as_str()) && IMPURE.contains(&name.as_str()) {
                problems.push(format!(
                    "{package} is pure and depends on {name}; pass what it needs as a value"
                ));
            }
        }
    }
    for (name, _) in ALLOWED {
        if !found.contains_key(*name) {
            problems.push(format!("xtask/src/layers.rs lists {name}, which is no crate any more"));
        }
    }
    Ok(problems)
}

/// Prints the layers.
pub fn print(root: &Path) -> Result<(), String> {
    let found = dependencies(root)?;
    for (name, _) in ALLOWED {
        let own: Vec<&str> = found
            .get(*name)
            .into_iter()
            .flatten()
            .filter(|dependency| found.contains_key(*dependency))
            .map(|dependency| dependency.trim_start_matches("proteus-"))
            .collect();
        println!("{:<24} {}", name.trim_start_matches("proteus-"), own.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_keep_their_direction() {
        let problems = problems(&crate::root()).unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
