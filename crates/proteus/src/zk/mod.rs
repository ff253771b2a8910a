//! `proteus zk`: znodes from the command line, over the ZooKeeper protocol, of Proteus or of ZooKeeper.

mod transfer;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use zookeeper_client as zk;

use crate::cli::print;

/// How long to try to reach a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The server and what to do there.
#[derive(Args)]
pub(crate) struct ZkArguments {
    /// Server, or servers of an ensemble separated by commas, perhaps with a path below which to work
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:2181")]
    server: String,
    /// What to authenticate with, such as digest:user:password
    #[arg(long, global = true, value_name = "SCHEME:SECRET")]
    auth: Vec<String>,
    #[command(subcommand)]
    command: ZkCommand,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Mode {
    #[default]
    Persistent,
    Container,
}

#[derive(Subcommand)]
enum ZkCommand {
    /// List the children of a znode
    Ls {
        path: String,
        /// All below it, as paths
        #[arg(short, long)]
        recursive: bool,
    },
    /// Print the data of a znode
    Get {
        path: String,
        /// Its stat as well
        #[arg(short, long)]
        stat: bool,
    },
    /// Set the data of a znode
    Set {
        path: String,
        data: String,
        /// Only if its data is at this version
        #[arg(long)]
        version: Option<i32>,
    },
    /// Create a znode and print its path
    Create {
        path: String,
        #[arg(default_value = "")]
        data: String,
        #[arg(long, value_enum, default_value = "persistent")]
        mode: Mode,
        /// Append the parent's counter to the name
        #[arg(long)]
        sequential: bool,
        /// Delete it when it has not been changed for so long
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
        /// Create missing parents
        #[arg(short, long)]
        parents: bool,
    },
    /// Delete a znode
    Delete {
        path: String,
        /// And all below it
        #[arg(short, long)]
        recursive: bool,
        /// Only if its data is at this version
        #[arg(long, conflicts_with = "recursive")]
        version: Option<i32>,
    },
    /// Print what changes at a znode and below it, until Ctrl-C
    Watch {
        path: String,
        /// End after so many changes
        #[arg(long)]
        count: Option<u64>,
    },
    /// Write a znode and all below it to standard output, one JSON object a line
    Export { path: String },
    /// Create the znodes that `export` wrote, from standard input
    ///
    /// What is there already with the same data and ACL is left alone, so that an import that was
    /// interrupted is resumed by running it again.
    Import {
        /// Leave out ACLs: what is created is open to everyone
        #[arg(long)]
        open: bool,
    },
    /// Copy a znode and all below it from another ensemble
    ///
    /// Ephemerals are left out: they belong to sessions there. What is there already with the same
    /// data and ACL is left alone, so that a copy that was interrupted is resumed by running it again.
    Copy {
        path: String,
        /// Where from: servers of the ensemble
        #[arg(long, value_name = "HOST:PORT")]
        from: String,
        /// What to authenticate there with
        #[arg(long, value_name = "SCHEME:SECRET")]
        from_auth: Vec<String>,
        /// Leave out ACLs: what is created is open to everyone
        #[arg(long)]
        open: bool,
    },
}

/// Does what the arguments say.
pub(crate) async fn run(arguments: &ZkArguments) -> Result<(), String> {
    let client = connect(&arguments.server, &arguments.auth).await?;
    match &arguments.command {
        ZkCommand::Ls { path, recursive: false } => {
            let mut names = client.list_children(path).await.map_err(|error| at(path, &error))?;
            names.sort();
            names.iter().try_for_each(|name| print(&format!("{name}\n")))
        }
        ZkCommand::Ls { path, recursive: true } => {
            let mut walk = transfer::Walk::from(path);
            while let Some(path) = walk.next(&client).await? {
                print(&format!("{path}\n"))?;
            }
            Ok(())
        }
        ZkCommand::Get { path, stat } => get(&client, path, *stat).await,
        ZkCommand::Set { path, data, version } => {
            let set = client.set_data(path, data.as_bytes(), *version).await;
            set.map(|_| ()).map_err(|error| at(path, &error))
        }
        ZkCommand::Create { path, data, mode, sequential, ttl, parents } => {
            let mode = match (mode, sequential) {
                (Mode::Persistent, false) => zk::CreateMode::Persistent,
                (Mode::Persistent, true) => zk::CreateMode::PersistentSequential,
                (Mode::Container, false) => zk::CreateMode::Container,
                (Mode::Container, true) => {
                    return Err("a container has no sequential name".to_owned());
                }
            };
            let options = mode.with_acls(zk::Acls::anyone_all());
            let options = match ttl {
                Some(seconds) => options.with_ttl(Duration::from_secs(*seconds)),
                None => options,
            };
            if *parents {
                create_parents(&client, path).await?;
            }
            let created = client.create(path, data.as_bytes(), &options).await;
            let (_, sequence) = created.map_err(|error| at(path, &error))?;
            let suffix = if *sequential { sequence.to_string() } else { String::new() };
            print(&format!("{path}{suffix}\n"))
        }
        ZkCommand::Delete { path, recursive: false, version } => {
            client.delete(path, *version).await.map_err(|error| at(path, &error))
        }
        ZkCommand::Delete { path, recursive: true, .. } => transfer::delete(&client, path).await,
        ZkCommand::Watch { path, count } => watch(&client, path, *count).await,
        ZkCommand::Export { path } => transfer::export(&client, path).await,
        ZkCommand::Import { open } => transfer::import(&client, *open).await,
        ZkCommand::Copy { path, from, from_auth, open } => {
            let source = connect(from, from_auth).await?;
            transfer::copy(&source, &client, path, *open).await
        }
    }
}

async fn connect(server: &str, auths: &[String]) -> Result<zk::Client, String> {
    let mut connector = zk::Client::connector()
        .with_session_timeout(Duration::from_secs(30))
        .with_connection_timeout(CONNECT_TIMEOUT)
        .with_fail_eagerly();
    for auth in auths {
        let (scheme, secret) = auth.split_once(':').ok_or_else(|| {
            "--auth is a scheme and a secret, such as digest:user:password".to_owned()
        })?;
        connector = connector.with_auth(scheme, secret.as_bytes());
    }
    let connected = connector.connect(server).await;
    connected.map_err(|error| format!("cannot connect to {server}: {error}; is it running?"))
}

fn at(path: &str, error: &zk::Error) -> String {
    format!("{path}: {error}")
}

async fn get(client: &zk::Client, path: &str, with_stat: bool) -> Result<(), String> {
    use std::io::Write;
    let (data, stat) = client.get_data(path).await.map_err(|error| at(path, &error))?;
    let mut out = std::io::stdout();
    out.write_all(&data).and_then(|()| out.flush()).map_err(|error| error.to_string())?;
    print("\n")?;
    if with_stat {
        print(&format!("{stat:#?}\n"))?;
    }
    Ok(())
}

/// Creates what is missing above `path`.
async fn create_parents(client: &zk::Client, path: &str) -> Result<(), String> {
    let open = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    for (end, _) in path.match_indices('/').filter(|(end, _)| *end > 0) {
        let parent = path.get(..end).unwrap_or_default();
        match client.create(parent, b"", &open).await {
            Ok(_) | Err(zk::Error::NodeExists) => {}
            Err(error) => return Err(at(parent, &error)),
        }
    }
    Ok(())
}

async fn watch(client: &zk::Client, path: &str, count: Option<u64>) -> Result<(), String> {
    let mode = zk::AddWatchMode::PersistentRecursive;
    let mut watcher = client.watch(path, mode).await.map_err(|error| at(path, &error))?;
    let mut told = 0;
    while count.is_none_or(|count| told < count) {
        let event = watcher.changed().await;
        let what = match event.event_type {
            zk::EventType::NodeCreated => "created",
            zk::EventType::NodeDeleted => "deleted",
            zk::EventType::NodeDataChanged => "changed",
            zk::EventType::NodeChildrenChanged => "children",
            zk::EventType::Session if event.session_state.is_terminated() => {
                return Err(format!("the session ended: {:?}", event.session_state));
            }
            zk::EventType::Session => continue,
        };
        told += 1;
        print(&format!("{what} {}\n", event.path))?;
    }
    Ok(())
}
