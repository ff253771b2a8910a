//! Who may do what with a znode, and who asks.
//!
//! An ACL is checked where the change is applied, so that it cannot be outrun by a change of the ACL.
//! Who a client is (its identities) was found out by its face and travels in the op.
//!
//! Source: ZooKeeper 3.9, `ZooKeeperServer.checkACL`, `IPAuthenticationProvider`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bits of what an entry of an ACL permits.
pub mod permission {
    /// To read data and list children.
    pub const READ: i32 = 1;
    /// To set data.
    pub const WRITE: i32 = 2;
    /// To create children.
    pub const CREATE: i32 = 4;
    /// To delete children.
    pub const DELETE: i32 = 8;
    /// To set the ACL.
    pub const ADMIN: i32 = 16;
    /// All of them.
    pub const ALL: i32 = 31;
}

/// The scheme of a client that may do everything.
pub const SUPER: &str = "super";

/// One entry of an ACL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclEntry {
    /// What it permits: bits of [`permission`].
    pub permissions: i32,
    /// How `id` is proven: `world`, `ip`, `digest`, `x509`, `sasl`.
    pub scheme: String,
    /// To whom it is permitted.
    pub id: String,
}

impl AclEntry {
    /// Everyone may do everything: ZooKeeper's `OPEN_ACL_UNSAFE`.
    pub fn open() -> AclEntry {
        AclEntry {
            permissions: permission::ALL,
            scheme: "world".to_owned(),
            id: "anyone".to_owned(),
        }
    }

    fn is_open(&self) -> bool {
        self.permissions == permission::ALL && self.is_for_anyone()
    }

    fn is_for_anyone(&self) -> bool {
        self.scheme == "world" && self.id == "anyone"
    }

    fn matches(&self, (scheme, id): (&str, &str)) -> bool {
        if self.scheme != scheme {
            return false;
        }
        match scheme {
            "ip" => is_address_in(id, &self.id),
            _ => self.id == id,
        }
    }
}

/// A znode's ACL. Most are open to everyone, which takes no memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acl(Option<Arc<[AclEntry]>>);

impl Acl {
    /// Everyone may do everything.
    pub const OPEN: Acl = Acl(None);

    /// An ACL of these entries. Without any it is open, as in ZooKeeper, whose clients cannot set one
    /// without entries.
    pub fn new(entries: Vec<AclEntry>) -> Acl {
        match entries.as_slice() {
            [] => Acl(None),
            [only] if only.is_open() => Acl(None),
            _ => Acl(Some(entries.into())),
        }
    }

    /// Whether everyone may do everything.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Its entries, in the order in which they were set.
    pub fn entries(&self) -> Vec<AclEntry> {
        match &self.0 {
            None => vec![AclEntry::open()],
            Some(entries) => entries.to_vec(),
        }
    }

    /// Whether one of the permissions `needed` is given to `by`.
    pub fn permits(&self, needed: i32, by: &Credentials) -> bool {
        let (Some(entries), Some(_)) = (&self.0, &by.0) else {
            return true;
        };
        let mut granting = entries.iter().filter(|entry| entry.permissions & needed != 0);
        by.identities().any(|(scheme, _)| scheme == SUPER)
            || granting.any(|entry| {
                entry.is_for_anyone() || by.identities().any(|identity| entry.matches(identity))
            })
    }
}

impl Serialize for Acl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_deref().unwrap_or_default().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Acl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Acl, D::Error> {
        Vec::deserialize(deserializer).map(Acl::new)
    }
}

/// Something that a client has proven to be.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// How it was proven.
    pub scheme: String,
    /// What was proven: for `digest` the name and a hash, for `ip` the address.
    pub id: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A digest can be tried against lists of passwords.
        let shown = self.id.split(':').next().unwrap_or_default();
        let shown = if self.scheme == "digest" { shown } else { &self.id };
        write!(f, "{}:{shown}", self.scheme)
    }
}

/// Who asks. Clones share the identities.
///
/// Every change of a client carries them into the log and out of it, and nearly every znode is open
/// to everyone: so they stay in the bytes in which they travel, and are taken apart only where an ACL
/// asks for them. The bytes are `scheme` and `id` of each identity, each with its length before it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials(Option<Bytes>);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owned =
            |(scheme, id): (&str, &str)| Identity { scheme: scheme.to_owned(), id: id.to_owned() };
        match &self.0 {
            None => f.write_str("trusted"),
            Some(_) => f.debug_list().entries(self.identities().map(owned)).finish(),
        }
    }
}

impl Credentials {
    /// The node itself, which no ACL holds back: procedures of other faces, expiry.
    pub const TRUSTED: Credentials = Credentials(None);

    /// A client with these identities; with none it is nobody in particular.
    pub fn of(identities: &[Identity]) -> Credentials {
        let encoded = identities.iter().fold(Vec::new(), |bytes, identity| {
            // Encoding plain data into a growing buffer has no way to fail.
            postcard::to_extend(identity, bytes).expect("plain data encodes")
        });
        Credentials(Some(encoded.into()))
    }

    /// Scheme and id of each identity; none for the node itself.
    pub fn identities(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.0.as_deref().unwrap_or_default();
        std::iter::from_fn(move || {
            // Bytes that nobody here wrote prove nothing.
            let (identity, after) = postcard::take_from_bytes(rest).ok()?;
            rest = after;
            Some(identity)
        })
    }
}

/// Whether `address` lies in the network `expression`: an address, perhaps with `/` and the number of
/// leading bits that count.
fn is_address_in(address: &str, expression: &str) -> bool {
    let Some((network, bits)) = parse_network(expression) else {
        return false;
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differing = u32::from(address) ^ u32::from(network);
            differing.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differing = u128::from(address) ^ u128::from(network);
            differing.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// The network that an `ip` entry names, and how many leading bits count; `None` if it names none.
pub fn parse_network(expression: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = match expression.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (expression, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => bits.parse().ok().filter(|bits| *bits <= bits_max)?,
        None => bits_max,
    };
    Some((address, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(permissions: i32, scheme: &str, id: &str) -> AclEntry {
        AclEntry { permissions, scheme: scheme.to_owned(), id: id.to_owned() }
    }

    fn who(identities: &[(&str, &str)]) -> Credentials {
        let identity = |(scheme, id): &(&str, &str)| Identity {
            scheme: (*scheme).to_owned(),
            id: (*id).to_owned(),
        };
        Credentials::of(&identities.iter().map(identity).collect::<Vec<_>>())
    }

    #[test]
    fn an_entry_permits_its_bits_to_whom_it_names() {
        let acl = Acl::new(vec![
            entry(permission::READ, "world", "anyone"),
            entry(permission::WRITE, "digest", "ann:hash"),
            entry(permission::CREATE, "ip", "10.1.0.0/16"),
        ]);
        let (nobody, ann) = (who(&[]), who(&[("ip", "1.2.3.4"), ("digest", "ann:hash")]));
        assert!(acl.permits(permission::READ, &nobody));
        assert!(!acl.permits(permission::WRITE, &nobody));
        assert!(acl.permits(permission::WRITE, &ann));
        assert!(
            acl.permits(permission::READ | permission::ADMIN, &nobody),
            "one of them is enough"
        );
        assert!(!acl.permits(permission::CREATE, &ann));
        assert!(acl.permits(permission::CREATE, &who(&[("ip", "10.1.2.3")])));
        assert!(!acl.permits(permission::CREATE, &who(&[("digest", "10.1.2.3")])));
        for all_powerful in [who(&[(SUPER, "")]), Credentials::TRUSTED] {
            assert!(acl.permits(permission::ADMIN, &all_powerful));
        }
    }

    #[test]
    fn networks_are_matched_by_their_leading_bits() {
        for (address, expression, expected) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.2", "10.0.0.1", false),
            ("10.0.0.2", "10.0.0.1/0", true),
            ("10.0.0.130", "10.0.0.129/25", true),
            ("10.0.0.1", "10.0.0.129/25", false),
            ("::1", "::1", true),
            ("fe80::1", "fe80::/10", true),
            ("ff80::1", "fe80::/10", false),
            ("10.0.0.1", "::/0", false),
            ("10.0.0.1", "10.0.0.1/33", false),
            ("10.0.0.1", "nonsense", false),
        ] {
            assert_eq!(is_address_in(address, expression), expected, "{address} {expression}");
        }
    }

    #[test]
    fn an_acl_open_to_everyone_has_one_form() {
        assert!(Acl::new(Vec::new()).is_open());
        assert_eq!(Acl::new(vec![AclEntry::open()]), Acl::OPEN);
        assert_eq!(Acl::OPEN.entries(), [AclEntry::open()]);
        assert!(!Acl::new(vec![AclEntry::open(), AclEntry::open()]).is_open());
    }
}
