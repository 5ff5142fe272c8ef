//! Causal attention of the fused step: blocks of queries against the keys before them, probabilities computed again on
//! the way back (Dao et al. 2022, section 3.1, with whole rows instead of running sums).

use super::buffer::{Buffer, Number};
use senmon_kernels::{self as kernels, Heads, Rotary, Scaling, Scores};
use tch::Tensor;

/// Queries of one block: a multiple of what matrix units like; smaller saves more of the masked half.
const BLOCK_TOKENS: i64 = 256;
/// Scores held at once, in numbers: as many key heads are taken together as fit.
const SCORES_AT_ONCE: i64 = 2 << 20;

/// What attention keeps for its way back.
pub struct Kept<T> {
    q: Buffer<T>,
    k: Buffer<T>,
    v: Buffer<T>,
    lse: Vec<f32>,
}

impl<T: Number> Kept<T> {
    /// Memory for one block.
    #[must_use]
    pub fn new(s: Heads) -> Self {
        let rows = usize::try_from(s.b * s.t * s.n).unwrap_or(0);
        Self { q: Buffer::new(s.queries()), k: Buffer::new(s.keys()), v: Buffer::new(s.keys()), lse: vec![0.0; rows] }
    }

    /// Takes queries, keys and values out of the projections.
    pub fn split(&mut self, qkv: &[T], bias: Option<&[f32]>, rotary: Rotary, s: Heads) {
        kernels::split_heads(qkv, bias, rotary, (self.q.values_mut(), self.k.values_mut(), self.v.values_mut()), s);
    }
}

/// Memory shared by all blocks.
pub struct Attention<T> {
    s: Heads,
    scaling: Scaling,
    scores: Buffer<T>,
    dscores: Buffer<T>,
    out: Buffer<T>,
    dout: Buffer<T>,
    delta: Vec<f32>,
    dq: Buffer<T>,
    dk: Buffer<T>,
    dv: Buffer<T>,
}

/// Gradients of queries, keys and values.
type Gradients<'a, T> = (&'a Buffer<T>, &'a Buffer<T>, &'a Buffer<T>);

impl<T: Number> Attention<T> {
    /// Memory for a shape.
    #[must_use]
    pub fn new(s: Heads, scaling: Scaling) -> Self {
        let pieces = pieces(s, None);
        let most = pieces.iter().map(Scores::size).max().unwrap_or(0);
        let rows = usize::try_from(s.b * s.t * s.n).unwrap_or(0);
        Self {
            s,
            scaling,
            scores: Buffer::new(most),
            dscores: Buffer::new(most),
            out: Buffer::new(s.queries()),
            dout: Buffer::new(s.queries()),
            delta: vec![0.0; rows],
            dq: Buffer::new(s.queries()),
            dk: Buffer::new(s.keys()),
            dv: Buffer::new(s.keys()),
        }
    }

    /// Attended values, `[b, g, t, n/g, d]`.
    pub fn forward(&mut self, kept: &mut Kept<T>, document_first: Option<&[i32]>) -> &Buffer<T> {
        for piece in pieces(self.s, document_first) {
            let scores = self.scores.view(&shape(&piece));
            let _ = queries(&kept.q, &piece).bmm_out(&scores, &keys(&kept.k, &piece).transpose(1, 2));
            let held = usize::try_from(piece.size()).unwrap_or(0);
            kernels::softmax_forward(&mut self.scores.values_mut()[..held], &mut kept.lse, self.scaling, &piece);
            product(&queries(&self.out, &piece), &scores, &keys(&kept.v, &piece), false);
        }
        &self.out
    }

    /// Gradients of queries, keys and values from the gradient rows of the output, `[b·t, n·d]`.
    pub fn backward(
        &mut self,
        kept: &mut Kept<T>,
        dattended: &[T],
        attended: &[T],
        document_first: Option<&[i32]>,
    ) -> Gradients<'_, T> {
        kernels::split_heads_backward(dattended, attended, self.dout.values_mut(), &mut self.delta, self.s);
        let mut begun = vec![false; usize::try_from(self.s.b * self.s.g).unwrap_or(0)];
        // The last block of queries sees all keys: it writes their gradients, the others add to them.
        for piece in pieces(self.s, document_first).iter().rev() {
            let (q, dq) = (queries(&kept.q, piece), queries(&self.dq, piece));
            let (k, v) = (keys(&kept.k, piece), keys(&kept.v, piece));
            let dout = queries(&self.dout, piece);
            let (scores, dscores) = (self.scores.view(&shape(piece)), self.dscores.view(&shape(piece)));
            let _ = q.bmm_out(&scores, &k.transpose(1, 2));
            let _ = dout.bmm_out(&dscores, &v.transpose(1, 2));
            let held = usize::try_from(piece.size()).unwrap_or(0);
            let (p, dp) = (&mut self.scores.values_mut()[..held], &mut self.dscores.values_mut()[..held]);
            kernels::softmax_backward(p, dp, &kept.lse, &self.delta, self.scaling, piece);
            let first = &mut begun[usize::try_from(piece.pair_first).unwrap_or(0)];
            product(&keys(&self.dv, piece), &scores.transpose(1, 2), &dout, *first);
            product(&keys(&self.dk, piece), &dscores.transpose(1, 2), &q, *first);
            product(&dq, &dscores, &k, false);
            *first = true;
        }
        (&self.dq, &self.dk, &self.dv)
    }
}

/// `out (+)= a b`, whatever the strides of `out`.
fn product(out: &Tensor, a: &Tensor, b: &Tensor, add: bool) {
    let mut out = out.shallow_clone();
    if add {
        let _ = out.baddbmm_(a, b);
    } else if out.is_contiguous() {
        let _ = a.bmm_out(&out, b);
    } else {
        out.copy_(&a.bmm(b));
    }
}

/// Blocks of queries, in order, each for as many key heads as fit.
fn pieces(s: Heads, document_first: Option<&[i32]>) -> Vec<Scores<'_>> {
    let rep = s.n / s.g;
    let pairs_at_once = (SCORES_AT_ONCE / (s.t.min(BLOCK_TOKENS) * rep * s.t)).clamp(1, s.b * s.g);
    let mut pieces = Vec::new();
    for token_first in (0..s.t).step_by(usize::try_from(BLOCK_TOKENS).unwrap_or(1)) {
        for pair_first in (0..s.b * s.g).step_by(usize::try_from(pairs_at_once).unwrap_or(1)) {
            pieces.push(Scores {
                heads: s,
                pair_first,
                pairs: pairs_at_once.min(s.b * s.g - pair_first),
                token_first,
                tokens: BLOCK_TOKENS.min(s.t - token_first),
                document_first,
            });
        }
    }
    pieces
}

/// `[pairs, tokens·n/g, columns]`.
fn shape(piece: &Scores) -> [i64; 3] {
    [piece.pairs, piece.tokens * (piece.heads.n / piece.heads.g), piece.columns()]
}

/// A piece's rows of `[b, g, t, n/g, d]`, as `[pairs, tokens·n/g, d]`.
fn queries<T: Number>(buffer: &Buffer<T>, piece: &Scores) -> Tensor {
    let Heads { b, t, n, g, d } = piece.heads;
    let rep = n / g;
    let all = buffer.view(&[b * g, t * rep, d]).narrow(0, piece.pair_first, piece.pairs);
    all.narrow(1, piece.token_first * rep, piece.tokens * rep)
}

/// A piece's keys or values of `[b, g, t, d]`, as `[pairs, columns, d]`.
fn keys<T: Number>(buffer: &Buffer<T>, piece: &Scores) -> Tensor {
    let Heads { b, t, g, d, .. } = piece.heads;
    buffer.view(&[b * g, t, d]).narrow(0, piece.pair_first, piece.pairs).narrow(1, 0, piece.columns())
}
