//! Sends the messages of alerts that are due.

use super::ask::ask;
use crate::{
    app::App,
    db::{self, alerts::Due},
    domain::alerts::{again, body, no_mail, told},
};
use anyhow::Result;
use futures::{StreamExt, stream};
use senmon_protocol::alert::AlertMessage;

/// Messages sent at once.
const AT_ONCE: usize = 8;
/// Messages taken at once.
const TAKEN_MAX: u8 = 64;
/// A message whose server died while it sent it is sent again then.
const AGAIN_MS: i64 = 60_000;

/// Sends what is due.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    loop {
        let due = ask(db::alerts::due(&app.db, AGAIN_MS, TAKEN_MAX.into())).await?;
        let more = due.len() == usize::from(TAKEN_MAX);
        let sent: Vec<Result<()>> =
            stream::iter(due).map(|due| send(&app, due)).buffer_unordered(AT_ONCE).collect().await;
        sent.into_iter().collect::<Result<()>>()?;
        if !more || *app.stopping.borrow() {
            return Ok(());
        }
    }
}

async fn send(app: &App, due: Due) -> Result<()> {
    let said = told(&due.alert, due.experiment.as_deref(), due.event.as_ref());
    // Whoever reads mail has no message files.
    let text = said.in_words(app.config.alerts_lang).unwrap_or_else(|| said.text());
    let message = AlertMessage { alert: due.alert, text, said, event: due.event };
    let (address, key) = (due.target.address(), due.id.to_string());
    let sent = match (body(&due.target, &message), &app.mail) {
        (Some(body), _) => app.outgoing.post(address, &body, &key).await,
        (None, Some(mail)) => mail.send(address, &message.text, &key).await,
        (None, None) => Err(no_mail().text()),
    };
    let problem = sent.err().map(|why| senmon_protocol::storable(&why));
    if let Some(why) = &problem {
        tracing::warn!(alert = message.alert, delivery = due.id, tries = due.tries, "a message was not taken: {why}");
    }
    Ok(ask(db::alerts::sent(&app.db, due.id, problem.as_deref(), again(due.tries))).await?)
}
