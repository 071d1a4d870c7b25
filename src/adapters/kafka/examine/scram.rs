//! SCRAM (RFC 5802) as Kafka speaks it: what the client says first, and what it answers.
//!
//! What must never happen here: a password, or what is derived from it, in an error.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use secrecy::{ExposeSecret, SecretString};

/// More rounds than any broker asks for; a hostile one could keep us busy.
const MOST_ROUNDS: u32 = 1_000_000;

/// One login under way.
pub struct Scram {
    hash: Hash,
    bare: String,
    nonce: String,
}

#[derive(Clone, Copy)]
struct Hash {
    digest: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

impl Scram {
    /// `None`: no SCRAM mechanism.
    pub fn new(mechanism: &str, username: &str, nonce: &str) -> Option<Self> {
        let hash = match mechanism {
            "SCRAM-SHA-256" => Hash { digest: &digest::SHA256, hmac: hmac::HMAC_SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256 },
            "SCRAM-SHA-512" => Hash { digest: &digest::SHA512, hmac: hmac::HMAC_SHA512, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512 },
            _ => return None,
        };
        let username = username.replace('=', "=3D").replace(',', "=2C");
        Some(Self { hash, bare: format!("n={username},r={nonce}"), nonce: nonce.to_owned() })
    }

    /// What the client says first.
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.bare).into_bytes()
    }

    /// The answer to what the server says first, and how the server must sign it.
    ///
    /// # Errors
    /// What the server says makes no sense.
    pub fn answer(&self, server_first: &[u8], password: &SecretString) -> Result<(Vec<u8>, String), &'static str> {
        let server_first = std::str::from_utf8(server_first).map_err(|_| "its answer is no text")?;
        let field = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let (Some(nonce), Some(salt), Some(rounds)) = (field("r"), field("s"), field("i")) else { return Err("its answer lacks a field") };
        if !nonce.starts_with(&self.nonce) {
            return Err("its nonce is not ours");
        }
        let salt = STANDARD.decode(salt).map_err(|_| "its salt cannot be read")?;
        let rounds =
            rounds.parse().ok().filter(|rounds| *rounds <= MOST_ROUNDS).and_then(std::num::NonZeroU32::new).ok_or("its number of rounds is none")?;
        let mut salted = vec![0; self.hash.digest.output_len()];
        pbkdf2::derive(self.hash.pbkdf2, rounds, &salt, password.expose_secret().as_bytes(), &mut salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(self.hash.hmac, key), text).as_ref().to_vec();
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.hash.digest, &client_key);
        let without_proof = format!("c=biws,r={nonce}");
        let whole = format!("{},{server_first},{without_proof}", self.bare);
        let signature = sign(stored_key.as_ref(), whole.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, signature)| key ^ signature).collect();
        let server = sign(&sign(&salted, b"Server Key"), whole.as_bytes());
        Ok((format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes(), format!("v={}", STANDARD.encode(server))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        let scram = Scram::new("SCRAM-SHA-256", "user", "rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (answer, signed) = scram.answer(server, &SecretString::from("pencil".to_owned())).unwrap();
        let wanted = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8(answer).unwrap(), wanted);
        assert_eq!(signed, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(scram.answer(b"r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", &SecretString::from("pencil".to_owned())).is_err());
    }
}
