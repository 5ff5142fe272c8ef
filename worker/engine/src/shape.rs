//! What the trainer and its ways of computing tell each other: the sizes of a step, and what was found out.

use senmon_protocol::said::Said;

/// Sizes of one training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Windows of one optimiser step.
    pub windows: i64,
    /// Windows of one forward and backward pass: a divisor of `windows`.
    pub micro: i64,
    /// Tokens of a window.
    pub length: i64,
}

impl Shape {
    /// The same batch in passes of half the windows or less; None where a pass has one window already.
    #[must_use]
    pub fn halved(self) -> Option<Self> {
        let micro = (1..=self.micro / 2).rev().find(|micro| self.windows % micro == 0)?;
        Some(Self { micro, ..self })
    }
}

/// Something found out about the way of computing, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whether it is slower than it should be, or another way than was meant.
    pub warns: bool,
    /// A sentence.
    pub said: Said,
}
