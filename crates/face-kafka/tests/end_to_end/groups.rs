//! Consumer groups: members share, commit, leave and resume.

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteGroupsRequest, DescribeGroupsRequest, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest, TopicName,
};
use proteus_env::task;

use crate::client::{Client, text};
use crate::{call, served};

const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
const ILLEGAL_GENERATION: i16 = 22;

fn group() -> GroupId {
    GroupId(text("workers"))
}

fn join(member_id: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"subscription"));
    JoinGroupRequest::default()
        .with_group_id(group())
        .with_member_id(text(member_id))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

fn sync(joined: &JoinGroupResponse, shares: &[(&str, &'static str)]) -> SyncGroupRequest {
    let assignments = shares.iter().map(|(member_id, share)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member_id))
            .with_assignment(Bytes::from_static(share.as_bytes()))
    });
    SyncGroupRequest::default()
        .with_group_id(group())
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(assignments.collect())
}

fn heartbeat(joined: &JoinGroupResponse) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group())
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
}

fn commit(member_id: &str, generation: i32, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(0)
        .with_committed_metadata(Some(text("note")));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text("work")))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group())
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(text(member_id))
        .with_topics(vec![topic])
}

async fn create_topic(client: &mut Client) {
    let topic = CreatableTopic::default()
        .with_name(TopicName(text("work")))
        .with_num_partitions(2)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
    assert_eq!(call!(client, CreateTopics, 7, request).topics[0].error_code, 0);
}

async fn join_new(client: &mut Client) -> JoinGroupResponse {
    let promised = call!(client, JoinGroup, 9, join(""));
    assert_eq!(promised.error_code, MEMBER_ID_REQUIRED);
    let joined = call!(client, JoinGroup, 9, join(&promised.member_id));
    assert_eq!(joined.error_code, 0);
    assert_eq!(joined.member_id, promised.member_id);
    joined
}

#[tokio::test]
async fn members_share_commit_and_resume() {
    let face = served();
    let mut one = Client::connect(face.address).await;
    create_topic(&mut one).await;
    let joined = join_new(&mut one).await;
    assert_eq!(joined.leader, joined.member_id);
    let id_one = joined.member_id.to_string();
    let synced = call!(one, SyncGroup, 5, sync(&joined, &[(&id_one, "everything")]));
    assert_eq!(&synced.assignment[..], b"everything");

    // A second member: the first learns of it by its heartbeat, and both join anew.
    let mut two = Client::connect(face.address).await;
    let second = task::spawn(async move {
        let joined = join_new(&mut two).await;
        let synced = call!(two, SyncGroup, 5, sync(&joined, &[]));
        (two, joined, synced)
    });
    while call!(one, Heartbeat, 4, heartbeat(&joined)).error_code != REBALANCE_IN_PROGRESS {}
    let joined = call!(one, JoinGroup, 9, join(&id_one));
    assert_eq!((joined.error_code, joined.members.len()), (0, 2));
    let other = joined.members.iter().find(|member| *member.member_id != *id_one).unwrap();
    let shares = [(&*id_one, "half"), (&*other.member_id, "the other half")];
    let synced = call!(one, SyncGroup, 5, sync(&joined, &shares));
    assert_eq!(&synced.assignment[..], b"half");
    let (mut two, joined_two, synced_two) = second.await.unwrap();
    assert_eq!(&synced_two.assignment[..], b"the other half");
    assert_eq!(joined_two.generation_id, joined.generation_id);

    // Only members of this generation commit.
    let code = |response: kafka_protocol::messages::OffsetCommitResponse| {
        response.topics[0].partitions[0].error_code
    };
    let generation = joined.generation_id;
    assert_eq!(code(call!(one, OffsetCommit, 9, commit(&id_one, generation, 42))), 0);
    let stale = call!(one, OffsetCommit, 9, commit(&id_one, generation - 1, 7));
    assert_eq!(code(stale), ILLEGAL_GENERATION);
    assert_eq!(code(call!(one, OffsetCommit, 9, commit("x", generation, 7))), UNKNOWN_MEMBER_ID);
    assert_eq!(code(call!(one, OffsetCommit, 9, commit("", -1, 7))), UNKNOWN_MEMBER_ID);

    let described =
        call!(one, DescribeGroups, 6, DescribeGroupsRequest::default().with_groups(vec![group()]));
    assert_eq!(&*described.groups[0].group_state, "Stable");
    assert_eq!(described.groups[0].members.len(), 2);

    // Both leave; what was committed stays.
    for (client, joined) in [(&mut one, &joined), (&mut two, &joined_two)] {
        let member = MemberIdentity::default().with_member_id(joined.member_id.clone());
        let request =
            LeaveGroupRequest::default().with_group_id(group()).with_members(vec![member]);
        assert_eq!(call!(client, LeaveGroup, 5, request).members[0].error_code, 0);
    }
    let topic = OffsetFetchRequestTopics::default()
        .with_name(TopicName(text("work")))
        .with_partition_indexes(vec![0, 1]);
    for topics in [Some(vec![topic]), None] {
        let wanted =
            OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(topics.clone());
        let request = OffsetFetchRequest::default().with_groups(vec![wanted]);
        let fetched = call!(one, OffsetFetch, 8, request);
        let partitions = &fetched.groups[0].topics[0].partitions;
        assert_eq!(partitions[0].committed_offset, 42);
        assert_eq!(partitions[0].metadata.as_deref(), Some("note"));
        // Of one that was never committed nothing is known; asked for all, it is not named.
        assert_eq!(partitions.get(1).map(|p| p.committed_offset), topics.map(|_| -1));
    }
    let listed = call!(one, ListGroups, 5, ListGroupsRequest::default());
    assert_eq!(listed.groups.len(), 1);
    assert_eq!(&*listed.groups[0].group_state, "Empty");
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group()]);
    assert_eq!(call!(one, DeleteGroups, 2, request).results[0].error_code, 0);
    assert!(call!(one, ListGroups, 5, ListGroupsRequest::default()).groups.is_empty());
}
