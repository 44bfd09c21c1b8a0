//! `ronctl config check`: the settings as the service would load them, and the keys that they name.

use crate::failure::{Done, Failure};
use crate::say;
use clap::{Args, Subcommand};
use rewarder_admit::Keyring;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use svc_rewarder::config::{self, ConfigArgs, Settings};
use svc_rewarder::run::exit;

/// Looks at settings.
#[derive(Subcommand)]
pub enum ConfigVerb {
    /// Load flags, environment, file and defaults; print what would be in force
    Check(CheckArgs),
}

/// What to check.
#[derive(Args)]
pub struct CheckArgs {
    /// Whose settings; there is only svc-rewarder
    #[arg(default_value = "svc-rewarder")]
    service: String,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Checks: exit 2 with the message that would stop the start.
pub fn config(ConfigVerb::Check(args): ConfigVerb, json: bool) -> Done {
    if args.service != "svc-rewarder" {
        return Err(Failure::refused(format!(
            "{} is not known here; the service is svc-rewarder",
            args.service.escape_debug()
        )));
    }
    let settings = config::load(&args.config, &std::env::vars().collect()).map_err(Failure::refused)?;
    svc_rewarder::edge::check_tls(&settings).map_err(Failure::refused)?;
    let keys = keys(&settings)?;
    if keys.is_none() {
        let path = settings.cap_keys_file.display();
        eprintln!(
            "ronctl: warning: cap_keys_file {path} is not there; the service needs it: ronctl cap keygen --keys {path}"
        );
    }
    if json {
        let values: Map<String, Value> =
            settings.in_force().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let stages: Map<String, Value> = stages(&settings)
            .map(|(name, width, queue)| (name.to_owned(), json!({ "width": width, "queue": queue })))
            .collect();
        let tenants: Map<String, Value> = tenants(&settings)
            .map(|(name, rps, weight)| (name.to_owned(), json!({ "rps": rps, "weight": weight })))
            .collect();
        say::json(
            &json!({ "ok": true, "profile": profile(&settings), "settings": values, "stages": stages, "tenants": tenants, "cap_key_ids": keys }),
        );
    } else {
        say::text(table(&settings, keys.as_deref()));
    }
    Ok(exit::OK)
}

/// The ids of the keys, the minting one last; none if there is no file.
fn keys(settings: &Settings) -> Result<Option<Vec<String>>, Failure> {
    if !settings.cap_keys_file.exists() {
        return Ok(None);
    }
    let ring = Keyring::load(&settings.cap_keys_file)
        .map_err(|e| Failure::refused(format!("cap_keys_file: {e}")))?;
    Ok(Some(ring.ids().map(str::to_owned).collect()))
}

fn profile(settings: &Settings) -> String {
    format!("{:?}", settings.profile).to_lowercase()
}

fn stages(settings: &Settings) -> impl Iterator<Item = (&'static str, usize, usize)> {
    settings.stages.each().into_iter().map(|(name, stage)| (name, stage.width().get(), stage.queue().get()))
}

/// Named tenants: rate and weight.
fn tenants(settings: &Settings) -> impl Iterator<Item = (&str, usize, u32)> {
    settings.tenants.iter().map(|(tenant, terms)| {
        let rps = terms.rps.map_or(settings.tenant_rps_max.0, |rps| rps.get() as usize);
        (tenant.as_str(), rps, terms.weight.get())
    })
}

fn table(settings: &Settings, keys: Option<&[String]>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<27} = {value}");
    };
    line("profile", &profile(settings));
    for (name, value) in settings.in_force() {
        line(name, &value);
    }
    for (name, width, queue) in stages(settings) {
        line(&format!("stages.{name}"), &format!("width {width}, queue {queue}"));
    }
    for (name, rps, weight) in tenants(settings) {
        line(&format!("tenants.{name}"), &format!("rps {rps}, weight {weight}"));
    }
    if let Some(keys) = keys {
        line("(capability keys)", &format!("{}; the last one mints", keys.join(", ")));
    }
    text
}
