//! The PostgreSQL protocol: simple and extended query over [`proteus_sql`].
//!
//! ```text
//!   socket ─▶ wire::decode ─▶ session ─▶ SqlSession ─▶ rows ─▶ values ─▶ socket
//! ```
//! The face holds what the protocol calls a session: prepared statements and portals. What they mean
//! is `proteus-sql`'s affair. Rows go to the socket as they are made; a client that does not read
//! stops its own query, and is disconnected after a while.
//!
//! Reading order: [`PostgresFace`], [`wire`], `session`, [`values`].

mod cancel;
pub mod errors;
mod options;
mod session;
pub mod values;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use proteus_env::Clock;
use proteus_face::{Accounts, Connection, Face, Meter, Metrics, Serving};
use proteus_kernel_api::Kernel;
use proteus_objects::Objects;
use proteus_sql::{Engine, EngineOptions, KernelTopics, SqlError};

/// The protocol's name in configuration, metrics and logs.
const NAME: &str = "postgres";

/// Where the face's limits are.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Limits of the SQL engine.
    pub engine: EngineOptions,
    /// Where old records of topics are, if there is such a place.
    pub objects: Option<Objects>,
}

/// The face.
pub struct PostgresFace {
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    accounts: Accounts,
    meters: Meters,
    cancels: Arc<cancel::Cancels>,
}

/// One meter for each kind of request that does work.
struct Meters {
    query: Meter,
    parse: Meter,
    bind: Meter,
    describe: Meter,
    execute: Meter,
    sync: Meter,
}

impl PostgresFace {
    /// A face over a kernel.
    ///
    /// # Errors
    /// If the SQL engine refuses its options.
    pub fn new(
        kernel: Arc<dyn Kernel>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        accounts: Accounts,
        options: &PostgresOptions,
    ) -> Result<PostgresFace, SqlError> {
        let topics = Arc::new(KernelTopics::new(kernel.clone(), options.objects.clone()));
        let engine = Engine::new(kernel, topics, &options.engine)?;
        let meter = |request| metrics.meter(NAME, request);
        let meters = Meters {
            query: meter("query"),
            parse: meter("parse"),
            bind: meter("bind"),
            describe: meter("describe"),
            execute: meter("execute"),
            sync: meter("sync"),
        };
        Ok(PostgresFace { engine, clock, accounts, meters, cancels: Arc::default() })
    }
}

impl Face for PostgresFace {
    fn name(&self) -> &'static str {
        NAME
    }

    fn standard_port(&self) -> u16 {
        5432
    }

    /// Scans, joins and sorts.
    fn computes(&self) -> bool {
        true
    }

    /// Clients ask for encryption on the standard port.
    fn tls_port(&self) -> Option<u16> {
        None
    }

    fn try_it(&self, address: SocketAddr) -> String {
        format!("psql -h {} -p {} -U proteus -c 'SELECT version()'", address.ip(), address.port())
    }

    fn authenticates(&self) -> bool {
        true
    }

    fn budget_refusal(&self) -> &'static [u8] {
        // ErrorResponse: 53300 too_many_connections.
        b"E\0\0\0\x3BSFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0"
    }

    fn serve(self: Arc<Self>, connection: Connection) -> Serving {
        Box::pin(session::serve(self, connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_refusal_is_a_message() {
        let clock = Arc::new(proteus_env::SystemClock::new());
        let metrics = Metrics::default();
        let face = PostgresFace::new(
            proteus_testkit::memory_kernel(),
            clock,
            &metrics,
            Accounts::default(),
            &PostgresOptions::default(),
        );
        let bytes = face.ok().map(|face| face.budget_refusal()).unwrap_or_default();
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        assert_eq!(length + 1, bytes.len());
    }

    #[test]
    fn the_support_table_lists_every_request() {
        let document = include_str!("../../../docs/faces/postgres.md");
        for request in wire::REQUESTS {
            assert!(document.contains(&format!("| {request} |")), "{request} is not in the table");
        }
    }
}
