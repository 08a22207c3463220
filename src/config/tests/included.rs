//! Included files: what each may use, and what is said of one that reaches for more.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::config::plan::{CredentialSource, Format, Method};
use crate::config::{Kept, load_to_keep};
use crate::render::{Content, FieldPath, TrailingNewline};

/// A main file that grants one tenant something, beside things of its own.
const MAIN: &str = "\
include = ['conf.d/*.toml']
[vault]
address = 'https://vault.internal:8200'
[identity.own]
method = 'token'
token-file = '/etc/leasefs/own.token'
[identity.team-a]
method = 'token'
token-file = '/etc/leasefs/team-a.token'
[defaults]
identity = 'own'
owner = 7
mode = '0440'
[file.own]
secret = 'secret/own#key'
[grant.'conf.d/a.toml']
identities = ['team-a']
own-identities = ['team-a-*']
names = ['team-a/']
owners = [2001, 'agent']
paths = ['/etc/leasefs/team-a']
";

struct Place {
    directory: tempfile::TempDir,
    environment: Environment,
}

impl Place {
    fn new(main: &str, files: &[(&str, &str)]) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let owner = fs::metadata(directory.path()).unwrap();
        let mut environment = environment();
        (environment.uid, environment.gid) = (owner.uid(), owner.gid());
        let place = Place { directory, environment };
        fs::create_dir(place.path("conf.d")).unwrap();
        place.write("main.toml", main);
        for (name, text) in files {
            place.write(name, text);
        }
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn load(&self) -> Result<(MountPlan, Kept), Complaints> {
        load_to_keep(&self.path("main.toml"), &self.environment.clone())
    }

    /// Everything that is said, with paths relative to the directory.
    fn said(&self) -> Vec<String> {
        let above = format!("{}/", self.directory.path().display());
        let said = match self.load() {
            Ok((plan, _)) => plan.warnings,
            Err(complaints) => complaints.iter().map(ToString::to_string).collect(),
        };
        said.into_iter().map(|line| line.replace(&above, "")).collect()
    }
}

#[test]
fn an_included_file_has_what_it_was_granted_and_begins_with_the_first_of_each() {
    let tenant = "\
[identity.team-a-ci]
method = 'approle'
role-id = 'r'
secret-id-file = '/etc/leasefs/team-a/secret-id'
[file.'team-a/one']
secret = 'secret/a#key'
[file.'team-a/two']
secret = 'secret/a#key'
owner = 'agent'
identity = 'team-a-ci'
mode = '0400'
[tree.'team-a/kv']
secret = 'secret/a/'
";
    let (plan, _) = Place::new(MAIN, &[("conf.d/a.toml", tenant)]).load().unwrap();
    assert_eq!(plan.names(), ["own", "team-a/kv", "team-a/one", "team-a/two"]);
    let who = |index: usize| {
        let spec = &plan.files[index].spec;
        let identity = plan.sources[spec.source.0 as usize].identity;
        (plan.identities[identity.0 as usize].name.as_str(), spec.rule.uid, spec.rule.mode.0)
    };
    assert_eq!(who(0), ("own", 7, 0o440), "the main file has its own defaults");
    assert_eq!(who(1), ("team-a", 2001, 0o440));
    assert_eq!(who(2), ("team-a-ci", 700, 0o400));
    let Method::AppRole { secret_id, .. } = &plan.identities[2].method else { panic!("{plan:?}") };
    assert_eq!(secret_id, &Some(CredentialSource::File("/etc/leasefs/team-a/secret-id".into())));
    assert_eq!(plan.warnings, [""; 0]);
}

#[test]
fn its_defaults_are_its_own() {
    let tenant = "[defaults]\nmode = '0444'\nowner = 'agent'\n[file.'team-a/x']\nsecret = 'secret/a#key'\n";
    let (plan, _) = Place::new(MAIN, &[("conf.d/a.toml", tenant)]).load().unwrap();
    let rules: Vec<_> = plan.files.iter().map(|file| (file.spec.rule.uid, file.spec.rule.mode.0)).collect();
    assert_eq!(rules, [(7, 0o440), (700, 0o444)]);
}

#[test]
fn the_keys_of_formats_are_inherited_like_the_others() {
    let main = MAIN.replace("[defaults]\n", "[defaults]\nformat = 'env'\ntrailing-newline = 'strip'\n");
    let tenant = "\
[file.'team-a/a']
secret = 'secret/a'
[file.'team-a/b']
secret = 'secret/a#/x/0'
format = 'yaml'
trailing-newline = 'add'
[dir.'team-a/c']
secret = 'secret/c'
names = { '/x/0' = 'x' }
[dir.'team-a/d']
secret = 'secret/d'
[tree.'team-a/e']
secret = 'secret/e/'
";
    let formats = |tenant: &str| -> Vec<(String, Format)> {
        let (plan, _) = Place::new(&main, &[("conf.d/a.toml", tenant)]).load().unwrap();
        let formats = plan.files.into_iter().map(|file| (file.spec.name.to_string(), file.format));
        formats.filter(|(name, _)| name.starts_with("team-a/")).collect()
    };
    let part = || FieldPath::parse("/x/0").unwrap();
    let (raw, env) = (Format::raw(part()).content, Content::Env { field: None });
    use TrailingNewline::{Add, Keep, Strip};
    let expected = |first: Content, other: TrailingNewline| {
        [
            ("team-a/a".to_owned(), Format { content: first, newline: other }),
            ("team-a/b".to_owned(), Format { content: Content::Yaml { field: Some(part()) }, newline: Add }),
            ("team-a/c/x".to_owned(), Format { content: raw.clone(), newline: other }),
        ]
    };
    assert_eq!(formats(tenant), expected(env, Strip));
    let own = format!("[defaults]\nformat = 'properties'\ntrailing-newline = 'keep'\n{tenant}");
    assert_eq!(formats(&own), expected(Content::Properties { field: None }, Keep));
}

#[test]
fn a_template_lies_where_it_was_granted_and_is_kept() {
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    fs::create_dir(at("team-a")).unwrap();
    for (name, text) in [("team-a/x.j2", "{{ a }}"), ("own", "{{ own }}"), ("alone.j2", "{{ a }}")] {
        fs::write(at(name), text).unwrap();
    }
    symlink("x.j2", at("team-a/in")).unwrap();
    symlink("../own", at("team-a/out")).unwrap();
    symlink("/etc/passwd", at("also.j2")).unwrap();
    symlink("/", at("root")).unwrap();
    symlink("/", at("team-a/root")).unwrap();
    let granted = ["team-a", "alone.j2", "also.j2", "root"].map(|name| format!("'{}'", at(name).display()));
    let main = MAIN.replace("'/etc/leasefs/team-a'", &granted.join(", "));
    let with = |name: &str| {
        let path = at(name).display().to_string();
        let tenant = format!("[file.'team-a/x']\nsecret = 'secret/a'\ntemplate-file = '{path}'\n");
        Place::new(&main, &[("conf.d/a.toml", &tenant)])
    };
    for name in ["team-a/x.j2", "team-a/in", "alone.j2"] {
        let place = with(name);
        let (plan, kept) = place.load().unwrap_or_else(|complaints| panic!("{complaints}"));
        let Content::Template(_) = plan.files[1].format.content else { panic!("{plan:?}") };
        drop(place);
        let kept: Kept = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
        fs::rename(at(name), at("gone")).unwrap();
        assert_eq!(kept.plan().unwrap(), plan, "{name}");
        fs::rename(at("gone"), at(name)).unwrap();
    }
    for name in ["team-a/out", "also.j2", "team-a/root/etc/passwd", "root/etc/passwd"] {
        let said = with(name).said();
        assert_eq!(said.len(), 1, "{name}\n{said:#?}");
        assert!(said[0].starts_with("conf.d/a.toml:3: file.\"team-a/x\".template-file: "), "{}", said[0]);
        assert!(said[0].contains("is a link out of "), "{name}: {}", said[0]);
    }
}

#[test]
fn what_was_not_granted_is_refused_with_what_the_main_file_would_have_to_say() {
    const FILE: &str = "[file.'team-a/x']\nsecret = 'secret/a#key'\n";
    let identity = |text: &str| {
        format!("[identity.{text}\n[file.'team-a/x']\nsecret = 'secret/a#key'\nidentity = 'team-a-x'")
    };
    let template = |path: &str| format!("[file.'team-a/x']\nsecret = 'secret/a'\ntemplate-file = '{path}'");
    for (text, place, fragment) in [
        (
            "[file.own2]\nsecret = 'secret/a#key'".to_owned(),
            "1: file.own2",
            "the name \"own2\" is not granted to this file: write a name below \"team-a/\", or have main.toml \
             grant it, with `names` in [grant.\"conf.d/a.toml\"]",
        ),
        (
            "[tree.team-ab]\nsecret = 'secret/a'".to_owned(),
            "1: tree.team-ab",
            "the name \"team-ab\" is not granted",
        ),
        (
            "[dir.tls]\nsecret = 'secret/a'\nnames = { a = 'b' }".to_owned(),
            "1: dir.tls",
            "the name \"tls\" is not granted",
        ),
        (
            format!("{FILE}identity = 'own'"),
            "3: file.\"team-a/x\".identity",
            "the identity \"own\" is not granted to this file: write \"team-a\", or have main.toml grant it, with \
             `identities` in",
        ),
        (
            format!("{FILE}owner = 0"),
            "3: file.\"team-a/x\".owner",
            "owner 0 is not granted to this file: write 2001 or 700,",
        ),
        (format!("[defaults]\nowner = 7\n{FILE}"), "3: file.\"team-a/x\".owner", "owner 7 is not granted"),
        (format!("{FILE}group = 12345"), "3: file.\"team-a/x\".group", "with `groups` in"),
        (
            identity("team-b]\nmethod = 'token'\ntoken-file = '/etc/leasefs/team-a/t'")
                .replace("team-a-x", "team-a"),
            "1: identity.team-b",
            "an identity of this name is not granted to this file: write \"team-a-*\", or",
        ),
        (
            identity("team-a-x]\nmethod = 'token'\ntoken-file = '/etc/leasefs/own.token'"),
            "1: identity.team-a-x",
            "the file \"/etc/leasefs/own.token\" is not granted",
        ),
        (
            identity("team-a-x]\nmethod = 'token'\ntoken-file = '/etc/leasefs/team-a/../own.token'"),
            "1: identity.team-a-x",
            "with `paths` in",
        ),
        (
            identity("team-a-x]\nmethod = 'token'"),
            "1: identity.team-a-x",
            "would log in with $VAULT_TOKEN, which is not this file's own",
        ),
        (
            template("/etc/leasefs/own.j2"),
            "3: file.\"team-a/x\".template-file",
            "the file \"/etc/leasefs/own.j2\" is not granted to this file: write \"/etc/leasefs/team-a\", or have \
             main.toml grant it, with `paths` in",
        ),
        (
            template("/etc/leasefs/team-a/../../passwd"),
            "3: file.\"team-a/x\".template-file",
            "\"/etc/leasefs/team-a/../../passwd\" is not granted",
        ),
        (
            template("/etc/leasefs/team-ab/x.j2"),
            "3: file.\"team-a/x\".template-file",
            "\"/etc/leasefs/team-ab/x.j2\" is not granted",
        ),
        (
            format!("[vault]\naddress = 'https://evil'\n{FILE}"),
            "1: vault",
            "is for all files: only main.toml has it",
        ),
        (format!("[mount]\nthreads = 2\n{FILE}"), "1: mount", "only main.toml has it"),
        (format!("include = ['x']\n{FILE}"), "1: include", "only main.toml includes files"),
        (format!("[grant.x]\nnames = ['/']\n{FILE}"), "1: grant", "only main.toml includes files"),
        (format!("[defaults]\ndir-mode = '0777'\n{FILE}"), "2: defaults.dir-mode", "only main.toml has it"),
        (format!("[metrics]\n{FILE}"), "1: metrics", "unknown key `metrics`"),
        (format!("{FILE}on-rotate = 'x'"), "3: file.\"team-a/x\".on-rotate", "unknown key"),
        ("[file.a\n".to_owned(), "1", "is not TOML"),
    ] {
        let said = Place::new(MAIN, &[("conf.d/a.toml", &text)]).said();
        assert_eq!(said.len(), 1, "{text}\n{said:#?}");
        assert!(said[0].starts_with(&format!("conf.d/a.toml:{place}:")), "{text}\n{}", said[0]);
        assert!(said[0].contains(fragment), "{text}\nexpected {fragment}\n{}", said[0]);
        assert!(!said[0].contains(MARKER), "{}", said[0]);
    }
}

#[test]
fn tenants_cant_take_each_others_names_identities_and_secrets() {
    let main = format!(
        "{MAIN}[identity.team-b]\nmethod = 'token'\ntoken-file = '/etc/leasefs/team-b.token'\n\
         [grant.'conf.d/b.toml']\nidentities = ['team-b']\nown-identities = ['*']\nnames = ['team-a/', 'team-b/']\n\
         paths = ['/etc/leasefs']\n"
    );
    let a = "[identity.team-a-x]\nmethod = 'token'\ntoken-file = '/etc/leasefs/team-a/t'\n\
             [file.'team-a/x']\nsecret = 'secret/a#key'\nidentity = 'team-a-x'\n";
    let file = |name: &str| format!("[file.'{name}']\nsecret = 'secret/b#key'\n");
    for (b, told) in [
        (
            file("team-a/x"),
            "conf.d/b.toml:1: file.\"team-a/x\": the name \"team-a/x\" is declared by file.\"team-a/x\" (line 4 of \
             conf.d/a.toml), too: choose another one",
        ),
        (file("team-a/x/y"), "conf.d/b.toml:1: file.\"team-a/x/y\": is at odds with"),
        (
            file("team-b/x") + "identity = 'team-a-x'",
            "conf.d/b.toml:3: file.\"team-b/x\".identity: the identity \"team-a-x\" is not granted to this file: \
             write \"team-b\", or have",
        ),
        (
            format!(
                "[identity.team-a-x]\nmethod = 'token'\ntoken-file = '/etc/leasefs/t'\n{}",
                file("team-b/x")
            ),
            "conf.d/b.toml:1: identity.team-a-x: is declared by identity.team-a-x (line 1 of conf.d/a.toml), too",
        ),
        (
            format!("[identity.own]\nmethod = 'token'\ntoken-file = '/etc/leasefs/t'\n{}", file("team-b/x")),
            "conf.d/b.toml:1: identity.own: is declared by identity.own (line 4 of main.toml), too",
        ),
    ] {
        let said = Place::new(&main, &[("conf.d/a.toml", a), ("conf.d/b.toml", &b)]).said();
        assert_eq!(said.len(), 1, "{b}\n{said:#?}");
        assert!(said[0].starts_with(told), "{b}\nexpected {told}\n{}", said[0]);
    }
}

#[test]
fn a_file_has_exactly_one_grant() {
    let files = [("conf.d/a.toml", "[file.'team-a/x']\nsecret = 'secret/a#key'\n")];
    let with = |pattern: &str| MAIN.replace("'conf.d/a.toml'", pattern);
    let said = Place::new(&with("'conf.d/b.toml'"), &files).said();
    assert!(
        said[0]
            .starts_with("conf.d/a.toml: is granted nothing: write [grant.\"conf.d/a.toml\"] in main.toml"),
        "{said:?}"
    );
    assert_eq!(Place::new(&with("'conf.d/*.toml'"), &files).said(), [""; 0]);
    let two = with("'conf.d/*.toml'") + "[grant.'conf.d/a*']\n";
    let said = Place::new(&two, &files).said();
    assert!(said[0].starts_with("conf.d/a.toml: is meant by more than one grant of main.toml"), "{said:?}");
    let exact = with("'conf.d/a.toml'") + "[grant.'conf.d/*.toml']\n";
    let said = Place::new(&exact, &files).said();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("a file that is not there"), "{said:?}");
}

#[test]
fn what_is_wrong_with_including_is_said_of_the_main_file() {
    for (line, place, fragment) in [
        ("include = ['../x.toml']", "1: include", "leads out of the directory of this file"),
        ("include = ['/etc/x.toml']", "1: include", "leads out of the directory of this file"),
        ("include = ['*/x.toml']", "1: include", "has a `*` before its last `/`"),
        ("include = [1]", "1: include", "is a number"),
        ("# nothing", "16: grant.\"conf.d/a.toml\"", "write `include = [\"FILE\"]` at the top"),
    ] {
        let main = MAIN.replace("include = ['conf.d/*.toml']", line);
        let said = Place::new(&main, &[]).said();
        assert_eq!(said.len(), 1, "{line}\n{said:#?}");
        assert!(said[0].starts_with(&format!("main.toml:{place}:")), "{line}\n{}", said[0]);
        assert!(said[0].contains(fragment), "{line}\n{}", said[0]);
    }
    let main = MAIN.replace("conf.d/*.toml", "conf.d/none.toml");
    assert!(Place::new(&main, &[]).said()[0].starts_with("conf.d/none.toml: is granted nothing"));
    let main = MAIN.replace("conf.d/*.toml", "conf.d/a.toml");
    assert!(Place::new(&main, &[]).said()[0].starts_with("conf.d/a.toml: does not exist"));
    let main = MAIN.replace("identities = ['team-a']", "identities = ['team-c']");
    let said = Place::new(&main, &[("conf.d/a.toml", "")]).said();
    assert!(
        said.iter().any(|line| line.contains("no [identity.team-c] is declared in this file")),
        "{said:?}"
    );
}

#[test]
fn a_configuration_that_was_kept_means_the_same_when_its_files_and_variables_are_gone() {
    let main = MAIN.replace("'/etc/leasefs/own.token'", "'${DIR}/own.token'");
    let tenant = "[file.'team-a/x']\nsecret = 'secret/${TEAM}#key'\nowner = 'agent'\n";
    let place = Place::new(&main, &[("conf.d/a.toml", tenant)]);
    let (plan, kept) = place.load().unwrap();
    drop(place);
    let text = serde_json::to_string(&kept).unwrap();
    assert!(!text.contains(MARKER), "{text}");
    let kept: Kept = serde_json::from_str(&text).unwrap();
    assert_eq!(kept.plan().unwrap(), plan);
}

#[test]
fn a_login_from_the_environment_is_kept_without_its_value() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.toml");
    fs::write(&path, "[file.a]\nsecret = 'secret/a#key'\n").unwrap();
    let owner = fs::metadata(&path).unwrap();
    let (plan, kept) = load_to_keep(&path, &environment_of(owner.uid())).unwrap();
    assert_eq!(kept.plan().unwrap(), plan);
    let text = serde_json::to_string(&kept).unwrap();
    assert!(text.contains("VAULT_TOKEN") && !text.contains(MARKER), "{text}");
}
