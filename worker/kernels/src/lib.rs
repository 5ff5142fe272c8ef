//! What a training step does between its matrix products, fused for CPUs: each kernel reads and writes memory once.
//!
//! The kernels are C++ (`cpp/`), compiled for several levels of the instruction set; the best one that this machine
//! has is taken at run time. They run on `OpenMP`'s threads, as libtorch does, and give the same bits for every number
//! of threads. Slices are checked here; nothing behind these functions reads or writes beyond them.
//!
//! Shapes: R rows (tokens of a batch), h hidden, b sequences, t tokens, n query heads, g key and value heads, d head
//! size, v vocabulary. Queries lie as `[b, g, t, n/g, d]`, keys and values as `[b, g, t, d]`.

#![expect(unsafe_code, reason = "calls into C++; every length is checked before")]

pub mod device;
mod table;

pub use table::{AdamW, Element, Heads, Scores};
use table::{RawParts, Table, table};

/// Level of the instruction set in use: `base`, `v3` (AVX2) or `v4` (AVX-512).
#[must_use]
pub fn level() -> &'static str {
    table().0
}

fn rows(len: usize, width: usize) -> i64 {
    assert!(width > 0 && len.is_multiple_of(width), "{len} elements are no rows of {width}");
    int(len / width)
}

#[expect(clippy::cast_possible_wrap, reason = "a length of memory fits")]
fn int(n: usize) -> i64 {
    n as i64
}

/// The residual stream and its norm (Zhang & Sennrich 2019, equation 4): `sum = x + y` where a `y` is given, then
/// `normed = sum · rstd · w`. Rows `[R, h]`, `w` `[h]`, `rstd` `[R]`.
pub fn add_rms_norm<T: Element>(
    x: &[T],
    residual: Option<(&[T], &mut [T])>,
    w: &[f32],
    epsilon: f32,
    normed: &mut [T],
    rstd: &mut [f32],
) {
    let r = rows(x.len(), w.len());
    assert!(normed.len() == x.len() && int(rstd.len()) == r);
    let (y, sum) = match residual {
        Some((y, sum)) => {
            assert!(y.len() == x.len() && sum.len() == x.len());
            (y.as_ptr(), sum.as_mut_ptr())
        }
        None => (std::ptr::null(), std::ptr::null_mut()),
    };
    let (normed, rstd) = (normed.as_mut_ptr(), rstd.as_mut_ptr());
    // SAFETY: lengths were checked above; the kernel touches nothing else.
    unsafe { (T::kernels().add_rms_norm)(x.as_ptr(), y, w.as_ptr(), epsilon, sum, normed, rstd, r, int(w.len())) }
}

/// The norm again from what the forward pass kept.
pub fn rms_norm_again<T: Element>(x: &[T], rstd: &[f32], w: &[f32], normed: &mut [T]) {
    let r = rows(x.len(), w.len());
    assert!(normed.len() == x.len() && int(rstd.len()) == r);
    // SAFETY: lengths were checked above.
    unsafe {
        (T::kernels().rms_norm_again)(x.as_ptr(), rstd.as_ptr(), w.as_ptr(), normed.as_mut_ptr(), r, int(w.len()));
    }
}

/// What the norm's forward pass kept.
#[derive(Debug, Clone, Copy)]
pub struct Normed<'a, T> {
    /// Its input, `[R, h]`.
    pub x: &'a [T],
    /// Reciprocal root mean squares, `[R]`.
    pub rstd: &'a [f32],
    /// Its weight, `[h]`.
    pub w: &'a [f32],
}

/// `dx` (+)= the gradient through the norm, `dw` (+)= its weight's; `add` says which of the two are added to.
pub fn rms_norm_backward<T: Element>(dn: &[T], norm: Normed<T>, dx: &mut [T], dw: &mut [f32], add: (bool, bool)) {
    let (r, h) = (rows(norm.x.len(), norm.w.len()), int(norm.w.len()));
    assert!(dn.len() == norm.x.len() && dx.len() == dn.len() && dw.len() == norm.w.len() && int(norm.rstd.len()) == r);
    let (x, rstd, w) = (norm.x.as_ptr(), norm.rstd.as_ptr(), norm.w.as_ptr());
    let kernel = T::kernels().rms_norm_backward;
    // SAFETY: lengths were checked above.
    unsafe { kernel(dn.as_ptr(), x, rstd, w, dx.as_mut_ptr(), add.0, dw.as_mut_ptr(), add.1, r, h) }
}

/// What is normed in the rows of the projections, `[b·t, (n + 2g)·d]`: queries and keys, each head for itself where the
/// weights are as long as one, all heads of a token together where they are as long as those.
struct Normable {
    queries: RawParts,
    keys: RawParts,
}

impl Normable {
    fn new(s: &Heads, (q, k): (usize, usize)) -> Self {
        let parts = |heads: i64, width: i64| {
            assert!(width > 0 && (heads * s.d) % width == 0, "{width} numbers are no part of {heads} heads of {}", s.d);
            heads * s.d / width
        };
        let (of_queries, of_keys) = (parts(s.n, int(q)), parts(s.g, int(k)));
        let raw = |heads, width| RawParts {
            rows: s.b * s.t,
            heads,
            width,
            stride: (s.n + 2 * s.g) * s.d,
            stride_hats: (s.n + s.g) * s.d,
            stride_rstd: of_queries + of_keys,
        };
        Self { queries: raw(of_queries, int(q)), keys: raw(of_keys, int(k)) }
    }

    fn check(&self, s: &Heads, qkv: usize, hats: usize, rstd: usize) {
        let rows = self.queries.rows;
        assert!(int(qkv) == s.projections() && int(hats) == rows * self.queries.stride_hats);
        assert!(int(rstd) == rows * self.queries.stride_rstd);
    }
}

/// Norms queries and keys in place, before they are turned; `hats` `[b·t, (n + g)·d]` keep them without the weight,
/// `rstd` a number for each that was normed.
pub fn norm_heads<T: Element>(
    qkv: &mut [T],
    hats: &mut [T],
    rstd: &mut [f32],
    (q, k): (&[f32], &[f32]),
    epsilon: f32,
    s: Heads,
) {
    let parts = Normable::new(&s, (q.len(), k.len()));
    parts.check(&s, qkv.len(), hats.len(), rstd.len());
    let first = usize::try_from(s.n * s.d).unwrap_or(0);
    let first_rstd = usize::try_from(parts.queries.heads).unwrap_or(0);
    let kernel = T::kernels().norm_parts;
    // SAFETY: lengths were checked above; keys begin behind the queries of the first row.
    unsafe {
        kernel(qkv.as_mut_ptr(), hats.as_mut_ptr(), rstd.as_mut_ptr(), q.as_ptr(), epsilon, parts.queries);
        let (qkv, hats) = (qkv.as_mut_ptr().add(first), hats.as_mut_ptr().add(first));
        kernel(qkv, hats, rstd.as_mut_ptr().add(first_rstd), k.as_ptr(), epsilon, parts.keys);
    }
}

/// In place: gradients of normed queries and keys become those of what was normed; `dq` and `dk` (+)= the weights'.
pub fn norm_heads_backward<T: Element>(
    dqkv: &mut [T],
    (hats, rstd): (&[T], &[f32]),
    (q, k): (&[f32], &[f32]),
    (dq, dk): (&mut [f32], &mut [f32]),
    add: bool,
    s: Heads,
) {
    let parts = Normable::new(&s, (q.len(), k.len()));
    parts.check(&s, dqkv.len(), hats.len(), rstd.len());
    assert!(dq.len() == q.len() && dk.len() == k.len());
    let first = usize::try_from(s.n * s.d).unwrap_or(0);
    let first_rstd = usize::try_from(parts.queries.heads).unwrap_or(0);
    let kernel = T::kernels().norm_parts_backward;
    // SAFETY: as above.
    unsafe {
        kernel(dqkv.as_mut_ptr(), hats.as_ptr(), rstd.as_ptr(), q.as_ptr(), dq.as_mut_ptr(), add, parts.queries);
        let (dqkv, hats) = (dqkv.as_mut_ptr().add(first), hats.as_ptr().add(first));
        kernel(dqkv, hats, rstd.as_ptr().add(first_rstd), k.as_ptr(), dk.as_mut_ptr(), add, parts.keys);
    }
}

/// `out` (+)= the sum of the rows of `x` `[R, width]`: the gradient of a bias.
pub fn column_sums<T: Element>(x: &[T], out: &mut [f32], add: bool) {
    let r = rows(x.len(), out.len());
    // SAFETY: lengths were checked above.
    unsafe { (T::kernels().column_sums)(x.as_ptr(), out.as_mut_ptr(), add, r, int(out.len())) }
}

/// Cosines and sines of the rotary angles, `[t, d/2]` each.
#[derive(Debug, Clone, Copy)]
pub struct Rotary<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
}

impl Rotary<'_> {
    fn check(&self, s: &Heads) {
        let need = s.t * s.d / 2;
        assert!(s.d % 2 == 0 && int(self.cos.len()) >= need && int(self.sin.len()) >= need, "too few rotary angles");
    }
}

/// Projections `[b·t, (n + 2g)·d]` to rotated queries and keys, and values (Su et al. 2021, section 3.4.2, in the layout of
/// `transformers`). A bias is added on the way.
pub fn split_heads<T: Element>(
    qkv: &[T],
    bias: Option<&[f32]>,
    rotary: Rotary,
    (q, k, v): (&mut [T], &mut [T], &mut [T]),
    s: Heads,
) {
    rotary.check(&s);
    assert!(int(qkv.len()) == s.projections() && int(q.len()) == s.queries());
    assert!(int(k.len()) == s.keys() && int(v.len()) == s.keys());
    let bias = bias.map_or(std::ptr::null(), |bias| {
        assert!(int(bias.len()) == (s.n + 2 * s.g) * s.d);
        bias.as_ptr()
    });
    let (cos, sin) = (rotary.cos.as_ptr(), rotary.sin.as_ptr());
    let (q, k, v) = (q.as_mut_ptr(), k.as_mut_ptr(), v.as_mut_ptr());
    // SAFETY: lengths were checked above.
    unsafe { (T::kernels().split_heads)(qkv.as_ptr(), bias, cos, sin, q, k, v, s) }
}

/// Gradients of queries, keys and values to the gradient of the projections.
pub fn join_heads_backward<T: Element>((dq, dk, dv): (&[T], &[T], &[T]), rotary: Rotary, dqkv: &mut [T], s: Heads) {
    rotary.check(&s);
    assert!(int(dqkv.len()) == s.projections() && int(dq.len()) == s.queries());
    assert!(int(dk.len()) == s.keys() && int(dv.len()) == s.keys());
    let (cos, sin) = (rotary.cos.as_ptr(), rotary.sin.as_ptr());
    let kernel = T::kernels().join_heads_backward;
    // SAFETY: lengths were checked above.
    unsafe { kernel(dq.as_ptr(), dk.as_ptr(), dv.as_ptr(), cos, sin, dqkv.as_mut_ptr(), s) }
}

/// Attended values `[b, g, t, n/g, d]` to rows of tokens `[b·t, n·d]`.
pub fn join_heads<T: Element>(heads: &[T], rows: &mut [T], s: Heads) {
    assert!(int(heads.len()) == s.queries() && heads.len() == rows.len());
    // SAFETY: lengths were checked above.
    unsafe { (T::kernels().join_heads)(heads.as_ptr(), rows.as_mut_ptr(), s) }
}

/// Gradient rows `[b·t, n·d]` to `[b, g, t, n/g, d]`, and each head's dot product of output and gradient, `[b, g, t, n/g]`
/// (Dao et al. 2022, algorithm 4, line 19).
pub fn split_heads_backward<T: Element>(dout: &[T], out: &[T], dheads: &mut [T], delta: &mut [f32], s: Heads) {
    assert!(int(dout.len()) == s.queries() && out.len() == dout.len() && dheads.len() == dout.len());
    assert!(int(delta.len()) == s.b * s.t * s.n);
    let kernel = T::kernels().split_heads_backward;
    // SAFETY: lengths were checked above.
    unsafe { kernel(dout.as_ptr(), out.as_ptr(), dheads.as_mut_ptr(), delta.as_mut_ptr(), s) }
}

/// How scores become what the softmax sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// They are multiplied by this,
    pub scale: f32,
    /// and kept within this by a hyperbolic tangent; 0 where they are not.
    pub cap: f32,
}

/// The causal softmax in place: `scores` `[pairs, tokens·n/g, columns]` become probabilities; `lse` `[b, g, t, n/g]`
/// keeps the logarithm of each row's sum.
pub fn softmax_forward<T: Element>(scores: &mut [T], lse: &mut [f32], by: Scaling, s: &Scores) {
    assert!(int(scores.len()) == s.size() && int(lse.len()) >= s.reach());
    // SAFETY: lengths were checked above, those of the documents by `Scores`.
    unsafe { (T::kernels().softmax_forward)(scores.as_mut_ptr(), lse.as_mut_ptr(), by.scale, by.cap, s.raw()) }
}

/// `scores` become the probabilities again; `dp`, the gradient of the probabilities, becomes that of the scores.
pub fn softmax_backward<T: Element>(
    scores: &mut [T],
    dp: &mut [T],
    lse: &[f32],
    delta: &[f32],
    by: Scaling,
    s: &Scores,
) {
    assert!(int(scores.len()) == s.size() && dp.len() == scores.len());
    assert!(int(lse.len()) >= s.reach() && lse.len() == delta.len());
    let (scores, dp) = (scores.as_mut_ptr(), dp.as_mut_ptr());
    let kernel = T::kernels().softmax_backward;
    // SAFETY: lengths were checked above, those of the documents by `Scores`.
    unsafe { kernel(scores, dp, lse.as_ptr(), delta.as_ptr(), by.scale, by.cap, s.raw()) }
}

/// What a gate becomes before it multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `x · sigmoid(x)`: `SwiGLU`.
    Silu,
    /// GELU by its approximation with a hyperbolic tangent: `GeGLU`.
    GeluTanh,
}

/// A gated unit (Shazeer 2020): gate and up side by side, `[R, 2·width]`, to `gate' · up`, `[R, width]`.
pub fn gated<T: Element>(gate: Gate, gate_up: &[T], out: &mut [T], width: usize) {
    let r = rows(out.len(), width);
    assert!(gate_up.len() == 2 * out.len());
    let kernel = match gate {
        Gate::Silu => T::kernels().swiglu,
        Gate::GeluTanh => T::kernels().geglu,
    };
    // SAFETY: lengths were checked above.
    unsafe { kernel(gate_up.as_ptr(), out.as_mut_ptr(), r, int(width)) }
}

/// In place: `gate_up` becomes its gradient, `dout` becomes the forward value.
pub fn gated_backward<T: Element>(gate: Gate, gate_up: &mut [T], dout: &mut [T], width: usize) {
    let r = rows(dout.len(), width);
    assert!(gate_up.len() == 2 * dout.len());
    let kernel = match gate {
        Gate::Silu => T::kernels().swiglu_backward,
        Gate::GeluTanh => T::kernels().geglu_backward,
    };
    // SAFETY: lengths were checked above.
    unsafe { kernel(gate_up.as_mut_ptr(), dout.as_mut_ptr(), r, int(width)) }
}

fn check_tokens(tokens: &[i64], entries: usize) {
    let inside = |&token: &i64| usize::try_from(token).is_ok_and(|token| token < entries);
    assert!(tokens.iter().all(inside), "a token lies beyond the table of {entries} entries");
}

/// Rows of the embedding `[v, h]` of `tokens` `[R]`.
pub fn embed<T: Element>(table: &[T], tokens: &[i64], out: &mut [T], h: usize) {
    assert!(out.len() == tokens.len() * h);
    check_tokens(tokens, table.len() / h);
    // SAFETY: lengths and tokens were checked above.
    unsafe { (T::kernels().embed)(table.as_ptr(), tokens.as_ptr(), out.as_mut_ptr(), int(tokens.len()), int(h)) }
}

/// Adds the gradient rows `dx` `[R, h]` to the rows of their tokens, in fp32 and in the order of the batch.
pub fn embed_backward<T: Element>(dx: &[T], tokens: &[i64], grad: Gradient<T>, h: usize) {
    assert!(dx.len() == tokens.len() * h);
    let (dx, count, width) = (dx.as_ptr(), int(tokens.len()), int(h));
    match grad {
        Gradient::Same(grad) => {
            check_tokens(tokens, grad.len() / h);
            // SAFETY: lengths and tokens were checked above.
            unsafe { (T::kernels().embed_backward_same)(dx, tokens.as_ptr(), grad.as_mut_ptr(), count, width) }
        }
        Gradient::Wide(grad) => {
            check_tokens(tokens, grad.len() / h);
            // SAFETY: lengths and tokens were checked above.
            unsafe { (T::kernels().embed_backward_wide)(dx, tokens.as_ptr(), grad.as_mut_ptr(), count, width) }
        }
    }
}

/// Where gradients are gathered: in the format of the computation, or in fp32 over several micro-batches.
#[derive(Debug)]
pub enum Gradient<'a, T> {
    /// As computed.
    Same(&'a mut [T]),
    /// In fp32.
    Wide(&'a mut [f32]),
}

/// `losses` `[R]` of `logits` `[R, v]`: nats, 0 where the target is negative. With a `scale`, the logits become their
/// gradient times it. With a `cap` above 0, what counts is `cap · tanh(logits / cap)`.
pub fn cross_entropy<T: Element>(logits: &mut [T], targets: &[i64], losses: &mut [f32], scale: Option<f32>, cap: f32) {
    assert!(losses.len() == targets.len() && !targets.is_empty() && logits.len().is_multiple_of(targets.len()));
    let width = logits.len() / targets.len();
    assert!(targets.iter().all(|&target| target < int(width)), "a target lies beyond the vocabulary");
    let (logits, losses) = (logits.as_mut_ptr(), losses.as_mut_ptr());
    let (by, backward) = (scale.unwrap_or(0.0), scale.is_some());
    let kernel = T::kernels().cross_entropy;
    // SAFETY: lengths and targets were checked above.
    unsafe { kernel(logits, targets.as_ptr(), losses, by, cap, backward, int(targets.len()), int(width)) }
}

/// Sum of the squares.
#[must_use]
pub fn sum_of_squares<T: Element>(x: &[T]) -> f64 {
    // SAFETY: reads the slice only.
    unsafe { (T::kernels().sum_of_squares)(x.as_ptr(), int(x.len())) }
}

/// `to += from`.
pub fn accumulate<T: Element>(from: &[T], to: &mut [f32]) {
    assert!(from.len() == to.len());
    // SAFETY: lengths were checked above.
    unsafe { (T::kernels().accumulate)(from.as_ptr(), to.as_mut_ptr(), int(from.len())) }
}

/// One step of `AdamW` in `PyTorch`'s order of operations, in one pass over memory; `copy` receives the weights in bf16.
pub fn adamw<G: Element>(
    weights: &mut [f32],
    grads: &[G],
    (first, second): (&mut [f32], &mut [f32]),
    copy: Option<&mut [half::bf16]>,
    settings: AdamW,
) {
    let count = weights.len();
    assert!(grads.len() == count && first.len() == count && second.len() == count);
    let copy = copy.map_or(std::ptr::null_mut(), |copy| {
        assert!(copy.len() == count);
        copy.as_mut_ptr()
    });
    let (first, second) = (first.as_mut_ptr(), second.as_mut_ptr());
    // SAFETY: lengths were checked above.
    unsafe { (G::kernels().adamw)(weights.as_mut_ptr(), grads.as_ptr(), first, second, copy, int(count), settings) }
}

/// fp32 to bf16, to the nearest, ties to even.
pub fn to_bf16(from: &[f32], to: &mut [half::bf16]) {
    assert!(from.len() == to.len());
    let kernels: &Table = table().1;
    // SAFETY: lengths were checked above.
    unsafe { (kernels.to_bf16)(from.as_ptr(), to.as_mut_ptr(), int(from.len())) }
}
