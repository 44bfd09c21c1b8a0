//! A client of TLS that measures: `tls ADDRESS CA_FILE handshakes COUNT` shakes hands again and again; `tls ADDRESS CA_FILE requests
//! FILE` sends the requests of a file, one a line (method, path, bearer, body or `@FILE`; tabs between), over one connection. Each prints
//! one JSON object of microseconds. It offers X25519MLKEM768 first, as clients do; what is taken is the service's choice. With
//! `classical` in place of `handshakes` it offers X25519 alone, as clients did. `testing/attack/pq` runs it.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn connector(ca: &str, groups: Vec<&'static dyn SupportedKxGroup>) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for issuer in CertificateDer::pem_file_iter(ca)? {
        roots.add(issuer?)?;
    }
    let provider = CryptoProvider { kx_groups: groups, ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A resumed handshake would measure something else.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn as_clients_do() -> Vec<&'static dyn SupportedKxGroup> {
    aws_lc_rs::default_provider().kx_groups
}

async fn connect(connector: &TlsConnector, address: &str) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(connector.connect(ServerName::try_from("localhost")?, stream).await?)
}

fn told(mut took: Vec<Duration>, group: &str) {
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).map_or(0.0, |d| d.as_secs_f64() * 1e6);
    let total: Duration = took.iter().sum();
    let per_second = took.len() as f64 / total.as_secs_f64();
    println!(
        "{{\"count\":{},\"p50_us\":{:.1},\"p95_us\":{:.1},\"per_second\":{per_second:.0},\"group\":\"{group}\"}}",
        took.len(),
        at(50),
        at(95)
    );
}

fn group(stream: &TlsStream<TcpStream>) -> String {
    let group = stream.get_ref().1.negotiated_key_exchange_group();
    group.map_or_else(String::new, |group| format!("{:?}", group.name()))
}

async fn handshakes(connector: &TlsConnector, address: &str, count: usize) -> Result<()> {
    let mut took = Vec::with_capacity(count);
    let mut name = String::new();
    for _ in 0..count {
        let begun = Instant::now();
        let stream = connect(connector, address).await?;
        took.push(begun.elapsed());
        name = group(&stream);
    }
    told(took, &name);
    Ok(())
}

async fn requests(connector: &TlsConnector, address: &str, lines: &str) -> Result<()> {
    let stream = connect(connector, address).await?;
    let name = group(&stream);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driven = tokio::spawn(connection);
    let mut took = Vec::new();
    for line in lines.lines() {
        let [method, path, bearer, body] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err(format!("this line is no request: {line}").into());
        };
        let (kind, bytes) = match body.strip_prefix('@') {
            Some(file) => ("application/octet-stream", std::fs::read(file)?),
            None => ("application/json", body.as_bytes().to_vec()),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", kind)
            .header("authorization", format!("Bearer {bearer}"))
            .body(Full::new(Bytes::from(bytes)))?;
        let begun = Instant::now();
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        took.push(begun.elapsed());
        if !status.is_success() {
            return Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer)).into());
        }
    }
    told(took, &name);
    driven.abort();
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [address, ca, "handshakes", count] => {
            handshakes(&connector(ca, as_clients_do())?, address, count.parse()?).await
        }
        [address, ca, "classical", count] => {
            let alone = vec![aws_lc_rs::kx_group::X25519];
            handshakes(&connector(ca, alone)?, address, count.parse()?).await
        }
        [address, ca, "requests", file] => {
            let lines = std::fs::read_to_string(file)?;
            requests(&connector(ca, as_clients_do())?, address, &lines).await
        }
        _ => Err("usage: tls ADDRESS CA_FILE handshakes COUNT | classical COUNT | requests FILE".into()),
    }
}
