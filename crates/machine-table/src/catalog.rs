//! The catalog: which tables exist.

use std::ops::ControlFlow;

use proteus_machine::key::KeyBuilder;
use proteus_store::{Read, StoreError};
use serde::{Deserialize, Serialize};

use crate::feed::FeedTarget;
use crate::layout::{self, TABLE_FIRST};
use crate::{ColumnType, Row, Value};

/// Names a table for good; never used again after the table is dropped.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct TableId(pub u32);

/// A column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, as stored: folded to lower case unless it was quoted.
    pub name: String,
    /// Type of its values.
    pub column_type: ColumnType,
    /// Whether null is refused.
    pub not_null: bool,
    /// What an INSERT that does not name the column stores.
    pub default: Option<Value>,
}

/// Where the rows of a table come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// From this machine.
    Rows,
    /// From the JSON values of a topic; the table is read-only.
    Topic {
        /// The topic's name.
        topic: String,
    },
}

/// What a table is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The schema that holds it, `public` unless said.
    pub schema: String,
    /// Its name within the schema.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Positions of the primary key's columns, in the key's order; empty if rows are told apart by a
    /// hidden row id.
    pub primary_key: Vec<u32>,
    /// Where its rows come from.
    pub source: Source,
}

/// A table of the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableInfo {
    /// Its id.
    pub id: TableId,
    /// What it is.
    pub definition: Definition,
    /// Where changes of its rows are told, in the commit that makes them.
    pub feed: Option<FeedTarget>,
    /// Whether rows that stood there when the feed began are still being told.
    pub tells_rows: bool,
}

impl Definition {
    /// The position of the column called `name`.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The encoded key of `row`, or `None` if a key column is missing. Without a declared primary
    /// key the result is empty: the machine assigns a row id.
    pub fn key_of(&self, row: &[Value]) -> Option<Vec<u8>> {
        let mut key = Vec::new();
        for index in &self.primary_key {
            row.get(*index as usize)?.encode_key(&mut key);
        }
        Some(key)
    }

    /// Whether rows are told apart by a hidden row id.
    pub fn has_row_ids(&self) -> bool {
        self.primary_key.is_empty()
    }

    /// Why `row` cannot be stored in this table, if it cannot.
    pub fn misfit(&self, row: &Row) -> Option<String> {
        if row.len() != self.columns.len() {
            return Some(format!("{} values for {} columns", row.len(), self.columns.len()));
        }
        self.columns.iter().zip(row).find_map(|(column, value)| {
            if column.not_null && value.is_null() {
                Some(format!("null value in column \"{}\"", column.name))
            } else if value.fits(column.column_type) {
                None
            } else {
                Some(format!("value of column \"{}\" does not fit its type", column.name))
            }
        })
    }

    /// Why there cannot be such a table, if there cannot.
    pub fn fault(&self) -> Option<String> {
        let mut names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        names.sort_unstable();
        let twice = names.windows(2).find_map(|pair| match pair {
            [a, b] if a == b => Some(*a),
            _ => None,
        });
        if let Some(name) = twice {
            return Some(format!("column \"{name}\" specified more than once"));
        }
        if self.columns.len() > crate::COLUMNS_MAX {
            return Some(format!("tables can have at most {} columns", crate::COLUMNS_MAX));
        }
        let known =
            |index: &u32| self.columns.get(*index as usize).is_some_and(|column| column.not_null);
        if !self.primary_key.iter().all(known) {
            return Some("a column of the primary key is missing or nullable".to_owned());
        }
        None
    }
}

/// The table with this id.
///
/// # Errors
/// If the store fails or its bytes are damaged.
pub fn table(read: &dyn Read, id: TableId) -> Result<Option<TableInfo>, StoreError> {
    let key = layout::table_key(id);
    read.get(&key)?.map(|bytes| layout::decode(&key, &bytes)).transpose()
}

/// The table of this name.
///
/// # Errors
/// As [`table`].
pub fn table_by_name(
    read: &dyn Read,
    schema: &str,
    name: &str,
) -> Result<Option<TableInfo>, StoreError> {
    let key = layout::name_key(schema, name);
    let Some(bytes) = read.get(&key)? else { return Ok(None) };
    table(read, layout::decode(&key, &bytes)?)
}

/// All tables, by id.
///
/// # Errors
/// As [`table`].
pub fn tables(read: &dyn Read) -> Result<Vec<TableInfo>, StoreError> {
    let mut tables = Vec::new();
    let mut failed = None;
    let prefix = KeyBuilder::new(layout::SPACE, layout::KIND_TABLE).into_vec();
    read.scan_prefix(&prefix, &mut |key, bytes| match layout::decode(key, bytes) {
        Ok(table) => {
            tables.push(table);
            ControlFlow::Continue(())
        }
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(tables), Err)
}

/// The id that the next table gets.
pub(crate) fn next_table_id(read: &dyn Read) -> Result<TableId, StoreError> {
    let key = layout::next_table_key();
    match read.get(&key)? {
        Some(bytes) => layout::decode(&key, &bytes),
        None => Ok(TABLE_FIRST),
    }
}
