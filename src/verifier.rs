//! Who verifies capabilities, by `cap_verifier_url`: the keys of the key file, or another service.

use crate::config::{ConfigError, Settings};
use crate::opened::StartError;
use crate::world::Runtime;
use rewarder_admit::upstream::{Around, HttpUpstream};
use rewarder_admit::{Keyring, LocalVerifier, UpstreamVerifier, Verifier, VerifierUrl};
use rewarder_model::world::{Clock, Entropy};
use std::sync::Arc;
use std::time::Duration;

/// How often another service is looked at; more often while what it said is used up.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// … but no more often than this, however short a verdict holds.
const LOOK_EVERY_LEAST: Duration = Duration::from_millis(50);
const LOOK_EVERY_COLD: Duration = Duration::from_millis(250);

/// One of the two.
pub enum CapVerifier {
    /// With the keys of `cap_keys_file`.
    Local(Arc<LocalVerifier>),
    /// At `cap_verifier_url`, which alone decides: the key file is not read.
    Upstream(UpstreamVerifier),
}

fn keyring(settings: &Settings) -> Result<Keyring, ConfigError> {
    let path = &settings.cap_keys_file;
    let keyring = Keyring::load(path).map_err(|e| {
        let made = format!("; `ronctl cap keygen --keys {}` makes it", path.display());
        ConfigError(format!("cap_keys_file: {e}{}", if path.exists() { "" } else { &made }))
    })?;
    // Ids and ends, which are no secrets.
    let keys: Vec<String> = keyring
        .state()
        .map(|(id, end)| end.map_or_else(|| format!("{id}=no end"), |end| format!("{id}=until {end}")))
        .collect();
    tracing::info!(keys = keys.join(", "), revoked = keyring.revoked(), "capability keys are in force");
    Ok(keyring)
}

impl CapVerifier {
    /// As the settings say.
    ///
    /// # Errors
    /// When the key file cannot be used.
    pub fn start(
        settings: &Settings,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<Self, StartError> {
        match &settings.cap_verifier_url {
            VerifierUrl::Local => {
                let keyring = keyring(settings).map_err(|e| StartError::of(e.to_string()))?;
                Ok(Self::Local(Arc::new(LocalVerifier::new(keyring))))
            }
            VerifierUrl::Http(url) => {
                tracing::info!(%url, "capabilities are verified by another service");
                let around =
                    Around { clock: clock.clone(), spawn: Arc::new(Runtime), entropy: entropy.clone() };
                let upstream = HttpUpstream::new(url.clone());
                Ok(Self::Upstream(UpstreamVerifier::new(upstream, settings.cap_cache_ttl_ms.into(), around)))
            }
        }
    }

    /// The verifier as it should be, or, in a build for tests whose environment says `RON_PLANT=silent-verifier`, one that
    /// never answers.
    pub fn asked(&self) -> Arc<dyn Verifier> {
        #[cfg(feature = "plant")]
        if std::env::var("RON_PLANT").is_ok_and(|fault| fault == "silent-verifier") {
            return Arc::new(planted::Silent);
        }
        match self {
            Self::Local(local) => local.clone(),
            Self::Upstream(upstream) => Arc::new(upstream.clone()),
        }
    }

    /// Keys, or the life of verdicts, from the settings; what was known is forgotten. Which of the two verifies needs a restart.
    ///
    /// # Errors
    /// When the key file cannot be used; the old keys stay in force.
    pub fn reload(&self, settings: &Settings) -> Result<(), ConfigError> {
        match self {
            Self::Local(local) => local.reload(keyring(settings)?),
            Self::Upstream(upstream) => upstream.reload(settings.cap_cache_ttl_ms.into()),
        }
        Ok(())
    }

    /// Whether no capability could be checked from what is known: readiness cause `cap_cache_cold`.
    pub fn is_cold(&self) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Upstream(upstream) => upstream.is_cold(),
        }
    }

    /// Looks at another service again and again; never ends.
    pub async fn watch(&self, clock: &dyn Clock) {
        let Self::Upstream(upstream) = self else { return std::future::pending().await };
        loop {
            upstream.look().await;
            // Looked at twice before it is cold again by its time alone.
            let warm = (upstream.ttl() / 2).clamp(LOOK_EVERY_LEAST, LOOK_EVERY);
            clock.sleep(if upstream.is_cold() { LOOK_EVERY_COLD } else { warm }).await;
        }
    }
}

#[cfg(feature = "plant")]
mod planted {
    use super::{Duration, Verifier};
    use rewarder_admit::{Denied, Grant};
    use rewarder_model::world::BoxFuture;

    pub struct Silent;

    impl Verifier for Silent {
        fn verify<'a>(&'a self, _: &'a str, _: Duration) -> BoxFuture<'a, Result<Grant, Denied>> {
            Box::pin(std::future::pending())
        }
    }
}
