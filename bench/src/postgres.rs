//! Connections of one client library against both.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio_postgres::{Client, NoTls, Statement};

use crate::measure::{Sample, Table};
use crate::processes::{Durability, POSTGRES, Proteus, postgres_version, start_postgres};
use crate::{Options, Result, load};

const CONNECTIONS: &[usize] = &[1, 16];

/// Rows in the table before anything is measured.
const ROWS: i64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Request {
    Select,
    Update,
    Insert,
}

struct Session {
    client: Client,
    statement: Statement,
    /// Keys are unique to a connection by their remainder.
    place: i64,
}

fn failed(error: tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(told) => format!("postgres: {}", told.message()),
        None => format!("postgres: {error}"),
    }
}

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    for durability in options.durabilities() {
        let ours = Proteus::start(proteus, options.temporary()?, durability)?;
        let ours_at = ours.face(POSTGRES);
        if std::net::TcpStream::connect(ours_at).is_err() {
            println!("PostgreSQL: skipped, this build of proteus has no postgres face\n");
            return Ok(());
        }
        let peer = start_postgres(options, durability)?;
        match postgres_version() {
            Some(version) if peer.is_some() => println!("beside {version}\n"),
            _ => println!("PostgreSQL is not installed (package postgresql): our figures alone\n"),
        }
        let peer_at = peer.as_ref().map(|peer| peer.address);
        for address in [Some(ours_at), peer_at].into_iter().flatten() {
            fill(address, ROWS).await?;
        }
        let meaning = match durability {
            Durability::Flushed => "every commit flushed (PostgreSQL: its default)",
            Durability::Relaxed => "flushed soon after (PostgreSQL: synchronous_commit off)",
        };
        let table = Table::begin(&format!("PostgreSQL: {meaning}"), Some("postgres"));
        let mut next_key = ROWS;
        for connections in CONNECTIONS {
            for request in [Request::Select, Request::Update, Request::Insert] {
                let plural = if *connections == 1 { "" } else { "s" };
                let case = format!("{request:?} · {connections} connection{plural}").to_lowercase();
                if !options.wants(&case) {
                    continue;
                }
                let (mut ours_samples, mut peer_samples) = (Vec::new(), Vec::new());
                for _ in 0..options.rounds {
                    // Far enough from all keys before.
                    next_key += 10_000_000;
                    let load = (*connections, request, next_key);
                    let duration = options.seconds(2.0);
                    ours_samples.push(measure(ours_at, load, duration).await?);
                    if let Some(peer_at) = peer_at {
                        peer_samples.push(measure(peer_at, load, duration).await?);
                    }
                }
                table.row(&case, &ours_samples, &peer_samples);
            }
        }
        table.end();
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> Result<Client> {
    let settings =
        format!("host={} port={} user=postgres dbname=postgres", address.ip(), address.port());
    let mut last = String::new();
    for _ in 0..100 {
        match tokio_postgres::connect(&settings, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) => last = failed(error),
        }
        // PostgreSQL accepts connections a moment before it serves them.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(last)
}

/// A table with so many rows, a multiple of 500.
pub(crate) async fn fill(address: SocketAddr, rows: i64) -> Result<()> {
    let client = connect(address).await?;
    client
        .batch_execute("CREATE TABLE bench (id BIGINT PRIMARY KEY, value TEXT)")
        .await
        .map_err(failed)?;
    for first in (0..rows).step_by(500) {
        let rows: Vec<String> =
            (first..first + 500).map(|id| format!("({id}, 'value {id}')")).collect();
        let insert = format!("INSERT INTO bench (id, value) VALUES {}", rows.join(","));
        client.batch_execute(&insert).await.map_err(failed)?;
    }
    Ok(())
}

/// Returns once a row of that table is read.
pub(crate) async fn read_one(address: SocketAddr) -> Result<()> {
    let client = connect(address).await?;
    let read = client.query_one("SELECT value FROM bench WHERE id = $1", &[&499_i64]).await;
    read.map(drop).map_err(failed)
}

async fn measure(
    address: SocketAddr,
    (connections, request, first_key): (usize, Request, i64),
    duration: Duration,
) -> Result<Sample> {
    let text = match request {
        Request::Select => "SELECT value FROM bench WHERE id = $1",
        Request::Update => "UPDATE bench SET value = $2 WHERE id = $1",
        Request::Insert => "INSERT INTO bench (id, value) VALUES ($1, $2)",
    };
    let mut sessions = Vec::new();
    for place in 0..connections as i64 {
        let client = connect(address).await?;
        let statement = client.prepare(text).await.map_err(failed)?;
        sessions.push(Session { client, statement, place });
    }
    let step = connections as i64;
    let (sample, _) = load::closed_loop(sessions, duration, move |session: Session, number| {
        async move {
            let Session { client, statement, place } = &session;
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            // A step that visits every row in an order unlike that of the keys; connections stay
            // apart, so that none waits for another's row.
            let known = ((number * 7_919) % (ROWS / step)) * step + place;
            let result = match request {
                Request::Select => client.query_one(statement, &[&known]).await.map(drop),
                Request::Update => client.execute(statement, &[&known, &"updated"]).await.map(drop),
                Request::Insert => {
                    let key = first_key + number * step + place;
                    client.execute(statement, &[&key, &"inserted"]).await.map(drop)
                }
            };
            (session, result.map_err(failed))
        }
    })
    .await?;
    Ok(sample)
}
