//! Pages of the documentation and the blocks of code in them, for tests that run what they say.

use std::sync::Mutex;

/// A fenced block of a page.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// The heading above it; empty before the first one.
    pub heading: &'static str,
    /// What it holds: `sh`, `toml`, …
    pub kind: &'static str,
    /// Its lines.
    pub text: &'static str,
}

/// All blocks of a page, in their order.
pub fn blocks(page: &'static str) -> impl Iterator<Item = Block> {
    page.split("\n## ").enumerate().flat_map(|(nth, section)| {
        let heading = if nth == 0 { "" } else { section.lines().next().unwrap_or_default() };
        let fenced = section.split("\n```").skip(1).step_by(2);
        fenced.map(move |block| {
            let (kind, text) = block.split_once('\n').expect("a fence ends its line");
            Block { heading, kind, text }
        })
    })
}

/// Pages, and which of their blocks a test has taken.
pub struct Guide {
    entries: Mutex<Vec<Entry>>,
}

struct Entry {
    page: &'static str,
    block: Block,
    taken: bool,
}

impl Guide {
    /// Of these pages, each a name and a text.
    pub fn new(pages: &[(&'static str, &'static str)]) -> Guide {
        let entries = pages
            .iter()
            .flat_map(|(page, text)| blocks(text).map(|block| Entry { page, block, taken: false }));
        Guide { entries: Mutex::new(entries.collect()) }
    }

    /// The `nth` block of a kind below a heading of a page, which counts as taken from then on.
    #[track_caller]
    pub fn take(&self, page: &str, heading: &str, kind: &str, nth: usize) -> &'static str {
        let mut entries = self.entries.lock().expect("nobody panics here");
        let mut found = entries.iter_mut().filter(|Entry { page: of, block, .. }| {
            *of == page && block.heading == heading && block.kind == kind
        });
        let entry = found.nth(nth);
        let Some(entry) = entry else { panic!("{page}, {heading:?}: no block {nth} of {kind}") };
        entry.taken = true;
        entry.block.text
    }

    /// What nobody has taken, as it is to be complained about.
    pub fn untaken(&self) -> Vec<String> {
        let entries = self.entries.lock().expect("nobody panics here");
        let untaken = entries.iter().filter(|entry| !entry.taken);
        let told = untaken.map(|Entry { page, block, .. }| {
            format!("{page}, {:?}, {}:\n{}", block.heading, block.kind, block.text)
        });
        told.collect()
    }
}

/// The commands of a block of shell, each as one line to type; comments go with their command.
pub fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}
