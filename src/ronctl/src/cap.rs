//! `ronctl cap`: keys, and the capabilities that they sign. A token stands alone on stdout and nowhere else.

use crate::failure::{Done, Failure};
use crate::say;
use clap::{Args, Subcommand};
use rewarder_admit::capability::{attenuate, bind, expiry, inspect, keygen, revoke, rotate};
use rewarder_admit::{Caveat, Keyring, Scope, Timestamp};
use rewarder_model::world::Clock;
use rewarder_model::{Amount, TenantId};
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use svc_rewarder::run::exit;
use svc_rewarder::world::{SystemClock, SystemEntropy};

/// Keys and capabilities.
#[derive(Subcommand)]
pub enum CapVerb {
    /// Add a fresh key to a key file, which is made if it is not there (0600)
    Keygen {
        #[command(flatten)]
        keys: KeysArg,
        /// The key's id; by default the first free one of k1, k2, …
        #[arg(long)]
        id: Option<String>,
    },
    /// Print a new capability, signed by the last key
    Mint {
        #[command(flatten)]
        keys: KeysArg,
        /// On whose behalf
        #[arg(long, required = true, allow_hyphen_values = true)]
        tenant: TenantId,
        #[command(flatten)]
        limits: Limits,
    },
    /// Say what a capability allows
    Inspect {
        /// The capability; `-` reads it from standard input
        token: String,
        /// Also verify its signature with these keys; exit 1 if it does not hold
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
    /// Print a capability that allows less; needs no key
    Attenuate {
        /// The capability; `-` reads it from standard input
        #[arg(required_unless_present = "given", conflicts_with = "given")]
        token: Option<String>,
        /// The same, as an option
        #[arg(long = "token", value_name = "TOKEN")]
        given: Option<String>,
        /// A caveat as it is written, such as 'epoch_prefix = 2026-'; may be given several times
        #[arg(long, value_name = "CAVEAT")]
        caveat: Vec<String>,
        #[command(flatten)]
        limits: Limits,
    },
    /// Bind discharges of other services to a capability, and print all as they are sent
    Bind {
        /// The capability; `-` reads it from standard input
        token: String,
        /// A discharge, as the other service gave it; may be given several times
        #[arg(long, value_name = "TOKEN", required = true)]
        discharge: Vec<String>,
    },
    /// Refuse a capability, or all of a key, from the next reload on
    #[command(group(clap::ArgGroup::new("what").required(true).args(["token", "id", "key"])))]
    Revoke {
        #[command(flatten)]
        keys: KeysArg,
        /// The capability; `-` reads it from standard input
        #[arg(long)]
        token: Option<String>,
        /// Its identifier, KEY:NONCE, as `cap inspect` shows it
        #[arg(long)]
        id: Option<String>,
        /// A key that does not mint: its secret is taken out of the file
        #[arg(long)]
        key: Option<String>,
    },
    /// Add a key that mints from now on; the others verify for an overlap, then they are taken out
    Rotate {
        #[command(flatten)]
        keys: KeysArg,
        /// The key's id; by default the first free one of k1, k2, …
        #[arg(long)]
        id: Option<String>,
        /// How long the other keys still verify: as long as the longest-lived token, such as 2h or 30d
        #[arg(long, value_name = "T", default_value = "30d")]
        overlap: String,
    },
}

/// Where the keys are.
#[derive(Args)]
pub struct KeysArg {
    /// Key file (CAP_KEYS_FILE of the service)
    #[arg(long = "keys", value_name = "FILE")]
    path: PathBuf,
}

/// What a capability is limited to.
#[derive(Args)]
pub struct Limits {
    /// What for: rewarder.seal rewarder.policy rewarder.run rewarder.inspect
    #[arg(long, value_name = "SCOPE", num_args = 1..)]
    scope: Vec<String>,
    /// Only epochs whose id begins so
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    epoch_prefix: Option<String>,
    /// Until when: 30m, 2h, 7d, or 2027-01-01T00:00:00Z
    #[arg(long, value_name = "T")]
    expires: Option<String>,
    /// From when: 2027-01-01T00:00:00Z
    #[arg(long, value_name = "T")]
    not_before: Option<Timestamp>,
    /// Only pools up to this, in minor units
    #[arg(long, value_name = "N")]
    max_pool: Option<Amount>,
    /// Only over a connection with this client certificate: sha256:HEX or b3:HEX of its DER
    #[arg(long, value_name = "HASH")]
    client_cert: Option<String>,
    /// Only dry runs
    #[arg(long)]
    dry_run_only: bool,
}

/// Does one of them.
pub fn cap(verb: CapVerb, json: bool) -> Done {
    match verb {
        CapVerb::Keygen { keys, id } => add_key(&keys.path, id.as_deref(), json),
        CapVerb::Mint { keys, tenant, limits } => mint(&keys.path, tenant, &limits, json),
        CapVerb::Inspect { token, keys } => look(&token, keys.as_deref(), json),
        CapVerb::Attenuate { token, given, caveat, limits } => {
            narrow(&token.or(given).unwrap_or_default(), &caveat, &limits, json)
        }
        CapVerb::Bind { token, discharge } => bound(&token, &discharge, json),
        CapVerb::Revoke { keys, token, id, key } => withdraw(&keys.path, token, id.or(key), json),
        CapVerb::Rotate { keys, id, overlap } => turn(&keys.path, id.as_deref(), &overlap, json),
    }
}

fn now() -> Duration {
    SystemClock::start().unix()
}

fn add_key(path: &Path, id: Option<&str>, json: bool) -> Done {
    let id = keygen(path, id, &SystemEntropy).map_err(Failure::refused)?;
    if json {
        say::json(&json!({ "key_id": id, "keys": path }));
    } else {
        say::line(format!("key {id} added to {}; it mints from now on", path.display()));
    }
    Ok(exit::OK)
}

impl Limits {
    fn caveats(&self) -> Result<Vec<Caveat>, Failure> {
        let refused = |flag: &str| {
            let flag = flag.to_owned();
            move |e: rewarder_admit::error::CaveatError| Failure::refused(format!("{flag}: {e}"))
        };
        let mut caveats = Vec::new();
        if !self.scope.is_empty() {
            let words: Vec<&str> = self.scope.iter().flat_map(|words| words.split_whitespace()).collect();
            for word in words.iter().filter(|word| Scope::ALL.iter().all(|scope| scope.as_str() != **word)) {
                let known = Scope::ALL.map(Scope::as_str).join(", ");
                eprintln!(
                    "ronctl: warning: scope {} grants nothing here; known are {known}",
                    word.escape_debug()
                );
            }
            caveats.push(Caveat::Scope(words.join(" ").parse().map_err(refused("--scope"))?));
        }
        if let Some(prefix) = &self.epoch_prefix {
            caveats.push(Caveat::EpochPrefix(prefix.parse().map_err(refused("--epoch-prefix"))?));
        }
        caveats.extend(self.not_before.map(Caveat::NotBefore));
        if let Some(expires) = &self.expires {
            caveats.push(Caveat::Expires(expiry(expires, now()).map_err(refused("--expires"))?));
        }
        caveats.extend(self.max_pool.map(Caveat::MaxPool));
        if let Some(cert) = &self.client_cert {
            caveats.push(Caveat::ClientCert(cert.parse().map_err(refused("--client-cert"))?));
        }
        caveats.extend(self.dry_run_only.then_some(Caveat::DryRun));
        Ok(caveats)
    }
}

fn print_token(token: &str, json: bool) -> Done {
    if json {
        say::json(&json!({ "token": token }));
    } else {
        say::line(token);
    }
    Ok(exit::OK)
}

fn mint(path: &Path, tenant: TenantId, limits: &Limits, json: bool) -> Done {
    if limits.scope.is_empty() {
        return Err(Failure::refused(
            "--scope is missing: a capability without one grants nothing, and its bearer could add any",
        ));
    }
    let mut caveats = vec![Caveat::Tenant(tenant)];
    caveats.extend(limits.caveats()?);
    let ring = Keyring::load(path).map_err(Failure::refused)?;
    let token = ring.mint(&caveats, &SystemEntropy).map_err(Failure::refused)?;
    if limits.expires.is_none() {
        eprintln!("ronctl: warning: this capability never expires; --expires 2h would end it");
    }
    print_token(&token, json)
}

/// The token itself, or what stands on standard input.
fn token(given: &str) -> Result<String, Failure> {
    if given != "-" {
        return Ok(given.trim().to_owned());
    }
    let mut text = String::new();
    let read = std::io::stdin().take(64 * 1024).read_to_string(&mut text);
    read.map_err(|e| Failure::refused(format!("no token can be read from standard input: {e}")))?;
    Ok(text.trim().to_owned())
}

fn look(given: &str, keys: Option<&Path>, json: bool) -> Done {
    let token = token(given)?;
    let inspection = inspect(&token, now()).map_err(Failure::refused)?;
    let verdict = match keys {
        Some(path) => Some(Keyring::load(path).map_err(Failure::refused)?.verify(&token, now()).map(|_| ())),
        None => None,
    };
    if json {
        let mut value = serde_json::to_value(&inspection).unwrap_or_default();
        value["verifies"] = verdict.as_ref().map_or(Value::Null, |verdict| verdict.is_ok().into());
        say::json(&value);
    } else {
        say::line(&inspection);
        match &verdict {
            Some(Ok(())) => say::line("it verifies with these keys"),
            Some(Err(denied)) => say::line(format!("with these keys: {denied}")),
            None => say::line("who signed it is not checked: that needs the keys (--keys)"),
        }
    }
    Ok(if matches!(verdict, Some(Err(_))) { exit::FAILED } else { exit::OK })
}

fn narrow(given: &str, written: &[String], limits: &Limits, json: bool) -> Done {
    let read = |text: &String| text.parse::<Caveat>().map_err(|e| Failure::refused(format!("--caveat: {e}")));
    let mut caveats: Vec<Caveat> = written.iter().map(read).collect::<Result<_, _>>()?;
    caveats.extend(limits.caveats()?);
    if caveats.is_empty() {
        return Err(Failure::refused(
            "nothing to add: give --caveat, --client-cert, --epoch-prefix, --expires, --scope, --max-pool or --dry-run-only",
        ));
    }
    let narrowed = caveats.iter().try_fold(token(given)?, |token, caveat| attenuate(&token, caveat));
    print_token(&narrowed.map_err(Failure::refused)?, json)
}

fn bound(given: &str, discharges: &[String], json: bool) -> Done {
    let bound = bind(&token(given)?, discharges.iter().map(|discharge| discharge.trim()));
    print_token(&bound.map_err(Failure::refused)?, json)
}

/// Revokes a token by what it is called, never by itself: the key file then holds nothing that could be used.
fn withdraw(path: &Path, given: Option<String>, named: Option<String>, json: bool) -> Done {
    let what = match (given, named) {
        (Some(given), _) => inspect(&token(&given)?, now()).map_err(Failure::refused)?.identifier,
        (None, Some(named)) => named,
        (None, None) => return Err(Failure::refused("nothing to revoke: give --token, --id or --key")),
    };
    let is_new = revoke(path, &what, &SystemEntropy).map_err(Failure::refused)?;
    if json {
        say::json(&json!({ "revoked": what, "was_revoked": !is_new, "keys": path }));
    } else if is_new {
        say::line(format!(
            "{what} is revoked in {}; send the service SIGHUP, so that it knows",
            path.display()
        ));
    } else {
        say::line(format!("{what} was revoked already"));
    }
    Ok(exit::OK)
}

/// Adds the key that mints; the overlap is the operator's to choose, since nobody keeps a list of tokens.
fn turn(path: &Path, id: Option<&str>, overlap: &str, json: bool) -> Done {
    let now = now();
    let until = expiry(overlap, now).map_err(|e| Failure::refused(format!("--overlap: {e}")))?;
    let rotated = rotate(path, id, now, until, &SystemEntropy).map_err(Failure::refused)?;
    if json {
        let retiring: Vec<Value> = rotated
            .retiring
            .iter()
            .map(|(id, end)| json!({ "key_id": id, "retire_after": end.to_string() }))
            .collect();
        let (id, pruned) = (&rotated.minting, &rotated.pruned);
        say::json(&json!({ "key_id": id, "still_verify": retiring, "pruned": pruned, "keys": path }));
        return Ok(exit::OK);
    }
    let (keys, id) = (path.display(), &rotated.minting);
    let mut text = format!("key {id} added to {keys}: it mints from now on\n");
    for (id, end) in &rotated.retiring {
        text.push_str(&format!("key {id} verifies until {end}\n"));
    }
    for id in &rotated.pruned {
        text.push_str(&format!("key {id} had ended: its secret is gone\n"));
    }
    text.push_str(&format!(
        "1. send the service SIGHUP, so that it knows {id}\n\
         2. give out new tokens: ronctl cap mint --keys {keys} …\n\
         The others end by themselves; the next rotation takes them out of the file.\n"
    ));
    say::text(text);
    Ok(exit::OK)
}
