//! `senmon token …`, `senmon login`, and where the token of a command comes from.

use crate::{
    client::{Client, Reach},
    error::{CliError, CliResult},
    output::{Format, out},
    resolve::{self, short},
    table::Table,
    words,
};
use chrono::Utc;
use clap::{Args, Subcommand};
use senmon_protocol::view::{
    BeginLogin, BegunLogin, CreateToken, CreatedToken, PollLogin, PolledLogin, Role, SessionView, TokenView,
};
use std::{
    fs,
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token; its secret is shown once.
    Create(Create),
    /// List tokens.
    Ls,
    /// Take a token back.
    Revoke(Id),
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Name for people.
    name: String,
    /// viewer: read; user: submit too, and change what is theirs (by the token's name); admin: everything; enrol: make workers.
    #[arg(long, value_parser = role, default_value = "user")]
    role: Role,
    /// Days until it ends. An enrolment token ends after 7 where this says nothing; others never.
    #[arg(long)]
    days: Option<u16>,
    /// Workers that may enrol with it; one where this says nothing.
    #[arg(long)]
    uses: Option<u32>,
}

/// One token.
#[derive(Debug, Args)]
pub struct Id {
    /// Name, id, or part of an id.
    #[arg(value_name = "TOKEN")]
    id: String,
}

fn role(text: &str) -> Result<Role, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| "expected viewer, user, admin or enrol".into())
}

/// Runs a command.
///
/// # Errors
/// When the server refuses.
pub async fn run(client: &Client, format: Format, command: Token) -> CliResult {
    match command {
        Token::Create(args) => {
            let body = CreateToken { name: args.name, role: args.role, days: args.days, uses: args.uses };
            let created: CreatedToken = client.post("/tokens", &body).await?;
            // The secret alone on standard output, so that it can be kept: senmon token create ci > token
            if format == Format::Table {
                eprintln!(
                    "{} ({}); this is the only time the secret is shown:",
                    created.token.name,
                    args_role(&created)
                );
                out(&created.secret);
                return Ok(());
            }
            format.print(&created, |_| String::new())
        }
        Token::Ls => {
            let all: Vec<TokenView> = client.list("/tokens").await?;
            format.print(&all, |all| {
                let mut table =
                    Table::new(&["id", "name", "role", "begins with", "made", "used", "ends", ">uses left"]);
                for token in all {
                    table.row(vec![
                        short(token.id),
                        token.name.clone(),
                        words::name(&token.role),
                        token.prefix.clone(),
                        words::ago(token.created_at, Utc::now()),
                        token.used_at.map_or_else(|| "never".into(), |at| words::ago(at, Utc::now())),
                        token.expires_at.map_or_else(|| "never".into(), |at| at.format("%Y-%m-%d").to_string()),
                        words::or_dash(token.uses_left.map(|left| words::count(left.into()))),
                    ]);
                }
                table.render()
            })
        }
        Token::Revoke(args) => {
            let id = resolve::token(client, &args.id).await?;
            client.delete(&format!("/tokens/{id}")).await?;
            if format == Format::Table {
                out(&format!("token {} is revoked", args.id));
            }
            Ok(())
        }
    }
}

fn args_role(created: &CreatedToken) -> String {
    words::name(&created.token.role)
}

/// The token of a command: given, from a file, or kept by `senmon login`.
///
/// # Errors
/// When a file that was named cannot be read.
pub fn find(token: Option<String>, file: Option<&Path>) -> CliResult<Option<String>> {
    let read = |path: &Path| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|error| CliError::Refused(format!("read the token from {}: {error}", path.display())))
    };
    match (token, file) {
        (_, Some(file)) => read(file).map(Some),
        (Some(token), None) if !token.trim().is_empty() => Ok(Some(token.trim().to_owned())),
        _ => match kept_file().filter(|path| path.exists()) {
            Some(path) => read(&path).map(Some),
            None => Ok(None),
        },
    }
}

/// `senmon login`: shows a code that a person approves in the dashboard; or takes a token from the standard input, where
/// that is no terminal. Keeps the token in a file that only its owner can read.
///
/// # Errors
/// When the server does not accept it, nobody approves, or the file cannot be written.
pub async fn login(reach: &Reach) -> CliResult {
    let path = kept_file().ok_or_else(|| CliError::Refused("neither XDG_CONFIG_HOME nor HOME is set".into()))?;
    let token = if std::io::stdin().is_terminal() { approved(reach).await? } else { read_token()? };
    let client = Client::new(reach, Some(token.clone()))?;
    let session: SessionView = client.get("/session").await?;
    keep(&path, &token).map_err(|error| CliError::Failed(format!("write {}: {error}", path.display())))?;
    let role = words::name(&session.role);
    out(&format!("signed in to {} as {} ({role}); the token is in {}", client.base(), session.name, path.display()));
    Ok(())
}

/// A token that somebody approves in the dashboard.
async fn approved(reach: &Reach) -> CliResult<String> {
    let client = Client::new(reach, None)?;
    let host = this_machine();
    let begun: BegunLogin = client.post("/login", &BeginLogin { host }).await?;
    eprintln!("Open {}{} in a browser that is signed in, and approve", client.base(), begun.verification_path);
    eprintln!("the code {}. It is good for {} minutes.", begun.user_code, begun.expires_in / 60);
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
    read.map_err(|error| CliError::Refused(format!("read the token: {error}")))?;
    let token = line.trim().to_owned();
    if token.is_empty() {
        let help = "no token came in; the server's first start wrote one to admin-token: senmon login < admin-token";
        return Err(CliError::Refused(help.into()));
    }
    Ok(token)
}

fn kept_file() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("senmon").join("token"))
}

/// Writes the token for its owner's eyes only, whole or not at all.
fn keep(path: &Path, token: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    if new.exists() {
        fs::remove_file(&new)?;
    }
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_one_of_those_that_people_give() {
        assert_eq!(role("viewer"), Ok(Role::Viewer));
        assert!(role("root").unwrap_err().contains("viewer, user, admin or enrol"));
    }

    #[test]
    fn a_kept_token_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("senmon-token-{}", uuid::Uuid::now_v7())).join("token");
        keep(&path, "smn_a_x").unwrap();
        keep(&path, "smn_a_y").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "smn_a_y\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
