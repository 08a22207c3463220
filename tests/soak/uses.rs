//! What programs do with the mount all the time, and what they must get.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::faults::Fault;
use crate::scene::{CHANGING, READ_TIMEOUT, ROLES, Scene, TOO_OLD, TREE, branch, leaf, name};
use crate::support::load::Load;
use crate::support::mount::leasefs;
use crate::support::weather::{Use, Weather};

/// Longer than any call takes: it waits for Vault for no longer than its time-out, and for a successor.
const BOUND: Duration = Duration::from_secs(READ_TIMEOUT.as_secs() + 4);

/// Maps the files that it is told and writes down what it sees. A page that is gone is an error of the system call
/// that copies from it, and no signal.
const MAPS: &str = r#"
import mmap, os, sys
scratch = os.memfd_create("scratch")
for line in sys.stdin:
    try:
        fd = os.open(line.rstrip("\n"), os.O_RDONLY)
        try:
            with mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ) as mapping:
                os.ftruncate(scratch, 0)
                os.pwrite(scratch, mapping, 0)
        finally:
            os.close(fd)
        print("ok", os.pread(scratch, 1 << 16, 0).rstrip(b"\0").hex(), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
    except ValueError:
        print("errno", 0, flush=True)
"#;

/// Starts everything.
pub fn put_under_load(scene: &Scene) -> Load {
    let mut load = Load::new();
    for number in 0..2 {
        load.start_at(&format!("open, read, close KV ({number})"), pause(2), opens_kv(scene));
    }
    load.start_at("hold KV", pause(5), holds_kv(scene));
    load.start_at("map KV", pause(20), maps_kv(scene));
    load.start_at("stat", pause(5), measures_kv(scene));
    load.start_at("change KV", pause(150), changes_kv(scene));
    load.start_at("read the tree", pause(3), reads_the_tree(scene));
    load.start_at("list the tree", pause(10), lists_the_tree(scene));
    for (role, ..) in ROLES {
        load.start_at(&format!("log in as {role}"), pause(250), logs_in(scene, role));
        load.start_at(&format!("hold {role}"), pause(10), holds_a_credential(scene, role));
    }
    load.start_at("ask for the status", pause(700), asks(scene));
    load
}

fn pause(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Does what is one system call, or few of which one at most may wait.
fn bounded<T>(weather: &Weather, what: &str, call: impl FnOnce() -> T) -> Result<T, String> {
    let began = Instant::now();
    let outcome = call();
    let took = began.elapsed();
    // A call that waits for Vault when its server is killed waits for it anew with the next one.
    let waits_twice = weather.was(Fault::KilledWhileFrozen.sky(), began);
    let bound = if waits_twice { BOUND + READ_TIMEOUT } else { BOUND };
    if took < bound { Ok(outcome) } else { Err(format!("{what} took {took:?}")) }
}

fn opens_kv(scene: &Scene) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (root, weather, changing) = (scene.mount.root(), Arc::clone(&scene.weather), scene.changing.clone());
    move || {
        let index = fastrand::usize(..CHANGING);
        let began = Instant::now();
        match bounded(&weather, "open, read and close", || fs::read(root.join(format!("kv/{index}"))))? {
            Ok(found) => changing[index].judge(&found, began, TOO_OLD).map(drop),
            // Between the open and the read there is time enough to end.
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                weather.judge(Use::HeldKv, began, &error)
            }
            Err(error) => weather.judge(Use::Kv, began, &error),
        }
    }
}

/// A file that is open, which value it shows, and since when.
struct Held {
    file: File,
    version: usize,
    since: Instant,
}

fn holds_kv(scene: &Scene) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (root, weather, changing) = (scene.mount.root(), Arc::clone(&scene.weather), scene.changing.clone());
    let mut held: Vec<Option<Held>> = (0..CHANGING).map(|_| None).collect();
    move || {
        let index = fastrand::usize(..CHANGING);
        let (timeline, began) = (&changing[index], Instant::now());
        // Some are let go while they could still be read.
        if fastrand::u32(..200) == 0 {
            held[index] = None;
        }
        if let Some(Held { file, version, since }) = held[index].take() {
            match bounded(&weather, "read", || read(&file))? {
                Ok(found) => {
                    let shown = timeline.judge(&found, began, TOO_OLD)?;
                    if shown != version {
                        return Err(format!(
                            "WRONG BYTES: value {shown} in a file that was opened with {version}"
                        ));
                    }
                    held[index] = Some(Held { file, version, since });
                    return Ok(());
                }
                Err(error)
                    if error.raw_os_error() == Some(libc::ESTALE) && timeline.was_replaced(version) => {}
                Err(error) => weather.judge(Use::HeldKv, since, &error)?,
            }
        }
        let opened = bounded(&weather, "open", || File::open(root.join(format!("kv/{index}"))))?;
        let (file, found) = match opened.map(|file| (read(&file), file)) {
            Err(error) => return weather.judge(Use::Kv, began, &error),
            Ok((Err(error), _)) => return weather.judge(Use::HeldKv, began, &error),
            Ok((Ok(found), file)) => (file, found),
        };
        let version = timeline.judge(&found, began, TOO_OLD)?;
        held[index] = Some(Held { file, version, since: began });
        Ok(())
    }
}

fn maps_kv(scene: &Scene) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (root, weather, changing) = (scene.mount.root(), Arc::clone(&scene.weather), scene.changing.clone());
    let mut mapper = Mapper::start();
    move || {
        let index = fastrand::usize(..CHANGING);
        let began = Instant::now();
        match bounded(&weather, "map", || mapper.map(&root.join(format!("kv/{index}"))))? {
            Ok(found) => changing[index].judge_mapped(&found, began, TOO_OLD),
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                // A page that can't be filled: as a read of an open file that has ended.
                weather.judge(Use::HeldKv, began, &io::Error::from_raw_os_error(libc::ESTALE))
            }
            Err(error) => weather.judge(Use::Kv, began, &error),
        }
    }
}

fn measures_kv(scene: &Scene) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (root, weather, changing) = (scene.mount.root(), Arc::clone(&scene.weather), scene.changing.clone());
    move || {
        let index = fastrand::usize(..CHANGING);
        let began = Instant::now();
        match bounded(&weather, "stat", || fs::metadata(root.join(format!("kv/{index}"))))? {
            // A locked file can be looked at; how much is in it is not told.
            Ok(found) if found.len() == 0 => {
                weather.judge(Use::Kv, began, &io::Error::from_raw_os_error(libc::EACCES))
            }
            Ok(found) => changing[index].judge_size(found.len(), began, TOO_OLD),
            Err(error) => weather.judge(Use::Kv, began, &error),
        }
    }
}

fn changes_kv(scene: &Scene) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (world, changing) = (Arc::clone(&scene.world), scene.changing.clone());
    move || {
        // One is never changed: only its confirmations keep it alive.
        let index = fastrand::usize(1..CHANGING);
        changing[index].write(|value| {
            let path = format!("secret/data/{}", name(index));
            let body = json!({"data": {"key": value}});
            let answer = world.wait(world.bao.try_call("POST", &path, Some(body)));
            answer.is_some_and(|(status, _)| status == 200)
        });
        Ok(())
    }
}

fn reads_the_tree(scene: &Scene) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (root, weather) = (scene.mount.root().join("tree"), Arc::clone(&scene.weather));
    move || {
        let index = fastrand::usize(..TREE);
        let began = Instant::now();
        match bounded(&weather, "open, read and close", || fs::read(root.join(branch(index)).join("key")))? {
            Ok(found) if found == leaf(index).as_bytes() => Ok(()),
            Ok(found) => {
                Err(format!("WRONG BYTES in {}: {:?}", branch(index), String::from_utf8_lossy(&found)))
            }
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                weather.judge(Use::HeldKv, began, &error)
            }
            Err(error) => weather.judge(Use::Kv, began, &error),
        }
    }
}

fn lists_the_tree(scene: &Scene) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (root, weather) = (scene.mount.root().join("tree"), Arc::clone(&scene.weather));
    move || {
        let folder = fastrand::usize(..TREE / 5);
        let began = Instant::now();
        let path = root.join(format!("folder-{folder}"));
        let listed = bounded(&weather, "list", || {
            fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>)
        })?;
        let mut names: Vec<String> = match listed {
            Ok(entries) => {
                entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
            }
            Err(error) => return weather.judge(Use::Kv, began, &error),
        };
        names.sort();
        let mut expected: Vec<String> = (folder * 5..folder * 5 + 5).map(|index| index.to_string()).collect();
        expected.sort();
        if names == expected { Ok(()) } else { Err(format!("folder {folder} lists {names:?}")) }
    }
}

/// Uses a credential: while it can be read it must be valid.
fn logs_in(scene: &Scene, role: &'static str) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (root, weather, world) = (scene.mount.root(), Arc::clone(&scene.weather), Arc::clone(&scene.world));
    let path = root.join(role).join("both");
    move || {
        let began = Instant::now();
        let file = match bounded(&weather, "open", || File::open(&path))? {
            Ok(file) => file,
            Err(error) => return weather.judge(Use::Credential, began, &error),
        };
        let Ok(found) = bounded(&weather, "read", || read(&file))? else { return Ok(()) };
        let (user, password) = credential(&found, role)?;
        let refused = world.postgres.try_query(&user, &password, "select 1").err();
        let valid = bounded(&weather, "read", || read(&file))?.is_ok_and(|again| again == found);
        match refused {
            Some(why) if valid && !weather.was_bad_for(Use::HeldCredential, began) => {
                Err(format!("{user} can be read and is refused: {why}"))
            }
            _ => Ok(()),
        }
    }
}

fn holds_a_credential(
    scene: &Scene,
    role: &'static str,
) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (root, weather) = (scene.mount.root(), Arc::clone(&scene.weather));
    let path = root.join(role).join("both");
    let mut held: Option<(File, Vec<u8>, Instant)> = None;
    move || {
        let began = Instant::now();
        if let Some((file, text, since)) = held.take() {
            match bounded(&weather, "read", || read(&file))? {
                Ok(found) if found == text => {
                    held = Some((file, text, since));
                    return Ok(());
                }
                Ok(found) => {
                    return Err(format!(
                        "WRONG BYTES in an open file: {:?}",
                        String::from_utf8_lossy(&found)
                    ));
                }
                // It has come to its end, if there is a next one by now.
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => match fs::read(&path) {
                    Ok(next) if next == text => {
                        return Err(format!("{role} has ended for its reader, and is still shown"));
                    }
                    Ok(_) => {}
                    Err(_) => weather.judge(Use::HeldCredential, since, &error)?,
                },
                Err(error) => weather.judge(Use::HeldCredential, since, &error)?,
            }
        }
        match bounded(&weather, "open", || File::open(&path))?.map(|file| (read(&file), file)) {
            Err(error) => weather.judge(Use::Credential, began, &error),
            Ok((Err(error), _)) => weather.judge(Use::HeldCredential, began, &error),
            Ok((Ok(found), file)) => {
                credential(&found, role)?;
                held = Some((file, found, began));
                Ok(())
            }
        }
    }
}

/// The name of one of this role's accounts and its password, out of a file that has both.
fn credential(found: &[u8], role: &str) -> Result<(String, String), String> {
    let whole: Option<serde_json::Value> = serde_json::from_slice(found).ok();
    let parts = whole.as_ref().and_then(|all| Some((all["username"].as_str()?, all["password"].as_str()?)));
    match parts {
        Some((user, password)) if user.starts_with("v-") && user.contains(&format!("-{role}-")) => {
            Ok((user.to_owned(), password.to_owned()))
        }
        _ => Err(format!("WRONG BYTES in a credential of {role}: {:?}", String::from_utf8_lossy(found))),
    }
}

/// Commands are answered whatever happens.
fn asks(scene: &Scene) -> impl FnMut() -> Result<(), String> + Send + use<> {
    let (root, weather) = (scene.mount.root(), Arc::clone(&scene.weather));
    move || {
        let output =
            bounded(&weather, "status", || leasefs().arg("status").arg("--json").arg(&root).output())?;
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("status ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 8192];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// A process that maps files: what becomes of a mapping could end it.
struct Mapper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Mapper {
    fn start() -> Mapper {
        let mut python = Command::new("python3");
        python.args(["-c", MAPS]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("this test needs python3");
        let (orders, answers) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        Mapper { child, orders, answers: BufReader::new(answers) }
    }

    fn map(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let orders = self.orders.as_mut().expect("it is told until it ends");
        writeln!(orders, "{}", path.display())?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["ok", hex] => {
                let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
                Ok(digits.map(|pair| u8::from_str_radix(pair, 16).expect("digits")).collect())
            }
            ["errno", errno] => Err(io::Error::from_raw_os_error(errno.parse().expect("a number"))),
            _ => Err(io::Error::other(format!("it maps no more: {line:?}"))),
        }
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        drop(self.orders.take());
        drop(self.child.wait());
    }
}
