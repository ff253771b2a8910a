//! The Redis face: RESP2, RESP3 and inline commands in front of the kernel.
//!
//! ```text
//!   bytes ─▶ codec ─▶ table ─▶ session ─▶ kernel ─▶ reply ─▶ bytes
//!                                           │
//!                       hub ◀── feed ◀──────┘   messages, invalidations, waiting commands
//! ```
//! Everything that one read brings is carried out together: reads before the first write come from
//! the state at once, and the first write and all after it become one proposal, whose replies are
//! written in one piece. So a pipeline of any depth costs one flush.
//!
//! Source: "Redis serialization protocol specification" (redis.io), and Redis 7.4's replies.
//!
//! Reading order: [`codec`], `table`, `session`, `hub`, `blocked`, `reply`, `errors`.

mod acl;
mod blocked;
mod client;
pub mod codec;
mod documentation;
mod errors;
mod events;
mod evict;
pub mod follow;
mod hub;
mod replication;
mod reply;
mod session;
mod settings;
mod slow;
mod table;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use parking_lot::Mutex;
use proteus_env::{Clock, task};
use proteus_face::{Accounts, Connection, Face, Meter, Metrics, Serving};
use proteus_kernel_api::Kernel;
use tokio::sync::Notify;

use evict::Evictor;
use hub::Hub;
use slow::Slow;

/// The release whose behaviour this face follows, as it tells its clients.
pub(crate) const REDIS_VERSION: &str = "7.4.0";

/// The Redis protocol's server side.
pub struct RedisFace {
    kernel: Arc<dyn Kernel>,
    clock: Arc<dyn Clock>,
    hub: Arc<Hub>,
    evictor: Arc<Evictor>,
    slow: Slow,
    /// One for each command, in the order of [`table::Found::index`].
    meters: Vec<Meter>,
    /// Time from a batch of commands to its replies.
    batches: Meter,
    /// Until when CLIENT PAUSE holds commands, and whether only those that write.
    paused: Mutex<Option<(Duration, bool)>>,
    is_paused: AtomicBool,
    resumed: Notify,
    /// Names this run of the node, as Redis' run id.
    run_id: u128,
    serves_waiting: Once,
    serves_replicas: Once,
    staleness_max: Duration,
    following: Arc<follow::Following>,
}

/// See [`RedisFace::with_staleness_max`].
const STALENESS_MAX: Duration = Duration::from_secs(1);

impl RedisFace {
    /// A face over `kernel`; within a runtime, whose task it takes to keep memory bounded.
    pub fn new(
        kernel: Arc<dyn Kernel>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        accounts: Accounts,
    ) -> RedisFace {
        let meters = table::in_order().map(|found| metrics.meter("redis", found.name())).collect();
        let batches = metrics.meter("redis", "(batch)");
        let hub = Arc::new(Hub::new(&accounts, kernel.durability()));
        kernel.follow(hub.clone());
        // What the settings say is read when the first client comes.
        hub.settings.mark_stale();
        hub.users.mark_stale();
        let evictor = Arc::new(Evictor::new());
        task::spawn(evict::keep_room(
            Arc::downgrade(&evictor),
            kernel.clone(),
            hub.clone(),
            clock.clone(),
        ));
        let following = Arc::new(follow::Following::default());
        task::spawn(follow::keep_following(
            Arc::downgrade(&following),
            kernel.clone(),
            hub.clone(),
            clock.clone(),
        ));
        let run_id = u128::from_be_bytes(proteus_env::random::random_bytes());
        RedisFace {
            kernel,
            clock,
            hub,
            evictor,
            slow: Slow::new(table::in_order().count()),
            meters,
            batches,
            paused: Mutex::new(None),
            is_paused: AtomicBool::new(false),
            resumed: Notify::new(),
            run_id,
            serves_waiting: Once::new(),
            serves_replicas: Once::new(),
            staleness_max: STALENESS_MAX,
            following,
        }
    }

    /// A face whose node, where it reads for a client that has sent `READONLY`, lacks nothing that was
    /// acknowledged so long ago.
    #[must_use]
    pub fn with_staleness_max(self, staleness_max: Duration) -> RedisFace {
        RedisFace { staleness_max, ..self }
    }

    /// Begins to serve commands that wait, once.
    fn serve_waiting(&self) {
        self.serves_waiting.call_once(|| {
            let (hub, kernel) = (self.hub.clone(), self.kernel.clone());
            task::spawn(async move { hub.blocked.serve(&*kernel).await });
        });
    }

    /// Begins to make the stream that replicas follow, once.
    fn serve_replicas(self: &Arc<Self>) {
        self.serves_replicas.call_once(|| {
            task::spawn(replication::Replication::make_rounds(Arc::downgrade(self)));
        });
    }

    fn count(&self, found: table::Found, is_error: bool) {
        if let Some(meter) = self.meters.get(found.index()) {
            meter.count(1, is_error);
        }
    }

    fn pause(&self, duration: Duration, only_writes: bool) {
        let until = self.clock.elapsed().saturating_add(duration);
        let mut paused = self.paused.lock();
        *paused = match *paused {
            // The longer and the stricter pause hold.
            Some((other, other_only)) if other > self.clock.elapsed() => {
                Some((until.max(other), only_writes && other_only))
            }
            _ => Some((until, only_writes)),
        };
        self.is_paused.store(true, Ordering::Release);
    }

    fn resume(&self) {
        *self.paused.lock() = None;
        self.is_paused.store(false, Ordering::Release);
        self.resumed.notify_waiters();
    }

    /// How long commands are held still.
    fn pause_left(&self, is_write: bool) -> Option<Duration> {
        if !self.is_paused.load(Ordering::Acquire) {
            return None;
        }
        let (until, only_writes) = (*self.paused.lock())?;
        let left = until.checked_sub(self.clock.elapsed()).filter(|left| !left.is_zero())?;
        (is_write || !only_writes).then_some(left)
    }
}

impl Face for RedisFace {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn standard_port(&self) -> u16 {
        6379
    }

    fn tls_port(&self) -> Option<u16> {
        Some(6380)
    }

    fn try_it(&self, address: SocketAddr) -> String {
        format!("redis-cli -h {} -p {} SET greeting hello", address.ip(), address.port())
    }

    fn authenticates(&self) -> bool {
        true
    }

    fn budget_refusal(&self) -> &'static [u8] {
        b"-ERR max number of clients reached\r\n"
    }

    fn serve(self: Arc<Self>, connection: Connection) -> Serving {
        Box::pin(session::serve(self, connection))
    }
}
