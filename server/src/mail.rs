//! Mail through the server of the settings: one message, one recipient, in plain text.

use crate::{config::Config, outgoing::why};
use anyhow::{Context, Result};
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor,
    message::{Mailbox, Message, header::ContentType},
};
use senmon_protocol::{
    said,
    said::{Said, expected::quoted},
};
use std::time::Duration;

/// Time for the mail server to take a message.
const SEND_MAX: Duration = Duration::from_secs(10);
/// Characters of a subject.
const SUBJECT_MAX: usize = 120;

/// The way to the mail server.
#[derive(Debug, Clone)]
pub struct Mail {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mail {
    /// That of the settings, where there is one.
    ///
    /// # Errors
    /// The key that is wrong or missing, never with the password.
    pub fn of(config: &Config) -> Result<Option<Self>> {
        let (url, from) = match (&config.smtp_url, &config.smtp_from) {
            (Some(url), Some(from)) => (url, from),
            (Some(_), None) => anyhow::bail!("smtp_from: found none, expected who the messages of alerts are from"),
            (None, Some(_)) => {
                anyhow::bail!("smtp_url: found none, expected the mail server that smtp_from sends through")
            }
            (None, None) => return Ok(None),
        };
        let from = mailbox(from).map_err(|why| anyhow::anyhow!("smtp_from: {}", why.text()))?;
        let expected = "smtp_url: expected an address such as smtps://user:password@mail.example.com";
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).context(expected)?;
        Ok(Some(Self { transport: transport.timeout(Some(SEND_MAX)).build(), from }))
    }

    /// Sends a message; `key` tells a repeat from the first time.
    ///
    /// # Errors
    /// Why it was not taken, in a sentence.
    pub async fn send(&self, to: &str, text: &str, key: &str) -> Result<(), String> {
        let message = self.message(to, text, key)?;
        let sent = tokio::time::timeout(SEND_MAX * 2, self.transport.send(message)).await;
        let sent = sent.map_err(|_| "the mail server has not answered in time".to_owned())?;
        sent.map(drop).map_err(|error| format!("the mail server did not take it: {}", why(&error)))
    }

    fn message(&self, to: &str, text: &str, key: &str) -> Result<Message, String> {
        let first = text.lines().next().unwrap_or_default();
        let subject: String = first.chars().take(SUBJECT_MAX).collect();
        Message::builder()
            .from(self.from.clone())
            .to(mailbox(to).map_err(|why| why.text())?)
            .subject(format!("[Senmon] {subject}"))
            .message_id(Some(format!("<{key}.senmon@{}>", self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN)
            .body(format!("{text}\n"))
            .map_err(|error| format!("no message can be made of it: {error}"))
    }
}

/// Somebody's address.
///
/// # Errors
/// What was found, and what is accepted.
pub fn mailbox(text: &str) -> Result<Mailbox, Said> {
    text.parse().map_err(|_| said!("mail_address", found = quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: Option<&str>, from: Option<&str>) -> Config {
        Config { smtp_url: url.map(Into::into), smtp_from: from.map(Into::into), ..Config::default() }
    }

    #[test]
    fn settings_are_refused_by_the_key_that_is_wrong_and_without_the_password() {
        let check = |url, from, expect: &str| match Mail::of(&config(url, from)) {
            Ok(_) => assert_eq!(expect, ""),
            Err(error) => {
                let said = format!("{error:#}");
                assert!(!expect.is_empty() && said.contains(expect) && !said.contains("geheim"), "{said}");
            }
        };
        check(None, None, "");
        check(Some("smtps://u:geheim@mail.example"), Some("Senmon <s@example.com>"), "");
        check(Some("smtps://u:geheim@mail.example"), None, "smtp_from: found none");
        check(None, Some("s@example.com"), "smtp_url: found none");
        check(Some("smtps://u:geheim@mail.example"), Some("nobody"), "smtp_from: found \"nobody\"");
        check(Some("http://u:geheim@mail.example"), Some("s@example.com"), "smtp_url: expected");
    }

    #[test]
    fn a_message_is_told_from_its_repeat_and_says_its_sentence_in_the_subject() {
        let mail = Mail::of(&config(Some("smtp://127.0.0.1:25"), Some("s@example.com"))).unwrap().unwrap();
        let text = "demo: 損失が急増しました。\nmore";
        let made = String::from_utf8(mail.message("a@example.org", text, "17").unwrap().formatted()).unwrap();
        assert!(made.contains("Message-ID: <17.senmon@example.com>") && made.contains("Subject: "), "{made}");
        assert!(mail.message("nobody", text, "17").unwrap_err().contains("expected an address such as"));
        let injected = mail.message("a@example.org", "x\r\nBcc: b@example.org\r\n", "1").unwrap().formatted();
        let head = String::from_utf8(injected).unwrap().split("\r\n\r\n").next().unwrap().to_owned();
        assert!(!head.contains("Bcc"), "{head}");
    }
}
