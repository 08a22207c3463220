//! What a configuration means.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::plan::{CredentialSource, Format, Method, Protection};
use crate::core::access::{Mode, Rule};
use crate::core::effect::EngineHint;
use crate::core::name::{IdentityId, SourceId};
use crate::core::policy::{Renew, SourcePolicy};
use crate::core::tree::OnExpiry;

fn spans(policy: &SourcePolicy) -> (u64, u64) {
    (policy.max_age.as_secs(), policy.grace.as_secs())
}

#[test]
fn an_empty_configuration_has_every_default_and_a_warning() {
    let plan = read("").unwrap();
    assert_eq!(plan.vault.addresses, ["https://vault.internal:8200"]);
    assert_eq!(
        (plan.vault.read_timeout, plan.vault.issue_timeout),
        (Duration::from_secs(5), Duration::from_secs(30))
    );
    assert_eq!((plan.vault.max_secret_size, plan.vault.max_list_size), (1 << 20, 16 << 20));
    assert_eq!((plan.mount.max_memory, plan.mount.threads), (256 << 20, 2));
    assert_eq!(plan.mount.list_max_age, Duration::from_secs(5));
    assert_eq!(plan.mount.revocation_check, Duration::from_secs(30));
    assert!(!plan.mount.allow_other);
    assert_eq!(plan.directory, Rule { uid: 1000, gid: 1001, mode: Mode(0o550) });
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.warnings[0].contains("declares nothing to show"));
    assert!(read_in("", &environment_of(0)).unwrap().mount.allow_other);
}

#[test]
fn every_word_of_vault_and_mount_is_understood() {
    let plan = read(
        r#"
        [vault]
        address = ["https://${TEAM}.internal:8200", "http://10.0.0.1:8200/"]
        allow-http = true
        namespace = "team-${TEAM}"
        ca-cert = "${DIR}/ca.pem"
        client-cert = "/c.pem"
        client-key = "/k.pem"
        tls-server-name = "vault"
        read-timeout = "100ms"
        issue-timeout = "1m"
        max-secret-size = "64KiB"
        max-list-size = 1048576
        [mount]
        max-memory = "10MB"
        threads = 4
        list-max-age = "1m"
        revocation-check = "1s"
        allow-other = true
        watch = false
        "#,
    )
    .unwrap();
    assert_eq!(plan.vault.addresses, ["https://a.internal:8200", "http://10.0.0.1:8200"]);
    assert_eq!(plan.vault.namespace.as_deref(), Some("team-a"));
    assert_eq!(plan.vault.ca_cert, Some(PathBuf::from("/run/creds/ca.pem")));
    assert_eq!(plan.vault.client_certificate, Some((PathBuf::from("/c.pem"), PathBuf::from("/k.pem"))));
    assert_eq!(plan.vault.tls_server_name.as_deref(), Some("vault"));
    assert_eq!(plan.vault.max_secret_size, 65536);
    assert_eq!((plan.mount.max_memory, plan.mount.threads), (10_000_000, 4));
    assert!(plan.mount.allow_other);
}

#[test]
fn one_thread_is_enough_since_none_ever_waits() {
    let plan = read("[mount]\nthreads = 1").unwrap();
    assert_eq!(plan.mount.threads, 1);
}

#[test]
fn protections_are_on_and_each_that_is_off_is_a_warning() {
    let off = |text: &str| {
        let plan = read(text).unwrap();
        let warned = plan.warnings.iter().filter(|warning| warning.contains("is switched off")).count();
        assert_eq!(warned, plan.mount.unprotected.len(), "{:?}", plan.warnings);
        plan.mount.unprotected
    };
    assert_eq!(off(""), BTreeSet::new());
    assert_eq!(off("[mount.protections]\nseccomp = true"), BTreeSet::new());
    assert_eq!(
        off("[mount]\nprotections = { seccomp = false, landlock-tcp = false }"),
        BTreeSet::from([Protection::Seccomp, Protection::LandlockTcp])
    );
    let all: String = Protection::ALL.iter().map(|one| format!("{} = false\n", one.name())).collect();
    assert_eq!(off(&format!("[mount.protections]\n{all}")), BTreeSet::from(Protection::ALL));
}

#[test]
fn the_environment_of_the_vault_command_is_followed_and_the_file_wins() {
    let environment = bare().with_variables([
        ("BAO_ADDR", "http://127.0.0.1:8200"),
        ("VAULT_NAMESPACE", "n"),
        ("VAULT_CACERT", "/ca.pem"),
        ("BAO_CLIENT_CERT", "/c.pem"),
        ("VAULT_CLIENT_KEY", "/k.pem"),
        ("VAULT_TLS_SERVER_NAME", "s"),
        ("BAO_TOKEN", MARKER),
        ("VAULT_SKIP_VERIFY", "1"),
    ]);
    let plan = read_in("[file.a]\nsecret = 'kv/a'\n", &environment).unwrap();
    assert_eq!(plan.vault.addresses, ["http://127.0.0.1:8200"]);
    assert_eq!(plan.vault.namespace.as_deref(), Some("n"));
    assert_eq!(plan.vault.ca_cert, Some(PathBuf::from("/ca.pem")));
    assert_eq!(plan.vault.client_certificate, Some((PathBuf::from("/c.pem"), PathBuf::from("/k.pem"))));
    assert_eq!(plan.vault.tls_server_name.as_deref(), Some("s"));
    let token = CredentialSource::Variable("BAO_TOKEN".to_owned());
    assert_eq!(plan.identities[0].method, Method::Token { token });
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.warnings[0].contains("$VAULT_SKIP_VERIFY is not used"));
    assert!(!format!("{plan:?}").contains("marker"));

    let text = "[vault]\naddress = 'https://b:1'\nnamespace = 'm'\nca-cert = '/o.pem'\n";
    let plan = read_in(text, &environment).unwrap();
    assert_eq!(
        (plan.vault.addresses[0].as_str(), plan.vault.namespace.as_deref()),
        ("https://b:1", Some("m"))
    );
    assert_eq!(plan.vault.ca_cert, Some(PathBuf::from("/o.pem")));
}

#[test]
fn without_an_address_anywhere_the_default_of_the_vault_command_is_used_and_said() {
    let plan = read_in("", &bare().with_variables([("VAULT_TOKEN", MARKER)])).unwrap();
    assert_eq!(plan.vault.addresses, ["https://127.0.0.1:8200"]);
    assert!(plan.warnings.iter().any(|warning| warning.contains("$VAULT_ADDR")), "{:?}", plan.warnings);
}

#[test]
fn without_identities_the_environment_says_who_logs_in() {
    let method = |variables: &[(&'static str, &'static str)], home: Option<&str>| {
        let mut environment = bare().with_variables(variables.iter().copied());
        environment.home = home.map(PathBuf::from);
        read_in("[vault]\naddress = 'https://v:1'", &environment).map(|plan| {
            assert_eq!((plan.identities.len(), plan.identities[0].name.as_str()), (1, "default"));
            (
                plan.identities[0].method.clone(),
                plan.warnings.iter().any(|text| text.contains(".vault-token")),
            )
        })
    };
    let variable = |name: &str| CredentialSource::Variable(name.to_owned());
    let role = [("VAULT_ROLE_ID", "r"), ("BAO_SECRET_ID", MARKER), ("VAULT_TOKEN", MARKER)];
    let (approle, _) = method(&role, None).unwrap();
    assert!(matches!(&approle, Method::AppRole { role_id, secret_id: Some(secret_id), .. }
        if *role_id == variable("VAULT_ROLE_ID") && *secret_id == variable("BAO_SECRET_ID")));
    let token = Method::Token { token: variable("VAULT_TOKEN") };
    assert_eq!(method(&role[2..], Some("/nowhere")).unwrap(), (token, false));
    let file = Method::Token { token: CredentialSource::File("/nowhere/.vault-token".into()) };
    assert_eq!(method(&[], Some("/nowhere")).unwrap(), (file, true));
    let error = method(&[("VAULT_ROLE_ID", "r")], None).unwrap_err().to_string();
    assert!(
        error.contains("identity.default: has no token: write token-file, or set $VAULT_TOKEN"),
        "{error}"
    );
}

#[test]
fn identities_are_read_and_found_by_name() {
    let plan = read(
        r#"
        [identity.default]
        method = "token"
        [identity.a]
        method = "token"
        token-file = "${DIR}/token"
        namespace = "n"
        [identity.b]
        method = "approle"
        auth-path = "hosts/approle"
        role-id = "r"
        [identity.unused]
        method = "approle"
        role-id-file = "/r"
        secret-id-file = "/s"
        [defaults]
        identity = "b"
        [file.x]
        secret = "kv/x"
        [file.y]
        secret = "kv/x"
        identity = "a"
        [tree.t]
        secret = "kv/t/"
        identity = "default"
        "#,
    )
    .unwrap();
    let names: Vec<&str> = plan.identities.iter().map(|identity| identity.name.as_str()).collect();
    assert_eq!(names, ["default", "a", "b", "unused"]);
    assert_eq!(plan.identities[1].namespace.as_deref(), Some("n"));
    let token = CredentialSource::File("/run/creds/token".into());
    assert_eq!(plan.identities[1].method, Method::Token { token });
    let readers: Vec<IdentityId> = plan.sources.iter().map(|source| source.identity).collect();
    assert_eq!(readers, [IdentityId(2), IdentityId(1)], "one path read by two identities is two sources");
    assert_eq!(plan.trees[0].identity, IdentityId(0));
    assert_eq!(plan.warnings.len(), 2, "{:?}", plan.warnings);
    assert!(
        plan.warnings[0].starts_with("agent.toml:8: identity.b: has no secret id"),
        "{:?}",
        plan.warnings
    );
    assert!(plan.warnings[1].starts_with("agent.toml:12: identity.unused: is used by nothing"));
}

#[test]
fn every_word_of_a_file_is_understood_and_defaults_fill_the_rest() {
    let plan = read(
        r#"
        [defaults]
        owner = "agent"
        group = 42
        mode = "0440"
        dir-mode = "0750"
        max-age = "5m"
        grace = "1h30m"
        on-expiry = "vanish"
        [file."db/password"]
        secret = "database/creds/${TEAM}#password"
        renew = "always"
        idle-timeout = "10m"
        pin = "0s"
        engine = "other"
        [file."db/all"]
        secret = "pki/issue/x"
        format = "json"
        field = "certificate"
        params = { cn = "x", ttl = 60 }
        owner = 0
        mode = "0444"
        max-age = "0s"
        on-expiry = "refetch"
        [file.pinned]
        secret = "kv/x"
        version = 3
        engine = "kv2"
        renew = "never"
        "#,
    )
    .unwrap();
    assert_eq!(plan.directory, Rule { uid: 700, gid: 42, mode: Mode(0o750) });
    let [password, all, pinned] = &plan.files[..] else { panic!("{:?}", plan.files) };
    assert_eq!(password.spec.name.as_str(), "db/password");
    assert_eq!(password.spec.rule, Rule { uid: 700, gid: 42, mode: Mode(0o440) });
    assert_eq!(password.spec.on_expiry, OnExpiry::Vanish);
    assert_eq!(password.format, Format::Raw { field: "password".to_owned() });
    assert_eq!(all.spec.rule, Rule { uid: 0, gid: 42, mode: Mode(0o444) });
    assert_eq!(all.spec.on_expiry, OnExpiry::Refetch);
    assert_eq!(all.format, Format::Json { field: Some("certificate".to_owned()) });
    assert_eq!(pinned.format, Format::Json { field: None });

    let [password, all, pinned] = &plan.sources[..] else { panic!("{:?}", plan.sources) };
    assert_eq!(password.request.path.as_str(), "database/creds/a");
    assert_eq!(password.request.engine, EngineHint::Other);
    assert_eq!((password.policy.renew, spans(&password.policy)), (Renew::Always, (300, 5400)));
    assert_eq!(password.policy.idle_timeout, Some(Duration::from_secs(600)));
    assert_eq!((password.policy.pin, pinned.policy.pin), (Duration::ZERO, Duration::from_secs(5)));
    let params = all.request.params.clone().unwrap();
    assert_eq!((params["cn"].as_str(), params["ttl"].as_str()), ("\"x\"", "60"));
    assert_eq!((all.policy.renew, spans(&all.policy)), (Renew::InUse, (0, 5400)));
    assert_eq!((pinned.request.version, pinned.request.engine), (Some(3), EngineHint::Kv2));
    assert_eq!((pinned.policy.renew, pinned.policy.idle_timeout), (Renew::Never, None));
}

#[test]
fn directories_are_files_of_one_source_or_all_fields() {
    let plan = read(
        r#"
        [dir.tls]
        secret = "pki/issue/x"
        params = {}
        names = { private_key = "tls.key", certificate = "pem/tls.crt" }
        [dir.fields]
        secret = "kv/deep/a"
        mode = "0444"
        [file.b]
        secret = "kv/deep/b"
        [file.c]
        secret = "kv/deeper/c"
        [file.d]
        secret = "kv/deep/d"
        engine = "kv2"
        [tree.t]
        secret = "kv/deep/"
        "#,
    )
    .unwrap();
    let names: Vec<&str> = plan.files.iter().map(|file| file.spec.name.as_str()).collect();
    assert_eq!(names, ["b", "c", "d", "tls/tls.key", "tls/pem/tls.crt"]);
    assert_eq!(plan.files[3].format, Format::Raw { field: "private_key".to_owned() });
    assert_eq!(plan.files[3].spec.sources.first(), plan.files[4].spec.sources.first());
    let shown: Vec<(&str, bool)> =
        plan.sources.iter().map(|source| (source.request.path.as_str(), source.fields)).collect();
    let expected = [
        ("kv/deep/b", true),
        ("kv/deeper/c", false),
        ("kv/deep/d", false),
        ("pki/issue/x", false),
        ("kv/deep/a", true),
    ];
    assert_eq!(shown, expected, "a tree shows what lies below it and is read alike");
    assert_eq!(plan.field_dirs.len(), 1);
    assert_eq!((plan.field_dirs[0].source, plan.field_dirs[0].rule.mode), (SourceId(4), Mode(0o444)));
    assert_eq!(plan.sources[3].request.params, Some(Default::default()), "empty params still write");
}

#[test]
fn what_one_file_requires_is_kept_for_all_files_of_its_secret_and_no_tree_is() {
    let plan = read(
        "[defaults]\nrequired = true\n\
         [file.a]\nsecret = 'kv/a#x'\nrequired = false\nrenew = 'in-use'\n\
         [file.b]\nsecret = 'kv/a#y'\n\
         [file.c]\nsecret = 'kv/c'\nrequired = false\n\
         [file.d]\nsecret = 'kv/d'\nrequired = false\nrenew = 'never'\n\
         [dir.e]\nsecret = 'kv/e'\n\
         [tree.f]\nsecret = 'kv/f'\n",
    )
    .unwrap();
    let kept: Vec<(&str, Renew)> =
        plan.sources.iter().map(|spec| (spec.request.path.as_str(), spec.policy.renew)).collect();
    let expected = [
        ("kv/a", Renew::Required),
        ("kv/c", Renew::InUse),
        ("kv/d", Renew::Never),
        ("kv/e", Renew::Required),
    ];
    assert_eq!(kept, expected);
    assert_eq!(plan.trees[0].policy.renew, Renew::InUse);
}
