//! TLS 1.3 on `http_addr`, with client certificates if the settings name who issues them.
//!
//! The laws: one version of the protocol and one library of cryptography (aws-lc), so that there is nothing to downgrade to;
//! a certificate that a client has proven becomes a [`ClientCert`] of its connection, and nothing else ever does; a reload
//! takes certificate, key and issuers together or none of them, and no connection ends by it.
//!
//! With `require_pq_on` the only key exchange is X25519MLKEM768: whoever records the traffic today and has a quantum computer
//! later reads nothing. Certificates still carry classical signatures, which protect a handshake at its own time only; no
//! public authority issues others yet.
//!
//! Why sessions are not resumed once client certificates are asked for: a resumed session would go on with a certificate that
//! was checked hours ago, by issuers that a reload may have replaced since.

use crate::config::Settings;
use crate::opened::StartError;
use arc_swap::ArcSwap;
use rewarder_admit::ClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::fmt::Display;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What ALPN offers, the preferred one first.
const ALPN_H2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";
/// Bits of a key file's mode that let everybody in. The group may read: that is how certificates are shared with a service
/// (Debian's `ssl-cert`, a mounted secret).
const MODE_OF_OTHERS: u32 = 0o007;

/// Certificates and key in force; a reload swaps them for the connections that come.
pub(super) struct Tls(ArcSwap<ServerConfig>);

/// A connection whose handshake is over.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    /// Whether both sides chose HTTP/2.
    pub(super) is_h2: bool,
    /// What the client has proven.
    pub(super) cert: Option<ClientCert>,
}

impl Tls {
    /// What the settings ask for; none without a certificate.
    ///
    /// # Errors
    /// Which file cannot be used, or that the settings require what cannot be had without TLS.
    pub(super) fn open(settings: &Settings) -> Result<Option<Self>, StartError> {
        if settings.tls_cert_file.is_some() {
            return Ok(Some(Self(ArcSwap::from_pointee(read(settings)?))));
        }
        // Over the loopback nothing can be recorded on a network. Whatever ends TLS in front of it has to require the same.
        if settings.require_pq_on && !settings.http_addr.ip().is_loopback() {
            return Err(StartError::of(format!(
                "require_pq_on = true needs TLS: set tls_cert_file and tls_key_file, or listen on a loopback address behind a proxy that requires X25519MLKEM768 (http_addr is {})",
                settings.http_addr
            )));
        }
        Ok(None)
    }

    /// Reads the files again, without taking them yet: for a reload that takes all or nothing.
    ///
    /// # Errors
    /// Which file cannot be used.
    pub(super) fn read_again(&self, settings: &Settings) -> Result<Arc<ServerConfig>, StartError> {
        read(settings).map(Arc::new)
    }

    /// Takes what was read for all connections from now on.
    pub(super) fn take(&self, config: Arc<ServerConfig>) {
        self.0.store(config);
    }

    /// Shakes hands, within `time`.
    ///
    /// # Errors
    /// What broke the handshake; `TimedOut` if it took too long.
    pub(super) async fn handshake(&self, stream: TcpStream, time: Duration) -> io::Result<Secured> {
        let accept = TlsAcceptor::from(self.0.load_full()).accept(stream);
        let stream = tokio::time::timeout(time, accept)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))??;
        let session = stream.get_ref().1;
        let is_h2 = session.alpn_protocol() == Some(ALPN_H2);
        let cert = session.peer_certificates().and_then(|chain| chain.first());
        let cert = cert.map(|cert| ClientCert::of_der(cert));
        Ok(Secured { stream, is_h2, cert })
    }
}

/// Whether the service would start with these settings: for `ronctl config check`.
///
/// # Errors
/// Which file cannot be used, or that the settings require what cannot be had without TLS.
pub fn check_tls(settings: &Settings) -> Result<(), StartError> {
    Tls::open(settings).map(|_| ())
}

/// The library of cryptography, with the key exchanges that the settings allow.
fn provider(require_pq: bool) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if require_pq {
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    }
    provider
}

/// Names the setting, the file and what is wrong.
fn unusable<'a>(setting: &'a str, path: &'a Path) -> impl Fn(&dyn Display) -> StartError + 'a {
    move |error| StartError::of(format!("{setting} = {}: {error}", path.display()))
}

/// The certificates of a PEM file, the first one that of its owner.
///
/// # Errors
/// What is wrong with the file, without its name.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates: Vec<_> = read.map_err(|e| e.to_string())?;
    if certificates.is_empty() {
        return Err("there is no certificate in it; it has to hold one or more in PEM".into());
    }
    Ok(certificates)
}

fn read(settings: &Settings) -> Result<ServerConfig, StartError> {
    let (Some(cert), Some(key)) = (&settings.tls_cert_file, &settings.tls_key_file) else {
        return Err(StartError::of("tls_cert_file and tls_key_file belong together: set both".into()));
    };
    let chain = certificates(cert).map_err(|e| unusable("tls_cert_file", cert)(&e))?;
    let unusable_key = unusable("tls_key_file", key);
    let mode = std::fs::metadata(key).map_err(|e| unusable_key(&e))?.permissions().mode();
    if mode & MODE_OF_OTHERS != 0 {
        return Err(unusable_key(&"everybody may read the key; run `chmod 640` on it"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable_key(&e))?;
    let provider = Arc::new(provider(settings.require_pq_on));
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| StartError::of(format!("TLS cannot be set up: {e}")))?;
    let builder = match &settings.tls_client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = unusable("tls_client_ca_file", path);
            let mut roots = RootCertStore::empty();
            for issuer in certificates(path).map_err(|e| unusable(&e))? {
                roots.add(issuer).map_err(|e| unusable(&e))?;
            }
            // Optional: whether one is needed is for the capability to say (its caveat `client_cert`).
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| unusable(&e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|e| {
        StartError::of(format!(
            "tls_cert_file = {} and tls_key_file = {}: {e}; is it the key of the first certificate in the file?",
            cert.display(),
            key.display()
        ))
    })?;
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    if settings.tls_client_ca_file.is_some() {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hybrid_key_exchange_where_it_is_required() {
        let names = |pq| provider(pq).kx_groups.iter().map(|group| group.name()).collect::<Vec<_>>();
        assert_eq!(names(true), [rustls::NamedGroup::X25519MLKEM768]);
        assert_eq!(names(false)[0], rustls::NamedGroup::X25519MLKEM768, "preferred also where it is not");
        assert!(names(false).len() > 1);
    }

    #[test]
    fn pq_without_tls_is_for_the_loopback_alone() {
        let mut settings = Settings::of(crate::config::Profile::Macronode);
        settings.require_pq_on = true;
        let refused = Tls::open(&settings).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.starts_with("require_pq_on = true needs TLS"), "{refused}");
        settings.http_addr = ([127, 0, 0, 1], 0).into();
        assert!(Tls::open(&settings).is_ok_and(|tls| tls.is_none()));
    }
}
