//! What commands print: tables and lines on standard output.
//!
//! Texts of other processes pass through [`clean`], so that none of them can steer the terminal.

use std::io::{self, ErrorKind, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::cli::exit::CommandError;

/// Prints a text as it is. A reader that has seen enough, such as `head`, is no error.
///
/// # Errors
/// [`CommandError::Output`].
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CommandError::Output(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a value as indented JSON.
///
/// # Errors
/// [`CommandError::Output`].
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CommandError::Output(error.into()))?;
    print(&(text + "\n"))
}

/// A plain table, one line per row, with a newline at the end of each; nothing if there are no rows.
pub(super) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A text in one line, without anything that a terminal would act on.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// How many columns the terminal has; 80 if there is none.
pub(super) fn width() -> usize {
    crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns))
}

/// A number of seconds for people.
pub(super) fn span(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

/// A number of bytes for people, rounded down.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..0x10_0000 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}

/// `1 file`, `2 files`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_plain_lines_that_no_cell_can_break() {
        let rows =
            vec![["a".to_owned(), "two\nlines\u{1b}[2J".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "ERROR"], rows), "NAME    ERROR\na       two lines [2J\nlonger\n");
        assert_eq!(table(["NAME"], Vec::new()), "");
    }

    #[test]
    fn sizes_and_spans_are_for_people() {
        assert_eq!((bytes(7), bytes(2047), bytes(5 << 20)), ("7 B".into(), "1 KiB".into(), "5 MiB".into()));
        assert_eq!(span(3690), "1h 1m 30s");
        assert_eq!((counted(1, "file"), counted(0, "file")), ("1 file".into(), "0 files".into()));
    }
}
