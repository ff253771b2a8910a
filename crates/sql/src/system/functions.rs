//! Functions that tools call: `version()`, `format_type`, `pg_get_userbyid`, …

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Result as EngineResult;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};

use super::catalog::{TYPES, format_type};
use crate::error::SqlError;

/// What `server_version` says: the PostgreSQL release whose behaviour is meant.
pub const SERVER_VERSION: &str = "15.0 (Proteus)";

/// What `version()` answers.
pub fn version() -> String {
    format!("PostgreSQL 15.0 (Proteus {}) on Rust", env!("CARGO_PKG_VERSION"))
}

/// Adds the functions to the query engine.
///
/// # Errors
/// If it refuses them.
pub fn register(state: &mut SessionState) -> Result<(), SqlError> {
    for (name, result, body) in FUNCTIONS {
        let function = System {
            name,
            result: result.clone(),
            signature: Signature::one_of(
                vec![TypeSignature::Nullary, TypeSignature::VariadicAny],
                Volatility::Stable,
            ),
            body: *body,
        };
        state.register_udf(Arc::new(ScalarUDF::from(function)))?;
    }
    Ok(())
}

type Body = fn(&[ArrayRef], usize) -> EngineResult<ArrayRef>;

struct System {
    name: &'static str,
    result: DataType,
    signature: Signature,
    body: Body,
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for System {
    fn eq(&self, other: &System) -> bool {
        self.name == other.name
    }
}

impl Eq for System {}

impl std::hash::Hash for System {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for System {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> EngineResult<DataType> {
        Ok(self.result.clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let count = arguments.number_rows;
        let arrays: Vec<ArrayRef> = arguments
            .args
            .iter()
            .map(|argument| argument.to_array(count))
            .collect::<EngineResult<_>>()?;
        Ok(ColumnarValue::Array((self.body)(&arrays, count)?))
    }
}

const FUNCTIONS: &[(&str, DataType, Body)] = &[
    ("version", DataType::Utf8, |_, count| Ok(texts(count, &version()))),
    ("format_type", DataType::Utf8, |arguments, _| {
        let oids = ints(arguments.first())?;
        let modifiers = arguments.get(1).map(|array| ints(Some(array))).transpose()?;
        let name = |(index, oid): (usize, Option<i64>)| {
            let modifier =
                modifiers.as_ref().filter(|m| m.is_valid(index)).map_or(-1, |m| m.value(index));
            oid.map(|oid| format_type(oid, modifier))
        };
        Ok(Arc::new(oids.iter().enumerate().map(name).collect::<StringArray>()))
    }),
    ("to_regtype", DataType::Int64, |arguments, count| {
        let Some(names) = arguments.first() else {
            return Ok(Arc::new(Int64Array::new_null(count)));
        };
        let names = cast(names, &DataType::Utf8)?;
        let oid = |name: Option<&str>| {
            let known = TYPES.iter().find(|(_, known, _)| Some(*known) == name);
            known.map(|(oid, _, _)| i64::from(*oid))
        };
        Ok(Arc::new(names.as_string::<i32>().iter().map(oid).collect::<Int64Array>()))
    }),
    ("pg_get_userbyid", DataType::Utf8, |_, count| Ok(texts(count, "proteus"))),
    ("pg_table_is_visible", DataType::Boolean, always),
    ("pg_type_is_visible", DataType::Boolean, always),
    ("pg_function_is_visible", DataType::Boolean, always),
    ("pg_is_in_recovery", DataType::Boolean, never),
    ("has_table_privilege", DataType::Boolean, always),
    ("has_schema_privilege", DataType::Boolean, always),
    ("has_database_privilege", DataType::Boolean, always),
    ("pg_relation_is_publishable", DataType::Boolean, never),
    ("pg_encoding_to_char", DataType::Utf8, |_, count| Ok(texts(count, "UTF8"))),
    ("pg_get_expr", DataType::Utf8, |arguments, count| match arguments.first() {
        Some(text) => Ok(cast(text, &DataType::Utf8)?),
        None => nulls(&[], count),
    }),
    ("pg_get_statisticsobjdef_columns", DataType::Utf8, nulls),
    ("pg_get_partkeydef", DataType::Utf8, nulls),
    ("pg_get_viewdef", DataType::Utf8, nulls),
    ("pg_get_ruledef", DataType::Utf8, nulls),
    ("pg_get_triggerdef", DataType::Utf8, nulls),
    ("pg_get_function_result", DataType::Utf8, nulls),
    ("pg_get_function_arguments", DataType::Utf8, nulls),
    ("pg_get_serial_sequence", DataType::Utf8, nulls),
    ("obj_description", DataType::Utf8, nulls),
    ("col_description", DataType::Utf8, nulls),
    ("shobj_description", DataType::Utf8, nulls),
    ("array_to_string_acl", DataType::Utf8, nulls),
    ("pg_table_size", DataType::Int64, zeros),
    ("pg_relation_size", DataType::Int64, zeros),
    ("pg_total_relation_size", DataType::Int64, zeros),
    ("pg_database_size", DataType::Int64, zeros),
    ("pg_backend_pid", DataType::Int64, zeros),
    ("txid_current", DataType::Int64, zeros),
    ("pg_size_pretty", DataType::Utf8, |arguments, _| {
        let sizes = ints(arguments.first())?;
        Ok(Arc::new(
            sizes.iter().map(|size| size.map(|s| format!("{s} bytes"))).collect::<StringArray>(),
        ))
    }),
    ("quote_ident", DataType::Utf8, |arguments, count| match arguments.first() {
        Some(text) => Ok(cast(text, &DataType::Utf8)?),
        None => nulls(&[], count),
    }),
    ("current_setting", DataType::Utf8, |arguments, count| {
        let Some(names) = arguments.first() else { return nulls(&[], count) };
        let names = cast(names, &DataType::Utf8)?;
        let settings = crate::settings::Settings::default();
        let value = |name: Option<&str>| settings.get(name?);
        Ok(Arc::new(names.as_string::<i32>().iter().map(value).collect::<StringArray>()))
    }),
];

fn texts(count: usize, text: &str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, count)))
}

fn always(_: &[ArrayRef], count: usize) -> EngineResult<ArrayRef> {
    Ok(Arc::new(BooleanArray::from(vec![true; count])))
}

fn never(_: &[ArrayRef], count: usize) -> EngineResult<ArrayRef> {
    Ok(Arc::new(BooleanArray::from(vec![false; count])))
}

fn zeros(_: &[ArrayRef], count: usize) -> EngineResult<ArrayRef> {
    Ok(Arc::new(Int64Array::from(vec![0; count])))
}

fn nulls(_: &[ArrayRef], count: usize) -> EngineResult<ArrayRef> {
    Ok(Arc::new(StringArray::new_null(count)))
}

fn ints(array: Option<&ArrayRef>) -> EngineResult<Int64Array> {
    match array {
        Some(array) => Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
        None => Ok(Int64Array::from(Vec::<i64>::new())),
    }
}
