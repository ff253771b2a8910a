//! Removing what a node has of a shard of which it shall have no replica any more.
//!
//! A file says which shard is being removed, from before the first byte goes until after the last, so that a start
//! after a crash ends what was begun.

use std::io;
use std::path::Path;
use std::sync::Arc;

use proteus_env::disk::{self, Disk, RealDisk};
use proteus_env::task;
use proteus_kernel::Shard;
use proteus_log::Log;
use proteus_shard_machine::Composed;
use proteus_types::ShardId;
use tracing::{info, warn};

use crate::shards::{Opener, store_directory};

/// Says which shard is being removed.
const RETIRING_FILE: &str = "RETIRING";

/// The shard that is being removed, if one is.
pub(crate) fn retiring(directory: &Path) -> Option<ShardId> {
    let text = disk::read_text(&directory.join(RETIRING_FILE)).ok()?;
    text.trim().parse().ok().map(ShardId)
}

/// Ends what a crash interrupted.
pub(crate) async fn finish_retiring(directory: &Path, log: &Log) -> io::Result<()> {
    let path = directory.join(RETIRING_FILE);
    if !disk::exists(&path) {
        return Ok(());
    }
    let text = disk::read_text(&path)?;
    match text.trim().parse() {
        Ok(number) => remove(directory, log, ShardId(number)).await,
        // It was only begun to be written.
        Err(_) => disk::remove_file(&path),
    }
}

async fn remove(directory: &Path, log: &Log, shard: ShardId) -> io::Result<()> {
    let store = store_directory(directory, shard);
    for path in [store.with_extension("old"), store.with_extension("incoming"), store] {
        if disk::exists(&path) {
            task::spawn_blocking(move || disk::remove_directory(&path))
                .await
                .map_err(|error| io::Error::other(error.to_string()))??;
        }
    }
    let (sender, forgotten) = tokio::sync::oneshot::channel();
    log.forget(shard, Box::new(move |result| drop(sender.send(result))));
    forgotten.await.map_err(|_| io::Error::other("the log has ended"))??;
    disk::remove_file(&directory.join(RETIRING_FILE))
}

impl Opener {
    /// Takes a shard out of service, and removes all that there is of it here if `may_go` says once more, now that
    /// nothing answers for it here, that it is no replica any more; opens it again otherwise.
    pub(crate) async fn retire(
        &self,
        id: ShardId,
        open: &Arc<Shard<Composed>>,
        may_go: impl Future<Output = bool>,
    ) -> Result<(), String> {
        {
            let opening = self.opening.lock().entry(id).or_default().clone();
            let _once = opening.lock().await;
            if self.shards.close(id).is_none() {
                return Ok(());
            }
            self.look_for_others();
            open.shutdown().await;
            if may_go.await {
                let removed = self.remove_retired(id).await;
                removed.map_err(|error| format!("cannot remove shard {id}: {error}"))?;
                info!(shard = %id, "this node has no replica of the shard any more");
                return Ok(());
            }
        }
        warn!(shard = %id, "the shard is opened again: this node is to have a replica after all");
        let opened = self.open(id, false).await.map(drop).map_err(|error| error.to_string());
        self.look_for_others();
        opened
    }

    async fn remove_retired(&self, id: ShardId) -> io::Result<()> {
        let place = RealDisk::open(&self.directory)?;
        let file = place.open(RETIRING_FILE)?;
        file.truncate(0)?;
        file.write_at(0, format!("{}\n", id.0).as_bytes())?;
        file.flush()?;
        place.flush_directory()?;
        remove(&self.directory, &self.log, id).await
    }
}
