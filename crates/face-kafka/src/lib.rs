//! The Kafka protocol: a face over the topic machine.
//!
//! Any Kafka client may produce, consume, join consumer groups and administer topics; to it this
//! node is a cluster of one broker, of release 4.1. What is served, what differs and what is refused
//! is the table in `docs/faces/kafka.md`, which a test holds against [`api`](crate).
//!
//! Batches pass through untouched. Durable changes are minitransactions of the topic machine;
//! membership of consumer groups is soft state of this process (see `group.rs`): after a restart
//! members join again and resume from their committed offsets, as after the loss of a coordinator.
//!
//! Reading order: `session.rs`, `codec.rs`, `api.rs`, `requests/`, `group.rs`, `coordinator.rs`.
//!
//! Source: the Kafka protocol guide, <https://kafka.apache.org/protocol>.

mod acl;
mod api;
mod brokers;
mod codec;
mod consumer_group;
mod coordinator;
mod errors;
mod group;
mod offset_retention;
mod pattern;
mod quota;
mod requests;
mod session;
mod share;
mod tiering;
mod topics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proteus_env::{Clock, task};
use proteus_face::{Accounts, Connection, Face, Meter, Metrics, Serving};
use proteus_kernel_api::Kernel;
use proteus_objects::Objects;

use crate::acl::Authorizer;
use crate::coordinator::Coordinator;
use crate::quota::Meters;
use crate::requests::sasl::AccountCredentials;
use crate::share::Shares;
use crate::topics::Topics;

pub use crate::group::GroupOptions;

/// The name of the face, as in configuration, metrics and logs.
const NAME: &str = "kafka";

/// How the face behaves where Kafka's broker has a setting.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Whether asking for a topic's metadata creates it (`auto.create.topics.enable`).
    pub creates_topics: bool,
    /// Partitions of topics that are created without saying how many (`num.partitions`).
    pub partition_count: u32,
    /// Consumer groups.
    pub group: GroupOptions,
    /// Users for whom no ACL counts (`super.users`).
    pub super_users: Vec<String>,
    /// Names the cluster to clients (`cluster.id`).
    pub cluster_id: String,
    /// Where old records go (`remote.storage.enable`), if there is a place that all nodes reach.
    pub objects: Option<Objects>,
    /// Whether all nodes of the cluster reach that place; one that has it for itself must be alone.
    pub has_shared_objects: bool,
    /// How often it is looked for records that are old enough.
    pub tiering_interval: Duration,
}

impl Default for KafkaOptions {
    fn default() -> KafkaOptions {
        KafkaOptions {
            creates_topics: true,
            partition_count: 1,
            group: GroupOptions::default(),
            super_users: Vec::new(),
            cluster_id: "proteus".to_owned(),
            objects: None,
            has_shared_objects: false,
            tiering_interval: tiering::INTERVAL,
        }
    }
}

/// The face.
pub struct KafkaFace {
    shared: Arc<Shared>,
    /// Whether the task runs that forgets old offsets.
    keeps_offsets: AtomicBool,
}

impl KafkaOptions {
    /// Where old records go, if `kernel`'s nodes all reach it.
    pub(crate) fn objects_for(&self, kernel: &dyn Kernel) -> Option<&Objects> {
        let is_reached = self.has_shared_objects || kernel.cluster().members.len() <= 1;
        self.objects.as_ref().filter(|_| is_reached)
    }
}

/// What all connections share.
pub(crate) struct Shared {
    kernel: Arc<dyn Kernel>,
    clock: Arc<dyn Clock>,
    accounts: Accounts,
    credentials: AccountCredentials,
    authorizer: Arc<Authorizer>,
    quotas: Arc<Meters>,
    options: KafkaOptions,
    /// By index into [`api::SERVED`].
    meters: Vec<Meter>,
    topics: Arc<Topics>,
    coordinator: Arc<Coordinator>,
    shares: Shares,
}

impl KafkaFace {
    /// A face over `kernel`.
    pub fn new(
        kernel: Arc<dyn Kernel>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        accounts: Accounts,
        options: KafkaOptions,
    ) -> Arc<KafkaFace> {
        let meters =
            api::SERVED.iter().map(|served| metrics.meter(NAME, served.name)).collect::<Vec<_>>();
        let topics = Topics::following(&kernel);
        let coordinator = Coordinator::new(kernel.clone(), clock.clone(), options.group.clone());
        let credentials = AccountCredentials::new();
        let authorizer = Authorizer::following(&kernel);
        let quotas = Meters::following(&kernel);
        let shared = Shared {
            kernel,
            clock,
            accounts,
            credentials,
            authorizer,
            quotas,
            options,
            meters,
            topics,
            coordinator,
            shares: Shares::default(),
        };
        Arc::new(KafkaFace { shared: Arc::new(shared), keeps_offsets: AtomicBool::new(false) })
    }
}

impl Face for KafkaFace {
    fn name(&self) -> &'static str {
        NAME
    }

    fn standard_port(&self) -> u16 {
        9092
    }

    fn tls_port(&self) -> Option<u16> {
        Some(9093)
    }

    fn try_it(&self, address: SocketAddr) -> String {
        format!("kcat -b {address} -L")
    }

    fn authenticates(&self) -> bool {
        true
    }

    fn serve(self: Arc<Self>, connection: Connection) -> Serving {
        if !self.keeps_offsets.swap(true, Ordering::AcqRel) {
            task::spawn(offset_retention::keep(Arc::downgrade(&self.shared)));
            task::spawn(tiering::keep(Arc::downgrade(&self.shared)));
        }
        Box::pin(session::serve(self.shared.clone(), connection))
    }
}
