//! Backups of several shards, and the log behind them, taken while money moves, and restored into a cluster of one.
//!
//! Held to these claims: the sum of what is restored is that of the accounts; what was acknowledged before the
//! backup began is in it, and nothing that nobody asked for by its end; keys that only change together are the
//! same; the restored cluster takes commits over its shards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proteus_env::sim_disk::SimDisk;
use proteus_env::{Clock, RuntimeClock, task};
use proteus_kernel::{Alone, ChoreOptions, LogBehind, Replay, RestoredState, StateImage};
use proteus_kernel_api::Kernel;
use proteus_log::Log;
use proteus_machine::KernelError;
use proteus_node::{Assembly, AssemblyOptions, store_directory};
use proteus_shard_machine::{Composed, Minitransaction, Outcome};
use proteus_types::{CommitTs, Durability, Member, NodeId, ShardId};
use tokio::sync::watch;

use crate::cluster::{PATIENCE, START_MS};
use crate::transfers::{ACCOUNTS, CLIENTS, TWINS, Told, command, key, log_options, number_of};

/// How long a backup is waited for in trouble.
const BACKUP_PATIENCE: Duration = Duration::from_secs(20);

/// Takes a backup through a node whose shards these are, of all at one moment if it `is_whole`, and restores it
/// elsewhere; says whether it came to one: in trouble it may not.
pub(crate) async fn take(
    through: &Assembly,
    is_whole: bool,
    told: impl Fn() -> BTreeMap<u64, Told>,
    seed: u64,
) -> Result<bool, String> {
    let begun = told();
    // Who asked may lose patience while too few nodes answer.
    let images =
        async { if is_whole { Ok(through.image_whole().await?.1) } else { apart(through).await } };
    let taken = task::timeout(BACKUP_PATIENCE, images).await;
    let Some(Ok(images)) = taken else { return Ok(false) };
    // The log behind every other one is followed for a while.
    let mut followed = BTreeMap::new();
    if is_whole && seed.is_multiple_of(2) {
        task::sleep(Duration::from_millis(seed / 2 % 2_000)).await;
        for (shard, image) in &images {
            match follow(through, *shard, image) {
                Some(log) => drop(followed.insert(*shard, log)),
                None => return Ok(false),
            }
        }
    }
    let ended = told();
    let restored = restore(images, followed, &begun, &ended, seed).await;
    restored.map_err(|claim| format!("restored: {claim}"))?;
    Ok(true)
}

/// What a shard committed behind an image, and up to when all of it is there; `None` if it has let it go.
fn follow(
    through: &Assembly,
    shard: ShardId,
    image: &StateImage,
) -> Option<(CommitTs, Vec<Bytes>)> {
    let open = through.shards().shard(shard)?;
    let (mut position, mut through_ts, mut parts) = (image.id, image.commit_ts, Vec::new());
    loop {
        match open.log_behind(position.index).ok()? {
            LogBehind::Nothing => return Some((through_ts, parts)),
            LogBehind::Part(part) if part.previous == position => {
                (position, through_ts) = (part.last, through_ts.max(part.through_ts));
                parts.push(part.entries);
            }
            LogBehind::Part(_) | LogBehind::Purged => return None,
        }
    }
}

/// The states of the shards, one after the other.
async fn apart(through: &Assembly) -> Result<Vec<(ShardId, StateImage)>, KernelError> {
    let mut images = Vec::new();
    for (id, shard) in through.shards().all() {
        images.push((id, shard.image().await?));
        task::sleep(Duration::from_millis(50)).await;
    }
    Ok(images)
}

async fn restore(
    images: Vec<(ShardId, StateImage)>,
    followed: BTreeMap<ShardId, (CommitTs, Vec<Bytes>)>,
    begun: &BTreeMap<u64, Told>,
    ended: &BTreeMap<u64, Told>,
    seed: u64,
) -> Result<(), String> {
    let failed = |error: KernelError| error.to_string();
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let log = Log::open(Arc::new(SimDisk::new(seed)), log_options());
    let log = log.map_err(|error| error.to_string())?;
    let node = NodeId(1);
    let clock: Arc<dyn Clock> = Arc::new(RuntimeClock::new(START_MS, 0));
    // Up to there all shards are known.
    let until = followed.values().map(|(through_ts, _)| *through_ts).min().unwrap_or(CommitTs::MAX);
    for (shard, mut image) in images {
        let place = store_directory(directory.path(), shard);
        let mut state = RestoredState::begin(&place).map_err(failed)?;
        while let Some(chunk) = image.next_chunk().map_err(failed)? {
            state.take_chunk(&chunk).map_err(failed)?;
        }
        state.install().map_err(failed)?;
        let opened = Replay::<Composed>::open(shard, &place, log.clone(), clock.clone(), until);
        let mut replay = opened.map_err(failed)?;
        let (_, parts) = followed.get(&shard).cloned().unwrap_or_default();
        for part in parts {
            replay.take(&part).map_err(failed)?;
        }
        replay.finish(node, Member::default()).await.map_err(failed)?;
    }
    let assembly = Assembly::new(AssemblyOptions {
        directory: directory.path().to_owned(),
        log,
        clock,
        links: Arc::new(Alone),
        node,
        member: Member::default(),
        run: 1,
        chores: ChoreOptions::default(),
        durability: Durability::Flushed,
        torn_tries: 1,
    });
    let (stop, stopping) = watch::channel(false);
    let served = match task::timeout(PATIENCE, assembly.open_all(true, &stopping)).await {
        Some(Ok(kernel)) => check(&*kernel, begun, ended).await,
        Some(Err(error)) => Err(format!("the cluster does not open: {error}")),
        None => Err("the cluster never opens".to_owned()),
    };
    stop.send_replace(true);
    for (_, shard) in assembly.shards().all() {
        shard.abandon().await;
    }
    served
}

async fn check(
    kernel: &dyn Kernel,
    begun: &BTreeMap<u64, Told>,
    ended: &BTreeMap<u64, Told>,
) -> Result<(), String> {
    kernel.pass_read_barrier().await.map_err(|error| error.to_string())?;
    let mut found = Ok(());
    let read = kernel.read_dyn(&mut |view| {
        found = (|| {
            let number = |kind: &str, number: u64| {
                number_of(view, &key(kind, number)).map_err(|fault| fault.to_string())
            };
            let sum: Result<i64, String> = (0..ACCOUNTS).map(|of| number("account", of)).sum();
            let sum = sum?;
            if sum != 0 {
                return Err(format!("all accounts hold {sum}"));
            }
            for client in 0..CLIENTS {
                let count = number("count", client)?;
                let at_least = begun.get(&client).map_or(0, |told| told.count);
                let at_most = ended.get(&client).map_or(0, |told| told.count + told.unknown);
                if !(at_least..=at_most).contains(&count) {
                    return Err(format!(
                        "{count} transfers of client {client}, and between {at_least} and {at_most} were made"
                    ));
                }
                if number(TWINS[0], client)? != number(TWINS[1], client)? {
                    return Err(format!("keys of client {client} that change together differ"));
                }
            }
            Ok(())
        })();
    });
    read.map_err(|error| error.to_string())?;
    found?;
    let moved = (0..ACCOUNTS).fold(Minitransaction::default(), |moved, account| {
        moved.op(command(&["INCRBY", &key("account", account), "1"]))
    });
    match task::timeout(Duration::from_secs(60), kernel.commit(moved)).await {
        Some(Ok(Outcome::Committed { .. })) => Ok(()),
        other => Err(format!("a commit over all shards came to {other:?}")),
    }
}
