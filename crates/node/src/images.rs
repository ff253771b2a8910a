//! Whole states on their way out of a node, for backups: begun once, then fetched piece by piece by
//! whoever asked, at its own pace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::try_join_all;
use proteus_env::{Clock, random, task};
use proteus_kernel::{Commits, Shard, Shards, StateImage, image_whole};
use proteus_kernel_api::{KernelError, Minitransaction};
use proteus_shard_machine::Composed;
use proteus_types::{LogIndex, ShardId};
use tokio::sync::Mutex;

use crate::admin::{BackupStart, ImageStart};
use crate::shards::NodeShards;

/// Backups and single images that are fetched at the same time; each keeps its part of the disk from being
/// cleaned up.
const GROUPS_MAX: usize = 4;

/// An image that nobody has fetched a piece of for so long is given up when another begins, if nobody has
/// fetched any of those that were begun with it either.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// Up to which entry each shard's log has to be fetched for all that was acknowledged before this call. If anything
/// happened since `seen` each shard commits a command that changes nothing, so that all of them come to a new moment.
pub(crate) async fn mark_logs(
    shards: &NodeShards,
    seen: &[(ShardId, LogIndex)],
) -> Result<Vec<(ShardId, LogIndex)>, KernelError> {
    let applied = |all: &[(ShardId, Arc<Shard<Composed>>)]| -> Vec<(ShardId, LogIndex)> {
        all.iter().map(|(id, shard)| (*id, shard.status().applied_index)).collect()
    };
    let all = shards.all();
    for (_, shard) in &all {
        if let Some(barrier) = shard.read_barrier() {
            barrier.await.unwrap_or_else(|_| Err(KernelError::Stopped("stopping".to_owned())))?;
        }
    }
    let now = applied(&all);
    if now == seen {
        return Ok(now);
    }
    let nothing = Minitransaction::default();
    let marks = all.iter().map(|(_, shard)| shard.propose(std::slice::from_ref(&nothing)));
    try_join_all(marks).await?;
    Ok(applied(&all))
}

/// The images of one node.
pub(crate) struct Images {
    clock: Arc<dyn Clock>,
    open: Mutex<BTreeMap<u64, OpenImage>>,
}

struct OpenImage {
    image: StateImage,
    /// Those that were begun together have one number.
    group: u64,
    /// Of the piece that is asked for next.
    sequence: u64,
    /// The piece before it, for one who did not get the answer.
    last: Bytes,
    used: Duration,
}

impl Images {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Images {
        Images { clock, open: Mutex::default() }
    }

    /// Begins an image of a shard's state as it is here now.
    pub(crate) async fn begin(
        &self,
        id: ShardId,
        shard: &Shard<Composed>,
    ) -> Result<ImageStart, String> {
        self.make_room().await?;
        let image = shard.image_to_rebuild().await.map_err(|error| error.to_string())?;
        let started = self.open(vec![(id, image)]).await?;
        started.into_iter().next().ok_or_else(|| "no image was begun".to_owned())
    }

    /// Begins images of all shards at one moment, with all that was acknowledged before.
    pub(crate) async fn begin_all(
        &self,
        commits: &Arc<Commits<Composed>>,
        shards: &NodeShards,
    ) -> Result<BackupStart, String> {
        self.make_room().await?;
        if shards.is_whole()
            && let Some(only) = shards.shard(ShardId::META)
        {
            let image = only.image().await.map_err(|error| error.to_string())?;
            let (commit_ts, taken_at_ms) = (image.commit_ts, self.clock.wall_ms());
            let images = self.open(vec![(ShardId::META, image)]).await?;
            return Ok(BackupStart { commit_ts, taken_at_ms, images });
        }
        let all = shards.all();
        let imaged = image_whole(commits, &all, Minitransaction::default).await;
        let (commit_ts, images) = imaged.map_err(|error| error.to_string())?;
        // The map is in the first shard, which was held still: what came later is in no image.
        let map = shards.map();
        if let Some(missing) = map.shards().iter().find(|id| all.iter().all(|(of, _)| of != *id)) {
            return Err(format!("shard {missing} is not open on this node yet; try again"));
        }
        let taken_at_ms = self.clock.wall_ms();
        let images = self.open(images).await?;
        Ok(BackupStart { commit_ts, taken_at_ms, images })
    }

    /// Gives up what nobody fetches any more.
    async fn make_room(&self) -> Result<(), String> {
        let now = self.clock.elapsed();
        let mut open = self.open.lock().await;
        let used = |open: &&OpenImage| now.saturating_sub(open.used) < IDLE_MAX;
        let groups: BTreeSet<u64> = open.values().filter(used).map(|open| open.group).collect();
        open.retain(|_, open| groups.contains(&open.group));
        if groups.len() >= GROUPS_MAX {
            return Err(format!("{GROUPS_MAX} backups are being taken; try again later"));
        }
        Ok(())
    }

    async fn open(&self, images: Vec<(ShardId, StateImage)>) -> Result<Vec<ImageStart>, String> {
        let (group, used) = (random::random_u64(), self.clock.elapsed());
        let mut open = self.open.lock().await;
        let begin = |(shard, image): (ShardId, StateImage)| {
            let transfer = random::random_u64();
            let (term, index) = (image.id.term.0, image.id.index.0);
            open.insert(
                transfer,
                OpenImage { image, group, sequence: 0, last: Bytes::new(), used },
            );
            ImageStart { shard, transfer, term, index }
        };
        Ok(images.into_iter().map(begin).collect())
    }

    /// Answers `transfer u64 │ sequence u64`, little-endian, with that piece: the next one, or once more
    /// the one before. An empty piece is the end.
    pub(crate) async fn answer(&self, mut message: Bytes) -> Result<Bytes, String> {
        if message.len() != 16 {
            return Err("not a question for a piece of an image".to_owned());
        }
        let (transfer, sequence) = (message.get_u64_le(), message.get_u64_le());
        let gone = "this node holds no such image any more; begin again";
        let mut open = self.open.lock().await;
        let group = open.get(&transfer).ok_or(gone)?.group;
        let now = self.clock.elapsed();
        open.values_mut().filter(|open| open.group == group).for_each(|open| open.used = now);
        let found = open.get_mut(&transfer).ok_or(gone)?;
        if sequence.checked_add(1) == Some(found.sequence) {
            return Ok(found.last.clone());
        }
        if sequence != found.sequence {
            return Err(format!("piece {} follows, not {sequence}", found.sequence));
        }
        // Taken out, so that other images go on while the disk is read.
        let Some(mut taken) = open.remove(&transfer) else { return Err("gone".to_owned()) };
        drop(open);
        let read = task::spawn_blocking(move || {
            let chunk = taken.image.next_chunk();
            (taken, chunk)
        });
        let (mut taken, chunk) = read.await.map_err(|error| error.to_string())?;
        let chunk = chunk.map_err(|error| error.to_string())?.unwrap_or_default();
        if chunk.is_empty() {
            return Ok(chunk);
        }
        taken.sequence += 1;
        taken.last = chunk.clone();
        self.open.lock().await.insert(transfer, taken);
        Ok(chunk)
    }
}
