//! The keys that `[defaults]` and every file, directory and tree share: who may read, and how long what was
//! read is kept.

use std::time::Duration;

use toml::de::DeValue;

use crate::config::environment::Environment;
use crate::config::file::{Section, Slot};
use crate::config::report::{Place, Report};
use crate::config::value::{self, ModeOf};
use crate::core::access::{Mode, Rule};
use crate::core::effect::EngineHint;
use crate::core::policy::{OnIdle, Readers, Renew, SourcePolicy};
use crate::core::tree::OnExpiry;

/// The values of `renew`, the default first.
pub(super) const RENEW: [(&str, Renew); 3] =
    [("in-use", Renew::InUse), ("always", Renew::Always), ("never", Renew::Never)];
/// The values of `on-idle`, the default first.
pub(super) const ON_IDLE: [(&str, OnIdle); 2] = [("lapse", OnIdle::Lapse), ("revoke", OnIdle::Revoke)];
/// The values of `engine`.
pub(super) const ENGINE: [(&str, EngineHint); 3] =
    [("kv1", EngineHint::Kv1), ("kv2", EngineHint::Kv2), ("other", EngineHint::Other)];
const ON_EXPIRY: [(&str, OnExpiry); 2] = [("refetch", OnExpiry::Refetch), ("vanish", OnExpiry::Vanish)];
const FORMAT: [(&str, Shape); 2] = [("raw", Shape::Raw), ("json", Shape::Json)];

const MINUTE: Duration = Duration::from_secs(60);
const PIN: Duration = Duration::from_secs(5);

/// The values of `format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One field as it is.
    Raw,
    /// JSON text.
    Json,
}

/// What was written under the shared keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub owner: Slot<u32>,
    pub group: Slot<u32>,
    pub mode: Slot<Mode>,
    pub max_age: Slot<Duration>,
    pub grace: Slot<Duration>,
    pub renew: Slot<Renew>,
    pub required: Slot<bool>,
    pub idle_timeout: Slot<Duration>,
    pub on_idle: Slot<OnIdle>,
    pub on_expiry: Slot<OnExpiry>,
    pub pin: Slot<Duration>,
    pub engine: Slot<EngineHint>,
    pub identity: Slot<String>,
    /// Not inherited by [`Keys::over`]: what it means depends on what has it.
    pub format: Slot<Shape>,
}

impl Keys {
    /// Reads the shared keys of a table.
    pub fn read(section: &Section<'_>, environment: &Environment) -> Keys {
        let span = |key: &'static str| section.read(key, |found| value::duration(key, found));
        Keys {
            owner: section.read("owner", |found| account("owner", found, |name| environment.user(name))),
            group: section.read("group", |found| account("group", found, |name| environment.group(name))),
            mode: section.read("mode", |found| value::mode("mode", found, ModeOf::File)),
            max_age: span("max-age"),
            grace: span("grace"),
            renew: section.read("renew", |found| value::choice("renew", found, &RENEW)),
            required: section.flag("required"),
            idle_timeout: span("idle-timeout"),
            on_idle: section.read("on-idle", |found| value::choice("on-idle", found, &ON_IDLE)),
            pin: span("pin"),
            on_expiry: section.read("on-expiry", |found| value::choice("on-expiry", found, &ON_EXPIRY)),
            engine: section.read("engine", |found| value::choice("engine", found, &ENGINE)),
            identity: section.text("identity").and_then(section.report, |name| Ok(name.to_owned())),
            format: section.read("format", |found| value::choice("format", found, &FORMAT)),
        }
    }

    /// These keys, with those of `[defaults]` where nothing was written.
    pub fn over(self, defaults: &Keys) -> Keys {
        Keys {
            owner: self.owner.or(&defaults.owner),
            group: self.group.or(&defaults.group),
            mode: self.mode.or(&defaults.mode),
            max_age: self.max_age.or(&defaults.max_age),
            grace: self.grace.or(&defaults.grace),
            renew: self.renew.or(&defaults.renew),
            required: self.required.or(&defaults.required),
            idle_timeout: self.idle_timeout.or(&defaults.idle_timeout),
            on_idle: self.on_idle.or(&defaults.on_idle),
            on_expiry: self.on_expiry.or(&defaults.on_expiry),
            pin: self.pin.or(&defaults.pin),
            engine: self.engine.or(&defaults.engine),
            identity: self.identity.or(&defaults.identity),
            format: self.format,
        }
    }

    /// Who may read it.
    pub fn rule(&self, environment: &Environment) -> Rule {
        Rule {
            uid: self.owner.unwrap_or(environment.uid),
            gid: self.group.unwrap_or(environment.gid),
            mode: self.mode.unwrap_or(Mode(0o400)),
        }
    }

    /// How long what was read is kept.
    pub fn policy(&self) -> SourcePolicy {
        SourcePolicy {
            renew: match self.is_required() {
                true => Renew::Required,
                false => self.renew.unwrap_or(Renew::InUse),
            },
            max_age: self.max_age.unwrap_or(MINUTE),
            grace: self.grace.unwrap_or(MINUTE),
            idle_timeout: self.idle_timeout.get().copied(),
            on_idle: self.on_idle.unwrap_or(OnIdle::Lapse),
            pin: self.pin.unwrap_or(PIN),
            readers: Readers::Forgotten,
        }
    }

    /// Whether it is fetched before the mount is ready, and kept live.
    pub fn is_required(&self) -> bool {
        self.required.unwrap_or(false)
    }

    /// Complains about keys of the table at `place` that let go of what is required.
    pub fn check_required(&self, place: &Place, report: &Report) {
        let Some(required) = self.required.word().filter(|word| word.value) else { return };
        let at_odds = |key: &str, written: &Place, does: &str| {
            // The one of the two that stands in this table.
            let place = match written.key == place.child(key).key {
                true => written.clone(),
                false => place.of_key("required", Some(&required.place)),
            };
            let advice = "write `required = false`, or leave the other one out";
            report.complain(&place, format!("`required = true` keeps it live, and `{key} {does}: {advice}"));
        };
        if let Some(word) = self.renew.word().filter(|word| word.value == Renew::Never) {
            at_odds("renew", &word.place, "= \"never\"` lets it end");
        }
        if let Some(word) = self.on_expiry.word().filter(|word| word.value == OnExpiry::Vanish) {
            at_odds("on-expiry", &word.place, "= \"vanish\"` would hide what is fetched again");
        }
    }

    /// What becomes of it at its end.
    pub fn on_expiry(&self) -> OnExpiry {
        self.on_expiry.unwrap_or(OnExpiry::Refetch)
    }

    /// What serves it.
    pub fn engine(&self) -> EngineHint {
        self.engine.unwrap_or(EngineHint::Auto)
    }
}

/// The number of a user or group, given as such or by name.
pub(super) fn account(
    key: &str,
    found: &DeValue<'_>,
    look_up: impl Fn(&str) -> Option<u32>,
) -> Result<u32, String> {
    let number = match found.as_str() {
        None if !found.is_integer() => {
            return Err(format!("is {}: write a name in quotes or a number", value::kind(found)));
        }
        None => value::number(found),
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok()
        }
        Some(name) => {
            return look_up(name).ok_or_else(|| {
                format!("is {name:?}, which this host does not know: write an existing name or a number")
            });
        }
    };
    // The highest number stands for "nobody in particular" in chown(2), so it owns nothing.
    number
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number != u32::MAX)
        .ok_or_else(|| format!("is out of range: write `{key} =` a number from 0 to {}", u32::MAX - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_names_or_numbers() {
        let look_up = |name: &str| (name == "agent").then_some(700);
        let read = |text: &str| account("owner", DeValue::parse(text).unwrap().get_ref(), look_up);
        for (text, number) in [("\"agent\"", 700), ("1000", 1000), ("\"1000\"", 1000), ("0", 0)] {
            assert_eq!(read(text), Ok(number), "{text}");
        }
        for (text, fragment) in [
            ("\"nobody-here\"", "\"nobody-here\", which this host does not know: write an existing"),
            ("\"\"", "which this host does not know"),
            ("-1", "is out of range"),
            ("4294967295", "from 0 to 4294967294"),
            ("\"99999999999\"", "is out of range"),
            ("true", "write a name in quotes or a number"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
        }
    }
}
