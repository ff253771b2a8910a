//! CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    TopicName,
};
use proteus_env::random;
use proteus_kernel_api::Minitransaction;
use proteus_kernel_api::topic::read::{self, TopicInfo};
use proteus_kernel_api::topic::{self, TopicId};
use uuid::Uuid;

use super::{configs, partition_number, text};
use crate::acl::{Operation, Resource};
use crate::errors::{Failure, topic_reply, unexpected_reply};
use crate::session::Session;

/// Commits one op of the topic machine.
pub(crate) async fn commit(session: &Session, op: topic::Op) -> Result<topic::Reply, Failure> {
    let outcome =
        session.shared.kernel.commit(Minitransaction::of(op)).await.map_err(Failure::from)?;
    topic_reply(outcome)
}

/// Creates a topic under an id of its own.
pub(crate) async fn create_one(
    session: &Session,
    name: &str,
    partition_count: u32,
    config: BTreeMap<String, String>,
) -> Result<TopicId, Failure> {
    let topic_id =
        TopicId(uuid::Builder::from_random_bytes(random::random_bytes()).into_uuid().into_bytes());
    let op = topic::Op::CreateTopic { name: name.to_owned(), topic_id, partition_count, config };
    commit(session, op).await?;
    Ok(topic_id)
}

pub(crate) async fn create(
    session: &Arc<Session>,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let name = wanted.name.clone();
        let result = CreatableTopicResult::default().with_name(name);
        results.push(match create_wanted(session, wanted, request.validate_only).await {
            Ok((topic_id, partition_count, config)) => result
                .with_topic_id(Uuid::from_bytes(topic_id.0))
                .with_num_partitions(i32::try_from(partition_count).unwrap_or(i32::MAX))
                .with_replication_factor(1)
                .with_configs(Some(describe_config(&config))),
            Err(failure) => result
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message)))
                .with_num_partitions(-1)
                .with_replication_factor(-1),
        });
    }
    CreateTopicsResponse::default().with_topics(results)
}

fn describe_config(config: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    let entries = configs::effective(config).into_iter().map(|entry| {
        CreatableTopicConfigs::default()
            .with_name(text(entry.name))
            .with_value(Some(text(entry.value)))
            .with_config_source(entry.source)
            .with_read_only(entry.is_read_only)
    });
    entries.collect()
}

async fn create_wanted(
    session: &Session,
    wanted: CreatableTopic,
    validate_only: bool,
) -> Result<(TopicId, u32, BTreeMap<String, String>), Failure> {
    let name = wanted.name.as_str();
    if session.authorize_cluster(Operation::Create).is_err() {
        session.authorize(Operation::Create, Resource::Topic, name)?;
    }
    if !wanted.assignments.is_empty()
        && (wanted.num_partitions, wanted.replication_factor) != (-1, -1)
    {
        return Err(Failure::new(
            ResponseError::InvalidRequest,
            "assignments are given beside a number of partitions or replicas",
        ));
    }
    let partition_count = if !wanted.assignments.is_empty() {
        u32::try_from(wanted.assignments.len()).unwrap_or(u32::MAX)
    } else if wanted.num_partitions == -1 {
        session.shared.options.partition_count
    } else {
        u32::try_from(wanted.num_partitions).unwrap_or(0)
    };
    if !matches!(wanted.replication_factor, -1 | 1) {
        return Err(Failure::new(
            ResponseError::InvalidReplicationFactor,
            format!(
                "replication factor {}: this is a cluster of one broker",
                wanted.replication_factor
            ),
        ));
    }
    let config: BTreeMap<String, String> = wanted
        .configs
        .iter()
        .filter_map(|entry| Some((entry.name.to_string(), entry.value.as_ref()?.to_string())))
        .collect();
    if let Some(problem) = configs::problem(session, &config) {
        return Err(Failure::new(ResponseError::InvalidConfig, problem));
    }
    if validate_only {
        validate(session, name, partition_count)?;
        return Ok((TopicId::default(), partition_count, config));
    }
    let topic_id = create_one(session, name, partition_count, config.clone()).await?;
    Ok((topic_id, partition_count, config))
}

/// What the machine would say, without doing it.
fn validate(session: &Session, name: &str, partition_count: u32) -> Result<(), Failure> {
    if let Some(problem) = topic::name_problem(name) {
        return Err(Failure::new(ResponseError::InvalidTopicException, problem));
    }
    if partition_count == 0 || partition_count > topic::PARTITIONS_MAX {
        let message = format!("1 to {} partitions", topic::PARTITIONS_MAX);
        return Err(Failure::new(ResponseError::InvalidPartitions, message));
    }
    match session.shared.topics.info(&*session.shared.kernel, name)? {
        None => Ok(()),
        Some(_) => Err(Failure::new(
            ResponseError::TopicAlreadyExists,
            format!("topic '{name}' exists already"),
        )),
    }
}

/// Topics that one look at the state collects, so that commits do not wait for a long list.
const TOPICS_PER_READ_MAX: usize = 500;

/// All topics, by name.
pub(crate) fn all(session: &Session) -> Result<Vec<TopicInfo>, Failure> {
    let mut topics: Vec<TopicInfo> = Vec::new();
    loop {
        let after = topics.last().map(|topic| topic.name.clone());
        let more = session
            .shared
            .kernel
            .read(|view| read::topics_after(view.state, after.as_deref(), TOPICS_PER_READ_MAX))?;
        let is_last = more.len() < TOPICS_PER_READ_MAX;
        topics.extend(more);
        if is_last {
            return Ok(topics);
        }
    }
}

/// The error for a partition that was not found: the name may mean another topic by now, and a
/// request by topic id (from version 13 on, for Produce and Fetch) is told if there is none.
pub(crate) fn not_found(
    session: &Session,
    version: i16,
    name: &str,
    topic_id: Uuid,
) -> ResponseError {
    session.shared.topics.forget(name);
    let topic_id = TopicId(topic_id.into_bytes());
    let by_id = || session.shared.kernel.read(|view| read::topic(view.state, topic_id));
    if version >= 13 && matches!(by_id(), Ok(None)) {
        ResponseError::UnknownTopicId
    } else {
        ResponseError::UnknownTopicOrPartition
    }
}

/// Refuses what the client may not do with a topic, whose name is looked up where it is not given.
pub(crate) fn authorize(
    session: &Session,
    operation: Operation,
    topic_id: TopicId,
    name: &str,
) -> Result<(), Failure> {
    if !name.is_empty() {
        return session.authorize(operation, Resource::Topic, name);
    }
    let found = session.shared.kernel.read(|view| read::topic(view.state, topic_id))?;
    // One that is not there is refused for that.
    found.map_or(Ok(()), |info| session.authorize(operation, Resource::Topic, &info.name))
}

/// The topic called `name`, if the client may do this with it.
pub(crate) fn permitted(
    session: &Session,
    operation: Operation,
    name: &str,
) -> Result<TopicInfo, Failure> {
    session.authorize(operation, Resource::Topic, name)?;
    existing(session, name)
}

/// The topic called `name`.
pub(crate) fn existing(session: &Session, name: &str) -> Result<TopicInfo, Failure> {
    session.shared.topics.info(&*session.shared.kernel, name)?.ok_or_else(|| {
        let message = format!("there is no topic '{name}'");
        Failure::new(ResponseError::UnknownTopicOrPartition, message)
    })
}

pub(crate) async fn delete(
    session: &Arc<Session>,
    version: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let wanted: Vec<DeleteTopicState> = if version >= 6 {
        request.topics
    } else {
        let named = |name: TopicName| DeleteTopicState::default().with_name(Some(name));
        request.topic_names.into_iter().map(named).collect()
    };
    let mut results = Vec::with_capacity(wanted.len());
    for topic in wanted {
        let result = DeletableTopicResult::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id);
        results.push(match delete_one(session, &topic).await {
            Ok(info) => result
                .with_name(Some(TopicName(text(info.name))))
                .with_topic_id(Uuid::from_bytes(info.topic_id.0)),
            Err(failure) => result
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message))),
        });
    }
    DeleteTopicsResponse::default().with_responses(results)
}

async fn delete_one(session: &Session, topic: &DeleteTopicState) -> Result<TopicInfo, Failure> {
    let info = match &topic.name {
        Some(name) => existing(session, name.as_str())?,
        None => {
            let topic_id = TopicId(topic.topic_id.into_bytes());
            let found = session.shared.kernel.read(|view| read::topic(view.state, topic_id))?;
            found.ok_or_else(|| {
                Failure::new(ResponseError::UnknownTopicId, format!("no topic {topic_id}"))
            })?
        }
    };
    session.authorize(Operation::Delete, Resource::Topic, &info.name)?;
    commit(session, topic::Op::DeleteTopic { topic_id: info.topic_id }).await?;
    Ok(info)
}

pub(crate) async fn grow(
    session: &Arc<Session>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let result = CreatePartitionsTopicResult::default().with_name(wanted.name.clone());
        results.push(match grow_one(session, &wanted, request.validate_only).await {
            Ok(()) => result,
            Err(failure) => result
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message))),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

async fn grow_one(
    session: &Session,
    wanted: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), Failure> {
    let info = permitted(session, Operation::Alter, wanted.name.as_str())?;
    let partition_count = u32::try_from(wanted.count).unwrap_or(0);
    if validate_only && partition_count > info.partition_count {
        return Ok(());
    }
    commit(session, topic::Op::GrowTopic { topic_id: info.topic_id, partition_count }).await?;
    Ok(())
}

pub(crate) async fn delete_records(
    session: &Arc<Session>,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let mut partitions = Vec::with_capacity(wanted.partitions.len());
        for partition in &wanted.partitions {
            let index = partition.partition_index;
            let result = DeleteRecordsPartitionResult::default().with_partition_index(index);
            let deleted =
                delete_before(session, wanted.name.as_str(), index, partition.offset).await;
            partitions.push(match deleted {
                Ok(log_start_offset) => result.with_low_watermark(log_start_offset),
                Err(failure) => result.with_low_watermark(-1).with_error_code(failure.code()),
            });
        }
        let result = DeleteRecordsTopicResult::default().with_name(wanted.name);
        results.push(result.with_partitions(partitions));
    }
    DeleteRecordsResponse::default().with_topics(results)
}

async fn delete_before(
    session: &Session,
    name: &str,
    index: i32,
    offset: i64,
) -> Result<i64, Failure> {
    let info = permitted(session, Operation::Delete, name)?;
    let op = topic::Op::DeleteRecords {
        topic_id: info.topic_id,
        partition: partition_number(index).unwrap_or(u32::MAX),
        // -1 is the high watermark.
        before_offset: (offset != -1).then_some(offset),
    };
    match commit(session, op).await? {
        topic::Reply::LogStart(log_start_offset) => Ok(log_start_offset),
        _ => Err(unexpected_reply()),
    }
}
