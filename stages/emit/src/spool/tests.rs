//! The spool against a plain map, over a disk that dies, tears and fills up.

use super::*;
use crate::tests::world::{Dice, HandClock, intent};
use rewarder_model::world::disk::{self, MemoryDisk, ReadAt, WriteFile};
use rewarder_model::world::{BoxFuture, Entropy};
use std::path::PathBuf;
use std::task::{Context, Poll, Waker};

/// Runs everything where it is called: one operation of the test is one history of the disk.
struct Inline;

impl Spawn for Inline {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        now(future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, bool> {
        work();
        Box::pin(std::future::ready(true))
    }
}

/// A future that never has to wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("waits for nobody"),
    }
}

/// A disk of which a crash keeps what was synced, and of the rest what the dice say.
struct Rotten(Arc<Mutex<Plate>>);

struct Plate {
    files: BTreeMap<PathBuf, File>,
    /// Names that a crash keeps.
    durable: BTreeMap<PathBuf, u64>,
    next_file: u64,
    contents: BTreeMap<u64, Bytes>,
    /// Changes until the machine is off; the last one is torn.
    left: u64,
    /// Changes so far.
    changes: u64,
    /// Writes fail as on a full disk.
    full: bool,
    dice: Dice,
}

type File = u64;

#[derive(Default, Clone)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// As long as the file is, with zeros behind what was written.
    len: usize,
}

impl Plate {
    fn new(seed: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            durable: BTreeMap::new(),
            next_file: 0,
            contents: BTreeMap::new(),
            left: u64::MAX,
            changes: 0,
            full: false,
            dice: Dice::new(seed ^ 0x5eed),
        }
    }

    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(io::Error::other("the machine is off")),
        }
    }

    fn room(&self) -> io::Result<()> {
        if self.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// The disk as it stands after the machine died: unsynced names and bytes are there or not, bytes also in part
    /// and with holes.
    fn die(&mut self) {
        let mut files = self.durable.clone();
        for (path, file) in &self.files {
            if self.durable.get(path) != Some(file) && self.dice.below(2) == 0 {
                files.insert(path.clone(), *file);
            }
        }
        let gone: Vec<_> =
            self.durable.keys().filter(|path| !self.files.contains_key(*path)).cloned().collect();
        for path in gone {
            if self.dice.below(2) == 0 {
                files.remove(&path);
            }
        }
        for bytes in self.contents.values_mut() {
            if bytes.now != bytes.durable {
                let same = bytes.now.iter().zip(&bytes.durable).take_while(|(a, b)| a == b).count();
                let mut kept = bytes.now.clone();
                let cut = same + self.dice.below((kept.len() - same) as u64 + 1) as usize;
                match self.dice.below(3) {
                    0 => kept = bytes.durable.clone(),
                    1 => kept.truncate(cut),
                    // A page that never came to the disk before one that did.
                    _ => {
                        let end = cut + self.dice.below((kept.len() - cut) as u64 + 1) as usize;
                        kept[cut..end].fill(0);
                    }
                }
                (bytes.now, bytes.durable) = (kept.clone(), kept);
            }
        }
        (self.durable, self.files) = (files.clone(), files);
        (self.left, self.full) = (u64::MAX, false);
    }
}

struct Handle(Arc<Mutex<Plate>>, File);

impl WriteFile for Handle {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut plate = self.0.lock().unwrap();
        let (off, full) = (plate.change(), plate.room());
        let torn = if off.is_err() || full.is_err() {
            plate.dice.below(bytes.len() as u64 + 1)
        } else {
            bytes.len() as u64
        };
        plate.contents.get_mut(&self.1).unwrap().now.extend(&bytes[..torn as usize]);
        off.and(full)
    }

    fn preallocate(&mut self, len: u64) -> io::Result<()> {
        let mut plate = self.0.lock().unwrap();
        plate.change()?;
        plate.room()?;
        let bytes = plate.contents.get_mut(&self.1).unwrap();
        bytes.len = bytes.now.len() + len as usize;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut plate = self.0.lock().unwrap();
        plate.change()?;
        let bytes = plate.contents.get_mut(&self.1).unwrap();
        bytes.durable = bytes.now.clone();
        Ok(())
    }
}

impl ReadAt for Handle {
    fn len(&self) -> u64 {
        let bytes = &self.0.lock().unwrap().contents[&self.1];
        bytes.now.len().max(bytes.len) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let plate = self.0.lock().unwrap();
        let bytes = &plate.contents[&self.1];
        let n = bytes.now.len().max(bytes.len).saturating_sub(offset as usize).min(buf.len());
        let written = bytes.now.get(offset as usize..).unwrap_or_default();
        let written = &written[..n.min(written.len())];
        buf[..n].fill(0);
        buf[..written.len()].copy_from_slice(written);
        Ok(n)
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Rotten {
    fn make_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut plate = self.0.lock().unwrap();
        plate.change()?;
        plate.room()?;
        if plate.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        plate.next_file += 1;
        let file = plate.next_file;
        plate.files.insert(path.into(), file);
        plate.contents.insert(file, Bytes::default());
        Ok(Box::new(Handle(self.0.clone(), file)))
    }

    fn append(&self, _: &Path) -> io::Result<Box<dyn WriteFile>> {
        Err(missing())
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut plate = self.0.lock().unwrap();
        plate.change()?;
        let file = *plate.files.get(path).ok_or_else(missing)?;
        let bytes = plate.contents.get_mut(&file).unwrap();
        bytes.now.truncate(len as usize);
        bytes.len = 0;
        bytes.durable = bytes.now.clone();
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let file = *self.0.lock().unwrap().files.get(path).ok_or_else(missing)?;
        Ok(Arc::new(Handle(self.0.clone(), file)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut plate = self.0.lock().unwrap();
        plate.change()?;
        let file = *plate.files.get(from).ok_or_else(missing)?;
        plate.files.insert(to.into(), file);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut plate = self.0.lock().unwrap();
        plate.change()?;
        let file = plate.files.remove(from).ok_or_else(missing)?;
        plate.files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut plate = self.0.lock().unwrap();
        plate.change()?;
        plate.files.remove(path).map(drop).ok_or_else(missing)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut plate = self.0.lock().unwrap();
        plate.change()?;
        plate.durable = plate.files.clone();
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<disk::Entry>> {
        let plate = self.0.lock().unwrap();
        let names = plate.files.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(names
            .map(|(path, file)| disk::Entry {
                name: path.file_name().unwrap().to_str().unwrap().into(),
                is_dir: false,
                len: plate.contents[file].now.len() as u64,
            })
            .collect())
    }

    fn file_len(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn try_lock(&self, _: &Path) -> io::Result<Option<Guard>> {
        Ok(Some(Box::new(())))
    }
}

const LIMITS: QuarantineConfig =
    QuarantineConfig { entries_max: 40, bytes_max: 1 << 20, preallocated_bytes: 3000 };

fn open(disk: Arc<dyn Disk>) -> Result<Spool, SpoolError> {
    now(Spool::open(Some(disk), LIMITS, &HandClock::new(), Arc::new(Inline)))
}

fn hold(state: State, n: u64) -> Hold {
    Hold { state, unknown: true, cause: format!("cause {n}"), attempts: 1, last_unix_ms: n, settled_by: None }
}

/// What the map knows of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It has to be there.
    Kept,
    /// It was settled: it may come back once, to be asked about.
    Settled,
    /// Its admission failed in the middle of a dying disk.
    Perhaps,
}

/// Random operations with crashes at random writes; a failure names its seed. Returns how many were done.
fn campaign(seed: u64, operations: u64) -> u64 {
    let dice = Dice::new(seed);
    let plate = Arc::new(Mutex::new(Plate::new(seed)));

    let mut spool = open(Arc::new(Rotten(plate.clone()))).unwrap();
    let mut model: BTreeMap<u64, Known> = BTreeMap::new();
    let mut next = 0;
    let of = |spool: &Spool, n: u64| spool.find(&intent(n).run_key);
    let mut crashes = 0;
    for done in 0..operations {
        let kept: Vec<u64> =
            model.iter().filter(|(_, known)| **known == Known::Kept).map(|(n, _)| *n).collect();
        let pick = |dice: &Dice| kept.get(dice.below(kept.len() as u64) as usize).copied();
        match dice.below(12) {
            0..=4 => {
                let n = next;
                next += 1;
                match now(spool.admit(&intent(n), State::Sending, false, "", done)) {
                    Ok(_) => drop(model.insert(n, Known::Kept)),
                    Err(SpoolError::Full) => assert!(of(&spool, n).is_none(), "seed {seed}"),
                    Err(_) => drop(model.insert(n, Known::Perhaps)),
                }
            }
            5..=7 => {
                if let Some(n) = pick(&dice) {
                    let entry = of(&spool, n).unwrap_or_else(|| panic!("seed {seed}: {n} is lost"));
                    spool.settle(entry.seq).unwrap();
                    model.insert(n, Known::Settled);
                }
            }
            8 | 9 => {
                if let Some(n) = pick(&dice) {
                    let seq = of(&spool, n).unwrap_or_else(|| panic!("seed {seed}: {n} is lost")).seq;
                    let state = if dice.below(2) == 0 { State::Pending } else { State::Operator };
                    assert_eq!(now(spool.update(seq, &hold(state, done))).unwrap().state, state);
                }
            }
            10 => {
                if let Some(n) = pick(&dice) {
                    let seq = of(&spool, n).unwrap_or_else(|| panic!("seed {seed}: {n} is lost")).seq;
                    match now(spool.remove(seq)) {
                        Ok(_) => drop(model.remove(&n)),
                        Err(_) => drop(model.insert(n, Known::Perhaps)),
                    }
                }
            }
            _ => match dice.below(4) {
                0 => plate.lock().unwrap().full = true,
                1 => plate.lock().unwrap().full = false,
                _ => {
                    // The machine dies at one of the next writes, perhaps within the recovery of the last death.
                    plate.lock().unwrap().left = dice.below(6);
                }
            },
        }
        let off = plate.lock().unwrap().left == 0;
        if off && dice.below(3) == 0 {
            crashes += 1;
            drop(spool);
            plate.lock().unwrap().die();
            if dice.below(2) == 0 {
                plate.lock().unwrap().left = dice.below(8);
                let _ = open(Arc::new(Rotten(plate.clone())));
                plate.lock().unwrap().die();
            }
            spool = open(Arc::new(Rotten(plate.clone()))).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert_eq!(
                spool.found().corrupt_records,
                0,
                "seed {seed}, operation {done}: a crash is no damage"
            );
            let list = spool.list();
            assert!(
                list.is_sorted_by_key(|entry| entry.intent.payout_minor_units),
                "seed {seed}: order lost"
            );
            let held: Vec<u64> =
                list.iter().map(|entry| entry.intent.payout_minor_units.get() as u64 - 1).collect();
            for entry in &list {
                let n = entry.intent.payout_minor_units.get() as u64 - 1;
                assert_eq!(entry.intent, intent(n), "seed {seed}");
                assert!(entry.state != State::Pending || entry.unknown, "seed {seed}");
                assert!(
                    model.contains_key(&n),
                    "seed {seed}, operation {done}: {n} was refused or dropped and came back"
                );
            }
            model.retain(|n, known| match known {
                Known::Kept => {
                    assert!(held.contains(n), "seed {seed}, operation {done}: {n} is lost");
                    true
                }
                _ => held.contains(n),
            });
            model.values_mut().for_each(|known| *known = Known::Kept);
        } else if !off {
            let held = model.values().filter(|known| **known == Known::Kept).count();
            assert!(spool.0.index.lock().unwrap().kept.len() >= held, "seed {seed}");
        }
    }
    assert!(
        operations < 1000 || crashes > operations / 100,
        "{crashes} crashes in {operations} show nothing"
    );
    operations
}

/// As many operations as `SPOOL_OPERATIONS` says (testing/spool-campaign), few in everyday tests.
#[test]
fn against_a_plain_map_with_a_crash_at_any_write() {
    let wanted = std::env::var("SPOOL_OPERATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(6_000);
    let begin = std::env::var("SPOOL_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut done = 0;
    let mut seed = begin;
    while done < wanted {
        done += campaign(seed, 2_000);
        seed += 1;
    }
    println!("{done} operations from seed {begin}: nothing lost, nothing back, nothing out of order");
}

fn memory() -> Arc<dyn Disk> {
    Arc::new(MemoryDisk::default())
}

fn segments(disk: &dyn Disk) -> Vec<PathBuf> {
    let mut names: Vec<_> =
        disk.list(Path::new(SPOOL_DIR)).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
        .into_iter()
        .filter(|name| name.ends_with(".log"))
        .map(|name| Path::new(SPOOL_DIR).join(name))
        .collect()
}

/// The disk changes one bit of what was durable: exactly that entry is missed and counted, all others are there.
#[test]
fn damage_in_the_middle_is_counted_and_costs_only_itself() {
    let disk = memory();
    let spool = open(disk.clone()).unwrap();
    for n in 0..10 {
        now(spool.admit(&intent(n), State::Pending, false, "", n)).unwrap();
    }
    drop(spool);
    let path = segments(&*disk).pop().unwrap();
    let whole = disk::read_whole(&*disk, &path, 1 << 20).unwrap().unwrap();
    for at in [40, whole.len() / 2, whole.len() * 4 / 5] {
        let disk = memory();
        disk.make_dir(Path::new(SPOOL_DIR)).unwrap();
        let mut hurt = whole.clone();
        hurt[at] ^= 4;
        disk.create_new(&path).unwrap().write_all(&hurt).unwrap();
        let spool = open(disk.clone()).unwrap();
        let found = spool.found();
        assert_eq!(
            (found.corrupt_records, found.torn_bytes, found.set_aside.len()),
            (1, 0, 1),
            "bit at {at}"
        );
        // The first record of a segment says only that it begins.
        assert_eq!(found.entries, if at == 40 { 10 } else { 9 }, "bit at {at}");
        drop(spool);
        let spool = open(disk).unwrap();
        assert_eq!(spool.found().corrupt_records, 0, "said once, kept for people");
        now(spool.admit(&intent(77), State::Pending, false, "", 0)).unwrap();
    }
}

/// Whatever the last write left of its bytes, everything before it is there and nothing is called damage.
#[test]
fn zeros_end_where_they_begin_wherever_that_is_in_a_page() {
    assert_eq!((log::end_of(&[]), log::end_of(&[0; 5000]), log::end_of(&[1])), (0, 0, 1));
    for end in [1, 2, 807, 808, 809, 904, 4095, 4096, 4097, 4903, 4904, 4905, 8999, 9000] {
        let mut bytes = vec![0; 9000];
        bytes[end - 1] = 1;
        assert_eq!(log::end_of(&bytes), end);
        bytes[..end].fill(7);
        assert_eq!(log::end_of(&bytes), end);
    }
}

#[test]
fn a_tail_torn_at_any_byte() {
    let disk = memory();
    let spool = open(disk.clone()).unwrap();
    for n in 0..3 {
        now(spool.admit(&intent(n), State::Pending, false, "", n)).unwrap();
    }
    let path = segments(&*disk).pop().unwrap();
    let before = disk.file_len(&path).unwrap().unwrap() as usize;
    now(spool.admit(&intent(3), State::Pending, false, "", 3)).unwrap();
    let whole = disk::read_whole(&*disk, &path, 1 << 20).unwrap().unwrap();
    for cut in before..whole.len() {
        let disk = memory();
        disk.make_dir(Path::new(SPOOL_DIR)).unwrap();
        disk.create_new(&path).unwrap().write_all(&whole[..cut]).unwrap();
        let torn = whole[before..cut].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let spool = open(disk).unwrap();
        let found = spool.found();
        assert_eq!(
            (found.entries, found.corrupt_records, found.torn_bytes),
            (3, 0, torn as u64),
            "cut at {cut}"
        );
    }
}

/// A record may end with zeros where the zeros of its segment begin, and nothing behind it is called torn.
#[test]
fn records_over_the_zeros_of_a_segment() {
    let disk: Arc<dyn Disk> = Arc::new(Rotten(Arc::new(Mutex::new(Plate::new(1)))));
    for n in 0..6 {
        let spool = open(disk.clone()).unwrap();
        let entry = now(spool.admit(&intent(n), State::Sending, false, "", n)).unwrap();
        if n % 2 == 0 {
            // Its place in little-endian bytes: seven zeros at the end.
            now(spool.remove(entry.seq)).unwrap();
        }
        let segment = disk.open(&segments(&*disk).pop().unwrap()).unwrap();
        assert!(segment.len() >= LIMITS.preallocated_bytes, "nothing is preallocated");
        drop(spool);
        let found = open(disk.clone()).unwrap().found().clone();
        assert_eq!(
            (found.entries, found.corrupt_records, found.torn_bytes),
            (n.div_ceil(2), 0, 0),
            "after {n}"
        );
    }
}

#[test]
fn bounded_by_entries_and_by_bytes() {
    let each = charge(&intent(0));
    for limits in [
        QuarantineConfig { entries_max: 2, ..LIMITS },
        QuarantineConfig { entries_max: 9, bytes_max: 2 * each, ..LIMITS },
    ] {
        for disk in [None, Some(memory())] {
            let volatile = disk.is_none();
            let spool = now(Spool::open(disk, limits, &HandClock::new(), Arc::new(Inline))).unwrap();
            assert_eq!(spool.is_volatile(), volatile);
            let first = now(spool.admit(&intent(0), State::Sending, false, "", 0)).unwrap();
            now(spool.admit(&intent(1), State::Operator, false, "\u{1}".repeat(400).as_str(), 0)).unwrap();
            assert!(matches!(
                now(spool.admit(&intent(2), State::Sending, false, "", 0)),
                Err(SpoolError::Full)
            ));
            assert_eq!(
                now(spool.admit(&intent(1), State::Sending, false, "", 9)).unwrap().state,
                State::Operator,
                "one run, one entry"
            );
            assert_eq!((spool.depth(), spool.pending()), (1, vec![]));
            spool.settle(first.seq).unwrap();
            assert_eq!(spool.settle(first.seq), None);
            now(spool.admit(&intent(2), State::Pending, false, "", 0)).unwrap();
            assert_eq!(spool.list().len(), 2);
            assert!(
                spool
                    .list()
                    .iter()
                    .all(|entry| serde_json::to_vec(entry).unwrap().len() as u64 <= charge(&entry.intent))
            );
            spool.wipe();
            assert_eq!(spool.depth(), 0);
        }
    }
}

/// A log of what is long settled does not grow for ever.
#[test]
fn the_log_is_replaced_when_it_is_mostly_dead() {
    let disk = memory();
    let spool = open(disk.clone()).unwrap();
    let mut longest = 0;
    for n in 0..12_000 {
        let entry = now(spool.admit(&intent(n), State::Sending, false, "", n)).unwrap();
        spool.settle(entry.seq);
        longest =
            longest.max(segments(&*disk).iter().map(|path| disk.file_len(path).unwrap().unwrap()).sum());
    }
    assert!((3 << 20..5 << 20).contains(&longest), "{longest}");
    drop(spool);
    assert_eq!(open(disk).unwrap().found().entries, 0);
}

/// The real disk's part of it: what is written goes over the zeros, which stay behind it.
#[test]
fn a_file_of_zeros_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk::RealDisk::new(dir.path()).unwrap();
    let path = Path::new("file");
    let mut file = disk.create_new(path).unwrap();
    file.write_all(b"abc").unwrap();
    file.preallocate(1_000_003).unwrap();
    file.write_all(b"def").unwrap();
    file.sync().unwrap();
    let bytes = disk::read_whole(&disk, path, 1 << 20).unwrap().unwrap();
    assert_eq!((bytes.len(), &bytes[..6]), (1_000_006, &b"abcdef"[..]));
    assert!(bytes[6..].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn a_spool_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(disk::RealDisk::new(dir.path()).unwrap());
    let _held = open(disk.clone()).unwrap();
    let clock = crate::tests::world::HastyClock::default();
    let Err(error) = Spool::open(Some(disk), LIMITS, &clock, Arc::new(Inline)).await else {
        panic!("opened twice")
    };
    assert!(error.to_string().contains("is running on this STATE_DIR"), "{error}");
}
