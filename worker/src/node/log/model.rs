//! Random walks: a store that loses replies, delays appends, fails over to a replica that missed
//! writes, and lets another owner in. Invariants of protocol.md §9.
