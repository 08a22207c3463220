//! Whether a token may more than its files need. Pure: it says what to ask Vault, and what the answers mean.
//!
//! Nobody can list the rules of a policy that one may not read, so Vault is asked about paths that nobody has:
//! beside the ones that are needed, and with one segment replaced by another.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::check::identity::{Capabilities, allows};
use crate::cli::check::report::some;
use crate::vault::engine::{ApiCall, Capability};

/// What the files of an identity need.
#[derive(Default)]
pub(super) struct Rights {
    calls: Vec<ApiCall>,
    /// Everything that begins like these, which end in a slash.
    below: Vec<ApiCall>,
}

/// A call that nobody needs.
struct Probe {
    call: ApiCall,
    /// The rule that would allow it, as a policy has it.
    pattern: String,
}

impl Rights {
    /// A call is needed.
    pub(super) fn need(&mut self, call: ApiCall) {
        self.calls.push(call);
    }

    /// All calls are needed whose path begins like this one's, which ends in a slash.
    pub(super) fn need_below(&mut self, start: ApiCall) {
        self.below.push(start);
    }

    /// The paths to ask about. `stranger` is a name that no secret has.
    pub(super) fn paths(&self, stranger: &str) -> Vec<String> {
        let needed = self.calls.iter().map(|call| call.path.clone());
        let within = self.below.iter().map(|start| within(start, stranger));
        let probes = self.probes(stranger).into_iter().map(|probe| probe.call.path);
        needed.chain(within).chain(probes).collect()
    }

    /// What there is to say of rights that are not needed.
    pub(super) fn remarks(&self, capabilities: &Capabilities, stranger: &str) -> Vec<String> {
        let mut remarks = self.wide(capabilities, stranger);
        remarks.extend(self.excess(capabilities, stranger));
        remarks
    }

    /// Rules that reach others' secrets.
    fn wide(&self, capabilities: &Capabilities, stranger: &str) -> Vec<String> {
        let mut allowed: BTreeMap<Capability, BTreeSet<String>> = BTreeMap::new();
        for Probe { call, pattern } in self.probes(stranger) {
            if allows(capabilities, &call) == Some(true) {
                allowed.entry(call.capability).or_default().insert(pattern);
            }
        }
        let remark = |(capability, patterns): (&Capability, &BTreeSet<String>)| {
            let widest: Vec<String> = patterns
                .iter()
                .filter(|one| !patterns.iter().any(|wide| reaches(wide, one)))
                .cloned()
                .collect();
            format!(
                "its policy allows {} of {}, more than its files need: `leasefs policy` prints what they do",
                capability.as_str(),
                some(&widest)
            )
        };
        allowed.iter().map(remark).collect()
    }

    /// Words in rules that are needed for something else.
    fn excess(&self, capabilities: &Capabilities, stranger: &str) -> Vec<String> {
        let needed = self.calls.iter().map(|call| call.path.clone());
        let within = self.below.iter().map(|start| within(start, stranger));
        let mut excess: BTreeMap<Vec<&str>, BTreeSet<String>> = BTreeMap::new();
        for path in needed.chain(within) {
            let Some(words) = capabilities.get(&path) else { continue };
            if words.iter().any(|word| word == "root" || word == "deny") {
                continue;
            }
            let is_needed = |word: &str| {
                self.calls.iter().any(|call| call.path == path && call.capability.as_str() == word)
                    || self
                        .below
                        .iter()
                        .any(|start| path.starts_with(&start.path) && start.capability.as_str() == word)
            };
            let mut extra: Vec<&str> =
                words.iter().map(String::as_str).filter(|word| !is_needed(word)).collect();
            extra.sort_unstable();
            if !extra.is_empty() {
                excess.entry(extra).or_default().insert(path.replace(stranger, "*"));
            }
        }
        let remark = |(words, paths): (Vec<&str>, BTreeSet<String>)| {
            let paths: Vec<String> = paths.into_iter().collect();
            format!(
                "its policy also allows {} of {}, which leasefs never does: leave that out",
                words.join(", "),
                some(&paths)
            )
        };
        excess.into_iter().map(remark).collect()
    }

    fn probes(&self, stranger: &str) -> Vec<Probe> {
        let mut probes = Vec::new();
        for ApiCall { path, capability } in self.calls.iter().chain(&self.below) {
            let slash = if *capability == Capability::List { "/" } else { "" };
            let segments: Vec<&str> = path.trim_end_matches('/').split('/').collect();
            let is_below = path.ends_with('/') && self.below.iter().any(|start| start.path == *path);
            let mut add = |path: String, pattern: String| {
                probes.push(Probe { call: ApiCall { path, capability: *capability }, pattern });
            };
            for end in 0..segments.len() {
                let above: String = segments[..end].iter().flat_map(|segment| [*segment, "/"]).collect();
                add(format!("{above}{stranger}{slash}"), format!("{above}*"));
            }
            let inner = if is_below { segments.len() } else { segments.len().saturating_sub(1) };
            for other in 1..inner {
                let with = |replaced: &'static str, by: &str| {
                    let mut segments = segments.clone();
                    segments[other] = if by.is_empty() { replaced } else { by };
                    segments.join("/")
                };
                let (path, pattern) = (with("", stranger), with("+", ""));
                if is_below {
                    add(format!("{path}/{stranger}{slash}"), format!("{pattern}/*"));
                } else {
                    add(format!("{path}{slash}"), pattern);
                }
            }
        }
        probes.retain(|probe| !self.is_needed(&probe.call));
        probes
    }

    fn is_needed(&self, call: &ApiCall) -> bool {
        self.calls.contains(call)
            || self
                .below
                .iter()
                .any(|start| start.capability == call.capability && call.path.starts_with(&start.path))
    }
}

/// A path within everything below `start`.
fn within(start: &ApiCall, stranger: &str) -> String {
    let slash = if start.capability == Capability::List { "/" } else { "" };
    format!("{}{stranger}{slash}", start.path)
}

/// Whether a wider pattern says all that another one says.
fn reaches(wide: &str, pattern: &str) -> bool {
    wide != pattern && wide.strip_suffix('*').is_some_and(|start| pattern.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Vault says of a path by these rules, each `PATTERN WORD…`, longest first.
    fn by_rules(paths: Vec<String>, rules: &[&str]) -> Capabilities {
        let fits = |pattern: &str, path: &str| match pattern.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => {
                let (pattern, path): (Vec<_>, Vec<_>) =
                    (pattern.split('/').collect(), path.split('/').collect());
                pattern.len() == path.len() && pattern.iter().zip(path).all(|(p, s)| *p == "+" || *p == s)
            }
        };
        let words = |path: &String| {
            let mut rules = rules.iter().map(|rule| rule.split(' '));
            let rule = rules.find_map(|mut rule| fits(rule.next().unwrap(), path).then_some(rule));
            rule.map_or_else(|| vec!["deny".to_owned()], |words| words.map(str::to_owned).collect())
        };
        paths.into_iter().map(|path| (path.clone(), words(&path))).collect()
    }

    fn remarks(calls: &[(&str, Capability)], below: &[(&str, Capability)], rules: &[&str]) -> Vec<String> {
        let call = |(path, capability): &(&str, Capability)| ApiCall {
            path: (*path).to_owned(),
            capability: *capability,
        };
        let mut rights = Rights::default();
        calls.iter().map(call).for_each(|call| rights.need(call));
        below.iter().map(call).for_each(|call| rights.need_below(call));
        let capabilities = by_rules(rights.paths("stranger"), rules);
        rights.remarks(&capabilities, "stranger")
    }

    use Capability::{List, Read, Update};

    #[test]
    fn the_least_rules_are_never_remarked_on() {
        assert_eq!(remarks(&[("s/data/a/b", Read)], &[], &["s/data/a/b read"]), [""; 0]);
        assert_eq!(remarks(&[("pki/issue/a", Update)], &[], &["pki/issue/a update"]), [""; 0]);
        let tree = [("s/metadata/a/", List), ("s/data/a/", Read)];
        let rules = ["s/metadata/a/* list", "s/data/a/* read"];
        assert_eq!(remarks(&[("s/metadata/a/", List), ("s/data/a/b", Read)], &tree, &rules), [""; 0]);
        let kv1 = [("old/", List), ("old/", Read)];
        assert_eq!(remarks(&[("old/", List), ("old/x", Read)], &kv1, &["old/* read list"]), [""; 0]);
    }

    #[test]
    fn a_rule_that_reaches_others_is_named_as_widely_as_it_goes() {
        for (rules, named) in [
            (&["s/data/tenants/a/* read"][..], "of s/data/tenants/a/*,"),
            (&["s/data/* read"], "of s/data/*,"),
            (&["* read"], "of *,"),
            (&["s/data/tenants/+/x read"], "of s/data/tenants/+/x,"),
        ] {
            let found = remarks(&[("s/data/tenants/a/x", Read)], &[], rules);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains("allows read") && found[0].contains(named), "{found:?}");
        }
        let tree = [("s/metadata/t/a/", List), ("s/data/t/a/", Read)];
        let rules = ["s/metadata/t/+/* list", "s/metadata/t/* list", "s/data/t/a/* read"];
        let found = remarks(&[("s/metadata/t/a/", List)], &tree, &rules);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("list of s/metadata/t/*,"), "{found:?}");
    }

    #[test]
    fn words_that_are_of_no_use_are_named_with_their_paths() {
        let rules = ["s/data/a create read sudo", "s/data/b create read sudo", "s/data/t/* read delete"];
        let calls = [("s/data/a", Read), ("s/data/b", Read)];
        let found = remarks(&calls, &[("s/data/t/", Read)], &rules);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("create, sudo of s/data/a, s/data/b,"), "{found:?}");
        assert!(found[1].contains("delete of s/data/t/*,"), "{found:?}");
    }
}
