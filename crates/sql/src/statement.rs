//! What a statement runs in: the engine, its transaction, its parameters.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use proteus_kernel_api::table::{ColumnType, Row, TableInfo, Value};

use crate::depth;
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
    parse_bounded(sql).map(|(statements, _)| statements)
}

/// Parses statements and says whether they are deep.
///
/// # Errors
/// 42601, 54001.
pub fn parse_bounded(sql: &str) -> Result<(Vec<ast::Statement>, bool), SqlError> {
    let syntax_error = |message: String| SqlError::new(sqlstate::SYNTAX_ERROR, message);
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql)
        .tokenize()
        .map_err(|error| syntax_error(error.to_string()))?;
    let is_deep = depth::is_deep(&tokens)?;
    let parse = || {
        Parser::new(&PostgreSqlDialect {})
            .with_recursion_limit(RECURSION_MAX)
            .with_tokens(tokens)
            .parse_statements()
            .map_err(|error| syntax_error(error.to_string()))
            .and_then(|statements| {
                statements.iter().try_for_each(depth::check_relations)?;
                Ok(statements)
            })
    };
    let statements = if is_deep { depth::on_large_stack(parse) } else { parse() };
    statements.map(|statements| (statements, is_deep))
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

#[cfg(test)]
mod tests {
    use proteus_testkit::fuzz;

    use super::*;

    #[test]
    fn any_text_is_parsed_or_refused() {
        let corpus: Vec<Vec<u8>> = [
            "SELECT a, count(*) FROM t LEFT JOIN u USING (a) WHERE b = $1 GROUP BY 1 ORDER BY 2 DESC LIMIT 3",
            "INSERT INTO t (a, b) VALUES (1, 'x''y'), ($1, E'\\n') ON CONFLICT (a) DO UPDATE SET b = excluded.b",
            "BEGIN; UPDATE t SET a = -1.5e3 WHERE NOT EXISTS (SELECT 1); CALL redis.set('k', $$v$$); COMMIT",
            "CREATE TABLE \"T\" (a numeric(10, 2) DEFAULT 0, PRIMARY KEY (a)) WITH (topic = 'x')",
        ]
        .iter()
        .map(|sql| sql.as_bytes().to_vec())
        .collect();
        fuzz::run("sql_text", &corpus, |input| {
            let _ = parse(&String::from_utf8_lossy(input));
        });
    }
}
