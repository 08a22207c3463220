//! The words of a configuration file and where they stand.
//!
//! A [`Section`] is one table of the file. It hands out its keys one by one and afterwards complains about
//! every key that nobody asked for; so no key is taken without being understood, and one mistake hides no
//! other. What has been complained about is [`Slot::Bad`] from then on, so that it is not complained about
//! a second time further down.

use std::cell::RefCell;

use toml::de::{DeArray, DeTable, DeValue};

use crate::config::report::{Place, Report, quoted};
use crate::config::value;

/// A value and the place where it was written.
#[derive(Clone, Debug)]
pub(super) struct Word<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// What was found under a key.
#[derive(Clone, Debug)]
pub(super) enum Slot<T> {
    /// The key is not there.
    Absent,
    /// It was complained about.
    Bad,
    /// A usable value.
    Is(Word<T>),
}

impl<T> Slot<T> {
    /// The value with its place, if there is a usable one.
    pub fn word(&self) -> Option<&Word<T>> {
        match self {
            Slot::Is(word) => Some(word),
            Slot::Absent | Slot::Bad => None,
        }
    }

    /// The value, if there is a usable one.
    pub fn get(&self) -> Option<&T> {
        self.word().map(|word| &word.value)
    }

    /// Whether the key was written, rightly or wrongly.
    pub fn is_written(&self) -> bool {
        !matches!(self, Slot::Absent)
    }

    /// Whether the key was written wrongly.
    pub fn is_bad(&self) -> bool {
        matches!(self, Slot::Bad)
    }

    /// Reads the value further; a failure is a complaint at its place.
    pub fn and_then<U>(self, report: &Report, read: impl FnOnce(T) -> Result<U, String>) -> Slot<U> {
        match self {
            Slot::Absent => Slot::Absent,
            Slot::Bad => Slot::Bad,
            Slot::Is(Word { value, place }) => match read(value) {
                Ok(value) => Slot::Is(Word { value, place }),
                Err(message) => {
                    report.complain(&place, message);
                    Slot::Bad
                }
            },
        }
    }
}

impl<T: Clone> Slot<T> {
    /// This one, or `default` if nothing was written here.
    pub fn or(self, default: &Slot<T>) -> Slot<T> {
        if self.is_written() { self } else { default.clone() }
    }

    /// The value, or `default` if there is no usable one.
    pub fn unwrap_or(&self, default: T) -> T {
        self.get().cloned().unwrap_or(default)
    }
}

/// One table of the file, perhaps one that was left out.
pub(super) struct Section<'a> {
    /// Where its header stands.
    pub place: Place,
    /// Takes the complaints.
    pub report: &'a Report,
    table: Option<&'a DeTable<'a>>,
    /// The keys that may stand here: those asked for so far.
    known: RefCell<Vec<&'static str>>,
    /// Keys that were refused with words of their own.
    refused: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The file as a whole.
    pub fn root(table: &'a DeTable<'a>, report: &'a Report) -> Section<'a> {
        Section::new(report.whole(), Some(table), report)
    }

    fn new(place: Place, table: Option<&'a DeTable<'a>>, report: &'a Report) -> Section<'a> {
        Section { place, report, table, known: RefCell::default(), refused: RefCell::default() }
    }

    /// Complains about this table.
    pub fn complain(&self, message: impl Into<String>) {
        self.report.complain(&self.place, message);
    }

    /// Reads the value of `key`; a failure is a complaint at its place.
    pub fn read<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, String>,
    ) -> Slot<T> {
        self.known.borrow_mut().push(key);
        self.find(key).and_then(self.report, read)
    }

    /// The text under `key`.
    pub fn text(&self, key: &'static str) -> Slot<&'a str> {
        self.read(key, |value| value::text(key, value))
    }

    /// The truth under `key`.
    pub fn flag(&self, key: &'static str) -> Slot<bool> {
        self.read(key, |value| {
            value
                .as_bool()
                .ok_or_else(|| format!("is {}: write `{key} = true` or `{key} = false`", value::kind(value)))
        })
    }

    /// The table under `key`, each of its keys a name that the user chose.
    pub fn names(&self, key: &'static str) -> Slot<Vec<Word<(&'a str, &'a DeValue<'a>)>>> {
        let slot = self.read(key, |value| {
            value
                .as_table()
                .ok_or_else(|| format!("is {}: write `{key} = {{ NAME = \"VALUE\" }}`", value::kind(value)))
        });
        match slot {
            Slot::Absent => Slot::Absent,
            Slot::Bad => Slot::Bad,
            Slot::Is(Word { value, place }) => {
                let value = self.entries(value, &place);
                Slot::Is(Word { value, place })
            }
        }
    }

    /// The texts under `key`, which is one text or a list of them.
    pub fn texts(&self, key: &'static str) -> Slot<Vec<Word<&'a str>>> {
        self.list(key, |value| value::text(key, value))
    }

    /// What is under `key`, which is one value or a list of them.
    pub fn list<T>(
        &self,
        key: &'static str,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, String>,
    ) -> Slot<Vec<Word<T>>> {
        self.known.borrow_mut().push(key);
        let Slot::Is(Word { value, place }) = self.find(key) else {
            return Slot::Absent;
        };
        let items: Vec<Word<&DeValue<'_>>> = match value {
            DeValue::Array(array) => self.items(array, &place),
            single => vec![Word { value: single, place: place.clone() }],
        };
        let mut values = Vec::with_capacity(items.len());
        let mut sound = true;
        for item in items {
            match read(item.value) {
                Ok(value) => values.push(Word { value, place: item.place }),
                Err(message) => {
                    self.report.complain(&item.place, message);
                    sound = false;
                }
            }
        }
        if sound { Slot::Is(Word { value: values, place }) } else { Slot::Bad }
    }

    /// The table `[key]`; an empty one if it is not there.
    pub fn section(&self, key: &'static str) -> Section<'a> {
        let name = self.place.child(key).key;
        let slot = self.read(key, |value| {
            value
                .as_table()
                .ok_or_else(|| format!("is {}: write it as a table, [{name}]", value::kind(value)))
        });
        match slot {
            Slot::Is(word) => Section::new(word.place, Some(word.value), self.report),
            Slot::Absent | Slot::Bad => Section::new(self.place.child(key), None, self.report),
        }
    }

    /// The tables `[key."NAME"]`, in the order of the file, with their names.
    pub fn sections(&self, key: &'static str) -> Vec<(&'a str, Section<'a>)> {
        let advice = format!("write each one as a table of its own, [{key}.\"NAME\"]");
        let slot = self.read(key, |value| {
            value.as_table().ok_or_else(|| format!("is {}: {advice}", value::kind(value)))
        });
        let Slot::Is(word) = slot else {
            return Vec::new();
        };
        let mut sections = Vec::new();
        for Word { value: (name, value), place } in self.entries(word.value, &word.place) {
            match value.as_table() {
                Some(table) => sections.push((name, Section::new(place, Some(table), self.report))),
                None => self.report.complain(&place, format!("is {}: {advice}", value::kind(value))),
            }
        }
        sections
    }

    /// Complains with words of its own if `key` is there, without a look at its value.
    pub fn refuse(&self, key: &'static str, message: &str) {
        self.refused.borrow_mut().push(key);
        if let Slot::Is(word) = self.find(key) {
            self.report.complain(&word.place, message);
        }
    }

    /// Complains about every key that nobody asked for.
    pub fn finish(self) {
        let (known, refused) = (self.known.into_inner(), self.refused.into_inner());
        for (key, value) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if known.contains(&name) || refused.contains(&name) {
                continue;
            }
            let line = self.report.line_of(key.span().start);
            let place = self.place.child_at(name, Some(line));
            self.report.complain(&place, unknown(name, value.get_ref(), &known, &self.place));
        }
    }

    fn find(&self, key: &str) -> Slot<&'a DeValue<'a>> {
        match self.table.and_then(|table| table.get_key_value(key)) {
            None => Slot::Absent,
            Some((key, value)) => {
                let line = self.report.line_of(key.span().start);
                Slot::Is(Word {
                    value: value.get_ref(),
                    place: self.place.child_at(key.get_ref(), Some(line)),
                })
            }
        }
    }

    /// The entries of a table in the order of the file.
    fn entries(&self, table: &'a DeTable<'a>, place: &Place) -> Vec<Word<(&'a str, &'a DeValue<'a>)>> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let word = |(key, value): (&'a toml::Spanned<_>, &'a toml::Spanned<DeValue<'a>>)| {
            let name: &'a std::borrow::Cow<'a, str> = key.get_ref();
            let line = self.report.line_of(key.span().start);
            Word { value: (&**name, value.get_ref()), place: place.child_at(name, Some(line)) }
        };
        entries.into_iter().map(word).collect()
    }

    fn items(&self, array: &'a DeArray<'a>, place: &Place) -> Vec<Word<&'a DeValue<'a>>> {
        let word = |item: &'a toml::Spanned<DeValue<'a>>| {
            let line = self.report.line_of(item.span().start);
            Word { value: item.get_ref(), place: Place { line: Some(line), ..place.clone() } }
        };
        array.iter().map(word).collect()
    }
}

/// What to write instead of a key that does not exist.
fn unknown(key: &str, value: &DeValue<'_>, known: &[&'static str], table: &Place) -> String {
    let named =
        ["file.", "dir.", "tree.", "identity.", "grant."].iter().any(|kind| table.key.starts_with(kind));
    if named && value.is_table() {
        return format!(
            "unknown table `{}`: put a name with a dot or a slash in it in quotes, such as \
             [file.\"weather.json\"] or [file.\"db/password\"]",
            quoted(key)
        );
    }
    let key_in_quotes = format!("unknown key `{}`", quoted(key));
    match nearest(key, known) {
        Some(near) => format!("{key_in_quotes}: write `{near}`"),
        None => format!("{key_in_quotes}: the keys here are {}", value::listed(known, '`', "and")),
    }
}

/// The known key that was probably meant.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let kebab = key.to_ascii_lowercase().replace('_', "-");
    let distance = |known: &str| strsim::osa_distance(&kebab, known);
    let near = known.iter().min_by_key(|known| distance(known))?;
    // A third of the letters may be wrong, or short keys would resemble everything.
    (distance(near) * 3 <= near.len().min(9)).then_some(near)
}

/// Parses the text as TOML. Text that is no TOML is complained about line by line and gives `None`; a key
/// or table that stands twice leaves the rest readable.
pub(super) fn parse<'a>(text: &'a str, report: &Report) -> Option<DeTable<'a>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut readable = true;
    // What follows an error is its echo: on the same line, and for a table that stands twice, in all of it.
    let mut echo_before = 0;
    let nowhere = text.len()..text.len();
    let mut errors: Vec<_> =
        errors.into_iter().map(|error| (error.span().unwrap_or(nowhere.clone()), error)).collect();
    errors.sort_by_key(|(span, _)| span.start);
    for (span, error) in errors {
        let line = report.line_of(span.start);
        if line < echo_before {
            continue;
        }
        echo_before = line + 1;
        let source = text.lines().nth(line - 1).unwrap_or_default();
        if error.message() == "duplicate key" {
            let key = text.get(span).unwrap_or_default().trim_matches(['"', '\'']);
            let place = Place { key: repeated(text, line, key), line: Some(line), ..report.whole() };
            report.complain(&place, "stands here a second time: keep one of the two");
            if is_header(source) {
                let rest = text.lines().skip(line).take_while(|line| !is_header(line)).count();
                echo_before = line + rest + 1;
            }
        } else {
            readable = false;
            report.complain(
                &Place { line: Some(line), ..report.whole() },
                format!("is not TOML: {}{}", error.message(), hint(source).unwrap_or_default()),
            );
        }
    }
    readable.then(|| document.into_inner())
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

/// The whole name of a key that stands a second time on this line: as its header says, or below the last
/// header before it.
fn repeated(text: &str, line: usize, key: &str) -> String {
    let at_headers = text.lines().take(line).enumerate().filter(|(_, text)| is_header(text)).last();
    let Some((above, header)) = at_headers else {
        return quoted(key);
    };
    // A header that could not be read names nothing.
    let table = DeTable::parse(header).ok().map(|table| only_path(table.get_ref()));
    match table.filter(|table| !table.is_empty()) {
        None => quoted(key),
        Some(table) if above + 1 == line => table,
        Some(table) => format!("{table}.{}", quoted(key)),
    }
}

/// The name of the one table in a document of a single header.
fn only_path(document: &DeTable<'_>) -> String {
    let mut names = Vec::new();
    let mut next = document.iter().next();
    while let Some((key, value)) = next {
        names.push(quoted(key.get_ref()));
        next = value.get_ref().as_table().and_then(|table| table.iter().next());
    }
    names.join(".")
}

/// What was probably forgotten on a line that is no TOML. Repeats nothing of its value.
fn hint(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim_start());
    if matches!(key, "mode" | "dir-mode") {
        return Some(format!("; a mode stands in quotes: write `{key} = \"0400\"`"));
    }
    let looks_like_a_value = value.starts_with(['"', '\'', '[', '{']);
    let plain_key = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    (plain_key && !looks_like_a_value).then(|| format!("; a text stands in quotes: write `{key} = \"…\"`"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_key_that_was_meant_is_found_by_its_letters() {
        let known = ["ca-cert", "client-cert", "read-timeout", "mode"];
        for (key, near) in [
            ("ca_cert", Some("ca-cert")),
            ("CA_CERT", Some("ca-cert")),
            ("cacert", Some("ca-cert")),
            ("read-timout", Some("read-timeout")),
            ("mdoe", Some("mode")),
            ("node", Some("mode")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(key, &known), near, "{key}");
        }
        assert_eq!(nearest("x", &[]), None);
    }

    #[test]
    fn what_is_no_toml_is_complained_about_with_its_line_and_without_its_value() {
        for (text, line, fragment) in [
            ("[vault]\nread-timeout = 5s", 2, "write `read-timeout = \"…\"`"),
            ("\n\nmode = 0400", 3, "write `mode = \"0400\"`"),
            ("[vault\naddress = 1", 1, "is not TOML"),
            ("a = \"marker", 1, "is not TOML"),
            ("token = marker", 1, "write `token = \"…\"`"),
        ] {
            let report = Report::new(Path::new("x.toml"), text);
            assert!(parse(text, &report).is_none(), "{text}");
            let complaints = report.finish().unwrap_err().into_vec();
            assert_eq!(complaints[0].line, Some(line), "{complaints:?}");
            assert!(complaints[0].message.contains(fragment), "{complaints:?}");
            assert!(!format!("{complaints:?}").contains("marker"), "{complaints:?}");
        }
    }

    #[test]
    fn every_line_that_is_no_toml_is_complained_about() {
        let text = "[file.a]\nsecret = kv/a\nmode = 0400\n[vault\n";
        let report = Report::new(Path::new("x.toml"), text);
        assert!(parse(text, &report).is_none());
        let lines: Vec<_> = report.finish().unwrap_err().iter().map(|complaint| complaint.line).collect();
        assert_eq!(lines, [Some(2), Some(3), Some(4)]);
    }

    #[test]
    fn a_key_that_stands_twice_leaves_the_rest_readable() {
        let text = "[a]\nx = 1\nx = 2\n[a]\nx = 3\n[b]\ny = 1\ny = 2\n";
        let report = Report::new(Path::new("x.toml"), text);
        assert!(parse(text, &report).is_some());
        let complaints = report.finish().unwrap_err().to_string();
        assert_eq!(
            complaints,
            "x.toml:3: a.x: stands here a second time: keep one of the two\n\
             x.toml:4: a: stands here a second time: keep one of the two\n\
             x.toml:8: b.y: stands here a second time: keep one of the two"
        );
    }
}
