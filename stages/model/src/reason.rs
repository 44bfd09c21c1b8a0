//! Every way the service says no, in one place: the word of the contract (§6), its HTTP status, its meaning.
//!
//! A refusal anywhere in the house carries one of these, and the edge does nothing but print it. The word is also the
//! label of `rejected_total{reason}`.

use serde::Serialize;
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $word:literal $status:literal $title:literal;)*) => {
        /// Why something was refused. `as_str` is the word on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All reasons, in the order of the contract's table.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// The word of the contract.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $word,)* }
            }

            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 {
                match self { $(Reason::$variant => $status,)* }
            }

            /// A short title for a person, the same for every occurrence (RFC 9457 `title`).
            pub const fn title(self) -> &'static str {
                match self { $(Reason::$variant => $title,)* }
            }
        }
    };
}

reasons! {
    /// The JSON body or a parameter does not have the form of the contract.
    Schema "schema" 400 "the request does not have the form of the contract";
    /// A compressed body grows beyond `DECOMP_RATIO_MAX`.
    DecompressRatio "decompress_ratio" 400 "the body decompresses beyond the allowed ratio";
    /// No capability, or one that does not verify.
    Unauth "unauth" 401 "a valid capability is required";
    /// The capability lacks the route's scope.
    Scope "scope" 403 "the capability does not grant this scope";
    /// Another caveat of the capability does not hold.
    Caveat "caveat" 403 "a caveat of the capability does not hold";
    /// The capability is another tenant's, or names none.
    Tenant "tenant" 403 "the capability is not for this tenant";
    /// No route of that name.
    NotFound "not_found" 404 "no such route";
    /// Nothing under that CID for this tenant.
    InputsNotFound "inputs_not_found" 404 "no snapshot is stored under this CID";
    /// No policy under that id or hash for this tenant.
    PolicyNotFound "policy_not_found" 404 "no policy is stored under this id and hash";
    /// No run for that epoch, or no such actor in it.
    EpochNotFound "epoch_not_found" 404 "no run is known for this epoch";
    /// The actor is in none of the epoch's rows.
    ActorNotFound "actor_not_found" 404 "this actor is not part of the epoch";
    /// The route exists, the method does not.
    Method "method" 405 "this route does not know this method";
    /// None of the representations that the caller accepts exists.
    NotAcceptable "not_acceptable" 406 "none of the accepted representations exists";
    /// The caller did not send its request in time.
    RequestTimeout "request_timeout" 408 "the request did not arrive in time";
    /// The epoch already has another run.
    EpochConflict "epoch_conflict" 409 "this epoch already has another run";
    /// The policy id already binds to another hash.
    PolicyConflict "policy_conflict" 409 "this policy id is bound to another policy";
    /// The total of the scores reaches 10^38.
    Overflow "overflow" 409 "unpayable: the total of the scores reaches 10^38";
    /// The price list demands more than the budget.
    OverBudget "over_budget" 409 "unpayable: the price list demands more than the budget";
    /// The body is larger than its limit.
    BodyTooBig "body_too_big" 413 "the body is larger than its limit";
    /// The body's type or encoding is not known here.
    MediaType "media_type" 415 "this media type or encoding is not read here";
    /// The bytes are not those of the CID.
    CidMismatch "cid_mismatch" 422 "the bytes do not have this CID";
    /// The snapshot breaks a rule of its format.
    SnapshotInvalid "snapshot_invalid" 422 "the snapshot is not a valid rewarder.snapshot.v1";
    /// The snapshot is of another epoch than the path.
    EpochMismatch "epoch_mismatch" 422 "the snapshot is of another epoch";
    /// The policy breaks a rule of its format.
    PolicyInvalid "policy_invalid" 422 "the policy is not a valid rewarder.policy.v1";
    /// A row uses a category without a weight.
    UnknownCategory "unknown_category" 422 "a row uses a category that the policy gives no weight";
    /// The tenant's bucket is empty.
    TenantRate "tenant_rate" 429 "this tenant sends more than its rate";
    /// `MAX_INFLIGHT` requests are under way.
    OverCapacity "over_capacity" 429 "as many requests are under way as the service takes";
    /// A check of our own failed; emission is latched.
    Invariant "invariant" 500 "a check of our own failed and emission is off";
    /// A fault of ours that is no breach of an invariant.
    Internal "internal" 500 "the service failed on this job";
    /// The ledger said no for good.
    LedgerRefused "ledger_refused" 502 "the ledger refused this intent for good";
    /// The bounded work queue is full.
    QueueFull "queue_full" 503 "the work queue is full";
    /// The capability check took longer than its budget.
    CapTimeout "cap_timeout" 503 "the capability could not be checked in time";
    /// The service is shutting down.
    Draining "draining" 503 "the service is shutting down";
    /// The quarantine buffer is full.
    SpoolFull "spool_full" 503 "the quarantine buffer is full";
    /// Emission is latched off; only dry runs are answered.
    Latched "latched" 503 "emission is latched off until an operator releases it";
    /// The sealed store has no room left.
    StoreFull "store_full" 503 "the sealed store is full";
}

impl Reason {
    /// Whether the same request can succeed later without a change; such answers carry `Retry-After`.
    pub const fn is_retryable(self) -> bool {
        matches!(self.status(), 429 | 503)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique() {
        let words: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
