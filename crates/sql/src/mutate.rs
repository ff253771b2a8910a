//! UPDATE and DELETE.
//!
//! Which rows to change is found by a query of our own: the statement's FROM and WHERE, selecting
//! each row's hidden key and, for UPDATE, its new values. What that query does not return is not
//! touched, whatever the WHERE is made of. The query engine's hooks for changing tables are never
//! used: they are given filters, which a subquery or a folded constant does not survive.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    self, Expr, FromTable, Ident, ObjectName, SelectItem, SetExpr, TableAlias, TableFactor,
    TableWithJoins, UpdateTableFromKind,
};
use futures::StreamExt;
use proteus_kernel_api::table::{Row, TableInfo, Value};

use crate::engine::{QueryScope, TARGET_SCHEMA};
use crate::error::{SqlError, sqlstate};
use crate::eval::{EvalError, evaluate_as};
use crate::insert::{assigned_column, check_not_null, refuse_read_only};
use crate::names;
use crate::point;
use crate::provider::ROW_KEY_COLUMN;
use crate::returning::Returning;
use crate::snapshot::{KeyedRow, Write};
use crate::statement::{Changed, Context, parse};
use crate::transaction::{WRITES_MAX, too_many_writes, unique_violation};
use crate::types::{ResultColumn, coerce};

/// The table that a statement changes, and the name by which its expressions know it.
pub struct Target {
    /// The table.
    pub table: Arc<TableInfo>,
    /// Its alias, or its name.
    pub name: String,
    factor: TableWithJoins,
}

/// Reads the target of an UPDATE or DELETE.
///
/// # Errors
/// 42P01, 42809, 0A000.
pub fn target(context: &Context<'_>, from: &TableWithJoins) -> Result<Target, SqlError> {
    let TableFactor::Table { name, alias, args: None, .. } = &from.relation else {
        return Err(SqlError::unsupported("changing anything but a table"));
    };
    if !from.joins.is_empty() {
        return Err(SqlError::unsupported("a join as the target"));
    }
    let table = context.existing_table(name)?;
    refuse_read_only(&table)?;
    let name = alias.as_ref().map_or(table.definition.name.clone(), |a| names::fold(&a.name));
    Ok(Target { table, name, factor: from.clone() })
}

impl Target {
    /// The target in a query, with the hidden key column.
    fn with_row_key(&self) -> TableWithJoins {
        let mut from = self.factor.clone();
        if let TableFactor::Table { name, alias, .. } = &mut from.relation {
            let table = Ident::with_quote('"', &self.table.definition.name);
            *name = ObjectName::from(vec![Ident::with_quote('"', TARGET_SCHEMA), table]);
            if alias.is_none() {
                *alias = Some(TableAlias {
                    explicit: true,
                    name: Ident::with_quote('"', &self.name),
                    columns: Vec::new(),
                    at: None,
                });
            }
        }
        from
    }

    fn column(&self, name: &str) -> Expr {
        let part = |name: &str| Ident::with_quote('"', name);
        Expr::CompoundIdentifier(vec![part(&self.name), part(name)])
    }
}

/// An UPDATE, understood.
pub struct Update<'a> {
    target: Target,
    /// New values by position of the column.
    assignments: Vec<(usize, &'a Expr)>,
    from: Vec<TableWithJoins>,
    selection: Option<&'a Expr>,
}

/// Reads an UPDATE.
///
/// # Errors
/// What is wrong with it.
pub fn read_update<'a>(
    context: &Context<'_>,
    update: &'a ast::Update,
) -> Result<Update<'a>, SqlError> {
    if update.or.is_some() || !update.order_by.is_empty() || update.limit.is_some() {
        return Err(SqlError::unsupported("UPDATE with OR, ORDER BY or LIMIT"));
    }
    let target = target(context, &update.table)?;
    let mut assignments: Vec<(usize, &Expr)> = Vec::new();
    for assignment in &update.assignments {
        let index = assigned_column(&target.table, &assignment.target)?;
        if assignments.iter().any(|(other, _)| *other == index) {
            let message = format!("multiple assignments to same column: {}", assignment.target);
            return Err(SqlError::new(sqlstate::SYNTAX_ERROR, message));
        }
        assignments.push((index, &assignment.value));
    }
    let from = match &update.from {
        None => Vec::new(),
        Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => {
            from.clone()
        }
    };
    Ok(Update { target, assignments, from, selection: update.selection.as_ref() })
}

impl Update<'_> {
    /// The assigned expressions with the types of their columns.
    pub fn typed_values(&self) -> Vec<(&Expr, proteus_kernel_api::table::ColumnType)> {
        let columns = &self.target.table.definition.columns;
        let mut typed = Vec::with_capacity(self.assignments.len());
        for (index, expr) in &self.assignments {
            if let Some(column) = columns.get(*index) {
                typed.push((*expr, column.column_type));
            }
        }
        typed
    }

    /// The target's table.
    pub fn table(&self) -> &Arc<TableInfo> {
        &self.target.table
    }

    /// The query for the rows to change: each row's key, then all its new values.
    ///
    /// # Errors
    /// If the query cannot be put together.
    pub fn query(&self) -> Result<ast::Statement, SqlError> {
        let mut projection = vec![self.target.column(ROW_KEY_COLUMN)];
        for (index, column) in self.target.table.definition.columns.iter().enumerate() {
            let assigned = self.assignments.iter().find(|(other, _)| *other == index);
            projection.push(match assigned {
                Some((_, expr)) if is_default(expr) => {
                    return Err(SqlError::unsupported("SET column = DEFAULT"));
                }
                Some((_, expr)) => (*expr).clone(),
                None => self.target.column(&column.name),
            });
        }
        rows_query(&self.target, projection, &self.from, self.selection)
    }
}

fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// The query for the rows that a DELETE removes, with its target.
///
/// # Errors
/// What is wrong with the statement.
pub fn read_delete<'a>(
    context: &Context<'_>,
    delete: &'a ast::Delete,
) -> Result<(Target, Vec<TableWithJoins>, Option<&'a Expr>), SqlError> {
    if !delete.tables.is_empty() || !delete.order_by.is_empty() || delete.limit.is_some() {
        return Err(SqlError::unsupported("this form of DELETE"));
    }
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let [from] = from.as_slice() else {
        return Err(SqlError::unsupported("DELETE from several tables"));
    };
    let target = target(context, from)?;
    Ok((target, delete.using.clone().unwrap_or_default(), delete.selection.as_ref()))
}

/// The query of a DELETE: each row's key, then all its values.
///
/// # Errors
/// If the query cannot be put together.
pub fn delete_query(
    target: &Target,
    using: &[TableWithJoins],
    selection: Option<&Expr>,
) -> Result<ast::Statement, SqlError> {
    let mut projection = vec![target.column(ROW_KEY_COLUMN)];
    let columns = &target.table.definition.columns;
    projection.extend(columns.iter().map(|column| target.column(&column.name)));
    rows_query(target, projection, using, selection)
}

fn rows_query(
    target: &Target,
    projection: Vec<Expr>,
    others: &[TableWithJoins],
    selection: Option<&Expr>,
) -> Result<ast::Statement, SqlError> {
    let mut statement = parse("SELECT 1")?.pop();
    let Some(ast::Statement::Query(query)) = &mut statement else {
        return Err(SqlError::new(sqlstate::INTERNAL, "a query was expected"));
    };
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(SqlError::new(sqlstate::INTERNAL, "a select was expected"));
    };
    let alias = |index: usize| Ident::with_quote('"', format!("__proteus_{index}"));
    select.projection = projection
        .into_iter()
        .enumerate()
        .map(|(index, expr)| SelectItem::ExprWithAlias { expr, alias: alias(index) })
        .collect();
    select.from = std::iter::once(target.with_row_key()).chain(others.iter().cloned()).collect();
    select.selection = selection.cloned();
    statement.ok_or_else(|| SqlError::new(sqlstate::INTERNAL, "a query was expected"))
}

/// Runs a query for rows; a row met twice, as in a join, counts once.
async fn find_rows(
    scope: &QueryScope,
    statement: ast::Statement,
    context: &Context<'_>,
) -> Result<(Vec<ResultColumn>, Vec<KeyedRow>), SqlError> {
    let statement = crate::rewrite::rewrite(statement, scope)?;
    let plan = scope.plan(statement, &context.parameter_types())?;
    let (columns, mut batches) = scope.run(plan, context.parameters).await?;
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(batch) = batches.next().await {
        for mut row in batch? {
            let values = row.split_off(1.min(row.len()));
            if let Some(Value::Bytes(key)) = row.pop()
                && seen.insert(key.clone())
            {
                found.push((key, values));
            }
        }
        if found.len() > WRITES_MAX {
            return Err(too_many_writes());
        }
    }
    Ok((columns.into_iter().skip(1).collect(), found))
}

/// Runs an UPDATE.
///
/// # Errors
/// 23505, 23502, 22xxx, and what is wrong with the statement.
pub async fn update(context: &mut Context<'_>, update: &ast::Update) -> Result<Changed, SqlError> {
    let read = read_update(context, update)?;
    let table = read.target.table.clone();
    let returning =
        update.returning.as_deref().map(|items| Returning::new(items, &table)).transpose()?;
    let changes = match update_point(context, &read)? {
        Some(changes) => changes,
        None => update_query(context, &read).await?,
    };
    let mut rows = Vec::with_capacity(changes.len());
    store_changes(context, &table, changes, &mut rows)?;
    Ok(Changed { count: rows.len(), returning: returning.map(|r| r.result(&rows)) })
}

/// An UPDATE of one row by its key, without the query engine; `None` if it is not one.
fn update_point(
    context: &Context<'_>,
    update: &Update<'_>,
) -> Result<Option<Vec<KeyedRow>>, SqlError> {
    let target = &update.target;
    if !update.from.is_empty() {
        return Ok(None);
    }
    let table = &target.table;
    let key = point::key(update.selection, table, &target.name, &context.constants())?;
    let Some(key) = key else { return Ok(None) };
    let snapshot = context.transaction.snapshot(&context.engine.kernel);
    let found = snapshot.get_many(table.id, std::slice::from_ref(&key))?;
    let Some((Some(row), _)) = found.into_iter().next() else { return Ok(Some(Vec::new())) };
    let mut new_row = row.clone();
    let scope = context.with_rows(vec![(target.name.as_str(), table.as_ref(), &row)]);
    for (index, expr) in &update.assignments {
        let (Some(place), Some(column)) =
            (new_row.get_mut(*index), table.definition.columns.get(*index))
        else {
            continue;
        };
        *place = match evaluate_as(expr, &scope, column.column_type) {
            Ok(value) => value,
            Err(EvalError::Unsupported) => return Ok(None),
            Err(EvalError::Sql(error)) => return Err(error),
        };
    }
    Ok(Some(vec![(key, new_row)]))
}

async fn update_query(
    context: &Context<'_>,
    update: &Update<'_>,
) -> Result<Vec<KeyedRow>, SqlError> {
    let scope = context.query_scope();
    let (from, mut changes) = find_rows(&scope, update.query()?, context).await?;
    let columns = &update.target.table.definition.columns;
    for (_, row) in &mut changes {
        for ((value, from), column) in row.iter_mut().zip(&from).zip(columns) {
            let taken = std::mem::replace(value, Value::Null);
            *value = coerce(taken, from.column_type, column.column_type)?;
        }
    }
    Ok(changes)
}

/// Stores changed rows. Keys that move are all taken away before any is set down again, so that
/// rows may change places.
fn store_changes(
    context: &mut Context<'_>,
    table: &Arc<TableInfo>,
    changes: Vec<KeyedRow>,
    stored: &mut Vec<Row>,
) -> Result<(), SqlError> {
    let definition = &table.definition;
    let mut moved = Vec::new();
    for (key, row) in changes {
        check_not_null(table, &row)?;
        stored.push(row.clone());
        let new_key = if definition.has_row_ids() { None } else { definition.key_of(&row) };
        match new_key {
            Some(new_key) if new_key != key => {
                let write = Write { row: None, is_based: true, is_new_row_id: false };
                context.transaction.write(table, key, write)?;
                moved.push((new_key, row));
            }
            _ => {
                let write = Write { row: Some(row), is_based: true, is_new_row_id: false };
                context.transaction.write(table, key, write)?;
            }
        }
    }
    let keys: Vec<Vec<u8>> = moved.iter().map(|(key, _)| key.clone()).collect();
    let snapshot = context.transaction.snapshot(&context.engine.kernel);
    let found = if keys.is_empty() { Vec::new() } else { snapshot.get_many(table.id, &keys)? };
    let mut taken = BTreeSet::new();
    for ((key, row), (existing, is_based)) in moved.into_iter().zip(found) {
        if existing.is_some() || !taken.insert(key.clone()) {
            return Err(unique_violation(&definition.name));
        }
        let write = Write { row: Some(row), is_based, is_new_row_id: false };
        context.transaction.write(table, key, write)?;
    }
    Ok(())
}

/// Runs a DELETE.
///
/// # Errors
/// What is wrong with the statement.
pub async fn delete(context: &mut Context<'_>, delete: &ast::Delete) -> Result<Changed, SqlError> {
    let (target, using, selection) = read_delete(context, delete)?;
    let table = target.table.clone();
    let returning =
        delete.returning.as_deref().map(|items| Returning::new(items, &table)).transpose()?;
    let key = if using.is_empty() {
        point::key(selection, &table, &target.name, &context.constants())?
    } else {
        None
    };
    let removed = match key {
        Some(key) => {
            let snapshot = context.transaction.snapshot(&context.engine.kernel);
            let found = snapshot.get_many(table.id, std::slice::from_ref(&key))?;
            found.into_iter().filter_map(|(row, _)| Some((key.clone(), row?))).collect()
        }
        None => {
            let scope = context.query_scope();
            find_rows(&scope, delete_query(&target, &using, selection)?, context).await?.1
        }
    };
    remove(context, &table, removed, returning)
}

/// Runs a TRUNCATE: a DELETE of everything.
///
/// # Errors
/// As [`delete`].
pub fn truncate(context: &mut Context<'_>, name: &ObjectName) -> Result<(), SqlError> {
    let table = context.existing_table(name)?;
    refuse_read_only(&table)?;
    let mut scan =
        context.transaction.snapshot(&context.engine.kernel).scan(&table, Vec::new(), None);
    while let Some(chunk) = scan.next_chunk()? {
        remove(context, &table, chunk, None)?;
    }
    Ok(())
}

fn remove(
    context: &mut Context<'_>,
    table: &Arc<TableInfo>,
    removed: Vec<KeyedRow>,
    returning: Option<Returning>,
) -> Result<Changed, SqlError> {
    let mut rows = Vec::with_capacity(removed.len());
    for (key, row) in removed {
        let write = Write { row: None, is_based: true, is_new_row_id: false };
        context.transaction.write(table, key, write)?;
        rows.push(row);
    }
    Ok(Changed { count: rows.len(), returning: returning.map(|r| r.result(&rows)) })
}
