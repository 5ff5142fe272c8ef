//! `senmon token …`.

use crate::{
    cell::{self, Cell},
    client::Client,
    error::{CliError, CliResult},
    lang::own,
    output::{Format, List, out},
    resolve::{self, short},
    table::Table,
    words,
};
use chrono::Utc;
use clap::{Args, Subcommand};
use senmon_protocol::{
    said,
    view::{CreateToken, CreatedToken, Role, TokenView},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token; its secret is shown once.
    #[command(visible_alias = "add")]
    Create(Create),
    /// List tokens.
    #[command(visible_alias = "list")]
    Ls,
    /// Take a token back.
    #[command(visible_alias = "rm", alias = "delete")]
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
    /// Make it though there is one of that name: two tokens of one name own the same things.
    #[arg(long)]
    another: bool,
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
            if !args.another {
                only_one(client, &args.name).await?;
            }
            let body = CreateToken { name: args.name, role: args.role, days: args.days, uses: args.uses };
            let created: CreatedToken = client.post("/tokens", &body).await?;
            // The secret alone on standard output, so that it can be kept: senmon token create ci > token
            if format.is_text() {
                let (name, role) = (&created.token.name, args_role(&created));
                eprintln!("{}", own(&said!("secret_shown_once", name = name, role = role)));
                out(&created.secret);
                return Ok(());
            }
            format.print(&created, |_| String::new())
        }
        Token::Ls => {
            let all: Vec<TokenView> = client.list("/tokens").await?;
            format.list(&all, |all| {
                let mut table =
                    Table::new(&["=id", "name", "role", "begins with", "=made", "=used", "=ends", ">uses left"]);
                for token in all {
                    table.row::<Cell>(vec![
                        short(token.id).into(),
                        token.name.as_str().into(),
                        words::name(&token.role).into(),
                        token.prefix.as_str().into(),
                        cell::ago(token.created_at, Utc::now()),
                        token.used_at.map_or_else(|| own(&said!("never")).into(), |at| cell::ago(at, Utc::now())),
                        token.expires_at.map_or_else(|| own(&said!("never")).into(), cell::at),
                        token.uses_left.map(cell::count).into(),
                    ]);
                }
                List::new(table, said!("none_tokens"))
            })
        }
        Token::Revoke(args) => {
            let id = resolve::token(client, &args.id).await?;
            client.delete(&format!("/tokens/{id}")).await?;
            if format.is_text() {
                out(&own(&said!("token_is_revoked", name = args.id)));
            }
            Ok(())
        }
    }
}

/// Refuses a second token of one name: mostly somebody forgot the first.
async fn only_one(client: &Client, name: &str) -> CliResult {
    let all: Vec<TokenView> = client.list("/tokens").await?;
    let Some(first) = all.iter().find(|token| token.name == name) else { return Ok(()) };
    let used = first
        .used_at
        .map_or_else(|| said!("token_never_used"), |at| said!("token_used", ago = words::ago(at, Utc::now())));
    let (role, made) = (words::name(&first.role), words::ago(first.created_at, Utc::now()));
    Err(CliError::refused(&said!("token_name_taken", name = name, role = role, made = made, used = used)))
}

fn args_role(created: &CreatedToken) -> String {
    words::name(&created.token.role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_one_of_those_that_people_give() {
        assert_eq!(role("viewer"), Ok(Role::Viewer));
        assert!(role("root").unwrap_err().contains("viewer, user, admin or enrol"));
    }
}
