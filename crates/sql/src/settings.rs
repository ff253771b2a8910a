//! SET and SHOW: settings that clients expect. Most are accepted and change nothing.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{self, Expr};

use proteus_kernel_api::Durability;

use crate::error::{SqlError, sqlstate};
use crate::names;
use crate::system::functions::SERVER_VERSION;

/// A session's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<String, String>,
    set: BTreeMap<String, String>,
    /// Those of the transaction alone.
    local: BTreeMap<String, String>,
}

/// Settings with their defaults. A client may set any; those of [`FIXED`] only to what they are.
const DEFAULTS: [(&str, &str); 25] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "repeatable read"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "on"),
    ("lc_collate", "C"),
    ("lc_messages", "C"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "150000"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    (SYNCHRONOUS, "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "repeatable read"),
];

/// Whether a commit is flushed before it is acknowledged.
const SYNCHRONOUS: &str = "synchronous_commit";

/// Settings that clients may not change.
const READ_ONLY: [&str; 6] = [
    "integer_datetimes",
    "is_superuser",
    "max_identifier_length",
    "server_encoding",
    "server_version",
    "server_version_num",
];

/// Settings that a client is told of when it connects and when they change, as it spells them.
pub const REPORTED: [(&str, &str); 11] = [
    ("server_version", "server_version"),
    ("server_encoding", "server_encoding"),
    ("client_encoding", "client_encoding"),
    ("application_name", "application_name"),
    ("is_superuser", "is_superuser"),
    ("datestyle", "DateStyle"),
    ("intervalstyle", "IntervalStyle"),
    ("timezone", "TimeZone"),
    ("integer_datetimes", "integer_datetimes"),
    ("standard_conforming_strings", "standard_conforming_strings"),
    ("default_transaction_read_only", "default_transaction_read_only"),
];

impl Default for Settings {
    fn default() -> Settings {
        let values = DEFAULTS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings { values: values.collect(), set: BTreeMap::new(), local: BTreeMap::new() }
    }
}

impl Settings {
    /// A setting's value.
    pub fn get(&self, name: &str) -> Option<String> {
        let name = name.to_lowercase();
        let set = self.local.get(&name).or_else(|| self.set.get(&name));
        set.or_else(|| self.values.get(&name)).cloned()
    }

    /// All settings, by name.
    pub fn all(&self) -> Vec<(&'static str, String)> {
        let value = |(name, _): &(&'static str, &str)| (*name, self.get(name).unwrap_or_default());
        DEFAULTS.iter().map(value).collect()
    }

    /// Sets a setting.
    ///
    /// # Errors
    /// 42704 if there is none of this name, 55P02 if it is fixed, 22023 if it cannot have the value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        let (name, value) = self.changed(name, value)?;
        self.local.remove(&name);
        self.set.insert(name, value);
        Ok(())
    }

    /// Sets a setting until the transaction ends.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn set_local(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        let default = self.values.get(&name.to_lowercase()).cloned();
        let value = if value.eq_ignore_ascii_case("default") { default } else { None }
            .unwrap_or_else(|| value.to_owned());
        let (name, value) = self.changed(name, &value)?;
        self.local.insert(name, value);
        Ok(())
    }

    /// The transaction has ended, and with it what was set for it.
    pub fn end_local(&mut self) {
        self.local.clear();
    }

    /// What `synchronous_commit` says of how durable commits are, if the client has set it.
    pub fn durability(&self) -> Option<Durability> {
        let set = self.local.get(SYNCHRONOUS).or_else(|| self.set.get(SYNCHRONOUS))?;
        Some(if set == "off" { Durability::Relaxed } else { Durability::Flushed })
    }

    fn changed(&self, name: &str, value: &str) -> Result<(String, String), SqlError> {
        let name = name.to_lowercase();
        let is_custom = name.contains('.');
        if !self.values.contains_key(&name) && !is_custom {
            let message = format!("unrecognized configuration parameter \"{name}\"");
            return Err(SqlError::new("42704", message));
        }
        let current = self.get(&name).unwrap_or_default();
        if READ_ONLY.contains(&name.as_str()) && value != current {
            let message = format!("parameter \"{name}\" cannot be changed");
            return Err(SqlError::new("55P02", message));
        }
        let value = checked(&name, value)?;
        Ok((name, value))
    }

    /// Gives a setting, or all, its default again.
    pub fn reset(&mut self, name: Option<&str>) {
        match name {
            Some(name) => {
                let name = name.to_lowercase();
                self.local.remove(&name);
                self.set.remove(&name);
            }
            None => {
                self.local.clear();
                self.set.clear();
            }
        }
    }
}

/// What the value means here; refuses values that would need another behaviour.
fn checked(name: &str, value: &str) -> Result<String, SqlError> {
    let lower = value.to_lowercase();
    let is_known = match name {
        "client_encoding" => {
            if ["utf8", "utf-8", "unicode"].contains(&lower.as_str()) {
                return Ok("UTF8".to_owned());
            }
            false
        }
        "timezone" => {
            let known = ["utc", "gmt", "etc/utc", "default", "z", "0", "+00:00"];
            // A client in another zone is shown timestamps in UTC, as their text says.
            if known.contains(&lower.as_str()) {
                return Ok("UTC".to_owned());
            }
            return Ok("UTC".to_owned());
        }
        "datestyle" => {
            if lower.starts_with("iso") {
                return Ok("ISO, MDY".to_owned());
            }
            false
        }
        "standard_conforming_strings" => ["on", "true", "1"].contains(&lower.as_str()),
        "bytea_output" => lower == "hex",
        SYNCHRONOUS => {
            return match lower.as_str() {
                "on" | "true" | "yes" | "1" => Ok("on".to_owned()),
                "off" | "false" | "no" | "0" => Ok("off".to_owned()),
                // As on a single server.
                "local" | "remote_write" | "remote_apply" => Ok(lower),
                _ => Err(invalid(name, value)),
            };
        }
        "transaction_isolation" | "default_transaction_isolation" => {
            // All weaker levels are given as snapshot isolation, which is stronger.
            if lower == "serializable" {
                return Err(SqlError::unsupported("isolation level serializable"));
            }
            return Ok("repeatable read".to_owned());
        }
        _ => true,
    };
    if is_known {
        return Ok(value.to_owned());
    }
    Err(invalid(name, value))
}

fn invalid(name: &str, value: &str) -> SqlError {
    let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
    SqlError::new(sqlstate::INVALID_PARAMETER, message)
}

/// Whether a SET statement holds for the transaction alone.
pub fn is_local(set: &ast::Set) -> bool {
    let scope = match set {
        ast::Set::SingleAssignment { scope, .. } => scope.as_ref(),
        _ => None,
    };
    matches!(scope, Some(ast::ContextModifier::Local))
}

/// The text of a SET's value.
pub fn value_text(values: &[Expr]) -> String {
    let text = |expr: &Expr| match expr {
        Expr::Value(value) => {
            value.value.clone().into_string().unwrap_or_else(|| value.to_string())
        }
        Expr::Identifier(ident) => names::fold(ident),
        other => other.to_string(),
    };
    values.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The settings that a SET statement sets, with their values.
///
/// # Errors
/// 0A000 for forms that are not known.
pub fn assignments(set: &ast::Set) -> Result<Vec<(String, String)>, SqlError> {
    match set {
        ast::Set::SingleAssignment { variable, values, .. } => {
            let name = names::parts(variable)?.join(".");
            Ok(vec![(name, value_text(values))])
        }
        ast::Set::SetTimeZone { value, .. } => {
            Ok(vec![("timezone".to_owned(), value_text(std::slice::from_ref(value)))])
        }
        ast::Set::SetNames { charset_name, .. } => {
            Ok(vec![("client_encoding".to_owned(), names::fold(charset_name))])
        }
        ast::Set::SetTransaction { modes, .. } => isolation_of(modes),
        ast::Set::SetSessionAuthorization(_) | ast::Set::SetRole { .. } => Ok(Vec::new()),
        other => Err(SqlError::unsupported(other)),
    }
}

/// Reads the modes of BEGIN and SET TRANSACTION.
///
/// # Errors
/// 0A000 for SERIALIZABLE.
pub fn isolation_of(modes: &[ast::TransactionMode]) -> Result<Vec<(String, String)>, SqlError> {
    for mode in modes {
        if *mode
            == ast::TransactionMode::IsolationLevel(ast::TransactionIsolationLevel::Serializable)
        {
            return Err(SqlError::unsupported("isolation level serializable")
                .hint("Transactions have snapshot isolation, PostgreSQL's REPEATABLE READ."));
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_has_settings_of_its_own() {
        let mut settings = Settings::default();
        assert_eq!(settings.durability(), None);
        settings.set("synchronous_commit", "off").unwrap();
        assert_eq!(settings.durability(), Some(Durability::Relaxed));
        settings.set_local("SYNCHRONOUS_COMMIT", "remote_apply").unwrap();
        assert_eq!(settings.durability(), Some(Durability::Flushed));
        assert_eq!(settings.get("synchronous_commit").unwrap(), "remote_apply");
        settings.end_local();
        assert_eq!(settings.get("synchronous_commit").unwrap(), "off");
        settings.set_local("synchronous_commit", "on").unwrap();
        settings.reset(Some("synchronous_commit"));
        assert_eq!(settings.durability(), None);
        assert_eq!(settings.set("synchronous_commit", "maybe").unwrap_err().code, "22023");
    }
}
