//! Proving to each other that both know the cluster's secret, without telling it.
//!
//! ```text
//! dialer   magic │ version min u16 │ version max u16 │ nonce 32
//! acceptor magic │ version u16, 0 if none is common  │ nonce 32 │ proof 32
//! dialer   proof 32
//! proof = HMAC-SHA256(secret, role │ both nonces │ version)
//! ```
//! Each side's proof covers the other's fresh nonce, so that none can be used twice.

use std::fmt;
use std::io;

use hmac::{Hmac, Mac};
use proteus_env::random::random_bytes;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: &[u8; 8] = b"PRTSPEER";

/// Versions of the messages between nodes that a binary speaks, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versions {
    min: u16,
    max: u16,
}

/// Those of this binary. A later one raises the maximum first, and the minimum only when no node of the
/// older version is left: so nodes of a version and the next can be in one cluster.
pub(crate) const VERSIONS: Versions = Versions { min: 1, max: 1 };

const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;

/// What only the nodes of one cluster know.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// A secret of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(bytes.into())
    }

    fn mac(&self, role: &[u8], nonces: [&[u8; NONCE_BYTES]; 2], version: u16) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        for part in [role, nonces[0], nonces[1], &version.to_le_bytes()] {
            mac.update(part);
        }
        mac
    }
}

/// Why the other side was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// It speaks something else.
    #[error("the other side is no node of Proteus")]
    Stranger,
    /// It speaks other versions only.
    #[error(
        "no common version: the other side speaks {min} to {max}, this binary {own_min} to {own_max}; upgrade the older one"
    )]
    Version {
        /// Its lowest.
        min: u16,
        /// Its highest.
        max: u16,
        /// The lowest of this binary.
        own_min: u16,
        /// The highest of this binary.
        own_max: u16,
    },
    /// It does not know the secret.
    #[error(
        "the other side does not have this cluster's secret; see cluster_secret in the documentation of operations"
    )]
    Secret,
}

impl Versions {
    fn refuse(self, min: u16, max: u16) -> HandshakeError {
        HandshakeError::Version { min, max, own_min: self.min, own_max: self.max }
    }
}

/// Dials: returns the version that both speak.
pub(crate) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    secret: &Secret,
    own: Versions,
) -> Result<u16, HandshakeError> {
    let own_nonce: [u8; NONCE_BYTES] = random_bytes();
    let mut hello = MAGIC.to_vec();
    hello.extend_from_slice(&own.min.to_le_bytes());
    hello.extend_from_slice(&own.max.to_le_bytes());
    hello.extend_from_slice(&own_nonce);
    stream.write_all(&hello).await?;
    if read::<8>(stream).await? != *MAGIC {
        return Err(HandshakeError::Stranger);
    }
    let version = u16::from_le_bytes(read(stream).await?);
    let nonce: [u8; NONCE_BYTES] = read(stream).await?;
    let proof: [u8; PROOF_BYTES] = read(stream).await?;
    if !(own.min..=own.max).contains(&version) {
        return Err(own.refuse(version, version));
    }
    let nonces = [&own_nonce, &nonce];
    let is_proven = secret.mac(b"acceptor", nonces, version).verify_slice(&proof).is_ok();
    if !is_proven {
        return Err(HandshakeError::Secret);
    }
    let own_proof = secret.mac(b"dialer", nonces, version).finalize().into_bytes();
    stream.write_all(&own_proof).await?;
    Ok(version)
}

/// Accepts: returns the version that both speak.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    secret: &Secret,
    own: Versions,
) -> Result<u16, HandshakeError> {
    if read::<8>(stream).await? != *MAGIC {
        return Err(HandshakeError::Stranger);
    }
    let min = u16::from_le_bytes(read(stream).await?);
    let max = u16::from_le_bytes(read(stream).await?);
    let nonce: [u8; NONCE_BYTES] = read(stream).await?;
    let own_nonce: [u8; NONCE_BYTES] = random_bytes();
    let common = max.min(own.max);
    let version = if common >= min.max(own.min) { common } else { 0 };
    let nonces = [&nonce, &own_nonce];
    let mut hello = MAGIC.to_vec();
    hello.extend_from_slice(&version.to_le_bytes());
    hello.extend_from_slice(&own_nonce);
    hello.extend_from_slice(&secret.mac(b"acceptor", nonces, version).finalize().into_bytes());
    stream.write_all(&hello).await?;
    if version == 0 {
        return Err(own.refuse(min, max));
    }
    let proof: [u8; PROOF_BYTES] = match read(stream).await {
        Ok(proof) => proof,
        // A dialer that does not accept our proof leaves.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(HandshakeError::Secret);
        }
        Err(error) => return Err(error.into()),
    };
    match secret.mac(b"dialer", nonces, version).verify_slice(&proof) {
        Ok(()) => Ok(version),
        Err(_) => Err(HandshakeError::Secret),
    }
}

async fn read<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn meet(dialer: &str, acceptor: &str) -> [Result<u16, HandshakeError>; 2] {
        meet_speaking((dialer, VERSIONS), (acceptor, VERSIONS)).await
    }

    async fn meet_speaking(
        (dialer, dialers): (&str, Versions),
        (acceptor, acceptors): (&str, Versions),
    ) -> [Result<u16, HandshakeError>; 2] {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let (dialer, acceptor) = (Secret::new(dialer), Secret::new(acceptor));
        let dialing = async move { dial(&mut near, &dialer, dialers).await };
        let accepting = async move { accept(&mut far, &acceptor, acceptors).await };
        let (dialed, accepted) = tokio::join!(dialing, accepting);
        [dialed, accepted]
    }

    #[tokio::test]
    async fn those_who_share_the_secret_accept_each_other() {
        assert!(matches!(meet("secret", "secret").await, [Ok(1), Ok(1)]));
    }

    #[tokio::test]
    async fn neither_side_accepts_one_without_the_secret() {
        let [dialed, accepted] = meet("guess", "secret").await;
        assert!(matches!(dialed, Err(HandshakeError::Secret)));
        assert!(matches!(accepted, Err(HandshakeError::Secret)));
    }

    #[tokio::test]
    async fn a_stranger_is_told_from_a_node() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let accepted = accept(&mut far, &Secret::new("s"), VERSIONS).await;
        assert!(matches!(accepted, Err(HandshakeError::Stranger)));
    }

    #[tokio::test]
    async fn a_node_of_the_next_version_meets_one_of_this_until_it_speaks_this_no_more() {
        let next = Versions { min: VERSIONS.min, max: VERSIONS.max + 1 };
        let after = Versions { min: VERSIONS.max + 1, max: VERSIONS.max + 1 };
        let speaking = |versions| ("s", versions);
        let own = VERSIONS.max;
        for (dialer, acceptor) in [(next, VERSIONS), (VERSIONS, next)] {
            let met = meet_speaking(speaking(dialer), speaking(acceptor)).await;
            assert!(met.iter().all(|result| matches!(result, Ok(version) if *version == own)));
        }
        let met = meet_speaking(speaking(next), speaking(after)).await;
        assert!(met.iter().all(|result| matches!(result, Ok(version) if *version == own + 1)));
        for (dialer, acceptor) in [(after, VERSIONS), (VERSIONS, after)] {
            let met = meet_speaking(speaking(dialer), speaking(acceptor)).await;
            assert!(met.iter().all(|r| matches!(r, Err(HandshakeError::Version { .. }))));
        }
    }
}
