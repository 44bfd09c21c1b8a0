//! What HTTP itself costs: hyper with nothing on it, the other side of `benches/service`: the same library, runtime and threads as
//! the service, and no door, no limits, no time-outs, no logs.
//!
//! `hello` answers `hello` to whatever is asked. `hello ANSWER` answers what stands in that file, header fields, a blank line and
//! a body, after it has read the body of the question and found the fields of a compute in it: what nobody who gives that
//! answer to that question can leave out. Both listen on a free loopback port and print its address.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::error::Error;
use std::hint::black_box;
use std::io;
use tokio::net::TcpListener;

/// An answer that was given before.
struct Given {
    headers: HeaderMap,
    body: Bytes,
}

/// What a compute asks for; read, and not used.
#[derive(Deserialize)]
#[allow(dead_code)]
struct Asked<'a> {
    inputs_cid: &'a str,
    policy_id: &'a str,
    policy_hash: &'a str,
}

impl Given {
    fn read(path: &str) -> Result<Self, Box<dyn Error>> {
        let text = std::fs::read_to_string(path)?;
        let (head, body) = text.split_once("\n\n").ok_or("no blank line")?;
        let mut headers = HeaderMap::new();
        for field in head.lines() {
            let (name, value) = field.split_once(": ").ok_or("no header field")?;
            headers.insert(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
        }
        Ok(Self { headers, body: body.to_owned().into() })
    }

    async fn answer(&self, question: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
        let asked = question.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let asked: Asked<'_> = serde_json::from_slice(&asked)?;
        black_box(&asked);
        let mut answer = Response::new(Full::new(self.body.clone()));
        for (name, value) in &self.headers {
            answer.headers_mut().insert(name, value.clone());
        }
        Ok(answer)
    }
}

async fn hello(
    given: Option<&Given>,
    question: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    match given {
        Some(given) => given.answer(question).await,
        None => Ok(Response::new(Full::new(Bytes::from_static(b"hello\n")))),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let given = std::env::args().nth(1).map(|path| Given::read(&path)).transpose()?;
    let given: Option<&'static Given> = given.map(|given| &*Box::leak(Box::new(given)));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let service = service_fn(move |question| hello(given, question));
                // A connection that breaks off is the load generator's business.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}
