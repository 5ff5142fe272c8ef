//! Promises of a courier whose disk misbehaves, over real HTTP.

use super::*;
use crate::{
    board::tests::grant,
    credential::Credential,
    slot_faults::SlotFaults,
    spool::{SpoolRoot, SpoolWriter},
};
use senmon_protocol::worker::{LogBatch, LogLine};
use std::{fs, io::Write as _, path::Path, sync::Mutex};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// Paths and bodies that a server heard; it answers everything with success.
type Heard = Arc<Mutex<Vec<(String, String)>>>;

async fn server() -> (String, Heard) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (url, heard) = (format!("http://{}", listener.local_addr().unwrap()), Heard::default());
    let hearing = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let hearing = hearing.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while client.read_buf(&mut bytes).await.unwrap_or(0) > 0 {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    if body.len() < length.and_then(|length| length.parse().ok()).unwrap_or(0) {
                        continue;
                    }
                    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
                    hearing.lock().unwrap().push((path, body.to_owned()));
                    let _ = client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull").await;
                    bytes.clear();
                }
            });
        }
    });
    (url, heard)
}

struct Scene {
    courier: Courier,
    writer: SpoolWriter,
    heard: Heard,
    _home: tempfile::TempDir,
}

async fn scene() -> Scene {
    let home = tempfile::tempdir().unwrap();
    let (url, heard) = server().await;
    let (root, board, grant) =
        (SpoolRoot::open(home.path()).unwrap(), Arc::new(Board::new(1, SlotFaults::default())), grant(&[0]));
    let header = Header { attempt_id: grant.attempt_id, job_id: grant.job_id, fence: grant.fence };
    let writer = root.begin(&header).unwrap();
    let seat = board.seat(&grant).unwrap();
    let credential = Credential::of(home.path()).unwrap();
    let (client, folder) = (Client::of(&url, &credential, Vec::new()).unwrap(), writer.folder().to_owned());
    Scene { courier: Courier { client, root, header, folder, seat: Some((board, seat)) }, writer, heard, _home: home }
}

fn line(text: &str) -> Record {
    let line = LogLine { at_ms: 0, level: "info".into(), text: text.into(), said: None, event: None };
    Record::Logs(LogBatch { fence: senmon_protocol::ids::Fence(1), line_first: 0, lines: vec![line] })
}

fn end() -> Record {
    let ended = EndedOutcome::new(TerminationReason::Released, "given back");
    let outcome = Outcome::Ended(ended);
    Record::Complete(CompleteAttempt { fence: senmon_protocol::ids::Fence(1), outcome, time: None })
}

fn records(folder: &Path) -> PathBuf {
    folder.join("records.jsonl")
}

#[tokio::test]
async fn a_spool_that_cannot_be_opened_at_first_is_delivered_when_it_can() {
    let Scene { courier, mut writer, heard, _home } = scene().await;
    let (folder, seat) = (courier.folder.clone(), courier.seat.clone().unwrap().1);
    writer.append(&line("kept")).unwrap();
    let bytes = writer.append(&end()).unwrap();
    let away = folder.with_extension("away");
    fs::rename(records(&folder), &away).unwrap();
    let (_bytes, written) = watch::channel(bytes);
    let delivery = tokio::spawn(courier.deliver(written));
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::rename(&away, records(&folder)).unwrap();
    assert_eq!(delivery.await.unwrap().unwrap(), Delivery::Done);
    let heard = heard.lock().unwrap();
    let verbs: Vec<_> = heard.iter().map(|(path, _)| path.rsplit('/').next().unwrap_or_default()).collect();
    assert_eq!(verbs, ["logs", "complete"]);
    assert_eq!(*seat.commands().borrow(), Command::Continue, "the attempt was not disturbed");
}

#[tokio::test]
async fn an_attempt_whose_spool_stays_unreadable_is_ended_and_says_why() {
    let Scene { courier, mut writer, heard, _home } = scene().await;
    let (folder, seat, root) = (courier.folder.clone(), courier.seat.clone().unwrap().1, courier.root.clone());
    writer.append(&line("heard")).unwrap();
    fs::File::options().append(true).open(records(&folder)).unwrap().write_all(b"no record\n").unwrap();
    let (_bytes, written) = watch::channel(u64::MAX);
    assert_eq!(courier.deliver(written).await.unwrap(), Delivery::Unreadable);
    let heard = heard.lock().unwrap();
    let (path, body) = heard.last().unwrap();
    assert!(
        path.ends_with("/complete") && body.contains("storage_failure") && body.contains("record at byte"),
        "{body}"
    );
    assert_eq!(*seat.commands().borrow(), Command::Cancel, "it would work on unheard");
    assert!(!folder.exists() && root.left_behind().unwrap().is_empty(), "it is set aside");
}
