//! Settings: flags beat environment beats file beats the profile's defaults (contract §8).
//!
//! Every setting is one line of [`settings!`]: its name in the file (in capitals its name in the environment), its type,
//! its default, whether a reload applies it. Unknown keys and impossible values stop the start with a message that names
//! the key, the value and the fix.

use rewarder_admit::VerifierUrl;
use rewarder_emit::LedgerUrl;
use rewarder_flow::{StageConfig, StageOverride};
use rewarder_model::TenantId;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Why the settings cannot be used: which key, which value, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Which node it runs on; changes defaults only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Profile {
    /// One small machine: amnesia, small queues and stores.
    Micronode,
    /// A server.
    #[default]
    Macronode,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// A value of a setting, read from the one text form that file and environment share.
trait Value: Sized {
    /// What would be right, for the message.
    const WANTED: &'static str;
    /// Whether the file has it in quotes.
    const IS_TEXT: bool = false;
    fn read(text: &str) -> Option<Self>;
    /// What is wrong with a text that is none: the text, and what would be right.
    fn complaint(text: &str) -> (String, String) {
        (format!("{text:?}"), format!("it has to be {}", Self::WANTED))
    }
}

impl Value for LedgerUrl {
    const WANTED: &'static str = "embedded:, http://host:port or postgres://user:password@host/database";
    const IS_TEXT: bool = true;
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn complaint(text: &str) -> (String, String) {
        let why = LedgerUrl::from_str(text).err().map_or(Self::WANTED.to_owned(), |error| error.to_string());
        // It may hold a password.
        (format!("{:?}", rewarder_emit::ledger::shown(text)), why)
    }
}

macro_rules! value {
    ($($type:ty, $is_text:literal, $wanted:literal, $read:expr;)*) => {
        $(impl Value for $type {
            const WANTED: &'static str = $wanted;
            const IS_TEXT: bool = $is_text;
            fn read(text: &str) -> Option<Self> {
                let read: fn(&str) -> Option<Self> = $read;
                read(text)
            }
        })*
    };
}

/// A number of at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub usize);

/// Most threads that compute: more than any machine has cores, and few enough to be started.
const WORKERS_MAX: usize = 1024;

/// A number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers(pub usize);

/// A number of milliseconds, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause(pub u64);

/// A number of milliseconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis(pub u64);

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Duration::from_millis(millis.0)
    }
}

value! {
    SocketAddr, true, "an address and port, such as 127.0.0.1:8080", |t| t.parse().ok();
    Count, false, "a whole number from 1 to 1000000", |t| t.parse().ok().filter(|n| (1..=1_000_000).contains(n)).map(Count);
    Workers, false, "a whole number from 1 to 1024", |t| t.parse().ok().filter(|n| (1..=WORKERS_MAX).contains(n)).map(Workers);
    Millis, false, "a number of milliseconds from 1 to 86400000", |t| t.parse().ok().filter(|n| (1..=86_400_000).contains(n)).map(Millis);
    Pause, false, "a number of milliseconds from 0 to 3600000", |t| t.parse().ok().filter(|n| *n <= 3_600_000).map(Pause);
    u32, false, "a whole number from 0 to 1000", |t| t.parse().ok().filter(|n| *n <= 1000);
    u64, false, "a number of bytes from 1 on", |t| t.parse().ok().filter(|n| *n >= 1);
    bool, false, "true or false", |t| t.parse().ok();
    PathBuf, true, "a path", |t| (!t.is_empty()).then(|| t.into());
    Option<PathBuf>, true, "a path", |t| (!t.is_empty()).then(|| Some(t.into()));
    VerifierUrl, true, "local: or http://host:port/path", |t| VerifierUrl::from_str(t).ok();
    LogFormat, true, "text or json", |t| match t { "text" => Some(LogFormat::Text), "json" => Some(LogFormat::Json), _ => None };
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])* $name:ident: $type:ty = $macro:expr, $micro:expr, $reload:literal;)*) => {
        /// The settings in force.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Settings {
            $($(#[doc = $doc])* pub $name: $type,)*
            /// Which defaults were taken.
            pub profile: Profile,
            /// Width and queue of each stage, by name.
            pub stages: Stages,
            /// What named tenants have instead of the common rate and weight.
            pub tenants: Arc<BTreeMap<TenantId, TenantTerms>>,
        }

        impl Settings {
            /// The defaults of a profile.
            pub fn of(profile: Profile) -> Self {
                let micro = profile == Profile::Micronode;
                let mut this = Self {
                    $($name: if micro { $micro } else { $macro },)*
                    profile,
                    stages: Stages::default_for(&Workers(1), &Count(1)),
                    tenants: Arc::default(),
                };
                this.stages = Stages::default_for(&this.concurrency_compute_workers, &this.work_queue_max);
                this
            }

            fn set(&mut self, name: &str, given: Given, from: &str) -> Result<(), ConfigError> {
                match name {
                    $(stringify!($name) => self.$name = read(name, given, from)?,)*
                    _ => return Err(ConfigError(unknown(name, from))),
                }
                Ok(())
            }

            /// Every setting: name, default under macronode, default under micronode, whether a reload applies it, and
            /// what it is. The docs and a test are made from this.
            pub fn table() -> Vec<(&'static str, String, String, bool, String)> {
                let (a, b) = (Self::of(Profile::Macronode), Self::of(Profile::Micronode));
                vec![$((stringify!($name), show(&a.$name), show(&b.$name), $reload, concat!($($doc),*).trim().to_owned()),)*]
            }

            /// Every setting in force: name and value, as the file would have it.
            pub fn in_force(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($name), show(&self.$name)),)*]
            }

            /// Takes over what a reload may change; names what else differs and needs a restart.
            pub fn reloaded(&self, new: Self) -> (Self, Vec<&'static str>) {
                let mut next = self.clone();
                let mut ignored = Vec::new();
                $(if $reload { next.$name = new.$name.clone() } else if self.$name != new.$name { ignored.push(stringify!($name)) })*
                next.stages = new.stages;
                next.tenants = new.tenants;
                // A store that is to be larger is so after a restart.
                next.snapshot_max_bytes = next.snapshot_max_bytes.min(next.store_max_bytes);
                (next, ignored)
            }

            const NAMES: &[&str] = &[$(stringify!($name),)*];
        }
    };
}

settings! {
    /// Where the service listens.
    http_addr: SocketAddr = ([0, 0, 0, 0], 8080).into(), ([0, 0, 0, 0], 8080).into(), false;
    /// Where metrics, health, readiness and events are.
    metrics_addr: SocketAddr = ([0, 0, 0, 0], 9909).into(), ([0, 0, 0, 0], 9909).into(), false;
    /// Most requests under way at once; more are refused with `over_capacity`.
    max_inflight: Count = Count(512), Count(64), true;
    /// Most jobs waiting to be admitted; more are refused with `queue_full`. The queue of the stage `admit` unless that is set.
    work_queue_max: Count = Count(4096), Count(256), true;
    /// Requests per second of one tenant, with a second's worth as burst; more are refused with `tenant_rate`.
    tenant_rps_max: Count = Count(100), Count(100), true;
    /// Requests per second of all tenants together; more are refused with `over_capacity`.
    rps_max: Count = Count(10_000), Count(10_000), true;
    /// Threads that compute, 1024 at most; `svc-rewarder run` takes one a core unless it is set.
    concurrency_compute_workers: Workers = Workers(workers()), Workers(workers()), true;
    /// Time for one emission, retries included.
    ledger_deadline_ms: Millis = Millis(1000), Millis(1000), false;
    /// Further attempts of one emission.
    ledger_max_retries: u32 = 2, 2, false;
    /// Largest JSON body and largest policy.
    req_body_max_bytes: u64 = 1 << 20, 1 << 20, true;
    /// Most that a compressed body may grow.
    decomp_ratio_max: Count = Count(10), Count(10), true;
    /// Only post-quantum key exchange (X25519MLKEM768), and attestations with ML-DSA-65 beside Ed25519.
    require_pq_on: bool = false, false, false;
    /// Keep everything in memory and write nothing.
    amnesia_mode: bool = false, true, false;
    /// Which ledger: `embedded:`, `http://host:port` or `postgres://user:password@host/database`.
    ledger_url: LedgerUrl = LedgerUrl::Embedded, LedgerUrl::Embedded, false;
    /// Where the sealed store, results, quarantine and embedded ledger are.
    state_dir: PathBuf = "state".into(), "state".into(), false;
    /// Largest snapshot.
    snapshot_max_bytes: u64 = 1 << 30, 64 << 20, true;
    /// Most that the sealed store holds.
    store_max_bytes: u64 = 64 << 30, 512 << 20, false;
    /// JSON file of capability keys.
    cap_keys_file: PathBuf = "cap-keys.json".into(), "cap-keys.json".into(), false;
    /// Who verifies capabilities: `local:`, the keys of `cap_keys_file`, or a service at `http://host:port/path`, which then
    /// decides alone.
    cap_verifier_url: VerifierUrl = VerifierUrl::Local, VerifierUrl::Local, false;
    /// Life of a verdict of that service, after which it is asked again; a reload forgets all.
    cap_cache_ttl_ms: Millis = Millis(30_000), Millis(30_000), true;
    /// Time for one capability check.
    cap_budget_ms: Millis = Millis(250), Millis(250), true;
    /// Time after which a compute request is answered 202 while the job goes on.
    request_deadline_ms: Millis = Millis(10_000), Millis(10_000), true;
    /// Time in which a request's head, and then each part of its body, has to arrive.
    read_timeout_ms: Millis = Millis(10_000), Millis(10_000), true;
    /// Time in which a peer has to take some part of an answer that waits to be written.
    write_timeout_ms: Millis = Millis(10_000), Millis(10_000), true;
    /// Least bytes a second of a body that comes in or an answer that goes out, over ten seconds of waiting for the peer.
    transfer_rate_min_bytes: u64 = 8192, 8192, true;
    /// Most connections on each port. Where they are short, the oldest that has sent no request yet gives way to the newest.
    connections_max: Count = Count(8192), Count(1024), true;
    /// Most connections of one IPv4 address or one IPv6 /64 on each port; raise it behind a proxy, whose address is that of
    /// all its clients.
    connections_per_address_max: Count = Count(1024), Count(128), true;
    /// Certificate chain of `http_addr` in PEM, the service's own first; without it HTTP is spoken in the clear. A reload reads
    /// the three files again.
    tls_cert_file: Option<PathBuf> = None, None, false;
    /// Its private key in PEM.
    tls_key_file: Option<PathBuf> = None, None, false;
    /// Issuers of client certificates in PEM; without it no client is asked for one. Which capability needs one stands in it
    /// (`client_cert`).
    tls_client_ca_file: Option<PathBuf> = None, None, false;
    /// Time for a TLS handshake.
    tls_handshake_timeout_ms: Millis = Millis(5000), Millis(5000), true;
    /// Time between the signal to stop and the first refused job: `readyz` is 503 already and everything is served, so that a load
    /// balancer can send its clients elsewhere.
    drain_notice_ms: Pause = Pause(0), Pause(0), true;
    /// Time for jobs under way when the service is told to stop.
    drain_deadline_ms: Millis = Millis(25_000), Millis(10_000), true;
    /// Most intents held in quarantine.
    quarantine_max_entries: Count = Count(4096), Count(256), false;
    /// Most bytes of intents held in quarantine.
    quarantine_max_bytes: u64 = 64 << 20, 1 << 20, false;
    /// A brownout begins when the p99 of ledger attempts is above this …
    brownout_p99_ms: Millis = Millis(250), Millis(250), true;
    /// … or when this many attempts in a row have failed.
    brownout_failures: Count = Count(10), Count(10), true;
    /// A brownout ends when p95 has been below this …
    brownout_exit_p95_ms: Millis = Millis(100), Millis(100), true;
    /// … for so long, with the quarantine and the work queue below their soft limits.
    brownout_exit_ms: Millis = Millis(600_000), Millis(600_000), true;
    /// Time between probes of a ledger that is browned out.
    brownout_probe_ms: Millis = Millis(1000), Millis(1000), true;
    /// Answer dry runs while emission is latched off.
    latched_dry_runs: bool = true, true, true;
    /// Allow core dumps and debuggers; the process's memory holds keys.
    core_dumps: bool = false, false, false;
    /// Text or JSON.
    log_format: LogFormat = LogFormat::Text, LogFormat::Text, false;
}

/// One thread less than there are cores, for the async side; at least one.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1)).clamp(1, WORKERS_MAX)
}

/// `[tenants.NAME]`: what one tenant has instead of the common rate, and its weight in the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantTerms {
    /// Requests per second, instead of `tenant_rps_max`.
    pub rps: Option<NonZeroU32>,
    /// Jobs that are served for one of a tenant of weight 1.
    pub weight: NonZeroU32,
}

/// Heaviest tenant: a turn of it delays the others by as many jobs, and a second is about a thousand small ones.
const WEIGHT_MAX: u32 = 1000;

impl TenantTerms {
    fn read(name: &str, table: &toml::Table, from: &str) -> Result<(TenantId, Self), ConfigError> {
        let tenant = name.parse().map_err(|_| {
            ConfigError(format!(
                "[tenants.{name}] ({from}) names no tenant: it has to be 1 to 64 of a-z, 0-9 and -"
            ))
        })?;
        let mut terms = Self { rps: None, weight: NonZeroU32::MIN };
        for (key, value) in table {
            let most = match &**key {
                "rps" => 1_000_000,
                "weight" => WEIGHT_MAX,
                _ => {
                    return Err(ConfigError(format!(
                        "{key} of [tenants.{name}] ({from}) is no setting of a tenant: it has to be rps or weight"
                    )));
                }
            };
            let number = value
                .as_integer()
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n <= most)
                .and_then(NonZeroU32::new)
                .ok_or_else(|| {
                    ConfigError(format!(
                        "{key} = {value} of [tenants.{name}] ({from}) cannot be used: it has to be a whole number from 1 to {most}"
                    ))
                })?;
            match &**key {
                "rps" => terms.rps = Some(number),
                _ => terms.weight = number,
            }
        }
        Ok((tenant, terms))
    }
}

/// Sizes of the four stages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stages {
    /// Looks things up and joins twins.
    pub admit: StageConfig,
    /// Verifies and scores.
    pub decode: StageConfig,
    /// Allocates, checks, seals and stores.
    pub reward: StageConfig,
    /// Delivers.
    pub emit: StageConfig,
}

/// Jobs of a stage beyond one for each thread. Each may hold the memory of an epoch, so it is few.
const JOBS_BESIDE: usize = 3;

impl Stages {
    /// The names, first to last: the values of the label `stage`.
    pub const NAMES: [&'static str; 4] = ["admit", "decode", "reward", "emit"];

    fn default_for(workers: &Workers, queue: &Count) -> Self {
        let stage = |width, queue| StageConfig::new(width, queue).expect("defaults are within limits");
        Self {
            // Lookups wait for the disk, not for the processor.
            admit: stage(8, queue.0),
            // Alone a job uses all threads, together they share them. Some more jobs than threads: while one waits for the
            // disk another computes, and a small one need not wait until a large one has gone.
            decode: stage(workers.0 + JOBS_BESIDE, 2 * workers.0),
            reward: stage(workers.0 + JOBS_BESIDE, 2 * workers.0),
            // Delivery waits for the ledger.
            emit: stage(32, 64),
        }
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut StageConfig> {
        match name {
            "admit" => Some(&mut self.admit),
            "decode" => Some(&mut self.decode),
            "reward" => Some(&mut self.reward),
            "emit" => Some(&mut self.emit),
            _ => None,
        }
    }

    /// Name and sizes of each.
    pub fn each(&self) -> [(&'static str, StageConfig); 4] {
        let [a, d, r, e] = Self::NAMES;
        [(a, self.admit), (d, self.decode), (r, self.reward), (e, self.emit)]
    }
}

/// A value as somebody wrote it.
#[derive(Clone, Copy)]
struct Given<'a> {
    text: &'a str,
    /// Whether it is a number or the like, and not a text.
    is_bare: bool,
}

fn read<T: Value>(name: &str, Given { text, is_bare }: Given, from: &str) -> Result<T, ConfigError> {
    if is_bare && T::IS_TEXT {
        return Err(ConfigError(format!(
            "{name} = {text} ({from}) cannot be used: it has to be {}, in quotes",
            T::WANTED
        )));
    }
    T::read(text).ok_or_else(|| {
        let (text, why) = T::complaint(text);
        ConfigError(format!("{name} = {text} ({from}) cannot be used: {why}"))
    })
}

fn unknown(name: &str, from: &str) -> String {
    let near = Settings::NAMES
        .iter()
        .copied()
        .chain(["profile", "stages", "tenants"])
        .min_by_key(|known| distance(name, known));
    let hint = near
        .filter(|near| distance(name, near) <= 3)
        .map_or(String::new(), |near| format!("; did you mean {near}?"));
    format!("{name} ({from}) is no setting of svc-rewarder: remove it or correct it{hint}")
}

/// Edits between two words (Levenshtein), for the hint.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A value as the file would have it.
fn show<T: fmt::Debug>(value: &T) -> String {
    let text = format!("{value:?}");
    let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(&text);
    if let Some(quoted) = inner.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        // A path or an address, in which capitals count.
        return quoted.to_owned();
    }
    if inner.contains(':') { inner.to_owned() } else { inner.to_lowercase() }
}

/// What the command line says about settings.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// Settings file (TOML); also RON_CONFIG
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which defaults to take
    #[arg(long, value_enum)]
    pub profile: Option<Profile>,
}

/// Environment variables by name; a map, so that tests need not change the process.
pub type Environment = BTreeMap<String, String>;

/// Loads the settings: flags, environment, file, defaults.
///
/// # Errors
/// The first key that is unknown or whose value cannot be used.
pub fn load(args: &ConfigArgs, environment: &Environment) -> Result<Settings, ConfigError> {
    load_with(args, environment, |_| {})
}

/// The same for a batch job, which has the machine for itself: by default it computes on every core.
///
/// # Errors
/// As [`load`].
pub fn load_for_batch(args: &ConfigArgs, environment: &Environment) -> Result<Settings, ConfigError> {
    load_with(args, environment, |settings| {
        settings.concurrency_compute_workers =
            Workers(std::thread::available_parallelism().map_or(1, |n| n.get()).min(WORKERS_MAX));
    })
}

/// The settings of a file's text, without a file: what [`load`] makes of it.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, environment: &Environment) -> Result<Settings, ConfigError> {
    layers(None, environment, text, None, |_| {})
}

fn load_with(
    args: &ConfigArgs,
    environment: &Environment,
    defaults: impl FnOnce(&mut Settings),
) -> Result<Settings, ConfigError> {
    let path = args
        .config
        .clone()
        .or_else(|| environment.get("RON_CONFIG").filter(|p| !p.is_empty()).map(PathBuf::from));
    let text = match &path {
        Some(path) => std::fs::read_to_string(path).map_err(|e| {
            let named = if args.config.is_some() { "--config" } else { "RON_CONFIG" };
            let path = path.display();
            ConfigError(format!(
                "{named} = {path}: the settings file cannot be read: {e}; name one that can, or none"
            ))
        })?,
        None => String::new(),
    };
    layers(args.profile, environment, &text, path.as_deref(), defaults)
}

/// Takes `[name.…]` out of the file: tables by name.
fn tables(file: &mut toml::Table, name: &str, from: &str) -> Result<Vec<(String, toml::Table)>, ConfigError> {
    let wrong = |value: &toml::Value| {
        ConfigError(format!(
            "{name} = {value} ({from}) cannot be used: write [{name}.NAME] and its keys below"
        ))
    };
    let named = match file.remove(name) {
        None => return Ok(Vec::new()),
        Some(toml::Value::Table(named)) => named,
        Some(other) => return Err(wrong(&other)),
    };
    let table = |(name, value)| match value {
        toml::Value::Table(table) => Ok((name, table)),
        other => Err(wrong(&other)),
    };
    named.into_iter().map(table).collect()
}

fn profile_of(text: &str, from: &str) -> Result<Profile, ConfigError> {
    match text {
        "micronode" => Ok(Profile::Micronode),
        "macronode" => Ok(Profile::Macronode),
        other => Err(ConfigError(format!(
            "profile = {other:?} ({from}) cannot be used: it has to be micronode or macronode"
        ))),
    }
}

fn layers(
    profile: Option<Profile>,
    environment: &Environment,
    text: &str,
    path: Option<&Path>,
    defaults: impl FnOnce(&mut Settings),
) -> Result<Settings, ConfigError> {
    let from = path.map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
    let mut file: toml::Table = toml::from_str(text).map_err(|e| {
        // Without the line itself, which may hold the ledger's password.
        let line = e.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        ConfigError(format!("{from} is not a settings file: line {line}: {}", e.message().trim()))
    })?;
    let (stages, tenants) = (tables(&mut file, "stages", &from)?, tables(&mut file, "tenants", &from)?);
    let in_file = match file.remove("profile") {
        None => None,
        Some(toml::Value::String(text)) => Some(profile_of(&text, &from)?),
        Some(other) => Some(profile_of(&other.to_string(), &from)?),
    };
    let variable = |name: &str| environment.get(&name.to_uppercase()).filter(|text| !text.is_empty());
    let in_environment =
        variable("profile").map(|text| profile_of(text, "environment PROFILE")).transpose()?;
    let mut settings = Settings::of(profile.or(in_environment).or(in_file).unwrap_or_default());
    defaults(&mut settings);
    for (name, value) in &file {
        let text = match value {
            toml::Value::String(text) => text.clone(),
            // Of another kind, it may be: let the setting's own reader say what it wants.
            other => other.to_string(),
        };
        settings.set(name, Given { text: &text, is_bare: !value.is_str() }, &from)?;
    }
    for name in Settings::NAMES {
        if let Some(text) = variable(name) {
            let from = format!("environment {}", name.to_uppercase());
            settings.set(name, Given { text, is_bare: false }, &from)?;
        }
    }
    // A store that is made small takes no larger snapshots, unless somebody says that it should.
    if !file.contains_key("snapshot_max_bytes") && variable("snapshot_max_bytes").is_none() {
        settings.snapshot_max_bytes = settings.snapshot_max_bytes.min(settings.store_max_bytes);
    }
    settings.stages = Stages::default_for(&settings.concurrency_compute_workers, &settings.work_queue_max);
    for (name, table) in &stages {
        let stage = settings.stages.get_mut(name).ok_or_else(|| {
            ConfigError(format!(
                "[stages.{name}] ({from}) names no stage: it has to be one of {}",
                Stages::NAMES.join(", ")
            ))
        })?;
        *stage = stage
            .with(&stage_override(name, table, &from)?)
            .map_err(|e| ConfigError(format!("[stages.{name}] ({from}) cannot be used: {e}")))?;
    }
    let named = tenants.iter().map(|(name, table)| TenantTerms::read(name, table, &from));
    settings.tenants = Arc::new(named.collect::<Result<_, _>>()?);
    settings.consistent()?;
    Ok(settings)
}

/// The table of one stage.
fn stage_override(stage: &str, table: &toml::Table, from: &str) -> Result<StageOverride, ConfigError> {
    let mut over = StageOverride::default();
    for (key, value) in table {
        let size = match key.as_str() {
            "width" => &mut over.width,
            "queue" => &mut over.queue,
            _ => {
                return Err(ConfigError(format!(
                    "[stages.{stage}] {key} ({from}) is not known: a stage has width and queue"
                )));
            }
        };
        let number = value.as_integer().and_then(|number| usize::try_from(number).ok());
        *size = Some(number.ok_or_else(|| {
            ConfigError(format!(
                "[stages.{stage}] {key} = {value} ({from}) cannot be used: it has to be a whole number from 1 on"
            ))
        })?);
    }
    Ok(over)
}

impl Settings {
    /// Looks for what no single value can be blamed for.
    ///
    /// # Errors
    /// The two settings that contradict each other.
    pub fn consistent(&self) -> Result<(), ConfigError> {
        if self.http_addr.port() != 0 && self.http_addr == self.metrics_addr {
            return Err(ConfigError(format!(
                "http_addr and metrics_addr are both {}: give one another port",
                self.http_addr
            )));
        }
        if self.snapshot_max_bytes > self.store_max_bytes {
            return Err(ConfigError(format!(
                "snapshot_max_bytes = {} is above store_max_bytes = {}: lower the one or raise the other",
                self.snapshot_max_bytes, self.store_max_bytes
            )));
        }
        for (name, set, other) in [
            ("tls_cert_file", &self.tls_cert_file, &self.tls_key_file),
            ("tls_key_file", &self.tls_key_file, &self.tls_cert_file),
            ("tls_client_ca_file", &self.tls_client_ca_file, &self.tls_cert_file),
        ] {
            if let (Some(path), None) = (set, other) {
                return Err(ConfigError(format!(
                    "{name} = {} does nothing without {}: set both, or neither",
                    path.display(),
                    if name == "tls_cert_file" { "tls_key_file" } else { "tls_cert_file" }
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        layers(None, &environment, text, Some(Path::new("f.toml")), |_| {}).map_err(|e| e.0)
    }

    #[test]
    fn later_layers_win() {
        let settings = check("max_inflight = 7\ntenant_rps_max = 9", &[("MAX_INFLIGHT", "8")]).unwrap();
        assert_eq!((settings.max_inflight, settings.tenant_rps_max), (Count(8), Count(9)));
        assert!(check("profile = 'micronode'", &[]).unwrap().amnesia_mode);
        assert!(!check("profile = 'micronode'\namnesia_mode = false", &[]).unwrap().amnesia_mode);
    }

    #[test]
    fn a_store_that_is_made_small_takes_no_larger_snapshots() {
        assert_eq!(check("store_max_bytes = 5000", &[]).unwrap().snapshot_max_bytes, 5000);
        assert_eq!(check("", &[("STORE_MAX_BYTES", "1")]).unwrap().snapshot_max_bytes, 1);
        let both = check("store_max_bytes = 5000", &[("SNAPSHOT_MAX_BYTES", "5001")]).unwrap_err();
        assert!(both.contains("snapshot_max_bytes = 5001 is above store_max_bytes = 5000"), "{both}");
    }

    #[test]
    fn the_profile_comes_from_flag_environment_or_file() {
        let amnesia = |text, environment| check(text, environment).unwrap().amnesia_mode;
        assert!(amnesia("", &[("PROFILE", "micronode")]));
        assert!(!amnesia("profile = 'micronode'", &[("PROFILE", "macronode")]));
        let error = check("", &[("PROFILE", "nano")]).unwrap_err();
        assert_eq!(
            error,
            "profile = \"nano\" (environment PROFILE) cannot be used: it has to be micronode or macronode"
        );
    }

    #[test]
    fn every_value_that_a_setting_takes_is_one_that_the_stages_take() {
        let most = [("CONCURRENCY_COMPUTE_WORKERS", "1024"), ("WORK_QUEUE_MAX", "1000000")];
        let settings = check("", &most).unwrap();
        assert_eq!(settings.stages.decode.width().get(), 1024 + JOBS_BESIDE);
        let more = check("concurrency_compute_workers = 1025", &[]).unwrap_err();
        assert!(more.contains("concurrency_compute_workers") && more.contains("from 1 to 1024"), "{more}");
    }

    #[test]
    fn messages_name_key_value_and_fix() {
        let cases = [
            (
                "max_inflght = 7",
                "max_inflght (f.toml) is no setting of svc-rewarder: remove it or correct it; did you mean max_inflight?",
            ),
            (
                "max_inflight = 0",
                "max_inflight = \"0\" (f.toml) cannot be used: it has to be a whole number from 1 to 1000000",
            ),
            (
                "http_addr = 'x'",
                "http_addr = \"x\" (f.toml) cannot be used: it has to be an address and port, such as 127.0.0.1:8080",
            ),
            ("state_dir = [1]", "state_dir = [1] (f.toml) cannot be used: it has to be a path, in quotes"),
            (
                "cap_keys_file = true",
                "cap_keys_file = true (f.toml) cannot be used: it has to be a path, in quotes",
            ),
            ("stages = 3", "stages = 3 (f.toml) cannot be used: write [stages.NAME] and its keys below"),
            (
                "tenants.acme = 3",
                "tenants = 3 (f.toml) cannot be used: write [tenants.NAME] and its keys below",
            ),
            ("profile = 0", "profile = \"0\" (f.toml) cannot be used: it has to be micronode or macronode"),
            ("profile = 'x'", "profile = \"x\" (f.toml) cannot be used: it has to be micronode or macronode"),
            (
                "[stages.x]\nwidth = 1",
                "[stages.x] (f.toml) names no stage: it has to be one of admit, decode, reward, emit",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(check(text, &[]).unwrap_err(), expected);
        }
        let error = check("", &[("LEDGER_DEADLINE_MS", "-1")]).unwrap_err();
        assert_eq!(
            error,
            "ledger_deadline_ms = \"-1\" (environment LEDGER_DEADLINE_MS) cannot be used: it has to be a number of milliseconds from 1 to 86400000"
        );
        for (line, what) in [
            ("width = 0", "cannot be used: width = 0: must be 1 to 4096"),
            ("width = -1", "width = -1 (f.toml) cannot be used: it has to be a whole number from 1 on"),
            ("queue = '2'", "queue = \"2\" (f.toml) cannot be used: it has to be a whole number from 1 on"),
            ("queue = 1.5", "queue = 1.5 (f.toml) cannot be used: it has to be a whole number from 1 on"),
            ("wodth = 1", "wodth (f.toml) is not known: a stage has width and queue"),
        ] {
            let error = check(&format!("[stages.emit]\n{line}"), &[]).unwrap_err();
            assert!(error.starts_with("[stages.emit]") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn no_message_and_no_listing_shows_a_password() {
        let wrong = check("ledger_url = 'postgres://u:hunter2@db/x?sslmode=require'", &[]).unwrap_err();
        assert!(
            wrong.contains("\"postgres://***@db/x?***\" (f.toml) cannot be used: of the sslmodes only"),
            "{wrong}"
        );
        let right = check("", &[("LEDGER_URL", "postgres://u:hunter2@localhost/x")]).unwrap();
        let listed = format!("{:?}{right:?}", right.in_force());
        assert!(listed.contains("postgres://u:***@localhost/x") && !listed.contains("hunter2"), "{listed}");
        let broken = check("ledger_url = 'postgres://u:hunter2@db", &[]).unwrap_err();
        assert!(!broken.contains("hunter2"), "{broken}");
    }

    #[test]
    fn named_tenants_have_terms_and_a_reload_takes_them() {
        let new = check("[tenants.acme]\nrps = 500\nweight = 4\n[tenants.tiny]", &[]).unwrap();
        let terms = |name: &str| new.tenants[&name.parse().unwrap()];
        assert_eq!((terms("acme").rps.unwrap().get(), terms("acme").weight.get()), (500, 4));
        assert_eq!((terms("tiny").rps, terms("tiny").weight.get()), (None, 1));
        let (next, ignored) = check("", &[]).unwrap().reloaded(new.clone());
        assert_eq!((next.tenants, ignored), (new.tenants, vec![]));
        for (text, says) in [
            ("[tenants.Acme]\nrps = 1", "names no tenant"),
            (
                "[tenants.acme]\nrps = 0",
                "rps = 0 of [tenants.acme] (f.toml) cannot be used: it has to be a whole number from 1 to 1000000",
            ),
            ("[tenants.acme]\nweight = 1001", "from 1 to 1000"),
            ("[tenants.acme]\nweight = 1.5", "from 1 to 1000"),
            ("[tenants.acme]\nrpm = 1", "it has to be rps or weight"),
        ] {
            let error = check(text, &[]).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn stage_sizes_follow_their_settings() {
        let settings = check("work_queue_max = 5\n[stages.decode]\nwidth = 3", &[]).unwrap();
        assert_eq!(settings.stages.admit.queue().get(), 5);
        assert_eq!(settings.stages.decode.width().get(), 3);
    }

    #[test]
    fn a_reload_takes_clamps_and_names_the_rest() {
        let old = check("", &[]).unwrap();
        let (next, ignored) =
            old.reloaded(check("max_inflight = 3\nhttp_addr = '127.0.0.1:1'", &[]).unwrap());
        assert_eq!(
            (next.max_inflight, next.http_addr, ignored),
            (Count(3), old.http_addr, vec!["http_addr"])
        );
        let (next, ignored) = check("store_max_bytes = 5000", &[])
            .unwrap()
            .reloaded(check("store_max_bytes = 9000", &[]).unwrap());
        assert_eq!((next.snapshot_max_bytes, ignored), (5000, vec!["store_max_bytes"]));
        next.consistent().unwrap();
    }
}
