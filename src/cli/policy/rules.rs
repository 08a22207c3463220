//! What a policy must allow: from a plan, and the engines that serve its paths, to rules.
//!
//! Pure: who has asked Vault passes what it said. Invariants:
//! - *no rule without a need*: each names the files, or the duty of leasefs, that fail without it;
//! - *Vault takes the most specific pattern alone* and adds nothing of the others to it: so a rule within a
//!   wider one that allows as much is left out, and one within a wider one that allows more takes that over.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::cli::check::names_of_source;
use crate::config::plan::{Method, MountPlan};
use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::error::Failure;
use crate::core::name::{IdentityId, SourceId, VaultPath};
use crate::core::policy::Renew;
use crate::core::source::SourceSpec;
use crate::core::tree::TreeSpec;
use crate::vault::EngineMount;
use crate::vault::engine::{Capability, list_call, read_call};

/// What stands between the mount and the name of a secret in the API of KV version 2.
const SECTIONS: [&str; 7] =
    ["data", "metadata", "detailed-metadata", "subkeys", "delete", "undelete", "destroy"];

/// Engines that give out nothing with a lease.
const WITHOUT_LEASES: [&str; 3] = ["transit", "totp", "identity"];

/// Why there are no rules for a plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum RuleError {
    /// The configuration asks for what the engine does not have.
    #[error("{names}: {}", failure.reason)]
    AtOdds {
        /// The files.
        names: String,
        /// What is wrong, and what to write instead.
        failure: Failure,
    },
    /// A path can't be both needed and denied.
    #[error("--deny {denied} would take away what {names} needs: leave the one or the other out")]
    Needed {
        /// As it was given.
        denied: String,
        /// Who needs it.
        names: String,
    },
}

/// The least policy of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// What its files need.
    pub files: Vec<Rule>,
    /// What leasefs asks for on its own behalf.
    pub own: Vec<Rule>,
    /// What is denied, whatever wider rules of other policies say.
    pub denied: Vec<Denial>,
}

/// A pattern of paths and what is allowed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// A path of the API without `/v1/`; a `*` at its end stands for anything.
    pub pattern: String,
    /// What is allowed.
    pub capabilities: BTreeSet<Capability>,
    /// Who needs it: names in the tree, or duties.
    pub needed_by: BTreeSet<String>,
    /// What to know of it.
    pub notes: BTreeSet<String>,
}

/// A pattern of paths on which nothing is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    /// The pattern.
    pub pattern: String,
    /// The argument that it stands for.
    pub argument: String,
}

/// A path of `--deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeniedPath {
    /// As it was given.
    pub argument: String,
    /// The path before the `*`; `None`: everything.
    pub path: Option<VaultPath>,
    /// What stands for anything: `*` for all that begins like the path, `/*` for all below it, or nothing.
    pub rest: &'static str,
}

impl DeniedPath {
    /// Takes a path; one that ends in `/` means what is below it, one that ends in `*` what begins like it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(argument: &str) -> Result<DeniedPath, String> {
        let text = argument.strip_prefix('/').unwrap_or(argument);
        let (text, rest) = match (text.strip_suffix("/*").or(text.strip_suffix('/')), text.strip_suffix('*'))
        {
            (Some(path), _) => (path, "/*"),
            (None, Some(path)) => (path, "*"),
            (None, None) => (text, ""),
        };
        let path = match (text, rest) {
            ("", "*") => None,
            _ => Some(VaultPath::new(text).map_err(|error| format!("--deny {argument}: the path {error}"))?),
        };
        Ok(DeniedPath { argument: argument.to_owned(), path, rest })
    }
}

/// Which paths Vault must be asked about before rules can be made: whose engine, or the place where it is
/// mounted, nobody has declared.
pub(super) fn open_questions(plan: &MountPlan, identity: IdentityId) -> BTreeSet<VaultPath> {
    let sources = plan.sources.iter().filter(|source| source.identity == identity);
    let sources = sources.map(|source| (&source.request.path, source.request.engine));
    let trees = plan.trees.iter().filter(|tree| tree.identity == identity);
    let trees = trees.map(|tree| (&tree.prefix, tree.engine));
    let open = sources.chain(trees).filter(|(path, engine)| match engine {
        EngineHint::Auto => true,
        EngineHint::Kv2 => !has_section(path),
        EngineHint::Kv1 | EngineHint::Other => false,
    });
    open.map(|(path, _)| path.clone()).collect()
}

/// The least policy that an identity needs. `mounts` is what Vault has said of the engines of paths.
///
/// # Errors
/// [`RuleError`].
pub(super) fn policy(
    plan: &MountPlan,
    identity: IdentityId,
    mounts: &BTreeMap<VaultPath, EngineMount>,
    denied: &[DeniedPath],
) -> Result<Policy, RuleError> {
    let mut needs = Needs { mounts, rules: BTreeMap::new() };
    let sources = plan.sources.iter().enumerate().filter(|(_, source)| source.identity == identity);
    let mut leased = Vec::new();
    for (index, source) in sources {
        let names = names_of_source(plan, SourceId(index as u32));
        needs.source(source, &names)?;
        if needs.may_lease(&source.request) {
            leased.push((source.policy.renew, names));
        }
    }
    for tree in plan.trees.iter().filter(|tree| tree.identity == identity) {
        needs.tree(tree);
    }
    let method = plan.identities.get(identity.0 as usize).map(|identity| &identity.method);
    let own = own_rules(method, &leased);
    let denied: Vec<Denial> = denied.iter().flat_map(|denied| denials(denied, mounts)).collect();
    let files = without_superfluous(needs.rules.into_values());
    for Denial { pattern, argument } in &denied {
        if let Some(rule) = files.iter().chain(&own).find(|rule| rule.pattern == *pattern) {
            let names: Vec<&str> = rule.needed_by.iter().map(String::as_str).collect();
            return Err(RuleError::Needed { denied: argument.clone(), names: names.join(", ") });
        }
    }
    Ok(Policy { files, own, denied })
}

/// What is needed, by pattern.
struct Needs<'a> {
    mounts: &'a BTreeMap<VaultPath, EngineMount>,
    rules: BTreeMap<String, Rule>,
}

impl Needs<'_> {
    fn source(&mut self, spec: &SourceSpec, names: &[String]) -> Result<(), RuleError> {
        let request = &spec.request;
        let mount = self.mounts.get(&request.path);
        let call = |mount: Option<&EngineMount>, request: &ReadRequest| {
            read_call(mount, request)
                .map_err(|failure| RuleError::AtOdds { names: names.join(", "), failure })
        };
        let mut calls = vec![call(mount, request)?];
        if mount.is_none() && request.engine == EngineHint::Auto && request.params.is_none() {
            let kv2 = ReadRequest { engine: EngineHint::Kv2, ..request.clone() };
            let as_kv2 = call(None, &kv2)?;
            if request.version.is_some() {
                // Nothing else has versions.
                calls.clear();
            }
            calls.push(as_kv2);
            calls.dedup();
        }
        let note = doubt(mount, request.engine, &request.path, calls.len());
        for call in calls {
            self.add(call.path, call.capability, names, note.as_deref());
        }
        Ok(())
    }

    fn tree(&mut self, spec: &TreeSpec) {
        let names = [format!("{}/", spec.name)];
        let known = self.mounts.get(&spec.prefix);
        let as_kv1 = EngineMount { path: String::new(), kind: "kv".to_owned(), kv_version: Some(1) };
        let as_kv2 = guessed_kv2(&spec.prefix);
        let forms = match (known, spec.engine) {
            (Some(mount), EngineHint::Auto | EngineHint::Kv2 | EngineHint::Other) => vec![mount],
            (_, EngineHint::Kv1) => vec![&as_kv1],
            (None, EngineHint::Kv2) => vec![&as_kv2],
            (None, EngineHint::Auto | EngineHint::Other) if has_section(&spec.prefix) => vec![&as_kv2],
            (None, EngineHint::Auto | EngineHint::Other) => vec![&as_kv1, &as_kv2],
        };
        let note = doubt(known, spec.engine, &spec.prefix, forms.len());
        for mount in forms {
            let list = list_call(Some(mount), &spec.prefix);
            let below = mount.canonical(&spec.prefix);
            self.add(format!("{}*", list.path), list.capability, &names, note.as_deref());
            self.add(format!("{below}/*"), Capability::Read, &names, note.as_deref());
        }
    }

    fn add(&mut self, pattern: String, capability: Capability, names: &[String], note: Option<&str>) {
        let rule = self.rules.entry(pattern.clone()).or_insert_with(|| Rule::nothing(pattern));
        rule.capabilities.insert(capability);
        rule.needed_by.extend(names.iter().cloned());
        rule.notes.extend(note.map(str::to_owned));
    }

    /// Whether what is read may come with a lease.
    fn may_lease(&self, request: &ReadRequest) -> bool {
        match (request.engine, self.mounts.get(&request.path)) {
            (EngineHint::Kv1 | EngineHint::Kv2, _) => false,
            (EngineHint::Auto | EngineHint::Other, Some(mount)) => {
                !mount.mints_nothing_at(&request.path) && !WITHOUT_LEASES.contains(&mount.kind.as_str())
            }
            (EngineHint::Auto, None) if request.version.is_some() || has_section(&request.path) => false,
            // By its second segment; a deeper mount is seldom, and a rule too many is no harm.
            (EngineHint::Auto | EngineHint::Other, None) => {
                let section = request.path.segments().nth(1);
                !matches!(section, Some("static-creds" | "static-cred"))
            }
        }
    }
}

impl Rule {
    fn nothing(pattern: String) -> Rule {
        let notes = wildcards(&pattern).into_iter().collect();
        Rule { pattern, capabilities: BTreeSet::new(), needed_by: BTreeSet::new(), notes }
    }

    fn own(path: &str, capability: Capability, duty: impl Into<String>) -> Rule {
        let mut rule = Rule::nothing(path.to_owned());
        rule.capabilities.insert(capability);
        rule.needed_by.insert(duty.into());
        rule
    }

    /// Whether all paths of `other` are paths of this one.
    fn covers(&self, other: &Rule) -> bool {
        let Some(start) = self.pattern.strip_suffix('*') else { return false };
        self.pattern != other.pattern && other.pattern.starts_with(start)
    }
}

/// Leaves out what wider rules allow, and gives the rest what wider rules allow besides. Sorted.
fn without_superfluous(rules: impl Iterator<Item = Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = rules.collect();
    rules.sort_by_key(|rule| rule.pattern.len());
    let mut kept: Vec<Rule> = Vec::new();
    for mut rule in rules {
        // The last one is the longest.
        match kept.iter_mut().rfind(|wider| wider.covers(&rule)) {
            Some(wider) if wider.capabilities.is_superset(&rule.capabilities) => {
                wider.needed_by.append(&mut rule.needed_by);
            }
            Some(wider) => {
                rule.capabilities.extend(&wider.capabilities);
                kept.push(rule);
            }
            None => kept.push(rule),
        }
    }
    kept.sort_by(|a, b| a.pattern.cmp(&b.pattern));
    kept
}

/// What leasefs asks for on its own behalf. `leased` is what may come with a lease, and its names.
fn own_rules(method: Option<&Method>, leased: &[(Renew, Vec<String>)]) -> Vec<Rule> {
    let mut own = Vec::new();
    let names = |wanted: &dyn Fn(Renew) -> bool| {
        let names = leased.iter().filter(|(renew, _)| wanted(*renew)).flat_map(|(_, names)| names);
        names.map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let all = names(&|_| true);
    let renewed = names(&|renew| renew != Renew::Never);
    if !renewed.is_empty() {
        let duty = format!("to renew the leases of {renewed}");
        own.push(Rule::own("sys/leases/renew", Capability::Update, duty));
    }
    if !all.is_empty() {
        let duty = format!("to notice that somebody revoked a lease in Vault: {all}");
        own.push(Rule::own("sys/leases/lookup", Capability::Update, duty));
        let duty = format!(
            "to give leases back when they are replaced, by `leasefs revoke` and at unmount: {all}; not in the \
             `default` policy"
        );
        own.push(Rule::own("sys/leases/revoke", Capability::Update, duty));
    }
    own.push(Rule::own("auth/token/renew-self", Capability::Update, "to keep its token alive"));
    match method {
        Some(Method::Token { .. }) => {
            let duty = "to find out how long the token that it was given lives";
            own.push(Rule::own("auth/token/lookup-self", Capability::Read, duty));
        }
        _ => {
            let duty = "to end its token at unmount, and all that came with it";
            own.push(Rule::own("auth/token/revoke-self", Capability::Update, duty));
        }
    }
    own.push(Rule::own(
        "sys/capabilities-self",
        Capability::Update,
        "for `leasefs check`, which asks what the policy allows",
    ));
    own
}

/// The patterns that deny a path in all its forms.
fn denials(denied: &DeniedPath, mounts: &BTreeMap<VaultPath, EngineMount>) -> Vec<Denial> {
    let denial = |pattern: String| Denial { pattern, argument: denied.argument.clone() };
    let Some(path) = &denied.path else { return vec![denial(denied.rest.to_owned())] };
    let rest = denied.rest;
    let as_given = denial(format!("{path}{rest}"));
    let known = mounts.get(path);
    let guess = guessed_kv2(path);
    let mount = match known {
        Some(mount) if !mount.is_kv2() => return vec![as_given],
        Some(mount) => mount,
        None => &guess,
    };
    let below = path.as_str().strip_prefix(mount.path.as_str()).unwrap_or_default().trim_start_matches('/');
    if below.split('/').next().is_some_and(|first| SECTIONS.contains(&first)) {
        return vec![as_given];
    }
    let slash = if below.is_empty() { "" } else { "/" };
    // Nothing but the mount itself: all that is below it, whatever it is.
    let in_sections = SECTIONS
        .iter()
        .filter(|_| !below.is_empty())
        .map(|section| denial(format!("{}/{section}{slash}{below}{rest}", mount.path)));
    let as_given = (known.is_none() || below.is_empty()).then_some(as_given);
    as_given.into_iter().chain(in_sections).collect()
}

/// Whether the path says itself that it is KV version 2, and where that is mounted.
fn has_section(path: &VaultPath) -> bool {
    path.segments().skip(1).any(|segment| segment == "data")
}

/// Where a KV version 2 engine is mounted if nobody says so: before a `data`, else in the first segment.
fn guessed_kv2(path: &VaultPath) -> EngineMount {
    let segments: Vec<&str> = path.segments().collect();
    let end = segments.iter().skip(1).position(|segment| *segment == "data").map_or(1, |at| at + 1);
    EngineMount { path: segments[..end].join("/"), kind: "kv".to_owned(), kv_version: Some(2) }
}

/// What to say of a rule for an engine that was guessed.
fn doubt(mount: Option<&EngineMount>, engine: EngineHint, path: &VaultPath, forms: usize) -> Option<String> {
    if mount.is_some() || has_section(path) {
        return None;
    }
    match engine {
        EngineHint::Auto if forms > 1 => Some(format!(
            "nobody said which engine serves {path}: keep one of its two forms, the one with `data/` and \
             `metadata/` for KV version 2, or write `engine` in the configuration"
        )),
        EngineHint::Kv2 | EngineHint::Auto if path.segments().nth(2).is_some() => Some(format!(
            "the engine is taken to be mounted at {}/: correct it if it is not",
            guessed_kv2(path).path
        )),
        EngineHint::Auto | EngineHint::Kv1 | EngineHint::Kv2 | EngineHint::Other => None,
    }
}

/// What to say of a path that Vault takes for more than it is, since policies have no escapes.
fn wildcards(pattern: &str) -> Option<String> {
    let path = pattern.strip_suffix("/*").unwrap_or(pattern);
    let takes = if path.ends_with('*') {
        "a * at the end for anything"
    } else if path.split('/').any(|segment| segment == "+") {
        "a + for any one segment"
    } else if path.contains("{{") {
        "braces for a template"
    } else {
        return None;
    };
    Some(format!("Vault takes {takes}, and policies have no way to say otherwise: rename the secret"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Environment};

    fn plan(text: &str) -> MountPlan {
        let environment = Environment::fixed(1000, 1000).with_variables([("VAULT_TOKEN", "marker")]);
        config::parse(text, Path::new("agent.toml"), &environment).unwrap()
    }

    /// Vault's word on the paths: `PATH=KIND@MOUNT`, `kv1` and `kv2` for the versions of KV.
    fn mounts(words: &[&str]) -> BTreeMap<VaultPath, EngineMount> {
        let mount = |word: &&str| {
            let (path, engine) = word.split_once('=').unwrap();
            let (kind, at) = engine.split_once('@').unwrap();
            let (kind, kv_version) = match kind {
                "kv1" => ("kv", Some(1)),
                "kv2" => ("kv", Some(2)),
                kind => (kind, None),
            };
            let mount = EngineMount { path: at.to_owned(), kind: kind.to_owned(), kv_version };
            (VaultPath::new(path).unwrap(), mount)
        };
        words.iter().map(mount).collect()
    }

    fn shown(rules: &[Rule]) -> Vec<String> {
        let words = |rule: &Rule| {
            let capabilities: Vec<&str> = rule.capabilities.iter().map(|one| one.as_str()).collect();
            format!("{} {}", rule.pattern, capabilities.join("+"))
        };
        rules.iter().map(words).collect()
    }

    #[track_caller]
    fn files(text: &str, known: &[&str]) -> Vec<String> {
        shown(&policy(&plan(text), IdentityId(0), &mounts(known), &[]).unwrap().files)
    }

    #[test]
    fn each_engine_is_read_in_its_own_way() {
        for (secret, known, rules) in [
            ("secret = 'secret/a/b#x'", "secret/a/b=kv2@secret", &["secret/data/a/b read"][..]),
            ("secret = 'secret/data/a/b#x'", "secret/data/a/b=kv2@secret", &["secret/data/a/b read"]),
            ("secret = 'secret/a#x'\nversion = 3", "secret/a=kv2@secret", &["secret/data/a read"]),
            ("secret = 'team/kv/a#x'", "team/kv/a=kv2@team/kv", &["team/kv/data/a read"]),
            ("secret = 'old/a#x'", "old/a=kv1@old", &["old/a read"]),
            ("secret = 'old/a#x'\nengine = 'kv1'", "x=kv1@x", &["old/a read"]),
            ("secret = 'db/creds/r#x'", "db/creds/r=database@db", &["db/creds/r read"]),
            ("secret = 'db/creds/r#x'\nengine = 'other'", "x=kv1@x", &["db/creds/r read"]),
            (
                "secret = 'pki/issue/r#x'\nparams = { common_name = 'a' }",
                "pki/issue/r=pki@pki",
                &["pki/issue/r update"],
            ),
        ] {
            assert_eq!(files(&format!("[file.a]\n{secret}"), &[known]), rules, "{secret}");
        }
    }

    #[test]
    fn a_tree_lists_and_reads_all_below_it() {
        for (secret, known, rules) in [
            (
                "secret = 'secret/a/'",
                "secret/a=kv2@secret",
                &["secret/data/a/* read", "secret/metadata/a/* list"][..],
            ),
            ("secret = 'secret/'", "secret=kv2@secret", &["secret/data/* read", "secret/metadata/* list"]),
            (
                "secret = 'secret/data/data'",
                "secret/data/data=kv2@secret",
                &["secret/data/data/* read", "secret/metadata/data/* list"],
            ),
            ("secret = 'old/a'", "old/a=kv1@old", &["old/a/* read+list"]),
            ("secret = 'old'\nengine = 'kv1'", "x=kv1@x", &["old/* read+list"]),
        ] {
            assert_eq!(files(&format!("[tree.a]\n{secret}"), &[known]), rules, "{secret}");
        }
    }

    #[test]
    fn what_nobody_could_say_is_printed_in_both_forms_with_a_note() {
        let both = "[file.a]\nsecret = 'secret/a/b#x'\n[tree.t]\nsecret = 'secret/t'";
        let found = policy(&plan(both), IdentityId(0), &BTreeMap::new(), &[]).unwrap();
        let rules = [
            "secret/a/b read",
            "secret/data/a/b read",
            "secret/data/t/* read",
            "secret/metadata/t/* list",
            "secret/t/* read+list",
        ];
        assert_eq!(shown(&found.files), rules);
        assert!(found.files.iter().all(|rule| rule.notes.iter().any(|note| note.contains("keep one"))));

        for (secret, rules) in [
            ("secret = 'secret/data/a#x'", &["secret/data/a read"][..]),
            ("secret = 'secret/a#x'\nversion = 2", &["secret/data/a read"]),
            ("secret = 'secret/a#x'\nengine = 'kv2'", &["secret/data/a read"]),
            ("secret = 'pki/issue/a#x'\nparams = {}", &["pki/issue/a update"]),
        ] {
            assert_eq!(files(&format!("[file.a]\n{secret}"), &[]), rules, "{secret}");
        }
        let deep = plan("[file.a]\nsecret = 'team/kv/a#x'\nengine = 'kv2'");
        let deep = policy(&deep, IdentityId(0), &BTreeMap::new(), &[]).unwrap();
        assert!(deep.files[0].notes.iter().any(|note| note.contains("mounted at team/")), "{deep:?}");
    }

    #[test]
    fn only_what_nobody_declared_is_asked_about() {
        let text = "[file.a]\nsecret = 'x/a'\n[file.b]\nsecret = 'x/b'\nengine = 'kv1'\n\
                    [file.c]\nsecret = 'x/c'\nengine = 'kv2'\n[file.d]\nsecret = 'x/data/d'\nengine = 'kv2'\n\
                    [file.e]\nsecret = 'x/e'\nengine = 'other'\n[tree.t]\nsecret = 'x/t'";
        let open: Vec<String> =
            open_questions(&plan(text), IdentityId(0)).iter().map(ToString::to_string).collect();
        assert_eq!(open, ["x/a", "x/c", "x/t"]);
    }

    #[test]
    fn a_rule_within_a_wider_one_is_left_out_or_allows_as_much() {
        let rule = |pattern: &str, capabilities: &[Capability], name: &str| Rule {
            pattern: pattern.to_owned(),
            capabilities: capabilities.iter().copied().collect(),
            needed_by: [name.to_owned()].into(),
            notes: BTreeSet::new(),
        };
        use Capability::{List, Read, Update};
        let rules = [
            rule("old/*", &[List, Read], "tree"),
            rule("old/a", &[Read], "file"),
            rule("old/deep/*", &[Read], "deeper"),
            rule("old/write", &[Update], "writer"),
            rule("older", &[Read], "other"),
        ];
        let kept = without_superfluous(rules.into_iter());
        assert_eq!(shown(&kept), ["old/* read+list", "old/write read+update+list", "older read"]);
        let names: Vec<&str> = kept[0].needed_by.iter().map(String::as_str).collect();
        assert_eq!(names, ["deeper", "file", "tree"]);
    }

    #[test]
    fn leasefs_asks_for_itself_what_its_token_and_its_leases_take() {
        let own = |identity: &str, file: &str, known: &[&str]| {
            let text = format!("[identity.default]\n{identity}\n[file.a]\n{file}");
            let own = policy(&plan(&text), IdentityId(0), &mounts(known), &[]).unwrap().own;
            own.into_iter().map(|rule| rule.pattern).collect::<Vec<_>>()
        };
        let approle = "method = 'approle'\nrole-id = 'x'\nsecret-id-file = '/x'";
        let given = ["auth/token/renew-self", "auth/token/lookup-self", "sys/capabilities-self"];
        let ours = ["auth/token/renew-self", "auth/token/revoke-self", "sys/capabilities-self"];
        let leases = ["sys/leases/renew", "sys/leases/lookup", "sys/leases/revoke"];
        let (kv, database) = (["s/a=kv2@s"], ["db/creds/r=database@db", "db/static-creds/r=database@db"]);
        assert_eq!(own("method = 'token'", "secret = 's/a'", &kv), given);
        assert_eq!(own(approle, "secret = 's/a'", &kv), ours);
        assert_eq!(own(approle, "secret = 'db/static-creds/r'", &database), ours);
        assert_eq!(own(approle, "secret = 'db/creds/r'", &database), [&leases[..], &ours].concat());
        assert_eq!(
            own(approle, "secret = 'db/creds/r'\nrenew = 'never'", &database),
            [&leases[1..], &ours].concat()
        );
        assert_eq!(own(approle, "secret = 'db/static-creds/r'\nengine = 'other'", &[]), ours);
    }

    #[test]
    fn a_denied_path_is_denied_in_all_its_forms() {
        let known = mounts(&["secret/b=kv2@secret", "old/b=kv1@old", "secret=kv2@secret"]);
        let patterns = |argument: &str| {
            let denied = DeniedPath::new(argument).unwrap();
            denials(&denied, &known).into_iter().map(|one| one.pattern).collect::<Vec<_>>()
        };
        let kv2 = |rest: &str| SECTIONS.map(|section| format!("secret/{section}/b{rest}")).to_vec();
        assert_eq!(patterns("secret/b"), kv2(""));
        assert_eq!(patterns("/secret/b/"), kv2("/*"));
        assert_eq!(patterns("secret/b*"), kv2("*"));
        assert_eq!(patterns("secret/data/c/*"), ["secret/data/c/*"]);
        assert_eq!(patterns("secret/"), ["secret/*"]);
        assert_eq!(patterns("old/b"), ["old/b"]);
        assert_eq!(patterns("*"), ["*"]);
        assert_eq!(patterns("new/c").len(), 1 + SECTIONS.len(), "nobody knows what it is");
        for wrong in ["", "/", "a//b", "a/../b", "//*"] {
            assert!(DeniedPath::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_needed_cannot_be_denied_and_what_is_beside_it_can() {
        let plan = plan("[file.a]\nsecret = 'old/a#x'\nengine = 'kv1'");
        let denied = |argument| {
            policy(&plan, IdentityId(0), &mounts(&["old/a=kv1@old"]), &[DeniedPath::new(argument).unwrap()])
        };
        let error = denied("old/a").unwrap_err().to_string();
        assert!(error.contains("--deny old/a") && error.contains("what a needs"), "{error}");
        assert_eq!(denied("old/*").map(|policy| policy.denied.len()), Ok(1), "the longer pattern counts");
    }

    #[test]
    fn what_the_engine_does_not_have_is_said_of_the_file() {
        let text = "[file.a]\nsecret = 'old/a#x'\nversion = 2";
        let error = policy(&plan(text), IdentityId(0), &mounts(&["old/a=kv1@old"]), &[]).unwrap_err();
        assert!(error.to_string().starts_with("a: old/a has no versions"), "{error}");
    }

    #[test]
    fn a_path_that_vault_takes_for_a_pattern_is_remarked_on() {
        for (pattern, told) in
            [("s/a*", "a * at the end"), ("s/+/a", "a + for"), ("s/{{a}}", "a template"), ("s/a**", "a *")]
        {
            assert!(wildcards(pattern).is_some_and(|note| note.contains(told)), "{pattern}");
        }
        assert_eq!(wildcards("s/a+b/*"), None);
    }
}
