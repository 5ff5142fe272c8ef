//! A network of its own for a worker: a namespace and a pair of virtual cables, on which either direction can be lost.
//!
//! Packets are lost by a wrong hardware address of the peer, which needs no firewall and no module of the kernel: they
//! leave, and nobody takes them.

use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// None.
    None,
    /// Those to the server.
    ToServer,
    /// Those to the worker.
    ToWorker,
    /// All.
    Both,
}

/// A namespace; it goes with its value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    outside: String,
    number: u8,
}

/// Hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:99";

impl Namespace {
    /// Why there can be none here, in a sentence for people; None where there can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        if !is_root {
            return Some("network namespaces need root");
        }
        let there = Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
        (!there).then_some("the program ip is missing: scripts/setup-chaos installs it")
    }

    /// Makes the namespace and its cables.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn new() -> Result<Self> {
        let number = u8::try_from(std::process::id() % 250).unwrap_or(0) + 1;
        let (name, outside) = (format!("senmon{number}"), format!("senmon{number}o"));
        let space = Self { name: name.clone(), outside: outside.clone(), number };
        // Of a run that was killed.
        let _ = ip(&["link", "del", &outside]);
        let _ = ip(&["netns", "del", &name]);
        ip(&["netns", "add", &name])?;
        ip(&["link", "add", &outside, "type", "veth", "peer", "name", "wire", "netns", &name])?;
        ip(&["addr", "add", &format!("{}/30", space.server()), "dev", &outside])?;
        ip(&["link", "set", &outside, "up"])?;
        ip(&["-n", &name, "addr", "add", &format!("{}/30", space.worker()), "dev", "wire"])?;
        ip(&["-n", &name, "link", "set", "wire", "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        Ok(space)
    }

    /// Address of the server's side.
    #[must_use]
    pub fn server(&self) -> String {
        format!("10.213.{}.1", self.number)
    }

    fn worker(&self) -> String {
        format!("10.213.{}.2", self.number)
    }

    /// The command that becomes a program inside.
    #[must_use]
    pub fn by(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// Loses packets from now on.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn lose(&self, lost: Lost) -> Result<()> {
        let (server, worker) = (self.server(), self.worker());
        let inside = ["-n", &self.name];
        let (to_server, to_worker) =
            (matches!(lost, Lost::ToServer | Lost::Both), matches!(lost, Lost::ToWorker | Lost::Both));
        lose(&inside, &server, "wire", to_server)?;
        lose(&[], &worker, &self.outside, to_worker)
    }
}

/// Where packets to `peer` go: to nobody, or where they belong.
fn lose(at: &[&str], peer: &str, device: &str, lost: bool) -> Result<()> {
    if lost {
        return ip(&[at, &["neigh", "replace", peer, "lladdr", NOBODY, "dev", device, "nud", "permanent"]].concat());
    }
    // Forgotten, and asked for again by the system itself. There may be nothing to forget.
    let _ = ip(&[at, &["neigh", "del", peer, "dev", device]].concat());
    Ok(())
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.outside]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("start ip")?;
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
