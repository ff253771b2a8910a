//! A node with its faces.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proteus_env::task::Pool;
use proteus_env::{Clock, SystemClock, disk, net};
use proteus_face::{
    Face, Listening, Metrics, Security, ServeOptions, ServingFace, Shutdown, ShutdownHandle,
    StoredAccounts, Tls, TlsError, WrongPassword, serve,
};
use proteus_face_http::{HttpFace, RegistryFace};
use proteus_face_kafka::{KafkaFace, KafkaOptions};
use proteus_face_postgres::{PostgresFace, PostgresOptions};
use proteus_face_redis::RedisFace;
use proteus_face_zookeeper::{ZookeeperFace, ZookeeperOptions};
use proteus_kernel_api::cache::acl;
use proteus_node::{ClusterOptions, Node, NodeError, NodeOptions, UpkeepOptions, set_rows_memory};
use proteus_objects::Objects;
use tracing::warn;

use crate::cluster::{self, PEER_PORT};
use crate::config::{Config, TlsFiles};

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// There is no secret to meet other nodes with.
    #[error("{0}")]
    Credentials(String),
    /// Old records have no place.
    #[error("{0}; configure object_store")]
    Objects(String),
    /// The SQL engine refuses its options.
    #[error("the SQL engine cannot start: {0}")]
    Sql(String),
    /// A file for encryption cannot be read.
    #[error("cannot read {file} for TLS: {source}")]
    TlsFile {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The files for encryption are not usable.
    #[error("TLS is not possible: {0}")]
    Tls(#[from] TlsError),
    /// The operating system refuses threads.
    #[error("no threads can be started: {0}")]
    Threads(std::io::Error),
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
    /// Where it listens; `None` if only encrypted connections are served.
    pub address: Option<SocketAddr>,
    /// Where it listens for connections that are encrypted from the first byte.
    pub tls_address: Option<SocketAddr>,
    /// A line to try it with.
    pub try_it: String,
}

/// A running server.
pub struct Server {
    node: Node,
    shutdown: ShutdownHandle,
    serving: Vec<ServingFace>,
    tls: Option<Tls>,
    /// What serves faces that compute, once there is one.
    computing: Option<Pool>,
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
            durability: config.durability,
            disk_reserve_bytes: config.disk_reserve_bytes,
            cluster: Some(cluster_options(config)?),
            shard_count: config.shard_count,
            replica_count: config.replica_count,
        };
        // Before anything is opened: a typing error must not leave half a node.
        let tls = config.tls.as_ref().map(read_tls).transpose()?;
        set_rows_memory(rows_bytes_max(config));
        let node = Node::start(&options, clock.clone()).await?;
        let metrics = Metrics::default();
        let (handle, shutdown) = ShutdownHandle::new();
        let mut server = Server {
            node,
            shutdown: handle,
            serving: Vec::new(),
            tls,
            computing: None,
            faces: Vec::new(),
            closed: Vec::new(),
        };
        let serve_options =
            ServeOptions { connections_max: config.connections_max, metrics: metrics.clone() };
        let mut bound = Vec::new();
        for face in build_faces(&server.node, config, &clock, &metrics)? {
            bound.extend(server.bind(face, config)?);
        }
        // All of them accept by now: whoever is answered by one face reaches the others.
        for bound in bound {
            server.serve(bound, &serve_options, &shutdown)?;
        }
        Ok(server)
    }

    /// Takes the addresses of a face, if it is to be opened, for threads of its own if it computes.
    fn bind(&mut self, face: Arc<dyn Face>, config: &Config) -> Result<Option<Bound>, StartError> {
        let name = face.name();
        if config.faces.as_ref().is_some_and(|faces| !faces.iter().any(|wanted| wanted == name)) {
            return Ok(None);
        }
        if !config.accounts.is_open() && !face.authenticates() {
            warn!(
                face = name,
                "not opened: it cannot check passwords yet, and accounts are configured"
            );
            self.closed.push((name, "it cannot check passwords yet, and accounts are configured"));
            return Ok(None);
        }
        if face.computes() && self.computing.is_none() {
            self.computing = Some(Pool::new("proteus-compute").map_err(StartError::Threads)?);
        }
        let listen = || bind(face.clone(), self.tls.as_ref(), config);
        match self.computing.as_ref().filter(|_| face.computes()) {
            Some(pool) => pool.enter(listen),
            None => listen(),
        }
        .map(Some)
    }

    fn serve(
        &mut self,
        bound: Bound,
        options: &ServeOptions,
        shutdown: &Shutdown,
    ) -> Result<(), StartError> {
        let Bound { face, address, plain, encrypted, listening } = bound;
        let name = face.name();
        let try_it = face.try_it(address);
        let pool = self.computing.as_ref().filter(|_| face.computes());
        let begin = || serve(face, listening, options.clone(), shutdown.clone());
        let serving = match pool {
            Some(pool) => pool.enter(begin),
            None => begin(),
        };
        let refused = |source| StartError::Listen { face: name, address, source };
        self.serving.push(serving.map_err(refused)?);
        self.faces.push(OpenFace { name, address: plain, tls_address: encrypted, try_it });
        Ok(())
    }

    /// Where other nodes reach this one.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.node.peer_address
    }

    /// Whether starting again puts right what made the node fail: another replica's state takes the
    /// place of this one's.
    pub fn must_rebuild(&self) -> bool {
        self.node.must_rebuild()
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

/// A face whose addresses are taken, and that answers nobody yet.
struct Bound {
    face: Arc<dyn Face>,
    /// One of them.
    address: SocketAddr,
    plain: Option<SocketAddr>,
    encrypted: Option<SocketAddr>,
    listening: Vec<Listening>,
}

fn bind(face: Arc<dyn Face>, tls: Option<&Tls>, config: &Config) -> Result<Bound, StartError> {
    let name = face.name();
    let at = |port: u16| SocketAddr::new(config.listen, port.saturating_add(config.port_offset));
    let address = at(face.standard_port());
    let is_tls_only =
        config.tls_only.as_ref().is_none_or(|names| names.iter().any(|other| other == name));
    let mut listening = Vec::new();
    let mut listen = |address, security| -> Result<SocketAddr, StartError> {
        let refused = |source| StartError::Listen { face: name, address, source };
        listening.push(Listening { listener: net::listen(address).map_err(refused)?, security });
        Ok(address)
    };
    let (plain, encrypted) = match (tls, face.tls_port()) {
        (None, _) => (Some(listen(address, Security::Plain)?), None),
        (Some(tls), None) => {
            let tls = tls.clone();
            let security = Security::Negotiated { tls, is_required: is_tls_only };
            (Some(listen(address, security)?), None)
        }
        (Some(tls), Some(tls_port)) => {
            let plain = match is_tls_only {
                true => None,
                false => Some(listen(address, Security::Plain)?),
            };
            let encrypted = listen(at(tls_port), Security::Encrypted(tls.clone()))?;
            (plain, Some(encrypted))
        }
    };
    let address = plain.or(encrypted).unwrap_or(address);
    Ok(Bound { face, address, plain, encrypted, listening })
}

/// Rows that are used stay in memory up to this part of what there is.
const ROWS_MEMORY_PART: u64 = 8;

/// And in so many bytes in any case.
const ROWS_BYTES_MIN: u64 = 64 * 1024 * 1024;

fn rows_bytes_max(config: &Config) -> u64 {
    match config.rows_bytes_max {
        0 => (disk::memory_bytes().unwrap_or(0) / ROWS_MEMORY_PART).max(ROWS_BYTES_MIN),
        bytes => bytes,
    }
}

fn cluster_options(config: &Config) -> Result<ClusterOptions, StartError> {
    let listen = SocketAddr::new(config.listen, PEER_PORT.saturating_add(config.port_offset));
    let advertised_host = match &config.advertise_host {
        Some(host) => host.clone(),
        // Every address is listened on, so none of them is the one to tell.
        None if config.listen.is_unspecified() => {
            net::host_name().unwrap_or_else(|| IpAddr::from(Ipv4Addr::LOCALHOST).to_string())
        }
        None => config.listen.to_string(),
    };
    Ok(ClusterOptions {
        listen,
        advertised_host,
        port_offset: config.port_offset,
        credentials: cluster::credentials(config).map_err(StartError::Credentials)?,
        join: config.join.clone(),
        upkeep: UpkeepOptions { voters_max: config.voters_max, dead_after: config.dead_after },
        snapshot_bytes_per_second_max: config.snapshot_bytes_per_second_max,
    })
}

fn read_tls(files: &TlsFiles) -> Result<Tls, StartError> {
    let read = |file: &Path| {
        let failed = |source| StartError::TlsFile { file: file.to_owned(), source };
        disk::read_text(file).map_err(failed)
    };
    let (certificate, key) = (read(&files.certificate)?, read(&files.key)?);
    let authorities = match &files.client_authorities {
        Some((file, client_certificate)) => Some((read(file)?, *client_certificate)),
        None => None,
    };
    let authorities =
        authorities.as_ref().map(|(pem, client_certificate)| (pem.as_bytes(), *client_certificate));
    Ok(Tls::new(certificate.as_bytes(), key.as_bytes(), authorities)?)
}

/// All faces, in the order in which they are shown.
fn build_faces(
    node: &Node,
    config: &Config,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Vec<Arc<dyn Face>>, StartError> {
    let kernel = node.kernel();
    // Znodes, records and rows.
    let first_shard = node.first_shard_kernel();
    // A user that ACL SETUSER has made, and who may do everything, is one on every face.
    let stored = kernel.clone();
    let stored: Arc<StoredAccounts> = Arc::new(move |user, password| {
        let read = stored.read(|view| acl::admits_unrestricted(view.state, user, password));
        let verdict = |admits| if admits { Ok(()) } else { Err(WrongPassword) };
        // A kernel that has stopped admits nobody.
        read.map_or(Some(Err(WrongPassword)), |found| found.map(verdict))
    });
    let accounts = || config.accounts.clone().with_stored(stored.clone());
    let objects = open_objects(config)?;
    let postgres_options =
        PostgresOptions { objects: Some(objects.clone()), ..PostgresOptions::default() };
    let postgres = PostgresFace::new(
        first_shard.clone(),
        clock.clone(),
        metrics,
        accounts(),
        &postgres_options,
    )
    .map_err(|error| StartError::Sql(error.to_string()))?;
    let zookeeper = ZookeeperFace::new(
        first_shard.clone(),
        clock.clone(),
        metrics,
        accounts(),
        ZookeeperOptions {
            frame_bytes_max: config.zookeeper_frame_bytes_max,
            super_digest: config.zookeeper_super_digest.clone(),
            words: config.zookeeper_words.clone(),
            has_local_sessions: config.zookeeper_local_sessions,
            session_timeout_ms_min: config.zookeeper_session_timeouts_ms.0,
            session_timeout_ms_max: config.zookeeper_session_timeouts_ms.1,
            has_reconfig: config.zookeeper_reconfig,
            serves_read_only: config.zookeeper_read_only,
            read_level: config.zookeeper_reads,
            staleness_max: config.staleness_max,
        },
    );
    let http = HttpFace::new(first_shard.clone(), metrics.clone(), sampled_figures(node, metrics))
        .with_commands(zookeeper.admin_commands());
    Ok(vec![
        Arc::new(zookeeper),
        KafkaFace::new(
            first_shard.clone(),
            clock.clone(),
            metrics,
            accounts(),
            kafka_options(config, objects),
        ),
        Arc::new(
            RedisFace::new(kernel, clock.clone(), metrics, accounts())
                .with_staleness_max(config.staleness_max),
        ),
        Arc::new(postgres),
        Arc::new(http),
        Arc::new(RegistryFace::new(first_shard, accounts())),
    ])
}

/// The directory of old records, in that of the node, if no other place is configured.
const OBJECTS_DIRECTORY: &str = "objects";

fn open_objects(config: &Config) -> Result<Objects, StartError> {
    let own = || config.data_directory.join(OBJECTS_DIRECTORY).display().to_string();
    let place = config.object_store.clone().unwrap_or_else(own);
    Objects::open(&place).map_err(|error| StartError::Objects(error.to_string()))
}

fn kafka_options(config: &Config, objects: Objects) -> KafkaOptions {
    KafkaOptions {
        super_users: config.super_users.clone(),
        objects: Some(objects),
        has_shared_objects: config.object_store.is_some(),
        ..KafkaOptions::default()
    }
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
