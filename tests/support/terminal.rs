//! An interactive shell on a terminal of its own, and somebody who types.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::mount::eventually;

/// How long anything that is typed may take to be answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// The terminal; it hangs up when dropped.
pub struct Terminal {
    child: Child,
    seen: Arc<Mutex<String>>,
    /// How many commands were run to their end.
    runs: usize,
}

impl Terminal {
    /// A terminal on which this command, script(1), runs a shell.
    pub fn start(mut script: Command) -> Terminal {
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script(1) runs");
        let mut output = child.stdout.take().expect("it is a pipe");
        let seen = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut piece) {
                shared
                    .lock()
                    .expect("nobody panics here")
                    .push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        });
        Terminal { child, seen, runs: 0 }
    }

    /// Presses keys, and waits for nothing.
    pub fn press(&mut self, keys: &str) {
        let keyboard = self.child.stdin.as_mut().expect("it is a pipe");
        keyboard.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// All that was shown so far.
    pub fn seen(&self) -> String {
        self.seen.lock().expect("nobody panics here").clone()
    }

    /// Waits for a text that the keys themselves, which are shown too, do not have in them.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let found = eventually(PATIENCE, || self.seen().contains(text));
        assert!(found.is_some(), "no {text:?} in:\n{}", self.seen());
    }

    /// Types a line that must succeed, and waits for its end; what was shown meanwhile.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> String {
        let before = self.seen().len();
        self.press(&format!("{line}\n"));
        self.ended(before)
    }

    /// Waits until the command that runs ends well; what was shown since it `began`, a place in [`Self::seen`].
    #[track_caller]
    pub fn ended(&mut self, began: usize) -> String {
        self.runs += 1;
        let mark = format!("-run-{}\r\n", self.runs);
        self.press(&format!("echo \"code-$?-run-{}\"\n", self.runs));
        self.wait_for(&mark);
        let seen = self.seen();
        let (shown, _) = seen[began..].split_once(&mark).expect("it was seen");
        let (shown, code) = shown.rsplit_once("code-").expect("the mark has a code");
        assert_eq!(code, "0", "{seen}");
        // What a line held before it was erased is not to be seen any more.
        let lines = shown.split('\n').map(|line| line.rsplit("\u{1b}[K").next().unwrap_or_default());
        lines.collect::<Vec<_>>().join("\n").replace('\r', "")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal hangs up, and everything on it with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
