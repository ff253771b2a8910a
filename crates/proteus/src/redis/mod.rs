//! `proteus redis …`: data from a Redis server and to one: RDB files, and following a primary.

mod follow;
mod load;
mod save;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

/// Redis' standard port.
const PORT: u16 = 6379;

/// Which node.
#[derive(Args)]
pub(crate) struct Where {
    /// Where the node is reached [default: 127.0.0.1:6379]
    #[arg(long, value_name = "HOST:PORT", global = true)]
    server: Option<String>,
    /// Added to the standard port of a node on this machine
    #[arg(long, value_name = "N", global = true, conflicts_with = "server")]
    port_offset: Option<u16>,
    /// Account as user:password [env: PROTEUS_USER]
    #[arg(long, value_name = "USER:PASSWORD", global = true)]
    user: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum RedisCommand {
    /// Load an RDB file, as Redis' SAVE writes it.
    Import {
        /// The file
        file: PathBuf,
        /// Replace keys that are there
        #[arg(long)]
        replace: bool,
    },
    /// Write all keys to an RDB file that Redis loads.
    ///
    /// Keys are read one after the other while others write, so the file is not of one moment.
    Export {
        /// The file, which must not be there
        file: PathBuf,
        /// RDB version: 10 for Redis 7.0 and later, 12 for hashes whose fields expire
        #[arg(long, value_name = "N", default_value_t = 10)]
        rdb_version: u16,
    },
    /// Copy a Redis primary and follow what it changes, as a replica does.
    ///
    /// Goes on where it was when it is started again. To move: stop the writers (CLIENT PAUSE on the
    /// primary), wait until nothing is behind (--until-caught-up ends then), and point the clients here.
    Follow {
        /// The primary
        primary: String,
        /// The primary's account, as user:password or :password
        #[arg(long, value_name = "USER:PASSWORD", env = "PROTEUS_PRIMARY_USER")]
        primary_user: Option<String>,
        /// Remove all keys here before a full copy
        #[arg(long)]
        flush: bool,
        /// End once nothing is behind
        #[arg(long)]
        until_caught_up: bool,
    },
}

/// User and password of `user:password`.
fn account_of(text: &str) -> Result<(String, String), String> {
    let (user, password) = text.split_once(':').ok_or("an account is USER:PASSWORD")?;
    Ok((user.to_owned(), password.to_owned()))
}

async fn connect(
    address: &str,
    account: Option<(String, String)>,
) -> Result<MultiplexedConnection, String> {
    let failed = |error: redis::RedisError| format!("{address}: {error}");
    let client = redis::Client::open(format!("redis://{address}/")).map_err(failed)?;
    // A batch takes as long as the disk does.
    let options = AsyncConnectionConfig::new().set_response_timeout(None);
    let connected = client.get_multiplexed_async_connection_with_config(&options).await;
    let mut connection = connected.map_err(failed)?;
    if let Some((user, password)) = account {
        let mut auth = redis::cmd("AUTH");
        if !user.is_empty() {
            auth.arg(user);
        }
        auth.arg(password).query_async::<()>(&mut connection).await.map_err(failed)?;
    }
    Ok(connection)
}

impl Where {
    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let port = PORT.checked_add(self.port_offset.unwrap_or(0));
        let port = port.ok_or("the port offset is too large")?;
        let address = self.server.clone().unwrap_or_else(|| format!("127.0.0.1:{port}"));
        let account = self.user.clone().or_else(|| std::env::var("PROTEUS_USER").ok());
        connect(&address, account.as_deref().map(account_of).transpose()?).await
    }
}

/// Carries the command out.
pub(crate) async fn run(place: &Where, command: RedisCommand) -> Result<(), String> {
    let mut node = place.connect().await?;
    match command {
        RedisCommand::Import { file, replace } => load::import(&mut node, &file, replace).await,
        RedisCommand::Export { file, rdb_version } => {
            save::export(&mut node, &file, rdb_version).await
        }
        RedisCommand::Follow { primary, primary_user, flush, until_caught_up } => {
            let account = primary_user.as_deref().map(account_of).transpose()?;
            let plan = follow::Plan { primary, account, flush, until_caught_up };
            follow::run(&mut node, &plan).await
        }
    }
}
