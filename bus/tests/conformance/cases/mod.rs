//! The promises, a case each.

pub(crate) mod faults;
pub(crate) mod history;
pub(crate) mod keys;
pub(crate) mod live;
pub(crate) mod logs;
pub(crate) mod ownership;
