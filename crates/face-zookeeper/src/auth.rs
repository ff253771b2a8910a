//! Who a client is, and which ACLs it may set.
//!
//! Source: ZooKeeper 3.9, `DigestAuthenticationProvider`, `PrepRequestProcessor.fixupACL`.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proteus_kernel_api::tree::{Acl, AclEntry, Credentials, Identity, acl};
use sha1::{Digest, Sha1};

use crate::errors::ErrorCode;

/// Most identities of one connection. Each is part of every change that the client asks for.
const IDENTITIES_MAX: usize = 64;

/// What a connection has proven.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    identities: Vec<Identity>,
    /// The same, as it travels.
    credentials: Credentials,
}

impl Access {
    /// A connection from `address`, with the subject of its certificate, if it showed one.
    pub(crate) fn of(address: IpAddr, certificate_subject: Option<&str>) -> Access {
        let address = address.to_canonical().to_string();
        let mut identities = vec![Identity { scheme: "ip".to_owned(), id: address }];
        if let Some(subject) = certificate_subject {
            identities.push(Identity { scheme: "x509".to_owned(), id: subject.to_owned() });
        }
        let credentials = Credentials::of(&identities);
        Access { identities, credentials }
    }

    /// All of it, to travel with what the client asks for.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Notes what else was proven. False if it is too much.
    pub(crate) fn add(&mut self, scheme: &str, id: String) -> bool {
        let identity = Identity { scheme: scheme.to_owned(), id };
        if self.identities.contains(&identity) {
            return true;
        }
        if self.identities.len() >= IDENTITIES_MAX {
            return false;
        }
        self.identities.push(identity);
        self.credentials = Credentials::of(&self.identities);
        true
    }

    /// Scheme and user of each identity, as `whoAmI` tells them.
    pub(crate) fn users(&self) -> impl Iterator<Item = (&str, &str)> {
        self.identities.iter().map(|identity| {
            let user = match identity.scheme.as_str() {
                "digest" => identity.id.split(':').next().unwrap_or_default(),
                _ => &identity.id,
            };
            (identity.scheme.as_str(), user)
        })
    }

    /// The ACL that a client asks for, with `auth` replaced by what it has proven.
    pub(crate) fn fix_up(&self, asked: Vec<AclEntry>) -> Result<Acl, ErrorCode> {
        let mut entries: Vec<AclEntry> = Vec::with_capacity(asked.len());
        let mut seen: Vec<AclEntry> = Vec::with_capacity(asked.len());
        for entry in asked {
            if seen.contains(&entry) {
                continue;
            }
            seen.push(entry.clone());
            if entry.scheme == "auth" {
                let before = entries.len();
                entries.extend(self.proven().map(|identity| AclEntry {
                    permissions: entry.permissions,
                    scheme: identity.scheme.clone(),
                    id: identity.id.clone(),
                }));
                if entries.len() == before {
                    return Err(ErrorCode::INVALID_ACL);
                }
            } else if is_valid(&entry) {
                entries.push(entry);
            } else {
                return Err(ErrorCode::INVALID_ACL);
            }
        }
        if entries.is_empty() { Err(ErrorCode::INVALID_ACL) } else { Ok(Acl::new(entries)) }
    }

    /// Identities that the scheme `auth` stands for: an address proves nothing.
    fn proven(&self) -> impl Iterator<Item = &Identity> {
        self.identities
            .iter()
            .filter(|identity| matches!(identity.scheme.as_str(), "digest" | "x509" | "sasl"))
    }
}

fn is_valid(entry: &AclEntry) -> bool {
    match entry.scheme.as_str() {
        "world" => entry.id == "anyone",
        "ip" => acl::parse_network(&entry.id).is_some(),
        "digest" => {
            let mut parts = entry.id.trim_end_matches(':').split(':');
            parts.next().is_some() && parts.next().is_some() && parts.next().is_none()
        }
        // A distinguished name: attributes and values.
        "x509" => entry.id.split(',').all(|part| part.contains('=')),
        "sasl" => !entry.id.is_empty(),
        _ => false,
    }
}

/// The id that scheme `digest` makes of `user:password`: the user, and a hash of both.
pub(crate) fn digest(user_and_password: &[u8]) -> String {
    let user = user_and_password.split(|byte| *byte == b':').next().unwrap_or_default();
    let hash = STANDARD.encode(Sha1::digest(user_and_password));
    format!("{}:{hash}", String::from_utf8_lossy(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(scheme: &str, id: &str) -> AclEntry {
        AclEntry { permissions: 31, scheme: scheme.to_owned(), id: id.to_owned() }
    }

    fn access() -> Access {
        Access::of(IpAddr::from([10, 0, 0, 1]), None)
    }

    #[test]
    fn digests_are_zookeepers() {
        // As `DigestAuthenticationProvider.main` prints it.
        assert_eq!(digest(b"super:test"), "super:D/InIHSb7yEEbrWz8b9l71RjZJU=");
    }

    #[test]
    fn auth_stands_for_what_was_proven() {
        let mut access = access();
        assert_eq!(access.fix_up(vec![entry("auth", "")]), Err(ErrorCode::INVALID_ACL));
        assert!(access.add("digest", "ann:x".to_owned()));
        assert!(access.add("digest", "ann:x".to_owned()), "once more is no more");
        let acl = access.fix_up(vec![entry("auth", "ignored")]).expect("proven");
        assert_eq!(acl.entries(), [entry("digest", "ann:x")]);
        let users: Vec<_> = access.users().collect();
        assert_eq!(users, [("ip", "10.0.0.1"), ("digest", "ann")]);
    }

    #[test]
    fn only_acls_that_can_be_enforced_are_accepted() {
        let access = access();
        for (scheme, id) in [
            ("world", "anyone"),
            ("ip", "10.0.0.0/8"),
            ("digest", "a:b"),
            ("x509", "CN=ann,O=us"),
            ("sasl", "ann"),
        ] {
            assert!(access.fix_up(vec![entry(scheme, id)]).is_ok(), "{scheme}:{id}");
        }
        for (scheme, id) in [
            ("world", "all"),
            ("ip", "10.0.0.0/33"),
            ("ip", "here"),
            ("digest", "a"),
            ("digest", "a:"),
            ("digest", "a:b:c"),
            ("x509", "ann"),
            ("host", "here"),
            ("super", ""),
        ] {
            assert_eq!(access.fix_up(vec![entry(scheme, id)]), Err(ErrorCode::INVALID_ACL), "{id}");
        }
        assert_eq!(access.fix_up(Vec::new()), Err(ErrorCode::INVALID_ACL));
        let twice = vec![entry("digest", "a:b"), entry("digest", "a:b")];
        assert_eq!(access.fix_up(twice).expect("valid").entries().len(), 1);
    }
}
