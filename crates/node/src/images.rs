//! Whole states on their way out of a node, for backups: begun once, then fetched piece by piece by
//! whoever asked, at its own pace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use proteus_env::{Clock, random, task};
use proteus_kernel::{Shard, StateImage};
use proteus_shard_machine::Composed;
use tokio::sync::Mutex;

use crate::admin::ImageStart;

/// Images that are fetched at the same time; each keeps its part of the disk from being cleaned up.
const IMAGES_MAX: usize = 4;

/// An image that nobody has fetched a piece of for so long is given up when another begins.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// The images of one node.
pub(crate) struct Images {
    clock: Arc<dyn Clock>,
    open: Mutex<BTreeMap<u64, OpenImage>>,
}

struct OpenImage {
    image: StateImage,
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

    /// Begins an image of the state as it is here now, or, if it may not lag, as it is in the cluster.
    pub(crate) async fn begin(
        &self,
        shard: &Shard<Composed>,
        may_lag: bool,
    ) -> Result<ImageStart, String> {
        let now = self.clock.elapsed();
        self.open.lock().await.retain(|_, open| now.saturating_sub(open.used) < IDLE_MAX);
        let image = if may_lag { shard.image_to_rebuild().await } else { shard.image().await };
        let image = image.map_err(|error| error.to_string())?;
        let start = ImageStart {
            transfer: random::random_u64(),
            term: image.id.term.0,
            index: image.id.index.0,
            commit_ts: image.commit_ts,
            taken_at_ms: self.clock.wall_ms(),
        };
        let mut open = self.open.lock().await;
        if open.len() >= IMAGES_MAX {
            return Err(format!("{IMAGES_MAX} backups are being taken; try again later"));
        }
        let image = OpenImage { image, sequence: 0, last: Bytes::new(), used: now };
        open.insert(start.transfer, image);
        Ok(start)
    }

    /// Answers `transfer u64 │ sequence u64`, little-endian, with that piece: the next one, or once more
    /// the one before. An empty piece is the end.
    pub(crate) async fn answer(&self, mut message: Bytes) -> Result<Bytes, String> {
        if message.len() != 16 {
            return Err("not a question for a piece of an image".to_owned());
        }
        let (transfer, sequence) = (message.get_u64_le(), message.get_u64_le());
        let mut open = self.open.lock().await;
        let found = open.get_mut(&transfer);
        let found = found.ok_or("this node holds no such image any more; begin again")?;
        found.used = self.clock.elapsed();
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
