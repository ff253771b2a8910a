//! Client quotas: how many bytes a second a user or a client may produce and consume.
//!
//! A client that exceeds its quota is answered at once and told for how long (`throttle_time_ms`);
//! meanwhile nothing more is read from its connection, as with Kafka since 2.0 (KIP-219).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use proteus_kernel_api::topic::quotas::{self, Entity, Values};
use proteus_kernel_api::{Change, Commit, Kernel, KernelError, Listener, topic};

pub(crate) const USER: &str = "user";
pub(crate) const CLIENT_ID: &str = "client-id";
pub(crate) const PRODUCED: &str = "producer_byte_rate";
pub(crate) const CONSUMED: &str = "consumer_byte_rate";

/// What may be used at once: a quota is met on average over so long.
const BURST: Duration = Duration::from_secs(1);
/// Longest that a client is made to wait.
const THROTTLE_MAX: Duration = Duration::from_secs(30);
/// Uses remembered at most; beyond that those are forgotten that are not throttled.
const USES_MAX: usize = 100_000;

type Quotas = Arc<BTreeMap<Entity, Values>>;

/// The quotas, remembered until they change, and what was used of them.
#[derive(Default)]
pub(crate) struct Meters {
    quotas: RwLock<Option<Quotas>>,
    /// Counts changes, so that nothing is remembered that was read before one.
    changes: AtomicU64,
    /// By user and client where a quota is about each of them, and what is measured: when all that
    /// was used would have been allowed.
    used_until: Mutex<HashMap<(String, String, &'static str), Duration>>,
}

impl Meters {
    /// Follows the kernel's feed from now on.
    pub(crate) fn following(kernel: &Arc<dyn Kernel>) -> Arc<Meters> {
        let meters = Arc::new(Meters::default());
        kernel.follow(meters.clone());
        meters
    }

    fn quotas(&self, kernel: &dyn Kernel) -> Result<Quotas, KernelError> {
        if let Some(quotas) = &*self.quotas.read() {
            return Ok(quotas.clone());
        }
        let changes = self.changes.load(Ordering::Acquire);
        let quotas = Arc::new(kernel.read(|view| quotas::quotas(view.state))?);
        let mut known = self.quotas.write();
        if self.changes.load(Ordering::Acquire) == changes {
            *known = Some(quotas.clone());
        }
        Ok(quotas)
    }

    /// Whether there is any quota: mostly not, and then there is nothing to count.
    pub(crate) fn has_any(&self, kernel: &dyn Kernel) -> bool {
        self.quotas(kernel).is_ok_and(|quotas| !quotas.is_empty())
    }

    /// Counts bytes; how long the client must wait for them.
    pub(crate) fn charge(
        &self,
        kernel: &dyn Kernel,
        now: Duration,
        (user, client_id): (&str, &str),
        what: &'static str,
        bytes: usize,
    ) -> Duration {
        // Without knowing the quotas nobody is throttled.
        let Ok(quotas) = self.quotas(kernel) else {
            return Duration::ZERO;
        };
        let Some((shared_by, rate)) = rate_of(&quotas, user, client_id, what) else {
            return Duration::ZERO;
        };
        let took = Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(THROTTLE_MAX);
        let mut used_until = self.used_until.lock();
        if used_until.len() >= USES_MAX {
            used_until.retain(|_, until| *until > now);
        }
        let until = used_until.entry((shared_by.0, shared_by.1, what)).or_default();
        let limit = now + BURST + THROTTLE_MAX;
        *until = (*until).max(now).saturating_add(took).min(limit);
        until.saturating_sub(now + BURST)
    }
}

impl Listener for Meters {
    fn on_commit(&self, commit: &Commit) {
        let is_change = |change: &Change| *change == Change::Topic(topic::Change::QuotasChanged);
        if commit.changes.iter().any(is_change) {
            self.on_gap();
        }
    }

    fn on_gap(&self) {
        let mut quotas = self.quotas.write();
        self.changes.fetch_add(1, Ordering::AcqRel);
        *quotas = None;
    }
}

/// The quota that counts for a client, the closest one that there is; and who shares it: all of a
/// user's clients do unless the quota is about clients.
fn rate_of(
    quotas: &BTreeMap<Entity, Values>,
    user: &str,
    client_id: &str,
    what: &str,
) -> Option<((String, String), f64)> {
    if quotas.is_empty() {
        return None;
    }
    let (a_user, a_client) = (Some(Some(user)), Some(Some(client_id)));
    let (all_users, all_clients) = (Some(None), Some(None));
    // From the closest to the farthest, as in Kafka's documentation, "Quotas".
    let candidates = [
        (a_user, a_client),
        (a_user, all_clients),
        (a_user, None),
        (all_users, a_client),
        (all_users, all_clients),
        (all_users, None),
        (None, a_client),
        (None, all_clients),
    ];
    candidates.into_iter().find_map(|(of_user, of_client)| {
        let mut entity = BTreeMap::new();
        for (kind, name) in [(USER, of_user), (CLIENT_ID, of_client)] {
            if let Some(name) = name {
                entity.insert(kind.to_owned(), name.map(str::to_owned));
            }
        }
        let bits = quotas.get(&Entity(entity))?.get(what)?;
        let rate = f64::from_bits(*bits);
        let shared_by =
            |of: Option<Option<&str>>, name: &str| of.map(|_| name.to_owned()).unwrap_or_default();
        (rate > 0.0).then(|| ((shared_by(of_user, user), shared_by(of_client, client_id)), rate))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_quota_counts() {
        let entity = |user: Option<Option<&str>>, client: Option<Option<&str>>| {
            let parts = [(USER, user), (CLIENT_ID, client)];
            let parts = parts
                .into_iter()
                .filter_map(|(kind, name)| Some((kind.to_owned(), name?.map(str::to_owned))));
            Entity(parts.collect())
        };
        let rate = |rate: f64| Values::from([(PRODUCED.to_owned(), rate.to_bits())]);
        let quotas = BTreeMap::from([
            (entity(Some(Some("ann")), None), rate(1.0)),
            (entity(Some(Some("ann")), Some(Some("c"))), rate(2.0)),
            (entity(Some(None), None), rate(3.0)),
            (entity(None, Some(Some("c"))), rate(4.0)),
        ]);
        let found = |user: &str, client: &str, what: &str| {
            rate_of(&quotas, user, client, what).map(|(shared_by, rate)| (shared_by, rate as u32))
        };
        let by = |user: &str, client: &str| (user.to_owned(), client.to_owned());
        assert_eq!(found("ann", "c", PRODUCED), Some((by("ann", "c"), 2)));
        assert_eq!(found("ann", "x", PRODUCED), Some((by("ann", ""), 1)));
        assert_eq!(found("bob", "c", PRODUCED), Some((by("bob", ""), 3)));
        assert_eq!(found("ann", "c", CONSUMED), None);
    }
}
