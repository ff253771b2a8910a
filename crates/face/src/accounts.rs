//! Who may connect: one store for all faces.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Names and passwords. Empty means open: everyone is admitted, as on a laptop.
#[derive(Clone, Default)]
pub struct Accounts {
    passwords: BTreeMap<String, String>,
    stored: Option<Arc<StoredAccounts>>,
}

/// What the cluster's own store says of a user and a password: nothing of a user whom it does not know.
pub type StoredAccounts = dyn Fn(&str, &[u8]) -> Option<Result<(), WrongPassword>> + Send + Sync;

/// The name is unknown or the password is not its own; which of them is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("wrong user name or password")]
pub struct WrongPassword;

impl Accounts {
    /// Accounts from names and passwords.
    pub fn new(passwords: BTreeMap<String, String>) -> Accounts {
        Accounts { passwords, stored: None }
    }

    /// The same, over users that the cluster itself keeps: what those are said to be comes first.
    #[must_use]
    pub fn with_stored(mut self, stored: Arc<StoredAccounts>) -> Accounts {
        self.stored = Some(stored);
        self
    }

    /// True when everyone is admitted without a password.
    pub fn is_open(&self) -> bool {
        self.passwords.is_empty()
    }

    /// Names of all users.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.passwords.keys().map(String::as_str)
    }

    /// The password of `user`, for mechanisms that prove it instead of sending it.
    pub fn password(&self, user: &str) -> Option<&[u8]> {
        self.passwords.get(user).map(String::as_bytes)
    }

    /// Admits `user` with `password`. Takes the same time wherever the first wrong byte stands.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn verify(&self, user: &str, password: &[u8]) -> Result<(), WrongPassword> {
        if self.is_open() {
            return Ok(());
        }
        if let Some(verdict) = self.stored.as_ref().and_then(|stored| stored(user, password)) {
            return verdict;
        }
        let expected = self.passwords.get(user).ok_or(WrongPassword)?.as_bytes();
        let differing = expected.len() ^ password.len();
        let differing = expected
            .iter()
            .zip(password)
            .fold(differing, |differing, (a, b)| differing | usize::from(a ^ b));
        if differing == 0 { Ok(()) } else { Err(WrongPassword) }
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("users", &self.passwords.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_password_admits() {
        let accounts = Accounts::new(BTreeMap::from([("ann".to_owned(), "secret".to_owned())]));
        assert_eq!(accounts.verify("ann", b"secret"), Ok(()));
        for (user, password) in
            [("ann", "secreT"), ("ann", ""), ("ann", "secret1"), ("bob", "secret")]
        {
            assert_eq!(accounts.verify(user, password.as_bytes()), Err(WrongPassword));
        }
        assert!(!format!("{accounts:?}").contains("secret"));
    }

    #[test]
    fn what_the_cluster_keeps_comes_first() {
        let stored = |user: &str, password: &[u8]| match user {
            "ann" | "eve" if password == b"new" => Some(Ok(())),
            "ann" | "eve" => Some(Err(WrongPassword)),
            _ => None,
        };
        let passwords = [("ann", "old"), ("bob", "secret")];
        let passwords = passwords.map(|(name, word)| (name.to_owned(), word.to_owned()));
        let accounts = Accounts::new(passwords.into()).with_stored(Arc::new(stored));
        assert_eq!(accounts.verify("ann", b"new"), Ok(()));
        assert_eq!(accounts.verify("ann", b"old"), Err(WrongPassword));
        assert_eq!(accounts.verify("eve", b"new"), Ok(()));
        assert_eq!(accounts.verify("bob", b"secret"), Ok(()));
    }

    #[test]
    fn without_accounts_everyone_is_admitted() {
        assert_eq!(Accounts::default().verify("anyone", b""), Ok(()));
    }
}
