//! `leasefs status --watch`: the same page again and again, with whatever has changed.
//!
//! Invariant: *the terminal is given back*: whichever way it ends, the screen, the cursor and the keyboard
//! are as they were.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};

use crate::cli::daemon_of;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::status::text;
use crate::control::AskError;
use crate::control::protocol::StatusReport;
use crate::sys;

/// How often it is asked.
const PERIOD: Duration = Duration::from_secs(1);

/// Shows the status until a key, an interrupt or the end of the daemon.
///
/// # Errors
/// [`CommandError::Ended`] when the daemon ends meanwhile.
pub(super) fn run(mount_point: Option<&Path>) -> Result<Exit, CommandError> {
    let first = daemon_of::status(mount_point)?;
    let mut watched = Watched { mount_point: PathBuf::from(&first.mount_point) };
    match io::stdout().is_terminal() {
        true => on_screen(&mut watched, first),
        false => in_blocks(&mut watched, first),
    }
}

/// The daemon that is watched.
struct Watched {
    mount_point: PathBuf,
}

impl Watched {
    fn status(&mut self) -> Result<StatusReport, CommandError> {
        let ask = || daemon_of::status(Some(&self.mount_point));
        // A connection may break for other reasons than the daemon's end.
        match ask().or_else(|_| ask()) {
            Err(CommandError::Ask(
                AskError::NotServed { .. } | AskError::Closed | AskError::Broken { .. },
            )) => Err(CommandError::Ended { mount_point: self.mount_point.clone() }),
            result => result,
        }
    }
}

/// Where no terminal is: a block for each second, with an empty line after it, for as long as somebody reads.
fn in_blocks(watched: &mut Watched, first: StatusReport) -> Result<Exit, CommandError> {
    let mut report = first;
    let mut out = io::stdout();
    loop {
        let block = text(report) + "\n";
        match out.write_all(block.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            Err(error) => return Err(CommandError::Output(error)),
        }
        std::thread::sleep(PERIOD);
        report = watched.status()?;
    }
}

fn on_screen(watched: &mut Watched, first: StatusReport) -> Result<Exit, CommandError> {
    let screen = Screen::open().map_err(CommandError::Output)?;
    let mut page = text(first);
    loop {
        screen.show(&page).map_err(CommandError::Output)?;
        let next = sys::boot_time() + PERIOD;
        loop {
            let left = next.since(sys::boot_time());
            match screen.wait(left).map_err(CommandError::Output)? {
                Asked::End => return Ok(Exit::Ok),
                Asked::Redraw => screen.show(&page).map_err(CommandError::Output)?,
                Asked::Nothing => break,
            }
        }
        page = text(watched.status()?);
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Nothing, for the time that was waited.
    Nothing,
    /// The terminal has another size.
    Redraw,
    /// To end it.
    End,
}

/// The whole terminal, until it is dropped.
struct Screen;

impl Screen {
    fn open() -> io::Result<Screen> {
        terminal::enable_raw_mode()?;
        // From here on it is given back.
        let screen = Screen;
        execute!(io::stdout(), terminal::EnterAlternateScreen, terminal::DisableLineWrap, cursor::Hide)?;
        Ok(screen)
    }

    fn show(&self, page: &str) -> io::Result<()> {
        let (columns, rows) = terminal::size()?;
        let mut out = io::stdout().lock();
        queue!(out, cursor::MoveTo(0, 0))?;
        for (index, line) in fitted(page, usize::from(columns), usize::from(rows)).iter().enumerate() {
            if index > 0 {
                queue!(out, cursor::MoveToNextLine(1))?;
            }
            queue!(out, style::Print(line), terminal::Clear(terminal::ClearType::UntilNewLine))?;
        }
        queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown))?;
        out.flush()
    }

    /// Waits for a key, at most so long.
    fn wait(&self, longest: Duration) -> io::Result<Asked> {
        if !event::poll(longest)? {
            return Ok(Asked::Nothing);
        }
        Ok(match event::read()? {
            Event::Key(key) if ends(&key) => Asked::End,
            _ => Asked::Redraw,
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing can be done about a closed terminal.
        let _ =
            execute!(io::stdout(), cursor::Show, terminal::EnableLineWrap, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

fn ends(key: &KeyEvent) -> bool {
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release
        && match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
            KeyCode::Char('c' | 'd') => with_control,
            _ => false,
        }
}

/// The lines of a page as far as they fit, the last one saying how it is ended and what is missing.
fn fitted(page: &str, columns: usize, rows: usize) -> Vec<String> {
    let lines: Vec<&str> = page.lines().collect();
    let room = rows.saturating_sub(1);
    let missing = lines.len().saturating_sub(room);
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    let mut fitted: Vec<String> = lines.iter().take(room).map(|line| cut(line)).collect();
    let more = if missing > 0 { format!("; {missing} more lines do not fit") } else { String::new() };
    fitted.push(cut(&format!("q ends it{more}")));
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_to_the_terminal_and_says_so() {
        let page = "one line\ntwo\nthree\n";
        assert_eq!(fitted(page, 5, 9), ["one l", "two", "three", "q end"]);
        let small = fitted(page, 80, 3);
        assert_eq!(small, ["one line", "two", "q ends it; 1 more lines do not fit"]);
        assert_eq!(fitted(page, 80, 0).len(), 1);
        assert_eq!(fitted("ääää", 3, 2)[0], "äää");
    }

    #[test]
    fn q_and_the_usual_keys_end_it_and_others_do_not() {
        let key = |code, modifiers| KeyEvent::new(code, modifiers);
        let (none, control) = (KeyModifiers::NONE, KeyModifiers::CONTROL);
        for (code, modifiers, end) in [
            (KeyCode::Char('q'), none, true),
            (KeyCode::Esc, none, true),
            (KeyCode::Char('c'), control, true),
            (KeyCode::Char('c'), none, false),
            (KeyCode::Char('x'), none, false),
            (KeyCode::Enter, none, false),
        ] {
            assert_eq!(ends(&key(code, modifiers)), end, "{code:?}");
        }
    }
}
