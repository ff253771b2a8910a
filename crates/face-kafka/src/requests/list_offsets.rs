//! ListOffsets and OffsetForLeaderEpoch: where a partition begins, ends, and was at a time.

use std::cmp::Ordering;
use std::sync::Arc;

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
use proteus_kernel_api::topic::batch::BatchHeader;
use proteus_kernel_api::topic::read::{self, AtTime, PartitionInfo};

use super::{READ_COMMITTED, leader_epoch, partition_number};
use crate::acl::{Operation, Resource};
use crate::errors::Failure;
use crate::session::Session;
use crate::tiering;

/// Special values of the request's timestamp.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const NEWEST_TIMESTAMP: i64 = -3;
/// Of what is on this broker's own disk, where other data may be elsewhere.
const EARLIEST_LOCAL: i64 = -4;
/// Of what is no longer on this broker's disk, but in the object store.
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

/// A client that knows of an earlier leader must look for the present one; if it knows of a later one,
/// this node is behind. -1 says nothing.
pub(crate) fn check_leader_epoch(epoch: i32, current: i32) -> Result<(), Failure> {
    let error = match epoch.cmp(&current) {
        Ordering::Equal => return Ok(()),
        _ if epoch < 0 => return Ok(()),
        Ordering::Less => ResponseError::FencedLeaderEpoch,
        Ordering::Greater => ResponseError::UnknownLeaderEpoch,
    };
    Err(Failure::new(error, format!("leader epoch {epoch}; it is {current} now")))
}

pub(crate) async fn answer(
    session: &Arc<Session>,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let isolation = request.isolation_level;
    let current = leader_epoch(session);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let response = ListOffsetsPartitionResponse::default().with_partition_index(index);
            let found = match check_leader_epoch(partition.current_leader_epoch, current) {
                Ok(()) => {
                    let name = topic.name.as_str();
                    offset(session, name, index, partition.timestamp, isolation).await
                }
                Err(failure) => Err(failure),
            };
            // The epoch is told since version 4.
            partitions.push(match found {
                Ok((offset, timestamp)) => response
                    .with_offset(offset)
                    .with_timestamp(timestamp)
                    .with_leader_epoch(if offset >= 0 && version >= 4 { current } else { -1 }),
                Err(failure) => response
                    .with_error_code(failure.code())
                    .with_offset(NONE.0)
                    .with_timestamp(NONE.1)
                    .with_leader_epoch(-1),
            });
        }
        topics.push(
            ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

async fn offset(
    session: &Arc<Session>,
    name: &str,
    index: i32,
    timestamp: i64,
    isolation: i8,
) -> Result<(i64, i64), Failure> {
    let (topic_id, partition, info) = find(session, name, index)?;
    let has_objects = info.local_start_offset > info.log_start_offset;
    let end_offset =
        if isolation == READ_COMMITTED { info.last_stable_offset } else { info.high_watermark };
    let found = match timestamp {
        EARLIEST => return Ok((info.log_start_offset, -1)),
        EARLIEST_LOCAL => return Ok((info.local_start_offset, -1)),
        LATEST => return Ok((end_offset, -1)),
        LATEST_TIERED if has_objects => return Ok((info.local_start_offset - 1, -1)),
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
    let found = match found {
        None => None,
        Some(AtTime::Record(offset, at_ms)) => Some((offset, at_ms)),
        Some(AtTime::InObject(range, wanted_ms)) => {
            let batches = tiering::read_range(&session.shared, &range, 0).await?;
            batches.iter().find_map(|batch| {
                let header = BatchHeader::parse(&batch.bytes).ok()?;
                read::record_of_batch(&batch.bytes, &header, batch.base_offset, wanted_ms)
            })
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
    let current = leader_epoch(session);
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let response = EpochEndOffset::default().with_partition(wanted.partition);
            let found = check_leader_epoch(wanted.current_leader_epoch, current)
                .and_then(|()| find(session, topic.topic.as_str(), wanted.partition))
                .and_then(|(topic_id, partition, _)| {
                    let end = session.shared.kernel.read(|view| {
                        let epoch = wanted.leader_epoch;
                        read::end_of_epoch(view.state, topic_id, partition, epoch, current)
                    });
                    end.map_err(Failure::from)
                });
            match found {
                Ok(end) => {
                    let (epoch, end_offset) = end.unwrap_or((-1, -1));
                    response.with_leader_epoch(epoch).with_end_offset(end_offset)
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_another_leader_is_told() {
        let error = |epoch| check_leader_epoch(epoch, 5).err().map(|failure| failure.error);
        assert_eq!((error(-1), error(5)), (None, None));
        assert_eq!(error(4), Some(ResponseError::FencedLeaderEpoch));
        assert_eq!(error(0), Some(ResponseError::FencedLeaderEpoch));
        assert_eq!(error(6), Some(ResponseError::UnknownLeaderEpoch));
    }
}
