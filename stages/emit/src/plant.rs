//! Faults of ours that the simulation plants to see them caught; without the feature `plant` there is none.

/// Whether the fault `name` is planted.
#[cfg(feature = "plant")]
pub(crate) fn is(name: &str) -> bool {
    PLANTED.lock().is_ok_and(|planted| *planted == Some(name))
}

#[cfg(not(feature = "plant"))]
pub(crate) const fn is(_name: &str) -> bool {
    false
}

#[cfg(feature = "plant")]
static PLANTED: std::sync::Mutex<Option<&'static str>> = std::sync::Mutex::new(None);

/// Plants one of [`ALL`], or none.
#[cfg(feature = "plant")]
pub fn plant(name: Option<&'static str>) {
    if let Ok(mut planted) = PLANTED.lock() {
        *planted = name;
    }
}

/// What can be planted.
#[cfg(feature = "plant")]
pub const ALL: [&str; 5] = [
    "retry_forgets_to_ask",
    "restart_forgets_to_ask",
    "fsync_left_out",
    "conflict_taken_as_ours",
    "silence_counts_as_settled",
];
