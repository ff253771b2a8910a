//! One node: its data directory, its log, its shard, and the kernel over them.
//!
//! ```text
//! data directory
//! ├── LOCK     held while a node runs on the directory
//! ├── FORMAT   version of this layout
//! ├── log/     segments of the node's log
//! └── store/   checkpoint of the shard's state
//! ```
//! It knows the composed machine and no face.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proteus_env::Clock;
use proteus_env::disk::{DirectoryLock, Disk, RealDisk, lock_directory};
use proteus_kernel::{ChoreOptions, CommitSink, Shard, ShardOptions, ShardStatus};
use proteus_kernel_api::{
    Change, Commit, Feed, Kernel, KernelError, Listener, Minitransaction, Proposal, View,
};
use proteus_log::{Log, LogError, LogOptions};
use proteus_shard_machine::Composed;
use proteus_types::{NodeId, ShardId};
use tracing::info;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_VERSION: &str = "proteus data directory, version 1\n";

/// How a node keeps its data.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Where.
    pub data_directory: PathBuf,
    /// `None`: acknowledged means on stable storage. `Some`: flushed within this time.
    pub flush_interval: Option<Duration>,
    /// Space that writes leave free on the disk, in bytes.
    pub disk_reserve_bytes: u64,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another process runs on the directory.
    #[error("another node is running on {0}; stop it first, or choose another with --data-dir")]
    InUse(PathBuf),
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
    _lock: DirectoryLock,
}

/// The kernel of a node with one shard.
struct NodeKernel {
    shard: Arc<Shard<Composed>>,
    feed: Arc<FeedSink>,
}

/// The feed at the end of the commit path.
#[derive(Default)]
struct FeedSink(Feed);

impl CommitSink<Change> for FeedSink {
    fn on_commit(&self, commit: Commit) {
        self.0.publish(commit);
    }
}

impl Node {
    /// Opens the data directory, recovers what it holds, and serves.
    ///
    /// # Errors
    /// If the directory is in use, unusable or damaged.
    pub async fn start(options: &NodeOptions, clock: Arc<dyn Clock>) -> Result<Node, NodeError> {
        let directory = &options.data_directory;
        let lock = take_lock(directory)?;
        check_format(directory)?;
        let at = |path: PathBuf| move |source| NodeError::Io { path, source };
        let log_directory = directory.join("log");
        let disk = RealDisk::open(&log_directory).map_err(at(log_directory))?;
        let log_options = LogOptions {
            flush_interval: options.flush_interval,
            disk_reserve_bytes: options.disk_reserve_bytes,
            ..LogOptions::default()
        };
        let log = Log::open(Arc::new(disk), log_options)?;
        let feed = Arc::new(FeedSink::default());
        let shard_options =
            ShardOptions { shard: ShardId::META, node: NodeId(1), chores: ChoreOptions::default() };
        let store_directory = directory.join("store");
        let shard = Shard::open(shard_options, &store_directory, log, clock, feed.clone()).await?;
        info!(directory = %directory.display(), index = %shard.status().applied_index, "data recovered");
        Ok(Node { kernel: Arc::new(NodeKernel { shard, feed }), _lock: lock })
    }

    /// What faces see.
    pub fn kernel(&self) -> Arc<dyn Kernel> {
        self.kernel.clone()
    }

    /// Figures of the shard.
    pub fn status(&self) -> ShardStatus {
        self.kernel.shard.status()
    }

    /// Why the node serves no more, or `None` while it does.
    pub fn stop_reason(&self) -> Option<String> {
        self.kernel.shard.stop_reason()
    }

    /// A function that tells the shard's figures, for as long as the node lives.
    pub fn status_source(&self) -> impl Fn() -> ShardStatus + Send + Sync + 'static {
        let shard = self.kernel.shard.clone();
        move || shard.status()
    }

    /// Stops cleanly: the next start replays nothing.
    pub async fn shutdown(self) {
        self.kernel.shard.shutdown().await;
    }
}

impl Kernel for NodeKernel {
    fn propose(&self, minitransactions: Vec<Minitransaction>) -> Proposal {
        Box::pin(self.shard.propose(&minitransactions))
    }

    fn read_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.shard.read(reader)
    }

    fn follow(&self, listener: Arc<dyn Listener>) {
        self.feed.0.follow(listener);
    }

    fn feed(&self) -> &Feed {
        &self.feed.0
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
    use proteus_kernel_api::cache::{Call, Op, Reply, answer};

    use super::*;

    fn options(directory: &Path) -> NodeOptions {
        NodeOptions {
            data_directory: directory.to_owned(),
            flush_interval: None,
            disk_reserve_bytes: 0,
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
