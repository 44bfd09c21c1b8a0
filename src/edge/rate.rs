//! Where a tenant stands, told in `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers, since -08: lists of
//! structured fields).
//!
//! ```text
//! RateLimit-Policy: "tenant";q=100;w=1     a bucket of 100 tokens, full again in a second
//! RateLimit: "tenant";r=57;t=1             57 are left, all are back in a second
//! ```
//!
//! On every answer to a request whose capability has named a tenant, refused or not. A request is a token, and so is each 4 MiB
//! of a snapshot that it stores or computes; those are charged afterwards, so `r` can be 0 and `t` above the window for a while.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use rewarder_admit::Standing;
use rewarder_admit::limiter::WINDOW;
use std::time::Duration;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whole seconds, upwards: who waits so long finds what was promised.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Sets both.
pub(super) fn tell(headers: &mut HeaderMap, standing: &Standing) {
    let Standing { quota, remaining, reset } = standing;
    let told = [
        (RATE_LIMIT_POLICY, format!("\"tenant\";q={quota};w={}", seconds(WINDOW))),
        (RATE_LIMIT, format!("\"tenant\";r={remaining};t={}", seconds(*reset))),
    ];
    for (name, value) in told {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_the_draft() {
        let mut headers = HeaderMap::new();
        tell(&mut headers, &Standing { quota: 100, remaining: 57, reset: Duration::from_millis(1430) });
        assert_eq!(headers["ratelimit-policy"], "\"tenant\";q=100;w=1");
        assert_eq!(headers["ratelimit"], "\"tenant\";r=57;t=2");
    }
}
