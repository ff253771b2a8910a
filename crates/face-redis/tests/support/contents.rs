//! All that a server has, to be compared with another's.

use std::collections::BTreeMap;

use super::support::wire::{Client, Reply};

/// Database and key, with value and time of expiry.
pub type Contents = BTreeMap<(u8, Vec<u8>), (Vec<u8>, i64)>;

pub fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// All keys of a server.
pub fn contents(client: &mut Client, databases: u8) -> Contents {
    let mut all = Contents::new();
    for db in 0..databases {
        client.ask(&words(&format!("SELECT {db}")));
        let Reply::Array(keys) = client.ask(&words("KEYS *")) else { panic!("no keys") };
        for key in keys {
            let Reply::Bulk(key) = key else { panic!("{key:?} is no key") };
            let dumped = client.ask(&[b"DUMP".to_vec(), key.clone()]);
            let at_ms = client.ask(&[b"PEXPIRETIME".to_vec(), key.clone()]);
            if let (Reply::Bulk(dumped), Reply::Integer(at_ms)) = (dumped, at_ms) {
                all.insert((db, key), (dumped, at_ms));
            }
        }
    }
    client.ask(&words("SELECT 0"));
    all
}

#[track_caller]
pub fn assert_equal(one: &Contents, other: &Contents) {
    let differs = |key: &&(u8, Vec<u8>)| one.get(key) != other.get(key);
    let differing: Vec<_> = one.keys().chain(other.keys()).filter(differs).take(3).collect();
    assert!(differing.is_empty(), "{differing:?} differ");
}
