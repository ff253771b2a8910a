//! SET and SHOW: settings that clients expect. Most are accepted and change nothing.

use std::collections::BTreeMap;
use std::time::Duration;

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
const DEFAULTS: [(&str, &str); 27] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "repeatable read"),
    (DEFAULT_READ_ONLY, "off"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "on"),
    ("lc_collate", "C"),
    ("lc_messages", "C"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    (MAX_STALENESS, "0"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "150000"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    (SYNCHRONOUS, "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "repeatable read"),
    (TRANSACTION_READ_ONLY, "off"),
];

/// Whether a transaction may change anything, and whether those may that do not say.
const TRANSACTION_READ_ONLY: &str = "transaction_read_only";
const DEFAULT_READ_ONLY: &str = "default_transaction_read_only";

/// How old what is read may be, where nothing is changed; 0: it has all that was acknowledged.
const MAX_STALENESS: &str = "proteus.max_staleness";

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
        let set = |name: &str| self.local.get(name).or_else(|| self.set.get(name));
        let default = || if name == TRANSACTION_READ_ONLY { set(DEFAULT_READ_ONLY) } else { None };
        let set = set(&name).or_else(default);
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

    /// Whether the transaction under way, or the next, may change nothing.
    pub fn is_read_only(&self) -> bool {
        self.get(TRANSACTION_READ_ONLY).as_deref() == Some("on")
    }

    /// Whether setting this would let a transaction change something that so far may not.
    pub fn lets_change(&self, name: &str, value: &str) -> bool {
        name == TRANSACTION_READ_ONLY && self.is_read_only() && boolean(value) == Some("off")
    }

    /// How old what is read may be, where nothing is changed; `None` if it must not lack anything.
    pub fn max_staleness(&self) -> Option<Duration> {
        let set = self.local.get(MAX_STALENESS).or_else(|| self.set.get(MAX_STALENESS))?;
        duration(set).filter(|staleness| !staleness.is_zero())
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
            return match (boolean(value), lower.as_str()) {
                (Some(value), _) => Ok(value.to_owned()),
                // As on a single server.
                (None, "local" | "remote_write" | "remote_apply") => Ok(lower),
                _ => Err(invalid(name, value)),
            };
        }
        DEFAULT_READ_ONLY | TRANSACTION_READ_ONLY => {
            let message = format!("parameter \"{name}\" requires a Boolean value");
            let refused = || SqlError::new(sqlstate::INVALID_PARAMETER, message);
            return boolean(value).map(str::to_owned).ok_or_else(refused);
        }
        MAX_STALENESS => {
            let units = "Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\".";
            let refused = || invalid(name, value).hint(units);
            return duration(value).map(|_| lower.trim().to_owned()).ok_or_else(refused);
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

/// As PostgreSQL reads a truth value.
fn boolean(value: &str) -> Option<&'static str> {
    match value.to_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some("on"),
        "off" | "false" | "no" | "0" | "f" | "n" => Some("off"),
        _ => None,
    }
}

/// A time as PostgreSQL reads one that is in milliseconds unless it says otherwise.
fn duration(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at_checked(digits)?;
    let us_each = match unit.trim().to_lowercase().as_str() {
        "us" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    Some(Duration::from_micros(number.parse::<u64>().ok()?.checked_mul(us_each)?))
}

fn invalid(name: &str, value: &str) -> SqlError {
    let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
    SqlError::new(sqlstate::INVALID_PARAMETER, message)
}

/// Whether a SET statement holds for the transaction alone.
pub fn is_local(set: &ast::Set) -> bool {
    match set {
        ast::Set::SingleAssignment { scope, .. } => {
            matches!(scope, Some(ast::ContextModifier::Local))
        }
        ast::Set::SetTransaction { session, .. } => !session,
        _ => false,
    }
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
        ast::Set::SetTransaction { modes, session, .. } => {
            let name = if *session { DEFAULT_READ_ONLY } else { TRANSACTION_READ_ONLY };
            let read_only = is_read_only(modes)?;
            Ok(read_only.map(|on| (name.to_owned(), on.to_owned())).into_iter().collect())
        }
        ast::Set::SetSessionAuthorization(_) | ast::Set::SetRole { .. } => Ok(Vec::new()),
        other => Err(SqlError::unsupported(other)),
    }
}

/// Makes the settings of a transaction that begins what the modes of its BEGIN say.
///
/// # Errors
/// 0A000 for SERIALIZABLE.
pub fn begin(settings: &mut Settings, modes: &[ast::TransactionMode]) -> Result<(), SqlError> {
    match is_read_only(modes)? {
        Some(value) => settings.set_local(TRANSACTION_READ_ONLY, value),
        None => Ok(()),
    }
}

/// Whether a transaction that begins with these modes will change nothing.
pub fn begins_reading(settings: &Settings, modes: &[ast::TransactionMode]) -> bool {
    match is_read_only(modes) {
        Ok(Some(value)) => value == "on",
        _ => settings.is_read_only(),
    }
}

/// Reads the modes of BEGIN and SET TRANSACTION.
fn is_read_only(modes: &[ast::TransactionMode]) -> Result<Option<&'static str>, SqlError> {
    use ast::TransactionAccessMode::{ReadOnly, ReadWrite};
    let mut is_read_only = None;
    for mode in modes {
        match mode {
            ast::TransactionMode::AccessMode(ReadOnly) => is_read_only = Some("on"),
            ast::TransactionMode::AccessMode(ReadWrite) => is_read_only = Some("off"),
            ast::TransactionMode::IsolationLevel(_) => {}
        }
        if *mode
            == ast::TransactionMode::IsolationLevel(ast::TransactionIsolationLevel::Serializable)
        {
            return Err(SqlError::unsupported("isolation level serializable")
                .hint("Transactions have snapshot isolation, PostgreSQL's REPEATABLE READ."));
        }
    }
    Ok(is_read_only)
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

    #[test]
    fn staleness_is_a_time_as_postgresql_writes_it() {
        let mut settings = Settings::default();
        assert_eq!(settings.max_staleness(), None);
        for (value, ms) in [("250", 250), ("2s", 2000), (" 1 min ", 60_000), ("1500ms", 1500)] {
            settings.set("proteus.max_staleness", value).unwrap();
            assert_eq!(settings.max_staleness(), Some(Duration::from_millis(ms)), "{value}");
        }
        for value in ["", "soon", "-1", "1.5s", "3w", "99999999999999999999", "9999999999999999d"] {
            let refused = settings.set("proteus.max_staleness", value).unwrap_err();
            assert_eq!(refused.code, "22023", "{value}");
        }
        settings.set_local("Proteus.Max_Staleness", "0").unwrap();
        assert_eq!(settings.max_staleness(), None, "nothing is to be missing");
    }

    #[test]
    fn a_transaction_reads_only_if_it_or_the_session_says_so() {
        let mut settings = Settings::default();
        assert!(!settings.is_read_only());
        settings.set("default_transaction_read_only", "true").unwrap();
        assert_eq!(settings.get("transaction_read_only").unwrap(), "on");
        assert!(settings.is_read_only() && settings.lets_change("transaction_read_only", "no"));
        settings.set_local("transaction_read_only", "off").unwrap();
        assert!(!settings.is_read_only());
        settings.end_local();
        assert!(settings.is_read_only());
        assert_eq!(settings.set("transaction_read_only", "maybe").unwrap_err().code, "22023");
    }
}
