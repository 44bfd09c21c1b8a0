//! What strangers' bytes may do, one function a parser. Each says what has to hold whatever comes in; a panic is a finding.
//!
//! Used twice: by the fuzzer of this folder, coverage-guided, and by `cargo test`, over the committed corpora
//! (`replay.rs`). So they depend on nothing but the house.

use http::Request;
use rewarder_admit::capability::{Caveat, Keyring, attenuate, bind, inspect};
use rewarder_decode::{
    DecodeError, Decoded, Dictionary, Progress, RowSink, Rows, actor_rows, decode, header_of,
};
use rewarder_model::{Amount, Bits, Cid, Manifest, Policy, SnapshotHeader};
use rewarder_seal::{Bounds, Input, SealOptions, Silent, examine};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::time::Duration;
use svc_rewarder::edge::hostile;
use svc_rewarder::proof;

/// A parser and its law.
pub type Target = fn(&[u8]);

/// All of them, by name; `corpus/` has a folder for each.
pub const TARGETS: &[(&str, Target)] = &[
    ("snapshot", snapshot),
    ("policy", policy),
    ("capability", capability),
    ("body", body),
    ("request", request),
    ("config", config),
    ("manifest", manifest),
    ("proof", proof_of_payout),
    ("csv", csv),
    ("ndjson", ndjson),
    ("columnar", columnar),
];

/// Messages go to terminals and logs: no bytes of a stranger may move a cursor.
fn fit_to_print(message: &str) {
    let odd = message.chars().find(|c| c.is_control() && *c != '\n');
    assert!(odd.is_none(), "a message holds {odd:?}: {message:?}");
}

// ------------------------------------------------------------------------------------------------------------ snapshot

/// Sums by actor and category.
#[derive(Debug)]
struct Sums;

type Lane = BTreeMap<(u32, u8), (u64, u128)>;

impl RowSink for Sums {
    type Lane = Lane;

    fn lane_bytes(&self) -> u64 {
        1 << 10
    }

    fn lane(&self) -> Lane {
        Lane::new()
    }

    fn rows(&self, lane: &mut Lane, rows: Rows<'_>) {
        for (actor, category, units) in rows.iter() {
            let sum = lane.entry((actor, category)).or_default();
            sum.0 += 1;
            sum.1 += u128::from(units);
        }
    }

    /// The first three names, which are looked at afterwards.
    fn wanted(&self, _: &mut Vec<Lane>) -> Option<Bits> {
        let mut wanted = Bits::none(3);
        (0..3).for_each(|index| wanted.insert(index));
        Some(wanted)
    }
}

fn decoded(bytes: &[u8], expected: Option<Cid>) -> Result<Decoded<Sums, Lane>, DecodeError> {
    decode(bytes, expected, &Progress::default(), |_: &SnapshotHeader, _: usize, _: &Dictionary| Some(Sums))
}

/// Nothing is said of bytes that are not the ones asked for; what decodes decodes to the same, whoever asks; and the other two
/// readers of a snapshot see what decode saw.
fn snapshot(bytes: &[u8]) {
    let cid = Cid::of(bytes);
    let other = decoded(bytes, Some(Cid::of(b"other")));
    assert!(matches!(other, Err(DecodeError::CidMismatch)), "said of the wrong bytes: {other:?}");
    let snapshot = match (decoded(bytes, None), decoded(bytes, Some(cid))) {
        (Ok(a), Ok(b)) => {
            assert_eq!((a.cid, &a.header, a.rows), (cid, &b.header, b.rows));
            a
        }
        (Err(a), Err(b)) => {
            assert_eq!(a.to_string(), b.to_string());
            fit_to_print(&a.to_string());
            let _ = header_of(bytes);
            let _ = actor_rows(bytes, b"ann", true);
            let _ = actor_rows(bytes, b"ann", false);
            return;
        }
        (a, b) => panic!("the CID decides whether it decodes: {a:?}, {b:?}"),
    };
    let header = header_of(bytes);
    assert_eq!(header.as_ref().ok(), Some(&snapshot.header), "{header:?}");
    let mut sums = Lane::new();
    for lane in snapshot.lanes {
        for (key, (rows, units)) in lane {
            let sum = sums.entry(key).or_default();
            *sum = (sum.0 + rows, sum.1 + units);
        }
    }
    assert_eq!(sums.values().map(|(rows, _)| rows).sum::<u64>(), snapshot.rows);
    let sorted = snapshot.actors.order().is_none();
    for index in 0..snapshot.actors.len().min(3) {
        let name = snapshot.actors.value(index);
        let found =
            actor_rows(bytes, name, sorted).unwrap_or_else(|e| panic!("decoded, and then not found: {e}"));
        let Some(found) = found else { panic!("a name of the dictionary is not found") };
        let own = || sums.iter().filter(|((actor, _), _)| *actor as usize == index);
        assert_eq!(found.rows, own().map(|(_, (rows, _))| rows).sum::<u64>());
        assert_eq!(found.units.values().sum::<u128>(), own().map(|(_, (_, units))| units).sum::<u128>());
    }
}

// -------------------------------------------------------------------------------------------------------------- policy

/// What is read is JSON, is read again as the same, and keeps its bounds.
fn policy(bytes: &[u8]) {
    match Policy::parse(bytes) {
        Err(e) => {
            let message = e.to_string();
            fit_to_print(&message);
            assert!(message.len() < 400, "a message that repeats what it read: {message}");
        }
        Ok(policy) => {
            let value: serde_json::Value = serde_json::from_slice(bytes).expect("a policy is JSON");
            assert_eq!(value["id"], policy.id().as_str());
            assert_eq!(value["weights"].as_object().map(serde_json::Map::len), Some(policy.weights().len()));
            assert_eq!(policy.hash(), Cid::of(bytes));
            assert!(policy.scale() <= 18);
            assert_eq!(Policy::parse(bytes).as_ref(), Ok(&policy));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- capability

const NOW: Duration = Duration::from_secs(1_780_000_000);

/// Counts up: enough for nonces that have to differ only.
struct Counting;

impl rewarder_model::world::Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for (value, byte) in (1..).zip(bytes) {
            *byte = value;
        }
    }
}

fn keyring() -> &'static Keyring {
    static RING: OnceLock<Keyring> = OnceLock::new();
    RING.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("rewarder-fuzz-keys-{}.json", std::process::id()));
        let keys = format!(r#"{{"keys":[{{"id":"k1","secret_hex":"{}"}}]}}"#, "07".repeat(32));
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, keys.as_bytes()));
        let ring = written.map(|()| Keyring::load(&path));
        let _ = std::fs::remove_file(&path);
        ring.expect("the temporary folder takes a file").expect("the key file is of its form")
    })
}

/// What each genuine token says, beside its location, which no signature covers.
fn genuine() -> &'static BTreeSet<(String, Vec<String>)> {
    static SAID: OnceLock<BTreeSet<(String, Vec<String>)>> = OnceLock::new();
    SAID.get_or_init(|| {
        genuine_tokens().iter().map(|token| said(token).expect("it was minted here")).collect()
    })
}

/// Tokens that verify: seeds of the corpus.
pub fn genuine_tokens() -> Vec<String> {
    let caveat = |text: &str| text.parse::<Caveat>().expect("a caveat of the contract");
    let first = keyring()
        .mint(&[caveat("tenant = acme"), caveat("scope = rewarder.run rewarder.inspect")], &Counting);
    let first = first.expect("a tenant and a scope are there");
    let more = [
        "epoch_prefix = 2026-",
        "expires = 2036-01-01T00:00:00Z",
        "max_pool_minor_units = 9",
        "dry_run = true",
    ];
    let mut tokens = vec![first];
    for text in more {
        let narrowed = attenuate(&tokens[tokens.len() - 1], &caveat(text));
        tokens.push(narrowed.expect("there is room for a caveat"));
    }
    tokens
}

fn said(token: &str) -> Option<(String, Vec<String>)> {
    let inspection = inspect(token, NOW).ok()?;
    Some((inspection.identifier, inspection.caveats.into_iter().map(|caveat| caveat.text).collect()))
}

/// What verifies says word for word what a genuine token says; narrowing makes nothing verify.
fn capability(bytes: &[u8]) {
    let token = String::from_utf8_lossy(bytes);
    if let Ok(inspection) = inspect(&token, NOW) {
        fit_to_print(&inspection.to_string());
    }
    let holds = |token: &str| match keyring().verify(token, NOW) {
        Ok(_) => true,
        Err(denied) => {
            fit_to_print(&denied.detail);
            false
        }
    };
    let verified = holds(&token);
    if verified {
        let said = said(&token);
        assert!(said.as_ref().is_some_and(|said| genuine().contains(said)), "a forgery verifies: {said:?}");
    }
    if let Ok(narrowed) = attenuate(&token, &"dry_run = true".parse().expect("a caveat of the contract")) {
        assert!(verified || !holds(&narrowed), "narrowed, it verifies");
    }
    let parts: Vec<&str> = token.split(',').collect();
    if let Ok(bound) = bind(parts[0], parts[1..].iter().copied()) {
        assert!(verified || !holds(&bound) || said(&bound).is_some_and(|said| genuine().contains(&said)));
    }
}

// ---------------------------------------------------------------------------------------------------------------- edge

/// Nothing grows beyond what was allowed. The first byte says how it is compressed and what is allowed.
fn body(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let (limit, ratio) = (1 << (4 + (how >> 4)), 1 + u64::from(how >> 2 & 3) * 5);
    match hostile::decompress(bytes.to_vec(), *how, limit, ratio) {
        Err(refusal) => fit_to_print(&refusal.detail),
        Ok(out) => {
            let grown = out.len() as u64;
            assert!(how % 4 == 0 || grown <= limit.min(ratio * bytes.len() as u64), "{grown} bytes came out");
            if let Err(refusal) = hostile::compute_body(&out) {
                fit_to_print(&refusal.detail);
            }
        }
    }
}

/// The head of a request, line by line: the target, then `name: value`.
fn request(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut builder = Request::builder().uri(lines.next().unwrap_or_default());
    for line in lines.take(32) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        builder = builder.header(name, value.trim_ascii());
    }
    // What is no request at all the library refuses before us.
    let Ok(request) = builder.body(()) else { return };
    match hostile::request_head(&request) {
        Err(refusal) => fit_to_print(&refusal.detail),
        Ok(corr_id) => {
            let sane = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
            assert!((1..=64).contains(&corr_id.len()) && corr_id.chars().all(sane), "{corr_id:?}");
        }
    }
}

/// A settings file, and after a NUL the environment.
fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (file, variables) = text.split_once('\0').unwrap_or((&text, ""));
    let environment = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    match svc_rewarder::config::parse(file, &environment) {
        Err(e) => assert!(!e.to_string().is_empty()),
        Ok(settings) => {
            assert!(settings.snapshot_max_bytes <= settings.store_max_bytes);
            assert!(settings.stages.each().iter().all(|(_, stage)| stage.width().get() > 0));
            let mut shown = String::new();
            let _ = write!(shown, "{settings:?}");
            assert!(!shown.is_empty());
        }
    }
}

// ------------------------------------------------------------------------------------------------------ foreign results

/// `ronctl replay` and `diff`: what is compared is told without moving a cursor; a manifest is canonical in one way.
fn manifest(bytes: &[u8]) {
    use ronctl::replay::{differences, not_canonical, object, told};
    const OURS: &str =
        r#"{"kernel":"v1","totals":{"recipients":2,"payout_minor_units":"7"},"tenant":"acme"}"#;
    if let Some(theirs) = object(bytes) {
        let ours = object(OURS.as_bytes()).unwrap_or_default();
        let found = differences(&ours, &theirs);
        assert_eq!(found.is_empty(), ours == theirs);
        for difference in &found {
            fit_to_print(&told(difference, "different", ["ours", "theirs"]));
        }
        assert!(differences(&theirs, &theirs).is_empty());
    }
    fit_to_print(&told(&not_canonical(OURS.as_bytes(), bytes), "different", ["ours", "theirs"]));
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let canonical = manifest.to_canonical_bytes();
        assert_eq!(serde_json::from_slice::<Manifest>(&canonical).ok().as_ref(), Some(&manifest));
        assert_eq!(manifest.commitment(), Cid::of(&canonical));
    }
}

/// The table whose proofs are the corpus: more than two chunks, so that there is a tree.
pub fn proved_table() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| {
        (0..160).flat_map(|i| format!("actor-{:04}\t{}\n", 2 * i, i * 31 + 1).into_bytes()).collect()
    })
}

/// Whatever a proof looks like, it shows what the table says or nothing. The first line names the actor.
fn proof_of_payout(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (actor, rest) = bytes.split_at(at);
    let Ok(proof) = ronctl::verify_proof::read(rest) else { return };
    let text = proved_table();
    match proof.verify(&Cid::of(text), actor) {
        Err(e) => fit_to_print(&e.to_string()),
        Ok(payout) => {
            let truth = proof::payout(text, &proof::find(text, actor));
            assert_eq!(payout.map(|payout| payout.to_string()), truth, "a proof of what is not so");
        }
    }
    let claimed = proof.root;
    if claimed != Cid::of(text) {
        let _ = proof.verify(&claimed, actor);
    }
}

// ---------------------------------------------------------------------------------------------------------------- seal

fn options(bounds: Bounds) -> SealOptions {
    let header = SnapshotHeader {
        tenant: "acme".parse().expect("a tenant"),
        epoch: "e1".parse().expect("an epoch"),
        asset: "roc".parse().expect("an asset"),
        pool: Amount::from(1000),
    };
    SealOptions { threads: 1, bounds, ..SealOptions::new(header) }
}

/// How an Arrow file, an Arrow stream and a Parquet file begin.
const COLUMNAR: [&[u8]; 3] = [b"ARROW1", b"\xff\xff\xff\xff", b"PAR1"];
/// How gzip and zstd begin.
const COMPRESSED: [&[u8]; 2] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd"];

/// How the input is cut into blocks changes neither what is read nor what is refused.
fn sealed(bytes: &[u8]) {
    if COLUMNAR.iter().chain(&COMPRESSED).any(|magic| bytes.starts_with(magic)) {
        return;
    }
    let read = |bounds: Bounds| {
        let input = Input::Reader(Box::new(bytes));
        examine(input, &options(bounds), &Silent).map_err(|e| e.to_string())
    };
    // One block holds the whole of any input here; the usual half a megabyte would be all that an execution does.
    let usual = Bounds { block_bytes: 4096, ..Bounds::default() };
    let whole = read(usual);
    if let Err(message) = &whole {
        fit_to_print(message);
    }
    assert_eq!(whole, read(Bounds { block_bytes: 64, ..usual }));
    // How long a record may be is looked at while it is collected, so it does depend on the cut; it panics nowhere.
    let _ = read(Bounds { block_bytes: 64, record_bytes_max: 96, ..usual });
}

fn csv(bytes: &[u8]) {
    sealed(bytes);
    let mut with_header = b"actor,category,units\n".to_vec();
    with_header.extend_from_slice(bytes);
    sealed(&with_header);
}

fn ndjson(bytes: &[u8]) {
    if bytes.trim_ascii_start().starts_with(b"{") {
        sealed(bytes);
    }
}

/// The decoders are others', and their panics are caught. Nothing may end the program, and no rows are missing without a word: a
/// stream that is taken is not taken without its last byte.
fn columnar(bytes: &[u8]) {
    if !COLUMNAR.iter().any(|magic| bytes.starts_with(magic)) {
        return;
    }
    let read = |bytes| {
        let input = Input::Reader(Box::new(bytes));
        examine(input, &options(Bounds::default()), &Silent).map_err(|e| e.to_string())
    };
    match read(bytes) {
        Err(message) => fit_to_print(&message),
        Ok(_) if bytes.starts_with(COLUMNAR[1]) => {
            assert!(read(&bytes[..bytes.len() - 1]).is_err(), "a stream that breaks off was taken");
        }
        Ok(_) => {}
    }
}
