//! A client for the service: one base URL, one capability, patience with 429 and 503 that has an end.

use crate::failure::Failure;
use crate::tls::TlsArgs;
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rewarder_model::Reason;
use serde_json::Value;
use std::error::Error;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use svc_rewarder::run::exit;

/// The body of every request.
pub type Body = BoxBody<Bytes, io::Error>;

/// Time for a connection. A service that is there answers within milliseconds.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Time from the end of a request to the head of its answer: far above any sensible `REQUEST_DEADLINE_MS`.
const ANSWER_MAX: Duration = Duration::from_secs(600);
/// Largest answer that is held in memory. An epoch's document has some kilobytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How often a request is tried again after 429 or 503.
const RETRIES_MAX: u32 = 5;
/// A longer `Retry-After` than this is not waited for: a person or a scheduler decides then.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// The capability of a request. A file keeps it out of the process list.
#[derive(Args)]
pub struct TokenArgs {
    /// The capability
    #[arg(long)]
    token: Option<String>,
    /// A file that holds it; without either, the environment's RON_TOKEN
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// The token, from flag, file or environment.
    pub fn read(&self) -> Result<String, Failure> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(path)) => {
                let bytes = crate::offline::read_small(path, 64 * 1024).map_err(|e| {
                    Failure::refused(format!("the token file {} cannot be read: {e}", path.display()))
                })?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            (None, None) => std::env::var("RON_TOKEN").ok(),
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        token.ok_or_else(|| {
            Failure::refused(
                "there is no capability: give --token-file F, --token T or RON_TOKEN (`ronctl cap mint`)",
            )
        })
    }
}

/// The service.
pub struct Service {
    base: String,
    token: Option<HeaderValue>,
    client: Client<HttpsConnector<HttpConnector>, Body>,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A body that is there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A runtime on this thread: a command has one thing to wait for.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|e| Failure::new(format!("the async runtime cannot be started: {e}")))
}

/// A path segment, percent-encoded (RFC 3986).
pub fn segment(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// An error and what caused it, each once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let says = inner.to_string();
        if !text.contains(&says) {
            let _ = write!(text, ": {says}");
        }
        cause = inner.source();
    }
    text
}

impl Service {
    /// The service at a base URL.
    pub fn new(url: &str, token: Option<&str>, tls: &TlsArgs) -> Result<Self, Failure> {
        let wrong = |what: &str| Failure::refused(format!("--url {}: {what}", url.escape_debug()));
        let form = "it has to be http://HOST:PORT or https://HOST:PORT";
        let uri: Uri = url.parse().map_err(|_| wrong(form))?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let is_https = uri.scheme_str() == Some("https");
        if !(is_https || uri.scheme_str() == Some("http")) || authority.is_none() || uri.query().is_some() {
            return Err(wrong(form));
        }
        if let Some(flag) = tls.given().filter(|_| !is_https) {
            return Err(wrong(&format!(
                "{flag} is for https:// only; nothing of it would hold for this URL"
            )));
        }
        let token = match token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose() {
            Ok(token) => token.map(|mut token| {
                token.set_sensitive(true);
                token
            }),
            Err(_) => return Err(Failure::refused("the token holds characters that no token has")),
        };
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        // For http:// nothing is read: a machine without root certificates can still speak to itself.
        let config = if is_https { tls.config()? } else { TlsArgs::nobody()? };
        let connector = HttpsConnectorBuilder::new().with_tls_config(config);
        let connector = if is_https { connector.https_only() } else { connector.https_or_http() };
        let connector = connector.enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base: url.trim_end_matches('/').to_owned(), token, client })
    }

    /// Begins a request.
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let mut builder = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            builder = builder.header(AUTHORIZATION, token);
        }
        builder
    }

    /// Sends a request and gives the answer's head, its body unread.
    pub async fn open(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let failed = |what: String| Failure::new(format!("{method} {}{path}: {what}", self.base));
        match tokio::time::timeout(ANSWER_MAX, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) if e.is_connect() => {
                Err(failed(format!("no connection ({}); is the service there, and --url right?", chain(&e))))
            }
            Ok(Err(e)) => Err(failed(chain(&e))),
            Err(_) => Err(failed(format!("no answer within {} s", ANSWER_MAX.as_secs()))),
        }
    }

    /// Sends what `make` makes and reads the answer; again after 429 and 503, as `Retry-After` says, a few times.
    pub async fn send(&self, make: impl Fn() -> http::Result<Request<Body>>) -> Result<Answer, Failure> {
        let mut tried = 0;
        loop {
            let request = make().map_err(|e| Failure::new(format!("no request can be made of this: {e}")))?;
            let answer = read(self.open(request).await?).await?;
            if !matches!(answer.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                return Ok(answer);
            }
            let after = answer.retry_after();
            if tried == RETRIES_MAX || after > RETRY_AFTER_MAX {
                return Ok(answer);
            }
            tried += 1;
            let (status, reason) = (answer.status.as_u16(), answer.reason_word());
            eprintln!("ronctl: {status} {reason}; again in {} s ({tried} of {RETRIES_MAX})", after.as_secs());
            tokio::time::sleep(after).await;
        }
    }

    /// A GET with an `Accept`.
    pub async fn get(&self, path: &str, accept: &str) -> Result<Answer, Failure> {
        self.send(|| self.request("GET", path).header(http::header::ACCEPT, accept).body(full(""))).await
    }
}

/// Reads an answer to its end.
pub async fn read(response: Response<Incoming>) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body =
        collected.map_err(|e| Failure::new(format!("the answer broke off: {}", chain(&*e))))?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

impl Answer {
    /// `Retry-After`, or a second.
    pub fn retry_after(&self) -> Duration {
        let seconds = self.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Duration::from_secs(seconds.unwrap_or(1).max(1))
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn reason_word(&self) -> String {
        crate::say::words(self.json()["reason"].as_str().unwrap_or(""))
    }

    /// The reason of a problem.
    pub fn reason(&self) -> Option<Reason> {
        let word = self.reason_word();
        Reason::ALL.iter().copied().find(|reason| reason.as_str() == word)
    }

    /// The failure that this answer is.
    pub fn failure(&self) -> Failure {
        let problem = self.json();
        let code = match self.reason() {
            Some(reason) => exit::of(reason),
            None if self.status.is_client_error() => exit::REFUSED,
            None => exit::FAILED,
        };
        let word = |name: &str| crate::say::words(problem[name].as_str().unwrap_or(""));
        if problem["reason"].is_null() {
            let message = format!("the service answered {}, and not with a problem of its own", self.status);
            return Failure::with(code, message);
        }
        let (title, reason, detail, corr_id) =
            (word("title"), word("reason"), word("detail"), word("corr_id"));
        Failure::problem(code, format!("{title}\n  {reason}: {detail} (corr_id {corr_id})"), problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        assert_eq!(segment("a-b._~Z9"), "a-b._~Z9");
        assert_eq!(segment("@x/y é"), "%40x%2Fy%20%C3%A9");
    }

    #[tokio::test]
    async fn urls() {
        let open = |url| Service::new(url, None, &TlsArgs::default());
        for good in ["http://127.0.0.1:8080", "http://h/", "http://[::1]:1/prefix"] {
            assert!(open(good).is_ok(), "{good}");
        }
        for bad in ["h:8080", "ftp://h", "http://u:p@h", "https://u:p@h", "", "http://h?x"] {
            assert!(open(bad).is_err(), "{bad}");
        }
        let tls = TlsArgs { ca: Some("ca.pem".into()), ..TlsArgs::default() };
        let refused = Service::new("http://h", None, &tls).err().unwrap();
        assert!(format!("{refused:?}").contains("--ca is for https:// only"), "{refused:?}");
    }
}
