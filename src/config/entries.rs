//! `[file]`, `[dir]` and `[tree]`: what the mount shows.

use std::collections::BTreeMap;

use crate::config::environment::Environment;
use crate::config::file::{Section, Slot, Word};
use crate::config::identity::Identities;
use crate::config::keys::{Keys, Shape};
use crate::config::names::{Kind, Names};
use crate::config::plan::{FilePlan, Format};
use crate::config::report::{Place, Report};
use crate::config::sources::Sources;
use crate::config::value;
use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::name::{FileName, SourceId, VaultPath};
use crate::core::sources::Sources as Shown;
use crate::core::tree::{FieldDirSpec, FileSpec, TreeSpec};

/// Reads the tables that make up the tree, and gathers what they declare.
pub(super) struct Entries<'a> {
    report: &'a Report,
    environment: &'a Environment,
    defaults: &'a Keys,
    /// Who reads.
    pub identities: Identities,
    /// What is read.
    pub sources: Sources,
    /// Declared files.
    pub files: Vec<FilePlan>,
    /// Directories of fields.
    pub field_dirs: Vec<FieldDirSpec>,
    /// Mirrored prefixes.
    pub trees: Vec<TreeSpec>,
    names: Names,
}

/// What `secret` says.
struct Secret<'a> {
    path: VaultPath,
    /// What follows the `#`.
    field: Option<&'a str>,
}

impl<'a> Entries<'a> {
    /// Nothing declared yet.
    pub fn new(
        report: &'a Report,
        environment: &'a Environment,
        defaults: &'a Keys,
        identities: Identities,
    ) -> Entries<'a> {
        Entries {
            report,
            environment,
            defaults,
            identities,
            sources: Sources::default(),
            files: Vec::new(),
            field_dirs: Vec::new(),
            trees: Vec::new(),
            names: Names::default(),
        }
    }

    /// Complains about names that are at odds, and gives the rest back.
    pub fn finish(mut self) -> Entries<'a> {
        std::mem::take(&mut self.names).finish(self.report);
        self
    }

    /// Reads one `[file."NAME"]`.
    pub fn file(&mut self, name: &str, section: Section<'_>) {
        let place = section.place.clone();
        let name = self.name(name, &place);
        let secret = self.secret(&section);
        let field = section.text("field");
        let own = Keys::read(&section, self.environment);
        let version = section.read("version", |found| {
            value::number(found).filter(|version| *version > 0).ok_or_else(|| {
                "is no version of a secret: write a whole number from 1 on, without quotes".to_owned()
            })
        });
        let params = params(&section);
        section.refuse("dir-mode", DIR_MODE);
        section.refuse("names", "is for several files of one secret: write [dir.\"NAME\"] instead of [file]");
        section.finish();

        let format = own.format.clone().or(&self.defaults.format);
        let keys = self.over_defaults(own, &place);
        let field = self.field(&secret, field);
        let format = self.format(&format, &field, secret.is_bad() || field.is_bad(), &place);
        self.check_engine(&keys, &version, &params);
        if let Some(name) = &name {
            self.names.add(name.clone(), Kind::File, &place, self.report);
        }
        let source = self.source(&secret, &keys, &version, &params, &place);
        let (Some(name), Some(format), Some(source)) = (name, format, source) else {
            return;
        };
        let (rule, on_expiry) = (keys.rule(self.environment), keys.on_expiry());
        let spec = FileSpec { name, sources: Shown::one(source), rule, on_expiry };
        self.files.push(FilePlan { spec, format });
    }

    /// Reads one `[dir."NAME"]`.
    pub fn dir(&mut self, name: &str, section: Section<'_>) {
        let place = section.place.clone();
        let name = self.name(name, &place);
        let secret = self.secret(&section);
        let own = Keys::read(&section, self.environment);
        let names = section.names("names");
        let params = params(&section);
        section.refuse("dir-mode", DIR_MODE);
        section.finish();

        self.refuse_json(&own.format, "[dir]");
        self.refuse_field(&secret, "a [dir] shows all fields, or those in `names`");
        let keys = self.over_defaults(own, &place);
        self.check_engine(&keys, &Slot::Absent, &params);
        if !names.is_written() && (params.is_written() || keys.engine.get() == Some(&EngineHint::Other)) {
            self.report.complain(
                &place,
                "has no `names`, and only the fields of a KV secret can be listed: \
                 write `names = { FIELD = \"FILE\" }`",
            );
        }
        let shown = names.word().map(|names| self.shown(name.as_ref(), names));
        if let (Slot::Absent, Some(name)) = (&names, &name) {
            self.names.add(name.clone(), Kind::Fields, &place, self.report);
        }
        let source = self.source(&secret, &keys, &Slot::Absent, &params, &place);
        let (Some(name), Some(source)) = (name, source) else {
            return;
        };
        match shown {
            Some(shown) => self.push_shown(shown, source, &keys),
            None => {
                self.sources.show_fields(source);
                let (rule, on_expiry) = (keys.rule(self.environment), keys.on_expiry());
                self.field_dirs.push(FieldDirSpec { name, source, rule, on_expiry });
            }
        }
    }

    /// Reads one `[tree."NAME"]`.
    pub fn tree(&mut self, name: &str, section: Section<'_>) {
        let place = section.place.clone();
        let name = self.name(name, &place);
        let secret = self.secret(&section);
        let own = Keys::read(&section, self.environment);
        section.refuse("params", "is of no use to a [tree], which lists and reads: leave it out");
        section.refuse(
            "required",
            "is of no use to a [tree]: declare the files that are required, each as a [file]",
        );
        section.refuse("names", "is of no use to a [tree], which shows what Vault has: leave it out");
        section.refuse("dir-mode", DIR_MODE);
        section.finish();

        self.refuse_json(&own.format, "[tree]");
        self.refuse_field(&secret, "a [tree] shows all secrets below a prefix");
        let keys = Keys { required: Slot::Absent, ..own.over(self.defaults) };
        if let Some(word) = keys.engine.word().filter(|word| word.value == EngineHint::Other) {
            self.report.complain(
                &place.of_key("engine", Some(&word.place)),
                "is \"other\", and only KV can be listed: write \"kv1\" or \"kv2\" for this [tree]",
            );
        }
        if let Some(name) = &name {
            self.names.add(name.clone(), Kind::Tree, &place, self.report);
        }
        let identity = self.identities.find(&keys.identity, &place, self.report);
        let (Some(name), Some(secret), Some(identity)) = (name, secret.get(), identity) else {
            return;
        };
        self.trees.push(TreeSpec {
            name,
            identity,
            prefix: secret.path.clone(),
            engine: keys.engine(),
            policy: keys.policy(),
            rule: keys.rule(self.environment),
            on_expiry: keys.on_expiry(),
        });
    }

    /// The keys of a table with those of `[defaults]`. What is at odds in there was said there.
    fn over_defaults(&self, own: Keys, place: &Place) -> Keys {
        let speaks = own.required.is_written() || own.renew.is_written() || own.on_expiry.is_written();
        let keys = own.over(self.defaults);
        if speaks {
            keys.check_required(place, self.report);
        }
        keys
    }

    fn name(&self, text: &str, place: &Place) -> Option<FileName> {
        FileName::new(text)
            .map_err(|error| self.report.complain(place, format!("the name {text:?} {error}")))
            .ok()
    }

    fn secret<'t>(&self, section: &Section<'t>) -> Slot<Secret<'t>> {
        let written = section.text("secret");
        if !written.is_written() {
            section.complain("shows nothing yet: write `secret = \"PATH\"`");
        }
        written.and_then(self.report, |text| {
            let (path, field) = match text.split_once('#') {
                Some((_, "")) => return Err("names no field after its `#`: write \"PATH#FIELD\"".to_owned()),
                Some((path, field)) => (path, Some(field)),
                None => (text, None),
            };
            // The complaint shows the path as it was written: what a variable holds is nobody's business.
            let path = VaultPath::new(&self.environment.expand(path)?)
                .map_err(|error| format!("the path {path:?} {error}"))?;
            Ok(Secret { path, field })
        })
    }

    /// The source that is read for what stands at `place`, if all that decides about it was understood.
    fn source(
        &mut self,
        secret: &Slot<Secret<'_>>,
        keys: &Keys,
        version: &Slot<u64>,
        params: &Slot<BTreeMap<String, String>>,
        place: &Place,
    ) -> Option<SourceId> {
        let identity = self.identities.find(&keys.identity, place, self.report)?;
        let path = secret.get()?.path.clone();
        if version.is_bad() || params.is_bad() {
            return None;
        }
        let request = ReadRequest {
            path,
            params: params.get().cloned(),
            version: version.get().copied(),
            engine: keys.engine(),
        };
        Some(self.sources.add(identity, request, keys, place, self.report))
    }

    /// The field that a file shows, if it shows one.
    fn field(&self, secret: &Slot<Secret<'_>>, field: Slot<&str>) -> Slot<String> {
        match (secret.get().and_then(|secret| secret.field), field) {
            (_, Slot::Bad) => Slot::Bad,
            (Some(_), Slot::Is(word)) => {
                self.report
                    .complain(&word.place, "stands beside the `#FIELD` in `secret`: keep one of the two");
                Slot::Bad
            }
            (None, Slot::Absent) => Slot::Absent,
            (None, Slot::Is(Word { value, place })) => Slot::Is(Word { value: value.to_owned(), place }),
            (Some(field), Slot::Absent) => match secret.word() {
                Some(word) => Slot::Is(Word { value: field.to_owned(), place: word.place.clone() }),
                None => Slot::Bad,
            },
        }
    }

    fn format(
        &self,
        format: &Slot<Shape>,
        field: &Slot<String>,
        unsure: bool,
        place: &Place,
    ) -> Option<Format> {
        let field = field.get().cloned();
        let shape = match format {
            Slot::Bad => return None,
            Slot::Is(word) => word.value,
            Slot::Absent if field.is_some() => Shape::Raw,
            Slot::Absent => Shape::Json,
        };
        match (shape, field) {
            (Shape::Json, field) => Some(Format::Json { field }),
            (Shape::Raw, Some(field)) => Some(Format::Raw { field }),
            (Shape::Raw, None) => {
                if !unsure {
                    self.report.complain(
                        &place.of_key("format", format.word().map(|word| &word.place)),
                        "is \"raw\", which shows one field: write `field = \"…\"`, \
                         or `format = \"json\"` for all",
                    );
                }
                None
            }
        }
    }

    /// Complains about a version or parameters that the engine does not take.
    fn check_engine(&self, keys: &Keys, version: &Slot<u64>, params: &Slot<BTreeMap<String, String>>) {
        let engine = keys.engine();
        if let Some(version) = version.word() {
            if matches!(engine, EngineHint::Kv1 | EngineHint::Other) {
                self.report.complain(
                    &version.place,
                    "only KV version 2 keeps versions: leave it out, or write `engine = \"kv2\"`",
                );
            } else if params.is_written() {
                self.report.complain(
                    &version.place,
                    "stands beside `params`, which no KV secret takes: keep one of the two",
                );
            }
        }
        if let Some(params) = params.word()
            && matches!(engine, EngineHint::Kv1 | EngineHint::Kv2)
        {
            self.report.complain(
                &params.place,
                "would overwrite a KV secret, as they make it a write request: leave them out, \
                 or write `engine = \"other\"`",
            );
        }
    }

    fn refuse_field(&self, secret: &Slot<Secret<'_>>, why: &str) {
        if let Some(Word { value: Secret { field: Some(field), .. }, place }) = secret.word() {
            self.report.complain(place, format!("{why}: leave out {:?}", format!("#{field}")));
        }
    }

    fn refuse_json(&self, format: &Slot<Shape>, table: &str) {
        if let Some(word) = format.word().filter(|word| word.value == Shape::Json) {
            self.report.complain(
                &word.place,
                format!(
                    "the files of a {table} are single fields as they are: leave it out, or declare a [file]"
                ),
            );
        }
    }

    /// The files of a `[dir]` with `names`: field, name and place of each.
    fn shown(
        &mut self,
        dir: Option<&FileName>,
        names: &Word<Vec<Word<(&str, &toml::de::DeValue<'_>)>>>,
    ) -> Vec<(String, FileName)> {
        let report = self.report;
        if names.value.is_empty() {
            report.complain(
                &names.place,
                "is empty: write `names = { FIELD = \"FILE\" }`, or leave it out for KV",
            );
        }
        let mut shown = Vec::with_capacity(names.value.len());
        for Word { value: (field, file), place } in &names.value {
            let file = match value::text("FIELD", file) {
                Ok(file) if field.is_empty() => {
                    report.complain(place, format!("names no field: write the field that {file:?} shows"));
                    continue;
                }
                Ok(file) => file,
                Err(message) => {
                    report.complain(place, message);
                    continue;
                }
            };
            // Checked before it is joined, so that the complaint shows what was written.
            let joined = FileName::new(file).and_then(|file| match dir {
                Some(dir) => FileName::new(&format!("{dir}/{file}")),
                None => Ok(file),
            });
            match joined {
                Ok(name) => {
                    if dir.is_some() {
                        self.names.add(name.clone(), Kind::File, place, report);
                    }
                    shown.push(((*field).to_owned(), name));
                }
                Err(error) => report.complain(place, format!("the name {file:?} {error}")),
            }
        }
        shown
    }

    fn push_shown(&mut self, shown: Vec<(String, FileName)>, source: SourceId, keys: &Keys) {
        let (rule, on_expiry) = (keys.rule(self.environment), keys.on_expiry());
        self.files.extend(shown.into_iter().map(|(field, name)| FilePlan {
            spec: FileSpec { name, sources: Shown::one(source), rule, on_expiry },
            format: Format::Raw { field },
        }));
    }
}

const DIR_MODE: &str = "is the same for all directories: write it in [defaults]";

fn params(section: &Section<'_>) -> Slot<BTreeMap<String, String>> {
    let (entries, place) = match section.names("params") {
        Slot::Absent => return Slot::Absent,
        Slot::Bad => return Slot::Bad,
        Slot::Is(Word { value, place }) => (value, place),
    };
    let mut params = BTreeMap::new();
    let mut sound = true;
    for Word { value: (name, found), place } in entries {
        match value::json(found) {
            Ok(json) => {
                params.insert(name.to_owned(), json);
            }
            Err(message) => {
                section.report.complain(&place, message);
                sound = false;
            }
        }
    }
    if sound { Slot::Is(Word { value: params, place }) } else { Slot::Bad }
}
