//! `proteus redis`: RDB files, and following a real Redis where one is installed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::cluster::Cluster;
use crate::node::{NodeProcess, PATIENCE, command, free_port_offset, runtime};

fn run(node: &NodeProcess, arguments: &[&str]) -> Result<String, String> {
    let output = command()
        .args(["redis", "--server", &node.address(6379).to_string()])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

async fn connect(url: &str) -> redis::aio::MultiplexedConnection {
    let options = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let client = redis::Client::open(url).unwrap();
    client.get_multiplexed_async_connection_with_config(&options).await.unwrap()
}

async fn ask<T: redis::FromRedisValue>(url: &str, line: &str) -> T {
    let mut connection = connect(url).await;
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query_async(&mut connection).await.unwrap_or_else(|error| panic!("{line}: {error}"))
}

const DATA: &[&str] = &[
    "SET s value PXAT 4000000000000",
    "RPUSH l a b c",
    "SADD set 1 2 3 x",
    "ZADD z 1.5 a -inf b",
    "HSET h f v g w",
    "XADD st 1-1 f v",
    "XGROUP CREATE st g 0",
    "PFADD hll a b c",
    "SETBIT bits 100 1",
    "GEOADD geo 13.36 38.11 Palermo",
];

async fn fill(url: &str) {
    for line in DATA {
        let _: redis::Value = ask(url, line).await;
    }
    // Larger than goes in one piece, and large enough to be spread.
    let mut connection = connect(url).await;
    let mut pipeline = redis::pipe();
    pipeline.cmd("SELECT").arg(3);
    for number in 0..300 {
        pipeline
            .cmd("RPUSH")
            .arg("long")
            .arg(vec![b'x'; 40_000])
            .cmd("HSET")
            .arg("wide")
            .arg(number)
            .arg(number);
    }
    pipeline.query_async::<Vec<redis::Value>>(&mut connection).await.unwrap();
}

/// What both must hold: each key of each database as DUMP or its members tell.
async fn fingerprint(url: &str) -> Vec<String> {
    let mut all = Vec::new();
    for line in [
        "GET s",
        "PEXPIRETIME s",
        "LRANGE l 0 -1",
        "SORT set ALPHA",
        "ZRANGE z 0 -1 WITHSCORES",
        "HMGET h f g",
        "XRANGE st - +",
        "XPENDING st g",
        "PFCOUNT hll",
        "GETBIT bits 100",
        "GEOHASH geo Palermo",
        "DBSIZE",
    ] {
        let value: redis::Value = ask(url, line).await;
        all.push(format!("{line}: {value:?}"));
    }
    let third = format!("{}3", url);
    for line in ["LLEN long", "LINDEX long 299", "HLEN wide", "HGET wide 150", "DBSIZE"] {
        let value: redis::Value = ask(&third, line).await;
        all.push(format!("{line}: {value:?}"));
    }
    all
}

#[test]
fn a_file_carries_all_keys_from_one_node_to_another() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (NodeProcess::start(first.path()), NodeProcess::start(second.path()));
    let file = first.path().join("dump.rdb");
    let file = file.to_str().unwrap();
    let before = runtime().block_on(async {
        fill(&one.redis_url()).await;
        fingerprint(&one.redis_url()).await
    });
    run(&one, &["export", file]).unwrap();
    assert!(run(&one, &["export", file]).unwrap_err().contains("exists"));
    run(&two, &["import", file]).unwrap();
    assert_eq!(runtime().block_on(fingerprint(&two.redis_url())), before);
    assert!(run(&two, &["import", file]).unwrap_err().contains("--replace"));
    run(&two, &["import", file, "--replace"]).unwrap();
    assert_eq!(runtime().block_on(fingerprint(&two.redis_url())), before);
    let broken = first.path().join("broken.rdb");
    let mut bytes = std::fs::read(file).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&broken, bytes).unwrap();
    let error = run(&two, &["import", broken.to_str().unwrap(), "--replace"]).unwrap_err();
    assert!(error.contains("ends early"), "{error}");
}

#[test]
fn a_node_is_copied_and_followed_like_a_primary() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (primary, mut node) = (NodeProcess::start(first.path()), NodeProcess::start(second.path()));
    runtime().block_on(fill(&primary.redis_url()));
    let address = primary.address(6379).to_string();
    run(&node, &["follow", &address, "--until-caught-up"]).unwrap();
    let both = |node: &NodeProcess| {
        let (there, here) = (primary.redis_url(), node.redis_url());
        let (there, here) =
            runtime().block_on(async { (fingerprint(&there).await, fingerprint(&here).await) });
        // Its cursor is a key more.
        let kept = |lines: Vec<String>| -> Vec<String> {
            lines.into_iter().filter(|line| !line.starts_with("DBSIZE")).collect()
        };
        (kept(there), kept(here))
    };
    let (there, here) = both(&node);
    assert_eq!(here, there);
    runtime().block_on(async {
        for line in ["RPUSH l d", "DEL z", "XADD st 2-1 f w", "HINCRBY h n 5", "INCR n"] {
            let _: redis::Value = ask(&primary.redis_url(), line).await;
        }
    });
    node.kill_and_restart();
    let said = run(&node, &["follow", &address, "--until-caught-up"]).unwrap();
    assert!(said.contains("going on at offset"), "{said}");
    let (there, here) = both(&node);
    assert_eq!(here, there);
    assert_eq!(runtime().block_on(ask::<i64>(&node.redis_url(), "GET n")), 1);
}

/// A redis-server of its own; `None` where none is installed.
struct RealRedis {
    child: Child,
    url: String,
    address: String,
}

impl RealRedis {
    fn start(directory: &Path) -> Option<RealRedis> {
        let port = 6379 + free_port_offset();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--dir", directory.to_str().unwrap()])
            .args(["--save", "", "--repl-diskless-sync-delay", "0"])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let address = format!("127.0.0.1:{port}");
        let url = format!("redis://{address}/");
        let started = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(started.elapsed() < PATIENCE, "redis-server does not listen");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Some(RealRedis { child, url, address })
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_primary_is_copied_and_followed_until_its_clients_can_move() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(primary) = RealRedis::start(first.path()) else { return };
    let mut node = NodeProcess::start(second.path());
    runtime().block_on(fill(&primary.url));
    run(&node, &["follow", &primary.address, "--until-caught-up"]).unwrap();
    // Its cursor is a key more.
    let without_sizes = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|line| !line.starts_with("DBSIZE")).collect()
    };
    let both = |node: &NodeProcess| {
        let (there, here) = (primary.url.clone(), node.redis_url());
        runtime().block_on(async { (fingerprint(&there).await, fingerprint(&here).await) })
    };
    let (there, here) = both(&node);
    assert_eq!(without_sizes(here), without_sizes(there));
    // What changes meanwhile is taken over from where it was, once each, over a crash.
    runtime().block_on(async {
        for line in ["RPUSH l d", "DEL z", "XADD st 2-1 f w", "HINCRBY h n 5"] {
            let _: redis::Value = ask(&primary.url, line).await;
        }
        let mut connection = connect(&primary.url).await;
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("INCR").arg("n").cmd("INCR").arg("n");
        pipeline.query_async::<Vec<redis::Value>>(&mut connection).await.unwrap();
    });
    node.kill_and_restart();
    let said = run(&node, &["follow", &primary.address, "--until-caught-up"]).unwrap();
    assert!(said.contains("going on at offset"), "{said}");
    let (there, here) = both(&node);
    assert_eq!(without_sizes(here), without_sizes(there));
    assert_eq!(runtime().block_on(ask::<i64>(&node.redis_url(), "GET n")), 2);
    // Redis loads what is exported here.
    let file = first.path().join("back.rdb");
    run(&node, &["export", file.to_str().unwrap()]).unwrap();
    let third = tempfile::tempdir().unwrap();
    std::fs::copy(&file, third.path().join("dump.rdb")).unwrap();
    let again = RealRedis::start(third.path()).unwrap();
    let (now, loaded) = runtime().block_on(async {
        // It answers LOADING until it has read the file.
        let mut connection = connect(&again.url).await;
        while redis::cmd("DBSIZE").query_async::<i64>(&mut connection).await.is_err() {}
        (fingerprint(&node.redis_url()).await, fingerprint(&again.url).await)
    });
    assert_eq!(loaded, now);
}

/// A cluster follows through whichever node leads: what a primary's commands change is there once, though nodes are
/// killed meanwhile.
#[test]
fn a_cluster_follows_a_primary_over_the_loss_of_its_leaders() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(primary) = RealRedis::start(first.path()) else { return };
    let mut cluster = Cluster::start_with(second.path(), &[]);
    let (host, port) = primary.address.split_once(':').unwrap();
    let url = cluster.nodes[0].redis_url();
    runtime().block_on(ask::<()>(&url, &format!("REPLICAOF {host} {port}")));
    let count = 4_000;
    for round in 0..4 {
        runtime().block_on(async {
            let mut connection = connect(&primary.url).await;
            for number in 0..count / 4 {
                let mut pipeline = redis::pipe();
                pipeline.cmd("INCR").arg("n").cmd("RPUSH").arg("l").arg(number);
                pipeline.query_async::<Vec<redis::Value>>(&mut connection).await.unwrap();
            }
        });
        if round < 3 {
            let leader = cluster.leader();
            cluster.nodes[leader].kill_and_restart();
        }
    }
    let leader = cluster.leader();
    for node in [leader, (leader + 1) % 3] {
        let url = cluster.nodes[node].redis_url();
        let started = Instant::now();
        runtime().block_on(async {
            while ask::<Option<i64>>(&url, "GET n").await != Some(count) {
                assert!(started.elapsed() < PATIENCE, "it does not catch up");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            assert_eq!(ask::<i64>(&url, "LLEN l").await, count);
        });
    }
    runtime().block_on(async {
        let url = cluster.nodes[(leader + 2) % 3].redis_url();
        ask::<()>(&url, "REPLICAOF NO ONE").await;
        assert_eq!(ask::<i64>(&url, "INCR n").await, count + 1);
    });
}
