//! Every public operation, stopped after each of its changes to the disk; and the order of those changes.

use super::watched::Watched;
use super::{LIMIT, read, tenant, upload};
use crate::*;
use rewarder_model::Cid;
use std::sync::Arc;

const BYTES: &[u8] = b"sealed bytes";

/// All that the store promises to keep, in the order of a job. Returns how far it came.
fn job(store: &Store) -> usize {
    let a = tenant("a");
    let (epoch, policy, key) = ("e1".parse().unwrap(), "p1".parse().unwrap(), Cid::of(b"key"));
    let mut table = |out: &mut (dyn std::io::Write + Send)| out.write_all(b"x\t1\n");
    let mut parts = [(MANIFEST, Part::Bytes(b"{}".as_slice())), ("t.tsv", Part::Write(&mut table))];
    let steps: [&mut dyn FnMut() -> Result<(), StoreError>; 5] = [
        &mut || upload(store, &a, Kind::Snapshot, BYTES).map(drop),
        &mut || store.bind_policy(&a, &policy, &Cid::of(b"hash")).map(drop),
        &mut || store.put_run(&a, &epoch, &key, &mut parts).map(drop),
        &mut || store.claim_epoch(&a, &epoch, &key).map(drop),
        &mut || store.set_delivery(&a, &key, b"{\"result\":\"accepted\"}"),
    ];
    steps.into_iter().map(|step| step()).take_while(Result::is_ok).count()
}

/// What was answered is there; what was not is there whole or not at all.
fn check(store: &Store, done: usize, crash: i64) {
    let a = tenant("a");
    let (epoch, policy, key) = ("e1".parse().unwrap(), "p1".parse().unwrap(), Cid::of(b"key"));
    let object = read(store, &a, Kind::Snapshot, &Cid::of(BYTES));
    assert!(object.as_deref().is_none_or(|bytes| bytes == BYTES), "crash {crash}");
    assert!(done < 1 || object.is_some(), "crash {crash}: an answered upload is lost");
    let bound = store.policy(&a, &policy).unwrap();
    assert!(
        bound.is_none_or(|hash| hash == Cid::of(b"hash")) && (done < 2 || bound.is_some()),
        "crash {crash}"
    );
    let run = store.run(&a, &key).unwrap();
    assert!(done < 3 || run.is_some(), "crash {crash}: an answered run is lost");
    if let Some(run) = run {
        assert_eq!(run.parts().unwrap(), [MANIFEST, "t.tsv"], "crash {crash}");
        assert_eq!(run.part("t.tsv").unwrap().unwrap().read_all(9).unwrap(), b"x\t1\n");
        let delivery = run.delivery().unwrap();
        assert!(delivery.as_deref().is_none_or(|json| json == b"{\"result\":\"accepted\"}"), "crash {crash}");
        assert!(done < 5 || delivery.is_some(), "crash {crash}: an answered delivery is lost");
    }
    let claimed = store.epoch_run(&a, &epoch).unwrap();
    assert!(done < 4 || claimed == Some(EpochRun { run_key: key, claimed: true }), "crash {crash}");
}

#[test]
fn a_crash_after_any_change_loses_no_answer_and_shows_no_half() {
    let mut crashes = 0;
    for crash in 0.. {
        let under: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let disk = Arc::new(Watched::new(under.clone()));
        let store = Store::over(disk.clone(), LIMIT).unwrap();
        disk.die_after(crash);
        let done = job(&store);
        // `kill -9`: nothing is tidied up, since the disk refuses every removal; the lock goes with the
        // process.
        drop(store);
        let after = Store::over(under.clone(), LIMIT).unwrap();
        check(&after, done, crash);
        assert_eq!(under.list(std::path::Path::new("tmp")).unwrap().len(), 1, "leftovers are swept");
        assert_eq!(job(&after), 5, "crash {crash}: the same job goes through afterwards");
        check(&after, 5, crash);
        if done == 5 {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 30, "only {crashes} places to crash at");
}

/// The rule itself (bytes before their name, names before the answer) is asserted inside `Watched` at every
/// rename and link; here nothing may be left unsynced when an operation returns.
#[test]
fn answered_means_synced() {
    let disk = Arc::new(Watched::new(Arc::new(MemoryDisk::default())));
    let store = Store::over(disk.clone(), LIMIT).unwrap();
    assert_eq!(disk.loose(), [] as [std::path::PathBuf; 0]);
    disk.log();
    upload(&store, &tenant("a"), Kind::Snapshot, BYTES).unwrap();
    assert_eq!(
        disk.log(),
        [
            "create tmp",
            "sync file",
            "link objects",
            "sync objects",
            "mkdir seen",
            "sync seen",
            "create seen",
            "sync seen"
        ]
    );
    for _ in 0..2 {
        assert_eq!(job(&store), 5);
        assert_eq!(disk.loose(), [] as [std::path::PathBuf; 0]);
    }
}
