//! Connections are counted, in all and by address. Who finds no room is told so, as long as there is room for that; beyond
//! it the connection is dropped.

use crate::{
    config::Config,
    domain::forwarded::{Proxies, machine},
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections that may be told at a time that there is no room.
const TOLD_MAX: usize = 256;

/// The room that there is.
#[derive(Debug)]
pub(super) struct Seats {
    in_all_max: usize,
    per_address_max: usize,
    proxies: Option<Proxies>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    told: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why a connection is not served.
#[derive(Debug)]
pub(super) enum Refused {
    /// It may be told.
    Told(Seat),
    /// There is no room for that either.
    Dropped,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    /// The address that it counts for; None where it is only told.
    address: Option<IpAddr>,
}

impl Seats {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            in_all_max: config.connections_max,
            per_address_max: config.connections_per_address_max,
            proxies: config.proxies(),
            taken: Mutex::default(),
        }
    }

    /// A place for a connection. Behind a proxy all of them come from its address, so that one is not counted.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr) -> Result<Seat, Refused> {
        let is_proxy = self.proxies.as_ref().is_some_and(|proxies| proxies.trust(from));
        let address = machine(from);
        let mut taken = self.lock();
        let own = taken.by_address.get(&address).copied().unwrap_or(0);
        if taken.in_all < self.in_all_max && (is_proxy || own < self.per_address_max) {
            taken.in_all += 1;
            taken.by_address.insert(address, own + 1);
            return Ok(Seat { seats: self.clone(), address: Some(address) });
        }
        if taken.told >= TOLD_MAX {
            return Err(Refused::Dropped);
        }
        taken.told += 1;
        Err(Refused::Told(Seat { seats: self.clone(), address: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        let Some(address) = self.address else {
            taken.told -= 1;
            return;
        };
        taken.in_all -= 1;
        match taken.by_address.get_mut(&address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.by_address.remove(&address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_takes_all_the_room_and_what_is_left_is_free_again() {
        let config = Config { connections_max: 5, connections_per_address_max: 2, ..Config::default() };
        let (seats, of) = (Arc::new(Seats::new(&config)), |last: u8| IpAddr::from([10, 0, 0, last]));
        let mut held: Vec<Seat> = (0..2).map(|_| seats.take(of(1)).unwrap()).collect();
        assert!(matches!(seats.take(of(1)), Err(Refused::Told(_))));
        held.extend([2, 3, 4].map(|last| seats.take(of(last)).unwrap()));
        assert!(matches!(seats.take(of(5)), Err(Refused::Told(_))), "five in all");
        let told: Vec<_> = (0..TOLD_MAX).map(|_| seats.take(of(6))).collect();
        assert!(told.iter().all(|told| matches!(told, Err(Refused::Told(_)))));
        assert!(matches!(seats.take(of(6)), Err(Refused::Dropped)));
        drop((told, held));
        let taken = seats.lock();
        assert_eq!((taken.in_all, taken.told, taken.by_address.len()), (0, 0, 0));
    }

    #[test]
    fn a_proxy_is_not_one_address() {
        let mut config = Config { connections_max: 5, connections_per_address_max: 1, ..Config::default() };
        config.behind_proxy = true;
        let seats = Arc::new(Seats::new(&config));
        let held: Vec<_> = (0..5).map(|_| seats.take(IpAddr::from([127, 0, 0, 1])).unwrap()).collect();
        assert_eq!(held.len(), 5);
    }
}
