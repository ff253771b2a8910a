//! Three nodes with several shards: money goes from account to account over the shards, slots move, nodes
//! are killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::AsyncConnectionConfig;

use crate::cluster::{Cluster, SECRET, connect, connect_in_time, order, wait_for};
use crate::node::{NodeProcess, PATIENCE, command, runtime};

const ACCOUNTS: usize = 24;

fn account(number: usize) -> String {
    format!("account:{}", number % ACCOUNTS)
}

/// Moves money between accounts through one node after another, and counts that in the same transaction.
/// Tells the last count, and how many answers it did not get.
async fn transfer(
    urls: Vec<String>,
    writer: usize,
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
) -> (i64, i64) {
    let (mut told, mut unanswered, mut place) = (0, 0, writer);
    while !stop.load(Ordering::Relaxed) {
        place += 1;
        let Some(mut connection) = connect(&urls[place % urls.len()]).await else { continue };
        while !stop.load(Ordering::Relaxed) {
            place += 1;
            let mut pipe = redis::pipe();
            pipe.atomic()
                .cmd("INCR")
                .arg(format!("transfers:{writer}"))
                .cmd("DECRBY")
                .arg(account(place * 7 + writer))
                .arg(place)
                .ignore()
                .cmd("INCRBY")
                .arg(account(place * 5 + 3))
                .arg(place)
                .ignore();
            let answer: Result<Result<(i64,), _>, _> =
                tokio::time::timeout(Duration::from_secs(5), pipe.query_async(&mut connection))
                    .await;
            let Ok(Ok((count,))) = answer else {
                unanswered += 1;
                break;
            };
            assert!(count > told, "writer {writer}: told {count} after {told}");
            told = count;
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }
    (told, unanswered)
}

/// Reads all accounts at once through one node after another; they hold nothing together.
async fn audit(urls: Vec<String>, stop: Arc<AtomicBool>) -> u64 {
    let (mut audits, mut place) = (0, 0);
    let accounts: Vec<String> = (0..ACCOUNTS).map(account).collect();
    while !stop.load(Ordering::Relaxed) {
        place += 1;
        let Some(mut connection) = connect(&urls[place % urls.len()]).await else { continue };
        for _ in 0..50 {
            let mut get = redis::cmd("MGET");
            get.arg(&accounts);
            let answer: Result<Result<Vec<Option<i64>>, _>, _> =
                tokio::time::timeout(Duration::from_secs(5), get.query_async(&mut connection))
                    .await;
            let Ok(Ok(values)) = answer else { break };
            let sum: i64 = values.iter().flatten().sum();
            assert_eq!(sum, 0, "money came from nowhere: {values:?} on {}", place % urls.len());
            audits += 1;
        }
    }
    audits
}

/// Waits until all nodes vote in so many shards.
pub fn await_shards(cluster: &Cluster, count: usize) {
    let started = Instant::now();
    let all_vote = |status: &serde_json::Value| {
        let shards = status["shards"].as_array().cloned().unwrap_or_default();
        shards.len() == count
            && shards.iter().all(|s| s["voters"].as_array().is_some_and(|v| v.len() == 3))
    };
    while !cluster.status().is_some_and(|status| all_vote(&status)) {
        assert!(started.elapsed() < PATIENCE, "the shards do not spread: {:?}", cluster.status());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Who leads the shards, in their order, once that is known of all.
fn leaders(cluster: &Cluster) -> Option<Vec<u64>> {
    let status = cluster.status()?;
    status["shards"].as_array()?.iter().map(|shard| shard["leader"].as_u64()).collect()
}

fn wait_for_leaders(cluster: &Cluster, are_right: impl Fn(&[u64]) -> bool) {
    let started = Instant::now();
    while !leaders(cluster).is_some_and(|leaders| are_right(&leaders)) {
        assert!(started.elapsed() < PATIENCE, "leaders stay as they are: {:?}", leaders(cluster));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn leaders_spread_over_the_nodes_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_with(directory.path(), &["--shards", "6"]);
    let led = |leaders: &[u64], node: u64| leaders.iter().filter(|leader| **leader == node).count();
    let are_even = |leaders: &[u64]| (1..=3).all(|node| led(leaders, node) == 2);
    wait_for_leaders(&cluster, are_even);
    // One that was away gets its share again.
    let leader = cluster.leader();
    cluster.nodes[leader].kill_and_restart();
    wait_for_leaders(&cluster, are_even);
    // What an operator has chosen stays, and the others make up for it.
    let first = (cluster.leader() + 1).to_string();
    for shard in ["1", "2", "3"] {
        order(&cluster.nodes[0], &["lead", &first, "--shard", shard]);
    }
    let number: u64 = first.parse().unwrap();
    let chosen = |leaders: &[u64]| {
        leaders.iter().take(4).all(|leader| *leader == number) && led(leaders, number) == 4
    };
    wait_for_leaders(&cluster, chosen);
    let status = cluster.status().unwrap();
    assert!(status["shards"][1]["kept_ms"].as_u64().is_some_and(|ms| ms > 0), "{status}");
    // Until it is for the cluster to say again.
    for shard in ["1", "2", "3"] {
        order(&cluster.nodes[0], &["lead", &first, "--shard", shard, "--keep", "0"]);
    }
    wait_for_leaders(&cluster, are_even);
}

#[test]
fn transactions_over_shards_are_whole_while_slots_move() {
    transact_over_shards(0);
}

#[test]
fn transactions_over_shards_are_whole_while_slots_move_and_nodes_are_killed() {
    transact_over_shards(3);
}

/// Keys of several shards that one client sets one after the other to the same number, then to the next.
const CHAIN: usize = 8;

async fn chain(urls: Vec<String>, stop: Arc<AtomicBool>, progress: Arc<AtomicU64>) {
    let mut connections = Vec::new();
    for url in &urls {
        connections.push(connect(url).await.unwrap());
    }
    for number in 1u64.. {
        for link in 0..CHAIN {
            let connection = &mut connections[link % urls.len()];
            let mut set = redis::cmd("SET");
            set.arg(format!("chain:{link}")).arg(number);
            let () = set.query_async(connection).await.unwrap();
        }
        progress.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

fn succeed(arguments: &[&str]) -> String {
    let output = command().args(arguments).env("PROTEUS_CLUSTER_SECRET", SECRET).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn backups_of_several_shards_and_the_log_behind_them_hold_one_moment() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(directory.path(), &["--shards", "3"]);
    wait_for_leaders(&cluster, |leaders| (1..=3).all(|node| leaders.contains(&node)));
    let place = directory.path().join("backups");
    let place = place.to_str().unwrap();
    let runtime = runtime();
    let urls: Vec<String> = cluster.nodes.iter().map(NodeProcess::redis_url).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..3)
        .map(|writer| runtime.spawn(transfer(urls.clone(), writer, stop.clone(), progress.clone())))
        .collect();
    let links = Arc::new(AtomicU64::new(0));
    let linking = runtime.spawn(chain(urls.clone(), stop.clone(), links.clone()));
    for node in &cluster.nodes {
        wait_for(20, &progress, "no transfers");
        wait_for(5, &links, "the chain stands still");
        let before = links.load(Ordering::Relaxed);
        succeed(&["backup", place, "--peer", &node.address(7000).to_string()]);
        println!("chain: {before} before, {links:?} after");
    }
    let listed = || {
        let list = succeed(&["backup", place, "--list"]);
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        list.lines().skip(1).filter_map(first).collect::<Vec<String>>()
    };
    let mut moments = listed();
    assert_eq!(moments.len(), 3);
    let peer = cluster.nodes[2].address(7000).to_string();
    let mut following = command()
        .args(["backup", place, "--peer", &peer, "--follow", "--every", "1"])
        .env("PROTEUS_CLUSTER_SECRET", SECRET)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // A backup, then the log behind it.
    while listed().len() < 5 {
        wait_for(5, &progress, "no transfers");
    }
    for _ in 0..3 {
        wait_for(20, &progress, "no transfers");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        moments.push(now.as_millis().to_string());
    }
    while listed().last() < moments.last() {
        wait_for(5, &progress, "no transfers");
    }
    following.kill().unwrap();
    following.wait().unwrap();
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        runtime.block_on(writer).unwrap();
    }
    runtime.block_on(linking).unwrap();
    assert!(succeed(&["backup", place, "--verify"]).contains("4 backups"));
    drop(cluster);
    for at in &moments {
        let data = directory.path().join(format!("restored-{at}"));
        let told = succeed(&["restore", place, "--data-dir", data.to_str().unwrap(), "--at", at]);
        assert!(!told.contains("followed up to"), "{told}");
        let node = NodeProcess::start_with(&data, &["--cluster-secret", SECRET]);
        runtime.block_on(async {
            let mut connection = connect(&node.redis_url()).await.unwrap();
            let accounts: Vec<String> = (0..ACCOUNTS).map(account).collect();
            let mut get = redis::cmd("MGET");
            let balances: Vec<Option<i64>> =
                get.arg(accounts).query_async(&mut connection).await.unwrap();
            assert_eq!(balances.iter().flatten().sum::<i64>(), 0, "{balances:?}");
            let mut get = redis::cmd("MGET");
            let links: Vec<String> = (0..CHAIN).map(|link| format!("chain:{link}")).collect();
            let links: Vec<u64> = get.arg(links).query_async(&mut connection).await.unwrap();
            let is_cut =
                links.windows(2).all(|pair| pair[0] >= pair[1]) && links[0] - links[CHAIN - 1] <= 1;
            assert!(is_cut, "a later link is there, and one before it is not: {links:?}");
            for number in 0..ACCOUNTS {
                let mut incr = redis::cmd("INCR");
                let () = incr.arg(account(number)).query_async(&mut connection).await.unwrap();
            }
        });
        let status = succeed(&["cluster", "status", "--peer", &node.address(7000).to_string()]);
        assert!(status.contains("shard  leader"), "{status}");
    }
}

fn transact_over_shards(kills: usize) {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_with(directory.path(), &["--shards", "3"]);
    await_shards(&cluster, 3);
    let runtime = runtime();
    let urls: Vec<String> = cluster.nodes.iter().map(NodeProcess::redis_url).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..4)
        .map(|writer| runtime.spawn(transfer(urls.clone(), writer, stop.clone(), progress.clone())))
        .collect();
    let auditor = runtime.spawn(audit(urls.clone(), stop.clone()));
    let advance = |by| wait_for(by, &progress, "no transfers although a majority is there");
    advance(50);
    // Leaders of shards on different nodes, then a shard more, and slots on their way to it.
    order(&cluster.nodes[0], &["lead", "2", "--shard", "1"]);
    order(&cluster.nodes[1], &["lead", "3", "--shard", "2"]);
    advance(50);
    order(&cluster.nodes[2], &["add-shard"]);
    order(&cluster.nodes[0], &["move", "4000-9000", "--to", "3"]);
    advance(50);
    for round in 0..kills {
        let leader = cluster.leader();
        cluster.nodes[(leader + round) % 3].kill_and_restart();
        advance(50);
    }
    order(&cluster.nodes[0], &["move", "all", "--to", "0"]);
    advance(50);
    stop.store(true, Ordering::Relaxed);
    let audits = runtime.block_on(auditor).unwrap();
    assert!(audits > 10, "{audits} audits");
    for (writer, task) in writers.into_iter().enumerate() {
        let (told, unanswered) = runtime.block_on(task).unwrap();
        println!("writer {writer}: told {told}, {unanswered} unanswered; {audits} audits");
        for url in &urls {
            let found: i64 = runtime.block_on(async {
                let mut connection = connect_in_time(url).await;
                let mut get = redis::cmd("GET");
                get.arg(format!("transfers:{writer}")).query_async(&mut connection).await.unwrap()
            });
            assert!((told..=told + unanswered).contains(&found), "{told} {unanswered} {found}");
        }
    }
}

/// Counts up keys of all shards as clients of Redis Cluster do, who go where they are told; tells how often
/// all were counted.
async fn count_up(urls: Vec<String>, stop: Arc<AtomicBool>, progress: Arc<AtomicU64>) -> i64 {
    let mut connections = BTreeMap::new();
    let mut places = vec![urls[0].clone(); 100];
    let mut counted = 0;
    while !stop.load(Ordering::Relaxed) {
        for (number, place) in places.iter_mut().enumerate() {
            let started = Instant::now();
            let found: i64 = loop {
                assert!(started.elapsed() < PATIENCE, "n:{number} is sent from node to node");
                if !connections.contains_key(place) {
                    let client = redis::Client::open(place.as_str()).unwrap();
                    // A request waits for a slot on its way, and a shard without a leader.
                    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
                    let connection = client.get_multiplexed_async_connection_with_config(&patient);
                    connections.insert(place.clone(), connection.await.unwrap());
                }
                let connection = connections.get_mut(place).unwrap();
                match redis::cmd("INCR").arg(format!("n:{number}")).query_async(connection).await {
                    Ok(found) => break found,
                    Err(error) => {
                        let (address, _) =
                            error.redirect_node().unwrap_or_else(|| panic!("{error}"));
                        *place = format!("redis://{address}/");
                    }
                }
            };
            assert_eq!(found, counted + 1, "n:{number}");
        }
        counted += 1;
        progress.fetch_add(1, Ordering::Relaxed);
    }
    counted
}

#[test]
fn a_client_of_redis_cluster_follows_slots_and_leaders_as_they_move() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(directory.path(), &["--shards", "3"]);
    await_shards(&cluster, 3);
    order(&cluster.nodes[0], &["lead", "2", "--shard", "1"]);
    order(&cluster.nodes[1], &["lead", "3", "--shard", "2"]);
    let runtime = runtime();
    let urls: Vec<String> = cluster.nodes.iter().map(NodeProcess::redis_url).collect();
    let ask = |node: usize, words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        runtime.block_on(async {
            let mut connection = connect(&urls[node]).await.unwrap();
            command.query_async::<redis::Value>(&mut connection).await
        })
    };
    ask(0, &["CONFIG", "SET", "cluster-enabled", "yes"]).unwrap();
    let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let counting = runtime.spawn(count_up(urls.clone(), stop.clone(), progress.clone()));
    let advance = |by| wait_for(by, &progress, "the client does not find its keys");
    advance(3);
    order(&cluster.nodes[0], &["move", "0-9000", "--to", "2"]);
    advance(3);
    order(&cluster.nodes[2], &["lead", "1", "--shard", "2"]);
    advance(3);
    // All slots of one shard, which one node leads: the others say so of every key.
    order(&cluster.nodes[1], &["move", "all", "--to", "1"]);
    advance(3);
    stop.store(true, Ordering::Relaxed);
    let counted = runtime.block_on(counting).unwrap();
    println!("counted to {counted}");
    let moved = ask(2, &["GET", "n:0"]).unwrap_err();
    assert_eq!(moved.kind(), redis::ErrorKind::Server(redis::ServerErrorKind::Moved), "{moved}");
    let (address, _) = moved.redirect_node().unwrap();
    assert_eq!(address, cluster.nodes[1].address(6379).to_string());
}
