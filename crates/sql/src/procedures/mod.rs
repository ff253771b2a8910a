//! `CALL schema.procedure(args…)`: ops and checks of other machines, in the same commit.
//!
//! ```sql
//! BEGIN;
//! UPDATE stock SET amount = amount - 1 WHERE id = 7;
//! CALL redis.hset('stock', '7', 'sold');
//! CALL kafka.produce('orders', '7', '{"amount": 1}');
//! CALL zookeeper.check_exists('/locks/worker-1');
//! COMMIT;
//! ```
//! A call only adds to the transaction; it is applied with the COMMIT, all or not at all. A check
//! that does not hold is 40001.

mod kafka;
mod redis;
mod zookeeper;

use std::collections::BTreeMap;

use proteus_kernel_api::Kernel;
use proteus_kernel_api::table::Value;

use crate::error::{SqlError, sqlstate};
use crate::transaction::CrossFace;

/// What a call adds to, and may look at.
pub struct Calls<'a> {
    /// The checks and ops of the transaction.
    pub cross_face: &'a mut CrossFace,
    /// To resolve names.
    pub kernel: &'a dyn Kernel,
    /// Time of the statement, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// A procedure that adds to a transaction.
pub trait Procedure: Send + Sync + 'static {
    /// Its qualified name: `schema.procedure`.
    fn name(&self) -> &'static str;

    /// Its parameters, for messages: `key, value`.
    fn parameters(&self) -> &'static str;

    /// Adds checks and ops for a call with these arguments.
    ///
    /// # Errors
    /// 22023 if the arguments are not those of the procedure.
    fn call(&self, arguments: &[Value], calls: &mut Calls<'_>) -> Result<(), SqlError>;
}

/// The procedures that there are.
pub struct Procedures {
    by_name: BTreeMap<&'static str, Box<dyn Procedure>>,
}

impl Default for Procedures {
    fn default() -> Procedures {
        let mut procedures = Procedures { by_name: BTreeMap::new() };
        let all = redis::procedures()
            .into_iter()
            .chain(kafka::procedures())
            .chain(zookeeper::procedures());
        for procedure in all {
            procedures.by_name.insert(procedure.name(), procedure);
        }
        procedures
    }
}

impl Procedures {
    /// Calls a procedure.
    ///
    /// # Errors
    /// 42883 if there is none of this name; as [`Procedure::call`].
    pub fn call(
        &self,
        name: &str,
        arguments: &[Value],
        calls: &mut Calls<'_>,
    ) -> Result<(), SqlError> {
        let procedure = self.by_name.get(name).ok_or_else(|| {
            let message = format!("procedure {name} does not exist");
            let names: Vec<&str> = self.by_name.keys().copied().collect();
            SqlError::new(sqlstate::UNDEFINED_FUNCTION, message)
                .hint(format!("There are: {}.", names.join(", ")))
        })?;
        procedure.call(arguments, calls)
    }

    /// Names and parameters of all procedures.
    pub fn signatures(&self) -> Vec<String> {
        let signature = |p: &dyn Procedure| format!("{}({})", p.name(), p.parameters());
        self.by_name.values().map(|procedure| signature(procedure.as_ref())).collect()
    }
}

/// A procedure made of a function.
struct Function {
    name: &'static str,
    parameters: &'static str,
    body: fn(&mut Arguments<'_>, &mut Calls<'_>) -> Result<(), SqlError>,
}

impl Procedure for Function {
    fn name(&self) -> &'static str {
        self.name
    }

    fn parameters(&self) -> &'static str {
        self.parameters
    }

    fn call(&self, arguments: &[Value], calls: &mut Calls<'_>) -> Result<(), SqlError> {
        let mut arguments = Arguments { procedure: self, values: arguments, next: 0 };
        (self.body)(&mut arguments, calls)?;
        if arguments.is_empty() { Ok(()) } else { Err(arguments.mismatch("too many arguments")) }
    }
}

/// Arguments of a call, taken one by one.
struct Arguments<'a> {
    procedure: &'a Function,
    values: &'a [Value],
    next: usize,
}

impl Arguments<'_> {
    fn is_empty(&self) -> bool {
        self.next >= self.values.len()
    }

    fn mismatch(&self, what: &str) -> SqlError {
        let Function { name, parameters, .. } = self.procedure;
        SqlError::new(sqlstate::INVALID_PARAMETER, format!("{name}: {what}"))
            .hint(format!("It is called as {name}({parameters})."))
    }

    fn take(&mut self) -> Result<Value, SqlError> {
        let value = self.values.get(self.next).cloned();
        self.next += 1;
        value.ok_or_else(|| self.mismatch("too few arguments"))
    }

    /// Bytes: of a bytea as they are, of anything else its text.
    fn bytes(&mut self) -> Result<Vec<u8>, SqlError> {
        match self.take()? {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Null => Err(self.mismatch("an argument is null")),
            value => {
                let column_type = crate::types::natural_type(&value);
                let text = crate::value_text::format_value(&value, column_type);
                Ok(text.unwrap_or_default().into_bytes())
            }
        }
    }

    /// As [`Arguments::bytes`], or `None` for null.
    fn optional_bytes(&mut self) -> Result<Option<Vec<u8>>, SqlError> {
        if self.values.get(self.next).is_some_and(Value::is_null) {
            self.next += 1;
            return Ok(None);
        }
        self.bytes().map(Some)
    }

    fn text(&mut self) -> Result<String, SqlError> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes).map_err(|_| self.mismatch("an argument is not UTF-8"))
    }

    /// As [`Arguments::int`], or `None` for null.
    fn optional_int(&mut self) -> Result<Option<i64>, SqlError> {
        if self.values.get(self.next).is_some_and(Value::is_null) {
            self.next += 1;
            return Ok(None);
        }
        self.int().map(Some)
    }

    fn int(&mut self) -> Result<i64, SqlError> {
        match self.take()? {
            Value::Int(value) => Ok(value),
            Value::Text(text) => {
                text.trim().parse().map_err(|_| self.mismatch("an argument is not an integer"))
            }
            _ => Err(self.mismatch("an argument is not an integer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_procedures_and_wrong_arguments_are_refused() {
        let procedures = Procedures::default();
        let kernel = proteus_testkit::memory_kernel();
        let mut cross_face = CrossFace::default();
        let mut calls = Calls { cross_face: &mut cross_face, kernel: kernel.as_ref(), now_ms: 0 };
        let mut call = |name: &str, arguments: &[Value]| {
            procedures.call(name, arguments, &mut calls).map_err(|error| error.code)
        };
        assert_eq!(call("redis.flushall", &[]), Err(sqlstate::UNDEFINED_FUNCTION));
        for signature in procedures.signatures() {
            let name = signature.split('(').next().unwrap();
            assert_eq!(call(name, &[]), Err(sqlstate::INVALID_PARAMETER), "{name}");
        }
    }
}
