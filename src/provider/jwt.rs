//! Signed assertions: how a server shows who it is by a key that never leaves it (RFC 7523), signed
//! by RS256.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crm_domain::{ErrorClass, Failure};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value as Json, json};

/// The grant that is asked for with one.
pub(crate) const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long one is good: the longest that Salesforce takes.
const LIFETIME: Duration = Duration::from_secs(180);

/// Who asks, on whose behalf, and whom.
pub(crate) struct Claims<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
    pub audience: &'a str,
}

impl Claims<'_> {
    /// An assertion that is good from now on, signed by a private key in PEM.
    pub fn sign(&self, key: &str) -> Result<String, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.sign_at(now.unwrap_or_default(), key)
    }

    fn sign_at(&self, now: Duration, key: &str) -> Result<String, Failure> {
        let claims = json!({
            "iss": self.issuer, "sub": self.subject, "aud": self.audience,
            "exp": (now + LIFETIME).as_secs(),
        });
        let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "RS256"})), part(&claims));
        let key = key_pair(key)?;
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            signed.as_bytes(),
            &mut signature,
        )
        .map_err(|_| unusable("signing with it failed"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// In PKCS#8 (`BEGIN PRIVATE KEY`) or PKCS#1 (`BEGIN RSA PRIVATE KEY`), without a passphrase.
fn key_pair(pem: &str) -> Result<RsaKeyPair, Failure> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes());
    let key =
        key.map_err(|_| unusable("it is not a private key in PEM format without a passphrase"))?;
    match &key {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(unusable("it is not an RSA key")),
    }
    .map_err(|rejected| {
        unusable(&format!(
            "it is not an RSA key of 2048 bits or more: {rejected}"
        ))
    })
}

fn unusable(why: &str) -> Failure {
    let message = format!("the private key cannot be used: {why}");
    Failure::connection(ErrorClass::Auth, "private_key", message)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;
    use std::sync::OnceLock;

    use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    fn openssl(arguments: &str) -> String {
        let command = Command::new("openssl")
            .args(arguments.split(' '))
            .output()
            .expect("openssl makes keys for tests");
        assert!(command.status.success(), "openssl {arguments}");
        String::from_utf8(command.stdout).expect("PEM")
    }

    /// A key of this run's own.
    pub(crate) fn key() -> &'static str {
        static KEY: OnceLock<String> = OnceLock::new();
        KEY.get_or_init(|| openssl("genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048"))
    }

    /// The claims of an assertion that this key signed.
    pub(crate) fn verified(assertion: &str, key: &str) -> (Json, Json) {
        let (signed, signature) = assertion.rsplit_once('.').expect("three parts");
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
        let pair = key_pair(key).expect("a key");
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key());
        public
            .verify(signed.as_bytes(), &decode(signature))
            .expect("its signature");
        let (header, claims) = signed.split_once('.').expect("three parts");
        let json = |part| serde_json::from_slice(&decode(part)).expect("JSON");
        (json(header), json(claims))
    }

    const CLAIMS: Claims = Claims {
        issuer: "3MVG9",
        subject: "sync@acme.example",
        audience: "https://login.salesforce.com",
    };

    #[test]
    fn an_assertion_says_who_and_for_how_long_and_is_signed() {
        let now = Duration::from_secs(1_767_323_045);
        let assertion = CLAIMS.sign_at(now, key()).unwrap();
        let (header, claims) = verified(&assertion, key());
        assert_eq!(header, json!({"alg": "RS256"}));
        assert_eq!(
            claims,
            json!({"iss": "3MVG9", "sub": "sync@acme.example", "aud": "https://login.salesforce.com",
                   "exp": 1_767_323_225u64})
        );
    }

    #[test]
    fn what_is_no_key_is_not_shown() {
        let short = openssl("genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:1024");
        let curve = openssl("genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256");
        let broken = key().replacen('M', "?", 3);
        for (pem, why) in [
            ("", "not a private key"),
            ("a password instead", "not a private key"),
            (&broken, "not a private key"),
            (&curve, "not an RSA key"),
            (&short, "2048 bits"),
        ] {
            let failure = CLAIMS.sign(pem).unwrap_err();
            assert_eq!(failure.class, ErrorClass::Auth);
            assert!(failure.message.contains(why), "{failure}");
            assert!(!failure.message.contains("password instead"));
        }
    }
}
