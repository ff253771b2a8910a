//! Golden conversations: scripts of requests with the answers that ZooKeeper gives.
//!
//! Each script in `testdata/` is run against a served face, always, and against a real ZooKeeper where
//! Debian's package and Java are installed; both must answer what is recorded.
//!
//! ```text
//!   PROTEUS_GOLDEN=update cargo test -p proteus-face-zookeeper --test golden
//! ```
//! records what the face answers anew; review the difference, and see that the real server agrees.

mod answer;
mod script;
#[path = "../served/mod.rs"]
mod served;
mod zookeeper;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proteus_env::disk::{Disk, RealDisk, read_text};
use proteus_env::{SystemClock, task};
use proteus_face_zookeeper::ZookeeperOptions;
use proteus_kernel_api::MemoryKernel;

/// The digest of `super:secret`.
const SUPER_DIGEST: &str = "super:lK75jTNcA+U9vtVEw5vB51mj/w4=";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// Names of the scripts, one a topic.
const SCRIPTS: [&str; 8] =
    ["access", "errors", "multi", "quotas", "sequentials", "sessions", "ttl", "watches"];

fn read(name: &str) -> String {
    read_text(&directory().join(format!("{name}.txt"))).expect("a script")
}

#[tokio::test]
async fn the_face_answers_as_recorded() {
    let is_update = std::env::var("PROTEUS_GOLDEN").is_ok_and(|value| value == "update");
    for name in SCRIPTS {
        let options = ZookeeperOptions {
            super_digest: Some(SUPER_DIGEST.to_owned()),
            ..ZookeeperOptions::default()
        };
        let kernel = Arc::new(MemoryKernel::new(Arc::new(SystemClock::new())));
        let served = served::serve_options(kernel.clone(), options);
        // What is due is proposed by the real kernel's timer.
        let timer = task::spawn(async move {
            loop {
                kernel.expire_due().expect("sound state");
                task::sleep(Duration::from_millis(20)).await;
            }
        });
        let recorded = read(name);
        let told = script::run(&recorded, served.address).await;
        timer.abort();
        if is_update {
            let disk = RealDisk::open(&directory()).expect("the directory of scripts");
            let file = disk.open(&format!("{name}.txt")).expect("a script");
            file.truncate(0).expect("a writable script");
            file.write_at(0, told.as_bytes()).expect("a writable script");
        } else {
            let differing = differences(name, &recorded, &told);
            assert!(differing.is_empty(), "the face differs:\n{}", differing.join("\n"));
        }
    }
}

/// No script takes this long but one whose server does not answer.
const SCRIPT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

#[tokio::test]
async fn zookeeper_answers_as_recorded() {
    let Some(server) = zookeeper::Server::start(SUPER_DIGEST).await else {
        println!("skipped: no ZooKeeper is installed here");
        return;
    };
    let mut differing = Vec::new();
    for name in SCRIPTS {
        let recorded = read(name);
        let expected = of_zookeeper(&recorded);
        let told = task::timeout(SCRIPT_PATIENCE, script::run(&expected, server.address)).await;
        let told = told.unwrap_or_else(|| panic!("ZooKeeper never ends {name}.txt"));
        differing.extend(differences(name, &expected, &told));
    }
    assert!(differing.is_empty(), "ZooKeeper differs:\n{}", differing.join("\n"));
}

/// What the real server is recorded to answer: `~` lines stand in for the answers before them.
fn of_zookeeper(recorded: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut is_replaced = false;
    for line in recorded.lines() {
        match line.strip_prefix("~ ") {
            Some(answer) => {
                if !is_replaced {
                    while lines.last().is_some_and(|line| line.starts_with("= ")) {
                        lines.pop();
                    }
                }
                is_replaced = true;
                lines.push(format!("= {answer}"));
            }
            None => {
                is_replaced = false;
                lines.push(line.to_owned());
            }
        }
    }
    lines.join("\n")
}

fn differences(name: &str, expected: &str, told: &str) -> Vec<String> {
    let (expected, told): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), told.lines().collect());
    // Where they part, what follows is shifted: the first line and some after it say enough.
    let first = expected.iter().zip(&told).position(|(expected, actual)| expected != actual);
    match first {
        None if expected.len() == told.len() => Vec::new(),
        first => {
            let first = first.unwrap_or_else(|| expected.len().min(told.len()));
            let some = |lines: &[&str]| {
                let start = first.saturating_sub(1).min(lines.len());
                lines[start..lines.len().min(first + 3)].join("\n  ")
            };
            let (expected, told) = (some(&expected), some(&told));
            vec![format!("{name}.txt, line {}:\n  {expected}\nbut told:\n  {told}", first + 1)]
        }
    }
}

#[test]
fn every_script_is_run() {
    let disk = RealDisk::open(&directory()).expect("the directory of scripts");
    let mut found: Vec<String> = disk
        .list()
        .expect("the directory of scripts")
        .into_iter()
        .filter_map(|name| name.strip_suffix(".txt").map(str::to_owned))
        .collect();
    found.sort();
    assert_eq!(found, SCRIPTS);
}
