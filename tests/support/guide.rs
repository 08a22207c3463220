//! Pages of the documentation and the blocks of code in them, for tests that run what they say.

use std::collections::BTreeMap;
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
    /// Name of the page, heading and kind → the blocks, each with whether it was taken.
    blocks: Mutex<BTreeMap<[&'static str; 3], Vec<(Block, bool)>>>,
}

impl Guide {
    /// Of these pages, by their names.
    pub fn new(pages: &[(&'static str, &'static str)]) -> Guide {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for (name, page) in pages {
            for block in blocks(page) {
                found.entry([*name, block.heading, block.kind]).or_default().push((block, false));
            }
        }
        Guide { blocks: Mutex::new(found) }
    }

    /// The `nth` block of a kind below a heading of a page, which counts as taken from then on.
    #[track_caller]
    pub fn take(
        &self,
        page: &'static str,
        heading: &'static str,
        kind: &'static str,
        nth: usize,
    ) -> &'static str {
        let mut blocks = self.blocks.lock().expect("nobody panics here");
        let found = blocks.get_mut(&[page, heading, kind]).and_then(|blocks| blocks.get_mut(nth));
        let Some((block, taken)) = found else { panic!("{page}, {heading:?}: no block {nth} of {kind}") };
        *taken = true;
        block.text
    }

    /// What nobody has taken, as it is to be complained about.
    pub fn untaken(&self) -> Vec<String> {
        let blocks = self.blocks.lock().expect("nobody panics here");
        let untaken = blocks.iter().flat_map(|([page, ..], blocks)| {
            let blocks = blocks.iter().filter(|(_, taken)| !taken);
            blocks.map(move |(Block { heading, kind, text }, _)| {
                format!("{page}, {heading:?}, {kind}:\n{text}")
            })
        });
        untaken.collect()
    }
}

/// The commands of a block of shell, each as one line to type; comments go with their command.
pub fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}
