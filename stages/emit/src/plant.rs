//! Faults of ours that the simulation plants to see them caught; without the feature `plant` there is none.
//!
//! Each is a line that someone could have forgotten, or a bug that was found here once. Where it sits, `plant::is` names it.

#[cfg(feature = "plant")]
use std::cell::Cell;

#[cfg(feature = "plant")]
thread_local! {
    /// Of a thread, since a simulated run is one.
    static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Whether the fault `name` is planted.
#[cfg(feature = "plant")]
pub(crate) fn is(name: &str) -> bool {
    debug_assert!(ALL.contains(&name), "{name} is not in the list");
    PLANTED.get() == Some(name)
}

#[cfg(not(feature = "plant"))]
pub(crate) const fn is(_name: &str) -> bool {
    false
}

/// Plants one of [`ALL`], or none.
#[cfg(feature = "plant")]
pub fn plant(name: Option<&'static str>) {
    PLANTED.set(name);
}

/// What can be planted.
#[cfg(feature = "plant")]
pub const ALL: &[&str] = &[
    // The machine.
    "retry_forgets_to_ask",
    "restart_forgets_to_ask",
    "silence_counts_as_settled",
    "silence_taken_as_not_sent",
    "conflict_taken_as_ours",
    "foreign_dup_taken_as_ours",
    "foreign_dup_does_not_latch",
    "deadline_ignored",
    "tries_not_counted",
    "retry_after_ignored",
    // The driver.
    "key_from_another_field",
    "question_under_another_key",
    "attempts_never_time_out",
    "what_is_held_is_forgotten",
    "record_left_out",
    "conflict_of_a_promise_untold",
    "probe_counts_as_settled",
    // The breaker.
    "breaker_never_opens",
    "one_probe_is_enough",
    "half_open_takes_jobs",
    "half_open_bears_failures",
    "brownout_ignored_by_reemission",
    // Sending again.
    "spool_order_lost",
    "no_pause_between_two",
    "retry_after_ignored_by_reemission",
    // The latch.
    "latch_ignored_by_attempts_under_way",
    "latch_ignored_by_reemission",
    "latch_in_memory_only",
    // Operators and their audit log.
    "acts_need_no_reason",
    "drop_forgets_the_audit",
    "release_forgets_the_audit",
    "release_forgets_to_ask",
    "audit_not_synced",
    "audit_chain_begins_anew",
    "torn_audit_line_kept",
    // The spool.
    "fsync_left_out",
    "directory_sync_left_out",
    "failed_write_stays",
    "checksum_not_verified",
    "recovery_skips_the_last",
    "checkpoint_leaves_one_out",
    "one_run_two_entries",
    "place_not_reserved",
    "place_not_given_back",
    // Claims and what a crash leaves.
    "claim_left_out",
    "claim_given_back_too_early",
    "void_taken_as_uncertain",
    "conflict_keeps_the_claim",
    "drop_keeps_the_claim",
    "drop_begins_at_its_end",
    "repetition_forgets_to_ask",
    "redelivery_left_out",
    "recovery_gives_up",
];
