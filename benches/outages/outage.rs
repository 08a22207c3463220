//! The outages: what each one is, how it begins and ends. One mount for each, so that none has a history.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::mount::Mount;
use crate::support::tcp::{State, Wire};
use crate::support::world::World;

/// How many secrets there are that nobody has read before: one for each round.
pub const MISSES: usize = 4;

/// An outage, and the mount that goes through it.
pub struct Outage<'a> {
    /// What people call it.
    pub name: &'static str,
    /// Has the file `held`, and `miss-0` and so on.
    pub mount: Mount,
    begin: Box<dyn Fn() + 'a>,
    end: Box<dyn Fn() + 'a>,
}

impl Outage<'_> {
    /// From now on Vault is out.
    pub fn begin(&self) {
        (self.begin)();
    }

    /// From now on it is well.
    pub fn end(&self) {
        (self.end)();
    }
}

/// All outages, those of the network first.
pub fn all(world: &World) -> Vec<Outage<'_>> {
    let wires = [
        ("port closed", State::Refused),
        ("connection reset in mid-body", State::Reset),
        ("nothing moves on the network", State::Frozen),
        ("an answer of 2 s a byte", State::Trickle(Duration::from_secs(2))),
        ("an answer that is no HTTP", State::Garbage),
    ];
    let mut outages: Vec<Outage<'_>> = wires
        .into_iter()
        .enumerate()
        .map(|(index, (name, state))| of_network(world, index, name, state))
        .collect();
    outages.push(of_server(
        world,
        "server stopped (SIGSTOP)",
        "stopped",
        Box::new(|| world.bao.signal(Signal::SIGSTOP)),
        Box::new(|| world.bao.signal(Signal::SIGCONT)),
    ));
    outages.push(of_server(
        world,
        "sealed",
        "sealed",
        Box::new(|| world.wait(world.bao.seal())),
        Box::new(|| world.wait(world.bao.unseal())),
    ));
    outages.push(of_database(world));
    outages
}

fn of_network<'a>(world: &'a World, index: usize, name: &'static str, state: State) -> Outage<'a> {
    let wire = std::rc::Rc::new(Wire::to(world.bao.address()));
    let mount = mount(world, wire.address(), &kv(world, &format!("network-{index}")));
    let ending = std::rc::Rc::clone(&wire);
    Outage {
        name,
        mount,
        begin: Box::new(move || wire.set(state)),
        end: Box::new(move || ending.set(State::Open)),
    }
}

fn of_server<'a>(
    world: &'a World,
    name: &'static str,
    directory: &str,
    begin: Box<dyn Fn() + 'a>,
    end: Box<dyn Fn() + 'a>,
) -> Outage<'a> {
    let mount = mount(world, world.bao.address(), &kv(world, directory));
    Outage { name, mount, begin, end }
}

/// The database of one engine is away; what is held is a credential, and so is what is wanted.
fn of_database(world: &World) -> Outage<'_> {
    let wire = std::rc::Rc::new(Wire::to(&format!("127.0.0.1:{}", world.postgres.port())));
    world.wait(world.postgres.connect_over(&world.bao, "behind", wire.port()));
    let mut files = String::new();
    let names = (0..MISSES).map(|round| (format!("miss-{round}"), format!("miss{round}")));
    for (name, role) in names.chain([("held".to_owned(), "held".to_owned())]) {
        let (life, all) = (Duration::from_secs(3600), Duration::from_secs(7200));
        world.wait(world.postgres.add_role(&world.bao, "behind", &role, life, all));
        files += &format!("[file.\"{name}\"]\nsecret = \"behind/creds/{role}#password\"\n");
    }
    let ending = std::rc::Rc::clone(&wire);
    Outage {
        name: "the database behind an engine is down",
        mount: mount(world, world.bao.address(), &files),
        begin: Box::new(move || wire.set(State::Refused)),
        end: Box::new(move || ending.set(State::Open)),
    }
}

fn kv(world: &World, directory: &str) -> String {
    let names = (0..MISSES).map(|round| format!("miss-{round}")).chain(["held".to_owned()]);
    let file = |name: String| {
        let path = format!("{directory}/{name}");
        world.wait(world.bao.write_kv2("secret", &path, json!({"key": "x".repeat(64)})));
        format!("[file.\"{name}\"]\nsecret = \"secret/{path}#key\"\nmax-age = \"1h\"\n")
    };
    names.map(file).collect()
}

fn mount(world: &World, address: &str, files: &str) -> Mount {
    let config = format!("[vault]\naddress = \"{address}\"\nread-timeout = \"2s\"\n{files}");
    Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token()), ("LEASEFS_LOG", "info")])
}
