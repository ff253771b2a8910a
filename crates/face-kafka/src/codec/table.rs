//! What the requests of [`ApiKey`]s that the face serves look like, field by field.
//!
//! One table per request: the versions that have the field, and what it is. Source: Kafka protocol
//! guide, "The Messages". A test holds every table against the codec.

use kafka_protocol::messages::ApiKey;

use super::Kind::{Array, Blob, Fixed, List, Nullable, Struct, Text};
use super::{Shape, always, since, tagged, within};

/// The shape of a request; `None` if the face does not serve it.
pub(crate) fn shape_of(api_key: ApiKey) -> Option<&'static Shape> {
    let shape: &'static Shape = match api_key {
        ApiKey::Produce => &PRODUCE,
        ApiKey::Fetch => &FETCH,
        ApiKey::ListOffsets => &LIST_OFFSETS,
        ApiKey::Metadata => &METADATA,
        ApiKey::OffsetCommit => &OFFSET_COMMIT,
        ApiKey::OffsetFetch => &OFFSET_FETCH,
        ApiKey::FindCoordinator => &FIND_COORDINATOR,
        ApiKey::JoinGroup => &JOIN_GROUP,
        ApiKey::Heartbeat => &HEARTBEAT,
        ApiKey::LeaveGroup => &LEAVE_GROUP,
        ApiKey::SyncGroup => &SYNC_GROUP,
        ApiKey::DescribeGroups => &DESCRIBE_GROUPS,
        ApiKey::ListGroups => &LIST_GROUPS,
        ApiKey::SaslHandshake => &SASL_HANDSHAKE,
        ApiKey::ApiVersions => &API_VERSIONS,
        ApiKey::CreateTopics => &CREATE_TOPICS,
        ApiKey::DeleteTopics => &DELETE_TOPICS,
        ApiKey::DeleteRecords => &DELETE_RECORDS,
        ApiKey::InitProducerId => &INIT_PRODUCER_ID,
        ApiKey::OffsetForLeaderEpoch => &OFFSET_FOR_LEADER_EPOCH,
        ApiKey::DescribeConfigs => &DESCRIBE_CONFIGS,
        ApiKey::SaslAuthenticate => &SASL_AUTHENTICATE,
        ApiKey::CreatePartitions => &CREATE_PARTITIONS,
        ApiKey::DeleteGroups => &DELETE_GROUPS,
        ApiKey::IncrementalAlterConfigs => &INCREMENTAL_ALTER_CONFIGS,
        ApiKey::OffsetDelete => &OFFSET_DELETE,
        ApiKey::DescribeCluster => &DESCRIBE_CLUSTER,
        ApiKey::AddPartitionsToTxn => &ADD_PARTITIONS_TO_TXN,
        ApiKey::AddOffsetsToTxn => &ADD_OFFSETS_TO_TXN,
        ApiKey::EndTxn => &END_TXN,
        ApiKey::WriteTxnMarkers => &WRITE_TXN_MARKERS,
        ApiKey::DescribeQuorum => &DESCRIBE_QUORUM,
        ApiKey::TxnOffsetCommit => &TXN_OFFSET_COMMIT,
        ApiKey::DescribeProducers => &DESCRIBE_PRODUCERS,
        ApiKey::DescribeTransactions => &DESCRIBE_TRANSACTIONS,
        ApiKey::ListTransactions => &LIST_TRANSACTIONS,
        ApiKey::AlterConfigs => &ALTER_CONFIGS,
        ApiKey::DescribeLogDirs => &DESCRIBE_LOG_DIRS,
        ApiKey::AlterReplicaLogDirs => &ALTER_REPLICA_LOG_DIRS,
        ApiKey::ElectLeaders => &ELECT_LEADERS,
        ApiKey::AlterPartitionReassignments => &ALTER_PARTITION_REASSIGNMENTS,
        ApiKey::ListPartitionReassignments => &LIST_PARTITION_REASSIGNMENTS,
        ApiKey::DescribeTopicPartitions => &DESCRIBE_TOPIC_PARTITIONS,
        ApiKey::ListConfigResources => &LIST_CONFIG_RESOURCES,
        ApiKey::ConsumerGroupHeartbeat => &CONSUMER_GROUP_HEARTBEAT,
        ApiKey::ConsumerGroupDescribe => &CONSUMER_GROUP_DESCRIBE,
        ApiKey::DescribeUserScramCredentials => &DESCRIBE_USER_SCRAM_CREDENTIALS,
        ApiKey::AlterUserScramCredentials => &ALTER_USER_SCRAM_CREDENTIALS,
        ApiKey::DescribeAcls => &DESCRIBE_ACLS,
        ApiKey::CreateAcls => &CREATE_ACLS,
        ApiKey::DeleteAcls => &DELETE_ACLS,
        ApiKey::DescribeClientQuotas => &DESCRIBE_CLIENT_QUOTAS,
        ApiKey::AlterClientQuotas => &ALTER_CLIENT_QUOTAS,
        ApiKey::ShareGroupHeartbeat => &SHARE_GROUP_HEARTBEAT,
        ApiKey::ShareGroupDescribe => &CONSUMER_GROUP_DESCRIBE,
        ApiKey::ShareFetch => &SHARE_FETCH,
        ApiKey::ShareAcknowledge => &SHARE_ACKNOWLEDGE,
        ApiKey::DescribeShareGroupOffsets => &DESCRIBE_SHARE_GROUP_OFFSETS,
        ApiKey::AlterShareGroupOffsets => &ALTER_SHARE_GROUP_OFFSETS,
        ApiKey::DeleteShareGroupOffsets => &DELETE_SHARE_GROUP_OFFSETS,
        _ => return None,
    };
    Some(shape)
}

const WRITE_TXN_MARKERS: Shape = Shape {
    flexible_since: 1,
    fields: &[always(Array(&[
        always(Fixed(8)),
        always(Fixed(2)),
        always(Fixed(1)),
        always(Array(&[always(Text), always(List(&Fixed(4)))])),
        always(Fixed(4)),
    ]))],
};

const DESCRIBE_QUORUM: Shape = Shape {
    flexible_since: 0,
    fields: &[always(Array(&[always(Text), always(Array(&[always(Fixed(4))]))]))],
};

const PRODUCE: Shape = Shape {
    flexible_since: 9,
    fields: &[
        always(Text),
        always(Fixed(2)),
        always(Fixed(4)),
        always(Array(&[
            within(3, 12, Text),
            since(13, Fixed(16)),
            always(Array(&[always(Fixed(4)), always(Blob)])),
        ])),
    ],
};

const FETCH: Shape = Shape {
    flexible_since: 12,
    fields: &[
        within(4, 14, Fixed(4)),
        always(Fixed(4)),
        always(Fixed(4)),
        always(Fixed(4)),
        always(Fixed(1)),
        since(7, Fixed(4)),
        since(7, Fixed(4)),
        always(Array(&[
            within(4, 12, Text),
            since(13, Fixed(16)),
            always(Array(&[
                always(Fixed(4)),
                since(9, Fixed(4)),
                always(Fixed(8)),
                since(12, Fixed(4)),
                since(5, Fixed(8)),
                always(Fixed(4)),
                tagged(0, 17, Fixed(16)),
                tagged(1, 18, Fixed(8)),
            ])),
        ])),
        since(7, Array(&[within(7, 12, Text), since(13, Fixed(16)), since(7, List(&Fixed(4)))])),
        since(11, Text),
        tagged(0, 12, Text),
        tagged(1, 15, Struct(&[since(15, Fixed(4)), since(15, Fixed(8))])),
    ],
};

const LIST_OFFSETS: Shape = Shape {
    flexible_since: 6,
    fields: &[
        always(Fixed(4)),
        since(2, Fixed(1)),
        always(Array(&[
            always(Text),
            always(Array(&[always(Fixed(4)), since(4, Fixed(4)), always(Fixed(8))])),
        ])),
        since(10, Fixed(4)),
    ],
};

const METADATA: Shape = Shape {
    flexible_since: 9,
    fields: &[
        always(Array(&[since(10, Fixed(16)), always(Text)])),
        since(4, Fixed(1)),
        within(8, 10, Fixed(1)),
        since(8, Fixed(1)),
    ],
};

const OFFSET_COMMIT: Shape = Shape {
    flexible_since: 8,
    fields: &[
        always(Text),
        always(Fixed(4)),
        always(Text),
        since(7, Text),
        within(2, 4, Fixed(8)),
        always(Array(&[
            always(Text),
            always(Array(&[always(Fixed(4)), always(Fixed(8)), since(6, Fixed(4)), always(Text)])),
        ])),
    ],
};

const OFFSET_FETCH: Shape = Shape {
    flexible_since: 6,
    fields: &[
        within(1, 7, Text),
        within(1, 7, Array(&[within(1, 7, Text), within(1, 7, List(&Fixed(4)))])),
        since(
            8,
            Array(&[
                since(8, Text),
                since(9, Text),
                since(9, Fixed(4)),
                since(8, Array(&[since(8, Text), since(8, List(&Fixed(4)))])),
            ]),
        ),
        since(7, Fixed(1)),
    ],
};

const FIND_COORDINATOR: Shape = Shape {
    flexible_since: 3,
    fields: &[within(0, 3, Text), since(1, Fixed(1)), since(4, List(&Text))],
};

const JOIN_GROUP: Shape = Shape {
    flexible_since: 6,
    fields: &[
        always(Text),
        always(Fixed(4)),
        since(1, Fixed(4)),
        always(Text),
        since(5, Text),
        always(Text),
        always(Array(&[always(Text), always(Blob)])),
        since(8, Text),
    ],
};

const HEARTBEAT: Shape = Shape {
    flexible_since: 4,
    fields: &[always(Text), always(Fixed(4)), always(Text), since(3, Text)],
};

const LEAVE_GROUP: Shape = Shape {
    flexible_since: 4,
    fields: &[
        always(Text),
        within(0, 2, Text),
        since(3, Array(&[since(3, Text), since(3, Text), since(5, Text)])),
    ],
};

const SYNC_GROUP: Shape = Shape {
    flexible_since: 4,
    fields: &[
        always(Text),
        always(Fixed(4)),
        always(Text),
        since(3, Text),
        since(5, Text),
        since(5, Text),
        always(Array(&[always(Text), always(Blob)])),
    ],
};

const DESCRIBE_GROUPS: Shape =
    Shape { flexible_since: 5, fields: &[always(List(&Text)), since(3, Fixed(1))] };

const LIST_GROUPS: Shape =
    Shape { flexible_since: 3, fields: &[since(4, List(&Text)), since(5, List(&Text))] };

const SASL_HANDSHAKE: Shape = Shape { flexible_since: i16::MAX, fields: &[always(Text)] };

const API_VERSIONS: Shape = Shape { flexible_since: 3, fields: &[since(3, Text), since(3, Text)] };

const CREATE_TOPICS: Shape = Shape {
    flexible_since: 5,
    fields: &[
        always(Array(&[
            always(Text),
            always(Fixed(4)),
            always(Fixed(2)),
            always(Array(&[always(Fixed(4)), always(List(&Fixed(4)))])),
            always(Array(&[always(Text), always(Text)])),
        ])),
        always(Fixed(4)),
        always(Fixed(1)),
    ],
};

const DELETE_TOPICS: Shape = Shape {
    flexible_since: 4,
    fields: &[
        since(6, Array(&[since(6, Text), since(6, Fixed(16))])),
        within(1, 5, List(&Text)),
        always(Fixed(4)),
    ],
};

const DELETE_RECORDS: Shape = Shape {
    flexible_since: 2,
    fields: &[
        always(Array(&[always(Text), always(Array(&[always(Fixed(4)), always(Fixed(8))]))])),
        always(Fixed(4)),
    ],
};

const INIT_PRODUCER_ID: Shape = Shape {
    flexible_since: 2,
    fields: &[always(Text), always(Fixed(4)), since(3, Fixed(8)), since(3, Fixed(2))],
};

const OFFSET_FOR_LEADER_EPOCH: Shape = Shape {
    flexible_since: 4,
    fields: &[
        since(3, Fixed(4)),
        always(Array(&[
            always(Text),
            always(Array(&[always(Fixed(4)), always(Fixed(4)), always(Fixed(4))])),
        ])),
    ],
};

const DESCRIBE_CONFIGS: Shape = Shape {
    flexible_since: 4,
    fields: &[
        always(Array(&[always(Fixed(1)), always(Text), always(List(&Text))])),
        always(Fixed(1)),
        since(3, Fixed(1)),
    ],
};

const SASL_AUTHENTICATE: Shape = Shape { flexible_since: 2, fields: &[always(Blob)] };

const CREATE_PARTITIONS: Shape = Shape {
    flexible_since: 2,
    fields: &[
        always(Array(&[always(Text), always(Fixed(4)), always(Array(&[always(List(&Fixed(4)))]))])),
        always(Fixed(4)),
        always(Fixed(1)),
    ],
};

const DELETE_GROUPS: Shape = Shape { flexible_since: 2, fields: &[always(List(&Text))] };

const INCREMENTAL_ALTER_CONFIGS: Shape = Shape {
    flexible_since: 1,
    fields: &[
        always(Array(&[
            always(Fixed(1)),
            always(Text),
            always(Array(&[always(Text), always(Fixed(1)), always(Text)])),
        ])),
        always(Fixed(1)),
    ],
};

const OFFSET_DELETE: Shape = Shape {
    flexible_since: i16::MAX,
    fields: &[always(Text), always(Array(&[always(Text), always(Array(&[always(Fixed(4))]))]))],
};

const DESCRIBE_CLUSTER: Shape = Shape {
    flexible_since: 0,
    fields: &[always(Fixed(1)), since(1, Fixed(1)), since(2, Fixed(1))],
};

const ADD_PARTITIONS_TO_TXN: Shape = Shape {
    flexible_since: 3,
    fields: &[
        since(
            4,
            Array(&[
                since(4, Text),
                since(4, Fixed(8)),
                since(4, Fixed(2)),
                since(4, Fixed(1)),
                since(4, Array(&[always(Text), always(List(&Fixed(4)))])),
            ]),
        ),
        within(0, 3, Text),
        within(0, 3, Fixed(8)),
        within(0, 3, Fixed(2)),
        within(0, 3, Array(&[always(Text), always(List(&Fixed(4)))])),
    ],
};

const ADD_OFFSETS_TO_TXN: Shape = Shape {
    flexible_since: 3,
    fields: &[always(Text), always(Fixed(8)), always(Fixed(2)), always(Text)],
};

const END_TXN: Shape = Shape {
    flexible_since: 3,
    fields: &[always(Text), always(Fixed(8)), always(Fixed(2)), always(Fixed(1))],
};

const TXN_OFFSET_COMMIT: Shape = Shape {
    flexible_since: 3,
    fields: &[
        always(Text),
        always(Text),
        always(Fixed(8)),
        always(Fixed(2)),
        since(3, Fixed(4)),
        since(3, Text),
        since(3, Text),
        always(Array(&[
            always(Text),
            always(Array(&[always(Fixed(4)), always(Fixed(8)), since(2, Fixed(4)), always(Text)])),
        ])),
    ],
};

const DESCRIBE_PRODUCERS: Shape =
    Shape { flexible_since: 0, fields: &[always(Array(&[always(Text), always(List(&Fixed(4)))]))] };

const DESCRIBE_TRANSACTIONS: Shape = Shape { flexible_since: 0, fields: &[always(List(&Text))] };

const LIST_TRANSACTIONS: Shape = Shape {
    flexible_since: 0,
    fields: &[always(List(&Text)), always(List(&Fixed(8))), since(1, Fixed(8)), since(2, Text)],
};

const ALTER_CONFIGS: Shape = Shape {
    flexible_since: 2,
    fields: &[
        always(Array(&[
            always(Fixed(1)),
            always(Text),
            always(Array(&[always(Text), always(Text)])),
        ])),
        always(Fixed(1)),
    ],
};

const DESCRIBE_LOG_DIRS: Shape =
    Shape { flexible_since: 2, fields: &[always(Array(&[always(Text), always(List(&Fixed(4)))]))] };

const ALTER_REPLICA_LOG_DIRS: Shape = Shape {
    flexible_since: 2,
    fields: &[always(Array(&[
        always(Text),
        always(Array(&[always(Text), always(List(&Fixed(4)))])),
    ]))],
};

const ELECT_LEADERS: Shape = Shape {
    flexible_since: 2,
    fields: &[
        since(1, Fixed(1)),
        always(Array(&[always(Text), always(List(&Fixed(4)))])),
        always(Fixed(4)),
    ],
};

const ALTER_PARTITION_REASSIGNMENTS: Shape = Shape {
    flexible_since: 0,
    fields: &[
        always(Fixed(4)),
        since(1, Fixed(1)),
        always(Array(&[always(Text), always(Array(&[always(Fixed(4)), always(List(&Fixed(4)))]))])),
    ],
};

const LIST_PARTITION_REASSIGNMENTS: Shape = Shape {
    flexible_since: 0,
    fields: &[always(Fixed(4)), always(Array(&[always(Text), always(List(&Fixed(4)))]))],
};

const DESCRIBE_TOPIC_PARTITIONS: Shape = Shape {
    flexible_since: 0,
    fields: &[
        always(Array(&[always(Text)])),
        always(Fixed(4)),
        always(Nullable(&[always(Text), always(Fixed(4))])),
    ],
};

const LIST_CONFIG_RESOURCES: Shape =
    Shape { flexible_since: 0, fields: &[since(1, List(&Fixed(1)))] };

const CONSUMER_GROUP_HEARTBEAT: Shape = Shape {
    flexible_since: 0,
    fields: &[
        always(Text),
        always(Text),
        always(Fixed(4)),
        always(Text),
        always(Text),
        always(Fixed(4)),
        always(List(&Text)),
        since(1, Text),
        always(Text),
        always(Array(&[always(Fixed(16)), always(List(&Fixed(4)))])),
    ],
};

const CONSUMER_GROUP_DESCRIBE: Shape =
    Shape { flexible_since: 0, fields: &[always(List(&Text)), always(Fixed(1))] };

const DESCRIBE_USER_SCRAM_CREDENTIALS: Shape =
    Shape { flexible_since: 0, fields: &[always(Array(&[always(Text)]))] };

const ALTER_USER_SCRAM_CREDENTIALS: Shape = Shape {
    flexible_since: 0,
    fields: &[
        always(Array(&[always(Text), always(Fixed(1))])),
        always(Array(&[
            always(Text),
            always(Fixed(1)),
            always(Fixed(4)),
            always(Blob),
            always(Blob),
        ])),
    ],
};

const DESCRIBE_ACLS: Shape = Shape {
    flexible_since: 2,
    fields: &[
        always(Fixed(1)),
        always(Text),
        always(Fixed(1)),
        always(Text),
        always(Text),
        always(Fixed(1)),
        always(Fixed(1)),
    ],
};

const CREATE_ACLS: Shape = Shape {
    flexible_since: 2,
    fields: &[always(Array(&[
        always(Fixed(1)),
        always(Text),
        always(Fixed(1)),
        always(Text),
        always(Text),
        always(Fixed(1)),
        always(Fixed(1)),
    ]))],
};

const DELETE_ACLS: Shape = Shape {
    flexible_since: 2,
    fields: &[always(Array(&[
        always(Fixed(1)),
        always(Text),
        always(Fixed(1)),
        always(Text),
        always(Text),
        always(Fixed(1)),
        always(Fixed(1)),
    ]))],
};

const DESCRIBE_CLIENT_QUOTAS: Shape = Shape {
    flexible_since: 1,
    fields: &[always(Array(&[always(Text), always(Fixed(1)), always(Text)])), always(Fixed(1))],
};

const ALTER_CLIENT_QUOTAS: Shape = Shape {
    flexible_since: 1,
    fields: &[
        always(Array(&[
            always(Array(&[always(Text), always(Text)])),
            always(Array(&[always(Text), always(Fixed(8)), always(Fixed(1))])),
        ])),
        always(Fixed(1)),
    ],
};

const SHARE_GROUP_HEARTBEAT: Shape = Shape {
    flexible_since: 0,
    fields: &[always(Text), always(Text), always(Fixed(4)), always(Text), always(List(&Text))],
};

/// Partitions of a topic, and what is said of records of each.
const ACKNOWLEDGED_TOPICS: super::Kind = Array(&[
    always(Fixed(16)),
    always(Array(&[
        always(Fixed(4)),
        always(Array(&[always(Fixed(8)), always(Fixed(8)), always(List(&Fixed(1)))])),
    ])),
]);

const SHARE_FETCH: Shape = Shape {
    flexible_since: 0,
    fields: &[
        always(Text),
        always(Text),
        always(Fixed(4)),
        always(Fixed(4)),
        always(Fixed(4)),
        always(Fixed(4)),
        always(Fixed(4)),
        always(Fixed(4)),
        always(ACKNOWLEDGED_TOPICS),
        always(Array(&[always(Fixed(16)), always(List(&Fixed(4)))])),
    ],
};

const SHARE_ACKNOWLEDGE: Shape = Shape {
    flexible_since: 0,
    fields: &[always(Text), always(Text), always(Fixed(4)), always(ACKNOWLEDGED_TOPICS)],
};

const DESCRIBE_SHARE_GROUP_OFFSETS: Shape = Shape {
    flexible_since: 0,
    fields: &[always(Array(&[
        always(Text),
        always(Array(&[always(Text), always(List(&Fixed(4)))])),
    ]))],
};

const ALTER_SHARE_GROUP_OFFSETS: Shape = Shape {
    flexible_since: 0,
    fields: &[
        always(Text),
        always(Array(&[always(Text), always(Array(&[always(Fixed(4)), always(Fixed(8))]))])),
    ],
};

const DELETE_SHARE_GROUP_OFFSETS: Shape =
    Shape { flexible_since: 0, fields: &[always(Text), always(Array(&[always(Text)]))] };
