//! Errors in Redis' own words.

use std::borrow::Cow;

use proteus_kernel_api::KernelError;
use proteus_kernel_api::cache::Reply;

pub(crate) const SYNTAX: Reply = Reply::error("ERR syntax error");
pub(crate) const NOT_AN_INTEGER: Reply =
    Reply::error("ERR value is not an integer or out of range");
pub(crate) const NOAUTH: Reply = Reply::error("NOAUTH Authentication required.");
pub(crate) const WRONGPASS: Reply =
    Reply::error("WRONGPASS invalid username-password pair or user is disabled.");
pub(crate) const NO_PASSWORD_SET: Reply = Reply::error(
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
);
pub(crate) const OOM: Reply =
    Reply::error("OOM command not allowed when used memory > 'maxmemory'.");
pub(crate) const READONLY: Reply =
    Reply::error("READONLY You can't write against a read only replica.");
pub(crate) const NOPROTO: Reply = Reply::error("NOPROTO unsupported protocol version");
pub(crate) const DB_OUT_OF_RANGE: Reply = Reply::error("ERR DB index is out of range");
pub(crate) const NESTED_MULTI: Reply = Reply::error("ERR MULTI calls can not be nested");
pub(crate) const EXEC_WITHOUT_MULTI: Reply = Reply::error("ERR EXEC without MULTI");
pub(crate) const DISCARD_WITHOUT_MULTI: Reply = Reply::error("ERR DISCARD without MULTI");
pub(crate) const WATCH_IN_MULTI: Reply = Reply::error("ERR WATCH inside MULTI is not allowed");
pub(crate) const EXECABORT: Reply =
    Reply::error("EXECABORT Transaction discarded because of previous errors.");

pub(crate) fn wrong_arity(name: &str) -> Reply {
    Reply::Error(format!("ERR wrong number of arguments for '{name}' command").into())
}

pub(crate) fn unknown_subcommand(command: &str, word: &[u8]) -> Reply {
    let word = proteus_kernel_api::cache::commands::shortened(word, 128);
    Reply::Error(
        format!("ERR unknown subcommand '{word}'. Try {} HELP.", command.to_uppercase()).into(),
    )
}

/// What the kernel could not do, as an error reply.
pub(crate) fn of_kernel(error: &KernelError) -> Reply {
    let text = error.to_string().replace(['\r', '\n'], " ");
    let text: Cow<'static, str> = match error {
        // The code with which Redis refuses writes that its disk cannot take.
        KernelError::DiskFull(_) => format!("MISCONF {text}").into(),
        KernelError::TooLarge { .. } => format!("ERR {text}").into(),
        KernelError::Overloaded(_) => format!("BUSY {text}").into(),
        KernelError::Unavailable(_) => format!("TRYAGAIN {text}").into(),
        KernelError::Stopped(_) => format!("CLUSTERDOWN {text}").into(),
    };
    Reply::Error(text)
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
            let Reply::Error(text) = of_kernel(&error) else { panic!("no error") };
            let code = text.split(' ').next().unwrap();
            assert!(code.chars().all(|c| c.is_ascii_uppercase()), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
    }
}
