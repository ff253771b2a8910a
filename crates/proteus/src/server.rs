//! A node with its faces.

use std::net::SocketAddr;
use std::sync::Arc;

use proteus_env::{Clock, SystemClock, disk, net};
use proteus_face::{Face, Metrics, ServeOptions, ServingFace, Shutdown, ShutdownHandle, serve};
use proteus_face_http::HttpFace;
use proteus_face_kafka::{KafkaFace, KafkaOptions};
use proteus_face_postgres::{PostgresFace, PostgresOptions};
use proteus_face_redis::RedisFace;
use proteus_face_zookeeper::{ZookeeperFace, ZookeeperOptions};
use proteus_node::{Node, NodeError, NodeOptions};
use tracing::warn;

use crate::config::Config;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The SQL engine refuses its options.
    #[error("the SQL engine cannot start: {0}")]
    Sql(String),
    /// A face's address is taken or not of this machine.
    #[error(
        "the {face} face cannot listen on {address}: {source}; choose other ports with --port-offset, or another address with --listen"
    )]
    Listen {
        /// The face.
        face: &'static str,
        /// Its address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// An open face, as shown to people.
#[derive(Debug, Clone)]
pub struct OpenFace {
    /// The protocol's name.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// A line to try it with.
    pub try_it: String,
}

/// A running server.
pub struct Server {
    node: Node,
    shutdown: ShutdownHandle,
    serving: Vec<ServingFace>,
    /// What is open.
    pub faces: Vec<OpenFace>,
    /// What is not, and why.
    pub closed: Vec<(&'static str, &'static str)>,
}

impl Server {
    /// Starts the node and opens its faces.
    ///
    /// # Errors
    /// If the data directory or an address cannot be used.
    pub async fn start(config: &Config) -> Result<Server, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let options = NodeOptions {
            data_directory: config.data_directory.clone(),
            flush_interval: config.flush_interval,
            disk_reserve_bytes: config.disk_reserve_bytes,
        };
        let node = Node::start(&options, clock.clone()).await?;
        let metrics = Metrics::default();
        let (handle, shutdown) = ShutdownHandle::new();
        let mut server = Server {
            node,
            shutdown: handle,
            serving: Vec::new(),
            faces: Vec::new(),
            closed: Vec::new(),
        };
        let serve_options =
            ServeOptions { connections_max: config.connections_max, metrics: metrics.clone() };
        for face in build_faces(&server.node, config, &clock, &metrics)? {
            server.open(face, config, &serve_options, &shutdown)?;
        }
        Ok(server)
    }

    fn open(
        &mut self,
        face: Arc<dyn Face>,
        config: &Config,
        options: &ServeOptions,
        shutdown: &Shutdown,
    ) -> Result<(), StartError> {
        let name = face.name();
        if config.faces.as_ref().is_some_and(|faces| !faces.iter().any(|wanted| wanted == name)) {
            return Ok(());
        }
        if !config.accounts.is_open() && !face.authenticates() {
            warn!(
                face = name,
                "not opened: it cannot check passwords yet, and accounts are configured"
            );
            self.closed.push((name, "it cannot check passwords yet, and accounts are configured"));
            return Ok(());
        }
        let port = face.standard_port().saturating_add(config.port_offset);
        let address = SocketAddr::new(config.listen, port);
        let refused = |source| StartError::Listen { face: name, address, source };
        let listener = net::listen(address).map_err(refused)?;
        let try_it = face.try_it(address);
        let serving = serve(face, listener, options.clone(), shutdown.clone()).map_err(refused)?;
        self.serving.push(serving);
        self.faces.push(OpenFace { name, address, try_it });
        Ok(())
    }

    /// Resolves when the node can serve no more, with the reason.
    pub async fn failed(&self) -> String {
        loop {
            if let Some(reason) = self.node.stop_reason() {
                return reason;
            }
            proteus_env::task::sleep(std::time::Duration::from_millis(500)).await;
        }
    }

    /// Stops cleanly: requests under way are finished, then a checkpoint is written.
    pub async fn stop(self) {
        self.shutdown.request();
        for face in self.serving {
            face.stopped().await;
        }
        self.node.shutdown().await;
    }
}

/// All faces, in the order in which they are shown.
fn build_faces(
    node: &Node,
    config: &Config,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Vec<Arc<dyn Face>>, StartError> {
    let kernel = node.kernel();
    let accounts = || config.accounts.clone();
    let postgres = PostgresFace::new(
        kernel.clone(),
        clock.clone(),
        metrics,
        accounts(),
        &PostgresOptions::default(),
    )
    .map_err(|error| StartError::Sql(error.to_string()))?;
    Ok(vec![
        Arc::new(ZookeeperFace::new(
            kernel.clone(),
            clock.clone(),
            metrics,
            accounts(),
            ZookeeperOptions {
                frame_bytes_max: config.zookeeper_frame_bytes_max,
                super_digest: config.zookeeper_super_digest.clone(),
                ..ZookeeperOptions::default()
            },
        )),
        KafkaFace::new(kernel.clone(), clock.clone(), metrics, accounts(), KafkaOptions::default()),
        Arc::new(RedisFace::new(kernel.clone(), clock.clone(), metrics, accounts())),
        Arc::new(postgres),
        Arc::new(HttpFace::new(kernel, metrics.clone(), sampled_figures(node, metrics))),
    ])
}

/// Figures that are read when somebody looks.
fn sampled_figures(node: &Node, metrics: &Metrics) -> Arc<dyn Fn() + Send + Sync> {
    let status = node.status_source();
    let index = metrics.gauge("shard_applied_index", "Last log entry applied");
    let commands = metrics.gauge("shard_commands_applied", "Minitransactions applied since start");
    let active = metrics.gauge("store_uncheckpointed_bytes", "Changes that no checkpoint contains");
    let log = metrics.gauge("log_bytes", "Size of the log");
    let memory = metrics.gauge("resident_memory_bytes", "Resident memory of the process");
    Arc::new(move || {
        let now = status();
        index.set(now.applied_index.0);
        commands.set(now.applied_count);
        active.set(now.active_bytes as u64);
        log.set(now.log_bytes);
        memory.set(disk::resident_memory_bytes().unwrap_or(0));
    })
}
