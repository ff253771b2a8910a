//! What clients do on nodes that lack some shards: nearly all of Redis, on three nodes of which each has a part.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use redis::Value;

use crate::cluster::{Cluster, SECRET, order, settings};
use crate::node::{NodeProcess, PATIENCE, command, free_port_offset};

/// Shards, each beside the first on one node or two.
const SHARDS: usize = 4;

/// Keys in as many slots as there are, so that some are in every shard.
const KEYS: usize = 24;

/// Three nodes, and so many replicas of each further shard.
fn start(directory: &Path, replicas: usize) -> Cluster {
    let (shards, count) = (SHARDS.to_string(), replicas.to_string());
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let join = nodes.first().map(|first: &NodeProcess| first.address(7000).to_string());
        let mut settings = settings(join.as_deref());
        if number == 1 {
            settings.extend(["--shards", &shards, "--replicas", &count].map(str::to_owned));
        }
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        nodes.push(NodeProcess::start_with(&directory.join(format!("n{number}")), &settings));
    }
    let cluster = Cluster::of(nodes);
    let started = Instant::now();
    let is_placed = |status: &serde_json::Value| {
        let shards = status["shards"].as_array().cloned().unwrap_or_default();
        let settled = |shard: &serde_json::Value| {
            shard["leader"].is_u64()
                && (shard["shard"] == 0
                    || shard["members"].as_array().is_some_and(|all| all.len() == replicas)
                        && shard["members"] == shard["placed"]
                        && shard["members"] == shard["voters"])
        };
        let of_further = shards.iter().filter(|shard| shard["shard"] != 0);
        let on: BTreeSet<u64> = of_further
            .flat_map(|shard| shard["members"].as_array().cloned().unwrap_or_default())
            .filter_map(|node| node.as_u64())
            .collect();
        shards.len() == SHARDS && shards.iter().all(settled) && on.len() == 3
    };
    while !cluster.status().as_ref().is_some_and(is_placed) {
        let status = cluster.status();
        assert!(started.elapsed() < PATIENCE, "replicas are not placed: {status:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster
}

/// A client of one node.
struct Client(redis::Connection);

impl Client {
    fn of(node: &NodeProcess) -> Client {
        Client::at(&node.redis_url())
    }

    fn at(url: &str) -> Client {
        let connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(connection)
    }

    fn try_ask(&mut self, line: &str) -> Result<Value, String> {
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| _ = command.arg(word));
        command.query(&mut self.0).map_err(|error| error.to_string())
    }

    fn ask<T: redis::FromRedisValue>(&mut self, line: &str) -> T {
        let value = self.try_ask(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        redis::from_redis_value(value).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Asks until the answer is this one.
    fn await_answer(&mut self, line: &str, wanted: &str) {
        let started = Instant::now();
        loop {
            let answer = format!("{:?}", self.try_ask(line));
            if answer.contains(wanted) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{line} answers {answer}, never {wanted}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn key(number: usize) -> String {
    format!("key:{number}")
}

/// A connection whose bytes are looked at.
struct Wire(TcpStream, String);

impl Wire {
    fn to(node: &NodeProcess) -> Wire {
        let stream = TcpStream::connect(node.address(6379)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Wire(stream, String::new())
    }

    fn send(&mut self, line: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// Reads until this has come; what came up to there.
    fn read_until(&mut self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.1.find(wanted) {
                return self.1.drain(..at + wanted.len()).collect();
            }
            let read = self.0.read(&mut buffer);
            let count = read.unwrap_or_else(|error| panic!("{wanted:?}: {error}: {}", self.1));
            assert!(count > 0, "the connection ended without {wanted:?}: {}", self.1);
            self.1.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }
}

#[test]
fn a_client_of_a_node_that_lacks_shards_misses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = start(directory.path(), 1);
    let nodes = &cluster.nodes;
    for at in 0..3 {
        let (node, other) = (&nodes[at], &nodes[(at + 1) % 3]);
        values(node, other);
        emptying(node, other);
        waiting(node, other);
        transactions(node, other);
        scripts(node, other);
        expiry(node, other);
        tracking(node, other);
        redirected(node);
        across(node, other);
    }
}

/// Each kind of value, and what is asked about keys.
fn values(node: &NodeProcess, other: &NodeProcess) {
    let (mut here, mut there) = (Client::of(node), Client::of(other));
    for number in 0..KEYS {
        let key = key(number);
        let tagged = format!("{{{key}}}");
        here.ask::<()>(&format!("SET {key} {number}"));
        assert_eq!(here.ask::<String>(&format!("OBJECT ENCODING {key}")), "int");
        assert!(here.ask::<i64>(&format!("OBJECT IDLETIME {key}")) < 60);
        assert!(here.ask::<i64>(&format!("MEMORY USAGE {key}")) > 0);
        assert_eq!(here.ask::<i64>(&format!("COPY {key} {tagged}copy")), 1);
        assert_eq!(there.ask::<i64>(&format!("GET {tagged}copy")), number as i64);
        here.ask::<()>(&format!("RENAME {tagged}copy {tagged}moved"));
        let payload: Vec<u8> =
            redis::cmd("DUMP").arg(format!("{tagged}moved")).query(&mut here.0).unwrap();
        let mut restore = redis::cmd("RESTORE");
        restore.arg(format!("{tagged}again")).arg(0).arg(payload);
        restore.query::<()>(&mut here.0).unwrap();
        assert_eq!(there.ask::<i64>(&format!("GETDEL {tagged}again")), number as i64);
        here.ask::<()>(&format!("RPUSH {tagged}list 3 1 2"));
        assert_eq!(here.ask::<Vec<i64>>(&format!("SORT {tagged}list")), [1, 2, 3]);
        assert_eq!(here.ask::<Vec<i64>>(&format!("SORT {tagged}list BY nosort GET #")), [3, 1, 2]);
        assert_eq!(here.ask::<i64>(&format!("SORT {tagged}list STORE {tagged}sorted")), 3);
        assert_eq!(there.ask::<Vec<i64>>(&format!("LRANGE {tagged}sorted 0 -1")), [1, 2, 3]);
        let gone = format!("DEL {key} {tagged}moved {tagged}list {tagged}sorted");
        assert_eq!(here.ask::<i64>(&gone), 4);
    }
    assert_eq!(there.ask::<i64>("DBSIZE"), 0);
    // What came in one piece is answered in its order, and reads see what was before them and nothing after.
    let mut pipeline = redis::pipe();
    for number in 0..KEYS * 10 {
        let key = key(number % KEYS);
        pipeline.cmd("GET").arg(&key).cmd("EXISTS").arg(&key).arg(self::key(number + 1));
        pipeline.cmd("PING").arg(number);
    }
    for number in 0..KEYS {
        pipeline.cmd("SET").arg(key(number)).arg(number).cmd("GET").arg(key(number));
    }
    let answers: Vec<Value> = pipeline.query(&mut here.0).unwrap();
    let (reads, writes) = answers.split_at(KEYS * 30);
    for (number, answers) in reads.chunks(3).enumerate() {
        let echo = Value::BulkString(number.to_string().into_bytes());
        assert_eq!(answers, [Value::Nil, Value::Int(0), echo]);
    }
    for (number, answers) in writes.chunks(2).enumerate() {
        let text = Value::BulkString(number.to_string().into_bytes());
        assert_eq!(answers, [Value::Okay, text]);
    }
    let mut pipeline = redis::pipe();
    (0..KEYS * 10).for_each(|number| _ = pipeline.cmd("GET").arg(key(number % KEYS)));
    let answers: Vec<usize> = pipeline.query(&mut there.0).unwrap();
    assert!(answers.iter().enumerate().all(|(number, found)| *found == number % KEYS));
    here.ask::<()>("FLUSHALL");
}

/// FLUSHDB and FLUSHALL, of one database and of all.
fn emptying(node: &NodeProcess, other: &NodeProcess) {
    let (mut here, mut there) = (Client::of(node), Client::of(other));
    let fill = |client: &mut Client| {
        for db in [0, 3] {
            client.ask::<()>(&format!("SELECT {db}"));
            (0..KEYS).for_each(|number| client.ask::<()>(&format!("SET {} x", key(number))));
        }
        client.ask::<()>("SELECT 0");
    };
    fill(&mut there);
    here.ask::<()>("FLUSHDB");
    assert_eq!((there.ask::<i64>("DBSIZE"), here.ask::<i64>("DBSIZE")), (0, 0));
    there.ask::<()>("SELECT 3");
    assert_eq!(there.ask::<usize>("DBSIZE"), KEYS);
    here.ask::<()>("SWAPDB 0 3");
    assert_eq!((there.ask::<usize>("DBSIZE"), here.ask::<usize>("DBSIZE")), (0, KEYS));
    fill(&mut there);
    here.ask::<()>("FLUSHALL");
    for db in [0, 3] {
        there.ask::<()>(&format!("SELECT {db}"));
        assert_eq!(there.ask::<Vec<String>>("KEYS *"), Vec::<String>::new());
    }
}

/// Commands that wait are served by what happens on another node.
fn waiting(node: &NodeProcess, other: &NodeProcess) {
    let mut there = Client::of(other);
    for number in 0..KEYS {
        let key = key(number);
        // What the one who waits asks, what serves it, and what it is told.
        let cases = [
            (format!("BLPOP {key} 30"), format!("RPUSH {key} it"), "it"),
            (format!("BLMOVE {key} {{{key}}}to LEFT RIGHT 30"), format!("RPUSH {key} it"), "it"),
            (format!("BZPOPMIN {key} 30"), format!("ZADD {key} 1 it"), "it"),
            (format!("XREAD BLOCK 30000 STREAMS {key} $"), format!("XADD {key} * f it"), "it"),
        ];
        for (wait, serve, wanted) in cases {
            let mut waiter = Wire::to(node);
            waiter.send(&wait);
            // It may come before the other waits: then that need not wait.
            if !wait.starts_with("XREAD") {
                there.ask::<()>(&serve);
                waiter.read_until(wanted);
            } else {
                // From `$` on nothing is told that came before: another comes until one is.
                let (stop, stopped) = std::sync::mpsc::channel::<()>();
                let (serve, url) = (serve.clone(), other.redis_url());
                let serving = std::thread::spawn(move || {
                    let mut client = Client::at(&url);
                    while stopped.recv_timeout(Duration::from_millis(50)).is_err() {
                        client.ask::<()>(&serve);
                    }
                });
                waiter.read_until(wanted);
                stop.send(()).unwrap();
                serving.join().unwrap();
            }
            there.ask::<()>(&format!("DEL {key} {{{key}}}to"));
        }
    }
    // Of several streams in different shards, and for a group.
    let mut waiter = Wire::to(node);
    let streams: Vec<String> = (0..8).map(key).collect();
    let places = ["$"; 8].join(" ");
    there.ask::<()>(&format!("XADD {} 1-1 f before", streams[7]));
    waiter.send(&format!("XREAD BLOCK 30000 STREAMS {} {places}", streams.join(" ")));
    let mut number = 2;
    loop {
        there.ask::<()>(&format!("XADD {} {number}-1 f after", streams[7]));
        number += 1;
        waiter.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = [0; 256];
        if waiter.0.read(&mut buffer).is_ok_and(|count| count > 0) {
            break;
        }
    }
    there.ask::<()>(&format!("XGROUP CREATE {} group $", streams[7]));
    let mut waiter = Wire::to(node);
    waiter.send(&format!("XREADGROUP GROUP group me BLOCK 30000 STREAMS {} >", streams[7]));
    there.ask::<()>(&format!("XADD {} {number}-1 f grouped", streams[7]));
    waiter.read_until("grouped");
    there.ask::<()>("FLUSHALL");
}

/// MULTI, EXEC and WATCH of keys wherever they are.
fn transactions(node: &NodeProcess, other: &NodeProcess) {
    let (mut here, mut there) = (Client::of(node), Client::of(other));
    for number in 0..KEYS {
        let key = key(number);
        here.ask::<()>(&format!("WATCH {key} {}", self::key(number + 1)));
        if number % 2 == 0 {
            there.ask::<()>(&format!("INCR {key}"));
        }
        here.ask::<()>("MULTI");
        for line in [format!("INCR {key}"), format!("LPUSH list:{number} x"), "DBSIZE".to_owned()] {
            if line != "DBSIZE" {
                here.ask::<()>(&line);
            }
        }
        let done: Value = here.ask("EXEC");
        assert_eq!(done == Value::Nil, number % 2 == 0, "{key}: {done:?}");
        here.ask::<()>("MULTI");
        (0..4).for_each(|at| here.ask::<()>(&format!("SET multi:{at} {number}")));
        (0..4).for_each(|at| here.ask::<()>(&format!("GET multi:{at}")));
        let done: Vec<Value> = here.ask("EXEC");
        let text = Value::BulkString(number.to_string().into_bytes());
        assert!(done[4..].iter().all(|value| *value == text), "{done:?}");
    }
    here.ask::<()>("FLUSHALL");
}

/// Scripts and functions, loaded on one node and run on another.
fn scripts(node: &NodeProcess, other: &NodeProcess) {
    let (mut here, mut there) = (Client::of(node), Client::of(other));
    let script = "return redis.call('INCRBY',KEYS[1],ARGV[1])";
    let load = |client: &mut Client| -> String {
        redis::cmd("SCRIPT").arg("LOAD").arg(script).query(&mut client.0).unwrap()
    };
    let digest = load(&mut there);
    let library = "#!lua name=lib\nredis.register_function{function_name='peek',callback=function(k,a) return redis.call('GET',k[1]) end,flags={'no-writes'}}\nredis.register_function('bump',function(k,a) return redis.call('INCR',k[1]) end)";
    let mut loading = redis::cmd("FUNCTION");
    loading.arg("LOAD").arg("REPLACE").arg(library).query::<()>(&mut there.0).unwrap();
    for number in 0..KEYS {
        let key = key(number);
        assert_eq!(here.ask::<i64>(&format!("EVALSHA {digest} 1 {key} 5")), 5);
        assert_eq!(there.ask::<i64>(&format!("EVALSHA {digest} 1 {key} 1")), 6);
        assert_eq!(here.ask::<i64>(&format!("FCALL bump 1 {key}")), 7);
        assert_eq!(here.ask::<i64>(&format!("FCALL_RO peek 1 {key}")), 7);
        assert_eq!(there.ask::<i64>(&format!("FCALL_RO peek 1 {key}")), 7);
    }
    assert_eq!(here.ask::<Vec<i64>>(&format!("SCRIPT EXISTS {digest}")), [1]);
    here.ask::<()>("FUNCTION DELETE lib");
    here.ask::<()>("SCRIPT FLUSH");
    let gone = there.try_ask(&format!("EVALSHA {digest} 1 k 1")).unwrap_err();
    assert!(gone.to_uppercase().contains("NOSCRIPT"), "{gone}");
    let (mut cursor, mut found) = (0, BTreeSet::new());
    loop {
        let (next, page): (u64, Vec<String>) =
            here.ask(&format!("SCAN {cursor} COUNT 5 TYPE string MATCH key:*"));
        found.extend(page);
        cursor = next;
        if next == 0 {
            break;
        }
    }
    assert_eq!(found.len(), KEYS);
    here.ask::<()>("FLUSHALL");
}

/// What expires is gone on every node, and those who listen are told on every node.
fn expiry(node: &NodeProcess, other: &NodeProcess) {
    let (mut here, mut there) = (Client::of(node), Client::of(other));
    here.ask::<()>("CONFIG SET notify-keyspace-events KEA");
    let mut listening = Wire::to(node);
    listening.send("PSUBSCRIBE __keyevent@0__:expired");
    listening.read_until("psubscribe");
    // It may not have heard of the setting, nor of shards elsewhere, when it begins.
    for number in 0..KEYS {
        let key = key(number);
        there.ask::<()>(&format!("SET {key} x PX 60000"));
        let left: i64 = here.ask(&format!("PTTL {key}"));
        assert!((1..=60_000).contains(&left), "{left}");
        assert_eq!(here.ask::<i64>(&format!("PERSIST {key}")), 1);
        assert_eq!(there.ask::<i64>(&format!("TTL {key}")), -1);
        here.ask::<()>(&format!("PEXPIRE {key} 1"));
        here.await_answer(&format!("EXISTS {key}"), "0");
        listening.read_until(&key);
        there.ask::<()>(&format!("HSET {key} f v g w"));
        here.ask::<()>(&format!("HPEXPIRE {key} 1 FIELDS 1 f"));
        there.await_answer(&format!("HLEN {key}"), "1");
        here.ask::<()>(&format!("DEL {key}"));
    }
    here.ask::<()>("CONFIG SET notify-keyspace-events ");
}

/// Copies that clients keep are taken back, whoever changes the key where.
fn tracking(node: &NodeProcess, other: &NodeProcess) {
    let mut there = Client::of(other);
    for broadcast in ["", " BCAST PREFIX kept:"] {
        let mut keeping = Wire::to(node);
        keeping.send("HELLO 3");
        keeping.send(&format!("CLIENT TRACKING ON{broadcast}"));
        keeping.read_until("+OK\r\n");
        for number in 0..KEYS {
            let name = format!("kept:{number}");
            there.ask::<()>(&format!("SET {name} old"));
            if broadcast.is_empty() {
                // It may be told of that change after it has read: then it reads again.
                let mut is_told = true;
                while is_told {
                    keeping.send(&format!("GET {name}"));
                    keeping.send("ECHO end");
                    is_told = keeping.read_until("end\r\n").contains("invalidate");
                }
            } else {
                keeping.read_until(&name);
            }
            there.ask::<()>(&format!("SET {name} new"));
            keeping.read_until(&name);
        }
        // All at once.
        if broadcast.is_empty() {
            keeping.send("GET kept:1");
            keeping.read_until("new\r\n");
        }
        there.ask::<()>("FLUSHALL");
        keeping.read_until("invalidate\r\n");
    }
}

/// Clients of Redis Cluster are sent to who leads, and may read on any node.
fn redirected(node: &NodeProcess) {
    let mut here = Client::of(node);
    here.ask::<()>("PROTEUS.REDIRECT ON");
    let mut moved = 0;
    for number in 0..KEYS {
        let line = format!("SET {} {number}", key(number));
        if let Err(error) = here.try_ask(&line) {
            assert!(error.contains("MOVED") || error.contains("Moved"), "{error}");
            moved += 1;
            here.ask::<()>("ASKING");
            here.ask::<()>(&line);
        }
    }
    assert!((1..KEYS).contains(&moved), "{moved}");
    here.ask::<()>("READONLY");
    for number in 0..KEYS {
        here.await_answer(&format!("GET {}", key(number)), &format!("{number}"));
    }
    here.ask::<()>("READWRITE");
    // Nodes that have no replica are none of a slot.
    let slots: Vec<Value> = here.ask("CLUSTER SLOTS");
    assert!(!slots.is_empty());
    here.ask::<()>("PROTEUS.REDIRECT OFF");
    here.ask::<()>("FLUSHALL");
}

/// Commands and scripts over keys of several shards at once.
fn across(node: &NodeProcess, other: &NodeProcess) {
    let (mut here, mut there) = (Client::of(node), Client::of(other));
    for number in 0..KEYS {
        let (from, to) = (key(number), format!("to:{number}"));
        here.ask::<()>(&format!("SET {from} {number} EX 1000"));
        assert_eq!(here.ask::<i64>(&format!("COPY {from} {to}")), 1);
        here.ask::<()>(&format!("RENAME {to} {to}:moved"));
        assert_eq!(there.ask::<i64>(&format!("GET {to}:moved")), number as i64);
        assert!(there.ask::<i64>(&format!("TTL {to}:moved")) > 900);
        assert_eq!(there.ask::<i64>(&format!("EXISTS {from} {to} {to}:moved")), 2);
        here.ask::<()>(&format!("SADD set:{number} a b {number}"));
        here.ask::<()>(&format!("ZADD weights {number} w:{number}"));
        here.ask::<()>(&format!("SET weight:{number} {}", KEYS - number));
        here.ask::<()>(&format!("RPUSH sorted {number}"));
        let moved: Option<String> = here.ask(&format!("LMOVE list:{number} popped LEFT RIGHT"));
        assert_eq!(moved, None);
    }
    assert_eq!(here.ask::<usize>("SUNIONSTORE all set:0 set:1 set:2 set:3 set:4"), 7);
    assert_eq!(there.ask::<usize>("SINTERSTORE common set:0 set:1 set:2"), 2);
    let sorted: Vec<usize> = (0..KEYS).rev().collect();
    for name in ["SORT", "SORT_RO"] {
        let line = format!("{name} sorted BY weight:* GET #");
        assert_eq!(here.ask::<Vec<usize>>(&line), sorted, "{name}");
    }
    let script = "local sum = 0 for _, key in ipairs(KEYS) do sum = sum + redis.call('GET', key) end redis.call('SET', 'sum', sum) return sum";
    let mut summing = redis::cmd("EVAL");
    summing.arg(script).arg(KEYS);
    (0..KEYS).for_each(|number| _ = summing.arg(key(number)));
    let wanted = KEYS * (KEYS - 1) / 2;
    assert_eq!(summing.query::<usize>(&mut here.0).unwrap(), wanted);
    assert_eq!(there.ask::<usize>("GET sum"), wanted);
    // Whoever waits for several lists is served by any of them.
    let mut waiter = Wire::to(node);
    let lists: Vec<String> = (0..8).map(|number| format!("line:{number}")).collect();
    waiter.send(&format!("BLPOP {} 30", lists.join(" ")));
    there.ask::<()>("RPUSH line:5 served");
    waiter.read_until("served");
    // What many move about at once stays as much as it is.
    for number in 0..60 {
        there.ask::<()>(&format!("RPUSH pile:{} {number}", number % 3));
    }
    std::thread::scope(|scope| {
        for mover in 0..3 {
            let url = if mover == 0 { other.redis_url() } else { node.redis_url() };
            scope.spawn(move || {
                let mut client = Client::at(&url);
                for round in 0..15 {
                    let (from, to) = ((round + mover) % 3, (round + mover + 1) % 3);
                    let line = format!("LMOVE pile:{from} pile:{to} LEFT RIGHT");
                    // One that took too long has changed nothing.
                    while let Err(error) = client.try_ask(&line) {
                        assert!(error.contains("BUSY"), "{error}");
                    }
                }
            });
        }
    });
    let mut all: Vec<usize> = Vec::new();
    for pile in 0..3 {
        all.extend(here.ask::<Vec<usize>>(&format!("LRANGE pile:{pile} 0 -1")));
    }
    all.sort_unstable();
    assert_eq!(all, (0..60).collect::<Vec<_>>());
    here.ask::<()>("FLUSHALL");
}

/// Kinds of values that go from server to server, in as many slots as there are.
fn fill(client: &mut Client) {
    for number in 0..KEYS {
        let key = key(number);
        client.ask::<()>(&format!("SET {key} {number} PXAT 4000000000000"));
        client.ask::<()>(&format!("RPUSH list:{number} a {number}"));
        client.ask::<()>(&format!("HSET hash:{number} f {number}"));
        client.ask::<()>(&format!("XADD stream:{number} 1-1 f {number}"));
    }
}

fn check_filled(client: &mut Client) {
    for number in 0..KEYS {
        assert_eq!(client.ask::<usize>(&format!("GET {}", key(number))), number);
        let at = client.ask::<u64>(&format!("PEXPIRETIME {}", key(number)));
        // Keys that migrate take along how long they have left.
        assert!(at.abs_diff(4_000_000_000_000) < 60_000, "{at}");
        let list: (String, usize) = client.ask(&format!("LRANGE list:{number} 0 -1"));
        assert_eq!(list, ("a".to_owned(), number));
        assert_eq!(client.ask::<usize>(&format!("HGET hash:{number} f")), number);
        assert_eq!(client.ask::<usize>(&format!("XLEN stream:{number}")), 1);
    }
}

/// Other servers are fed by, and feed, nodes that lack shards.
#[test]
fn servers_that_follow_and_are_followed_need_not_know_who_has_what() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = start(directory.path(), 2);
    let alone = NodeProcess::start(&directory.path().join("alone"));
    let (host, port) = (alone.address(6379).ip(), alone.address(6379).port());
    let mut there = Client::of(&alone);
    // Keys move out and back, whichever node is asked.
    for node in &cluster.nodes {
        let mut here = Client::of(node);
        fill(&mut here);
        let all: Vec<String> = here.ask("KEYS *");
        let line = format!("MIGRATE {host} {port}  0 5000 REPLACE KEYS gone {}", all.join(" "));
        assert_eq!(here.ask::<String>(&line), "OK");
        assert_eq!(here.ask::<i64>("DBSIZE"), 0);
        assert_eq!(here.ask::<String>(&line), "NOKEY");
        check_filled(&mut there);
        let back = node.address(6379).port();
        let line = format!("MIGRATE {host} {back}  0 5000 KEYS {}", all.join(" "));
        assert_eq!(there.ask::<String>(&line), "OK");
        check_filled(&mut here);
        assert_eq!(there.ask::<i64>("DBSIZE"), 0);
        here.ask::<()>("FLUSHALL");
    }
    // The cluster follows a primary, whose commands are about keys of several shards too.
    fill(&mut there);
    let mut here = Client::of(&cluster.nodes[2]);
    here.ask::<()>(&format!("REPLICAOF {host} {port}"));
    here.await_answer("GET key:23", "23");
    there.ask::<()>("SET late 1");
    here.await_answer("GET late", "1");
    check_filled(&mut here);
    here.await_answer("ROLE", "connected");
    let refused = here.try_ask("SET late 2").unwrap_err();
    assert!(refused.to_uppercase().contains("READONLY"), "{refused}");
    there.ask::<()>("FLUSHALL");
    here.await_answer("GET late", "nil");
    here.ask::<()>("REPLICAOF NO ONE");
    followed_by_real_commands(&cluster, directory.path());
    // Others follow each of its nodes.
    for node in &cluster.nodes {
        let mut here = Client::of(node);
        here.ask::<()>("FLUSHALL");
        fill(&mut here);
        there.ask::<()>(&format!("REPLICAOF {host} {}", node.address(6379).port()));
        there.await_answer("ROLE", "connected");
        there.await_answer("GET key:23", "23");
        for number in 0..KEYS {
            here.ask::<()>(&format!("APPEND later:{number} x"));
            there.await_answer(&format!("GET later:{number}"), "x");
            here.ask::<()>(&format!("DEL later:{number}"));
            there.await_answer(&format!("EXISTS later:{number}"), "0");
        }
        check_filled(&mut there);
        here.ask::<()>("FLUSHALL");
        there.await_answer("EXISTS key:0 key:1 key:2 key:3", "0");
        there.ask::<()>("REPLICAOF NO ONE");
    }
}

/// A process that ends with its test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real Redis, where there is one, sends commands as they were given.
fn followed_by_real_commands(cluster: &Cluster, directory: &Path) {
    let port = 6379 + free_port_offset();
    let real = std::process::Command::new("redis-server")
        .args(["--port", &port.to_string(), "--dir", directory.to_str().unwrap()])
        .args(["--save", "", "--repl-diskless-sync-delay", "0"])
        .stdout(std::process::Stdio::null())
        .spawn();
    let Ok(real) = real else { return };
    let _real = Ended(real);
    let url = format!("redis://127.0.0.1:{port}/");
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < PATIENCE, "redis-server does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (mut primary, mut here) = (Client::at(&url), Client::of(&cluster.nodes[1]));
    here.ask::<()>(&format!("REPLICAOF 127.0.0.1 {port}"));
    here.await_answer("ROLE", "connected");
    let names: Vec<String> = (0..8).map(key).collect();
    for (number, name) in names.iter().enumerate() {
        primary.ask::<()>(&format!("SADD {name} a b c {number}"));
        primary.ask::<()>(&format!("RENAME {name} renamed:{number}"));
        primary.ask::<()>(&format!("COPY renamed:{number} copied:{number}"));
        primary.ask::<()>(&format!("SMOVE copied:{number} renamed:0 b"));
        primary.ask::<()>(&format!("SUNIONSTORE all renamed:{number} all"));
        primary.ask::<()>(&format!("RPUSH q:{number} {number}"));
        primary.ask::<()>(&format!("LMOVE q:{number} drained LEFT RIGHT"));
    }
    primary.ask::<()>("MULTI");
    primary.ask::<()>("RENAME all union");
    primary.ask::<()>("PFADD visitors x");
    primary.ask::<()>("SET done 1");
    primary.ask::<Value>("EXEC");
    here.await_answer("GET done", "1");
    for line in [
        "SORT_RO union ALPHA",
        "LRANGE drained 0 -1",
        "DBSIZE",
        "SCARD copied:3",
        "PFCOUNT visitors",
    ] {
        let (there, own): (Value, Value) = (primary.ask(line), here.ask(line));
        match line {
            // Its place in the stream is a key more.
            "DBSIZE" => {
                let (Value::Int(there), Value::Int(own)) = (there, own) else { panic!() };
                assert_eq!(own, there + 1);
            }
            _ => assert_eq!(own, there, "{line}"),
        }
    }
    here.ask::<()>("REPLICAOF NO ONE");
}

/// All keys come to take no more than `maxmemory`, though no node sees them all.
#[test]
fn what_all_shards_hold_is_bounded_by_maxmemory() {
    const MOST: u64 = 400_000;
    let directory = tempfile::tempdir().unwrap();
    let cluster = start(directory.path(), 1);
    let mut clients: Vec<Client> = cluster.nodes.iter().map(Client::of).collect();
    let used = |client: &mut Client| -> u64 {
        let info: String = client.ask("INFO memory");
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        line.parse().unwrap()
    };
    let fits = |client: &mut Client| {
        let started = Instant::now();
        while used(client) > MOST {
            assert!(started.elapsed() < PATIENCE, "too much stays: {}", used(client));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let value = "x".repeat(2_000);
    for policy in ["allkeys-lru", "allkeys-random", "allkeys-lfu", "volatile-ttl"] {
        clients[0].ask::<()>("CONFIG SET maxmemory 0");
        clients[0].ask::<()>("FLUSHALL");
        clients[1].ask::<()>("SET stays without");
        clients[1].ask::<()>(&format!("CONFIG SET maxmemory-policy {policy} maxmemory {MOST}"));
        for number in 0..600usize {
            let expires = if policy == "volatile-ttl" { " EX 1000" } else { "" };
            let line = format!("SET big:{number} {value}{expires}");
            clients[number % 3].ask::<()>(&line);
        }
        for client in &mut clients {
            fits(client);
            // Not all went, and every shard has kept some.
            assert!(used(client) > MOST / 3, "{policy}: {}", used(client));
        }
        if policy == "volatile-ttl" {
            assert_eq!(clients[2].ask::<i64>("EXISTS stays"), 1);
        }
    }
    // Where nothing may go, nothing more is taken.
    clients[0].ask::<()>("CONFIG SET maxmemory-policy noeviction");
    let started = Instant::now();
    let refused = (0..).find_map(|number: usize| {
        assert!(started.elapsed() < PATIENCE, "everything is taken");
        clients[number % 3].try_ask(&format!("SET more:{number} {value}")).err()
    });
    assert!(refused.unwrap().contains("OOM"));
    clients[0].ask::<()>("CONFIG SET maxmemory 0");
    clients[1].ask::<()>("SET more x");
    order(&cluster.nodes[0], &["replicas", "2"]);
}

/// A backup that is followed from a node that lacks shards has what was committed in all of them.
#[test]
fn a_backup_is_followed_through_a_node_that_lacks_shards() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = start(directory.path(), 1);
    let mut here = Client::of(&cluster.nodes[1]);
    (0..KEYS).for_each(|number| here.ask::<()>(&format!("SET {} before", key(number))));
    let place = directory.path().join("backups");
    let place = place.to_str().unwrap();
    let address = cluster.nodes[1].address(7000).to_string();
    let following = command()
        .args(["backup", place, "--peer", &address, "--follow", "--every", "1"])
        .env("PROTEUS_CLUSTER_SECRET", SECRET)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut following = Ended(following);
    let mut said = BufReader::new(following.0.stdout.take().unwrap()).lines();
    // It says so once it has the first.
    said.next().unwrap().unwrap();
    (0..KEYS).for_each(|number| here.ask::<()>(&format!("SET {} after", key(number))));
    let restored = |name: &str| {
        let data = directory.path().join(name);
        let output = command()
            .args(["restore", place, "--data-dir", data.to_str().unwrap()])
            .output()
            .unwrap();
        output.status.success().then_some(data)
    };
    let started = Instant::now();
    for tries in 0.. {
        assert!(started.elapsed() < 2 * PATIENCE, "what came after it is in no backup");
        std::thread::sleep(Duration::from_millis(500));
        let Some(data) = restored(&format!("r{tries}")) else { continue };
        let alone = NodeProcess::start_with(&data, &["--cluster-secret", SECRET]);
        let mut client = Client::of(&alone);
        let values: Vec<String> =
            (0..KEYS).map(|number| client.ask(&format!("GET {}", key(number)))).collect();
        if values.iter().all(|value| value == "after") {
            break;
        }
    }
}
