//! From a request to its answer.
//!
//! ```text
//! POST /intents              201 accepted, 200 dup, 409 conflict: result and the stored run_key and commitment
//! GET  /intents/{run_key}    200 the stored intent, 404
//! GET  /settlements          200 a page: ?tenant= &after=TENANT/EPOCH &limit=, `next` is the `after` of the next one
//! GET  /healthz, /metrics
//! ```
//!
//! The law: 2xx and 409 tell what is durable. 4xx other than 409 and 429 settle nothing now or later; 429 settled
//! nothing; after 5xx and silence the run key has to be asked about.

use crate::counters::{Came, Counters};
use crate::problem::{Problem, Reason};
use bytes::{Buf, Bytes};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use rewarder_emit::ledger::PAGE_MAX;
use rewarder_emit::{Answer, EmbeddedLedger, Ledger, LedgerError, Record, Verdict};
use rewarder_model::{Cid, EpochId, Intent, TenantId};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// Longest body that is read: an intent with the longest names is below 1.5 KiB; the rest is room for white space.
const BODY_BYTES_MAX: usize = 8 * 1024;
/// How long a settlement may wait for the disk before the caller is told that its outcome is not known.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);

/// The ledger and its counters, behind every connection.
#[derive(Clone)]
pub struct Protocol {
    ledger: EmbeddedLedger,
    counters: Arc<Counters>,
    body_time: Duration,
}

#[derive(Serialize)]
struct Said {
    result: &'static str,
    run_key: Cid,
    commitment: Cid,
}

#[derive(Serialize)]
struct Stored<'a> {
    result: &'static str,
    #[serde(flatten)]
    intent: &'a Intent,
}

#[derive(Serialize)]
struct Page<'a> {
    settlements: &'a [Intent],
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Protocol {
    /// The protocol before a ledger; a body has to arrive within `body_time`.
    pub fn new(ledger: EmbeddedLedger, body_time: Duration) -> Self {
        Self { ledger, counters: Arc::default(), body_time }
    }

    /// Answers a request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body + Send,
        B::Data: Buf + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path().to_owned();
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        let answered = match path.as_str() {
            "/intents" if *request.method() == Method::POST => {
                let answered = self.submit(request).await;
                self.counters.intent(came(&answered));
                answered
            }
            "/intents" => Err(method("POST")),
            "/settlements" | "/healthz" | "/metrics" if !is_get => Err(method("GET, HEAD")),
            "/settlements" => self.list(request.uri().query().unwrap_or_default()).await,
            "/healthz" => self.count().await.map(|_| text("ok\n")),
            "/metrics" => self.count().await.map(|count| text(&self.counters.text(count))),
            path => match path.strip_prefix("/intents/") {
                Some(_) if !is_get => Err(method("GET, HEAD")),
                Some(run_key) => self.lookup(run_key).await,
                None => Err(Problem::new(
                    Reason::NoRoute,
                    "there are /intents, /settlements, /healthz and /metrics",
                )),
            },
        };
        answered.unwrap_or_else(|problem| {
            tracing::debug!(status = problem.reason.status().as_u16(), detail = problem.detail, "refused");
            problem.response()
        })
    }

    async fn submit<B>(&self, request: Request<B>) -> Result<Response<Full<Bytes>>, Problem>
    where
        B: Body + Send,
        B::Data: Buf + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(Reason::MediaType, "Content-Type has to be application/json"));
        }
        let body = self.read(body).await?;
        let intent: Intent = serde_json::from_slice(&body).map_err(|e| {
            // serde's own words may quote the body.
            let detail =
                format!("line {}, column {}: no intent; contract §6 lists its members", e.line(), e.column());
            Problem::new(Reason::Schema, detail)
        })?;
        let mut keys = head.headers.get_all("idempotency-key").iter();
        let key = (keys.next(), keys.next());
        if key.0.map(HeaderValue::as_bytes) != Some(intent.run_key.to_string().as_bytes()) || key.1.is_some()
        {
            return Err(Problem::new(
                Reason::IdempotencyKey,
                "send one Idempotency-Key that is the run_key of the body",
            ));
        }
        // A task of its own: once it is read, an intent is settled also if its sender hangs up.
        let (ledger, sent) =
            (self.ledger.clone(), Record { run_key: intent.run_key, commitment: intent.commitment });
        let settling = tokio::spawn(async move { ledger.submit(&intent).await });
        let outcome = match tokio::time::timeout(SETTLE_TIME_MAX, settling).await {
            Ok(Ok(outcome)) => outcome.map_err(|error| failed(&error))?,
            Ok(Err(_)) | Err(_) => {
                tracing::error!(run_key = %sent.run_key, "a settlement did not come to its end");
                return Err(Problem::new(
                    Reason::Storage,
                    "the settlement did not come to its end; ask what became of it",
                ));
            }
        };
        let (status, result, Record { run_key, commitment }) = match outcome {
            // It is stored as it came.
            Answer::Accepted => (StatusCode::CREATED, "accepted", sent),
            Answer::Dup(record) => (StatusCode::OK, "dup", record),
            Answer::Conflict(record) => (StatusCode::CONFLICT, "conflict", record),
        };
        Ok(json(status, &Said { result, run_key, commitment }))
    }

    async fn read<B>(&self, body: B) -> Result<Bytes, Problem>
    where
        B: Body + Send,
        B::Data: Buf + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let read = tokio::time::timeout(self.body_time, Limited::new(body, BODY_BYTES_MAX).collect()).await;
        let read = read.map_err(|_| {
            Problem::new(
                Reason::BodyTimeout,
                format!("the body took longer than {} s", self.body_time.as_secs()),
            )
        })?;
        match read {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(Problem::new(Reason::BodyTooBig, format!("an intent is below {BODY_BYTES_MAX} bytes")))
            }
            Err(_) => Err(Problem::new(Reason::Schema, "the body broke off")),
        }
    }

    async fn lookup(&self, run_key: &str) -> Result<Response<Full<Bytes>>, Problem> {
        self.counters.question();
        let run_key: Cid = run_key
            .parse()
            .map_err(|_| Problem::new(Reason::Path, "a run key is b3: and 64 lowercase hex digits"))?;
        match self.blocking(move |ledger| ledger.run(&run_key)).await? {
            Some(intent) => Ok(json(StatusCode::OK, &Stored { result: "accepted", intent: &intent })),
            None => Err(Problem::new(Reason::NotSettled, "nothing was settled under this run key")),
        }
    }

    async fn list(&self, query: &str) -> Result<Response<Full<Bytes>>, Problem> {
        let (mut tenant, mut after, mut limit) = (None::<TenantId>, None::<(TenantId, EpochId)>, PAGE_MAX);
        let bad =
            |what: &str| Problem::new(Reason::Path, format!("{what}; ?tenant=T&after=TENANT/EPOCH&limit=N"));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| bad("a parameter has no value"))?;
            // The only character of these values that a client may encode is the slash between them.
            let value = value.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":");
            match name {
                "tenant" => tenant = Some(value.parse().map_err(|_| bad("this is no tenant"))?),
                "after" => {
                    let (tenant, epoch) =
                        value.split_once('/').ok_or_else(|| bad("after is TENANT/EPOCH"))?;
                    let tenant = tenant.parse().map_err(|_| bad("after is TENANT/EPOCH"))?;
                    after = Some((tenant, epoch.parse().map_err(|_| bad("after is TENANT/EPOCH"))?));
                }
                "limit" => {
                    let number = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                    limit = number.ok_or_else(|| bad(&format!("limit is a number from 1 to {PAGE_MAX}")))?;
                }
                _ => return Err(bad("unknown parameter")),
            }
        }
        let page = self
            .blocking(move |ledger| {
                let after = after.as_ref().map(|(tenant, epoch)| (tenant, epoch));
                ledger.page(tenant.as_ref(), after, limit)
            })
            .await?;
        // A full page may be the last one; then the next is empty.
        let last = page.last().filter(|_| page.len() == limit);
        let next = last.map(|intent| format!("{}/{}", intent.tenant, intent.epoch_id));
        Ok(json(StatusCode::OK, &Page { settlements: &page, next }))
    }

    async fn count(&self) -> Result<u64, Problem> {
        self.blocking(EmbeddedLedger::count).await
    }

    /// redb reads from the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&EmbeddedLedger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, Problem> {
        let ledger = self.ledger.clone();
        let done = tokio::task::spawn_blocking(move || work(&ledger)).await;
        done.unwrap_or_else(|_| Err(died())).map_err(|error| failed(&error))
    }
}

fn died() -> LedgerError {
    LedgerError { verdict: Verdict::Unknown, retry_after: None, detail: "the reading thread died".into() }
}

fn failed(error: &LedgerError) -> Problem {
    match (error.verdict, error.retry_after) {
        (Verdict::Refused, _) => Problem::new(Reason::RunKeyElsewhere, error.detail.clone()),
        (Verdict::Retry, Some(_)) => Problem::new(Reason::Busy, error.detail.clone()),
        (Verdict::Retry | Verdict::Unknown, _) => {
            tracing::error!(detail = error.detail, "the disk failed");
            Problem::new(Reason::Storage, "the disk failed; the ledger's log says how")
        }
    }
}

fn came(answered: &Result<Response<Full<Bytes>>, Problem>) -> Came {
    match answered {
        Ok(response) => match response.status() {
            StatusCode::CREATED => Came::Accepted,
            StatusCode::OK => Came::Dup,
            _ => Came::Conflict,
        },
        Err(problem) if matches!(problem.reason, Reason::Busy | Reason::Storage | Reason::BodyTimeout) => {
            Came::Failed
        }
        Err(_) => Came::Refused,
    }
}

fn method(allow: &'static str) -> Problem {
    Problem { allow, ..Problem::new(Reason::Method, format!("this address takes {allow}")) }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // What becomes of money is not asked of a cache.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.to_owned().into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}
