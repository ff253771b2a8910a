//! The Redis face: RESP2, RESP3 and inline commands in front of the kernel.
//!
//! ```text
//!   bytes ─▶ codec ─▶ commands::parse ─▶ session ─▶ kernel ─▶ reply ─▶ bytes
//! ```
//! Everything that one read brings is carried out together: reads before the first write come from
//! the state at once, and the first write and all after it become one proposal, whose replies are
//! written in one piece. So a pipeline of any depth costs one flush.
//!
//! Source: "Redis serialization protocol specification" (redis.io), and Redis 7.4's replies.
//!
//! Reading order: [`codec`], `commands`, `session`, `reply`, `errors`.

pub mod codec;
mod commands;
mod errors;
mod info;
mod reply;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use proteus_env::Clock;
use proteus_face::{Accounts, Connection, Face, Meter, Metrics, Serving};
use proteus_kernel_api::Kernel;

/// The release whose behaviour this face follows, as it tells its clients.
pub(crate) const REDIS_VERSION: &str = "7.4.0";

/// The Redis protocol's server side.
pub struct RedisFace {
    kernel: Arc<dyn Kernel>,
    clock: Arc<dyn Clock>,
    accounts: Accounts,
    /// One for each of [`commands::TABLE`], in its order.
    meters: Vec<Meter>,
    /// Time from a batch of commands to its replies.
    batches: Meter,
    clients: AtomicUsize,
}

impl RedisFace {
    /// A face over `kernel`.
    pub fn new(
        kernel: Arc<dyn Kernel>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        accounts: Accounts,
    ) -> RedisFace {
        let meters = commands::TABLE.iter().map(|spec| metrics.meter("redis", spec.name)).collect();
        let batches = metrics.meter("redis", "(batch)");
        RedisFace { kernel, clock, accounts, meters, batches, clients: AtomicUsize::new(0) }
    }
}

impl Face for RedisFace {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn standard_port(&self) -> u16 {
        6379
    }

    fn tls_port(&self) -> Option<u16> {
        Some(6380)
    }

    fn try_it(&self, address: SocketAddr) -> String {
        format!("redis-cli -h {} -p {} SET greeting hello", address.ip(), address.port())
    }

    fn authenticates(&self) -> bool {
        true
    }

    fn budget_refusal(&self) -> &'static [u8] {
        b"-ERR max number of clients reached\r\n"
    }

    fn serve(self: Arc<Self>, connection: Connection) -> Serving {
        Box::pin(session::serve(self, connection))
    }
}
