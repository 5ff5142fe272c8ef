//! The Llama-family transformer (Touvron et al. 2023): `RMSNorm`, rotary positions, grouped-query attention, `SwiGLU`.
//!
//! Names of weights are `transformers`'. Shapes: b batch, t tokens, h hidden, n query heads, g key and value heads,
//! d head size, v vocabulary.

use super::{
    parameters::{Arenas, Layout},
    rotary,
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use senmon_protocol::model::ModelSpec;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Longest sequence whose attention scores are written out; beyond, the fused kernel uses less memory.
const EXPLICIT_ATTENTION_TOKENS_MAX: i64 = 512;
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
    rotary: (Tensor, Tensor),
    mask: Option<Tensor>,
}

/// Puts named weights into arenas on a device, fp32.
#[must_use]
pub fn place_weights(layout: &Layout, named: &BTreeMap<String, Tensor>, device: Device) -> Arenas {
    let mut arenas = layout.zeros(Kind::Float, device);
    tch::no_grad(|| layout.fill(&mut arenas, named));
    arenas
}

/// Random weights: normal with `initializer_range`, norms at 1. Each tensor from a stream of its own, so that the
/// order of creation does not matter.
#[must_use]
pub fn initial_weights(spec: &ModelSpec, seed: u64) -> BTreeMap<String, Tensor> {
    let make = |(name, shape): (&str, &[i64])| {
        let count = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
        let tensor = if shape.len() == 1 {
            let value = if name.ends_with(".bias") { 0.0 } else { 1.0 };
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
        let (cos, sin) = rotary::angles(&spec, u32::try_from(length).unwrap_or(0));
        let half = i64::from(spec.head_size()) / 2;
        let whole = |values: Vec<f32>| {
            let values = Tensor::from_slice(&values).view([length, half]);
            Tensor::cat(&[&values, &values], -1).to_device(device).to_kind(kind)
        };
        let mask = (length <= EXPLICIT_ATTENTION_TOKENS_MAX || for_what.deterministic)
            .then(|| Tensor::full([length, length], f64::NEG_INFINITY, (kind, device)).triu(1));
        Self { spec, weights, kind, rotary: (whole(cos), whole(sin)), mask }
    }

    /// Hidden states of tokens `[b, t]` after the last norm, `[b, t, h]`. `document_first`, `[b, t]`, names the first
    /// token of each token's document where attention must stay inside.
    pub fn hidden(&self, tokens_bt: &Tensor, document_first: Option<&Tensor>) -> Tensor {
        let weights: BTreeMap<&str, Tensor> =
            self.weights.iter().map(|(name, w)| (name.as_str(), w.to_kind(self.kind))).collect();
        let norm = |x: &Tensor, name: &str| {
            x.rms_norm([i64::from(self.spec.hidden_size)], Some(&weights[name]), self.spec.rms_norm_eps)
        };
        let inside = document_first.map(|first| self.inside(first));
        let mut x_bth = Tensor::embedding(&weights["model.embed_tokens.weight"], tokens_bt, -1, false, false);
        for layer in 0..self.spec.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let linear = |x: &Tensor, part: &str| {
                let bias = weights.get(format!("model.layers.{layer}.{part}.bias").as_str());
                x.linear(&weights[name(part).as_str()], bias)
            };
            let normed = norm(&x_bth, &name("input_layernorm"));
            let attended = self.attention(
                &linear(&normed, "self_attn.q_proj"),
                &linear(&normed, "self_attn.k_proj"),
                &linear(&normed, "self_attn.v_proj"),
                inside.as_ref(),
            );
            x_bth = &x_bth + linear(&attended, "self_attn.o_proj");
            let normed = norm(&x_bth, &name("post_attention_layernorm"));
            let gated = linear(&normed, "mlp.gate_proj").silu() * linear(&normed, "mlp.up_proj");
            x_bth = &x_bth + linear(&gated, "mlp.down_proj");
        }
        norm(&x_bth, "model.norm.weight")
    }

    /// Which keys each query may see, `[b, 1, t, t]`: those of its document up to itself.
    fn inside(&self, document_first_bt: &Tensor) -> Tensor {
        let first = document_first_bt.to_device(self.rotary.0.device()).to_kind(Kind::Int64);
        let t = first.size()[1];
        let keys = Tensor::arange(t, (Kind::Int64, first.device())).view([1, 1, t]);
        let seen = keys.ge_tensor(&first.unsqueeze(-1)).logical_and(&keys.le_tensor(&keys.view([1, t, 1])));
        seen.unsqueeze(1)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, inside: Option<&Tensor>) -> Tensor {
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
        let (q_bntd, k_bntd) = (self.rotate(&heads(q, n), t), repeat(self.rotate(&heads(k, g), t)));
        let v_bntd = repeat(heads(v, g));
        #[expect(clippy::cast_precision_loss, reason = "a head size")]
        let scale = 1.0 / (d as f64).sqrt();
        let out_bntd = match (&self.mask, inside) {
            (Some(mask), None) => {
                let mask = mask.narrow(0, 0, t).narrow(1, 0, t).expand([b * n, t, t], false);
                let flat = |x: &Tensor| x.reshape([b * n, t, d]);
                let scores = mask.baddbmm(&flat(&q_bntd), &flat(&k_bntd).transpose(1, 2), 1.0, scale);
                scores.softmax(-1, self.kind).bmm(&flat(&v_bntd)).view([b, n, t, d])
            }
            _ => {
                let (causal, scale) = (inside.is_none(), Some(scale));
                Tensor::scaled_dot_product_attention(&q_bntd, &k_bntd, &v_bntd, inside, 0.0, causal, scale, false)
            }
        };
        out_bntd.transpose(1, 2).reshape([b, t, n * d])
    }

    /// Rotary positions in `transformers`' layout: the two halves of a head are the two coordinates.
    fn rotate(&self, x_bntd: &Tensor, t: i64) -> Tensor {
        let (cos, sin) = (self.rotary.0.narrow(0, 0, t), self.rotary.1.narrow(0, 0, t));
        let halves = x_bntd.chunk(2, -1);
        let turned = Tensor::cat(&[&-&halves[1], &halves[0]], -1);
        x_bntd * cos + turned * sin
    }

    fn output(&self) -> Tensor {
        let name = if self.spec.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        self.weights[name].to_kind(self.kind)
    }

    /// Logits of tokens `[b, t]`, fp32 `[b, t, v]`. For tests and small inputs: training never holds them all.
    pub fn logits(&self, tokens_bt: &Tensor) -> Tensor {
        self.hidden(tokens_bt, None).linear(&self.output(), None::<Tensor>).to_kind(Kind::Float)
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
            let logits = rows.linear(&output, None::<Tensor>).to_kind(Kind::Float);
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
                let logits = rows.linear(&output, None::<Tensor>).to_kind(Kind::Float);
                -logits.cross_entropy_loss(&targets, None::<Tensor>, tch::Reduction::None, -100, 0.0)
            })
            .collect();
        Tensor::cat(&found, 0).view_as(targets_bt)
    }
}
