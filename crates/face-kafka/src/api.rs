//! Which requests are served, in which versions.
//!
//! The ranges are those that Kafka 4.1 advertises, and of one release only: clients infer the
//! broker's version from single entries (kafka-python) or derive features from combinations
//! (librdkafka: record format 2 needs Produce 3 and Fetch 4, zstd needs Produce 7 and Fetch 10).

use kafka_protocol::messages::ApiKey;

/// One kind of request that is served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    pub api_key: ApiKey,
    /// As in metrics.
    pub name: &'static str,
    /// First and last version advertised, inclusive.
    pub version_min: i16,
    pub version_max: i16,
    /// First version that is understood; larger than `version_min` only for Produce.
    version_decoded_min: i16,
}

impl Served {
    pub(crate) fn decodes(&self, version: i16) -> bool {
        (self.version_decoded_min..=self.version_max).contains(&version)
    }
}

const fn served_in(
    api_key: ApiKey,
    name: &'static str,
    version_min: i16,
    version_max: i16,
) -> Served {
    Served { api_key, name, version_min, version_max, version_decoded_min: version_min }
}

/// Everything that is served, by API key.
pub(crate) const SERVED: &[Served] = &[
    // Kafka 4 advertises 0, which librdkafka's feature probe wants, and serves from 3 on: so do we.
    Served { version_decoded_min: 3, ..served_in(ApiKey::Produce, "Produce", 0, 13) },
    served_in(ApiKey::Fetch, "Fetch", 4, 18),
    served_in(ApiKey::ListOffsets, "ListOffsets", 1, 10),
    served_in(ApiKey::Metadata, "Metadata", 0, 13),
    served_in(ApiKey::OffsetCommit, "OffsetCommit", 2, 9),
    served_in(ApiKey::OffsetFetch, "OffsetFetch", 1, 9),
    served_in(ApiKey::FindCoordinator, "FindCoordinator", 0, 6),
    served_in(ApiKey::JoinGroup, "JoinGroup", 0, 9),
    served_in(ApiKey::Heartbeat, "Heartbeat", 0, 4),
    served_in(ApiKey::LeaveGroup, "LeaveGroup", 0, 5),
    served_in(ApiKey::SyncGroup, "SyncGroup", 0, 5),
    served_in(ApiKey::DescribeGroups, "DescribeGroups", 0, 6),
    served_in(ApiKey::ListGroups, "ListGroups", 0, 5),
    served_in(ApiKey::SaslHandshake, "SaslHandshake", 0, 1),
    served_in(ApiKey::ApiVersions, "ApiVersions", 0, 4),
    served_in(ApiKey::CreateTopics, "CreateTopics", 2, 7),
    served_in(ApiKey::DeleteTopics, "DeleteTopics", 1, 6),
    served_in(ApiKey::DeleteRecords, "DeleteRecords", 0, 2),
    served_in(ApiKey::InitProducerId, "InitProducerId", 0, 5),
    served_in(ApiKey::OffsetForLeaderEpoch, "OffsetForLeaderEpoch", 2, 4),
    served_in(ApiKey::AddPartitionsToTxn, "AddPartitionsToTxn", 0, 5),
    served_in(ApiKey::AddOffsetsToTxn, "AddOffsetsToTxn", 0, 4),
    served_in(ApiKey::EndTxn, "EndTxn", 0, 5),
    served_in(ApiKey::WriteTxnMarkers, "WriteTxnMarkers", 1, 1),
    served_in(ApiKey::TxnOffsetCommit, "TxnOffsetCommit", 0, 5),
    served_in(ApiKey::DescribeAcls, "DescribeAcls", 1, 3),
    served_in(ApiKey::CreateAcls, "CreateAcls", 1, 3),
    served_in(ApiKey::DeleteAcls, "DeleteAcls", 1, 3),
    served_in(ApiKey::DescribeConfigs, "DescribeConfigs", 1, 4),
    served_in(ApiKey::AlterConfigs, "AlterConfigs", 0, 2),
    served_in(ApiKey::AlterReplicaLogDirs, "AlterReplicaLogDirs", 1, 2),
    served_in(ApiKey::DescribeLogDirs, "DescribeLogDirs", 1, 4),
    served_in(ApiKey::SaslAuthenticate, "SaslAuthenticate", 0, 2),
    served_in(ApiKey::CreatePartitions, "CreatePartitions", 0, 3),
    served_in(ApiKey::DeleteGroups, "DeleteGroups", 0, 2),
    served_in(ApiKey::ElectLeaders, "ElectLeaders", 0, 2),
    served_in(ApiKey::IncrementalAlterConfigs, "IncrementalAlterConfigs", 0, 1),
    served_in(ApiKey::AlterPartitionReassignments, "AlterPartitionReassignments", 0, 1),
    served_in(ApiKey::ListPartitionReassignments, "ListPartitionReassignments", 0, 0),
    served_in(ApiKey::OffsetDelete, "OffsetDelete", 0, 0),
    served_in(ApiKey::DescribeClientQuotas, "DescribeClientQuotas", 0, 1),
    served_in(ApiKey::AlterClientQuotas, "AlterClientQuotas", 0, 1),
    served_in(ApiKey::DescribeUserScramCredentials, "DescribeUserScramCredentials", 0, 0),
    served_in(ApiKey::AlterUserScramCredentials, "AlterUserScramCredentials", 0, 0),
    served_in(ApiKey::DescribeQuorum, "DescribeQuorum", 0, 2),
    served_in(ApiKey::DescribeCluster, "DescribeCluster", 0, 2),
    served_in(ApiKey::DescribeProducers, "DescribeProducers", 0, 0),
    served_in(ApiKey::DescribeTransactions, "DescribeTransactions", 0, 0),
    served_in(ApiKey::ListTransactions, "ListTransactions", 0, 2),
    served_in(ApiKey::ConsumerGroupHeartbeat, "ConsumerGroupHeartbeat", 0, 1),
    served_in(ApiKey::ConsumerGroupDescribe, "ConsumerGroupDescribe", 0, 1),
    served_in(ApiKey::ListConfigResources, "ListConfigResources", 0, 1),
    served_in(ApiKey::DescribeTopicPartitions, "DescribeTopicPartitions", 0, 0),
    served_in(ApiKey::ShareGroupHeartbeat, "ShareGroupHeartbeat", 1, 1),
    served_in(ApiKey::ShareGroupDescribe, "ShareGroupDescribe", 1, 1),
    served_in(ApiKey::ShareFetch, "ShareFetch", 1, 1),
    served_in(ApiKey::ShareAcknowledge, "ShareAcknowledge", 1, 1),
    served_in(ApiKey::DescribeShareGroupOffsets, "DescribeShareGroupOffsets", 0, 0),
    served_in(ApiKey::AlterShareGroupOffsets, "AlterShareGroupOffsets", 0, 0),
    served_in(ApiKey::DeleteShareGroupOffsets, "DeleteShareGroupOffsets", 0, 0),
];

/// The entry of a request in [`SERVED`].
pub(crate) fn served(api_key: ApiKey) -> Option<&'static Served> {
    SERVED.iter().find(|served| served.api_key == api_key)
}

/// Its place in [`SERVED`].
pub(crate) fn served_index(api_key: ApiKey) -> Option<usize> {
    SERVED.iter().position(|served| served.api_key == api_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/faces/kafka.md");

    /// Key, request, versions and support of each row.
    fn rows() -> Vec<[&'static str; 4]> {
        let cells = |line: &'static str| line.split('|').map(str::trim).collect::<Vec<_>>();
        let rows = DOCUMENT.lines().map(cells).filter_map(|cells| match cells[..] {
            ["", key, request, versions, support, _, ""] if key.parse::<i16>().is_ok() => {
                Some([key, request, versions, support])
            }
            _ => None,
        });
        rows.collect()
    }

    #[test]
    fn support_table_says_what_is_served() {
        let rows = rows();
        for code in 0..=i16::from(u8::MAX) {
            let Ok(api_key) = ApiKey::try_from(code) else { continue };
            let row = rows.iter().find(|row| row[0] == code.to_string());
            let row = row.unwrap_or_else(|| panic!("{api_key:?} is not in docs/faces/kafka.md"));
            assert_eq!(row[1], format!("{api_key:?}"));
            match served(api_key) {
                Some(served) => {
                    let versions = format!("{}-{}", served.version_min, served.version_max);
                    assert_eq!(row[2], versions, "{api_key:?}");
                    assert!(matches!(row[3], "supported" | "differs"), "{api_key:?}: {}", row[3]);
                    assert_eq!(served.name, row[1]);
                }
                None => assert_eq!((row[2], row[3]), ("-", "refused"), "{api_key:?}"),
            }
        }
        let keys: std::collections::BTreeSet<_> = rows.iter().map(|row| row[0]).collect();
        assert_eq!(keys.len(), rows.len(), "a request stands twice in the table");
    }
}
