//! What a template calls: names of filters and tests, which its compiler would not look up before they are used.
//!
//! It reads texts that are valid already. What it overlooks fails when the file is opened, no worse.

/// A filter or a test that is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call<'a> {
    /// The line, from 1 on.
    pub line: usize,
    /// What stands before it.
    pub what: Called,
    /// Its name.
    pub name: &'a str,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// After a `|`, or in `{% filter NAME %}`.
    Filter,
    /// After `is`.
    Test,
}

/// All calls, in the order of the text.
pub(super) fn calls(text: &str) -> Vec<Call<'_>> {
    let mut calls = Vec::new();
    let mut at = 0;
    while let Some(open) =
        text[at..].find("{{").into_iter().chain(text[at..].find("{%")).chain(text[at..].find("{#")).min()
    {
        let open = at + open;
        let inside = open + 2;
        at = match &text[open..inside] {
            "{#" => after(text, inside, "#}"),
            "{{" => tag(text, inside, "}}", &mut calls),
            _ if first_word(&text[inside..]) == "raw" => end_of_raw(text, after(text, inside, "%}")),
            _ => tag(text, inside, "%}", &mut calls),
        };
    }
    calls
}

fn after(text: &str, from: usize, end: &str) -> usize {
    text[from..].find(end).map_or(text.len(), |at| from + at + end.len())
}

fn end_of_raw(text: &str, mut from: usize) -> usize {
    while let Some(open) = text[from..].find("{%") {
        from += open + 2;
        if first_word(&text[from..]) == "endraw" {
            return after(text, from, "%}");
        }
    }
    text.len()
}

fn first_word(text: &str) -> &str {
    word(text.trim_start_matches(['-', '+']).trim_start())
}

/// The identifier that a text begins with; empty if it begins with none.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// What the next word is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The first of a `{% … %}`.
    Statement,
    /// An attribute.
    Attribute,
    /// Called.
    Is(Called),
    /// A name, or anything else.
    Other,
}

/// Reads up to the end of a tag; returns where that is.
fn tag<'a>(text: &'a str, from: usize, end: &str, calls: &mut Vec<Call<'a>>) -> usize {
    let mut next = if end == "%}" { Next::Statement } else { Next::Other };
    let (mut at, mut depth) = (from, 0_usize);
    while let Some(char) = text[at..].chars().next() {
        let rest = &text[at..];
        if depth == 0 && rest.starts_with(end) {
            return at + end.len();
        }
        if char.is_alphanumeric() || char == '_' {
            let name = word(rest);
            next = match (next, name) {
                (Next::Is(Called::Test), "not") => next,
                (Next::Is(what), _) => {
                    let line = 1 + text[..at].matches('\n').count();
                    calls.push(Call { line, what, name });
                    Next::Other
                }
                (Next::Statement, "filter") => Next::Is(Called::Filter),
                (Next::Other, "is") => Next::Is(Called::Test),
                _ => Next::Other,
            };
            at += name.len();
            continue;
        }
        match char {
            '"' | '\'' => {
                at = end_of_string(text, at);
                next = Next::Other;
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        next = match char {
            '|' => Next::Is(Called::Filter),
            '.' => Next::Attribute,
            // Of `{%-` and `{%+`.
            '-' | '+' if at == from => next,
            _ if char.is_whitespace() => next,
            _ => Next::Other,
        };
        at += char.len_utf8();
    }
    text.len()
}

fn end_of_string(text: &str, from: usize) -> usize {
    let mut chars = text[from..].char_indices();
    let quote = chars.next().map(|(_, quote)| quote);
    while let Some((at, char)) = chars.next() {
        if char == '\\' {
            chars.next();
        } else if Some(char) == quote {
            return from + at + char.len_utf8();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, Called, &str)> {
        calls(text).into_iter().map(|call| (call.line, call.what, call.name)).collect()
    }

    #[test]
    fn filters_and_tests_are_found_where_they_are_called() {
        use Called::{Filter, Test};
        for (text, calls) in [
            ("{{ a | b }}", vec![(1, Filter, "b")]),
            (
                "\n{{- a|b('x | y', \"}}\\\"\" | c)\n|d -}}",
                vec![(2, Filter, "b"), (2, Filter, "c"), (3, Filter, "d")],
            ),
            ("{% filter upper %}x | y{% endfilter %}", vec![(1, Filter, "upper")]),
            ("{%- if a is defined and b is not odd -%}", vec![(1, Test, "defined"), (1, Test, "odd")]),
            ("{% set x = {\"a\": {\"b\": c | d}} | e %}", vec![(1, Filter, "d"), (1, Filter, "e")]),
            ("{{ {'a': {}} | f }} {{ g | h }}", vec![(1, Filter, "f"), (1, Filter, "h")]),
            ("{# a | b #}{% raw %}{{ a | b }}{% if %}{%- endraw %}{{ a | c }}", vec![(1, Filter, "c")]),
            ("a | b {{ a.is }} {{ filter }} {% if filter %}", vec![]),
            ("{{ ü | ö }}", vec![(1, Filter, "ö")]),
            ("{{ a |", vec![]),
            ("{{ 'a", vec![]),
            ("{% raw %}", vec![]),
            ("{#", vec![]),
        ] {
            assert_eq!(found(text), calls, "{text}");
        }
    }
}
