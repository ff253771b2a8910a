//! The system's own tables: `pg_catalog` and `information_schema`, made when they are read.
//!
//! Tools read the catalog through them: psql's `\d`, drivers, ORMs. What Proteus has is in them; what
//! it has not (triggers, policies, publications, …) are tables without rows.

mod catalog;
mod empty;
pub mod functions;
mod information_schema;

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::catalog::{MemTable, TableProvider};
use proteus_kernel_api::table::{ColumnType, Row};

use crate::batch::batch_of;
use crate::engine::QueryScope;
use crate::error::SqlError;
use crate::types::arrow_type;

pub use catalog::{object_texts, relation_oid};
pub use catalog::{type_modifier, type_oid, type_size};

const PG_CATALOG: &str = "pg_catalog";
const INFORMATION_SCHEMA: &str = "information_schema";

/// The system's table of this name, if there is one. Without a schema, `pg_catalog` is meant.
///
/// # Errors
/// If the kernel cannot read the catalog.
pub fn table(
    schema: Option<&str>,
    name: &str,
    scope: &QueryScope,
) -> Result<Option<Arc<dyn TableProvider>>, SqlError> {
    let content = match schema {
        Some(PG_CATALOG) => catalog::pg_catalog(name, scope)?,
        None if name.starts_with("pg_") => catalog::pg_catalog(name, scope)?,
        Some(INFORMATION_SCHEMA) => information_schema::information_schema(name, scope)?,
        _ => None,
    };
    let Some((columns, rows)) = content else { return Ok(None) };
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column_type)| Field::new(*name, arrow_type(*column_type), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let wanted: Vec<(usize, ColumnType)> =
        columns.iter().enumerate().map(|(index, (_, column_type))| (index, *column_type)).collect();
    let batch = batch_of(&schema, &wanted, &rows)?;
    Ok(Some(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?)))
}

/// Columns and rows of a system table.
type Content = (Vec<(&'static str, ColumnType)>, Vec<Row>);
