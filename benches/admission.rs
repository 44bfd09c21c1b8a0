//! Load for `testing/overload`: more than a service can serve, from many tenants, and names without end.
//!
//! ```text
//! admission ledger DELAY_MS                          a ledger that accepts everything, so late; prints its address
//! admission load ADDR PLAN SECONDS GROUP=RATE…       open loop: requests leave at their rates, whatever comes back
//! admission names ADDR KEYS COUNT                    as many tenants, one request each
//! ```
//!
//! Open loop and not closed: a client that waits for its answer before it asks again slows down with the service and hides what
//! overload does to the others. PLAN has a line for each request, `group TAB token TAB path TAB body`; one that is refused goes
//! back to the end of its group, so each is served once. Requests of a group leave evenly. Latency counts from the moment at
//! which a request was due, so that a generator that is late does not flatter the service.
//!
//! HTTP/1.1 by hand on kept connections: a client library would cost more than the refusals that are measured.

use rewarder_admit::{Caveat, Keyring};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use svc_rewarder::world::SystemEntropy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Longest that an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest head and body of an answer; ours are about a kilobyte.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Connections that carry a million names.
const NAMES_CONNECTIONS: usize = 32;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match words[..] {
            ["ledger", delay_ms] => ledger(Duration::from_millis(delay_ms.parse()?)).await,
            ["load", addr, plan, seconds, ref rates @ ..] if !rates.is_empty() => {
                load(addr.parse()?, Path::new(plan), seconds.parse()?, rates).await
            }
            ["names", addr, keys, count] => names(addr.parse()?, Path::new(keys), count.parse()?).await,
            _ => Err("the arguments are those of the first lines of benches/admission.rs".into()),
        }
    })
}

/// What is read of one message: its first line's second word, whether its connection lives on, its length with the head.
struct Head {
    word: String,
    keep: bool,
    whole: usize,
}

/// Reads the head of a message that has its length in it.
fn head(bytes: &[u8]) -> Option<Result<Head, Failure>> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let read = || -> Result<Head, Failure> {
        let text = std::str::from_utf8(&bytes[..end])?;
        let mut lines = text.split("\r\n");
        let word = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no first line")?.to_owned();
        let fields: HashMap<String, &str> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value))
            .collect();
        let length: usize = fields.get("content-length").map_or(Ok(0), |length| length.parse())?;
        let keep = fields.get("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
        Ok(Head { word, keep, whole: end + length })
    };
    Some(read())
}

/// Reads one message; `None` at the end of the stream.
async fn message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Head>, Failure> {
    buffer.clear();
    loop {
        if let Some(head) = head(buffer) {
            let head = head?;
            if buffer.len() >= head.whole {
                return Ok(Some(head));
            }
        }
        if buffer.len() > ANSWER_BYTES_MAX {
            return Err("a message that is too long".into());
        }
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err("a message that is cut off".into()) };
        }
    }
}

async fn ledger(delay: Duration) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Ok(Some(_)) = message(&mut stream, &mut buffer).await {
                let answer: &[u8] = if buffer.starts_with(b"POST") {
                    tokio::time::sleep(delay).await;
                    b"HTTP/1.1 201 Created\r\nContent-Length: 21\r\n\r\n{\"result\":\"accepted\"}"
                } else {
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
                };
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Connections that nobody uses at the moment.
#[derive(Clone)]
struct Connections {
    addr: SocketAddr,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl Connections {
    /// Sends a request and reads its answer's status.
    async fn ask(&self, request: &[u8], buffer: &mut Vec<u8>) -> Result<u16, Failure> {
        let kept = lock(&self.idle).pop();
        let mut stream = match kept {
            Some(stream) => stream,
            None => TcpStream::connect(self.addr).await?,
        };
        let _ = stream.set_nodelay(true);
        stream.write_all(request).await?;
        let head = message(&mut stream, buffer).await?.ok_or("closed before it answered")?;
        if head.keep {
            lock(&self.idle).push(stream);
        }
        Ok(head.word.parse()?)
    }
}

fn post(addr: SocketAddr, token: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One group's requests and what became of them.
#[derive(Default)]
struct Group {
    waiting: Mutex<VecDeque<Vec<u8>>>,
    sent: AtomicUsize,
    /// No request was left when one was due.
    starved: AtomicUsize,
    /// No answer, or a broken connection.
    broken: AtomicUsize,
    answers: Mutex<BTreeMap<u16, usize>>,
    /// Of those that were served: when it was there, and how long it took.
    served: Mutex<Vec<(Duration, Duration)>>,
}

async fn load(addr: SocketAddr, plan: &Path, seconds: u64, rates: &[&str]) -> Result<(), Failure> {
    let mut groups = Vec::<(String, u32, Arc<Group>)>::new();
    for rate in rates {
        let (name, rate) = rate.split_once('=').ok_or("a rate is GROUP=RATE")?;
        groups.push((name.to_owned(), rate.parse()?, Arc::default()));
    }
    for line in std::fs::read_to_string(plan)?.lines() {
        let mut parts = line.split('\t');
        let mut part = || parts.next().ok_or("a line of the plan has four parts");
        let (name, token, path, body) = (part()?, part()?, part()?, part()?);
        if let Some((_, _, group)) = groups.iter().find(|group| group.0 == name) {
            lock(&group.waiting).push_back(post(addr, token, path, body));
        }
    }
    let connections = Connections { addr, idle: Arc::default() };
    let (begun, over) = (Instant::now(), Duration::from_secs(seconds));
    let senders: Vec<_> = groups
        .iter()
        .map(|(_, rate, group)| tokio::spawn(send(group.clone(), *rate, connections.clone(), begun, over)))
        .collect();
    for sender in senders {
        sender.await?;
    }
    let told: serde_json::Map<String, serde_json::Value> =
        groups.iter().map(|(name, rate, group)| (name.clone(), told(group, *rate, over))).collect();
    println!("{}", serde_json::Value::Object(told));
    Ok(())
}

/// Sends a group's requests at their times, and waits for all answers.
async fn send(group: Arc<Group>, rate: u32, connections: Connections, begun: Instant, over: Duration) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0u32.. {
        let due = Duration::from_secs(1) * n / rate.max(1);
        if due >= over || rate == 0 {
            break;
        }
        tokio::time::sleep_until((begun + due).into()).await;
        while tasks.try_join_next().is_some() {}
        let Some(request) = lock(&group.waiting).pop_front() else {
            group.starved.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (group, connections) = (group.clone(), connections.clone());
        tasks.spawn(async move {
            group.sent.fetch_add(1, Ordering::Relaxed);
            let mut buffer = Vec::new();
            match tokio::time::timeout(PATIENCE, connections.ask(&request, &mut buffer)).await {
                Ok(Ok(status)) => {
                    *lock(&group.answers).entry(status).or_default() += 1;
                    if status == 200 {
                        let there = begun.elapsed();
                        lock(&group.served).push((there, there.saturating_sub(due)));
                    } else {
                        lock(&group.waiting).push_back(request);
                    }
                }
                _ => {
                    group.broken.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    tasks.join_all().await;
}

fn told(group: &Group, rate: u32, over: Duration) -> serde_json::Value {
    let served = lock(&group.served);
    let mut times: Vec<u128> = served.iter().map(|(_, took)| took.as_micros()).collect();
    times.sort_unstable();
    let at = |share: usize| {
        times.get((times.len() * share / 1000).min(times.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    // What is served after the load has ended was not served under it.
    let in_time = served.iter().filter(|(there, _)| *there <= over).count();
    serde_json::json!({
        "rate": rate,
        "sent": group.sent.load(Ordering::Relaxed),
        "starved": group.starved.load(Ordering::Relaxed),
        "broken": group.broken.load(Ordering::Relaxed),
        "answers": lock(&group.answers).iter().map(|(status, n)| (status.to_string(), *n)).collect::<BTreeMap<_, _>>(),
        "served": times.len(),
        "served_in_time": in_time,
        "p50_us": at(500) as u64,
        "p99_us": at(990) as u64,
        "max_us": at(1000) as u64,
    })
}

/// Shows a capability of its own for each of `count` tenants.
async fn names(addr: SocketAddr, keys: &Path, count: usize) -> Result<(), Failure> {
    let ring = Arc::new(Keyring::load(keys)?);
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..NAMES_CONNECTIONS {
        let (ring, next) = (ring.clone(), next.clone());
        let connections = Connections { addr, idle: Arc::default() };
        tasks.spawn(async move {
            let (mut answers, mut buffer) = (BTreeMap::<u16, usize>::new(), Vec::new());
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, Failure>(answers);
                }
                let caveats: [Caveat; 2] =
                    [format!("tenant = made-up-{n}").parse()?, "scope = rewarder.inspect".parse()?];
                let token = ring.mint(&caveats, &SystemEntropy)?;
                let request = format!(
                    "GET /rewarder/policy/p HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\n\r\n"
                );
                *answers.entry(connections.ask(request.as_bytes(), &mut buffer).await?).or_default() += 1;
            }
        });
    }
    let mut answers = BTreeMap::<String, usize>::new();
    while let Some(done) = tasks.join_next().await {
        for (status, n) in done?? {
            *answers.entry(status.to_string()).or_default() += n;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({ "names": count, "seconds": seconds, "answers": answers }));
    Ok(())
}
