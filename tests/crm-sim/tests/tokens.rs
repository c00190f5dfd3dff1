//! Assertions, which open the API only if all of them is right.

mod common;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::World;
use ring::rand::SystemRandom;
use ring::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

fn key() -> RsaKeyPair {
    let made = Command::new("openssl")
        .args("genpkey -quiet -algorithm RSA -outform DER".split(' '))
        .output()
        .unwrap();
    // Versions of openssl differ in what DER of a private key is.
    let (plain, wrapped) = (RsaKeyPair::from_der, RsaKeyPair::from_pkcs8);
    plain(&made.stdout).or(wrapped(&made.stdout)).unwrap()
}

fn pem(key: &RsaKeyPair) -> String {
    let der = base64::engine::general_purpose::STANDARD.encode(key.public_key());
    format!("-----BEGIN RSA PUBLIC KEY-----\n{der}\n-----END RSA PUBLIC KEY-----\n")
}

fn assertion(key: &RsaKeyPair, header: Value, claims: Value) -> String {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    let random = SystemRandom::new();
    key.sign(
        &RSA_PKCS1_SHA256,
        &random,
        signed.as_bytes(),
        &mut signature,
    )
    .unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn an_assertion_is_held_against_the_key_and_every_claim() {
    let world = World::new();
    let (key, stranger) = (key(), key());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let claims = |change: Value| {
        let mut claims = json!({"iss": "sf-client", "sub": "a@b.example", "aud": "https://login.salesforce.com", "exp": now + 170});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let ask = |assertion: &str| {
        let body = format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
        );
        let form = ("content-type", "application/x-www-form-urlencoded");
        let reply = world.call(
            world.salesforce,
            "POST",
            "/services/oauth2/token",
            &[form],
            body,
        );
        let reply = reply.unwrap();
        let told = reply.json();
        let why = told["error_description"].as_str().map(str::to_owned);
        why.unwrap_or_else(|| format!("{} {}", reply.status, told["token_type"].as_str().unwrap()))
    };
    let rs256 = || json!({"alg": "RS256"});
    let right = assertion(&key, rs256(), claims(json!({})));
    assert_eq!(ask(&right), "invalid assertion", "no key was shown yet");
    let shown = json!({"vendor": "salesforce", "public_key": pem(&key)});
    world.admin("POST", "/tokens", shown);
    assert_eq!(ask(&right), "200 Bearer");
    let origin = format!("http://{}", world.salesforce);
    for (key, header, change, answer) in [
        (&key, rs256(), json!({"aud": origin}), "200 Bearer"),
        (&stranger, rs256(), json!({}), "invalid assertion"),
        (&key, json!({"alg": "none"}), json!({}), "invalid assertion"),
        (
            &key,
            rs256(),
            json!({"iss": "other"}),
            "client identifier invalid",
        ),
        (
            &key,
            rs256(),
            json!({"sub": ""}),
            "user hasn't approved this consumer",
        ),
        (
            &key,
            rs256(),
            json!({"aud": "https://evil.example"}),
            "audience is invalid",
        ),
        (
            &key,
            rs256(),
            json!({"exp": now - 1}),
            "expired authorization code",
        ),
        (
            &key,
            rs256(),
            json!({"exp": now + 600}),
            "expiration is too far away",
        ),
        (
            &key,
            rs256(),
            json!({"exp": null}),
            "expiration is too far away",
        ),
    ] {
        let told = ask(&assertion(key, header, claims(change.clone())));
        assert_eq!(told, answer, "{change}");
    }
    let (head, tail) = right.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let forged = URL_SAFE_NO_PAD.encode(claims(json!({"sub": "root"})).to_string());
    assert_eq!(
        ask(&format!("{header}.{forged}.{tail}")),
        "invalid assertion"
    );
}
