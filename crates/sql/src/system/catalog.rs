//! `pg_catalog` and `information_schema` from the catalog.

use proteus_kernel_api::table::{Column, ColumnType, TableInfo, Value};

use super::{Content, empty};
use crate::engine::QueryScope;
use crate::error::SqlError;
use crate::names::PUBLIC;
use crate::types::TEXT;
use crate::value_text::type_name;

const OID: ColumnType = ColumnType::BigInt;
const BOOL: ColumnType = ColumnType::Bool;
const INT: ColumnType = ColumnType::Integer;
const SMALL: ColumnType = ColumnType::SmallInt;

const NAMESPACE_PG_CATALOG: i64 = 11;
const NAMESPACE_PUBLIC: i64 = 2200;
const NAMESPACE_INFORMATION_SCHEMA: i64 = 13_000;
const OWNER: i64 = 10;
const AM_HEAP: i64 = 2;
const AM_BTREE: i64 = 403;
const DATABASE: i64 = 5;
/// A primary key's index and constraint have their table's id, moved above all tables' ids.
const PRIMARY_KEY_OIDS_START: i64 = 1 << 32;

pub(super) fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

pub(super) fn int(value: impl Into<i64>) -> Value {
    Value::Int(value.into())
}

fn no() -> Value {
    Value::Bool(false)
}

/// Object id of a type (PostgreSQL's `pg_type.dat`).
pub fn type_oid(column_type: ColumnType) -> u32 {
    match column_type {
        ColumnType::Bool => 16,
        ColumnType::Bytea => 17,
        ColumnType::BigInt => 20,
        ColumnType::SmallInt => 21,
        ColumnType::Integer => 23,
        ColumnType::Text { length_max: None } => 25,
        ColumnType::Real => 700,
        ColumnType::Double => 701,
        ColumnType::Text { .. } => 1043,
        ColumnType::Date => 1082,
        ColumnType::Timestamp => 1114,
        ColumnType::TimestampTz => 1184,
        ColumnType::Numeric { .. } => 1700,
        ColumnType::Json => 3802,
    }
}

/// The type modifier that says length, or precision and scale.
pub fn type_modifier(column_type: ColumnType) -> i32 {
    match column_type {
        ColumnType::Text { length_max: Some(max) } => {
            i32::try_from(max).unwrap_or(i32::MAX - 4) + 4
        }
        ColumnType::Numeric { precision, scale } => {
            ((i32::from(precision) << 16) | i32::from(scale)) + 4
        }
        _ => -1,
    }
}

/// Bytes of a value of the type; -1 if they vary.
pub fn type_size(column_type: ColumnType) -> i16 {
    match column_type {
        ColumnType::Bool => 1,
        ColumnType::SmallInt => 2,
        ColumnType::Integer | ColumnType::Real | ColumnType::Date => 4,
        ColumnType::BigInt
        | ColumnType::Double
        | ColumnType::Timestamp
        | ColumnType::TimestampTz => 8,
        _ => -1,
    }
}

pub(super) const TYPES: [(u32, &str, &str); 20] = [
    (16, "bool", "B"),
    (17, "bytea", "U"),
    (18, "char", "Z"),
    (19, "name", "S"),
    (20, "int8", "N"),
    (21, "int2", "N"),
    (23, "int4", "N"),
    (25, "text", "S"),
    (26, "oid", "N"),
    (114, "json", "U"),
    (700, "float4", "N"),
    (701, "float8", "N"),
    (1043, "varchar", "S"),
    (1082, "date", "D"),
    (1114, "timestamp", "D"),
    (1184, "timestamptz", "D"),
    (1700, "numeric", "N"),
    (2205, "regclass", "N"),
    (2950, "uuid", "U"),
    (3802, "jsonb", "U"),
];

/// The object id of a relation of this name.
///
/// # Errors
/// If the kernel cannot read the catalog.
pub fn relation_oid(name: &str, scope: &QueryScope) -> Result<Option<i64>, SqlError> {
    if let Some(table) = scope.table(name)? {
        return Ok(Some(i64::from(table.id.0)));
    }
    let system =
        [("pg_class", 1259), ("pg_type", 1247), ("pg_attribute", 1249), ("pg_namespace", 2615)];
    let known = system.iter().find(|(other, _)| *other == name).map(|(_, oid)| *oid);
    // Tools compare with the ids of catalogs that nothing here refers to.
    Ok(known.or_else(|| name.starts_with("pg_").then_some(0)))
}

pub(super) fn pg_catalog(name: &str, scope: &QueryScope) -> Result<Option<Content>, SqlError> {
    let content = match name {
        "pg_class" => pg_class(&scope.tables()?),
        "pg_attribute" => pg_attribute(&scope.tables()?),
        "pg_attrdef" => pg_attrdef(&scope.tables()?),
        "pg_index" => pg_index(&scope.tables()?),
        "pg_constraint" => pg_constraint(&scope.tables()?),
        "pg_tables" => pg_tables(&scope.tables()?, &scope.user),
        "pg_indexes" => pg_indexes(&scope.tables()?),
        "pg_namespace" => pg_namespace(),
        "pg_type" => pg_type(),
        "pg_am" => (
            vec![("oid", OID), ("amname", TEXT), ("amhandler", TEXT), ("amtype", TEXT)],
            vec![
                vec![int(AM_HEAP), text("heap"), text("-"), text("t")],
                vec![int(AM_BTREE), text("btree"), text("-"), text("i")],
            ],
        ),
        "pg_database" => pg_database(&scope.database),
        "pg_roles" | "pg_user" | "pg_authid" => pg_roles(&scope.user),
        "pg_tablespace" => (
            vec![("oid", OID), ("spcname", TEXT), ("spcowner", OID)],
            vec![vec![int(1663), text("pg_default"), int(OWNER)]],
        ),
        "pg_settings" => pg_settings(),
        other => return Ok(empty::table(other)),
    };
    Ok(Some(content))
}

fn pg_namespace() -> Content {
    let row = |oid: i64, name: &str| vec![int(oid), text(name), int(OWNER), Value::Null];
    let rows = vec![
        row(NAMESPACE_PG_CATALOG, super::PG_CATALOG),
        row(NAMESPACE_PUBLIC, PUBLIC),
        row(NAMESPACE_INFORMATION_SCHEMA, super::INFORMATION_SCHEMA),
    ];
    (vec![("oid", OID), ("nspname", TEXT), ("nspowner", OID), ("nspacl", TEXT)], rows)
}

fn table_oid(table: &TableInfo) -> i64 {
    i64::from(table.id.0)
}

fn key_name(table: &TableInfo) -> String {
    format!("{}_pkey", table.definition.name)
}

fn with_key(tables: &[TableInfo]) -> impl Iterator<Item = &TableInfo> {
    tables.iter().filter(|table| !table.definition.has_row_ids())
}

fn pg_class(tables: &[TableInfo]) -> Content {
    let columns = vec![
        ("oid", OID),
        ("relname", TEXT),
        ("relnamespace", OID),
        ("reltype", OID),
        ("reloftype", OID),
        ("relowner", OID),
        ("relam", OID),
        ("relfilenode", OID),
        ("reltablespace", OID),
        ("relpages", INT),
        ("reltuples", ColumnType::Real),
        ("relallvisible", INT),
        ("reltoastrelid", OID),
        ("relhasindex", BOOL),
        ("relisshared", BOOL),
        ("relpersistence", TEXT),
        ("relkind", TEXT),
        ("relnatts", SMALL),
        ("relchecks", SMALL),
        ("relhasoids", BOOL),
        ("relhasrules", BOOL),
        ("relhastriggers", BOOL),
        ("relhassubclass", BOOL),
        ("relrowsecurity", BOOL),
        ("relforcerowsecurity", BOOL),
        ("relispopulated", BOOL),
        ("relreplident", TEXT),
        ("relispartition", BOOL),
        ("relrewrite", OID),
        ("relfrozenxid", OID),
        ("relacl", TEXT),
        ("reloptions", TEXT),
        ("relpartbound", TEXT),
        ("tableoid", OID),
    ];
    let row =
        |oid: i64, name: String, kind: &str, am: i64, column_count: usize, has_index: bool| {
            let count = i64::try_from(column_count).unwrap_or(i64::MAX);
            vec![
                int(oid),
                text(name),
                int(NAMESPACE_PUBLIC),
                int(0),
                int(0),
                int(OWNER),
                int(am),
                int(oid),
                int(0),
                int(0),
                Value::Float(-1.0),
                int(0),
                int(0),
                Value::Bool(has_index),
                no(),
                text("p"),
                text(kind),
                int(count),
                int(0),
                no(),
                no(),
                no(),
                no(),
                no(),
                no(),
                Value::Bool(true),
                text("d"),
                no(),
                int(0),
                int(0),
                Value::Null,
                Value::Null,
                Value::Null,
                int(1259),
            ]
        };
    let mut rows = Vec::new();
    for table in tables {
        let definition = &table.definition;
        let has_key = !definition.has_row_ids();
        rows.push(row(
            table_oid(table),
            definition.name.clone(),
            "r",
            AM_HEAP,
            definition.columns.len(),
            has_key,
        ));
        if has_key {
            let oid = PRIMARY_KEY_OIDS_START + table_oid(table);
            rows.push(row(
                oid,
                key_name(table),
                "i",
                AM_BTREE,
                definition.primary_key.len(),
                false,
            ));
        }
    }
    (columns, rows)
}

fn pg_attribute(tables: &[TableInfo]) -> Content {
    let columns = vec![
        ("attrelid", OID),
        ("attname", TEXT),
        ("atttypid", OID),
        ("attstattarget", INT),
        ("attlen", SMALL),
        ("attnum", SMALL),
        ("attndims", INT),
        ("attcacheoff", INT),
        ("atttypmod", INT),
        ("attbyval", BOOL),
        ("attstorage", TEXT),
        ("attalign", TEXT),
        ("attnotnull", BOOL),
        ("atthasdef", BOOL),
        ("atthasmissing", BOOL),
        ("attidentity", TEXT),
        ("attgenerated", TEXT),
        ("attisdropped", BOOL),
        ("attislocal", BOOL),
        ("attinhcount", INT),
        ("attcollation", OID),
        ("attcompression", TEXT),
        ("attacl", TEXT),
        ("attoptions", TEXT),
        ("attfdwoptions", TEXT),
    ];
    let row = |relation: i64, number: usize, column: &Column| {
        let column_type = column.column_type;
        vec![
            int(relation),
            text(&column.name),
            int(type_oid(column_type)),
            int(-1),
            int(type_size(column_type)),
            int(i64::try_from(number).unwrap_or(i64::MAX)),
            int(0),
            int(-1),
            int(type_modifier(column_type)),
            no(),
            text("p"),
            text("i"),
            Value::Bool(column.not_null),
            Value::Bool(column.default.is_some()),
            no(),
            text(""),
            text(""),
            no(),
            Value::Bool(true),
            int(0),
            int(0),
            text(""),
            Value::Null,
            Value::Null,
            Value::Null,
        ]
    };
    let mut rows = Vec::new();
    for table in tables {
        for (index, column) in table.definition.columns.iter().enumerate() {
            rows.push(row(table_oid(table), index + 1, column));
        }
        for (index, key) in table.definition.primary_key.iter().enumerate() {
            if let Some(column) = table.definition.columns.get(*key as usize) {
                rows.push(row(PRIMARY_KEY_OIDS_START + table_oid(table), index + 1, column));
            }
        }
    }
    (columns, rows)
}

pub(super) fn default_text(column: &Column) -> Option<String> {
    let value = column.default.as_ref()?;
    let text = crate::value_text::format_value(value, column.column_type)?;
    Some(match value {
        Value::Int(_) | Value::Float(_) | Value::Numeric(_) => text,
        Value::Bool(value) => value.to_string(),
        _ => format!("'{}'::{}", text.replace('\'', "''"), type_name(column.column_type)),
    })
}

fn pg_attrdef(tables: &[TableInfo]) -> Content {
    let mut rows = Vec::new();
    for table in tables {
        for (index, column) in table.definition.columns.iter().enumerate() {
            if let Some(default) = default_text(column) {
                let number = i64::try_from(index + 1).unwrap_or(i64::MAX);
                rows.push(vec![
                    int(table_oid(table) * 2048 + number),
                    int(table_oid(table)),
                    int(number),
                    text(default),
                ]);
            }
        }
    }
    (vec![("oid", OID), ("adrelid", OID), ("adnum", SMALL), ("adbin", TEXT)], rows)
}

/// Positions of a primary key's columns, counted from 1.
fn key_positions(table: &TableInfo) -> String {
    let position = |index: &u32| (index + 1).to_string();
    table.definition.primary_key.iter().map(position).collect::<Vec<_>>().join(" ")
}

fn pg_index(tables: &[TableInfo]) -> Content {
    let columns = vec![
        ("indexrelid", OID),
        ("indrelid", OID),
        ("indnatts", SMALL),
        ("indnkeyatts", SMALL),
        ("indisunique", BOOL),
        ("indnullsnotdistinct", BOOL),
        ("indisprimary", BOOL),
        ("indisexclusion", BOOL),
        ("indimmediate", BOOL),
        ("indisclustered", BOOL),
        ("indisvalid", BOOL),
        ("indcheckxmin", BOOL),
        ("indisready", BOOL),
        ("indislive", BOOL),
        ("indisreplident", BOOL),
        ("indkey", TEXT),
        ("indcollation", TEXT),
        ("indclass", TEXT),
        ("indoption", TEXT),
        ("indexprs", TEXT),
        ("indpred", TEXT),
    ];
    let yes = || Value::Bool(true);
    let row = |table: &TableInfo| {
        let count = i64::try_from(table.definition.primary_key.len()).unwrap_or(i64::MAX);
        vec![
            int(PRIMARY_KEY_OIDS_START + table_oid(table)),
            int(table_oid(table)),
            int(count),
            int(count),
            yes(),
            no(),
            yes(),
            no(),
            yes(),
            no(),
            yes(),
            no(),
            yes(),
            yes(),
            no(),
            text(key_positions(table)),
            text(""),
            text(""),
            text(""),
            Value::Null,
            Value::Null,
        ]
    };
    (columns, with_key(tables).map(row).collect())
}

fn key_columns(table: &TableInfo) -> String {
    let name = |index: &u32| {
        table.definition.columns.get(*index as usize).map_or("", |column| column.name.as_str())
    };
    table.definition.primary_key.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn pg_constraint(tables: &[TableInfo]) -> Content {
    let columns = vec![
        ("oid", OID),
        ("conname", TEXT),
        ("connamespace", OID),
        ("contype", TEXT),
        ("condeferrable", BOOL),
        ("condeferred", BOOL),
        ("convalidated", BOOL),
        ("conrelid", OID),
        ("contypid", OID),
        ("conindid", OID),
        ("conparentid", OID),
        ("confrelid", OID),
        ("confupdtype", TEXT),
        ("confdeltype", TEXT),
        ("confmatchtype", TEXT),
        ("conislocal", BOOL),
        ("coninhcount", INT),
        ("connoinherit", BOOL),
        ("conkey", TEXT),
        ("confkey", TEXT),
        ("conbin", TEXT),
        ("conperiod", BOOL),
    ];
    let row = |table: &TableInfo| {
        let oid = PRIMARY_KEY_OIDS_START + table_oid(table);
        vec![
            int(oid),
            text(key_name(table)),
            int(NAMESPACE_PUBLIC),
            text("p"),
            no(),
            no(),
            Value::Bool(true),
            int(table_oid(table)),
            int(0),
            int(oid),
            int(0),
            int(0),
            text(" "),
            text(" "),
            text(" "),
            Value::Bool(true),
            int(0),
            Value::Bool(true),
            text(format!("{{{}}}", key_positions(table).replace(' ', ","))),
            Value::Null,
            Value::Null,
            no(),
        ]
    };
    (columns, with_key(tables).map(row).collect())
}

fn pg_tables(tables: &[TableInfo], user: &str) -> Content {
    let columns = vec![
        ("schemaname", TEXT),
        ("tablename", TEXT),
        ("tableowner", TEXT),
        ("tablespace", TEXT),
        ("hasindexes", BOOL),
        ("hasrules", BOOL),
        ("hastriggers", BOOL),
        ("rowsecurity", BOOL),
    ];
    let row = |table: &TableInfo| {
        let has_key = !table.definition.has_row_ids();
        vec![
            text(PUBLIC),
            text(&table.definition.name),
            text(user),
            Value::Null,
            Value::Bool(has_key),
            no(),
            no(),
            no(),
        ]
    };
    (columns, tables.iter().map(row).collect())
}

fn pg_indexes(tables: &[TableInfo]) -> Content {
    let columns = vec![
        ("schemaname", TEXT),
        ("tablename", TEXT),
        ("indexname", TEXT),
        ("tablespace", TEXT),
        ("indexdef", TEXT),
    ];
    let row = |table: &TableInfo| {
        let definition = index_definition(table);
        vec![
            text(PUBLIC),
            text(&table.definition.name),
            text(key_name(table)),
            Value::Null,
            text(definition),
        ]
    };
    (columns, with_key(tables).map(row).collect())
}

fn index_definition(table: &TableInfo) -> String {
    format!(
        "CREATE UNIQUE INDEX {} ON public.{} USING btree ({})",
        key_name(table),
        table.definition.name,
        key_columns(table)
    )
}

/// What functions over object ids say: `(oid, number, text)`. Constraints have negative numbers.
///
/// # Errors
/// If the kernel cannot read the catalog.
pub fn object_texts(scope: &QueryScope) -> Result<Vec<(i64, i64, String)>, SqlError> {
    let mut texts = Vec::new();
    for table in &scope.tables()? {
        for (index, column) in table.definition.columns.iter().enumerate() {
            if let Some(default) = default_text(column) {
                texts.push((table_oid(table), i64::try_from(index + 1).unwrap_or(0), default));
            }
        }
        if !table.definition.has_row_ids() {
            let oid = PRIMARY_KEY_OIDS_START + table_oid(table);
            texts.push((oid, 0, index_definition(table)));
            for (number, index) in (1i64..).zip(&table.definition.primary_key) {
                if let Some(column) = table.definition.columns.get(*index as usize) {
                    texts.push((oid, number, column.name.clone()));
                }
            }
            texts.push((oid, -1, format!("PRIMARY KEY ({})", key_columns(table))));
        }
    }
    Ok(texts)
}

fn pg_type() -> Content {
    let columns = vec![
        ("oid", OID),
        ("typname", TEXT),
        ("typnamespace", OID),
        ("typowner", OID),
        ("typlen", SMALL),
        ("typbyval", BOOL),
        ("typtype", TEXT),
        ("typcategory", TEXT),
        ("typispreferred", BOOL),
        ("typisdefined", BOOL),
        ("typdelim", TEXT),
        ("typrelid", OID),
        ("typsubscript", TEXT),
        ("typelem", OID),
        ("typarray", OID),
        ("typinput", TEXT),
        ("typoutput", TEXT),
        ("typreceive", TEXT),
        ("typnotnull", BOOL),
        ("typbasetype", OID),
        ("typtypmod", INT),
        ("typndims", INT),
        ("typcollation", OID),
        ("typdefault", TEXT),
        ("typacl", TEXT),
    ];
    let row = |(oid, name, category): &(u32, &str, &str)| {
        vec![
            int(*oid),
            text(*name),
            int(NAMESPACE_PG_CATALOG),
            int(OWNER),
            int(-1),
            no(),
            text("b"),
            text(*category),
            no(),
            Value::Bool(true),
            text(","),
            int(0),
            text("-"),
            int(0),
            int(0),
            text(format!("{name}in")),
            text(format!("{name}out")),
            text(format!("{name}recv")),
            no(),
            int(0),
            int(-1),
            int(0),
            int(0),
            Value::Null,
            Value::Null,
        ]
    };
    (columns, TYPES.iter().map(row).collect())
}

/// The name of a type by its object id, as `format_type` gives it.
pub(crate) fn format_type(oid: i64, modifier: i64) -> String {
    let modifier = modifier - 4;
    let name = TYPES.iter().find(|(other, ..)| i64::from(*other) == oid).map(|(_, name, _)| *name);
    match (name, modifier) {
        (Some("bool"), _) => "boolean".to_owned(),
        (Some("int2"), _) => "smallint".to_owned(),
        (Some("int4"), _) => "integer".to_owned(),
        (Some("int8"), _) => "bigint".to_owned(),
        (Some("float4"), _) => "real".to_owned(),
        (Some("float8"), _) => "double precision".to_owned(),
        (Some("timestamp"), _) => "timestamp without time zone".to_owned(),
        (Some("timestamptz"), _) => "timestamp with time zone".to_owned(),
        (Some("varchar"), length) if length >= 0 => format!("character varying({length})"),
        (Some("varchar"), _) => "character varying".to_owned(),
        (Some("numeric"), modifier) if modifier >= 0 => {
            format!("numeric({},{})", modifier >> 16, modifier & 0xFFFF)
        }
        (Some(name), _) => name.to_owned(),
        (None, _) => "???".to_owned(),
    }
}

fn pg_database(name: &str) -> Content {
    let columns = vec![
        ("oid", OID),
        ("datname", TEXT),
        ("datdba", OID),
        ("encoding", INT),
        ("datlocprovider", TEXT),
        ("datistemplate", BOOL),
        ("datallowconn", BOOL),
        ("datconnlimit", INT),
        ("datcollate", TEXT),
        ("datctype", TEXT),
        ("daticulocale", TEXT),
        ("datlocale", TEXT),
        ("datcollversion", TEXT),
        ("dattablespace", OID),
        ("datacl", TEXT),
    ];
    let row = vec![
        int(DATABASE),
        text(name),
        int(OWNER),
        int(6),
        text("c"),
        no(),
        Value::Bool(true),
        int(-1),
        text("C"),
        text("C"),
        Value::Null,
        Value::Null,
        Value::Null,
        int(1663),
        Value::Null,
    ];
    (columns, vec![row])
}

fn pg_roles(user: &str) -> Content {
    let columns = vec![
        ("oid", OID),
        ("rolname", TEXT),
        ("rolsuper", BOOL),
        ("rolinherit", BOOL),
        ("rolcreaterole", BOOL),
        ("rolcreatedb", BOOL),
        ("rolcanlogin", BOOL),
        ("rolreplication", BOOL),
        ("rolconnlimit", INT),
        ("rolvaliduntil", ColumnType::TimestampTz),
        ("rolbypassrls", BOOL),
        ("usename", TEXT),
        ("usesysid", OID),
        ("usesuper", BOOL),
    ];
    let yes = || Value::Bool(true);
    let row = vec![
        int(OWNER),
        text(user),
        yes(),
        yes(),
        yes(),
        yes(),
        yes(),
        no(),
        int(-1),
        Value::Null,
        no(),
        text(user),
        int(OWNER),
        yes(),
    ];
    (columns, vec![row])
}

fn pg_settings() -> Content {
    let columns = vec![
        ("name", TEXT),
        ("setting", TEXT),
        ("unit", TEXT),
        ("category", TEXT),
        ("short_desc", TEXT),
    ];
    let row = |(name, value): (&'static str, String)| {
        vec![text(name), text(value), Value::Null, text(""), text("")]
    };
    (columns, crate::settings::Settings::default().all().into_iter().map(row).collect())
}
