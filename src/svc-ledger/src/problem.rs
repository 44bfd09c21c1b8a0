//! RFC 9457 problems, with the member `reason` as everywhere in the contract.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// Seconds that a ledger with too much to do asks for.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The body is not an intent.
    Schema,
    /// The path holds no run key, or the query no listing.
    Path,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body is longer than any intent.
    BodyTooBig,
    /// The body is no JSON by its own account.
    MediaType,
    /// `Idempotency-Key` is missing, or is not the run key.
    IdempotencyKey,
    /// The run key is settled under another tenant or epoch.
    RunKeyElsewhere,
    /// Nothing was settled under this run key.
    NotSettled,
    /// No such route.
    NoRoute,
    /// The route has other methods.
    Method,
    /// Too many wait for the disk; nothing was settled.
    Busy,
    /// The disk failed; whether it was settled is not known.
    Storage,
}

impl Reason {
    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Schema => (400, "schema", "The body is not an intent"),
            Self::Path => (400, "path", "The address cannot be read"),
            Self::BodyTimeout => (408, "body_timeout", "The body did not arrive in time"),
            Self::BodyTooBig => (413, "body_too_big", "The body is longer than any intent"),
            Self::MediaType => (415, "media_type", "The body has to be application/json"),
            Self::IdempotencyKey => (422, "idempotency_key", "Idempotency-Key has to be the run key"),
            Self::RunKeyElsewhere => (422, "run_key_elsewhere", "The run key stands under another epoch"),
            Self::NotSettled => (404, "not_settled", "Nothing was settled under this run key"),
            Self::NoRoute => (404, "no_route", "There is nothing at this address"),
            Self::Method => (405, "method", "The address has other methods"),
            Self::Busy => (429, "busy", "Too many intents wait"),
            Self::Storage => (503, "storage", "The ledger cannot use its disk"),
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match StatusCode::from_u16(self.row().0) {
            Ok(status) => status,
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal: why, and for people what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which.
    pub reason: Reason,
    /// Echoes no payload.
    pub detail: String,
    /// For [`Reason::Method`].
    pub allow: &'static str,
}

#[derive(Serialize)]
struct Form<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    reason: &'static str,
}

impl Problem {
    /// A refusal.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), allow: "" }
    }

    /// Its response.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let (status, reason, title) = self.reason.row();
        let r#type = format!("urn:svc-ledger:problem:{reason}");
        let form = Form { r#type, title, status, detail: &self.detail, reason };
        let mut response = Response::new(Full::new(serde_json::to_vec(&form).unwrap_or_default().into()));
        *response.status_mut() = self.reason.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self.reason, Reason::Busy | Reason::Storage) {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        if !self.allow.is_empty() {
            headers.insert(ALLOW, HeaderValue::from_static(self.allow));
        }
        response
    }
}
