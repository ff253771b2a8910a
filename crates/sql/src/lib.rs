//! SQL over the table machine.
//!
//! ```text
//!   text ─▶ parse ─▶ point read or write by key ────────────▶ rows ─┐
//!                └─▶ rewrite ─▶ query engine ─▶ scan in chunks ─────┤ at the transaction's timestamp,
//!                                                                   │ under its own writes
//!   COMMIT ─▶ checks + ops of all machines ─▶ one minitransaction ◀─┘
//! ```
//! Transactions have snapshot isolation: a transaction reads at the timestamp at which it began, and
//! commits only if no row that it writes was changed since; else 40001. DDL, DML and transactions
//! are this crate's own; queries are planned and executed by Apache DataFusion, which never changes
//! a row. Topics are tables too.
//!
//! It knows no protocol and no socket. Reading order: [`SqlSession`], [`Engine`], [`Procedures`],
//! [`TopicReader`].

mod access;
mod batch;
mod catalog;
mod checked;
mod ddl;
mod depth;
mod describe;
mod engine;
mod error;
mod eval;
mod insert;
mod mutate;
mod names;
mod point;
mod procedures;
mod provider;
mod returning;
mod rewrite;
mod session;
mod settings;
mod snapshot;
mod statement;
mod system;
mod topics;
mod transaction;
mod types;
mod value_text;

pub use engine::{Engine, EngineOptions, RowStream};
pub use error::{SqlError, sqlstate};
pub use procedures::{Calls, Procedure, Procedures};
pub use session::{Execution, Parsed, Prepared, SqlSession, TransactionStatus};
pub use settings::{REPORTED, Settings};
pub use system::{type_modifier, type_oid, type_size};
pub use topics::{KernelTopics, TopicReader, TopicRecord};
pub use transaction::CrossFace;
pub use types::ResultColumn;
pub use value_text::{format_value, parse_value};
