//! Requests and replies as lines of text.

use super::wire::{Client, Reply};

pub fn ask(client: &mut Client, line: &str) -> Reply {
    let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    client.ask(&words)
}

pub fn text(client: &mut Client, line: &str) -> String {
    match ask(client, line) {
        Reply::Status(text) | Reply::Error(text) => text,
        Reply::Integer(number) => number.to_string(),
        Reply::Bulk(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Reply::Nil | Reply::NilArray => "(nil)".to_owned(),
        Reply::Array(items) => format!("{items:?}"),
    }
}
