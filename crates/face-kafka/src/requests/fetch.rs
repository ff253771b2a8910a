//! Fetch: reads at once what is there, or waits for partitions to grow.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ProducerId};
use proteus_env::task;
use proteus_kernel_api::topic::TopicId;
use proteus_kernel_api::topic::batch::put_batch;
use proteus_kernel_api::topic::read::{self, PartitionInfo, ReadLimit, Stretch};

use super::fetch_session::{self, Context, FetchSession, Wanted};
use super::followed::{Followed, Key};
use super::list_offsets::{check_leader_epoch, unknown_partition};
use super::{READ_COMMITTED, leader_epoch, partition_number, topics};
use crate::acl::Operation;
use crate::errors::Failure;
use crate::quota::CONSUMED;
use crate::session::Session;
use crate::tiering;
use crate::topics::{Changed, Follower};

/// Most bytes of records in one response, as Kafka's `fetch.max.bytes`.
const FETCH_BYTES_MAX: usize = 55 * 1024 * 1024;
/// Longest that a request may wait.
const WAIT_MAX: Duration = Duration::from_secs(5 * 60);

/// What one look at a partition gave.
struct Found {
    topic_id: TopicId,
    partition: u32,
    info: PartitionInfo,
    stretch: Stretch,
    /// For those who read only what is committed: what they must leave out of the batches.
    aborted: Option<Vec<read::AbortedTransaction>>,
}

/// How a request reads.
#[derive(Clone, Copy)]
struct Reading {
    isolation: i8,
    /// Of the partitions' leadership.
    epoch: i32,
    bytes_max: usize,
}

pub(crate) async fn answer(
    session: &Arc<Session>,
    version: i16,
    client_id: &str,
    request: FetchRequest,
) -> FetchResponse {
    let context = match fetch_session::open(&mut session.fetch_session.lock(), &request) {
        Ok(context) => context,
        Err(error) => return FetchResponse::default().with_error_code(error.code()),
    };
    let (session_id, is_incremental) = match &context {
        Context::Whole(_, session_id) => (*session_id, false),
        Context::Incremental(session_id) => (*session_id, true),
    };
    let Gathered { looked_at, mut found } = gather(session, version, &request, context).await;
    for ((wanted, _), found) in looked_at.iter().zip(&mut found) {
        let offset = wanted.partition.fetch_offset;
        let whole = match found {
            Ok(found) => found.read_object(session, offset).await,
            Err(_) => continue,
        };
        if let Err(failure) = whole {
            *found = Err(failure);
        }
    }
    let answers: Vec<PartitionData> = looked_at
        .iter()
        .zip(found)
        .map(|((wanted, _), found)| respond_partition(session, version, wanted, found))
        .collect();
    let mut is_left_out = Vec::new();
    if let Some(own) = &mut *session.fetch_session.lock()
        && own.id() == session_id
    {
        is_left_out = own.note(request.isolation_level, &looked_at, &answers);
    }
    if !is_incremental {
        is_left_out.clear();
    }
    let records = answers.iter().filter_map(|data| data.records.as_ref());
    let throttle_ms = session.throttle(client_id, CONSUMED, records.map(bytes::Bytes::len).sum());
    respond(looked_at, answers, &is_left_out)
        .with_session_id(session_id)
        .with_throttle_time_ms(throttle_ms)
}

/// What was looked at, and what each look gave.
struct Gathered {
    looked_at: Vec<(Wanted, Option<Key>)>,
    found: Vec<Result<Found, Failure>>,
}

/// Looks, and looks again when something has changed, until there is enough or time is up.
async fn gather(
    session: &Session,
    version: i16,
    request: &FetchRequest,
    context: Context,
) -> Gathered {
    let (mut wanted, is_incremental) = match context {
        Context::Whole(wanted, _) => (wanted, false),
        Context::Incremental(_) => (Vec::new(), true),
    };
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(FETCH_BYTES_MAX);
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
    let reading =
        Reading { isolation: request.isolation_level, epoch: leader_epoch(session), bytes_max };
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
    let deadline = session.shared.clock.elapsed() + wait;
    let circumstances = (reading.epoch, session.shared.authorizer.changes());
    let follower = begin(session, &wanted, is_incremental);
    let mut topic_ids: Vec<Result<TopicId, Failure>> = Vec::new();
    let found = loop {
        // Asked before the look, so that nothing falls between the two.
        let changed = session.followed.lock().take_changed();
        if let Some(own) = &mut *session.fetch_session.lock() {
            own.mark(&changed);
            if is_incremental {
                wanted = own.due(circumstances);
            }
        }
        if is_incremental || topic_ids.is_empty() {
            topic_ids = resolve_all(session, version, &wanted);
        }
        let found = look(session, &wanted, &topic_ids, reading);
        let bytes: usize = found.iter().flatten().map(Found::bytes).sum();
        let is_final = bytes >= bytes_min || found.iter().any(Result::is_err);
        let left = deadline.saturating_sub(session.shared.clock.elapsed());
        if is_final || left.is_zero() || task::timeout(left, follower.told()).await.is_none() {
            break found;
        }
    };
    let keyed = |(wanted, topic_id): (Wanted, &Result<TopicId, Failure>)| {
        let key = key_of(&wanted, topic_id);
        (wanted, key)
    };
    Gathered { looked_at: wanted.into_iter().zip(&topic_ids).map(keyed).collect(), found }
}

/// Sees to it that the connection follows what it needs to, and no more.
fn begin(session: &Session, wanted: &[Wanted], is_incremental: bool) -> Arc<Follower> {
    let mut own = session.fetch_session.lock();
    let mut followed = session.followed.lock();
    if is_incremental {
        let forgotten = own.as_mut().map(FetchSession::take_forgotten).unwrap_or_default();
        followed.unfollow(&forgotten);
    } else if followed.begin(wanted.len())
        && let Some(own) = &mut *own
    {
        // What was given up may be of the session, which must look at it again.
        own.mark(&Changed::All);
    }
    followed.follower()
}

/// Topics in a row of partitions, of which neighbours mostly have the same.
fn resolve_all(
    session: &Session,
    version: i16,
    wanted: &[Wanted],
) -> Vec<Result<TopicId, Failure>> {
    let mut topic_ids: Vec<Result<TopicId, Failure>> = Vec::with_capacity(wanted.len());
    for (index, one) in wanted.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|index| wanted.get(index));
        let is_same =
            |before: &Wanted| before.topic == one.topic && before.topic_id == one.topic_id;
        let topic_id = match (before.is_some_and(is_same), topic_ids.last()) {
            (true, Some(before)) => before.clone(),
            _ => resolve(session, version, one).and_then(|topic_id| {
                topics::authorize(session, Operation::Read, topic_id, one.topic.as_str())?;
                Ok(topic_id)
            }),
        };
        topic_ids.push(topic_id);
    }
    topic_ids
}

fn resolve(session: &Session, version: i16, topic: &Wanted) -> Result<TopicId, Failure> {
    if version >= 13 {
        return Ok(TopicId(topic.topic_id.into_bytes()));
    }
    let name = topic.topic.as_str();
    session.shared.topics.id_of(&*session.shared.kernel, name)?.ok_or_else(unknown_partition)
}

fn key_of(wanted: &Wanted, topic_id: &Result<TopicId, Failure>) -> Option<Key> {
    Some((*topic_id.as_ref().ok()?, partition_number(wanted.partition.partition)?))
}

/// Looks at each partition in turn. Batches are shared with the state, so the lock is held briefly.
fn look(
    session: &Session,
    wanted: &[Wanted],
    topic_ids: &[Result<TopicId, Failure>],
    reading: Reading,
) -> Vec<Result<Found, Failure>> {
    let mut followed = session.followed.lock();
    let mut bytes_left = reading.bytes_max;
    let mut is_empty = true;
    wanted
        .iter()
        .zip(topic_ids)
        .map(|(wanted, topic_id)| {
            let partition_bytes_max =
                usize::try_from(wanted.partition.partition_max_bytes).unwrap_or(0);
            let bytes_max = bytes_left.min(partition_bytes_max);
            // The first batch of a response is sent whatever its length, or its reader were stuck.
            let limit = if is_empty {
                ReadLimit::BytesOrFirst(bytes_max)
            } else {
                ReadLimit::Bytes(bytes_max)
            };
            let place = (topic_id.clone()?, wanted, limit);
            let found = look_at(session, &mut followed, place, reading)?;
            is_empty &= found.bytes() == 0;
            bytes_left = bytes_left.saturating_sub(found.bytes());
            Ok(found)
        })
        .collect()
}

fn look_at(
    session: &Session,
    followed: &mut Followed,
    (topic_id, wanted, limit): (TopicId, &Wanted, ReadLimit),
    reading: Reading,
) -> Result<Found, Failure> {
    let partition = partition_number(wanted.partition.partition).ok_or_else(unknown_partition)?;
    check_leader_epoch(wanted.partition.current_leader_epoch, reading.epoch)?;
    let offset = wanted.partition.fetch_offset;
    let is_committed_only = reading.isolation == READ_COMMITTED;
    let readable = |info: &PartitionInfo| {
        let end_offset =
            if is_committed_only { info.last_stable_offset } else { info.high_watermark };
        info.log_start_offset..end_offset
    };
    let known = followed.known((topic_id, partition));
    let found = match known.filter(|info| !readable(info).contains(&offset)) {
        Some(info) => {
            let stretch = Stretch::Here(Vec::new());
            let aborted = is_committed_only.then(Vec::new);
            Some(Found { topic_id, partition, info, stretch, aborted })
        }
        None => session.shared.kernel.read(|view| {
            let Some(info) = read::partition(view.state, topic_id, partition)? else {
                return Ok(None);
            };
            let readable = readable(&info);
            let stretch = if readable.contains(&offset) {
                let end_offset = readable.end;
                read::read_batches(view.state, topic_id, partition, offset, end_offset, limit)?
            } else {
                Stretch::Here(Vec::new())
            };
            let aborted = match &stretch {
                Stretch::Here(batches) if is_committed_only => match batches.last() {
                    Some(last) => {
                        let (state, end_offset) = (view.state, last.end_offset());
                        read::aborted_transactions(state, topic_id, partition, offset, end_offset)?
                    }
                    None => Vec::new(),
                },
                _ => Vec::new(),
            };
            let aborted = is_committed_only.then_some(aborted);
            Ok(Some(Found { topic_id, partition, info, stretch, aborted }))
        })?,
    };
    let found = found.ok_or_else(unknown_partition)?;
    followed.note((topic_id, partition), found.info);
    if offset < found.info.log_start_offset || offset > found.info.high_watermark {
        let message = format!(
            "offset {offset} is outside {}..={}",
            found.info.log_start_offset, found.info.high_watermark
        );
        return Err(Failure::new(ResponseError::OffsetOutOfRange, message));
    }
    Ok(found)
}

impl Found {
    fn bytes(&self) -> usize {
        match &self.stretch {
            Stretch::Here(batches) => batches.iter().map(|batch| batch.bytes.len()).sum(),
            Stretch::InObject(range) => {
                let bytes = range.bytes.end.saturating_sub(range.bytes.start);
                usize::try_from(bytes).unwrap_or(usize::MAX)
            }
        }
    }

    /// Reads what is in the object store, where all transactions have ended.
    async fn read_object(&mut self, session: &Arc<Session>, offset: i64) -> Result<(), Failure> {
        let Stretch::InObject(range) = &self.stretch else {
            return Ok(());
        };
        let batches = tiering::read_range(&session.shared, range, offset).await?;
        if let (Some(aborted), Some(last)) = (&mut self.aborted, batches.last()) {
            let (topic_id, partition, end_offset) =
                (self.topic_id, self.partition, last.end_offset());
            *aborted = session.shared.kernel.read(|view| {
                read::aborted_transactions(view.state, topic_id, partition, offset, end_offset)
            })?;
        }
        self.stretch = Stretch::Here(batches);
        Ok(())
    }
}

/// Partitions of one topic that follow one another make one entry.
fn respond(
    looked_at: Vec<(Wanted, Option<Key>)>,
    answers: Vec<PartitionData>,
    is_left_out: &[bool],
) -> FetchResponse {
    let mut topics: Vec<FetchableTopicResponse> = Vec::new();
    for (index, ((wanted, _), data)) in looked_at.into_iter().zip(answers).enumerate() {
        if is_left_out.get(index).copied().unwrap_or(false) {
            continue;
        }
        let is_same = |topic: &&mut FetchableTopicResponse| {
            topic.topic == wanted.topic && topic.topic_id == wanted.topic_id
        };
        match topics.last_mut().filter(is_same) {
            Some(topic) => topic.partitions.push(data),
            None => topics.push(
                FetchableTopicResponse::default()
                    .with_topic(wanted.topic)
                    .with_topic_id(wanted.topic_id)
                    .with_partitions(vec![data]),
            ),
        }
    }
    FetchResponse::default().with_responses(topics)
}

fn aborted_transactions(aborted: Vec<read::AbortedTransaction>) -> Vec<AbortedTransaction> {
    let aborted = aborted.into_iter().map(|aborted| {
        AbortedTransaction::default()
            .with_producer_id(ProducerId(aborted.producer_id))
            .with_first_offset(aborted.first_offset)
    });
    aborted.collect()
}

fn respond_partition(
    session: &Session,
    version: i16,
    wanted: &Wanted,
    found: Result<Found, Failure>,
) -> PartitionData {
    let data = PartitionData::default()
        .with_partition_index(wanted.partition.partition)
        .with_preferred_read_replica(BrokerId(-1))
        .with_aborted_transactions(None);
    match found {
        Ok(found) => {
            let mut records = BytesMut::with_capacity(found.bytes());
            if let Stretch::Here(batches) = &found.stretch {
                for batch in batches {
                    put_batch(&mut records, batch.base_offset, batch.leader_epoch, &batch.bytes);
                }
            }
            data.with_high_watermark(found.info.high_watermark)
                .with_last_stable_offset(found.info.last_stable_offset)
                .with_aborted_transactions(found.aborted.map(aborted_transactions))
                .with_log_start_offset(found.info.log_start_offset)
                .with_records(Some(records.freeze()))
        }
        Err(failure) => {
            let error = match failure.error {
                ResponseError::UnknownTopicOrPartition => {
                    topics::not_found(session, version, wanted.topic.as_str(), wanted.topic_id)
                }
                other => other,
            };
            data.with_error_code(error.code())
                .with_high_watermark(-1)
                .with_last_stable_offset(-1)
                .with_log_start_offset(-1)
                .with_records(Some(bytes::Bytes::new()))
        }
    }
}
