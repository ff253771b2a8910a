//! Three nodes in processes of their own: joined, killed, stopped, and asked anywhere.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proteus_store::{DiskStore, IncomingStore};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use zookeeper_client as zk;

use crate::node::{NodeProcess, PATIENCE, command, runtime};

pub const SECRET: &str = "a secret that only these know";

/// A cluster of three on this machine, each with its own directory.
pub struct Cluster {
    pub nodes: Vec<NodeProcess>,
}

pub(crate) fn settings(join: Option<&str>) -> Vec<String> {
    let fixed = [
        ["--cluster-secret", SECRET],
        ["--zookeeper-reconfig", "true"],
        // Of `super:test`.
        ["--zookeeper-super-digest", "super:D/InIHSb7yEEbrWz8b9l71RjZJU="],
    ];
    let mut settings: Vec<String> = fixed.concat().into_iter().map(str::to_owned).collect();
    if let Some(address) = join {
        settings.extend(["--join".to_owned(), address.to_owned()]);
    }
    settings
}

fn start_node(directory: &Path, join: Option<&str>) -> NodeProcess {
    let settings = settings(join);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    NodeProcess::start_with(directory, &settings)
}

impl Cluster {
    /// Starts one node, lets two join it, and waits until all vote.
    fn start(directory: &Path) -> Cluster {
        Cluster::start_with(directory, &[])
    }

    /// As [`Cluster::start`], with more settings for the first node.
    pub fn start_with(directory: &Path, more: &[&str]) -> Cluster {
        let settings = settings(None);
        let settings: Vec<&str> =
            settings.iter().map(String::as_str).chain(more.to_vec()).collect();
        let first = NodeProcess::start_with(&directory.join("n1"), &settings);
        let join = first.address(7000).to_string();
        let mut nodes = vec![first];
        for number in 2..=3 {
            nodes.push(start_node(&directory.join(format!("n{number}")), Some(&join)));
        }
        Cluster::of(nodes)
    }

    /// Waits until all of these vote.
    pub(crate) fn of(nodes: Vec<NodeProcess>) -> Cluster {
        let cluster = Cluster { nodes };
        let started = Instant::now();
        loop {
            let status = cluster.status();
            let voters = status.as_ref().and_then(|status| status["nodes"].as_array());
            let count = voters
                .map_or(0, |nodes| nodes.iter().filter(|node| node["is_voter"] == true).count());
            if count == 3 {
                return cluster;
            }
            assert!(started.elapsed() < PATIENCE, "the cluster does not form: {status:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What any node that answers says of the cluster.
    pub fn status(&self) -> Option<serde_json::Value> {
        self.nodes.iter().find_map(|node| {
            let output = command()
                .args(["cluster", "status", "--json", "--peer"])
                .arg(node.address(7000).to_string())
                .env("PROTEUS_CLUSTER_SECRET", SECRET)
                .stderr(Stdio::null())
                .output()
                .unwrap();
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            status["leader"].is_number().then_some(status)
        })
    }

    /// Which of the nodes leads.
    pub fn leader(&self) -> usize {
        let started = Instant::now();
        loop {
            if let Some(leader) = self.status().and_then(|status| status["leader"].as_u64()) {
                return leader as usize - 1;
            }
            assert!(started.elapsed() < PATIENCE, "nobody leads");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub async fn connect(url: &str) -> Option<MultiplexedConnection> {
    let client = redis::Client::open(url).unwrap();
    let connecting = client.get_multiplexed_async_connection();
    tokio::time::timeout(Duration::from_secs(2), connecting).await.ok()?.ok()
}

/// As [`connect`], to a node that has been started and may have much to do.
pub async fn connect_in_time(url: &str) -> MultiplexedConnection {
    let started = Instant::now();
    loop {
        if let Some(connection) = connect(url).await {
            return connection;
        }
        assert!(started.elapsed() < PATIENCE, "{url} does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Increments a counter of its own through one node after another, and tells what it was told last, how
/// many answers it did not get, and the longest time without one.
pub(crate) async fn count(
    urls: Vec<String>,
    writer: usize,
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
) -> (i64, i64, Duration) {
    let key = format!("counter:{writer}");
    let (mut told, mut unanswered, mut longest) = (0, 0, Duration::ZERO);
    let mut place = writer;
    let mut last_answer = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        place += 1;
        let Some(mut connection) = connect(&urls[place % urls.len()]).await else { continue };
        while !stop.load(Ordering::Relaxed) {
            let answer: Result<Result<i64, _>, _> =
                tokio::time::timeout(Duration::from_secs(5), connection.incr(&key, 1)).await;
            let Ok(Ok(number)) = answer else {
                unanswered += 1;
                break;
            };
            assert!(number > told, "{key}: told {number} after {told}");
            told = number;
            longest = longest.max(last_answer.elapsed());
            last_answer = Instant::now();
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }
    (told, unanswered, longest)
}

/// Waits until so many more calls were answered.
pub fn wait_for(by: u64, progress: &AtomicU64, complaint: &str) {
    let (from, started) = (progress.load(Ordering::Relaxed), Instant::now());
    while progress.load(Ordering::Relaxed) < from + by {
        assert!(started.elapsed() < PATIENCE, "{complaint}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Gives an order until it is carried out: leaders change meanwhile, and who asks is told to ask again. What it
/// says then.
pub fn order(node: &NodeProcess, arguments: &[&str]) -> String {
    let started = Instant::now();
    loop {
        let output = command()
            .arg("cluster")
            .args(arguments)
            .arg("--peer")
            .arg(node.address(7000).to_string())
            .env("PROTEUS_CLUSTER_SECRET", SECRET)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return said;
        }
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(started.elapsed() < PATIENCE, "{arguments:?}: {errors}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn no_acknowledged_write_is_lost_while_nodes_are_killed_and_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(directory.path());
    let runtime = runtime();
    let urls: Vec<String> = cluster.nodes.iter().map(NodeProcess::redis_url).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..6)
        .map(|writer| runtime.spawn(count(urls.clone(), writer, stop.clone(), progress.clone())))
        .collect();
    let advance = |by| wait_for(by, &progress, "no writes although a majority is there");
    for round in 0..6 {
        advance(300);
        let leader = cluster.leader();
        match round % 3 {
            0 => cluster.nodes[leader].kill_and_restart(),
            1 => cluster.nodes[(leader + 1) % 3].kill_and_restart(),
            _ => {
                cluster.nodes[leader].signal("STOP");
                advance(300);
                cluster.nodes[leader].signal("CONT");
            }
        }
    }
    advance(300);
    stop.store(true, Ordering::Relaxed);
    for (writer, task) in writers.into_iter().enumerate() {
        let (told, unanswered, longest) = runtime.block_on(task).unwrap();
        println!("writer {writer}: told {told}, {unanswered} unanswered, longest wait {longest:?}");
        // On any node, whichever it is.
        for url in &urls {
            let found: i64 = runtime.block_on(async {
                connect(url).await.unwrap().get(format!("counter:{writer}")).await.unwrap()
            });
            assert!(
                (told..=told + unanswered).contains(&found),
                "writer {writer} was told {told}, {unanswered} calls had no answer, and {url} says {found}"
            );
        }
    }
}

#[test]
fn a_read_anywhere_sees_what_was_acknowledged_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(directory.path());
    let runtime = runtime();
    runtime.block_on(async {
        let mut connections = Vec::new();
        for node in &cluster.nodes {
            connections.push(connect(&node.redis_url()).await.unwrap());
        }
        for number in 0..300i64 {
            let (writer, reader) = (number as usize % 3, (number / 3) as usize % 3);
            let _: () = connections[writer].set("k", number).await.unwrap();
            let found: i64 = connections[reader].get("k").await.unwrap();
            assert_eq!(found, number, "written on {writer}, read on {reader}");
        }
    });
}

/// The session is opened and its ephemeral created while one node leads; when that is killed the client
/// finds another, which knows the session, its ephemeral, and who watches what.
#[test]
fn a_zookeeper_session_outlives_the_node_that_led() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(directory.path());
    let runtime = runtime();
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let hosts = |nodes: &[usize]| {
        let hosts = nodes.iter().map(|node| cluster.nodes[*node].address(2181).to_string());
        hosts.collect::<Vec<_>>().join(",")
    };
    // Connected to the node that will die, and knows of the others.
    let all = hosts(&[leader, others[0], others[1]]);
    let acls = zk::Acls::anyone_all();
    let (client, watcher, witness) = runtime.block_on(async {
        let connector = zk::Client::connector().with_session_timeout(Duration::from_secs(20));
        let client = connector.connect(&all).await.unwrap();
        client.create("/mine", b"", &zk::CreateMode::Ephemeral.with_acls(acls)).await.unwrap();
        client.create("/seen", b"0", &zk::CreateMode::Persistent.with_acls(acls)).await.unwrap();
        let (_, _, watcher) = client.get_and_watch_data("/seen").await.unwrap();
        let witness = zk::Client::connect(&hosts(&others)).await.unwrap();
        assert!(witness.check_stat("/mine").await.unwrap().is_some(), "seen on another node");
        (client, watcher, witness)
    });
    let session = client.session_id();
    cluster.nodes[leader].kill();
    runtime.block_on(async {
        let started = Instant::now();
        loop {
            match witness.set_data("/seen", b"1", None).await {
                Ok(_) => break,
                Err(_) => assert!(started.elapsed() < PATIENCE, "no writes although two live"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let event = tokio::time::timeout(PATIENCE, watcher.changed()).await;
        assert_eq!(event.expect("the watch fires").event_type, zk::EventType::NodeDataChanged);
        assert_eq!(client.get_data("/seen").await.unwrap().0, b"1");
        assert_eq!(client.session_id(), session, "the same session");
        assert!(witness.check_stat("/mine").await.unwrap().is_some(), "its ephemeral lives");
    });
}

#[test]
fn zookeeper_clients_see_the_members_and_may_take_one_out() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(directory.path());
    let leader = cluster.leader();
    let other = (0..3).find(|node| *node != leader).unwrap();
    let leaving = (0..3).find(|node| *node != leader && *node != other).unwrap();
    let host = cluster.nodes[other].address(2181).to_string();
    runtime().block_on(async {
        let client = zk::Client::connect(&host).await.unwrap();
        let started = Instant::now();
        let watcher = loop {
            let (config, _, watcher) = client.get_and_watch_config().await.unwrap();
            let config = String::from_utf8(config).unwrap();
            if config.matches(":participant;").count() == 3 && config.contains("\nversion=") {
                assert!(config.contains(&format!(";{host}")), "clients' addresses: {config}");
                break watcher;
            }
            assert!(started.elapsed() < PATIENCE, "the members are never shown: {config}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let number = (leaving + 1).to_string();
        let refused = client.update_ensemble(leave(&number), None).await;
        assert!(refused.is_err(), "not by anybody");
        client.auth("digest", b"super:test").await.unwrap();
        let (config, _) = client.update_ensemble(leave(&number), None).await.unwrap();
        let config = String::from_utf8(config).unwrap();
        assert!(!config.contains(&format!("server.{number}=")), "{config}");
        let event = tokio::time::timeout(PATIENCE, watcher.changed()).await;
        assert_eq!(event.expect("the watch fires").event_type, zk::EventType::NodeDataChanged);
    });
    let status = cluster.status().expect("two nodes that live");
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(2), "{status}");
}

fn leave(node: &str) -> zk::EnsembleUpdate<'_, std::vec::IntoIter<&str>> {
    zk::EnsembleUpdate::Incremental {
        joinings: Vec::new().into_iter(),
        leavings: vec![node].into_iter(),
    }
}

#[test]
fn a_node_without_the_secret_is_not_admitted() {
    let directory = tempfile::tempdir().unwrap();
    let node = start_node(&directory.path().join("n1"), None);
    let address = node.address(7000).to_string();
    let output = command()
        .args(["cluster", "status", "--peer", &address])
        .env("PROTEUS_CLUSTER_SECRET", "some other secret")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("does not have this cluster's secret"), "{said}");
}

#[test]
fn a_drained_node_follows_and_a_removed_one_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(directory.path());
    let leader = cluster.leader();
    let other = (leader + 1) % 3 + 1;
    let order = |words: &[&str]| {
        let output = command()
            .arg("cluster")
            .args(words)
            .args(["--peer", &cluster.nodes[leader].address(7000).to_string()])
            .env("PROTEUS_CLUSTER_SECRET", SECRET)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let node = other.to_string();
    let votes = || {
        let status = cluster.status().unwrap();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().any(|known| known["node"] == other && known["is_voter"] == true)
    };
    assert!(order(&["drain", &node]).0 && !votes());
    // Longer than the cluster takes to look after its voters.
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(!votes(), "a drained node gets its vote back only from an operator");
    assert!(order(&["add", &node]).0 && votes());
    let (planned, text) = order(&["remove", &node, "--dry-run"]);
    assert!(planned && text.contains("Would take"), "{text}");
    assert!(order(&["status"]).1.contains(&format!("n{other} ")), "a plan changes nothing");
    for _ in 0..2 {
        // Safe to repeat.
        let (done, text) = order(&["remove", &node]);
        let is_gone = !order(&["status"]).1.contains(&format!("n{other} "));
        assert!(done || is_gone, "{text}");
    }
    assert!(!order(&["status"]).1.contains(&format!("n{other} ")));
}

/// Changes one value of a stopped node's store, as broken memory or another build might have.
fn tamper(data_directory: &Path, is_key: impl Fn(&[u8]) -> bool, value: impl Fn(&[u8]) -> Vec<u8>) {
    let store = data_directory.join("store");
    let mut image = DiskStore::open(&store).unwrap().image();
    let mut incoming = IncomingStore::begin(&store).unwrap();
    let mut changed = 0;
    while let Some(chunk) = image.next_chunk().unwrap() {
        let (mut rest, mut other) = (&chunk[..], Vec::new());
        while !rest.is_empty() {
            let length =
                |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
            let (key_end, end) = (8 + length(0), 8 + length(0) + length(4));
            let (key, mut content) = (&rest[8..key_end], rest[key_end..end].to_vec());
            if is_key(key) {
                content = value(&content);
                changed += 1;
            }
            other.extend_from_slice(&rest[..4]);
            other.extend_from_slice(&(content.len() as u32).to_le_bytes());
            other.extend_from_slice(key);
            other.extend_from_slice(&content);
            rest = &rest[end..];
        }
        incoming.take_chunk(&other).unwrap();
    }
    assert_eq!(changed, 1);
    drop(image);
    incoming.install().unwrap();
}

fn increment(node: &NodeProcess) -> i64 {
    let client = redis::Client::open(node.redis_url()).unwrap();
    runtime().block_on(async {
        let mut client = client.get_multiplexed_async_connection().await.unwrap();
        client.incr("tampered:counter", 1).await.unwrap()
    })
}

#[test]
fn a_replica_that_computes_otherwise_is_rebuilt_from_those_that_agree() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(directory.path());
    let leader = cluster.leader();
    assert_eq!(increment(&cluster.nodes[leader]), 1);
    let victim = (leader + 1) % 3;
    assert_eq!(increment(&cluster.nodes[victim]), 2);
    cluster.nodes[victim].signal("TERM");
    cluster.nodes[victim].wait();
    let is_counter = |key: &[u8]| key.ends_with(b"tampered:counter");
    tamper(&directory.path().join(format!("n{}", victim + 1)), is_counter, |content| {
        let (head, number) = content.split_at(content.len() - 1);
        assert_eq!(number, b"2");
        [head, b"7"].concat()
    });
    cluster.nodes[victim].kill_and_restart();
    // Others go on; what the tampered replica makes of this differs, and the entry after says so.
    let other = (leader + 2) % 3;
    let mut expected = 2;
    let started = Instant::now();
    loop {
        expected += 1;
        assert_eq!(increment(&cluster.nodes[other]), expected);
        let client = redis::Client::open(cluster.nodes[victim].redis_url()).unwrap();
        let read: redis::RedisResult<i64> = runtime().block_on(async {
            let timeout = Duration::from_secs(2);
            let config = redis::AsyncConnectionConfig::new()
                .set_connection_timeout(Some(timeout))
                .set_response_timeout(Some(timeout));
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            connecting.await?.get("tampered:counter").await
        });
        // Refused while it is rebuilt.
        if read == Ok(expected) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "never rebuilt: {read:?} beside {expected}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Files of an authority and of a node's certificate that it signed.
fn certificates(directory: &Path) -> [(&'static str, String); 3] {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["node".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &authority).unwrap();
    let files = [
        ("cluster-ca", authority.pem()),
        ("tls-certificate", certificate.pem()),
        ("tls-key", key.serialize_pem()),
    ];
    files.map(|(name, content)| {
        let path = directory.join(format!("{name}.pem"));
        std::fs::write(&path, content).unwrap();
        (name, path.to_str().unwrap().to_owned())
    })
}

#[test]
fn nodes_that_show_certificates_answer_nobody_who_shows_none() {
    let directory = tempfile::tempdir().unwrap();
    let files = certificates(directory.path());
    let flags: Vec<String> =
        files.iter().flat_map(|(name, file)| [format!("--{name}"), file.clone()]).collect();
    let start = |name: &str, join: Option<&str>| {
        let settings: Vec<String> = settings(join).into_iter().chain(flags.clone()).collect();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        NodeProcess::start_with(&directory.path().join(name), &settings)
    };
    let first = start("n1", None);
    let address = first.address(7000).to_string();
    let second = start("n2", Some(&address));
    assert_eq!(increment(&second), 1);
    assert_eq!(increment(&first), 2);
    let status = |shows_certificate: bool| {
        let mut status = command();
        status.args(["cluster", "status", "--peer", &address]);
        status.env("PROTEUS_CLUSTER_SECRET", SECRET);
        if shows_certificate {
            for (name, file) in &files {
                status.env(format!("PROTEUS_{}", name.to_uppercase().replace('-', "_")), file);
            }
        }
        status.output().unwrap()
    };
    assert!(String::from_utf8(status(true).stdout).unwrap().contains("n2"));
    assert!(!status(false).status.success());
}

/// The fields of a bulk answer to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[test]
fn redis_clients_are_told_of_all_nodes_and_users_hold_on_each() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(directory.path());
    let leader = cluster.leader();
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.address(6379).port()).collect();
    runtime().block_on(async {
        for (at, node) in cluster.nodes.iter().enumerate() {
            let mut client = connect(&node.redis_url()).await.expect("a node answers");
            // One row: all slots, then the master, then its replicas, each with address and id.
            type Row = (u16, u16, Place, Place, Place);
            type Place = (String, u16, String, Vec<String>);
            let mut slots = redis::cmd("CLUSTER");
            let rows: Vec<Row> = slots.arg("SLOTS").query_async(&mut client).await.unwrap();
            let (first, last, master, second, third) = &rows[0];
            assert_eq!((rows.len(), *first, *last), (1, 0, 16383));
            assert_eq!(master.1, ports[leader]);
            let mut told = vec![master.1, second.1, third.1];
            told.sort_unstable();
            let mut expected = ports.clone();
            expected.sort_unstable();
            assert_eq!(told, expected);
            let mut lines = redis::cmd("CLUSTER");
            let lines: String = lines.arg("NODES").query_async(&mut client).await.unwrap();
            assert_eq!(lines.lines().count(), 3);
            let own: Vec<&str> = lines.lines().filter(|line| line.contains("myself")).collect();
            assert!(own[0].contains(&format!(":{}@", ports[at])), "{lines}");
            let mut info = redis::cmd("INFO");
            let info: String = info.arg("replication").query_async(&mut client).await.unwrap();
            if at == leader {
                assert_eq!(field(&info, "role"), Some("master"));
                assert_eq!(field(&info, "connected_slaves"), Some("2"));
            } else {
                assert_eq!(field(&info, "role"), Some("slave"));
                assert_eq!(field(&info, "master_port"), Some(&*ports[leader].to_string()));
            }
            // A majority of three has flushed what is acknowledged: one copy beyond the leader's.
            let mut wait = redis::cmd("WAIT");
            let copies: i64 = wait.arg(1).arg(0).query_async(&mut client).await.unwrap();
            assert_eq!(copies, 1);
        }
        // A user made on one node is known on all, and so is a parameter.
        let mut first = connect(&cluster.nodes[0].redis_url()).await.unwrap();
        let mut make = redis::cmd("ACL");
        make.arg(&["SETUSER", "ann", "on", ">secret", "~a:*", "+get", "+ping"]);
        make.query_async::<()>(&mut first).await.unwrap();
        let mut set = redis::cmd("CONFIG");
        set.arg(&["SET", "maxmemory-policy", "allkeys-lru"]);
        set.query_async::<()>(&mut first).await.unwrap();
        for node in &cluster.nodes {
            let mut client = connect(&node.redis_url()).await.unwrap();
            // A follower knows it once it has applied it: a read waits for that.
            let _: Option<String> = client.get("k").await.unwrap();
            let mut get = redis::cmd("CONFIG");
            let pair: Vec<String> =
                get.arg("GET").arg("maxmemory-policy").query_async(&mut client).await.unwrap();
            assert_eq!(pair, ["maxmemory-policy", "allkeys-lru"]);
            let mut auth = redis::cmd("AUTH");
            auth.arg("ann").arg("secret").query_async::<()>(&mut client).await.unwrap();
            let refused = client.set::<_, _, ()>("a:1", "v").await.unwrap_err();
            assert_eq!(refused.code(), Some("NOPERM"));
        }
    });
}
