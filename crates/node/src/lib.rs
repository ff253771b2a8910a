//! One node: its data directory, its log, its shards, and the kernel over them.
//!
//! ```text
//! data directory
//! ├── LOCK     held while a node runs on the directory
//! ├── FORMAT   version of this layout
//! ├── IDENTITY the node's number in its cluster
//! ├── log/     segments of the node's log
//! ├── store/   checkpoint of the first shard's state
//! └── store-N/ that of shard N
//! ```
//! It knows the composed machine and no face.
//!
//! Reading order: [`Node`], `identity`, [`Assembly`], `shards`, `router`, `kernel`, `cluster`, [`admin`], `images`, [`Restore`], [`doctor`].

pub mod admin;
mod assembly;
mod cluster;
pub mod doctor;
mod identity;
mod images;
mod kernel;
mod moves;
mod numbers;
mod placement;
mod questions;
mod rebuild;
mod relay;
mod replicas;
mod restore;
mod retire;
mod router;
mod shards;
mod together;
mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proteus_env::Clock;
use proteus_env::disk::{DirectoryLock, Disk, RealDisk, lock_directory};
use proteus_env::{net, random, task};
use proteus_kernel::{Alone, ChoreOptions, Links, ShardStatus, Shards, spread_leaders};
use proteus_kernel_api::{Kernel, KernelError};
use proteus_log::{Log, LogError, LogOptions};
use proteus_peer::serve;
use proteus_types::{Durability, Member, ShardId};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::admin::{AdminAnswer, AdminRequest, AskError, ask_through};
use crate::cluster::{Cluster, NodeHandler, PeerLinks};
use crate::identity::Identity;
use crate::images::Images;
use crate::kernel::FirstShardKernel;
use crate::placement::Placement;
use crate::restore::RESTORING_FILE;
use crate::router::Router;

pub use crate::assembly::{Assembly, AssemblyOptions};
pub use crate::cluster::UpkeepOptions;
pub use crate::kernel::NodeKernel;
pub use crate::restore::Restore;
pub use crate::shards::store_directory;
pub use proteus_kernel::set_rows_memory;
pub use proteus_peer::{Credentials, Dialer, PeerTls, Secret};

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_VERSION: &str = "proteus data directory, version 2\n";

/// How a node keeps its data.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Where.
    pub data_directory: PathBuf,
    /// What acknowledged means to those who do not say.
    pub durability: Durability,
    /// Space that writes leave free on the disk, in bytes.
    pub disk_reserve_bytes: u64,
    /// How it meets other nodes; `None`: not at all.
    pub cluster: Option<ClusterOptions>,
    /// Over how many shards a node that founds a cluster spreads the slots; 0 and 1 are one. What has been
    /// spread stays as it is.
    pub shard_count: u32,
    /// How many nodes have a replica of each shard but the first, in a cluster that a node founds; 0: all.
    pub replica_count: u32,
}

/// How a node meets others.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Where it listens for them.
    pub listen: SocketAddr,
    /// The host at which they and clients reach it.
    pub advertised_host: String,
    /// What is added to every face's standard port.
    pub port_offset: u16,
    /// By what its nodes know each other.
    pub credentials: Credentials,
    /// A node of the cluster to join, as `host:port`; only for a node that has no data yet.
    pub join: Option<String>,
    /// Who votes.
    pub upkeep: UpkeepOptions,
    /// How fast whole states are sent to other nodes, in bytes a second; 0 is no bound.
    pub snapshot_bytes_per_second_max: u64,
}

/// How often a reader looks again at shards of which one has carried out its part of a commit and another
/// has not.
const TORN_TRIES: u32 = 1_000;

/// How long a node of a cluster may look for its leader before its faces open all the same.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a node tries to join before it gives up.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another process runs on the directory.
    #[error("another node is running on {0}; stop it first, or choose another with --data-dir")]
    InUse(PathBuf),
    /// The directory holds data, and a restore would be its end.
    #[error("{0} already holds data; restore into a new directory")]
    NotEmpty(PathBuf),
    /// A restore into the directory has not ended.
    #[error("a restore into {0} was interrupted; run `proteus restore` again with this directory")]
    Restoring(PathBuf),
    /// The state differs from other replicas', and there are none to take it from.
    #[error(
        "the state in {0} differs from the other replicas', and this node is not configured to reach them; configure          the cluster as before, or restore a backup"
    )]
    Differs(PathBuf),
    /// The directory was written by another version.
    #[error(
        "{path} says {found:?}, and this binary reads {FORMAT_VERSION:?}; start the version that wrote it"
    )]
    UnknownFormat {
        /// The file with the version.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The file system failed.
    #[error("cannot use {path}: {source}; check that it exists and may be written")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The cluster does not take this node.
    #[error("cannot join the cluster at {address}: {reason}")]
    Join {
        /// The node that was asked.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The address for other nodes is taken or not of this machine.
    #[error(
        "cannot listen for other nodes on {address}: {source}; choose other ports with --port-offset, or another address with --listen"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The shard cannot be opened.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A running node.
pub struct Node {
    kernel: Arc<NodeKernel>,
    placement: Arc<Placement>,
    stop: watch::Sender<bool>,
    /// Where it listens for other nodes.
    pub peer_address: Option<SocketAddr>,
    data_directory: PathBuf,
    _lock: DirectoryLock,
}

impl Node {
    /// Opens the data directory, recovers what it holds, and serves.
    ///
    /// # Errors
    /// If the directory is in use, unusable or damaged.
    pub async fn start(options: &NodeOptions, clock: Arc<dyn Clock>) -> Result<Node, NodeError> {
        let directory = &options.data_directory;
        let lock = take_lock(directory)?;
        if proteus_env::disk::exists(&directory.join(RESTORING_FILE)) {
            return Err(NodeError::Restoring(directory.clone()));
        }
        check_format(directory)?;
        let at = |path: PathBuf| move |source| NodeError::Io { path, source };
        let log_directory = directory.join("log");
        let disk = RealDisk::open(&log_directory).map_err(at(log_directory))?;
        let log_options =
            LogOptions { disk_reserve_bytes: options.disk_reserve_bytes, ..LogOptions::default() };
        let log = Log::open(Arc::new(disk), log_options)?;
        let (stop, stopping) = watch::channel(false);
        let member = member_of(options);
        let dialer =
            options.cluster.as_ref().map(|cluster| Dialer::new(cluster.credentials.clone()));
        // Listening before the cluster is asked to speak to this node.
        let listener =
            options.cluster.as_ref().map(|cluster| listen(cluster.listen)).transpose()?;
        let identity = take_identity(options, &member, dialer.as_ref()).await?;
        let member = Member { incarnation: identity.incarnation, ..member };
        let retired = retire::finish_retiring(directory, &log).await;
        retired.map_err(at(directory.clone()))?;
        rebuild::rebuild_where_needed(identity.node, directory, &log, dialer.as_ref()).await?;
        let links: Arc<dyn Links> = match &dialer {
            Some(dialer) => Arc::new(PeerLinks { dialer: dialer.clone() }),
            None => Arc::new(Alone),
        };
        let assembly = Assembly::new(AssemblyOptions {
            directory: directory.clone(),
            log,
            clock: clock.clone(),
            links,
            node: identity.node,
            member: member.clone(),
            run: random::random_u64() as u32,
            chores: ChoreOptions::default(),
            durability: options.durability,
            torn_tries: TORN_TRIES,
        });
        let kernel = assembly.open_all(identity.is_founder, &stopping).await?;
        let Assembly { opener, shards, placement, .. } = assembly;
        let shard = kernel.shard.clone();
        let mut peer_address = None;
        if let (Some(cluster), Some(listener), Some(dialer)) = (&options.cluster, listener, dialer)
        {
            peer_address = listener.local_addr().ok();
            opener.set_pace(cluster.snapshot_bytes_per_second_max);
            let answering = Arc::new(Cluster {
                node: identity.node,
                shard: shard.clone(),
                shards: shards.clone(),
                opener,
                upkeep: cluster.upkeep,
                placement: placement.clone(),
                dialer,
                images: Images::new(clock.clone()),
            });
            let handler = Arc::new(NodeHandler(answering.clone()));
            // It is set once.
            let _ = kernel.cluster.set(answering.clone());
            task::spawn(serve(listener, cluster.credentials.clone(), handler, stopping.clone()));
            let spreading = spread_leaders(
                identity.node,
                shards.clone(),
                shards.clone(),
                clock,
                stopping.clone(),
            );
            task::spawn(spreading);
            task::spawn(answering.upkeep_of_shards().keep_up(stopping.clone()));
            task::spawn(answering.clone().keep_told(stopping.clone()));
            task::spawn(answering.clone().keep_placing(cluster.upkeep, stopping.clone()));
            task::spawn(answering.clone().keep_retiring(stopping.clone()));
            task::spawn(answering.clone().keep_relayed(stopping.clone()));
            task::spawn(answering.keep_up(member, cluster.upkeep, stopping));
        }
        wait_until_current(&kernel.router).await;
        if identity.is_founder && options.shard_count > 1 && shards.map().version == 0 {
            if options.replica_count > 0 {
                let chosen = placement.choose_count(options.replica_count).await;
                chosen.map_err(KernelError::Unavailable)?;
            }
            placement.spread(options.shard_count).await.map_err(KernelError::Unavailable)?;
        }
        info!(directory = %directory.display(), node = %identity.node, index = %shard.status().applied_index, "data recovered");
        let data_directory = directory.clone();
        Ok(Node { kernel, placement, stop, peer_address, data_directory, _lock: lock })
    }

    /// What faces see.
    pub fn kernel(&self) -> Arc<dyn Kernel> {
        self.kernel.clone()
    }

    /// As [`Node::kernel`], for faces of which all data are in the first shard: their reads look at, and wait
    /// for, that alone.
    pub fn first_shard_kernel(&self) -> Arc<dyn Kernel> {
        Arc::new(FirstShardKernel(self.kernel.clone()))
    }

    /// Figures of the first shard.
    pub fn status(&self) -> ShardStatus {
        self.kernel.shard.status()
    }

    /// Figures of all shards that are open here.
    pub fn shard_statuses(&self) -> Vec<(ShardId, ShardStatus)> {
        let shards = self.kernel.router.shards.all();
        shards.into_iter().map(|(id, shard)| (id, shard.status())).collect()
    }

    /// Spreads the slots evenly over so many shards, adding those that are missing. Safe to repeat, and
    /// to be interrupted.
    ///
    /// # Errors
    /// In words, why it was not done, or not to the end.
    pub async fn spread(&self, shard_count: u32) -> Result<(), String> {
        self.placement.spread(shard_count).await
    }

    /// Why the node serves no more, or `None` while it does.
    pub fn stop_reason(&self) -> Option<String> {
        let shards = self.kernel.router.shards.all();
        shards.iter().find_map(|(_, shard)| shard.stop_reason())
    }

    /// Whether the node serves no more because its state differs from the other replicas', so that
    /// starting it again rebuilds it.
    pub fn must_rebuild(&self) -> bool {
        let shards = self.kernel.router.shards.all();
        shards
            .iter()
            .any(|(id, _)| proteus_kernel::differs(&store_directory(&self.data_directory, *id)))
    }

    /// A function that tells the shard's figures, for as long as the node lives.
    pub fn status_source(&self) -> impl Fn() -> ShardStatus + Send + Sync + 'static {
        let shard = self.kernel.shard.clone();
        move || shard.status()
    }

    /// Stops cleanly: the next start replays nothing.
    pub async fn shutdown(self) {
        // Others are answered until leadership is handed over.
        let mut shards = self.kernel.router.shards.all();
        // The first last: commits over several shards are decided there.
        let others = shards.split_off(1.min(shards.len()));
        join_all(others.iter().map(|(_, shard)| shard.shutdown())).await;
        for (_, first) in shards {
            first.shutdown().await;
        }
        self.stop.send_replace(true);
    }
}

/// This node as others reach it; its incarnation is its identity's.
fn member_of(options: &NodeOptions) -> Member {
    let Some(cluster) = &options.cluster else { return Member::default() };
    let host = cluster.advertised_host.clone();
    let peer_address = if host.contains(':') {
        format!("[{host}]:{}", cluster.listen.port())
    } else {
        format!("{host}:{}", cluster.listen.port())
    };
    let port_offset = cluster.port_offset;
    Member { peer_address, client_host: host, port_offset, ..Member::default() }
}

fn listen(address: SocketAddr) -> Result<net::TcpListener, NodeError> {
    net::listen(address).map_err(|source| NodeError::Listen { address, source })
}

/// What the data directory says, or what the cluster to be joined says, or the first node of a new one.
async fn take_identity(
    options: &NodeOptions,
    member: &Member,
    dialer: Option<&Dialer>,
) -> Result<Identity, NodeError> {
    let directory = &options.data_directory;
    let io = |source| NodeError::Io { path: directory.clone(), source };
    if let Some(identity) = Identity::load(directory).map_err(io)? {
        return Ok(identity);
    }
    let join = options.cluster.as_ref().and_then(|cluster| cluster.join.as_deref());
    let identity = match (join, dialer) {
        (Some(address), Some(dialer)) => {
            // Kept before it is told, so that a node that is interrupted joins once.
            let incarnation = random::random_u64();
            let member = Member { incarnation, ..member.clone() };
            let node = join_cluster(dialer, address, member).await?;
            Identity { node, incarnation, is_founder: false }
        }
        _ => Identity::founder(),
    };
    identity.keep(directory).map_err(io)?;
    Ok(identity)
}

async fn join_cluster(
    dialer: &Dialer,
    address: &str,
    member: Member,
) -> Result<proteus_types::NodeId, NodeError> {
    let request = AdminRequest::Join { member };
    let mut reason = String::new();
    let joining = async {
        loop {
            match ask_through(dialer, address, &request).await {
                Ok(AdminAnswer::Joined { node }) => return Ok(node),
                Ok(other) => reason = format!("an answer to another question: {other:?}"),
                Err(AskError::NotAdmitted(refused)) => return Err(refused),
                Err(AskError::Failed(refused)) => {
                    if refused != reason {
                        warn!(address, reason = refused, "not joined yet; it is tried again");
                    }
                    reason = refused;
                }
            }
            task::sleep(Duration::from_millis(300)).await;
        }
    };
    let joined = task::timeout(JOIN_PATIENCE, joining).await;
    let joined = joined.unwrap_or(Err(reason));
    joined.map_err(|reason| NodeError::Join { address: address.to_owned(), reason })
}

/// Waits until this node knows a leader and has what that has committed, within limits: a node that
/// cannot tell opens its faces all the same, and says so to whoever asks.
async fn wait_until_current(router: &Router) {
    let current = async {
        while let Some(barrier) = router.read_barrier() {
            if let Ok(()) = barrier.await {
                return;
            }
        }
    };
    if task::timeout(LEADER_PATIENCE, current).await.is_none() {
        warn!("no leader of the cluster was found yet; requests wait for one");
    }
}

fn take_lock(directory: &Path) -> Result<DirectoryLock, NodeError> {
    lock_directory(directory).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => NodeError::InUse(directory.to_owned()),
        _ => NodeError::Io { path: directory.to_owned(), source: error },
    })
}

fn check_format(directory: &Path) -> Result<(), NodeError> {
    let path = directory.join(FORMAT_FILE);
    let io = |source| NodeError::Io { path: path.clone(), source };
    let disk = RealDisk::open(directory).map_err(io)?;
    let file = disk.open(FORMAT_FILE).map_err(io)?;
    if file.is_empty().map_err(io)? {
        file.write_at(0, FORMAT_VERSION.as_bytes()).map_err(io)?;
        file.flush().map_err(io)?;
        return disk.flush_directory().map_err(io);
    }
    let found = proteus_env::disk::read_text(&path).map_err(io)?;
    if found == FORMAT_VERSION { Ok(()) } else { Err(NodeError::UnknownFormat { path, found }) }
}

#[cfg(test)]
mod tests {
    use proteus_env::SystemClock;
    use proteus_kernel_api::Minitransaction;
    use proteus_kernel_api::cache::{Call, Op, Reply, answer};

    use super::*;

    fn options(directory: &Path) -> NodeOptions {
        NodeOptions {
            data_directory: directory.to_owned(),
            durability: Durability::Flushed,
            disk_reserve_bytes: 0,
            cluster: None,
            shard_count: 1,
            replica_count: 0,
        }
    }

    async fn start(directory: &Path) -> Result<Node, NodeError> {
        Node::start(&options(directory), Arc::new(SystemClock::new())).await
    }

    #[tokio::test]
    async fn a_second_node_on_the_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let node = start(directory.path()).await.unwrap();
        let refused = start(directory.path()).await.err().unwrap();
        assert!(refused.to_string().contains("another node is running"), "{refused}");
        node.shutdown().await;
    }

    #[tokio::test]
    async fn an_unknown_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        start(directory.path()).await.unwrap().shutdown().await;
        let disk = RealDisk::open(directory.path()).unwrap();
        disk.open(FORMAT_FILE).unwrap().write_at(32, b"9").unwrap();
        let refused = start(directory.path()).await.err().unwrap();
        assert!(refused.to_string().contains("version 9"), "{refused}");
    }

    #[tokio::test]
    async fn commits_are_there_after_a_clean_stop_and_start() {
        let directory = tempfile::tempdir().unwrap();
        let node = start(directory.path()).await.unwrap();
        let op = Op::command(&["SET", "k", "v"]);
        node.kernel().commit(Minitransaction::of(op)).await.unwrap();
        node.shutdown().await;
        let node = start(directory.path()).await.unwrap();
        let call = Call::new(&["GET", "k"]);
        let kernel = node.kernel();
        let found = kernel.read(|view| answer(view, &call)).unwrap();
        assert_eq!(found, Reply::Bulk("v".into()));
        node.shutdown().await;
    }
}
