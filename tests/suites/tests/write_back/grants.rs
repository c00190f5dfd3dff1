//! Tokens that the server obtains as itself: by a key of its own, or as a client at an address of
//! its own.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crm_suites::{Desk, Vendor, eventually, json, process};

use crate::CLUSTER;

fn openssl(arguments: &str) -> String {
    let arguments = arguments.split(' ');
    let output = process::run(Command::new("openssl").args(arguments));
    String::from_utf8(output.stdout).expect("PEM")
}

/// A private key in a file that the server alone may read, and its public key.
fn key_file(desk: &Desk, name: &str) -> (PathBuf, String) {
    let file = CLUSTER.path().join(format!("{}.{name}.pem", desk.db.name));
    let key = openssl("genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    std::fs::write(&file, key).expect("a file");
    let public = openssl(&format!("rsa -in {} -RSAPublicKey_out", file.display()));
    protect(&file, 0o600);
    (file, public)
}

/// The server's own file, with this mode.
fn protect(file: &PathBuf, mode: u32) {
    let owner = std::fs::metadata(CLUSTER.data()).expect("the cluster");
    let (user, group) = {
        use std::os::unix::fs::MetadataExt;
        (owner.uid(), owner.gid())
    };
    std::os::unix::fs::chown(file, Some(user), Some(group)).expect("to be the owner or root");
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(file, mode).expect("its owner");
}

fn by_key(desk: &Desk, file: &PathBuf) -> String {
    json!({"client_id": "sf-client", "username": "sync@acme.example", "private_key_file": file,
           "login_url": desk.crm.url()})
    .to_string()
}

#[tokio::test]
async fn salesforce_by_a_key_of_the_servers_own() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(3).await;
    let (file, public) = key_file(&desk, "own");
    let sim = desk.crm.sim();
    sim.post(
        "tokens",
        &json!({"vendor": "salesforce", "public_key": public}),
    );
    desk.crm
        .set_credentials(&desk.db, &by_key(&desk, &file))
        .await;
    for round in ["first", "signed again"] {
        sim.forget_requests();
        let sql = format!("UPDATE people SET phone = '{round}'");
        desk.db.execute(&sql).await;
        desk.settle().await;
        let asked = sim.requests("/services/oauth2/token");
        assert_eq!(asked.len(), 1, "token requests, {round}");
        let form = asked[0]["body"].as_str().unwrap_or_default();
        assert!(form.contains("jwt-bearer"), "{form}");
        sim.post("tokens", &json!({"vendor": "salesforce", "expire": "all"}));
    }
    // Another key than the one that was shown: the work waits, with the vendor's reason.
    let (other, public) = key_file(&desk, "other");
    sim.post("tokens", &json!({"vendor": "salesforce", "expire": "all"}));
    desk.crm
        .set_credentials(&desk.db, &by_key(&desk, &other))
        .await;
    desk.db.execute("UPDATE people SET phone = 'waits'").await;
    assert!(!desk.db.flush().await);
    let reason: String = desk.db.one("SELECT reason FROM crm.status", &[]).await;
    assert!(reason.contains("invalid assertion"), "{reason}");
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    sim.post(
        "tokens",
        &json!({"vendor": "salesforce", "public_key": public}),
    );
    desk.crm
        .set_credentials(&desk.db, &by_key(&desk, &other))
        .await;
    desk.settle().await;
    let key = std::fs::read_to_string(&other).expect("the key");
    let line = key.lines().nth(1).expect("a line of it").to_owned();
    desk.assert_secret(&CLUSTER, &[&line]).await;
}

#[tokio::test]
async fn a_key_that_others_may_read_is_not_used() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(1).await;
    let (file, public) = key_file(&desk, "own");
    let sim = desk.crm.sim();
    sim.post(
        "tokens",
        &json!({"vendor": "salesforce", "public_key": public}),
    );
    protect(&file, 0o644);
    desk.crm
        .set_credentials(&desk.db, &by_key(&desk, &file))
        .await;
    desk.db.execute("UPDATE people SET phone = 'waits'").await;
    assert!(!desk.db.flush().await);
    let reason: String = desk.db.one("SELECT reason FROM crm.status", &[]).await;
    assert!(reason.contains("open to others"), "{reason}");
    protect(&file, 0o600);
    desk.crm
        .set_credentials(&desk.db, &by_key(&desk, &file))
        .await;
    desk.settle().await;
}

#[tokio::test]
async fn a_key_file_is_an_absolute_path_and_named_by_those_who_may_read_files() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    let set = |path: &str| {
        format!(
            r#"SELECT crm.set_credentials('salesforce', '{{"client_id": "c", "username": "u", "private_key_file": {path}}}')"#
        )
    };
    let error = desk.db.error(&set(r#""key.pem""#)).await;
    assert_eq!(error.code().code(), "22023", "{error:?}");
    assert!(error.message().contains("absolute path"), "{error:?}");
    let error = desk.db.error(&set(r#"{"env": "KEY"}"#)).await;
    assert_eq!(error.code().code(), "22023", "{error:?}");
    let sql = r#"SELECT crm.set_credentials('salesforce', '{"private_key": "-----BEGIN"}')"#;
    let error = desk.db.error(sql).await;
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("private_key_file"))
    );
    let role = format!("key_admin_{}", desk.db.name);
    let sql =
        format!("CREATE ROLE {role}; SELECT crm.grant_access('{role}', 'admin'); SET ROLE {role}");
    desk.db.execute(&sql).await;
    let error = desk.db.error(&set(r#""/etc/passwd""#)).await;
    assert_eq!(error.code().code(), "42501", "{error:?}");
    desk.db
        .execute(&format!(
            "RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"
        ))
        .await;
}

#[tokio::test]
async fn client_credentials_at_an_address_of_ones_own() {
    let desk = Desk::open(&CLUSTER, Vendor::HubSpot).await;
    desk.link(3).await;
    let token_url = format!("{}/oauth/v3/token", desk.crm.url().expect("simulated"));
    let credentials = |secret: &str| {
        json!({"client_id": "hs-client", "client_secret": secret, "token_url": token_url,
               "scope": "crm.objects.contacts.write crm.objects.contacts.read"})
        .to_string()
    };
    desk.crm
        .set_credentials(&desk.db, &credentials("hs-secret"))
        .await;
    let sim = desk.crm.sim();
    for round in ["first", "renewed"] {
        sim.forget_requests();
        let sql = format!("UPDATE people SET phone = '{round}'");
        desk.db.execute(&sql).await;
        desk.settle().await;
        let asked = sim.requests("/oauth/v3/token");
        assert_eq!(asked.len(), 1, "token requests, {round}");
        let form = asked[0]["body"].as_str().unwrap_or_default();
        assert!(form.contains("grant_type=client_credentials"), "{form}");
        assert!(form.contains("scope=crm.objects"), "{form}");
        sim.post("tokens", &json!({"vendor": "hubspot", "expire": "all"}));
    }
    sim.post("tokens", &json!({"vendor": "hubspot", "expire": "all"}));
    desk.crm
        .set_credentials(&desk.db, &credentials("not the secret"))
        .await;
    desk.db.execute("UPDATE people SET phone = 'waits'").await;
    assert!(!desk.db.flush().await);
    eventually("the map shows the error", async || {
        (desk.state().await == "error").then_some(())
    })
    .await;
    desk.crm
        .set_credentials(&desk.db, &credentials("hs-secret"))
        .await;
    desk.settle().await;
    desk.assert_secret(&CLUSTER, &["hs-secret", "not the secret"])
        .await;
    let sql = r#"SELECT crm.set_credentials('hubspot', '{"token_url": "http://10.1.2.3/token"}')"#;
    let error = desk.db.error(sql).await;
    assert_eq!(error.code().code(), "22023", "{error:?}");
}

/// Nobody has to find out that a token has ended whose end was told.
#[tokio::test]
async fn a_token_is_renewed_before_the_end_that_was_told() {
    let desk = Desk::open(&CLUSTER, Vendor::HubSpot).await;
    desk.link(3).await;
    let sim = desk.crm.sim();
    sim.post("tokens", &json!({"vendor": "hubspot", "lifetime_s": 6}));
    desk.crm
        .set_credentials(&desk.db, &desk.crm.refreshable())
        .await;
    sim.forget_requests();
    for round in 0..3 {
        let sql = format!("UPDATE people SET phone = 'round {round}'");
        desk.db.execute(&sql).await;
        desk.settle().await;
        tokio::time::sleep(Duration::from_millis(3200)).await;
    }
    let refused = sim.get("requests?status=401")["requests"]
        .as_array()
        .map(Vec::len);
    assert_eq!(refused, Some(0), "requests with a token that had ended");
    assert_eq!(sim.requests("/oauth").len(), 3, "one for each round");
}

#[tokio::test]
async fn salesforce_client_credentials() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(3).await;
    desk.settle().await;
    desk.crm
        .set_credentials(
            &desk.db,
            r#"{"client_id": "sf-client", "client_secret": "sf-secret"}"#,
        )
        .await;
    let sim = desk.crm.sim();
    for round in ["first", "renewed"] {
        sim.forget_requests();
        desk.db
            .execute(&format!("UPDATE people SET phone = '{round}'"))
            .await;
        desk.settle().await;
        let asked = sim.requests("/services/oauth2/token");
        assert_eq!(asked.len(), 1, "token requests, {round}");
        let form = asked[0]["body"].as_str().unwrap_or_default();
        assert!(form.contains("grant_type=client_credentials"), "{form}");
        sim.post("tokens", &json!({"vendor": "salesforce", "expire": "all"}));
    }
    sim.post("tokens", &json!({"vendor": "salesforce", "expire": "all"}));
    desk.crm
        .set_credentials(
            &desk.db,
            r#"{"client_id": "sf-client", "client_secret": "not the secret"}"#,
        )
        .await;
    desk.db.execute("UPDATE people SET phone = 'waits'").await;
    assert!(!desk.db.flush().await);
    let reason: String = desk.db.one("SELECT reason FROM crm.status", &[]).await;
    assert!(reason.contains("invalid client credentials"), "{reason}");
    desk.crm
        .set_credentials(
            &desk.db,
            r#"{"client_id": "sf-client", "client_secret": "sf-secret"}"#,
        )
        .await;
    desk.settle().await;
    desk.assert_secret(&CLUSTER, &["sf-secret", "not the secret"])
        .await;
}

#[tokio::test]
async fn credentials_may_be_given_by_reference() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(1).await;
    let file = CLUSTER.path().join(format!("{}.token", desk.db.name));
    std::fs::write(&file, "sf-token\n").expect("a file");
    desk.crm
        .set_credentials(
            &desk.db,
            &format!(r#"{{"access_token": {{"file": "{}"}}}}"#, file.display()),
        )
        .await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
}
