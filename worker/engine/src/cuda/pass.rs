//! Forward and backward of the Llama block on a card, and the optimiser's step: the CPU's fused pass
//! (`fused`) with a card's kernels. Buffers are kept from step to step; the host waits once a batch, for
//! its loss and its gradient norm.

use super::{
    attention::{Attention, Kept, Way},
    machine::{Machine, Staging},
    ops::{NormBack, Step},
    sink::Sink,
    upload::{Tokens, Upload},
};
use crate::{
    clock::Clock,
    fused::Names,
    parameters::{Arenas, Layout},
    pass::{Found, Windows},
    rotary,
    shape::{Note, Shape},
};
use senmon_kernels::{self as kernels, Heads};
use senmon_protocol::{model::ModelSpec, said, said::Said};
use tch::{Kind, Tensor, no_grad};

/// Logits held at once, in numbers: half a gigabyte in bf16.
const LOGITS_AT_ONCE: i64 = 1 << 28;
/// Strips of rows over which a bias's gradient is summed.
const BIAS_STRIPS: i64 = 64;

/// A matrix or vector and where its gradient goes, sharing the arenas' memory.
struct Weight {
    value: Tensor,
    grad: Tensor,
}

/// Weights of one block.
struct Layer {
    norm: Weight,
    qkv: Weight,
    bias: Option<Weight>,
    output: Weight,
    norm_middle: Weight,
    gate_up: Weight,
    down: Weight,
}

/// What one block keeps for its way back.
struct Block {
    x: Tensor,
    rstd: Tensor,
    qkv: Tensor,
    attended: Option<Kept>,
    x_middle: Tensor,
    rstd_middle: Tensor,
    gate_up: Tensor,
}

/// Memory that all blocks share. R rows of a pass.
struct Shared {
    last: Tensor,
    rstd_last: Tensor,
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
    /// Sums of the norms' gradients, `[2·layers + 1, n, h]`.
    norm_parts: Tensor,
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
    rotary: (Tensor, Tensor),
    /// The matrices once more in bf16, written by the optimiser; None where the pass reads the fp32 weights.
    copy: Option<Arenas>,
    layers: Vec<Layer>,
    table: Weight,
    head: Weight,
    norm_last: Weight,
    /// All norms and biases' gradients, and the distance between those of two blocks.
    vectors_grad: Tensor,
    matrices_grad: Tensor,
    vectors_stride: i64,
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
        let layout = Layout::new(spec);
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
        let values = copy.as_ref().unwrap_or(weights);
        let joined = |first: &str, also: &[String]| Weight {
            value: layout.joined(values, first, also),
            grad: layout.joined(grads, first, also),
        };
        let layer = |l: usize| {
            let names = Names::new(l);
            Layer {
                norm: joined(&names.norm, &[]),
                qkv: joined(&names.q, &names.kv),
                bias: spec.qkv_bias().then(|| joined(&names.q_bias, &names.kv_bias)),
                output: joined(&names.output, &[]),
                norm_middle: joined(&names.norm_middle, &[]),
                gate_up: joined(&names.gate, std::slice::from_ref(&names.up)),
                down: joined(&names.down, &[]),
            }
        };
        let layers: Vec<Layer> = (0..spec.num_hidden_layers as usize).map(layer).collect();
        let width = s.projections() / rows;
        let block = |_: &Layer| Block {
            x: own(&[rows, h]),
            rstd: fp32(&[rows]),
            qkv: own(&[rows, width]),
            attended: None,
            x_middle: own(&[rows, h]),
            rstd_middle: fp32(&[rows]),
            gate_up: own(&[rows, 2 * i]),
        };
        let blocks: Vec<Block> = layers.iter().map(block).collect();
        let slots = 2 * i64::from(spec.num_hidden_layers) + 1;
        let parts = |x: &Tensor| machine.squares_parts(i64::try_from(x.numel()).unwrap_or(0));
        let (of_matrices, of_vectors) = (parts(&grads.matrices), parts(&grads.vectors));
        let squares_all = Tensor::zeros([of_matrices + of_vectors], (Kind::Double, device));
        let head = if spec.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let shared = Shared {
            last: own(&[rows, h]),
            rstd_last: fp32(&[rows]),
            normed: own(&[rows, h]),
            product: own(&[rows, h]),
            dx: own(&[rows, h]),
            dqkv: own(&[rows, width]),
            dattended: own(&[rows, s.n * s.d]),
            gated: own(&[rows, i]),
            logits: own(&[logit_rows(rows, v), v]),
            losses: fp32(&[shape.windows * t]),
            norm_parts: fp32(&[slots, machine.norm_parts(rows, h), h]),
            bias_parts: spec.qkv_bias().then(|| fp32(&[BIAS_STRIPS.min(rows), width])),
            embed_parts: fp32(&[rows, h]),
            squares: [squares_all.narrow(0, 0, of_matrices), squares_all.narrow(0, of_matrices, of_vectors)],
            squares_all,
            out: Tensor::zeros([2], (Kind::Double, device)),
            out_host: machine.staging(16)?,
        };
        let largest = layout.shapes().map(|(_, shape)| shape.iter().product::<i64>()).max().unwrap_or(0);
        let sink = Sink::new(&machine, grads.matrices.kind(), largest.max(2 * i * h).max(width * h));
        let (attention, said) = Attention::fastest(&machine, s);
        let (cos, sin) = rotary::angles(spec, u32::try_from(t).unwrap_or(0));
        let angles = |values: &[f32]| Tensor::from_slice(values).to_device(device);
        #[expect(clippy::cast_possible_truncation, reason = "an epsilon, used in fp32")]
        let epsilon = spec.rms_norm_eps as f32;
        Ok(Self {
            table: joined("model.embed_tokens.weight", &[]),
            head: joined(head, &[]),
            norm_last: joined("model.norm.weight", &[]),
            vectors_grad: grads.vectors.shallow_clone(),
            matrices_grad: grads.matrices.shallow_clone(),
            vectors_stride: if spec.qkv_bias() { 2 * h + width } else { 2 * h },
            upload: Upload::new(&machine, shape)?,
            rotary: (angles(&cos), angles(&sin)),
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

    fn forward(&mut self, tokens: &Tokens) {
        let Self { machine, shared, blocks, layers, s, epsilon, .. } = self;
        let Shared { normed, product, gated, last, rstd_last, .. } = &*shared;
        let rotary = (&self.rotary.0, &self.rotary.1);
        machine.embed(&self.table.value, &tokens.inputs, blocks.first().map_or(last, |block| &block.x));
        for (l, layer) in layers.iter().enumerate() {
            let (before, after) = blocks.split_at_mut(l + 1);
            let block = &mut before[l];
            if l == 0 {
                machine.add_rms_norm(&block.x, None, &layer.norm.value, *epsilon, normed, &block.rstd);
            }
            let _ = normed.mm_out(&block.qkv, &layer.qkv.value.tr());
            machine.rotate(&block.qkv, layer.bias.as_ref().map(|bias| &bias.value), rotary, *s);
            let kept = self.attention.forward(&block.qkv, tokens.documents.as_ref());
            let kept = kept.unwrap_or_else(|said| panic!("{said}{}", want_of_memory(machine)));
            let _ = kept.rows.mm_out(product, &layer.output.value.tr());
            block.attended = Some(kept);
            let residual = Some((product, &block.x_middle));
            machine.add_rms_norm(&block.x, residual, &layer.norm_middle.value, *epsilon, normed, &block.rstd_middle);
            let _ = normed.mm_out(&block.gate_up, &layer.gate_up.value.tr());
            machine.swiglu(&block.gate_up, gated);
            let _ = gated.mm_out(product, &layer.down.value.tr());
            let (x_next, rstd, w) = match after.first() {
                Some(next) => (&next.x, &next.rstd, &layers[l + 1].norm.value),
                None => (last, rstd_last, &self.norm_last.value),
            };
            machine.add_rms_norm(&block.x_middle, Some((product, x_next)), w, *epsilon, normed, rstd);
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
        let Self { machine, shared, blocks, layers, s, sink, .. } = self;
        let Shared { last, rstd_last, normed, product, dx, dqkv, dattended, gated, norm_parts, .. } = &*shared;
        let rotary = (&self.rotary.0, &self.rotary.1);
        let slot = |slot: usize| norm_parts.get(i64::try_from(slot).unwrap_or(0));
        let parts = slot(2 * layers.len());
        let norm = NormBack { x: last, rstd: rstd_last, w: &self.norm_last.value, normed: None, parts: &parts };
        machine.rms_norm_backward(product, &norm, None, dx);
        for (l, (block, layer)) in blocks.iter_mut().zip(&*layers).enumerate().rev() {
            // The gated unit: its input's gradient takes its place, its output is computed again.
            let _ = dx.mm_out(gated, &layer.down.value);
            machine.swiglu_backward(&block.gate_up, gated);
            sink.matrix(machine, &layer.down.grad, dx, gated, add);
            let _ = block.gate_up.mm_out(product, &layer.gate_up.value);
            let (x, rstd, w) = (&block.x_middle, &block.rstd_middle, &layer.norm_middle.value);
            let norm = NormBack { x, rstd, w, normed: Some(normed), parts: &slot(2 * l + 1) };
            machine.rms_norm_backward(product, &norm, Some(dx), dx);
            sink.matrix(machine, &layer.gate_up.grad, &block.gate_up, normed, add);
            // Attention.
            let kept = block.attended.take().expect("a forward pass before the way back");
            sink.matrix(machine, &layer.output.grad, dx, &kept.rows, add);
            let _ = dx.mm_out(dattended, &layer.output.value);
            let (dq, dk, dv) = self.attention.backward(&kept, dattended);
            machine.rotate_back((&dq, &dk, &dv), rotary, dqkv, *s);
            if let (Some(bias), Some(parts)) = (&layer.bias, &shared.bias_parts) {
                machine.column_parts(dqkv, parts);
                machine.sum_parts(&parts.unsqueeze(0), &bias.grad, 0, add);
            }
            let _ = dqkv.mm_out(product, &layer.qkv.value);
            let (x, rstd, w) = (&block.x, &block.rstd, &layer.norm.value);
            let norm = NormBack { x, rstd, w, normed: Some(normed), parts: &slot(2 * l) };
            machine.rms_norm_backward(product, &norm, Some(dx), dx);
            sink.matrix(machine, &layer.qkv.grad, dqkv, normed, add);
        }
        // Norms first in each block's vectors, biases behind them.
        machine.sum_parts(norm_parts, &self.vectors_grad, self.vectors_stride, add);
        if !self.spec.tie_word_embeddings && !add {
            let _ = self.table.grad.zero_();
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
