//! `proteus topic groups`, `lag` and `reset-offsets`.

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    DescribeGroupsRequest, GroupId, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
    TopicName,
};

use super::client::{Cluster, call, check, text};
use super::records::{From, LATEST, offset_at};

/// Lists the groups of all brokers.
pub(super) async fn list(cluster: &mut Cluster) -> Result<String, String> {
    let brokers: Vec<i32> =
        cluster.metadata(None).await?.brokers.iter().map(|broker| broker.node_id.0).collect();
    let mut lines = Vec::new();
    for broker in brokers {
        let listed = call!(cluster, Some(broker), ListGroups, 2, ListGroupsRequest::default())?;
        check(listed.error_code, "groups")?;
        for group in listed.groups {
            let request =
                DescribeGroupsRequest::default().with_groups(vec![group.group_id.clone()]);
            let described = call!(cluster, Some(broker), DescribeGroups, 2, request)?;
            let described = described.groups.first();
            let state = described.map(|group| group.group_state.to_string()).unwrap_or_default();
            let members = described.map_or(0, |group| group.members.len());
            lines.push(format!("{}\t{state}\t{members}\n", group.group_id.as_str()));
        }
    }
    lines.sort_unstable();
    Ok(format!("GROUP\tSTATE\tMEMBERS\n{}", lines.concat()))
}

/// Topic, partition and offset of everything that a group has committed.
pub(super) async fn committed_offsets(
    cluster: &mut Cluster,
    group: &str,
) -> Result<Vec<(String, i32, i64)>, String> {
    let coordinator = cluster.coordinator(group).await?;
    let request =
        OffsetFetchRequest::default().with_group_id(GroupId(text(group))).with_topics(None);
    let response = call!(cluster, Some(coordinator), OffsetFetch, 5, request)?;
    check(response.error_code, &format!("offsets of '{group}'"))?;
    let mut offsets = Vec::new();
    for topic in &response.topics {
        for partition in &topic.partitions {
            check(partition.error_code, &format!("offsets of '{group}'"))?;
            if partition.committed_offset >= 0 {
                let index = partition.partition_index;
                offsets.push((topic.name.to_string(), index, partition.committed_offset));
            }
        }
    }
    offsets.sort_unstable();
    Ok(offsets)
}

/// Commits an offset for a group without members.
pub(super) async fn commit_offset(
    cluster: &mut Cluster,
    group: &str,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<(), String> {
    let coordinator = cluster.coordinator(group).await?;
    let wanted = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(-1)
        .with_committed_metadata(Some(text("")));
    let wanted = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partitions(vec![wanted]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![wanted]);
    let response = call!(cluster, Some(coordinator), OffsetCommit, 6, request)?;
    let found = response.topics.first().and_then(|topic| topic.partitions.first());
    check(found.map_or(0, |found| found.error_code), &format!("committing for '{group}'"))
}

/// How far a group is behind, partition by partition.
pub(super) async fn lag(cluster: &mut Cluster, group: &str) -> Result<String, String> {
    let mut text = "TOPIC\tPARTITION\tCOMMITTED\tEND\tLAG\n".to_owned();
    let mut total = 0;
    let mut leaders: Option<(String, Vec<(i32, i32)>)> = None;
    for (topic, partition, committed) in committed_offsets(cluster, group).await? {
        if leaders.as_ref().is_none_or(|(name, _)| *name != topic) {
            leaders = Some((topic.clone(), cluster.leaders(&topic).await?));
        }
        let known = leaders.iter().flat_map(|(_, leaders)| leaders);
        let leader = known.copied().find(|(index, _)| *index == partition);
        let Some(leader) = leader else { continue };
        let end = offset_at(cluster, &topic, leader, LATEST).await?;
        let lag = (end - committed).max(0);
        total += lag;
        text.push_str(&format!("{topic}\t{partition}\t{committed}\t{end}\t{lag}\n"));
    }
    text.push_str(&format!("total\t\t\t\t{total}\n"));
    Ok(text)
}

/// Sets what a group without members has committed for a topic; only says so unless `executes`.
pub(super) async fn reset(
    cluster: &mut Cluster,
    group: &str,
    topic: &str,
    to: From,
    executes: bool,
) -> Result<String, String> {
    let before = committed_offsets(cluster, group).await?;
    let mut text = "TOPIC\tPARTITION\tBEFORE\tAFTER\n".to_owned();
    for leader in cluster.leaders(topic).await? {
        let after = to.resolve(cluster, topic, leader).await?;
        let known = before.iter().find(|(name, index, _)| name == topic && *index == leader.0);
        let known = known.map_or("-".to_owned(), |(_, _, offset)| offset.to_string());
        if executes {
            commit_offset(cluster, group, topic, leader.0, after).await?;
        }
        text.push_str(&format!("{topic}\t{}\t{known}\t{after}\n", leader.0));
    }
    if !executes {
        text.push_str("nothing was changed; --execute does it\n");
    }
    Ok(text)
}
