//! `[file]`, `[dir]` and `[tree]`: what the mount shows.

use std::collections::BTreeMap;

use crate::config::environment::Environment;
use crate::config::file::{Section, Slot, Word};
use crate::config::grant::{Entry, Grant};
use crate::config::identity::Identities;
use crate::config::keys::{Keys, Shape};
use crate::config::names::{Kind, Names};
use crate::config::plan::{FilePlan, Format};
use crate::config::rendering::Rendering;
use crate::config::report::{Place, Report};
use crate::config::sources::Sources;
use crate::config::value;
use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::name::{FileName, IdentityId, SourceId, VaultPath};
use crate::core::tree::{FieldDirSpec, FileSpec, TreeSpec};
use crate::render::{FieldPath, TrailingNewline};

/// Reads the tables that make up the tree, and gathers what they declare.
pub(super) struct Entries<'a> {
    report: &'a Report,
    environment: &'a Environment,
    defaults: &'a Keys,
    /// What the file that is read may use, if it is an included one.
    bounds: Option<Within<'a>>,
    /// The longest file that a template may make, in bytes.
    longest: u64,
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

/// What limits the entries of an included file.
#[derive(Clone, Copy)]
pub(super) struct Within<'a> {
    /// What it may use.
    pub grant: &'a Grant,
    /// Identities that it has declared itself.
    pub own: &'a [String],
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
        longest: u64,
    ) -> Entries<'a> {
        Entries {
            report,
            environment,
            defaults,
            bounds: None,
            longest,
            identities,
            sources: Sources::default(),
            files: Vec::new(),
            field_dirs: Vec::new(),
            trees: Vec::new(),
            names: Names::default(),
        }
    }

    /// What is read from now on is that of an included file.
    pub fn include(&mut self, report: &'a Report, defaults: &'a Keys, bounds: Within<'a>) {
        (self.report, self.defaults, self.bounds) = (report, defaults, Some(bounds));
    }

    /// Reads all tables of a file.
    pub fn read(&mut self, root: &Section<'_>) {
        for (name, section) in root.sections("file") {
            self.file(name, section);
        }
        for (name, section) in root.sections("dir") {
            self.dir(name, section);
        }
        for (name, section) in root.sections("tree") {
            self.tree(name, section);
        }
    }

    /// Complains about names that are at odds, and gives the rest back.
    pub fn finish(mut self) -> Entries<'a> {
        std::mem::take(&mut self.names).finish(self.report);
        self
    }

    /// Reads one `[file."NAME"]`.
    fn file(&mut self, name: &str, section: Section<'_>) {
        let place = section.place.clone();
        let name = self.name(name, &place);
        let secret = self.secret(&section);
        let rendering = Rendering::read(&section, self.environment, self.bounds.map(|bounds| bounds.grant));
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

        let own_format = own.format.clone();
        let keys = self.over_defaults(own, &place);
        self.check_granted(name.as_ref(), &keys, &place);
        let field = self.field(&secret, rendering.field.clone());
        let format = match rendering.is_template() {
            true => rendering.template(&field, &own_format, self.longest, self.report),
            false => {
                let shape = own_format.or(&self.defaults.format);
                rendering.content(&shape, &field, secret.is_bad(), &place, self.report)
            }
        };
        let format = format.map(|content| Format { content, newline: keys.newline() });
        self.check_engine(&keys, &version, &params);
        if let Some(name) = &name {
            self.names.add(name.clone(), Kind::File, &place, self.report);
        }
        let source = self.source(&secret, &keys, &version, &params, &place);
        let (Some(name), Some(format), Some(source)) = (name, format, source) else {
            return;
        };
        let spec = FileSpec { name, source, rule: keys.rule(self.environment), on_expiry: keys.on_expiry() };
        self.files.push(FilePlan { spec, format });
    }

    /// Reads one `[dir."NAME"]`.
    fn dir(&mut self, name: &str, section: Section<'_>) {
        let place = section.place.clone();
        let name = self.name(name, &place);
        let secret = self.secret(&section);
        let own = Keys::read(&section, self.environment);
        let names = section.names("names");
        let params = params(&section);
        section.refuse("dir-mode", DIR_MODE);
        section.finish();

        self.refuse_format(&own.format, "[dir]");
        let newline = own.newline.clone();
        self.refuse_field(&secret, "a [dir] shows all fields, or those in `names`");
        let keys = self.over_defaults(own, &place);
        self.check_granted(name.as_ref(), &keys, &place);
        self.check_engine(&keys, &Slot::Absent, &params);
        if !names.is_written() && (params.is_written() || keys.engine.get() == Some(&EngineHint::Other)) {
            self.report.complain(
                &place,
                "has no `names`, and only the fields of a KV secret can be listed: \
                 write `names = { FIELD = \"FILE\" }`",
            );
        }
        if !names.is_written() {
            self.refuse_newline(&newline);
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
    fn tree(&mut self, name: &str, section: Section<'_>) {
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

        self.refuse_format(&own.format, "[tree]");
        self.refuse_newline(&own.newline);
        self.refuse_field(&secret, "a [tree] shows all secrets below a prefix");
        let keys = Keys { required: Slot::Absent, ..own.over(self.defaults) };
        self.check_granted(name.as_ref(), &keys, &place);
        if let Some(word) = keys.engine.word().filter(|word| word.value == EngineHint::Other) {
            self.report.complain(
                &place.of_key("engine", Some(&word.place)),
                "is \"other\", and only KV can be listed: write \"kv1\" or \"kv2\" for this [tree]",
            );
        }
        if let Some(name) = &name {
            self.names.add(name.clone(), Kind::Tree, &place, self.report);
        }
        let identity = self.identity(&keys, &place);
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

    /// Complains about what an included file may not use.
    fn check_granted(&self, name: Option<&FileName>, keys: &Keys, place: &Place) {
        if let Some(Within { grant, own }) = self.bounds {
            grant.check(&Entry { name, keys, place }, own, self.environment, self.report);
        }
    }

    /// Who reads; what an included file may not use was complained about.
    fn identity(&mut self, keys: &Keys, place: &Place) -> Option<IdentityId> {
        match self.bounds {
            Some(Within { grant, own }) if grant.identity(keys, own).is_none() => None,
            Some(_) | None => self.identities.find(&keys.identity, place, self.report),
        }
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
        let identity = self.identity(keys, place)?;
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
    fn field(&self, secret: &Slot<Secret<'_>>, field: Slot<&str>) -> Slot<FieldPath> {
        let written = match (secret.get().and_then(|secret| secret.field), field) {
            (_, Slot::Bad) => Slot::Bad,
            (Some(_), Slot::Is(word)) => {
                self.report
                    .complain(&word.place, "stands beside the `#FIELD` in `secret`: keep one of the two");
                Slot::Bad
            }
            (None, Slot::Absent) => Slot::Absent,
            (None, Slot::Is(word)) => Slot::Is(word),
            (Some(field), Slot::Absent) => match secret.word() {
                Some(word) => Slot::Is(Word { value: field, place: word.place.clone() }),
                None => Slot::Bad,
            },
        };
        written.and_then(self.report, field_path)
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

    fn refuse_newline(&self, newline: &Slot<TrailingNewline>) {
        if let Some(word) = newline.word() {
            self.report.complain(
                &word.place,
                "is for files that are declared: leave it out, or write a [file], or `names` in a [dir]",
            );
        }
    }

    fn refuse_format(&self, format: &Slot<Shape>, table: &str) {
        if let Some(word) = format.word().filter(|word| word.value != Shape::Raw) {
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
    ) -> Vec<(FieldPath, FileName)> {
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
            let field = match field_path(field) {
                Ok(field) => field,
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
                    shown.push((field, name));
                }
                Err(error) => report.complain(place, format!("the name {file:?} {error}")),
            }
        }
        shown
    }

    fn push_shown(&mut self, shown: Vec<(FieldPath, FileName)>, source: SourceId, keys: &Keys) {
        let (rule, on_expiry) = (keys.rule(self.environment), keys.on_expiry());
        self.files.extend(shown.into_iter().map(|(field, name)| FilePlan {
            spec: FileSpec { name, source, rule, on_expiry },
            format: Format { newline: keys.newline(), ..Format::raw(field) },
        }));
    }
}

const DIR_MODE: &str = "is the same for all directories: write it in [defaults]";

fn field_path(text: &str) -> Result<FieldPath, String> {
    FieldPath::parse(text).map_err(|error| format!("the JSON pointer {text:?} {error}"))
}

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
