//! Words: one port, every dialect, the same services behind. No capability is named here: methods,
//! paths and fields come from the descriptor.
//!
//! - [`trunk`] the one way into the services, and [`desc`], what is served
//! - [`json`] requests and answers as text
//! - [`limits`] deadlines, [`drain`] the end

#![allow(dead_code, reason = "the dialects land on top of it")]

pub use desc::Error;
pub use limits::Trailers;

pub(crate) mod desc;
pub(crate) mod drain;
pub(crate) mod json;
pub(crate) mod limits;
pub(crate) mod trunk;
