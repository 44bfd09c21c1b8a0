//! `GET /rewarder/epochs/{epoch_id}` and `GET /rewarder/policy/{policy_id}`: what a run left behind, as it was stored.

use super::{Body, Context, Result, Upload, bytes_response, decoded, json};
use crate::explained::Settled;
use crate::jobs::JobState;
use crate::out::part;
use crate::refusal::Refusal;
use crate::service::Service;
use crate::world::blocking;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use rewarder_admit::Scope;
use rewarder_emit::is_settled;
use rewarder_model::{Cid, EpochId, PolicyId, Reason, TenantId};
use rewarder_store::{EpochRun, Kind, MANIFEST, Object, Run};
use std::io;
use std::sync::Arc;

/// Largest manifest, attestation or derivation.
const SMALL_BYTES_MAX: u64 = 256 * 1024;

/// The stored run of an epoch: the settled one, or else the latest.
pub fn stored_run(service: &Service, tenant: &TenantId, epoch: &EpochId) -> Result<Option<Run>> {
    let store = service.store()?;
    match store.epoch_run(tenant, epoch)? {
        Some(found) => Ok(store.run(tenant, &found.run_key)?),
        None => Ok(None),
    }
}

/// What is answered for an epoch that has no run: that it is being computed, why it was refused, or that it is unknown.
pub fn no_run(service: &Service, tenant: &TenantId, epoch: &EpochId) -> Result<Response<Body>> {
    match service.job(tenant, epoch) {
        Some(JobState::Running) => {
            let mut response =
                json(StatusCode::ACCEPTED, &serde_json::json!({ "epoch_id": epoch, "status": "running" }));
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(1u64));
            Ok(response)
        }
        Some(JobState::Refused(refusal)) => Err(refusal),
        None => Err(Refusal::new(
            Reason::EpochNotFound,
            "no run of this epoch is stored for this tenant; POST …/compute first",
        )),
    }
}

/// Reads a part of a run that has to be there and is small.
pub fn small_part(run: &Run, name: &str) -> Result<Vec<u8>> {
    let broken = |e: &dyn std::fmt::Display| {
        tracing::error!(part = name, error = %e, "a stored run cannot be read");
        Refusal::new(Reason::Internal, "the stored run cannot be read; the service's log says how")
    };
    let object: Object = run.part(name)?.ok_or_else(|| broken(&"it is not there"))?;
    object.read_all(SMALL_BYTES_MAX).map_err(|e: io::Error| broken(&e))
}

/// Whether `If-None-Match` names this tag, or any. The comparison is the weak one (RFC 9110 §13.1.2): a proxy that compressed the
/// answer has made the tag weak.
pub(super) fn knows<B>(request: &Request<B>, etag: &str) -> bool {
    let values = request.headers().get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

/// Answers 304 if the caller has these bytes already.
pub fn with_etag(
    request: &Request<Upload>,
    etag: &str,
    make: impl FnOnce() -> Result<Response<Body>>,
) -> Result<Response<Body>> {
    let etag = format!("\"{etag}\"");
    let known = knows(request, &etag);
    let mut response = if known { Response::new(super::full("")) } else { make()? };
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, value);
    }
    Ok(response)
}

/// An epoch's answer as it stands: the manifest as its canonical bytes, what the ledger said, and whether that is final.
fn told(service: &Service, tenant: &TenantId, epoch: &EpochId) -> Result<Option<Arc<Settled>>> {
    let store = service.store()?;
    let Some(EpochRun { run_key, claimed }) = store.epoch_run(tenant, epoch)? else { return Ok(None) };
    let Some(run) = store.run(tenant, &run_key)? else { return Ok(None) };
    let (manifest, attestation) = (small_part(&run, MANIFEST)?, small_part(&run, part::ATTESTATION)?);
    let delivery = run.delivery()?;
    let body = [
        br#"{"attestation":"#,
        &attestation[..],
        br#","commitment":""#,
        Cid::of(&manifest).to_string().as_bytes(),
        br#"","delivery":"#,
        delivery.as_deref().unwrap_or(b"null"),
        br#","manifest":"#,
        &manifest,
        b"}",
    ]
    .concat();
    let told = Arc::new(Settled { etag: Cid::of(&body).hex(), body: body.into() });
    if claimed && delivery.is_some_and(|record| is_settled(&record)) {
        service.settled().keep(tenant, epoch, told.clone());
    }
    Ok(Some(told))
}

/// Manifest, attestation and delivery.
pub async fn epoch(context: Context, epoch: &str) -> Result<Response<Body>> {
    let (pass, epoch) = context.pass_for_epoch(Scope::Inspect, epoch).await?;
    let (service, tenant) = (context.service.clone(), pass.tenant().clone());
    let found = match service.settled().kept(&tenant, &epoch) {
        Some(kept) => Some(kept),
        None => {
            let (it, key) = (service.clone(), (tenant.clone(), epoch.clone()));
            blocking(move || told(&it, &key.0, &key.1)).await?
        }
    };
    let Some(found) = found else { return no_run(&service, &tenant, &epoch) };
    with_etag(&context.request, &found.etag, || Ok(bytes_response("application/json", found.body.clone())))
}

/// A stored policy document, byte for byte.
pub async fn policy(context: Context, id: &str) -> Result<Response<Body>> {
    let pass = context.pass(Scope::Inspect).await?;
    let id: PolicyId = decoded(id)?
        .parse()
        .map_err(|e| Refusal::new(Reason::Schema, format!("the policy id of the path: {e}")))?;
    let (service, tenant): (Arc<Service>, TenantId) = (context.service.clone(), pass.tenant().clone());
    let found = blocking(move || {
        let store = service.store()?;
        let unknown =
            || Refusal::new(Reason::PolicyNotFound, "no policy of this id is stored for this tenant");
        let hash = store.policy(&tenant, &id)?.ok_or_else(unknown)?;
        let object = store.object(&tenant, Kind::Policy, &hash)?.ok_or_else(unknown)?;
        let bytes = object
            .read_all(object.len())
            .map_err(|_| Refusal::new(Reason::Internal, "the stored policy cannot be read"))?;
        Ok((hash, bytes))
    })
    .await?;
    with_etag(&context.request, &found.0.hex(), || Ok(bytes_response("application/json", found.1)))
}
