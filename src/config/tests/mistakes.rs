//! What is said about each mistake: where it is, and what to write instead.

use super::*;

/// Each text is one mistake, said once, at a line and key, with a fragment of what to write.
fn check(rows: &[(&str, &str, &str)]) {
    for (text, place, fragment) in rows {
        let said = complaints(text, &environment());
        assert_eq!(said.len(), 1, "{text}\n{said:#?}");
        let expected = format!("agent.toml:{place}: ");
        assert!(said[0].starts_with(&expected), "{text}\nexpected {expected}\n{}", said[0]);
        assert!(said[0].contains(fragment), "{text}\nexpected {fragment}\n{}", said[0]);
        assert!(!said[0].contains("marker"), "{}", said[0]);
    }
}

#[test]
fn unknown_keys_are_told_what_was_meant() {
    check(&[
        ("[vault]\nca_cert = '/a'", "2: vault.ca_cert", "unknown key `ca_cert`: write `ca-cert`"),
        ("[vault]\n\nread-timout = '5s'", "3: vault.read-timout", "write `read-timeout`"),
        ("[vualt]\naddress = 'x'", "1: vualt", "unknown key `vualt`: write `vault`"),
        (
            "[metrics]",
            "1: metrics",
            "the keys here are `vault`, `mount`, `defaults`, `identity`, `file`, `dir` and `tree`",
        ),
        (
            "[file.a]\nsecret = 'kv/a'\ntemplate = 'x'",
            "3: file.a.template",
            "the keys here are `secret`, `field`,",
        ),
        ("[file.a]\nsecret = 'kv/a'\ndir-mode = '0550'", "3: file.a.dir-mode", "write it in [defaults]"),
        (
            "[file.a]\nsecret = 'kv/a'\nnames = {}",
            "3: file.a.names",
            "write [dir.\"NAME\"] instead of [file]",
        ),
        ("[dir.a]\nsecret = 'kv/a'\nfield = 'x'", "3: dir.a.field", "unknown key `field`"),
        ("[dir.a]\nsecret = 'kv/a'\nversion = 1", "3: dir.a.version", "unknown key `version`"),
        ("[mount]\ncontrol-dir = '/x'", "2: mount.control-dir", "unknown key `control-dir`"),
        ("[vault]\n\"a\\u001bb\" = 1", "2: vault.\"a\\u{1b}b\"", "unknown key `\"a\\u{1b}b\"`"),
    ]);
}

#[test]
fn a_name_that_lacks_its_quotes_is_recognised() {
    let said = complaints("[file.weather.json]\nsecret = 'kv/a'", &environment());
    assert!(
        said.iter().any(|line| line.contains("put a name with a dot or a slash in it in quotes")),
        "{said:?}"
    );
}

#[test]
fn tables_and_values_of_the_wrong_kind_are_told_what_to_write() {
    check(&[
        ("vault = 'x'", "1: vault", "is a text: write it as a table, [vault]"),
        (
            "[[file]]\nsecret = 'x'",
            "1: file",
            "is a list: write each one as a table of its own, [file.\"NAME\"]",
        ),
        ("[file]\na = 'kv/x'", "2: file.a", "[file.\"NAME\"]"),
        (
            "[vault]\naddress = 1",
            "2: vault.address",
            "is a number: write a text in quotes, `address = \"…\"`",
        ),
        ("[vault]\naddress = [\n'https://a:1',\n2]", "4: vault.address", "is a number: write a text"),
        ("[vault]\naddress = ''", "2: vault.address", "is empty"),
        (
            "[vault]\nallow-http = 'yes'",
            "2: vault.allow-http",
            "write `allow-http = true` or `allow-http = false`",
        ),
        (
            "[file.a]\nsecret = ['kv/a']",
            "2: file.a.secret",
            "is a list: write a text in quotes, `secret = \"…\"`",
        ),
        (
            "[file.a]\nsecret = 'kv/a'\nparams = 'x'",
            "3: file.a.params",
            "write `params = { NAME = \"VALUE\" }`",
        ),
        ("[file.a]\nsecret = 'kv/a'\nparams = { a = nan }", "3: file.a.params.a", "write it as a text"),
        ("[dir.a]\nsecret = 'kv/a'\nnames = ['x']", "3: dir.a.names", "write `names = { NAME = \"VALUE\" }`"),
        ("[dir.a]\nsecret = 'kv/a'\nnames = { x = 1 }", "3: dir.a.names.x", "write a text in quotes"),
    ]);
}

#[test]
fn mistakes_about_vault_are_told_what_to_write() {
    check(&[
        ("[vault]\naddress = 'vault:8200'", "2: vault.address", "write \"https://vault:8200\""),
        (
            "[vault]\naddress = 'http://vault:8200'",
            "2: vault.address",
            "write https://, or allow-http = true in [vault]",
        ),
        ("[vault]\naddress = 'https://v:1/v1'", "2: vault.address", "write \"https://v:1\" alone"),
        ("[vault]\naddress = 'https://me:marker@v:1'", "2: vault.address", "write \"https://v:1\" alone"),
        ("[vault]\naddress = 'ldap://v:1'", "2: vault.address", "unknown scheme \"ldap\""),
        ("[vault]\naddress = 'https://${NONE}:1'", "2: vault.address", "NONE is unset or empty: set it"),
        ("[vault]\naddress = []", "2: vault.address", "is an empty list: write"),
        ("[vault]\naddress = ['https://v:1',\n'https://V:1/']", "3: vault.address", "twice: leave one out"),
        ("[vault]\nca-cert = 'ca.pem'", "2: vault.ca-cert", "write all of it, or \"${PWD}/ca.pem\""),
        ("[vault]\nca-cert = '~/ca.pem'", "2: vault.ca-cert", "write \"${HOME}/ca.pem\""),
        ("[vault]\nclient-cert = '/c'", "2: vault.client-cert", "write client-key, too"),
        ("[vault]\nclient-key = '/c'", "2: vault.client-key", "write client-cert, too"),
        ("[vault]\nread-timeout = '31s'", "2: vault.read-timeout", "write `read-timeout = \"30s\"` or less"),
        (
            "[vault]\nread-timeout = '99ms'",
            "2: vault.read-timeout",
            "write `read-timeout = \"100ms\"` or more",
        ),
        ("[vault]\nread-timeout = 5", "2: vault.read-timeout", "write `read-timeout = \"5s\"`"),
        ("[vault]\nissue-timeout = '0s'", "2: vault.issue-timeout", "write `issue-timeout = \"1s\"` or more"),
        ("[vault]\nmax-secret-size = '1M'", "2: vault.max-secret-size", "write `max-secret-size = \"1MiB\"`"),
        ("[vault]\nmax-list-size = 0", "2: vault.max-list-size", "write 1024 bytes or more"),
        ("[vault]\ntoken = 'hvs.marker'", "2: vault.token", "name that under [identity.default]"),
        ("[mount]\nthreads = 5", "2: mount.threads", "write `threads = 2`"),
        ("[mount]\nthreads = 0", "2: mount.threads", "is no number from 1 to 4: write `threads = 2`"),
        ("[mount]\nprotections = false", "2: mount.protections", "write it as a table, [mount.protections]"),
        ("[mount.protections]\nsecomp = false", "2: mount.protections.secomp", "write `seccomp`"),
        (
            "[mount.protections]\nseccomp = 0",
            "2: mount.protections.seccomp",
            "write `seccomp = true` or `seccomp = false`",
        ),
        (
            "[mount.protections]\nno-new-privs = false\nseccomp = false",
            "1: mount.protections",
            "while `landlock-files`, `landlock-tcp` and `landlock-scope` need it: leave it out, or switch them",
        ),
        (
            "[mount]\nserver-user = 'nobody-here'",
            "2: mount.server-user",
            "is \"nobody-here\", which this host does not know: write an existing name or a number",
        ),
        ("[mount]\nserver-user = true", "2: mount.server-user", "write a name in quotes or a number"),
        ("[mount]\nlist-max-age = '61s'", "2: mount.list-max-age", "write `list-max-age = \"1m\"` or less"),
        (
            "[mount]\nrevocation-check = '0s'",
            "2: mount.revocation-check",
            "`revocation-check = \"1s\"` or more",
        ),
        ("[mount]\nmax-memory = 5", "2: mount.max-memory", "write 1048576 bytes or more"),
        ("[mount]\nwatch = true", "2: mount.watch", "watch = true is not supported yet: leave it out"),
    ]);
    let bad = environment().with_variables([("VAULT_ADDR", "http://10.0.0.1:8200/marker?x")]);
    let said = complaints("\n[vault]\n", &bad).join("\n");
    assert!(said.starts_with("agent.toml:2: vault.address: $VAULT_ADDR has more than a host"), "{said}");
}

#[test]
fn mistakes_about_identities_are_told_what_to_write() {
    check(&[
        (
            "[identity.default]\n",
            "1: identity.default",
            "write `method = \"token\"` or `method = \"approle\"`",
        ),
        (
            "[identity.default]\nmethod = 'jwt'",
            "2: identity.default.method",
            "write `method =` \"token\" or \"approle\"",
        ),
        (
            "[identity.default]\nmethod = 'token'\ntoken = 'hvs.marker'",
            "3: identity.default.token",
            "a token has no place in the configuration: put it in a file and name it in token-file",
        ),
        (
            "[identity.default]\nmethod = 'approle'\nrole-id = 'r'\nsecret-id = 'marker'",
            "4: identity.default.secret-id",
            "a secret id has no place in the configuration: put it in a file and name it in secret-id-file",
        ),
        (
            "[identity.default]\nmethod = 'token'\nrole-id = 'r'",
            "3: identity.default.role-id",
            "write `method = \"approle\"`",
        ),
        (
            "[identity.default]\nmethod = 'approle'\nrole-id = 'r'\ntoken-file = '/t'",
            "4: identity.default.token-file",
            "write `method = \"token\"`",
        ),
        (
            "[identity.default]\nmethod = 'approle'",
            "1: identity.default",
            "write role-id-file or role-id, or set $VAULT_ROLE_ID",
        ),
        (
            "[identity.default]\nmethod = 'approle'\nrole-id = 'r'\nrole-id-file = '/r'",
            "4: identity.default.role-id-file",
            "keep one of the two",
        ),
        (
            "[identity.default]\nmethod = 'approle'\nrole-id = 'r'\nauth-path = 'auth/x'",
            "4: identity.default.auth-path",
            "write `auth-path = \"x\"`",
        ),
        (
            "[identity.default]\nmethod = 'approle'\nrole-id = 'r'\nauth-path = '../x'",
            "4: identity.default.auth-path",
            "write the path without it",
        ),
        (
            "[identity.default]\nmethod = 'token'\ntoken-file = '${NONE}/t'",
            "3: identity.default.token-file",
            "NONE is unset or empty",
        ),
        (
            "[identity.default]\nmethod = 'token'\ntoken-file = '/${VAULT_TOKEN}'",
            "3: identity.default.token-file",
            "leave `${VAULT_TOKEN}` out",
        ),
        (
            "[file.a]\nsecret = 'kv/a'\nidentity = 'b'",
            "3: file.a.identity",
            "declare it, or write \"default\"",
        ),
        (
            "[identity.b]\nmethod = 'token'\n[file.a]\nsecret = 'kv/a'\n[file.c]\nsecret = 'kv/a'",
            "3: file.a",
            "write `identity =` \"b\" here or in [defaults]",
        ),
    ]);
}

#[test]
fn mistakes_about_files_are_told_what_to_write() {
    let with = |line: &str| format!("[file.a]\nsecret = 'kv/a'\n{line}\n");
    for (line, place, fragment) in [
        ("mode = 400", "3: file.a.mode", "write `mode = \"0400\"`"),
        ("mode = '0755'", "3: file.a.mode", "write `mode = \"0644\"`"),
        ("mode = '4755'", "3: file.a.mode", "write `mode = \"0644\"`"),
        ("mode = 0400", "3", "write `mode = \"0400\"`"),
        ("owner = 'nobody-here'", "3: file.a.owner", "write an existing name or a number"),
        ("group = -1", "3: file.a.group", "write `group =` a number from 0"),
        ("max-age = 5", "3: file.a.max-age", "write `max-age = \"5s\"`"),
        ("grace = 5s", "3", "write `grace = \"…\"`"),
        ("idle-timeout = '1 fortnight'", "3: file.a.idle-timeout", "unknown unit \"fortnight\""),
        ("renew = true", "3: file.a.renew", "write `renew =` \"in-use\", \"always\" or \"never\""),
        ("renew = 'in_use'", "3: file.a.renew", "write `renew =` \"in-use\", \"always\" or \"never\""),
        ("on-expiry = 'keep'", "3: file.a.on-expiry", "write `on-expiry =` \"refetch\" or \"vanish\""),
        ("engine = 'kv'", "3: file.a.engine", "write `engine =` \"kv1\", \"kv2\" or \"other\""),
        ("format = 'yaml'", "3: file.a.format", "write `format =` \"raw\" or \"json\""),
        ("format = 'raw'", "3: file.a.format", "write `field = \"…\"`, or `format = \"json\"`"),
        ("version = 0", "3: file.a.version", "write a whole number from 1 on"),
        ("version = '3'", "3: file.a.version", "without quotes"),
        ("version = 1\nengine = 'kv1'", "3: file.a.version", "write `engine = \"kv2\"`"),
        ("version = 1\nparams = {}", "3: file.a.version", "keep one of the two"),
        ("engine = 'kv2'\nparams = { a = 1 }", "4: file.a.params", "write `engine = \"other\"`"),
        ("mode = '0400'\nmode = '0440'", "4: file.a.mode", "stands here a second time"),
    ] {
        check(&[(&with(line), place, fragment)]);
    }
    check(&[
        ("[file.a]\n", "1: file.a", "write `secret = \"PATH\"`"),
        ("[file.a]\nsecret = '/kv/a'", "2: file.a.secret", "leave out the leading \"/\""),
        ("[file.a]\nsecret = 'kv/../a'", "2: file.a.secret", "write the path without it"),
        (
            "[file.a]\nsecret = 'kv//${DIR}'",
            "2: file.a.secret",
            "the path \"kv//${DIR}\" has an empty segment",
        ),
        ("[file.a]\nsecret = 'kv/a#'", "2: file.a.secret", "write \"PATH#FIELD\""),
        ("[file.a]\nsecret = 'kv/${NONE}#x'", "2: file.a.secret", "NONE is unset or empty"),
        ("[file.a]\nsecret = 'kv/a#x'\nfield = 'x'", "3: file.a.field", "keep one of the two"),
        (
            "[defaults]\nformat = 'raw'\n[file.a]\nsecret = 'kv/a'",
            "3: file.a.format",
            "write `field = \"…\"`",
        ),
        ("[defaults]\ndir-mode = '0440'", "2: defaults.dir-mode", "write `dir-mode = \"0550\"`"),
        ("[file.a]\nsecret = 'kv/a'\n[file.a]\nsecret = 'kv/b'", "3: file.a", "stands here a second time"),
        (
            "[file.'a/b.c']\nsecret = 'kv/a'\n\n[file.\"a/b.c\"] # again\nsecret = 'kv/b'",
            "4: file.\"a/b.c\"",
            "stands here a second time",
        ),
    ]);
}

#[test]
fn mistakes_about_directories_and_trees_are_told_what_to_write() {
    check(&[
        ("[dir.a]\nsecret = 'kv/a#x'", "2: dir.a.secret", "leave out \"#x\""),
        ("[dir.a]\nsecret = 'pki/a'\nparams = {}", "1: dir.a", "write `names = { FIELD = \"FILE\" }`"),
        ("[dir.a]\nsecret = 'pki/a'\nengine = 'other'", "1: dir.a", "write `names = { FIELD = \"FILE\" }`"),
        ("[dir.a]\nsecret = 'pki/a'\nnames = {}", "3: dir.a.names", "is empty"),
        (
            "[dir.a]\nsecret = 'pki/a'\nnames = { x = '../y' }",
            "3: dir.a.names.x",
            "write the path without it",
        ),
        ("[dir.a]\nsecret = 'pki/a'\nnames = { x = '/y' }", "3: dir.a.names.x", "leave out the leading"),
        (
            "[dir.a]\nsecret = 'pki/a'\nnames = { '' = 'y' }",
            "3: dir.a.names.\"\"",
            "write the field that \"y\" shows",
        ),
        ("[dir.a]\nsecret = 'kv/a'\nformat = 'json'", "3: dir.a.format", "leave it out, or declare a [file]"),
        ("[tree.a]\nsecret = 'kv/a/#x'", "2: tree.a.secret", "leave out \"#x\""),
        ("[tree.a]\nsecret = 'kv/a/'\nparams = {}", "3: tree.a.params", "leave it out"),
        ("[tree.a]\nsecret = 'kv/a/'\nformat = 'json'", "3: tree.a.format", "leave it out"),
        ("[tree.a]\nsecret = 'kv/a/'\nengine = 'other'", "3: tree.a.engine", "write \"kv1\" or \"kv2\""),
        (
            "[defaults]\nengine = 'other'\n[tree.a]\nsecret = 'kv/'",
            "3: tree.a.engine",
            "write \"kv1\" or \"kv2\"",
        ),
    ]);
}

#[test]
fn names_that_cant_exist_together_are_both_named() {
    let file = |name: &str| format!("[file.\"{name}\"]\nsecret = 'kv/a'\n");
    for (text, place, fragment) in [
        (file("../a"), "1: file.\"../a\"", "the name \"../a\" has a \".\" or \"..\" in it"),
        (file("/a"), "1: file.\"/a\"", "leave out the leading \"/\""),
        (file("a//b"), "1: file.\"a//b\"", "write single slashes"),
        (file(""), "1: file.\"\"", "the name \"\" is empty"),
        (file("db") + &file("db/pw"), "3: file.\"db/pw\"", "at odds with file.db (line 1)"),
        (file("db/x/pw") + &file("db"), "3: file.db", "at odds with file.\"db/x/pw\" (line 1)"),
        (
            file("a") + "[dir.a]\nsecret = 'kv/a'",
            "3: dir.a",
            "declared by file.a (line 1), too: choose another",
        ),
        (
            file("t/a") + "[tree.t]\nsecret = 'kv/t'",
            "3: tree.t",
            "a [tree] shows what Vault has and nothing else",
        ),
        (
            file("d/a") + "[dir.d]\nsecret = 'kv/d'",
            "3: dir.d",
            "a [dir] without `names` shows the secret's fields",
        ),
        (
            file("d/a") + "[dir.d]\nsecret = 'kv/d'\nnames = { x = 'a' }",
            "5: dir.d.names.x",
            "declared by file.\"d/a\" (line 1), too",
        ),
        (
            "[dir.d]\nsecret = 'kv/d'\nnames = { x = 'a', y = 'a' }".to_owned(),
            "3: dir.d.names.y",
            "declared by dir.d.names.x (line 3), too",
        ),
        (
            "[dir.d]\nsecret = 'kv/d'\nnames = { x = 'a' }\n[tree.d]\nsecret = 'kv'".to_owned(),
            "4: tree.d",
            "at odds with dir.d.names.x (line 3)",
        ),
    ] {
        check(&[(&text, place, fragment)]);
    }
    assert!(read(&(file("d/b") + "[dir.d]\nsecret = 'kv/d'\nnames = { x = 'a' }")).is_ok());
    assert!(read(&(file("d/b") + &file("d-b"))).is_ok());
}

#[test]
fn files_of_one_secret_must_agree_on_how_it_is_kept() {
    let two = |line: &str| format!("[file.a]\nsecret = 'db/a#x'\n\n[file.b]\nsecret = 'db/a#y'\n{line}\n");
    for (line, key) in [
        ("max-age = '2m'", "max-age"),
        ("grace = '2m'", "grace"),
        ("renew = 'never'", "renew"),
        ("idle-timeout = '2m'", "idle-timeout"),
        ("pin = '0s'", "pin"),
        ("engine = 'other'", "engine"),
    ] {
        let fragment = format!(
            "for file.a (line 1), which shows the same secret and so shares its lease: write the same `{key}` in both"
        );
        check(&[(&two(line), &format!("6: file.b.{key}"), &fragment)]);
    }
    check(&[(
        "[file.a]\nsecret = 'db/a#x'\nmax-age = '2m'\n[file.b]\nsecret = 'db/a#y'",
        "4: file.b.max-age",
        "is 1m here and 2m for file.a (line 1)",
    )]);
    for text in [
        two("mode = '0440'"),
        two("max-age = '60s'"),
        two("renew = 'in-use'"),
        two("version = 2\ngrace = '2m'"),
    ] {
        assert!(read(&text).is_ok(), "{text}");
    }
    let unsound =
        "[file.a]\nsecret = 'db/a#x'\nmode = 9\n[file.b]\nsecret = 'db/a'\nformat = 'x'\ngrace = '2m'";
    assert_eq!(complaints(unsound, &environment()).len(), 3, "other mistakes don't hide it");
    let said = complaints(&two("max-age = 5"), &environment());
    assert_eq!(said.len(), 1, "a value that can't be read is not compared: {said:?}");
}

#[test]
fn all_mistakes_come_out_together_in_the_order_of_the_file() {
    let said = complaints(
        "[vault]\nca_cert = '/x'\nread-timeout = 7\n[file.'../x']\nsecret = '/kv'\nmode = 600\n\
         [mount]\nthreads = 9\nthreads = 2\n[nonsense]\n",
        &environment(),
    );
    let places: Vec<&str> = said.iter().map(|line| line.split(": ").next().unwrap()).collect();
    let lines = [2, 3, 4, 5, 6, 8, 9, 10].map(|line| format!("agent.toml:{line}"));
    assert_eq!(places, lines, "{said:#?}");
}

#[test]
fn what_is_required_must_not_be_let_go() {
    check(&[
        (
            "[file.a]\nsecret = 'kv/a'\nrequired = true\nrenew = 'never'",
            "4: file.a.renew",
            "`required = true` keeps it live, and `renew = \"never\"` lets it end: write `required = false`",
        ),
        (
            "[dir.a]\nsecret = 'kv/a'\non-expiry = 'vanish'\nrequired = true",
            "3: dir.a.on-expiry",
            "`on-expiry = \"vanish\"` would hide what is fetched again",
        ),
        (
            "[defaults]\nrenew = 'never'\nrequired = true\n[file.a]\nsecret = 'kv/a'",
            "2: defaults.renew",
            "`required = true` keeps it live",
        ),
        (
            "[defaults]\nrenew = 'never'\n[file.a]\nsecret = 'kv/a'\nrequired = true",
            "5: file.a.required",
            "`renew = \"never\"` lets it end",
        ),
        (
            "[file.a]\nsecret = 'kv/a'\nrequired = true\n[file.b]\nsecret = 'kv/a'\nrenew = 'never'",
            "6: file.b.renew",
            "is never here and always for file.a",
        ),
        ("[file.a]\nsecret = 'kv/a'\nrequired = 'yes'", "3: file.a.required", "write `required = true`"),
        ("[tree.a]\nsecret = 'kv/a'\nrequired = true", "3: tree.a.required", "each as a [file]"),
    ]);
}
