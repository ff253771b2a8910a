//! What a statement runs in: the engine, its transaction, its parameters.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use proteus_kernel_api::table::{ColumnType, Row, TableInfo, Value};

use crate::engine::{Engine, QueryScope};
use crate::error::{SqlError, sqlstate};
use crate::eval::Scope;
use crate::names;
use crate::transaction::Transaction;
use crate::types::ResultColumn;

/// Nesting that the parser accepts; each level costs it stack.
const RECURSION_MAX: usize = 50;

/// Parses statements, separated by semicolons.
///
/// # Errors
/// 42601.
pub fn parse(sql: &str) -> Result<Vec<ast::Statement>, SqlError> {
    Parser::new(&PostgreSqlDialect {})
        .with_recursion_limit(RECURSION_MAX)
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| SqlError::new(sqlstate::SYNTAX_ERROR, error.to_string()))
}

/// What a data-changing statement did.
#[derive(Debug)]
pub struct Changed {
    /// How many rows.
    pub count: usize,
    /// The result of RETURNING.
    pub returning: Option<(Vec<ResultColumn>, Vec<Row>)>,
}

/// One execution of one statement.
pub struct Context<'a> {
    /// The engine.
    pub engine: &'a Arc<Engine>,
    /// The transaction it belongs to.
    pub transaction: &'a mut Transaction,
    /// Its parameters with their types.
    pub parameters: &'a [(Value, ColumnType)],
    /// Time of the statement, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The session's user.
    pub user: &'a str,
    /// The session's database.
    pub database: &'a str,
    /// Whether the transaction is this statement alone, so that the commit finds what a read would.
    pub is_alone: bool,
}

impl Context<'_> {
    /// What the names in a query of this statement mean.
    pub fn query_scope(&self) -> QueryScope {
        QueryScope {
            engine: self.engine.clone(),
            transaction: self.transaction.clone(),
            snapshot: self.transaction.snapshot(&self.engine.kernel),
            user: self.user.to_owned(),
            database: self.database.to_owned(),
        }
    }

    /// The table of this name, as the transaction sees it.
    ///
    /// # Errors
    /// 42P01.
    pub fn existing_table(&self, name: &ast::ObjectName) -> Result<Arc<TableInfo>, SqlError> {
        let name = names::own_table(name)?;
        self.table(&name)?.ok_or_else(|| SqlError::undefined_table(&name))
    }

    /// The table of this name, as the transaction sees it, if there is one.
    ///
    /// # Errors
    /// If the kernel cannot read.
    pub fn table(&self, name: &str) -> Result<Option<Arc<TableInfo>>, SqlError> {
        match self.transaction.table(name) {
            Some(own) => Ok(own),
            None => Ok(self.engine.catalog.table(name)?),
        }
    }

    /// The types of the parameters, as the planner takes them.
    pub fn parameter_types(&self) -> Vec<Option<ColumnType>> {
        self.parameters.iter().map(|(_, column_type)| Some(*column_type)).collect()
    }

    /// A scope in which only parameters have a meaning.
    pub fn constants(&self) -> RowScope<'_> {
        RowScope { relations: Vec::new(), parameters: self.parameters, now_ms: self.now_ms }
    }

    /// A scope with the columns of `relations` as well: name, columns' table, row.
    pub fn with_rows<'b>(
        &'b self,
        relations: Vec<(&'b str, &'b TableInfo, &'b Row)>,
    ) -> RowScope<'b> {
        RowScope { relations, parameters: self.parameters, now_ms: self.now_ms }
    }
}

/// Rows whose columns an expression may name. The first is meant by names without a qualifier.
pub struct RowScope<'a> {
    relations: Vec<(&'a str, &'a TableInfo, &'a Row)>,
    parameters: &'a [(Value, ColumnType)],
    now_ms: u64,
}

impl Scope for RowScope<'_> {
    fn column(&self, qualifier: Option<&str>, name: &str) -> Option<(Value, ColumnType)> {
        let (_, table, row) = match qualifier {
            None => self.relations.first()?,
            Some(qualifier) => self.relations.iter().find(|(name, ..)| *name == qualifier)?,
        };
        let index = table.definition.column_index(name)?;
        let column_type = table.definition.columns.get(index)?.column_type;
        Some((row.get(index)?.clone(), column_type))
    }

    fn parameter(&self, number: usize) -> Option<(Value, ColumnType)> {
        self.parameters.get(number.checked_sub(1)?).cloned()
    }

    fn now_ms(&self) -> u64 {
        self.now_ms
    }
}
