//! Errors with their SQLSTATE.

use datafusion::error::DataFusionError;
use proteus_kernel_api::KernelError;

/// SQLSTATE codes that this crate raises (PostgreSQL documentation, appendix A).
pub mod sqlstate {
    #![allow(missing_docs, reason = "the names are those of the appendix")]
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    pub const CARDINALITY_VIOLATION: &str = "21000";
    pub const STRING_TRUNCATION: &str = "22001";
    pub const NUMERIC_OUT_OF_RANGE: &str = "22003";
    pub const INVALID_DATETIME: &str = "22007";
    pub const DIVISION_BY_ZERO: &str = "22012";
    pub const INVALID_PARAMETER: &str = "22023";
    pub const INVALID_TEXT: &str = "22P02";
    pub const INVALID_BINARY: &str = "22P03";
    pub const NOT_NULL_VIOLATION: &str = "23502";
    pub const UNIQUE_VIOLATION: &str = "23505";
    pub const ACTIVE_TRANSACTION: &str = "25001";
    pub const READ_ONLY_TRANSACTION: &str = "25006";
    pub const NO_ACTIVE_TRANSACTION: &str = "25P01";
    pub const FAILED_TRANSACTION: &str = "25P02";
    pub const INVALID_STATEMENT_NAME: &str = "26000";
    pub const INVALID_AUTHORIZATION: &str = "28P01";
    pub const INVALID_CURSOR_NAME: &str = "34000";
    pub const INVALID_SAVEPOINT: &str = "3B001";
    pub const SERIALIZATION_FAILURE: &str = "40001";
    pub const SYNTAX_ERROR: &str = "42601";
    pub const UNDEFINED_COLUMN: &str = "42703";
    pub const UNDEFINED_FUNCTION: &str = "42883";
    pub const UNDEFINED_TABLE: &str = "42P01";
    pub const UNDEFINED_PARAMETER: &str = "42P02";
    pub const DUPLICATE_TABLE: &str = "42P07";
    pub const DUPLICATE_STATEMENT: &str = "42P05";
    pub const INVALID_COLUMN_REFERENCE: &str = "42P10";
    pub const INVALID_TABLE_DEFINITION: &str = "42P16";
    pub const WRONG_OBJECT_TYPE: &str = "42809";
    pub const DATATYPE_MISMATCH: &str = "42804";
    pub const OUT_OF_MEMORY: &str = "53200";
    pub const DISK_FULL: &str = "53100";
    pub const PROGRAM_LIMIT: &str = "54000";
    pub const STATEMENT_TOO_COMPLEX: &str = "54001";
    pub const QUERY_CANCELED: &str = "57014";
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    pub const INTERNAL: &str = "XX000";
}

/// What an SQL client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// SQLSTATE.
    pub code: &'static str,
    /// What happened.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl SqlError {
    /// An error with a code and a message.
    pub fn new(code: &'static str, message: impl Into<String>) -> SqlError {
        SqlError { code, message: message.into(), detail: None, hint: None }
    }

    /// Something that PostgreSQL has and Proteus has not.
    pub fn unsupported(what: impl std::fmt::Display) -> SqlError {
        SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("{what} is not supported"))
    }

    /// Adds a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> SqlError {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> SqlError {
        self.hint = Some(hint.into());
        self
    }

    /// A relation that is not there.
    pub fn undefined_table(name: &str) -> SqlError {
        SqlError::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"))
    }

    /// A column that is not there.
    pub fn undefined_column(name: &str, table: &str) -> SqlError {
        let message = format!("column \"{name}\" of relation \"{table}\" does not exist");
        SqlError::new(sqlstate::UNDEFINED_COLUMN, message)
    }
}

impl From<KernelError> for SqlError {
    fn from(error: KernelError) -> SqlError {
        let code = match &error {
            KernelError::DiskFull(_) => sqlstate::DISK_FULL,
            KernelError::TooLarge { .. } => sqlstate::PROGRAM_LIMIT,
            KernelError::Overloaded(_) => sqlstate::OUT_OF_MEMORY,
            KernelError::Unavailable(_) | KernelError::Stopped(_) => sqlstate::CANNOT_CONNECT_NOW,
        };
        SqlError::new(code, error.to_string())
    }
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> SqlError {
        from_datafusion(&error)
    }
}

impl From<datafusion::arrow::error::ArrowError> for SqlError {
    fn from(error: datafusion::arrow::error::ArrowError) -> SqlError {
        from_datafusion(&DataFusionError::ArrowError(Box::new(error), None))
    }
}

fn from_datafusion(error: &DataFusionError) -> SqlError {
    use datafusion::arrow::error::ArrowError;
    use datafusion::common::SchemaError;
    let root = error.find_root();
    // Errors of our own come back through the engine as they went in.
    if let DataFusionError::External(inner) = root
        && let Some(own) = inner.downcast_ref::<SqlError>()
    {
        return own.clone();
    }
    let message = first_line(&root.strip_backtrace());
    let code = match root {
        DataFusionError::SQL(..) => sqlstate::SYNTAX_ERROR,
        DataFusionError::NotImplemented(_) => sqlstate::FEATURE_NOT_SUPPORTED,
        DataFusionError::ResourcesExhausted(_) => sqlstate::OUT_OF_MEMORY,
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { .. } => sqlstate::UNDEFINED_COLUMN,
            _ => "42702",
        },
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::DivideByZero => sqlstate::DIVISION_BY_ZERO,
            ArrowError::ArithmeticOverflow(_) => sqlstate::NUMERIC_OUT_OF_RANGE,
            ArrowError::CastError(_) | ArrowError::ParseError(_) => sqlstate::INVALID_TEXT,
            _ => sqlstate::INTERNAL,
        },
        DataFusionError::Plan(text) if text.contains("Invalid function") => {
            sqlstate::UNDEFINED_FUNCTION
        }
        DataFusionError::Plan(_) => sqlstate::DATATYPE_MISMATCH,
        DataFusionError::Execution(text) if text.contains("returned more than one row") => {
            sqlstate::CARDINALITY_VIOLATION
        }
        DataFusionError::Execution(_) => sqlstate::INVALID_PARAMETER,
        _ => sqlstate::INTERNAL,
    };
    SqlError::new(code, message)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or(text).to_owned()
}
