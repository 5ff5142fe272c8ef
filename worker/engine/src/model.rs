//! The Llama-family transformer (Touvron et al. 2023): `RMSNorm`, rotary positions, grouped-query attention, a gated
//! unit; what its relatives do otherwise is a [`Variant`]. All of it is here: the other ways of computing may know less.
//!
//! Names of weights are `transformers`'. Shapes: b batch, t tokens, h hidden, n query heads, g key and value heads,
//! d head size, v vocabulary.

use super::{
    parameters::{Arenas, Layout},
    rotary, windows,
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use senmon_protocol::model::{
    ModelSpec,
    variant::{Activation, Around, QkNorm, Variant},
};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Longest sequence whose attention scores are written out; beyond, the fused kernel uses less memory.
const EXPLICIT_ATTENTION_TOKENS_MAX: i64 = 512;
/// Queries at once where each sees only some of the keys before it.
const QUERIES: i64 = 1024;
/// Rows of logits at once.
const LOGIT_ROWS: i64 = 1024;

/// What a model is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Whether gradients are wanted.
    pub trains: bool,
    /// Whether attention must give the same bits on every run, which a GPU's fused kernels do not.
    pub deterministic: bool,
}

/// Weights and shape.
#[derive(Debug)]
pub struct Model {
    /// Shape; `vocab_size` is filled in.
    pub spec: ModelSpec,
    /// fp32 weights by name.
    pub weights: BTreeMap<String, Tensor>,
    /// Number format of the computation.
    pub kind: Kind,
    variant: Variant,
    rotaries: Vec<(Tensor, Tensor)>,
    /// How far each layer looks back, where that hides anything.
    windows: Vec<Option<i64>>,
    /// What is added to scores that are written out, by window.
    masks: BTreeMap<Option<i64>, Tensor>,
    device: Device,
}

/// Puts named weights into arenas on a device, fp32.
#[must_use]
pub fn place_weights(layout: &Layout, named: &BTreeMap<String, Tensor>, device: Device) -> Arenas {
    let mut arenas = layout.zeros(Kind::Float, device);
    tch::no_grad(|| layout.fill(&mut arenas, named));
    arenas
}

/// Random weights: normal with `initializer_range`, norms that multiply by 1. Each tensor from a stream of its own, so
/// that the order of creation does not matter.
#[must_use]
pub fn initial_weights(spec: &ModelSpec, seed: u64) -> BTreeMap<String, Tensor> {
    let of_norms = 1.0 - spec.variant().norm_offset;
    let make = |(name, shape): (&str, &[i64])| {
        let count = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
        let tensor = if shape.len() == 1 {
            let value = if name.ends_with(".bias") { 0.0 } else { of_norms };
            Tensor::full(shape, value, (Kind::Float, Device::Cpu))
        } else {
            let values =
                normal(count, spec.initializer_range, xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed));
            Tensor::from_slice(&values).view(shape)
        };
        (name.to_owned(), tensor)
    };
    Layout::new(spec).shapes().map(make).collect()
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "random fractions, kept as f32")]
fn normal(count: usize, deviation: f64, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut unit = || ((rng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let (radius, angle) = ((-2.0 * unit().ln()).sqrt() * deviation, std::f64::consts::TAU * unit());
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    values.truncate(count);
    values
}

impl Model {
    /// Puts weights on a device, ready for sequences of up to `length` tokens.
    #[must_use]
    pub fn new(
        spec: ModelSpec,
        weights: &BTreeMap<String, Tensor>,
        device: Device,
        kind: Kind,
        length: i64,
        trains: bool,
    ) -> Self {
        let layout = Layout::new(&spec);
        let arenas = place_weights(&layout, weights, device);
        Self::over(spec, &layout, &arenas, kind, length, Use { trains, deterministic: false })
    }

    /// A model whose weights are those of `arenas`, whatever becomes of them.
    #[must_use]
    pub fn over(spec: ModelSpec, layout: &Layout, arenas: &Arenas, kind: Kind, length: i64, for_what: Use) -> Self {
        let device = arenas.matrices.device();
        let leaf = |(name, view): (String, Tensor)| (name, view.detach().set_requires_grad(for_what.trains));
        let weights = layout.views(arenas).into_iter().map(leaf).collect();
        let (d, half) = (spec.head_size(), i64::from(spec.head_size()) / 2);
        let whole = |values: Vec<f32>| {
            let values = Tensor::from_slice(&values).view([length, half]);
            Tensor::cat(&[&values, &values], -1).to_device(device).to_kind(kind)
        };
        let variant = spec.variant();
        let angles = |rotary| rotary::angles(rotary, d, u32::try_from(length).unwrap_or(0));
        let rotaries = variant.rotaries.iter().map(angles).map(|(cos, sin)| (whole(cos), whole(sin))).collect();
        let windows = windows::of_layers(&variant, length);
        let written_out = length <= EXPLICIT_ATTENTION_TOKENS_MAX || for_what.deterministic;
        let masks = windows.iter().filter(|_| written_out);
        let masks = masks.map(|window| (*window, windows::mask(*window, length, kind, device))).collect();
        Self { spec, weights, kind, variant, rotaries, windows, masks, device }
    }

    /// Hidden states of tokens `[b, t]` after the last norm, `[b, t, h]`. `document_first`, `[b, t]`, names the first
    /// token of each token's document where attention must stay inside.
    pub fn hidden(&self, tokens_bt: &Tensor, document_first: Option<&Tensor>) -> Tensor {
        let Variant { norms, norm_offset, embedding_scale, activation, .. } = self.variant;
        let computed = |(name, w): (&String, &Tensor)| {
            let is_shifted = norm_offset != 0.0 && name.ends_with("norm.weight");
            if is_shifted { (w + norm_offset).to_kind(self.kind) } else { w.to_kind(self.kind) }
        };
        let weights: BTreeMap<&str, Tensor> =
            self.weights.iter().map(|named| (named.0.as_str(), computed(named))).collect();
        let norm = |x: &Tensor, name: &str| {
            let w = &weights[name];
            x.rms_norm(w.size(), Some(w), self.spec.rms_norm_eps)
        };
        let mut x_bth = Tensor::embedding(&weights["model.embed_tokens.weight"], tokens_bt, -1, false, false);
        if embedding_scale != 1.0 {
            // Rounded as the embeddings are: that is what such models were trained with.
            let scale = Tensor::from(embedding_scale).to_kind(self.kind).to_device(self.device);
            x_bth = &x_bth * scale;
        }
        for layer in 0..self.windows.len() {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let linear = |x: &Tensor, part: &str| {
                let bias = weights.get(format!("model.layers.{layer}.{part}.bias").as_str());
                x.linear(&weights[name(part).as_str()], bias)
            };
            let around = |x: &Tensor, norms: Around, inside: &dyn Fn(&Tensor) -> Tensor| {
                let out = norms.before.map_or_else(|| inside(x), |part| inside(&norm(x, &name(part))));
                norms.after.map_or_else(|| out.shallow_clone(), |part| norm(&out, &name(part)))
            };
            let attention = |x: &Tensor| {
                let normed = |x: &Tensor, part: &str| match self.variant.qk_norm {
                    QkNorm::None => x.shallow_clone(),
                    QkNorm::Projection => norm(x, &name(part)),
                    QkNorm::Head => {
                        let heads = x.view([x.size()[0], x.size()[1], -1, i64::from(self.spec.head_size())]);
                        norm(&heads, &name(part)).view_as(x)
                    }
                };
                let q = normed(&linear(x, "self_attn.q_proj"), "self_attn.q_norm");
                let k = normed(&linear(x, "self_attn.k_proj"), "self_attn.k_norm");
                let attended = self.attention(layer, &q, &k, &linear(x, "self_attn.v_proj"), document_first);
                linear(&attended, "self_attn.o_proj")
            };
            let gated = |x: &Tensor| {
                let gate = linear(x, "mlp.gate_proj");
                let gate = match activation {
                    Activation::Silu => gate.silu(),
                    Activation::GeluTanh => gate.gelu("tanh"),
                };
                linear(&(gate * linear(x, "mlp.up_proj")), "mlp.down_proj")
            };
            x_bth = &x_bth + around(&x_bth, norms.attention, &attention);
            x_bth = &x_bth + around(&x_bth, norms.gated, &gated);
        }
        norm(&x_bth, "model.norm.weight")
    }

    fn attention(&self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor, document_first: Option<&Tensor>) -> Tensor {
        let (b, t, _) = q.size3().unwrap_or((0, 0, 0));
        let (n, g, d) = (
            i64::from(self.spec.num_attention_heads),
            i64::from(self.spec.kv_heads()),
            i64::from(self.spec.head_size()),
        );
        let heads = |x: &Tensor, count: i64| x.view([b, t, count, d]).transpose(1, 2);
        let repeat = |x: Tensor| {
            if n == g { x } else { x.unsqueeze(2).expand([b, g, n / g, t, d], false).reshape([b, n, t, d]) }
        };
        let rotary = self.variant.layers[layer].rotary.map(|number| &self.rotaries[number]);
        let turned = |x: Tensor| rotary.map_or_else(|| x.shallow_clone(), |rotary| rotate(&x, t, rotary));
        let (q_bntd, k_bntd) = (turned(heads(q, n)), repeat(turned(heads(k, g))));
        let v_bntd = repeat(heads(v, g));
        let (window, scale) = (self.windows[layer], self.variant.query_scale);
        let is_plain = document_first.is_none() && self.variant.attention_cap.is_none();
        let out_bntd = match self.masks.get(&window).filter(|_| is_plain) {
            Some(mask) => {
                let mask = mask.narrow(0, 0, t).narrow(1, 0, t).expand([b * n, t, t], false);
                let flat = |x: &Tensor| x.reshape([b * n, t, d]);
                let scores = mask.baddbmm(&flat(&q_bntd), &flat(&k_bntd).transpose(1, 2), 1.0, scale);
                scores.softmax(-1, self.kind).bmm(&flat(&v_bntd)).view([b, n, t, d])
            }
            None if is_plain && window.is_none() => {
                let none = None::<&Tensor>;
                Tensor::scaled_dot_product_attention(&q_bntd, &k_bntd, &v_bntd, none, 0.0, true, Some(scale), false)
            }
            None => self.by_pieces((&q_bntd, &k_bntd, &v_bntd), window, document_first),
        };
        out_bntd.transpose(1, 2).reshape([b, t, n * d])
    }

    /// Attention of some queries after the others, with the keys that any of them sees.
    fn by_pieces(
        &self,
        (q_bntd, k_bntd, v_bntd): (&Tensor, &Tensor, &Tensor),
        window: Option<i64>,
        document_first: Option<&Tensor>,
    ) -> Tensor {
        let (t, scale) = (q_bntd.size()[2], self.variant.query_scale);
        let piece = |first: i64| {
            let end = (first + QUERIES).min(t);
            let from = window.map_or(0, |window| (first - window + 1).max(0));
            let (q, [k, v]) =
                (q_bntd.narrow(2, first, end - first), [k_bntd, v_bntd].map(|x| x.narrow(2, from, end - from)));
            let seen = windows::seen(window, (first..end, from..end), document_first, self.device);
            match self.variant.attention_cap {
                Some(cap) => {
                    let scores = (q.matmul(&k.transpose(2, 3)) * (scale / cap)).tanh() * cap;
                    let scores = scores.masked_fill(&seen.logical_not(), f64::NEG_INFINITY);
                    scores.softmax(-1, self.kind).matmul(&v)
                }
                None => Tensor::scaled_dot_product_attention(&q, &k, &v, Some(&seen), 0.0, false, Some(scale), false),
            }
        };
        let pieces: Vec<Tensor> = (0..t).step_by(usize::try_from(QUERIES).unwrap_or(1)).map(piece).collect();
        Tensor::cat(&pieces, 2)
    }

    fn output(&self) -> Tensor {
        let name = if self.spec.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        self.weights[name].to_kind(self.kind)
    }

    /// Logits of hidden states, fp32.
    fn logits_of(&self, rows: &Tensor, output: &Tensor) -> Tensor {
        let logits = rows.linear(output, None::<Tensor>).to_kind(Kind::Float);
        match self.variant.logit_cap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// Logits of tokens `[b, t]`, fp32 `[b, t, v]`. For tests and small inputs: training never holds them all.
    pub fn logits(&self, tokens_bt: &Tensor) -> Tensor {
        self.logits_of(&self.hidden(tokens_bt, None), &self.output())
    }

    /// Sum of the negative log-likelihoods of `targets_bt`, fp32, nats; the gradients of that sum over `count` go to
    /// the weights. Logits and their gradients are made in pieces: those of a whole batch never exist.
    pub fn backward(
        &self,
        tokens_bt: &Tensor,
        targets_bt: &Tensor,
        document_first: Option<&Tensor>,
        count: f64,
    ) -> Tensor {
        let rows = self.hidden(tokens_bt, document_first).view([-1, i64::from(self.spec.hidden_size)]);
        let (targets, output) = (targets_bt.reshape([-1]), self.output());
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        for (rows, targets) in rows.detach().split(LOGIT_ROWS, 0).iter().zip(targets.split(LOGIT_ROWS, 0)) {
            let rows = rows.detach().set_requires_grad(true);
            let logits = self.logits_of(&rows, &output);
            let loss = logits.cross_entropy_loss(&targets, None::<Tensor>, tch::Reduction::Sum, -100, 0.0);
            (&loss / count).backward();
            losses.push(loss.detach());
            gradients.push(rows.grad());
        }
        // A sum whose gradient by the rows is the one just found.
        (rows * Tensor::cat(&gradients, 0)).sum(Kind::Float).backward();
        Tensor::stack(&losses, 0).sum(Kind::Float)
    }

    /// Log-probabilities of `targets_bt`, fp32 `[b, t]`.
    pub fn log_probabilities(&self, tokens_bt: &Tensor, targets_bt: &Tensor) -> Tensor {
        let rows = self.hidden(tokens_bt, None).view([-1, i64::from(self.spec.hidden_size)]);
        let (targets, output) = (targets_bt.reshape([-1]), self.output());
        let pieces = rows.split(LOGIT_ROWS, 0).into_iter().zip(targets.split(LOGIT_ROWS, 0));
        let found: Vec<Tensor> = pieces
            .map(|(rows, targets)| {
                let logits = self.logits_of(&rows, &output);
                -logits.cross_entropy_loss(&targets, None::<Tensor>, tch::Reduction::None, -100, 0.0)
            })
            .collect();
        Tensor::cat(&found, 0).view_as(targets_bt)
    }
}

/// Rotary positions in `transformers`' layout: the two halves of a head are the two coordinates.
fn rotate(x_bntd: &Tensor, t: i64, (cos, sin): &(Tensor, Tensor)) -> Tensor {
    let (cos, sin) = (cos.narrow(0, 0, t), sin.narrow(0, 0, t));
    let halves = x_bntd.chunk(2, -1);
    let turned = Tensor::cat(&[&-&halves[1], &halves[0]], -1);
    x_bntd * cos + turned * sin
}
