//! What a run left at the service, taken home: each object checked against the identities before it gets its name.

use crate::failure::Failure;
use crate::http::{Service, chain, full, read};
use crate::verify_attestation;
use http::header::ACCEPT;
use http_body_util::BodyExt;
use rewarder_model::{Attestation, Cid, EpochId, Manifest, TenantId, run_key};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use svc_rewarder::out::part;
use svc_rewarder::out::{RECORD, Record, clear_another, write_file};

/// Recipients named in the summary.
const NAMED: usize = 10;
/// Characters of a name in the summary.
const NAME_CHARS: usize = 44;

/// The run that should be there.
pub struct Expected {
    /// `/rewarder/epochs/{epoch_id}`.
    pub path: String,
    /// The epoch.
    pub epoch: EpochId,
    /// Its owner.
    pub tenant: TenantId,
    /// CID of the snapshot that was submitted.
    pub inputs_cid: Cid,
    /// CID of the policy.
    pub policy_hash: Cid,
    /// What compute answered, if it did.
    pub commitment: Option<Cid>,
    /// Whether its attestation has to carry ML-DSA-65.
    pub require_pq: bool,
    /// From what it can be explained.
    pub record: Record,
}

/// What was saved.
pub struct Saved {
    /// The manifest.
    pub manifest: Manifest,
    /// Names of the files.
    pub files: Vec<&'static str>,
    /// Who gets most.
    pub top: Vec<(String, u128)>,
}

/// The document of an epoch; the manifest as the bytes that are committed to.
#[derive(Deserialize)]
struct Epoch<'a> {
    #[serde(borrow)]
    manifest: &'a RawValue,
    #[serde(borrow)]
    attestation: Option<&'a RawValue>,
    #[serde(borrow)]
    delivery: Option<&'a RawValue>,
}

/// Saves a run to `out`.
pub async fn save(service: &Service, expected: &Expected, out: &Path) -> Result<Saved, Failure> {
    let answer = service.get(&expected.path, "application/json").await?;
    if answer.status != http::StatusCode::OK {
        return Err(answer.failure());
    }
    let epoch: Epoch<'_> = serde_json::from_slice(&answer.body)
        .map_err(|_| Failure::new("the service's answer about the epoch is not of the contract's form"))?;
    let manifest = check(epoch.manifest.get().as_bytes(), epoch.delivery.is_some(), expected)?;
    let commitment = manifest.commitment();
    check_attestation(epoch.attestation.map_or("null", RawValue::get), &commitment, expected.require_pq)?;
    let written = |name: &str| {
        let path = out.join(name);
        move |e: std::io::Error| Failure::new(format!("{} cannot be written: {e}", path.display()))
    };
    std::fs::create_dir_all(out).map_err(written(""))?;
    let text = Download::fetch(service, expected, "text/tab-separated-values", out, part::TEXT).await?;
    if text.cid != manifest.allocations_root {
        return Err(Failure::new(format!(
            "the allocations that the service gave have the root {}, and the manifest names {}; nothing was saved",
            text.cid, manifest.allocations_root
        )));
    }
    let arrow =
        Download::fetch(service, expected, "application/vnd.apache.arrow.file", out, part::ARROW).await?;
    for name in clear_another(out, epoch.manifest.get().as_bytes()).map_err(written(""))? {
        eprintln!("ronctl: {} belonged to another run and is removed", out.join(name).display());
    }
    let mut files = vec![part::MANIFEST, part::TEXT, part::ARROW];
    text.keep().map_err(written(part::TEXT))?;
    arrow.keep().map_err(written(part::ARROW))?;
    for (name, value) in [(part::ATTESTATION, epoch.attestation), (part::DELIVERY, epoch.delivery)] {
        if let Some(value) = value {
            write_file(out, name, |to| to.write_all(value.get().as_bytes())).map_err(written(name))?;
            files.push(name);
        }
    }
    write_file(out, RECORD, |to| Ok(serde_json::to_writer(to, &expected.record)?))
        .map_err(written(RECORD))?;
    // Last: where a manifest stands, the rest stands too.
    write_file(out, part::MANIFEST, |to| to.write_all(epoch.manifest.get().as_bytes()))
        .map_err(written(part::MANIFEST))?;
    let top = top(&out.join(part::TEXT))
        .map_err(|e| Failure::new(format!("allocations.tsv cannot be read: {e}")))?;
    Ok(Saved { manifest, files, top })
}

/// A manifest that is the canonical one of the run that was asked for.
fn check(bytes: &[u8], delivered: bool, expected: &Expected) -> Result<Manifest, Failure> {
    let wrong = |what: String| Failure::new(format!("{what}; nothing was saved"));
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| {
        wrong(format!("the manifest that the service gave is not of the contract's form ({e})"))
    })?;
    let ours = run_key(&expected.epoch, &expected.policy_hash, &expected.inputs_cid);
    if manifest.run_key != ours {
        let because = match delivered {
            true => {
                "the epoch's money went out, or is about to, by other inputs or another policy, and that is what it \
                 shows from then on; `svc-rewarder run --dry-run` makes the files of what was submitted here"
            }
            false => "another run of this epoch was asked for meanwhile",
        };
        return Err(wrong(format!(
            "the service shows run {} for this epoch, and what was submitted is run {ours}: {because}",
            manifest.run_key
        )));
    }
    let as_submitted = manifest.epoch_id == expected.epoch
        && manifest.tenant == expected.tenant
        && manifest.inputs.cid == expected.inputs_cid
        && manifest.policy.hash == expected.policy_hash;
    if !as_submitted || manifest.to_canonical_bytes() != bytes {
        return Err(wrong(
            "the manifest that the service gave is not canonical, or not of what was submitted".into(),
        ));
    }
    let commitment = Cid::of(bytes);
    match expected.commitment.filter(|answered| *answered != commitment) {
        Some(answered) => {
            Err(wrong(format!("the manifest's CID is {commitment}, and compute answered {answered}")))
        }
        None => Ok(manifest),
    }
}

fn check_attestation(text: &str, commitment: &Cid, require_pq: bool) -> Result<(), Failure> {
    let wrong = |what: &str| Failure::new(format!("the attestation {what}; nothing was saved"));
    let attestation =
        serde_json::from_str::<Option<Attestation>>(text).map_err(|_| wrong("is not of its form"))?;
    match attestation {
        Some(attestation) => {
            verify_attestation::check(&attestation, commitment, require_pq).map(|_| ()).map_err(|e| wrong(&e))
        }
        None if require_pq => Err(wrong("is missing, and --require-pq wants one")),
        None => Ok(()),
    }
}

/// A body on its way to disk, under a temporary name until it is kept.
struct Download {
    temporary: PathBuf,
    name: PathBuf,
    cid: Cid,
}

impl Download {
    async fn fetch(
        service: &Service,
        expected: &Expected,
        accept: &str,
        out: &Path,
        name: &str,
    ) -> Result<Self, Failure> {
        let path = format!("{}/allocations", expected.path);
        let request = service.request("GET", &path).header(ACCEPT, accept).body(full(""));
        let request = request.map_err(|e| Failure::new(format!("no request can be made of this: {e}")))?;
        let response = service.open(request).await?;
        if response.status() != http::StatusCode::OK {
            return Err(read(response).await?.failure());
        }
        let temporary = out.join(format!(".{name}.{}", std::process::id()));
        let failed =
            |e: std::io::Error| Failure::new(format!("{} cannot be written: {e}", out.join(name).display()));
        let mut file = File::create(&temporary).map_err(failed)?;
        // From here on the temporary file goes away unless it is kept.
        let mut this = Self { temporary, name: out.join(name), cid: Cid::of(b"") };
        let (mut hasher, mut body) = (blake3::Hasher::new(), response.into_body());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Failure::new(format!("{name} broke off: {}", chain(&e))))?;
            if let Some(data) = frame.data_ref() {
                hasher.update(data);
                file.write_all(data).map_err(failed)?;
            }
        }
        this.cid = hasher.finalize().into();
        Ok(this)
    }

    fn keep(self) -> std::io::Result<()> {
        std::fs::rename(&self.temporary, &self.name)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// The largest payouts of a table; among equals the smaller name first.
fn top(path: &Path) -> std::io::Result<Vec<(String, u128)>> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut line, mut heap) = (Vec::new(), BinaryHeap::new());
    while reader.read_until(b'\n', &mut line)? > 0 {
        if let Some(Some(rewarder_reward::Line { name, payout, .. })) = rewarder_reward::lines(&line).next()
            && (heap.len() < NAMED || heap.peek().is_some_and(|Reverse((least, _))| payout > *least))
        {
            heap.push(Reverse((payout, Reverse(name.to_vec()))));
            if heap.len() > NAMED {
                heap.pop();
            }
        }
        line.clear();
    }
    let named =
        heap.into_sorted_vec().into_iter().map(|Reverse((payout, Reverse(name)))| (shown(&name), payout));
    Ok(named.collect())
}

fn shown(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let mut text: String = name.chars().take(NAME_CHARS).collect();
    if text.len() < name.len() {
        text.pop();
        text.push('…');
    }
    text
}
