//! Four nodes, of which each has replicas of some shards only: any of them serves any key.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use redis::Value;
use redis::aio::MultiplexedConnection;

use crate::cluster::{Cluster, SECRET, connect_in_time, order, settings};
use crate::node::{NodeProcess, PATIENCE, command, runtime};

const SHARDS: usize = 8;
const KEYS: usize = 120;

/// Starts nodes of a cluster in which each further shard has so many replicas.
fn start(directory: &Path, node_count: usize, replicas: usize) -> Cluster {
    let (shards, replicas) = (SHARDS.to_string(), replicas.to_string());
    let mut nodes = Vec::new();
    for number in 1..=node_count {
        let join = nodes.first().map(|first: &NodeProcess| first.address(7000).to_string());
        let mut settings = settings(join.as_deref());
        settings.extend(["--dead-after-s", "5"].map(str::to_owned));
        if number == 1 {
            settings.extend(["--shards", &shards, "--replicas", &replicas].map(str::to_owned));
        }
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        nodes.push(NodeProcess::start_with(&directory.join(format!("n{number}")), &settings));
    }
    Cluster::of(nodes)
}

fn numbers(list: &serde_json::Value) -> Vec<u64> {
    list.as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect()
}

/// Which shards each node has.
type On = BTreeMap<u64, BTreeSet<u64>>;

/// Waits until each further shard has so many replicas, where they were chosen to be, on none of `without`, and no node has
/// two more than another; says which shards each node has.
fn await_placed(cluster: &Cluster, replicas: usize, nodes: &[u64]) -> On {
    let started = Instant::now();
    loop {
        let status = cluster.status().unwrap_or_default();
        let shards = status["shards"].as_array().cloned().unwrap_or_default();
        let mut on = On::new();
        let mut is_placed = shards.len() == SHARDS;
        for shard in shards.iter().filter(|shard| shard["shard"] != 0) {
            let (members, placed) = (numbers(&shard["members"]), numbers(&shard["placed"]));
            is_placed &= members == placed
                && placed.len() == replicas
                && numbers(&shard["voters"]) == placed
                && shard["leader"].is_u64();
            for node in members {
                on.entry(node).or_default().insert(shard["shard"].as_u64().unwrap());
            }
        }
        let loads: Vec<usize> =
            nodes.iter().map(|node| on.get(node).map_or(0, BTreeSet::len)).collect();
        let total = loads.iter().sum::<usize>();
        is_placed &= total == replicas * (SHARDS - 1)
            && loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1;
        if is_placed {
            return on;
        }
        assert!(started.elapsed() < 2 * PATIENCE, "replicas are not placed: {status:#}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Stops nodes cleanly, which leaves a checkpoint of each shard behind, and says whose files each has.
fn stop_and_list(directory: &Path, cluster: Cluster) -> On {
    for mut node in cluster.nodes {
        node.signal("TERM");
        node.wait();
    }
    let mut on = On::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let place = entry.unwrap().path();
        let number = place.file_name().unwrap().to_str().unwrap()[1..].parse().unwrap();
        let stores = on.entry(number).or_default();
        for entry in std::fs::read_dir(place).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            stores.extend(name.strip_prefix("store-").map(|shard| shard.parse::<u64>().unwrap()));
        }
    }
    on
}

async fn ask(connection: &mut MultiplexedConnection, words: &[&str]) -> Value {
    let mut request = redis::cmd(words[0]);
    request.arg(&words[1..]);
    let answer = tokio::time::timeout(PATIENCE, request.query_async(connection)).await;
    answer.unwrap_or_else(|_| panic!("{words:?} is not answered")).unwrap_or_else(|error| {
        panic!("{words:?}: {error}");
    })
}

fn text(value: &str) -> Value {
    Value::BulkString(value.as_bytes().to_vec())
}

fn key(number: usize) -> String {
    format!("key:{number}")
}

/// Asks again until there is no error: a leader may just have gone.
async fn insist(url: &str, words: &[&str]) -> Value {
    let started = Instant::now();
    loop {
        let mut connection = connect_in_time(url).await;
        let mut request = redis::cmd(words[0]);
        request.arg(&words[1..]);
        let answer = tokio::time::timeout(PATIENCE, request.query_async(&mut connection)).await;
        match answer {
            Ok(Ok(value)) => return value,
            other => assert!(started.elapsed() < PATIENCE, "{words:?}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn check_all(connection: &mut MultiplexedConnection) {
    let keys: Vec<String> = (0..KEYS).map(key).collect();
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(ask(connection, &["GET", key]).await, text(&number.to_string()), "{key}");
    }
    let mut get = redis::cmd("MGET");
    let all: Vec<Option<usize>> = get.arg(&keys).query_async(connection).await.unwrap();
    assert!(all.iter().enumerate().all(|(number, found)| *found == Some(number)), "{all:?}");
    let mut exists = redis::cmd("EXISTS");
    let count: usize = exists.arg(&keys).query_async(connection).await.unwrap();
    assert_eq!(count, KEYS);
    let mut names = redis::cmd("KEYS");
    let found: BTreeSet<String> = names.arg("key:*").query_async(connection).await.unwrap();
    assert_eq!(found.len(), KEYS);
    let (mut cursor, mut scanned) = (0u64, BTreeSet::new());
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg("key:*").arg("COUNT").arg(7);
        let (next, page): (u64, Vec<String>) = scan.query_async(connection).await.unwrap();
        scanned.extend(page);
        if next == 0 {
            break;
        }
        cursor = next;
    }
    assert_eq!(scanned, found);
    assert!(matches!(ask(connection, &["RANDOMKEY"]).await, Value::BulkString(_)));
}

#[test]
fn every_node_serves_every_key_and_has_some_shards() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = start(directory.path(), 4, 3);
    let on = await_placed(&cluster, 3, &[1, 2, 3, 4]);
    assert!(on.values().all(|shards| shards.len() < SHARDS - 1), "{on:?}");
    let runtime = runtime();
    let urls: Vec<String> = cluster.nodes.iter().map(NodeProcess::redis_url).collect();
    runtime.block_on(async {
        let mut connections = Vec::new();
        for url in &urls {
            connections.push(connect_in_time(url).await);
        }
        for number in 0..KEYS {
            let value = number.to_string();
            ask(&mut connections[number % 4], &["SET", &key(number), &value]).await;
        }
        for connection in &mut connections {
            check_all(connection).await;
            assert_eq!(ask(connection, &["DBSIZE"]).await, Value::Int(KEYS as i64));
            check_types(connection).await;
            check_transactions(connection).await;
        }
        check_waiting(&urls).await;
        check_messages(&urls).await;
    });
    for node in &cluster.nodes {
        check_tracking(node, &cluster.nodes[0]);
    }
    runtime.block_on(async {
        for number in 0..SHARDS {
            ask(&mut connect_in_time(&urls[0]).await, &["DEL", &format!("kept:{number}")]).await;
        }
    });
    // One node lost: all its keys are there, and its replicas come to the others.
    cluster.nodes[3].kill();
    runtime.block_on(async {
        for url in &urls[..3] {
            for number in 0..KEYS {
                assert_eq!(insist(url, &["GET", &key(number)]).await, text(&number.to_string()));
            }
            insist(url, &["SET", "after", "loss"]).await;
            check_all(&mut connect_in_time(url).await).await;
        }
    });
    await_placed(&cluster, 3, &[1, 2, 3]);
    // Another joins in its place, and is given some of them.
    let settings = settings(Some(&cluster.nodes[0].address(7000).to_string()));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    cluster.nodes[3] = NodeProcess::start_with(&directory.path().join("n5"), &settings);
    let on = await_placed(&cluster, 3, &[1, 2, 3, 5]);
    let urls: Vec<String> = cluster.nodes.iter().map(NodeProcess::redis_url).collect();
    runtime.block_on(async {
        for url in &urls {
            check_all(&mut connect_in_time(url).await).await;
        }
    });
    let mut listed = stop_and_list(directory.path(), cluster);
    listed.remove(&4);
    assert_eq!(listed, on);
}

#[test]
fn a_node_is_emptied_before_it_leaves_and_replicas_go_where_they_are_ordered() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = start(directory.path(), 4, 2);
    let on = await_placed(&cluster, 2, &[1, 2, 3, 4]);
    let runtime = runtime();
    let url = cluster.nodes[0].redis_url();
    runtime.block_on(async {
        let mut connection = connect_in_time(&url).await;
        for number in 0..KEYS {
            ask(&mut connection, &["SET", &key(number), &number.to_string()]).await;
        }
    });
    // The fullest gives one to the emptiest, so that the rule leaves it there.
    let load = |node: &u64| on[node].len();
    let (from, to) = (on.keys().max_by_key(|n| load(n)), on.keys().min_by_key(|n| load(n)));
    let (from, to) = (*from.unwrap(), *to.unwrap());
    let shard = *on[&from].difference(&on[&to]).next().unwrap();
    let (shard_text, from_text, to_text) = (shard.to_string(), from.to_string(), to.to_string());
    let moving = ["move-replica", &shard_text, "--from", &from_text, "--to", &to_text];
    let planned = order(&cluster.nodes[1], &[&moving[..], &["--dry-run"]].concat());
    assert!(planned.contains("Would move a replica"), "{planned}");
    order(&cluster.nodes[1], &moving);
    let on = await_placed(&cluster, 2, &[1, 2, 3, 4]);
    assert!(on[&to].contains(&shard) && !on[&from].contains(&shard), "{on:?}");
    order(&cluster.nodes[0], &["remove", "3"]);
    cluster.nodes.remove(2).kill();
    let on = await_placed(&cluster, 2, &[1, 2, 4]);
    order(&cluster.nodes[2], &["drain", "2"]);
    await_placed(&cluster, 2, &[1, 4]);
    order(&cluster.nodes[2], &["add", "2"]);
    let after = await_placed(&cluster, 2, &[1, 2, 4]);
    assert_ne!(on, On::new());
    // Each shard once, from a node that has it.
    let place = directory.path().join("backups");
    let taken = command()
        .args(["backup", place.to_str().unwrap(), "--peer"])
        .arg(cluster.nodes[1].address(7000).to_string())
        .env("PROTEUS_CLUSTER_SECRET", SECRET)
        .output()
        .unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let data = directory.path().join("r9");
    let restored = command()
        .args(["restore", place.to_str().unwrap(), "--data-dir", data.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let alone = NodeProcess::start_with(&data, &["--cluster-secret", SECRET]);
    runtime.block_on(async {
        check_all(&mut connect_in_time(&alone.redis_url()).await).await;
        insist(&alone.redis_url(), &["SET", "after", "restore"]).await;
    });
    drop(alone);
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    runtime.block_on(async {
        for node in &cluster.nodes {
            check_all(&mut connect_in_time(&node.redis_url()).await).await;
        }
    });
    // Everywhere again.
    order(&cluster.nodes[0], &["replicas", "all"]);
    await_everywhere(&cluster, &[1, 2, 4]);
    let mut listed = stop_and_list(directory.path(), cluster);
    listed.remove(&3);
    assert!(listed.values().all(|shards| shards.len() == SHARDS - 1), "{listed:?} {after:?}");
}

/// Waits until every node has every shard.
fn await_everywhere(cluster: &Cluster, nodes: &[u64]) {
    let started = Instant::now();
    loop {
        let status = cluster.status().unwrap_or_default();
        let shards = status["shards"].as_array().cloned().unwrap_or_default();
        if shards.len() == SHARDS && shards.iter().all(|shard| numbers(&shard["members"]) == nodes)
        {
            return;
        }
        assert!(started.elapsed() < 2 * PATIENCE, "not everywhere: {status:#}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A client that keeps copies is told when a key changes, whichever shard has it.
fn check_tracking(node: &NodeProcess, changing: &NodeProcess) {
    let connect = |node: &NodeProcess| {
        let stream = std::net::TcpStream::connect(node.address(6379)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let read_until = |stream: &mut std::net::TcpStream, wanted: &str| {
        let (mut said, mut buffer) = (String::new(), [0; 4096]);
        while !said.contains(wanted) {
            let count = stream.read(&mut buffer).unwrap_or_else(|e| panic!("{wanted:?}: {e}"));
            assert!(count > 0, "the connection ended without {wanted:?}: {said}");
            said.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        said
    };
    let (mut keeping, mut other) = (connect(node), connect(changing));
    keeping.write_all(b"HELLO 3\r\nCLIENT TRACKING ON\r\n").unwrap();
    read_until(&mut keeping, "+OK\r\n");
    for number in 0..SHARDS {
        let name = format!("kept:{number}");
        other.write_all(format!("SET {name} old\r\n").as_bytes()).unwrap();
        read_until(&mut other, "+OK\r\n");
        // It may be told of the first change after it has read: then it reads again.
        let read = |keeping: &mut std::net::TcpStream| {
            keeping.write_all(format!("GET {name}\r\nECHO end\r\n").as_bytes()).unwrap();
            read_until(keeping, "end")
        };
        while read(&mut keeping).contains("invalidate") {}
        other.write_all(format!("SET {name} new\r\n").as_bytes()).unwrap();
        read_until(&mut other, "+OK\r\n");
        read_until(&mut keeping, "invalidate\r\n");
    }
}

/// Commands of more than one key, and of one that is elsewhere.
async fn check_types(connection: &mut MultiplexedConnection) {
    for name in ["set:a", "set:b", "set:c"] {
        ask(connection, &["SADD", name, "x", name]).await;
    }
    let mut common = redis::cmd("SINTER");
    let common: Vec<String> =
        common.arg(&["set:a", "set:b", "set:c"]).query_async(connection).await.unwrap();
    assert_eq!(common, ["x"]);
    for name in ["set:a", "set:b", "set:c"] {
        ask(connection, &["DEL", name]).await;
    }
    ask(connection, &["HSET", "hash", "f", "v"]).await;
    assert_eq!(ask(connection, &["HGET", "hash", "f"]).await, text("v"));
    assert_eq!(
        ask(connection, &["EVAL", "return redis.call('HGET', KEYS[1], 'f')", "1", "hash"]).await,
        text("v")
    );
    assert_eq!(
        ask(connection, &["EVAL_RO", "return redis.call('HGET', KEYS[1], 'f')", "1", "hash"]).await,
        text("v")
    );
    assert_eq!(ask(connection, &["OBJECT", "ENCODING", "hash"]).await, text("listpack"));
    assert!(matches!(ask(connection, &["MEMORY", "USAGE", "hash"]).await, Value::Int(1..)));
    assert_eq!(ask(connection, &["DEL", "hash", "other", "third"]).await, Value::Int(1));
}

/// MULTI over slots, and WATCH.
async fn check_transactions(connection: &mut MultiplexedConnection) {
    let watched = "watched";
    ask(connection, &["SET", watched, "1"]).await;
    ask(connection, &["WATCH", watched, "another"]).await;
    ask(connection, &["MULTI"]).await;
    for name in ["multi:a", "multi:b", "multi:c", "multi:d"] {
        ask(connection, &["INCR", name]).await;
    }
    let done = ask(connection, &["EXEC"]).await;
    assert!(matches!(&done, Value::Array(replies) if replies.len() == 4), "{done:?}");
    ask(connection, &["WATCH", watched]).await;
    ask(connection, &["SET", watched, "2"]).await;
    ask(connection, &["MULTI"]).await;
    ask(connection, &["INCR", watched]).await;
    assert_eq!(ask(connection, &["EXEC"]).await, Value::Nil);
    let names = [watched, "multi:a", "multi:b", "multi:c", "multi:d"];
    let mut delete = redis::cmd("DEL");
    let count: i64 = delete.arg(&names).query_async(connection).await.unwrap();
    assert_eq!(count, 5);
}

/// Who waits on one node is served by a push on another.
async fn check_waiting(urls: &[String]) {
    for (place, url) in urls.iter().enumerate() {
        for number in 0..SHARDS * 2 {
            let list = format!("list:{place}:{number}");
            let (mut waiting, mut pushing) =
                (connect_in_time(url).await, connect_in_time(&urls[(place + 1) % 4]).await);
            let waiter = {
                let list = list.clone();
                tokio::spawn(async move {
                    let mut pop = redis::cmd("BLPOP");
                    pop.arg(list).arg(60).query_async::<(String, String)>(&mut waiting).await
                })
            };
            tokio::task::yield_now().await;
            ask(&mut pushing, &["RPUSH", &list, "it"]).await;
            let served = tokio::time::timeout(PATIENCE, waiter).await.unwrap().unwrap().unwrap();
            assert_eq!(served, (list, "it".to_owned()));
        }
    }
}

/// Key events of all shards reach subscribers on any node.
async fn check_messages(urls: &[String]) {
    let mut setting = connect_in_time(&urls[0]).await;
    ask(&mut setting, &["CONFIG", "SET", "notify-keyspace-events", "KEA"]).await;
    for url in urls {
        let client = redis::Client::open(url.as_str()).unwrap();
        let mut subscriber = client.get_async_pubsub().await.unwrap();
        subscriber.psubscribe("__keyevent@0__:rpush").await.unwrap();
        let mut wanted: BTreeSet<String> = (0..SHARDS * 3).map(|n| format!("event:{n}")).collect();
        for name in &wanted {
            ask(&mut setting, &["RPUSH", name, "x"]).await;
        }
        let mut messages = subscriber.on_message();
        while !wanted.is_empty() {
            let next = futures::StreamExt::next(&mut messages);
            let message = tokio::time::timeout(PATIENCE, next).await;
            let message = message.unwrap_or_else(|_| panic!("{wanted:?} are not told")).unwrap();
            wanted.remove(&message.get_payload::<String>().unwrap());
        }
        for number in 0..SHARDS * 3 {
            ask(&mut setting, &["DEL", &format!("event:{number}")]).await;
        }
    }
    ask(&mut setting, &["CONFIG", "SET", "notify-keyspace-events", ""]).await;
}
