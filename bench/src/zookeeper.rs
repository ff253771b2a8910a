//! Sessions of one client library against both.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use zookeeper_client as zk;

use crate::measure::{Sample, Table};
use crate::processes::{Durability, Proteus, ZOOKEEPER, start_zookeeper};
use crate::{Options, Result, load};

const SESSIONS: &[usize] = &[1, 64];

const VALUE: &[u8] = b"0123456789abcdef0123456789abcdef";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Request {
    Create,
    Set,
    Get,
}

/// A session and the name under which it works.
struct Session {
    client: zk::Client,
    path: String,
}

fn failed(error: zk::Error) -> String {
    format!("zookeeper: {error}")
}

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    let ours = Proteus::start(proteus, options.temporary()?, Durability::Flushed)?;
    let peer = start_zookeeper(options.temporary()?)?;
    if peer.is_none() {
        println!("ZooKeeper is not installed (package zookeeper): our figures alone\n");
    }
    let ours_at = ours.face(ZOOKEEPER);
    let peer_at = peer.as_ref().map(|(peer, _)| peer.address);
    // A virtual machine that has just started compiles first; that is not what is compared.
    for address in [Some(ours_at), peer_at].into_iter().flatten() {
        for request in [Request::Create, Request::Set, Request::Get] {
            measure(address, 16, request, options.seconds(3.0)).await?;
        }
    }
    let table = Table::begin(
        "ZooKeeper: every write flushed (ZooKeeper: forceSync, its default)",
        Some("zookeeper"),
    );
    for sessions in SESSIONS {
        for request in [Request::Create, Request::Set, Request::Get] {
            let plural = if *sessions == 1 { "" } else { "s" };
            let case = format!("{request:?} · {sessions} session{plural}").to_lowercase();
            if !options.wants(&case) {
                continue;
            }
            let (mut ours_samples, mut peer_samples) = (Vec::new(), Vec::new());
            for _ in 0..options.rounds {
                let duration = options.seconds(2.0);
                ours_samples.push(measure(ours_at, *sessions, request, duration).await?);
                if let Some(peer_at) = peer_at {
                    peer_samples.push(measure(peer_at, *sessions, request, duration).await?);
                }
            }
            table.row(&case, &ours_samples, &peer_samples);
        }
    }
    table.end();
    Ok(())
}

async fn measure(
    address: SocketAddr,
    sessions: usize,
    request: Request,
    duration: Duration,
) -> Result<Sample> {
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    let sequential = zk::CreateMode::PersistentSequential.with_acls(zk::Acls::anyone_all());
    let mut clients = Vec::new();
    for _ in 0..sessions {
        let client = zk::Client::connector()
            .with_session_timeout(Duration::from_secs(30))
            .connect(&address.to_string())
            .await
            .map_err(failed)?;
        // A name that no earlier measurement has used.
        let (_, number) = client.create("/bench-", VALUE, &sequential).await.map_err(failed)?;
        clients.push(Session { client, path: format!("/bench-{number}") });
    }
    let (sample, _) = load::closed_loop(clients, duration, move |session: Session, number| {
        let options = options.clone();
        async move {
            let Session { client, path } = &session;
            let result = match request {
                Request::Create => {
                    client.create(&format!("{path}/{number}"), VALUE, &options).await.map(drop)
                }
                Request::Set => client.set_data(path, VALUE, None).await.map(drop),
                Request::Get => client.get_data(path).await.map(drop),
            };
            (session, result.map_err(failed))
        }
    })
    .await?;
    Ok(sample)
}
