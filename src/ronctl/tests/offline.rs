//! The verbs that need no service, run as a person runs them.

#![allow(missing_docs)]

mod common;

use common::Desk;
use rewarder_model::Cid;
use serde_json::{Value, json};
use svc_rewarder::proof;

#[test]
fn seal_prints_the_cid_alone() {
    let desk = Desk::new();
    let told = desk.seal("work.csv", "epoch.arrows").ends(0);
    let cid = Cid::of(&std::fs::read(desk.path().join("epoch.arrows")).unwrap()).to_string();
    assert_eq!((told.out.as_str(), told.err.as_str()), (format!("{cid}\n").as_str(), ""));
    let told = desk.words(
        "seal work.csv --tenant acme --epoch 2026-11 --asset roc --pool 10000 --out again.arrows --json",
    );
    assert_eq!((told.json()["cid"].as_str(), told.json()["rows"].as_u64()), (Some(cid.as_str()), Some(5)));
}

#[test]
fn seal_takes_other_names_for_columns_and_one_category_for_all() {
    let desk = Desk::new();
    desk.write("owners.csv", "owner,downloads\nada,7\n");
    let seal = "seal owners.csv --tenant acme --epoch e --asset roc --pool 1 --out f.arrows";
    desk.words(&format!("{seal} --map actor=owner --map units=downloads --category views")).ends(0);
    let told = desk.words(&format!("{seal} --map who=owner")).ends(2);
    told.says("there is no column `who` in a snapshot");
}

#[test]
fn seal_refuses_rows_with_line_and_column_and_leaves_nothing() {
    let desk = Desk::new();
    desk.write("bad.csv", "actor,category,units\nada,views,1.5\nbob,views,-2\n");
    let told = desk.seal("bad.csv", "bad.arrows").ends(2);
    assert_eq!(told.out, "");
    told.says("line 2, column `units`: `1.5` is not a plain whole number");
    told.says("line 3, column `units`: `-2` is negative");
    assert_eq!(std::fs::read_dir(desk.path()).unwrap().count(), 3, "nothing new in the directory");
    desk.seal("none.csv", "bad.arrows").ends(1).says("cannot open none.csv");
    let told =
        desk.words("seal bad.csv --tenant acme --epoch e --asset roc --pool 1 --out f.arrows --json").ends(2);
    assert!(told.json()["error"].as_str().unwrap().contains("2 rows refused"));
}

#[test]
fn seal_warns_of_names_that_look_alike() {
    let desk = Desk::new();
    desk.write("odd.csv", "actor,category,units\na\u{200d}b,views,1\n");
    let told = desk.seal("odd.csv", "odd.arrows").ends(0);
    assert!(told.out.starts_with("b3:") && told.out.lines().count() == 1);
    assert!(
        told.err.contains("invisible format characters") && told.err.contains("a\\u{200d}b"),
        "{}",
        told.err
    );
}

#[test]
fn replay_names_the_first_difference() {
    let desk = Desk::sealed();
    desk.run("run");
    let replay = |manifest: &str| {
        desk.words(&format!("replay --inputs epoch.arrows --policy policy.json --manifest {manifest}"))
    };
    let manifest = desk.read("run/manifest.json");
    replay("run/manifest.json").ends(0).says(&Cid::of(manifest.as_bytes()).to_string());

    desk.write(
        "other.json",
        manifest.replace("\"payout_minor_units\":\"9910\"", "\"payout_minor_units\":\"9911\""),
    );
    replay("other.json").ends(1).says("different: totals.payout_minor_units\n  ours    9910\n  theirs  9911");
    let told =
        desk.words("replay --inputs epoch.arrows --policy policy.json --manifest other.json --json").ends(1);
    assert_eq!(told.json()["field"], "totals.payout_minor_units");
    assert_eq!((told.json()["ours"].as_str(), told.json()["theirs"].as_str()), (Some("9910"), Some("9911")));

    desk.write("more.json", manifest.replacen('{', "{\"note\":1,", 1));
    replay("more.json").ends(1).says("different: note");
    desk.write("spaced.json", format!("{manifest}\n"));
    replay("spaced.json").ends(1).says("(bytes from");
    desk.write("text.json", "no manifest");
    replay("text.json").ends(2).says("text.json is no manifest");
    replay("none.json").ends(2).says("none.json cannot be read");
}

#[test]
fn replay_of_refused_input_ends_with_2_and_the_reason() {
    let desk = Desk::sealed();
    desk.run("run");
    let bytes = std::fs::read(desk.path().join("epoch.arrows")).unwrap();
    desk.write("cut.arrows", &bytes[..700]);
    let replay = "replay --policy policy.json --manifest run/manifest.json --json --inputs";
    assert_eq!(desk.words(&format!("{replay} cut.arrows")).ends(2).json()["reason"], "snapshot_invalid");
    assert_eq!(desk.words(&format!("{replay} none.arrows")).ends(2).json()["reason"], "inputs_not_found");
    desk.write("policy.json", common::POLICY.replace("subs", "likes"));
    assert_eq!(desk.words(&format!("{replay} epoch.arrows")).ends(2).json()["reason"], "unknown_category");
    desk.write("policy.json", "{}");
    assert_eq!(desk.words(&format!("{replay} epoch.arrows")).ends(2).json()["reason"], "policy_invalid");
}

#[test]
fn why_explains_from_a_run_and_offline_alike() {
    let desk = Desk::sealed();
    desk.run("run");
    for (actor, verdict) in [("ada", "capped"), ("bob", "paid"), ("dora", "dust"), ("eve", "absent")] {
        let stored = desk.words(&format!("why {actor} --run run --json")).ends(0).json();
        let offline = desk
            .words(&format!("why {actor} --inputs epoch.arrows --policy policy.json --json"))
            .ends(0)
            .json();
        assert_eq!(stored, offline);
        assert_eq!(stored["verdict"], verdict, "{actor}");
    }
    let capped = desk.words("why ada --run run").ends(0);
    capped.says(
        "6,000 minor units, in round 1, where the share was 9,578; the 3,578 above it went round again",
    );
    capped.says("was not verified again");
    let dust = desk.words("why dora --run run").ends(0);
    dust.says("exact share      90.225563909… minor units (4,000 × 0.3 / 13.3)");
    dust.says("12,000 / 133");
    dust.says(
        "short of it by   9.774436090… minor units; at this run's rate a score of 0.4 would have been paid",
    );
    desk.words("why ada --inputs epoch.arrows --policy policy.json")
        .ends(0)
        .says("recomputed: commitment b3:");
}

#[test]
fn why_takes_a_smallest_payout_of_nothing_for_a_unit() {
    let desk = Desk::new();
    desk.write("work.csv", "actor,category,units\nada,views,1000\nbob,views,1\n");
    desk.words("seal work.csv --tenant acme --epoch e --asset roc --pool 100 --out e.arrows").ends(0);
    desk.write(
        "zero.json",
        r#"{"schema":"rewarder.policy.v1","id":"zero","mode":"share","weights":{"views":"1"},"rounding":"floor",
            "min_payout_minor_units":"0"}"#,
    );
    let told = desk.words("why bob --inputs e.arrows --policy zero.json").ends(0);
    told.says(
        "short of it by   0.900099900… minor units; at this run's rate a score of 11 would have been paid",
    );
}

#[test]
fn what_was_typed_wrong_is_told_as_json_too() {
    let told = Desk::new().words("seal work.csv --tenant ACME --epoch e --asset roc --pool 1 --out f --json");
    let told = told.ends(2).json();
    assert!(
        told["error"].as_str().unwrap().starts_with("invalid value 'ACME' for '--tenant <TENANT>'"),
        "{told}"
    );
}

#[test]
fn why_says_what_it_misses() {
    let desk = Desk::sealed();
    desk.run("run");
    desk.words("why ada").ends(2).says("from where?");
    desk.words("why ada --run none").ends(2).says("none/run.json cannot be read");
    desk.ronctl(&["why", "a\nb", "--run", "run"]).ends(2).says("holds a control character");
    std::fs::rename(desk.path().join("epoch.arrows"), desk.path().join("moved.arrows")).unwrap();
    desk.words("why ada --run run").ends(2).says("say with --inputs where it is now");
    desk.words("why ada --run run --inputs moved.arrows").ends(0).says("ada gets");
    desk.words("why ada --run run --inputs moved.arrows --policy policy.json").ends(2);
    desk.words("why ada --inputs moved.arrows").ends(2).says("from where?");
    desk.write("epoch.arrows", "short");
    desk.words("why ada --run run").ends(2).says("is not the one of this run");
}

#[test]
fn verify_proof_shows_payouts_and_absences_and_nothing_else() {
    let desk = Desk::sealed();
    desk.run("run");
    let text = desk.read("run/allocations.tsv").into_bytes();
    let root = Cid::of(&text);
    let verify = |actor: &str| desk.words(&format!("verify-proof proof.json --root {root} --actor {actor}"));
    for (actor, expected) in [("ada", "6000\n"), ("cleo", "2105\n"), ("aa", "none\n"), ("dora", "none\n")] {
        let proof = proof::prove(&text, &proof::Tree::default(), root, &proof::find(&text, actor.as_bytes()));
        desk.write("proof.json", serde_json::to_vec(&proof).unwrap());
        assert_eq!(verify(actor).ends(0).out, expected, "{actor}");
        // The whole answer of the service holds it as a member.
        desk.write("proof.json", json!({ "actor": actor, "proof": proof }).to_string());
        assert_eq!(verify(actor).ends(0).out, expected, "{actor}");
    }
    let proof = proof::prove(&text, &proof::Tree::default(), root, &proof::find(&text, b"ada"));
    desk.write("proof.json", serde_json::to_vec(&proof).unwrap());
    assert_eq!(verify("cleo").ends(1).out, "", "a proof of another");
    let elsewhere = Cid::of(b"another table");
    desk.words(&format!("verify-proof proof.json --root {elsewhere} --actor ada"))
        .ends(1)
        .says("another root");
    let mut tampered = serde_json::to_value(&proof).unwrap();
    let slice = tampered["slice"].as_str().unwrap().replacen('A', "B", 1);
    tampered["slice"] = slice.into();
    desk.write("proof.json", tampered.to_string());
    assert_eq!(verify("ada").ends(1).out, "");
    desk.write("proof.json", "{}");
    verify("ada").ends(1).says("not of the form");
}

#[test]
fn diff_counts_names_and_sums() {
    let desk = Desk::sealed();
    desk.run("a");
    desk.run("b");
    desk.words("diff a b").ends(0);
    let table = desk.read("a/allocations.tsv");
    desk.write("b/allocations.tsv", table.replace("bob\t1805\n", "bea\t5\nbob\t1800\n"));
    let told = desk.words("diff a b").ends(1);
    told.says("2 payouts differ");
    told.says("sum: a 9,910, b 9,910, difference 0");
    let tables = desk.words("diff a/allocations.tsv b/allocations.tsv --json").ends(1).json();
    assert_eq!(tables["allocations"]["differing"], 2);
    assert_eq!(tables["allocations"]["named"][0], json!({ "actor": "bea", "a": Value::Null, "b": "5" }));
    let manifest = desk.read("a/manifest.json");
    desk.write("m.json", manifest.replace("\"recipients\":3", "\"recipients\":4"));
    desk.words("diff a/manifest.json m.json")
        .ends(1)
        .says("manifest: totals.recipients\n  a       3\n  b       4");
    desk.words("diff a m.json").ends(2).says("of different kinds");
    desk.write("wild.tsv", "b\t1\na\t1\n");
    desk.words("diff wild.tsv wild.tsv").ends(2).says("line 2 does not come after the one before it");
}

#[test]
fn capabilities_are_minted_narrowed_looked_at_and_outlive_a_rotation() {
    let desk = Desk::new();
    desk.words("cap keygen --keys keys.json").ends(0).says("key k1 added");
    let mint = "cap mint --keys keys.json --tenant acme --expires 2h";
    let minted = desk.words(&format!("{mint} --scope rewarder.run rewarder.inspect")).ends(0);
    assert_eq!((minted.out.lines().count(), minted.err.as_str()), (1, ""));
    let token = minted.out.trim();
    let narrowed = desk.words(&format!("cap attenuate {token} --epoch-prefix 2026- --dry-run-only")).ends(0);
    let narrowed = narrowed.out.trim();
    desk.words(&format!("cap inspect {narrowed}")).ends(0).says("who signed it is not checked");
    let seen = desk.words(&format!("cap inspect {narrowed} --json --keys keys.json")).ends(0).json();
    let caveats: Vec<&str> =
        seen["caveats"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(caveats[..2], ["tenant = acme", "scope = rewarder.run rewarder.inspect"]);
    assert_eq!(caveats[3..], ["epoch_prefix = 2026-", "dry_run = true"]);
    assert_eq!(seen["verifies"], true);

    let rotated = desk.words("cap rotate --keys keys.json").ends(0);
    rotated.says("key k2 added");
    rotated.says("key k1 verifies until");
    desk.words(&format!("cap inspect {token} --keys keys.json")).ends(0).says("it verifies with these keys");
    let new = desk.ronctl(&[
        "cap",
        "mint",
        "--keys",
        "keys.json",
        "--tenant",
        "acme",
        "--scope",
        "rewarder.run rewarder.seal",
    ]);
    new.says("never expires");
    let seen = desk.words(&format!("cap inspect {} --json", new.ends(0).out.trim())).json();
    assert_eq!((seen["key_id"].as_str(), &seen["verifies"]), (Some("k2"), &Value::Null));

    desk.words("cap keygen --keys other.json").ends(0);
    desk.words(&format!("cap inspect {token} --keys other.json")).ends(1).says("does not verify");
    desk.words(mint).ends(2).says("--scope is missing");
    desk.words(&format!("{mint} --scope rewarder.run --expires soon")).ends(2);
    desk.words(&format!("cap attenuate {token}")).ends(2).says("nothing to add");
    desk.words("cap inspect nonsense!").ends(2).says("base64url");
    desk.words("cap rotate --keys none.json").ends(2).says("cannot open the key file");
}

#[test]
fn config_check_says_what_the_service_would() {
    let desk = Desk::new();
    let told = desk.words("config check").ends(0);
    told.says("max_inflight                = 512");
    told.says("stages.admit                = width 8, queue 4096");
    assert!(told.err.contains("cap_keys_file cap-keys.json is not there"), "{}", told.err);
    desk.write("c.toml", "max_inflight = 7\ncap_keys_file = 'k.json'\n[stages.emit]\nwidth = 3\n");
    let told = desk.words("config check svc-rewarder --config c.toml --json").ends(0).json();
    assert_eq!(
        (told["settings"]["max_inflight"].as_str(), told["stages"]["emit"]["width"].as_u64()),
        (Some("7"), Some(3))
    );
    desk.write("k.json", "{}");
    desk.words("config check --config c.toml").ends(2).says("cap_keys_file: the key file k.json has mode");
    desk.write("c.toml", "max_inflght = 7\n");
    desk.words("config check --config c.toml").ends(2).says("did you mean max_inflight?");
    desk.words("config check svc-other").ends(2).says("svc-other is not known here");
}

#[test]
fn a_latch_is_shown_and_released_with_a_reason() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path().join("state")).unwrap();
    desk.words("latch show --state-dir state").ends(0).says("emission is on");
    desk.write("state/latch.json", r#"{"reason":"invariant breach","since_unix_ms":1}"#);
    desk.words("latch show --state-dir state").ends(1).says("emission is off: invariant breach");
    desk.ronctl(&["latch", "release", "--state-dir", "state", "--reason", " "])
        .ends(1)
        .says("needs a reason");
    desk.words("latch release --state-dir state --reason rolled-back").ends(0).says("emission is on again");
    assert!(!desk.has("state/latch.json") && desk.read("state/audit.jsonl").contains("rolled-back"));
    desk.words("latch show --state-dir nowhere").ends(2).says("there is no state directory nowhere");
}

#[test]
fn the_network_is_named_when_it_is_not_there() {
    let desk = Desk::sealed();
    let submit = "submit --inputs epoch.arrows --policy policy.json --url";
    desk.words(&format!("{submit} http://127.0.0.1:1 --token x")).ends(1).says("is the service there");
    let secure = format!("{submit} https://127.0.0.1:1 --token x --ca");
    desk.words(&format!("{secure} policy.json")).ends(2).says("there is no certificate in it");
    desk.words(&format!("{submit} http://127.0.0.1:1 --token x --require-pq")).ends(2).says("https:// only");
    desk.words(&format!("{submit} http://127.0.0.1:1")).ends(2).says("there is no capability");
    desk.words("top --once --url http://127.0.0.1:1").ends(1).says("no connection");
}

#[test]
fn submit_refuses_before_the_network_what_no_service_would_take() {
    let desk = Desk::sealed();
    let submit = |inputs: &str| {
        let line = "submit --url http://127.0.0.1:1 --token x --policy policy.json --json --inputs";
        desk.words(&format!("{line} {inputs}")).ends(2).json()["reason"].clone()
    };
    let bytes = std::fs::read(desk.path().join("epoch.arrows")).unwrap();
    for cut in [0, 1, 8, 100] {
        desk.write("cut.arrows", &bytes[..cut]);
        assert_eq!(submit("cut.arrows"), "snapshot_invalid", "{cut} bytes");
    }
    desk.write("long.arrows", [&[0xff; 4][..], &i32::MAX.to_le_bytes(), &[0; 64]].concat());
    assert_eq!(submit("long.arrows"), "snapshot_invalid");
    assert_eq!(submit("none.arrows"), "inputs_not_found");
    desk.write("policy.json", "{}");
    assert_eq!(submit("epoch.arrows"), "policy_invalid");
}
