//! `metrics_addr`: metrics, health, readiness, events.

use super::{Body, Upload, bytes_response, json};
use crate::bus::Stamped;
use crate::health::Cause;
use crate::service::Service;
use crate::telemetry::Process;
use bytes::Bytes;
use futures::stream;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use metrics_exporter_prometheus::PrometheusHandle;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// Seconds after which to ask again whether the service is ready.
const RETRY_AFTER_SECONDS: u64 = 1;

/// What the operators' port needs.
#[derive(Clone)]
pub struct Admin {
    /// The service.
    pub service: Arc<Service>,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// What the process costs.
    pub process: Process,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Readiness {
    degraded: bool,
    missing: Vec<&'static str>,
    cause: &'static str,
    retry_after: u64,
}

/// Answers one request.
pub async fn answer(admin: Admin, request: Request<Upload>) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            admin.metrics.run_upkeep();
            admin.service.show_store();
            bytes_response("text/plain; version=0.0.4; charset=utf-8", admin.process.render(&admin.metrics))
        }
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" => readiness(&admin.service),
        "/events" => events(&admin.service, request.uri().query()),
        _ => plain(StatusCode::NOT_FOUND, "here are /metrics, /healthz, /readyz and /events?topic=\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = bytes_response("text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
}

fn readiness(service: &Service) -> Response<Body> {
    // Before the first word over the bus nothing is known.
    let missing = service.health.heard().unwrap_or_else(|| vec![Cause::Bus.as_str()]);
    let ready = missing.is_empty();
    let cause = missing.first().copied().unwrap_or("");
    let body = Readiness {
        degraded: !ready,
        cause,
        missing,
        retry_after: if ready { 0 } else { RETRY_AFTER_SECONDS },
    };
    if ready {
        return json(StatusCode::OK, &body);
    }
    let mut response = json(StatusCode::SERVICE_UNAVAILABLE, &body);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}

/// Server-sent events of the bus (WHATWG HTML §9.2), of one topic or of all.
fn events(service: &Service, query: Option<&str>) -> Response<Body> {
    let mut topic = None;
    for part in query.unwrap_or("").split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("topic", name @ ("kernel" | "svc-rewarder"))) => topic = Some(name.to_owned()),
            _ => return plain(StatusCode::BAD_REQUEST, "the query is topic=kernel or topic=svc-rewarder\n"),
        }
    }
    let subscription = service.bus().subscribe();
    let stream = stream::unfold((subscription, topic), |(mut subscription, topic)| async move {
        loop {
            let text = match subscription.next().await? {
                Ok(event) if topic.as_deref().is_none_or(|topic| topic == event.topic.as_str()) => {
                    sse(&event)
                }
                Ok(_) => continue,
                Err(lost) => format!(": {lost} events were lost, this reader is too slow\n\n"),
            };
            return Some((Ok(Frame::data(Bytes::from(text))), (subscription, topic)));
        }
    });
    // A first comment, so that a client knows that it listens.
    let hello = stream::once(async { Ok(Frame::data(Bytes::from_static(b": listening\n\n"))) });
    let mut response = Response::new(Body::stream(StreamBody::new(futures::StreamExt::chain(hello, stream))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn sse(event: &Stamped) -> String {
    format!("event: {}\ndata: {}\n\n", event.topic.as_str(), serde_json::to_string(event).unwrap_or_default())
}
