//! Each kernel with tensors: shapes and formats are checked here, so nothing behind reads or writes beyond them.
//!
//! Shapes: R rows (tokens of a pass), h hidden, v vocabulary; heads as in [`Heads`].

#![expect(unsafe_code, reason = "kernels take pointers")]

use super::machine::{Machine, ceil};
use senmon_kernels::{
    AdamW, Gate, Heads,
    device::{Kernel, Strides},
};
use std::ffi::c_void;
use tch::{Kind, Tensor};

/// Starts a kernel with arguments that live for the call.
macro_rules! start {
    ($machine:expr, $kernel:ident, $grid:expr, $($argument:expr),* $(,)?) => {{
        let mut arguments = [$(std::ptr::from_ref(&$argument).cast_mut().cast::<c_void>(),)*];
        // SAFETY: the functions of this file pass what device/ declares and have checked every size.
        unsafe { $machine.launch(Kernel::$kernel, $grid, &mut arguments) }
    }};
}

/// What a norm's way back reads and writes beside the gradient that comes in.
#[derive(Debug)]
pub struct NormBack<'a> {
    /// Its input, `[R, h]`.
    pub x: &'a Tensor,
    /// Reciprocal root mean squares, `[R]`.
    pub rstd: &'a Tensor,
    /// Its weight, `[h]`, fp32.
    pub w: &'a Tensor,
    /// Receives the norm's output again, `[R, h]`.
    pub normed: Option<&'a Tensor>,
    /// Receives sums of the weight's gradient, `[n, h]`, n as [`Machine::norm_parts`] says.
    pub parts: &'a Tensor,
}

/// What the norms of queries and keys keep for their way back.
#[derive(Debug)]
pub struct Hats {
    /// Queries and keys without the weight, `[R, (n + g)·d]`.
    pub hats: Tensor,
    /// Reciprocal root mean squares, one for each part that was normed.
    pub rstd: Tensor,
}

/// Parts of queries and of keys that have a norm each: heads, or all heads of a token, as the weights are long.
struct HeadParts {
    heads: [i64; 2],
    widths: [i64; 2],
}

impl HeadParts {
    fn new(s: Heads, q: &Tensor, k: &Tensor) -> Self {
        let widths = [numbers(q), numbers(k)];
        let heads = [s.n * s.d, s.g * s.d];
        assert!(heads[0] % widths[0] == 0 && heads[1] % widths[1] == 0, "{widths:?} are no parts of {heads:?}");
        Self { heads: [heads[0] / widths[0], heads[1] / widths[1]], widths }
    }
}

/// Tokens of a pass in sorted order.
#[derive(Debug)]
pub struct Sorted {
    /// The tokens, `[R]`, 32 bits.
    pub tokens: Tensor,
    /// Where each was, `[R]`, 64 bits.
    pub order: Tensor,
}

/// Weights, moments and a copy in bf16 for one step.
#[derive(Debug)]
pub struct Step<'a> {
    /// fp32.
    pub weights: &'a Tensor,
    /// In the machine's format or fp32.
    pub grads: &'a Tensor,
    /// fp32.
    pub first: &'a Tensor,
    /// fp32.
    pub second: &'a Tensor,
    /// bf16.
    pub copy: Option<&'a Tensor>,
}

impl Machine {
    /// The address of a tensor of `count` numbers of `kind` or more, at the boundary that packs need.
    fn at(&self, tensor: &Tensor, kind: Kind, count: i64) -> *mut c_void {
        assert!(
            tensor.kind() == kind && tensor.device() == self.device && tensor.is_contiguous(),
            "{tensor:?}: expected {kind:?} on {:?}",
            self.device
        );
        assert!(i64::try_from(tensor.numel()).unwrap_or(0) >= count, "{tensor:?}: expected {count} numbers");
        let at = tensor.data_ptr();
        assert!(self.form.pack == 1 || at.addr().is_multiple_of(16), "a tensor begins between two packs");
        at
    }

    fn own(&self, tensor: &Tensor, count: i64) -> *mut c_void {
        self.at(tensor, self.kind(), count)
    }

    fn fp32(&self, tensor: &Tensor, count: i64) -> *mut c_void {
        self.at(tensor, Kind::Float, count)
    }

    fn width(&self, width: i64) -> i32 {
        assert!(width % self.form.pack == 0, "found a width of {width}, expected a multiple of {}", self.form.pack);
        i32::try_from(width).expect("a width below 2^31")
    }

    /// `sum = x + y` where a y is given, `normed = sum · rstd · w`.
    pub fn add_rms_norm(
        &self,
        x: &Tensor,
        residual: Option<(&Tensor, &Tensor)>,
        w: &Tensor,
        epsilon: f32,
        normed: &Tensor,
        rstd: &Tensor,
    ) {
        let (h, rows) = (numbers(w), numbers(rstd));
        let all = rows * h;
        let (y, sum) = residual.map_or((null(), null()), |(y, sum)| (self.own(y, all), self.own(sum, all)));
        let (x, w, normed) = (self.own(x, all), self.fp32(w, h), self.own(normed, all));
        let (rstd, width) = (self.fp32(rstd, rows), self.width(h));
        let grid = self.rows(rows, h / self.form.pack, false);
        start!(self, AddRmsNorm, grid, x, y, w, epsilon, sum, normed, rstd, rows, width);
    }

    /// Rows of the sums that a norm's way back leaves.
    #[must_use]
    pub fn norm_parts(&self, rows: i64, h: i64) -> i64 {
        self.rows(rows, h / self.form.pack, true).blocks[0]
    }

    /// `dx` = the gradient through a norm, added to `before` where that is given; the two may be the same.
    pub fn rms_norm_backward(&self, dn: &Tensor, norm: &NormBack, before: Option<&Tensor>, dx: &Tensor) {
        let (h, rows) = (numbers(norm.w), numbers(norm.rstd));
        let (all, grid) = (rows * h, self.rows(rows, h / self.form.pack, true));
        let (dn, x, dx) = (self.own(dn, all), self.own(norm.x, all), self.own(dx, all));
        let (rstd, w) = (self.fp32(norm.rstd, rows), self.fp32(norm.w, h));
        let before = before.map_or(null(), |before| self.own(before, all));
        let normed = norm.normed.map_or(null(), |normed| self.own(normed, all));
        let (parts, width) = (self.fp32(norm.parts, grid.blocks[0] * h), self.width(h));
        start!(self, RmsNormBackward, grid, dn, x, rstd, w, before, dx, normed, parts, rows, width);
    }

    /// `out` (+)= sums of `parts` `[slots, n, width]` over n; slot s goes to `s / of_block · stride + s % of_block ·
    /// width`.
    pub fn sum_parts(&self, parts: &Tensor, out: &Tensor, (of_block, stride): (i64, i64), add: bool) {
        let (slots, n, width) = parts.size3().expect("parts of three dimensions");
        let place = |slot: i64| slot / of_block * stride + slot % of_block * width;
        let reach = (0..slots).map(place).max().unwrap_or(0) + width;
        let (grid, width32) = (self.columns(width, 16, slots), i32::try_from(width).expect("a width"));
        // Single numbers, which lie anywhere.
        assert!(
            out.kind() == Kind::Float && out.is_contiguous() && numbers(out) >= reach && out.device() == self.device
        );
        let (parts, out) = (self.fp32(parts, slots * n * width), out.data_ptr());
        let [n, of_block] = [n, of_block].map(|count| i32::try_from(count).expect("few parts"));
        let add = i32::from(add);
        start!(self, SumParts, grid, parts, out, add, n, width32, of_block, stride);
    }

    /// `parts` `[strips, width]` = sums of strips of the rows of `x` `[R, width]`.
    pub fn column_parts(&self, x: &Tensor, parts: &Tensor) {
        let ((rows, width), (strips, _)) = (x.size2().expect("rows"), parts.size2().expect("strips"));
        let grid = self.strips(strips, width / self.form.pack);
        let (x, parts, width) = (self.own(x, rows * width), self.fp32(parts, strips * width), self.width(width));
        start!(self, ColumnParts, grid, x, parts, rows, width);
    }

    /// Norms queries and keys in the rows of the projections, in place.
    pub fn norm_heads(&self, qkv: &Tensor, (q, k): (&Tensor, &Tensor), epsilon: f32, kept: &Hats, s: Heads) {
        let (rows, parts) = (s.b * s.t, HeadParts::new(s, q, k));
        let [queries, keys] = parts.heads.map(|heads| i32::try_from(heads).expect("few heads"));
        let widest = parts.widths[0].max(parts.widths[1]) / self.form.pack;
        let grid = self.rows(rows * (parts.heads[0] + parts.heads[1]), widest, false);
        let (qkv, hats) = (self.own(qkv, s.projections()), self.own(&kept.hats, rows * (s.n + s.g) * s.d));
        let rstd = self.fp32(&kept.rstd, rows * (parts.heads[0] + parts.heads[1]));
        let [q, k] = [(q, parts.widths[0]), (k, parts.widths[1])].map(|(w, width)| self.fp32(w, width));
        let [q_width, k_width, v_width] = [parts.widths[0], parts.widths[1], s.g * s.d].map(|width| self.width(width));
        start!(self, NormHeads, grid, qkv, hats, q, k, epsilon, rstd, rows, queries, keys, q_width, k_width, v_width);
    }

    /// Rows of the sums that the way back through the norms of queries and of keys leaves.
    #[must_use]
    pub fn head_norm_parts(&self, s: Heads, widths: [i64; 2]) -> [i64; 2] {
        let blocks = |heads: i64, width: i64| {
            self.rows(s.b * s.t * (heads * s.d / width), width / self.form.pack, true).blocks[0]
        };
        [blocks(s.n, widths[0]), blocks(s.g, widths[1])]
    }

    /// In place: gradients of normed queries and keys become those of what was normed; `sums` `[n, width]` receive sums
    /// of the weights' gradients, n as [`Machine::head_norm_parts`] says.
    pub fn norm_heads_backward(
        &self,
        dqkv: &Tensor,
        (q, k): (&Tensor, &Tensor),
        kept: &Hats,
        sums: [&Tensor; 2],
        s: Heads,
    ) {
        let (rows, parts) = (s.b * s.t, HeadParts::new(s, q, k));
        let (stride, stride_hats, stride_rstd) =
            ((s.n + 2 * s.g) * s.d, (s.n + s.g) * s.d, parts.heads[0] + parts.heads[1]);
        let (d, hats) = (self.own(dqkv, s.projections()), self.own(&kept.hats, rows * stride_hats));
        let rstd = self.fp32(&kept.rstd, rows * stride_rstd);
        for (number, w) in [q, k].into_iter().enumerate() {
            let (count, width) = (parts.heads[number], parts.widths[number]);
            let grid = self.rows(rows * count, width / self.form.pack, true);
            let sums = self.fp32(sums[number], grid.blocks[0] * width);
            let (first, first_rstd) = if number == 0 { (0, 0) } else { (s.n * s.d, parts.heads[0]) };
            let (w, heads, width) = (self.fp32(w, width), i32::try_from(count).expect("few heads"), self.width(width));
            start!(
                self,
                NormHeadsBackward,
                grid,
                d,
                hats,
                rstd,
                w,
                sums,
                rows,
                heads,
                width,
                first,
                first_rstd,
                stride,
                stride_hats,
                stride_rstd
            );
        }
    }

    /// Bias and rotary positions on the rows of the projections, in place.
    pub fn rotate(&self, qkv: &Tensor, bias: Option<&Tensor>, (cos, sin): (&Tensor, &Tensor), s: Heads) {
        let (half, width) = (s.d / 2, (s.n + 2 * s.g) * s.d);
        let heads = s.n + s.g + if bias.is_some() { s.g } else { 0 };
        let grid = self.flat(s.b * s.t * heads * half / self.form.pack);
        let (qkv, bias) = (self.own(qkv, s.projections()), bias.map_or(null(), |bias| self.fp32(bias, width)));
        let (cos, sin) = (self.fp32(cos, s.t * half), self.fp32(sin, s.t * half));
        start!(self, Rotate, grid, qkv, bias, cos, sin, s);
    }

    /// Gradients of queries, keys and values, `[b, t, heads, d]` with any strides but the last, to that of the rows.
    pub fn rotate_back(
        &self,
        (dq, dk, dv): (&Tensor, &Tensor, &Tensor),
        (cos, sin): (&Tensor, &Tensor),
        dqkv: &Tensor,
        s: Heads,
    ) {
        let half = s.d / 2;
        let grid = self.flat(s.b * s.t * (s.n + 2 * s.g) * half / self.form.pack);
        let strides = |x: &Tensor, heads: i64| {
            assert!(x.size() == [s.b, s.t, heads, s.d] && x.kind() == self.kind() && x.device() == self.device);
            let strides = x.stride();
            let packed = strides[..3].iter().all(|stride| stride % self.form.pack == 0);
            assert!(strides[3] == 1 && packed, "{x:?}: heads lie between two packs");
            Strides { b: strides[0], t: strides[1], head: strides[2] }
        };
        let (of_q, of_k, of_v) = (strides(dq, s.n), strides(dk, s.g), strides(dv, s.g));
        let (dq, dk, dv) = (dq.data_ptr(), dk.data_ptr(), dv.data_ptr());
        let (cos, sin) = (self.fp32(cos, s.t * half), self.fp32(sin, s.t * half));
        let dqkv = self.own(dqkv, s.projections());
        start!(self, RotateBack, grid, dq, dk, dv, of_q, of_k, of_v, cos, sin, dqkv, s);
    }

    /// `out` = `gate' · up`, `[R, width]`.
    pub fn gated(&self, gate: Gate, gate_up: &Tensor, out: &Tensor) {
        let (rows, width) = out.size2().expect("rows");
        let grid = self.flat(rows * width / self.form.pack);
        let (gate_up, out) = (self.own(gate_up, 2 * rows * width), self.own(out, rows * width));
        let width = self.width(width);
        match gate {
            Gate::Silu => start!(self, Swiglu, grid, gate_up, out, rows, width),
            Gate::GeluTanh => start!(self, Geglu, grid, gate_up, out, rows, width),
        }
    }

    /// In place: `gate_up` becomes its gradient, `dout` the forward value.
    pub fn gated_backward(&self, gate: Gate, gate_up: &Tensor, dout: &Tensor) {
        let (rows, width) = dout.size2().expect("rows");
        let grid = self.flat(rows * width / self.form.pack);
        let (gate_up, dout) = (self.own(gate_up, 2 * rows * width), self.own(dout, rows * width));
        let width = self.width(width);
        match gate {
            Gate::Silu => start!(self, SwigluBackward, grid, gate_up, dout, rows, width),
            Gate::GeluTanh => start!(self, GegluBackward, grid, gate_up, dout, rows, width),
        }
    }

    /// Rows of the table `[v, h]`. Tokens must be inside, which `upload` checks.
    pub fn embed(&self, table: &Tensor, tokens: &Tensor, out: &Tensor) {
        let ((rows, h), (v, _)) = (out.size2().expect("rows"), table.size2().expect("a table"));
        let grid = self.flat(rows * h / self.form.pack);
        let (table, out) = (self.own(table, v * h), self.own(out, rows * h));
        let (tokens, h) = (indices(self, tokens, Kind::Int, rows), self.width(h));
        start!(self, Embed, grid, table, tokens, out, rows, h);
    }

    /// Adds the gradient rows `dx` `[R, h]` to those of their tokens in `grad` `[v, h]`; `parts` `[R, h]` is fp32
    /// memory to work in.
    pub fn embed_backward(&self, dx: &Tensor, sorted: &Sorted, grad: &Tensor, parts: &Tensor) {
        let ((rows, h), (v, _)) = (dx.size2().expect("rows"), grad.size2().expect("a table"));
        let wide = i32::from(grad.kind() == Kind::Float);
        let grid = self.row_each(rows, (h / self.form.pack).min(256));
        let (dx, grad) = (self.own(dx, rows * h), self.at(grad, grad.kind(), v * h));
        assert!(wide == 1 || self.form.bf16, "gradients in another format");
        let parts = self.fp32(parts, rows * h);
        let (tokens, order) = (indices(self, &sorted.tokens, Kind::Int, rows), &sorted.order);
        let (order, h) = (indices(self, order, Kind::Int64, rows), self.width(h));
        start!(self, EmbedBackward, grid, dx, tokens, order, grad, wide, parts, rows, h);
        start!(self, EmbedBackwardRuns, grid, tokens, grad, wide, parts, rows, h);
    }

    /// `losses` `[R]`, nats; `logits` `[R, v]` become their gradient times `scale`.
    pub fn cross_entropy(&self, logits: &Tensor, targets: &Tensor, losses: &Tensor, scale: f32) {
        let (rows, v) = logits.size2().expect("rows");
        let grid = self.row_each(rows, v / self.form.pack / 2);
        assert!(losses.kind() == Kind::Float && numbers(losses) >= rows && losses.device() == self.device);
        let (logits, losses) = (self.own(logits, rows * v), losses.data_ptr());
        let (targets, v) = (indices(self, targets, Kind::Int, rows), self.width(v));
        start!(self, CrossEntropy, grid, logits, targets, losses, scale, v);
    }

    /// Blocks that sum squares of `count` numbers.
    #[must_use]
    pub fn squares_parts(&self, count: i64) -> i64 {
        self.strided(ceil(count, self.form.pack)).blocks[0]
    }

    /// `parts` (double, as many as [`Machine::squares_parts`] says) = sums of squares of `x`.
    pub fn squares(&self, x: &Tensor, parts: &Tensor) {
        let count = numbers(x);
        let grid = self.strided(ceil(count, self.form.pack));
        let parts = indices(self, parts, Kind::Double, grid.blocks[0]);
        if x.kind() == Kind::Float {
            let x = self.fp32(x, count);
            start!(self, SquaresWide, grid, x, parts, count);
        } else {
            let x = self.own(x, count);
            start!(self, Squares, grid, x, parts, count);
        }
    }

    /// `out` (two doubles) = the sum of `losses`, the sum of `parts`.
    pub fn finish(&self, losses: &Tensor, parts: &Tensor, out: &Tensor) {
        let (count, n) = (numbers(losses), numbers(parts));
        let (losses, parts) = (self.fp32(losses, count), indices(self, parts, Kind::Double, n));
        let (out, grid) = (indices(self, out, Kind::Double, 2), self.single());
        start!(self, Finish, grid, losses, count, parts, n, out);
    }

    /// `to` (fp32) += `from`.
    pub fn accumulate(&self, from: &Tensor, to: &Tensor) {
        let count = numbers(from);
        let grid = self.strided(ceil(count, self.form.pack));
        let (from, to) = (self.own(from, count), self.fp32(to, count));
        start!(self, Accumulate, grid, from, to, count);
    }

    /// One step of `AdamW` in one pass over memory.
    pub fn adamw(&self, step: &Step, settings: AdamW) {
        let count = numbers(step.weights);
        let grid = self.strided(ceil(count, self.form.pack));
        let copy = step.copy.map_or(null(), |copy| self.at(copy, Kind::BFloat16, count));
        let weights = self.fp32(step.weights, count);
        let (first, second) = (self.fp32(step.first, count), self.fp32(step.second, count));
        if step.grads.kind() == Kind::Float {
            let grads = self.fp32(step.grads, count);
            start!(self, AdamwWide, grid, weights, grads, first, second, copy, count, settings);
        } else {
            let grads = self.own(step.grads, count);
            start!(self, Adamw, grid, weights, grads, first, second, copy, count, settings);
        }
    }
}

fn null() -> *mut c_void {
    std::ptr::null_mut()
}

fn numbers(tensor: &Tensor) -> i64 {
    i64::try_from(tensor.numel()).unwrap_or(0)
}

/// The address of single numbers, which packs do not touch.
fn indices(machine: &Machine, tensor: &Tensor, kind: Kind, count: i64) -> *mut c_void {
    assert!(tensor.kind() == kind && tensor.device() == machine.device && tensor.is_contiguous(), "{tensor:?}");
    assert!(numbers(tensor) >= count, "{tensor:?}: expected {count} numbers");
    tensor.data_ptr()
}
