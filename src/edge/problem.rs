//! RFC 9457 problems: what every refusal looks like on the wire.

use super::{Body, full};
use crate::refusal::Refusal;
use crate::telemetry::REJECTED_TOTAL;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use rewarder_model::Reason;
use schemars::JsonSchema;
use serde::Serialize;

/// Seconds to wait where nobody knows better.
const RETRY_AFTER_SECONDS: u64 = 1;

/// `application/problem+json`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Problem<'a> {
    #[schemars(pattern("^urn:svc-rewarder:problem:[a-z_]+$"))]
    r#type: String,
    title: &'static str,
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    detail: &'a str,
    #[schemars(with = "Reason")]
    reason: &'static str,
    corr_id: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cap_timeout: bool,
    #[serde(skip)]
    retry_after: Option<u64>,
    #[serde(skip)]
    kind: Reason,
}

impl<'a> Problem<'a> {
    /// A refusal, told to one caller.
    pub fn of(refusal: &'a Refusal, corr_id: &'a str) -> Self {
        let reason = refusal.reason;
        let asked = refusal.retry_after.map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0));
        Self {
            r#type: format!("urn:svc-rewarder:problem:{reason}"),
            title: reason.title(),
            status: reason.status(),
            detail: &refusal.detail,
            reason: reason.as_str(),
            corr_id,
            cap_timeout: reason == Reason::CapTimeout,
            retry_after: reason.is_retryable().then(|| asked.unwrap_or(RETRY_AFTER_SECONDS).max(1)),
            kind: reason,
        }
    }

    /// The JSON, as `run --json` prints it.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The same with a status of HTTP's own, where HTTP has a closer one than the contract.
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status: status.as_u16(), ..self }
    }

    /// Counts it as a refusal, and logs it.
    pub fn count(&self) {
        metrics::counter!(REJECTED_TOTAL, "reason" => self.reason).increment(1);
        let (corr_id, reason, status, detail) = (self.corr_id, self.reason, self.status, self.detail);
        // Of a fault of ours, or of room that is not there, an operator wants to know without having asked for it.
        if status >= 500 {
            tracing::warn!(corr_id, reason, status, detail, "refused");
        } else {
            tracing::info!(corr_id, reason, status, detail, "refused");
        }
    }

    /// The response; counts as a refusal.
    pub fn response(&self) -> Response<Body> {
        self.count();
        let mut response = Response::new(full(self.to_json()));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Reason::Unauth {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.kind == Reason::Method
            && let Some(method) = self.detail.rsplit(' ').next()
            // Whoever answers GET answers HEAD.
            && let Ok(methods) = HeaderValue::from_str(if method == "GET" { "GET, HEAD" } else { method })
        {
            headers.insert(ALLOW, methods);
        }
        response
    }
}
