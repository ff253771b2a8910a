//! A topic's settings: text by name, and what the machine makes of it.

use std::collections::BTreeMap;

use crate::batch::RecordRules;
use crate::{
    BATCH_BYTES_MAX, BATCH_BYTES_MAX_DEFAULT, DELETE_RETENTION_MS_DEFAULT, DIRTY_RATIO_DEFAULT,
    RETENTION_MS_DEFAULT, TIMESTAMP_AFTER_MAX_MS_DEFAULT, settings,
};

/// A topic's settings, with their meaning and defaults.
#[derive(Debug, Clone, Copy)]
pub struct ConfigReader<'a>(pub &'a BTreeMap<String, String>);

impl ConfigReader<'_> {
    fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.parse().ok()
    }

    fn deletes(&self) -> bool {
        let policy = self.0.get(settings::CLEANUP_POLICY);
        policy.is_none_or(|policy| policy.split(',').any(|part| part.trim() == "delete"))
    }

    /// Milliseconds that a batch is kept; `None`: for good.
    pub fn retention_ms(&self) -> Option<u64> {
        let retention_ms = match self.number(settings::RETENTION_MS) {
            Some(retention_ms) => u64::try_from(retention_ms).ok(),
            None => Some(RETENTION_MS_DEFAULT),
        };
        retention_ms.filter(|_| self.deletes())
    }

    /// Whether only the newest record of a key is kept.
    pub fn compacts(&self) -> bool {
        let policy = self.0.get(settings::CLEANUP_POLICY);
        policy.is_some_and(|policy| policy.split(',').any(|part| part.trim() == "compact"))
    }

    /// Whether so many bytes, of all that a partition has, make it worth compacting.
    pub fn is_dirty_enough(&self, dirty_bytes: u64, bytes: u64) -> bool {
        let ratio = self.0.get(settings::MIN_CLEANABLE_DIRTY_RATIO);
        let ratio = ratio.and_then(|ratio| ratio.parse().ok()).unwrap_or(DIRTY_RATIO_DEFAULT);
        dirty_bytes > 0 && dirty_bytes as f64 >= ratio * bytes as f64
    }

    /// Milliseconds for which a record is not compacted.
    pub fn compaction_lag_ms_min(&self) -> u64 {
        let lag_ms = self.number(settings::MIN_COMPACTION_LAG_MS);
        lag_ms.and_then(|lag_ms| u64::try_from(lag_ms).ok()).unwrap_or(0)
    }

    /// Milliseconds after which a partition is compacted however little is dirty; `None`: never.
    pub fn compaction_lag_ms_max(&self) -> Option<u64> {
        let lag_ms = self.number(settings::MAX_COMPACTION_LAG_MS)?;
        u64::try_from(lag_ms).ok().filter(|lag_ms| *lag_ms < i64::MAX.cast_unsigned())
    }

    /// Milliseconds for which a tombstone is kept once it was compacted.
    pub fn delete_retention_ms(&self) -> u64 {
        let retention_ms = self.number(settings::DELETE_RETENTION_MS);
        let retention_ms = retention_ms.and_then(|ms| u64::try_from(ms).ok());
        retention_ms.unwrap_or(DELETE_RETENTION_MS_DEFAULT)
    }

    /// Bytes that a partition keeps; `None`: all.
    pub fn retention_bytes(&self) -> Option<u64> {
        let retention_bytes = self.number(settings::RETENTION_BYTES)?;
        u64::try_from(retention_bytes).ok().filter(|_| self.deletes())
    }

    /// Whether old batches move to the object store.
    pub fn has_remote_storage(&self) -> bool {
        self.0.get(settings::REMOTE_STORAGE_ENABLE).is_some_and(|value| value == "true")
    }

    /// Milliseconds after which a batch moves to the object store; `None`: not by time.
    pub fn local_retention_ms(&self) -> Option<u64> {
        u64::try_from(self.number(settings::LOCAL_RETENTION_MS)?).ok()
    }

    /// Bytes that a partition keeps here of those that may move; `None`: not by size.
    pub fn local_retention_bytes(&self) -> Option<u64> {
        u64::try_from(self.number(settings::LOCAL_RETENTION_BYTES)?).ok()
    }

    /// Bytes of a segment, as far as there are any: in the object store.
    pub fn segment_bytes(&self) -> u64 {
        let bytes = self.number(settings::SEGMENT_BYTES);
        bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(u64::MAX)
    }

    /// Whether batches bring their offsets along.
    pub fn mirrors(&self) -> bool {
        self.0.get(settings::MIRROR).is_some_and(|value| value == "true")
    }

    /// What records must be like that arrive at `now_ms`.
    pub fn record_rules(&self, now_ms: u64) -> RecordRules {
        let number = |name| self.number(name).and_then(|number| u64::try_from(number).ok());
        // The largest number means any time, also one before the epoch.
        let before_ms = number(settings::MESSAGE_TIMESTAMP_BEFORE_MAX_MS)
            .filter(|before_ms| *before_ms < i64::MAX.cast_unsigned())
            .unwrap_or(u64::MAX);
        let after_ms = number(settings::MESSAGE_TIMESTAMP_AFTER_MAX_MS)
            .unwrap_or(TIMESTAMP_AFTER_MAX_MS_DEFAULT);
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let timestamps_ms =
            (now_ms.saturating_sub_unsigned(before_ms), now_ms.saturating_add_unsigned(after_ms));
        RecordRules {
            // What another broker took need not be judged again.
            needs_keys: self.compacts() && !self.mirrors(),
            may_have_gaps: self.mirrors(),
            timestamps_ms: (!self.has_append_time() && !self.mirrors()).then_some(timestamps_ms),
        }
    }

    /// Whether records get the time at which they are appended.
    pub fn has_append_time(&self) -> bool {
        self.0.get(settings::MESSAGE_TIMESTAMP_TYPE).is_some_and(|kind| kind == "LogAppendTime")
    }

    /// Whether anything is ever deleted by itself.
    pub fn has_retention(&self) -> bool {
        self.retention_ms().is_some() || self.retention_bytes().is_some()
    }

    /// Longest batch, in bytes.
    pub fn batch_bytes_max(&self) -> usize {
        self.number(settings::MAX_MESSAGE_BYTES)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(BATCH_BYTES_MAX_DEFAULT)
            .min(BATCH_BYTES_MAX)
    }

    /// What is wrong with a setting that the machine heeds, if anything.
    pub fn problem(&self) -> Option<String> {
        let numbers = [
            settings::RETENTION_MS,
            settings::RETENTION_BYTES,
            settings::MAX_MESSAGE_BYTES,
            settings::MIN_COMPACTION_LAG_MS,
            settings::MAX_COMPACTION_LAG_MS,
            settings::DELETE_RETENTION_MS,
            settings::MESSAGE_TIMESTAMP_BEFORE_MAX_MS,
            settings::MESSAGE_TIMESTAMP_AFTER_MAX_MS,
            settings::LOCAL_RETENTION_MS,
            settings::LOCAL_RETENTION_BYTES,
            settings::SEGMENT_BYTES,
        ];
        for name in numbers {
            if let Some(value) = self.0.get(name)
                && value.parse::<i64>().is_err()
            {
                return Some(format!("{name} is a whole number, not '{value}'"));
            }
        }
        let no_negative = [
            settings::MAX_MESSAGE_BYTES,
            settings::MIN_COMPACTION_LAG_MS,
            settings::DELETE_RETENTION_MS,
            settings::MESSAGE_TIMESTAMP_BEFORE_MAX_MS,
            settings::MESSAGE_TIMESTAMP_AFTER_MAX_MS,
        ];
        for name in no_negative {
            if self.number(name).is_some_and(|number| number < 0) {
                return Some(format!("{name} must not be negative"));
            }
        }
        if self.number(settings::MAX_COMPACTION_LAG_MS).is_some_and(|lag_ms| lag_ms < 1) {
            return Some(format!("{} must be at least 1", settings::MAX_COMPACTION_LAG_MS));
        }
        if let Some(ratio) = self.0.get(settings::MIN_CLEANABLE_DIRTY_RATIO)
            && !ratio.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio))
        {
            let name = settings::MIN_CLEANABLE_DIRTY_RATIO;
            return Some(format!("{name} is a number from 0 to 1, not '{ratio}'"));
        }
        if let Some(kind) = self.0.get(settings::MESSAGE_TIMESTAMP_TYPE)
            && !matches!(kind.as_str(), "CreateTime" | "LogAppendTime")
        {
            let name = settings::MESSAGE_TIMESTAMP_TYPE;
            return Some(format!("{name} is CreateTime or LogAppendTime, not '{kind}'"));
        }
        if self.has_remote_storage() && self.compacts() {
            return Some(format!(
                "a topic with cleanup.policy=compact cannot have {}=true",
                settings::REMOTE_STORAGE_ENABLE
            ));
        }
        let local = [
            (settings::LOCAL_RETENTION_MS, settings::RETENTION_MS),
            (settings::LOCAL_RETENTION_BYTES, settings::RETENTION_BYTES),
        ];
        for (local, whole) in local {
            let number = self.number(local).unwrap_or(-2);
            let bound = self.number(whole).filter(|bound| *bound >= 0);
            if number < -2 || bound.is_some_and(|bound| number > bound) {
                return Some(format!("{local} is -2, or from -1 to what {whole} is"));
            }
        }
        let policy = self.0.get(settings::CLEANUP_POLICY)?;
        let is_known = policy.split(',').all(|part| matches!(part.trim(), "delete" | "compact"));
        (!is_known).then(|| {
            format!("{} is delete, compact or both, not '{policy}'", settings::CLEANUP_POLICY)
        })
    }
}
