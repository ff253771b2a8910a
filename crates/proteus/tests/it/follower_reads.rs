//! Reads that a node answers from what it has by itself, where a protocol or a client allows that.

use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_read_routing::RandomReplicaStrategy;
use redis::{AsyncCommands, RedisResult, Value, cmd};
use tokio_postgres::NoTls;
use zookeeper_client as zk;

use crate::cluster::{Cluster, settings};
use crate::node::{NodeProcess, PATIENCE, runtime};

/// Three nodes that may be so far behind where they read without asking, and which of them leads and follow.
struct Three {
    cluster: Cluster,
    leader: usize,
    followers: [usize; 2],
    _directory: tempfile::TempDir,
}

impl Three {
    fn start(staleness_ms_max: &str) -> Three {
        let directory = tempfile::tempdir().unwrap();
        let start = |number: usize, join: Option<&str>| {
            let mut settings = settings(join);
            let local = ["--zookeeper-reads", "local", "--zookeeper-read-only", "false"];
            settings.extend(local.map(str::to_owned));
            settings.extend(["--staleness-ms-max", staleness_ms_max].map(str::to_owned));
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            NodeProcess::start_with(&directory.path().join(format!("n{number}")), &settings)
        };
        let mut nodes = vec![start(1, None)];
        let join = nodes[0].address(7000).to_string();
        nodes.extend((2..=3).map(|number| start(number, Some(&join))));
        let cluster = Cluster::of(nodes);
        let leader = cluster.leader();
        let followers = [(leader + 1) % 3, (leader + 2) % 3];
        Three { cluster, leader, followers, _directory: directory }
    }

    fn node(&self, place: usize) -> &NodeProcess {
        &self.cluster.nodes[place]
    }

    /// Cuts the first of those who follow off from the others, or joins it with them again.
    fn others(&self, signal: &str) {
        self.node(self.leader).signal(signal);
        self.node(self.followers[1]).signal(signal);
    }
}

/// A connection that gives up on nothing by itself.
async fn redis_of(node: &NodeProcess, first: &[&str]) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(node.redis_url()).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection =
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    for word in first {
        let _: () = cmd(word).query_async(&mut connection).await.unwrap();
    }
    connection
}

async fn sql_of(node: &NodeProcess) -> tokio_postgres::Client {
    let address = node.address(5432);
    let parameters = format!("host={} port={} user=app", address.ip(), address.port());
    let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Asks until the answer is this.
async fn until<T: PartialEq + std::fmt::Debug>(wanted: T, mut ask: impl AsyncFnMut() -> T) {
    let started = Instant::now();
    loop {
        let found = ask().await;
        if found == wanted {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "still {found:?} instead of {wanted:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn count_of_gets(node: &NodeProcess) -> u64 {
    let mut connection = redis_of(node, &[]).await;
    let info: String = cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
    line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_redis_cluster_client_reads_at_replicas_what_was_written_through_the_leader() {
    let three = Three::start("1000");
    runtime().block_on(async {
        let urls = three.cluster.nodes.iter().map(NodeProcess::redis_url);
        let client = ClusterClientBuilder::new(urls)
            .read_routing_strategy(RandomReplicaStrategy)
            .build()
            .unwrap();
        let mut connection = client.get_async_connection().await.unwrap();
        for number in 0..50i64 {
            let _: () = connection.set("k", number).await.unwrap();
            until(number, async || connection.get("k").await.unwrap()).await;
        }
        let mut at_followers = 0;
        for follower in three.followers {
            at_followers += count_of_gets(three.node(follower)).await;
        }
        let at_leader = count_of_gets(three.node(three.leader)).await;
        assert!(at_followers >= 50, "{at_followers} reads at followers, {at_leader} at the leader");
    });
}

/// Whether nobody is asked is seen where there is nobody to ask.
#[test]
fn a_node_that_is_new_enough_answers_by_itself_on_every_face_that_allows_it() {
    let three = Three::start("3600000");
    runtime().block_on(async {
        let (leader, follower) = (three.node(three.leader), three.node(three.followers[0]));
        let host = follower.address(2181).to_string();
        let zookeeper = zk::Client::connect(&host).await.unwrap();
        let mode = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        zookeeper.create("/z", b"1", &mode).await.unwrap();
        assert_eq!(zookeeper.get_data("/z").await.unwrap().0, b"1", "its own write");
        let mut writer = redis_of(leader, &[]).await;
        let _: () = writer.set("k", "v").await.unwrap();
        let mut reader = redis_of(follower, &["READONLY"]).await;
        until(Some("v".to_owned()), async || reader.get("k").await.unwrap()).await;
        let sql = sql_of(leader).await;
        sql.batch_execute("CREATE TABLE a (id bigint PRIMARY KEY); INSERT INTO a VALUES (1)")
            .await
            .unwrap();
        let sql = sql_of(follower).await;
        sql.batch_execute("SET proteus.max_staleness = '1h'").await.unwrap();
        let count = async || -> Option<i64> {
            let rows = sql.simple_query("SELECT count(*) FROM a").await.ok()?;
            rows.iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
                _ => None,
            })
        };
        until(Some(1), count).await;

        three.others("STOP");
        assert_eq!(reader.get::<_, String>("k").await.unwrap(), "v");
        let keys: Vec<String> = reader.keys("*").await.unwrap();
        assert_eq!(keys, ["k"]);
        assert_eq!(count().await, Some(1));
        sql.batch_execute("BEGIN READ ONLY").await.unwrap();
        assert_eq!(count().await, Some(1));
        let refused = sql.batch_execute("INSERT INTO a VALUES (2)").await.unwrap_err();
        assert_eq!(refused.code().map(|code| code.code()), Some("25006"));
        sql.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(zookeeper.get_data("/z").await.unwrap().0, b"1");
        // All others are told that nobody knows.
        let _: () = cmd("READWRITE").query_async(&mut reader).await.unwrap();
        assert_unknown(reader.get::<_, Option<String>>("k").await);
        sql.batch_execute("SET proteus.max_staleness = 0").await.unwrap();
        assert_eq!(count().await, None);

        three.others("CONT");
        until(Ok("v".to_owned()), async || reader.get("k").await.map_err(drop)).await;
    });
}

fn assert_unknown(answer: RedisResult<Option<String>>) {
    let error = answer.expect_err("nobody can know");
    assert_eq!(error.code(), Some("TRYAGAIN"), "{error}");
}

#[test]
fn a_node_that_is_cut_off_stops_answering_and_goes_on_once_it_hears_of_the_others() {
    let three = Three::start("500");
    runtime().block_on(async {
        let (leader, follower) = (three.node(three.leader), three.node(three.followers[0]));
        let mut writer = redis_of(leader, &[]).await;
        let _: () = writer.set("k", "1").await.unwrap();
        let mut reader = redis_of(follower, &["READONLY"]).await;
        until(Some("1".to_owned()), async || reader.get("k").await.unwrap()).await;
        let host = follower.address(2181).to_string();
        let zookeeper = zk::Client::connect(&host).await.unwrap();
        zookeeper.check_stat("/").await.unwrap();

        three.others("STOP");
        let started = Instant::now();
        loop {
            match reader.get::<_, Option<String>>("k").await {
                Ok(found) => assert_eq!(found.as_deref(), Some("1")),
                refused => break assert_unknown(refused),
            }
            assert!(started.elapsed() < PATIENCE, "it answers for ever");
        }
        assert!(zookeeper.check_stat("/").await.is_err(), "nor does it on another face");
        three.others("CONT");
        let _: Value = until_written(&mut writer).await;
        let mut reader = redis_of(follower, &["READONLY"]).await;
        until(Ok("2".to_owned()), async || reader.get("k").await.map_err(drop)).await;
    });
}

async fn until_written(writer: &mut (impl ConnectionLike + Send)) -> Value {
    let started = Instant::now();
    loop {
        let mut set = cmd("SET");
        set.arg("k").arg("2");
        let written = tokio::time::timeout(Duration::from_secs(5), set.query_async(writer));
        if let Ok(Ok(written)) = written.await {
            return written;
        }
        assert!(started.elapsed() < PATIENCE, "no writes although all live");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
