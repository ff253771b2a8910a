//! Three nodes in network namespaces of their own, whose wires are cut and mended.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use redis::AsyncCommands;

use crate::cluster::{Cluster, connect, count, settings, wait_for};
use crate::node::{NodeProcess, PATIENCE, runtime};

/// A bridge on this machine, with a namespace on each of its ports.
struct Wires {
    bridge: String,
    network: u8,
    namespaces: Vec<String>,
}

fn ip(words: &[&str]) -> bool {
    let status = Command::new("ip").args(words).stderr(std::process::Stdio::null()).status();
    matches!(status, Ok(status) if status.success())
}

impl Wires {
    /// `None` where the machine does not let the test make one.
    fn lay() -> Option<Wires> {
        let id = std::process::id() % 10_000;
        let network = (id % 200) as u8 + 20;
        let bridge = format!("pbr{id}");
        let wires = Wires { bridge, network, namespaces: Vec::new() };
        let host = format!("10.213.{network}.254/24");
        let is_there = ip(&["link", "add", &wires.bridge, "type", "bridge"])
            && ip(&["addr", "add", &host, "dev", &wires.bridge])
            && ip(&["link", "set", &wires.bridge, "up"]);
        if !is_there {
            return None;
        }
        let mut wires = wires;
        for node in 1..=3 {
            let (namespace, outer) = (format!("pns{id}-{node}"), format!("pv{id}-{node}"));
            if !ip(&["netns", "add", &namespace]) {
                return None;
            }
            wires.namespaces.push(namespace.clone());
            let address = format!("{}/24", wires.host(node));
            let inside = |words: &[&str]| ip(&[&["-n", &namespace], words].concat());
            let is_wired = ip(&[
                "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
            ]) && ip(&["link", "set", &outer, "master", &wires.bridge])
                && ip(&["link", "set", &outer, "up"])
                && inside(&["addr", "add", &address, "dev", "eth0"])
                && inside(&["link", "set", "eth0", "up"])
                && inside(&["link", "set", "lo", "up"]);
            if !is_wired {
                return None;
            }
        }
        Some(wires)
    }

    fn host(&self, node: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.network, node as u8)
    }

    /// Cuts the wire of a node, counted from 0, or mends it.
    fn set(&self, node: usize, state: &str) {
        let id = std::process::id() % 10_000;
        assert!(ip(&["link", "set", &format!("pv{id}-{}", node + 1), state]));
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            ip(&["netns", "del", namespace]);
        }
        ip(&["link", "del", &self.bridge]);
    }
}

/// Whoever is cut off acknowledges nothing, the others go on, and once the wire is mended all show all that
/// was acknowledged.
#[test]
fn no_acknowledged_write_is_lost_while_wires_are_cut() {
    let Some(wires) = Wires::lay() else {
        println!("skipped: this machine does not let the test make network namespaces");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let start = |node: usize, join: Option<&str>| {
        let settings = settings(join);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let data = directory.path().join(format!("n{node}"));
        NodeProcess::start_in(&wires.namespaces[node - 1], wires.host(node), &data, &settings)
    };
    let first = start(1, None);
    let join = first.address(7000).to_string();
    let cluster = Cluster::of(vec![first, start(2, Some(&join)), start(3, Some(&join))]);
    let runtime = runtime();
    let urls: Vec<String> = cluster.nodes.iter().map(NodeProcess::redis_url).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..4)
        .map(|writer| runtime.spawn(count(urls.clone(), writer, stop.clone(), progress.clone())))
        .collect();
    let advance = |by| wait_for(by, &progress, "no writes although a majority is connected");
    for round in 0..4 {
        advance(200);
        let leader = cluster.leader();
        // The leader, then a follower: what is left goes on.
        let cut = if round % 2 == 0 { leader } else { (leader + 1) % 3 };
        wires.set(cut, "down");
        advance(200);
        wires.set(cut, "up");
    }
    advance(200);
    stop.store(true, Ordering::Relaxed);
    for (writer, task) in writers.into_iter().enumerate() {
        let (told, unanswered, longest) = runtime.block_on(task).unwrap();
        println!("writer {writer}: told {told}, {unanswered} unanswered, longest wait {longest:?}");
        for url in &urls {
            let started = Instant::now();
            let found: i64 = runtime.block_on(async {
                loop {
                    // A node that was cut off is found again once its neighbours have learned the way.
                    if let Some(mut connection) = connect(url).await
                        && let Ok(found) = connection.get(format!("counter:{writer}")).await
                    {
                        break found;
                    }
                    assert!(started.elapsed() < PATIENCE, "{url} does not answer");
                }
            });
            assert!(
                (told..=told + unanswered).contains(&found),
                "writer {writer} was told {told}, {unanswered} calls had no answer, and {url} says {found}"
            );
        }
    }
}
