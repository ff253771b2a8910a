//! ACLs: who is let in by which rule, request by request.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::*;
use proteus_face::Accounts;
use proteus_face_kafka::KafkaOptions;

use crate::client::{Client, text};
use crate::wire::{batch, fetch, produce, produced, values};
use crate::{call, served_with};

const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
const GROUP_AUTHORIZATION_FAILED: i16 = 30;
const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
const INVALID_REQUEST: i16 = 42;

async fn connect(address: SocketAddr, user: &str) -> Client {
    let mut client = Client::connect(address).await;
    let request = SaslHandshakeRequest::default().with_mechanism(text("PLAIN"));
    assert_eq!(call!(client, SaslHandshake, 1, request).error_code, 0);
    let request =
        SaslAuthenticateRequest::default().with_auth_bytes(format!("\0{user}\0secret").into());
    assert_eq!(call!(client, SaslAuthenticate, 2, request).error_code, 0);
    client
}

/// A rule that allows: kind of resource, name, whether it is a beginning, user, operation.
fn rule(kind: i8, name: &str, is_prefix: bool, user: &str, operation: i8) -> AclCreation {
    AclCreation::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_resource_pattern_type(if is_prefix { 4 } else { 3 })
        .with_principal(text(&format!("User:{user}")))
        .with_host(text("*"))
        .with_operation(operation)
        .with_permission_type(3)
}

async fn create_topic(client: &mut Client, name: &str) -> i16 {
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]);
    call!(client, CreateTopics, 5, request).topics[0].error_code
}

#[tokio::test]
async fn rules_decide_request_by_request() {
    let users = ["ann", "bob"].map(|user| (user.to_owned(), "secret".to_owned()));
    let options = KafkaOptions { super_users: vec!["ann".to_owned()], ..KafkaOptions::default() };
    let face = served_with(Accounts::new(BTreeMap::from(users)), options);
    let mut ann = connect(face.address, "ann").await;
    let mut bob = connect(face.address, "bob").await;
    // Without rules everyone who is admitted may do everything.
    assert_eq!(create_topic(&mut bob, "pay-in").await, 0);
    assert_eq!(create_topic(&mut bob, "open").await, 0);
    let creations = vec![
        rule(2, "pay-", true, "bob", 3),
        rule(3, "g", false, "ann", 3),
        rule(4, "kafka-cluster", false, "ann", 7),
        rule(5, "tx", false, "ann", 4),
        rule(2, "x", false, "no-colon", 3).with_principal(text("bob")),
        rule(4, "another", false, "bob", 3),
    ];
    let created = call!(ann, CreateAcls, 3, CreateAclsRequest::default().with_creations(creations));
    let codes: Vec<i16> = created.results.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [0, 0, 0, 0, INVALID_REQUEST, INVALID_REQUEST]);

    // bob may read what begins with pay-, which is closed to writers now; others are open.
    let refused = call!(bob, Produce, 9, produce("pay-in", 0, -1, batch("x")));
    assert_eq!(produced(&refused).0, TOPIC_AUTHORIZATION_FAILED);
    assert_eq!(produced(&call!(ann, Produce, 9, produce("pay-in", 0, -1, batch("a")))).0, 0);
    assert_eq!(produced(&call!(bob, Produce, 9, produce("open", 0, -1, batch("b")))).0, 0);
    assert_eq!(values(&call!(bob, Fetch, 12, fetch("pay-in", 0))), ["a"]);
    let remove =
        |name: &str| DeleteTopicsRequest::default().with_topic_names(vec![TopicName(text(name))]);
    let refused = call!(bob, DeleteTopics, 5, remove("pay-in"));
    assert_eq!(refused.responses[0].error_code, TOPIC_AUTHORIZATION_FAILED);
    assert_eq!(create_topic(&mut bob, "pay-out").await, TOPIC_AUTHORIZATION_FAILED);
    let group = JoinGroupRequest::default().with_group_id(GroupId(text("g")));
    assert_eq!(call!(bob, JoinGroup, 5, group).error_code, GROUP_AUTHORIZATION_FAILED);
    let groups = DescribeGroupsRequest::default().with_groups(vec![GroupId(text("g"))]);
    let described = call!(bob, DescribeGroups, 5, groups);
    assert_eq!(described.groups[0].error_code, GROUP_AUTHORIZATION_FAILED);
    let init = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text("tx"))))
        .with_transaction_timeout_ms(60_000);
    let refused = call!(bob, InitProducerId, 4, init);
    assert_eq!(refused.error_code, TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    let creations = vec![rule(2, "*", false, "bob", 2)];
    let request = CreateAclsRequest::default().with_creations(creations);
    let refused = call!(bob, CreateAcls, 3, request);
    assert_eq!(refused.results[0].error_code, CLUSTER_AUTHORIZATION_FAILED);

    // What bob does not see is not listed; what is deleted no longer counts.
    let creations = vec![rule(2, "open", false, "ann", 2)];
    call!(ann, CreateAcls, 3, CreateAclsRequest::default().with_creations(creations));
    let listed = call!(bob, Metadata, 5, MetadataRequest::default().with_topics(None));
    let names: Vec<&str> =
        listed.topics.iter().map(|topic| topic.name.as_ref().unwrap().as_str()).collect();
    assert_eq!(names, ["pay-in"]);
    let everything = DescribeAclsRequest::default()
        .with_resource_type_filter(1)
        .with_pattern_type_filter(1)
        .with_resource_name_filter(None)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1);
    let described = call!(ann, DescribeAcls, 3, everything.clone());
    assert_eq!(described.resources.len(), 5);
    // Every rule about the topic open.
    let filter = DeleteAclsFilter::default()
        .with_resource_type_filter(2)
        .with_resource_name_filter(Some(text("open")))
        .with_pattern_type_filter(2)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1);
    let deleted =
        call!(ann, DeleteAcls, 3, DeleteAclsRequest::default().with_filters(vec![filter]));
    assert_eq!(deleted.filter_results[0].matching_acls.len(), 1);
    assert_eq!(call!(ann, DescribeAcls, 3, everything).resources.len(), 4);
    assert_eq!(values(&call!(bob, Fetch, 12, fetch("open", 0))), ["b"]);
}
