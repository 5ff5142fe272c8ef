//! A training pass of the Llama block written out, with all that its relatives do otherwise: forward and backward by
//! hand, on the CPU.
//!
//! Buffers are kept from step to step, norms, rotations, activations, softmax and loss are one kernel each
//! (`senmon-kernels`), and the products in between are libtorch's. What autograd would keep and what it computes is
//! the same; `tests/fused.rs` holds both to each other. Shapes as in [`super::model`].

use super::{
    attention::{Attention, Kept},
    buffer::{Buffer, Number, values},
    clock::{Clock, Part},
    names::Names,
    parameters::{Arenas, Layout},
    pass::Tokens,
    rotary::Turns,
    sink::Sink,
    windows::{self, Firsts},
};
use senmon_kernels::{self as kernels, Gate, Heads, Normed, Scaling};
use senmon_protocol::model::{
    ModelSpec,
    variant::{Activation, QkNorm, Variant},
};
use tch::Tensor;

/// Logits of at most this many tokens are held at once, and of at most a quarter of a batch that is longer.
const LOGIT_ROWS: i64 = 256;

/// What a norm reads again on its way back.
struct Input<T> {
    x: Buffer<T>,
    rstd: Vec<f32>,
}

impl<T: Number> Input<T> {
    fn new(numbers: i64, norms: usize) -> Self {
        Self { x: Buffer::new(numbers), rstd: vec![0.0; norms] }
    }

    fn normed<'a>(&'a self, w: &'a Tensor) -> Normed<'a, T> {
        Normed { x: self.x.values(), rstd: &self.rstd, w: values(w) }
    }
}

/// What one block keeps for its way back.
struct Block<T> {
    x: Input<T>,
    /// Queries and keys without the weight of their norm.
    hats: Option<Input<T>>,
    kept: Kept<T>,
    attended: Buffer<T>,
    /// What attention says, where that is normed.
    out: Option<Input<T>>,
    middle: Input<T>,
    gate_up: Buffer<T>,
    /// What the gated unit says, where that is normed.
    gated_out: Option<Input<T>>,
}

/// Memory of a pass over b sequences of t tokens.
pub struct Fused<T> {
    spec: ModelSpec,
    layout: Layout,
    variant: Variant,
    heads: Heads,
    turns: Turns,
    windows: Vec<Option<i64>>,
    blocks: Vec<Block<T>>,
    last: Input<T>,
    attention: Attention<T>,
    /// Rows of h: a norm's output, a product's output, the gradient of the residual stream.
    normed: Buffer<T>,
    product: Buffer<T>,
    dx: Buffer<T>,
    /// Rows of the projections, of the attended values, of the gated width.
    qkv: Buffer<T>,
    dattended: Buffer<T>,
    gated: Buffer<T>,
    logits: Buffer<T>,
    losses: Vec<f32>,
    /// One matrix's gradient, where gradients are gathered in another format.
    piece: Option<Buffer<T>>,
}

impl<T: Number> Fused<T> {
    /// Memory for `b` sequences of `t` tokens; `wide` where gradients are summed over several passes in fp32.
    #[must_use]
    pub fn new(spec: &ModelSpec, b: i64, t: i64, wide: bool) -> Self {
        let (layout, variant) = (Layout::new(spec), spec.variant());
        let heads =
            Heads { b, t, n: spec.num_attention_heads.into(), g: spec.kv_heads().into(), d: spec.head_size().into() };
        let [h, i, v] = [spec.hidden_size, spec.intermediate_size, spec.vocab_size.unwrap_or(0)].map(i64::from);
        let rows = b * t;
        let count = usize::try_from(rows).unwrap_or(0);
        let normed_parts = match variant.qk_norm {
            QkNorm::None => 0,
            QkNorm::Head => usize::try_from(heads.n + heads.g).unwrap_or(0),
            QkNorm::Projection => 2,
        };
        let input = || Input::new(rows * h, count);
        let block = |_| Block {
            x: input(),
            hats: (normed_parts > 0).then(|| Input::new(heads.queries() + heads.keys(), normed_parts * count)),
            kept: Kept::new(heads),
            attended: Buffer::new(heads.queries()),
            out: variant.norms.attention.after.map(|_| input()),
            middle: input(),
            gate_up: Buffer::new(rows * 2 * i),
            gated_out: variant.norms.gated.after.map(|_| input()),
        };
        #[expect(clippy::cast_possible_truncation, reason = "a scale and a bound, used in fp32")]
        let scaling = Scaling { scale: variant.query_scale as f32, cap: variant.attention_cap.unwrap_or(0.0) as f32 };
        let largest = layout.shapes().map(|(_, shape)| shape.iter().product::<i64>()).max().unwrap_or(0);
        let separate = wide && T::KIND != f32::KIND;
        Self {
            blocks: (0..spec.num_hidden_layers).map(block).collect(),
            last: input(),
            attention: Attention::new(heads, scaling),
            normed: Buffer::new(rows * h),
            product: Buffer::new(rows * h),
            dx: Buffer::new(rows * h),
            qkv: Buffer::new(heads.projections()),
            dattended: Buffer::new(heads.queries()),
            gated: Buffer::new(rows * i),
            logits: Buffer::new(logit_rows(rows) * v),
            losses: vec![0.0; count],
            piece: separate.then(|| Buffer::new(largest.max(2 * i * h).max(heads.projections() / rows * h))),
            turns: Turns::new(&variant, spec.head_size(), u32::try_from(t).unwrap_or(0)),
            windows: windows::of_layers(&variant, t),
            spec: spec.clone(),
            layout,
            variant,
            heads,
        }
    }

    /// Sum of the losses of `tokens`, nats; `grads` receives the gradient of that sum times `scale`, added to what it
    /// holds where `add` says so. `weights` has matrices in the format of the computation, vectors in fp32.
    pub fn pass(
        &mut self,
        weights: &Arenas,
        grads: &mut Arenas,
        tokens: Tokens,
        scale: f32,
        add: bool,
        clock: &mut Clock,
    ) -> f64 {
        clock.begin();
        // Norms whose weight is one and a little more are computed with the sum.
        let shifted = (self.variant.norm_offset != 0.0).then(|| Arenas {
            matrices: weights.matrices.shallow_clone(),
            vectors: &weights.vectors + self.variant.norm_offset,
        });
        let weights = shifted.as_ref().unwrap_or(weights);
        let Heads { b, t, .. } = self.heads;
        let firsts = Firsts::new(&self.windows, b, t, tokens.document_first);
        self.forward(weights, tokens, &firsts, clock);
        let loss = self.loss(weights, grads, tokens.targets, scale, add, clock);
        self.backward(weights, grads, tokens, &firsts, add, clock);
        loss
    }

    fn sizes(&self) -> (i64, i64, i64) {
        (self.heads.b * self.heads.t, self.spec.hidden_size.into(), self.spec.intermediate_size.into())
    }

    fn gate(&self) -> Gate {
        match self.variant.activation {
            Activation::Silu => Gate::Silu,
            Activation::GeluTanh => Gate::GeluTanh,
        }
    }

    /// What embeddings are multiplied by, as their number format holds it; None for 1.
    fn embedding_scale(&self) -> Option<f64> {
        let scale = self.variant.embedding_scale;
        (scale != 1.0).then(|| Tensor::from(scale).to_kind(T::KIND).double_value(&[]))
    }

    fn forward(&mut self, weights: &Arenas, tokens: Tokens, firsts: &Firsts, clock: &mut Clock) {
        let (rows, h, i) = self.sizes();
        let (gate, scale) = (self.gate(), self.embedding_scale());
        let (layout, s, norms) = (&self.layout, self.heads, &self.variant.norms);
        let width = s.projections() / rows;
        let epsilon = epsilon(&self.spec);
        let table = layout.view(weights, "model.embed_tokens.weight");
        let first = self.blocks.first_mut().map_or(&mut self.last, |block| &mut block.x);
        kernels::embed(values::<T>(&table), tokens.inputs, first.x.values_mut(), usize::try_from(h).unwrap_or(0));
        if let Some(scale) = scale {
            let _ = first.x.view(&[rows, h]).g_mul_scalar_(scale);
        }
        for l in 0..self.blocks.len() {
            let names = Names::new(norms, l);
            let (before, after) = self.blocks.split_at_mut(l + 1);
            let block = &mut before[l];
            if let Some(name) = names.attention.before.as_ref().filter(|_| l == 0) {
                norm(&mut block.x, &layout.view(weights, name), epsilon, &mut self.normed);
            }
            clock.mark(Part::Elementwise);
            let input = if names.attention.before.is_some() { &self.normed } else { &block.x.x };
            multiply(&self.qkv, &[rows, width], &input.view(&[rows, h]), &names.qkv(layout, weights).tr());
            clock.mark(Part::Products);
            if let Some(Input { x: hats, rstd }) = &mut block.hats {
                let [q, k] = [0, 1].map(|i: usize| layout.view(weights, &names.of_heads[i]));
                let (qkv, hats) = (self.qkv.values_mut(), hats.values_mut());
                kernels::norm_heads(qkv, hats, rstd, (values(&q), values(&k)), epsilon, s);
            }
            let bias = self.variant.qkv_bias.then(|| names.qkv_bias(layout, weights));
            block.kept.split(self.qkv.values(), bias.as_ref().map(values), self.turns.of(l), s);
            let seen = firsts.of(self.windows[l], tokens.document_first);
            let heads = self.attention.forward(&mut block.kept, seen);
            kernels::join_heads(heads.values(), block.attended.values_mut(), s);
            clock.mark(Part::Attention);
            let output = layout.view(weights, &names.output);
            let out = block.out.as_ref().map_or(&self.product, |out| &out.x);
            multiply(out, &[rows, h], &block.attended.view(&[rows, s.n * s.d]), &output.tr());
            clock.mark(Part::Products);
            if let (Some(out), Some(name)) = (&mut block.out, &names.attention.after) {
                norm(out, &layout.view(weights, name), epsilon, &mut self.product);
            }
            let w = names.gated.before.as_ref().map(|name| layout.view(weights, name));
            let (from, product) = (&block.x.x, &self.product);
            add_and_norm(from, product, &mut block.middle, w.as_ref(), epsilon, &mut self.normed);
            clock.mark(Part::Elementwise);
            let gate_up = names.gate_up(layout, weights);
            let input = if w.is_some() { &self.normed } else { &block.middle.x };
            multiply(&block.gate_up, &[rows, 2 * i], &input.view(&[rows, h]), &gate_up.tr());
            clock.mark(Part::Products);
            let gated = self.gated.values_mut();
            kernels::gated(gate, block.gate_up.values(), gated, usize::try_from(i).unwrap_or(0));
            clock.mark(Part::Elementwise);
            let down = layout.view(weights, &names.down);
            let out = block.gated_out.as_ref().map_or(&self.product, |out| &out.x);
            multiply(out, &[rows, h], &self.gated.view(&[rows, i]), &down.tr());
            clock.mark(Part::Products);
            if let (Some(out), Some(name)) = (&mut block.gated_out, &names.gated.after) {
                norm(out, &layout.view(weights, name), epsilon, &mut self.product);
            }
            let (next, name) = match after.first_mut() {
                Some(next) => (&mut next.x, Names::new(norms, l + 1).attention.before),
                None => (&mut self.last, Some("model.norm.weight".to_owned())),
            };
            let w = name.map(|name| layout.view(weights, &name));
            add_and_norm(&block.middle.x, &self.product, next, w.as_ref(), epsilon, &mut self.normed);
            clock.mark(Part::Elementwise);
        }
    }

    /// Losses from the last norm's output, in pieces; its gradient lies in `product` afterwards.
    fn loss(
        &mut self,
        weights: &Arenas,
        grads: &mut Arenas,
        targets: &[i64],
        scale: f32,
        add: bool,
        clock: &mut Clock,
    ) -> f64 {
        let (rows, h, _) = self.sizes();
        let name = if self.spec.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let (output, v) = (self.layout.view(weights, name), i64::from(self.spec.vocab_size.unwrap_or(0)));
        let (normed, product) = (self.normed.view(&[rows, h]), self.product.view(&[rows, h]));
        let at_once = logit_rows(rows);
        #[expect(clippy::cast_possible_truncation, reason = "a bound, used in fp32")]
        let cap = self.variant.logit_cap.unwrap_or(0.0) as f32;
        let mut sink = Sink { layout: &self.layout, grads, piece: self.piece.as_ref(), add };
        for first in (0..rows).step_by(usize::try_from(at_once).unwrap_or(1)) {
            let count = at_once.min(rows - first);
            let x = normed.narrow(0, first, count);
            let logits = self.logits.view(&[count, v]);
            let _ = x.mm_out(&logits, &output.tr());
            clock.mark(Part::Products);
            let range = usize::try_from(first).unwrap_or(0)..usize::try_from(first + count).unwrap_or(0);
            let held = usize::try_from(count * v).unwrap_or(0);
            let (losses, targets) = (&mut self.losses[range.clone()], &targets[range]);
            kernels::cross_entropy(&mut self.logits.values_mut()[..held], targets, losses, Some(scale), cap);
            clock.mark(Part::Loss);
            let _ = logits.mm_out(&product.narrow(0, first, count), &output);
            sink.matrix(name, &[], &logits, &x, first > 0);
            clock.mark(Part::Products);
        }
        self.losses.iter().map(|&loss| f64::from(loss)).sum()
    }

    fn backward(
        &mut self,
        weights: &Arenas,
        grads: &mut Arenas,
        tokens: Tokens,
        firsts: &Firsts,
        add: bool,
        clock: &mut Clock,
    ) {
        let (rows, h, i) = self.sizes();
        let (gate, scale) = (self.gate(), self.embedding_scale());
        let (layout, s) = (&self.layout, self.heads);
        let (width, usize_h) = (s.projections() / rows, usize::try_from(h).unwrap_or(0));
        let mut sink = Sink { layout, grads, piece: self.piece.as_ref(), add };
        let w = layout.view(weights, "model.norm.weight");
        sink.norm("model.norm.weight", self.product.values(), self.last.normed(&w), self.dx.values_mut(), false);
        for (l, block) in self.blocks.iter_mut().enumerate().rev() {
            let names = Names::new(&self.variant.norms, l);
            // The gated unit: its input's gradient takes its place, its output is computed again. Where its result was
            // normed, the gradient before that norm lies where the norm's input will.
            if let (Some(out), Some(name)) = (&block.gated_out, &names.gated.after) {
                let w = layout.view(weights, name);
                sink.norm(name, self.dx.values(), out.normed(&w), self.normed.values_mut(), false);
            }
            let dout = if block.gated_out.is_some() { &self.normed } else { &self.dx }.view(&[rows, h]);
            multiply(&self.gated, &[rows, i], &dout, &layout.view(weights, &names.down));
            clock.mark(Part::Products);
            let (gate_up, gated) = (block.gate_up.values_mut(), self.gated.values_mut());
            kernels::gated_backward(gate, gate_up, gated, usize::try_from(i).unwrap_or(0));
            clock.mark(Part::Elementwise);
            sink.matrix(&names.down, &[], &dout, &self.gated.view(&[rows, i]), false);
            clock.mark(Part::Products);
            let w = names.gated.before.as_ref().map(|name| layout.view(weights, name));
            let input = again(&block.middle, w.as_ref(), &mut self.normed).view(&[rows, h]);
            clock.mark(Part::Elementwise);
            let dgate_up = block.gate_up.view(&[rows, 2 * i]);
            sink.matrix(&names.gate, std::slice::from_ref(&names.up), &dgate_up, &input, false);
            multiply(&self.product, &[rows, h], &dgate_up, &names.gate_up(layout, weights));
            clock.mark(Part::Products);
            through(&mut sink, names.gated.before.as_ref().zip(w.as_ref()), &self.product, &block.middle, &mut self.dx);
            clock.mark(Part::Elementwise);
            // Attention.
            if let (Some(out), Some(name)) = (&block.out, &names.attention.after) {
                let w = layout.view(weights, name);
                sink.norm(name, self.dx.values(), out.normed(&w), self.normed.values_mut(), false);
            }
            let dout = if block.out.is_some() { &self.normed } else { &self.dx }.view(&[rows, h]);
            multiply(&self.dattended, &[rows, s.n * s.d], &dout, &layout.view(weights, &names.output));
            sink.matrix(&names.output, &[], &dout, &block.attended.view(&[rows, s.n * s.d]), false);
            clock.mark(Part::Products);
            let (dattended, attended) = (self.dattended.values(), block.attended.values());
            let seen = firsts.of(self.windows[l], tokens.document_first);
            let (dq, dk, dv) = self.attention.backward(&mut block.kept, dattended, attended, seen);
            let gradients = (dq.values(), dk.values(), dv.values());
            kernels::join_heads_backward(gradients, self.turns.of(l), self.qkv.values_mut(), s);
            clock.mark(Part::Attention);
            if self.variant.qkv_bias {
                sink.bias(&names.q_bias, &names.kv_bias, self.qkv.values());
            }
            if let Some(Input { x: hats, rstd }) = &block.hats {
                let [q, k] = [0, 1].map(|i: usize| layout.view(weights, &names.of_heads[i]));
                let kept = (hats.values(), rstd.as_slice());
                sink.heads(&names.of_heads, self.qkv.values_mut(), kept, (values(&q), values(&k)), s);
            }
            let w = names.attention.before.as_ref().map(|name| layout.view(weights, name));
            let input = again(&block.x, w.as_ref(), &mut self.normed).view(&[rows, h]);
            clock.mark(Part::Elementwise);
            let dqkv = self.qkv.view(&[rows, width]);
            sink.matrix(&names.q, &names.kv, &dqkv, &input, false);
            multiply(&self.product, &[rows, h], &dqkv, &names.qkv(layout, weights));
            clock.mark(Part::Products);
            through(&mut sink, names.attention.before.as_ref().zip(w.as_ref()), &self.product, &block.x, &mut self.dx);
            clock.mark(Part::Elementwise);
        }
        if let Some(scale) = scale {
            let _ = self.dx.view(&[rows, h]).g_mul_scalar_(scale);
        }
        sink.embedding(self.dx.values(), tokens.inputs, usize_h, self.spec.tie_word_embeddings);
        clock.mark(Part::Elementwise);
    }
}

/// Logits held at once.
fn logit_rows(rows: i64) -> i64 {
    rows.min(LOGIT_ROWS.max((rows + 3) / 4))
}

#[expect(clippy::cast_possible_truncation, reason = "an epsilon, used in fp32")]
fn epsilon(spec: &ModelSpec) -> f32 {
    spec.rms_norm_eps as f32
}

fn multiply<T: Number>(out: &Buffer<T>, shape: &[i64], a: &Tensor, b: &Tensor) {
    let _ = a.mm_out(&out.view(shape), b);
}

/// `out` = the norm of `input`.
fn norm<T: Number>(input: &mut Input<T>, w: &Tensor, epsilon: f32, out: &mut Buffer<T>) {
    kernels::add_rms_norm(input.x.values(), None, values(w), epsilon, out.values_mut(), &mut input.rstd);
}

/// `sum` = `x + y`; `normed` = the norm of that, where the next step has one.
fn add_and_norm<T: Number>(
    x: &Buffer<T>,
    y: &Buffer<T>,
    sum: &mut Input<T>,
    w: Option<&Tensor>,
    epsilon: f32,
    normed: &mut Buffer<T>,
) {
    match w {
        Some(w) => {
            let residual = Some((y.values(), sum.x.values_mut()));
            kernels::add_rms_norm(x.values(), residual, values(w), epsilon, normed.values_mut(), &mut sum.rstd);
        }
        None => drop(x.whole().add_out(&sum.x.whole(), &y.whole())),
    }
}

/// What went into a product: the norm's output, computed again into `normed`, or the residual stream itself.
fn again<'a, T: Number>(input: &'a Input<T>, w: Option<&Tensor>, normed: &'a mut Buffer<T>) -> &'a Buffer<T> {
    let Some(w) = w else { return &input.x };
    kernels::rms_norm_again(input.x.values(), &input.rstd, values(w), normed.values_mut());
    normed
}

/// Adds to `dx` the gradient of what went into a product, through the norm where there was one.
fn through<T: Number>(
    sink: &mut Sink<T>,
    norm: Option<(&String, &Tensor)>,
    product: &Buffer<T>,
    input: &Input<T>,
    dx: &mut Buffer<T>,
) {
    match norm {
        Some((name, w)) => sink.norm(name, product.values(), input.normed(w), dx.values_mut(), true),
        None => drop(dx.whole().g_add_(&product.whole())),
    }
}
