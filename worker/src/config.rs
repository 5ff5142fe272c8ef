//! The worker's settings: flags over `SENMON_WORKER_*` variables over a TOML file over defaults, every key checked.
//!
//! Never starts anything and never talks to the server.

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use senmon_protocol::{
    address::{is_private, refusal},
    storage::Bytes,
};
use senmon_store::S3Settings;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// Keys of the file; the variables are `SENMON_WORKER_` and one of them in capitals.
const KEYS: [&str; 17] = [
    "server_url",
    "ca_file",
    "insecure_http",
    "token",
    "token_file",
    "name",
    "storage_dir",
    "storage_retry_seconds_max",
    "s3",
    "cache_bytes_max",
    "state_dir",
    "slots",
    "tf32",
    "labels",
    "stop_seconds_max",
    "stall_seconds",
    "log_format",
];

/// What may be said on the command line; everything else is in the file.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// TOML file with the settings (configs/worker.toml lists every key).
    #[arg(long, global = true, env = "SENMON_WORKER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address of the server: http://host:port.
    #[arg(long, global = true)]
    pub server_url: Option<String>,
    /// PEM file of a certificate authority to trust beside the system's own.
    #[arg(long, global = true)]
    pub ca_file: Option<PathBuf>,
    /// Send the token over plain http to another machine.
    #[arg(long, global = true)]
    pub insecure_http: bool,
    /// File with the enrolment token; not needed any more once this worker is enrolled.
    #[arg(long, global = true)]
    pub token_file: Option<PathBuf>,
    /// Unique name in the fleet.
    #[arg(long, global = true)]
    pub name: Option<String>,
    /// Where this machine sees the object store.
    #[arg(long, global = true)]
    pub storage_dir: Option<PathBuf>,
    /// Folder of what the server has not acknowledged yet.
    #[arg(long, global = true)]
    pub state_dir: Option<PathBuf>,
    /// A slot: `cpu`, `cpu:THREADS`, `cuda:N` or `cuda:N:THREADS`; may be repeated.
    #[arg(long = "slot", global = true)]
    pub slots: Vec<String>,
    /// `text` for people, `json` for collectors.
    #[arg(long, global = true)]
    pub log_format: Option<LogFormat>,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The file, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    server_url: Option<String>,
    ca_file: Option<PathBuf>,
    insecure_http: Option<bool>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    name: Option<String>,
    storage_dir: Option<PathBuf>,
    storage_retry_seconds_max: Option<u64>,
    s3: Option<S3Settings>,
    cache_bytes_max: Option<Bytes>,
    state_dir: Option<PathBuf>,
    slots: Option<Vec<SlotConfig>>,
    tf32: Option<bool>,
    labels: Option<BTreeMap<String, String>>,
    stop_seconds_max: Option<u64>,
    stall_seconds: Option<u64>,
    log_format: Option<LogFormat>,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotConfig {
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// CPU threads that belong to it.
    #[serde(default = "one")]
    pub threads: u16,
}

fn one() -> u16 {
    1
}

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address of the server, without a slash at the end.
    pub server_url: String,
    /// Certificate authority to trust beside the system's own.
    pub ca_file: Option<PathBuf>,
    /// The enrolment token. One that is enrolled needs none.
    pub token: Option<String>,
    /// Unique name in the fleet.
    pub name: String,
    /// Where this machine sees the object store, if not where the server does.
    pub storage_dir: Option<PathBuf>,
    /// How long the last checkpoint of a branch, and what else must be stored, is tried.
    pub storage_retry_max: Duration,
    /// How a bucket is reached.
    pub s3: S3Settings,
    /// Bytes of a bucket's files that are kept here.
    pub cache_bytes_max: Bytes,
    /// Folder of the spool.
    pub state_dir: PathBuf,
    /// The slots, by number.
    pub slots: Vec<SlotConfig>,
    /// Whether NVIDIA devices may round the factors of fp32 matrix products to TF32.
    pub tf32: bool,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// How long a stop waits for checkpoints and deliveries.
    pub stop_max: Duration,
    /// A training step may always take so long; five times the median one if that is more. 0: nothing is watched.
    pub stall_seconds: u64,
    /// Form of the log.
    pub log_format: LogFormat,
}

impl Config {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// When a file cannot be read, a key or variable is unknown, or a value is not acceptable: the error names it.
    pub fn load(flags: &Flags, environment: impl Fn() -> Vec<(String, String)>) -> Result<Self> {
        let file = match &flags.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
                parse(&text).with_context(|| format!("{}", path.display()))?
            }
            None => File::default(),
        };
        let file = over(file, &environment())?;
        assemble(flags, file)
    }
}

fn parse(text: &str) -> Result<File> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(String::new(), |span| {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            format!("line {line}: ")
        });
        anyhow::anyhow!("{at}{}", error.message().trim_end())
    })
}

/// Lays the `SENMON_WORKER_*` variables over the file. Lists and tables are written as in TOML.
fn over(mut file: File, environment: &[(String, String)]) -> Result<File> {
    for (variable, value) in environment {
        let Some(key) = variable.strip_prefix("SENMON_WORKER_").map(str::to_ascii_lowercase) else { continue };
        if key == "config" {
            continue;
        }
        if !KEYS.contains(&key.as_str()) {
            bail!("{variable}: no such setting; there are {}", variables());
        }
        let from_toml = |value: &str| parse(&format!("{key} = {value}")).with_context(|| variable.clone());
        match key.as_str() {
            "server_url" => file.server_url = Some(value.clone()),
            "ca_file" => file.ca_file = Some(value.into()),
            "insecure_http" => file.insecure_http = from_toml(value)?.insecure_http,
            "token" => file.token = Some(value.clone()),
            "token_file" => file.token_file = Some(value.into()),
            "name" => file.name = Some(value.clone()),
            "storage_dir" => file.storage_dir = Some(value.into()),
            "storage_retry_seconds_max" => {
                file.storage_retry_seconds_max = from_toml(value)?.storage_retry_seconds_max;
            }
            "s3" => file.s3 = from_toml(value)?.s3,
            "cache_bytes_max" => file.cache_bytes_max = from_toml(&format!("{value:?}"))?.cache_bytes_max,
            "state_dir" => file.state_dir = Some(value.into()),
            "slots" => file.slots = from_toml(value)?.slots,
            "tf32" => file.tf32 = from_toml(value)?.tf32,
            "labels" => file.labels = from_toml(value)?.labels,
            "stall_seconds" => file.stall_seconds = from_toml(value)?.stall_seconds,
            "stop_seconds_max" => file.stop_seconds_max = from_toml(value)?.stop_seconds_max,
            _ => file.log_format = from_toml(&format!("{value:?}"))?.log_format,
        }
    }
    Ok(file)
}

fn variables() -> String {
    KEYS.map(|key| format!("SENMON_WORKER_{}", key.to_ascii_uppercase())).join(", ")
}

fn assemble(flags: &Flags, file: File) -> Result<Config> {
    let server_url = flags.server_url.clone().or(file.server_url).unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    if !server_url.starts_with("http://") && !server_url.starts_with("https://") {
        bail!("server_url: found {server_url:?}, expected an address such as http://127.0.0.1:8080");
    }
    let url = reqwest::Url::parse(&server_url).with_context(|| format!("server_url: found {server_url:?}"))?;
    let insecure_http = flags.insecure_http || file.insecure_http.unwrap_or(false);
    if !insecure_http && !is_private(url.scheme(), url.host_str().unwrap_or_default()) {
        bail!("server_url: {}", refusal(&server_url, "insecure_http = true"));
    }
    let token_file = flags.token_file.clone().or(file.token_file);
    let token = match (file.token, token_file) {
        (Some(_), Some(_)) if flags.token_file.is_none() => {
            bail!("token and token_file are both set; give one of them")
        }
        (_, Some(path)) => Some(read_token(&path)?),
        (token, None) => token.filter(|token| !token.is_empty()),
    };
    let name = flags.name.clone().or(file.name).or_else(|| sysinfo::System::host_name().ok()).unwrap_or_default();
    if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        bail!("name: found {name:?}, expected 1 to 100 characters");
    }
    let slots = if flags.slots.is_empty() {
        file.slots.unwrap_or_else(|| vec![SlotConfig { device: "cpu".into(), threads: cores() }])
    } else {
        flags.slots.iter().map(|text| slot_from_flag(text)).collect::<Result<_>>()?
    };
    if slots.is_empty() {
        bail!("slots: found none, expected at least one such as {{ device = \"cpu\", threads = 1 }}");
    }
    for (index, slot) in slots.iter().enumerate() {
        check_slot(slot).with_context(|| format!("slots[{index}]"))?;
    }
    Ok(Config {
        server_url: server_url.trim_end_matches('/').to_owned(),
        ca_file: flags.ca_file.clone().or(file.ca_file),
        token,
        name,
        storage_dir: flags.storage_dir.clone().or(file.storage_dir),
        storage_retry_max: Duration::from_secs(file.storage_retry_seconds_max.unwrap_or(600)),
        s3: file.s3.unwrap_or_default(),
        cache_bytes_max: file.cache_bytes_max.unwrap_or(Bytes(100_000_000_000)),
        state_dir: flags.state_dir.clone().or(file.state_dir).unwrap_or_else(|| "var/worker".into()),
        slots,
        tf32: file.tf32.unwrap_or(false),
        labels: file.labels.unwrap_or_default(),
        stop_max: Duration::from_secs(file.stop_seconds_max.unwrap_or(60)),
        stall_seconds: file.stall_seconds.unwrap_or(60),
        log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
    })
}

fn read_token(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("token_file: read {}", path.display()))?;
    let token = text.trim().to_owned();
    if token.is_empty() || token.contains(char::is_whitespace) {
        bail!("token_file: {} holds no token (one line, smn_e_…)", path.display());
    }
    Ok(token)
}

fn slot_from_flag(text: &str) -> Result<SlotConfig> {
    let bad = || format!("--slot: found {text:?}, expected cpu, cpu:THREADS, cuda:N or cuda:N:THREADS");
    let (device, threads) = match text.split(':').collect::<Vec<_>>()[..] {
        ["cpu"] => ("cpu".to_owned(), 1),
        ["cpu", threads] => ("cpu".to_owned(), threads.parse().with_context(bad)?),
        ["cuda", index] => (format!("cuda:{index}"), 1),
        ["cuda", index, threads] => (format!("cuda:{index}"), threads.parse().with_context(bad)?),
        _ => bail!(bad()),
    };
    Ok(SlotConfig { device, threads })
}

fn check_slot(slot: &SlotConfig) -> Result<()> {
    let index = slot.device.strip_prefix("cuda:").map(str::parse::<u16>);
    if slot.device != "cpu" && !matches!(index, Some(Ok(_))) {
        bail!("device: found {:?}, expected \"cpu\" or \"cuda:N\" with N from 0", slot.device);
    }
    if slot.threads == 0 || slot.threads > 1024 {
        bail!("threads: found {}, expected 1 to 1024", slot.threads);
    }
    Ok(())
}

/// Cores that this process may use.
fn cores() -> u16 {
    std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX).min(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config> {
        let environment: Vec<_> = environment.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        assemble(&Flags::default(), over(parse(text)?, &environment)?)
    }

    fn refused(text: &str, environment: &[(&str, &str)], expect: &str) {
        let error = format!("{:#}", load(text, environment).expect_err("it was accepted"));
        assert!(error.contains(expect), "{error:?} does not say {expect:?}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name() {
        refused("sevrer_url = \"http://x\"", &[], "sevrer_url");
        refused("slots = [{ device = \"cpu\", thread = 1 }]", &[], "thread");
        refused("", &[("SENMON_WORKER_SEVRER", "x")], "SENMON_WORKER_SEVRER");
    }

    #[test]
    fn a_bad_value_is_refused_with_what_is_accepted() {
        refused("server_url = \"localhost\"", &[], "http://127.0.0.1:8080");
        refused("server_url = \"http://senmon.example:8080\"", &[], "insecure_http");
        refused("slots = []", &[], "at least one");
        refused("slots = [{ device = \"gpu0\" }]", &[], "\"cuda:N\"");
        refused("slots = [{ device = \"cpu\", threads = 0 }]", &[], "1 to 1024");
        refused("log_format = \"xml\"", &[], "json");
        refused("token_file = \"/nowhere/token\"", &[], "/nowhere/token");
        refused("", &[("SENMON_WORKER_LOG_FORMAT", "xml")], "SENMON_WORKER_LOG_FORMAT");
    }

    #[test]
    fn variables_win_over_the_file() {
        let text = "server_url = \"https://a\"\nname = \"n\"\nstop_seconds_max = 5";
        let environment = [
            ("SENMON_WORKER_SERVER_URL", "https://b/"),
            ("SENMON_WORKER_SLOTS", "[{ device = \"cuda:1\", threads = 2 }]"),
            ("SENMON_WORKER_LOG_FORMAT", "json"),
        ];
        let config = load(text, &environment).unwrap();
        assert_eq!(config.server_url, "https://b");
        assert_eq!(config.slots, [SlotConfig { device: "cuda:1".into(), threads: 2 }]);
        let insecure = [("SENMON_WORKER_SERVER_URL", "http://b"), ("SENMON_WORKER_INSECURE_HTTP", "true")];
        assert_eq!(load(text, &insecure).unwrap().server_url, "http://b");
        assert_eq!((config.log_format, config.stop_max), (LogFormat::Json, Duration::from_secs(5)));
    }

    #[test]
    fn flags_win_over_variables() {
        let flags = Flags { server_url: Some("https://c".into()), slots: vec!["cpu:3".into()], ..Flags::default() };
        let file = over(File::default(), &[("SENMON_WORKER_SERVER_URL".into(), "https://b".into())]).unwrap();
        let config = assemble(&flags, file).unwrap();
        assert_eq!(config.server_url, "https://c");
        assert_eq!(config.slots, [SlotConfig { device: "cpu".into(), threads: 3 }]);
    }

    #[test]
    fn the_shipped_configuration_is_accepted() {
        let text = include_str!("../../configs/worker.toml").replace("token_file", "# token_file");
        assert_eq!(load(&text, &[]).unwrap().server_url, "http://127.0.0.1:8080");
    }
}
