//! A training pass of the Llama block written out: forward and backward by hand, on the CPU.
//!
//! Buffers are kept from step to step, norms, rotations, activations, softmax and loss are one kernel each
//! (`senmon-kernels`), and the products in between are libtorch's. What autograd would keep and what it computes is
//! the same; `tests/fused.rs` holds both to each other. Shapes as in [`super::model`].

use super::{
    attention::{Attention, Kept},
    buffer::{Buffer, Number, values, values_mut},
    clock::{Clock, Part},
    parameters::{Arenas, Layout},
    pass::Tokens,
};
use senmon_kernels::{self as kernels, Gradient, Heads, Normed, Rotary};
use senmon_protocol::model::ModelSpec;
use tch::Tensor;

/// Logits of at most this many tokens are held at once, and of at most a quarter of a batch that is longer.
const LOGIT_ROWS: i64 = 256;

/// What one block keeps for its way back.
struct Block<T> {
    x: Buffer<T>,
    rstd: Vec<f32>,
    kept: Kept<T>,
    attended: Buffer<T>,
    x_middle: Buffer<T>,
    rstd_middle: Vec<f32>,
    gate_up: Buffer<T>,
}

/// Memory of a pass over b sequences of t tokens.
pub struct Fused<T> {
    spec: ModelSpec,
    layout: Layout,
    heads: Heads,
    rotary: (Vec<f32>, Vec<f32>),
    blocks: Vec<Block<T>>,
    last: Buffer<T>,
    rstd_last: Vec<f32>,
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
    pub fn new(spec: &ModelSpec, rotary: (Vec<f32>, Vec<f32>), b: i64, t: i64, wide: bool) -> Self {
        let layout = Layout::new(spec);
        let heads =
            Heads { b, t, n: spec.num_attention_heads.into(), g: spec.kv_heads().into(), d: spec.head_size().into() };
        let [h, i, v] = [spec.hidden_size, spec.intermediate_size, spec.vocab_size.unwrap_or(0)].map(i64::from);
        let rows = b * t;
        let count = usize::try_from(rows).unwrap_or(0);
        let block = |_| Block {
            x: Buffer::new(rows * h),
            rstd: vec![0.0; count],
            kept: Kept::new(heads),
            attended: Buffer::new(heads.queries()),
            x_middle: Buffer::new(rows * h),
            rstd_middle: vec![0.0; count],
            gate_up: Buffer::new(rows * 2 * i),
        };
        let largest = layout.shapes().map(|(_, shape)| shape.iter().product::<i64>()).max().unwrap_or(0);
        let separate = wide && T::KIND != f32::KIND;
        Self {
            blocks: (0..spec.num_hidden_layers).map(block).collect(),
            last: Buffer::new(rows * h),
            rstd_last: vec![0.0; count],
            attention: Attention::new(heads),
            normed: Buffer::new(rows * h),
            product: Buffer::new(rows * h),
            dx: Buffer::new(rows * h),
            qkv: Buffer::new(heads.projections()),
            dattended: Buffer::new(heads.queries()),
            gated: Buffer::new(rows * i),
            logits: Buffer::new(logit_rows(rows) * v),
            losses: vec![0.0; count],
            piece: separate.then(|| Buffer::new(largest.max(2 * i * h).max(heads.projections() / rows * h))),
            spec: spec.clone(),
            layout,
            heads,
            rotary,
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
        self.forward(weights, tokens, clock);
        let loss = self.loss(weights, grads, tokens.targets, scale, add, clock);
        self.backward(weights, grads, tokens, add, clock);
        loss
    }

    fn sizes(&self) -> (i64, i64, i64) {
        (self.heads.b * self.heads.t, self.spec.hidden_size.into(), self.spec.intermediate_size.into())
    }

    fn forward(&mut self, weights: &Arenas, tokens: Tokens, clock: &mut Clock) {
        let (rows, h, i) = self.sizes();
        let (layout, s) = (&self.layout, self.heads);
        let width = s.projections() / rows;
        let epsilon = epsilon(&self.spec);
        let rotary = Rotary { cos: &self.rotary.0, sin: &self.rotary.1 };
        let table = layout.view(weights, "model.embed_tokens.weight");
        let first = self.blocks.first_mut().map_or(&mut self.last, |block| &mut block.x);
        kernels::embed(values::<T>(&table), tokens.inputs, first.values_mut(), usize::try_from(h).unwrap_or(0));
        for l in 0..self.blocks.len() {
            let names = Names::new(l);
            let (before, after) = self.blocks.split_at_mut(l + 1);
            let block = &mut before[l];
            if l == 0 {
                let w = layout.view(weights, &names.norm);
                let (normed, rstd) = (self.normed.values_mut(), &mut block.rstd);
                kernels::add_rms_norm(block.x.values(), None, values(&w), epsilon, normed, rstd);
            }
            clock.mark(Part::Elementwise);
            multiply(&self.qkv, &[rows, width], &self.normed.view(&[rows, h]), &names.qkv(layout, weights).tr());
            clock.mark(Part::Products);
            let bias = self.spec.qkv_bias().then(|| names.qkv_bias(layout, weights));
            block.kept.split(self.qkv.values(), bias.as_ref().map(values), rotary, s);
            let heads = self.attention.forward(&mut block.kept, tokens.document_first);
            kernels::join_heads(heads.values(), block.attended.values_mut(), s);
            clock.mark(Part::Attention);
            let output = layout.view(weights, &names.output);
            multiply(&self.product, &[rows, h], &block.attended.view(&[rows, s.n * s.d]), &output.tr());
            clock.mark(Part::Products);
            let w = layout.view(weights, &names.norm_middle);
            let residual = (self.product.values(), block.x_middle.values_mut());
            let (normed, rstd) = (self.normed.values_mut(), &mut block.rstd_middle);
            kernels::add_rms_norm(block.x.values(), Some(residual), values(&w), epsilon, normed, rstd);
            clock.mark(Part::Elementwise);
            let gate_up = names.gate_up(layout, weights);
            multiply(&block.gate_up, &[rows, 2 * i], &self.normed.view(&[rows, h]), &gate_up.tr());
            clock.mark(Part::Products);
            let gated = self.gated.values_mut();
            kernels::swiglu(block.gate_up.values(), gated, usize::try_from(i).unwrap_or(0));
            clock.mark(Part::Elementwise);
            let down = layout.view(weights, &names.down);
            multiply(&self.product, &[rows, h], &self.gated.view(&[rows, i]), &down.tr());
            clock.mark(Part::Products);
            let (x_next, rstd, name) = match after.first_mut() {
                Some(next) => (&mut next.x, &mut next.rstd, Names::new(l + 1).norm),
                None => (&mut self.last, &mut self.rstd_last, "model.norm.weight".to_owned()),
            };
            let w = layout.view(weights, &name);
            let residual = (self.product.values(), x_next.values_mut());
            let normed = self.normed.values_mut();
            kernels::add_rms_norm(block.x_middle.values(), Some(residual), values(&w), epsilon, normed, rstd);
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
            kernels::cross_entropy(&mut self.logits.values_mut()[..held], targets, losses, Some(scale));
            clock.mark(Part::Loss);
            let _ = logits.mm_out(&product.narrow(0, first, count), &output);
            sink.matrix(name, &[], &logits, &x, first > 0);
            clock.mark(Part::Products);
        }
        self.losses.iter().map(|&loss| f64::from(loss)).sum()
    }

    fn backward(&mut self, weights: &Arenas, grads: &mut Arenas, tokens: Tokens, add: bool, clock: &mut Clock) {
        let (rows, h, i) = self.sizes();
        let (layout, s) = (&self.layout, self.heads);
        let (width, usize_h) = (s.projections() / rows, usize::try_from(h).unwrap_or(0));
        let rotary = Rotary { cos: &self.rotary.0, sin: &self.rotary.1 };
        let mut sink = Sink { layout, grads, piece: self.piece.as_ref(), add };
        let w = layout.view(weights, "model.norm.weight");
        let norm = Normed { x: self.last.values(), rstd: &self.rstd_last, w: values(&w) };
        sink.norm("model.norm.weight", self.product.values(), norm, self.dx.values_mut(), false);
        for (l, block) in self.blocks.iter_mut().enumerate().rev() {
            let names = Names::new(l);
            let dx = self.dx.view(&[rows, h]);
            // The gated unit: its input's gradient takes its place, its output is computed again.
            multiply(&self.gated, &[rows, i], &dx, &layout.view(weights, &names.down));
            clock.mark(Part::Products);
            let (gate_up, gated) = (block.gate_up.values_mut(), self.gated.values_mut());
            kernels::swiglu_backward(gate_up, gated, usize::try_from(i).unwrap_or(0));
            clock.mark(Part::Elementwise);
            sink.matrix(&names.down, &[], &dx, &self.gated.view(&[rows, i]), false);
            clock.mark(Part::Products);
            let w = layout.view(weights, &names.norm_middle);
            let norm = Normed { x: block.x_middle.values(), rstd: &block.rstd_middle, w: values(&w) };
            kernels::rms_norm_again(norm.x, norm.rstd, norm.w, self.normed.values_mut());
            clock.mark(Part::Elementwise);
            let dgate_up = block.gate_up.view(&[rows, 2 * i]);
            sink.matrix(&names.gate, std::slice::from_ref(&names.up), &dgate_up, &self.normed.view(&[rows, h]), false);
            multiply(&self.product, &[rows, h], &dgate_up, &names.gate_up(layout, weights));
            clock.mark(Part::Products);
            sink.norm(&names.norm_middle, self.product.values(), norm, self.dx.values_mut(), true);
            clock.mark(Part::Elementwise);
            // Attention.
            multiply(&self.dattended, &[rows, s.n * s.d], &dx, &layout.view(weights, &names.output));
            sink.matrix(&names.output, &[], &dx, &block.attended.view(&[rows, s.n * s.d]), false);
            clock.mark(Part::Products);
            let (dattended, attended) = (self.dattended.values(), block.attended.values());
            let (dq, dk, dv) = self.attention.backward(&mut block.kept, dattended, attended, tokens.document_first);
            let gradients = (dq.values(), dk.values(), dv.values());
            kernels::join_heads_backward(gradients, rotary, self.qkv.values_mut(), s);
            clock.mark(Part::Attention);
            if self.spec.qkv_bias() {
                sink.bias(&names.q_bias, &names.kv_bias, self.qkv.values());
            }
            let w = layout.view(weights, &names.norm);
            let norm = Normed { x: block.x.values(), rstd: &block.rstd, w: values(&w) };
            kernels::rms_norm_again(norm.x, norm.rstd, norm.w, self.normed.values_mut());
            clock.mark(Part::Elementwise);
            let dqkv = self.qkv.view(&[rows, width]);
            sink.matrix(&names.q, &names.kv, &dqkv, &self.normed.view(&[rows, h]), false);
            multiply(&self.product, &[rows, h], &dqkv, &names.qkv(layout, weights));
            clock.mark(Part::Products);
            sink.norm(&names.norm, self.product.values(), norm, self.dx.values_mut(), true);
            clock.mark(Part::Elementwise);
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

/// Where gradients go.
struct Sink<'a, T> {
    layout: &'a Layout,
    grads: &'a mut Arenas,
    piece: Option<&'a Buffer<T>>,
    add: bool,
}

impl<T: Number> Sink<'_, T> {
    /// `dyᵀ x` for the matrices `first` and `also`; `again` where this pass wrote there before.
    fn matrix(&mut self, first: &str, also: &[String], dy: &Tensor, x: &Tensor, again: bool) {
        let mut to = self.layout.joined(self.grads, first, also);
        match self.piece {
            None if self.add || again => drop(to.addmm_(&dy.tr(), x)),
            None => drop(dy.tr().mm_out(&to, x)),
            Some(piece) => {
                let found = piece.view(&to.size());
                let _ = dy.tr().mm_out(&found, x);
                if self.add || again {
                    kernels::accumulate(values::<T>(&found), values_mut(&mut to));
                } else {
                    to.copy_(&found);
                }
            }
        }
    }

    fn norm(&mut self, name: &str, dn: &[T], norm: Normed<T>, dx: &mut [T], add_dx: bool) {
        let mut to = self.layout.view(self.grads, name);
        kernels::rms_norm_backward(dn, norm, dx, values_mut(&mut to), (add_dx, self.add));
    }

    fn bias(&mut self, first: &str, also: &[String], dy: &[T]) {
        let mut to = self.layout.joined(self.grads, first, also);
        kernels::column_sums(dy, values_mut(&mut to), self.add);
    }

    fn embedding(&mut self, dx: &[T], tokens: &[i64], h: usize, tied: bool) {
        let mut to = self.layout.view(self.grads, "model.embed_tokens.weight");
        if !tied && !self.add {
            let _ = to.zero_();
        }
        let grad = if to.kind() == T::KIND {
            Gradient::Same(values_mut(&mut to))
        } else {
            Gradient::Wide(values_mut(&mut to))
        };
        kernels::embed_backward(dx, tokens, grad, h);
    }
}

/// Names of one block's parameters.
pub(super) struct Names {
    pub(super) norm: String,
    pub(super) q: String,
    pub(super) kv: [String; 2],
    pub(super) q_bias: String,
    pub(super) kv_bias: [String; 2],
    pub(super) output: String,
    pub(super) norm_middle: String,
    pub(super) gate: String,
    pub(super) up: String,
    pub(super) down: String,
}

impl Names {
    pub(super) fn new(layer: usize) -> Self {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        Self {
            norm: name("input_layernorm.weight"),
            q: name("self_attn.q_proj.weight"),
            kv: [name("self_attn.k_proj.weight"), name("self_attn.v_proj.weight")],
            q_bias: name("self_attn.q_proj.bias"),
            kv_bias: [name("self_attn.k_proj.bias"), name("self_attn.v_proj.bias")],
            output: name("self_attn.o_proj.weight"),
            norm_middle: name("post_attention_layernorm.weight"),
            gate: name("mlp.gate_proj.weight"),
            up: name("mlp.up_proj.weight"),
            down: name("mlp.down_proj.weight"),
        }
    }

    fn qkv(&self, layout: &Layout, weights: &Arenas) -> Tensor {
        layout.joined(weights, &self.q, &self.kv)
    }

    fn qkv_bias(&self, layout: &Layout, weights: &Arenas) -> Tensor {
        layout.joined(weights, &self.q_bias, &self.kv_bias)
    }

    fn gate_up(&self, layout: &Layout, weights: &Arenas) -> Tensor {
        layout.joined(weights, &self.gate, std::slice::from_ref(&self.up))
    }
}
