//! What consensus and the log alone do on a disk: the yardstick for everything above them.
//!
//! ```text
//! cargo run --release -p proteus-consensus --example alone -- DIRECTORY
//! ```
//! One voter, payloads of 100 bytes, each proposed once the one before it was applied, by 1 and 64 at a time;
//! beside it, how long one write and `fdatasync` of a record takes.
#![allow(clippy::disallowed_methods, reason = "a measuring tool stands outside the door")]

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_consensus::{
    Applied, Group, GroupOptions, Image, PAYLOAD_ROOM_BYTES, Payload, ReceivedImage, Replica,
    ReplicaFault, Timing, Unconnected,
};
use proteus_env::disk::RealDisk;
use proteus_log::{Log, LogOptions};
use proteus_types::{Durability, EntryId, Member, NodeId, ShardId, Term};
use tokio::sync::oneshot;

const PAYLOAD_BYTES: usize = 100;
const FOR: Duration = Duration::from_secs(4);

/// Applies nothing, and wakes who proposed, in their order.
#[derive(Default)]
struct Nothing {
    applied: Mutex<Option<EntryId>>,
    waiting: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl Replica for Nothing {
    fn applied(&self) -> Result<(Option<EntryId>, Option<Bytes>), ReplicaFault> {
        Ok((None, None))
    }

    fn apply(&self, entry: Applied) -> Result<(), ReplicaFault> {
        *self.applied.lock() = Some(entry.id);
        if entry.payload.is_some()
            && let Some(waiting) = self.waiting.lock().pop_front()
        {
            let _ = waiting.send(());
        }
        Ok(())
    }

    fn checkpointed(&self) -> Option<(EntryId, Option<Bytes>)> {
        None
    }

    fn purgeable(&self) -> Option<(EntryId, Option<Bytes>)> {
        None
    }

    fn open_image(&self) -> Result<Option<Image>, ReplicaFault> {
        Ok(None)
    }

    fn receive_image(&self) -> Result<Box<dyn ReceivedImage>, ReplicaFault> {
        Err(ReplicaFault("nobody sends one".to_owned()))
    }
}

fn describe(what: &str, mut took: Vec<Duration>, elapsed: Duration) {
    took.sort_unstable();
    let at = |share: f64| {
        let place = ((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1));
        took.get(place).map_or(0.0, |took| took.as_secs_f64() * 1e6)
    };
    let per_second = took.len() as f64 / elapsed.as_secs_f64();
    println!("| {what} | {per_second:.0} | {:.0} | {:.0} |", at(0.50), at(0.99));
}

fn flushes(directory: &Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(directory.join("flushes"))?;
    file.write_all(&vec![0; 16 << 20])?;
    file.sync_all()?;
    let started = Instant::now();
    let mut took = Vec::new();
    let mut place = 0;
    while started.elapsed() < FOR && place + 200 < 16 << 20 {
        let begun = Instant::now();
        std::os::unix::fs::FileExt::write_at(&file, &[1; 150], place)?;
        file.sync_data()?;
        took.push(begun.elapsed());
        place += 150;
    }
    describe("write and fdatasync of 150 bytes", took, started.elapsed());
    Ok(())
}

async fn proposals(directory: &Path, at_a_time: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let failed = |error: proteus_log::LogError| std::io::Error::other(error.to_string());
    let log = Log::open(Arc::new(RealDisk::open(directory)?), LogOptions::default());
    let replica = Arc::new(Nothing::default());
    let options = GroupOptions {
        shard: ShardId::META,
        node: NodeId(1),
        member: Member::default(),
        found: true,
        timing: Timing::default(),
    };
    let transport = Arc::new(Unconnected);
    let group = Group::open(options, log.map_err(failed)?, replica.clone(), transport).await?;
    let term = group.leadership().term;
    let started = Instant::now();
    let tasks: Vec<_> = (0..at_a_time)
        .map(|_| tokio::spawn(propose(group.clone(), replica.clone(), term, started)))
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.map_err(std::io::Error::other)?);
    }
    describe(&format!("consensus and log · {at_a_time} at a time"), took, started.elapsed());
    group.shutdown().await;
    Ok(())
}

async fn propose(
    group: Group,
    replica: Arc<Nothing>,
    term: Term,
    started: Instant,
) -> Vec<Duration> {
    let payload = Payload::behind_room(vec![7; PAYLOAD_ROOM_BYTES + PAYLOAD_BYTES]);
    let mut took = Vec::new();
    while started.elapsed() < FOR {
        let begun = Instant::now();
        let (sender, receiver) = oneshot::channel();
        replica.waiting.lock().push_back(sender);
        if group.propose(payload.clone(), Durability::Flushed, term, || ()).await.is_err()
            || receiver.await.is_err()
        {
            break;
        }
        took.push(begun.elapsed());
    }
    took
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let directory = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = directory.join(format!("alone-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    println!("| what | /s | p50 µs | p99 µs |\n| --- | ---: | ---: | ---: |");
    flushes(&directory)?;
    for at_a_time in [1, 64] {
        proposals(&directory.join(at_a_time.to_string()), at_a_time).await?;
    }
    std::fs::remove_dir_all(&directory)
}
