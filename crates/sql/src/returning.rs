//! RETURNING: columns of the rows that a statement changed.

use datafusion::sql::sqlparser::ast::{Expr, SelectItem};
use proteus_kernel_api::table::{Row, TableInfo, Value};

use crate::error::SqlError;
use crate::names;
use crate::types::ResultColumn;

/// Which columns to return.
pub struct Returning {
    columns: Vec<ResultColumn>,
    indexes: Vec<usize>,
}

impl Returning {
    /// Reads a RETURNING list: `*` and columns, with or without aliases.
    ///
    /// # Errors
    /// 0A000 for other expressions, 42703 for columns that are not there.
    pub fn new(items: &[SelectItem], table: &TableInfo) -> Result<Returning, SqlError> {
        let mut returning = Returning { columns: Vec::new(), indexes: Vec::new() };
        for item in items {
            match item {
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                    for index in 0..table.definition.columns.len() {
                        returning.push(table, index, None);
                    }
                }
                SelectItem::UnnamedExpr(expr) => {
                    returning.push(table, column_index(expr, table)?, None);
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    returning.push(table, column_index(expr, table)?, Some(names::fold(alias)));
                }
                other => return Err(SqlError::unsupported(format!("RETURNING {other}"))),
            }
        }
        Ok(returning)
    }

    fn push(&mut self, table: &TableInfo, index: usize, alias: Option<String>) {
        self.indexes.push(index);
        self.columns.push(result_column(table, index, alias));
    }

    /// The columns of the result.
    pub fn columns(self) -> Vec<ResultColumn> {
        self.columns
    }

    /// The result for these rows.
    pub fn result(self, rows: &[Row]) -> (Vec<ResultColumn>, Vec<Row>) {
        let value = |row: &Row, index: &usize| row.get(*index).cloned().unwrap_or(Value::Null);
        let rows =
            rows.iter().map(|row| self.indexes.iter().map(|index| value(row, index)).collect());
        let rows = rows.collect();
        (self.columns, rows)
    }
}

/// The position of the column that an expression names.
///
/// # Errors
/// As [`Returning::new`].
pub fn column_index(expr: &Expr, table: &TableInfo) -> Result<usize, SqlError> {
    let name = match expr {
        Expr::Identifier(ident) => names::fold(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(names::fold).unwrap_or_default(),
        other => return Err(SqlError::unsupported(format!("RETURNING {other}"))),
    };
    table
        .definition
        .column_index(&name)
        .ok_or_else(|| SqlError::undefined_column(&name, &table.definition.name))
}

/// The result's column for a column of a table.
pub fn result_column(table: &TableInfo, index: usize, alias: Option<String>) -> ResultColumn {
    let column = table.definition.columns.get(index);
    let name = column.map(|column| column.name.clone()).unwrap_or_default();
    ResultColumn {
        name: alias.unwrap_or(name),
        column_type: column.map_or(crate::types::TEXT, |column| column.column_type),
        origin: u16::try_from(index + 1).ok().map(|position| (table.id, position)),
    }
}
