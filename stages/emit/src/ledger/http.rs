//! `svc-ledger` over HTTP (contract §6, ledger protocol).
//!
//! The law: an answer counts only if it carries what it must. What was settled is known from a 201, 200 or
//! 409 whose body names the run; anything else that came after the request left is *unknown*. Only a
//! connection that was never made, and a 429, are known to have settled nothing.
//!
//! ```text
//! 201 {"result":"accepted"…}, or nothing that contradicts   accepted
//! 200 {"result":"dup","run_key":…,"commitment":…}           dup
//! 409 {"result":"conflict","run_key":…,"commitment":…}      conflict
//! other 4xx                                                 refused for good
//! 429                                                       retry, after Retry-After
//! 5xx, anything else, no answer, a garbled body             unknown, after Retry-After
//! ```
//!
//! There is no timer in here: whoever calls bounds the wait and drops the future, which closes the connection. A clock is
//! read for one thing, a `Retry-After` that is a date in an answer without a `Date`: otherwise the ledger's own clock says how
//! long that is, which need not agree with ours.
//! Connections are kept and used again. No TLS yet, and no redirects: money does not follow a stranger's
//! address.

use super::{Answer, Ledger, LedgerError, Record, Verdict};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rewarder_model::world::{BoxFuture, Clock};
use rewarder_model::{Cid, Intent};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Largest answer that is read: a stored intent is below 1 KiB, and a proxy's error page rarely tells more.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest patience that is believed; an hour-long Retry-After is for people.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Idle connections kept: as many as emissions run at once where the stage `emit` was made eight times as wide. With fewer,
/// a wide stage would open and close one for each emission.
const IDLE_CONNECTIONS_MAX: usize = 256;

/// A client of one `svc-ledger`.
#[derive(Clone)]
pub struct HttpLedger {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    clock: Option<Arc<dyn Clock>>,
}

/// The members of an answer that are read; a ledger may say more.
#[derive(Deserialize, Default)]
struct Said {
    #[serde(alias = "status")]
    result: Option<String>,
    run_key: Option<Cid>,
    commitment: Option<Cid>,
}

impl Said {
    /// The stored run, if the body names it and calls it by the right word, or by none.
    fn record(&self, word: &str) -> Option<Record> {
        let fits = self.result.as_deref().is_none_or(|result| result == word);
        Some(Record { run_key: self.run_key?, commitment: self.commitment? }).filter(|_| fits)
    }
}

struct Reply {
    status: StatusCode,
    retry_after: Option<Duration>,
    said: Option<Said>,
}

impl Reply {
    fn error(&self, verdict: Verdict, what: &str) -> LedgerError {
        let detail = format!("the ledger answered {} {what}", self.status.as_u16());
        LedgerError { verdict, retry_after: self.retry_after, detail }
    }
}

impl HttpLedger {
    /// A client of the ledger at `base`, as [`LedgerUrl::Http`](super::LedgerUrl::Http) holds it.
    pub fn new(base: &str) -> Self {
        let mut connector = HttpConnector::new();
        // An intent is one small packet that somebody waits for.
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Self { client, base: base.trim_end_matches('/').to_owned(), clock: None }
    }

    /// With a clock for dates that come without the ledger's.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> Result<Reply, LedgerError> {
        let response = self.client.request(request).await.map_err(|error| {
            if error.is_connect() {
                LedgerError::new(Verdict::Retry, "the ledger cannot be reached")
            } else {
                LedgerError::new(Verdict::Unknown, "the connection broke before the ledger answered")
            }
        })?;
        let (head, body) = response.into_parts();
        let now = || self.clock.as_ref().map(|clock| clock.unix());
        let retry_after = head.headers.get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| patience(value, head.headers.get(header::DATE), now));
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let said = body.ok().and_then(|body| match body.to_bytes() {
            nothing if nothing.is_empty() => Some(Said::default()),
            bytes => serde_json::from_slice(&bytes).ok(),
        });
        Ok(Reply { status: head.status, retry_after, said })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        run_key: Option<&Cid>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, LedgerError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(run_key) = run_key {
            request = request
                .header("idempotency-key", run_key.to_string())
                .header(header::CONTENT_TYPE, "application/json");
        }
        request
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|_| LedgerError::new(Verdict::Refused, "the ledger's url makes no request"))
    }

    async fn submit(&self, intent: &Intent) -> Result<Answer, LedgerError> {
        let body = serde_json::to_vec(intent)
            .map_err(|_| LedgerError::new(Verdict::Refused, "the intent cannot be written as JSON"))?;
        let reply =
            self.call(self.request(Method::POST, "/intents", Some(&intent.run_key), body.into())?).await?;
        read_answer(&reply, intent)
    }

    async fn ask(&self, run_key: &Cid) -> Result<Reply, LedgerError> {
        let path = format!("/intents/{run_key}");
        self.call(self.request(Method::GET, &path, None, Bytes::new())?).await
    }

    /// A ledger that does not know the question is there all the same.
    async fn probe(&self) -> Result<(), LedgerError> {
        let reply = self.ask(&Cid::of(b"svc-rewarder|probe")).await?;
        match reply.status {
            StatusCode::OK
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => Ok(()),
            _ => Err(reply.error(Verdict::Retry, "when it was asked whether it is there")),
        }
    }

    async fn lookup(&self, run_key: &Cid) -> Result<Option<Record>, LedgerError> {
        let reply = self.ask(run_key).await?;
        match reply.status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => {
                let said = reply.said.as_ref();
                let record =
                    said.and_then(|s| Some(Record { run_key: s.run_key?, commitment: s.commitment? }));
                let record = record.filter(|record| record.run_key == *run_key);
                record
                    .map(Some)
                    .ok_or_else(|| reply.error(Verdict::Unknown, "without the record that was asked for"))
            }
            // A question settles nothing, so that it can always be asked again.
            _ => Err(reply.error(Verdict::Retry, "when it was asked what became of an intent")),
        }
    }
}

/// Reads what a ledger said to an intent.
fn read_answer(reply: &Reply, intent: &Intent) -> Result<Answer, LedgerError> {
    let ours = Record { run_key: intent.run_key, commitment: intent.commitment };
    let garbled = || reply.error(Verdict::Unknown, "without what such an answer must carry");
    let said = reply.said.as_ref();
    match reply.status.as_u16() {
        201 => {
            let said = said.ok_or_else(garbled)?;
            let other = said.result.as_deref().is_some_and(|word| word != "accepted")
                || said.run_key.is_some_and(|key| key != ours.run_key)
                || said.commitment.is_some_and(|commitment| commitment != ours.commitment);
            if other { Err(garbled()) } else { Ok(Answer::Accepted) }
        }
        200 => said.and_then(|said| said.record("dup")).map(Answer::Dup).ok_or_else(garbled),
        409 => said.and_then(|said| said.record("conflict")).map(Answer::Conflict).ok_or_else(garbled),
        429 => Err(reply.error(Verdict::Retry, "and asks for patience")),
        400..500 => Err(reply.error(Verdict::Refused, "to an intent")),
        _ => Err(reply.error(Verdict::Unknown, "to an intent")),
    }
}

/// `Retry-After`, in seconds or as a date, which is counted from the answer's own `Date` or from `now`.
fn patience(
    value: &HeaderValue,
    date: Option<&HeaderValue>,
    now: impl FnOnce() -> Option<Duration>,
) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let patience = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => unix(value)?.saturating_sub(date.and_then(unix).or_else(now)?),
    };
    Some(patience.min(RETRY_AFTER_MAX))
}

/// The time that a header says, since 1970.
fn unix(value: &HeaderValue) -> Option<Duration> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()?.duration_since(UNIX_EPOCH).ok()
}

impl Ledger for HttpLedger {
    fn submit<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Answer, LedgerError>> {
        Box::pin(self.submit(intent))
    }

    fn lookup<'a>(&'a self, run_key: &'a Cid) -> BoxFuture<'a, Result<Option<Record>, LedgerError>> {
        Box::pin(self.lookup(run_key))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(self.probe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::intent;

    #[test]
    fn answers_are_read_strictly() {
        let ours = intent(1);
        let (key, commitment, other) = (ours.run_key, ours.commitment, Cid::of(b"other"));
        let check = |status: u16, body: String, expect: Result<Answer, Verdict>| {
            let said = serde_json::from_str(&body).ok();
            let reply = Reply { status: StatusCode::from_u16(status).unwrap(), retry_after: None, said };
            assert_eq!(read_answer(&reply, &ours).map_err(|error| error.verdict), expect, "{status} {body}");
        };
        let unknown = || Err(Verdict::Unknown);
        let body = |result: &str, key: &Cid, commitment: &Cid| {
            format!(r#"{{"result":"{result}","run_key":"{key}","commitment":"{commitment}","more":1}}"#)
        };
        check(201, r#"{"result":"accepted"}"#.into(), Ok(Answer::Accepted));
        check(201, r#"{"status":"accepted"}"#.into(), Ok(Answer::Accepted));
        check(201, body("accepted", &key, &commitment), Ok(Answer::Accepted));
        check(201, format!(r#"{{"run_key":"{key}","commitment":"{commitment}"}}"#), Ok(Answer::Accepted));
        for garbled in ["<html>", r#"{"result":"dup"}"#, r#"{"result":"accepted""#, "[]", r#"{"run_key":7}"#]
        {
            for status in [201, 200, 409, 204, 302, 500] {
                check(status, garbled.into(), unknown());
            }
        }
        // The status says it, and nothing contradicts.
        check(201, "{}".into(), Ok(Answer::Accepted));
        for status in [200, 409, 204, 302, 500] {
            check(status, "{}".into(), unknown());
        }
        check(201, body("accepted", &other, &commitment), unknown());
        check(201, body("accepted", &key, &other), unknown());
        check(201, body("dup", &key, &commitment), unknown());
        check(200, body("dup", &key, &commitment), Ok(Answer::Dup(Record { run_key: key, commitment })));
        check(200, body("dup", &key, &other), Ok(Answer::Dup(Record { run_key: key, commitment: other })));
        check(200, body("accepted", &key, &commitment), unknown());
        check(200, r#"{"result":"dup"}"#.into(), unknown());
        check(
            409,
            body("conflict", &other, &other),
            Ok(Answer::Conflict(Record { run_key: other, commitment: other })),
        );
        check(429, String::new(), Err(Verdict::Retry));
        for (status, verdict) in [
            (400, Verdict::Refused),
            (404, Verdict::Refused),
            (408, Verdict::Refused),
            (503, Verdict::Unknown),
        ] {
            check(status, body("accepted", &key, &commitment), Err(verdict));
        }
    }

    #[test]
    fn patience_is_bounded_and_told_in_seconds_or_as_a_date() {
        let header = HeaderValue::from_static;
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let date = header("Wed, 21 Oct 2026 07:28:00 GMT");
        let ours = || Some(Duration::from_secs(1_792_567_600));
        let check =
            |text: &'static str, date: Option<&HeaderValue>, now: fn() -> Option<Duration>, expect| {
                assert_eq!(patience(&header(text), date, now), expect, "{text}");
            };
        check("2", None, || None, seconds(2));
        check(" 120 ", None, || None, seconds(120));
        check("99999999999", None, || None, Some(RETRY_AFTER_MAX));
        // Each of the three forms that a date may have, by the ledger's clock.
        check("Wed, 21 Oct 2026 07:28:05 GMT", Some(&date), || None, seconds(5));
        check("Wednesday, 21-Oct-26 07:29:00 GMT", Some(&date), || None, seconds(60));
        check("Wed Oct 21 07:28:01 2026", Some(&date), ours, seconds(1));
        check("Thu, 22 Oct 2026 07:28:00 GMT", Some(&date), || None, Some(RETRY_AFTER_MAX));
        check("Wed, 21 Oct 2026 07:27:00 GMT", Some(&date), || None, seconds(0));
        // By ours, where the ledger has not said its own.
        check("Wed, 21 Oct 2026 07:28:05 GMT", None, || Some(Duration::from_secs(1_792_567_683)), seconds(2));
        check("Wed, 21 Oct 2026 07:28:05 GMT", Some(&header("yesterday")), ours, seconds(85));
        check("Wed, 21 Oct 2026 07:28:05 GMT", None, || None, None);
        for wrong in ["-1", "1.5", "soon", "", "Wed, 32 Oct 2026 07:28:00 GMT"] {
            check(wrong, Some(&date), ours, None);
        }
    }
}
