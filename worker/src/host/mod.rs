//! Place: which nodes live on this worker.
mod identity;
mod lease;
mod material;
mod placement;
