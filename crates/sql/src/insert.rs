//! INSERT.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    self, AssignmentTarget, ConflictTarget, Expr, OnConflictAction, OnInsert, SetExpr, TableObject,
};
use futures::StreamExt;
use proteus_kernel_api::table::{ColumnType, Row, Source, TableInfo, Value};

use crate::error::{SqlError, sqlstate};
use crate::eval::{EvalError, evaluate_as, holds};
use crate::names;
use crate::returning;
use crate::snapshot::Write;
use crate::statement::{Changed, Context};
use crate::transaction::unique_violation;
use crate::types::coerce;

/// The name under which ON CONFLICT sees the row that was to be inserted.
const EXCLUDED: &str = "excluded";

/// The table and the positions of the columns that an INSERT names.
///
/// # Errors
/// 42P01, 42703, or 42809 for a table over a topic.
pub fn target(
    context: &Context<'_>,
    insert: &ast::Insert,
) -> Result<(Arc<TableInfo>, Vec<usize>), SqlError> {
    let TableObject::TableName(name) = &insert.table else {
        return Err(SqlError::unsupported("INSERT into anything but a table"));
    };
    let table = match context.existing_table(name) {
        Err(error) if context.engine.topics.exists(&names::own_table(name)?)? => {
            let _ = error;
            return Err(read_only(&names::own_table(name)?));
        }
        found => found?,
    };
    refuse_read_only(&table)?;
    let definition = &table.definition;
    let mut columns = Vec::with_capacity(insert.columns.len());
    for name in &insert.columns {
        let name = names::parts(name)?.pop().unwrap_or_default();
        let index = definition
            .column_index(&name)
            .ok_or_else(|| SqlError::undefined_column(&name, &definition.name))?;
        if columns.contains(&index) {
            let message = format!("column \"{name}\" specified more than once");
            return Err(SqlError::new("42701", message));
        }
        columns.push(index);
    }
    if columns.is_empty() {
        columns = (0..definition.columns.len()).collect();
    }
    Ok((table, columns))
}

/// Refuses to change a table over a topic.
///
/// # Errors
/// 42809.
pub fn refuse_read_only(table: &TableInfo) -> Result<(), SqlError> {
    match &table.definition.source {
        Source::Rows => Ok(()),
        Source::Topic { .. } => Err(read_only(&table.definition.name)),
    }
}

fn read_only(name: &str) -> SqlError {
    SqlError::new(
        sqlstate::WRONG_OBJECT_TYPE,
        format!("\"{name}\" is a topic, which SQL reads but does not change"),
    )
    .hint("Produce to it over the Kafka protocol, or with CALL kafka.produce(topic, key, value).")
}

/// Runs an INSERT.
///
/// # Errors
/// 23505, 23502, 22xxx, and what is wrong with the statement.
pub async fn insert(context: &mut Context<'_>, insert: &ast::Insert) -> Result<Changed, SqlError> {
    let is_plain = insert.or.is_none()
        && !insert.ignore
        && !insert.overwrite
        && insert.assignments.is_empty()
        && insert.partitioned.is_none()
        && !insert.replace_into;
    if !is_plain {
        return Err(SqlError::unsupported("this form of INSERT"));
    }
    let (table, columns) = target(context, insert)?;
    let rows = source_rows(context, insert, &table, &columns).await?;
    for row in &rows {
        check_not_null(&table, row)?;
    }
    let returning = insert.returning.as_deref();
    let returning = returning.map(|items| returning::Returning::new(items, &table)).transpose()?;
    let changed = match &insert.on {
        None => store_new(context, &table, rows)?,
        Some(OnInsert::OnConflict(on)) => {
            let alias = insert.table_alias.as_ref().map(|alias| names::fold(&alias.alias));
            store_or_resolve(context, &table, rows, on, alias)?
        }
        Some(_) => return Err(SqlError::unsupported("ON DUPLICATE KEY UPDATE")),
    };
    Ok(Changed {
        count: changed.len(),
        returning: returning.map(|returning| returning.result(&changed)),
    })
}

async fn source_rows(
    context: &mut Context<'_>,
    insert: &ast::Insert,
    table: &Arc<TableInfo>,
    columns: &[usize],
) -> Result<Vec<Row>, SqlError> {
    let Some(query) = &insert.source else { return Ok(vec![default_row(table)]) };
    if let SetExpr::Values(values) = query.body.as_ref()
        && query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
    {
        match values_rows(context, &values.rows, table, columns) {
            Ok(rows) => return Ok(rows),
            Err(EvalError::Sql(error)) => return Err(error),
            Err(EvalError::Unsupported) => {}
        }
    }
    let scope = context.query_scope();
    let statement = crate::rewrite::rewrite(ast::Statement::Query(query.clone()), &scope)?;
    let plan = scope.plan(statement, &context.parameter_types())?;
    let (from, mut batches) = scope.run(plan, context.parameters).await?;
    check_width(from.len(), columns.len())?;
    let mut rows = Vec::new();
    while let Some(batch) = batches.next().await {
        for values in batch? {
            let mut row = default_row(table);
            for ((value, from), index) in values.into_iter().zip(&from).zip(columns) {
                set(&mut row, table, *index, |to| coerce(value, from.column_type, to))?;
            }
            rows.push(row);
        }
        if rows.len() > crate::transaction::WRITES_MAX {
            return Err(crate::transaction::too_many_writes());
        }
    }
    Ok(rows)
}

fn set(
    row: &mut Row,
    table: &TableInfo,
    index: usize,
    value: impl FnOnce(ColumnType) -> Result<Value, SqlError>,
) -> Result<(), SqlError> {
    if let (Some(place), Some(column)) = (row.get_mut(index), table.definition.columns.get(index)) {
        *place = value(column.column_type)?;
    }
    Ok(())
}

fn check_width(values: usize, columns: usize) -> Result<(), SqlError> {
    if values == columns {
        return Ok(());
    }
    let which = if values > columns {
        "expressions than target columns"
    } else {
        "target columns than expressions"
    };
    Err(SqlError::new(sqlstate::SYNTAX_ERROR, format!("INSERT has more {which}")))
}

fn default_row(table: &TableInfo) -> Row {
    let default =
        |column: &proteus_kernel_api::table::Column| column.default.clone().unwrap_or(Value::Null);
    table.definition.columns.iter().map(default).collect()
}

fn values_rows(
    context: &Context<'_>,
    values: &[datafusion::sql::sqlparser::ast::Parens<Vec<Expr>>],
    table: &TableInfo,
    columns: &[usize],
) -> Result<Vec<Row>, EvalError> {
    let scope = context.constants();
    let defaults = default_row(table);
    let mut rows = Vec::with_capacity(values.len());
    for exprs in values {
        // Fewer values than columns are as if the rest were DEFAULT, but only without a column list.
        if exprs.content.len() > columns.len() {
            check_width(exprs.content.len(), columns.len())?;
        }
        let mut row = defaults.clone();
        for (expr, index) in exprs.content.iter().zip(columns) {
            if matches!(expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
            {
                continue;
            }
            let (Some(place), Some(column)) =
                (row.get_mut(*index), table.definition.columns.get(*index))
            else {
                continue;
            };
            *place = evaluate_as(expr, &scope, column.column_type)?;
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Refuses nulls where the table has none.
///
/// # Errors
/// 23502.
pub fn check_not_null(table: &TableInfo, row: &Row) -> Result<(), SqlError> {
    let columns = table.definition.columns.iter().zip(row);
    for (column, value) in columns {
        if column.not_null && value.is_null() {
            let message = format!(
                "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                column.name, table.definition.name
            );
            return Err(SqlError::new(sqlstate::NOT_NULL_VIOLATION, message));
        }
    }
    Ok(())
}

/// The key of a row, or a placeholder if the table has row ids.
fn key_for(context: &mut Context<'_>, table: &TableInfo, row: &Row) -> Vec<u8> {
    if table.definition.has_row_ids() {
        return context.transaction.new_row_key();
    }
    table.definition.key_of(row).unwrap_or_default()
}

fn store_new(
    context: &mut Context<'_>,
    table: &Arc<TableInfo>,
    rows: Vec<Row>,
) -> Result<Vec<Row>, SqlError> {
    let is_new_row_id = table.definition.has_row_ids();
    let keys: Vec<Vec<u8>> = rows.iter().map(|row| key_for(context, table, row)).collect();
    // Alone in its transaction, the statement leaves it to the commit to find duplicates.
    let found = if is_new_row_id || context.is_alone {
        Vec::new()
    } else {
        context.transaction.snapshot(&context.engine.kernel).get_many(table.id, &keys)?
    };
    let mut found = found.into_iter();
    for (key, row) in keys.into_iter().zip(&rows) {
        let (existing, is_based) = found.next().unwrap_or((None, false));
        let own = context.transaction.own_write(table.id, &key);
        if existing.is_some() || own.is_some_and(|own| own.row.is_some()) {
            return Err(unique_violation(&table.definition.name));
        }
        let write = Write { row: Some(row.clone()), is_based, is_new_row_id };
        context.transaction.write(table, key, write)?;
    }
    Ok(rows)
}

fn store_or_resolve(
    context: &mut Context<'_>,
    table: &Arc<TableInfo>,
    rows: Vec<Row>,
    on: &ast::OnConflict,
    alias: Option<String>,
) -> Result<Vec<Row>, SqlError> {
    check_conflict_target(table, on)?;
    if table.definition.has_row_ids() {
        return store_new(context, table, rows);
    }
    let keys: Vec<Vec<u8>> =
        rows.iter().map(|row| table.definition.key_of(row).unwrap_or_default()).collect();
    let snapshot = context.transaction.snapshot(&context.engine.kernel);
    let found = snapshot.get_many(table.id, &keys)?;
    let name = alias.as_deref().unwrap_or(&table.definition.name);
    let mut touched: BTreeMap<Vec<u8>, ()> = BTreeMap::new();
    let mut changed = Vec::with_capacity(rows.len());
    for ((key, row), (existing, _)) in keys.into_iter().zip(rows).zip(found) {
        let is_again = touched.contains_key(&key);
        let stored = match (&on.action, existing) {
            (OnConflictAction::DoNothing, None) if is_again => continue,
            (OnConflictAction::DoNothing, Some(_)) => continue,
            (OnConflictAction::DoUpdate(_), _) if is_again => {
                return Err(SqlError::new(
                    sqlstate::CARDINALITY_VIOLATION,
                    "ON CONFLICT DO UPDATE command cannot affect row a second time",
                ));
            }
            (_, None) => row,
            (OnConflictAction::DoUpdate(update), Some(existing)) => {
                match resolve(context, table, name, update, &existing, &row)? {
                    Some(stored) => stored,
                    None => continue,
                }
            }
        };
        check_not_null(table, &stored)?;
        touched.insert(key.clone(), ());
        // What was decided here rests on the row, also on its absence: so a concurrent insert is a
        // conflict to repeat after, not a duplicate.
        let write = Write { row: Some(stored.clone()), is_based: true, is_new_row_id: false };
        context.transaction.write(table, key, write)?;
        changed.push(stored);
    }
    Ok(changed)
}

fn check_conflict_target(table: &TableInfo, on: &ast::OnConflict) -> Result<(), SqlError> {
    let definition = &table.definition;
    let is_key = match &on.conflict_target {
        None => matches!(on.action, OnConflictAction::DoNothing),
        Some(ConflictTarget::OnConstraint(name)) => {
            names::relation(name)?.name == format!("{}_pkey", definition.name)
                && !definition.has_row_ids()
        }
        Some(ConflictTarget::Columns(columns)) => {
            let mut wanted: Vec<Option<usize>> =
                columns.iter().map(|name| definition.column_index(&names::fold(name))).collect();
            let mut key: Vec<Option<usize>> =
                definition.primary_key.iter().map(|index| Some(*index as usize)).collect();
            wanted.sort_unstable();
            key.sort_unstable();
            wanted == key && !key.is_empty()
        }
    };
    if is_key {
        return Ok(());
    }
    Err(SqlError::new(
        sqlstate::INVALID_COLUMN_REFERENCE,
        "there is no unique constraint matching the ON CONFLICT specification",
    )
    .hint("ON CONFLICT can name the columns of the primary key."))
}

/// The row that DO UPDATE makes of the existing one; `None` if its WHERE does not hold.
fn resolve(
    context: &Context<'_>,
    table: &Arc<TableInfo>,
    name: &str,
    update: &ast::DoUpdate,
    existing: &Row,
    excluded: &Row,
) -> Result<Option<Row>, SqlError> {
    let relations = vec![(name, table.as_ref(), existing), (EXCLUDED, table.as_ref(), excluded)];
    let scope = context.with_rows(relations);
    let unsupported = |error| {
        match error {
        EvalError::Sql(error) => error,
        EvalError::Unsupported => SqlError::unsupported("this expression in ON CONFLICT DO UPDATE")
            .hint("Columns, excluded columns, parameters, literals, arithmetic, comparisons, COALESCE, GREATEST and LEAST are."),
    }
    };
    if let Some(selection) = &update.selection
        && !holds(selection, &scope).map_err(unsupported)?
    {
        return Ok(None);
    }
    let mut row = existing.clone();
    for assignment in &update.assignments {
        let index = assigned_column(table, &assignment.target)?;
        if table.definition.primary_key.contains(&u32::try_from(index).unwrap_or(u32::MAX)) {
            return Err(SqlError::unsupported("ON CONFLICT DO UPDATE of a key column"));
        }
        set(&mut row, table, index, |to| {
            evaluate_as(&assignment.value, &scope, to).map_err(unsupported)
        })?;
    }
    Ok(Some(row))
}

/// The position of the column that an assignment sets.
///
/// # Errors
/// 42703, or 0A000 for lists of columns.
pub fn assigned_column(table: &TableInfo, target: &AssignmentTarget) -> Result<usize, SqlError> {
    let AssignmentTarget::ColumnName(name) = target else {
        return Err(SqlError::unsupported("SET (column, …) = …"));
    };
    let name = names::parts(name)?.pop().unwrap_or_default();
    let definition = &table.definition;
    definition
        .column_index(&name)
        .ok_or_else(|| SqlError::undefined_column(&name, &definition.name))
}
