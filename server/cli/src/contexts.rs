//! Contexts: a server and the token for it, kept together under a name, and which of them a command uses.
//!
//! [`choose`] decides and is pure. A context's token goes to its own server and to no other.

use crate::{
    error::{CliError, CliResult},
    lang::own,
};
use reqwest::Url;
use senmon_protocol::{said, said::expected::quoted};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The server of somebody who named none.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// A server, how it is reached, and the token for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Its address.
    pub server: String,
    /// The token; none after a logout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Certificate authority to trust beside the system's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Whether the token may go over plain http.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_http: bool,
    /// Who the token was at the login: `hanako (user)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
}

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one that is used where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All of them.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
    /// The token of a `senmon login` from before there were contexts.
    #[serde(skip)]
    pub token_alone: Option<String>,
}

/// What a command was told, by flags and by its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// `--context`.
    pub context: Option<String>,
    /// `SENMON_CONTEXT`.
    pub context_of_environment: Option<String>,
    /// `--server` or `SENMON_SERVER`.
    pub server: Option<String>,
    /// `--token-file` or `SENMON_TOKEN`: the token itself.
    pub token: Option<String>,
    /// `--ca-file` or `SENMON_CA_FILE`.
    pub ca_file: Option<PathBuf>,
    /// `--insecure-http` or `SENMON_INSECURE_HTTP`.
    pub insecure_http: bool,
}

/// What a command uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Name of the context, where one is used.
    pub context: Option<String>,
    /// Server, token, and how the server is reached.
    pub with: Context,
    /// Whether the token was given for this command alone.
    pub token_is_given: bool,
}

/// Chooses. A server or a token that is given goes before a context's; a context's token stays at home where the server
/// is another.
///
/// # Errors
/// When there is no such context, when it contradicts the server, or when several contexts are of that server.
pub fn choose(kept: &Contexts, given: &Given) -> Result<Chosen, String> {
    let named = given.context.as_ref().or(given.context_of_environment.as_ref());
    let selected = match named.or(kept.current.as_ref()) {
        None => None,
        Some(name) => Some((name, kept.contexts.get(name).ok_or_else(|| kept.unknown(name))?)),
    };
    let server = given.server.clone().or_else(|| Some(selected?.1.server.clone()));
    let server = server.unwrap_or_else(|| DEFAULT_SERVER.into());
    let used = match selected {
        Some((name, context)) if is_same(&context.server, &server) => Some((name, context)),
        Some((name, context)) if given.context.is_some() => {
            return Err(own(&said!("context_of_other", name = name, own = &context.server, server = server)));
        }
        _ => kept.only_of(&server, given.token.is_some())?,
    };
    let token_alone = || kept.token_alone.clone().filter(|_| kept.contexts.is_empty());
    let token = given.token.clone().or_else(|| used?.1.token.clone()).or_else(token_alone);
    Ok(Chosen {
        context: used.map(|(name, _)| name.clone()),
        token_is_given: given.token.is_some(),
        with: Context {
            server,
            token,
            ca_file: given.ca_file.clone().or_else(|| used?.1.ca_file.clone()),
            insecure_http: given.insecure_http || used.is_some_and(|(_, context)| context.insecure_http),
            who: used.and_then(|(_, context)| context.who.clone()),
        },
    })
}

impl Contexts {
    fn unknown(&self, name: &str) -> String {
        let (quoted, all): (_, Vec<&String>) = (quoted(name), self.contexts.keys().collect());
        own(&match all.is_empty() {
            true => said!("context_unknown_none", quoted = quoted, name = name),
            false => said!("context_unknown", quoted = quoted, all = all, name = name),
        })
    }

    /// The one context of a server.
    fn only_of(&self, server: &str, token_is_given: bool) -> Result<Option<(&String, &Context)>, String> {
        let fitting: Vec<(&String, &Context)> =
            self.contexts.iter().filter(|(_, context)| is_same(&context.server, server)).collect();
        match fitting[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ if token_is_given => Ok(None),
            _ => {
                let names: Vec<&str> = fitting.iter().map(|(name, _)| name.as_str()).collect();
                Err(own(&said!("contexts_several", server = server, names = names)))
            }
        }
    }

    /// The name under which a login is kept: the one given, else that of the server's context, else a new one.
    ///
    /// # Errors
    /// When the name is none, or its context is of another server.
    pub fn name_for(&self, name: Option<&str>, server: &str) -> Result<String, String> {
        let Some(name) = name else {
            let current = self
                .current
                .iter()
                .filter(|name| self.contexts.get(*name).is_some_and(|context| is_same(&context.server, server)));
            let of_server = self.contexts.iter().filter(|(_, context)| is_same(&context.server, server));
            let known = current.chain(of_server.map(|(name, _)| name)).next();
            let free = |name: &String| !self.contexts.contains_key(name);
            let new = || ["default".to_owned(), host(server)].into_iter().find(free);
            return known.cloned().or_else(new).ok_or_else(|| own(&said!("context_needs_name")));
        };
        if name.is_empty() || name.len() > 64 || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c))
        {
            return Err(own(&said!("context_bad_name", name = quoted(name))));
        }
        match self.contexts.get(name) {
            Some(context) if !is_same(&context.server, server) => {
                Err(own(&said!("context_taken", name = name, own = &context.server, server = server)))
            }
            _ => Ok(name.to_owned()),
        }
    }
}

/// Whether two addresses are of one server.
#[must_use]
pub fn is_same(one: &str, other: &str) -> bool {
    let plain = |text: &str| {
        let url = Url::parse(text.trim()).ok()?;
        let path = url.path().trim_end_matches('/').to_owned();
        Some((url.scheme().to_owned(), url.host_str()?.to_owned(), url.port_or_known_default(), path))
    };
    match (plain(one), plain(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn host(server: &str) -> String {
    Url::parse(server).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// The folder of what the command keeps: `~/.config/senmon`.
///
/// # Errors
/// When there is no home.
pub fn folder() -> CliResult<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| home.join(".config")));
    let missing = || CliError::refused(&said!("no_home"));
    Ok(config.ok_or_else(missing)?.join("senmon"))
}

/// Path of the contexts' file.
#[must_use]
pub fn file(folder: &Path) -> PathBuf {
    folder.join("contexts.yaml")
}

/// Reads what is kept; a machine without a home keeps nothing.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn load() -> CliResult<Contexts> {
    folder().map_or_else(|_| Ok(Contexts::default()), |folder| load_from(&folder))
}

fn load_from(folder: &Path) -> CliResult<Contexts> {
    let read = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::unread(path, &error)),
    };
    let path = file(folder);
    let mut kept = match read(&path)? {
        None => Contexts::default(),
        Some(text) => {
            if fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
                eprintln!("senmon: {}", own(&said!("others_can_read", path = path.display().to_string())));
            }
            serde_yaml_ng::from_str(&text).map_err(|error| CliError::Refused(format!("{}: {error}", path.display())))?
        }
    };
    kept.token_alone = read(&folder.join("token"))?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(kept)
}

/// Writes what is kept for its owner's eyes only, whole or not at all.
///
/// # Errors
/// When the disk refuses.
pub fn save(folder: &Path, kept: &Contexts) -> CliResult {
    let path = file(folder);
    let failed = |error: &dyn std::fmt::Display| {
        CliError::failed(&said!("file_unwritten", path = path.display().to_string(), why = error.to_string()))
    };
    let text = serde_yaml_ng::to_string(kept).map_err(|error| failed(&error))?;
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let new = folder.join(format!("contexts.new-{}", uuid::Uuid::now_v7()));
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
        file.write_all(b"# Servers and tokens of the senmon command: senmon context ls\n")?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, &path)
    };
    write().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests;
