//! `ronctl latch`: whether emission is off, and turning it on again. A latch says that a check of our own failed; releasing
//! it is a person's act, with a reason that the audit log keeps.
//!
//! For a stopped service only: a running one holds the latch in memory and the end of the audit chain, and would notice
//! neither. That it has stopped is seen from the quarantine's lock.

use crate::failure::{Done, Failure};
use crate::http::runtime;
use crate::say;
use clap::{Args, Subcommand};
use rewarder_emit::{Audit, Latch, QuarantineConfig, Spool};
use rewarder_model::world::Clock;
use rewarder_model::world::disk::{Disk, RealDisk};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use svc_rewarder::config::{self, ConfigArgs};
use svc_rewarder::run::exit;
use svc_rewarder::world::{Runtime, SystemClock};

/// The emission latch.
#[derive(Subcommand)]
pub enum LatchVerb {
    /// Say whether emission is off, and why; exit 1 if it is
    Show(Place),
    /// Turn emission on again
    Release {
        #[command(flatten)]
        place: Place,
        /// Why it may be; the audit log keeps it
        #[arg(long)]
        reason: String,
    },
}

/// Whose latch.
#[derive(Args)]
pub struct Place {
    /// STATE_DIR of the service, instead of the settings'
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Place {
    fn dir(&self) -> Result<PathBuf, Failure> {
        let dir = match &self.state_dir {
            Some(dir) => dir.clone(),
            None => {
                let settings =
                    config::load(&self.config, &std::env::vars().collect()).map_err(Failure::refused)?;
                if settings.amnesia_mode {
                    return Err(Failure::refused(
                        "under amnesia the latch is in memory only: a restart releases it",
                    ));
                }
                settings.state_dir
            }
        };
        // Opening the latch makes what is not there; a mistyped name must not pass for a clean state.
        if dir.is_dir() {
            Ok(dir)
        } else {
            Err(Failure::refused(format!("there is no state directory {}", dir.display())))
        }
    }
}

/// Shows or releases.
pub fn latch(verb: LatchVerb, json: bool) -> Done {
    match verb {
        LatchVerb::Show(place) => show(&place, json),
        LatchVerb::Release { place, reason } => release(&place, &reason, json),
    }
}

fn show(place: &Place, json: bool) -> Done {
    // Only the latch's own file is looked at, so that this may be asked of a running service too.
    let path = place.dir()?.join(rewarder_emit::latch::LATCH_FILE);
    let latched = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(Failure::new(format!("{} cannot be read: {e}", path.display()))),
        Ok(bytes) => Some(serde_json::from_slice::<rewarder_emit::Latched>(&bytes).map_or_else(
            |_| "its file cannot be read, which counts as off".to_owned(),
            |latched| latched.reason,
        )),
    };
    match (&latched, json) {
        (_, true) => say::json(&json!({ "latched": latched.is_some(), "reason": latched })),
        (Some(reason), _) => say::line(format!("emission is off: {}", reason.escape_debug())),
        (None, _) => say::line("emission is on"),
    }
    Ok(if latched.is_some() { exit::FAILED } else { exit::OK })
}

fn release(place: &Place, reason: &str, json: bool) -> Done {
    let dir = place.dir()?;
    let clock = SystemClock::start();
    let bounds = QuarantineConfig::default();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&dir).map_err(Failure::new)?);
    let spool = async { Spool::open(Some(disk), bounds, &clock, Arc::new(Runtime)).await };
    let _lock = runtime()?.block_on(spool).map_err(|e| {
        Failure::new(format!("{e}\n  Stop the service first: a running one would not notice the release"))
    })?;
    let audit = Arc::new(Audit::open(Some(&dir)).map_err(Failure::new)?);
    let latch = Latch::open(Some(&dir), audit).map_err(Failure::new)?;
    let released = latch.release(reason, clock.unix()).map_err(Failure::new)?;
    if json {
        say::json(&json!({ "released": released }));
    } else if released {
        say::line("emission is on again; the audit log keeps the reason. Start the service");
    } else {
        say::line("emission was on; nothing to release");
    }
    Ok(exit::OK)
}
