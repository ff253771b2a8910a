//! Backups of a node that is being written to, and what comes out of them.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::node::{NodeProcess, PATIENCE, command, runtime};

const SECRET: &str = "a secret that only these know";
const WITH_SECRET: [&str; 2] = ["--cluster-secret", SECRET];

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).env("PROTEUS_CLUSTER_SECRET", SECRET).output().unwrap()
}

fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn fail(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn back_up(node: &NodeProcess, place: &str) -> String {
    succeed(&["backup", place, "--peer", &node.address(7000).to_string()])
}

/// The counters `left` and `right`, which every transaction moves together.
fn counters(node: &NodeProcess) -> (i64, i64) {
    let client = redis::Client::open(node.redis_url()).unwrap();
    let read = async {
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("MGET").arg("left").arg("right").query_async(&mut connection).await.unwrap()
    };
    runtime().block_on(async { tokio::time::timeout(PATIENCE, read).await.unwrap() })
}

/// Moves both counters, over and over, until told to stop.
fn write_until(node: &NodeProcess, stop: Arc<AtomicBool>, done: Arc<AtomicI64>) {
    let client = redis::Client::open(node.redis_url()).unwrap();
    runtime().block_on(async {
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut both = redis::pipe();
        both.atomic().incr("left", 1).ignore().incr("right", 1).ignore();
        while !stop.load(Ordering::SeqCst) {
            let () = both.query_async(&mut connection).await.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        }
    });
}

/// Many keys that stay as they are.
fn fill(node: &NodeProcess) {
    let client = redis::Client::open(node.redis_url()).unwrap();
    runtime().block_on(async {
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        for block in 0..100 {
            let mut keys = redis::pipe();
            for key in 0..100 {
                keys.set(format!("key:{block}:{key}"), vec![b'v'; 400]).ignore();
            }
            let () = keys.query_async(&mut connection).await.unwrap();
        }
    });
}

fn increment(node: &NodeProcess, key: &str) {
    let client = redis::Client::open(node.redis_url()).unwrap();
    let increment = async {
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let () = redis::cmd("INCR").arg(key).query_async(&mut connection).await.unwrap();
    };
    runtime().block_on(async { tokio::time::timeout(PATIENCE, increment).await.unwrap() });
}

fn timestamps(place: &str) -> Vec<String> {
    let list = succeed(&["backup", place, "--list"]);
    list.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

fn restored(place: &str, directory: &Path, more: &[&str]) -> NodeProcess {
    let directory_text = directory.to_str().unwrap();
    succeed(&[&["restore", place, "--data-dir", directory_text], more].concat());
    NodeProcess::start_with(directory, &WITH_SECRET)
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_backup_under_load_holds_one_moment_and_grows_into_a_new_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("backups");
    let place = place.to_str().unwrap();
    let node = NodeProcess::start_with(&directory.path().join("node"), &WITH_SECRET);
    fill(&node);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let mut acknowledged = Vec::new();
    std::thread::scope(|scope| {
        let (told, counted) = (stop.clone(), done.clone());
        let node = &node;
        scope.spawn(move || write_until(node, told, counted));
        for _ in 0..2 {
            let before = done.load(Ordering::SeqCst);
            while done.load(Ordering::SeqCst) < before + 20 {
                std::thread::yield_now();
            }
            acknowledged.push(done.load(Ordering::SeqCst));
            back_up(node, place);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let written: u64 = files_below(Path::new(place))
        .iter()
        .map(|file| std::fs::metadata(file).unwrap().len())
        .sum();
    assert!(written < 1_000_000, "the second backup shares what has not changed: {written} bytes");
    assert!(succeed(&["backup", place, "--verify"]).contains("2 backups"));
    let taken = timestamps(place);
    let final_count = done.load(Ordering::SeqCst);
    // The newest.
    let newest = restored(place, &directory.path().join("newest"), &[]);
    let (left, right) = counters(&newest);
    assert_eq!(left, right);
    assert!((acknowledged[1]..=final_count).contains(&left), "{left} of {acknowledged:?}");
    // It is the first node of a cluster of its own.
    let join = newest.address(7000).to_string();
    let second = NodeProcess::start_with(
        &directory.path().join("second"),
        &[&WITH_SECRET[..], &["--join", &join]].concat(),
    );
    assert_eq!(counters(&second), (left, right));
    // The older one.
    let older = restored(place, &directory.path().join("older"), &["--at", &taken[0]]);
    let (left_before, right_before) = counters(&older);
    assert_eq!(left_before, right_before);
    assert!((acknowledged[0]..=left).contains(&left_before));
}

/// Any moment behind a backup can be restored while its log is followed, also behind one at which the node was killed.
#[test]
fn a_log_that_is_followed_leads_to_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("backups");
    let place = place.to_str().unwrap();
    let data = directory.path().join("node");
    let mut node = NodeProcess::start_with(&data, &WITH_SECRET);
    let address = node.address(7000).to_string();
    let mut following = command()
        .args(["backup", place, "--peer", &address, "--follow", "--every", "1"])
        .env("PROTEUS_CLUSTER_SECRET", SECRET)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let reach = || {
        let listed = timestamps(place);
        listed.last().cloned().unwrap_or_default()
    };
    let mut moments = Vec::new();
    for round in 0..3 {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        std::thread::scope(|scope| {
            let (told, counted) = (stop.clone(), done.clone());
            let writing = &node;
            scope.spawn(move || write_until(writing, told, counted));
            while done.load(Ordering::SeqCst) < 30 {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::SeqCst);
        });
        let count = counters(&node).0;
        // What is committed from here on is later than that.
        let now = std::time::SystemTime::now();
        let now_ms = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        std::thread::sleep(std::time::Duration::from_millis(20));
        moments.push((now_ms.to_string(), count));
        if round == 1 {
            node.kill_and_restart();
        }
    }
    let last = moments.last().unwrap().0.clone();
    // Something has to happen for there to be a later moment.
    while reach().split('.').next().unwrap_or_default() <= last.as_str() {
        let _ = counters(&node);
        increment(&node, "later");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    following.kill().unwrap();
    following.wait().unwrap();
    assert!(succeed(&["backup", place, "--verify"]).contains("are whole"));
    for (name, (moment, count)) in moments.iter().enumerate() {
        let directory = directory.path().join(format!("restored-{name}"));
        let restored = restored(place, &directory, &["--at", moment]);
        assert_eq!(counters(&restored), (*count, *count), "at {moment}");
    }
}

#[test]
fn what_is_damaged_or_in_the_way_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("backups");
    let place_text = place.to_str().unwrap();
    let data = directory.path().join("node");
    let node = NodeProcess::start_with(&data, &WITH_SECRET);
    fill(&node);
    let nothing = directory.path().join("nothing");
    assert!(fail(&["restore", nothing.to_str().unwrap(), "--data-dir", "x"]).contains("no backup"));
    back_up(&node, place_text);
    let wrong = command()
        .args(["backup", place_text, "--peer", &node.address(7000).to_string()])
        .env("PROTEUS_CLUSTER_SECRET", "another")
        .output()
        .unwrap();
    assert!(!wrong.status.success(), "whoever does not know the secret gets no data");
    let in_use = fail(&["restore", place_text, "--data-dir", data.to_str().unwrap()]);
    assert!(in_use.contains("another node is running"), "{in_use}");
    drop(node);
    let full = fail(&["restore", place_text, "--data-dir", data.to_str().unwrap()]);
    assert!(full.contains("already holds data"), "{full}");
    let piece = files_below(&place.join("pieces")).pop().unwrap();
    let mut bytes = std::fs::read(&piece).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&piece, bytes).unwrap();
    assert!(fail(&["backup", place_text, "--verify"]).contains("are damaged"));
    let target = directory.path().join("target");
    let target = target.to_str().unwrap();
    assert!(fail(&["restore", place_text, "--data-dir", target]).contains("is damaged"));
    let unfinished = fail(&["start", "--data-dir", target, "--port-offset", "28000"]);
    assert!(unfinished.contains("was interrupted"), "{unfinished}");
}
