//! Committed offsets of groups that are no longer used are forgotten (`offsets.retention.minutes`).
//!
//! An offset goes when it is older than the retention *and* its group has had no members for as long.
//! Membership is known only since this process began, so a group counts as used at the start: what
//! is kept too long after a restart is no harm, what is forgotten too early would be.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use proteus_env::task;
use proteus_kernel_api::topic::{self, read};
use proteus_kernel_api::{KernelError, Minitransaction};

use crate::Shared;

/// How often groups are looked at, as Kafka's `offsets.retention.check.interval.ms`.
const INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Groups that one look at the state collects.
const GROUPS_PER_READ_MAX: usize = 500;

/// Looks at the groups again and again, for as long as the face lives.
pub(crate) async fn keep(shared: Weak<Shared>) {
    let mut usage = Usage::default();
    loop {
        task::sleep(INTERVAL).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if let Err(error) = usage.look(&shared).await {
            tracing::warn!(%error, "cannot look for offsets that are no longer used");
        }
    }
}

/// When groups were last seen with members, by the process' clock.
#[derive(Default)]
struct Usage {
    last_used: HashMap<String, Duration>,
}

impl Usage {
    async fn look(&mut self, shared: &Arc<Shared>) -> Result<(), KernelError> {
        let retention_ms = shared.options.group.offsets_retention_ms;
        let retention = Duration::from_millis(retention_ms);
        let now = shared.clock.elapsed();
        let mut last_used = HashMap::new();
        let mut after: Option<String> = None;
        loop {
            let groups = shared.kernel.read(|view| {
                read::groups_after(view.state, after.as_deref(), GROUPS_PER_READ_MAX)
            })?;
            let Some(last) = groups.last() else {
                break;
            };
            after = Some(last.clone());
            for group in groups {
                let known = self.last_used.get(&group).copied();
                let is_used = shared.coordinator.has_members(&group);
                let used_at = if is_used { now } else { known.unwrap_or(Duration::ZERO) };
                if now.saturating_sub(used_at) >= retention && !is_used {
                    let committed_before_ms = shared.clock.wall_ms().saturating_sub(retention_ms);
                    let op = topic::Op::ExpireOffsets { group: group.clone(), committed_before_ms };
                    shared.kernel.commit(Minitransaction::of(op)).await?;
                }
                last_used.insert(group, used_at);
            }
        }
        self.last_used = last_used;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proteus_env::{Clock, SystemClock};
    use proteus_face::{Accounts, Metrics};
    use proteus_kernel_api::topic::{NewOffset, Op, TopicId};
    use proteus_testkit::memory_kernel;

    use super::*;
    use crate::group::{Event, Identity, Join};
    use crate::{KafkaFace, KafkaOptions};

    const TOPIC: TopicId = TopicId([1; 16]);

    async fn groups_left(retention_ms: u64, has_member: bool) -> usize {
        let kernel = memory_kernel();
        let config = BTreeMap::new();
        let create =
            Op::CreateTopic { name: "t".to_owned(), topic_id: TOPIC, partition_count: 1, config };
        let offset = NewOffset {
            topic_id: TOPIC,
            partition: 0,
            offset: 7,
            leader_epoch: -1,
            metadata: String::new(),
        };
        let commit = Op::CommitOffsets { group: "g".to_owned(), offsets: vec![offset] };
        for op in [create, commit] {
            kernel.commit(Minitransaction::of(op)).await.unwrap();
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let mut options = KafkaOptions::default();
        options.group.offsets_retention_ms = retention_ms;
        let metrics = Metrics::default();
        let face = KafkaFace::new(kernel, clock, &metrics, Accounts::default(), options);
        let shared = face.shared.clone();
        if has_member {
            let join = Join {
                identity: Identity::default(),
                new_member_id: "m".to_owned(),
                needs_known_id: false,
                client_id: String::new(),
                client_host: String::new(),
                session_timeout_ms: 10_000,
                rebalance_timeout_ms: 10_000,
                protocol_type: "consumer".to_owned(),
                protocols: vec![("range".to_owned(), bytes::Bytes::new())],
            };
            drop(shared.coordinator.submit("g", |ticket| Event::Join { ticket, join }));
        }
        // The offset must be older than now by the clock's millisecond.
        let committed_at = shared.clock.wall_ms();
        while shared.clock.wall_ms() <= committed_at + 1 {
            std::hint::spin_loop();
        }
        Usage::default().look(&shared).await.unwrap();
        shared.kernel.read(|view| read::groups_after(view.state, None, 9)).unwrap().len()
    }

    #[tokio::test]
    async fn offsets_go_when_nobody_has_used_them_for_long() {
        assert_eq!(groups_left(0, false).await, 0);
        assert_eq!(groups_left(0, true).await, 1, "a group with members keeps what it has");
        assert_eq!(groups_left(7 * 24 * 3600 * 1000, false).await, 1);
    }
}
