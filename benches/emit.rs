//! Durable emission: intents a second through spool and embedded ledger, and what the spool adds to one intent beside what one
//! fsync costs on the same disk in the same run.
//!
//!     cargo run --release --example emit [-- INTENTS SUBMITTERS]
//!
//! Goals: 5,000 intents a second; the p99 of the added durability at most three times one fsync.

use rewarder_emit::{
    Audit, BreakerConfig, Deliverer, DeliveryConfig, EmbeddedLedger, HealthConfig, Latch, QuarantineConfig,
    ReemitConfig, Spool, State, Surroundings,
};
use rewarder_model::world::Clock;
use rewarder_model::world::disk::{Disk, RealDisk};
use rewarder_model::{Cid, Intent};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use svc_rewarder::world::{Runtime, SystemClock, SystemEntropy};

type Bad = Box<dyn std::error::Error>;

fn intent(kind: &str, n: u64) -> Result<Intent, Bad> {
    let cid = |what: &str| Cid::of(format!("{kind} {what} {n}").as_bytes());
    Ok(Intent {
        run_key: cid("run"),
        tenant: "acme".parse()?,
        epoch_id: format!("{kind}-{n}").parse()?,
        commitment: cid("manifest"),
        allocations_root: cid("table"),
        asset: "roc".parse()?,
        payout_minor_units: (n + 1).into(),
        recipients: 1,
        policy_hash: cid("policy"),
        inputs_cid: cid("inputs"),
    })
}

/// The value below which `p` of 100 are.
fn percentile(sorted: &[Duration], p: usize) -> Duration {
    sorted.get((sorted.len() * p).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// Times of one append of a record's size and its fdatasync, alone on the disk.
fn fsyncs(dir: &Path, count: usize) -> Result<Vec<Duration>, Bad> {
    let mut file = std::fs::File::create(dir.join("fsync"))?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        file.write_all(&[7; 1024])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times)
}

async fn spool(dir: &Path, clock: &dyn Clock) -> Result<Spool, Bad> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir)?);
    let config = QuarantineConfig { entries_max: 100_000, bytes_max: 1 << 30 };
    Ok(Spool::open(Some(disk), config, clock, Arc::new(Runtime)).await?)
}

/// Takes intents in and settles them, `submitters` at once, each with `pause` between two; the times that each waited.
async fn admissions(
    spool: &Spool,
    kind: &'static str,
    count: u64,
    submitters: u64,
    pause: Duration,
) -> Result<Vec<Duration>, Bad> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for at in 0..submitters {
        let (spool, next) = (spool.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            // Not all at the same moment: jobs do not come in step.
            tokio::time::sleep(pause * at as u32 / submitters as u32).await;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, String>(times);
                }
                let intent = intent(kind, n).map_err(|e| e.to_string())?;
                let begun = Instant::now();
                let entry =
                    spool.admit(&intent, State::Sending, false, "", 0).await.map_err(|e| e.to_string())?;
                times.push(begun.elapsed());
                spool.settle(entry.seq);
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    times.sort();
    Ok(times)
}

/// A row; `fsync` was measured just before, since the disk is not the same from one second to the next.
fn show(name: &str, count: usize, took: Duration, times: &[Duration], fsync: &[Duration]) {
    let ratio = |p| percentile(times, 99).as_nanos() * 100 / percentile(fsync, p).as_nanos().max(1);
    let (median, tail) = (ratio(50), ratio(99));
    println!(
        "{name:<28} {:>8} intents/s   p50 {:>7} us   p99 {:>7} us = {}.{:02} x fsync p50 ({} us), {}.{:02} x fsync p99 ({} us)",
        count as u128 * 1_000_000 / took.as_micros().max(1),
        percentile(times, 50).as_micros(),
        percentile(times, 99).as_micros(),
        median / 100,
        median % 100,
        percentile(fsync, 50).as_micros(),
        tail / 100,
        tail % 100,
        percentile(fsync, 99).as_micros(),
    );
}

async fn run(count: u64, submitters: u64) -> Result<(), Bad> {
    let dir = std::env::temp_dir().join(format!("emit-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure(&dir, count, submitters).await;
    std::fs::remove_dir_all(&dir)?;
    result
}

async fn measure(dir: &Path, count: u64, submitters: u64) -> Result<(), Bad> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let spool = spool(dir, &*clock).await?;
    let still = Duration::ZERO;
    for (name, kind, submitters, count, pause) in [
        ("spool, one at a time", "single", 1, 500, still),
        // As many as the stage `emit` is wide, each resting so that they come to the rate that is the goal.
        ("spool, 32 at once, 5,000/s", "paced", 32, count, Duration::from_millis(5)),
        ("spool, as many as it takes", "group", submitters, count, still),
    ] {
        let fsync = fsyncs(dir, 500)?;
        let begun = Instant::now();
        let times = admissions(&spool, kind, count, submitters, pause).await?;
        show(name, times.len(), begun.elapsed(), &times, &fsync);
    }
    let ledger = EmbeddedLedger::open(Some(dir), &*clock).await?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir)?);
    let latch = Arc::new(Latch::open(Some(disk.clone()), Arc::new(Audit::open(Some(disk))?))?);
    let around = Surroundings {
        ledger: Arc::new(ledger.clone()),
        spool,
        latch,
        clock,
        entropy: Arc::new(SystemEntropy),
        spawn: Arc::new(Runtime),
    };
    // The figure is about durability; full speed on a loaded machine is no brownout.
    let health = HealthConfig { p99_max: Duration::MAX, ..HealthConfig::default() };
    let breaker = BreakerConfig { health, ..BreakerConfig::default() };
    let deadline = Duration::from_secs(20);
    let delivery = DeliveryConfig { deadline, attempt: deadline, ..DeliveryConfig::default() };
    let deliverer = Deliverer::new(around, delivery, ReemitConfig::default(), breaker);
    let next = Arc::new(AtomicU64::new(0));
    let fsync = fsyncs(dir, 500)?;
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..submitters {
        let (deliverer, next) = (deliverer.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, String>(times);
                }
                let intent = intent("whole", n).map_err(|e| e.to_string())?;
                let begun = Instant::now();
                let delivered = deliverer.deliver(intent).await.map_err(|e| e.to_string())?;
                if !delivered.is_settled() {
                    return Err(format!("not settled: {delivered:?}"));
                }
                times.push(begun.elapsed());
            }
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let took = begun.elapsed();
    times.sort();
    show("spool and embedded ledger", times.len(), took, &times, &fsync);
    let settled = ledger.count()?;
    println!("{settled} settlements of {count} intents");
    if settled != count {
        return Err("intents and settlements differ".into());
    }
    Ok(())
}

fn main() -> Result<(), Bad> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let count = numbers.next().transpose()?.unwrap_or(20_000);
    let submitters = numbers.next().transpose()?.unwrap_or(256);
    tokio::runtime::Runtime::new()?.block_on(run(count, submitters))
}
