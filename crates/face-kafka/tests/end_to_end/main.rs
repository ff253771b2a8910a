//! The face, driven over real sockets: by `rskafka`, a client of its own, for what that can do, and
//! by a bare client for what it cannot (groups, old versions, bad input).

mod acls;
mod admin;
mod client;
mod cross_face;
mod groups;
mod rskafka_client;
mod shares;
mod tiering;
mod transactions;
mod wire;

use std::sync::Arc;

use proteus_env::{Clock, SystemClock};
use proteus_face::{Accounts, Metrics};
use proteus_face_kafka::{KafkaFace, KafkaOptions};
use proteus_testkit::{ServedFace, memory_kernel, serve_face};

fn served() -> ServedFace {
    served_with(Accounts::default(), KafkaOptions::default())
}

fn served_with(accounts: Accounts, options: KafkaOptions) -> ServedFace {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    serve_face(KafkaFace::new(memory_kernel(), clock, &Metrics::default(), accounts, options))
}
