//! Errors in Redis' own words.

use std::borrow::Cow;

use proteus_kernel_api::KernelError;
use proteus_kernel_api::cache::CommandError;

/// An error reply without its leading minus: a code in capitals, a space, a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedisError(pub(crate) Cow<'static, str>);

pub(crate) const SYNTAX: RedisError = fixed("ERR syntax error");
pub(crate) const NOT_AN_INTEGER: RedisError = fixed("ERR value is not an integer or out of range");
pub(crate) const NOAUTH: RedisError = fixed("NOAUTH Authentication required.");
pub(crate) const WRONGPASS: RedisError =
    fixed("WRONGPASS invalid username-password pair or user is disabled.");
pub(crate) const NO_PASSWORD_SET: RedisError = fixed(
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
);
pub(crate) const NOPROTO: RedisError = fixed("NOPROTO unsupported protocol version");
pub(crate) const DB_OUT_OF_RANGE: RedisError = fixed("ERR DB index is out of range");
pub(crate) const NESTED_MULTI: RedisError = fixed("ERR MULTI calls can not be nested");
pub(crate) const EXEC_WITHOUT_MULTI: RedisError = fixed("ERR EXEC without MULTI");
pub(crate) const DISCARD_WITHOUT_MULTI: RedisError = fixed("ERR DISCARD without MULTI");
pub(crate) const WATCH_IN_MULTI: RedisError = fixed("ERR WATCH inside MULTI is not allowed");
pub(crate) const EXECABORT: RedisError =
    fixed("EXECABORT Transaction discarded because of previous errors.");

pub(crate) const fn fixed(text: &'static str) -> RedisError {
    RedisError(Cow::Borrowed(text))
}

impl RedisError {
    pub(crate) fn unknown_command(name: &[u8], arguments: &[bytes::Bytes]) -> RedisError {
        let name = shortened(name, 128);
        let mut list = String::new();
        for argument in arguments {
            if list.len() >= 128 {
                break;
            }
            list.push('\'');
            list.push_str(&shortened(argument, 128 - list.len()));
            list.push_str("' ");
        }
        RedisError(format!("ERR unknown command '{name}', with args beginning with: {list}").into())
    }

    pub(crate) fn unknown_subcommand(command: &str, subcommand: &[u8]) -> RedisError {
        let subcommand = shortened(subcommand, 128);
        RedisError(
            format!("ERR unknown subcommand '{subcommand}'. Try {} HELP.", command.to_uppercase())
                .into(),
        )
    }

    pub(crate) fn arity(name: &str) -> RedisError {
        RedisError(format!("ERR wrong number of arguments for '{name}' command").into())
    }

    pub(crate) fn invalid_expire(name: &str) -> RedisError {
        RedisError(format!("ERR invalid expire time in '{name}' command").into())
    }
}

/// A peer's bytes made fit for an error line: no line breaks, bounded.
fn shortened(bytes: &[u8], bytes_max: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(bytes_max)]);
    text.chars().map(|c| if c == '\r' || c == '\n' { ' ' } else { c }).collect()
}

impl From<CommandError> for RedisError {
    fn from(error: CommandError) -> RedisError {
        match error {
            CommandError::WrongType => {
                fixed("WRONGTYPE Operation against a key holding the wrong kind of value")
            }
            CommandError::NotAnInteger => NOT_AN_INTEGER,
            CommandError::HashValueNotAnInteger => fixed("ERR hash value is not an integer"),
            CommandError::Overflow => fixed("ERR increment or decrement would overflow"),
            CommandError::TooLong => {
                fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
            }
        }
    }
}

impl From<KernelError> for RedisError {
    fn from(error: KernelError) -> RedisError {
        let text = error.to_string().replace(['\r', '\n'], " ");
        RedisError(match error {
            // The code with which Redis refuses writes that its disk cannot take.
            KernelError::DiskFull(_) => format!("MISCONF {text}").into(),
            KernelError::TooLarge { .. } => format!("ERR {text}").into(),
            KernelError::Overloaded(_) => format!("BUSY {text}").into(),
            KernelError::Unavailable(_) => format!("TRYAGAIN {text}").into(),
            KernelError::Stopped(_) => format!("CLUSTERDOWN {text}").into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_error_is_one_line_with_a_code() {
        let errors = [
            KernelError::DiskFull("a\nb".to_owned()),
            KernelError::TooLarge { bytes: 1, bytes_max: 0 },
            KernelError::Overloaded(String::new()),
            KernelError::Unavailable(String::new()),
            KernelError::Stopped(String::new()),
        ];
        for error in errors {
            let RedisError(text) = error.into();
            let code = text.split(' ').next().unwrap();
            assert!(code.chars().all(|c| c.is_ascii_uppercase()), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn unknown_command_quotes_no_line_break() {
        let RedisError(text) = RedisError::unknown_command(b"FOO\r\nBAR", &[]);
        assert!(!text.contains('\r'));
    }
}
