//! The chaos suite: real processes are killed, frozen, cut off and starved while they train, and what must hold is
//! checked afterwards, whatever happened.
//!
//! Never decides what is right by looking at Senmon: a disturbed training is compared with one that was left alone.

pub mod checks;
pub mod damage;
pub mod disk;
pub mod disks;
pub mod kills;
pub mod netns;
pub mod network;
pub mod outages;
pub mod partitions;
pub mod proxy;
pub mod recovery;
pub mod report;
pub mod training;
pub mod trials;
pub mod unmounted;
pub mod zombies;

use crate::World;
use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeMap, time::Duration};
use training::{Over, Training};

/// Longer than anything here should take on a machine that does other things too.
pub const LIMIT: Duration = Duration::from_secs(240);

/// Steps are doubled at most so often: a thousandfold is no faster machine, but a bug.
const DOUBLED_MAX: u32 = 10;

/// What the scenarios share: chance, and what an undisturbed training ends with.
#[derive(Debug)]
pub struct Chaos {
    /// The only source of chance; the same seed makes the same choices.
    pub random: ChaCha8Rng,
    /// Digest of the final state of an undisturbed training, by steps; none where nothing is compared.
    calm: Option<BTreeMap<u64, String>>,
}

impl Chaos {
    /// Chaos of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), calm: Some(BTreeMap::new()) }
    }

    /// Without undisturbed trainings to compare with: for the short form of what ends with the attempt it began with.
    #[must_use]
    pub fn uncompared(seed: u64) -> Self {
        Self { calm: None, ..Self::new(seed) }
    }

    /// Does a scenario with a training of so many steps; with twice as many, and as many again, where this machine ends
    /// it before all was done to it that the scenario does.
    ///
    /// # Errors
    /// What does not hold.
    pub async fn long_enough<T>(
        &mut self,
        mut steps: u64,
        mut scenario: impl AsyncFnMut(&mut Self, u64) -> Result<T>,
    ) -> Result<T> {
        let random = self.random.clone();
        for _ in 0..DOUBLED_MAX {
            match scenario(self, steps).await {
                Err(error) if error.is::<Over>() => println!("chaos: {error:#} ({steps} steps); with twice as many"),
                done => return done,
            }
            // The same choices again.
            (steps, self.random) = (2 * steps, random.clone());
        }
        scenario(self, steps).await
    }

    /// What a training of so many steps ends with when it is left alone; trained in this world if it is not known yet.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn calm(&mut self, world: &World, steps: u64) -> Result<Option<String>> {
        let Some(calm) = &mut self.calm else { return Ok(None) };
        if let Some(digest) = calm.get(&steps) {
            return Ok(Some(digest.clone()));
        }
        let training = Training::submit(world, steps).await?;
        training.done(world).await?;
        let verdict = checks::check(world, &training, None).await?;
        calm.insert(steps, verdict.state_sha256.clone());
        Ok(Some(verdict.state_sha256))
    }
}
