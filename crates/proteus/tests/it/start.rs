//! Starting and stopping, as a user sees them.

use crate::node::{NodeProcess, command, free_port_offset};

#[test]
fn the_table_names_every_face_with_its_address_and_a_line_to_try() {
    let directory = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(directory.path());
    for (face, port) in [
        ("zookeeper", 2181),
        ("kafka", 9092),
        ("redis", 6379),
        ("postgres", 5432),
        ("http", 8080),
        ("registry", 8081),
    ] {
        let address = node.address(port).to_string();
        let line = node.table.lines().find(|line| line.trim_start().starts_with(face));
        let line = line.unwrap_or_else(|| panic!("no line for {face} in {}", node.table));
        assert!(line.contains(&address), "{line}");
        assert!(line.len() > line.find(&address).unwrap() + address.len() + 5, "{line}");
    }
}

#[test]
fn sigterm_and_ctrl_c_stop_cleanly() {
    for signal in ["TERM", "INT"] {
        let directory = tempfile::tempdir().unwrap();
        let mut node = NodeProcess::start(directory.path());
        node.signal(signal);
        assert!(node.wait().success(), "SIG{signal}");
    }
}

#[test]
fn a_second_node_on_the_directory_is_refused_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let _node = NodeProcess::start(directory.path());
    let offset = free_port_offset().to_string();
    let second = command()
        .args(["start", "--port-offset", &offset, "--data-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another node is running") && said.contains("--data-dir"), "{said}");
}

#[test]
fn a_taken_port_is_named_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(directory.path());
    let other = tempfile::tempdir().unwrap();
    let second = command()
        .args(["start", "--port-offset", &node.port_offset.to_string(), "--data-dir"])
        .arg(other.path())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("cannot listen") && said.contains("--port-offset"), "{said}");
}

#[test]
fn config_tells_each_value_and_its_origin() {
    let output = command()
        .args(["config", "--port-offset", "7"])
        .env("PROTEUS_LOG_LEVEL", "debug")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let line = |key: &str| said.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("port_offset").contains("flag --port-offset"));
    assert!(line("log_level").contains("environment PROTEUS_LOG_LEVEL"));
    assert!(line("listen").ends_with("default"));
    let unusable = command().args(["config", "--port-offset", "many"]).output().unwrap();
    assert!(!unusable.status.success());
    assert!(String::from_utf8_lossy(&unusable.stderr).contains("0 to 50000"));
}

#[test]
fn help_explains_itself() {
    for arguments in
        [&["--help"][..], &["start", "--help"], &["demo", "--help"], &["config", "--help"]]
    {
        let output = command().args(arguments).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).len() > 300, "{arguments:?}");
    }
}
