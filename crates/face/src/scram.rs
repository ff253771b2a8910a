//! SCRAM-SHA-256 and SCRAM-SHA-512: proving a password without sending it. The server's side.
//!
//! ```text
//!   client-first   n,,n=USER,r=NONCE          ──▶
//!                                             ◀── server-first   r=NONCE…,s=SALT,i=ITERATIONS
//!   client-final   c=…,r=NONCE…,p=PROOF       ──▶
//!                                             ◀── server-final   v=SIGNATURE
//! ```
//!
//! Pure: salts and nonces come from the caller. Without channel binding. Sources: RFC 5802, RFC 7677.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};

/// Longest message of a client, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The hash that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

/// Why an exchange failed. What exactly was wrong is not said to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// Not a message of the exchange, or one with an extension that is not known.
    #[error("malformed SCRAM message")]
    Malformed,
    /// The user is unknown or the password is not its own.
    #[error("wrong user name or password")]
    WrongPassword,
}

/// What the server keeps of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Made the password's hash its own.
    pub salt: Vec<u8>,
    /// How often it was hashed.
    pub iterations: u32,
    /// Verifies a client's proof.
    pub stored_key: Vec<u8>,
    /// Proves the server to the client.
    pub server_key: Vec<u8>,
}

impl Mechanism {
    /// The name in SASL.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Sha256 => "SCRAM-SHA-256",
            Mechanism::Sha512 => "SCRAM-SHA-512",
        }
    }

    /// The mechanism of this name in SASL.
    pub fn parse(name: &str) -> Option<Mechanism> {
        [Mechanism::Sha256, Mechanism::Sha512].into_iter().find(|one| one.name() == name)
    }

    /// The keyed hash of `parts`, one after the other.
    pub fn keyed_hash(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        // A key of any length will do.
        match self {
            Mechanism::Sha256 => Hmac::<Sha256>::new_from_slice(key)
                .map_or_else(|_| Vec::new(), |mac| finish(mac, parts)),
            Mechanism::Sha512 => Hmac::<Sha512>::new_from_slice(key)
                .map_or_else(|_| Vec::new(), |mac| finish(mac, parts)),
        }
    }

    fn hash(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Mechanism::Sha256 => Sha256::digest(bytes).to_vec(),
            Mechanism::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    /// The password after so many rounds of PBKDF2: what a client proves to know.
    pub fn salted_password(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut round = self.keyed_hash(password, &[salt, &1u32.to_be_bytes()]);
        let mut salted = round.clone();
        for _ in 1..iterations {
            round = self.keyed_hash(password, &[&round]);
            for (sum, byte) in salted.iter_mut().zip(&round) {
                *sum ^= byte;
            }
        }
        salted
    }
}

fn finish<M: Mac>(mut mac: M, parts: &[&[u8]]) -> Vec<u8> {
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

impl Credential {
    /// Of a password.
    pub fn of_password(
        mechanism: Mechanism,
        password: &[u8],
        salt: &[u8],
        iterations: u32,
    ) -> Credential {
        let salted = mechanism.salted_password(password, salt, iterations);
        Credential::of_salted(mechanism, &salted, salt, iterations)
    }

    /// Of a password that was salted already.
    pub fn of_salted(
        mechanism: Mechanism,
        salted: &[u8],
        salt: &[u8],
        iterations: u32,
    ) -> Credential {
        let client_key = mechanism.keyed_hash(salted, &[b"Client Key"]);
        Credential {
            salt: salt.to_vec(),
            iterations,
            stored_key: mechanism.hash(&client_key),
            server_key: mechanism.keyed_hash(salted, &[b"Server Key"]),
        }
    }
}

/// A client's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFirst {
    /// Who it says it is.
    pub user: String,
    nonce: String,
    gs2_header: String,
    bare: String,
}

/// Between the server's first message and the client's last.
#[derive(Debug, Clone)]
pub struct Exchange {
    mechanism: Mechanism,
    first: ClientFirst,
    nonce: String,
    server_first: String,
    /// `None`: the user is unknown, which shows only at the end.
    credential: Option<Credential>,
}

impl ClientFirst {
    /// Reads the message.
    ///
    /// # Errors
    /// If it is none, or wants channel binding or to be somebody else.
    pub fn parse(message: &[u8]) -> Result<ClientFirst, ScramError> {
        let message = as_text(message)?;
        let mut parts = message.splitn(3, ',');
        let (Some(binding), Some(identity), Some(bare)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(ScramError::Malformed);
        };
        if !matches!(binding, "n" | "y") {
            return Err(ScramError::Malformed);
        }
        let mut fields = bare.split(',');
        let user = fields.next().and_then(|field| field.strip_prefix("n="));
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let (Some(user), Some(nonce)) = (user, nonce) else {
            return Err(ScramError::Malformed);
        };
        let user = unescape(user).filter(|user| !user.is_empty()).ok_or(ScramError::Malformed)?;
        let acts_as = match identity {
            "" => None,
            identity => {
                Some(identity.strip_prefix("a=").and_then(unescape).ok_or(ScramError::Malformed)?)
            }
        };
        if nonce.is_empty() || acts_as.is_some_and(|acts_as| acts_as != user) {
            return Err(ScramError::Malformed);
        }
        Ok(ClientFirst {
            user,
            nonce: nonce.to_owned(),
            gs2_header: format!("{binding},{identity},"),
            bare: bare.to_owned(),
        })
    }

    /// Answers it: the exchange, and the server's first message. For an unknown user, `unknown` is a
    /// salt that is always the same for that name, so that nobody learns who there is.
    pub fn answer(
        self,
        mechanism: Mechanism,
        credential: Option<Credential>,
        unknown: (Vec<u8>, u32),
        random: [u8; 18],
    ) -> (Exchange, Vec<u8>) {
        let nonce = format!("{}{}", self.nonce, BASE64.encode(random));
        let (salt, iterations) = match &credential {
            Some(credential) => (credential.salt.clone(), credential.iterations),
            None => unknown,
        };
        let server_first = format!("r={nonce},s={},i={iterations}", BASE64.encode(salt));
        let message = server_first.clone().into_bytes();
        (Exchange { mechanism, first: self, nonce, server_first, credential }, message)
    }
}

impl Exchange {
    /// Verifies the client's last message: who it is, and the server's last message.
    ///
    /// # Errors
    /// If the client does not know the password, or the message is none.
    pub fn finish(self, message: &[u8]) -> Result<(String, Vec<u8>), ScramError> {
        let message = as_text(message)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|field| field.strip_prefix("c="));
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let decode = |text: &str| BASE64.decode(text).map_err(|_| ScramError::Malformed);
        let binding = decode(binding.ok_or(ScramError::Malformed)?)?;
        if binding != self.first.gs2_header.as_bytes() || nonce != Some(&self.nonce) {
            return Err(ScramError::Malformed);
        }
        let proof = decode(proof)?;
        let credential = self.credential.ok_or(ScramError::WrongPassword)?;
        let auth_message = format!("{},{},{without_proof}", self.first.bare, self.server_first);
        let signed = |key: &[u8]| self.mechanism.keyed_hash(key, &[auth_message.as_bytes()]);
        let signature = signed(&credential.stored_key);
        if proof.len() != signature.len() {
            return Err(ScramError::WrongPassword);
        }
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let found = self.mechanism.hash(&client_key);
        // Takes the same time wherever the first wrong byte stands.
        let differing = found
            .iter()
            .zip(&credential.stored_key)
            .fold(found.len() ^ credential.stored_key.len(), |sum, (a, b)| {
                sum | usize::from(a ^ b)
            });
        if differing != 0 {
            return Err(ScramError::WrongPassword);
        }
        let server_final = format!("v={}", BASE64.encode(signed(&credential.server_key)));
        Ok((self.first.user, server_final.into_bytes()))
    }
}

fn as_text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::Malformed);
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed)
}

/// A name without the escapes of `,` and `=`.
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let rest = match part.split_at_checked(2)? {
            ("2C", rest) => {
                plain.push(',');
                rest
            }
            ("3D", rest) => {
                plain.push('=');
                rest
            }
            _ => return None,
        };
        plain.push_str(rest);
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, with the server's part of the nonce that stands there.
    #[test]
    fn the_example_of_the_rfc_is_reproduced() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let credential = Credential::of_password(Mechanism::Sha256, b"pencil", &salt, 4096);
        let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(first.user, "user");
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server_first = format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let exchange = Exchange {
            mechanism: Mechanism::Sha256,
            first,
            nonce: nonce.to_owned(),
            server_first,
            credential: Some(credential),
        };
        let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let (user, answer) = exchange.clone().finish(last.as_bytes()).unwrap();
        assert_eq!(user, "user");
        assert_eq!(answer, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let wrong = last.replace("dHzb", "dHzc");
        assert_eq!(exchange.clone().finish(wrong.as_bytes()), Err(ScramError::WrongPassword));
        let other = last.replace("c=biws", "c=eSws");
        assert_eq!(exchange.finish(other.as_bytes()), Err(ScramError::Malformed));
    }

    #[test]
    fn an_unknown_user_is_asked_like_any_other_and_fails_at_the_end() {
        let first = ClientFirst::parse(b"n,a=a=2Cb,n=a=2Cb,r=x").unwrap();
        assert_eq!(first.user, "a,b");
        let (exchange, message) = first.answer(Mechanism::Sha512, None, (vec![1], 4096), [7; 18]);
        let message = String::from_utf8(message).unwrap();
        assert!(message.starts_with("r=xBwcH") && message.ends_with(",s=AQ==,i=4096"), "{message}");
        let nonce = exchange.nonce.clone();
        let last = format!("c={},r={nonce},p=AAAA", BASE64.encode("n,a=a=2Cb,"));
        assert_eq!(exchange.finish(last.as_bytes()), Err(ScramError::WrongPassword));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for message in [
            "",
            "n",
            "n,,",
            "p=tls-unique,,n=u,r=x",
            "n,a=other,n=u,r=x",
            "n,,n=,r=x",
            "n,,n=u,r=",
            "n,,m=ext,n=u,r=x",
            "n,,n=a=2X,r=x",
            "n,,n=a=,r=x",
        ] {
            assert_eq!(
                ClientFirst::parse(message.as_bytes()),
                Err(ScramError::Malformed),
                "{message}"
            );
        }
        assert!(ClientFirst::parse(&[b'a'; MESSAGE_BYTES_MAX + 1]).is_err());
        assert!(ClientFirst::parse(&[0xFF]).is_err());
    }
}
