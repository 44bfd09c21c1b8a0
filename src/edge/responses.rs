//! How requests were answered, by status: what a share of refusals or faults is a share of.

use http::StatusCode;
use metrics::Counter;
use std::sync::LazyLock;

/// Answers on `http_addr`, by `status`.
pub const RESPONSES_TOTAL: &str = "http_responses_total";

/// The statuses that the contract knows, the most frequent first. A test compares them with the reasons.
const STATUSES: [u16; 19] =
    [200, 202, 429, 201, 304, 503, 404, 422, 400, 401, 403, 409, 413, 415, 405, 406, 408, 500, 502];

/// Looked up once, since a request may take two microseconds.
static COUNTERS: LazyLock<[(u16, Counter); STATUSES.len()]> = LazyLock::new(|| {
    STATUSES.map(|status| (status, metrics::counter!(RESPONSES_TOTAL, "status" => status.to_string())))
});

/// Counts an answer.
pub(super) fn count(status: StatusCode) {
    if let Some((_, counter)) = COUNTERS.iter().find(|(known, _)| *known == status.as_u16()) {
        counter.increment(1);
    }
}

/// Shows every status from the start, so that an alert is never without data.
pub fn count_nothing_answered() {
    for (_, counter) in &*COUNTERS {
        counter.absolute(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rewarder_model::Reason;

    #[test]
    fn every_reason_has_a_status_that_is_counted() {
        for reason in Reason::ALL {
            assert!(STATUSES.contains(&reason.status()), "{reason:?}");
        }
    }
}
