//! How fast a card runs each kernel and each product of a model's step: what the doctor and the benchmark print.

use super::{
    attention::Attention,
    machine::Machine,
    ops::{NormBack, Sorted, Step},
};
use senmon_kernels::{AdamW, Gate, Heads, device::Kernel};
use senmon_protocol::model::ModelSpec;
use tch::{Kind, Tensor};

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// A kernel, or a product.
    pub name: String,
    /// Median of a few runs.
    pub seconds: f64,
    /// Bytes that must move, each input read and each output written once; 0 for products.
    pub bytes: f64,
    /// Floating-point operations of a product; 0 for kernels.
    pub flops: f64,
}

impl Line {
    /// The line for people.
    #[must_use]
    pub fn text(&self) -> String {
        let rate = if self.flops > 0.0 {
            format!("{:.0} TFLOP/s", self.flops / self.seconds / 1e12)
        } else {
            format!("{:.2} TB/s", self.bytes / self.seconds / 1e12)
        };
        format!("{:<20} {:>9.1} us {rate:>14}", self.name, self.seconds * 1e6)
    }
}

/// Times kernels, products and attention of a step over `b` windows of `t` tokens; nothing on a CPU.
#[must_use]
pub fn measure(machine: &Machine, spec: &ModelSpec, b: i64, t: i64) -> Vec<Line> {
    let Some(card) = machine.card() else { return Vec::new() };
    let _guard = tch::no_grad_guard();
    machine.enter();
    let mut lines = Vec::new();
    let mut time = |name: String, bytes: f64, flops: f64, work: &dyn Fn()| {
        work();
        let mut seconds: Vec<f64> = (0..7).map(|_| card.seconds(work)).collect();
        seconds.sort_by(f64::total_cmp);
        lines.push(Line { name, seconds: seconds[3], bytes, flops });
    };
    let s = Heads { b, t, n: spec.num_attention_heads.into(), g: spec.kv_heads().into(), d: spec.head_size().into() };
    let [h, i, v] = [spec.hidden_size, spec.intermediate_size, spec.vocab_size.unwrap_or(0)].map(i64::from);
    let (rows, width) = (b * t, (s.n + 2 * s.g) * s.d);
    let v_rows = rows.min((1 << 28) / v);
    let own = |size: &[i64]| (Tensor::randn(size, (Kind::Float, machine.device)) * 0.5).to_kind(machine.kind());
    let fp32 = |size: &[i64]| Tensor::randn(size, (Kind::Float, machine.device));
    #[expect(clippy::cast_precision_loss, reason = "sizes of memory")]
    let size = |numbers: i64| numbers as f64 * if machine.form.bf16 { 2.0 } else { 4.0 };
    let rows_h = || own(&[rows, h]);
    let (x, y, sum, normed, w, rstd) = (rows_h(), rows_h(), rows_h(), rows_h(), fp32(&[h]), fp32(&[rows]).abs());
    let name = |kernel: Kernel| kernel.name().to_owned();
    time(name(Kernel::AddRmsNorm), size(4 * rows * h), 0.0, &|| {
        machine.add_rms_norm(&x, Some((&y, &sum)), &w, 1e-5, &normed, &rstd);
    });
    let parts = fp32(&[3, machine.norm_parts(rows, h), h]);
    let of_one = parts.get(0);
    let norm = NormBack { x: &x, rstd: &rstd, w: &w, normed: Some(&normed), parts: &of_one };
    time(name(Kernel::RmsNormBackward), size(5 * rows * h), 0.0, &|| {
        machine.rms_norm_backward(&y, &norm, Some(&sum), &sum)
    });
    let out = fp32(&[4 * h]);
    time(name(Kernel::SumParts), size(0), 0.0, &|| machine.sum_parts(&parts, &out, (2, 2 * h), false));
    let (qkv, angle) = (own(&[rows, width]), fp32(&[t, s.d / 2]));
    time(name(Kernel::Rotate), size(2 * rows * (s.n + s.g) * s.d), 0.0, &|| {
        machine.rotate(&qkv, None, (&angle, &angle), s);
    });
    let by_tokens = |heads: i64| own(&[b, t, heads, s.d]);
    let (dq, dk, dv, dqkv) = (by_tokens(s.n), by_tokens(s.g), by_tokens(s.g), own(&[rows, width]));
    time(name(Kernel::RotateBack), size(2 * rows * width), 0.0, &|| {
        machine.rotate_back((&dq, &dk, &dv), (&angle, &angle), &dqkv, s);
    });
    let (gate_up, gated) = (own(&[rows, 2 * i]), own(&[rows, i]));
    time(name(Kernel::Swiglu), size(3 * rows * i), 0.0, &|| machine.gated(Gate::Silu, &gate_up, &gated));
    time(name(Kernel::SwigluBackward), size(6 * rows * i), 0.0, &|| {
        machine.gated_backward(Gate::Silu, &gate_up, &gated)
    });
    let logits = own(&[v_rows, v]);
    let tokens = Tensor::randint(v, [rows], (Kind::Int, machine.device));
    let losses = fp32(&[rows]);
    time(name(Kernel::CrossEntropy), size(2 * v_rows * v), 0.0, &|| {
        machine.cross_entropy(&logits, &tokens.narrow(0, 0, v_rows), &losses, 1e-4);
    });
    let table = own(&[v, h]);
    time(name(Kernel::Embed), size(2 * rows * h), 0.0, &|| machine.embed(&table, &tokens, &x));
    let (values, order) = tokens.sort_stable(true, 0, false);
    let (sorted, embed_parts) = (Sorted { tokens: values, order }, fp32(&[rows, h]));
    time(name(Kernel::EmbedBackward), size(3 * rows * h), 0.0, &|| {
        machine.embed_backward(&x, &sorted, &table, &embed_parts);
    });
    drop(embed_parts);
    let n = 1_i64 << 27;
    let (grads, weights, first, second) = (own(&[n]), fp32(&[n]), fp32(&[n]), fp32(&[n]).abs());
    let squares = Tensor::zeros([machine.squares_parts(n)], (Kind::Double, machine.device));
    time(name(Kernel::Squares), size(n), 0.0, &|| machine.squares(&grads, &squares));
    time(name(Kernel::Accumulate), size(n) + 8.0 * size(n) / size(1), 0.0, &|| machine.accumulate(&grads, &weights));
    let copy = machine.form.bf16.then(|| own(&[n]));
    let step = Step { weights: &weights, grads: &grads, first: &first, second: &second, copy: copy.as_ref() };
    let a = AdamW {
        rate: 1e-4,
        decay: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        correction1: 0.5,
        correction2: 0.5,
        grad_scale: 1.0,
    };
    time(name(Kernel::Adamw), 2.0 * size(n) + 24.0 * size(n) / size(1), 0.0, &|| machine.adamw(&step, a));
    drop((grads, weights, first, second, copy));
    let (attention, said) = Attention::fastest(machine, s, spec.variant().query_scale);
    let dout = own(&[rows, s.n * s.d]);
    #[expect(clippy::cast_precision_loss, reason = "a count of operations")]
    let scores = 2.0 * (b * s.n * t * t * s.d) as f64;
    if let Ok(kept) = attention.forward(&qkv, None, None) {
        time(format!("forward {said}"), 0.0, scores, &|| drop(attention.forward(&qkv, None, None)));
        time("attention backward".to_owned(), 0.0, 2.5 * scores, &|| drop(attention.backward(&kept, &dout)));
    }
    for (name, n, k, rows) in [
        ("qkv", width, h, rows),
        ("output", h, s.n * s.d, rows),
        ("gate_up", 2 * i, h, rows),
        ("down", h, i, rows),
        ("head", v, h, v_rows),
    ] {
        let (x, w, dy) = (own(&[rows, k]), own(&[n, k]), own(&[rows, n]));
        #[expect(clippy::cast_precision_loss, reason = "a count of operations")]
        let flops = 2.0 * (rows * n * k) as f64;
        time(format!("{name} forward"), 0.0, flops, &|| drop(x.mm_out(&dy, &w.tr())));
        time(format!("{name} dx"), 0.0, flops, &|| drop(dy.mm_out(&x, &w)));
        time(format!("{name} dw"), 0.0, flops, &|| drop(dy.tr().mm_out(&w, &x)));
    }
    lines
}
