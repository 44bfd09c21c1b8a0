//! What every store does, whatever disk is under it.

use super::{LIMIT, on_each_disk, read, tenant, upload};
use crate::*;
use rewarder_model::{Cid, Reason};
use std::path::Path;
use std::sync::Arc;

fn names(disk: &dyn Disk, dir: &str) -> Vec<String> {
    let mut names: Vec<_> = disk.list(Path::new(dir)).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    names
}

fn nothing_under_way(disk: &dyn Disk) {
    assert_eq!(names(disk, "tmp/0"), ["lock"]);
}

#[test]
fn an_upload_is_there_once_and_its_tenant_sees_it() {
    on_each_disk(|disk| {
        let store = Store::over(disk.clone(), LIMIT).unwrap();
        let a = tenant("a");
        let bytes = vec![7; 300_000];
        let cid = Cid::of(&bytes);
        assert_eq!(read(&store, &a, Kind::Snapshot, &cid), None);
        assert_eq!(upload(&store, &a, Kind::Snapshot, &bytes).unwrap(), Put::Created);
        assert_eq!(upload(&store, &a, Kind::Snapshot, &bytes).unwrap(), Put::Existing);
        assert_eq!(read(&store, &a, Kind::Snapshot, &cid).unwrap(), bytes);
        assert_eq!(store.used_bytes(), 300_000);
        nothing_under_way(&*disk);
        let again = Store::over(disk.clone(), LIMIT).unwrap();
        assert_eq!(again.used_bytes(), 300_000);
        assert_eq!(read(&again, &a, Kind::Snapshot, &cid).unwrap(), bytes);
    });
}

#[test]
fn a_large_upload_that_the_disk_begins_with_early_is_whole() {
    on_each_disk(|disk| {
        let limit = 64 << 20;
        let store = Store::over(disk, limit).unwrap();
        // Parts that meet the points at which the disk begins, and parts that pass over them.
        for len in [8 << 20, (8 << 20) + 1, 20 << 20, 25_000_000] {
            let bytes: Vec<u8> = (0..len as u32).map(|n| (n ^ (n >> 13)) as u8).collect();
            let cid = Cid::of(&bytes);
            let mut writer = store.writer(&tenant("a"), Kind::Snapshot, cid, limit, None).unwrap();
            bytes.chunks(3 << 19).for_each(|part| writer.write(part).unwrap());
            assert_eq!(writer.commit().unwrap(), Put::Created);
            let stored = store.object(&tenant("a"), Kind::Snapshot, &cid).unwrap().unwrap();
            assert_eq!(stored.read_all(limit).unwrap(), bytes, "{len}");
        }
    });
}

/// A disk may say no; what it gives is what reading gives, and it gives nothing beyond the end.
#[test]
fn what_is_read_without_waiting_is_what_is_stored() {
    on_each_disk(|disk| {
        let store = Store::over(disk, LIMIT).unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n ^ (n >> 9)) as u8).collect();
        upload(&store, &tenant("a"), Kind::Snapshot, &bytes).unwrap();
        let stored = store.object(&tenant("a"), Kind::Snapshot, &Cid::of(&bytes)).unwrap().unwrap();
        assert_eq!(stored.read_all(LIMIT).unwrap(), bytes);
        for (at, len) in [(0, 0), (0, 1), (65_537, 100_000), (299_999, 1), (0, bytes.len()), (bytes.len(), 0)]
        {
            let mut part = vec![0; len];
            if stored.read_ready(at as u64, &mut part) {
                assert_eq!(part, bytes[at..at + len]);
            }
        }
        assert!(!stored.read_ready(bytes.len() as u64 - 1, &mut [0; 2]));
    });
}

#[test]
fn the_empty_object_is_an_object() {
    on_each_disk(|disk| {
        let store = Store::over(disk, LIMIT).unwrap();
        assert_eq!(upload(&store, &tenant("a"), Kind::Policy, b"").unwrap(), Put::Created);
        assert_eq!(read(&store, &tenant("a"), Kind::Policy, &Cid::of(b"")).unwrap(), b"");
    });
}

#[test]
fn a_wrong_cid_leaves_nothing() {
    on_each_disk(|disk| {
        let store = Store::over(disk.clone(), LIMIT).unwrap();
        let named = Cid::of(b"other");
        let mut writer = store.writer(&tenant("a"), Kind::Snapshot, named, LIMIT, Some(4)).unwrap();
        writer.write(b"this").unwrap();
        let error = writer.commit().unwrap_err();
        assert_eq!(error.reason(), Reason::CidMismatch);
        assert!(error.to_string().contains(&Cid::of(b"this").to_string()));
        assert_eq!(store.used_bytes(), 0);
        assert!(names(&*disk, "objects").is_empty());
        assert!(names(&*disk, "seen").is_empty());
        nothing_under_way(&*disk);
    });
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    on_each_disk(|disk| {
        let store = Store::over(disk.clone(), LIMIT).unwrap();
        let mut writer =
            store.writer(&tenant("a"), Kind::Snapshot, Cid::of(b"x"), LIMIT, Some(1000)).unwrap();
        writer.write(b"half").unwrap();
        assert_eq!(store.used_bytes(), 1000);
        drop(writer);
        assert_eq!(store.used_bytes(), 0);
        nothing_under_way(&*disk);
    });
}

#[test]
fn limits_are_exact() {
    on_each_disk(|disk| {
        let store = Store::over(disk, 10).unwrap();
        let a = tenant("a");
        let begin = |limit, declared| store.writer(&a, Kind::Snapshot, Cid::of(b"12345"), limit, declared);
        assert!(matches!(begin(4, Some(5)), Err(StoreError::TooBig { limit: 4 })));
        let mut writer = begin(4, None).unwrap();
        writer.write(b"1234").unwrap();
        assert!(matches!(writer.write(b"5"), Err(StoreError::TooBig { limit: 4 })));
        drop(writer);
        assert!(matches!(begin(100, Some(11)), Err(StoreError::Full { limit: 10 })));
        let other = begin(10, Some(5)).unwrap();
        let mut writer = begin(5, None).unwrap();
        writer.write(b"12345").unwrap();
        assert!(matches!(begin(10, Some(1)), Err(StoreError::Full { .. })), "uploads under way count");
        assert_eq!(writer.commit().unwrap(), Put::Created);
        drop(other);
        assert_eq!(store.used_bytes(), 5);
        assert_eq!(upload(&store, &a, Kind::Snapshot, b"54321").unwrap(), Put::Created);
        assert!(matches!(upload(&store, &a, Kind::Snapshot, b"x"), Err(StoreError::Full { .. })));
        assert_eq!(
            upload(&store, &a, Kind::Snapshot, b"12345").unwrap(),
            Put::Existing,
            "a repetition needs no room"
        );
    });
}

#[test]
fn what_another_tenant_stored_stays_unseen() {
    on_each_disk(|disk| {
        let store = Store::over(disk, 10).unwrap();
        let (a, b) = (tenant("a"), tenant("b"));
        let cid = Cid::of(b"secret");
        upload(&store, &a, Kind::Snapshot, b"secret").unwrap();
        assert_eq!(read(&store, &b, Kind::Snapshot, &cid), None);
        assert_eq!(read(&store, &a, Kind::Policy, &cid), None, "another kind of the same tenant");
        let full = upload(&store, &b, Kind::Snapshot, b"secret").unwrap_err();
        assert_eq!(
            full.reason(),
            Reason::StoreFull,
            "a full store refuses the second tenant as it would the first"
        );
    });
    on_each_disk(|disk| {
        let store = Store::over(disk, LIMIT).unwrap();
        let (a, b) = (tenant("a"), tenant("b"));
        let cid = Cid::of(b"shared");
        upload(&store, &a, Kind::Snapshot, b"shared").unwrap();
        let mut forged = store.writer(&b, Kind::Snapshot, cid, LIMIT, None).unwrap();
        forged.write(b"guess").unwrap();
        assert!(
            matches!(forged.commit(), Err(StoreError::CidMismatch { .. })),
            "the bytes have to be brought"
        );
        assert_eq!(upload(&store, &b, Kind::Snapshot, b"shared").unwrap(), Put::Created);
        assert_eq!(read(&store, &b, Kind::Snapshot, &cid).unwrap(), b"shared");
        assert_eq!(store.used_bytes(), 6, "stored once");
    });
}

#[test]
fn twins_store_one_object() {
    on_each_disk(|disk| {
        // Two replicas on one disk, four uploads each.
        let stores = [Store::over(disk.clone(), LIMIT).unwrap(), Store::over(disk, LIMIT).unwrap()];
        let bytes = vec![3; 50_000];
        let created = std::thread::scope(|scope| {
            let uploads: Vec<_> = (0..8)
                .map(|n| {
                    let (store, bytes) = (&stores[n % 2], &bytes);
                    scope.spawn(move || upload(store, &tenant("a"), Kind::Snapshot, bytes).unwrap())
                })
                .collect();
            uploads
                .into_iter()
                .map(|upload| upload.join().unwrap())
                .filter(|put| *put == Put::Created)
                .count()
        });
        assert_eq!(created, 1);
        assert_eq!(stores[0].used_bytes() + stores[1].used_bytes(), 50_000);
    });
}

#[test]
fn a_corrupt_object_is_set_aside_and_healed() {
    on_each_disk(|disk| {
        let store = Store::over(disk.clone(), LIMIT).unwrap();
        let a = tenant("a");
        let cid = Cid::of(b"good");
        upload(&store, &a, Kind::Snapshot, b"good").unwrap();
        assert!(!store.quarantine_corrupt(&cid).unwrap(), "a good object stays");
        let path = Path::new("objects").join(cid.hex());
        disk.remove(&path).unwrap();
        disk.create_new(&path).unwrap().write_all(b"gold").unwrap();
        assert!(store.quarantine_corrupt(&cid).unwrap());
        assert!(!store.quarantine_corrupt(&cid).unwrap());
        assert_eq!(read(&store, &a, Kind::Snapshot, &cid), None);
        assert_eq!(upload(&store, &a, Kind::Snapshot, b"good").unwrap(), Put::Existing);
        assert_eq!(read(&store, &a, Kind::Snapshot, &cid).unwrap(), b"good");
        assert_eq!(names(&*disk, "corrupt"), [format!("{}.0", cid.hex())]);
    });
}

#[test]
fn a_truncated_object_is_healed_by_whoever_uploads() {
    on_each_disk(|disk| {
        let store = Store::over(disk.clone(), LIMIT).unwrap();
        let cid = Cid::of(b"whole");
        disk.create_new(&Path::new("objects").join(cid.hex())).unwrap().write_all(b"wh").unwrap();
        let store_again = Store::over(disk, LIMIT).unwrap();
        assert_eq!(store_again.used_bytes(), 2);
        assert_eq!(upload(&store_again, &tenant("a"), Kind::Snapshot, b"whole").unwrap(), Put::Created);
        assert_eq!(read(&store, &tenant("a"), Kind::Snapshot, &cid).unwrap(), b"whole");
        assert_eq!(store_again.used_bytes(), 5);
    });
}

#[test]
fn the_first_binding_wins_between_replicas() {
    on_each_disk(|disk| {
        let stores = [Store::over(disk.clone(), LIMIT).unwrap(), Store::over(disk, LIMIT).unwrap()];
        let id = "rev42".parse().unwrap();
        let bound: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0u8..8)
                .map(|n| {
                    let (store, id) = (&stores[usize::from(n) % 2], &id);
                    scope.spawn(move || store.bind_policy(&tenant("a"), id, &Cid::of(&[n])).unwrap())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winner = stores[1].policy(&tenant("a"), &id).unwrap().unwrap();
        assert_eq!(bound.iter().filter(|b| **b == Bound::New).count(), 1);
        assert_eq!(bound.iter().filter(|b| **b == Bound::Conflict(winner)).count(), 7);
        assert_eq!(stores[0].bind_policy(&tenant("a"), &id, &winner).unwrap(), Bound::Same);
        assert_eq!(stores[0].policy(&tenant("b"), &id).unwrap(), None, "an id belongs to its tenant");
    });
}

#[test]
fn a_run_is_there_whole_and_once() {
    on_each_disk(|disk| {
        let store = Store::over(disk.clone(), LIMIT).unwrap();
        let (a, epoch, key) = (tenant("a"), "2026-01".parse().unwrap(), Cid::of(b"key"));
        let put = |manifest: &[u8]| {
            let mut table = |out: &mut (dyn std::io::Write + Send)| {
                (0..1000).try_for_each(|n| writeln!(out, "actor{n:04}\t1"))
            };
            let mut parts = [(MANIFEST, Part::Bytes(manifest)), ("allocations.tsv", Part::Write(&mut table))];
            store.put_run(&a, &epoch, &key, &mut parts)
        };
        assert!(store.run(&a, &key).unwrap().is_none());
        assert_eq!(put(b"{}").unwrap(), RunPut::Created);
        assert_eq!(put(b"{}").unwrap(), RunPut::Existing);
        assert!(matches!(put(b"[]"), Err(StoreError::RunDiffers { .. })));
        let run = store.run(&a, &key).unwrap().unwrap();
        assert_eq!(run.parts().unwrap(), ["allocations.tsv", MANIFEST]);
        let table = run.part("allocations.tsv").unwrap().unwrap();
        assert_eq!(table.len(), 12_000);
        let mut line = [0; 12];
        table.read_exact_at(12 * 999, &mut line).unwrap();
        assert_eq!(&line, b"actor0999\t1\n");
        assert!(run.part("../run").unwrap().is_none() && run.part("").unwrap().is_none());
        assert!(store.run(&tenant("b"), &key).unwrap().is_none(), "a run belongs to its tenant");
        assert_eq!(store.used_bytes(), 12_002);
        nothing_under_way(&*disk);

        assert_eq!(run.delivery().unwrap(), None);
        store.set_delivery(&a, &key, b"{\"n\":1}").unwrap();
        store.set_delivery(&a, &key, b"{}").unwrap();
        assert_eq!(run.delivery().unwrap().unwrap(), b"{}");
        assert_eq!(store.used_bytes(), 12_004);
        assert!(matches!(store.set_delivery(&a, &Cid::of(b"none"), b"{}"), Err(StoreError::NoRun { .. })));
        assert_eq!(Store::over(disk.clone(), LIMIT).unwrap().used_bytes(), 12_004);
    });
}

#[test]
fn a_run_that_does_not_fit_leaves_nothing() {
    on_each_disk(|disk| {
        let store = Store::over(disk.clone(), 10).unwrap();
        let (a, epoch, key) = (tenant("a"), "e".parse().unwrap(), Cid::of(b"key"));
        let mut swallow = |out: &mut (dyn std::io::Write + Send)| {
            let _ = out.write_all(&[0; 11]);
            Ok(())
        };
        let mut parts = [(MANIFEST, Part::Bytes(b"{}".as_slice())), ("big", Part::Write(&mut swallow))];
        assert!(matches!(store.put_run(&a, &epoch, &key, &mut parts), Err(StoreError::Full { limit: 10 })));
        assert!(store.run(&a, &key).unwrap().is_none());
        assert_eq!(store.epoch_run(&a, &epoch).unwrap(), None);
        assert_eq!(store.used_bytes(), 0);
        nothing_under_way(&*disk);
        for bad in ["", ".", "..", "a/b", "Upper", "delivery.json", &"x".repeat(65)] {
            let error = store.put_run(&a, &epoch, &key, &mut [(bad, Part::Bytes(b""))]).unwrap_err();
            assert!(matches!(error, StoreError::PartName(_)), "{bad}");
        }
    });
}

#[test]
fn an_epoch_is_claimed_once() {
    on_each_disk(|disk| {
        let stores = [Store::over(disk.clone(), LIMIT).unwrap(), Store::over(disk, LIMIT).unwrap()];
        let (a, epoch) = (tenant("a"), "2026-Q1".parse().unwrap());
        let key = |n: u8| Cid::of(&[n]);
        assert_eq!(stores[0].epoch_run(&a, &epoch).unwrap(), None);
        stores[0].put_run(&a, &epoch, &key(77), &mut []).unwrap();
        assert_eq!(
            stores[0].epoch_run(&a, &epoch).unwrap(),
            Some(EpochRun { run_key: key(77), claimed: false })
        );
        let claims: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0u8..8)
                .map(|n| {
                    let (store, a, epoch) = (&stores[usize::from(n) % 2], &a, &epoch);
                    scope.spawn(move || store.claim_epoch(a, epoch, &key(n)).unwrap())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|claim| **claim == Claim::Claimed).count(), 1);
        let EpochRun { run_key: winner, claimed: true } = stores[1].epoch_run(&a, &epoch).unwrap().unwrap()
        else {
            panic!("the claim overrides the latest");
        };
        assert_eq!(claims.iter().filter(|claim| **claim == Claim::Conflict(winner)).count(), 7);
        assert_eq!(stores[0].claim_epoch(&a, &epoch, &winner).unwrap(), Claim::Same);
        assert_eq!(stores[0].claims().unwrap().read, [(a.clone(), epoch.clone(), winner)]);
        assert!(!stores[0].release_claim(&a, &epoch, &key(99)).unwrap());
        assert!(stores[0].release_claim(&a, &epoch, &winner).unwrap());
        assert_eq!(stores[1].claim_epoch(&a, &epoch, &key(99)).unwrap(), Claim::Claimed);
    });
}

#[test]
fn names_that_look_like_paths_are_only_names() {
    on_each_disk(|disk| {
        let store = Store::over(disk, LIMIT).unwrap();
        for epoch in ["a..b", "a:b", "a.latest", &"e".repeat(128)] {
            let epoch = epoch.parse().unwrap();
            assert_eq!(store.claim_epoch(&tenant("-"), &epoch, &Cid::of(b"")).unwrap(), Claim::Claimed);
        }
        assert_eq!(store.claims().unwrap().read.len(), 4);
    });
}

/// A claim that the disk has changed is told by its name beside the others, and its epoch stays taken.
#[test]
fn a_damaged_claim_is_told_and_stands() {
    on_each_disk(|disk| {
        let store = Store::over(disk.clone(), LIMIT).unwrap();
        let (a, hurt, whole) = (tenant("a"), "2026-1".parse().unwrap(), "2026-2".parse().unwrap());
        let key = Cid::of(b"key");
        for epoch in [&hurt, &whole] {
            assert_eq!(store.claim_epoch(&a, epoch, &key).unwrap(), Claim::Claimed);
        }
        let path = Path::new("claims/a/2026-1");
        disk.truncate(path, 9).unwrap();
        let claims = store.claims().unwrap();
        assert_eq!(claims.read, [(a.clone(), whole, key)]);
        let [(tenant, epoch, error)] = &claims.unread[..] else { panic!("{claims:?}") };
        assert_eq!((tenant, epoch), (&a, &hurt));
        assert!(error.to_string().contains("claims/a/2026-1"), "{error}");
        for run in [key, Cid::of(b"other")] {
            assert!(matches!(store.claim_epoch(&a, &hurt, &run), Err(StoreError::Damaged { .. })));
            assert!(store.release_claim(&a, &hurt, &run).is_err());
        }
        disk.remove(path).unwrap();
        assert_eq!(store.claim_epoch(&a, &hurt, &key).unwrap(), Claim::Claimed);
    });
}

/// Amnesia opens no file, not even an unnamed one: the code of that disk has no way to.
#[test]
fn memory_writes_no_file() {
    let code = include_str!("../../../model/src/world/disk/memory.rs");
    assert!(!code.contains("fs::") && !code.contains("std::os") && !code.contains("File::"));
    let store = Store::open(&StoreConfig { dir: None, store_bytes_max: LIMIT }).unwrap();
    upload(&store, &tenant("a"), Kind::Snapshot, &[1; 70_000]).unwrap();
    assert!(store.contains(&tenant("a"), Kind::Snapshot, &Cid::of(&[1; 70_000])).unwrap());
}

#[test]
fn files_on_disk_are_private_and_survive() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state/store");
    let config = StoreConfig { dir: Some(root.clone()), store_bytes_max: LIMIT };
    upload(&Store::open(&config).unwrap(), &tenant("a"), Kind::Snapshot, b"kept").unwrap();
    let file = root.join("objects").join(Cid::of(b"kept").hex());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    // A crash: names under way are left, and no lock is held.
    std::fs::create_dir(root.join("tmp/5")).unwrap();
    std::fs::write(root.join("tmp/5/0"), [0; 9]).unwrap();
    let store = Store::open(&config).unwrap();
    assert!(!root.join("tmp/5").exists());
    assert_eq!(store.used_bytes(), 4);
    let object = store.object(&tenant("a"), Kind::Snapshot, &Cid::of(b"kept")).unwrap().unwrap();
    std::fs::remove_file(&file).unwrap();
    let shared = Arc::new(object);
    let reads: Vec<_> = (0..4)
        .map(|_| {
            let o = shared.clone();
            std::thread::spawn(move || o.read_all(9).unwrap())
        })
        .collect();
    for read in reads {
        assert_eq!(read.join().unwrap(), b"kept", "an open object stays readable");
    }
}
