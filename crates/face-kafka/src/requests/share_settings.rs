//! How a share group consumes, as an administrator has set it.

use std::collections::BTreeMap;

use proteus_kernel_api::topic::groups;

use crate::errors::Failure;
use crate::session::Session;
use crate::share::partition::Limits;

pub(crate) const AUTO_OFFSET_RESET: &str = "share.auto.offset.reset";
pub(crate) const ISOLATION_LEVEL: &str = "share.isolation.level";
pub(crate) const RECORD_LOCK_DURATION_MS: &str = "share.record.lock.duration.ms";
pub(crate) const SESSION_TIMEOUT_MS: &str = "share.session.timeout.ms";
pub(crate) const HEARTBEAT_INTERVAL_MS: &str = "share.heartbeat.interval.ms";

/// Where a group begins in a partition that it has not consumed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartsAt {
    Earliest,
    Latest,
}

/// Settings of a share group in force.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShareSettings {
    pub starts_at: StartsAt,
    pub is_committed_only: bool,
    pub limits: Limits,
    pub session_timeout_ms: u64,
    pub heartbeat_interval_ms: u64,
}

impl ShareSettings {
    /// Those of a group.
    pub(crate) fn of(session: &Session, group: &str) -> Result<ShareSettings, Failure> {
        let settings = session.shared.kernel.read(|view| groups::settings(view.state, group))?;
        let options = &session.shared.options.group;
        let number = |name: &str, default: u64| number(&settings, name).unwrap_or(default);
        let says = |name: &str, value: &str| settings.get(name).is_some_and(|set| set == value);
        Ok(ShareSettings {
            starts_at: if says(AUTO_OFFSET_RESET, "earliest") {
                StartsAt::Earliest
            } else {
                StartsAt::Latest
            },
            is_committed_only: says(ISOLATION_LEVEL, "read_committed"),
            limits: Limits {
                lock_ms: number(RECORD_LOCK_DURATION_MS, options.share_record_lock_ms),
                delivery_count_max: options.share_delivery_count_max,
                records_max: options.share_records_max,
            },
            session_timeout_ms: number(SESSION_TIMEOUT_MS, options.share_session_timeout_ms),
            heartbeat_interval_ms: number(
                HEARTBEAT_INTERVAL_MS,
                options.share_heartbeat_interval_ms,
            ),
        })
    }
}

pub(super) fn number(settings: &BTreeMap<String, String>, name: &str) -> Option<u64> {
    settings.get(name)?.parse().ok()
}
