//! Where a tenant stands, told in `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers, since -08: lists of
//! structured fields).
//!
//! ```text
//! RateLimit-Policy: "tenant";q=100;w=1     a bucket of 100 tokens, full again in a second
//! RateLimit: "tenant";r=57;t=1             57 are left, all are back in a second
//! ```
//!
//! On every answer to a request whose capability is good for it, refused or not. A request is a token, and so is each 4 MiB
//! of a snapshot that it stores or computes; those are charged afterwards, so `r` can be 0 and `t` above the window for a while.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use rewarder_admit::Standing;
use rewarder_admit::limiter::WINDOW;
use std::time::Duration;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The longest value: two keys, a number of ten digits and one of twenty.
const VALUE_BYTES: usize = 48;

/// Whole seconds, upwards: who waits so long finds what was promised.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Sets both.
pub(super) fn tell(headers: &mut HeaderMap, standing: &Standing) {
    let Standing { quota, remaining, reset } = standing;
    let told = [
        (RATE_LIMIT_POLICY, [";q=", ";w="], [u64::from(*quota), seconds(WINDOW)]),
        (RATE_LIMIT, [";r=", ";t="], [u64::from(*remaining), seconds(*reset)]),
    ];
    for (name, keys, numbers) in told {
        // By hand, since each answer has both: the machinery of `format!` costs as much as looking up the answer.
        let mut value = Vec::with_capacity(VALUE_BYTES);
        value.extend_from_slice(b"\"tenant\"");
        for (key, number) in keys.into_iter().zip(numbers) {
            value.extend_from_slice(key.as_bytes());
            value.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        }
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
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
