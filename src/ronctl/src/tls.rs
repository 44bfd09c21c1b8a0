//! TLS of the client: whom it trusts, who it is, and whether only post-quantum is good enough.
//!
//! TLS 1.3 only, as the service speaks; X25519MLKEM768 is offered first, and alone with `--require-pq`.

use crate::failure::Failure;
use clap::Args;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use svc_rewarder::edge::certificates;

/// How to speak https://.
#[derive(Args, Default)]
pub struct TlsArgs {
    /// Trust the issuers in this PEM file, and not those of the system
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Show this certificate (PEM, its chain after it)
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Take nothing that a quantum computer could break later: only X25519MLKEM768, and attestations with ML-DSA-65
    #[arg(long)]
    pub require_pq: bool,
}

fn unusable<'a>(flag: &'a str, path: &'a Path) -> impl Fn(&dyn Display) -> Failure + 'a {
    move |error| Failure::refused(format!("{flag} {}: {error}", path.display()))
}

fn builder(require_pq: bool) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Failure> {
    let mut provider: CryptoProvider = aws_lc_rs::default_provider();
    if require_pq {
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    }
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Failure::new(format!("TLS cannot be set up: {e}")))
}

impl TlsArgs {
    /// A flag that was given, for the message where none makes sense.
    pub fn given(&self) -> Option<&'static str> {
        match self {
            Self { ca: Some(_), .. } => Some("--ca"),
            Self { client_cert: Some(_), .. } => Some("--client-cert"),
            Self { require_pq: true, .. } => Some("--require-pq"),
            _ => None,
        }
    }

    /// A configuration that trusts nobody, for URLs without TLS.
    pub fn nobody() -> Result<ClientConfig, Failure> {
        Ok(builder(false)?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    }

    /// The configuration that the flags ask for.
    pub fn config(&self) -> Result<ClientConfig, Failure> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for issuer in certificates(path).map_err(|e| unusable("--ca", path)(&e))? {
                    roots.add(issuer).map_err(|e| unusable("--ca", path)(&e))?;
                }
            }
            // What the system has may hold a certificate that nobody can read; the others count.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            let fix = "this machine trusts no issuers: give --ca FILE, or install ca-certificates";
            return Err(Failure::refused(fix));
        }
        let builder = builder(self.require_pq)?.with_root_certificates(roots);
        let (Some(cert), Some(key)) = (&self.client_cert, &self.client_key) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(cert).map_err(|e| unusable("--client-cert", cert)(&e))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable("--client-key", key)(&e))?;
        builder
            .with_client_auth_cert(chain, private)
            .map_err(|e| unusable("--client-key", key)(&format!("{e}; is it the key of {}?", cert.display())))
    }
}
