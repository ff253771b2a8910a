//! The settings of topics and of the broker: names, types, defaults, as Kafka 4.1 has them.

use proteus_kernel_api::topic::{
    BATCH_BYTES_MAX_DEFAULT, DELETE_RETENTION_MS_DEFAULT, DIRTY_RATIO_DEFAULT,
    OFFSET_METADATA_BYTES_MAX, RETENTION_MS_DEFAULT, TIMESTAMP_AFTER_MAX_MS_DEFAULT,
};

use super::{group_settings, share_settings};
use crate::KafkaOptions;
use crate::codec::FRAME_BYTES_MAX;

/// The protocol's types of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// A setting that there is.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub name: &'static str,
    pub kind: Kind,
    pub default: String,
    /// The values it can have; none: any of its type.
    pub values: &'static [&'static str],
    /// The least number it can be, and the largest.
    pub least: Option<i64>,
    pub largest: Option<i64>,
}

fn known(name: &'static str, kind: Kind, default: impl ToString) -> Known {
    Known { name, kind, default: default.to_string(), values: &[], least: None, largest: None }
}

fn one_of(
    name: &'static str,
    kind: Kind,
    default: impl ToString,
    values: &'static [&'static str],
) -> Known {
    Known { values, ..known(name, kind, default) }
}

impl Known {
    /// What is wrong with a value, if anything.
    pub(crate) fn problem(&self, value: &str) -> Option<String> {
        let is_of_kind = match self.kind {
            Kind::Boolean => matches!(value, "true" | "false"),
            Kind::String | Kind::List => true,
            Kind::Int => value.parse::<i32>().is_ok(),
            Kind::Long => value.parse::<i64>().is_ok(),
            Kind::Double => value.parse::<f64>().is_ok_and(f64::is_finite),
        };
        if !is_of_kind {
            return Some(format!("{}: '{value}' is no {:?}", self.name, self.kind));
        }
        if let (Some(least), Ok(number)) = (self.least, value.parse::<i64>())
            && number < least
        {
            return Some(format!("{}: {number} is less than {least}", self.name));
        }
        if let (Some(largest), Ok(number)) = (self.largest, value.parse::<i64>())
            && number > largest
        {
            return Some(format!("{}: {number} is more than {largest}", self.name));
        }
        let parts: Vec<&str> = match self.kind {
            Kind::List => value.split(',').map(str::trim).collect(),
            _ => vec![value],
        };
        let is_allowed = |part: &&str| self.values.is_empty() || self.values.contains(part);
        let wrong = parts.iter().find(|part| !is_allowed(part))?;
        Some(format!("{}: '{wrong}' is none of {}", self.name, self.values.join(", ")))
    }
}

/// All settings of topics, by name. Those of indexes, flushing and throttles are accepted
/// and change nothing here; `segment.bytes` bounds what is moved to the object store as one.
pub(crate) fn of_topics() -> Vec<Known> {
    use Kind::{Boolean, Double, Int, List, Long, String};
    let codecs = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
    let only_false = &["false"];
    vec![
        one_of("cleanup.policy", List, "delete", &["compact", "delete"]),
        known("compression.gzip.level", Int, -1),
        known("compression.lz4.level", Int, 9),
        one_of("compression.type", String, "producer", codecs),
        known("compression.zstd.level", Int, 3),
        known("delete.retention.ms", Long, DELETE_RETENTION_MS_DEFAULT),
        known("file.delete.delay.ms", Long, 60_000),
        known("flush.messages", Long, i64::MAX),
        known("flush.ms", Long, i64::MAX),
        known("follower.replication.throttled.replicas", List, ""),
        known("index.interval.bytes", Int, 4096),
        known("leader.replication.throttled.replicas", List, ""),
        known("local.retention.bytes", Long, -2),
        known("local.retention.ms", Long, -2),
        known("max.compaction.lag.ms", Long, i64::MAX),
        known("max.message.bytes", Int, BATCH_BYTES_MAX_DEFAULT),
        known("message.timestamp.after.max.ms", Long, TIMESTAMP_AFTER_MAX_MS_DEFAULT),
        known("message.timestamp.before.max.ms", Long, i64::MAX),
        one_of("message.timestamp.type", String, "CreateTime", &["CreateTime", "LogAppendTime"]),
        known("min.cleanable.dirty.ratio", Double, DIRTY_RATIO_DEFAULT),
        known("min.compaction.lag.ms", Long, 0),
        known("min.insync.replicas", Int, 1),
        known("preallocate", Boolean, false),
        one_of("remote.log.copy.disable", Boolean, "false", only_false),
        one_of("remote.log.delete.on.disable", Boolean, "false", only_false),
        known("remote.storage.enable", Boolean, false),
        known("proteus.mirror", Boolean, false),
        known("retention.bytes", Long, -1),
        known("retention.ms", Long, RETENTION_MS_DEFAULT),
        known("segment.bytes", Int, 1024 * 1024 * 1024),
        known("segment.index.bytes", Int, 10 * 1024 * 1024),
        known("segment.jitter.ms", Long, 0),
        known("segment.ms", Long, RETENTION_MS_DEFAULT),
        known("unclean.leader.election.enable", Boolean, false),
    ]
}

/// The settings of the broker that tell clients something, with the values in force.
pub(crate) fn of_broker(options: &KafkaOptions, node_id: i32) -> Vec<Known> {
    use Kind::{Boolean, Double, Int, List, Long, String};
    let group = &options.group;
    vec![
        known("auto.create.topics.enable", Boolean, options.creates_topics),
        known("broker.id", Int, node_id),
        known("compression.type", String, "producer"),
        known("default.replication.factor", Int, 1),
        known("delete.topic.enable", Boolean, true),
        known("group.consumer.heartbeat.interval.ms", Int, group.heartbeat_interval_ms),
        known("group.consumer.session.timeout.ms", Int, group.consumer_session_timeout_ms),
        known("group.coordinator.rebalance.protocols", List, "classic,consumer"),
        known("group.initial.rebalance.delay.ms", Int, group.initial_delay_ms),
        known("group.max.session.timeout.ms", Int, group.session_timeout_ms_max),
        known("group.max.size", Int, group.members_max),
        known("group.min.session.timeout.ms", Int, group.session_timeout_ms_min),
        known("log.cleaner.delete.retention.ms", Long, DELETE_RETENTION_MS_DEFAULT),
        known("log.cleaner.enable", Boolean, true),
        known("log.cleaner.min.cleanable.ratio", Double, DIRTY_RATIO_DEFAULT),
        known("log.cleanup.policy", List, "delete"),
        known("log.message.timestamp.type", String, "CreateTime"),
        known("log.retention.bytes", Long, -1),
        known("log.retention.hours", Int, RETENTION_MS_DEFAULT / 3_600_000),
        known("log.retention.ms", Long, RETENTION_MS_DEFAULT),
        known("message.max.bytes", Int, BATCH_BYTES_MAX_DEFAULT),
        known("min.insync.replicas", Int, 1),
        known("node.id", Int, node_id),
        known("num.partitions", Int, options.partition_count),
        known("offset.metadata.max.bytes", Int, OFFSET_METADATA_BYTES_MAX),
        known("offsets.retention.minutes", Int, group.offsets_retention_ms / 60_000),
        known("process.roles", List, "broker,controller"),
        known("socket.request.max.bytes", Int, FRAME_BYTES_MAX),
        known("transaction.max.timeout.ms", Int, super::transactions::TIMEOUT_MS_MAX),
        known("transactional.id.expiration.ms", Int, RETENTION_MS_DEFAULT),
        known("unclean.leader.election.enable", Boolean, false),
    ]
}

/// The settings of a group, with what holds for one that sets none. A group has those of consumer groups
/// and of share groups, because it may be either.
pub(crate) fn of_groups(options: &KafkaOptions) -> Vec<Known> {
    use Kind::{Int, String};
    let group = &options.group;
    let levels = &["read_uncommitted", "read_committed"];
    vec![
        // Bounds as of Kafka's `group.consumer.{min,max}.*`.
        Known {
            least: Some(5_000),
            largest: Some(15_000),
            ..known(group_settings::HEARTBEAT_INTERVAL_MS, Int, group.heartbeat_interval_ms)
        },
        Known {
            least: Some(45_000),
            largest: Some(60_000),
            ..known(group_settings::SESSION_TIMEOUT_MS, Int, group.consumer_session_timeout_ms)
        },
        one_of(share_settings::AUTO_OFFSET_RESET, String, "latest", &["latest", "earliest"]),
        Known {
            least: Some(1),
            ..known(share_settings::HEARTBEAT_INTERVAL_MS, Int, group.share_heartbeat_interval_ms)
        },
        one_of(share_settings::ISOLATION_LEVEL, String, "read_uncommitted", levels),
        Known {
            least: Some(1),
            ..known(share_settings::RECORD_LOCK_DURATION_MS, Int, group.share_record_lock_ms)
        },
        Known {
            least: Some(1),
            ..known(share_settings::SESSION_TIMEOUT_MS, Int, group.share_session_timeout_ms)
        },
    ]
}

#[cfg(test)]
mod tests {
    use proteus_kernel_api::topic::read::ConfigReader;

    use super::*;

    #[test]
    fn defaults_are_allowed_and_are_what_the_machine_does() {
        for setting in of_topics().iter().chain(&of_broker(&KafkaOptions::default(), 1)) {
            let problem =
                if setting.default.is_empty() { None } else { setting.problem(&setting.default) };
            assert_eq!(problem, None, "{}", setting.name);
        }
        let defaults = of_topics();
        let defaults =
            defaults.iter().map(|one| (one.name.to_owned(), one.default.clone())).collect();
        let (said, unsaid) = (ConfigReader(&defaults), std::collections::BTreeMap::new());
        let unsaid = ConfigReader(&unsaid);
        assert_eq!(said.problem(), None);
        assert_eq!(said.retention_ms(), unsaid.retention_ms());
        assert_eq!(said.retention_bytes(), unsaid.retention_bytes());
        assert_eq!(said.batch_bytes_max(), unsaid.batch_bytes_max());
        assert_eq!(said.delete_retention_ms(), unsaid.delete_retention_ms());
        assert_eq!(said.compaction_lag_ms_max(), unsaid.compaction_lag_ms_max());
        assert_eq!(said.compaction_lag_ms_min(), unsaid.compaction_lag_ms_min());
        assert_eq!(said.is_dirty_enough(49, 100), unsaid.is_dirty_enough(49, 100));
        assert_eq!(said.is_dirty_enough(50, 100), unsaid.is_dirty_enough(50, 100));
        assert_eq!(said.record_rules(1 << 40), unsaid.record_rules(1 << 40));
    }

    #[test]
    fn values_are_held_to_their_type() {
        let topics = of_topics();
        let problem = |name: &str, value: &str| {
            topics.iter().find(|one| one.name == name).unwrap().problem(value)
        };
        assert_eq!(problem("cleanup.policy", "compact, delete"), None);
        assert!(problem("cleanup.policy", "shrink").is_some());
        assert!(problem("segment.bytes", "big").is_some());
        assert!(problem("remote.log.copy.disable", "true").is_some());
        assert!(problem("min.cleanable.dirty.ratio", "NaN").is_some());
    }
}
