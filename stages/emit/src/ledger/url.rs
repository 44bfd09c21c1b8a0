//! `LEDGER_URL`: which ledger, read once at start so that a wrong one stops the start with a fix.

use http::Uri;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// Which ledger. Shown, in any way, without a password.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum LedgerUrl {
    /// `embedded:` — our own, in `STATE_DIR` or, under amnesia, in memory.
    #[default]
    Embedded,
    /// `http://host[:port][/base]` — a `svc-ledger`; no slash at the end.
    Http(String),
    /// `postgres://[user[:password]@]host[:port][/database][?sslmode=disable…]` — a PostgreSQL server.
    Postgres(PostgresUrl),
}

/// A PostgreSQL database, and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    config: Box<Config>,
    /// Without the password.
    shown: String,
}

impl PostgresUrl {
    /// What the client takes. Its `Debug` shows no password.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// Why it is none. Never quotes the text: that may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerUrlError {
    /// TLS comes later.
    #[error("https:// ledgers are not supported yet; use http:// to a local proxy that speaks TLS")]
    Https,
    /// Credentials, a query or a fragment.
    #[error("a ledger url is http://host[:port][/path] without user, query and fragment")]
    Form,
    /// The database's address cannot be read.
    #[error(
        "a database url is postgres://[user[:password]@]host[:port][/database][?sslmode=disable], one host, and of \
         parameters only host, port, user, password, dbname, sslmode and connect_timeout"
    )]
    PostgresForm,
    /// A mode that needs TLS.
    #[error(
        "of the sslmodes only disable is supported yet; use a local proxy that speaks TLS, and sslmode=disable to it"
    )]
    PostgresTls,
    /// Clear text over a network has to be meant.
    #[error(
        "a database on another host is spoken to in clear text, password exchange apart: say ?sslmode=disable if the network \
         is private, or use a local proxy that speaks TLS"
    )]
    PostgresClear,
    /// Something else.
    #[error("a ledger url begins with embedded:, http:// or postgres://")]
    Scheme,
}

/// Parameters that are taken over; others could switch off what the ledger stands on.
const PARAMETERS: [&str; 7] = ["host", "port", "user", "password", "dbname", "sslmode", "connect_timeout"];

/// Reads a database's address. TLS is not spoken yet, so that only `sslmode=disable` is taken, and has to be said outright unless
/// the server is on this machine.
fn postgres(text: &str) -> Result<PostgresUrl, LedgerUrlError> {
    let bad = LedgerUrlError::PostgresForm;
    let (_, rest) = text.split_once("://").ok_or(bad)?;
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut clear = false;
    let mut shown_query = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(bad)?;
        if !PARAMETERS.contains(&name) {
            return Err(bad);
        }
        match (name, value) {
            ("sslmode", "disable") => clear = true,
            ("sslmode", _) => return Err(LedgerUrlError::PostgresTls),
            _ => {}
        }
        shown_query.push(if name == "password" { "password=***".to_owned() } else { pair.to_owned() });
    }
    let mut config = Config::from_str(&format!("postgres://{rest}")).map_err(|_| bad)?;
    let [host] = config.get_hosts() else { return Err(bad) };
    let is_local = match host {
        Host::Unix(_) => true,
        Host::Tcp(name) if name.contains('@') => return Err(bad),
        Host::Tcp(name) => {
            let name = name.trim_matches(['[', ']']);
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    };
    if !is_local && !clear {
        return Err(LedgerUrlError::PostgresClear);
    }
    config.ssl_mode(SslMode::Disable);
    // The last at sign: whatever stands before it may be a password.
    let shown_address = match address.rsplit_once('@') {
        Some((who, host)) => match who.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => address.to_owned(),
        },
        None => address.to_owned(),
    };
    let query = if shown_query.is_empty() { String::new() } else { format!("?{}", shown_query.join("&")) };
    Ok(PostgresUrl { config: Box::new(config), shown: format!("postgres://{shown_address}{query}") })
}

/// A text that was meant as a ledger's address, as a message may show it: without what may be a password.
pub fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.rfind('@').map_or(0, |at| at + 1);
    let hidden = if end > 0 { "***@" } else { "" };
    let (place, query) = rest[end..].split_once('?').unwrap_or((&rest[end..], ""));
    // Any parameter may be a misspelt password.
    let query = if query.is_empty() { "" } else { "?***" };
    format!("{scheme}://{hidden}{place}{query}")
}

impl FromStr for LedgerUrl {
    type Err = LedgerUrlError;

    fn from_str(text: &str) -> Result<Self, LedgerUrlError> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
        match scheme.as_str() {
            "embedded" if text.len() == "embedded:".len() => Ok(Self::Embedded),
            "postgres" | "postgresql" => postgres(text).map(Self::Postgres),
            "https" => Err(LedgerUrlError::Https),
            "http" => {
                let uri: Uri = text.parse().map_err(|_| LedgerUrlError::Form)?;
                let authority = uri.authority().filter(|a| !a.as_str().contains('@') && !a.host().is_empty());
                let authority = authority.ok_or(LedgerUrlError::Form)?;
                // A relative form such as `http:h` is read by some parsers as a host named `http`.
                let port = &authority.as_str()[authority.host().len()..];
                if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
                    return Err(LedgerUrlError::Form);
                }
                if uri.query().is_some() || text.contains('#') || !text[scheme.len()..].starts_with("://") {
                    return Err(LedgerUrlError::Form);
                }
                Ok(Self::Http(format!("http://{authority}{}", uri.path().trim_end_matches('/'))))
            }
            _ => Err(LedgerUrlError::Scheme),
        }
    }
}

impl fmt::Display for LedgerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded:",
            Self::Http(url) => url,
            Self::Postgres(url) => &url.shown,
        })
    }
}

impl fmt::Debug for LedgerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LedgerUrl").field(&self.to_string()).finish()
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresUrl").field(&self.shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |text: &str, expect: Result<&str, LedgerUrlError>| {
            assert_eq!(
                text.parse::<LedgerUrl>().map(|url| url.to_string()),
                expect.map(str::to_owned),
                "{text}"
            );
        };
        check("embedded:", Ok("embedded:"));
        check("http://ledger", Ok("http://ledger"));
        check("http://127.0.0.1:9000/v1/", Ok("http://127.0.0.1:9000/v1"));
        check("HTTP://[::1]:9000", Ok("http://[::1]:9000"));
        check("https://ledger", Err(LedgerUrlError::Https));
        check("postgres://u:p@127.0.0.1:5432/x", Ok("postgres://u:***@127.0.0.1:5432/x"));
        check(
            "postgresql://u:p%40:@localhost/x?sslmode=disable",
            Ok("postgres://u:***@localhost/x?sslmode=disable"),
        );
        check("postgres://u:p%40q@[::1]/x", Ok("postgres://u:***@[::1]/x"));
        check(
            "postgres:///x?host=/run/pg&user=u&password=p",
            Ok("postgres:///x?host=/run/pg&user=u&password=***"),
        );
        check("postgres://u:p@db/x?sslmode=disable", Ok("postgres://u:***@db/x?sslmode=disable"));
        check("postgres://u:p@db/x", Err(LedgerUrlError::PostgresClear));
        check("postgres://u:p@127.0.0.1.example/x", Err(LedgerUrlError::PostgresClear));
        for mode in ["prefer", "allow", "require", "verify-full", "DISABLE", ""] {
            check(&format!("postgres://localhost/x?sslmode={mode}"), Err(LedgerUrlError::PostgresTls));
        }
        for bad in [
            "postgres:localhost",
            "postgres:///x",
            "postgres://a,b/x?sslmode=disable",
            "postgres://localhost/x?options=-csynchronous_commit%3Doff",
            "postgres://localhost/x?target_session_attrs=any",
            "postgres://localhost/x?host=other&sslmode=disable",
            "postgres://localhost:port/x",
            "postgres://u:p@q@localhost/x",
            "postgres://localhost/x?connect_timeout",
        ] {
            check(bad, Err(LedgerUrlError::PostgresForm));
        }
        for bad in ["http://", "http://u:p@h", "http://h?x", "http://h/#x", "http:h", "http:///x"] {
            check(bad, Err(LedgerUrlError::Form));
        }
        for bad in ["", "embedded", "embedded:x", "ftp://h", "ledger:9000"] {
            check(bad, Err(LedgerUrlError::Scheme));
        }
    }
    #[test]
    fn no_form_of_it_shows_a_password() {
        for url in [
            "postgres://u:hunter2@127.0.0.1/x",
            "postgres://u:%40:hunter2@localhost/x?sslmode=disable",
            "postgres:///x?host=/run&password=hunter2",
            "postgresql://:hunter2@[::1]/x",
        ] {
            let read: LedgerUrl = url.parse().unwrap();
            let LedgerUrl::Postgres(inner) = &read else { panic!("{url}") };
            for said in
                [read.to_string(), format!("{read:?}"), format!("{inner:?} {:?}", inner.config()), shown(url)]
            {
                assert!(!said.contains("hunter2"), "{said}");
            }
        }
        for wrong in [
            "postgres://u:hunter2@db/x",
            "postgres://u:@hunter2@localhost/x",
            "https://u:hunter2@h",
            "x://u:hunter2@h",
            "postgres://h/?pasword=hunter2",
        ] {
            let error = wrong.parse::<LedgerUrl>().unwrap_err();
            assert!(!format!("{error} {error:?} {}", shown(wrong)).contains("hunter2"));
        }
    }
}
