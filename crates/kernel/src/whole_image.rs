//! Images of all shards at one moment.
//!
//! ```text
//!   shard 2   ── held ─── set aside ─── let go ──▶
//!   shard 1        ── held ─ set aside ─── let go ──▶
//!   shard 0             ── held  set aside  let go ──▶
//!                              └ one moment at which nothing happens anywhere
//! ```
//! All shards are held still, from the highest down as commits over several of them are; then each sets its
//! state aside, which takes no time; then all go on, and what was set aside is written and read. Who lets a
//! shard go is told whether it was held until then: so there was one moment at which all were, and what is in
//! the images is what was committed before it, in any shard, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use proteus_env::task;
use proteus_machine::{KernelError, ShardMachine};
use proteus_types::{CommitTs, EntryId, ShardId};
use tracing::info;

use crate::image::StateImage;
use crate::shard::Shard;
use crate::transaction::Commits;

/// How often it is tried: leaders may change meanwhile.
const TRIES_MAX: usize = 5;

/// Pause before it is tried again.
const RETRY: Duration = Duration::from_millis(500);

type Open<M> = (ShardId, Arc<Shard<M>>);

/// The states of all `shards`, which are open here, at one moment: all that was committed up to the
/// timestamp, and nothing later. Commits wait for some log entries in each shard, and go on then.
///
/// `nothing` makes a command that changes nothing.
///
/// # Errors
/// If a shard has no leader, too few replicas vouch for a state, or the disk fails.
pub async fn image_whole<M: ShardMachine>(
    commits: &Arc<Commits<M>>,
    shards: &[Open<M>],
    nothing: fn() -> M::Command,
) -> Result<(CommitTs, Vec<(ShardId, StateImage)>), KernelError> {
    let mut tries = 1;
    loop {
        match try_image_whole(commits, shards, nothing).await {
            Err(KernelError::Unavailable(reason)) if tries < TRIES_MAX => {
                info!(reason, "the shards are to be held still again for their images");
            }
            ended => return ended,
        }
        tries += 1;
        task::sleep(RETRY).await;
    }
}

async fn try_image_whole<M: ShardMachine>(
    commits: &Arc<Commits<M>>,
    shards: &[Open<M>],
    nothing: fn() -> M::Command,
) -> Result<(CommitTs, Vec<(ShardId, StateImage)>), KernelError> {
    // So that no checkpoint is being written while the shards are held.
    for (_, shard) in shards {
        shard.checkpoint().await?;
    }
    let ids = shards.iter().map(|(id, _)| *id).collect();
    let all: Vec<Arc<Shard<M>>> = shards.iter().map(|(_, shard)| shard.clone()).collect();
    let look = async move { try_join_all(all.iter().map(|shard| shard.set_aside())).await };
    let (last_ts, aside): (CommitTs, Vec<EntryId>) = commits.hold_still(ids, nothing, look).await?;
    let images = shards.iter().zip(aside).map(|((id, shard), entry)| async move {
        shard.image_set_aside(entry).await.map(|image| (*id, image))
    });
    Ok((last_ts, try_join_all(images).await?))
}
