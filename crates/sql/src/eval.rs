//! Evaluating simple expressions without the query engine: what point statements, VALUES lists and
//! ON CONFLICT updates are made of.
//!
//! Whatever is not evaluated here is [`EvalError::Unsupported`], and the caller hands the statement
//! to the query engine; so this may be narrow but must not differ.

use std::cmp::Ordering;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, CastKind, Expr, FunctionArg, FunctionArgExpr, FunctionArguments,
    UnaryOperator,
};
use proteus_kernel_api::table::{ColumnType, Value};

use crate::error::{SqlError, sqlstate};
use crate::names;
use crate::types::{TEXT, coerce, column_type_of};
use crate::value_text::parse_value;

/// Depth of nested expressions that are evaluated here.
const DEPTH_MAX: usize = 64;

/// Why there is no value.
#[derive(Debug)]
pub enum EvalError {
    /// The query engine must do it.
    Unsupported,
    /// The expression has no value.
    Sql(SqlError),
}

impl From<SqlError> for EvalError {
    fn from(error: SqlError) -> EvalError {
        EvalError::Sql(error)
    }
}

/// What names in an expression mean.
pub trait Scope {
    /// The value and type of a column, if the name is one here.
    fn column(&self, qualifier: Option<&str>, name: &str) -> Option<(Value, ColumnType)>;
    /// The value and type of parameter `number`, counted from 1.
    fn parameter(&self, number: usize) -> Option<(Value, ColumnType)>;
    /// Time of the statement, in milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// A value with its type. `is_literal` is a string whose type its surroundings decide.
#[derive(Debug, Clone)]
pub struct Datum {
    /// The value.
    pub value: Value,
    /// Its type.
    pub column_type: ColumnType,
    is_literal: bool,
}

impl Datum {
    fn new(value: Value, column_type: ColumnType) -> Datum {
        Datum { value, column_type, is_literal: false }
    }

    fn bool(value: Option<bool>) -> Datum {
        Datum::new(value.map_or(Value::Null, Value::Bool), ColumnType::Bool)
    }
}

type Evaluated<T = Datum> = Result<T, EvalError>;

/// Evaluates `expr` for storing in a column of type `to`.
///
/// # Errors
/// As [`EvalError`].
pub fn evaluate_as(expr: &Expr, scope: &dyn Scope, to: ColumnType) -> Evaluated<Value> {
    if let (ColumnType::Numeric { .. }, Some(number)) = (to, number_text(expr)) {
        return Ok(parse_value(&number, to)?);
    }
    let datum = evaluate(expr, scope, 0)?;
    Ok(coerce(datum.value, datum.column_type, to)?)
}

/// Evaluates `expr` to a value of the type it has by itself.
///
/// # Errors
/// As [`EvalError`].
pub fn evaluate_value(expr: &Expr, scope: &dyn Scope) -> Evaluated<Value> {
    Ok(evaluate(expr, scope, 0)?.value)
}

/// Whether `expr` holds; null does not.
///
/// # Errors
/// As [`EvalError`].
pub fn holds(expr: &Expr, scope: &dyn Scope) -> Evaluated<bool> {
    match evaluate(expr, scope, 0)?.value {
        Value::Bool(value) => Ok(value),
        Value::Null => Ok(false),
        _ => Err(EvalError::Unsupported),
    }
}

/// The text of a numeric literal, signed or not.
fn number_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            ast::Value::Number(text, _) => Some(text.clone()),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
            number_text(expr).filter(|text| !text.starts_with('-')).map(|text| format!("-{text}"))
        }
        Expr::Nested(inner) => number_text(inner),
        _ => None,
    }
}

/// The position of a parameter `$n`, counted from 1.
pub fn placeholder_number(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => match &value.value {
            ast::Value::Placeholder(text) => text.strip_prefix('$')?.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

fn evaluate(expr: &Expr, scope: &dyn Scope, depth: usize) -> Evaluated {
    if depth > DEPTH_MAX {
        return Err(EvalError::Unsupported);
    }
    let inner = |expr: &Expr| evaluate(expr, scope, depth + 1);
    match expr {
        Expr::Value(value) => literal(&value.value, scope),
        Expr::Identifier(name) => column(scope, None, name),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, name] => column(scope, Some(&names::fold(table)), name),
            _ => Err(EvalError::Unsupported),
        },
        Expr::Nested(expr) => inner(expr),
        Expr::UnaryOp { op, expr } => unary(op, inner(expr)?),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            Ok(Datum::bool(and(truth(inner(left)?)?, truth(inner(right)?)?)))
        }
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
            let (left, right) = (truth(inner(left)?)?, truth(inner(right)?)?);
            Ok(Datum::bool(and(left.map(|v| !v), right.map(|v| !v)).map(|v| !v)))
        }
        Expr::BinaryOp { left, op, right } => binary(op, inner(left)?, inner(right)?),
        Expr::IsNull(expr) => Ok(Datum::bool(Some(inner(expr)?.value.is_null()))),
        Expr::IsNotNull(expr) => Ok(Datum::bool(Some(!inner(expr)?.value.is_null()))),
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            cast(inner(expr)?, data_type)
        }
        Expr::TypedString(typed) => {
            let to = column_type_of(&typed.data_type).map_err(|_| EvalError::Unsupported)?;
            match &typed.value.value {
                ast::Value::SingleQuotedString(text) => Ok(Datum::new(parse_value(text, to)?, to)),
                _ => Err(EvalError::Unsupported),
            }
        }
        Expr::Function(function) => call(function, scope, depth),
        _ => Err(EvalError::Unsupported),
    }
}

fn literal(value: &ast::Value, scope: &dyn Scope) -> Evaluated {
    match value {
        ast::Value::Null => Ok(Datum { is_literal: true, ..Datum::new(Value::Null, TEXT) }),
        ast::Value::Boolean(value) => Ok(Datum::bool(Some(*value))),
        ast::Value::SingleQuotedString(text) | ast::Value::EscapedStringLiteral(text) => {
            Ok(Datum { is_literal: true, ..Datum::new(Value::Text(text.clone()), TEXT) })
        }
        ast::Value::DollarQuotedString(text) => {
            Ok(Datum { is_literal: true, ..Datum::new(Value::Text(text.value.clone()), TEXT) })
        }
        ast::Value::Number(text, _) => match text.parse::<i64>() {
            Ok(value) if i32::try_from(value).is_ok() => {
                Ok(Datum::new(Value::Int(value), ColumnType::Integer))
            }
            Ok(value) => Ok(Datum::new(Value::Int(value), ColumnType::BigInt)),
            Err(_) => match parse_value(text, ColumnType::Double) {
                Ok(value) => Ok(Datum::new(value, ColumnType::Double)),
                Err(_) => Err(EvalError::Unsupported),
            },
        },
        ast::Value::Placeholder(text) => {
            let number = text.strip_prefix('$').and_then(|n| n.parse().ok());
            let found = number.and_then(|number| scope.parameter(number));
            let (value, column_type) = found.ok_or_else(|| {
                SqlError::new(
                    sqlstate::UNDEFINED_PARAMETER,
                    format!("there is no parameter {text}"),
                )
            })?;
            Ok(Datum::new(value, column_type))
        }
        _ => Err(EvalError::Unsupported),
    }
}

fn column(scope: &dyn Scope, qualifier: Option<&str>, name: &ast::Ident) -> Evaluated {
    let found = scope.column(qualifier, &names::fold(name));
    let (value, column_type) = found.ok_or(EvalError::Unsupported)?;
    Ok(Datum::new(value, column_type))
}

fn truth(datum: Datum) -> Evaluated<Option<bool>> {
    match datum.value {
        Value::Bool(value) => Ok(Some(value)),
        Value::Null => Ok(None),
        _ => Err(EvalError::Unsupported),
    }
}

fn and(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn unary(op: &UnaryOperator, datum: Datum) -> Evaluated {
    let value = match (op, datum.value) {
        (UnaryOperator::Not, value) => {
            return Ok(Datum::bool(
                truth(Datum::new(value, ColumnType::Bool))?.map(|value| !value),
            ));
        }
        (_, Value::Null) => Value::Null,
        (UnaryOperator::Plus, value @ (Value::Int(_) | Value::Float(_))) => value,
        (UnaryOperator::Minus, Value::Float(value)) => Value::Float(-value),
        (UnaryOperator::Minus, Value::Int(value)) => {
            Value::Int(value.checked_neg().ok_or(EvalError::Unsupported)?)
        }
        _ => return Err(EvalError::Unsupported),
    };
    Ok(Datum::new(value, datum.column_type))
}

/// Gives both sides one type, as PostgreSQL resolves operators; a literal takes the other's.
fn unify(left: Datum, right: Datum) -> Evaluated<(Value, Value, ColumnType)> {
    let same_kind = |a: ColumnType, b: ColumnType| {
        std::mem::discriminant(&a) == std::mem::discriminant(&b)
            && !matches!(a, ColumnType::Numeric { .. })
    };
    let (a, b) = (left.column_type, right.column_type);
    if matches!(a, ColumnType::Json) || matches!(b, ColumnType::Json) {
        return Err(EvalError::Unsupported);
    }
    if same_kind(a, b) {
        return Ok((left.value, right.value, a));
    }
    if right.is_literal {
        return Ok((left.value, coerce(right.value, b, a)?, a));
    }
    if left.is_literal {
        return Ok((coerce(left.value, a, b)?, right.value, b));
    }
    let wider = wider_number(a, b).ok_or(EvalError::Unsupported)?;
    Ok((coerce(left.value, a, wider)?, coerce(right.value, b, wider)?, wider))
}

fn wider_number(a: ColumnType, b: ColumnType) -> Option<ColumnType> {
    let rank = |column_type| match column_type {
        ColumnType::SmallInt => Some(0),
        ColumnType::Integer => Some(1),
        ColumnType::BigInt => Some(2),
        ColumnType::Real | ColumnType::Double => Some(3),
        _ => None,
    };
    match rank(a)?.max(rank(b)?) {
        0 => Some(ColumnType::SmallInt),
        1 => Some(ColumnType::Integer),
        2 => Some(ColumnType::BigInt),
        _ => Some(ColumnType::Double),
    }
}

fn binary(op: &BinaryOperator, left: Datum, right: Datum) -> Evaluated {
    use BinaryOperator as Op;
    if *op == Op::StringConcat {
        return match (left.value, right.value) {
            (Value::Null, _) | (_, Value::Null) => Ok(Datum::new(Value::Null, TEXT)),
            (Value::Text(left), Value::Text(right)) => {
                Ok(Datum::new(Value::Text(left + &right), TEXT))
            }
            _ => Err(EvalError::Unsupported),
        };
    }
    let (left, right, column_type) = unify(left, right)?;
    let test: fn(Ordering) -> bool = match op {
        Op::Eq => Ordering::is_eq,
        Op::NotEq => Ordering::is_ne,
        Op::Lt => Ordering::is_lt,
        Op::LtEq => Ordering::is_le,
        Op::Gt => Ordering::is_gt,
        Op::GtEq => Ordering::is_ge,
        Op::Plus | Op::Minus | Op::Multiply | Op::Divide | Op::Modulo => {
            return Ok(Datum::new(arithmetic(op, &left, &right, column_type)?, column_type));
        }
        _ => return Err(EvalError::Unsupported),
    };
    if left.is_null() || right.is_null() {
        return Ok(Datum::bool(None));
    }
    Ok(Datum::bool(Some(test(compare(&left, &right)?))))
}

/// The order of two values of one type; it is that of their keys.
fn compare(left: &Value, right: &Value) -> Evaluated<Ordering> {
    if std::mem::discriminant(left) != std::mem::discriminant(right) {
        return Err(EvalError::Unsupported);
    }
    let key = |value: &Value| {
        let mut bytes = Vec::new();
        value.encode_key(&mut bytes);
        bytes
    };
    Ok(key(left).cmp(&key(right)))
}

fn arithmetic(
    op: &BinaryOperator,
    left: &Value,
    right: &Value,
    column_type: ColumnType,
) -> Evaluated<Value> {
    use BinaryOperator as Op;
    let by_zero = || SqlError::new(sqlstate::DIVISION_BY_ZERO, "division by zero");
    match (left, right) {
        (Value::Null, _) | (_, Value::Null) => Ok(Value::Null),
        (Value::Int(left), Value::Int(right)) => {
            let result = match op {
                Op::Divide | Op::Modulo if *right == 0 => return Err(by_zero().into()),
                Op::Plus => left.checked_add(*right),
                Op::Minus => left.checked_sub(*right),
                Op::Multiply => left.checked_mul(*right),
                Op::Divide => left.checked_div(*right),
                Op::Modulo => left.checked_rem(*right),
                _ => return Err(EvalError::Unsupported),
            };
            let value = result.ok_or_else(|| crate::value_text::out_of_range(column_type))?;
            Ok(crate::value_text::fit_int(value, column_type)?)
        }
        (Value::Float(left), Value::Float(right)) => Ok(Value::Float(match op {
            Op::Plus => left + right,
            Op::Minus => left - right,
            Op::Multiply => left * right,
            Op::Divide if *right == 0.0 => return Err(by_zero().into()),
            Op::Divide => left / right,
            _ => return Err(EvalError::Unsupported),
        })),
        _ => Err(EvalError::Unsupported),
    }
}

fn cast(datum: Datum, data_type: &ast::DataType) -> Evaluated {
    let to = column_type_of(data_type).map_err(|_| EvalError::Unsupported)?;
    // Explicit casts to varchar(n) truncate, and those to json validate: left to the engine.
    if matches!(to, ColumnType::Text { length_max: Some(_) } | ColumnType::Json) {
        return Err(EvalError::Unsupported);
    }
    Ok(Datum::new(coerce(datum.value, datum.column_type, to)?, to))
}

fn call(function: &ast::Function, scope: &dyn Scope, depth: usize) -> Evaluated {
    let name = names::function_name(function).ok_or(EvalError::Unsupported)?;
    let is_plain = function.filter.is_none() && function.over.is_none();
    let arguments: Vec<&Expr> = match &function.args {
        FunctionArguments::None => Vec::new(),
        FunctionArguments::List(list) if list.clauses.is_empty() => list
            .args
            .iter()
            .map(|argument| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
                _ => Err(EvalError::Unsupported),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(EvalError::Unsupported),
    };
    if !is_plain {
        return Err(EvalError::Unsupported);
    }
    match (name.as_str(), arguments.as_slice()) {
        ("now" | "current_timestamp" | "transaction_timestamp", []) => {
            let micros = i64::try_from(scope.now_ms()).unwrap_or(i64::MAX).saturating_mul(1000);
            Ok(Datum::new(Value::Timestamp(micros), ColumnType::TimestampTz))
        }
        ("coalesce", [first, rest @ ..]) => {
            let mut datum = evaluate(first, scope, depth + 1)?;
            for expr in rest {
                if !datum.value.is_null() {
                    break;
                }
                datum = evaluate(expr, scope, depth + 1)?;
            }
            Ok(datum)
        }
        ("greatest" | "least", [first, rest @ ..]) => {
            let wanted = if name == "greatest" { Ordering::Greater } else { Ordering::Less };
            let mut best = evaluate(first, scope, depth + 1)?;
            for expr in rest {
                let other = evaluate(expr, scope, depth + 1)?;
                if other.value.is_null() {
                    continue;
                }
                if best.value.is_null() {
                    best = other;
                    continue;
                }
                let (left, right, column_type) = unify(other, best)?;
                let value = if compare(&left, &right)? == wanted { left } else { right };
                best = Datum::new(value, column_type);
            }
            Ok(best)
        }
        _ => Err(EvalError::Unsupported),
    }
}
