//! What a `[file]` says about how it shows its secret: a format, or a template.

use std::path::PathBuf;

use crate::config::environment::Environment;
use crate::config::file::{Section, Slot, Word};
use crate::config::grant::Grant;
use crate::config::keys::Shape;
use crate::config::report::{Place, Report};
use crate::config::texts::Bounds;
use crate::config::value;
use crate::render::{Content, Decode, FieldPath, Names, PemPart, Template};

const DECODE: [(&str, Decode); 1] = [("base64", Decode::Base64)];
const PEM_PARTS: [(&str, PemPart); 3] =
    [("certificate", PemPart::Certificate), ("chain", PemPart::Chain), ("key", PemPart::Key)];

/// The keys of a `[file]` that say how it is shown, beside `format`.
pub(super) struct Rendering<'a> {
    /// Before it is known whether `secret` names a field, too.
    pub field: Slot<&'a str>,
    decode: Slot<Decode>,
    bundle: Slot<Vec<PemPart>>,
    template: Slot<Text>,
    template_file: Slot<Text>,
}

/// The text of a template.
struct Text {
    text: String,
    /// The file that it stands in, if that is another one.
    file: Option<PathBuf>,
}

impl<'a> Rendering<'a> {
    /// Reads them, and the file that holds the template, if one does. `grant` is what an included file may use.
    pub fn read(section: &Section<'a>, environment: &Environment, grant: Option<&Grant>) -> Rendering<'a> {
        let report = section.report;
        Rendering {
            field: section.text("field"),
            decode: section.read("decode", |found| value::choice("decode", found, &DECODE)),
            bundle: bundle(section),
            template: section
                .text("template")
                .and_then(report, |text| Ok(Text { text: text.to_owned(), file: None })),
            template_file: template_file(section, environment, grant),
        }
    }

    /// Whether it is shown by a template.
    pub fn is_template(&self) -> bool {
        self.template.is_written() || self.template_file.is_written()
    }

    /// What the template shows; its output has `longest` bytes at most.
    pub fn template(
        &self,
        field: &Slot<FieldPath>,
        format: &Slot<Shape>,
        longest: u64,
        report: &Report,
    ) -> Option<Content> {
        let beside = "stands beside a template, which says by itself what is shown: leave it out";
        let odd = [
            field.word().map(|word| &word.place),
            format.word().map(|word| &word.place),
            self.decode.word().map(|word| &word.place),
            self.bundle.word().map(|word| &word.place),
        ];
        odd.into_iter().flatten().for_each(|place| report.complain(place, beside));
        if let (true, Some(word)) = (self.template.is_written(), self.template_file.word()) {
            report.complain(&word.place, "stands beside `template`: keep one of the two");
            return None;
        }
        let Word { value: Text { text, file }, place } =
            self.template.word().or(self.template_file.word())?;
        match Template::new(text, Names::Fields, longest) {
            Ok(template) => Some(Content::Template(template)),
            Err(mistake) => {
                let within =
                    file.as_ref().map_or("the template".to_owned(), |file| file.display().to_string());
                let at = mistake.line.map_or(within.clone(), |line| format!("line {line} of {within}"));
                report.complain(place, format!("{at} is wrong: {}", mistake.message));
                None
            }
        }
    }

    /// What a format shows. `unsure`: what is wrong with the secret was said already.
    pub fn content(
        &self,
        format: &Slot<Shape>,
        field: &Slot<FieldPath>,
        unsure: bool,
        place: &Place,
        report: &Report,
    ) -> Option<Content> {
        let shape = match format {
            Slot::Bad => return None,
            Slot::Is(word) => word.value,
            Slot::Absent if field.is_written() || self.decode.is_written() => Shape::Raw,
            Slot::Absent if self.bundle.is_written() => Shape::PemBundle,
            Slot::Absent => Shape::Json,
        };
        if let Some(word) = self.decode.word().filter(|_| shape != Shape::Raw) {
            let advice = "is for a field that is shown as it is: write `format = \"raw\"`, or leave it out";
            report.complain(&word.place, advice);
        }
        if let Some(word) = self.bundle.word().filter(|_| shape != Shape::PemBundle) {
            report
                .complain(&word.place, "is of no use here: write `format = \"pem-bundle\"`, or leave it out");
        }
        if field.is_bad() || self.decode.is_bad() || self.bundle.is_bad() {
            return None;
        }
        let field = field.get().cloned();
        Some(match shape {
            Shape::Raw => {
                let Some(field) = field else {
                    if !unsure {
                        report.complain(
                            &place.of_key("format", format.word().map(|word| &word.place)),
                            "is \"raw\", which shows one field: write `field = \"…\"`, \
                             or `format = \"json\"` for all",
                        );
                    }
                    return None;
                };
                Content::Raw { field, decode: self.decode.unwrap_or(Decode::Nothing) }
            }
            Shape::Json => Content::Json { field },
            Shape::Env => Content::Env { field },
            Shape::Yaml => Content::Yaml { field },
            Shape::Properties => Content::Properties { field },
            Shape::PemBundle => {
                let all = || PEM_PARTS.map(|(_, part)| part).to_vec();
                Content::PemBundle { field, parts: self.bundle.get().cloned().unwrap_or_else(all) }
            }
        })
    }
}

fn bundle(section: &Section<'_>) -> Slot<Vec<PemPart>> {
    let words = match section.texts("bundle") {
        Slot::Absent => return Slot::Absent,
        Slot::Bad => return Slot::Bad,
        Slot::Is(word) => word,
    };
    let advice = "write those of \"certificate\", \"chain\" and \"key\" that are wanted, in their order";
    let mut parts = Vec::new();
    for Word { value, place } in &words.value {
        let message = match PEM_PARTS.iter().find(|(word, _)| word == value) {
            Some((_, part)) if parts.contains(part) => format!("has {value:?} twice: leave one out"),
            Some((_, part)) => {
                parts.push(*part);
                continue;
            }
            None => format!("has {value:?}, which means nothing here: {advice}"),
        };
        section.report.complain(place, message);
        return Slot::Bad;
    }
    if parts.is_empty() {
        section.report.complain(&words.place, format!("is an empty list: {advice}"));
        return Slot::Bad;
    }
    Slot::Is(Word { value: parts, place: words.place })
}

/// The text that lies in another file, if nobody else could have written it. An included file has it read only if it
/// was granted: not even what is wrong with another one is told.
fn template_file(section: &Section<'_>, environment: &Environment, grant: Option<&Grant>) -> Slot<Text> {
    let report = section.report;
    let path = section.text("template-file").and_then(report, |path| environment.file_path(path));
    let granted = match (path.word(), grant) {
        (Some(word), Some(grant)) => match grant.check_path(&word.value, &word.place, report) {
            Some(granted) => Some(granted),
            None => return Slot::Bad,
        },
        (None, _) | (_, None) => None,
    };
    path.and_then(report, |path| {
        let found = environment.text(&path, &Bounds::Template { granted });
        let about = |what: &str| format!("{} {what}", path.display());
        let found = found.map_err(|why| about(&why))?;
        match found.faults.first() {
            Some(fault) => Err(about(fault)),
            None => Ok(Text { text: found.text, file: Some(path) }),
        }
    })
}
