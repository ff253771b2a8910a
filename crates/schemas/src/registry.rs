//! The registry: what the topic says, and changes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use proteus_env::random;
use proteus_kernel_api::topic::batch::{BatchError, BatchHeader, decode_records, frame_batch};
use proteus_kernel_api::topic::read::{self, ReadLimit, StoredBatch, Stretch};
use proteus_kernel_api::topic::{Check, NewOffset, Op, Refusal as TopicRefusal, TopicId};
use proteus_kernel_api::{Kernel, KernelError, Minitransaction, Outcome, Refusal};
use tracing::warn;

use crate::Problem;
use crate::records;
use crate::state::{Record, State};

/// The topic with all schemas.
pub const TOPIC: &str = "_schemas";
/// The group whose committed offset counts changes, and whose note is the next id.
pub const GROUP: &str = "_schemas";
/// Bytes that one look at the topic reads.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// How often a change is decided anew because another came first.
const TRIES_MAX: usize = 32;

/// Follows the topic.
pub struct Registry {
    kernel: Arc<dyn Kernel>,
    followed: Mutex<Followed>,
}

#[derive(Default)]
struct Followed {
    topic_id: Option<TopicId>,
    next_offset: i64,
    /// The counter of changes as of `next_offset`.
    revision: Option<i64>,
    state: State,
}

impl Registry {
    /// The registry of a kernel's topic, which is made with the first schema.
    pub fn new(kernel: Arc<dyn Kernel>) -> Registry {
        Registry { kernel, followed: Mutex::default() }
    }

    /// Calls `look` with all that is registered.
    ///
    /// # Errors
    /// If the kernel cannot read.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, KernelError> {
        let mut followed = self.followed.lock();
        self.catch_up(&mut followed)?;
        Ok(look(&followed.state))
    }

    fn catch_up(&self, followed: &mut Followed) -> Result<(), KernelError> {
        loop {
            let kernel = &*self.kernel;
            let found = kernel.read(|view| {
                let Some(info) = read::topic_by_name(view.state, TOPIC)? else {
                    return Ok(None);
                };
                let topic_id = info.topic_id;
                if followed.topic_id != Some(topic_id) {
                    *followed = Followed { topic_id: Some(topic_id), ..Followed::default() };
                }
                let partition = read::partition(view.state, topic_id, 0)?;
                let end = partition.map_or(0, |partition| partition.last_stable_offset);
                let limit = ReadLimit::BytesOrFirst(READ_BYTES_MAX);
                let stretch =
                    read::read_batches(view.state, topic_id, 0, followed.next_offset, end, limit)?;
                let counted = read::committed_offset(view.state, GROUP, topic_id, 0)?;
                Ok(Some((end, stretch, counted)))
            })?;
            let Some((end, stretch, counted)) = found else {
                *followed = Followed::default();
                return Ok(());
            };
            // The topic is compacted, and such topics have nothing in the object store.
            let batches = if let Stretch::Here(batches) = stretch { batches } else { Vec::new() };
            for stored in &batches {
                if apply(&mut followed.state, stored).is_err() {
                    warn!(offset = stored.base_offset, "a batch of the schemas is not readable");
                }
            }
            let reached = batches.last().map_or(end, |last| last.end_offset());
            followed.next_offset = followed.next_offset.max(reached);
            if followed.next_offset >= end {
                followed.revision = counted.as_ref().map(|counted| counted.offset);
                let noted = counted.and_then(|counted| counted.metadata.parse::<i32>().ok());
                let next_id = noted.unwrap_or(1).max(1);
                followed.state.next_id = followed.state.next_id.max(next_id);
                return Ok(());
            }
        }
    }

    /// Makes the changes that `decide` comes to from what is registered; it is asked again if another change
    /// comes first.
    ///
    /// # Errors
    /// What `decide` says, and if the kernel cannot do it.
    pub async fn change<T>(
        &self,
        decide: impl Fn(&State) -> Result<(Vec<Record>, T), Problem>,
    ) -> Result<T, Problem> {
        for _ in 0..TRIES_MAX {
            self.kernel.pass_read_barrier().await?;
            let decided = {
                let mut followed = self.followed.lock();
                self.catch_up(&mut followed)?;
                let (changes, answer) = decide(&followed.state)?;
                if changes.is_empty() {
                    return Ok(answer);
                }
                let place = (followed.topic_id, followed.revision);
                (changes, answer, place, followed.state.next_id)
            };
            let (changes, answer, (topic_id, revision), next_id) = decided;
            let Some(topic_id) = topic_id else {
                self.create_topic().await?;
                continue;
            };
            let step = step_of(topic_id, revision, next_id, &changes)?;
            match self.kernel.commit(step).await? {
                Outcome::Committed { .. } => return Ok(answer),
                // Another change came first.
                Outcome::CheckFailed { .. } => {}
                Outcome::Refused { refusal, .. } => {
                    return Err(Problem::new(
                        50001,
                        format!("Error in the backend data store: {refusal}"),
                    ));
                }
            }
        }
        Err(Problem::new(50003, "Too many change schemas at once; try again."))
    }

    async fn create_topic(&self) -> Result<(), Problem> {
        let config = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
        let op = Op::CreateTopic {
            name: TOPIC.to_owned(),
            topic_id: TopicId(random::random_bytes()),
            partition_count: 1,
            config,
        };
        match self.kernel.commit(Minitransaction::of(op)).await? {
            Outcome::Committed { .. }
            | Outcome::Refused { refusal: Refusal::Topic(TopicRefusal::TopicExists(_)), .. } => {
                Ok(())
            }
            Outcome::Refused { refusal, .. } | Outcome::CheckFailed { refusal, .. } => {
                Err(Problem::new(50001, refusal.to_string()))
            }
        }
    }
}

/// Applies what the records of a batch say; those that are no changes say nothing.
fn apply(state: &mut State, stored: &StoredBatch) -> Result<(), BatchError> {
    if BatchHeader::parse(&stored.bytes)?.is_control() {
        return Ok(());
    }
    for record in decode_records(&stored.bytes, stored.base_offset)? {
        let record = record?;
        let key = record.key.unwrap_or_default();
        if let Some(change) = records::decode(&key, record.value.as_deref()) {
            state.apply(change);
        }
    }
    Ok(())
}

/// The changes in one minitransaction, if nothing has changed since `revision`.
fn step_of(
    topic_id: TopicId,
    revision: Option<i64>,
    next_id: i32,
    changes: &[Record],
) -> Result<Minitransaction, Problem> {
    let ids = changes.iter().filter_map(|change| match change {
        Record::Put { id, .. } => Some(id.saturating_add(1)),
        _ => None,
    });
    let next_id = ids.max().unwrap_or(1).max(next_id);
    let records: Vec<_> = changes.iter().map(records::encode).collect();
    let batch = frame_batch(&records, 0)
        .ok_or_else(|| Problem::invalid_schema("the change is longer than a batch can be"))?;
    let counted = NewOffset {
        topic_id,
        partition: 0,
        offset: revision.unwrap_or(0).saturating_add(1),
        leader_epoch: -1,
        metadata: next_id.to_string(),
    };
    let check = Check::CommittedOffset {
        group: GROUP.to_owned(),
        topic_id,
        partition: 0,
        expected: revision,
    };
    Ok(Minitransaction::default()
        .check(check)
        .op(Op::Append { topic_id, partition: 0, batch })
        .op(Op::CommitOffsets { group: GROUP.to_owned(), offsets: vec![counted] }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Body, Kind};

    fn put(state: &State, subject: &str, text: &str) -> (Vec<Record>, i32) {
        let body = Body { kind: Kind::Avro, references: Vec::new(), text: text.to_owned() };
        let (id, version) = (state.next_id, state.next_version(subject));
        let subject = subject.to_owned();
        (vec![Record::Put { subject, version, id, body, is_deleted: false }], id)
    }

    #[tokio::test]
    async fn changes_are_known_to_all_and_ids_are_never_given_twice() {
        let kernel = proteus_testkit::memory_kernel();
        let (one, other) = (Registry::new(kernel.clone()), Registry::new(kernel.clone()));
        assert_eq!(one.read(|state| state.next_id).unwrap(), 0, "there is no topic yet");
        let texts = ["\"int\"", "\"long\"", "\"string\""];
        let changes = texts.iter().enumerate().map(|(number, text)| {
            let registry = if number % 2 == 0 { &one } else { &other };
            registry.change(move |state| Ok(put(state, "s", text)))
        });
        let mut ids = Vec::new();
        for id in futures::future::join_all(changes).await {
            ids.push(id.unwrap());
        }
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3]);
        let seen = other.read(|state| state.versions("s", false).map(|found| found.len())).unwrap();
        assert_eq!(seen, Ok(3));
        let forget =
            |_: &State| Ok((vec![Record::Forget { subject: "s".to_owned(), version: 3 }], ()));
        one.change(forget).await.unwrap();
        // As after a restart: what was forgotten is remembered by its id alone.
        let fresh = Registry::new(kernel);
        assert_eq!(fresh.read(|state| state.next_id).unwrap(), 4);
        assert_eq!(fresh.change(|state| Ok(put(state, "s", "\"bytes\""))).await, Ok(4));
    }
}
