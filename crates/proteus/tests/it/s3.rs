//! Backups, and old records of topics, in an S3 that somebody else has written.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use redis::AsyncCommands;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::record::Record;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;

use crate::cluster::SECRET;
use crate::node::{NodeProcess, PATIENCE, command, runtime};

const KEY_ID: &str = "AKIDEXAMPLE";
const KEY: &str = "a key that only these know";
const BUCKET: &str = "bucket";

/// A server of S3 on a directory, for as long as the value lives.
struct Server {
    address: SocketAddr,
    directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(directory.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY_ID, KEY));
        let service = service.build();
        let runtime = runtime();
        let any_port = (Ipv4Addr::LOCALHOST, 0);
        let listener = runtime.block_on(tokio::net::TcpListener::bind(any_port)).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(socket), service.clone()));
            }
        });
        Server { address, directory, _runtime: runtime }
    }

    fn known_to(&self, mut command: Command) -> Command {
        command
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", KEY)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT", format!("http://{}", self.address))
            .env("AWS_ALLOW_HTTP", "true")
            .env("PROTEUS_CLUSTER_SECRET", SECRET);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.known_to(command()).args(arguments).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        self.run(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// Objects in the bucket, with their sizes.
    fn objects(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        files_below(&self.directory.path().join(BUCKET), &mut found);
        found
    }
}

fn files_below(directory: &Path, found: &mut Vec<(PathBuf, u64)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        match entry.metadata().unwrap() {
            about if about.is_dir() => files_below(&entry.path(), found),
            about => found.push((entry.path(), about.len())),
        }
    }
}

async fn redis_of(node: &NodeProcess) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(node.redis_url()).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

#[test]
fn backups_are_taken_listed_verified_thinned_out_and_restored() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let secret = ["--cluster-secret", SECRET];
    let node = NodeProcess::start_with(&directory.path().join("node"), &secret);
    let peer = node.address(7000).to_string();
    let place = format!("s3://{BUCKET}/some/where");
    let value = |number: usize| format!("{number}:{}", "v".repeat(2_000));
    let put = |numbers: std::ops::Range<usize>| {
        runtime().block_on(async {
            let mut connection = redis_of(&node).await;
            let mut keys = redis::pipe();
            for number in numbers {
                keys.set(format!("k{number}"), value(number)).ignore();
            }
            let () = keys.query_async(&mut connection).await.unwrap();
        });
    };
    for round in 0..3 {
        put(round * 1_000..(round + 1) * 1_000);
        server.succeed(&["backup", &place, "--peer", &peer]);
    }
    assert!(server.objects().iter().all(|(path, _)| path.to_string_lossy().contains("some/where")));
    let taken = server.succeed(&["backup", &place, "--list"]);
    let taken: Vec<&str> =
        taken.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(taken.len(), 3, "{taken:?}");
    assert!(server.succeed(&["backup", &place, "--verify"]).contains("3 backups"));
    let restored = |name: &str, more: &[&str]| {
        let data = directory.path().join(name);
        let arguments = ["restore", &place, "--data-dir", data.to_str().unwrap()];
        server.succeed(&[&arguments, more].concat());
        let node = NodeProcess::start_with(&data, &secret);
        runtime().block_on(async {
            let mut connection = redis_of(&node).await;
            let count: usize = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
            for number in [0, count / 2, count - 1] {
                let found: String = connection.get(format!("k{number}")).await.unwrap();
                assert_eq!(found, value(number));
            }
            count
        })
    };
    assert_eq!(restored("newest", &[]), 3_000);
    assert_eq!(restored("first", &["--at", taken[0]]), 1_000);
    put(3_000..4_000);
    server.succeed(&["backup", &place, "--peer", &peer, "--keep", "1"]);
    let left = server.succeed(&["backup", &place, "--verify"]);
    assert!(left.contains("1 backup"), "{left}");
    assert_eq!(restored("kept", &[]), 4_000);
    // Damage there is found before anything is taken from it.
    let (largest, _) = server.objects().into_iter().max_by_key(|(_, bytes)| *bytes).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    server.run(&["backup", &place, "--verify"]).unwrap_err();
    let data = directory.path().join("damaged");
    server.run(&["restore", &place, "--data-dir", data.to_str().unwrap()]).unwrap_err();
}

#[test]
fn who_is_not_admitted_or_asks_for_what_is_not_there_is_told_so() {
    let server = Server::start();
    let place = format!("s3://{BUCKET}/nothing");
    let listed = server.run(&["backup", &place, "--list"]);
    assert!(listed.is_ok_and(|list| list.lines().count() <= 1), "an empty place");
    let missing = server.run(&["backup", "s3://elsewhere/x", "--list"]).unwrap_err();
    assert!(missing.contains("s3://elsewhere/x"), "{missing}");
    let mut stranger = server.known_to(command());
    stranger.env("AWS_SECRET_ACCESS_KEY", "another").args(["backup", &place, "--list"]);
    let output = stranger.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(&place), "{said}");
}

#[test]
fn old_records_of_a_topic_move_there_and_are_read_from_there() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let place = format!("s3://{BUCKET}/topics");
    let node = NodeProcess::start_from(
        || server.known_to(command()),
        directory.path(),
        &["--object-store", &place],
    );
    let offset = node.port_offset.to_string();
    let create = ["topic", "--port-offset", &offset, "create", "t"];
    let tiered = ["--config", "remote.storage.enable=true", "--config", "local.retention.bytes=1"];
    server.succeed(&[&create[..], &tiered].concat());
    runtime().block_on(async {
        let bootstrap = vec![node.address(9092).to_string()];
        let client = ClientBuilder::new(bootstrap).build().await.unwrap();
        let partition = client.partition_client("t", 0, UnknownTopicHandling::Retry).await.unwrap();
        for number in 0..60i64 {
            let record = Record {
                key: None,
                value: Some(format!("{number}:{}", "r".repeat(100_000)).into_bytes()),
                headers: Default::default(),
                timestamp: chrono::Utc::now(),
            };
            partition.produce(vec![record], Compression::NoCompression).await.unwrap();
        }
        let started = Instant::now();
        while server.objects().iter().map(|(_, bytes)| bytes).sum::<u64>() < 4_000_000 {
            assert!(started.elapsed() < PATIENCE, "nothing moves: {:?}", server.objects());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut next = 0;
        while next < 60 {
            let (records, _) = partition.fetch_records(next, 1..1_000_000, 1_000).await.unwrap();
            for record in records {
                let value = String::from_utf8(record.record.value.unwrap()).unwrap();
                assert!(record.offset == next && value.starts_with(&format!("{next}:r")));
                next += 1;
            }
        }
    });
    server.succeed(&["topic", "--port-offset", &offset, "delete", "t"]);
    let started = Instant::now();
    while !server.objects().is_empty() {
        assert!(started.elapsed() < PATIENCE, "left behind: {:?}", server.objects());
        std::thread::sleep(Duration::from_millis(50));
    }
}
