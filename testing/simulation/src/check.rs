//! The laws of the audit log, read here by rules of its own, and those that hold once everything is at rest.

use crate::run::Scene;
use rewarder_emit::Outcome;
use rewarder_model::{Cid, Intent, Runs, TenantId};
use rewarder_store::Store;

/// The audit log's file.
pub const AUDIT: &str = "audit.jsonl";

/// The log up to the line with this reason.
pub fn end_of_line(log: &[u8], reason: &str) -> Option<Vec<u8>> {
    let mut end = 0;
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        let value: serde_json::Value = serde_json::from_slice(line).ok()?;
        if value["reason"] == reason {
            return Some(log[..end].to_vec());
        }
    }
    None
}

/// Checks that a log is whole: it goes on from what was there before, every line holds the hash of the one before, and
/// every act of which an operator was told is in it, in order. Says whether emission is latched by what it says.
pub fn audit(log: &[u8], before: &[u8], acts: &[(&'static str, String, String)]) -> Result<bool, String> {
    if !log.starts_with(before) {
        return Err("the audit log has lost lines that were durable".into());
    }
    let mut previous = Cid::of(b"");
    let (mut latched, mut acts) = (false, acts.iter().peekable());
    for (n, line) in log.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let text = line.strip_suffix(b"\n").ok_or("the audit log ends within a line")?;
        let value: serde_json::Value =
            serde_json::from_slice(text).map_err(|_| format!("line {} of the audit log is none", n + 1))?;
        if value["seq"] != n as u64 + 1 || value["prev"] != previous.to_string() {
            return Err(format!("line {} of the audit log does not follow from the one before", n + 1));
        }
        previous = Cid::of(text);
        if value["subject"] == "emission" {
            match value["act"].as_str() {
                Some("latch") => latched = true,
                Some("release") => latched = false,
                _ => {}
            }
        }
        if let Some((act, subject, reason)) = acts.peek()
            && value["reason"] == **reason
        {
            if value["act"] != *act || value["subject"] != **subject {
                return Err(format!("the audit log tells {reason} in another way: {value}"));
            }
            acts.next();
        }
    }
    match acts.next() {
        Some((act, _, reason)) => Err(format!("the audit log does not know of {act}, {reason}")),
        None => Ok(latched),
    }
}

/// The law that is broken once everything is at rest.
pub fn at_rest(scene: &Scene) -> Option<String> {
    settlements(scene)
        .or_else(|| promises(scene))
        .or_else(|| scene.slots.iter().find_map(|slot| records(scene, slot)))
}

/// At rest, before the next start could mend it: a conflict has given its claim back, if the disk let it.
pub fn stale(scene: &Scene) -> Option<String> {
    if scene.plan.failing || scene.plan.full || scene.plan.rot {
        return None;
    }
    scene.slots.iter().find_map(|slot| {
        let state = slot.state();
        let (handover, store) = (state.handover.as_ref()?, state.store.as_ref()?);
        store.claimed().ok()?.read.iter().find_map(|(tenant, epoch, run_key)| {
            let kept = handover.deliverer().spool().state(run_key).is_some();
            let stale = !kept && word(store, tenant, run_key) == "conflict";
            stale.then(|| format!("{epoch} is claimed by a run whose record says conflict"))
        })
    })
}

fn settlements(scene: &Scene) -> Option<String> {
    let book = scene.ledger.book();
    for (run_key, settled) in book.settled.iter().filter(|(_, settled)| !settled.rogue) {
        let Some(asked) = scene.jobs.iter().find(|job| job.intent.run_key == *run_key) else {
            return Some("a settlement that nobody asked for".into());
        };
        if asked.intent != settled.intent || settled.record.commitment != asked.intent.commitment {
            return Some(format!("{} was settled with other values than its job's", asked.intent.epoch_id));
        }
    }
    // A ledger that does not know epochs pays as often as it is told: whoever told it has to know. What an operator has
    // dropped is another's responsibility.
    let dropped = scene.dropped();
    let freed = |epoch: &str| {
        scene
            .jobs
            .iter()
            .any(|job| job.intent.epoch_id.as_str() == epoch && dropped.contains(&job.intent.run_key))
    };
    let double = book.doubles.iter().find(|(_, epoch)| !freed(epoch));
    double.map(|(_, epoch)| format!("{epoch} was paid twice"))
}

fn promises(scene: &Scene) -> Option<String> {
    let book = scene.ledger.book();
    for (job, client) in scene.jobs.iter().zip(scene.clients().iter()) {
        let (epoch, run_key) = (&job.intent.epoch_id, &job.intent.run_key);
        let settled = book.settled.get(run_key);
        let mine = settled.is_some_and(|settled| !settled.rogue);
        let kept = scene.slots.iter().any(|slot| {
            let state = slot.state();
            state.handover.as_ref().is_some_and(|it| it.deliverer().spool().state(run_key).is_some())
        });
        match &client.told {
            Some(Outcome::Accepted | Outcome::Dup) if !mine => {
                return Some(format!("{epoch} was called settled and is not"));
            }
            // What waits for an operator and was lost by the disk is reported as damage, not delivered.
            Some(Outcome::Refused { .. } | Outcome::ForeignDup(_)) if scene.plan.rot => {}
            Some(Outcome::Held { .. }) if scene.plan.rot && waited(scene, &job.intent) => {}
            Some(Outcome::Held { .. } | Outcome::Refused { .. } | Outcome::ForeignDup(_))
                if settled.is_none() && !kept && !scene.dropped().contains(run_key) =>
            {
                return Some(format!("{epoch} was promised and is lost"));
            }
            // Of two services one may not know yet what the other has settled; and what an operator has dropped may have
            // been settled before.
            Some(Outcome::Conflict(_))
                if mine && scene.slots.len() == 1 && !scene.dropped().contains(run_key) =>
            {
                return Some(format!("{epoch} was called a conflict and is settled"));
            }
            None => return Some(format!("{epoch} was never answered")),
            _ => {}
        }
    }
    None
}

/// Whether a run came to wait for an operator, by its record.
fn waited(scene: &Scene, intent: &Intent) -> bool {
    scene.slots.iter().any(|slot| {
        let state = slot.state();
        let word = state.store.as_ref().map(|store| word(store, &intent.tenant, &intent.run_key));
        word.is_some_and(|word| matches!(word.as_str(), "refused" | "foreign_dup" | "conflict"))
    })
}

/// What the record of a run says.
fn word(store: &Store, tenant: &TenantId, run_key: &Cid) -> String {
    let record = store.delivery(tenant, run_key).ok().flatten().unwrap_or_default();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
    record["result"].as_str().unwrap_or("none").to_owned()
}

/// What a machine says of its runs is so.
fn records(scene: &Scene, slot: &crate::run::Slot) -> Option<String> {
    slot.watch.look();
    let state = slot.state();
    let (Some(handover), Some(store)) = (&state.handover, &state.store) else {
        return Some("a service is gone at the end".into());
    };
    let log = state.disk.peek(AUDIT).unwrap_or_default();
    if let Err(law) = audit(&log, &state.audit, &state.acts) {
        return Some(law);
    }
    let claims = match store.claimed() {
        Ok(claims) if claims.unread.is_empty() => claims.read,
        failed => return Some(format!("the claims cannot be read: {failed:?}")),
    };
    for (tenant, epoch, run_key) in claims {
        let kept = handover.deliverer().spool().state(&run_key).is_some();
        let word = word(store, &tenant, &run_key);
        let word = word.as_str();
        let book = scene.ledger.book();
        let settled = book.settled.get(&run_key).is_some_and(|settled| !settled.rogue);
        let lawful = match word {
            "accepted" | "dup" => settled,
            // The disk did not take the record of what waits for an operator.
            "none" | "held" => kept,
            "refused" | "foreign_dup" => true,
            // Of a conflict that re-emission found an operator has to know first; what was dropped and handed over again
            // and came to wait for an operator says so from its next emission on.
            "conflict" | "dropped" => kept,
            _ => false,
        };
        if !lawful {
            return Some(format!(
                "{epoch} is claimed by a run whose record says {word}; kept {kept}, settled {settled}, stored {}",
                store.manifest(&tenant, &run_key).is_ok_and(|manifest| manifest.is_some())
            ));
        }
        let disk_was_well = !scene.plan.failing && !scene.plan.full && !scene.plan.rot;
        let well = scene.slots.len() == 1 && disk_was_well && !kept;
        if settled && well && !matches!(word, "accepted" | "dup") {
            return Some(format!("{epoch} is settled, and the record of its run says {word}"));
        }
    }
    None
}
