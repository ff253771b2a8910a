//! Produce: every batch a minitransaction of its own, those of a request proposed together.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, ResponseKind};
use proteus_face::ConnectionError;
use proteus_kernel_api::topic::batch::{BatchHeader, split_batches, validate_records};
use proteus_kernel_api::topic::read::ConfigReader;
use proteus_kernel_api::topic::{self, Appended, TopicId};
use proteus_kernel_api::{Durability, KernelError, Minitransaction, Outcome, Proposal};
use tracing::debug;

use super::{partition_number, text, topics};
use crate::acl::{Operation, Resource};
use crate::errors::{Failure, topic_reply, unexpected_reply};
use crate::quota::PRODUCED;
use crate::session::Session;

/// What becomes of one partition of the request.
enum Slot {
    /// Refused before it was proposed.
    Refused(Failure),
    /// Which proposal, and which of its minitransactions.
    Proposed(usize, usize),
}

/// Outcomes of each proposal.
type Outcomes = Vec<Result<Vec<Outcome>, KernelError>>;

/// Batches of a request that are proposed together, in bytes. Most requests are one proposal; a very
/// large one must not exceed what the log takes as one entry, nor hold up others for long.
const PROPOSAL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// First version whose client does not announce partitions by AddPartitionsToTxn (KIP-890).
const JOINS_TRANSACTION_SINCE: i16 = 12;
/// The protocol's value for no timestamp of the broker's own, and for no offset.
const NONE: i64 = -1;

/// Proposes the request's batches before it returns; the future answers when they are committed, or
/// without an answer if the client wants none (acks=0).
pub(crate) fn start(
    session: &Arc<Session>,
    version: i16,
    client_id: &str,
    request: ProduceRequest,
) -> BoxFuture<'static, Result<Option<ResponseKind>, ConnectionError>> {
    let acks = request.acks;
    let data = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    let bytes = data.map(|data| data.records.as_ref().map_or(0, Bytes::len)).sum();
    let throttle_ms = session.throttle(client_id, PRODUCED, bytes);
    let mut chunks = Chunks::default();
    let mut slots = Vec::new();
    let request_refusal = refusal_of(session, &request);
    for topic_data in &request.topic_data {
        let topic_id = resolve(session, version, topic_data).and_then(|topic_id| {
            topics::authorize(session, Operation::Write, topic_id, topic_data.name.as_str())?;
            Ok(topic_id)
        });
        for partition_data in &topic_data.partition_data {
            let append = match (&request_refusal, &topic_id) {
                (Some(failure), _) | (None, Err(failure)) => Err(failure.clone()),
                (None, Ok(topic_id)) => append(session, version, *topic_id, partition_data),
            };
            let bytes = partition_data.records.as_ref().map_or(0, Bytes::len);
            slots.push(match append {
                Ok(append) => chunks.add(append, bytes),
                Err(failure) => Slot::Refused(failure),
            });
        }
    }
    // Each is handed over when `propose` returns, so they commit in this order.
    let kernel = &session.shared.kernel;
    // Who does not ask for all replicas' acknowledgement is content with less than the disk's as well.
    let durability = if acks == ACKS_ALL { kernel.durability() } else { Durability::Relaxed };
    let proposals = chunks.chunks.into_iter().map(|chunk| kernel.propose_at(durability, chunk));
    let proposals: Vec<Proposal> = proposals.collect();
    let session = session.clone();
    Box::pin(async move {
        let mut outcomes = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            outcomes.push(proposal.await);
        }
        let response = respond(&session, version, &request, slots, &outcomes)
            .with_throttle_time_ms(throttle_ms);
        if acks == 0 {
            return without_answer(&response);
        }
        Ok(Some(ResponseKind::Produce(response)))
    })
}

/// What `acks` is if all replicas shall have it.
const ACKS_ALL: i16 = -1;

/// Minitransactions in proposals of bounded size.
#[derive(Default)]
struct Chunks {
    chunks: Vec<Vec<Minitransaction>>,
    /// Of the last one.
    bytes: usize,
}

impl Chunks {
    fn add(&mut self, append: Minitransaction, bytes: usize) -> Slot {
        if self.chunks.is_empty() || self.bytes + bytes > PROPOSAL_BYTES_MAX {
            self.chunks.push(Vec::new());
            self.bytes = 0;
        }
        self.bytes += bytes;
        let proposal = self.chunks.len() - 1;
        let chunk = &mut self.chunks[proposal];
        chunk.push(append);
        Slot::Proposed(proposal, chunk.len() - 1)
    }
}

/// A client that wants no answers learns of an error only by losing its connection, as with Kafka.
fn without_answer(response: &ProduceResponse) -> Result<Option<ResponseKind>, ConnectionError> {
    let mut partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    match partitions.find(|partition| partition.error_code != 0) {
        None => Ok(None),
        Some(failed) => Err(ConnectionError::Malformed(format!(
            "a produce request with acks=0 failed with error {}",
            failed.error_code
        ))),
    }
}

fn refusal_of(session: &Session, request: &ProduceRequest) -> Option<Failure> {
    if let Some(id) = &request.transactional_id
        && let Err(failure) = session.authorize(Operation::Write, Resource::TransactionalId, id)
    {
        return Some(failure);
    }
    if !(-1..=1).contains(&request.acks) {
        let message = format!("acks is 0, 1 or -1, not {}", request.acks);
        return Some(Failure::new(ResponseError::InvalidRequiredAcks, message));
    }
    (!session.shared.kernel.leads()).then(|| {
        // It would reach the leader all the same, but each time with a detour.
        Failure::new(ResponseError::NotLeaderOrFollower, "another broker leads")
    })
}

fn resolve(
    session: &Session,
    version: i16,
    topic_data: &TopicProduceData,
) -> Result<TopicId, Failure> {
    if version >= 13 {
        return Ok(TopicId(topic_data.topic_id.into_bytes()));
    }
    let name = topic_data.name.as_str();
    let found = session.shared.topics.id_of(&*session.shared.kernel, name)?;
    found.ok_or_else(|| {
        Failure::new(ResponseError::UnknownTopicOrPartition, format!("there is no topic '{name}'"))
    })
}

/// The minitransaction of one partition's batch, which is a slice of the request's frame.
fn append(
    session: &Session,
    version: i16,
    topic_id: TopicId,
    partition_data: &PartitionProduceData,
) -> Result<Minitransaction, Failure> {
    let partition = partition_number(partition_data.index).ok_or_else(|| {
        Failure::new(ResponseError::UnknownTopicOrPartition, "a negative partition")
    })?;
    let records = partition_data.records.clone().unwrap_or_default();
    let mut batches = split_batches(&records)?;
    let (Some(batch), true) = (batches.pop(), batches.is_empty()) else {
        let message = "a partition's records are exactly one record batch";
        return Err(Failure::new(ResponseError::InvalidRecord, message));
    };
    let shared = &session.shared;
    // A topic that is not there is the machine's to refuse.
    let settings = shared.topics.settings_of(&*shared.kernel, topic_id)?.unwrap_or_default();
    let config = ConfigReader(&settings);
    let header = match config.mirrors() {
        true => BatchHeader::parse_mirrored(&batch)?,
        false => BatchHeader::parse_produced(&batch)?,
    };
    header.check_crc(&batch)?;
    validate_records(&batch, &header, &config.record_rules(shared.clock.wall_ms()))?;
    if header.is_transactional() {
        let joins = version >= JOINS_TRANSACTION_SINCE;
        let op = topic::Op::AppendInTransaction { topic_id, partition, batch, joins };
        return Ok(Minitransaction::of(op));
    }
    Ok(Minitransaction::of(topic::Op::Append { topic_id, partition, batch }))
}

fn respond(
    session: &Session,
    version: i16,
    request: &ProduceRequest,
    slots: Vec<Slot>,
    outcomes: &Outcomes,
) -> ProduceResponse {
    let mut slots = slots.into_iter();
    let responses = request.topic_data.iter().map(|topic_data| {
        let partitions = topic_data.partition_data.iter().zip(&mut slots).map(|(data, slot)| {
            let appended = match slot {
                Slot::Refused(failure) => Err(failure),
                Slot::Proposed(proposal, index) => appended(outcomes.get(proposal), index),
            };
            if let Err(failure) = &appended {
                debug!(topic = %topic_data.name.as_str(), partition = data.index, error = %failure.message, "a batch was refused");
            }
            respond_partition(session, version, topic_data, data.index, appended)
        });
        TopicProduceResponse::default()
            .with_name(topic_data.name.clone())
            .with_topic_id(topic_data.topic_id)
            .with_partition_responses(partitions.collect())
    });
    ProduceResponse::default().with_responses(responses.collect())
}

fn appended(
    outcomes: Option<&Result<Vec<Outcome>, KernelError>>,
    index: usize,
) -> Result<Appended, Failure> {
    let outcomes = outcomes.ok_or_else(unexpected_reply)?;
    let outcomes = outcomes.as_ref().map_err(|error| Failure::from(error.clone()))?;
    match topic_reply(outcomes.get(index).cloned().ok_or_else(unexpected_reply)?)? {
        topic::Reply::Appended(appended) => Ok(appended),
        _ => Err(unexpected_reply()),
    }
}

fn respond_partition(
    session: &Session,
    version: i16,
    topic_data: &TopicProduceData,
    index: i32,
    appended: Result<Appended, Failure>,
) -> PartitionProduceResponse {
    let response =
        PartitionProduceResponse::default().with_index(index).with_log_append_time_ms(NONE);
    match appended {
        Ok(appended) => response
            .with_base_offset(appended.base_offset)
            .with_log_append_time_ms(appended.append_time_ms.unwrap_or(NONE))
            .with_log_start_offset(appended.log_start_offset),
        Err(failure) => {
            let error = match failure.error {
                ResponseError::UnknownTopicOrPartition => topics::not_found(
                    session,
                    version,
                    topic_data.name.as_str(),
                    topic_data.topic_id,
                ),
                other => other,
            };
            response
                .with_error_code(error.code())
                .with_base_offset(NONE)
                .with_log_start_offset(NONE)
                .with_error_message(Some(text(failure.message)))
        }
    }
}
