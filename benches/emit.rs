//! Durable emission: intents a second through spool and embedded ledger, and what the spool adds to one intent beside what one
//! fsync costs on the same disk in the same run.
//!
//!     cargo run --release --example emit [-- INTENTS SUBMITTERS]
//!     cargo run --release --example emit -- --http target/release/svc-ledger [INTENTS]      (benches/emit-http)
//!
//! Goals: 5,000 intents a second; the p99 of the added durability at most three times one fsync. With `--http`: spool and HTTP
//! client against a `svc-ledger`, beside what that ledger can take from clients that keep nothing, in turns; at least 60 %.

use rewarder_emit::{
    Answer, Audit, BreakerConfig, Deliverer, DeliveryConfig, EmbeddedLedger, HealthConfig, HttpLedger, Latch,
    Ledger, QuarantineConfig, ReemitConfig, Spool, State, Surroundings,
};
use rewarder_model::world::Clock;
use rewarder_model::world::disk::{Disk, RealDisk};
use rewarder_model::{Cid, Intent};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
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

/// A load: the throughput that is asked for.
const ARRIVALS_A_SECOND: u64 = 5_000;
/// Rounds of such arrivals.
const TAIL_ROUNDS: usize = 7;

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
    let config = QuarantineConfig { entries_max: 100_000, bytes_max: 1 << 30, ..QuarantineConfig::default() };
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

/// Says `arrive` for `count` arrivals that nothing holds back: `per_second` on average, at random moments.
fn at_random(count: u64, per_second: u64, mut arrive: impl FnMut(u64)) {
    /// In each of these an intent comes or not.
    const SLOT: Duration = Duration::from_micros(10);
    let one_in = 1_000_000 / SLOT.as_micros() as u64 / per_second.max(1);
    let (begun, mut slot, mut sent, mut dice) = (Instant::now(), 0u32, 0, 0x9e37_79b9_7f4a_7c15_u64);
    while sent < count {
        while SLOT * slot < begun.elapsed() && sent < count {
            slot += 1;
            // xorshift64
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            if dice % one_in == 0 {
                arrive(sent);
                sent += 1;
            }
        }
        std::thread::sleep(SLOT);
    }
}

/// How long each of these arrivals waits until the spool has it.
async fn arrivals(spool: &Spool, kind: String, count: u64) -> Result<Vec<Duration>, Bad> {
    let (sender, mut due) = tokio::sync::mpsc::unbounded_channel();
    let clock = std::thread::spawn(move || {
        at_random(count, ARRIVALS_A_SECOND, |n| {
            let _ = sender.send(n);
        })
    });
    let mut tasks = Vec::new();
    while let Some(n) = due.recv().await {
        let spool = spool.clone();
        let intent = intent(&kind, n)?;
        tasks.push(tokio::spawn(async move {
            let begun = Instant::now();
            let entry =
                spool.admit(&intent, State::Sending, false, "", 0).await.map_err(|e| e.to_string())?;
            let took = begun.elapsed();
            spool.settle(entry.seq);
            Ok::<_, String>(took)
        }));
    }
    clock.join().map_err(|_| "the clock broke off")?;
    let mut times = Vec::new();
    for task in tasks {
        times.push(task.await??);
    }
    times.sort();
    Ok(times)
}

/// The least that group commit can cost the same arrivals: `threads` that write what has come, a kilobyte each, over zeros of one
/// file and sync it, and do nothing else. Nobody is woken when it is durable.
fn bare(dir: &Path, threads: usize, count: u64) -> Result<Vec<Duration>, Bad> {
    #[derive(Default)]
    struct Come {
        at: Vec<Instant>,
        written: u64,
        over: bool,
    }
    let file = std::fs::File::create(dir.join("bare"))?;
    for at in 0..=count / 512 {
        file.write_all_at(&[0; 512 * 1024], at << 19)?;
        file.sync_data()?;
    }
    let come = (Mutex::new(Come::default()), Condvar::new());
    let lock = || come.0.lock().unwrap_or_else(PoisonError::into_inner);
    let commit = || {
        let mut times = Vec::new();
        loop {
            let (group, at) = {
                let waits = |come: &mut Come| come.at.is_empty() && !come.over;
                let mut come = come.1.wait_while(lock(), waits).unwrap_or_else(PoisonError::into_inner);
                let group = std::mem::take(&mut come.at);
                if group.is_empty() {
                    return Ok::<_, std::io::Error>(times);
                }
                let at = come.written;
                come.written += group.len() as u64;
                (group, at)
            };
            file.write_all_at(&vec![7; group.len() << 10], at << 10)?;
            file.sync_data()?;
            times.extend(group.iter().map(Instant::elapsed));
        }
    };
    std::thread::scope(|scope| {
        let committers: Vec<_> = (0..threads).map(|_| scope.spawn(commit)).collect();
        at_random(count, ARRIVALS_A_SECOND, |_| {
            lock().at.push(Instant::now());
            come.1.notify_one();
        });
        lock().over = true;
        come.1.notify_all();
        let mut times = Vec::new();
        for committer in committers {
            times.extend(committer.join().map_err(|_| "a committer broke off")??);
        }
        times.sort();
        Ok(times)
    })
}

/// The p99 of arrivals at random moments, beside what nobody can do without: both in turns, since a disk's tail is not the same
/// from one second to the next.
async fn tails(spool: &Spool, dir: &Path, count: u64) -> Result<(), Bad> {
    println!("{ARRIVALS_A_SECOND} intents/s at random moments, p99 in us, {TAIL_ROUNDS} rounds in turns");
    let mut rows = [const { Vec::new() }; 4];
    for round in 0..TAIL_ROUNDS {
        let tail = |times: Vec<Duration>, p| percentile(&times, p).as_micros();
        let fsync = fsyncs(dir, 500)?;
        let row = [
            tail(fsync.clone(), 50),
            tail(bare(dir, 1, count)?, 99),
            tail(bare(dir, 2, count)?, 99),
            tail(arrivals(spool, format!("arrivals-{round}"), count).await?, 99),
        ];
        rows.iter_mut().zip(row).for_each(|(all, one)| all.push(one));
    }
    let names = ["one fsync, p50", "bare threads: one", "bare threads: two", "the spool"];
    rows.iter_mut().for_each(|row| row.sort_unstable());
    let medians = rows.each_ref().map(|row| row[row.len() / 2]);
    for ((name, row), median) in names.iter().zip(&rows).zip(medians) {
        let ratio = median * 100 / medians[0].max(1);
        println!(
            "{name:<28} median {median:>6}   {}.{:02} x one fsync   all {row:?}",
            ratio / 100,
            ratio % 100
        );
    }
    Ok(())
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

/// Emission at full speed.
fn deliverer(
    dir: &Path,
    clock: Arc<dyn Clock>,
    ledger: Arc<dyn Ledger>,
    spool: Spool,
) -> Result<Arc<Deliverer>, Bad> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir)?);
    let latch = Arc::new(Latch::open(Some(disk.clone()), Arc::new(Audit::open(Some(disk))?))?);
    let around = Surroundings {
        ledger,
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
    Ok(Deliverer::new(around, delivery, ReemitConfig::default(), breaker))
}

/// A `svc-ledger` of its own, killed in the end.
struct Peer {
    child: std::process::Child,
    url: String,
}

impl Peer {
    fn start(program: &str, dir: &Path) -> Result<Self, Bad> {
        let mut child = std::process::Command::new(program)
            .args(["--listen", "127.0.0.1:0", "--state-dir"])
            .arg(dir.join("ledger"))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .map_err(|e| format!("{program} cannot be started: {e}; cargo build --release -p svc-ledger"))?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("no stdout")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
        let url = line.trim().strip_prefix("listening on ").ok_or("svc-ledger says no address")?.to_owned();
        Ok(Self { child, url })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `deliver` for `count` intents from `width` tasks; intents a second.
async fn rate<F: std::future::Future<Output = Result<(), String>> + Send>(
    kind: String,
    count: u64,
    width: u64,
    deliver: impl Fn(Intent) -> F + Clone + Send + Sync + 'static,
) -> Result<u128, Bad> {
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..width)
        .map(|_| {
            let (next, deliver, kind) = (next.clone(), deliver.clone(), kind.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return Ok::<_, String>(());
                    }
                    deliver(intent(&kind, n).map_err(|e| e.to_string())?).await?;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(u128::from(count) * 1_000_000 / begun.elapsed().as_micros().max(1))
}

/// Rounds of both, in turns: the machine and its disk are not the same from one second to the next.
const ROUNDS: u64 = 5;
/// Emissions at once: the stage `emit` as it comes, and four times as wide.
const WIDTHS: [u64; 2] = [32, 128];

async fn over_http(program: &str, count: u64) -> Result<(), Bad> {
    let dir = std::env::temp_dir().join(format!("emit-http-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure_http(&dir, program, count).await;
    std::fs::remove_dir_all(&dir)?;
    result
}

async fn measure_http(dir: &Path, program: &str, count: u64) -> Result<(), Bad> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let peer = Peer::start(program, dir)?;
    let ledger = HttpLedger::new(&peer.url);
    let deliverer = deliverer(dir, clock.clone(), Arc::new(ledger.clone()), spool(dir, &*clock).await?)?;
    let (mut bare_best, mut service_best, mut shares) = (0, 0, Vec::new());
    for round in 0..ROUNDS {
        for width in WIDTHS {
            let client = ledger.clone();
            let bare = rate(format!("bare-{round}-{width}"), count, width, move |intent| {
                let client = client.clone();
                async move {
                    match client.submit(&intent).await {
                        Ok(Answer::Accepted) => Ok(()),
                        other => Err(format!("not accepted: {other:?}")),
                    }
                }
            })
            .await?;
            let sender = deliverer.clone();
            let service = rate(format!("service-{round}-{width}"), count, width, move |intent| {
                let sender = sender.clone();
                async move {
                    match sender.deliver(intent).await {
                        Ok(delivered) if delivered.is_settled() => Ok(()),
                        other => Err(format!("not settled: {other:?}")),
                    }
                }
            })
            .await?;
            println!(
                "{width:>4} at once   svc-ledger alone {bare:>7} intents/s   durable emission to it {service:>7} intents/s   {:>3} %",
                service * 100 / bare.max(1)
            );
            (bare_best, service_best) = (bare_best.max(bare), service_best.max(service));
            shares.push(service * 100 / bare.max(1));
        }
    }
    shares.sort_unstable();
    println!(
        "the best of each: {service_best} of {bare_best} intents/s, {} % of the ledger's own ceiling; the median of the turns: {} % \
         (goal: 60 %)",
        service_best * 100 / bare_best.max(1),
        shares.get(shares.len() / 2).copied().unwrap_or_default()
    );
    Ok(())
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
    tails(&spool, dir, count).await?;
    for (name, kind, submitters, count, pause) in [
        ("spool, one at a time", "single", 1, 500, still),
        // As many as the stage `emit` is wide, each resting so that they come to that rate: timers bring them in step.
        ("spool, 32 in step, 5,000/s", "paced", 32, count, Duration::from_millis(5)),
        ("spool, as many as it takes", "group", submitters, count, still),
    ] {
        let fsync = fsyncs(dir, 500)?;
        let begun = Instant::now();
        let times = admissions(&spool, kind, count, submitters, pause).await?;
        show(name, times.len(), begun.elapsed(), &times, &fsync);
    }
    let ledger = EmbeddedLedger::open(Some(dir), &*clock).await?;
    let deliverer = deliverer(dir, clock, Arc::new(ledger.clone()), spool)?;
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
    let mut words = std::env::args().skip(1).peekable();
    let runtime = tokio::runtime::Runtime::new()?;
    if words.next_if(|word| word == "--http").is_some() {
        let program = words.next().ok_or("--http takes the path of svc-ledger")?;
        let count = words.next().map(|word| word.parse()).transpose()?.unwrap_or(10_000);
        return runtime.block_on(over_http(&program, count));
    }
    let mut numbers = words.map(|word| word.parse::<u64>());
    let count = numbers.next().transpose()?.unwrap_or(20_000);
    let submitters = numbers.next().transpose()?.unwrap_or(256);
    runtime.block_on(run(count, submitters))
}
