//! Why the registry does not do what it is asked, in the codes of Confluent's.

use proteus_kernel_api::KernelError;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// Confluent's code: the status of HTTP, and two digits more where there are several.
    pub code: u32,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Problem {
    /// One with this code.
    pub fn new(code: u32, message: impl Into<String>) -> Problem {
        Problem { code, message: message.into() }
    }

    /// No such subject.
    pub fn subject_not_found(subject: &str) -> Problem {
        Problem::new(40401, format!("Subject '{subject}' not found."))
    }

    /// No such version.
    pub fn version_not_found(version: &str) -> Problem {
        Problem::new(40402, format!("Version {version} not found."))
    }

    /// No such schema.
    pub fn schema_not_found() -> Problem {
        Problem::new(40403, "Schema not found")
    }

    /// It is none.
    pub fn invalid_schema(reason: impl std::fmt::Display) -> Problem {
        Problem::new(42201, format!("Invalid schema: {reason}"))
    }

    /// The status of HTTP.
    pub fn status(&self) -> u16 {
        let status = if self.code >= 1000 { self.code / 100 } else { self.code };
        u16::try_from(status).unwrap_or(500)
    }
}

impl From<KernelError> for Problem {
    fn from(error: KernelError) -> Problem {
        Problem::new(50001, format!("Error in the backend data store: {error}"))
    }
}
