//! What follows from a change in the same commit: cache entries from rows, streams of events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::cluster::{Cluster, connect, connect_in_time, order, wait_for};
use crate::node::{NodeProcess, runtime};
use crate::shards::await_shards;

async fn connect_sql(port: u16) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let parameters = format!("host=127.0.0.1 port={port} user=test dbname=test");
    let (client, connection) = tokio_postgres::connect(&parameters, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn postgres(node: &NodeProcess) -> tokio_postgres::Client {
    connect_sql(node.address(5432).port()).await.unwrap()
}

async fn redis(node: &NodeProcess) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(node.redis_url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn ask<T: redis::FromRedisValue>(
    client: &mut redis::aio::MultiplexedConnection,
    line: &str,
) -> T {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query_async(client).await.unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The page of a user: what a web application keeps in its cache.
async fn fill(client: &mut redis::aio::MultiplexedConnection, key: &str, page: &str) -> bool {
    let filled: Option<(String,)> =
        redis::pipe().atomic().set(key, page).query_async(client).await.unwrap();
    filled.is_some()
}

/// What spreads the keys over shards.
const SPREAD: &[&str] = &["--shards", "4"];

#[test]
fn an_entry_is_gone_or_new_in_the_commit_that_changes_its_row() {
    entries_follow_rows(&[]);
}

#[test]
fn an_entry_is_gone_or_new_in_the_commit_that_changes_its_row_whichever_shard_has_it() {
    entries_follow_rows(SPREAD);
}

fn entries_follow_rows(arguments: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start_with(directory.path(), arguments);
    runtime().block_on(async {
        let sql = postgres(&node).await;
        let mut cache = redis(&node).await;
        sql.batch_execute(
            "CREATE TABLE users (id bigint PRIMARY KEY, name text, team text, price numeric(10,2))",
        )
        .await
        .unwrap();
        for line in [
            "PROTEUS.CACHE CREATE pages TABLE users KEY page:{id} INVALIDATE",
            "PROTEUS.CACHE CREATE names TABLE users KEY name:{id} VALUE name",
            "PROTEUS.CACHE CREATE rows TABLE users KEY row:{id} PX 600000 JSON",
            "PROTEUS.CACHE CREATE teams TABLE users KEY team:{team}:{id} HASH name price",
        ] {
            let _: () = ask(&mut cache, line).await;
        }
        for (line, why) in [
            ("PROTEUS.CACHE CREATE x TABLE nowhere KEY a:{id} INVALIDATE", "no table"),
            ("PROTEUS.CACHE CREATE x TABLE users KEY a:{nothing} JSON", "no column"),
            ("PROTEUS.CACHE CREATE x TABLE users KEY a JSON", "names no column"),
            ("PROTEUS.CACHE CREATE pages TABLE users KEY a:{id} JSON", "already"),
        ] {
            let mut words = line.split(' ');
            let mut command = redis::cmd(words.next().unwrap());
            words.for_each(|word| _ = command.arg(word));
            let refused = command.query_async::<()>(&mut cache).await.unwrap_err().to_string();
            assert!(refused.contains(why), "{line}: {refused}");
        }
        sql.batch_execute("INSERT INTO users VALUES (1, 'ann', 'red', 1.50), (2, NULL, 'red', 2)")
            .await
            .unwrap();
        let name: Option<String> = ask(&mut cache, "GET name:1").await;
        assert_eq!(name.as_deref(), Some("ann"));
        let row: String = ask(&mut cache, "GET row:1").await;
        assert_eq!(row, r#"{"id":1,"name":"ann","team":"red","price":1.50}"#);
        let left_ms: i64 = ask(&mut cache, "PTTL row:1").await;
        assert!((1..=600_000).contains(&left_ms), "{left_ms}");
        let price: String = ask(&mut cache, "HGET team:red:1 price").await;
        assert_eq!(price, "1.50");
        assert_eq!(ask::<i64>(&mut cache, "EXISTS name:2").await, 0);

        // Rows that are there get entries when they are told.
        let _: () =
            ask(&mut cache, "PROTEUS.CACHE CREATE late TABLE users KEY late:{id} JSON").await;
        assert_eq!(ask::<i64>(&mut cache, "EXISTS late:1 late:2").await, 0);
        assert_eq!(ask::<i64>(&mut cache, "PROTEUS.CACHE FILL late").await, 2);
        assert_eq!(ask::<i64>(&mut cache, "EXISTS late:1 late:2").await, 2);

        // A row that moves takes its entry along; a transaction that fails changes none.
        let _: () = ask(&mut cache, "SET page:1 rendered").await;
        sql.batch_execute(
            "BEGIN; UPDATE users SET team = 'blue', name = 'eve' WHERE id = 1; ROLLBACK",
        )
        .await
        .unwrap();
        assert_eq!(ask::<i64>(&mut cache, "EXISTS page:1 team:red:1").await, 2);
        sql.batch_execute("UPDATE users SET team = 'blue', name = 'eve' WHERE id = 1")
            .await
            .unwrap();
        assert_eq!(ask::<i64>(&mut cache, "EXISTS page:1 team:red:1").await, 0);
        assert_eq!(ask::<String>(&mut cache, "HGET team:blue:1 name").await, "eve");
        assert_eq!(ask::<String>(&mut cache, "GET name:1").await, "eve");

        // Cache-aside without its race: who read before the change cannot fill after it.
        let (mut slow, mut quick) = (redis(&node).await, redis(&node).await);
        for client in [&mut slow, &mut quick] {
            let _: () = ask(client, "WATCH page:1").await;
            assert_eq!(ask::<Option<String>>(client, "GET page:1").await, None);
        }
        sql.batch_execute("UPDATE users SET name = 'joe' WHERE id = 1").await.unwrap();
        assert!(!fill(&mut slow, "page:1", "of eve").await);
        let _: () = ask(&mut quick, "UNWATCH").await;
        let _: () = ask(&mut quick, "WATCH page:1").await;
        assert!(fill(&mut quick, "page:1", "of joe").await);
        assert_eq!(ask::<String>(&mut cache, "GET page:1").await, "of joe");
    });
    node.kill_and_restart();
    runtime().block_on(async {
        let sql = postgres(&node).await;
        let mut cache = redis(&node).await;
        assert_eq!(ask::<String>(&mut cache, "GET page:1").await, "of joe");
        sql.batch_execute("DELETE FROM users WHERE id = 1").await.unwrap();
        assert_eq!(ask::<i64>(&mut cache, "EXISTS page:1 name:1 row:1 team:blue:1").await, 0);
        // A table that goes takes all entries along.
        assert_eq!(ask::<i64>(&mut cache, "EXISTS row:2").await, 1);
        sql.batch_execute("DROP TABLE users").await.unwrap();
        assert_eq!(ask::<i64>(&mut cache, "EXISTS row:2 team:red:2").await, 0);
        assert_eq!(ask::<i64>(&mut cache, "PROTEUS.CACHE DROP pages").await, 1);
        assert_eq!(ask::<i64>(&mut cache, "PROTEUS.CACHE DROP pages").await, 0);
    });
}

#[test]
fn a_subscriber_that_was_away_replays_what_it_missed() {
    events_are_replayed(&[]);
}

#[test]
fn a_subscriber_that_was_away_replays_what_it_missed_of_all_shards() {
    events_are_replayed(SPREAD);
}

fn events_are_replayed(arguments: &[&str]) {
    type Entries = Vec<(String, Vec<(String, String)>)>;
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start_with(directory.path(), arguments);
    let mut cursor = "-".to_owned();
    let read = |entries: Entries| -> Vec<String> {
        entries.into_iter().map(|(_, fields)| format!("{} {}", fields[0].1, fields[1].1)).collect()
    };
    runtime().block_on(async {
        let mut client = redis(&node).await;
        let create =
            "PROTEUS.EVENTS CREATE users STREAM events STREAMDB 1 MATCH user:* DB 0 MAXLEN 1000";
        let _: () = ask(&mut client, create).await;
        let _: () = ask(&mut client, "SET user:1 x").await;
        let _: () = ask(&mut client, "SET other y").await;
        let _: () = ask(&mut client, "SELECT 1").await;
        let entries: Entries = ask(&mut client, "XRANGE events - +").await;
        cursor = format!("({}", entries.last().unwrap().0);
        assert_eq!(read(entries), ["set user:1"]);
    });
    // The subscriber is away; so, for a moment, is the node.
    runtime().block_on(async {
        let mut client = redis(&node).await;
        let _: () = ask(&mut client, "HSET user:2 a 1").await;
        let _: () = ask(&mut client, "SET user:3 x PX 1").await;
        let _: i64 = ask(&mut client, "DEL user:1").await;
    });
    node.kill_and_restart();
    runtime().block_on(async {
        let mut client = redis(&node).await;
        let _: () = ask(&mut client, "SELECT 1").await;
        let mut events = Vec::new();
        // Expiry is an event once the leader has proposed it.
        while !events.iter().any(|event| event == "expired user:3") {
            events = read(ask(&mut client, &format!("XRANGE events {cursor} +")).await);
        }
        let expected =
            ["hset user:2", "set user:3", "expire user:3", "del user:1", "expired user:3"];
        let mut sorted = events.clone();
        sorted.sort();
        let mut wanted = expected.map(str::to_owned);
        wanted.sort();
        assert_eq!(sorted, wanted);
        assert_eq!(events[..2], expected[..2]);
    });
}

/// Rows, each with an entry in one of the shards.
const ROWS: usize = 8;

/// How long a request may take while nodes are killed.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// What happens to the rows of a table.
#[derive(Default)]
struct Changes {
    /// By row, the value that was acknowledged last, how many were, and how many more may have happened.
    values: [AtomicI64; ROWS],
    acknowledged: [AtomicI64; ROWS],
    unanswered: [AtomicI64; ROWS],
    progress: AtomicU64,
    reads: AtomicU64,
    stop: AtomicBool,
}

/// Gives rows ever larger values, through one node after another.
async fn change_rows(ports: Vec<u16>, changes: Arc<Changes>) {
    let mut value = 0;
    let mut place = 0;
    while !changes.stop.load(Ordering::Relaxed) {
        place += 1;
        let connecting = timeout(REQUEST_PATIENCE, connect_sql(ports[place % ports.len()]));
        let Ok(Ok(sql)) = connecting.await else { continue };
        while !changes.stop.load(Ordering::Relaxed) {
            value += 1;
            let row = value as usize % ROWS;
            let update = format!("UPDATE counters SET n = {value} WHERE id = {row}");
            changes.unanswered[row].fetch_add(1, Ordering::Relaxed);
            let Ok(Ok(1)) = timeout(REQUEST_PATIENCE, sql.execute(&update, &[])).await else {
                break;
            };
            changes.values[row].store(value, Ordering::Release);
            changes.unanswered[row].fetch_sub(1, Ordering::Relaxed);
            changes.acknowledged[row].fetch_add(1, Ordering::Relaxed);
            changes.progress.fetch_add(1, Ordering::Relaxed);
            if value % 10 == 0 {
                break;
            }
        }
    }
}

/// Reads entries on one node after another: none may be older than what was acknowledged before.
async fn read_entries(urls: Vec<String>, changes: Arc<Changes>) {
    let mut place = 0;
    while !changes.stop.load(Ordering::Relaxed) {
        place += 1;
        let Some(mut connection) = connect(&urls[place % urls.len()]).await else { continue };
        for row in 0..ROWS {
            let before = changes.values[row].load(Ordering::Acquire);
            let mut get = redis::cmd("GET");
            get.arg(format!("n:{row}"));
            let asking = timeout(REQUEST_PATIENCE, get.query_async::<i64>(&mut connection));
            let Ok(Ok(found)) = asking.await else { break };
            assert!(found >= before, "{found} is the entry of row {row} after {before}");
            changes.reads.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn no_entry_is_stale_on_any_node_while_nodes_are_killed_and_slots_move() {
    type Entries = Vec<(String, Vec<(String, String)>)>;
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_with(directory.path(), &["--shards", "3"]);
    await_shards(&cluster, 3);
    order(&cluster.nodes[0], &["lead", "2", "--shard", "1"]);
    order(&cluster.nodes[1], &["lead", "3", "--shard", "2"]);
    let runtime = runtime();
    runtime.block_on(async {
        let mut cache = redis(&cluster.nodes[1]).await;
        let sql = postgres(&cluster.nodes[0]).await;
        sql.batch_execute("CREATE TABLE counters (id bigint PRIMARY KEY, n bigint)").await.unwrap();
        let create = "PROTEUS.CACHE CREATE n TABLE counters KEY n:{id} VALUE n";
        let _: () = ask(&mut cache, create).await;
        let create = "PROTEUS.EVENTS CREATE e STREAM changes MATCH n:* CLASSES $";
        let _: () = ask(&mut cache, create).await;
        let rows: Vec<String> = (0..ROWS).map(|row| format!("({row}, 0)")).collect();
        let insert = format!("INSERT INTO counters VALUES {}", rows.join(", "));
        sql.batch_execute(&insert).await.unwrap();
    });
    let changes = Arc::new(Changes::default());
    let urls: Vec<String> = cluster.nodes.iter().map(NodeProcess::redis_url).collect();
    let ports = cluster.nodes.iter().map(|node| node.address(5432).port()).collect();
    let writer = runtime.spawn(change_rows(ports, changes.clone()));
    let readers: Vec<_> =
        (0..2).map(|_| runtime.spawn(read_entries(urls.clone(), changes.clone()))).collect();
    let advance = |by| wait_for(by, &changes.progress, "no changes although a majority is there");
    advance(30);
    order(&cluster.nodes[2], &["move", "0-9000", "--to", "2"]);
    for round in 0..2 {
        let leader = cluster.leader();
        cluster.nodes[(leader + round) % 3].kill_and_restart();
        advance(30);
    }
    order(&cluster.nodes[0], &["move", "all", "--to", "1"]);
    advance(30);
    changes.stop.store(true, Ordering::Relaxed);
    runtime.block_on(writer).unwrap();
    readers.into_iter().for_each(|reader| runtime.block_on(reader).unwrap());
    assert!(changes.reads.load(Ordering::Relaxed) > 20, "hardly anything was read");
    runtime.block_on(async {
        let mut cache = connect_in_time(&urls[0]).await;
        let sql = postgres(&cluster.nodes[0]).await;
        let events: Entries = ask(&mut cache, "XRANGE changes - +").await;
        for row in 0..ROWS {
            let select = format!("SELECT n FROM counters WHERE id = {row}");
            let n: i64 = sql.query_one(&select, &[]).await.unwrap().get(0);
            assert_eq!(ask::<i64>(&mut cache, &format!("GET n:{row}")).await, n);
            let key = format!("n:{row}");
            let count = events.iter().filter(|(_, fields)| fields[1].1 == key).count() as i64;
            // Of the row being inserted, too.
            let known = 1 + changes.acknowledged[row].load(Ordering::Relaxed);
            let perhaps = changes.unanswered[row].load(Ordering::Relaxed);
            let possible = known..=known + perhaps;
            assert!(possible.contains(&count), "{count} events of {known} changes and {perhaps}");
        }
    });
}
