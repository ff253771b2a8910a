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

use std::pin::Pin;
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

/// Sets the states of shards aside that are on other nodes.
pub trait AsideElsewhere: Send + Sync + 'static {
    /// Has little left to be written of a shard that is about to be held still.
    fn prepare(&self, shard: ShardId) -> Aside;

    /// Sets the state of a shard aside that is held still, on a node that has applied that it is; its name there.
    fn set_aside(&self, shard: ShardId) -> Aside;
}

/// A state that is set aside.
pub type Aside = Pin<Box<dyn Future<Output = Result<EntryId, KernelError>> + Send>>;

/// The images of shards at one moment: those that are open here, and the names of states that were set aside elsewhere.
pub struct Imaged {
    /// Everything up to here is in them, and nothing later.
    pub commit_ts: CommitTs,
    /// Of those that are open here.
    pub here: Vec<(ShardId, StateImage)>,
    /// Of the others.
    pub elsewhere: Vec<(ShardId, EntryId)>,
}

/// As [`image_whole`], with shards that are on other nodes only. It is tried once.
///
/// # Errors
/// As [`image_whole`].
pub async fn image_spread<M: ShardMachine>(
    commits: &Arc<Commits<M>>,
    shards: &[Open<M>],
    away: Vec<ShardId>,
    aside: Arc<dyn AsideElsewhere>,
    nothing: fn() -> M::Command,
) -> Result<Imaged, KernelError> {
    try_join_all(away.iter().map(|shard| aside.prepare(*shard))).await?;
    let all_away = away.clone();
    let look = async move {
        let names = try_join_all(away.iter().map(|shard| aside.set_aside(*shard))).await?;
        Ok(away.into_iter().zip(names).collect())
    };
    let (commit_ts, here, elsewhere) =
        image_held(commits, shards, &all_away, look, nothing).await?;
    Ok(Imaged { commit_ts, here, elsewhere })
}

/// The states of `shards`, which are open here, at one moment, at which `look` is awaited too while shards that are
/// `away` are held still as well; and what that says.
async fn image_held<M: ShardMachine, T: Send + 'static>(
    commits: &Arc<Commits<M>>,
    shards: &[Open<M>],
    away: &[ShardId],
    look: impl Future<Output = Result<T, KernelError>> + Send + 'static,
    nothing: fn() -> M::Command,
) -> Result<(CommitTs, Vec<(ShardId, StateImage)>, T), KernelError> {
    // So that no checkpoint is being written while the shards are held.
    for (_, shard) in shards {
        shard.checkpoint().await?;
    }
    let ids = shards.iter().map(|(id, _)| *id).chain(away.iter().copied()).collect();
    let all: Vec<Arc<Shard<M>>> = shards.iter().map(|(_, shard)| shard.clone()).collect();
    let look = async move {
        let looked = look.await?;
        Ok((try_join_all(all.iter().map(|shard| shard.set_aside())).await?, looked))
    };
    let (last_ts, (aside, looked)) = commits.hold_still(ids, nothing, look).await?;
    let images = shards.iter().zip(aside).map(|((id, shard), entry)| async move {
        shard.image_set_aside(entry).await.map(|image| (*id, image))
    });
    Ok((last_ts, try_join_all(images).await?, looked))
}

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
        let looking = std::future::ready(Ok(()));
        match image_held(commits, shards, &[], looking, nothing).await {
            Err(KernelError::Unavailable(reason)) if tries < TRIES_MAX => {
                info!(reason, "the shards are to be held still again for their images");
            }
            ended => return ended.map(|(last_ts, images, ())| (last_ts, images)),
        }
        tries += 1;
        task::sleep(RETRY).await;
    }
}
