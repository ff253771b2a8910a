//! Statements that name one row by its whole primary key: they skip the query engine.

use std::sync::{Arc, OnceLock};

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, Select, SelectItem, SetExpr, TableFactor,
};
use proteus_kernel_api::table::{ColumnType, Row, TableInfo, Value};

use crate::error::SqlError;
use crate::eval::{EvalError, Scope, evaluate_as, placeholder_number};
use crate::names;
use crate::returning::{column_index, result_column};
use crate::statement::{Context, parse};
use crate::types::{ResultColumn, coerce};

/// A SELECT of columns of one row.
pub struct PointSelect<'a> {
    /// The table.
    pub table: Arc<TableInfo>,
    /// The result's columns.
    pub columns: Vec<ResultColumn>,
    indexes: Vec<usize>,
    name: String,
    selection: &'a Expr,
}

/// Reads a query as a point select; `None` if it is not one.
///
/// # Errors
/// If the kernel cannot read the catalog.
pub fn select<'a>(
    context: &Context<'_>,
    query: &'a ast::Query,
) -> Result<Option<PointSelect<'a>>, SqlError> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Ok(None) };
    let [from] = select.from.as_slice() else { return Ok(None) };
    let (TableFactor::Table { name, alias, .. }, Some(selection)) =
        (&from.relation, &select.selection)
    else {
        return Ok(None);
    };
    // A system table of this name would be meant first; none of ours may be called so.
    let relation = names::relation(name)?;
    if relation.schema.as_deref().is_some_and(|schema| schema != names::PUBLIC)
        || relation.name.starts_with("pg_")
        || !is_plain(query, select)?
    {
        return Ok(None);
    }
    let Some(table) = context.table(&relation.name)? else { return Ok(None) };
    let name = alias.as_ref().map_or(relation.name, |alias| names::fold(&alias.name));
    if key_parts(Some(selection), &table, &name).is_none() {
        return Ok(None);
    }
    let (mut columns, mut indexes) = (Vec::new(), Vec::new());
    for item in &select.projection {
        let (range, alias) = match item {
            SelectItem::Wildcard(options) if *options == Default::default() => {
                (0..table.definition.columns.len(), None)
            }
            SelectItem::UnnamedExpr(expr) => match column_index(expr, &table) {
                Ok(index) => (index..index + 1, None),
                Err(_) => return Ok(None),
            },
            SelectItem::ExprWithAlias { expr, alias } => match column_index(expr, &table) {
                Ok(index) => (index..index + 1, Some(names::fold(alias))),
                Err(_) => return Ok(None),
            },
            _ => return Ok(None),
        };
        for index in range {
            columns.push(result_column(&table, index, alias.clone()));
            indexes.push(index);
        }
    }
    Ok(Some(PointSelect { table, columns, indexes, name, selection }))
}

/// Whether a query has nothing but a projection, one table and a WHERE: put together from these it
/// is the same query.
fn is_plain(query: &ast::Query, select: &Select) -> Result<bool, SqlError> {
    if query.with.is_some() || query.order_by.is_some() || query.limit_clause.is_some() {
        return Ok(false);
    }
    static PLAIN: OnceLock<Option<Box<ast::Query>>> = OnceLock::new();
    let plain = PLAIN.get_or_init(|| match parse("SELECT 1").ok()?.pop()? {
        ast::Statement::Query(query) => Some(query),
        _ => None,
    });
    let Some(mut plain) = plain.clone() else { return Ok(false) };
    if let SetExpr::Select(body) = plain.body.as_mut() {
        body.projection.clone_from(&select.projection);
        body.selection.clone_from(&select.selection);
        body.from.clone_from(&select.from);
    }
    let is_single = select.from.iter().all(|from| {
        from.joins.is_empty()
            && matches!(
                &from.relation,
                TableFactor::Table { alias, args: None, version: None, sample: None, with_ordinality: false, .. }
                    if alias.as_ref().is_none_or(|alias| alias.columns.is_empty())
            )
    });
    Ok(is_single && plain.as_ref() == query)
}

impl PointSelect<'_> {
    /// The row, if it is there and its key could be evaluated; `None` if the query engine must.
    ///
    /// # Errors
    /// If a parameter has no value for the key's type, or the kernel cannot read.
    pub fn run(&self, context: &Context<'_>) -> Result<Option<Vec<Row>>, SqlError> {
        let constants = context.constants();
        let key = key(Some(self.selection), &self.table, &self.name, &constants)?;
        let Some(key) = key else { return Ok(None) };
        let snapshot = context.transaction.snapshot(&context.engine.kernel);
        let found = snapshot.get_many(self.table.id, &[key])?;
        let project = |row: Row| -> Row {
            let value = |index: &usize| row.get(*index).cloned().unwrap_or(Value::Null);
            self.indexes.iter().map(value).collect()
        };
        Ok(Some(found.into_iter().filter_map(|(row, _)| row.map(project)).collect()))
    }

    /// Parameters of the key with the types of their columns.
    pub fn parameter_types(&self) -> Vec<(usize, ColumnType)> {
        let parts = key_parts(Some(self.selection), &self.table, &self.name).unwrap_or_default();
        let typed = |(expr, column_type): (&Expr, ColumnType)| {
            placeholder_number(expr).map(|number| (number, column_type))
        };
        parts.into_iter().filter_map(typed).collect()
    }
}

/// The key that `selection` names, if it is `column = constant` for each column of the primary key,
/// and nothing else.
///
/// # Errors
/// If a constant has no value of its column's type.
pub fn key(
    selection: Option<&Expr>,
    table: &TableInfo,
    name: &str,
    constants: &dyn Scope,
) -> Result<Option<Vec<u8>>, SqlError> {
    let Some(parts) = key_parts(selection, table, name) else { return Ok(None) };
    let mut key = Vec::new();
    for (expr, column_type) in parts {
        // A constant of another type than the column's may equal no value of it: `id = 1.5`.
        let value = match evaluate_as(expr, constants, column_type) {
            Ok(value) if is_exact(expr, constants, &value, column_type) => value,
            Ok(_) | Err(EvalError::Unsupported) => return Ok(None),
            Err(EvalError::Sql(error)) if is_text(expr) => return Err(error),
            Err(EvalError::Sql(_)) => return Ok(None),
        };
        if value.is_null() {
            return Ok(None);
        }
        value.encode_key(&mut key);
    }
    Ok(Some(key))
}

fn is_text(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(value.value, ast::Value::SingleQuotedString(_)))
}

/// Whether nothing was lost when the constant became a value of its column's type.
fn is_exact(expr: &Expr, constants: &dyn Scope, value: &Value, column_type: ColumnType) -> bool {
    match expr {
        Expr::Value(literal) => match &literal.value {
            ast::Value::SingleQuotedString(_) => true,
            ast::Value::Number(text, _) => match column_type {
                ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt => {
                    text.parse::<i64>().is_ok()
                }
                ColumnType::Double => true,
                _ => false,
            },
            ast::Value::Placeholder(_) => placeholder_number(expr)
                .and_then(|number| constants.parameter(number))
                .is_some_and(|(given, from)| {
                    let same =
                        std::mem::discriminant(&from) == std::mem::discriminant(&column_type);
                    let both_integers =
                        matches!((&given, value), (Value::Int(a), Value::Int(b)) if a == b);
                    let text = matches!(from, ColumnType::Text { .. });
                    let is_numeric = matches!(column_type, ColumnType::Numeric { .. });
                    both_integers
                        || ((same || text)
                            && !is_numeric
                            && coerce(given, from, column_type).is_ok())
                }),
            ast::Value::Boolean(_) => column_type == ColumnType::Bool,
            _ => false,
        },
        Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => {
            is_exact(expr, constants, value, column_type)
        }
        Expr::Nested(expr) => is_exact(expr, constants, value, column_type),
        _ => false,
    }
}

/// The constants of the primary key's columns, in the key's order.
fn key_parts<'a>(
    selection: Option<&'a Expr>,
    table: &TableInfo,
    name: &str,
) -> Option<Vec<(&'a Expr, ColumnType)>> {
    let mut equalities = Vec::new();
    collect_equalities(selection?, &mut equalities)?;
    let definition = &table.definition;
    if definition.has_row_ids() || equalities.len() != definition.primary_key.len() {
        return None;
    }
    let mut parts = Vec::new();
    for index in &definition.primary_key {
        let column = definition.columns.get(*index as usize)?;
        // `=` compares a varchar's text; a length is no matter. Real is compared as double.
        if column.column_type == ColumnType::Real || column.column_type == ColumnType::Json {
            return None;
        }
        let is_column = |expr: &Expr| match expr {
            Expr::Identifier(ident) => names::fold(ident) == column.name,
            Expr::CompoundIdentifier(path) => match path.as_slice() {
                [table, ident] => names::fold(table) == name && names::fold(ident) == column.name,
                _ => false,
            },
            _ => false,
        };
        let constant = equalities.iter().find_map(|(left, right)| {
            let (left, right): (&'a Expr, &'a Expr) = (left, right);
            match (is_column(left), is_column(right)) {
                (true, false) => Some(right),
                (false, true) => Some(left),
                _ => None,
            }
        })?;
        parts.push((constant, column.column_type));
    }
    Some(parts)
}

fn collect_equalities<'a>(expr: &'a Expr, into: &mut Vec<(&'a Expr, &'a Expr)>) -> Option<()> {
    match expr {
        Expr::Nested(expr) => collect_equalities(expr, into),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            collect_equalities(left, into)?;
            collect_equalities(right, into)
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            into.push((left, right));
            Some(())
        }
        _ => None,
    }
}
