//! `GET …/allocations` in the form that the caller accepts, and `GET …/allocations/{actor}` with its proof.

use super::epochs::{no_run, small_part, stored_run, with_etag};
use super::{Body, Context, Result, bytes_response, decoded, json};
use crate::explained::{Explained, ROWS_BYTES_MAX};
use crate::out::part;
use crate::proof::{self, Proof, Tree};
use crate::refusal::Refusal;
use crate::service::Service;
use crate::source::stored_source;
use crate::table::{Converted, Form};
use crate::why::{self, Kept, Why};
use crate::world::blocking;
use bytes::Bytes;
use futures::stream;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY,
};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use rewarder_admit::Scope;
use rewarder_decode::{Lookup, Source};
use rewarder_model::{Cid, Manifest, Policy, Reason, TenantId};
use rewarder_store::{Kind, MANIFEST, Object, Run};
use schemars::JsonSchema;
use serde::Serialize;
use std::io::{self, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A representation: media type, how it is made.
pub(super) type Representation = (&'static str, Option<Form>);

/// What there is, the canonical text first: it is what `*/*` gets.
pub(super) const REPRESENTATIONS: [Representation; 5] = [
    ("text/tab-separated-values", None),
    ("application/vnd.apache.arrow.file", None),
    ("application/vnd.apache.arrow.stream", Some(Form::ArrowStream)),
    ("text/csv", Some(Form::Csv)),
    ("application/x-ndjson", Some(Form::Ndjson)),
];

/// Bytes of a table that are read at once: a sixteenth of what its reader has taken, within these. A part is what a reader that
/// takes no more makes us hold, and what a fast one waits for a thread for.
const PART_BYTES: RangeInclusive<u64> = 4 * 1024..=128 * 1024;
/// Tables that are turned into another form at once: each holds a batch of rows, megabytes, while its reader takes them. Those
/// that are sent as they are stored hold a part, and have no other limit than the connections'.
const CONVERSIONS_MAX: usize = 16;
static CONVERSIONS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(CONVERSIONS_MAX)));

/// All `Accept` fields as one list (RFC 9110 §5.3); none, or an empty one, takes anything.
pub(super) fn accept_of(headers: &HeaderMap) -> String {
    let fields: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let all = fields.join(",");
    if all.trim().is_empty() { "*/*".to_owned() } else { all }
}

/// The quality among a range's parameters, in thousandths: three digits at most, as the RFC has them (RFC 9110 §12.4.2). None if it
/// is no number.
fn quality(parameters: &str) -> Option<u32> {
    let q = parameters.split(';').find_map(|p| p.trim().strip_prefix("q=").map(str::trim)).unwrap_or("1");
    let (whole, fraction) = q.split_once('.').unwrap_or((q, ""));
    let digits = format!("{fraction:0<3}");
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(digits.get(..3)?.parse().ok()?)
}

/// Whether the `Accept-Encoding` header allows gzip; who names `*` alone gets the bytes as they are.
fn accepts_gzip(accept: &str) -> bool {
    accept.split(',').any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let is_gzip = ["gzip", "x-gzip"].iter().any(|known| known.eq_ignore_ascii_case(name.trim()));
        is_gzip && quality(parameters).is_some_and(|q| q > 0)
    })
}

/// The first representation of the highest quality that the `Accept` header allows (RFC 9110 §12.5.1).
pub(super) fn accepted(accept: &str) -> Option<Representation> {
    let mut best: Option<(u32, Representation)> = None;
    for representation in REPRESENTATIONS {
        let (essence, _) = representation;
        let group = essence.split('/').next().unwrap_or("");
        // The most specific range that matches decides.
        let matching = accept.split(',').filter_map(|range| {
            let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
            let name = name.trim().to_ascii_lowercase();
            let specific = match name.as_str() {
                name if name == essence => 2,
                name if name.strip_suffix("/*") == Some(group) => 1,
                "*/*" => 0,
                _ => return None,
            };
            Some((specific, quality(parameters).unwrap_or(0)))
        });
        if let Some((_, q)) = matching.max_by_key(|(specific, _)| *specific)
            && q > best.map_or(0, |(q, _)| q)
        {
            best = Some((q, representation));
        }
    }
    best.map(|(_, representation)| representation)
}

/// The whole table.
pub async fn table(context: Context, epoch: &str) -> Result<Response<Body>> {
    let (pass, epoch) = context.pass_for_epoch(Scope::Inspect, epoch).await?;
    let Some((media_type, form)) = accepted(&accept_of(context.request.headers())) else {
        let known = REPRESENTATIONS.map(|(name, _)| name).join(", ");
        return Err(Refusal::new(Reason::NotAcceptable, format!("allocations come as {known}")));
    };
    let (service, tenant) = (context.service.clone(), pass.tenant().clone());
    let (it, key) = (service.clone(), (tenant.clone(), epoch.clone()));
    let found = blocking(move || {
        let Some(run) = stored_run(&it, &key.0, &key.1)? else { return Ok(None) };
        let name = if media_type == REPRESENTATIONS[0].0 { part::TEXT } else { part::ARROW };
        Ok(run.part(name)?.map(|object| (*run.run_key(), object)))
    })
    .await?;
    let Some((run_key, object)) = found else { return no_run(&service, &tenant, &epoch) };
    // A run key determines the bytes of each representation.
    let etag = Cid::of(format!("{run_key}|{media_type}").as_bytes()).hex();
    let mut response = with_etag(&context.request, &etag, || {
        let len = object.len();
        let mut response = Response::new(in_form(object, form)?);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        if form.is_none() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
        }
        Ok(response)
    })?;
    // Also where the caller has it already (RFC 9110 §15.4.5).
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// A table in the form that was asked for.
fn in_form(object: Object, form: Option<Form>) -> Result<Body> {
    let Some(form) = form else {
        let mut at = 0;
        return Ok(streamed(move |may_wait| {
            let len = (at / 16).clamp(*PART_BYTES.start(), *PART_BYTES.end()).min(object.len() - at);
            let mut part = vec![0; len as usize];
            if !object.read_ready(at, &mut part) {
                if !may_wait {
                    return Ok(Made::NotYet);
                }
                object.read_exact_at(at, &mut part)?;
            }
            at += len;
            Ok(if len > 0 { Made::Part(part.into()) } else { Made::End })
        }));
    };
    let permit = CONVERSIONS.clone().try_acquire_owned().map_err(|_| {
        let detail = "as many tables are sent in another form than the stored one as the service does at once; ask again, or for text/tab-separated-values";
        Refusal::new(Reason::OverCapacity, detail).retry_after(Duration::from_secs(1))
    })?;
    let mut converted = None;
    Ok(streamed(move |may_wait| {
        let _held = &permit;
        if !may_wait {
            return Ok(Made::NotYet);
        }
        let converted = match &mut converted {
            Some(converted) => converted,
            None => converted.insert(Converted::open(Seeking { object: object.clone(), at: 0 }, form)?),
        };
        Ok(converted.next_part()?.map_or(Made::End, |part| Made::Part(part.into())))
    }))
}

/// A part that is on its way to the peer, and what says so.
struct OnItsWay {
    part: Bytes,
    _one: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for OnItsWay {
    fn as_ref(&self) -> &[u8] {
        &self.part
    }
}

/// What came of making a part.
enum Made {
    Part(Bytes),
    End,
    /// It takes waiting, or long.
    NotYet,
}

/// A body that is made part by part, each when the system has taken the one before: hyper asks for more as soon as it has
/// room, which a reader that takes nothing would make us hold. What is in memory is made at once; the rest (`parts` is told
/// that it may wait) on a thread that may block, which no such reader holds: there are only so many, and everything that
/// touches the disk needs one.
fn streamed(parts: impl FnMut(bool) -> io::Result<Made> + Send + Sync + 'static) -> Body {
    let one = Arc::new(Semaphore::new(1));
    let made = stream::unfold(Some((parts, one)), |made| async move {
        let (mut parts, one) = made?;
        let taken = one.clone().acquire_owned().await;
        let made = match parts(false) {
            Ok(Made::NotYet) => tokio::task::spawn_blocking(move || (parts(true), parts)).await,
            made => Ok((made, parts)),
        };
        match made.map_err(io::Error::other) {
            Ok((Ok(Made::Part(part)), parts)) => {
                let part = match taken {
                    Ok(_one) => Bytes::from_owner(OnItsWay { part, _one }),
                    // Nobody closes it.
                    Err(_) => part,
                };
                Some((Ok(Frame::data(part)), Some((parts, one))))
            }
            Ok((Ok(Made::End), _)) => None,
            Ok((Ok(Made::NotYet), _)) => Some((Err(io::ErrorKind::WouldBlock.into()), None)),
            // Breaks the answer off, so that nobody takes half of it for the whole.
            Ok((Err(error), _)) | Err(error) => Some((Err(error), None)),
        }
    });
    Body::stream(StreamBody::new(made))
}

/// An object as the Arrow file reader wants it.
struct Seeking {
    object: Object,
    at: u64,
}

impl io::Read for Seeking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.object.read_at(self.at, buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Seeking {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.object.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// One actor's answer: the explanation, and what proves its payout.
#[derive(Serialize, JsonSchema)]
pub(super) struct ActorAnswer {
    #[serde(flatten)]
    why: Why,
    proof: Proof,
}

/// What is there of an actor's answer without reading much.
enum Found {
    /// No run.
    Nothing,
    /// All of it.
    Answer(Box<ActorAnswer>),
    /// The run that has to be read for this actor.
    ToRead(Run, String),
}

/// One actor's payout, score, derivation and proof; also for one that gets nothing, and for one that is not there.
pub async fn actor(context: Context, epoch: &str, actor: &str) -> Result<Response<Body>> {
    let (pass, epoch) = context.pass_for_epoch(Scope::Inspect, epoch).await?;
    let actor = decoded(actor)?.into_owned();
    rewarder_model::name::check_actor(actor.as_bytes())
        .map_err(|e| Refusal::new(Reason::Schema, format!("the actor of the path: {e}")))?;
    let (service, tenant) = (context.service.clone(), pass.tenant().clone());
    let (it, key) = (service.clone(), (tenant.clone(), epoch.clone()));
    let found = blocking(move || {
        let Some(run) = stored_run(&it, &key.0, &key.1)? else { return Ok(Found::Nothing) };
        match it.explained().kept(&key.0, run.run_key()) {
            Some(kept) if kept.rows.is_quick(actor.as_bytes()).map_err(|e| broken(&e))? => {
                explain(&kept, &actor).map(Box::new).map(Found::Answer)
            }
            _ => Ok(Found::ToRead(run, actor)),
        }
    })
    .await?;
    let answer = match found {
        Found::Nothing => return no_run(&service, &tenant, &epoch),
        Found::Answer(answer) => answer,
        Found::ToRead(run, actor) => {
            let turn = service.readers().turn().await;
            // It costs what a compute costs, and of many who waited together the first one's cost may be a debt by now.
            service.is_solvent(&tenant)?;
            let (it, tenant) = (service.clone(), tenant.clone());
            blocking(move || {
                let _turn = turn;
                let explained = it.explained().get(&tenant, run.run_key(), || read(&it, &tenant, &run))?;
                it.charge(&tenant, explained.rows.source().len());
                explain(&explained, &actor).map(Box::new)
            })
            .await?
        }
    };
    let codings = context.request.headers().get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let mut response =
        if codings.is_some_and(accepts_gzip) { gzipped(&answer)? } else { json(StatusCode::OK, &answer) };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    Ok(response)
}

/// The answer, compressed.
fn gzipped(answer: &ActorAnswer) -> Result<Response<Body>> {
    // Half of a proof is base64 of text: compressed, the answer fits in two packets.
    let broken = |_| Refusal::new(Reason::Internal, "the answer could not be compressed");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    serde_json::to_writer(&mut gzip, answer).map_err(broken)?;
    let bytes = gzip.finish().map_err(|e| broken(serde_json::Error::io(e)))?;
    let mut response = bytes_response("application/json", bytes);
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Ok(response)
}

fn broken(what: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(error = %what, "an actor could not be explained");
    Refusal::new(Reason::Internal, "the stored run cannot be read; the service's log says how")
}

fn explain(explained: &Explained, actor: &str) -> Result<ActorAnswer> {
    let Explained { manifest, kept, policy, text, tree, rows } = explained;
    let rows = rows.rows_of(actor.as_bytes()).map_err(|e| broken(&e))?;
    let why = why::explain(actor, rows.as_ref(), policy, kept);
    let found = proof::find(text, actor.as_bytes());
    let proved = proof::payout(text, &found).unwrap_or_else(|| "0".to_owned());
    if proved != why.payout_minor_units {
        return Err(broken(&"the explanation and the table differ"));
    }
    Ok(ActorAnswer { why, proof: proof::prove(text, tree, manifest.allocations_root, &found) })
}

/// Opens all that explains a run.
fn read(service: &Service, tenant: &TenantId, run: &Run) -> Result<Explained> {
    let manifest: Manifest = serde_json::from_slice(&small_part(run, MANIFEST)?).map_err(|e| broken(&e))?;
    let kept: Kept = serde_json::from_slice(&small_part(run, part::DERIVATION)?).map_err(|e| broken(&e))?;
    let text = run.part(part::TEXT)?.ok_or_else(|| broken(&"no text"))?;
    let text = text.read_all(text.len()).map_err(|e| broken(&e))?;
    let store = service.store()?;
    // An operator who made room has taken it away; what was paid stays.
    let gone = |reason, what: &str| {
        Refusal::new(
            reason,
            format!(
                "the {what} of this run is not in the store any more; upload it again to have an actor explained"
            ),
        )
    };
    let snapshot = store
        .object(tenant, Kind::Snapshot, &manifest.inputs.cid)?
        .ok_or_else(|| gone(Reason::InputsNotFound, "snapshot"))?;
    let policy = store
        .object(tenant, Kind::Policy, &manifest.policy.hash)?
        .ok_or_else(|| gone(Reason::PolicyNotFound, "policy"))?;
    let policy =
        Policy::parse(&policy.read_all(policy.len()).map_err(|e| broken(&e))?).map_err(|e| broken(&e))?;
    let tree = Tree::of(&text);
    let mut rows = Lookup::open(stored_source(snapshot), kept.sorted).map_err(|e| broken(&e))?;
    rows.index(ROWS_BYTES_MAX).map_err(|e| broken(&e))?;
    Ok(Explained { manifest, kept, policy, text, tree, rows })
}

#[cfg(test)]
mod tests {
    use super::{accepted, accepts_gzip};

    #[test]
    fn gzip_is_sent_to_who_asks_for_it() {
        for yes in ["gzip", "br, GZIP;q=0.5", "x-gzip", "deflate,gzip", "gzip;q=1"] {
            assert!(accepts_gzip(yes), "{yes}");
        }
        for no in ["", "*", "gzip;q=0", "gzip; q=0.000", "br, gzip;q=0, *", "gzipped", "gzip;q=x"] {
            assert!(!accepts_gzip(no), "{no}");
        }
    }

    #[test]
    fn accept_is_negotiated() {
        let cases = [
            ("*/*", Some("text/tab-separated-values")),
            ("text/csv", Some("text/csv")),
            ("text/*", Some("text/tab-separated-values")),
            ("text/csv;q=0.5, application/x-ndjson;q=0.9", Some("application/x-ndjson")),
            ("text/csv;q=0, */*;q=0.1", Some("text/tab-separated-values")),
            ("text/tab-separated-values;q=0, */*;q=0.1", Some("application/vnd.apache.arrow.file")),
            ("Application/VND.apache.arrow.stream", Some("application/vnd.apache.arrow.stream")),
            ("image/png", None),
            ("text/csv;q=0", None),
            ("text/csv;q=nonsense", None),
        ];
        for (accept, expected) in cases {
            assert_eq!(accepted(accept).map(|(name, _)| name), expected, "{accept}");
        }
    }
}
