//! DescribeConfigs and IncrementalAlterConfigs, for topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use proteus_kernel_api::topic::{self, BATCH_BYTES_MAX_DEFAULT, settings};

use super::{text, topics};
use crate::errors::Failure;
use crate::session::Session;

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
/// Set for the topic itself, as opposed to a default.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;
const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;
const TYPE_STRING: i8 = 2;

/// One setting as it is in force.
pub(crate) struct Entry {
    pub name: String,
    pub value: String,
    pub source: i8,
}

/// Settings that hold where a topic does not say otherwise. Unlike Kafka's, nothing is deleted by
/// default.
fn defaults() -> BTreeMap<String, String> {
    [
        (settings::CLEANUP_POLICY, "delete".to_owned()),
        (settings::MAX_MESSAGE_BYTES, BATCH_BYTES_MAX_DEFAULT.to_string()),
        (settings::RETENTION_BYTES, "-1".to_owned()),
        (settings::RETENTION_MS, "-1".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        ("min.insync.replicas", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The settings in force, by name.
pub(crate) fn effective(config: &BTreeMap<String, String>) -> Vec<Entry> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for (source, settings) in [(SOURCE_DEFAULT, &defaults()), (SOURCE_TOPIC, config)] {
        for (name, value) in settings {
            let entry = Entry { name: name.clone(), value: value.clone(), source };
            entries.insert(name.clone(), entry);
        }
    }
    entries.into_values().collect()
}

pub(crate) fn describe(
    session: &Session,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe_one(session, &resource) {
            Ok(entries) => result.with_configs(entries),
            Err(failure) => result
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message))),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn describe_one(
    session: &Session,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, Failure> {
    let entries = match resource.resource_type {
        RESOURCE_TOPIC => effective(&topics::existing(session, &resource.resource_name)?.config),
        RESOURCE_BROKER => broker(session),
        other => return Err(unsupported_resource(other)),
    };
    let is_wanted = |entry: &Entry| match &resource.configuration_keys {
        Some(keys) => keys.iter().any(|key| **key == entry.name),
        None => true,
    };
    let results = entries.into_iter().filter(is_wanted).map(|entry| {
        DescribeConfigsResourceResult::default()
            .with_name(text(entry.name))
            .with_value(Some(text(entry.value)))
            .with_config_source(entry.source)
            .with_config_type(TYPE_STRING)
            .with_read_only(resource.resource_type == RESOURCE_BROKER)
    });
    Ok(results.collect())
}

fn broker(session: &Session) -> Vec<Entry> {
    let options = &session.shared.options;
    [
        ("auto.create.topics.enable", options.creates_topics.to_string()),
        ("default.replication.factor", "1".to_owned()),
        ("num.partitions", options.partition_count.to_string()),
    ]
    .map(|(name, value)| Entry { name: name.to_owned(), value, source: SOURCE_DEFAULT })
    .into()
}

fn unsupported_resource(resource_type: i8) -> Failure {
    Failure::new(
        ResponseError::InvalidRequest,
        format!("settings of resource type {resource_type} are not supported; those of topics are"),
    )
}

pub(crate) async fn alter(
    session: &Arc<Session>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        responses.push(match alter_one(session, &resource, request.validate_only).await {
            Ok(()) => response,
            Err(failure) => response
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message))),
        });
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

async fn alter_one(
    session: &Session,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), Failure> {
    if resource.resource_type != RESOURCE_TOPIC {
        return Err(unsupported_resource(resource.resource_type));
    }
    let info = topics::existing(session, &resource.resource_name)?;
    let mut config = BTreeMap::new();
    for entry in &resource.configs {
        let value = match (entry.config_operation, &entry.value) {
            (OPERATION_SET, Some(value)) => Some(value.to_string()),
            (OPERATION_DELETE, _) => None,
            (operation, _) => {
                return Err(Failure::new(
                    ResponseError::InvalidRequest,
                    format!(
                        "operation {operation} on '{}'; set and delete are supported",
                        entry.name.as_str()
                    ),
                ));
            }
        };
        config.insert(entry.name.to_string(), value);
    }
    if validate_only {
        return Ok(());
    }
    topics::commit(session, topic::Op::ConfigureTopic { topic_id: info.topic_id, config }).await?;
    Ok(())
}
