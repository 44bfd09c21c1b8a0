//! The verbs that talk to a service, against the real one on loopback, in this process.

#![allow(missing_docs)]

mod common;

use common::Desk;
use std::net::SocketAddr;
use std::path::PathBuf;
use svc_rewarder::config::{self, ConfigArgs, Environment};
use svc_rewarder::edge::{self, Bound};
use svc_rewarder::service::Service;
use svc_rewarder::telemetry;

/// Serves on ports of the system's choice until this process ends.
fn serve(config: PathBuf) -> (SocketAddr, SocketAddr) {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let args = ConfigArgs { config: Some(config), profile: None };
        let settings = config::load(&args, &Environment::new()).unwrap();
        let metrics = telemetry::metrics().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let bound = Bound::bind(&settings).await.unwrap();
            let addresses = (bound.http_addr, bound.metrics_addr);
            let (service, pipeline) =
                Service::start(settings, (args, Environment::new()), false).await.unwrap();
            tell.send(addresses).unwrap();
            edge::run(service, pipeline, bound, metrics, Default::default()).await;
        });
    });
    told.recv().unwrap()
}

#[test]
fn an_epoch_goes_in_and_comes_out_once() {
    let desk = Desk::sealed();
    desk.words("cap keygen --keys keys.json").ends(0);
    let scopes = "rewarder.seal rewarder.policy rewarder.run rewarder.inspect";
    let mint = format!("cap mint --keys keys.json --tenant acme --expires 1h --scope {scopes}");
    desk.write("token", desk.words(&mint).ends(0).out);
    let [keys, state] = ["keys.json", "state"].map(|name| desk.path().join(name));
    // A deadline of a millisecond: a fresh computation is answered 202 and has to be followed.
    let settings = format!(
        "http_addr = '127.0.0.1:0'\nmetrics_addr = '127.0.0.1:0'\nrequest_deadline_ms = 1\ncap_keys_file = '{}'\nstate_dir = '{}'\n",
        keys.display(),
        state.display()
    );
    desk.write("svc.toml", settings);
    let (http, metrics) = serve(desk.path().join("svc.toml"));
    let submit = |policy: &str, more: &str| {
        let line = format!(
            "submit --url http://{http} --token-file token --inputs epoch.arrows --policy {policy} {more}"
        );
        desk.words(&line)
    };

    let first = submit("policy.json", "--out out --json").ends(0);
    assert_eq!(first.json()["ledger"]["result"], "accepted", "{first:?}");
    desk.run("run");
    desk.words("diff run out").ends(0);
    for name in ["allocations.arrow", "attestation.json", "delivery.json"] {
        assert!(desk.has(&format!("out/{name}")), "{name}");
    }
    assert_eq!(submit("policy.json", "--json").ends(0).json()["ledger"]["result"], "dup");
    submit("policy.json", "--out out").ends(0).says("ada ");
    // What the service has computed is explained as what was computed here.
    let stored = desk.words("why dora --run run --json").ends(0).json();
    assert_eq!(desk.words("why dora --run out --json").ends(0).json(), stored);
    desk.words("why dora --run out").ends(0).says("recomputed, and it comes to out/manifest.json");

    desk.write("other.json", common::POLICY.replace("6000", "5000").replace("rev42", "rev43"));
    assert_eq!(submit("other.json", "--json").ends(4).json()["reason"], "epoch_conflict");
    // Its files are not to be had of the service; what it computed is said all the same.
    let elsewhere = submit("other.json", "--dry-run --out elsewhere").ends(1);
    elsewhere.says("nothing was saved");
    elsewhere.says("svc-rewarder run --dry-run");
    elsewhere.says("not told: a dry run");
    let elsewhere = submit("other.json", "--dry-run --out elsewhere --json").ends(1).json();
    assert_eq!(elsewhere["answer"]["ledger"]["result"], "none", "{elsewhere}");
    assert!(elsewhere["error"].as_str().unwrap().contains("nothing was saved"), "{elsewhere}");
    assert!(!desk.has("elsewhere/manifest.json"));
    let dear = r#"{ "schema": "rewarder.policy.v1", "id": "dear", "mode": "tariff", "rounding": "floor",
        "weights": { "views": "3000", "subs": "1" } }"#;
    desk.write("dear.json", dear);
    submit("dear.json", "--json").ends(3).says("over_budget");
    desk.words("seal work.csv --tenant acme --epoch 2026-12 --asset roc --pool 10000 --out epoch.arrows")
        .ends(0);
    assert_eq!(submit("dear.json", "--json --out dear").ends(3).json()["reason"], "over_budget");
    assert!(
        desk.read("dear/manifest.json").contains("unpayable") && desk.read("dear/allocations.tsv").is_empty()
    );
    desk.seal("work.csv", "epoch.arrows").ends(0);

    // Until an epoch is settled it shows the run that was asked for last, also one that was there before.
    desk.words("seal work.csv --tenant acme --epoch 2026-14 --asset roc --pool 10000 --out epoch.arrows")
        .ends(0);
    submit("policy.json", "--out shared").ends(0);
    desk.words("seal work.csv --tenant acme --epoch 2026-15 --asset roc --pool 10000 --out epoch.arrows")
        .ends(0);
    for policy in ["policy.json", "other.json", "policy.json"] {
        submit(policy, "--dry-run --out dry").ends(0);
        desk.words(&format!("replay --inputs epoch.arrows --policy {policy} --manifest dry/manifest.json"))
            .ends(0);
        submit("dear.json", "--out dear").ends(3);
        assert!(desk.read("dear/manifest.json").contains("2026-15"));
        std::fs::remove_dir_all(desk.path().join("dear")).unwrap();
    }
    // What stood there of another run has gone with it.
    assert!(desk.has("shared/delivery.json"));
    submit("policy.json", "--dry-run --out shared").ends(0).says("delivery.json belonged to another run");
    assert!(!desk.has("shared/delivery.json") && desk.has("shared/attestation.json"));
    desk.run("shared");
    assert!(desk.has("shared/attestation.json"), "that is of this very run");
    desk.seal("work.csv", "epoch.arrows").ends(0);
    desk.run("shared");
    assert!(!desk.has("shared/attestation.json") && desk.has("shared/manifest.json"));

    let why = |actor: &str, more: &str| {
        desk.words(&format!("why {actor} --url http://{http} --epoch 2026-11 --token-file token {more}"))
    };
    why("ada", "").ends(0).says("proved against the root");
    let root = serde_json::from_str::<serde_json::Value>(&desk.read("out/manifest.json")).unwrap();
    let root = root["allocations_root"].as_str().unwrap().to_owned();
    desk.write("proof.json", why("eve", &format!("--json --root {root}")).ends(0).out);
    assert_eq!(
        desk.words(&format!("verify-proof proof.json --root {root} --actor eve")).ends(0).out,
        "none\n"
    );

    let top = desk.words(&format!("top --url http://{metrics} --json")).ends(0).json();
    assert_eq!(top["stages"][1]["stage"], "decode");
    assert!(top["rejected"]["inputs_not_found"].as_f64().is_some());

    let url = format!("http://{metrics}");
    let tail = std::thread::scope(|scope| {
        let tail =
            scope.spawn(|| desk.ronctl(&["tail", "--url", &url, "--topic", "svc-rewarder", "--count", "1"]));
        // Until it listens events are not for it.
        while !tail.is_finished() {
            submit("policy.json", "--dry-run").ends(0);
            std::thread::sleep(std::time::Duration::from_millis(50));
            submit("other.json", "").ends(4);
        }
        tail.join().unwrap()
    });
    tail.ends(0).says(" svc-rewarder Job");

    // An operator on the running service: a drill, what it holds, an act on that, and what the audit log says.
    desk.words("latch release --state-dir state --reason x").ends(0).says("nothing to release");
    desk.words("brownout show --state-dir state").ends(0).says("closed");
    desk.words("brownout start --state-dir state --reason drill").ends(0).says("open: a drill");
    desk.words("seal work.csv --tenant acme --epoch 2026-13 --asset roc --pool 10000 --out epoch.arrows")
        .ends(0);
    assert_eq!(submit("policy.json", "--json").ends(5).json()["quarantine"], true);
    let held = desk.words("quarantine list --state-dir state --json").ends(0).json();
    assert_eq!((&held["depth"], &held["entries"][0]["intent"]["epoch_id"]), (&1.into(), &"2026-13".into()));
    let seq = held["entries"][0]["seq"].to_string();
    desk.words(&format!("quarantine show {seq} --state-dir state")).ends(0).says("2026-13");
    desk.words(&format!("quarantine release {seq} --state-dir state --reason again"))
        .ends(2)
        .says("it is sent again by itself");
    desk.words(&format!("quarantine drop {seq} --state-dir state --reason withdrawn"))
        .ends(0)
        .says("2026-13");
    desk.words(&format!("quarantine drop {seq} --state-dir state --reason twice"))
        .ends(2)
        .says("nothing stands");
    desk.words("brownout show --state-dir state").ends(1).says("a drill");
    desk.words("brownout stop --state-dir state --reason done").ends(0);
    desk.words("audit verify --state-dir state").ends(0).says("3 lines");
    desk.words("audit list --state-dir state").ends(0).says("withdrawn");
    desk.seal("work.csv", "epoch.arrows").ends(0);

    let stranger = format!(
        "submit --url http://{http} --token nonsense --inputs epoch.arrows --policy policy.json --json"
    );
    assert_eq!(desk.words(&stranger).ends(2).json()["reason"], "unauth");
}
