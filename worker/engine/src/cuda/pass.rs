//! Forward and backward of the Llama block on a card, and the optimiser's step: the CPU's fused pass
//! (`fused`) with a card's kernels; what of its relatives they do not know is in `reach`. Buffers are kept from step to step; the host waits once a batch, for
//! its loss and its gradient norm.

use super::{
    attention::{Attention, Way},
    layers::{Block, Input, Layer, Norm, Places, Weight},
    machine::{Machine, Staging},
    ops::{Hats, NormBack, Step},
    sink::Sink,
    upload::{Tokens, Upload},
};
use crate::{
    clock::Clock,
    parameters::{Arenas, Layout},
    pass::{Found, Windows},
    rotary::Turns,
    shape::{Note, Shape},
    windows,
};
use senmon_kernels::{self as kernels, Gate, Heads};
use senmon_protocol::{
    model::{
        ModelSpec,
        variant::{Activation, Variant},
    },
    said,
    said::Said,
};
use tch::{Kind, Tensor, no_grad};

/// Logits held at once, in numbers: half a gigabyte in bf16.
const LOGITS_AT_ONCE: i64 = 1 << 28;
/// Strips of rows over which a bias's gradient is summed.
const BIAS_STRIPS: i64 = 64;

/// Memory that all blocks share. R rows of a pass.
struct Shared {
    last: Input,
    /// `[R, h]`: norms' outputs, a product's output, gradients of the residual stream.
    normed: Tensor,
    product: Tensor,
    dx: Tensor,
    /// Rows of the projections, of the attended values, of the gated width.
    dqkv: Tensor,
    dattended: Tensor,
    gated: Tensor,
    logits: Tensor,
    /// Of a whole batch.
    losses: Tensor,
    /// Sums of the norms' gradients, `[norms, n, h]`.
    norm_parts: Tensor,
    /// Sums of the gradients of queries' and keys' norms.
    head_parts: Option<[Tensor; 2]>,
    bias_parts: Option<Tensor>,
    /// `[R, h]`, fp32.
    embed_parts: Tensor,
    /// Sums of squares of matrices and vectors.
    squares: [Tensor; 2],
    squares_all: Tensor,
    /// What the host reads.
    out: Tensor,
    out_host: Staging,
}

/// A pass over batches of one shape.
pub struct Pass {
    machine: Machine,
    spec: ModelSpec,
    s: Heads,
    shape: Shape,
    epsilon: f32,
    variant: Variant,
    gate: Gate,
    rotaries: Vec<(Tensor, Tensor)>,
    /// Which of them each layer has, and how far it looks back.
    of_layers: Vec<(usize, Option<i64>)>,
    /// Norms' weights as they are, and what is computed with where something is added to them.
    shifted: Option<(Tensor, Tensor)>,
    /// The matrices once more in bf16, written by the optimiser; None where the pass reads the fp32 weights.
    copy: Option<Arenas>,
    layers: Vec<Layer>,
    table: Weight,
    head: Weight,
    norm_last: Norm,
    /// All norms and biases' gradients, and the distance between those of two blocks.
    vectors_grad: Tensor,
    matrices_grad: Tensor,
    /// Norms of a block, and the numbers from those of one to those of the next.
    norms_lie: (i64, i64),
    blocks: Vec<Block>,
    shared: Shared,
    sink: Sink,
    attention: Attention,
    upload: Upload,
    /// What is worth saying once.
    notes: Vec<Note>,
}

impl Pass {
    /// Memory and weights for batches of `shape`; gradients go to `grads`.
    ///
    /// # Errors
    /// When the driver refuses pinned memory.
    pub fn new(
        machine: Machine,
        spec: &ModelSpec,
        weights: &Arenas,
        grads: &Arenas,
        shape: Shape,
    ) -> Result<Self, String> {
        let _guard = tch::no_grad_guard();
        machine.enter();
        let (layout, variant) = (Layout::new(spec), spec.variant());
        let (b, t) = (shape.micro, shape.length);
        let s =
            Heads { b, t, n: spec.num_attention_heads.into(), g: spec.kv_heads().into(), d: spec.head_size().into() };
        let [h, i, v] = [spec.hidden_size, spec.intermediate_size, spec.vocab_size.unwrap_or(0)].map(i64::from);
        let (rows, device) = (b * t, machine.device);
        let own = |size: &[i64]| Tensor::empty(size, (machine.kind(), device));
        let fp32 = |size: &[i64]| Tensor::empty(size, (Kind::Float, device));
        let copy = machine.form.bf16.then(|| Arenas {
            matrices: weights.matrices.to_kind(Kind::BFloat16),
            vectors: weights.vectors.shallow_clone(),
        });
        let shifted = (variant.norm_offset != 0.0)
            .then(|| (weights.vectors.shallow_clone(), &weights.vectors + variant.norm_offset));
        let values = Arenas {
            matrices: copy.as_ref().unwrap_or(weights).matrices.shallow_clone(),
            vectors: shifted.as_ref().map_or(&weights.vectors, |(_, vectors)| vectors).shallow_clone(),
        };
        let places = Places { layout: &layout, values: &values, grads };
        let layers = places.layers(&variant, spec.num_hidden_layers as usize);
        let [q_norm, k_norm] = spec.qk_norm_widths().map(|width| i64::try_from(width).unwrap_or(0));
        let normed_parts = if q_norm > 0 { s.n * s.d / q_norm + s.g * s.d / k_norm } else { 0 };
        let width = s.projections() / rows;
        let input = || Input::new(&machine, rows, h);
        let block = |layer: &Layer| Block {
            x: input(),
            qkv: own(&[rows, width]),
            hats: (normed_parts > 0)
                .then(|| Hats { hats: own(&[rows, (s.n + s.g) * s.d]), rstd: fp32(&[rows * normed_parts]) }),
            attended: None,
            out: layer.attention.after.as_ref().map(|_| input()),
            middle: input(),
            gate_up: own(&[rows, 2 * i]),
            gated_out: layer.gated.after.as_ref().map(|_| input()),
        };
        let blocks: Vec<Block> = layers.iter().map(block).collect();
        let of_block = i64::try_from(variant.norms.names().len()).unwrap_or(0);
        let slots = of_block * i64::from(spec.num_hidden_layers) + 1;
        let parts = |x: &Tensor| machine.squares_parts(i64::try_from(x.numel()).unwrap_or(0));
        let (of_matrices, of_vectors) = (parts(&grads.matrices), parts(&grads.vectors));
        let squares_all = Tensor::zeros([of_matrices + of_vectors], (Kind::Double, device));
        let head = if spec.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let shared = Shared {
            last: input(),
            normed: own(&[rows, h]),
            product: own(&[rows, h]),
            dx: own(&[rows, h]),
            dqkv: own(&[rows, width]),
            dattended: own(&[rows, s.n * s.d]),
            gated: own(&[rows, i]),
            logits: own(&[logit_rows(rows, v), v]),
            losses: fp32(&[shape.windows * t]),
            norm_parts: fp32(&[slots, machine.norm_parts(rows, h), h]),
            head_parts: (normed_parts > 0).then(|| {
                let [n_q, n_k] = machine.head_norm_parts(s, [q_norm, k_norm]);
                [fp32(&[n_q, q_norm]), fp32(&[n_k, k_norm])]
            }),
            bias_parts: variant.qkv_bias.then(|| fp32(&[BIAS_STRIPS.min(rows), width])),
            embed_parts: fp32(&[rows, h]),
            squares: [squares_all.narrow(0, 0, of_matrices), squares_all.narrow(0, of_matrices, of_vectors)],
            squares_all,
            out: Tensor::zeros([2], (Kind::Double, device)),
            out_host: machine.staging(16)?,
        };
        let largest = layout.shapes().map(|(_, shape)| shape.iter().product::<i64>()).max().unwrap_or(0);
        let sink = Sink::new(&machine, grads.matrices.kind(), largest.max(2 * i * h).max(width * h));
        let (attention, said) = Attention::fastest(&machine, s, variant.query_scale);
        let turns = Turns::new(&variant, spec.head_size(), u32::try_from(t).unwrap_or(0));
        let angles = |values: &[f32]| Tensor::from_slice(values).to_device(device);
        let windows = windows::of_layers(&variant, t).into_iter().enumerate();
        #[expect(clippy::cast_possible_truncation, reason = "an epsilon, used in fp32")]
        let epsilon = spec.rms_norm_eps as f32;
        Ok(Self {
            table: places.joined("model.embed_tokens.weight", &[]),
            head: places.joined(head, &[]),
            norm_last: places.norm("model.norm.weight", slots - 1),
            vectors_grad: grads.vectors.shallow_clone(),
            matrices_grad: grads.matrices.shallow_clone(),
            norms_lie: (of_block, of_block * h + q_norm + k_norm + if variant.qkv_bias { width } else { 0 }),
            upload: Upload::new(&machine, shape)?,
            rotaries: turns.tables().iter().map(|(cos, sin)| (angles(cos), angles(sin))).collect(),
            of_layers: windows.map(|(layer, window)| (turns.number(layer), window)).collect(),
            gate: match variant.activation {
                Activation::Silu => Gate::Silu,
                Activation::GeluTanh => Gate::GeluTanh,
            },
            variant,
            shifted,
            spec: spec.clone(),
            copy,
            layers,
            blocks,
            shared,
            sink,
            attention,
            machine,
            s,
            shape,
            epsilon,
            notes: vec![Note { warns: false, said: Said::verbatim(said) }],
        })
    }

    /// Sum of the losses of the batch that was sent, and of the squares of its gradients; those are of the mean loss.
    fn passes(&mut self) -> (f64, f64) {
        let Shape { windows, micro, length } = self.shape;
        #[expect(clippy::cast_precision_loss, reason = "tokens of a batch")]
        let scale = 1.0 / (windows * length) as f32;
        for number in 0..windows / micro {
            let tokens = self.upload.pass(number);
            let losses = self.shared.losses.narrow(0, number * micro * length, micro * length);
            self.forward(&tokens);
            self.loss(&tokens, &losses, scale, number > 0);
            self.backward(&tokens, number > 0);
        }
        let Shared { squares, squares_all, losses, out, out_host, .. } = &mut self.shared;
        self.machine.squares(&self.matrices_grad, &squares[0]);
        self.machine.squares(&self.vectors_grad, &squares[1]);
        self.machine.finish(losses, squares_all, out);
        self.machine.download(out, out_host);
        let found: &[f64] = bytemuck::cast_slice(out_host.bytes());
        (found[0], found[1])
    }

    /// What embeddings are multiplied by, as their number format holds it; None for 1.
    fn embedding_scale(&self) -> Option<f64> {
        let scale = self.variant.embedding_scale;
        (scale != 1.0).then(|| Tensor::from(scale).to_kind(self.machine.kind()).double_value(&[]))
    }

    fn forward(&mut self, tokens: &Tokens) {
        let scale = self.embedding_scale();
        let Self { machine, shared, blocks, layers, s, epsilon, gate, rotaries, of_layers, .. } = self;
        let Shared { normed, product, gated, last, .. } = &*shared;
        let norm = |input: &Input, norm: &Norm, out: &Tensor| {
            machine.add_rms_norm(&input.x, None, &norm.w, *epsilon, out, &input.rstd);
        };
        // The residual stream, and the norm of it where the next step has one.
        let join = |x: &Tensor, sum: &Input, norm: Option<&Norm>| match norm {
            Some(norm) => {
                machine.add_rms_norm(x, Some((product, &sum.x)), &norm.w, *epsilon, normed, &sum.rstd);
            }
            None => drop(x.add_out(&sum.x, product)),
        };
        let first = blocks.first().map_or(last, |block| &block.x);
        machine.embed(&self.table.value, &tokens.inputs, &first.x);
        if let Some(scale) = scale {
            let _ = first.x.shallow_clone().g_mul_scalar_(scale);
        }
        if let Some(before) = layers.first().and_then(|layer| layer.attention.before.as_ref()) {
            norm(first, before, normed);
        }
        for (l, layer) in layers.iter().enumerate() {
            let (before, after) = blocks.split_at_mut(l + 1);
            let (block, (turns, window)) = (&mut before[l], of_layers[l]);
            let input = layer.attention.before.as_ref().map_or(&block.x.x, |_| normed);
            let _ = input.mm_out(&block.qkv, &layer.qkv.value.tr());
            if let (Some(hats), Some([q, k])) = (&block.hats, &layer.of_heads) {
                machine.norm_heads(&block.qkv, (&q.value, &k.value), *epsilon, hats, *s);
            }
            let rotary = (&rotaries[turns].0, &rotaries[turns].1);
            machine.rotate(&block.qkv, layer.bias.as_ref().map(|bias| &bias.value), rotary, *s);
            let kept = self.attention.forward(&block.qkv, tokens.documents.as_ref(), window);
            let kept = kept.unwrap_or_else(|said| panic!("{said}{}", want_of_memory(machine)));
            let out = block.out.as_ref().map_or(product, |out| &out.x);
            let _ = kept.rows.mm_out(out, &layer.output.value.tr());
            block.attended = Some(kept);
            if let (Some(out), Some(after)) = (&block.out, &layer.attention.after) {
                norm(out, after, product);
            }
            join(&block.x.x, &block.middle, layer.gated.before.as_ref());
            let input = layer.gated.before.as_ref().map_or(&block.middle.x, |_| normed);
            let _ = input.mm_out(&block.gate_up, &layer.gate_up.value.tr());
            machine.gated(*gate, &block.gate_up, gated);
            let out = block.gated_out.as_ref().map_or(product, |out| &out.x);
            let _ = gated.mm_out(out, &layer.down.value.tr());
            if let (Some(out), Some(after)) = (&block.gated_out, &layer.gated.after) {
                norm(out, after, product);
            }
            let (next, before) = match after.first() {
                Some(next) => (&next.x, layers[l + 1].attention.before.as_ref()),
                None => (last, Some(&self.norm_last)),
            };
            join(&block.middle.x, next, before);
        }
    }

    /// Losses from the last norm's output, in pieces; its gradient lies in `product` afterwards.
    fn loss(&mut self, tokens: &Tokens, losses: &Tensor, scale: f32, add: bool) {
        let (rows, v) = (self.s.b * self.s.t, i64::from(self.spec.vocab_size.unwrap_or(0)));
        let Shared { normed, product, logits, .. } = &self.shared;
        let at_once = logit_rows(rows, v);
        let mut first = 0;
        while first < rows {
            let count = at_once.min(rows - first);
            let part = |x: &Tensor| x.narrow(0, first, count);
            let (x, logits) = (part(normed), logits.narrow(0, 0, count));
            let _ = x.mm_out(&logits, &self.head.value.tr());
            self.machine.cross_entropy(&logits, &part(&tokens.targets), &part(losses), scale);
            let _ = logits.mm_out(&part(product), &self.head.value);
            self.sink.matrix(&self.machine, &self.head.grad, &logits, &x, add || first > 0);
            first += count;
        }
    }

    fn backward(&mut self, tokens: &Tokens, add: bool) {
        let scale = self.embedding_scale();
        let Self { machine, shared, blocks, layers, s, sink, gate, rotaries, of_layers, .. } = self;
        let Shared { last, normed, product, dx, dqkv, dattended, gated, norm_parts, .. } = &*shared;
        let back = |dn: &Tensor, input: &Input, norm: &Norm, again: Option<&Tensor>, before: Option<&Tensor>, dx| {
            let parts = norm_parts.get(norm.slot);
            let norm = NormBack { x: &input.x, rstd: &input.rstd, w: &norm.w, normed: again, parts: &parts };
            machine.rms_norm_backward(dn, &norm, before, dx);
        };
        // The gradient before a norm of what came out lies where the next norm's input will.
        let before_norm = |out: Option<&Input>, after: Option<&Norm>| match out.zip(after) {
            Some((out, after)) => {
                back(dx, out, after, None, None, normed);
                normed
            }
            None => dx,
        };
        // Adds the gradient of what went into a product, whose input this gives back.
        let through = |input: &Input, before: Option<&Norm>| match before {
            Some(before) => {
                back(product, input, before, Some(normed), Some(dx), dx);
                normed.shallow_clone()
            }
            None => {
                let _ = dx.shallow_clone().g_add_(product);
                input.x.shallow_clone()
            }
        };
        back(product, last, &self.norm_last, None, None, dx);
        for (l, (block, layer)) in blocks.iter_mut().zip(&*layers).enumerate().rev() {
            // The gated unit: its input's gradient takes its place, its output is computed again.
            let dout = before_norm(block.gated_out.as_ref(), layer.gated.after.as_ref());
            let _ = dout.mm_out(gated, &layer.down.value);
            machine.gated_backward(*gate, &block.gate_up, gated);
            sink.matrix(machine, &layer.down.grad, dout, gated, add);
            let _ = block.gate_up.mm_out(product, &layer.gate_up.value);
            let input = through(&block.middle, layer.gated.before.as_ref());
            sink.matrix(machine, &layer.gate_up.grad, &block.gate_up, &input, add);
            // Attention.
            let kept = block.attended.take().expect("a forward pass before the way back");
            let dout = before_norm(block.out.as_ref(), layer.attention.after.as_ref());
            sink.matrix(machine, &layer.output.grad, dout, &kept.rows, add);
            let _ = dout.mm_out(dattended, &layer.output.value);
            let (dq, dk, dv) = self.attention.backward(&kept, dattended);
            let rotary = &rotaries[of_layers[l].0];
            machine.rotate_back((&dq, &dk, &dv), (&rotary.0, &rotary.1), dqkv, *s);
            if let (Some(bias), Some(parts)) = (&layer.bias, &shared.bias_parts) {
                machine.column_parts(dqkv, parts);
                machine.sum_parts(&parts.unsqueeze(0), &bias.grad, (1, 0), add);
            }
            if let (Some(hats), Some([q, k]), Some([q_parts, k_parts])) =
                (&block.hats, &layer.of_heads, &shared.head_parts)
            {
                machine.norm_heads_backward(dqkv, (&q.value, &k.value), hats, [q_parts, k_parts], *s);
                machine.sum_parts(&q_parts.unsqueeze(0), &q.grad, (1, 0), add);
                machine.sum_parts(&k_parts.unsqueeze(0), &k.grad, (1, 0), add);
            }
            let _ = dqkv.mm_out(product, &layer.qkv.value);
            let input = through(&block.x, layer.attention.before.as_ref());
            sink.matrix(machine, &layer.qkv.grad, dqkv, &input, add);
        }
        // Norms first in each block's vectors, those of heads and biases behind them.
        machine.sum_parts(norm_parts, &self.vectors_grad, self.norms_lie, add);
        if !self.spec.tie_word_embeddings && !add {
            let _ = self.table.grad.zero_();
        }
        if let Some(scale) = scale {
            let _ = dx.shallow_clone().g_mul_scalar_(scale);
        }
        machine.embed_backward(dx, &tokens.sorted, &self.table.grad, &shared.embed_parts);
    }
}

impl crate::pass::Pass for Pass {
    /// Where cuDNN's attention may be why loss or gradients are not finite, once more without it.
    ///
    /// # Panics
    /// When libtorch or the driver refuse, with their words.
    fn batch(&mut self, _: &Arenas, _: &mut Arenas, windows: Windows, _: &mut Clock) -> Found {
        let _guard = tch::no_grad_guard();
        self.machine.enter();
        let v = i64::from(self.spec.vocab_size.unwrap_or(0));
        self.upload.send(&self.machine, windows.tokens, windows.document_first, v);
        if let Some((vectors, shifted)) = &mut self.shifted {
            shifted.copy_(&(&*vectors + self.variant.norm_offset));
        }
        loop {
            let (loss, squares) = self.passes();
            if (loss.is_finite() && squares.is_finite()) || self.attention.way() != Way::Cudnn {
                return Found { loss, norm: squares.sqrt() };
            }
            self.attention.demote();
            let said = said!("attention_demoted", loss = loss.to_string(), squares = squares.to_string());
            self.notes.push(Note { warns: true, said });
        }
    }

    fn adamw(
        &mut self,
        weights: &mut Arenas,
        grads: &Arenas,
        (first, second): (&mut Arenas, &mut Arenas),
        [matrices, vectors]: [kernels::AdamW; 2],
    ) {
        self.machine.enter();
        let step = |of: fn(&Arenas) -> &Tensor, copy, settings| {
            let step = Step { weights: of(weights), grads: of(grads), first: of(first), second: of(second), copy };
            self.machine.adamw(&step, settings);
        };
        step(|arenas| &arenas.matrices, self.copy.as_ref().map(|copy| &copy.matrices), matrices);
        step(|arenas| &arenas.vectors, None, vectors);
    }

    fn refresh(&mut self, weights: &Arenas) {
        if let Some(copy) = &mut self.copy {
            no_grad(|| copy.matrices.copy_(&weights.matrices));
        }
    }

    fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }
}

/// Rows of logits at once: pieces of about the same size, whole tiles of a product each.
fn logit_rows(rows: i64, v: i64) -> i64 {
    let pieces = (rows * v + LOGITS_AT_ONCE - 1) / LOGITS_AT_ONCE;
    let each = (rows + pieces - 1) / pieces.max(1);
    ((each + 127) / 128 * 128).min(rows)
}

/// libtorch's C interface writes its reason to the standard error and keeps it from us; with little left, it was memory.
fn want_of_memory(machine: &Machine) -> &'static str {
    let left = machine.card().map_or(usize::MAX, super::driver::Card::free_bytes);
    if left < 2 << 30 { " (out of memory, it seems: less than 2 GiB are free on the device)" } else { "" }
}
