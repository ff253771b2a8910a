//! `proteus topic mirror`: topics of another Kafka cluster, copied with their offsets.
//!
//! Batches are copied as they are framed and compressed, each at the offset it has in the original;
//! offsets that compaction and aborted transactions left out stay out; markers are copied, because
//! the last of them may be where the original ends. So what a group committed there means the same
//! here, and is copied, too. A mirror that is interrupted goes on where it was.

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    CreateTopicsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, TopicName,
};
use proteus_kernel_api::topic::settings::MIRROR;

use super::client::{Cluster, call, check, text};
use super::groups::{commit_offset, committed_offsets};
use super::records::{EARLIEST, LATEST, append, committed_batches, fetch, offset_at};
use crate::progress::progress;

/// Settings of topics that mean the same here, and are copied where the original sets them.
const COPIED: [&str; 8] = [
    "cleanup.policy",
    "delete.retention.ms",
    "max.compaction.lag.ms",
    "max.message.bytes",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "retention.bytes",
    "retention.ms",
];
/// Where a setting comes from that the topic itself has.
const SOURCE_TOPIC: i8 = 1;
const RESOURCE_TOPIC: i8 = 2;
const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;

/// What to copy.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub topics: Vec<String>,
    /// Groups whose committed offsets are copied.
    pub groups: Vec<String>,
    /// Whether to go on when everything is copied.
    pub follows: bool,
    /// Whether to open the copies to other producers in the end.
    pub finishes: bool,
}

/// Copies; says what it did.
pub(super) async fn run(
    source: &mut Cluster,
    target: &mut Cluster,
    plan: &Plan,
) -> Result<(), String> {
    for topic in &plan.topics {
        prepare(source, target, topic).await?;
    }
    loop {
        let mut copied = 0;
        for topic in &plan.topics {
            copied += copy(source, target, topic).await?;
        }
        for group in &plan.groups {
            copy_offsets(source, target, group, &plan.topics).await?;
        }
        if !plan.follows && copied == 0 {
            break;
        }
    }
    if plan.finishes {
        for topic in &plan.topics {
            set_mirroring(target, topic, OPERATION_DELETE).await?;
        }
    }
    Ok(())
}

/// Makes the copy like the original, unless it is there.
async fn prepare(source: &mut Cluster, target: &mut Cluster, topic: &str) -> Result<(), String> {
    let count = i32::try_from(source.leaders(topic).await?.len()).unwrap_or(i32::MAX);
    if let Ok(leaders) = target.leaders(topic).await {
        if i32::try_from(leaders.len()) != Ok(count) {
            return Err(format!(
                "topic '{topic}' has {count} partitions there and {} here",
                leaders.len()
            ));
        }
        return set_mirroring(target, topic, OPERATION_SET).await;
    }
    let resource = DescribeConfigsResource::default()
        .with_resource_type(RESOURCE_TOPIC)
        .with_resource_name(text(topic))
        .with_configuration_keys(Some(COPIED.map(text).into()));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let described = call!(source, None, DescribeConfigs, 1, request)?;
    let mut configs = Vec::new();
    for result in &described.results {
        check(result.error_code, &format!("settings of '{topic}'"))?;
        for entry in result.configs.iter().filter(|entry| entry.config_source == SOURCE_TOPIC) {
            configs.push(
                CreatableTopicConfig::default()
                    .with_name(entry.name.clone())
                    .with_value(entry.value.clone()),
            );
        }
    }
    configs.push(
        CreatableTopicConfig::default().with_name(text(MIRROR)).with_value(Some(text("true"))),
    );
    let wanted = CreatableTopic::default()
        .with_name(TopicName(text(topic)))
        .with_num_partitions(count)
        .with_replication_factor(1)
        .with_configs(configs);
    let request = CreateTopicsRequest::default().with_topics(vec![wanted]).with_timeout_ms(30_000);
    let created = call!(target, None, CreateTopics, 4, request)?;
    for result in &created.topics {
        let why = result.error_message.as_deref().unwrap_or_default();
        check(result.error_code, &format!("creating '{topic}': {why}"))?;
    }
    Ok(())
}

async fn set_mirroring(target: &mut Cluster, topic: &str, operation: i8) -> Result<(), String> {
    let config = AlterableConfig::default()
        .with_name(text(MIRROR))
        .with_config_operation(operation)
        .with_value((operation == OPERATION_SET).then(|| text("true")));
    let resource = AlterConfigsResource::default()
        .with_resource_type(RESOURCE_TOPIC)
        .with_resource_name(text(topic))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let response = call!(target, None, IncrementalAlterConfigs, 0, request)?;
    for result in &response.responses {
        let why = result.error_message.as_deref().unwrap_or_default();
        check(result.error_code, &format!("setting {MIRROR} of '{topic}': {why}"))?;
    }
    Ok(())
}

/// Copies what is new in a topic; how many batches that was.
async fn copy(source: &mut Cluster, target: &mut Cluster, topic: &str) -> Result<u64, String> {
    let (from, to) = (source.leaders(topic).await?, target.leaders(topic).await?);
    let mut copied = 0;
    for (original, copy) in from.into_iter().zip(to) {
        let end = offset_at(source, topic, original, LATEST).await?;
        let begin = offset_at(source, topic, original, EARLIEST).await?;
        let mut offset = offset_at(target, topic, copy, LATEST).await?.max(begin);
        let bar = progress(Some((end - offset).max(0).cast_unsigned()), "offsets");
        bar.set_message(format!("of {topic}-{}", original.0));
        while offset < end {
            let data = fetch(source, topic, original, offset).await?;
            let (batches, next) = committed_batches(&data, offset, true)?;
            for (header, batch) in batches {
                // What the copy has already, it has whole: batches are the same in both.
                if header.base_offset >= offset {
                    append(target, topic, copy, copied_batch(&batch)).await?;
                    copied += 1;
                }
            }
            if next <= offset {
                break;
            }
            bar.inc((next - offset).cast_unsigned());
            offset = next;
        }
        bar.finish_and_clear();
    }
    Ok(copied)
}

/// The batch without its producer and transaction, which are the original's affair.
fn copied_batch(batch: &Bytes) -> Bytes {
    const TRANSACTIONAL_FLAG: u8 = 0x10;
    let mut bytes = batch.to_vec();
    if let Some(attributes) = bytes.get_mut(22) {
        *attributes &= !TRANSACTIONAL_FLAG;
    }
    if let Some(producer) = bytes.get_mut(43..57) {
        // Producer id, epoch and first sequence: -1 each.
        producer.fill(0xFF);
    }
    proteus_kernel_api::topic::batch::put_checksum(&mut bytes);
    Bytes::from(bytes)
}

async fn copy_offsets(
    source: &mut Cluster,
    target: &mut Cluster,
    group: &str,
    topics: &[String],
) -> Result<(), String> {
    for (topic, partition, offset) in committed_offsets(source, group).await? {
        if topics.contains(&topic) {
            commit_offset(target, group, &topic, partition, offset).await?;
        }
    }
    Ok(())
}
