//! Who has which slot of a cluster (pure). Each server says what it knows, with the epoch of each claim;
//! the newest claim of a slot holds, so a server that was cut off cannot take back what it lost.

use crate::Error;
use fred::types::config::Server;
use std::collections::BTreeSet;

/// Slots of a cluster.
pub(super) const SLOTS: usize = 16_384;

/// What several servers say together.
pub(super) struct Claims {
    /// By slot: the epoch of the newest claim, and who made it.
    slots: Vec<Option<(u64, usize)>>,
    servers: Vec<Server>,
}

impl Claims {
    pub(super) fn new() -> Self {
        Self { slots: vec![None; SLOTS], servers: Vec::new() }
    }

    /// Adds what `asked` answered to CLUSTER NODES. Over TLS a server goes by its hostname where it has one,
    /// since that is what its certificate names.
    pub(super) fn add(&mut self, nodes: &str, asked: &Server, tls: bool) -> Result<(), Error> {
        for line in nodes.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, place, flags, _, _, _, epoch, _, slots @ ..] = words.as_slice() else {
                return Err(unreadable(line));
            };
            let flags: Vec<&str> = flags.split(',').collect();
            if !flags.contains(&"master") || slots.is_empty() {
                continue;
            }
            let epoch = epoch.parse().map_err(|_| unreadable(line))?;
            let server = server(place, asked, tls).ok_or_else(|| unreadable(line))?;
            let number = self.number(server);
            for slot in slots {
                if !slot.starts_with('[') {
                    self.claim(slot, epoch, number).ok_or_else(|| unreadable(line))?;
                }
            }
        }
        Ok(())
    }

    fn number(&mut self, server: Server) -> usize {
        let known = self.servers.iter().position(|other| *other == server);
        known.unwrap_or_else(|| {
            self.servers.push(server);
            self.servers.len() - 1
        })
    }

    /// Claims `7` or `7-9`.
    fn claim(&mut self, slots: &str, epoch: u64, server: usize) -> Option<()> {
        let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        for slot in self.slots.get_mut(first..=last)? {
            if slot.is_none_or(|(newest, _)| epoch > newest) {
                *slot = Some((epoch, server));
            }
        }
        Some(())
    }

    /// Who has this slot.
    pub(super) fn owner(&self, slot: usize) -> Option<&Server> {
        self.slots.get(slot)?.map(|(_, server)| &self.servers[server])
    }

    /// Those that have any.
    pub(super) fn owners(&self) -> BTreeSet<Server> {
        self.slots.iter().flatten().map(|(_, server)| self.servers[*server].clone()).collect()
    }
}

/// Reads `host:port@bus[,hostname[,…]]`. A server that does not know its own address leaves it out.
fn server(place: &str, asked: &Server, tls: bool) -> Option<Server> {
    let mut parts = place.split(',');
    let (host, port) = parts.next()?.split('@').next()?.rsplit_once(':')?;
    let hostname = parts.next().filter(|name| tls && !name.is_empty());
    let host = hostname.unwrap_or(if host.is_empty() { &asked.host } else { host });
    Some(Server::new(host.to_owned(), port.parse().ok()?))
}

fn unreadable(line: &str) -> Error {
    Error::Unreadable(format!("a line of CLUSTER NODES: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Server {
        Server::new("10.0.0.9", 6379)
    }

    fn claims(views: &[&str]) -> Claims {
        let mut claims = Claims::new();
        for view in views {
            claims.add(view, &asked(), false).unwrap();
        }
        claims
    }

    const BOTH: &str = "a 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-8191\n\
        b 10.0.0.2:6379@16379,redis-b master - 0 0 2 connected 8192-16383 [77->-a]\n\
        c 10.0.0.3:6379@16379 slave b 0 0 2 connected\n";

    #[test]
    fn every_slot_is_with_the_primary_that_claims_it() {
        let claims = claims(&[BOTH]);
        assert_eq!(claims.owner(8191), Some(&Server::new("10.0.0.1", 6379)));
        assert_eq!(claims.owner(8192), Some(&Server::new("10.0.0.2", 6379)));
        assert_eq!(claims.owners().len(), 2);
        assert_eq!(claims.owner(SLOTS), None);
    }

    #[test]
    fn a_newer_claim_holds_whoever_is_heard_first() {
        let moved = "b 10.0.0.2:6379@16379 myself,master - 0 0 3 connected 8000 8192-16383\n";
        for views in [[BOTH, moved], [moved, BOTH]] {
            assert_eq!(claims(&views).owner(8000), Some(&Server::new("10.0.0.2", 6379)));
            assert_eq!(claims(&views).owner(7999), Some(&Server::new("10.0.0.1", 6379)));
        }
    }

    #[test]
    fn a_server_goes_by_its_hostname_over_tls_and_by_the_address_asked_where_it_knows_none() {
        let mut claims = Claims::new();
        claims.add(BOTH, &asked(), true).unwrap();
        assert_eq!(claims.owner(9000), Some(&Server::new("redis-b", 6379)));
        let alone = "a :6379@16379 myself,master - 0 0 1 connected 5\n";
        let mut claims = Claims::new();
        claims.add(alone, &asked(), false).unwrap();
        assert_eq!(claims.owner(5), Some(&asked()));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bad in ["x", "a h:1@2 master - 0 0 x connected 0-1", "a h:1@2 master - 0 0 1 connected 0-16384"] {
            assert!(Claims::new().add(bad, &asked(), false).is_err(), "{bad}");
        }
    }
}
