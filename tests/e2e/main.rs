//! The promises, tried on the whole product: real sockets outside, real swarms, and the bus that
//! `PLEXUS_TEST_BUS` names (`memory`, `strict`, `redis`). One file a capability.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod access;
mod arrows;
mod attacks;
mod bad_input;
mod canary;
mod cli;
mod dialects;
mod docs;
mod fleet;
mod foreign;
mod history;
mod leave;
mod limits;
mod peers;
mod readme;
mod rehome;
mod rest;
mod sessions;
mod slow;
mod topics;
mod traces;
mod verdicts;
mod websocket;
