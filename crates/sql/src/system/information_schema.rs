//! `information_schema` from the catalog.

use proteus_kernel_api::table::{Column, ColumnType, Row, Source, TableInfo, Value};

use super::Content;
use super::catalog::{TYPES, default_text, int, text, type_oid};
use crate::engine::QueryScope;
use crate::error::SqlError;
use crate::names::PUBLIC;
use crate::types::TEXT;
use crate::value_text::type_name;

const INT: ColumnType = ColumnType::Integer;

pub(super) fn information_schema(
    name: &str,
    scope: &QueryScope,
) -> Result<Option<Content>, SqlError> {
    let database = || text(&scope.database);
    let content: Content = match name {
        "schemata" => (
            vec![("catalog_name", TEXT), ("schema_name", TEXT), ("schema_owner", TEXT)],
            [PUBLIC, super::PG_CATALOG, super::INFORMATION_SCHEMA]
                .into_iter()
                .map(|schema| vec![database(), text(schema), text(&scope.user)])
                .collect(),
        ),
        "tables" => (
            vec![
                ("table_catalog", TEXT),
                ("table_schema", TEXT),
                ("table_name", TEXT),
                ("table_type", TEXT),
                ("is_insertable_into", TEXT),
            ],
            scope
                .tables()?
                .iter()
                .map(|table| {
                    let is_rows = table.definition.source == Source::Rows;
                    let insertable = if is_rows { "YES" } else { "NO" };
                    let name = text(&table.definition.name);
                    vec![database(), text(PUBLIC), name, text("BASE TABLE"), text(insertable)]
                })
                .collect(),
        ),
        "columns" => (
            vec![
                ("table_catalog", TEXT),
                ("table_schema", TEXT),
                ("table_name", TEXT),
                ("column_name", TEXT),
                ("ordinal_position", INT),
                ("column_default", TEXT),
                ("is_nullable", TEXT),
                ("data_type", TEXT),
                ("udt_name", TEXT),
            ],
            scope.tables()?.iter().flat_map(|table| column_rows(table, &scope.database)).collect(),
        ),
        "views" | "routines" => (
            vec![("table_catalog", TEXT), ("table_schema", TEXT), ("table_name", TEXT)],
            Vec::new(),
        ),
        _ => return Ok(None),
    };
    Ok(Some(content))
}

fn column_rows(table: &TableInfo, database: &str) -> Vec<Row> {
    let row = |(index, column): (usize, &Column)| {
        let oid = type_oid(column.column_type);
        let internal =
            TYPES.iter().find(|(other, ..)| *other == oid).map_or("", |(_, name, _)| name);
        let plain = type_name(column.column_type);
        let plain = plain.split('(').next().unwrap_or_default();
        vec![
            text(database),
            text(PUBLIC),
            text(&table.definition.name),
            text(&column.name),
            int(i64::try_from(index + 1).unwrap_or(i64::MAX)),
            default_text(column).map_or(Value::Null, Value::Text),
            text(if column.not_null { "NO" } else { "YES" }),
            text(plain),
            text(internal),
        ]
    };
    table.definition.columns.iter().enumerate().map(row).collect()
}
