//! How long members of a group of the newer protocol may be silent, as an administrator has set it.

use proteus_kernel_api::topic::groups;

use super::share_settings::number;
use crate::errors::Failure;
use crate::session::Session;

pub(crate) const SESSION_TIMEOUT_MS: &str = "consumer.session.timeout.ms";
pub(crate) const HEARTBEAT_INTERVAL_MS: &str = "consumer.heartbeat.interval.ms";

/// Settings of a consumer group in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupSettings {
    pub session_timeout_ms: u64,
    pub heartbeat_interval_ms: u64,
}

impl GroupSettings {
    /// Those of a group.
    pub(super) fn of(session: &Session, group: &str) -> Result<GroupSettings, Failure> {
        let settings = session.shared.kernel.read(|view| groups::settings(view.state, group))?;
        let options = &session.shared.options.group;
        let number = |name: &str, default: u64| number(&settings, name).unwrap_or(default);
        Ok(GroupSettings {
            session_timeout_ms: number(SESSION_TIMEOUT_MS, options.consumer_session_timeout_ms),
            heartbeat_interval_ms: number(HEARTBEAT_INTERVAL_MS, options.heartbeat_interval_ms),
        })
    }
}
