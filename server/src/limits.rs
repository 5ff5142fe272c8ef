//! How much one token and one address may ask for: requests a second, and streams. In memory; nothing of it outlives the
//! process.

use crate::{
    config::Config,
    db::tokens::Identity,
    domain::{
        forwarded::machine,
        rate::{FullAt, Rate},
    },
};
use senmon_protocol::{ids::TokenId, view::Role};
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Locks of a table, so that a fleet's requests do not wait for each other.
const SHARDS: usize = 16;
/// Entries of a shard from which those are forgotten that have rested.
const SHARD_MAX: usize = 4096;
/// Seconds of its rate that somebody may spend at once: a page that opens, a script that begins.
const BURST_SECONDS: u32 = 10;
/// The same for workers: a fleet that comes back after an outage brings what it kept.
const WORKER_BURST_SECONDS: u32 = 4;
/// Look-ups of tokens that nobody knows, of one address.
const STRANGERS: Rate = Rate { per_second: 50, at_once: 500 };

/// Too much was asked; ask again after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait(pub Duration);

/// The limits; cheap to clone.
#[derive(Debug, Clone)]
pub struct Limits(Arc<Tables>);

#[derive(Debug)]
struct Tables {
    people: Table<TokenId>,
    workers: Table<TokenId>,
    addresses: Table<IpAddr>,
    strangers: Table<IpAddr>,
    streams: Mutex<HashMap<TokenId, usize>>,
    streams_max: usize,
    streams_per_token_max: usize,
}

impl Limits {
    /// Those of the settings.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let rate =
            |per_second: u32, seconds: u32| Rate { per_second, at_once: per_second.saturating_mul(seconds).max(1) };
        Self(Arc::new(Tables {
            people: Table::new(rate(config.requests_per_second_token, BURST_SECONDS)),
            workers: Table::new(rate(config.requests_per_second_worker_token, WORKER_BURST_SECONDS)),
            addresses: Table::new(rate(config.requests_per_second_address, WORKER_BURST_SECONDS)),
            strangers: Table::new(STRANGERS),
            streams: Mutex::default(),
            streams_max: config.streams_max,
            streams_per_token_max: config.streams_per_token_max,
        }))
    }

    /// A request of an address.
    ///
    /// # Errors
    /// When it asks too often.
    pub fn address(&self, address: IpAddr) -> Result<(), Wait> {
        self.0.addresses.spend(machine(address))
    }

    /// A request with a token.
    ///
    /// # Errors
    /// When it asks too often.
    pub fn token(&self, identity: &Identity) -> Result<(), Wait> {
        match identity.role {
            Role::Worker | Role::Enrol => self.0.workers.spend(identity.id),
            _ => self.0.people.spend(identity.id),
        }
    }

    /// Whether a secret of an address may be looked up that nobody knew lately.
    ///
    /// # Errors
    /// When too many from there were none.
    pub fn may_be_looked_up(&self, address: IpAddr) -> Result<(), Wait> {
        self.0.strangers.check(machine(address))
    }

    /// Notes a secret that was none.
    pub fn was_a_stranger(&self, address: IpAddr) {
        let _ = self.0.strangers.spend(machine(address));
    }

    /// A stream of a token, for as long as what is given back lives.
    ///
    /// # Errors
    /// When there are too many.
    pub fn stream(&self, token: TokenId) -> Result<StreamSeat, Wait> {
        let mut streams = lock(&self.0.streams);
        let own = streams.get(&token).copied().unwrap_or(0);
        if own >= self.0.streams_per_token_max || streams.values().sum::<usize>() >= self.0.streams_max {
            return Err(Wait(Duration::from_secs(10)));
        }
        streams.insert(token, own + 1);
        drop(streams);
        Ok(StreamSeat { tables: self.0.clone(), token })
    }
}

/// A stream that is open.
#[derive(Debug)]
pub struct StreamSeat {
    tables: Arc<Tables>,
    token: TokenId,
}

impl Drop for StreamSeat {
    fn drop(&mut self) {
        let mut streams = lock(&self.tables.streams);
        match streams.get_mut(&self.token) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(streams.remove(&self.token)),
        }
    }
}

/// What everybody spent lately.
#[derive(Debug)]
struct Table<K> {
    rate: Rate,
    shards: [Mutex<HashMap<K, FullAt>>; SHARDS],
    hasher: RandomState,
    since: Instant,
}

impl<K: Hash + Eq> Table<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, shards: Default::default(), hasher: RandomState::new(), since: Instant::now() }
    }

    fn spend(&self, key: K) -> Result<(), Wait> {
        if self.rate.per_second == 0 {
            return Ok(());
        }
        let now = self.now();
        let mut shard = self.shard(&key);
        if shard.len() >= SHARD_MAX {
            shard.retain(|_, full_at| *full_at > now);
            // More at once than are worth telling apart.
            if shard.len() >= 16 * SHARD_MAX {
                shard.clear();
            }
        }
        self.rate.spend(shard.entry(key).or_default(), now).map_err(wait)
    }

    fn check(&self, key: K) -> Result<(), Wait> {
        let full_at = self.shard(&key).get(&key).copied().unwrap_or_default();
        self.rate.check(full_at, self.now()).map(drop).map_err(wait)
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, FullAt>> {
        let number = self.hasher.hash_one(key) % SHARDS as u64;
        lock(&self.shards[usize::try_from(number).unwrap_or(0)])
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn wait(nanoseconds: u64) -> Wait {
    Wait(Duration::from_nanos(nanoseconds))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_by_token_and_in_all() {
        let config = Config { streams_max: 3, streams_per_token_max: 2, ..Config::default() };
        let (limits, one, other) = (Limits::new(&config), TokenId::new(), TokenId::new());
        let first = limits.stream(one).unwrap();
        let second = limits.stream(one).unwrap();
        assert!(limits.stream(one).is_err());
        let third = limits.stream(other).unwrap();
        assert!(limits.stream(TokenId::new()).is_err());
        drop(first);
        drop(limits.stream(one).unwrap());
        drop((second, third));
        assert!(lock(&limits.0.streams).is_empty());
    }

    #[test]
    fn whoever_asks_too_often_waits_and_nobody_else() {
        let config = Config { requests_per_second_token: 1, ..Config::default() };
        let limits = Limits::new(&config);
        let identity = |role| Identity {
            id: TokenId::new(),
            name: String::new(),
            role,
            worker: None,
            expires_at: None,
            revoked_at: None,
        };
        let (busy, calm, worker) = (identity(Role::Admin), identity(Role::User), identity(Role::Worker));
        let passed = (0..100).filter(|_| limits.token(&busy).is_ok()).count();
        assert!((10..13).contains(&passed), "{passed}");
        assert!(limits.token(&calm).is_ok());
        assert!((0..2000).all(|_| limits.token(&worker).is_ok()));
        let here = IpAddr::from([1, 2, 3, 4]);
        assert!(limits.may_be_looked_up(here).is_ok());
        (0..1000).for_each(|_| limits.was_a_stranger(here));
        assert!(limits.may_be_looked_up(here).is_err());
        assert!(limits.may_be_looked_up(IpAddr::from([1, 2, 3, 5])).is_ok());
        assert!(limits.address(here).is_ok());
    }

    #[test]
    fn a_table_does_not_grow_with_those_who_rest() {
        let table = Table::new(Rate { per_second: 1_000_000, at_once: 1 });
        (0..100_000_u32).for_each(|key| {
            let _ = table.spend(key);
        });
        let kept: usize = table.shards.iter().map(|shard| lock(shard).len()).sum();
        assert!(kept <= SHARDS * SHARD_MAX, "{kept}");
    }
}
