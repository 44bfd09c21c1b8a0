//! What needs more than one file of this floor: a world by hand, the conformance suite, faults, and the house
//! rules.

mod conformance;
mod delivery;
mod handover;
mod house;
mod peer;
pub(crate) mod world;
