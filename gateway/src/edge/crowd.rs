//! How many connections each address has. Over the limit a client still hears why, as long as it does not
//! come in crowds: then its connections are closed unheard.

use plexus_proto::{reason::Reason, v1};
use prometheus_client::metrics::counter::Counter;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

/// The addresses that have connections; cheap to clone. As many entries as connections at most.
#[derive(Clone)]
pub(crate) struct Crowd(Arc<Parts>);

struct Parts {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
    refused: Counter,
}

/// In a request's extensions: its own place, where its connection is one that a forwarder shares among
/// clients. Streams and sessions keep it until they end.
#[derive(Clone)]
pub(crate) struct Kept(#[expect(dead_code, reason = "held, not read")] Arc<Place>);

/// One connection of an address, until it is dropped.
pub(crate) struct Place {
    crowd: Crowd,
    address: IpAddr,
    /// One too many.
    over: bool,
}

/// In a request's extensions: its connection is one too many, and says so.
#[derive(Clone, Debug)]
pub(crate) struct Crowded(Box<v1::Error>);

impl Crowded {
    /// What the client is told.
    pub(crate) fn error(&self) -> Box<v1::Error> {
        self.0.clone()
    }
}

impl Crowd {
    /// Allows each address so many; 0: any number.
    pub(crate) fn new(most: usize, refused: Counter) -> Self {
        Self(Arc::new(Parts { most, open: Mutex::default(), refused }))
    }

    /// Counts a connection in; an error where it is to be closed unheard. Nobody's address is not counted.
    pub(crate) fn enter(&self, address: Option<IpAddr>) -> Result<Option<Place>, Full> {
        let Some(address) = address.filter(|_| self.0.most > 0) else { return Ok(None) };
        let mut open = self.0.open.lock().expect("nobody panics while holding it");
        let count = open.entry(address).or_default();
        if *count >= self.0.most {
            self.0.refused.inc();
        }
        if *count >= 2 * self.0.most {
            return Err(Full);
        }
        *count += 1;
        Ok(Some(Place { crowd: self.clone(), address, over: *count > self.0.most }))
    }
}

impl Crowd {
    /// Counts a request in whose connection is a forwarder's: what it keeps, and what it is told.
    pub(crate) fn share(&self, address: Option<IpAddr>) -> (Option<Kept>, Option<Crowded>) {
        match self.enter(address) {
            Ok(place) => {
                let crowded = place.as_ref().and_then(Place::crowded);
                (place.map(|place| Kept(Arc::new(place))), crowded)
            }
            Err(Full) => (None, Some(self.crowded())),
        }
    }

    /// What is told to a client that has too many connections.
    fn crowded(&self) -> Crowded {
        let most = self.0.most;
        let text = format!("more than {most} connections of this address");
        let wait = Duration::from_millis(rand::random_range(1_000..5_000));
        Crowded(Box::new(v1::Error::new(Reason::ConnectionLimit, text).with("limit", most).retry_after(wait)))
    }
}

/// An address has twice as many connections as it may.
#[derive(Debug)]
pub(crate) struct Full;

impl Place {
    /// What is told of a place that is one too many.
    pub(crate) fn crowded(&self) -> Option<Crowded> {
        self.over.then(|| self.crowd.crowded())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.crowd.0.open.lock().expect("nobody panics while holding it");
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_hears_that_it_has_too_many_and_a_crowd_hears_nothing() {
        let crowd = Crowd::new(2, Counter::default());
        let [one, other] = ["198.51.100.1", "198.51.100.2"].map(|a| Some(a.parse().unwrap()));
        let enter = |address| crowd.enter(address).ok().map(|place| place.unwrap());
        let places: Vec<_> = (0..4).map(|_| enter(one).unwrap()).collect();
        assert_eq!(
            places.iter().map(|p| p.crowded().is_some()).collect::<Vec<_>>(),
            [false, false, true, true]
        );
        let told = places[2].crowded().unwrap().error();
        assert!(told.is(Reason::ConnectionLimit) && told.retry_after.is_some());
        assert!(enter(one).is_none());
        assert!(enter(other).unwrap().crowded().is_none(), "another has places of its own");
        assert!(crowd.enter(None).unwrap().is_none());
        drop(places);
        assert!(enter(one).unwrap().crowded().is_none());
        assert!(crowd.0.open.lock().unwrap().is_empty(), "who has none is forgotten");
        assert_eq!(crowd.0.refused.get(), 3);
    }
}
