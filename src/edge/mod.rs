//! The edge: HTTP in, HTTP out. It knows the routes of contract §6 and how a refusal becomes a problem; what a job is, it
//! leaves to the service.
//!
//! HTTP/1.1 and HTTP/2, over TLS 1.3 if there is a certificate ([`tls`], [`connection`]). The head of a request has to arrive
//! within `READ_TIMEOUT_MS`, which also bounds idle keep-alive; each part of a body has the same time again, and all of it has
//! a least rate.

pub mod admin;
mod allocations;
mod body;
mod closed;
mod compute;
mod connection;
pub mod contract;
mod corr;
mod epochs;
mod frames;
mod garbled;
#[doc(hidden)]
pub mod hostile;
mod outgoing;
mod pace;
mod places;
mod problem;
mod rate;
mod responses;
mod seal;
mod serve;
mod tls;
mod upload;

pub use closed::{CLOSED_TOTAL, count_nothing_closed};
pub use corr::CorrId;
pub use outgoing::Body;
pub use places::Impatient;
pub use problem::Problem;
pub use responses::{RESPONSES_TOTAL, count_nothing_answered};
pub use serve::{Bound, run};
pub use tls::{certificates, check_tls};
pub use upload::Upload;

use crate::refusal::Refusal;
use crate::service::Service;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use rewarder_admit::{Inside, Pass, Scope, Standing, Wish};
use rewarder_model::world::BoxFuture;
use rewarder_model::{EpochId, Reason};
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

type Result<T> = std::result::Result<T, Refusal>;

/// Parts of a path that are told apart: those of the longest route, and one more.
const SEGMENTS_MAX: usize = 6;

/// The header that carries the correlation id.
pub const CORR_ID: HeaderName = HeaderName::from_static("x-corr-id");

/// The routes of contract §6: method, path, and the scope that it needs. A test compares this with the contract.
pub const ROUTES: &[(Method, &str, Option<Scope>)] = &[
    (Method::PUT, "/rewarder/snapshots/{cid}", Some(Scope::Seal)),
    (Method::PUT, "/rewarder/policies/{cid}", Some(Scope::Policy)),
    (Method::POST, "/rewarder/epochs/{epoch_id}/compute", Some(Scope::Run)),
    (Method::GET, "/rewarder/epochs/{epoch_id}", Some(Scope::Inspect)),
    (Method::GET, "/rewarder/epochs/{epoch_id}/allocations", Some(Scope::Inspect)),
    (Method::GET, "/rewarder/epochs/{epoch_id}/allocations/{actor}", Some(Scope::Inspect)),
    (Method::GET, "/rewarder/policy/{policy_id}", Some(Scope::Inspect)),
    (Method::GET, "/version", None),
    (Method::GET, "/openapi.json", None),
    (Method::GET, "/schema/compute.json", None),
];

/// One request on its way through the edge.
pub struct Context {
    /// The service.
    pub service: Arc<Service>,
    /// Names this request.
    pub corr_id: CorrId,
    /// The request, its body unread.
    pub request: Request<Upload>,
    /// Where its tenant stands, once that is known.
    standing: Arc<OnceLock<Standing>>,
    /// The place that it holds if it only looks.
    place: OnceLock<Inside>,
}

/// Answers one request; every refusal becomes a problem here. Boxed once, so that it is not moved again and again by those
/// who wrap it.
pub fn answer(service: Arc<Service>, request: Request<Upload>) -> BoxFuture<'static, Response<Body>> {
    Box::pin(answered(service, request))
}

async fn answered(service: Arc<Service>, request: Request<Upload>) -> Response<Body> {
    let corr_id = CorrId::of(&request);
    let leaving = service.is_leaving();
    let is_head = request.method() == Method::HEAD;
    let standing = Arc::default();
    let context = Context {
        service,
        corr_id: corr_id.clone(),
        request,
        standing: Arc::clone(&standing),
        place: OnceLock::new(),
    };
    let mut response = match route(context).await {
        Ok(response) => response,
        Err(refusal) => Problem::of(&refusal, corr_id.as_str()).response(),
    };
    response.headers_mut().insert(CORR_ID, corr_id.into_value());
    if leaving {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(standing) = standing.get() {
        rate::tell(response.headers_mut(), standing);
    }
    responses::count(response.status());
    if is_head { outgoing::without_body(response) } else { response }
}

/// Refuses a request whose host two readers could read in two ways (RFC 9112 §3.2): a proxy before us may have let it in
/// under the other name. Lengths that contradict each other never come here: hyper refuses them and closes.
fn one_host<B>(request: &Request<B>) -> Result<()> {
    let mut hosts = request.headers().get_all(http::header::HOST).into_iter();
    let (host, second) = (hosts.next(), hosts.next());
    let named = request.uri().authority().map(http::uri::Authority::as_str);
    let agree = match (host.map(|host| host.to_str().ok()), named) {
        (Some(None), _) => false,
        (Some(Some(host)), Some(named)) => host.eq_ignore_ascii_case(named),
        (Some(Some(_)), None) | (None, Some(_)) => true,
        (None, None) => request.version() < http::Version::HTTP_11,
    };
    if agree && second.is_none() {
        return Ok(());
    }
    Err(Refusal::new(Reason::Schema, "a request names its host once, and a full URL names the same one"))
}

/// Finds the handler. Unknown paths and methods are refused before anything else is looked at.
///
/// All handlers but the one for computes are boxed: a future is as large as the largest that it may hold, and is moved on
/// its way to the connection.
async fn route(context: Context) -> Result<Response<Body>> {
    one_host(&context.request)?;
    // A clone of the URI shares its bytes, so that the parts outlive the request that the handlers take apart.
    let uri = context.request.uri().clone();
    let path = uri.path();
    let mut segments = [""; SEGMENTS_MAX];
    let mut count = 0;
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        // One more than any route has finds no route.
        if count < SEGMENTS_MAX {
            segments[count] = segment;
            count += 1;
        }
    }
    let method = context.request.method().clone();
    let get = method == Method::GET || method == Method::HEAD;
    let allow = |good: bool, allowed: &'static str| {
        if good {
            return Ok(());
        }
        Err(Refusal::new(Reason::Method, format!("this route answers {allowed}")))
    };
    match segments[..count] {
        ["rewarder", "snapshots", cid] => {
            allow(method == Method::PUT, "PUT")?;
            Box::pin(seal::snapshot(context, cid)).await
        }
        ["rewarder", "policies", cid] => {
            allow(method == Method::PUT, "PUT")?;
            Box::pin(seal::policy(context, cid)).await
        }
        ["rewarder", "epochs", epoch, "compute"] => {
            allow(method == Method::POST, "POST")?;
            compute::compute(context, epoch).await
        }
        ["rewarder", "epochs", epoch] => {
            allow(get, "GET")?;
            Box::pin(epochs::epoch(context, epoch)).await
        }
        ["rewarder", "epochs", epoch, "allocations"] => {
            allow(get, "GET")?;
            Box::pin(allocations::table(context, epoch)).await
        }
        ["rewarder", "epochs", epoch, "allocations", actor] => {
            allow(get, "GET")?;
            Box::pin(allocations::actor(context, epoch, actor)).await
        }
        ["rewarder", "policy", id] => {
            allow(get, "GET")?;
            Box::pin(epochs::policy(context, id)).await
        }
        ["version"] => {
            allow(get, "GET")?;
            Ok(json(StatusCode::OK, &version()))
        }
        ["openapi.json"] => {
            allow(get, "GET")?;
            Ok(bytes_response("application/json", contract::OPENAPI))
        }
        ["schema", "compute.json"] => {
            allow(get, "GET")?;
            Ok(bytes_response("application/schema+json", contract::COMPUTE))
        }
        _ => Err(Refusal::new(Reason::NotFound, "there is no route of this path; /openapi.json lists them")),
    }
}

/// What this program is.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Version {
    name: &'static str,
    version: &'static str,
    kernel: &'static str,
    snapshot: &'static str,
    policy: &'static str,
    manifest: &'static str,
}

/// What `/version` and `--version` say.
pub fn version() -> Version {
    Version {
        name: "svc-rewarder",
        version: env!("CARGO_PKG_VERSION"),
        kernel: rewarder_model::manifest::KERNEL,
        snapshot: "rewarder.snapshot.v1",
        policy: rewarder_model::policy::SCHEMA,
        manifest: rewarder_model::manifest::SCHEMA,
    }
}

impl Context {
    /// Lets the request in: capability with the route's scope, then the rate of its tenant.
    async fn pass(&self, scope: Scope) -> Result<Pass> {
        let mut headers = self.request.headers().get_all(AUTHORIZATION).into_iter();
        let header = headers.next().and_then(|value| value.to_str().ok());
        // Of two, a proxy before us may have looked at the other one.
        if headers.next().is_some() {
            return Err(Refusal::new(
                Reason::Unauth,
                "`Authorization` was sent more than once; send one capability",
            ));
        }
        let token = header.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let pass = self.service.checker.check(token, scope, self.request.extensions().get()).await?;
        let wish = if scope == Scope::Inspect { Wish::Inspection } else { Wish::Work };
        let (standing, taken) = self.service.rate(pass.tenant(), wish);
        let _ = self.standing.set(standing);
        taken?;
        if wish == Wish::Inspection {
            let _ = self.place.set(self.service.look(pass.tenant())?);
        }
        Ok(pass)
    }

    /// The same, for a route of one epoch.
    async fn pass_for_epoch(&self, scope: Scope, epoch: &str) -> Result<(Pass, EpochId)> {
        let pass = self.pass(scope).await?;
        let epoch: EpochId = decoded(epoch)?
            .parse()
            .map_err(|e| Refusal::new(Reason::Schema, format!("the epoch of the path: {e}")))?;
        pass.epoch(&epoch)?;
        Ok((pass, epoch))
    }
}

/// Percent-decodes a path segment.
fn decoded(segment: &str) -> Result<Cow<'_, str>> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let bad = || Refusal::new(Reason::Schema, "the path or query is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|c| char::from(c).to_digit(16)).ok_or_else(bad);
        bytes.push((digit()? << 4 | digit()?) as u8);
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| bad())
}

/// The values of a query parameter.
fn query<B>(request: &Request<B>) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    request.uri().query().unwrap_or("").split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (Cow::Borrowed(name), value)
    })
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Body::whole(bytes)
}

fn bytes_response(media_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    // Our own answers have string keys and no maps that could fail.
    let mut response = bytes_response("application/json", serde_json::to_vec(value).unwrap_or_default());
    *response.status_mut() = status;
    response
}
