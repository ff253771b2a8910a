//! Damaged files are refused with what to do, never skipped.

use std::fs;

use crate::node::{NodeProcess, command, free_port_offset, runtime};

#[test]
fn a_damaged_log_record_refuses_to_start_and_names_file_and_offset() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(directory.path());
    runtime().block_on(async {
        let client = redis::Client::open(node.redis_url()).unwrap();
        let mut client = client.get_multiplexed_async_connection().await.unwrap();
        for number in 0..50 {
            let _: () = redis::cmd("SET")
                .arg(format!("key{number}"))
                .arg("x".repeat(100))
                .query_async(&mut client)
                .await
                .unwrap();
        }
    });
    node.kill();
    let segment =
        fs::read_dir(directory.path().join("log")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.windows(5).position(|window| window == b"key25").unwrap();
    bytes[middle] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let output = command()
        .args(["start", "--port-offset", &free_port_offset().to_string(), "--data-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let name = segment.file_name().unwrap().to_str().unwrap();
    for part in [name, "at byte", "checksum", "Restore"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(fs::read(&segment).unwrap(), bytes, "the file is left as it was");
    let (is_whole, said) = doctor(directory.path());
    assert!(!is_whole && said.contains("DAMAGED") && said.contains(name), "{said}");
}

#[test]
fn a_torn_tail_is_cut_and_what_was_acknowledged_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(directory.path());
    let set = |node: &NodeProcess, key: &str| {
        runtime().block_on(async {
            let client = redis::Client::open(node.redis_url()).unwrap();
            let mut client = client.get_multiplexed_async_connection().await.unwrap();
            let _: () = redis::cmd("SET").arg(key).arg(1).query_async(&mut client).await.unwrap();
        });
    };
    set(&node, "kept");
    let segment =
        fs::read_dir(directory.path().join("log")).unwrap().next().unwrap().unwrap().path();
    // Until the log is idle, and says behind that commit that it was flushed: before, what follows could be taken for
    // the commit's own torn end.
    let written = fs::read(&segment).unwrap();
    for _ in 0..50 {
        if fs::read(&segment).unwrap() != written {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    node.kill();
    let mut bytes = fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // The beginning of a record whose rest never reached the disk.
    bytes[end..end + 12].copy_from_slice(&[200, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0, 0]);
    fs::write(&segment, &bytes).unwrap();
    let node = NodeProcess::start(directory.path());
    runtime().block_on(async {
        let client = redis::Client::open(node.redis_url()).unwrap();
        let mut client = client.get_multiplexed_async_connection().await.unwrap();
        let kept: i64 = redis::cmd("GET").arg("kept").query_async(&mut client).await.unwrap();
        assert_eq!(kept, 1);
    });
    set(&node, "new");
}

/// Whether the doctor finds the directory undamaged, and what it says.
fn doctor(directory: &std::path::Path) -> (bool, String) {
    let output = command().arg("doctor").arg("--data-dir").arg(directory).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_doctor_tells_a_whole_directory_from_one_in_use_and_one_with_a_damaged_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(directory.path());
    runtime().block_on(async {
        let client = redis::Client::open(node.redis_url()).unwrap();
        let mut client = client.get_multiplexed_async_connection().await.unwrap();
        let _: () = redis::cmd("SET")
            .arg("a")
            .arg("x".repeat(1_000))
            .query_async(&mut client)
            .await
            .unwrap();
    });
    let output = command().arg("doctor").arg("--data-dir").arg(directory.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("stop it first"));
    node.kill();
    let (is_whole, said) = doctor(directory.path());
    assert!(is_whole && said.contains("the next start replays"), "{said}");
    node.kill_and_restart();
    node.signal("TERM");
    node.wait();
    let (is_whole, said) = doctor(directory.path());
    assert!(is_whole && said.contains("replays 0 entries"), "{said}");
    // Every file of the checkpoint's tables, damaged in its middle.
    let tables = directory.path().join("store");
    let mut stack = vec![tables];
    let mut damaged_files = 0;
    while let Some(place) = stack.pop() {
        for entry in fs::read_dir(&place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else if path.parent().unwrap().ends_with("tables") {
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 4;
                bytes[middle] ^= 1;
                fs::write(&path, bytes).unwrap();
                damaged_files += 1;
            }
        }
    }
    assert!(damaged_files > 0);
    let (is_whole, said) = doctor(directory.path());
    assert!(!is_whole && said.contains("DAMAGED"), "{said}");
}
