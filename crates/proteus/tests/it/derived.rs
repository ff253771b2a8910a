//! What follows from a change in the same commit: cache entries from rows, streams of events.

use crate::node::{NodeProcess, runtime};

async fn postgres(node: &NodeProcess) -> tokio_postgres::Client {
    let address = node.address(5432);
    let parameters = format!("host=127.0.0.1 port={} user=test dbname=test", address.port());
    let (client, connection) =
        tokio_postgres::connect(&parameters, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
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
