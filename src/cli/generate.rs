//! `leasefs generate`: man pages and completions, made of what the commands say of themselves.
//!
//! A command of the binary and not a program beside it, so that whoever installs or packages leasefs needs no
//! second build, and what is installed can't differ from what the binary does. Hidden: it is for them alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::print;
use crate::cli::{Cli, mount_helper};

/// The section of the manual: commands for administrators.
const SECTION: &str = "8";

/// Makes what goes with the binary.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
#[command(after_help = "\
Examples:
  leasefs generate man ./man8
  leasefs generate completions bash >/etc/bash_completion.d/leasefs")]
pub struct GenerateArgs {
    /// What to make.
    #[command(subcommand)]
    pub subject: Subject,
}

/// What can be made.
#[derive(Subcommand, Debug)]
pub enum Subject {
    /// A page of the manual for each command, as files of a directory
    Man {
        /// The directory; made if it is not there
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Completions of a shell, on standard output
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
}

/// Makes it.
///
/// # Errors
/// [`CommandError::Output`].
pub fn run(args: &GenerateArgs) -> Result<Exit, CommandError> {
    match &args.subject {
        Subject::Man { directory } => manual(directory).map_err(CommandError::Output)?,
        Subject::Completions { shell } => print(&completions(*shell))?,
    }
    Ok(Exit::Ok)
}

/// Writes all pages.
fn manual(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut leasefs = Cli::command().disable_help_subcommand(true).subcommand_help_heading("COMMANDS");
    leasefs.build();
    let commands: Vec<&Command> =
        leasefs.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    let names: Vec<String> = commands.iter().copied().map(page_name).collect();
    let see: Vec<&str> = names.iter().map(String::as_str).chain(["mount.leasefs"]).collect();
    write_page(directory, leasefs.clone(), &see)?;
    for command in commands {
        write_page(directory, command.clone(), &["leasefs"])?;
    }
    write_page(directory, mount_helper::definition(), &["leasefs", "mount", "fstab"])
}

/// `leasefs-mount` for `leasefs mount`.
fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn write_page(directory: &Path, command: Command, see: &[&str]) -> io::Result<()> {
    let mut after = Roff::new();
    if let Some(help) = command.get_after_help() {
        after_help(&mut after, &help.to_string());
    }
    after.control("SH", ["SEE ALSO"]);
    for (at, name) in see.iter().enumerate() {
        let section = if *name == "fstab" { "5" } else { SECTION };
        let comma = if at + 1 < see.len() { "," } else { "" };
        after.text([bold(*name), roman(format!("({section}){comma}"))]);
    }
    let has_commands = command.has_subcommands();
    let page = Man::new(command)
        .section(SECTION)
        // None: a page is as old as its version. Without the quotes what follows would take its place.
        .date("\"\"")
        .source(concat!("leasefs ", env!("CARGO_PKG_VERSION")))
        .manual("System Administration");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if has_commands {
        page.render_subcommands_section(&mut text)?;
    }
    after.to_writer(&mut text)?;
    fs::write(directory.join(page.get_filename()), text)
}

/// What stands below the options in `--help`: "Examples:" with lines as they are typed, then paragraphs.
fn after_help(page: &mut Roff, help: &str) {
    let mut has_notes = false;
    for paragraph in help.split("\n\n") {
        let text = match paragraph.strip_prefix("Examples:\n") {
            Some(examples) => {
                page.control("SH", ["EXAMPLES"]);
                examples
            }
            None => {
                page.control(if has_notes { "PP" } else { "SH" }, (!has_notes).then_some("NOTES"));
                has_notes = true;
                paragraph
            }
        };
        as_typed_or_filled(page, text);
    }
}

/// Lines that are indented stay lines.
fn as_typed_or_filled(page: &mut Roff, text: &str) {
    let mut is_typed = false;
    for line in text.lines() {
        let typed = line.strip_prefix("  ");
        if typed.is_some() != is_typed {
            is_typed = !is_typed;
            page.control(if is_typed { "EX" } else { "EE" }, []);
        }
        page.text([roman(typed.unwrap_or(line))]);
    }
    if is_typed {
        page.control("EE", []);
    }
}

/// A script for a shell.
fn completions(shell: Shell) -> String {
    // The scripts show what is hidden, so it is left out here.
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut leasefs = Command::new("leasefs")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .disable_help_subcommand(true)
        .args(whole.get_arguments().cloned())
        .subcommands(shown);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut leasefs, "leasefs", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stay_lines_and_notes_are_filled() {
        let mut page = Roff::new();
        after_help(&mut page, "Examples:\n  a -b\n  a -c   d\n\nOne.\nTwo.\n\nThree:\n  4\n  5");
        assert_eq!(
            page.to_roff(),
            ".SH EXAMPLES\n.EX\na \\-b\na \\-c   d\n.EE\n.SH NOTES\nOne.\nTwo.\n.PP\nThree:\n.EX\n4\n5\n.EE\n"
        );
    }
}
