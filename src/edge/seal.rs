//! `PUT /rewarder/snapshots/{cid}` and `PUT /rewarder/policies/{cid}`: sealed bytes come in, verified while they stream.
//!
//! Storing does not judge: a snapshot that breaks a rule of its format is stored and refused when it is computed, where
//! the contract's order of refusals holds. A policy's id is bound when its bytes are a valid policy.

use super::body::next_chunk;
use super::pace::Pace;
use super::{Body, Context, Result, json};
use crate::refusal::Refusal;
use crate::world::blocking;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use rewarder_admit::limiter::COST_BYTES;
use rewarder_admit::{Pass, Scope};
use rewarder_model::{Cid, Policy, PolicyId, Reason};
use rewarder_store::{Bound, Kind, Put, Writer};
use schemars::JsonSchema;
use serde::Serialize;

/// Media types of a snapshot.
pub const SNAPSHOT_TYPES: &[&str] = &["application/vnd.apache.arrow.stream", "application/octet-stream"];

#[derive(Serialize, JsonSchema)]
pub(super) struct Stored {
    cid: Cid,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_id: Option<PolicyId>,
    /// What will be refused when it is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

fn status(put: Put) -> StatusCode {
    match put {
        Put::Created => StatusCode::CREATED,
        Put::Existing => StatusCode::OK,
    }
}

fn cid(text: &str) -> Result<Cid> {
    super::decoded(text)?
        .parse()
        .map_err(|e| Refusal::new(Reason::Schema, format!("the CID of the path: {e}")))
}

/// Charges an upload as it arrives, so that one that is broken off is paid for too.
fn charge_moved(context: &Context, pass: &Pass, before: u64, more: u64) {
    let tokens = (before + more) / COST_BYTES - before / COST_BYTES;
    if tokens > 0 {
        context.service.charge(pass.tenant(), tokens * COST_BYTES);
    }
}

/// Bytes handed to the disk at once: enough that a thread's turn is worth it, and few enough that they are still in the
/// processor's cache when they are written and hashed.
const WRITE_BYTES: usize = 512 * 1024;

/// Chunks below this are gathered: a sender of tiny ones must not make us keep a list of them, nor the buffers they came in.
const GATHERED_BYTES: usize = 16 * 1024;

/// What came and is not written yet: large chunks as they came, since one more copy of all bytes would show.
#[derive(Default)]
struct Part {
    chunks: Vec<Bytes>,
    gathered: BytesMut,
    len: usize,
}

impl Part {
    fn push(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        if chunk.len() < GATHERED_BYTES {
            self.gathered.extend_from_slice(&chunk);
        } else {
            self.end_gathered();
            self.chunks.push(chunk);
        }
    }

    fn end_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.chunks.push(self.gathered.split().freeze());
        }
    }

    fn chunks(mut self) -> Vec<Bytes> {
        self.end_gathered();
        self.chunks
    }
}

/// Stores a snapshot. The body goes to disk in large parts from a thread that may block, hashed on the way.
pub async fn snapshot(mut context: Context, name: &str) -> Result<Response<Body>> {
    let pass = context.pass(Scope::Seal).await?;
    let _inside = context.service.enter(pass.tenant())?;
    let cid = cid(name)?;
    context.media_type(SNAPSHOT_TYPES)?;
    context.identity_only()?;
    let settings = context.service.settings();
    let declared = context.declared_len(settings.snapshot_max_bytes)?;
    let (service, tenant, limit) =
        (context.service.clone(), pass.tenant().clone(), settings.snapshot_max_bytes);
    let mut writer =
        blocking(move || Ok(service.store()?.writer(&tenant, Kind::Snapshot, cid, limit, declared)?)).await?;
    // Two parts are under way at most: one being filled, one being hashed and written.
    let mut writing: Option<tokio::task::JoinHandle<Result<Writer>>> = None;
    let mut part = Part::default();
    let mut bytes = 0u64;
    let mut idle = Some(writer);
    let mut pace = Pace::new(settings.transfer_rate_min_bytes);
    loop {
        let chunk =
            next_chunk(context.request.body_mut(), settings.read_timeout_ms.into(), &mut pace).await?;
        let ended = chunk.is_none();
        if let Some(chunk) = chunk {
            charge_moved(&context, &pass, bytes, chunk.len() as u64);
            bytes += chunk.len() as u64;
            match &mut idle {
                // Hashing a chunk takes less than its way to another thread and back.
                Some(writer) if writer.only_verifies() => writer.write(&chunk)?,
                _ => part.push(chunk),
            }
        }
        if part.len >= WRITE_BYTES || ended {
            writer = match (idle.take(), writing.take()) {
                (Some(writer), _) => writer,
                (None, Some(task)) => {
                    task.await.map_err(|_| Refusal::new(Reason::Internal, "an upload was broken off"))??
                }
                (None, None) => return Err(Refusal::new(Reason::Internal, "an upload was broken off")),
            };
            let full = std::mem::take(&mut part).chunks();
            let write = move || -> Result<Writer> {
                full.iter().try_for_each(|chunk| writer.write(chunk))?;
                Ok(writer)
            };
            if ended {
                let put = blocking(move || Ok(write()?.commit()?)).await?;
                return Ok(json(status(put), &Stored { cid, bytes, policy_id: None, warning: None }));
            }
            writing = Some(tokio::task::spawn_blocking(write));
        }
    }
}

/// Stores a policy and binds its id.
pub async fn policy(mut context: Context, name: &str) -> Result<Response<Body>> {
    let pass = context.pass(Scope::Policy).await?;
    let _inside = context.service.enter(pass.tenant())?;
    let cid = cid(name)?;
    context.media_type(&["application/json", "application/octet-stream"])?;
    let bytes = context.small_body().await?;
    if Cid::of(&bytes) != cid {
        return Err(Refusal::new(
            Reason::CidMismatch,
            "the bytes of the body do not have the CID of the path",
        ));
    }
    let (service, tenant) = (context.service.clone(), pass.tenant().clone());
    let limit = service.settings().req_body_max_bytes;
    let stored = blocking(move || {
        let store = service.store()?;
        let parsed = Policy::parse(&bytes);
        let mut writer = store.writer(&tenant, Kind::Policy, cid, limit, Some(bytes.len() as u64))?;
        writer.write(&bytes)?;
        // Bound between the two: what finds no room must not take an id, and bytes whose id is taken must not be stored.
        if let Ok(policy) = &parsed
            && let Bound::Conflict(other) = store.bind_policy(&tenant, policy.id(), &cid)?
        {
            let detail = format!(
                "policy id {} of this tenant is bound to {other}; give the new policy a new id",
                policy.id()
            );
            return Err(Refusal::new(Reason::PolicyConflict, detail));
        }
        let put = writer.commit()?;
        let policy_id = parsed.as_ref().ok().map(|policy| policy.id().clone());
        let warning = parsed.err().map(|e| format!("stored, but it will be refused as policy_invalid: {e}"));
        Ok((put, Stored { cid, bytes: bytes.len() as u64, policy_id, warning }))
    })
    .await?;
    Ok(json(status(stored.0), &stored.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_any_size_come_out_in_order_and_tiny_ones_as_few() {
        let sizes = [1, GATHERED_BYTES, 3, 5, GATHERED_BYTES - 1, GATHERED_BYTES + 1, 0, 7];
        let (mut part, mut all) = (Part::default(), Vec::new());
        for (n, size) in sizes.into_iter().cycle().take(200).enumerate() {
            let chunk = vec![n as u8; size];
            all.extend_from_slice(&chunk);
            part.push(chunk.into());
        }
        assert_eq!(part.len, all.len());
        let chunks = part.chunks();
        assert!(chunks.len() <= 101, "{}", chunks.len());
        assert_eq!(chunks.concat(), all);
    }
}
