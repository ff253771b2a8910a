//! CREATE TABLE and DROP TABLE.

use datafusion::sql::sqlparser::ast::{
    self, ColumnOption, CreateTableOptions, ObjectType, SqlOption, TableConstraint,
};
use proteus_kernel_api::table::{Column, ColumnType, Definition, Source};

use crate::error::{SqlError, sqlstate};
use crate::eval::{EvalError, evaluate_as};
use crate::names::{self, PUBLIC};
use crate::statement::Context;
use crate::transaction::reserve_table_id;
use crate::types::column_type_of;

/// Creates a table; `false` if it was there already and that is no error.
///
/// # Errors
/// 42P07 if it exists, 42P16 or 0A000 if it cannot be.
pub async fn create_table(
    context: &mut Context<'_>,
    create: &ast::CreateTable,
) -> Result<bool, SqlError> {
    let name = names::own_table(&create.name)?;
    if context.table(&name)?.is_some() {
        if create.if_not_exists {
            return Ok(false);
        }
        let message = format!("relation \"{name}\" already exists");
        return Err(SqlError::new(sqlstate::DUPLICATE_TABLE, message));
    }
    if create.temporary
        || create.query.is_some()
        || create.like.is_some()
        || create.inherits.is_some()
    {
        return Err(SqlError::unsupported("CREATE TABLE with TEMPORARY, AS, LIKE or INHERITS"));
    }
    let definition = definition(context, name, create)?;
    if let Some(fault) = definition.fault() {
        return Err(SqlError::new(sqlstate::INVALID_TABLE_DEFINITION, fault));
    }
    let id = reserve_table_id(context.engine.kernel.as_ref()).await?;
    context.transaction.create_table(id, definition);
    Ok(true)
}

fn definition(
    context: &Context<'_>,
    name: String,
    create: &ast::CreateTable,
) -> Result<Definition, SqlError> {
    let mut columns = Vec::with_capacity(create.columns.len());
    let mut key_names: Option<Vec<String>> = None;
    for column in &create.columns {
        let (column, is_key) = column_of(context, column)?;
        if is_key {
            set_key(&mut key_names, vec![column.name.clone()], &name)?;
        }
        columns.push(column);
    }
    for constraint in &create.constraints {
        match constraint {
            TableConstraint::PrimaryKey(key) => {
                let names = key.columns.iter().map(|column| match &column.column.expr {
                    ast::Expr::Identifier(ident) => Ok(names::fold(ident)),
                    other => Err(SqlError::unsupported(format!("primary key on {other}"))),
                });
                set_key(&mut key_names, names.collect::<Result<_, _>>()?, &name)?;
            }
            other => return Err(unsupported_constraint(other)),
        }
    }
    let mut primary_key = Vec::new();
    for key in key_names.unwrap_or_default() {
        let index = columns.iter().position(|column| column.name == key);
        let index = index.ok_or_else(|| {
            let message = format!("column \"{key}\" named in key does not exist");
            SqlError::new(sqlstate::UNDEFINED_COLUMN, message)
        })?;
        if let Some(column) = columns.get_mut(index) {
            column.not_null = true;
        }
        primary_key.push(u32::try_from(index).unwrap_or(u32::MAX));
    }
    let source = source_of(&create.table_options)?;
    if source != Source::Rows && !primary_key.is_empty() {
        return Err(SqlError::unsupported("a primary key of a table over a topic"));
    }
    Ok(Definition { schema: PUBLIC.to_owned(), name, columns, primary_key, source })
}

fn set_key(key: &mut Option<Vec<String>>, names: Vec<String>, table: &str) -> Result<(), SqlError> {
    if key.replace(names).is_some() {
        let message = format!("multiple primary keys for table \"{table}\" are not allowed");
        return Err(SqlError::new(sqlstate::INVALID_TABLE_DEFINITION, message));
    }
    Ok(())
}

fn unsupported_constraint(constraint: &TableConstraint) -> SqlError {
    SqlError::unsupported(format!("constraint {constraint}"))
        .hint("Primary keys and NOT NULL are enforced; secondary keys are not built yet.")
}

fn column_of(context: &Context<'_>, def: &ast::ColumnDef) -> Result<(Column, bool), SqlError> {
    let column_type = column_type_of(&def.data_type)?;
    let mut column =
        Column { name: names::fold(&def.name), column_type, not_null: false, default: None };
    let mut is_key = false;
    for option in &def.options {
        match &option.option {
            ColumnOption::Null => {}
            ColumnOption::NotNull => column.not_null = true,
            ColumnOption::PrimaryKey(_) => is_key = true,
            ColumnOption::Default(expr) => {
                column.default = Some(default_of(context, expr, column_type)?);
            }
            ColumnOption::Collation(_) | ColumnOption::Comment(_) => {}
            other => {
                return Err(SqlError::unsupported(format!("column option {other}"))
                    .hint("Primary keys, NOT NULL and constant DEFAULTs are supported."));
            }
        }
    }
    Ok((column, is_key))
}

fn default_of(
    context: &Context<'_>,
    expr: &ast::Expr,
    column_type: ColumnType,
) -> Result<proteus_kernel_api::table::Value, SqlError> {
    // A function would be evaluated once, now, and not for each row.
    let is_constant =
        !expr.to_string().contains('(') && !expr.to_string().to_uppercase().contains("CURRENT_");
    if !is_constant {
        return Err(SqlError::unsupported(format!("a DEFAULT that is not a constant: {expr}")));
    }
    match evaluate_as(expr, &context.constants(), column_type) {
        Ok(value) => Ok(value),
        Err(EvalError::Sql(error)) => Err(error),
        Err(EvalError::Unsupported) => Err(SqlError::unsupported(format!("DEFAULT {expr}"))),
    }
}

fn source_of(options: &CreateTableOptions) -> Result<Source, SqlError> {
    let options = match options {
        CreateTableOptions::None => return Ok(Source::Rows),
        CreateTableOptions::With(options)
        | CreateTableOptions::Options(options)
        | CreateTableOptions::Plain(options)
        | CreateTableOptions::TableProperties(options) => options,
    };
    let (mut topic, mut format) = (None, None);
    for option in options {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(SqlError::unsupported(format!("table option {option}")));
        };
        let ast::Expr::Value(value) = value else {
            return Err(SqlError::unsupported(format!("table option {option}")));
        };
        let text = value.value.clone().into_string();
        match (names::fold(key).as_str(), text) {
            ("topic", Some(text)) => topic = Some(text),
            ("format", Some(text)) => format = Some(text),
            _ => return Err(SqlError::unsupported(format!("table option {option}"))),
        }
    }
    match (topic, format.as_deref()) {
        (None, None) => Ok(Source::Rows),
        // What a value is it says itself: JSON does not begin with a zero byte.
        (Some(topic), Some("json" | "avro") | None) => Ok(Source::Topic { topic }),
        (Some(_), Some(format)) => Err(SqlError::unsupported(format!("topic format '{format}'"))
            .hint("The format of a topic's values can be 'json' or 'avro'.")),
        (None, Some(_)) => {
            Err(SqlError::new(sqlstate::INVALID_PARAMETER, "option format needs option topic"))
        }
    }
}

/// Drops tables; the names that were not there, if that is no error.
///
/// # Errors
/// 42P01 if a table is not there.
pub fn drop(
    context: &mut Context<'_>,
    object_type: &ObjectType,
    if_exists: bool,
    tables: &[ast::ObjectName],
) -> Result<Vec<String>, SqlError> {
    if *object_type != ObjectType::Table {
        return Err(SqlError::unsupported(format!("DROP {object_type}")));
    }
    let mut missing = Vec::new();
    for name in tables {
        let name = names::own_table(name)?;
        match context.table(&name)? {
            Some(table) => context.transaction.drop_table(&table),
            None if if_exists => missing.push(name),
            None => {
                let message = format!("table \"{name}\" does not exist");
                return Err(SqlError::new(sqlstate::UNDEFINED_TABLE, message));
            }
        }
    }
    Ok(missing)
}
