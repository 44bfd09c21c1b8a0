//! The verifier over HTTP: token introspection (RFC 7662) with two members of our own.
//!
//! ```text
//! POST url                                    Content-Type: application/x-www-form-urlencoded
//! token=TOKEN[,DISCHARGE…]&token_type_hint=macaroon
//!
//! 200 {"active":true,"token_hash":"b3:…","caveats":["tenant = acme", …],"exp":1795475645}
//! 200 {"active":false,"token_hash":"b3:…"}
//! anything else                               no verdict
//! ```
//!
//! `token_hash` is the CID of the token's text: an answer counts only for the token that it names, so that a mixed up
//! connection or a proxy's cache lets nobody in under another's capability. `caveats` and `exp` may be left out. An
//! unknown member is no verdict either: it may have been meant to narrow.
//!
//! There is no time in here: whoever calls bounds the wait and drops the future, which closes the connection. No
//! redirects: tokens do not follow a stranger's address. No TLS yet.

use super::{Trouble, Upstream, Verdict};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rewarder_model::Cid;
use rewarder_model::world::BoxFuture;
use serde::Deserialize;

/// Largest answer that is read: the most caveats a macaroon may have are half of it.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Most caveats that a verifier may add.
pub const ADDED_MAX: usize = 32;
/// Idle connections kept: as many as questions that are under way at once.
const IDLE_CONNECTIONS_MAX: usize = super::QUESTIONS_MAX;

/// A client of one verifier.
pub struct HttpUpstream {
    client: Client<HttpConnector, Full<Bytes>>,
    url: http::Uri,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    active: bool,
    token_hash: Cid,
    #[serde(default)]
    caveats: Vec<String>,
    #[serde(default)]
    exp: Option<u64>,
}

impl HttpUpstream {
    /// A client of the verifier at `url`.
    pub fn new(url: http::Uri) -> Self {
        let mut connector = HttpConnector::new();
        // A question is one small packet that somebody waits for.
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Self { client, url }
    }

    async fn question(&self, token: &str) -> Result<Verdict, Trouble> {
        let request = Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(form(token))))
            .map_err(|_| Trouble::Failed("its url makes no request"))?;
        let response = self.client.request(request).await.map_err(|error| {
            Trouble::Failed(if error.is_connect() {
                "it cannot be reached"
            } else {
                "the connection broke before it answered"
            })
        })?;
        if response.status() != StatusCode::OK {
            return Err(Trouble::Failed("its answer is not 200"));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|_| Trouble::Garbled("its answer is cut off or too large"))?.to_bytes();
        read(&body, &Cid::of(token.as_bytes()))
    }
}

/// A token's characters are those of base64url, padding and comma; only the last two need an escape in a form.
fn form(token: &str) -> String {
    let mut text = String::with_capacity(token.len() + 64);
    text.push_str("token=");
    for c in token.chars() {
        match c {
            ',' => text.push_str("%2C"),
            '=' => text.push_str("%3D"),
            c => text.push(c),
        }
    }
    text.push_str("&token_type_hint=macaroon");
    text
}

fn read(body: &[u8], asked: &Cid) -> Result<Verdict, Trouble> {
    let said: Said = serde_json::from_slice(body)
        .map_err(|_| Trouble::Garbled("its answer does not have the form of docs/CAPABILITIES.md"))?;
    if said.token_hash != *asked {
        return Err(Trouble::Garbled("its answer is about another token"));
    }
    if said.caveats.len() > ADDED_MAX {
        return Err(Trouble::Garbled("its answer adds more caveats than are read"));
    }
    Ok(if said.active { Verdict::Active { caveats: said.caveats, exp: said.exp } } else { Verdict::Inactive })
}

impl Upstream for HttpUpstream {
    fn ask<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, Trouble>> {
        Box::pin(self.question(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_in_its_form_and_for_its_token() {
        let (token, other) = (Cid::of(b"token"), Cid::of(b"other"));
        let active = |caveats: &[&str], exp| {
            Some(Verdict::Active { caveats: caveats.iter().map(|c| (*c).to_owned()).collect(), exp })
        };
        let check = |body: String, expect: Option<Verdict>| {
            assert_eq!(read(body.as_bytes(), &token).ok(), expect, "{body}");
        };
        check(format!(r#"{{"active":true,"token_hash":"{token}"}}"#), active(&[], None));
        check(
            format!(r#"{{"active":true,"token_hash":"{token}","caveats":["dry_run = true"],"exp":7}}"#),
            active(&["dry_run = true"], Some(7)),
        );
        check(format!(r#"{{"active":false,"token_hash":"{token}"}}"#), Some(Verdict::Inactive));
        for bad in [
            String::new(),
            "true".into(),
            r#"{"active":true}"#.into(),
            format!(r#"{{"active":true,"token_hash":"{other}"}}"#),
            format!(r#"{{"active":"true","token_hash":"{token}"}}"#),
            format!(r#"{{"active":1,"token_hash":"{token}"}}"#),
            format!(r#"{{"active":true,"active":false,"token_hash":"{token}"}}"#),
            format!(r#"{{"active":true,"token_hash":"{token}","nbf":7}}"#),
            format!(r#"{{"active":true,"token_hash":"{token}","exp":-1}}"#),
            format!(r#"{{"active":true,"token_hash":"{token}"}} x"#),
            format!(
                r#"{{"active":true,"token_hash":"{token}","caveats":[{}""]}}"#,
                r#""","#.repeat(ADDED_MAX)
            ),
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn a_token_is_one_value_of_the_form() {
        assert_eq!(form("Ag-_9=,Ag"), "token=Ag-_9%3D%2CAg&token_type_hint=macaroon");
    }
}
