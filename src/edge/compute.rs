//! `POST /rewarder/epochs/{epoch_id}/compute`: a request becomes a job, and its answer a response.

use super::{Body, Context, Result, bytes_response, decoded, json, query};
use crate::late::LateKey;
use crate::pipeline::{Answer, Done};
use crate::refusal::Refusal;
use crate::service::Ask;
use http::header::{HeaderName, HeaderValue, LOCATION};
use http::{Request, Response, StatusCode};
use rewarder_admit::{Inside, Scope};
use rewarder_model::cid::CidError;
use rewarder_model::{Cid, EpochId, PolicyId, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest note.
const NOTES_CHARS_MAX: usize = 1024;

/// What to compute: a sealed snapshot and a policy, both stored before.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ComputeRequest {
    inputs_cid: Cid,
    policy_id: PolicyId,
    policy_hash: Cid,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    #[schemars(length(max = NOTES_CHARS_MAX))]
    notes: Option<String>,
}

/// The answer while a job runs on.
#[derive(Serialize, JsonSchema)]
pub(super) struct Running<'a> {
    epoch_id: &'a EpochId,
    run_key: Cid,
    #[schemars(extend("const" = "running"))]
    status: &'static str,
    quarantine: bool,
}

/// Computes an epoch.
pub async fn compute(mut context: Context, epoch: &str) -> Result<Response<Body>> {
    let (pass, epoch) = context.pass_for_epoch(Scope::Run, epoch).await?;
    let inside = context.service.enter(pass.tenant())?;
    context.media_type(&["application/json"])?;
    let asked_by_query = dry_run_by_query(&context.request)?;
    let respond_async = prefers_async(&context.request);
    let bytes = context.small_body().await?;
    let request = parse(&bytes)?;
    if request.notes.as_ref().is_some_and(|notes| notes.chars().count() > NOTES_CHARS_MAX) {
        return Err(Refusal::new(
            Reason::Schema,
            format!("`notes` is longer than {NOTES_CHARS_MAX} characters"),
        ));
    }
    let dry_run = request.dry_run || asked_by_query;
    pass.dry_run(dry_run)?;
    let ask = Ask {
        pass,
        epoch,
        inputs_cid: request.inputs_cid,
        policy_id: request.policy_id,
        policy_hash: request.policy_hash,
        dry_run,
    };
    // A job that is done already is answered at once; the law that bounds who may hear it has been asked above.
    if let Some(done) = context.service.known(&ask)? {
        return answered(&done);
    }
    Box::pin(computed(context, ask, inside, respond_async)).await
}

/// Waits for a job that is not done yet, within the deadline of a request.
async fn computed(context: Context, ask: Ask, inside: Inside, respond_async: bool) -> Result<Response<Body>> {
    let Context { service, corr_id, .. } = context;
    let epoch = ask.epoch.clone();
    let run_key = rewarder_model::run_key(&epoch, &ask.policy_hash, &ask.inputs_cid);
    let (tenant, policy_id) = (ask.pass.tenant().clone(), ask.policy_id.clone());
    let key = LateKey { tenant, run_key, policy_id, dry_run: ask.dry_run };
    if let Some(answer) = service.late(&key, &ask.pass)? {
        return answered(&*answer?);
    }
    let computing = service.compute(ask, corr_id.as_str(), inside)?;
    let leads = computing.leads();
    let mut answer = Box::pin(computing.answer());
    let deadline = service.clock().sleep(service.settings().request_deadline_ms.into());
    let heard: Option<Answer> = if respond_async {
        None
    } else {
        tokio::select! {
            biased;
            answer = &mut answer => Some(answer),
            () = deadline => None,
        }
    };
    match heard {
        Some(answer) => answered(&*answer?),
        None => {
            // Who joined holds a place, and gives it back now; who began it has none.
            if leads {
                service.hear_late(key, answer);
            }
            let running = Running { epoch_id: &epoch, run_key, status: "running", quarantine: false };
            Ok(located(json(StatusCode::ACCEPTED, &running), &epoch))
        }
    }
}

/// What is wrong with a field. Only sentences of ours are told, which name our fields and rules; serde's others repeat what they
/// read.
fn data_error(said: &str) -> String {
    let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
    let rules = [CidError.to_string(), PolicyId::RULE.to_owned()];
    match said.split_once(" field `") {
        Some(("missing", name)) => format!("`{name} is missing"),
        Some(("duplicate", name)) => format!("`{name} stands there twice"),
        Some(("unknown", _)) => {
            "a field is not known; known are inputs_cid, policy_id, policy_hash, dry_run and notes".to_owned()
        }
        _ if rules.iter().any(|rule| rule == said) => said.to_owned(),
        _ => "a field is of the wrong form".to_owned(),
    }
}

/// Reads the body. Serde's own messages would repeat what they read, so only the place is taken from them.
pub(super) fn parse(bytes: &[u8]) -> Result<ComputeRequest> {
    // An array would pass for the object, field by field in order; the contract has objects only.
    let object = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if object {
        // As one text: checked to be UTF-8 at once, and not string by string.
        let read = std::str::from_utf8(bytes)
            .ok()
            .map_or_else(|| serde_json::from_slice(bytes), serde_json::from_str);
        match read {
            Ok(request) => return Ok(request),
            Err(e) => {
                let what = match e.classify() {
                    serde_json::error::Category::Data => data_error(&e.to_string()),
                    _ => "the body is not JSON".to_owned(),
                };
                let detail =
                    format!("{what} (line {}, column {}); see /schema/compute.json", e.line(), e.column());
                return Err(Refusal::new(Reason::Schema, detail));
            }
        }
    }
    Err(Refusal::new(Reason::Schema, "the body is not a JSON object; see /schema/compute.json"))
}

pub(super) fn dry_run_by_query<B>(request: &Request<B>) -> Result<bool> {
    let mut dry_run = None;
    for (name, value) in query(request) {
        match (&*decoded(&name)?, &*decoded(value)?) {
            // Which of two would count is what money hangs on.
            ("dry_run", _) if dry_run.is_some() => {
                return Err(Refusal::new(Reason::Schema, "`dry_run` stands in the query twice"));
            }
            ("dry_run", "true") => dry_run = Some(true),
            ("dry_run", "false") => dry_run = Some(false),
            ("dry_run", _) => {
                return Err(Refusal::new(Reason::Schema, "`dry_run` in the query is true or false"));
            }
            _ => {
                return Err(Refusal::new(
                    Reason::Schema,
                    "the query has a parameter that is not known; known is dry_run",
                ));
            }
        }
    }
    Ok(dry_run.unwrap_or(false))
}

/// RFC 7240 `Prefer: respond-async`.
pub(super) fn prefers_async<B>(request: &Request<B>) -> bool {
    const PREFER: HeaderName = HeaderName::from_static("prefer");
    let values = request.headers().get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|preference| {
        preference.split(';').next().is_some_and(|token| token.trim().eq_ignore_ascii_case("respond-async"))
    })
}

/// A finished job's answer.
fn answered(done: &Done) -> Result<Response<Body>> {
    if let Some(refusal) = done.unpayable() {
        return Err(refusal);
    }
    let mut response = bytes_response("application/json", done.json());
    if done.quarantine {
        *response.status_mut() = StatusCode::ACCEPTED;
        return Ok(located(response, &done.manifest.epoch_id));
    }
    Ok(response)
}

fn located(mut response: Response<Body>, epoch: &EpochId) -> Response<Body> {
    // The alphabet of epoch ids needs no escape in a path.
    if let Ok(location) = HeaderValue::from_str(&format!("/rewarder/epochs/{epoch}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_body_says_which_field_and_repeats_nothing() {
        let cid = Cid::of(b"x");
        let good = format!(r#"{{"inputs_cid":"{cid}","policy_id":"p1","policy_hash":"{cid}"}}"#);
        assert!(parse(good.as_bytes()).is_ok());
        let cases = [
            (r#""policy_id":"p1","#, "", "`policy_id` is missing"),
            (
                r#""policy_id":"p1""#,
                r#""policy_id":"p1","policy_id":"SECRET""#,
                "`policy_id` stands there twice",
            ),
            (r#""p1""#, r#""p1","SECRET":1"#, "a field is not known; known are inputs_cid"),
            (r#""p1""#, r#""SECRET/""#, "a policy id is 1 to 128 of"),
            (r#""policy_id":"p1""#, r#""policy_id":7"#, "a field is of the wrong form"),
            (r#""p1""#, r#""p1","dry_run":"SECRET""#, "a field is of the wrong form"),
            ("b3:", "SECRET", "a CID is `b3:` and 64 lowercase hex digits"),
        ];
        for (from, to, expected) in cases {
            let detail = parse(good.replacen(from, to, 1).as_bytes()).err().map(|refusal| refusal.detail);
            let detail = detail.unwrap_or_default();
            assert!(detail.starts_with(expected), "{to}: {detail}");
            assert!(!detail.contains("SECRET"), "{detail}");
        }
    }
}
