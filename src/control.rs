//! What operators do to emission: look at the quarantine and act on it, release the latch, drill a brownout.
//!
//! The laws: the same acts on a running service (over [`socket`]) and on a stopped one's STATE_DIR; each act that changes
//! something needs a reason, which stands in the audit log before the act takes effect.
//!
//! The socket is `STATE_DIR/control.sock`, 0600, in a directory that is 0700 if the service made it: whoever may use it could
//! also change the files.
//! It speaks HTTP/1.1 so that `curl --unix-socket` works: `POST /` with an [`Act`], JSON back. Under amnesia there is none: a
//! file would be written, and an abstract socket would be open to every user of the machine; a restart clears everything there.

use crate::opened::{self, StartError};
use crate::refusal::Refusal;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rewarder_emit::{Deliverer, EmitError, Handover, HandoverError, LedgerError, Mode};
use rewarder_model::Runs;
use rewarder_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

/// Name of the socket in STATE_DIR.
pub const SOCKET: &str = "control.sock";
/// Largest request: a reason is at most a kilobyte.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Connections at once: operators are few.
const CONNECTIONS_MAX: usize = 16;
/// Time for a request's head and body.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries in one answer; more are counted.
const LISTED_MAX: usize = 1000;

/// An act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// What is in quarantine, and what the last start found.
    QuarantineList {},
    /// One entry.
    QuarantineShow {
        /// Its place.
        seq: u64,
    },
    /// Send it again.
    QuarantineRelease {
        /// Its place.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// Give it up.
    QuarantineDrop {
        /// Its place.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// Whether emission is off.
    LatchShow {},
    /// Turn it on.
    LatchRelease {
        /// Why.
        reason: String,
    },
    /// The breaker.
    BrownoutShow {},
    /// Drill a brownout.
    BrownoutStart {
        /// Why.
        reason: String,
    },
    /// End the drill.
    BrownoutStop {
        /// Why.
        reason: String,
    },
}

/// Why an act was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotDone {
    /// For HTTP.
    pub status: StatusCode,
    /// What was wrong and what to do.
    pub detail: String,
}

impl NotDone {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

impl From<EmitError> for NotDone {
    fn from(error: EmitError) -> Self {
        let status = match error {
            EmitError::NoReason => StatusCode::BAD_REQUEST,
            EmitError::OnItsWay | EmitError::NotWaiting | EmitError::Dropped => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Refusal> for NotDone {
    fn from(refusal: Refusal) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, refusal.to_string())
    }
}

/// Does it.
///
/// # Errors
/// See [`NotDone`].
pub async fn perform(deliverer: &Arc<Deliverer>, store: Option<&Store>, act: Act) -> Result<Value, NotDone> {
    let no_entry = |seq: u64| {
        NotDone::new(
            StatusCode::NOT_FOUND,
            format!("nothing stands at place {seq} of the quarantine; `list` shows what does"),
        )
    };
    let spool = deliverer.spool();
    Ok(match act {
        Act::QuarantineList {} => {
            let entries = spool.list();
            json!({
                "depth": entries.len(),
                "entries": &entries[..entries.len().min(LISTED_MAX)],
                "volatile": spool.is_volatile(),
                "found_at_start": spool.found(),
            })
        }
        Act::QuarantineShow { seq } => json!(spool.show(seq).ok_or_else(|| no_entry(seq))?),
        Act::QuarantineRelease { seq, reason } => {
            json!({ "released": deliverer.release_entry(seq, reason).await?.ok_or_else(|| no_entry(seq))? })
        }
        Act::QuarantineDrop { seq, reason } => {
            let runs = store.map(|store| Arc::new(store.clone()) as Arc<dyn Runs>);
            let dropped = Handover::new(deliverer.clone(), runs).drop_entry(seq, reason).await;
            let dropped = dropped.map_err(|error| match error {
                HandoverError::Emit(error) => error.into(),
                other => NotDone::from(Refusal::from(other)),
            })?;
            json!({ "dropped": dropped.ok_or_else(|| no_entry(seq))? })
        }
        Act::LatchShow {} => {
            let latched = deliverer.latch().latched();
            json!({
                "latched": latched.is_some(),
                "reason": latched.as_ref().map(|latched| &latched.reason),
                "since_unix_ms": latched.as_ref().map(|latched| latched.since_unix_ms),
            })
        }
        Act::LatchRelease { reason } => json!({ "released": deliverer.release_latch(reason).await? }),
        Act::BrownoutShow {} => brownout(deliverer),
        Act::BrownoutStart { reason } => {
            deliverer.drill(true, reason).await?;
            brownout(deliverer)
        }
        Act::BrownoutStop { reason } => {
            deliverer.drill(false, reason).await?;
            brownout(deliverer)
        }
    })
}

fn brownout(deliverer: &Deliverer) -> Value {
    let (breaker, estimate) = (deliverer.breaker(), deliverer.health());
    json!({
        "mode": breaker.mode(),
        "why": breaker.why(),
        "drill": breaker.drill(),
        "emits": breaker.mode() == Mode::Closed,
        "p95_us": estimate.p95.as_micros() as u64,
        "p99_us": estimate.p99.as_micros() as u64,
        "failures_in_a_row": estimate.failures_in_a_row,
        "attempts": estimate.samples,
    })
}

/// Listens in `state_dir`. Call it only while holding the spool: what has the name then is a dead process's.
///
/// # Errors
/// When the socket cannot be made, for example because the path is longer than 107 bytes.
pub fn bind(state_dir: &Path) -> std::io::Result<UnixListener> {
    let path = state_dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Where the socket of a service is.
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}

/// Serves operators until it is dropped.
pub async fn serve(listener: UnixListener, deliverer: Arc<Deliverer>, store: Option<Store>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (deliverer, store) = (deliverer.clone(), store.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let (deliverer, store) = (deliverer.clone(), store.clone());
            async move { Ok::<_, Infallible>(answer(&deliverer, store.as_ref(), request).await) }
        });
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
            drop(place);
        });
    }
}

async fn answer(
    deliverer: &Arc<Deliverer>,
    store: Option<&Store>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let done = match read(request).await {
        Ok(act) => perform(deliverer, store, act).await,
        Err(not_done) => Err(not_done),
    };
    let (status, body) = match done {
        Ok(value) => (StatusCode::OK, value),
        Err(not_done) => (not_done.status, json!({ "error": not_done.detail })),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

async fn read(request: Request<Incoming>) -> Result<Act, NotDone> {
    if request.method() != Method::POST || request.uri().path() != "/" {
        return Err(NotDone::new(StatusCode::NOT_FOUND, "POST / with an act as JSON"));
    }
    let bad = |what: String| NotDone::new(StatusCode::BAD_REQUEST, what);
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = tokio::time::timeout(READ_TIMEOUT, body)
        .await
        .map_err(|_| bad("the act did not arrive in time".into()))?
        .map_err(|e| bad(format!("the act cannot be read: {e}")))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|e| bad(format!("this is no act: {e}")))
}

/// Delivery of a stopped service, for an operator to act on; nothing is sent by it.
///
/// # Errors
/// When the service is running, or the state directory cannot be used.
pub async fn offline(settings: &crate::config::Settings) -> Result<(Arc<Deliverer>, Store), StartError> {
    let clock: Arc<dyn rewarder_model::world::Clock> = Arc::new(crate::world::SystemClock::start());
    let entropy: Arc<dyn rewarder_model::world::Entropy> = Arc::new(crate::world::SystemEntropy);
    let deliverer = opened::deliverer_with(settings, &clock, &entropy, Arc::new(Nobody)).await?;
    let store = opened::store(settings)?;
    Ok((deliverer, store))
}

/// The ledger of a service that is stopped.
struct Nobody;

fn nobody<T>() -> Result<T, LedgerError> {
    Err(LedgerError {
        verdict: rewarder_emit::Verdict::Retry,
        retry_after: None,
        detail: "the service is stopped, nothing is sent".into(),
    })
}

impl rewarder_emit::Ledger for Nobody {
    fn submit<'a>(
        &'a self,
        _: &'a rewarder_model::Intent,
    ) -> rewarder_model::world::BoxFuture<'a, Result<rewarder_emit::Answer, LedgerError>> {
        Box::pin(async { nobody() })
    }

    fn lookup<'a>(
        &'a self,
        _: &'a rewarder_model::Cid,
    ) -> rewarder_model::world::BoxFuture<'a, Result<Option<rewarder_emit::Record>, LedgerError>> {
        Box::pin(async { nobody() })
    }

    fn probe(&self) -> rewarder_model::world::BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async { nobody() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also where a dead process has left a socket that everybody may use.
    #[tokio::test]
    async fn only_the_owner_may_speak_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let left = std::os::unix::net::UnixListener::bind(socket(dir.path())).unwrap();
        std::fs::set_permissions(socket(dir.path()), std::fs::Permissions::from_mode(0o777)).unwrap();
        drop(left);
        let _listener = bind(dir.path()).unwrap();
        let mode = std::fs::metadata(socket(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
