//! Comparing replicas: all that apply the same entries must come to the same changes.
//!
//! Every replica keeps a digest of all changes it ever made, and remembers it for recent entries. A
//! leader puts its own into each entry, so that every other compares at the same place. One that finds
//! a difference asks all voters what they came to there. Who is with the majority goes on, and tells
//! the others to look; who is not is taken out of service, and rebuilt from a replica that is. While no
//! majority can tell, all go on, and the next entry is judged anew.
//!
//! Bytes that rot on disk are found by their checksums; what is found here is a replica that computes
//! otherwise: another build, broken memory, a fault of ours.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use proteus_env::disk::{self, Disk, RealDisk};
use proteus_env::task;
use proteus_machine::{KernelError, ShardMachine};
use proteus_types::{LogIndex, NodeId, ShardId};
use tokio::sync::{Notify, watch};
use tracing::error;

use crate::envelope::Checked;
use crate::links::{Links, Route, Service};
use crate::shard::Shard;

/// Entries whose digests are remembered.
const REMEMBERED_MAX: usize = 4_096;

/// How long another replica may take to say what it came to.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the others are asked while too few of them know.
const ASK_TRIES: u32 = 5;

/// Pause between such rounds.
const ASK_AGAIN: Duration = Duration::from_millis(300);

const MESSAGE_ASK: u8 = 0;
const MESSAGE_LOOK: u8 = 1;

/// Beside the store's directory: its state differs.
const MARK_SUFFIX: &str = ".differs";

/// What this replica came to, entry by entry.
#[derive(Default)]
pub(crate) struct Digests {
    recent: Mutex<VecDeque<Checked>>,
    /// Where a difference is to be judged.
    suspect: Mutex<Option<LogIndex>>,
    found: Notify,
}

impl Digests {
    /// Starts anew from a state.
    pub(crate) fn begin(&self, checked: Checked) {
        let mut recent = self.recent.lock();
        recent.clear();
        recent.push_back(checked);
    }

    /// Remembers what the next entry led to.
    pub(crate) fn push(&self, checked: Checked) {
        let mut recent = self.recent.lock();
        if recent.len() == REMEMBERED_MAX {
            recent.pop_front();
        }
        recent.push_back(checked);
    }

    pub(crate) fn newest(&self) -> Checked {
        self.recent.lock().back().copied().unwrap_or_default()
    }

    fn at(&self, index: LogIndex) -> Option<u64> {
        let recent = self.recent.lock();
        let place = recent.binary_search_by_key(&index, |checked| checked.index).ok()?;
        recent.get(place).map(|checked| checked.digest)
    }

    /// Compares with what another came to. What is not remembered here is not compared.
    pub(crate) fn compare(&self, other: Checked) {
        if self.at(other.index).is_some_and(|own| own != other.digest) {
            self.suspect(other.index);
        }
    }

    fn suspect(&self, index: LogIndex) {
        // The first difference explains the rest.
        self.suspect.lock().get_or_insert(index);
        self.found.notify_one();
    }

    /// Answers another replica.
    pub(crate) fn answer(&self, message: &Bytes) -> Result<Bytes, String> {
        let mut message = message.clone();
        if message.len() != 9 {
            return Err("not a question about digests".to_owned());
        }
        let kind = message.get_u8();
        let index = LogIndex(message.get_u64_le());
        match kind {
            MESSAGE_ASK => Ok(match self.at(index) {
                Some(digest) => Bytes::copy_from_slice(&digest.to_le_bytes()),
                None => Bytes::new(),
            }),
            MESSAGE_LOOK => {
                self.suspect(index);
                Ok(Bytes::new())
            }
            _ => Err("not a question about digests that is known here".to_owned()),
        }
    }
}

/// Judges the differences that are found, until asked to stop.
pub(crate) async fn judge_differences<M: ShardMachine>(
    shard: Arc<Shard<M>>,
    id: ShardId,
    links: Arc<dyn Links>,
    mut stop: watch::Receiver<bool>,
) {
    let state = shard.state().clone();
    let judge = Judge { shard, links, route: Route { shard: id, service: Service::Digests } };
    loop {
        tokio::select! {
            biased;
            () = state.digests.found.notified() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let Some(index) = *state.digests.suspect.lock() else { continue };
        if judge.judge(index).await {
            return;
        }
        *state.digests.suspect.lock() = None;
    }
}

struct Judge<M: ShardMachine> {
    shard: Arc<Shard<M>>,
    links: Arc<dyn Links>,
    route: Route,
}

impl<M: ShardMachine> Judge<M> {
    /// Asks the voters who is right about `index`; says whether this replica is out of service now.
    async fn judge(&self, index: LogIndex) -> bool {
        let digests = &self.shard.state().digests;
        let Some(own) = digests.at(index) else { return false };
        let membership = self.shard.group().membership();
        let majority = membership.voters.len() / 2 + 1;
        for attempt in 0..ASK_TRIES {
            if attempt > 0 {
                task::sleep(ASK_AGAIN).await;
            }
            let mut known = self.ask_all(index).await;
            known.insert(self.shard.node(), own);
            let votes = |digest: u64| {
                let same = known
                    .iter()
                    .filter(|(node, other)| membership.voters.contains(node) && **other == digest);
                same.count()
            };
            if votes(own) >= majority {
                self.tell_those_who_differ(index, own, &known).await;
                return false;
            }
            if let Some((node, _)) = known.iter().find(|(_, digest)| votes(**digest) >= majority) {
                let reason = format!(
                    "its state after entry {index} differs from that of most replicas, such as {node}"
                );
                self.shard.condemn(reason).await;
                return true;
            }
        }
        // Nobody is believed without a majority, the leader neither: taking out those that differ from it
        // would leave it without a quorum, and them without a leader to be rebuilt from. The next entry
        // is compared again, and more may answer then or remember it.
        error!(%index, "a replica's state differs from this one, and no majority can tell which is right");
        false
    }

    async fn ask_all(&self, index: LogIndex) -> BTreeMap<NodeId, u64> {
        let mut known = BTreeMap::new();
        for (node, answer) in self.call_all(MESSAGE_ASK, index, |_| true).await {
            if let Some(digest) = answer.first_chunk::<8>() {
                known.insert(node, u64::from_le_bytes(*digest));
            }
        }
        known
    }

    async fn tell_those_who_differ(
        &self,
        index: LogIndex,
        own: u64,
        known: &BTreeMap<NodeId, u64>,
    ) {
        let differs = |node: NodeId| known.get(&node).is_some_and(|digest| *digest != own);
        for (node, _) in self.call_all(MESSAGE_LOOK, index, differs).await {
            error!(%node, %index, "that node's state differs from that of most replicas, and was told so");
        }
    }

    /// Sends a message to all other members that are wanted, and returns the answers.
    async fn call_all(
        &self,
        kind: u8,
        index: LogIndex,
        is_wanted: impl Fn(NodeId) -> bool,
    ) -> Vec<(NodeId, Bytes)> {
        let mut message = vec![kind];
        message.extend_from_slice(&index.0.to_le_bytes());
        let message = Bytes::from(message);
        let mut answers = Vec::new();
        for (node, member) in self.shard.group().membership().members {
            if node == self.shard.node() || !is_wanted(node) {
                continue;
            }
            let call = self.links.call(node, &member, self.route, message.clone());
            if let Some(Ok(answer)) = task::timeout(ASK_TIMEOUT, call).await {
                answers.push((node, answer));
            }
        }
        answers
    }
}

fn mark_of(store_directory: &Path) -> (PathBuf, String) {
    let name = store_directory.file_name().unwrap_or_default().to_string_lossy();
    let parent = store_directory.parent().unwrap_or(Path::new("."));
    (parent.to_owned(), format!("{name}{MARK_SUFFIX}"))
}

/// Notes, durably, that the state in `store_directory` is not to be used.
pub(crate) fn mark_difference(store_directory: &Path) -> io::Result<()> {
    let (parent, name) = mark_of(store_directory);
    let disk = RealDisk::open(&parent)?;
    disk.open(&name)?.flush()?;
    disk.flush_directory()
}

/// Whether the state in `store_directory` was found to differ from the other replicas', so that another
/// has to be put in its place before the shard opens.
pub fn differs(store_directory: &Path) -> bool {
    let (parent, name) = mark_of(store_directory);
    disk::exists(&parent.join(name))
}

pub(crate) fn clear_difference(store_directory: &Path) -> Result<(), KernelError> {
    let (parent, name) = mark_of(store_directory);
    if !disk::exists(&parent.join(&name)) {
        return Ok(());
    }
    let failed = |error: io::Error| KernelError::Stopped(error.to_string());
    let disk = RealDisk::open(&parent).map_err(failed)?;
    disk.remove(&name).map_err(failed)?;
    disk.flush_directory().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(index: u64, digest: u64) -> Checked {
        Checked { index: LogIndex(index), digest }
    }

    fn ask(index: u64) -> Bytes {
        let mut message = vec![MESSAGE_ASK];
        message.extend_from_slice(&index.to_le_bytes());
        Bytes::from(message)
    }

    #[test]
    fn only_what_is_remembered_and_other_is_suspect() {
        let digests = Digests::default();
        digests.begin(checked(10, 1));
        digests.push(checked(11, 2));
        assert_eq!(digests.newest(), checked(11, 2));
        for other in [checked(11, 2), checked(9, 7), checked(12, 7)] {
            digests.compare(other);
            assert_eq!(*digests.suspect.lock(), None);
        }
        digests.compare(checked(10, 3));
        digests.compare(checked(11, 3));
        assert_eq!(*digests.suspect.lock(), Some(LogIndex(10)));
        assert_eq!(digests.answer(&ask(11)).unwrap(), &2u64.to_le_bytes()[..]);
        assert_eq!(digests.answer(&ask(12)).unwrap(), Bytes::new());
        assert!(digests.answer(&Bytes::from_static(b"garbage")).is_err());
    }

    #[test]
    fn a_mark_lasts_until_it_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        assert!(!differs(&store));
        mark_difference(&store).unwrap();
        assert!(differs(&store));
        clear_difference(&store).unwrap();
        clear_difference(&store).unwrap();
        assert!(!differs(&store));
    }
}
