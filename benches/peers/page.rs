//! `docs/comparison.md`: the table, how each line of it is measured, and both configurations in full.

use std::process::Command;
use std::time::SystemTime;

use comfy_table::{Table, presets};

use crate::Row;
use crate::support::bao;
use crate::support::mount::leasefs;
use crate::support::programs::run;

/// The rows for people.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["", "bao agent", "leasefs"]);
    for Row { what, seen: [agent, leasefs], .. } in rows {
        table.add_row([*what, agent, leasefs]);
    }
    table
}

/// The whole page. `configs` are those of both, in the order of the columns.
pub fn text(rows: &[Row], configs: &[String; 2]) -> String {
    let [agent, leasefs] = configs.each_ref().map(|config| config.trim_end());
    let how: String =
        rows.iter().map(|row| folded(&format!("- **{}**: {}", capital(row.what), row.how)) + "\n").collect();
    format!(
        "# leasefs and `bao agent`

`make compare` measures what this page says and writes it anew. Both run on one machine at the same time, with the
same OpenBao and the same PostgreSQL; each has an AppRole of its own with the same policy, and roles of its own with
the same terms, so that accounts and leases can be told apart. Each line is what one run showed, on {date}.

{versions}

{table}

## Where the agent is better

- It needs no FUSE and no privilege, and runs wherever its binary does; its files behave like any others, inotify
  and sharing included.
- Its files outlive it. A program that starts while the agent is down, or just after a `kill -9`, still finds a
  credential, and one that is valid until its lease ends. With leasefs there is nothing to read without the daemon.
- Its templates can do more: loops, several secrets in one file, commands after a change.
- It asks Vault less: leasefs looks each lease in use up every 30 s, which is how it notices a revocation
  (`docs/scale.md` says what that adds up to).
- Nothing is between a program and its bytes: a read costs what the file system costs (`docs/performance.md` says
  what FUSE adds).

## How it is measured

{how}
The rotation is the same for whoever opens the file anew each time: with both, the new credential is there before
the old one ends. `consul-template`, which the agent's templates come from, is not measured: Debian has no package
of it.

## Configurations

The agent, with `error_on_missing_key` and file modes as a careful operator sets them. There is no sink: templates
need none, so no token lies on a disk. Everything else is its default, but for `static_secret_render_interval`.

```hcl
{agent}
```

leasefs, with its defaults but for `max-age`, which is set to the same 30 s:

```toml
{leasefs}
```
",
        date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().split_once('T').map_or_else(
            String::new,
            |(date, _)| date.to_owned()
        ),
        versions = versions(),
        table = table(rows),
    )
}

fn versions() -> String {
    let first_line = |command: &mut Command| run(command).lines().next().unwrap_or_default().to_owned();
    let bao = first_line(Command::new(bao::binary()).arg("version"));
    let leasefs = first_line(leasefs().arg("--version"));
    let postgres = first_line(Command::new("psql").arg("--version"));
    let kernel = first_line(Command::new("uname").arg("-r"));
    let words = |text: &str, count| text.split(' ').take(count).collect::<Vec<_>>().join(" ");
    let numbers = |text: &str, count| text.split('.').take(count).collect::<Vec<_>>().join(".");
    format!(
        "Versions: {} (server and agent), {leasefs}, {}, Linux {}.",
        words(&bao, 2),
        words(&postgres.replace("psql (PostgreSQL)", "PostgreSQL"), 2),
        numbers(&kernel, 2),
    )
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// A long line in the lines of a list's entry.
fn folded(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        if lines.last().is_some_and(|line| line.len() + word.len() > 112) {
            lines.push(String::new());
        }
        let line = lines.last_mut().expect("one at least");
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.join("\n  ")
}
