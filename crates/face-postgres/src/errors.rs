//! Errors as ErrorResponse and NoticeResponse.
//!
//! The kernel's errors and refusals get their SQLSTATE where statements are run, in `proteus-sql`;
//! here they only become fields.

use bytes::{BufMut, BytesMut};
use proteus_sql::SqlError;

use crate::wire::{put_message, put_string};

/// Appends an ErrorResponse.
pub fn put_error(into: &mut BytesMut, error: &SqlError) {
    put_fields(into, b'E', "ERROR", error);
}

/// Appends an ErrorResponse after which the connection ends.
pub fn put_fatal(into: &mut BytesMut, code: &'static str, message: &str) {
    put_fields(into, b'E', "FATAL", &SqlError::new(code, message));
}

/// Appends a NoticeResponse.
pub fn put_notice(into: &mut BytesMut, notice: &SqlError) {
    let severity = if notice.code.starts_with("25") { "WARNING" } else { "NOTICE" };
    put_fields(into, b'N', severity, notice);
}

fn put_fields(into: &mut BytesMut, kind: u8, severity: &str, error: &SqlError) {
    put_message(into, kind, |into| {
        let mut field = |kind: u8, text: &str| {
            into.put_u8(kind);
            put_string(into, text);
        };
        field(b'S', severity);
        field(b'V', severity);
        field(b'C', error.code);
        field(b'M', &error.message);
        if let Some(detail) = &error.detail {
            field(b'D', detail);
        }
        if let Some(hint) = &error.hint {
            field(b'H', hint);
        }
        into.put_u8(0);
    });
}
