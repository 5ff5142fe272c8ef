//! Each kernel on small random numbers against tensor operations in fp32: the first half of the self-proof.

use super::{
    machine::Machine,
    ops::{Hats, NormBack, Sorted, Step},
};
use senmon_kernels::{AdamW, Gate, Heads, device::Kernel};
use tch::{Kind, Tensor, no_grad, with_grad};

/// Rows of a kernel's check: no multiple of anything.
const ROWS: i64 = 71;

/// What a check of one kernel found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The kernel.
    pub kernel: Kernel,
    /// Norm of the difference over the norm of what was expected, the worst of its outputs.
    pub error: f64,
    /// Largest that is accepted.
    pub error_max: f64,
}

impl Found {
    /// Whether the kernel computes rightly; a NaN does not.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.error <= self.error_max
    }
}

/// Norm of the difference over the norm of what was expected.
pub(super) fn apart(found: &Tensor, expected: &Tensor) -> f64 {
    no_grad(|| {
        let (found, expected) = (found.to_kind(Kind::Float), expected.to_kind(Kind::Float));
        ((found - &expected).norm() / expected.norm().clamp_min(1e-12)).double_value(&[])
    })
}

/// Every kernel on small random numbers, at the job's hidden size, against tensor operations in fp32.
#[must_use]
pub fn kernels(machine: &Machine, h: i64) -> Vec<Found> {
    let _guard = tch::no_grad_guard();
    machine.enter();
    let bench = Bench { machine, h };
    let error_max = if machine.form.bf16 { 1e-2 } else { 1e-4 };
    let mut found = Vec::new();
    let mut note = |kernel, errors: &[f64]| {
        // f64::max would drop a NaN.
        let error = errors.iter().fold(0.0, |most: f64, &error| if error <= most { most } else { error });
        found.push(Found { kernel, error, error_max });
    };
    note(Kernel::AddRmsNorm, &bench.add_rms_norm());
    note(Kernel::RmsNormBackward, &bench.rms_norm_backward());
    note(Kernel::ColumnParts, &bench.column_parts());
    note(Kernel::SumParts, &bench.sum_parts());
    note(Kernel::NormHeads, &bench.norm_heads());
    note(Kernel::NormHeadsBackward, &bench.norm_heads_backward());
    note(Kernel::Rotate, &bench.rotate());
    note(Kernel::RotateBack, &bench.rotate_back());
    note(Kernel::Swiglu, &bench.gated(Gate::Silu));
    note(Kernel::SwigluBackward, &bench.gated_backward(Gate::Silu));
    note(Kernel::Geglu, &bench.gated(Gate::GeluTanh));
    note(Kernel::GegluBackward, &bench.gated_backward(Gate::GeluTanh));
    note(Kernel::Embed, &bench.embed());
    note(Kernel::EmbedBackward, &bench.embed_backward(1));
    note(Kernel::EmbedBackwardRuns, &bench.embed_backward(60));
    note(Kernel::CrossEntropy, &bench.cross_entropy());
    let squares = machine.form.bf16.then_some(machine.kind());
    note(Kernel::Squares, &squares.map_or(vec![], |kind| bench.squares(kind)));
    note(Kernel::SquaresWide, &bench.squares(Kind::Float));
    note(Kernel::Finish, &bench.finish());
    note(Kernel::Accumulate, &bench.accumulate());
    let adamw = machine.form.bf16.then_some(machine.kind());
    note(Kernel::Adamw, &adamw.map_or(vec![], |kind| bench.adamw(kind)));
    note(Kernel::AdamwWide, &bench.adamw(Kind::Float));
    found
}

struct Bench<'a> {
    machine: &'a Machine,
    h: i64,
}

impl Bench<'_> {
    /// Random numbers in a format.
    fn random(&self, size: &[i64], kind: Kind) -> Tensor {
        Tensor::randn(size, (Kind::Float, self.machine.device)).to_kind(kind)
    }

    fn own(&self, size: &[i64]) -> Tensor {
        self.random(size, self.machine.kind())
    }

    fn fp32(&self, size: &[i64]) -> Tensor {
        self.random(size, Kind::Float)
    }

    /// Memory in which what is not written shows.
    fn unwritten(&self, size: &[i64], kind: Kind) -> Tensor {
        Tensor::full(size, f64::NAN, (kind, self.machine.device))
    }

    fn heads(&self) -> Heads {
        Heads { b: 2, t: 19, n: 4, g: 2, d: 2 * self.machine.form.pack * 3 }
    }

    fn angles(&self, s: Heads) -> (Tensor, Tensor) {
        let angle = self.fp32(&[s.t, s.d / 2]);
        (angle.cos(), angle.sin())
    }

    fn add_rms_norm(&self) -> Vec<f64> {
        let (size, kind) = ([ROWS, self.h], self.machine.kind());
        let (x, y, w) = (self.own(&size), self.own(&size), self.fp32(&[self.h]));
        let mut errors = Vec::new();
        for added in [true, false] {
            let (sum, normed) = (self.unwritten(&size, kind), self.unwritten(&size, kind));
            let rstd = self.unwritten(&[ROWS], Kind::Float);
            self.machine.add_rms_norm(&x, added.then_some((&y, &sum)), &w, 1e-5, &normed, &rstd);
            let expected = if added { (wide(&x) + wide(&y)).to_kind(kind) } else { x.shallow_clone() };
            let scale = (wide(&expected).square().mean_dim(-1, true, Kind::Float) + 1e-5).rsqrt();
            errors.push(apart(&normed, &(wide(&expected) * &scale * &w)));
            errors.push(apart(&rstd, &scale.squeeze()));
            if added {
                errors.push(apart(&sum, &expected));
            }
        }
        errors
    }

    fn rms_norm_backward(&self) -> Vec<f64> {
        let (size, kind) = ([ROWS, self.h], self.machine.kind());
        let (dn, x, dx, w) = (self.own(&size), self.own(&size), self.own(&size), self.fp32(&[self.h]));
        let rstd = (wide(&x).square().mean_dim(-1, true, Kind::Float) + 1e-5).rsqrt();
        let hat = wide(&x) * &rstd;
        let g = wide(&dn) * &w;
        let through = &rstd * (&g - &hat * (&g * &hat).mean_dim(-1, true, Kind::Float));
        let (normed, found) = (self.unwritten(&size, kind), dx.copy());
        let n = self.machine.norm_parts(ROWS, self.h);
        let parts = self.unwritten(&[n, self.h], Kind::Float);
        let rstd = rstd.squeeze();
        let norm = NormBack { x: &x, rstd: &rstd, w: &w, normed: Some(&normed), parts: &parts };
        self.machine.rms_norm_backward(&dn, &norm, Some(&found), &found);
        let alone = self.unwritten(&size, kind);
        let norm = NormBack { normed: None, parts: &self.unwritten(&[n, self.h], Kind::Float), ..norm };
        self.machine.rms_norm_backward(&dn, &norm, None, &alone);
        vec![
            apart(&found, &(wide(&dx) + &through)),
            apart(&alone, &through),
            apart(&normed, &(&hat * &w)),
            apart(&sum(&parts), &sum(&(wide(&dn) * &hat))),
        ]
    }

    fn column_parts(&self) -> Vec<f64> {
        let (x, parts) = (self.own(&[ROWS, self.h]), self.unwritten(&[5, self.h], Kind::Float));
        self.machine.column_parts(&x, &parts);
        vec![apart(&sum(&parts), &sum(&wide(&x)))]
    }

    fn sum_parts(&self) -> Vec<f64> {
        let (h, parts, before) = (self.h, self.fp32(&[3, 37, self.h]), self.fp32(&[2 * self.h + 5 + self.h]));
        let sums = parts.sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
        let place = |slot: i64| slot / 2 * (2 * h + 5) + slot % 2 * h;
        [true, false]
            .into_iter()
            .map(|add| {
                let (found, expected) = (before.copy(), before.copy());
                self.machine.sum_parts(&parts, &found, (2, 2 * h + 5), add);
                for slot in 0..3 {
                    let mut to = expected.narrow(0, place(slot), h);
                    let more = sums.get(slot);
                    to.copy_(&if add { &to + more } else { more });
                }
                apart(&found, &expected)
            })
            .collect()
    }

    /// Weights of norms of heads, and of all heads of a token: queries' and keys'.
    fn head_norms(&self, s: Heads) -> [(Tensor, Tensor); 2] {
        let both = |q: i64, k: i64| (self.fp32(&[q]), self.fp32(&[k]));
        [both(s.d, s.d), both(s.n * s.d, s.g * s.d)]
    }

    fn hats(&self, s: Heads, (q, k): (&Tensor, &Tensor)) -> Hats {
        let parts = |heads: i64, w: &Tensor| heads * s.d / w.size()[0];
        let rows = s.b * s.t;
        Hats {
            hats: self.unwritten(&[rows, (s.n + s.g) * s.d], self.machine.kind()),
            rstd: self.unwritten(&[rows * (parts(s.n, q) + parts(s.g, k))], Kind::Float),
        }
    }

    fn norm_heads(&self) -> Vec<f64> {
        let s = self.heads();
        let qkv = self.own(&[s.b * s.t, (s.n + 2 * s.g) * s.d]);
        let of = |(q, k): &(Tensor, Tensor)| {
            let (found, kept) = (qkv.copy(), self.hats(s, (q, k)));
            self.machine.norm_heads(&found, (q, k), 1e-5, &kept, s);
            let expected = normed(&wide(&qkv), q, k, s);
            let one = |w: &Tensor| w.ones_like();
            let hats = normed(&wide(&qkv), &one(q), &one(k), s).narrow(1, 0, (s.n + s.g) * s.d);
            [apart(&found, &expected), apart(&kept.hats, &hats)]
        };
        self.head_norms(s).iter().flat_map(of).collect()
    }

    fn norm_heads_backward(&self) -> Vec<f64> {
        let s = self.heads();
        let size = [s.b * s.t, (s.n + 2 * s.g) * s.d];
        let (qkv, dout) = (self.own(&size), self.own(&size));
        let of = |(q, k): &(Tensor, Tensor)| {
            let leaves = [wide(&qkv), q.copy(), k.copy()].map(|leaf| leaf.set_requires_grad(true));
            let total = with_grad(|| (normed(&leaves[0], &leaves[1], &leaves[2], s) * wide(&dout)).sum(Kind::Float));
            let expected = Tensor::run_backward(&[total], &leaves, false, false);
            let kept = self.hats(s, (q, k));
            self.machine.norm_heads(&qkv.copy(), (q, k), 1e-5, &kept, s);
            let widths = [q.size()[0], k.size()[0]];
            let counts = self.machine.head_norm_parts(s, widths);
            let [of_q, of_k] = [0, 1].map(|i: usize| self.unwritten(&[counts[i], widths[i]], Kind::Float));
            let found = dout.copy();
            self.machine.norm_heads_backward(&found, (q, k), &kept, [&of_q, &of_k], s);
            [apart(&found, &expected[0]), apart(&sum(&of_q), &expected[1]), apart(&sum(&of_k), &expected[2])]
        };
        self.head_norms(s).iter().flat_map(of).collect()
    }

    fn rotate(&self) -> Vec<f64> {
        let s = self.heads();
        let width = (s.n + 2 * s.g) * s.d;
        let (qkv, bias, (cos, sin)) = (self.own(&[s.b * s.t, width]), self.fp32(&[width]), self.angles(s));
        [Some(&bias), None]
            .into_iter()
            .map(|bias| {
                let found = qkv.copy();
                self.machine.rotate(&found, bias, (&cos, &sin), s);
                let before = bias.map_or_else(|| wide(&qkv), |bias| wide(&qkv) + bias);
                apart(&found, &turned(&before, s, &cos, &sin, 1.0))
            })
            .collect()
    }

    fn rotate_back(&self) -> Vec<f64> {
        let (s, kind) = (self.heads(), self.machine.kind());
        let (cos, sin) = self.angles(s);
        // One that lies by tokens, two that lie by heads.
        let dq = self.own(&[s.b, s.t, s.n, s.d]);
        let by_heads = || self.own(&[s.b, s.g, s.t, s.d]).transpose(1, 2);
        let (dk, dv) = (by_heads(), by_heads());
        let size = [s.b * s.t, (s.n + 2 * s.g) * s.d];
        let found = self.unwritten(&size, kind);
        self.machine.rotate_back((&dq, &dk, &dv), (&cos, &sin), &found, s);
        let before = wide(&Tensor::cat(&[&dq, &dk, &dv], 2)).reshape(size);
        vec![apart(&found, &turned(&before, s, &cos, &sin, -1.0))]
    }

    fn gated(&self, gate: Gate) -> Vec<f64> {
        let (gate_up, out) = (self.own(&[ROWS, 2 * self.h]), self.unwritten(&[ROWS, self.h], self.machine.kind()));
        self.machine.gated(gate, &gate_up, &out);
        let halves = wide(&gate_up).chunk(2, -1);
        vec![apart(&out, &(activated(gate, &halves[0]) * &halves[1]))]
    }

    fn gated_backward(&self, gate: Gate) -> Vec<f64> {
        let (gate_up, dout) = (self.own(&[ROWS, 2 * self.h]), self.own(&[ROWS, self.h]));
        let (found, out) = (gate_up.copy(), dout.copy());
        self.machine.gated_backward(gate, &found, &out);
        let leaf = wide(&gate_up).set_requires_grad(true);
        let expected = with_grad(|| {
            let halves = leaf.chunk(2, -1);
            activated(gate, &halves[0]) * &halves[1]
        });
        let sum = with_grad(|| (&expected * wide(&dout)).sum(Kind::Float));
        let gradient = Tensor::run_backward(&[sum], &[&leaf], false, false);
        vec![apart(&found, &gradient[0]), apart(&out, &expected)]
    }

    fn embed(&self) -> Vec<f64> {
        let (table, tokens) = (self.own(&[97, self.h]), self.tokens(1));
        let out = self.unwritten(&[ROWS, self.h], self.machine.kind());
        self.machine.embed(&table, &tokens, &out);
        vec![apart(&out, &table.index_select(0, &tokens.to_kind(Kind::Int64)))]
    }

    /// Tokens of which the first `alike` are the same, the last of the table.
    fn tokens(&self, alike: i64) -> Tensor {
        let tokens: Vec<i64> = (0..ROWS).map(|i| if i < alike { 96 } else { i * 5 % 89 }).collect();
        Tensor::from_slice(&tokens).to_kind(Kind::Int).to_device(self.machine.device)
    }

    fn embed_backward(&self, alike: i64) -> Vec<f64> {
        let (dx, tokens) = (self.own(&[ROWS, self.h]), self.tokens(alike));
        let parts = self.unwritten(&[ROWS, self.h], Kind::Float);
        let (sorted, order) = tokens.sort_stable(true, 0, false);
        let sorted = Sorted { tokens: sorted, order };
        [self.machine.kind(), Kind::Float]
            .into_iter()
            .map(|kind| {
                let before = self.random(&[97, self.h], kind);
                let found = before.copy();
                self.machine.embed_backward(&dx, &sorted, &found, &parts);
                apart(&found, &wide(&before).index_add(0, &tokens.to_kind(Kind::Int64), &wide(&dx)))
            })
            .collect()
    }

    fn cross_entropy(&self) -> Vec<f64> {
        let v = 67 * self.machine.form.pack;
        let logits = self.own(&[ROWS, v]) * 3.0;
        let targets: Vec<i64> = (0..ROWS).map(|i| if i == 5 { -1 } else { i * 37 % v }).collect();
        let targets = Tensor::from_slice(&targets).to_kind(Kind::Int).to_device(self.machine.device);
        let (found, losses) = (logits.copy(), self.unwritten(&[ROWS], Kind::Float));
        self.machine.cross_entropy(&found, &targets, &losses, 0.25);
        let logs = wide(&logits).log_softmax(-1, Kind::Float);
        let places = targets.to_kind(Kind::Int64);
        let counted = places.ge(0_i64).to_kind(Kind::Float);
        let picked = logs.gather(1, &places.clamp_min(0_i64).unsqueeze(1), false).squeeze() * -1.0 * &counted;
        let hit = Tensor::zeros_like(&logs).scatter_value(1, &places.clamp_min(0_i64).unsqueeze(1), 1.0);
        let expected = (logs.exp() - hit) * 0.25 * counted.unsqueeze(1);
        vec![apart(&losses, &picked), apart(&found, &expected)]
    }

    fn squares(&self, kind: Kind) -> Vec<f64> {
        let x = self.random(&[10_007], kind);
        let parts = self.unwritten(&[self.machine.squares_parts(10_007)], Kind::Double);
        self.machine.squares(&x, &parts);
        let expected = wide(&x).square().sum(Kind::Double);
        vec![apart(&parts.sum(Kind::Double), &expected)]
    }

    fn finish(&self) -> Vec<f64> {
        let (losses, parts) = (self.fp32(&[1_003]).abs(), self.random(&[517], Kind::Double).abs());
        let out = self.unwritten(&[2], Kind::Double);
        self.machine.finish(&losses, &parts, &out);
        let expected = Tensor::stack(&[losses.sum(Kind::Double), parts.sum(Kind::Double)], 0);
        vec![apart(&out, &expected)]
    }

    fn accumulate(&self) -> Vec<f64> {
        let (from, to) = (self.own(&[10_007]), self.fp32(&[10_007]));
        let found = to.copy();
        self.machine.accumulate(&from, &found);
        vec![apart(&found, &(to + wide(&from)))]
    }

    fn adamw(&self, kind: Kind) -> Vec<f64> {
        let n = [10_007];
        let a = AdamW {
            rate: 0.01,
            decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            correction1: 0.19,
            correction2: 0.3,
            grad_scale: 0.5,
        };
        let [rate, decay, beta1, beta2, epsilon] = [a.rate, a.decay, a.beta1, a.beta2, a.epsilon].map(f64::from);
        let (grads, weights, first, second) =
            (self.random(&n, kind), self.fp32(&n), self.fp32(&n), self.fp32(&n).square());
        let [w, m, v] = [&weights, &first, &second].map(Tensor::copy);
        let copy = self.unwritten(&n, Kind::BFloat16);
        let step = Step { weights: &w, grads: &grads, first: &m, second: &v, copy: Some(&copy) };
        self.machine.adamw(&step, a);
        let g = wide(&grads) * f64::from(a.grad_scale);
        let m_expected = &first + (&g - &first) * (1.0 - beta1);
        let v_expected = second * beta2 + g.square() * (1.0 - beta2);
        let moved = &m_expected / (v_expected.sqrt() / f64::from(a.correction2) + epsilon);
        let w_expected = weights * (1.0 - rate * decay) - moved * (rate / f64::from(a.correction1));
        let written = apart(&copy, &w_expected) / 100.0;
        vec![apart(&w, &w_expected), apart(&m, &m_expected), apart(&v, &v_expected), written]
    }
}

fn wide(x: &Tensor) -> Tensor {
    x.to_kind(Kind::Float)
}

/// What a gate becomes.
fn activated(gate: Gate, x: &Tensor) -> Tensor {
    match gate {
        Gate::Silu => x.silu(),
        Gate::GeluTanh => x.gelu("tanh"),
    }
}

/// Rows of projections with normed queries and keys, in parts as long as the weights.
fn normed(rows: &Tensor, q: &Tensor, k: &Tensor, s: Heads) -> Tensor {
    let part = |from: i64, heads: i64, w: &Tensor| {
        let all = rows.narrow(1, from * s.d, heads * s.d).reshape([s.b * s.t, -1, w.size()[0]]);
        all.rms_norm(w.size().as_slice(), Some(w), 1e-5).reshape([s.b * s.t, heads * s.d])
    };
    let values = rows.narrow(1, (s.n + s.g) * s.d, s.g * s.d);
    Tensor::cat(&[part(0, s.n, q), part(s.n, s.g, k), values], 1)
}

/// Sums of the columns.
fn sum(x: &Tensor) -> Tensor {
    x.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float)
}

/// Rows of projections with queries and keys turned by the angles times `sign`.
fn turned(rows: &Tensor, s: Heads, cos: &Tensor, sin: &Tensor, sign: f64) -> Tensor {
    let all = rows.view([s.b, s.t, s.n + 2 * s.g, s.d]);
    let (turns, stays) = (all.narrow(2, 0, s.n + s.g), all.narrow(2, s.n + s.g, s.g));
    let halves = turns.chunk(2, -1);
    let (cos, sin) = (cos.view([1, s.t, 1, s.d / 2]), sin.view([1, s.t, 1, s.d / 2]) * sign);
    let (x, y) = (&halves[0], &halves[1]);
    let turned = Tensor::cat(&[x * &cos - y * &sin, y * &cos + x * &sin], -1);
    Tensor::cat(&[turned, stays], 2).reshape(rows.size())
}
