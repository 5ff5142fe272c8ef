//! `senmon login`, `logout`, `whoami` and `context …`: who this machine is, and to whom.

use crate::{
    client::{Client, Reach},
    contexts::{self, Chosen, Context, Contexts, DEFAULT_SERVER},
    error::{CliError, CliResult},
    lang::own,
    output::{Format, List, out},
    table::Table,
    words,
};
use clap::{Args, Subcommand};
use senmon_protocol::{
    said,
    said::expected::quoted,
    view::{BeginLogin, BegunLogin, PollLogin, PolledLogin, SessionView},
};
use serde::Serialize;
use std::{
    fs,
    io::{BufRead as _, IsTerminal as _},
    time::Duration,
};

/// Arguments of `login`.
#[derive(Debug, Args)]
pub struct Login {
    /// Name of the context that keeps the server and its token; that of the server's context where there is one.
    name: Option<String>,
}

/// Arguments of `logout`.
#[derive(Debug, Args)]
pub struct Logout {
    /// The context; the current one when absent.
    name: Option<String>,
}

/// Contexts.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List contexts; the current one has a star.
    #[command(visible_alias = "list")]
    Ls,
    /// Use this context from now on.
    Use(Name),
    /// Forget a context with its token.
    #[command(visible_alias = "rm")]
    Delete(Name),
}

/// One context.
#[derive(Debug, Args)]
pub struct Name {
    /// Its name.
    #[arg(value_name = "CONTEXT")]
    name: String,
}

/// `senmon login`: shows a code that a person approves in the dashboard; or takes a token from the standard input, where
/// that is no terminal. Keeps the server with its token.
///
/// # Errors
/// When the server does not accept it, nobody approves, or the file cannot be written.
pub async fn login(reach: &Reach, args: &Login) -> CliResult {
    let folder = contexts::folder()?;
    let mut kept = contexts::load()?;
    let given = reach.given(None)?;
    let wanted = args.name.as_ref().or(given.context.as_ref());
    let known = |name: &String| kept.contexts.get(name);
    let before = wanted.map_or_else(|| kept.current.as_ref().and_then(known), known).cloned().unwrap_or_default();
    let server = given.server.clone().unwrap_or_else(|| match before.server.as_str() {
        "" => DEFAULT_SERVER.into(),
        server => server.to_owned(),
    });
    let name = kept.name_for(wanted.map(String::as_str), &server).map_err(CliError::Refused)?;
    let is_same = contexts::is_same(&before.server, &server);
    let ca_file = match &given.ca_file {
        Some(path) => Some(fs::canonicalize(path).unwrap_or_else(|_| path.clone())),
        None => before.ca_file.filter(|_| is_same),
    };
    let mut with = Context {
        server,
        token: None,
        ca_file,
        insecure_http: given.insecure_http || is_same && before.insecure_http,
        who: None,
    };
    let token = if std::io::stdin().is_terminal() { approved(&with).await? } else { read_token()? };
    with.token = Some(token);
    let client = Client::new(&with)?;
    let session: SessionView = client.get("/session").await?;
    let who = format!("{} ({})", session.name, words::name(&session.role));
    with.server = client.base().to_owned();
    with.who = Some(who.clone());
    let _ = kept.contexts.insert(name.clone(), with);
    kept.current = Some(name.clone());
    contexts::save(&folder, &kept)?;
    let path = contexts::file(&folder);
    let path = path.display().to_string();
    out(&own(&said!("signed_in", server = client.base(), who = who, name = name, path = path)));
    for variable in ["SENMON_TOKEN", "SENMON_SERVER", "SENMON_CONTEXT"] {
        if std::env::var_os(variable).is_some_and(|value| !value.is_empty()) {
            eprintln!("senmon: {}", own(&said!("variable_goes_before", variable = variable)));
        }
    }
    Ok(())
}

/// `senmon logout`: forgets a token. The server stays, so that the next login needs no address.
///
/// # Errors
/// When there is no such context.
pub fn logout(reach: &Reach, args: &Logout) -> CliResult {
    let folder = contexts::folder()?;
    let mut kept = contexts::load()?;
    let given = reach.given(None)?;
    let named = args.name.clone().or(given.context).or(given.context_of_environment);
    let Some(name) = named.or_else(|| kept.current.clone()) else {
        if kept.token_alone.is_none() {
            return Err(CliError::refused(&said!("nobody_signed_in")));
        }
        let path = folder.join("token");
        fs::remove_file(&path).map_err(|error| {
            CliError::failed(&said!("file_not_removed", path = path.display().to_string(), why = error.to_string()))
        })?;
        out(&own(&said!("token_forgotten")));
        return Ok(());
    };
    let context = existing(&mut kept, &name)?;
    context.token = None;
    let who = context.who.take();
    contexts::save(&folder, &kept)?;
    let revoke = who.as_deref().and_then(|who| who.split(' ').next()).unwrap_or("NAME");
    out(&own(&said!("token_of_context_forgotten", name = name, revoke = revoke)));
    Ok(())
}

/// What `whoami` says.
#[derive(Debug, Serialize)]
struct Whoami<'a> {
    name: String,
    role: String,
    server: &'a str,
    server_version: String,
    context: Option<&'a str>,
}

/// `senmon whoami`.
///
/// # Errors
/// When the server does not accept the token.
pub async fn whoami(client: &Client, format: Format, chosen: &Chosen) -> CliResult {
    let session: SessionView = client.get("/session").await?;
    let role = words::name(&session.role);
    let answer = Whoami {
        name: session.name,
        role,
        server: client.base(),
        server_version: session.version,
        context: chosen.context.as_deref(),
    };
    format.print(&answer, |answer| {
        let mut facts = Table::facts();
        let by = own(&match (chosen.token_is_given, answer.context) {
            (true, _) => said!("by_given_token"),
            (false, Some(name)) => said!("by_context", name = name),
            (false, None) => said!("by_earlier_login"),
        });
        facts.row(vec!["name", answer.name.as_str()]);
        facts.row(vec!["role", answer.role.as_str()]);
        facts.row(vec!["server", answer.server]);
        facts.row(vec![
            "version".to_owned(),
            own(&said!("versions", server = &answer.server_version, own = env!("CARGO_PKG_VERSION"))),
        ]);
        facts.row(vec!["by", by.as_str()]);
        facts.render()
    })
}

/// One line of `senmon context ls`: everything but the secret.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    current: bool,
    server: &'a str,
    who: Option<&'a str>,
    signed_in: bool,
}

/// `senmon context …`.
///
/// # Errors
/// When there is no such context.
pub fn context(format: Format, command: &ContextCommand) -> CliResult {
    let folder = contexts::folder()?;
    let mut kept = contexts::load()?;
    match command {
        ContextCommand::Ls => {
            let all: Vec<Listed<'_>> = kept
                .contexts
                .iter()
                .map(|(name, context)| Listed {
                    name,
                    current: kept.current.as_deref() == Some(name),
                    server: &context.server,
                    who: context.who.as_deref(),
                    signed_in: context.token.is_some(),
                })
                .collect();
            format.list(&all, |all| {
                let mut table = Table::new(&["", "name", "server", "as"]);
                for one in all {
                    let signed_out = own(&said!("signed_out"));
                    let who = if one.signed_in { one.who.unwrap_or("–") } else { signed_out.as_str() };
                    table.row(vec![if one.current { "*" } else { "" }, one.name, one.server, who]);
                }
                List::new(table, said!("none_contexts"))
            })
        }
        ContextCommand::Use(args) => {
            let server = existing(&mut kept, &args.name)?.server.clone();
            kept.current = Some(args.name.clone());
            contexts::save(&folder, &kept)?;
            out(&own(&said!("context_is_current", name = &args.name, server = server)));
            Ok(())
        }
        ContextCommand::Delete(args) => {
            existing(&mut kept, &args.name)?;
            let _ = kept.contexts.remove(&args.name);
            kept.current = kept.current.filter(|name| *name != args.name);
            contexts::save(&folder, &kept)?;
            out(&own(&said!("context_forgotten", name = &args.name)));
            Ok(())
        }
    }
}

fn existing<'a>(kept: &'a mut Contexts, name: &str) -> CliResult<&'a mut Context> {
    let all = kept.contexts.keys().cloned().collect::<Vec<_>>();
    kept.contexts.get_mut(name).ok_or_else(|| {
        CliError::refused(&match all.is_empty() {
            true => said!("no_context_at_all", name = quoted(name)),
            false => said!("no_such_context", name = quoted(name), all = all),
        })
    })
}

/// A token that somebody approves in the dashboard.
async fn approved(with: &Context) -> CliResult<String> {
    let client = Client::new(with)?;
    let host = this_machine();
    let begun: BegunLogin = client.post("/login", &BeginLogin { host }).await?;
    let address = format!("{}{}", client.base(), begun.verification_path);
    let minutes = begun.expires_in / 60;
    eprintln!("{}", own(&said!("approve_in_browser", address = address, code = begun.user_code, minutes = minutes)));
    loop {
        tokio::time::sleep(Duration::from_secs(begun.interval)).await;
        let asked = PollLogin { device_code: begun.device_code.clone() };
        let polled: PolledLogin = client.post("/login/token", &asked).await?;
        if let Some(secret) = polled.secret {
            return Ok(secret);
        }
    }
}

/// Name of this machine, for the person who approves.
fn this_machine() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = std::env::var("USER").unwrap_or_default();
    format!("{user}@{}", name.trim()).chars().filter(|c| !c.is_control()).take(100).collect()
}

fn read_token() -> CliResult<String> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|error| CliError::refused(&said!("token_unread", why = error.to_string())))?;
    let token = line.trim().to_owned();
    if token.is_empty() {
        return Err(CliError::refused(&said!("token_missing")));
    }
    Ok(token)
}
