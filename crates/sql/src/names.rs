//! Names in SQL text: folding, qualification.

use datafusion::sql::sqlparser::ast::{Function, Ident, ObjectName};

use crate::error::SqlError;

/// The schema of tables that are not qualified.
pub const PUBLIC: &str = "public";

/// The identifier as it is stored: folded to lower case unless quoted.
pub fn fold(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// A relation's name, with its schema if it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationName {
    /// The schema, if given.
    pub schema: Option<String>,
    /// The name.
    pub name: String,
}

/// Parts of a name, folded.
///
/// # Errors
/// 0A000 for names that are computed.
pub fn parts(name: &ObjectName) -> Result<Vec<String>, SqlError> {
    name.0
        .iter()
        .map(|part| part.as_ident().map(fold))
        .collect::<Option<_>>()
        .ok_or_else(|| SqlError::unsupported(format!("name {name}")))
}

/// Reads `[[database.]schema.]name`.
///
/// # Errors
/// 0A000 for other forms.
pub fn relation(name: &ObjectName) -> Result<RelationName, SqlError> {
    match parts(name)?.as_slice() {
        [name] => Ok(RelationName { schema: None, name: name.clone() }),
        [.., schema, name] => Ok(RelationName { schema: Some(schema.clone()), name: name.clone() }),
        [] => Err(SqlError::unsupported("an empty name")),
    }
}

/// The name of a table of ours, which lives in `public`.
///
/// # Errors
/// 3F000 if it is qualified with another schema.
pub fn own_table(name: &ObjectName) -> Result<String, SqlError> {
    let relation = relation(name)?;
    match relation.schema.as_deref() {
        None | Some(PUBLIC) => Ok(relation.name),
        Some(schema) => Err(SqlError::new(
            "3F000",
            format!("schema \"{schema}\" does not exist or is read-only"),
        )),
    }
}

/// A function's name without `pg_catalog.`, folded.
pub fn function_name(function: &Function) -> Option<String> {
    let parts = parts(&function.name).ok()?;
    match parts.as_slice() {
        [name] => Some(name.clone()),
        [schema, name] if schema == "pg_catalog" => Some(name.clone()),
        _ => None,
    }
}
