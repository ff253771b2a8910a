//! ShareFetch, ShareAcknowledge: records for share groups, and what became of them (KIP-932).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::share_acknowledge_response as acknowledged;
use kafka_protocol::messages::share_fetch_response::{
    AcquiredRecords, LeaderIdAndEpoch, PartitionData, ShareFetchableTopicResponse,
};
use kafka_protocol::messages::{
    GroupId, ShareAcknowledgeRequest, ShareAcknowledgeResponse, ShareFetchRequest,
    ShareFetchResponse, share_acknowledge_request, share_fetch_request,
};
use kafka_protocol::protocol::StrBytes;
use proteus_env::task;
use proteus_kernel_api::topic::batch::{BatchHeader, put_batch};
use proteus_kernel_api::topic::read::{self, ReadLimit, StoredBatch, Stretch};
use proteus_kernel_api::topic::shares::ShareRange;
use proteus_kernel_api::topic::{self, TopicId};
use proteus_kernel_api::{Outcome, Proposal};
use uuid::Uuid;

use super::share_sessions::{ShareMemberId, Step};
use super::share_settings::{ShareSettings, StartsAt};
use super::{partition_number, text, topics};
use crate::acl::{Operation, Resource};
use crate::brokers::Brokers;
use crate::errors::Failure;
use crate::quota::CONSUMED;
use crate::session::Session;
use crate::share::partition::{Acknowledgement, Acquired, Offered, ShareError, Verdict};
use crate::share::{Share, propose};
use crate::tiering;

/// Most bytes of records in one response, as in Fetch.
const FETCH_BYTES_MAX: usize = 55 * 1024 * 1024;
/// Most bytes of one partition's, as clients ask for in Fetch.
const PARTITION_BYTES_MAX: usize = 1024 * 1024;
/// Longest that a request may wait.
const WAIT_MAX: Duration = Duration::from_secs(5 * 60);

type Place = (TopicId, i32);

/// Verdicts by the partition they are about, as requests have them.
type Said = BTreeMap<Place, Vec<(i64, i64, Vec<i8>)>>;

/// What became of acknowledgements, by partition.
type Settled = BTreeMap<Place, Result<(), Failure>>;

/// Records that one look handed out.
struct Taken {
    records: Bytes,
    acquired: Vec<Acquired>,
}

fn member_of(
    session: &Session,
    group_id: Option<&GroupId>,
    member_id: Option<&StrBytes>,
) -> Result<ShareMemberId, Failure> {
    let group = group_id.map(|id| id.as_str()).filter(|id| !id.is_empty());
    let member = member_id.map(|id| id.as_str()).filter(|id| !id.is_empty());
    let (Some(group), Some(member)) = (group, member) else {
        let message = "a share group's request names its group and member";
        return Err(Failure::new(ResponseError::InvalidRequest, message));
    };
    session.authorize(Operation::Read, Resource::Group, group)?;
    Ok(ShareMemberId { group: group.into(), member: member.into() })
}

pub(crate) async fn fetch(
    session: &Arc<Session>,
    client_id: &str,
    request: ShareFetchRequest,
) -> ShareFetchResponse {
    match fetch_for(session, client_id, request).await {
        Ok(response) => response,
        Err(failure) => ShareFetchResponse::default()
            .with_error_code(failure.code())
            .with_error_message(Some(text(failure.message))),
    }
}

async fn fetch_for(
    session: &Arc<Session>,
    client_id: &str,
    request: ShareFetchRequest,
) -> Result<ShareFetchResponse, Failure> {
    let id = member_of(session, request.group_id.as_ref(), request.member_id.as_ref())?;
    let settings = ShareSettings::of(session, &id.group)?;
    let said = said_in_fetch(&request.topics);
    let step = session.share_sessions.lock().step(&id, request.share_session_epoch)?;
    if step == Step::Begins && !said.is_empty() {
        session.share_sessions.lock().remove(&id);
        let message = "the first request of a share session acknowledges nothing";
        return Err(Failure::new(ResponseError::InvalidRequest, message));
    }
    let settled = settle(session, &id, &settings, said).await;
    let mut answers: BTreeMap<Place, PartitionData> = BTreeMap::new();
    for (place, result) in settled {
        let failure = result.err();
        let data = answered(&mut answers, place);
        data.acknowledge_error_code = failure.as_ref().map_or(0, Failure::code);
        data.acknowledge_error_message = failure.map(|failure| text(failure.message));
    }
    if step == Step::Ends {
        release(session, &id).await;
        session.share_sessions.lock().remove(&id);
    } else {
        let followed = follow(session, &id, &request)?;
        if step == Step::Begins {
            for one in &followed {
                answered(&mut answers, place_of(*one));
            }
        }
        let looked = look_until(session, &id, &settings, &followed, &request).await;
        let had = looked.iter().filter(|(_, found)| found.is_ok()).map(|(one, _)| *one);
        session.share_sessions.lock().had_records(&id, &had.collect::<Vec<_>>());
        for (one, found) in looked {
            put_found(session, answered(&mut answers, place_of(one)), found);
        }
    }
    let records = answers.values().filter_map(|data| data.records.as_ref());
    let bytes = records.map(Bytes::len).sum();
    Ok(respond(answers)
        .with_throttle_time_ms(session.throttle(client_id, CONSUMED, bytes))
        .with_acquisition_lock_timeout_ms(
            i32::try_from(settings.limits.lock_ms).unwrap_or(i32::MAX),
        ))
}

fn place_of((topic_id, partition): (TopicId, u32)) -> Place {
    (topic_id, i32::try_from(partition).unwrap_or(i32::MAX))
}

fn answered(answers: &mut BTreeMap<Place, PartitionData>, place: Place) -> &mut PartitionData {
    answers.entry(place).or_insert_with(|| {
        PartitionData::default()
            .with_partition_index(place.1)
            .with_current_leader(nobody())
            .with_records(Some(Bytes::new()))
    })
}

fn nobody() -> LeaderIdAndEpoch {
    LeaderIdAndEpoch::default().with_leader_id(-1).with_leader_epoch(-1)
}

fn put_found(session: &Session, data: &mut PartitionData, found: Result<Taken, Failure>) {
    match found {
        Ok(taken) => {
            data.records = Some(taken.records);
            data.acquired_records = taken
                .acquired
                .into_iter()
                .map(|acquired| {
                    AcquiredRecords::default()
                        .with_first_offset(acquired.first)
                        .with_last_offset(acquired.last)
                        .with_delivery_count(
                            i16::try_from(acquired.delivery_count).unwrap_or(i16::MAX),
                        )
                })
                .collect();
        }
        Err(failure) => {
            if failure.error == ResponseError::NotLeaderOrFollower {
                let brokers = Brokers::of(session);
                data.current_leader = LeaderIdAndEpoch::default()
                    .with_leader_id(brokers.leader_id().0)
                    .with_leader_epoch(brokers.leader_epoch);
            }
            data.error_code = failure.code();
            data.error_message = Some(text(failure.message));
        }
    }
}

fn respond(answers: BTreeMap<Place, PartitionData>) -> ShareFetchResponse {
    let mut responses: Vec<ShareFetchableTopicResponse> = Vec::new();
    for ((topic_id, _), data) in answers {
        let topic_id = Uuid::from_bytes(topic_id.0);
        match responses.last_mut().filter(|topic| topic.topic_id == topic_id) {
            Some(topic) => topic.partitions.push(data),
            None => responses.push(
                ShareFetchableTopicResponse::default()
                    .with_topic_id(topic_id)
                    .with_partitions(vec![data]),
            ),
        }
    }
    ShareFetchResponse::default().with_responses(responses)
}

/// What the session looks at after the request.
fn follow(
    session: &Session,
    id: &ShareMemberId,
    request: &ShareFetchRequest,
) -> Result<Vec<(TopicId, u32)>, Failure> {
    let added = request.topics.iter().flat_map(|topic| {
        let topic_id = TopicId(topic.topic_id.into_bytes());
        let indexes = topic.partitions.iter().map(|partition| partition.partition_index);
        indexes.filter_map(move |index| Some((topic_id, partition_number(index)?)))
    });
    let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| {
        let topic_id = TopicId(topic.topic_id.into_bytes());
        topic.partitions.iter().filter_map(move |index| Some((topic_id, partition_number(*index)?)))
    });
    let (added, forgotten): (Vec<_>, Vec<_>) = (added.collect(), forgotten.collect());
    session.share_sessions.lock().follow(id, &added, &forgotten)
}

/// Looks at the partitions until there is something to answer, or the request has waited long enough.
async fn look_until(
    session: &Arc<Session>,
    id: &ShareMemberId,
    settings: &ShareSettings,
    followed: &[(TopicId, u32)],
    request: &ShareFetchRequest,
) -> Vec<((TopicId, u32), Result<Taken, Failure>)> {
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(FETCH_BYTES_MAX);
    let records_max = i64::from(request.max_records.max(0));
    if bytes_max == 0 || records_max == 0 {
        return Vec::new();
    }
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
    let deadline = session.shared.clock.elapsed() + wait;
    loop {
        // Registered before the look, so that nothing falls between the two.
        let growing = session.shared.topics.growing.wait(followed);
        let mut found = Vec::new();
        let (mut bytes_left, mut records_left) = (bytes_max, records_max);
        let mut free_at: Option<u64> = None;
        for (topic_id, partition) in followed {
            if records_left <= 0 || bytes_left == 0 {
                break;
            }
            let share =
                Share { group: id.group.clone(), topic_id: *topic_id, partition: *partition };
            let bounds = (records_left, bytes_left.min(PARTITION_BYTES_MAX));
            match take(session, id, settings, &share, bounds).await {
                Ok((Some(taken), _)) => {
                    bytes_left = bytes_left.saturating_sub(taken.records.len());
                    let count = taken.acquired.iter().map(|one| one.last - one.first + 1);
                    records_left -= count.sum::<i64>();
                    found.push(((*topic_id, *partition), Ok(taken)));
                }
                Ok((None, at_ms)) => free_at = free_at.into_iter().chain(at_ms).min(),
                Err(failure) => found.push(((*topic_id, *partition), Err(failure))),
            }
        }
        let now = session.shared.clock.elapsed();
        let until = free_at.map_or(deadline, |at_ms| deadline.min(Duration::from_millis(at_ms)));
        if !found.is_empty() || deadline <= now {
            return found;
        }
        // Woken when a partition grows, or somebody gives records back; or their time is up.
        let left = until.saturating_sub(now).max(Duration::from_millis(1));
        let _ = task::timeout(left, growing).await;
    }
}

fn now_ms(session: &Session) -> u64 {
    u64::try_from(session.shared.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Hands out what is free of one partition. If nothing is, the second result is when something may be.
async fn take(
    session: &Arc<Session>,
    id: &ShareMemberId,
    settings: &ShareSettings,
    share: &Share,
    (records_max, bytes_max): (i64, usize),
) -> Result<(Option<Taken>, Option<u64>), Failure> {
    let kernel = &*session.shared.kernel;
    let (topic_id, partition, limits) = (share.topic_id, share.partition, settings.limits);
    topics::authorize(session, Operation::Read, topic_id, "")?;
    let info = kernel.read(|view| read::partition(view.state, topic_id, partition))?;
    let Some(info) = info else {
        session.shared.shares.forget(share);
        return Err(Failure::new(ResponseError::UnknownTopicId, "there is no such partition"));
    };
    let end_offset =
        if settings.is_committed_only { info.last_stable_offset } else { info.high_watermark };
    let now_ms = now_ms(session);
    let shares = &session.shared.shares;
    let mut proposals: Vec<Proposal> = Vec::new();
    let free = loop {
        let free = shares.with(kernel, share, |state| {
            state.begin_at(info.log_start_offset);
            let expired = state.pass_time(now_ms, limits);
            if !expired.is_empty() {
                proposals.push(propose(kernel, share, expired));
            }
            let from = state.first_available();
            let is_free = from < end_offset && !state.is_full(limits);
            (is_free.then_some(from), state.next_deadline_ms())
        })?;
        match free {
            Some(free) => break free,
            None => begin(session, share, settings, &info).await?,
        }
    };
    let (Some(from), _) = free else {
        committed(session, share, proposals).await?;
        return Ok((None, free.1));
    };
    let batches = read_from(session, settings, share, (from, end_offset), bytes_max).await?;
    let taken = shares.with(kernel, share, |state| {
        let mut offered: Vec<Offered> = batches.iter().map(|(_, offered)| *offered).collect();
        if offered.is_empty() {
            // Compaction has left nothing.
            offered.push(Offered { first: from, last: end_offset - 1, is_delivered: false });
        }
        let (acquired, changes) =
            state.acquire(now_ms, &id.member, from, &offered, records_max, limits);
        if !changes.is_empty() {
            proposals.push(propose(kernel, share, changes));
        }
        acquired
    })?;
    committed(session, share, proposals).await?;
    let acquired = taken.unwrap_or_default();
    if acquired.is_empty() {
        return Ok((None, Some(now_ms)));
    }
    let mut records = BytesMut::new();
    for (batch, offered) in &batches {
        let is_in = |one: &Acquired| one.first <= offered.last && offered.first <= one.last;
        if acquired.iter().any(is_in) {
            put_batch(&mut records, batch.base_offset, batch.leader_epoch, &batch.bytes);
        }
    }
    Ok((Some(Taken { records: records.freeze(), acquired }), None))
}

/// Begins to keep what the group consumes of a partition.
async fn begin(
    session: &Session,
    share: &Share,
    settings: &ShareSettings,
    info: &read::PartitionInfo,
) -> Result<(), Failure> {
    let start_offset = match settings.starts_at {
        StartsAt::Earliest => info.log_start_offset,
        StartsAt::Latest => info.high_watermark,
    };
    let op = topic::Op::BeginShare {
        group: share.group.to_string(),
        topic_id: share.topic_id,
        partition: share.partition,
        start_offset,
    };
    topics::commit(session, op).await?;
    Ok(())
}

/// Batches from `from` to before `end_offset`, and whether their records are to be seen.
async fn read_from(
    session: &Arc<Session>,
    settings: &ShareSettings,
    share: &Share,
    (from, end_offset): (i64, i64),
    bytes_max: usize,
) -> Result<Vec<(StoredBatch, Offered)>, Failure> {
    let kernel = &session.shared.kernel;
    let (topic_id, partition) = (share.topic_id, share.partition);
    let limit = ReadLimit::BytesOrFirst(bytes_max);
    let stretch = kernel.read(|view| {
        read::read_batches(view.state, topic_id, partition, from, end_offset, limit)
    })?;
    let batches = match stretch {
        Stretch::Here(batches) => batches,
        Stretch::InObject(range) => tiering::read_range(&session.shared, &range, from).await?,
    };
    let aborted = match batches.last() {
        Some(last) if settings.is_committed_only => kernel.read(|view| {
            let end_offset = last.end_offset();
            read::aborted_transactions(view.state, topic_id, partition, from, end_offset)
        })?,
        _ => Vec::new(),
    };
    let offered = batches.into_iter().map(|batch| {
        let header = BatchHeader::parse(&batch.bytes)?;
        let is_aborted = aborted.iter().any(|one| one.covers(&header, batch.base_offset));
        let offered = Offered {
            first: batch.base_offset,
            last: batch.last_offset,
            is_delivered: !header.is_control() && !is_aborted,
        };
        Ok((batch, offered))
    });
    offered.collect()
}

/// Waits until changes are durable; if one will not be, the soft state is given up.
async fn committed(
    session: &Session,
    share: &Share,
    proposals: Vec<Proposal>,
) -> Result<(), Failure> {
    let mut result = Ok(());
    for proposal in proposals {
        let failure = match proposal.await {
            Ok(outcomes) => outcomes.iter().find_map(|outcome| match outcome {
                Outcome::Committed { .. } => None,
                Outcome::CheckFailed { refusal, .. } | Outcome::Refused { refusal, .. } => {
                    Some(Failure::from(refusal))
                }
            }),
            Err(error) => Some(Failure::from(error)),
        };
        if let Some(failure) = failure {
            session.shared.shares.forget(share);
            result = Err(failure);
        }
    }
    result
}

fn said_in_fetch(topics: &[share_fetch_request::FetchTopic]) -> Said {
    let mut said = Said::new();
    for topic in topics {
        for partition in &topic.partitions {
            let batches = partition.acknowledgement_batches.iter();
            let batches = batches
                .map(|one| (one.first_offset, one.last_offset, one.acknowledge_types.clone()));
            let place = (TopicId(topic.topic_id.into_bytes()), partition.partition_index);
            let batches: Vec<_> = batches.collect();
            if !batches.is_empty() {
                said.insert(place, batches);
            }
        }
    }
    said
}

fn said_in_acknowledge(topics: &[share_acknowledge_request::AcknowledgeTopic]) -> Said {
    let mut said = Said::new();
    for topic in topics {
        for partition in &topic.partitions {
            let batches = partition.acknowledgement_batches.iter();
            let batches = batches
                .map(|one| (one.first_offset, one.last_offset, one.acknowledge_types.clone()));
            let place = (TopicId(topic.topic_id.into_bytes()), partition.partition_index);
            said.insert(place, batches.collect());
        }
    }
    said
}

fn verdict(code: i8) -> Result<Verdict, Failure> {
    match code {
        0 => Ok(Verdict::Gap),
        1 => Ok(Verdict::Accept),
        2 => Ok(Verdict::Release),
        3 => Ok(Verdict::Reject),
        _ => Err(Failure::new(
            ResponseError::InvalidRequest,
            format!("acknowledge type {code}; 0 to 3 are known"),
        )),
    }
}

/// Takes what a member says of records; answered when it is durable.
async fn settle(
    session: &Arc<Session>,
    id: &ShareMemberId,
    settings: &ShareSettings,
    said: Said,
) -> Settled {
    let mut proposed: Vec<(Place, Share, Result<Option<Proposal>, Failure>)> = Vec::new();
    for (place, batches) in said {
        let share = Share {
            group: id.group.clone(),
            topic_id: place.0,
            partition: partition_number(place.1).unwrap_or(u32::MAX),
        };
        let proposal = settle_one(session, id, settings, &share, batches);
        proposed.push((place, share, proposal));
    }
    let mut settled = Settled::new();
    for (place, share, proposal) in proposed {
        let result = match proposal {
            Ok(proposal) => committed(session, &share, proposal.into_iter().collect()).await,
            Err(failure) => Err(failure),
        };
        // What was released may be what others wait for.
        session.shared.topics.growing.wake(&(share.topic_id, share.partition));
        settled.insert(place, result);
    }
    settled
}

fn settle_one(
    session: &Session,
    id: &ShareMemberId,
    settings: &ShareSettings,
    share: &Share,
    batches: Vec<(i64, i64, Vec<i8>)>,
) -> Result<Option<Proposal>, Failure> {
    topics::authorize(session, Operation::Read, share.topic_id, "")?;
    let acknowledgements = batches.into_iter().map(|(first, last, codes)| {
        let verdicts: Result<Vec<Verdict>, Failure> = codes.into_iter().map(verdict).collect();
        Ok(Acknowledgement { first, last, verdicts: verdicts? })
    });
    let acknowledgements: Vec<Acknowledgement> =
        acknowledgements.collect::<Result<_, Failure>>()?;
    let (kernel, limits) = (&*session.shared.kernel, settings.limits);
    let now_ms = now_ms(session);
    let settled = session.shared.shares.with(kernel, share, |state| {
        let mut changes: Vec<ShareRange> = state.pass_time(now_ms, limits);
        let result = state.acknowledge(&id.member, &acknowledgements, limits);
        let result = result.map(|more| changes.extend(more));
        let proposal = (!changes.is_empty()).then(|| propose(kernel, share, changes));
        (result, proposal)
    })?;
    match settled {
        Some((Ok(()), proposal)) => Ok(proposal),
        // What had expired is proposed all the same.
        Some((Err(ShareError::Invalid), _)) => {
            Err(Failure::new(ResponseError::InvalidRequest, "the acknowledgement makes no sense"))
        }
        Some((Err(ShareError::NotHeld), _)) | None => Err(Failure::new(
            ResponseError::InvalidRecordState,
            "the member does not hold all of these records, or not any more",
        )),
    }
}

pub(crate) async fn acknowledge(
    session: &Arc<Session>,
    request: ShareAcknowledgeRequest,
) -> ShareAcknowledgeResponse {
    match acknowledge_for(session, request).await {
        Ok(settled) => respond_settled(session, settled),
        Err(failure) => ShareAcknowledgeResponse::default()
            .with_error_code(failure.code())
            .with_error_message(Some(text(failure.message))),
    }
}

async fn acknowledge_for(
    session: &Arc<Session>,
    request: ShareAcknowledgeRequest,
) -> Result<Settled, Failure> {
    let id = member_of(session, request.group_id.as_ref(), request.member_id.as_ref())?;
    let settings = ShareSettings::of(session, &id.group)?;
    if request.share_session_epoch == 0 {
        let message = "an acknowledgement begins no share session";
        return Err(Failure::new(ResponseError::InvalidShareSessionEpoch, message));
    }
    let step = session.share_sessions.lock().step(&id, request.share_session_epoch)?;
    let said = said_in_acknowledge(&request.topics);
    let settled = settle(session, &id, &settings, said).await;
    if step == Step::Ends {
        release(session, &id).await;
        session.share_sessions.lock().remove(&id);
    }
    Ok(settled)
}

fn respond_settled(session: &Session, settled: Settled) -> ShareAcknowledgeResponse {
    let mut responses: Vec<acknowledged::ShareAcknowledgeTopicResponse> = Vec::new();
    for ((topic_id, index), result) in settled {
        let mut data = acknowledged::PartitionData::default().with_partition_index(index);
        let mut leader =
            acknowledged::LeaderIdAndEpoch::default().with_leader_id(-1).with_leader_epoch(-1);
        if let Err(failure) = result {
            if failure.error == ResponseError::NotLeaderOrFollower {
                let brokers = Brokers::of(session);
                leader.leader_id = brokers.leader_id().0;
                leader.leader_epoch = brokers.leader_epoch;
            }
            data.error_code = failure.code();
            data.error_message = Some(text(failure.message));
        }
        let data = data.with_current_leader(leader);
        let topic_id = Uuid::from_bytes(topic_id.0);
        match responses.last_mut().filter(|topic| topic.topic_id == topic_id) {
            Some(topic) => topic.partitions.push(data),
            None => responses.push(
                acknowledged::ShareAcknowledgeTopicResponse::default()
                    .with_topic_id(topic_id)
                    .with_partitions(vec![data]),
            ),
        }
    }
    ShareAcknowledgeResponse::default().with_responses(responses)
}

/// Gives back what a member holds whose session ends.
async fn release(session: &Session, id: &ShareMemberId) {
    for (share, proposal) in release_all(session, id) {
        // What is not durable is held by nobody all the same: the soft state is given up.
        let _ = committed(session, &share, vec![proposal]).await;
        session.shared.topics.growing.wake(&(share.topic_id, share.partition));
    }
}

fn release_all(session: &Session, id: &ShareMemberId) -> Vec<(Share, Proposal)> {
    let kernel = &*session.shared.kernel;
    let Ok(settings) = ShareSettings::of(session, &id.group) else {
        return Vec::new();
    };
    session.shared.shares.of_group(&id.group, |share, state| {
        let changes = state.release(&id.member, settings.limits);
        (!changes.is_empty()).then(|| propose(kernel, share, changes))
    })
}

/// The connection is gone: its members hold nothing any more.
pub(crate) fn disconnected(session: &Session) {
    let members = session.share_sessions.lock().take_all();
    for (share, _under_way) in members.iter().flat_map(|id| release_all(session, id)) {
        session.shared.topics.growing.wake(&(share.topic_id, share.partition));
    }
}
