//! Types: of SQL's text, of columns, and of the query engine's batches.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::sql::sqlparser::ast::{self, ExactNumberInfo, TimezoneInfo};
use proteus_kernel_api::table::{ColumnType, NUMERIC_PRECISION_MAX, TableId, Value};

use crate::error::{SqlError, sqlstate};
use crate::value_text::{fit_int, format_value, out_of_range, parse_value, scale_of, type_name};

/// `numeric` without precision: 38 digits, of which 10 after the point. PostgreSQL's has no bounds.
const NUMERIC_UNBOUNDED: ColumnType = ColumnType::Numeric { precision: 38, scale: 10 };

/// `text`.
pub const TEXT: ColumnType = ColumnType::Text { length_max: None };

/// A column of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultColumn {
    /// Its name.
    pub name: String,
    /// Type of its values.
    pub column_type: ColumnType,
    /// The table and the column's position in it, counted from 1, if it is one.
    pub origin: Option<(TableId, u16)>,
}

impl ResultColumn {
    /// A column that is not of a table.
    pub fn computed(name: impl Into<String>, column_type: ColumnType) -> ResultColumn {
        ResultColumn { name: name.into(), column_type, origin: None }
    }
}

/// The column type that SQL's text names.
///
/// # Errors
/// 0A000 if there is no such type here.
pub fn column_type_of(data_type: &ast::DataType) -> Result<ColumnType, SqlError> {
    use ast::DataType as Sql;
    Ok(match data_type {
        Sql::Bool | Sql::Boolean => ColumnType::Bool,
        Sql::SmallInt(_) | Sql::Int2(_) => ColumnType::SmallInt,
        Sql::Int(_) | Sql::Integer(_) | Sql::Int4(_) => ColumnType::Integer,
        Sql::BigInt(_) | Sql::Int8(_) => ColumnType::BigInt,
        Sql::Real | Sql::Float4 => ColumnType::Real,
        Sql::Float(_) | Sql::Float8 | Sql::Double(_) | Sql::DoublePrecision => ColumnType::Double,
        Sql::Text | Sql::Uuid => TEXT,
        Sql::Varchar(length) | Sql::CharacterVarying(length) => {
            ColumnType::Text { length_max: character_length(length.as_ref()) }
        }
        Sql::Char(length) | Sql::Character(length) => {
            ColumnType::Text { length_max: Some(character_length(length.as_ref()).unwrap_or(1)) }
        }
        Sql::Bytea => ColumnType::Bytea,
        Sql::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            ColumnType::Timestamp
        }
        Sql::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => ColumnType::TimestampTz,
        Sql::Date => ColumnType::Date,
        Sql::Numeric(info) | Sql::Decimal(info) | Sql::Dec(info) => numeric_type(info)?,
        Sql::JSON | Sql::JSONB => ColumnType::Json,
        Sql::Custom(name, _) => match name.to_string().trim_start_matches("pg_catalog.") {
            "oid" | "regclass" => ColumnType::BigInt,
            "name" => TEXT,
            _ => return Err(SqlError::unsupported(format!("type {data_type}"))),
        },
        _ => return Err(SqlError::unsupported(format!("type {data_type}"))),
    })
}

fn character_length(length: Option<&ast::CharacterLength>) -> Option<u32> {
    match length {
        Some(ast::CharacterLength::IntegerLength { length, .. }) => u32::try_from(*length).ok(),
        _ => None,
    }
}

fn numeric_type(info: &ExactNumberInfo) -> Result<ColumnType, SqlError> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => return Ok(NUMERIC_UNBOUNDED),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    let bounded = u8::try_from(precision).ok().filter(|p| (1..=NUMERIC_PRECISION_MAX).contains(p));
    let scale = u8::try_from(scale).ok();
    match (bounded, scale) {
        (Some(precision), Some(scale)) if scale <= precision => {
            Ok(ColumnType::Numeric { precision, scale })
        }
        _ => Err(SqlError::unsupported(format!(
            "numeric of more than {NUMERIC_PRECISION_MAX} digits"
        ))),
    }
}

/// The query engine's type of a column.
pub fn arrow_type(column_type: ColumnType) -> DataType {
    match column_type {
        ColumnType::Bool => DataType::Boolean,
        ColumnType::SmallInt => DataType::Int16,
        ColumnType::Integer => DataType::Int32,
        ColumnType::BigInt => DataType::Int64,
        ColumnType::Real => DataType::Float32,
        ColumnType::Double => DataType::Float64,
        ColumnType::Text { .. } | ColumnType::Json => DataType::Utf8,
        ColumnType::Bytea => DataType::Binary,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        ColumnType::TimestampTz => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
        }
        ColumnType::Date => DataType::Date32,
        ColumnType::Numeric { precision, scale } => {
            DataType::Decimal128(precision, scale.cast_signed())
        }
    }
}

/// The column type that holds the query engine's type; what has no counterpart is shown as text.
pub fn column_type_from_arrow(data_type: &DataType) -> ColumnType {
    match data_type {
        DataType::Boolean => ColumnType::Bool,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => ColumnType::SmallInt,
        DataType::Int32 | DataType::UInt16 => ColumnType::Integer,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => ColumnType::BigInt,
        DataType::Float16 | DataType::Float32 => ColumnType::Real,
        DataType::Float64 => ColumnType::Double,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => ColumnType::Bytea,
        DataType::Timestamp(_, None) => ColumnType::Timestamp,
        DataType::Timestamp(_, Some(_)) => ColumnType::TimestampTz,
        DataType::Date32 | DataType::Date64 => ColumnType::Date,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => {
            ColumnType::Numeric { precision: *precision, scale: scale.max(&0).cast_unsigned() }
        }
        _ => TEXT,
    }
}

/// Converts a value of type `from` for storing in a column, as PostgreSQL's assignment casts do.
///
/// # Errors
/// 22xxx if the value does not fit, 42804 if there is no such cast.
pub fn coerce(value: Value, from: ColumnType, to: ColumnType) -> Result<Value, SqlError> {
    use ColumnType as Type;
    let same_scale = scale_of(from) == scale_of(to);
    match (value, to) {
        (Value::Null, _) => Ok(Value::Null),
        (Value::Text(text), Type::Text { length_max }) => fit_text(text, length_max),
        (Value::Text(text), _) => parse_value(&text, to),
        (Value::Int(value), Type::SmallInt | Type::Integer | Type::BigInt) => fit_int(value, to),
        #[allow(clippy::cast_precision_loss, reason = "as SQL's cast from bigint to double")]
        (Value::Int(value), Type::Real | Type::Double) => Ok(Value::Float(value as f64)),
        (Value::Int(value), Type::Numeric { .. }) => parse_value(&value.to_string(), to),
        (Value::Int(value), Type::Bool) => Ok(Value::Bool(value != 0)),
        (Value::Float(value), Type::Real) => {
            #[allow(clippy::cast_possible_truncation, reason = "a real column holds 32-bit floats")]
            let real = value as f32;
            Ok(Value::Float(f64::from(real)))
        }
        (Value::Float(value), Type::Double) => Ok(Value::Float(value)),
        (Value::Float(value), Type::SmallInt | Type::Integer | Type::BigInt) => {
            let rounded = value.round_ties_even();
            let is_within = (-9.3e18..9.2e18).contains(&rounded);
            #[allow(clippy::cast_possible_truncation, reason = "the range was checked")]
            if is_within { fit_int(rounded as i64, to) } else { Err(out_of_range(to)) }
        }
        (Value::Float(value), Type::Numeric { .. }) => parse_value(&value.to_string(), to),
        (value @ Value::Numeric(unscaled), Type::Numeric { precision, .. }) if same_scale => {
            let limit = 10i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
            if unscaled.abs() < limit { Ok(value) } else { Err(out_of_range(to)) }
        }
        (Value::Numeric(unscaled), Type::SmallInt | Type::Integer | Type::BigInt) => {
            let divisor = 10i128.pow(u32::from(scale_of(from)));
            let half = divisor / 2 * unscaled.signum();
            let rounded = unscaled.saturating_add(half) / divisor;
            fit_int(i64::try_from(rounded).map_err(|_| out_of_range(to))?, to)
        }
        (Value::Timestamp(micros), Type::Timestamp | Type::TimestampTz) => {
            Ok(Value::Timestamp(micros))
        }
        (Value::Timestamp(micros), Type::Date) => i32::try_from(micros.div_euclid(86_400_000_000))
            .map(Value::Date)
            .map_err(|_| out_of_range(to)),
        (Value::Date(days), Type::Timestamp | Type::TimestampTz) => {
            Ok(Value::Timestamp(i64::from(days) * 86_400_000_000))
        }
        (value @ Value::Bool(_), Type::Bool)
        | (value @ Value::Bytes(_), Type::Bytea)
        | (value @ Value::Date(_), Type::Date) => Ok(value),
        (value, Type::Text { length_max }) => {
            fit_text(format_value(&value, from).unwrap_or_default(), length_max)
        }
        (value @ Value::Numeric(_), Type::Real | Type::Double | Type::Numeric { .. }) => {
            parse_value(&format_value(&value, from).unwrap_or_default(), to)
        }
        (_, to) => Err(SqlError::new(
            sqlstate::DATATYPE_MISMATCH,
            format!("a value of type {} cannot be stored as {}", type_name(from), type_name(to)),
        )),
    }
}

fn fit_text(text: String, length_max: Option<u32>) -> Result<Value, SqlError> {
    let value = Value::Text(text);
    if value.fits(ColumnType::Text { length_max }) {
        return Ok(value);
    }
    let message = format!("value too long for type {}", type_name(ColumnType::Text { length_max }));
    Err(SqlError::new(sqlstate::STRING_TRUNCATION, message))
}

/// The type that a value has by itself, for values without a column.
pub fn natural_type(value: &Value) -> ColumnType {
    match value {
        Value::Bool(_) => ColumnType::Bool,
        Value::Int(_) => ColumnType::BigInt,
        Value::Float(_) => ColumnType::Double,
        Value::Null | Value::Text(_) => TEXT,
        Value::Bytes(_) => ColumnType::Bytea,
        Value::Timestamp(_) => ColumnType::Timestamp,
        Value::Date(_) => ColumnType::Date,
        Value::Numeric(_) => ColumnType::Numeric { precision: NUMERIC_PRECISION_MAX, scale: 0 },
    }
}
