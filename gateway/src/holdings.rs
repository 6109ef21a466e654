//! What the streams of one connection hold together, so that a client gets no more of it by opening many
//! streams than by one. A service takes, the stream keeps until it ends.

use plexus_proto::{reason::Reason, v1};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// In a request's extensions: what its connection holds. A request that came alone holds for itself.
#[derive(Clone, Debug, Default)]
pub struct Holdings(Arc<[AtomicUsize; 2]>);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Topics that are followed.
    Topics,
    /// Watches of nodes.
    Watches,
}

/// A part of the holdings, until it is dropped.
#[derive(Debug)]
pub struct Hold {
    of: Holdings,
    what: What,
    count: usize,
}

impl Holdings {
    /// Takes so many more, up to `most` of all.
    pub fn take(&self, what: What, count: usize, most: usize) -> Result<Hold, Box<v1::Error>> {
        let before = self.0[what as usize].fetch_add(count, Ordering::Relaxed);
        let hold = Hold { of: self.clone(), what, count };
        if before + count <= most {
            return Ok(hold);
        }
        let text = format!("at most {most} on one connection, which has {before}");
        let (name, field) = match what {
            What::Topics => ("topics", Some("topics")),
            What::Watches => ("watches", None),
        };
        let error = v1::Error::new(Reason::SubscriptionLimit, format!("{name}: {text}")).with("limit", most);
        Err(Box::new(match field {
            Some(field) => error.violation(field, text),
            None => error,
        }))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.of.0[self.what as usize].fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_a_connection_hold_so_many_together_and_give_them_back() {
        let holdings = Holdings::default();
        let first = holdings.take(What::Topics, 3, 4).unwrap();
        assert!(holdings.take(What::Topics, 2, 4).unwrap_err().is(Reason::SubscriptionLimit));
        let second = holdings.clone().take(What::Topics, 1, 4).unwrap();
        holdings.take(What::Watches, 4, 4).unwrap();
        assert!(holdings.take(What::Topics, 1, 4).is_err());
        drop((first, second));
        holdings.take(What::Topics, 4, 4).unwrap();
    }
}
