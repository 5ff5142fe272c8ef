//! Weights, moments and one way of computing gradients: the fused pass of a CPU or of a card, or autograd. Which one it is
//! is decided here, and known nowhere else.

pub use super::shape::{Note, Shape};
use super::{
    autograd::Autograd,
    clock::{Clock, Part},
    cpu,
    cuda::{self, Machine, proof},
    export::Export,
    model::{Model, Use, place_weights},
    optimizer::{AdamW, Optimizer},
    parameters::{Arenas, Layout},
    pass::{Found, Pass, Windows, count},
    reach,
};
use senmon_protocol::{model::ModelSpec, said, spec::TrainingSpec};
use std::{collections::BTreeMap, sync::Arc};
use tch::{Device, Kind, Tensor};

/// Gradients and what computes them. Built for the first batch: the memory of a pass is most of what training takes.
struct Engine {
    pass: Box<dyn Pass>,
    grads: Arenas,
}

/// A model in training.
pub struct Trainer {
    /// Shape of the model.
    pub spec: ModelSpec,
    /// What stands beside the weights in a checkpoint.
    pub export: Arc<Export>,
    /// Names and places of the parameters.
    pub layout: Layout,
    /// fp32 weights.
    pub weights: Arenas,
    /// Moments.
    pub optimizer: Box<dyn Optimizer>,
    /// Where the time goes; of a card only the optimiser's.
    pub clock: Clock,
    /// Same bits on every run also where that costs: a GPU's attention. To be set before the first batch.
    pub deterministic: bool,
    /// Where the kernels of a card run, proven.
    machine: Option<Machine>,
    notes: Vec<Note>,
    engine: Option<Engine>,
    kind: Kind,
    fused: bool,
    shape: Shape,
    device: Device,
}

impl Trainer {
    /// A trainer of named fp32 weights.
    #[must_use]
    pub fn new(spec: ModelSpec, named: &BTreeMap<String, Tensor>, device: Device, kind: Kind, shape: Shape) -> Self {
        Self::with_pass(spec, named, device, kind, shape, true)
    }

    /// A trainer whose gradients come from the device's fused pass, or from autograd. For tests: [`Trainer::new`] takes
    /// the fused one, which gives way to autograd on a card where it does not prove itself.
    #[must_use]
    pub fn with_pass(
        spec: ModelSpec,
        named: &BTreeMap<String, Tensor>,
        device: Device,
        kind: Kind,
        shape: Shape,
        fused: bool,
    ) -> Self {
        let layout = Layout::new(&spec);
        Self {
            weights: place_weights(&layout, named, device),
            optimizer: Box::new(AdamW::new(&layout, device)),
            clock: Clock::default(),
            deterministic: false,
            machine: None,
            notes: Vec::new(),
            engine: None,
            export: Arc::default(),
            spec,
            layout,
            kind,
            fused,
            shape,
            device,
        }
    }

    /// Computes gradients with a card's kernels on `machine`. For tests: a card is found by itself.
    pub fn run_on(&mut self, machine: Machine) {
        self.machine = Some(machine);
    }

    /// What was found out since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        if let Some(engine) = &mut self.engine {
            self.notes.append(&mut engine.pass.take_notes());
        }
        std::mem::take(&mut self.notes)
    }

    /// The card, where the fused pass may run on it: proven for this model, once.
    fn machine(&mut self) -> Option<Machine> {
        let card = self.device != Device::Cpu;
        if !self.fused || (card && self.deterministic) {
            return None;
        }
        if let Some(said) = reach::card_lacks(&self.spec.variant()).filter(|_| card) {
            self.fused = false;
            self.notes.push(Note { warns: true, said });
            return None;
        }
        if card && self.machine.is_none() {
            let found = Machine::of_card(self.device, self.kind, &self.spec)
                .and_then(|machine| proof::check(&machine, &self.spec).map(|()| machine));
            match found {
                Ok(machine) => self.machine = Some(machine),
                Err(error) => {
                    self.fused = false;
                    let said = said!("fused_pass_unproven", error = error.to_string());
                    self.notes.push(Note { warns: true, said });
                }
            }
        }
        self.machine.clone()
    }

    fn engine(&mut self) -> Engine {
        let machine = self.machine();
        let (spec, shape, device) = (&self.spec, self.shape, self.device);
        let wide = shape.micro < shape.windows;
        let zeros = |kind| self.layout.zeros(kind, device);
        let fused = self.fused && device == Device::Cpu;
        if let Some(machine) = machine {
            let grads = zeros(if wide { Kind::Float } else { self.kind });
            match cuda::Pass::new(machine, spec, &self.weights, &grads, shape) {
                Ok(pass) => return Engine { pass: Box::new(pass), grads },
                Err(error) => {
                    let said = said!("fused_pass_cannot_begin", error = error.to_string());
                    self.notes.push(Note { warns: true, said });
                }
            }
        }
        if fused {
            let pass = cpu::pass(spec, &self.weights, self.kind, shape);
            let narrow = self.kind == Kind::BFloat16 && !wide;
            return Engine { pass, grads: zeros(if narrow { Kind::BFloat16 } else { Kind::Float }) };
        }
        let for_what = Use { trains: true, deterministic: self.deterministic };
        let model = Model::over(spec.clone(), &self.layout, &self.weights, self.kind, shape.length, for_what);
        let pass = Autograd::new(model, self.layout.clone(), shape, device);
        Engine { pass: Box::new(pass), grads: zeros(Kind::Float) }
    }

    /// Windows of one pass.
    #[must_use]
    pub fn micro(&self) -> i64 {
        self.shape.micro
    }

    /// Takes smaller passes for the same batch from now on; false where there are none.
    pub fn halve(&mut self) -> bool {
        self.engine = None;
        self.shape.halved().map(|shape| self.shape = shape).is_some()
    }

    /// Loss (nats per token) and gradient norm of a batch of windows of `length + 1` tokens; the gradients are kept
    /// for [`Trainer::step`]. `document_first`, `[windows, length]`, keeps attention inside documents.
    pub fn forward_backward(&mut self, tokens: &[i64], document_first: Option<&[i32]>) -> (f64, f64) {
        // Out of self while it works: a pass that fails for want of memory leaves none behind.
        let mut engine = self.engine.take().unwrap_or_else(|| self.engine());
        let windows = Windows { tokens, document_first };
        let Found { loss, norm } = engine.pass.batch(&self.weights, &mut engine.grads, windows, &mut self.clock);
        self.engine = Some(engine);
        (loss / count(self.shape), norm)
    }

    /// One optimiser step at `rate` with the gradients of the last batch times `scale`.
    ///
    /// # Panics
    /// When there was no batch.
    pub fn step(&mut self, training: &TrainingSpec, rate: f64, scale: f64) {
        let Engine { pass, grads } = self.engine.as_mut().expect("a batch before a step");
        self.clock.begin();
        self.optimizer.step(pass.as_mut(), (&mut self.weights, grads), training, rate, scale);
        self.clock.mark(Part::Optimizer);
    }

    /// Takes other weights, of the same layout: a resumed or rolled back state.
    pub fn set_weights(&mut self, named: &BTreeMap<String, Tensor>) {
        tch::no_grad(|| self.layout.fill(&mut self.weights, named));
        if let Some(engine) = &mut self.engine {
            engine.pass.refresh(&self.weights);
        }
    }

    /// Takes other moments, of the same layout, with which so many steps were taken.
    pub fn set_moments(&mut self, first: &BTreeMap<String, Tensor>, second: &BTreeMap<String, Tensor>, steps: u64) {
        let place = |named| place_weights(&self.layout, named, self.device);
        self.optimizer.set_moments((place(first), place(second)), steps);
    }

    /// The gradients of the last batch by name.
    #[must_use]
    pub fn gradients(&self) -> BTreeMap<String, Tensor> {
        self.engine.as_ref().map(|engine| self.layout.views(&engine.grads)).unwrap_or_default()
    }
}
