//! `proteus topic`, from a shell.

use std::io::Write;
use std::process::Stdio;

use crate::node::{NodeProcess, command};

/// What the command prints, or what it says went wrong.
fn topic(node: &NodeProcess, arguments: &[&str], input: &str) -> Result<String, String> {
    let offset = node.port_offset.to_string();
    let mut child = command()
        .args(["topic", "--port-offset", &offset])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn topics_are_made_filled_read_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(directory.path());
    let run = |arguments: &[&str], input: &str| topic(&node, arguments, input);
    run(&["create", "t", "--partitions", "3", "--config", "retention.ms=-1"], "").unwrap();
    assert!(run(&["create", "t"], "").unwrap_err().contains("TopicAlreadyExists"));
    assert_eq!(run(&["list"], "").unwrap(), "TOPIC\tPARTITIONS\nt\t3\n");
    let lines: String = (0..500).map(|number| format!("k{number}:v{number}\n")).collect();
    let said = run(&["produce", "t", "--key-separator", ":"], &lines).unwrap();
    assert_eq!(said, "500 records produced to t\n");
    let consumed = run(&["consume", "t", "--keys"], "").unwrap();
    let mut consumed: Vec<&str> = consumed.lines().collect();
    consumed.sort_unstable();
    let mut expected: Vec<String> =
        (0..500).map(|number| format!("k{number}\tv{number}")).collect();
    expected.sort_unstable();
    assert_eq!(consumed, expected);
    assert_eq!(run(&["consume", "t", "--max", "7"], "").unwrap().lines().count(), 7);
    assert_eq!(run(&["consume", "t", "--from", "latest"], "").unwrap(), "");
    assert!(run(&["describe", "t"], "").unwrap().ends_with("retention.ms=-1\n"));
    let shown = run(&["reset-offsets", "g", "t", "--to", "earliest"], "").unwrap();
    assert!(shown.contains("t\t0\t-\t0") && shown.contains("--execute"), "{shown}");
    assert!(!run(&["groups"], "").unwrap().contains("g\tEmpty"));
    run(&["reset-offsets", "g", "t", "--to", "earliest", "--execute"], "").unwrap();
    assert!(run(&["groups"], "").unwrap().contains("g\tEmpty\t0"));
    assert!(run(&["lag", "g"], "").unwrap().ends_with("total\t\t\t\t500\n"));
    run(&["delete", "t"], "").unwrap();
    assert!(run(&["describe", "t"], "").unwrap_err().contains("UnknownTopicOrPartition"));
}

#[test]
fn a_mirror_has_the_records_and_offsets_of_the_original() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, target] = directories.each_ref().map(|one| NodeProcess::start(one.path()));
    let config = ["--config", "cleanup.policy=compact", "--config", "retention.ms=-1"];
    topic(&source, &[&["create", "t", "--partitions", "2"][..], &config].concat(), "").unwrap();
    let some = |from: u32, to: u32| -> String {
        (from..to).map(|number| format!("k{number}:v{number}\n")).collect()
    };
    let produce = ["produce", "t", "--key-separator", ":"];
    topic(&source, &produce, &some(0, 300)).unwrap();
    topic(&source, &["reset-offsets", "g", "t", "--to", "latest", "--execute"], "").unwrap();
    let address = source.address(9092).to_string();
    let mirror = ["mirror", "--source", &address, "--group", "g", "t"];
    topic(&target, &mirror, "").unwrap();
    assert!(topic(&target, &produce, &some(0, 1)).unwrap_err().contains("proteus.mirror=false"));
    // More comes; the mirror goes on where it was.
    topic(&source, &produce, &some(300, 400)).unwrap();
    topic(&target, &[&mirror[..], &["--finish"]].concat(), "").unwrap();
    let read =
        |node: &NodeProcess| topic(node, &["consume", "t", "--keys", "--places"], "").unwrap();
    assert_eq!(read(&target), read(&source));
    assert_eq!(read(&target).lines().count(), 400);
    let lag = |node: &NodeProcess| topic(node, &["lag", "g"], "").unwrap();
    assert_eq!(lag(&target), lag(&source));
    assert!(topic(&target, &["describe", "t"], "").unwrap().contains("cleanup.policy=compact"));
    topic(&target, &produce, &some(400, 401)).unwrap();
    assert_eq!(read(&target).lines().count(), 401);
}
