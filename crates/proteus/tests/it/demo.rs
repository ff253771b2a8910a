//! The main job, small: every face must tell the same story after kill -9.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::node::{PATIENCE, command};

/// Few readings: some partitions stay empty, and the worker is killed when it has just begun.
#[test]
fn the_demo_holds_its_invariants_for_any_number_of_readings() {
    let demos = ["1", "21", "12000"].map(|events| {
        let demo = command().args(["demo", "--events", events]).stdout(Stdio::piped()).spawn();
        demo.unwrap()
    });
    for demo in demos {
        let output = demo.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("nothing lost, nothing counted twice"), "{said}");
    }
}

/// Command lines of running processes that contain `text`.
fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(text) {
            found.push(command);
        }
    }
    found
}

/// Starts a demo in `temporary`, and returns once its node answers.
fn started_demo(temporary: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut demo = command()
        .args(["demo", "--events", "150000"])
        .env("TMPDIR", temporary)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(demo.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("first answer") {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the demo ended early");
    }
    (demo, out)
}

fn wait_until_no_process_has(temporary: &Path) {
    let waiting = Instant::now();
    let name = temporary.to_str().unwrap();
    while !processes_with(name).is_empty() {
        assert!(waiting.elapsed() < PATIENCE, "left running: {:?}", processes_with(name));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut demo, _out) = started_demo(temporary.path());
    let id = demo.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert!(!demo.wait().unwrap().success());
    wait_until_no_process_has(temporary.path());
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "data was left");
}

#[test]
fn a_demo_whose_output_nobody_reads_ends_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut demo, out) = started_demo(temporary.path());
    drop(out);
    assert!(!demo.wait().unwrap().success());
    wait_until_no_process_has(temporary.path());
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "data was left");
}

#[test]
fn the_node_of_a_killed_demo_stops() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut demo, _out) = started_demo(temporary.path());
    demo.kill().unwrap();
    demo.wait().unwrap();
    wait_until_no_process_has(temporary.path());
}
