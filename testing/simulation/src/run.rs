//! One run: clients that submit, resubmit and conflict, a service that crashes and comes back, faults until a moment
//! after which everything has to come to rest; then the laws are checked.

use crate::disk::SimDisk;
use crate::ledger::SimLedger;
use crate::world::World;
use rewarder_emit::{
    Audit, BreakerConfig, Deliverer, DeliveryConfig, Latch, Outcome, QuarantineConfig, ReemitConfig, Spool,
    State, Surroundings,
};
use rewarder_model::world::disk::Disk;
use rewarder_model::world::{Clock, Entropy};
use rewarder_model::{Cid, Intent};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long there are faults.
const FAULTS_END: Duration = Duration::from_secs(6);
/// How often the ledger is asked whether it is there.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// By when everything has to be at rest: some of the longest waits of re-emission.
const REST: Duration = Duration::from_secs(300);
/// More steps than any run takes: a run that spins is a failure, not a hang.
const STEPS_MAX: u64 = 2_000_000;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Identity of everything that happened.
    pub hash: u64,
    /// The law that was broken.
    pub broken: Option<String>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Settlements in the ledger.
    pub settled: u64,
    /// What happened, if asked for.
    pub trace: Vec<String>,
}

/// What a client was told last.
#[derive(Default)]
struct Client {
    told: Option<Outcome>,
    done: bool,
}

type Clients = Arc<Mutex<Vec<Client>>>;
type Service = Arc<Mutex<Option<Arc<Deliverer>>>>;

fn intent(n: u64, epoch: u64) -> Intent {
    let cid = |what: &str| Cid::of(format!("{what} {n}").as_bytes());
    // The names are constants that parse.
    Intent {
        run_key: cid("run"),
        tenant: "acme".parse().expect("a tenant"),
        epoch_id: format!("2026-{epoch}").parse().expect("an epoch"),
        commitment: cid("manifest"),
        allocations_root: cid("table"),
        asset: "roc".parse().expect("an asset"),
        payout_minor_units: (n + 1).into(),
        recipients: 1,
        policy_hash: cid("policy"),
        inputs_cid: cid("inputs"),
    }
}

async fn open(world: &World, disk: &SimDisk, ledger: &SimLedger) -> Result<Arc<Deliverer>, String> {
    let port: Arc<dyn Disk> = Arc::new(disk.clone());
    let spawn = Arc::new(world.clone());
    let spool = Spool::open(Some(port.clone()), QuarantineConfig::default(), world, spawn.clone())
        .await
        .map_err(|e| e.to_string())?;
    let audit = Arc::new(Audit::open(Some(port.clone())).map_err(|e| e.to_string())?);
    let latch = Arc::new(Latch::open(Some(port), audit).map_err(|e| e.to_string())?);
    let around = Surroundings {
        ledger: Arc::new(ledger.clone()),
        spool,
        latch,
        clock: spawn.clone(),
        entropy: spawn.clone(),
        spawn,
    };
    Ok(Deliverer::new(around, DeliveryConfig::default(), ReemitConfig::default(), BreakerConfig::default()))
}

fn boot(
    world: &World,
    disk: &SimDisk,
    ledger: &SimLedger,
    intents: &Arc<Vec<Intent>>,
    clients: &Clients,
    service: &Service,
) {
    let (world, disk, ledger) = (world.clone(), disk.clone(), ledger.clone());
    let (intents, clients, service) = (intents.clone(), clients.clone(), service.clone());
    world.clone().start(
        false,
        Box::pin(async move {
            world.note("boot");
            let deliverer = loop {
                match open(&world, &disk, &ledger).await {
                    Ok(deliverer) => break deliverer,
                    Err(error) => {
                        world.note(&error);
                        world.sleep(Duration::from_millis(200)).await;
                    }
                }
            };
            *service.lock().unwrap_or_else(PoisonError::into_inner) = Some(deliverer.clone());
            for n in 0..intents.len() {
                let (world, deliverer) = (world.clone(), deliverer.clone());
                let (intents, clients) = (intents.clone(), clients.clone());
                world.clone().start(
                    false,
                    Box::pin(async move {
                        loop {
                            world.sleep(Duration::from_micros(world.below(1_500_000))).await;
                            if clients.lock().unwrap_or_else(PoisonError::into_inner)[n].done {
                                return;
                            }
                            let result = deliverer.deliver(intents[n].clone()).await;
                            world.note(&format!("client {n} hears {result:?}"));
                            if let Ok(delivered) = result {
                                let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
                                clients[n].told = Some(delivered.outcome);
                                clients[n].done = !world.one_in(4);
                            }
                        }
                    }),
                );
            }
            // As the service does it: the ledger is asked whether it is there, and the breaker looks at the time.
            let (prober, time) = (deliverer.clone(), world.clone());
            world.start(
                false,
                Box::pin(async move {
                    loop {
                        let _ = prober.probe().await;
                        prober.look(true);
                        time.sleep(PROBE_EVERY).await;
                    }
                }),
            );
            deliverer.reemit_until(std::future::pending(), |_, _| {}).await;
        }),
    );
}

/// Plays the run of `seed`.
pub fn run(seed: u64, trace: bool) -> Report {
    let world = World::new(seed, trace);
    let ledger = SimLedger::new(world.clone());
    let mut disk = SimDisk::new(world.clone());
    let count = 2 + world.below(7);
    // One in four wants an epoch that another wants too.
    let intents: Vec<_> =
        (0..count).map(|n| intent(n, if n > 0 && world.one_in(4) { world.below(n) } else { n })).collect();
    let intents = Arc::new(intents);
    let clients: Clients = Arc::new(Mutex::new((0..count).map(|_| Client::default()).collect()));
    let service: Service = Arc::default();
    let (mut crashes, mut jumps, mut steps) = (0, 0, 0_u64);
    let failing = world.one_in(3);
    let fuse = |world: &World| world.one_in(2).then(|| 1 + world.below(120));
    disk.arm(fuse(&world), failing);
    boot(&world, &disk, &ledger, &intents, &clients, &service);
    let mut healed = false;
    let broken = loop {
        steps += 1;
        if steps > STEPS_MAX {
            break Some("the run does not end".to_owned());
        }
        if let Some(broken) = ledger.book().broken.clone() {
            break Some(broken);
        }
        let now = world.monotonic();
        if !healed && now >= FAULTS_END {
            healed = true;
            world.note("healed");
            disk.arm(disk.is_dead().then_some(0), false);
            ledger.book().healed = true;
        }
        // A crash falls between any two steps of the scheduler, or within an operation of the disk.
        if disk.is_dead() || (!healed && world.one_in(400)) {
            crashes += 1;
            world.note("crash");
            let dead = disk.clone();
            disk = dead.reboot();
            *service.lock().unwrap_or_else(PoisonError::into_inner) = None;
            world.kill_service();
            disk.arm(if healed { None } else { fuse(&world) }, failing && !healed);
            boot(&world, &disk, &ledger, &intents, &clients, &service);
        }
        if !healed && world.one_in(1000) {
            jumps += 1;
            world.jump(Duration::from_secs(world.below(100_000)));
        }
        if !world.step() {
            break Some("nothing is left that could run".to_owned());
        }
        if healed && steps % 64 == 0 {
            let deliverer = service.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let rest = deliverer.as_ref().is_some_and(|d| d.spool().pending().is_empty())
                && clients.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|client| client.done);
            if rest {
                break check(&ledger, deliverer.as_deref(), &intents, &clients);
            }
            if now > FAULTS_END + REST {
                let waiting: Vec<_> = clients
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter()
                    .enumerate()
                    .filter_map(|(n, client)| (!client.done).then_some(n))
                    .collect();
                let state = deliverer.map(|d| (d.latch().is_set(), d.breaker().mode(), d.spool().list()));
                world.note(&format!("clients {waiting:?} wait; latch, breaker, spool: {state:?}"));
                break Some("not at rest long after the last fault".to_owned());
            }
        }
    };
    world.kill_service();
    let (hash, trace) = world.trace();
    world.end();
    let mut faults = std::mem::take(&mut ledger.book().faults);
    faults.insert("crash", crashes);
    faults.insert("clock jump", jumps);
    faults.insert("I/O error", disk.faults());
    let settled = ledger.book().settled.len() as u64;
    Report { hash, broken, faults, settled, trace }
}

fn check(
    ledger: &SimLedger,
    deliverer: Option<&Deliverer>,
    intents: &[Intent],
    clients: &Clients,
) -> Option<String> {
    let book = ledger.book();
    for (record, settled) in book.settled.values() {
        let Some(asked) = intents.iter().find(|intent| intent.run_key == record.run_key) else {
            return Some("a settlement that nobody asked for".into());
        };
        if asked != settled || record.commitment != asked.commitment {
            return Some(format!("{} was settled with other values than its job's", asked.epoch_id));
        }
    }
    let clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
    for (intent, client) in intents.iter().zip(clients.iter()) {
        let mine = book.settled.values().any(|(record, _)| record.run_key == intent.run_key);
        let kept = deliverer
            .and_then(|d| d.spool().find(&intent.run_key))
            .is_some_and(|entry| entry.state != State::Pending);
        match &client.told {
            Some(Outcome::Accepted | Outcome::Dup) if !mine => {
                return Some(format!("{} was called settled and is not", intent.epoch_id));
            }
            Some(Outcome::Held { .. } | Outcome::Refused { .. }) if !mine && !kept => {
                return Some(format!("{} was promised and is lost", intent.epoch_id));
            }
            Some(Outcome::Conflict(_)) if mine => {
                return Some(format!("{} was called a conflict and is settled", intent.epoch_id));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::run;

    #[test]
    fn one_seed_is_one_run() {
        for seed in 0..50 {
            let (a, b) = (run(seed, true), run(seed, true));
            let differs = a.trace.iter().zip(&b.trace).find(|(a, b)| a != b);
            assert_eq!(differs, None, "seed {seed}");
            assert_eq!(a.hash, b.hash, "seed {seed}");
        }
        assert_ne!(run(1, false).hash, run(2, false).hash);
    }

    #[test]
    fn the_laws_hold_and_every_fault_occurs() {
        let mut faults = std::collections::BTreeMap::<_, u64>::new();
        for seed in 0..200 {
            let report = run(seed, false);
            assert_eq!(report.broken, None, "replay: rewarder-simulation --seed {seed}");
            for (kind, n) in report.faults {
                *faults.entry(kind).or_default() += n;
            }
        }
        assert!(faults.len() >= 10 && faults.values().all(|n| *n > 0), "{faults:?}");
    }
}
