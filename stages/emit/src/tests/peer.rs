//! A `svc-ledger` of the tests: the protocol over a real socket, an embedded ledger behind it, and faults by
//! request.

use crate::ledger::{Answer, EmbeddedLedger, Ledger, Record, Verdict};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rewarder_model::{Cid, Intent};
use serde_json::json;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// What goes wrong with one submission.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The connection breaks, after the intent was settled or before.
    Reset { settled: bool },
    /// No answer ever.
    Silence { settled: bool },
    /// This answer instead, after the intent was settled or before.
    Say { settled: bool, status: u16, body: String, retry_after: Option<u32> },
    /// The right status, and a body that ends in its middle.
    Half,
}

pub(crate) struct Peer {
    pub(crate) url: String,
    pub(crate) ledger: EmbeddedLedger,
    pub(crate) faults: Arc<Mutex<VecDeque<Fault>>>,
    /// `POST key` and `GET`, as they came.
    pub(crate) log: Arc<Mutex<Vec<String>>>,
    pub(crate) came: Arc<Notify>,
}

impl Peer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ledger = EmbeddedLedger::open(None, &super::world::HandClock::new()).await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let peer = Self { url, ledger, faults: Arc::default(), log: Arc::default(), came: Arc::default() };
        let (ledger, faults, log, came) =
            (peer.ledger.clone(), peer.faults.clone(), peer.log.clone(), peer.came.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (ledger, faults, log, came) = (ledger.clone(), faults.clone(), log.clone(), came.clone());
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let (ledger, log, came) = (ledger.clone(), log.clone(), came.clone());
                        let is_post = request_is_post(&request);
                        let fault = if is_post { faults.lock().unwrap().pop_front() } else { None };
                        async move { serve(request, ledger, fault, &log, &came).await }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        peer
    }
}

fn request_is_post(request: &Request<Incoming>) -> bool {
    request.method() == Method::POST
}

fn say(status: u16, body: impl ToString) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(Bytes::from(body.to_string()))).unwrap()
}

fn named(result: &str, record: &Record) -> String {
    json!({"result": result, "run_key": record.run_key, "commitment": record.commitment}).to_string()
}

async fn serve(
    request: Request<Incoming>,
    ledger: EmbeddedLedger,
    fault: Option<Fault>,
    log: &Mutex<Vec<String>>,
    came: &Notify,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET {
        log.lock().unwrap().push("GET".into());
        let key: Cid = path.strip_prefix("/v1/intents/").unwrap().parse().unwrap();
        return Ok(match ledger.lookup(&key).await.unwrap() {
            Some(record) => say(200, named("accepted", &record)),
            None => say(404, "{}"),
        });
    }
    assert_eq!(path, "/v1/intents");
    let key = request.headers()["idempotency-key"].to_str().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let intent: Intent = serde_json::from_slice(&body).unwrap();
    assert_eq!(key, intent.run_key.to_string());
    log.lock().unwrap().push(format!("POST {key}"));
    let settle = !matches!(
        fault,
        Some(
            Fault::Reset { settled: false }
                | Fault::Silence { settled: false }
                | Fault::Say { settled: false, .. }
        )
    );
    let answer = if settle {
        match ledger.submit(&intent).await {
            Ok(Answer::Accepted) => say(201, json!({"result": "accepted"})),
            Ok(Answer::Dup(record)) => say(200, named("dup", &record)),
            Ok(Answer::Conflict(record)) => say(409, named("conflict", &record)),
            Err(error) if error.verdict == Verdict::Refused => say(422, json!({"error": error.detail})),
            Err(error) => say(503, json!({"error": error.detail})),
        }
    } else {
        say(500, "")
    };
    came.notify_one();
    match fault {
        None => Ok(answer),
        Some(Fault::Reset { .. }) => Err(std::io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Silence { .. }) => std::future::pending().await,
        Some(Fault::Half) => {
            let (head, body) = answer.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            Ok(Response::from_parts(head, Full::new(bytes.slice(..bytes.len() / 2))))
        }
        Some(Fault::Say { status, body, retry_after, .. }) => {
            let mut answer = say(status, body);
            if let Some(seconds) = retry_after {
                answer.headers_mut().insert("retry-after", seconds.into());
            }
            Ok(answer)
        }
    }
}
