//! The listener's clients, and which one gives way to another.
//!
//! Guarantee: a new connection is taken as long as any other has not sent its request yet: the
//! oldest of those gives way. Of several addresses it is one of whoever has most of them, and no
//! address has more than its share. So slow senders cost nobody but themselves, also where all come
//! from one address, that of a proxy: who sends its request at once is never the oldest.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::task::AbortHandle;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its head has not come.
    Head,
    /// It has a place, and its body has not come.
    Body,
    /// All has come: it waits for its answer.
    Answer,
}

struct Peer {
    address: IpAddr,
    phase: Phase,
    task: Option<AbortHandle>,
}

/// Open connections, the oldest first.
pub struct Peers {
    most: usize,
    most_of_one: usize,
    open: Mutex<(u64, BTreeMap<u64, Peer>)>,
}

/// A connection's seat; it is free again when this is dropped.
pub struct Seat {
    peers: Arc<Peers>,
    id: u64,
}

impl Peers {
    pub fn new(most: usize, most_of_one: usize) -> Arc<Peers> {
        Arc::new(Peers {
            most,
            most_of_one,
            open: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Peer>)> {
        self.open.lock().expect("no panic under this lock")
    }

    /// A seat for a new connection, for which another gives way if need be. `None`: all wait for
    /// their answers.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let mut open = self.lock();
        let (next, peers) = &mut *open;
        let of_one = peers.values().filter(|p| p.address == address).count();
        if of_one >= self.most_of_one {
            let slowest = slowest(peers, |p| p.address == address && p.phase != Phase::Answer);
            end(peers, slowest?);
        } else if peers.len() >= self.most {
            let mut counts: HashMap<IpAddr, usize> = HashMap::new();
            for peer in peers.values().filter(|p| p.phase != Phase::Answer) {
                *counts.entry(peer.address).or_default() += 1;
            }
            let (greediest, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
            let slowest = slowest(peers, |p| {
                p.address == greediest && p.phase != Phase::Answer
            });
            end(peers, slowest?);
        }
        let id = *next;
        *next += 1;
        let peer = Peer {
            address,
            phase: Phase::Head,
            task: None,
        };
        peers.insert(id, peer);
        Some(Seat {
            peers: self.clone(),
            id,
        })
    }

    /// Who serves the connection of a seat, to be ended if it gives way.
    pub fn served_by(&self, id: u64, task: AbortHandle) {
        if let Some(peer) = self.lock().1.get_mut(&id) {
            peer.task = Some(task);
        }
    }

    /// Ends the oldest connection whose body has not come, for the sake of one whose body may be at
    /// hand. `false`: there is none.
    pub fn free_a_place(&self) -> bool {
        let peers = &mut self.lock().1;
        match slowest(peers, |p| p.phase == Phase::Body) {
            Some(id) => {
                end(peers, id);
                true
            }
            None => false,
        }
    }
}

fn slowest(peers: &BTreeMap<u64, Peer>, is_meant: impl Fn(&Peer) -> bool) -> Option<u64> {
    let mut meant = peers.iter().filter(|(_, peer)| is_meant(peer));
    meant.next().map(|(id, _)| *id)
}

fn end(peers: &mut BTreeMap<u64, Peer>, id: u64) {
    if let Some(task) = peers.remove(&id).and_then(|peer| peer.task) {
        task.abort();
    }
}

impl Seat {
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn enter(&self, phase: Phase) {
        if let Some(peer) = self.peers.lock().1.get_mut(&self.id) {
            peer.phase = phase;
        }
    }

    pub fn peers(&self) -> &Peers {
        &self.peers
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.peers.lock().1.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    fn open(peers: &Peers) -> Vec<u64> {
        peers.lock().1.keys().copied().collect()
    }

    #[test]
    fn the_oldest_that_has_not_sent_its_request_gives_way() {
        let peers = Peers::new(3, 3);
        let seats: Vec<Seat> = (0..3).filter_map(|_| peers.admit(address(1))).collect();
        seats[0].enter(Phase::Answer);
        seats[1].enter(Phase::Body);
        let fourth = peers.admit(address(1)).expect("a seat");
        assert_eq!(open(&peers), [0, 2, 3]);
        fourth.enter(Phase::Answer);
        let _fifth = peers.admit(address(1)).expect("a seat");
        assert_eq!(open(&peers), [0, 3, 4]);
        drop(seats);
        assert_eq!(open(&peers), [3, 4]);
    }

    #[test]
    fn nobody_gives_way_who_waits_for_an_answer() {
        let peers = Peers::new(1, 1);
        let seat = peers.admit(address(1)).expect("a seat");
        seat.enter(Phase::Answer);
        assert!(peers.admit(address(2)).is_none());
        assert!(!peers.free_a_place());
        assert_eq!(open(&peers), [0]);
    }

    #[test]
    fn those_who_have_most_give_way_first() {
        let peers = Peers::new(4, 3);
        let _lone = peers.admit(address(1)).expect("a seat");
        let _many: Vec<Seat> = (0..3).filter_map(|_| peers.admit(address(2))).collect();
        let _third = peers.admit(address(3)).expect("a seat");
        assert_eq!(open(&peers), [0, 2, 3, 4]);
        let _more = peers.admit(address(2)).expect("a seat");
        assert_eq!(open(&peers), [0, 3, 4, 5]);
    }
}
