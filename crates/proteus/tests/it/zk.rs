//! `proteus zk` and the AdminServer's commands, against nodes of their own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use crate::node::{NodeProcess, PATIENCE, command};

/// Runs `proteus zk` with what stands on its standard input; what it printed.
fn zk(node: &NodeProcess, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = command()
        .args(["zk", "--server", &node.address(2181).to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read all, and says why.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn znodes_are_read_changed_and_carried_to_another_node() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (NodeProcess::start(first.path()), NodeProcess::start(second.path()));
    let at_one = |arguments: &[&str]| zk(&one, arguments, "");
    assert_eq!(at_one(&["create", "-p", "/app/config", "x"]).unwrap(), "/app/config\n");
    assert_eq!(
        at_one(&["create", "--sequential", "/app/job-", "y"]).unwrap(),
        "/app/job-0000000001\n"
    );
    at_one(&["set", "/app/config", "z", "--version", "0"]).unwrap();
    assert_eq!(at_one(&["get", "/app/config"]).unwrap(), "z\n");
    assert_eq!(at_one(&["ls", "/app"]).unwrap(), "config\njob-0000000001\n");
    let refused = at_one(&["set", "/app/config", "w", "--version", "0"]).unwrap_err();
    assert!(refused.contains("/app/config"), "{refused}");
    assert!(at_one(&["get", "/none"]).unwrap_err().contains("/none"));

    // The ACL of one of them travels with it.
    let exported = at_one(&["export", "/app"]).unwrap();
    let guard = |line: &str| match line.contains("/app/config") {
        true => line.replace("[31,\"world\",\"anyone\"]", "[1,\"world\",\"anyone\"]"),
        false => line.to_owned(),
    };
    let guarded: String = exported.lines().map(|line| guard(line) + "\n").collect();
    assert_ne!(guarded, exported);
    for _ in 0..2 {
        assert_eq!(zk(&two, &["import"], &guarded).unwrap(), "");
        assert_eq!(zk(&two, &["export", "/app"], "").unwrap(), guarded);
    }
    let denied = zk(&two, &["set", "/app/config", "w"], "").unwrap_err();
    assert!(denied.contains("/app/config"), "{denied}");

    at_one(&["create", "-p", "/tree/a/b", "deep"]).unwrap();
    let from = one.address(2181).to_string();
    for _ in 0..2 {
        zk(&two, &["copy", "--from", &from, "/tree"], "").unwrap();
        assert_eq!(zk(&two, &["ls", "-r", "/tree"], "").unwrap(), "/tree\n/tree/a\n/tree/a/b\n");
    }
    assert_eq!(zk(&two, &["get", "/tree/a/b"], "").unwrap(), "deep\n");
    zk(&two, &["delete", "-r", "/tree"], "").unwrap();
    assert!(zk(&two, &["ls", "/tree"], "").is_err());
    assert!(zk(&two, &["import"], "nonsense\n").unwrap_err().contains("nonsense"));
}

#[test]
fn the_admin_servers_commands_are_on_the_http_face() {
    let directory = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(directory.path());
    let get = |path: &str| {
        let mut stream = TcpStream::connect(node.address(8080)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get("/commands").contains("<a href=\"/commands/monitor\">"));
    let ruok = get("/commands/ruok");
    assert!(ruok.contains("{\"command\":\"ruok\",\"error\":null}"), "{ruok}");
    for (name, expected) in [
        ("stat", "\"command\":\"stats\""),
        ("monitor", "\"znode_count\":4"),
        ("connections", "\"secure_connections\":[]"),
        ("watches", "\"session_id_to_watched_paths\":{}"),
        ("dump", "\"session_id_to_ephemeral_paths\":{}"),
    ] {
        let answer = get(&format!("/commands/{name}"));
        assert!(answer.contains(expected), "{answer}");
    }
    assert!(get("/commands/nonsense").starts_with("HTTP/1.1 404"));
}
