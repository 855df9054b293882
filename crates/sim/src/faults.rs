//! What goes wrong, and chance: all of it from one seed.

use std::time::Duration;

use api::Time;
use lifecycle::{Failure, FailureClass, Verb};

/// SplitMix64: small, and the same everywhere for the same seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// A duration below `end`, in whole milliseconds.
    pub fn within(&mut self, end: Duration) -> Duration {
        Duration::from_millis(self.below(u64::try_from(end.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// How often what goes wrong, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    /// An action fails before it has an effect.
    pub fail: u64,
    /// An action fails, or reports nothing, though it had its effect.
    pub fail_late: u64,
    /// An action takes up to thirty seconds longer.
    pub slow: u64,
    /// The end of an action comes without an observation.
    pub unseen: u64,
    /// A hint is lost.
    pub drop_hint: u64,
    /// After an event in the world the agent dies.
    pub agent_dies: u64,
    /// After an event in the world the sandbox of the pod dies.
    pub sandbox_dies: u64,
    /// A status write is lost.
    pub drop_status: u64,
    /// A probe fails.
    pub probe_fails: u64,
}

/// A source of faults that dries up.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Where chance comes from.
    pub rng: Rng,
    /// How often what.
    pub weights: Weights,
    /// Nothing goes wrong any more from here on.
    pub until: Time,
}

impl Faults {
    /// Nothing ever goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self {
            rng: Rng::new(0),
            weights: Weights::default(),
            until: Time(0),
        }
    }

    /// Everything goes wrong now and then, for a while.
    #[must_use]
    pub fn seeded(seed: u64, until: Time) -> Self {
        let mut rng = Rng::new(seed);
        let weights = Weights {
            fail: rng.below(150),
            fail_late: rng.below(80),
            slow: rng.below(100),
            unseen: rng.below(200),
            drop_hint: rng.below(800),
            agent_dies: rng.below(60),
            sandbox_dies: rng.below(15),
            drop_status: rng.below(100),
            probe_fails: rng.below(500),
        };
        Self { rng, weights, until }
    }

    /// Whether a thing of this weight happens now.
    pub fn strikes(&mut self, now: Time, weight: impl Fn(&Weights) -> u64) -> bool {
        let chance = weight(&self.weights);
        now < self.until && chance > 0 && self.rng.permille(chance)
    }

    /// A failure fit for a verb.
    #[must_use]
    pub fn failure(verb: &Verb) -> Failure {
        let class = match verb {
            Verb::MountVolumes | Verb::UnmountVolumes => FailureClass::Mount,
            Verb::RunSandbox { .. } | Verb::StopSandbox | Verb::RemoveSandbox => FailureClass::Sandbox,
            Verb::Pull { .. } => FailureClass::ErrImagePull,
            Verb::Create { .. } => FailureClass::CreateContainerError,
            Verb::Start { .. } => FailureClass::RunContainerError,
            Verb::RunHook { .. } | Verb::Probe { .. } => FailureClass::Hook,
            Verb::Note { .. } | Verb::NoteSandbox { .. } | Verb::Resize { .. } | Verb::Cancel(_) => FailureClass::Unavailable,
            Verb::Stop { .. } | Verb::Remove { .. } => FailureClass::Kill,
            Verb::ConfirmDeletion => FailureClass::Api,
        };
        Failure::new(class, "injected fault")
    }
}
