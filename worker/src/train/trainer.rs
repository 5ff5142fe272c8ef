//! Weights, moments and one way of computing gradients: the fused pass of a CPU or of a card, or autograd.

pub use super::shape::{Note, Shape};
use super::{
    buffer::values_mut,
    clock::{Clock, Part},
    cuda::{self, Machine, proof},
    device::upload,
    export::Export,
    fused::{Fused, Tokens, Weights},
    model::{Model, Use, place_weights},
    optimizer::{AdamW, gradient_norm},
    parameters::{Arenas, Layout},
    rotary,
};
use half::bf16;
use senmon_kernels as kernels;
use senmon_protocol::{model::ModelSpec, said, spec::TrainingSpec};
use std::{collections::BTreeMap, sync::Arc};
use tch::{Device, Kind, Tensor};

/// How gradients are computed.
enum Pass {
    Fp32(Box<Fused<f32>>),
    /// The matrices once more in bf16, written by the optimiser.
    Bf16(Box<Fused<bf16>>, Arenas),
    Card(Box<cuda::Pass>),
    Autograd(Box<Model>),
}

/// Gradients and what computes them. Built for the first batch: the memory of a pass is most of what training takes.
struct Engine {
    pass: Pass,
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
    pub optimizer: AdamW,
    /// Where the time goes; the fused pass only.
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
            optimizer: AdamW::new(&layout, device),
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
        if let Some(Engine { pass: Pass::Card(pass), .. }) = &mut self.engine {
            self.notes.append(&mut pass.take_notes());
        }
        std::mem::take(&mut self.notes)
    }

    /// The card, where the fused pass may run on it: proven for this model, once.
    fn machine(&mut self) -> Option<Machine> {
        let card = self.device != Device::Cpu;
        if !self.fused || (card && self.deterministic) {
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
        let (spec, Shape { windows, micro, length }) = (&self.spec, self.shape);
        let wide = micro < windows;
        let zeros = |kind| self.layout.zeros(kind, self.device);
        if let Some(machine) = machine {
            let grads = zeros(if wide { Kind::Float } else { self.kind });
            match cuda::Pass::new(machine, spec, &self.weights, &grads, self.shape) {
                Ok(pass) => return Engine { pass: Pass::Card(Box::new(pass)), grads },
                Err(error) => {
                    let said = said!("fused_pass_cannot_begin", error = error.to_string());
                    self.notes.push(Note { warns: true, said });
                }
            }
        }
        let angles = || rotary::angles(spec, u32::try_from(length).unwrap_or(0));
        let pass = match (self.fused && self.device == Device::Cpu, self.kind) {
            (false, kind) => {
                let for_what = Use { trains: true, deterministic: self.deterministic };
                Pass::Autograd(Box::new(Model::over(spec.clone(), &self.layout, &self.weights, kind, length, for_what)))
            }
            (true, Kind::BFloat16) => {
                let Arenas { matrices, vectors } = &self.weights;
                let copy = Arenas { matrices: matrices.to_kind(self.kind), vectors: vectors.shallow_clone() };
                Pass::Bf16(Box::new(Fused::new(spec, angles(), micro, length, wide)), copy)
            }
            (true, _) => Pass::Fp32(Box::new(Fused::new(spec, angles(), micro, length, wide))),
        };
        let narrow = matches!(pass, Pass::Bf16(..)) && !wide;
        let grads = zeros(if narrow { Kind::BFloat16 } else { Kind::Float });
        Engine { pass, grads }
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
        let Shape { windows, micro, length } = self.shape;
        let [micro, length, row] = [micro, length, length + 1].map(|n| usize::try_from(n).unwrap_or(0));
        #[expect(clippy::cast_precision_loss, reason = "tokens of a batch")]
        let count = (windows * self.shape.length) as f64;
        // Out of self while it works: a pass that fails for want of memory leaves none behind.
        let mut engine = self.engine.take().unwrap_or_else(|| self.engine());
        if let Pass::Card(pass) = &mut engine.pass {
            let (loss, squares) = pass.batch(tokens, document_first);
            self.engine = Some(engine);
            return (loss / count, squares.sqrt());
        }
        let mut loss = 0.0;
        for (number, tokens) in tokens.chunks(micro * row).enumerate() {
            let inputs: Vec<i64> = tokens.chunks(row).flat_map(|row| &row[..length]).copied().collect();
            let targets: Vec<i64> = tokens.chunks(row).flat_map(|row| &row[1..]).copied().collect();
            let document_first = document_first.map(|first| &first[number * micro * length..][..micro * length]);
            let tokens = Tokens { inputs: &inputs, targets: &targets, document_first };
            loss += self.micro_pass(&mut engine, tokens, count, number > 0);
        }
        self.clock.begin();
        let norm = gradient_norm(&engine.grads);
        self.clock.mark(Part::Optimizer);
        self.engine = Some(engine);
        (loss / count, norm)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a scale, used in fp32")]
    fn micro_pass(&mut self, Engine { pass, grads }: &mut Engine, tokens: Tokens, count: f64, add: bool) -> f64 {
        let scale = (1.0 / count) as f32;
        let (Shape { length, .. }, clock, device) = (self.shape, &mut self.clock, self.device);
        match pass {
            Pass::Fp32(fused) => fused.pass(Weights { arenas: &self.weights }, grads, tokens, scale, add, clock),
            Pass::Bf16(fused, copy) => fused.pass(Weights { arenas: copy }, grads, tokens, scale, add, clock),
            Pass::Card(_) => unreachable!("a card takes a batch at once"),
            Pass::Autograd(model) => {
                let tensor = |values: &[i64]| upload(values, device).view([-1, length]);
                let first = tokens.document_first.map(|first| upload(first, device).view([-1, length]));
                let loss = model.backward(&tensor(tokens.inputs), &tensor(tokens.targets), first.as_ref(), count);
                gather(model, &self.layout, grads, add);
                loss.to_kind(Kind::Double).double_value(&[])
            }
        }
    }

    /// One optimiser step at `rate` with the gradients of the last batch times `scale`.
    ///
    /// # Panics
    /// When there was no batch.
    pub fn step(&mut self, training: &TrainingSpec, rate: f64, scale: f64) {
        let Engine { pass, grads } = self.engine.as_mut().expect("a batch before a step");
        let copy = match pass {
            Pass::Bf16(_, copy) => Some(&mut copy.matrices),
            Pass::Card(pass) => {
                return pass.step((&self.weights, grads), &mut self.optimizer, training, rate, scale);
            }
            Pass::Fp32(_) | Pass::Autograd(_) => None,
        };
        self.clock.begin();
        self.optimizer.step(&mut self.weights, grads, copy, training, rate, scale);
        self.clock.mark(Part::Optimizer);
    }

    /// Takes other weights and moments, of the same layout: a resumed or rolled back state.
    pub fn set_weights(&mut self, named: &BTreeMap<String, Tensor>) {
        tch::no_grad(|| self.layout.fill(&mut self.weights, named));
        match self.engine.as_mut().map(|engine| &mut engine.pass) {
            Some(Pass::Bf16(_, copy)) => {
                kernels::to_bf16(values_mut(&mut self.weights.matrices), values_mut(&mut copy.matrices));
            }
            Some(Pass::Card(pass)) => pass.refresh(&self.weights),
            _ => {}
        }
    }

    /// The gradients of the last batch by name.
    #[must_use]
    pub fn gradients(&self) -> BTreeMap<String, Tensor> {
        self.engine.as_ref().map(|engine| self.layout.views(&engine.grads)).unwrap_or_default()
    }
}

/// Moves autograd's gradients into the arenas.
fn gather(model: &mut Model, layout: &Layout, grads: &Arenas, add: bool) {
    tch::no_grad(|| {
        for (name, weight) in &mut model.weights {
            let mut to = layout.view(grads, name);
            if add {
                let _ = to.g_add_(&weight.grad());
            } else {
                to.copy_(&weight.grad());
            }
            weight.zero_grad();
        }
    });
}
