//! Whole states on their way out of a node, for backups: begun once, then fetched piece by piece by
//! whoever asked, at its own pace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::try_join_all;
use proteus_env::{Clock, random, task};
use proteus_kernel::{
    Aside, AsideElsewhere, Commits, Imaged, Shard, Shards, StateImage, image_spread, image_whole,
};
use proteus_kernel_api::{KernelError, Minitransaction};
use proteus_peer::Dialer;
use proteus_shard_machine::Composed;
use proteus_types::{EntryId, LogIndex, ShardId, Term};
use tokio::sync::Mutex;

use crate::admin::{AdminAnswer, AdminRequest, BackupStart, ImageStart, ask_through, fetch_image};
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
    dialer: &Dialer,
    seen: &[(ShardId, LogIndex)],
) -> Result<Vec<(ShardId, LogIndex)>, KernelError> {
    if !shards.has_all() {
        return mark_logs_elsewhere(shards, dialer, seen).await;
    }
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

/// As [`mark_logs`], of shards of which some are on other nodes.
async fn mark_logs_elsewhere(
    shards: &NodeShards,
    dialer: &Dialer,
    seen: &[(ShardId, LogIndex)],
) -> Result<Vec<(ShardId, LogIndex)>, KernelError> {
    let mark = async |is_wanted: bool| {
        let mut marks = Vec::new();
        for shard in shards.map().shards() {
            let index = match shards.shard(*shard) {
                Some(here) => mark_log(&here, is_wanted).await?,
                None => {
                    let request = AdminRequest::MarkLog { shard: *shard, is_wanted };
                    match ask_holder(shards, dialer, *shard, &request).await {
                        Ok((_, AdminAnswer::Entry { index, .. })) => LogIndex(index),
                        Ok(_) => return Err(KernelError::unknown_answer()),
                        Err(reason) => return Err(KernelError::Unavailable(reason)),
                    }
                }
            };
            marks.push((*shard, index));
        }
        Ok(marks)
    };
    let now = mark(false).await?;
    if now == seen { Ok(now) } else { mark(true).await }
}

/// As [`mark_logs`], of one shard that is here.
pub(crate) async fn mark_log(
    shard: &Shard<Composed>,
    is_wanted: bool,
) -> Result<LogIndex, KernelError> {
    if let Some(barrier) = shard.read_barrier() {
        barrier.await.unwrap_or_else(|_| Err(KernelError::Stopped("stopping".to_owned())))?;
    }
    if is_wanted {
        shard.propose(&[Minitransaction::default()]).await?;
    }
    Ok(shard.status().applied_index)
}

/// Asks nodes that have a shard, the one that leads first, until one does not refuse; its address and its answer.
pub(crate) async fn ask_holder(
    shards: &NodeShards,
    dialer: &Dialer,
    shard: ShardId,
    request: &AdminRequest,
) -> Result<(String, AdminAnswer), String> {
    let mut reason = format!("no node is known to have shard {shard}");
    for (_, member) in shards.away(shard).into_iter().flat_map(|away| away.holders()) {
        match ask_through(dialer, &member.peer_address, request).await {
            Ok(answer) => return Ok((member.peer_address, answer)),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// States that are set aside on the nodes that lead their shards.
struct Elsewhere {
    shards: Arc<NodeShards>,
    dialer: Dialer,
    /// Where each is.
    at: Arc<parking_lot::Mutex<BTreeMap<ShardId, String>>>,
}

impl Elsewhere {
    fn ask(&self, shard: ShardId, is_first: bool) -> Aside {
        let (shards, dialer, at) = (self.shards.clone(), self.dialer.clone(), self.at.clone());
        Box::pin(async move {
            let request = AdminRequest::SetAside { shard, is_first };
            let asked = ask_holder(&shards, &dialer, shard, &request).await;
            match asked.map_err(KernelError::Unavailable)? {
                (address, AdminAnswer::Entry { term, index }) => {
                    at.lock().insert(shard, address);
                    Ok(EntryId { term: Term(term), index: LogIndex(index) })
                }
                _ => Err(KernelError::unknown_answer()),
            }
        })
    }
}

impl AsideElsewhere for Elsewhere {
    fn prepare(&self, shard: ShardId) -> Aside {
        self.ask(shard, true)
    }

    fn set_aside(&self, shard: ShardId) -> Aside {
        self.ask(shard, false)
    }
}

/// Sets the state of a shard aside that this node leads and that is held still.
pub(crate) async fn set_aside(
    shard: &Shard<Composed>,
    is_first: bool,
) -> Result<EntryId, KernelError> {
    let not_held = || KernelError::Unavailable("the shard is not held still here".to_owned());
    if !shard.leads() {
        return Err(KernelError::Unavailable("this node does not lead the shard".to_owned()));
    }
    if is_first {
        shard.checkpoint().await?;
        return Ok(EntryId { term: Term(0), index: shard.status().applied_index });
    }
    if !shard.is_held() {
        return Err(not_held());
    }
    let entry = shard.set_aside().await?;
    if shard.is_held() && shard.leads() { Ok(entry) } else { Err(not_held()) }
}

/// The images of one node.
pub(crate) struct Images {
    clock: Arc<dyn Clock>,
    open: Mutex<BTreeMap<u64, OpenImage>>,
}

/// Where an image is.
enum Source {
    Here(Box<StateImage>),
    /// On the node at this address, which calls it so.
    Elsewhere(String, u64),
}

struct OpenImage {
    image: Source,
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
        self.open_one(id, image).await
    }

    /// Begins an image of a state that was set aside.
    pub(crate) async fn begin_aside(
        &self,
        id: ShardId,
        shard: &Shard<Composed>,
        entry: EntryId,
    ) -> Result<ImageStart, String> {
        let image = shard.image_set_aside(entry).await.map_err(|error| error.to_string())?;
        self.open_one(id, image).await
    }

    async fn open_one(&self, id: ShardId, image: StateImage) -> Result<ImageStart, String> {
        let started = self.open(vec![(id, image)]).await?;
        started.into_iter().next().ok_or_else(|| "no image was begun".to_owned())
    }

    /// Begins images of all shards at one moment, with all that was acknowledged before.
    pub(crate) async fn begin_all(
        &self,
        commits: &Arc<Commits<Composed>>,
        shards: &Arc<NodeShards>,
        dialer: &Dialer,
    ) -> Result<BackupStart, String> {
        self.make_room().await?;
        if !shards.has_all() {
            return self.begin_spread(commits, shards, dialer).await;
        }
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

    /// As [`Images::begin_all`], of shards of which some are on other nodes: their images are fetched from there.
    async fn begin_spread(
        &self,
        commits: &Arc<Commits<Composed>>,
        shards: &Arc<NodeShards>,
        dialer: &Dialer,
    ) -> Result<BackupStart, String> {
        let (all, map) = (shards.all(), shards.map());
        let is_absent = |id: &&ShardId| all.iter().all(|(of, _)| of != *id);
        let away: Vec<ShardId> = map.shards().iter().filter(is_absent).copied().collect();
        let at = Arc::default();
        let aside = Arc::new(Elsewhere {
            shards: shards.clone(),
            dialer: dialer.clone(),
            at: Arc::clone(&at),
        });
        let imaged =
            image_spread(commits, &all, away.clone(), aside, Minitransaction::default).await;
        let Imaged { commit_ts, here, elsewhere } = imaged.map_err(|error| error.to_string())?;
        if shards.map().version != map.version {
            return Err("slots have moved meanwhile; try again".to_owned());
        }
        let mut images: Vec<(ShardId, Source, EntryId)> = Vec::new();
        for (shard, image) in here {
            let id = image.id;
            images.push((shard, Source::Here(Box::new(image)), id));
        }
        for (shard, id) in elsewhere {
            let address = at.lock().get(&shard).cloned().ok_or("nobody has set it aside")?;
            let request = AdminRequest::OpenAside { shard, term: id.term.0, index: id.index.0 };
            match ask_through(dialer, &address, &request).await? {
                AdminAnswer::Image(start) => {
                    images.push((shard, Source::Elsewhere(address, start.transfer), id));
                }
                other => return Err(format!("an answer to another question: {other:?}")),
            }
        }
        images.sort_by_key(|(shard, ..)| *shard);
        let taken_at_ms = self.clock.wall_ms();
        Ok(BackupStart { commit_ts, taken_at_ms, images: self.open_sources(images).await })
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
        let source = |(shard, image): (ShardId, StateImage)| {
            let id = image.id;
            (shard, Source::Here(Box::new(image)), id)
        };
        Ok(self.open_sources(images.into_iter().map(source).collect()).await)
    }

    async fn open_sources(&self, images: Vec<(ShardId, Source, EntryId)>) -> Vec<ImageStart> {
        let (group, used) = (random::random_u64(), self.clock.elapsed());
        let mut open = self.open.lock().await;
        let begin = |(shard, image, id): (ShardId, Source, EntryId)| {
            let transfer = random::random_u64();
            let (term, index) = (id.term.0, id.index.0);
            open.insert(
                transfer,
                OpenImage { image, group, sequence: 0, last: Bytes::new(), used },
            );
            ImageStart { shard, transfer, term, index }
        };
        images.into_iter().map(begin).collect()
    }

    /// Answers `transfer u64 │ sequence u64`, little-endian, with that piece: the next one, or once more
    /// the one before. An empty piece is the end.
    pub(crate) async fn answer(
        &self,
        dialer: &Dialer,
        mut message: Bytes,
    ) -> Result<Bytes, String> {
        if message.len() != 16 {
            return Err("not a question for a piece of an image".to_owned());
        }
        let (transfer, sequence) = (message.get_u64_le(), message.get_u64_le());
        let key = transfer;
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
        let chunk = match &taken.image {
            Source::Elsewhere(address, transfer) => {
                match fetch_image(dialer, address, *transfer, sequence).await {
                    Ok(chunk) => chunk,
                    Err(reason) => {
                        // It can be asked for once more.
                        self.open.lock().await.insert(key, taken);
                        return Err(reason);
                    }
                }
            }
            Source::Here(_) => {
                let read = task::spawn_blocking(move || {
                    let chunk = match &mut taken.image {
                        Source::Here(image) => image.next_chunk(),
                        Source::Elsewhere(..) => Ok(None),
                    };
                    (taken, chunk)
                });
                let (back, chunk) = read.await.map_err(|error| error.to_string())?;
                taken = back;
                chunk.map_err(|error| error.to_string())?.unwrap_or_default()
            }
        };
        if chunk.is_empty() {
            return Ok(chunk);
        }
        taken.sequence += 1;
        taken.last = chunk.clone();
        self.open.lock().await.insert(transfer, taken);
        Ok(chunk)
    }
}
