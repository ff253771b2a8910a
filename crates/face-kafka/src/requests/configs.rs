//! DescribeConfigs, IncrementalAlterConfigs, AlterConfigs, ListConfigResources.
//!
//! Settings of topics and groups are theirs to change. Those of the broker are told, and changed in the node's
//! configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse as AlteredOld;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListConfigResourcesRequest,
    ListConfigResourcesResponse,
};
use proteus_kernel_api::topic::read::ConfigReader;
use proteus_kernel_api::topic::{self, TopicId, groups};

use super::config_table::{self, Kind, Known};
use super::{text, topics};
use crate::acl::{Operation, Resource};
use crate::brokers::this;
use crate::errors::Failure;
use crate::session::Session;

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const RESOURCE_CLIENT_METRICS: i8 = 16;
const RESOURCE_GROUP: i8 = 32;
/// Set for the topic or group itself, as opposed to the broker, or to a default.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_GROUP: i8 = 8;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;
/// Most groups with settings that are listed.
const GROUPS_MAX: usize = 10_000;
const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;
const OPERATION_APPEND: i8 = 2;
const OPERATION_SUBTRACT: i8 = 3;

/// One setting as it is in force.
pub(crate) struct Entry {
    pub name: String,
    pub value: String,
    pub default: Option<String>,
    pub source: i8,
    pub kind: Kind,
    pub is_read_only: bool,
}

/// The settings of a topic in force, by name.
pub(crate) fn effective(config: &BTreeMap<String, String>) -> Vec<Entry> {
    effective_of(config_table::of_topics(), config, SOURCE_TOPIC)
}

fn effective_of(all: Vec<Known>, config: &BTreeMap<String, String>, source_own: i8) -> Vec<Entry> {
    let entry = |known: Known| {
        let own = config.get(known.name);
        Entry {
            name: known.name.to_owned(),
            value: own.unwrap_or(&known.default).clone(),
            source: if own.is_some() { source_own } else { SOURCE_DEFAULT },
            default: Some(known.default),
            kind: known.kind,
            is_read_only: false,
        }
    };
    all.into_iter().map(entry).collect()
}

/// What is wrong with settings that somebody wants for a topic.
pub(crate) fn problem(session: &Session, config: &BTreeMap<String, String>) -> Option<String> {
    let (options, kernel) = (&session.shared.options, &*session.shared.kernel);
    if ConfigReader(config).has_remote_storage() && options.objects_for(kernel).is_none() {
        let message = "remote.storage.enable=true needs an object store that all nodes reach; configure object_store";
        return Some(message.to_owned());
    }
    let all = config_table::of_topics();
    for (name, value) in config {
        match all.iter().find(|known| known.name == name) {
            None => return Some(format!("Unknown topic config name: {name}")),
            Some(known) => {
                if let Some(problem) = known.problem(value) {
                    return Some(problem);
                }
            }
        }
    }
    ConfigReader(config).problem()
}

fn invalid_config(message: String) -> Failure {
    Failure::new(ResponseError::InvalidConfig, message)
}

pub(crate) fn describe(
    session: &Session,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let with_synonyms = request.include_synonyms;
    let results = request.resources.into_iter().map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe_one(session, &resource, with_synonyms) {
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
    with_synonyms: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, Failure> {
    let name = resource.resource_name.as_str();
    if resource.resource_type == RESOURCE_BROKER {
        session.authorize_cluster(Operation::DescribeConfigs)?;
    } else if resource.resource_type == RESOURCE_GROUP {
        session.authorize(Operation::DescribeConfigs, Resource::Group, name)?;
    }
    let entries = match resource.resource_type {
        RESOURCE_TOPIC => {
            effective(&topics::permitted(session, Operation::DescribeConfigs, name)?.config)
        }
        // An empty name means what holds for all brokers.
        RESOURCE_BROKER if name.is_empty() || name == this(session).0.to_string() => {
            let source = if name.is_empty() { SOURCE_DEFAULT } else { SOURCE_STATIC_BROKER };
            read_only(config_table::of_broker(&session.shared.options, this(session).0), source)
        }
        RESOURCE_BROKER => {
            let message = format!("this is broker {}, and not '{name}'", this(session).0);
            return Err(Failure::new(ResponseError::InvalidRequest, message));
        }
        RESOURCE_GROUP => {
            let own = session.shared.kernel.read(|view| groups::settings(view.state, name))?;
            effective_of(config_table::of_groups(&session.shared.options), &own, SOURCE_GROUP)
        }
        other => return Err(unsupported_resource(other)),
    };
    let is_wanted = |entry: &Entry| match &resource.configuration_keys {
        Some(keys) => keys.iter().any(|key| **key == entry.name),
        None => true,
    };
    let results = entries.into_iter().filter(is_wanted).map(|entry| {
        let synonyms = if with_synonyms { synonyms(&entry) } else { Vec::new() };
        DescribeConfigsResourceResult::default()
            .with_name(text(entry.name))
            .with_value(Some(text(entry.value)))
            .with_config_source(entry.source)
            .with_config_type(entry.kind as i8)
            .with_read_only(entry.is_read_only)
            .with_synonyms(synonyms)
    });
    Ok(results.collect())
}

/// Where the value comes from, and what would hold without that.
fn synonyms(entry: &Entry) -> Vec<DescribeConfigsSynonym> {
    let synonym = |value: &str, source: i8| {
        DescribeConfigsSynonym::default()
            .with_name(text(entry.name.clone()))
            .with_value(Some(text(value)))
            .with_source(source)
    };
    let mut synonyms = vec![synonym(&entry.value, entry.source)];
    if let Some(default) = &entry.default
        && entry.source != SOURCE_DEFAULT
    {
        synonyms.push(synonym(default, SOURCE_DEFAULT));
    }
    synonyms
}

fn read_only(settings: Vec<Known>, source: i8) -> Vec<Entry> {
    let entry = |known: Known| Entry {
        name: known.name.to_owned(),
        value: known.default,
        default: None,
        source,
        kind: known.kind,
        is_read_only: true,
    };
    settings.into_iter().map(entry).collect()
}

fn unsupported_resource(resource_type: i8) -> Failure {
    Failure::new(
        ResponseError::InvalidRequest,
        format!(
            "settings of resource type {resource_type} are not supported; those of topics (2), brokers (4) and groups (32) are"
        ),
    )
}

/// Whose settings are to be changed.
enum Subject {
    Topic(TopicId),
    Group(String),
}

/// What has settings, and those that were set for it.
struct Alterable {
    subject: Subject,
    config: BTreeMap<String, String>,
    /// All that can be set.
    known: Vec<Known>,
}

fn alterable(session: &Session, resource_type: i8, name: &str) -> Result<Alterable, Failure> {
    match resource_type {
        RESOURCE_TOPIC => {
            let info = topics::permitted(session, Operation::AlterConfigs, name)?;
            Ok(Alterable {
                subject: Subject::Topic(info.topic_id),
                config: info.config,
                known: config_table::of_topics(),
            })
        }
        RESOURCE_GROUP => {
            session.authorize(Operation::AlterConfigs, Resource::Group, name)?;
            if name.is_empty() {
                return Err(Failure::new(ResponseError::InvalidRequest, "the group has no name"));
            }
            Ok(Alterable {
                subject: Subject::Group(name.to_owned()),
                config: session.shared.kernel.read(|view| groups::settings(view.state, name))?,
                known: config_table::of_groups(&session.shared.options),
            })
        }
        RESOURCE_BROKER => Err(Failure::new(
            ResponseError::InvalidRequest,
            "settings of brokers are changed in the node's configuration",
        )),
        other => Err(unsupported_resource(other)),
    }
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
    let before = alterable(session, resource.resource_type, resource.resource_name.as_str())?;
    let mut after = before.config.clone();
    for entry in &resource.configs {
        match altered(&before.known, &after, entry)? {
            Some(value) => after.insert(entry.name.to_string(), value),
            None => after.remove(entry.name.as_str()),
        };
    }
    let names = resource.configs.iter().map(|entry| entry.name.to_string());
    let changes = names.map(|name| (name.clone(), after.get(&name).cloned())).collect();
    apply(session, &before, &after, changes, validate_only).await
}

/// The value of a setting after one change; `None`: the default.
fn altered(
    all: &[Known],
    before: &BTreeMap<String, String>,
    entry: &AlterableConfig,
) -> Result<Option<String>, Failure> {
    let name = entry.name.as_str();
    let known = all.iter().find(|known| known.name == name);
    let known = known.ok_or_else(|| invalid_config(format!("Unknown config name: {name}")))?;
    let value = || {
        let missing = || invalid_config(format!("no value for {name}"));
        entry.value.as_ref().map(|value| value.to_string()).ok_or_else(missing)
    };
    match entry.config_operation {
        OPERATION_SET => value().map(Some),
        OPERATION_DELETE => Ok(None),
        operation @ (OPERATION_APPEND | OPERATION_SUBTRACT) if known.kind == Kind::List => {
            let now = before.get(name).unwrap_or(&known.default);
            let mut parts: Vec<String> = now
                .split(',')
                .map(str::trim)
                .filter(|p| !p.is_empty())
                .map(str::to_owned)
                .collect();
            for part in value()?.split(',').map(str::trim) {
                parts.retain(|known| known != part);
                if operation == OPERATION_APPEND {
                    parts.push(part.to_owned());
                }
            }
            Ok(Some(parts.join(",")))
        }
        OPERATION_APPEND | OPERATION_SUBTRACT => {
            Err(invalid_config(format!("{name} is no list, to which could be added")))
        }
        operation => Err(Failure::new(
            ResponseError::InvalidRequest,
            format!("operation {operation} on {name}"),
        )),
    }
}

async fn apply(
    session: &Session,
    before: &Alterable,
    after: &BTreeMap<String, String>,
    changes: BTreeMap<String, Option<String>>,
    validate_only: bool,
) -> Result<(), Failure> {
    let problem = match &before.subject {
        Subject::Topic(_) => problem(session, after),
        Subject::Group(_) => after.iter().find_map(|(name, value)| {
            match before.known.iter().find(|known| known.name == name) {
                Some(known) => known.problem(value),
                None => Some(format!("Unknown group config name: {name}")),
            }
        }),
    };
    if let Some(problem) = problem {
        return Err(invalid_config(problem));
    }
    if validate_only {
        return Ok(());
    }
    let op = match &before.subject {
        Subject::Topic(topic_id) => {
            topic::Op::ConfigureTopic { topic_id: *topic_id, config: changes }
        }
        Subject::Group(group) => {
            topic::Op::ConfigureGroup { group: group.clone(), config: changes }
        }
    };
    topics::commit(session, op).await?;
    Ok(())
}

/// The older request, which says all settings: those that it leaves out have their defaults.
pub(crate) async fn replace(
    session: &Arc<Session>,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let name = resource.resource_name.clone();
        let response = AlteredOld::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(name.clone());
        let replaced = async {
            let before = alterable(session, resource.resource_type, name.as_str())?;
            let after: BTreeMap<String, String> = resource
                .configs
                .iter()
                .filter_map(|entry| {
                    Some((entry.name.to_string(), entry.value.as_ref()?.to_string()))
                })
                .collect();
            let names = before.config.keys().chain(after.keys());
            let changes = names.map(|name| (name.clone(), after.get(name).cloned())).collect();
            apply(session, &before, &after, changes, request.validate_only).await
        };
        responses.push(match replaced.await {
            Ok(()) => response,
            Err(failure) => response
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message))),
        });
    }
    AlterConfigsResponse::default().with_responses(responses)
}

/// Version 0 asks for client metrics, of which there are none.
pub(crate) fn list_resources(
    session: &Session,
    version: i16,
    request: &ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let response = ListConfigResourcesResponse::default();
    if version == 0 {
        return response;
    }
    let all = [RESOURCE_TOPIC, RESOURCE_BROKER, RESOURCE_CLIENT_METRICS, RESOURCE_GROUP];
    let wanted = if request.resource_types.is_empty() { &all[..] } else { &request.resource_types };
    let mut resources = Vec::new();
    for resource_type in wanted {
        let names: Vec<String> = match *resource_type {
            RESOURCE_TOPIC => match topics::all(session) {
                Ok(topics) => topics.into_iter().map(|topic| topic.name).collect(),
                Err(failure) => return response.with_error_code(failure.code()),
            },
            RESOURCE_BROKER => vec![this(session).0.to_string()],
            RESOURCE_CLIENT_METRICS => Vec::new(),
            RESOURCE_GROUP => {
                match session.shared.kernel.read(|view| groups::configured(view.state, GROUPS_MAX))
                {
                    Ok(groups) => groups,
                    Err(error) => return response.with_error_code(Failure::from(error).code()),
                }
            }
            _ => return response.with_error_code(ResponseError::UnsupportedVersion.code()),
        };
        resources.extend(names.into_iter().map(|name| {
            ConfigResource::default()
                .with_resource_name(text(name))
                .with_resource_type(*resource_type)
        }));
    }
    response.with_config_resources(resources)
}
