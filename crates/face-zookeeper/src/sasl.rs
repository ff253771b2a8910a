//! SASL with DIGEST-MD5, as clients with a JAAS configuration or kazoo's `sasl_options` do it.
//!
//! ```text
//!   client ─▶ empty token
//!   client ◀─ challenge: realm, nonce, qop=auth, algorithm=md5-sess
//!   client ─▶ username, realm, nonce, cnonce, nc, qop, digest-uri, response
//!   client ◀─ rspauth: the server knows the password as well
//! ```
//! The mechanism is old and its hash broken for other uses; here it keeps a password off the wire of
//! clients that know nothing better. Prefer TLS.
//!
//! Source: RFC 2831; ZooKeeper 3.9, `ZooKeeperSaslServer`.

use std::collections::BTreeMap;

use md5::{Digest, Md5};
use proteus_env::random;
use proteus_face::Accounts;

const REALM: &str = "zk-sasl-md5";

/// Longest answer to a challenge, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// One attempt of one connection.
#[derive(Debug, Default)]
pub(crate) struct Sasl {
    nonce: Option<String>,
}

/// What to say to a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Go on: the client answers this.
    Challenge(Vec<u8>),
    /// The client is this user; it checks this.
    Done {
        /// Who.
        user: String,
        /// The proof that the password is known here.
        proof: Vec<u8>,
    },
}

impl Sasl {
    /// Takes the client's token; `None` if it proves nothing.
    pub(crate) fn step(&mut self, token: &[u8], accounts: &Accounts) -> Option<Step> {
        match self.nonce.take() {
            None if token.is_empty() => {
                let bytes: [u8; 16] = random::random_bytes();
                let nonce = hex(&bytes);
                let challenge = format!(
                    "realm=\"{REALM}\",nonce=\"{nonce}\",qop=\"auth\",charset=utf-8,algorithm=md5-sess"
                );
                self.nonce = Some(nonce);
                Some(Step::Challenge(challenge.into_bytes()))
            }
            None => None,
            Some(nonce) => verify(&nonce, token, accounts),
        }
    }
}

fn verify(nonce: &str, token: &[u8], accounts: &Accounts) -> Option<Step> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let said = parse(std::str::from_utf8(token).ok()?)?;
    let get = |name: &str| said.get(name).map(String::as_str);
    let user = get("username")?;
    let (realm, cnonce, uri) =
        (get("realm").unwrap_or_default(), get("cnonce")?, get("digest-uri")?);
    let (count, qop) = (get("nc")?, get("qop").unwrap_or("auth"));
    // A nonce is good for one answer. Acting for another user is nobody's right.
    let is_for_self = get("authzid").is_none_or(|other| other == user);
    if get("nonce")? != nonce || count != "00000001" || qop != "auth" || !is_for_self {
        return None;
    }
    let password = accounts.password(user)?;
    let mut secret = Md5::new();
    secret.update(format!("{user}:{realm}:"));
    secret.update(password);
    let secret = secret.finalize();
    let mut first = Md5::new();
    first.update(secret);
    first.update(format!(":{nonce}:{cnonce}"));
    if let Some(other) = get("authzid") {
        first.update(format!(":{other}"));
    }
    let first = hex(&first.finalize());
    let answer = |method: &str| {
        let second = hex(&Md5::digest(format!("{method}:{uri}")));
        hex(&Md5::digest(format!("{first}:{nonce}:{count}:{cnonce}:{qop}:{second}")))
    };
    if !is_same(answer("AUTHENTICATE").as_bytes(), get("response")?.as_bytes()) {
        return None;
    }
    let proof = format!("rspauth={}", answer("")).into_bytes();
    Some(Step::Done { user: user.to_owned(), proof })
}

/// Takes the same time wherever the first wrong byte stands.
fn is_same(expected: &[u8], given: &[u8]) -> bool {
    let differing = expected.len() ^ given.len();
    expected.iter().zip(given).fold(differing, |differing, (a, b)| differing | usize::from(a ^ b))
        == 0
}

/// `name=value` or `name="value"`, separated by commas; `None` if it is something else, or says
/// something twice.
fn parse(text: &str) -> Option<BTreeMap<String, String>> {
    let mut said = BTreeMap::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after.get(..end)?.to_owned(), after.get(end..)?)
            }
        };
        if said.insert(name.trim().to_ascii_lowercase(), value).is_some() {
            return None;
        }
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => "",
            None => return None,
        };
    }
    Some(said)
}

/// The value up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            character => value.push(character),
        }
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::new(BTreeMap::from([("chris".to_owned(), "secret".to_owned())]))
    }

    /// The example of RFC 2831, section 4.
    const NONCE: &str = "OA6MG9tEQGm2hh";
    const ANSWER: &str = "charset=utf-8,username=\"chris\",realm=\"elwood.innosoft.com\",nonce=\"OA6MG9tEQGm2hh\",nc=00000001,cnonce=\"OA6MHXh6VqTrRk\",digest-uri=\"imap/elwood.innosoft.com\",response=d388dad90d4bbd760a152321f2143af7,qop=auth";

    #[test]
    fn the_example_of_the_rfc_holds() {
        let proof = b"rspauth=ea40f60335c427b5527b84dbabcdfffd".to_vec();
        let expected = Step::Done { user: "chris".to_owned(), proof };
        assert_eq!(verify(NONCE, ANSWER.as_bytes(), &accounts()), Some(expected));
        for (part, wrong) in [
            ("d388dad9", "d388dad8"),
            ("nc=00000001", "nc=00000002"),
            ("username=\"chris\"", "username=\"other\""),
            ("qop=auth", "qop=auth-conf"),
            ("qop=auth", "authzid=\"ann\",qop=auth"),
            ("nonce=\"OA6MG9tEQGm2hh\"", "nonce=\"another\""),
        ] {
            assert_eq!(verify(NONCE, ANSWER.replace(part, wrong).as_bytes(), &accounts()), None);
        }
        assert_eq!(verify(NONCE, ANSWER.as_bytes(), &Accounts::default()), None);
    }

    #[test]
    fn an_attempt_has_one_challenge_and_one_answer() {
        let mut sasl = Sasl::default();
        assert_eq!(sasl.step(b"hello", &accounts()), None);
        assert!(matches!(sasl.step(b"", &accounts()), Some(Step::Challenge(_))));
        assert_eq!(sasl.step(ANSWER.as_bytes(), &accounts()), None);
        assert_eq!(sasl.step(ANSWER.as_bytes(), &accounts()), None);
    }

    #[test]
    fn any_answer_is_survived() {
        proteus_testkit::fuzz::run("zookeeper_sasl", &[ANSWER.as_bytes().to_vec()], |bytes| {
            let _proven_or_not = verify(NONCE, bytes, &accounts());
        });
    }
}
