//! The ZooKeeper protocol over the kernel's znode tree.
//!
//! ```text
//!   socket ─▶ codec ─▶ session ─▶ translate ─▶ kernel.propose / kernel.read
//!   socket ◀─ outbox ◀─┬─ replies, in the order of requests
//!                      └─ watch events ◀─ watches ◀─ kernel.follow
//! ```
//! Znodes and sessions are durable in the tree machine; which session was heard when, and who watches
//! what, is soft state here. It knows nothing of keys, logs or other faces.
//!
//! Reading order: [`ZookeeperFace`], `session.rs` (a connection's life), `translate.rs`, `watches.rs`,
//! `sessions.rs` (expiry), [`codec`].

mod admin;
mod auth;
mod child_lists;
pub mod codec;
pub mod errors;
mod expiry;
mod figures;
mod handshake;
mod keeper;
mod members;
mod outbox;
mod read_only;
mod reads;
mod sasl;
mod session;
mod sessions;
mod stats;
mod translate;
mod watches;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proteus_env::Clock;
use proteus_face::{Accounts, AdminCommands, Connection, Face, Meter, Metrics, Serving};
use proteus_kernel_api::tree::Zxid;
use proteus_kernel_api::{Change, Commit, Kernel, Listener, NodeId};
use tracing::warn;

use child_lists::ChildLists;
use codec::FRAME_BYTES_MAX_DEFAULT;
use codec::kinds::REQUEST_TYPES;
use read_only::ReadOnly;
use sessions::Sessions;
use stats::{Connections, Traffic};
use watches::Watches;

pub use words::WordWhitelist;

const NAME: &str = "zookeeper";

/// What can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZookeeperOptions {
    /// Longest frame a client may send, in bytes: ZooKeeper's `jute.maxbuffer`. Replies may be longer.
    pub frame_bytes_max: usize,
    /// Shortest session timeout granted, in milliseconds: two of ZooKeeper's ticks.
    pub session_timeout_ms_min: u32,
    /// Longest session timeout granted, in milliseconds: twenty of ZooKeeper's ticks.
    pub session_timeout_ms_max: u32,
    /// The digest whose client may do everything, as `user:hash`: ZooKeeper's `superDigest`.
    pub super_digest: Option<String>,
    /// Four-letter words that are carried out.
    pub words: WordWhitelist,
    /// Whether a session is stored only once it creates an ephemeral: ZooKeeper's
    /// `localSessionsEnabled` with `localSessionsUpgradingEnabled`.
    pub has_local_sessions: bool,
    /// Whether `reconfig` may change the cluster's members: ZooKeeper's `reconfigEnabled`.
    pub has_reconfig: bool,
    /// Whether a node that reaches no majority serves those who take a read-only server: ZooKeeper's
    /// `readonlymode.enabled`.
    pub serves_read_only: bool,
    /// What a read sees.
    pub read_level: ReadLevel,
    /// How old what a local read shows may be, before the node asks whether there is something newer.
    pub staleness_max: Duration,
}

/// What a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLevel {
    /// Every commit that was acknowledged, on any node, before the read was sent.
    Linearizable,
    /// What this node has applied, which may be as old as [`ZookeeperOptions::staleness_max`]; `sync` catches up.
    /// As ZooKeeper reads.
    Local,
}

/// ZooKeeper's default tick, in milliseconds.
const TICK_MS: u32 = 2_000;

impl Default for ZookeeperOptions {
    fn default() -> ZookeeperOptions {
        ZookeeperOptions {
            frame_bytes_max: FRAME_BYTES_MAX_DEFAULT,
            session_timeout_ms_min: 2 * TICK_MS,
            session_timeout_ms_max: 20 * TICK_MS,
            super_digest: None,
            words: WordWhitelist::default(),
            has_local_sessions: false,
            has_reconfig: false,
            serves_read_only: true,
            read_level: ReadLevel::Linearizable,
            staleness_max: Duration::from_secs(1),
        }
    }
}

/// The face.
pub struct ZookeeperFace {
    shared: Arc<Shared>,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) accounts: Accounts,
    pub(crate) options: ZookeeperOptions,
    pub(crate) watches: Arc<Watches>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) child_lists: ChildLists,
    pub(crate) read_only: ReadOnly,
    /// One for each of [`REQUEST_TYPES`], in that order.
    meters: Vec<Meter>,
    meter_unknown: Meter,
    pub(crate) traffic: Traffic,
    pub(crate) connections: Connections,
    /// When the face began, on the clock that never goes back.
    pub(crate) started: Duration,
    pub(crate) is_expiring: AtomicBool,
}

impl Shared {
    /// The meter of a request type; types that the protocol does not have share one.
    pub(crate) fn meter(&self, code: i32) -> &Meter {
        codec::kinds::place(code)
            .and_then(|place| self.meters.get(place))
            .unwrap_or(&self.meter_unknown)
    }
}

/// Turns commits into watch events and keeps the sessions known. It holds no kernel, which holds it.
struct Follower {
    node: NodeId,
    clock: Arc<dyn Clock>,
    watches: Arc<Watches>,
    sessions: Arc<Sessions>,
}

impl Listener for Follower {
    fn on_commit(&self, commit: &Commit) {
        use proteus_kernel_api::tree::Change as TreeChange;
        let zxid = Zxid::from_commit(commit.commit_ts);
        for change in &commit.changes {
            let Change::Tree(change) = change else {
                continue;
            };
            match change {
                TreeChange::SessionOpened { session, timeout_ms } => {
                    self.sessions.on_opened(*session, *timeout_ms, self.clock.elapsed());
                }
                TreeChange::SessionClosed { session } => self.sessions.on_closed(*session),
                TreeChange::SessionsHeard { sessions } => {
                    self.sessions.on_heard(sessions, self.clock.elapsed());
                }
                TreeChange::SessionMoved { session, to } => {
                    if NodeId(*to) != self.node {
                        self.sessions.on_moved(*session);
                    }
                }
                TreeChange::SoftQuotaExceeded { path } => {
                    warn!(path, "the soft quota of this subtree is exceeded");
                }
                _ => self.watches.on_change(change, zxid),
            }
        }
    }

    fn on_gap(&self) {
        // Sessions and events that nobody tells of: clients find them out by connecting anew, which
        // sets their watches again from the last change that each has seen.
        self.sessions.on_gap();
    }
}

impl ZookeeperFace {
    /// A face over `kernel`. Within a runtime, stored sessions are watched over from now on; else
    /// from the first connection on.
    pub fn new(
        kernel: Arc<dyn Kernel>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        accounts: Accounts,
        options: ZookeeperOptions,
    ) -> ZookeeperFace {
        let (watches, sessions) = (Arc::new(Watches::default()), Arc::new(Sessions::default()));
        kernel.follow(Arc::new(Follower {
            node: kernel.cluster().node,
            clock: clock.clone(),
            watches: watches.clone(),
            sessions: sessions.clone(),
        }));
        let shared = Arc::new(Shared {
            started: clock.elapsed(),
            kernel,
            clock,
            accounts,
            options,
            watches,
            sessions,
            child_lists: ChildLists::default(),
            read_only: ReadOnly::default(),
            meters: REQUEST_TYPES
                .iter()
                .map(|request_type| metrics.meter(NAME, request_type.name))
                .collect(),
            meter_unknown: metrics.meter(NAME, "unknown"),
            traffic: Traffic::default(),
            connections: Connections::default(),
            is_expiring: AtomicBool::new(false),
        });
        if tokio::runtime::Handle::try_current().is_ok() {
            expiry::start(&shared);
        }
        ZookeeperFace { shared }
    }

    /// The commands that ZooKeeper's AdminServer has.
    pub fn admin_commands(&self) -> Arc<dyn AdminCommands> {
        Arc::new(admin::Admin { shared: self.shared.clone() })
    }
}

impl Face for ZookeeperFace {
    fn name(&self) -> &'static str {
        NAME
    }

    fn standard_port(&self) -> u16 {
        2181
    }

    fn tls_port(&self) -> Option<u16> {
        Some(2281)
    }

    fn try_it(&self, address: SocketAddr) -> String {
        format!("zkCli.sh -server {address} ls /")
    }

    fn authenticates(&self) -> bool {
        true
    }

    fn serve(self: Arc<Self>, connection: Connection) -> Serving {
        let shared = self.shared.clone();
        Box::pin(async move {
            expiry::start(&shared);
            handshake::serve(shared, connection).await
        })
    }
}
