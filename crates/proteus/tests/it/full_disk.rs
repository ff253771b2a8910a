//! A full disk turns writes into clear errors, keeps reads, and recovers when space returns.

use std::fs;
use std::path::Path;
use std::process::Command;

use redis::AsyncCommands;

use crate::node::{NodeProcess, runtime};

/// A small file system of its own, where the machine lets us make one.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    fn mount(at: &Path) -> Option<SmallDisk<'_>> {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(at).status();
        matches!(status, Ok(status) if status.success()).then_some(SmallDisk(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_writes_keeps_reads_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(directory.path()) else {
        println!("skipped: this machine does not let the test mount a small file system");
        return;
    };
    let data = directory.path().join("data");
    let mut node = NodeProcess::start(&data);
    let runtime = runtime();
    let connect = |node: &NodeProcess| {
        let client = redis::Client::open(node.redis_url()).unwrap();
        runtime.block_on(client.get_multiplexed_async_connection()).unwrap()
    };
    let mut client = connect(&node);
    runtime.block_on(async {
        let _: () = client.set("before", "kept").await.unwrap();
    });
    // Something else takes the space.
    let ballast = directory.path().join("ballast");
    fs::write(&ballast, vec![1u8; 34 << 20]).unwrap();
    let value = "x".repeat(256 * 1024);
    let mut written = 0;
    let refusal = runtime.block_on(async {
        loop {
            match client.set::<_, _, ()>(format!("big{written}"), &value).await {
                Ok(()) => written += 1,
                Err(error) => return error,
            }
            assert!(written < 400, "the disk never fills");
        }
    });
    assert_eq!(refusal.code(), Some("MISCONF"), "{refusal}");
    assert!(refusal.to_string().contains("disk is full"), "{refusal}");
    runtime.block_on(async {
        assert_eq!(client.get::<_, String>("before").await.unwrap(), "kept");
        for number in 0..written {
            let length: usize = client.strlen(format!("big{number}")).await.unwrap();
            assert_eq!(length, value.len());
        }
    });
    fs::remove_file(&ballast).unwrap();
    runtime.block_on(async {
        let _: () = client.set("after", "accepted").await.unwrap();
    });
    node.kill_and_restart();
    let mut client = connect(&node);
    runtime.block_on(async {
        assert_eq!(client.get::<_, String>("after").await.unwrap(), "accepted");
        assert_eq!(client.exists::<_, i64>(format!("big{}", written - 1)).await.unwrap(), 1);
    });
}
