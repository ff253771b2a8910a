//! Rows into the query engine's batches, and batches into rows.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
    Float32Builder, Float64Builder, Int16Builder, Int32Builder, Int64Builder, RecordBatch,
    RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, SchemaRef, TimestampMicrosecondType,
};
use datafusion::common::ScalarValue;
use proteus_kernel_api::table::{ColumnType, Row, Value};

use crate::error::SqlError;
use crate::types::{arrow_type, column_type_from_arrow};

macro_rules! build {
    ($builder:expr, $rows:expr, $index:expr, $pattern:pat => $value:expr) => {{
        let mut builder = $builder;
        for row in $rows {
            match row.get($index) {
                Some($pattern) => builder.append_value($value),
                _ => builder.append_null(),
            }
        }
        Arc::new(builder.finish()) as ArrayRef
    }};
}

/// A batch of the given columns of `rows`. `columns` are positions in a row and their types.
///
/// # Errors
/// If the rows do not fit `schema`.
pub fn batch_of(
    schema: &SchemaRef,
    columns: &[(usize, ColumnType)],
    rows: &[Row],
) -> Result<RecordBatch, SqlError> {
    let arrays: Vec<ArrayRef> =
        columns.iter().map(|(index, column_type)| array_of(*index, *column_type, rows)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the machine checks that values fit their columns"
)]
fn array_of(index: usize, column_type: ColumnType, rows: &[Row]) -> ArrayRef {
    let count = rows.len();
    match column_type {
        ColumnType::Bool => {
            build!(BooleanBuilder::with_capacity(count), rows, index, Value::Bool(value) => *value)
        }
        ColumnType::SmallInt => {
            build!(Int16Builder::with_capacity(count), rows, index, Value::Int(value) => *value as i16)
        }
        ColumnType::Integer => {
            build!(Int32Builder::with_capacity(count), rows, index, Value::Int(value) => *value as i32)
        }
        ColumnType::BigInt => {
            build!(Int64Builder::with_capacity(count), rows, index, Value::Int(value) => *value)
        }
        ColumnType::Real => {
            build!(Float32Builder::with_capacity(count), rows, index, Value::Float(value) => *value as f32)
        }
        ColumnType::Double => {
            build!(Float64Builder::with_capacity(count), rows, index, Value::Float(value) => *value)
        }
        ColumnType::Text { .. } | ColumnType::Json => {
            build!(StringBuilder::with_capacity(count, count * 16), rows, index, Value::Text(value) => value)
        }
        ColumnType::Bytea => {
            build!(BinaryBuilder::with_capacity(count, count * 16), rows, index, Value::Bytes(value) => value)
        }
        ColumnType::Timestamp | ColumnType::TimestampTz => {
            let builder = TimestampMicrosecondBuilder::with_capacity(count)
                .with_data_type(arrow_type(column_type));
            build!(builder, rows, index, Value::Timestamp(value) => *value)
        }
        ColumnType::Date => {
            build!(Date32Builder::with_capacity(count), rows, index, Value::Date(value) => *value)
        }
        ColumnType::Numeric { .. } => {
            let builder =
                Decimal128Builder::with_capacity(count).with_data_type(arrow_type(column_type));
            build!(builder, rows, index, Value::Numeric(value) => *value)
        }
    }
}

/// The rows of a batch. Types without a counterpart become text.
///
/// # Errors
/// If the engine cannot show a type as text.
pub fn rows_of(batch: &RecordBatch) -> Result<Vec<Row>, SqlError> {
    let mut rows: Vec<Row> =
        (0..batch.num_rows()).map(|_| Vec::with_capacity(batch.num_columns())).collect();
    for array in batch.columns() {
        let column_type = column_type_from_arrow(array.data_type());
        let target = arrow_type(column_type);
        let array =
            if *array.data_type() == target { array.clone() } else { cast(array, &target)? };
        push_column(&array, column_type, &mut rows);
    }
    Ok(rows)
}

macro_rules! push {
    ($array:expr, $rows:expr, $value:ident => $wrap:expr) => {
        for (row, value) in $rows.iter_mut().zip($array.iter()) {
            row.push(value.map_or(Value::Null, |$value| $wrap));
        }
    };
}

fn push_column(array: &ArrayRef, column_type: ColumnType, rows: &mut [Row]) {
    match column_type {
        ColumnType::Bool => push!(array.as_boolean(), rows, value => Value::Bool(value)),
        ColumnType::SmallInt => {
            push!(array.as_primitive::<Int16Type>(), rows, value => Value::Int(value.into()));
        }
        ColumnType::Integer => {
            push!(array.as_primitive::<Int32Type>(), rows, value => Value::Int(value.into()));
        }
        ColumnType::BigInt => {
            push!(array.as_primitive::<Int64Type>(), rows, value => Value::Int(value));
        }
        ColumnType::Real => {
            push!(array.as_primitive::<Float32Type>(), rows, value => Value::Float(value.into()));
        }
        ColumnType::Double => {
            push!(array.as_primitive::<Float64Type>(), rows, value => Value::Float(value));
        }
        ColumnType::Text { .. } | ColumnType::Json => {
            push!(array.as_string::<i32>(), rows, value => Value::Text(value.to_owned()));
        }
        ColumnType::Bytea => {
            push!(array.as_binary::<i32>(), rows, value => Value::Bytes(value.to_owned()));
        }
        ColumnType::Timestamp | ColumnType::TimestampTz => {
            let array = array.as_primitive::<TimestampMicrosecondType>();
            push!(array, rows, value => Value::Timestamp(value));
        }
        ColumnType::Date => {
            push!(array.as_primitive::<Date32Type>(), rows, value => Value::Date(value));
        }
        ColumnType::Numeric { .. } => {
            push!(array.as_primitive::<Decimal128Type>(), rows, value => Value::Numeric(value));
        }
    }
}

/// A value as the query engine's literal of a column's type.
pub fn scalar_of(value: &Value, column_type: ColumnType) -> ScalarValue {
    let array = array_of(0, column_type, std::slice::from_ref(&vec![value.clone()]));
    ScalarValue::try_from_array(&array, 0).unwrap_or(ScalarValue::Null)
}

/// The query engine's literal as a value of a column's type; `None` if it is not exactly one.
pub fn value_of(scalar: &ScalarValue, column_type: ColumnType) -> Option<Value> {
    let array = scalar.to_array().ok()?;
    let target = arrow_type(column_type);
    let array = if *array.data_type() == target {
        array
    } else {
        let there = cast(&array, &target).ok()?;
        // A narrowing cast would move a range's bound.
        let back = cast(&there, array.data_type()).ok()?;
        if back.as_ref() != array.as_ref() || matches!(scalar.data_type(), DataType::Null) {
            return None;
        }
        there
    };
    let mut rows = vec![Row::new()];
    push_column(&array, column_type, &mut rows);
    rows.pop()?.pop()
}
