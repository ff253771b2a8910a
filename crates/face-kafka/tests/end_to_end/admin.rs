//! What administrators ask, and what a cluster of one broker answers.

use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsResource as Replaced, AlterableConfig as NewConfig,
};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::*;

use crate::client::{Client, text};
use crate::wire::{batch, produce};
use crate::{call, served};

const INVALID_CONFIG: i16 = 40;
const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const ELECTION_NOT_NEEDED: i16 = 84;
const NO_REASSIGNMENT_IN_PROGRESS: i16 = 85;

fn name(name: &str) -> TopicName {
    TopicName(text(name))
}

async fn create(client: &mut Client, of: &str, count: i32, config: &[(&str, &str)]) -> i16 {
    let config = config.iter().map(|(key, value)| {
        CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(name(of))
        .with_num_partitions(count)
        .with_replication_factor(1)
        .with_configs(config.collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]);
    call!(client, CreateTopics, 7, request).topics[0].error_code
}

/// Value and source of a setting of topic `t`.
async fn setting(client: &mut Client, key: &str) -> (String, i8) {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configuration_keys(Some(vec![text(key)]));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true);
    let response = call!(client, DescribeConfigs, 4, request);
    let entry = &response.results[0].configs[0];
    assert_eq!(entry.synonyms[0].value, entry.value);
    (entry.value.as_ref().unwrap().to_string(), entry.config_source)
}

#[tokio::test]
async fn settings_are_known_checked_and_changed() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    for config in [("no.such.setting", "1"), ("segment.bytes", "big"), ("retention.ms", "soon")] {
        assert_eq!(create(&mut client, "t", 1, &[config]).await, INVALID_CONFIG, "{config:?}");
    }
    assert_eq!(create(&mut client, "t", 1, &[("segment.bytes", "1048576")]).await, 0);
    assert_eq!(setting(&mut client, "segment.bytes").await, ("1048576".to_owned(), 1));
    assert_eq!(setting(&mut client, "retention.ms").await, ("604800000".to_owned(), 5));
    for (operation, key, value, expected) in [
        (2, "cleanup.policy", Some("compact"), 0),
        (3, "cleanup.policy", Some("delete"), 0),
        (1, "segment.bytes", None, 0),
        (2, "segment.bytes", Some("1"), INVALID_CONFIG),
        (0, "no.such.setting", Some("1"), INVALID_CONFIG),
        (0, "min.cleanable.dirty.ratio", Some("2"), INVALID_CONFIG),
    ] {
        let config = AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(operation)
            .with_value(value.map(text));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("t"))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let response = call!(client, IncrementalAlterConfigs, 1, request);
        assert_eq!(response.responses[0].error_code, expected, "{operation} {key}");
    }
    assert_eq!(setting(&mut client, "cleanup.policy").await, ("compact".to_owned(), 1));
    assert_eq!(setting(&mut client, "segment.bytes").await.1, 5);
    // The older request replaces everything.
    let config =
        NewConfig::default().with_name(text("retention.ms")).with_value(Some(text("5000")));
    let resource = Replaced::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configs(vec![config]);
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(call!(client, AlterConfigs, 2, request).responses[0].error_code, 0);
    assert_eq!(setting(&mut client, "cleanup.policy").await, ("delete".to_owned(), 5));
    assert_eq!(setting(&mut client, "retention.ms").await, ("5000".to_owned(), 1));
    let broker = DescribeConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name(text("1"))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![broker]);
    let broker = call!(client, DescribeConfigs, 4, request);
    assert!(broker.results[0].configs.len() > 20 && broker.results[0].configs[0].read_only);
    let request = ListConfigResourcesRequest::default().with_resource_types(vec![2, 4]);
    let listed = call!(client, ListConfigResources, 1, request).config_resources;
    let listed: Vec<&str> = listed.iter().map(|resource| &*resource.resource_name).collect();
    assert_eq!(listed, ["t", "1"]);
}

#[tokio::test]
async fn a_partition_has_one_replica_that_leads_it() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    assert_eq!(create(&mut client, "a", 3, &[]).await, 0);
    assert_eq!(create(&mut client, "b", 2, &[]).await, 0);
    call!(client, Produce, 9, produce("a", 1, -1, batch("x")));
    let dirs =
        call!(client, DescribeLogDirs, 4, DescribeLogDirsRequest::default().with_topics(None));
    let topics = &dirs.results[0].topics;
    assert_eq!(topics.len(), 2);
    let sizes: Vec<i64> = topics[0].partitions.iter().map(|found| found.partition_size).collect();
    assert_eq!(sizes, [0, batch("x").len() as i64, 0]);

    let wanted = TopicPartitions::default().with_topic(name("a")).with_partitions(vec![0, 9]);
    let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![wanted]));
    let elected = call!(client, ElectLeaders, 2, request);
    let results = &elected.replica_election_results[0].partition_result;
    let codes: Vec<i16> = results.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [ELECTION_NOT_NEEDED, UNKNOWN_TOPIC_OR_PARTITION]);

    let to = |index: i32, replicas: Option<Vec<i32>>| {
        ReassignablePartition::default()
            .with_partition_index(index)
            .with_replicas(replicas.map(|ids| ids.into_iter().map(BrokerId).collect()))
    };
    let partitions = vec![to(0, Some(vec![1])), to(1, Some(vec![1, 2])), to(2, None), to(9, None)];
    let topic = ReassignableTopic::default().with_name(name("a")).with_partitions(partitions);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    let answered = call!(client, AlterPartitionReassignments, 1, request);
    let codes: Vec<i16> =
        answered.responses[0].partitions.iter().map(|result| result.error_code).collect();
    let expected =
        [0, INVALID_REPLICA_ASSIGNMENT, NO_REASSIGNMENT_IN_PROGRESS, UNKNOWN_TOPIC_OR_PARTITION];
    assert_eq!(codes, expected);

    // Page by page, over topics' ends.
    let mut seen = Vec::new();
    let mut cursor: Option<Cursor> = None;
    loop {
        let topics = ["b", "a", "none"].map(|of| TopicRequest::default().with_name(name(of)));
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(topics.into())
            .with_response_partition_limit(2)
            .with_cursor(cursor);
        let page = call!(client, DescribeTopicPartitions, 0, request);
        for topic in page.topics {
            let of = topic.name.as_ref().unwrap().to_string();
            seen.push((of.clone(), -i32::from(topic.error_code)));
            seen.extend(topic.partitions.iter().map(|found| (of.clone(), found.partition_index)));
        }
        let Some(next) = page.next_cursor else { break };
        cursor = Some(
            Cursor::default()
                .with_topic_name(next.topic_name)
                .with_partition_index(next.partition_index),
        );
    }
    let expected = [
        ("a", 0),
        ("a", 0),
        ("a", 1),
        ("a", 0),
        ("a", 2),
        ("b", 0),
        ("b", 0),
        ("b", 0),
        ("b", 1),
        ("none", -3),
    ];
    assert_eq!(seen, expected.map(|(of, number)| (of.to_owned(), number)));
}

#[tokio::test]
async fn who_exceeds_a_quota_is_told_to_wait() {
    use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
    use kafka_protocol::messages::describe_client_quotas_request::ComponentData;

    let face = served();
    let mut client = Client::connect(face.address).await;
    assert_eq!(create(&mut client, "t", 1, &[]).await, 0);
    let throttled = call!(client, Produce, 9, produce("t", 0, -1, batch("x")));
    assert_eq!(throttled.throttle_time_ms, 0);
    let alter = |client: &str, key: &str, value: f64, remove: bool| {
        let part = EntityData::default()
            .with_entity_type(text("client-id"))
            .with_entity_name(Some(text(client)));
        let op = OpData::default().with_key(text(key)).with_value(value).with_remove(remove);
        let entry = EntryData::default().with_entity(vec![part]).with_ops(vec![op]);
        AlterClientQuotasRequest::default().with_entries(vec![entry])
    };
    for (key, value, expected) in [
        ("producer_byte_rate", 50.0, 0),
        ("producer_byte_rate", -1.0, 42),
        ("request_percentage", 5.0, 42),
    ] {
        let altered = call!(client, AlterClientQuotas, 1, alter("test", key, value, false));
        assert_eq!(altered.entries[0].error_code, expected, "{key} {value}");
    }
    // 69 bytes a batch: the second is more than 50 bytes a second allow in one.
    call!(client, Produce, 9, produce("t", 0, -1, batch("x")));
    let throttled = call!(client, Produce, 9, produce("t", 0, -1, batch("x")));
    assert!(throttled.throttle_time_ms > 500, "{}", throttled.throttle_time_ms);
    // Its connection rests meanwhile; another client's does not.
    let mut other = Client::connect(face.address).await;
    let wanted = ComponentData::default()
        .with_entity_type(text("client-id"))
        .with_match_type(0)
        .with_match(Some(text("test")));
    let request =
        DescribeClientQuotasRequest::default().with_components(vec![wanted]).with_strict(true);
    let described = call!(other, DescribeClientQuotas, 1, request.clone()).entries.unwrap();
    assert_eq!(
        (&*described[0].values[0].key, described[0].values[0].value),
        ("producer_byte_rate", 50.0)
    );
    call!(other, AlterClientQuotas, 1, alter("test", "producer_byte_rate", 0.0, true));
    assert!(call!(other, DescribeClientQuotas, 1, request).entries.unwrap().is_empty());
    let free = call!(other, Produce, 9, produce("t", 0, -1, batch("x")));
    assert_eq!(free.throttle_time_ms, 0);
}

#[tokio::test]
async fn one_request_for_metadata_creates_so_many_topics() {
    use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
    let face = served();
    let mut client = Client::connect(face.address).await;
    let named = |number: usize| {
        let name = TopicName(text(&format!("topic-{number}")));
        MetadataRequestTopic::default().with_name(Some(name))
    };
    let request = MetadataRequest::default()
        .with_topics(Some((0..150).map(named).collect()))
        .with_allow_auto_topic_creation(true);
    let mut errors = Vec::new();
    for _ in 0..2 {
        let response = call!(client, Metadata, 9, request.clone());
        errors.push(response.topics.iter().filter(|topic| topic.error_code == 5).count());
    }
    assert_eq!(errors, [50, 0], "LEADER_NOT_AVAILABLE: the client asks again");
}
