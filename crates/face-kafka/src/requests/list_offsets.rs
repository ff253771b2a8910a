//! ListOffsets and OffsetForLeaderEpoch: where a partition begins, ends, and was at a time.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
};
use proteus_kernel_api::topic::TopicId;
use proteus_kernel_api::topic::read::{self, PartitionInfo};

use super::{LEADER_EPOCH, READ_COMMITTED, partition_number};
use crate::acl::{Operation, Resource};
use crate::errors::Failure;
use crate::session::Session;

/// Special values of the request's timestamp.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const NEWEST_TIMESTAMP: i64 = -3;
/// Of what is on this broker's own disk, where other data may be elsewhere.
const EARLIEST_LOCAL: i64 = -4;
/// Of what is not on this broker's disk: nothing.
const LATEST_TIERED: i64 = -5;
/// No offset, no timestamp.
const NONE: (i64, i64) = (-1, -1);

pub(crate) fn unknown_partition() -> Failure {
    Failure::new(ResponseError::UnknownTopicOrPartition, "no such topic or partition")
}

/// Topic and state of a partition.
fn find(
    session: &Session,
    name: &str,
    index: i32,
) -> Result<(TopicId, u32, PartitionInfo), Failure> {
    session.authorize(Operation::Describe, Resource::Topic, name)?;
    let kernel = &*session.shared.kernel;
    let topic_id = session.shared.topics.id_of(kernel, name)?.ok_or_else(unknown_partition)?;
    let partition = partition_number(index).ok_or_else(unknown_partition)?;
    match kernel.read(|view| read::partition(view.state, topic_id, partition))? {
        Some(info) => Ok((topic_id, partition, info)),
        None => {
            session.shared.topics.forget(name);
            Err(unknown_partition())
        }
    }
}

/// A client that knows a later leader than there ever was has reached the wrong cluster.
pub(crate) fn check_leader_epoch(epoch: i32) -> Result<(), Failure> {
    if epoch > LEADER_EPOCH {
        let message = format!("leader epoch {epoch} is from the future");
        return Err(Failure::new(ResponseError::UnknownLeaderEpoch, message));
    }
    Ok(())
}

pub(crate) fn answer(
    session: &Session,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    // Told since version 4.
    let isolation = request.isolation_level;
    let leader_epoch = if version >= 4 { LEADER_EPOCH } else { -1 };
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let index = partition.partition_index;
            let response = ListOffsetsPartitionResponse::default().with_partition_index(index);
            let found = check_leader_epoch(partition.current_leader_epoch).and_then(|()| {
                offset(session, topic.name.as_str(), index, partition.timestamp, isolation)
            });
            match found {
                Ok((offset, timestamp)) => response
                    .with_offset(offset)
                    .with_timestamp(timestamp)
                    .with_leader_epoch(if offset >= 0 { leader_epoch } else { -1 }),
                Err(failure) => response
                    .with_error_code(failure.code())
                    .with_offset(NONE.0)
                    .with_timestamp(NONE.1)
                    .with_leader_epoch(-1),
            }
        });
        let partitions = partitions.collect();
        ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

fn offset(
    session: &Session,
    name: &str,
    index: i32,
    timestamp: i64,
    isolation: i8,
) -> Result<(i64, i64), Failure> {
    let (topic_id, partition, info) = find(session, name, index)?;
    let end_offset =
        if isolation == READ_COMMITTED { info.last_stable_offset } else { info.high_watermark };
    let found = match timestamp {
        EARLIEST | EARLIEST_LOCAL => return Ok((info.log_start_offset, -1)),
        LATEST => return Ok((end_offset, -1)),
        LATEST_TIERED => return Ok(NONE),
        NEWEST_TIMESTAMP => session
            .shared
            .kernel
            .read(|view| read::offset_of_newest(view.state, topic_id, partition))?,
        at_ms if at_ms >= 0 => session
            .shared
            .kernel
            .read(|view| read::offset_at_time(view.state, topic_id, partition, at_ms))?,
        other => {
            let message = format!("timestamp {other} means nothing");
            return Err(Failure::new(ResponseError::InvalidRequest, message));
        }
    };
    let found = found.filter(|(offset, _)| *offset < end_offset);
    // Records below the log start may not be gone yet.
    Ok(found.map_or(NONE, |(offset, at_ms)| (offset.max(info.log_start_offset), at_ms)))
}

pub(crate) fn for_leader_epoch(
    session: &Session,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let response = EpochEndOffset::default().with_partition(wanted.partition);
            let found = check_leader_epoch(wanted.current_leader_epoch)
                .and_then(|()| find(session, topic.topic.as_str(), wanted.partition));
            match found {
                Ok((_, _, info)) if wanted.leader_epoch == LEADER_EPOCH => {
                    response.with_leader_epoch(LEADER_EPOCH).with_end_offset(info.high_watermark)
                }
                Ok(_) => response.with_leader_epoch(-1).with_end_offset(-1),
                Err(failure) => response
                    .with_error_code(failure.code())
                    .with_leader_epoch(-1)
                    .with_end_offset(-1),
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
