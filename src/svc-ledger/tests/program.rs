//! The built program, as others meet it: the conformance suite through a real socket with `kill -9` between, every answer of
//! the protocol, the bounds, and the end. No case waits by a clock: whatever has to happen ends a blocking read.

use rewarder_emit::conformance::{self, Bed, intent};
use rewarder_emit::{HttpLedger, Ledger};
use rewarder_model::world::BoxFuture;
use rewarder_model::{Cid, Intent};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A read that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(60);
/// Starts on the same address: in between, another process may have been given the port for a moment.
const STARTS_MAX: usize = 50;

/// The program on a directory of its own.
struct Program {
    child: Child,
    dir: TempDir,
    address: String,
    arguments: Vec<String>,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (child, address) = spawn(&dir, "127.0.0.1:0", &arguments).expect("a free port");
        Self { child, dir, address, arguments }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        for _ in 0..STARTS_MAX {
            if let Some((child, address)) = spawn(&self.dir, &self.address, &self.arguments) {
                assert_eq!(address, self.address);
                self.child = child;
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} cannot be had again", self.address);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes, and reads what comes until the ledger closes the connection.
    fn raw(&self, bytes: &[u8]) -> Said {
        let mut stream = self.connect();
        // It may be refused, and the connection closed, before it is sent to its end.
        let _ = stream.write_all(bytes);
        read(stream)
    }

    fn get(&self, target: &str) -> Said {
        self.raw(format!("GET {target} HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n").as_bytes())
    }

    fn post(&self, headers: &str, body: &str) -> Said {
        self.raw(post(headers, body).as_bytes())
    }

    fn submit(&self, intent: &Intent) -> Said {
        self.post(&key(&intent.run_key), &serde_json::to_string(intent).unwrap())
    }

    fn listed(&self, query: &str) -> Vec<Intent> {
        let (mut all, mut after) = (Vec::<Intent>::new(), String::new());
        loop {
            let said = self.get(&format!("/settlements?{query}{after}"));
            assert_eq!(said.status, 200, "{said:?}");
            let page = said.json();
            all.extend(serde_json::from_value::<Vec<Intent>>(page["settlements"].clone()).unwrap());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return all,
            }
        }
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }

    fn command(&self, word: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_svc-ledger"));
        command.arg(word).arg("--state-dir").arg(self.dir.path());
        if word == "serve" {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.output().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &TempDir, listen: &str, arguments: &[String]) -> Option<(Child, String)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_svc-ledger"))
        .args(["--listen", listen, "--state-dir"])
        .arg(dir.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    match line.trim().strip_prefix("listening on http://") {
        Some(address) => Some((child, address.to_owned())),
        None => {
            assert!(!child.wait().unwrap().success(), "it ended, and said nothing: {line:?}");
            None
        }
    }
}

/// A response as it came.
#[derive(Debug)]
struct Said {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

fn read(mut stream: TcpStream) -> Said {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else { return Said { status: 0, head: String::new(), body: bytes } };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
    Said { status: head[9..12].parse().unwrap(), head, body: bytes[end + 4..].to_vec() }
}

fn post(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /intents HTTP/1.1\r\nhost: l\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

fn key(run_key: &Cid) -> String {
    format!("content-type: application/json\r\nidempotency-key: {run_key}\r\n")
}

impl Bed for Program {
    fn client(&self) -> Arc<dyn Ledger> {
        Arc::new(HttpLedger::new(&self.url()))
    }

    fn settlements(&self) -> BoxFuture<'_, Vec<Intent>> {
        Box::pin(async { tokio::task::block_in_place(|| self.listed("limit=37")) })
    }

    fn crash(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            tokio::task::block_in_place(|| {
                self.kill();
                self.start_again();
            });
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conformance_suite_with_kill_9_between() {
    conformance::whole(&mut Program::start(&[])).await;
}

#[test]
fn every_answer_of_the_protocol() {
    let ledger = Program::start(&[]);
    let ours = intent("answers", 1);
    let json = serde_json::to_string(&ours).unwrap();
    let stands = |said: &Said, status, result: &str, run: &Intent| {
        assert_eq!(said.status, status, "{said:?}");
        assert!(said.head.contains("content-type: application/json"), "{said:?}");
        let said = said.json();
        let expected = (result, &*run.run_key.to_string(), &*run.commitment.to_string());
        let word = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        assert_eq!((&*word("result"), &*word("run_key"), &*word("commitment")), expected);
    };
    let refused = |said: Said, status, reason: &str| {
        assert_eq!(said.status, status, "{reason}: {said:?}");
        assert!(said.head.contains("content-type: application/problem+json"), "{said:?}");
        let problem = said.json();
        assert_eq!(problem["reason"], reason, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        assert!(!problem.to_string().contains("secret"), "a payload is echoed: {problem}");
    };
    let key = key(&ours.run_key);

    // What is no intent settles nothing.
    let plain = key.replace("application/json", "text/plain");
    refused(ledger.post(&plain, &json), 415, "media_type");
    for body in [
        "",
        "secret",
        "[]",
        "{}",
        &format!("{json} secret"),
        &json.replace("\"tenant\":\"acme\"", "\"tenant\":\"Secret\""),
        &json.replacen('{', "{\"secret\":1,", 1),
        &json.replacen('{', "{\"tenant\":\"acme\",", 1),
        &json.replace("\"payout_minor_units\":\"2\"", "\"payout_minor_units\":2"),
        &json.replace("\"recipients\":1", "\"recipients\":1.0"),
    ] {
        assert_ne!(body, json);
        refused(ledger.post(&key, body), 400, "schema");
    }
    let other = intent("answers", 2);
    for headers in [
        "content-type: application/json\r\n".to_owned(),
        self::key(&other.run_key),
        format!("{key}idempotency-key: {}\r\n", ours.run_key),
        key.replace("b3:", "B3:"),
    ] {
        refused(ledger.post(&headers, &json), 422, "idempotency_key");
    }
    refused(ledger.post(&key, &format!("{json}{}", " ".repeat(9000))), 413, "body_too_big");
    let chunked = format!(
        "POST /intents HTTP/1.1\r\nhost: l\r\nconnection: close\r\ntransfer-encoding: chunked\r\n{key}\r\n2400\r\n{}\r\n0\r\n\r\n",
        " ".repeat(0x2400)
    );
    refused(ledger.raw(chunked.as_bytes()), 413, "body_too_big");
    refused(ledger.get(&format!("/intents/{}", ours.run_key)), 404, "not_settled");
    refused(ledger.get("/intents/b3:secret"), 400, "path");
    refused(ledger.get("/secret"), 404, "no_route");
    for (method, target, allow) in [
        ("GET", "/intents", "post"),
        ("PUT", "/intents/x", "get, head"),
        ("POST", "/settlements", "get, head"),
        ("DELETE", "/metrics", "get, head"),
    ] {
        let request = format!("{method} {target} HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n");
        let said = ledger.raw(request.as_bytes());
        assert!(said.head.contains(&format!("allow: {allow}")), "{said:?}");
        refused(said, 405, "method");
    }
    for query in ["tenant", "tenant=Secret", "after=acme", "after=acme/", "limit=0", "limit=1001", "secret=1"]
    {
        refused(ledger.get(&format!("/settlements?{query}")), 400, "path");
    }
    assert_eq!(ledger.listed(""), []);

    // White space is no difference; what is settled is what is stored.
    stands(&ledger.post(&key, &format!(" {json}\n")), 201, "accepted", &ours);
    stands(&ledger.submit(&ours), 200, "dup", &ours);
    let forged = Intent { commitment: Cid::of(b"forged"), ..ours.clone() };
    stands(&ledger.submit(&forged), 200, "dup", &ours);
    let rival = Intent { run_key: Cid::of(b"rival"), ..ours.clone() };
    stands(&ledger.submit(&rival), 409, "conflict", &ours);
    let moved = Intent { epoch_id: "elsewhere".parse().unwrap(), ..ours.clone() };
    refused(ledger.submit(&moved), 422, "run_key_elsewhere");
    let found = ledger.get(&format!("/intents/{}", ours.run_key));
    stands(&found, 200, "accepted", &ours);
    let mut members = found.json();
    members.as_object_mut().unwrap().remove("result");
    assert_eq!(members, serde_json::to_value(&ours).unwrap(), "the whole intent");
    let head = format!("HEAD /intents/{} HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n", ours.run_key);
    let head = ledger.raw(head.as_bytes());
    assert_eq!((head.status, head.body.len()), (200, 0));

    // Auditors read everything, in pages.
    for n in 2..6 {
        assert_eq!(ledger.submit(&intent("answers", n)).status, 201);
    }
    let expected: Vec<_> = (1..6).map(|n| intent("answers", n)).collect();
    for query in ["", "limit=1", "limit=2", "limit=5", "tenant=acme&limit=3", "tenant=acme"] {
        assert_eq!(ledger.listed(query), expected, "{query}");
    }
    assert_eq!(ledger.listed("tenant=other"), []);
    assert_eq!(ledger.listed("after=acme%2Fanswers-3"), expected[3..]);

    assert_eq!(ledger.get("/healthz").body, b"ok\n");
    let metrics = String::from_utf8(ledger.get("/metrics").body).unwrap();
    for (name, count) in [
        ("svc_ledger_intents_total{result=\"accepted\"}", 5),
        ("svc_ledger_intents_total{result=\"dup\"}", 2),
        ("svc_ledger_intents_total{result=\"conflict\"}", 1),
        ("svc_ledger_settlements", 5),
    ] {
        assert!(metrics.contains(&format!("\n{name} {count}\n")), "{name} {count} in {metrics}");
    }
}

/// A slow body is answered, a silent connection closed, and a reader that does not read let go.
#[test]
fn nobody_holds_a_connection_for_ever() {
    let ledger = Program::start(&["--read-timeout-s", "1", "--write-timeout-s", "1"]);
    let request = post(&key(&intent("slow", 1).run_key), &" ".repeat(100));
    let said = ledger.raw(&request.as_bytes()[..request.len() - 50]);
    assert_eq!((said.status, said.json()["reason"].as_str()), (408, Some("body_timeout")), "{said:?}");
    for beginning in ["", "POST /int", "POST /intents HTTP/1.1\r\nhost: l\r\n"] {
        let said = ledger.raw(beginning.as_bytes());
        assert!(matches!(said.status, 0 | 408), "{said:?}");
    }
    // Settlements enough for an answer that no socket buffer takes whole, many times over.
    let mut stream = ledger.connect();
    for n in 0..1000 {
        let one = intent("page", n);
        let body = serde_json::to_string(&one).unwrap();
        let request = post(&key(&one.run_key), &body).replace("connection: close\r\n", "");
        stream.write_all(request.as_bytes()).unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\"}") {
            let mut byte = [0; 1024];
            let count = stream.read(&mut byte).unwrap();
            assert_ne!(count, 0, "closed early");
            seen.extend_from_slice(&byte[..count]);
        }
    }
    let mut deaf = ledger.connect();
    let request = "GET /settlements HTTP/1.1\r\nhost: l\r\n\r\n";
    let mut sent = 0;
    // Until the ledger hangs up; it holds no more than its buffer of what it has not read.
    while deaf.write_all(request.as_bytes()).is_ok() {
        sent += 1;
        assert!(sent < 10_000_000, "it reads for ever and writes to nobody");
    }
    assert_eq!(ledger.get("/healthz").status, 200);
}

#[test]
fn connections_are_bounded_and_come_in_turn() {
    let ledger = Program::start(&["--connections-max", "2"]);
    let idle = [ledger.connect(), ledger.connect()];
    // Both are accepted: they are answered.
    for mut stream in &idle {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: l\r\n\r\n").unwrap();
        assert_ne!(stream.read(&mut [0; 1024]).unwrap(), 0);
    }
    let mut third = ledger.connect();
    third.write_all(b"GET /healthz HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n").unwrap();
    third.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(third.read(&mut [0; 1]).is_err(), "a third was served while two are the most");
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(idle);
    assert_eq!(read(third).status, 200);
}

#[test]
fn it_stops_when_told_and_what_stands_can_be_read() {
    let mut ledger = Program::start(&[]);
    let settled: Vec<_> = (0..3).map(|n| intent("end", n)).collect();
    for intent in &settled {
        assert_eq!(ledger.submit(intent).status, 201);
    }
    // One writer: a second program, and the dump, say what to do instead.
    for (word, says) in
        [("serve", "in use by another process"), ("dump", "GET /settlements asks a running one")]
    {
        let told = ledger.command(word);
        assert_eq!(told.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&told.stderr).contains(says), "{told:?}");
    }
    let idle = ledger.connect();
    ledger.signal("TERM");
    assert!(ledger.child.wait().unwrap().success(), "a graceful end");
    assert!(read(idle).body.is_empty());
    assert!(TcpStream::connect(&ledger.address).is_err());
    let dumped = ledger.command("dump");
    assert!(dumped.status.success(), "{dumped:?}");
    let lines = String::from_utf8(dumped.stdout).unwrap();
    let dumped: Vec<Intent> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(dumped, settled);
    // A directory without a ledger is a mistake, not an empty ledger.
    std::fs::remove_file(ledger.dir.path().join("ledger.redb")).unwrap();
    let told = ledger.command("dump");
    assert_eq!(told.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(ledger.dir.path()).unwrap().count(), 0);
}
