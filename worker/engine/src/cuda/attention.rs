//! Causal attention on rows of projections: flash or cuDNN, whichever is faster on the card for the shape, and SDPA
//! under autograd where neither serves (fp32, odd head sizes, this CPU).
//!
//! libtorch's forward functions come by name from its C interface, which tch does not wrap; their way back is tch's.

#![expect(unsafe_code, reason = "calls into libtorch's C interface")]

use super::{library::Library, machine::Machine};
use crate::windows;
use senmon_kernels::Heads;
use std::{
    ffi::c_void,
    ptr::{from_ref, null, null_mut},
};
use tch::{Kind, Tensor, no_grad, with_grad};

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Flash attention (Dao 2023), any document boundaries.
    Flash,
    /// cuDNN's; causal without documents only.
    Cudnn,
    /// Scaled dot products under autograd.
    Autograd,
}

/// Where the documents of a pass begin.
#[derive(Debug)]
pub struct Documents {
    /// First rows of all documents, and the number of rows, 32 bits.
    pub cumulative: Tensor,
    /// Tokens of the longest.
    pub longest: i64,
    /// First token of each token's document, `[b, t]`, 32 bits.
    pub first: Tensor,
}

/// What attention keeps for its way back.
pub struct Kept {
    inside: Inside,
    qkv: [Tensor; 3],
    /// Attended values, `[b·t, n·d]`.
    pub rows: Tensor,
}

enum Inside {
    Flash { out: Tensor, lse: Tensor, random: [Tensor; 2], documents: Option<(Tensor, i64)>, before: Option<i64> },
    Cudnn { out: Tensor, lse: Tensor, random: [Tensor; 2], cumulative: [Tensor; 2] },
    Autograd { out: Tensor },
}

type Handle = *mut c_void;
type Maybe = *const Handle;
type FlashForward = unsafe extern "C" fn(
    Handle,
    Handle,
    Handle,
    Maybe,
    Maybe,
    i64,
    i64,
    f64,
    i32,
    i32,
    *const f64,
    *const i64,
    *const i64,
    Maybe,
    Maybe,
    *mut Handle,
    *mut Handle,
    *mut Handle,
    *mut Handle,
    *mut Handle,
) -> i32;
type CudnnForward = unsafe extern "C" fn(
    Handle,
    Handle,
    Handle,
    Maybe,
    i32,
    f64,
    i32,
    i32,
    *const f64,
    *mut Handle,
    *mut Handle,
    *mut Handle,
    *mut Handle,
    *mut i64,
    *mut i64,
    *mut Handle,
    *mut Handle,
    *mut Handle,
) -> i32;

/// Attention of one shape.
pub struct Attention {
    s: Heads,
    scale: f64,
    way: Way,
    flash: Option<FlashForward>,
    cudnn: Option<CudnnForward>,
}

impl Attention {
    /// The fastest way of this shape on this machine, by measurement; and what was measured, in words.
    #[must_use]
    pub fn fastest(machine: &Machine, s: Heads, scale: f64) -> (Self, String) {
        let mut attention = Self { s, scale, way: Way::Autograd, flash: None, cudnn: None };
        let Some(card) = machine.card().filter(|_| machine.form.bf16 && s.d % 8 == 0 && s.d <= 256) else {
            return (attention, "attention: by scaled dot products".to_owned());
        };
        // SAFETY: the types are those of libtorch's c_shim_cuda.h, the same in 2.11 and 2.13.
        unsafe {
            attention.flash = Library::loaded().function("aoti_torch_cuda__flash_attention_forward").ok();
            attention.cudnn = Library::loaded().function("aoti_torch_cuda__scaled_dot_product_cudnn_attention").ok();
        }
        // cuDNN's backward pass gave NaN at lengths that are no multiple of 128 (pytorch#196678).
        let cudnn = s.t % 128 == 0 && s.d <= 128;
        let width = (s.n + 2 * s.g) * s.d;
        let random = |width: i64| Tensor::randn([s.b * s.t, width], (Kind::BFloat16, machine.device)) * 0.5;
        let (qkv, dout) = no_grad(|| (random(width), random(s.n * s.d)));
        let mut measured: Vec<(Way, f64, Tensor)> = Vec::new();
        for way in [Way::Flash, Way::Cudnn] {
            if way == Way::Cudnn && !cudnn {
                continue;
            }
            attention.way = way;
            let once = || -> Result<Tensor, String> {
                let kept = attention.forward(&qkv, None, None)?;
                let (dq, dk, dv) = attention.backward(&kept, &dout);
                let sum = |x: &Tensor| x.sum(Kind::Float);
                Ok(Tensor::stack(&[sum(&kept.rows), sum(&dq.abs()), sum(&dk.abs()), sum(&dv.abs())], 0))
            };
            let Ok(Ok(found)) = no_grad(|| once().map(|_| once())) else { continue };
            let mut seconds: Vec<f64> = (0..5)
                .map(|_| {
                    card.seconds(|| {
                        no_grad(|| {
                            let kept = attention.forward(&qkv, None, None);
                            drop(kept.map(|kept| attention.backward(&kept, &dout)));
                        });
                    })
                })
                .collect();
            seconds.sort_by(f64::total_cmp);
            measured.push((way, seconds[2], found));
        }
        let sound = |(_, _, found): &(Way, f64, Tensor)| {
            let first = &measured[0].2;
            let apart = (found - first).abs() / (first.abs() + 1.0);
            found.isfinite().all().int64_value(&[]) == 1 && apart.narrow(0, 1, 3).max().double_value(&[]) < 0.02
        };
        let best = measured.iter().filter(|found| sound(found)).min_by(|a, b| a.1.total_cmp(&b.1));
        attention.way = best.map_or(Way::Autograd, |best| best.0);
        let times: Vec<String> =
            measured.iter().map(|(way, seconds, _)| format!("{way:?} {:.3} ms", seconds * 1e3)).collect();
        let said = format!("attention: {:?} ({} a layer and pass)", attention.way, times.join(", "));
        (attention, said)
    }

    /// How it is computed.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// Takes flash from now on; false where it does not help.
    pub fn demote(&mut self) -> bool {
        let helps = self.way == Way::Cudnn;
        if helps {
            self.way = Way::Flash;
        }
        helps
    }

    /// Attention over rotated projections `[b·t, (n + 2g)·d]`, which must stay as they are until the way back; a
    /// `window` is the tokens that each sees, itself included.
    ///
    /// # Errors
    /// When libtorch refuses; it writes its reason to the standard error.
    pub fn forward(&self, qkv: &Tensor, documents: Option<&Documents>, window: Option<i64>) -> Result<Kept, String> {
        match (self.way, documents, window) {
            (Way::Autograd, ..) => Ok(self.by_autograd(qkv, documents, window)),
            (Way::Cudnn, None, None) => self.by_cudnn(qkv),
            (Way::Flash | Way::Cudnn, ..) => self.by_flash(qkv, documents, window),
        }
    }

    /// Gradients of queries, keys and values, `[b, t, heads, d]` each, a head's numbers side by side, from that of the
    /// attended rows.
    ///
    /// # Panics
    /// With libtorch's words, where it refuses.
    pub fn backward(&self, kept: &Kept, dout: &Tensor) -> (Tensor, Tensor, Tensor) {
        let (dq, dk, dv) = self.way_back(kept, dout);
        (packed(dq), packed(dk), packed(dv))
    }

    fn way_back(&self, kept: &Kept, dout: &Tensor) -> (Tensor, Tensor, Tensor) {
        let (s, scale) = (self.s, self.scale);
        let dout = dout.view([s.b, s.t, s.n, s.d]);
        let turn = |x: &Tensor| x.transpose(1, 2);
        let [q, k, v] = &kept.qkv;
        let none = Tensor::new();
        match &kept.inside {
            Inside::Flash { out, lse, random: [state, unused], documents, before } => {
                let (cumulative, longest) =
                    documents.as_ref().map_or((&none, s.t), |(cumulative, longest)| (cumulative, *longest));
                let (dq, dk, dv) = Tensor::internal_flash_attention_backward(
                    &dout.view_as(out),
                    q,
                    k,
                    v,
                    out,
                    lse,
                    cumulative,
                    cumulative,
                    longest,
                    longest,
                    0.0,
                    true,
                    state,
                    unused,
                    scale,
                    *before,
                    before.map(|_| 0),
                );
                let heads = |x: Tensor, count: i64| x.view([s.b, s.t, count, s.d]);
                (heads(dq, s.n), heads(dk, s.g), heads(dv, s.g))
            }
            Inside::Cudnn { out, lse, random: [seed, offset], cumulative: [of_q, of_k] } => {
                let (dq, dk, dv) = Tensor::internal_scaled_dot_product_cudnn_attention_backward(
                    &turn(&dout),
                    &turn(q),
                    &turn(k),
                    &turn(v),
                    out,
                    lse,
                    seed,
                    offset,
                    &none,
                    of_q,
                    of_k,
                    s.t,
                    s.t,
                    0.0,
                    true,
                    scale,
                );
                (turn(&dq), turn(&dk), turn(&dv))
            }
            Inside::Autograd { out } => with_grad(|| {
                let dout = (out * turn(&dout)).sum(out.kind());
                let mut found = Tensor::run_backward(&[dout], &kept.qkv, false, false).into_iter();
                let mut next = || found.next().expect("a gradient for each leaf");
                (next(), next(), next())
            }),
        }
    }

    /// Views of queries, keys and values, `[b, t, heads, d]`.
    fn views(&self, qkv: &Tensor) -> [Tensor; 3] {
        let Heads { b, t, n, g, d } = self.s;
        let all = qkv.view([b, t, n + 2 * g, d]);
        [all.narrow(2, 0, n), all.narrow(2, n, g), all.narrow(2, n + g, g)]
    }

    fn by_flash(&self, qkv: &Tensor, documents: Option<&Documents>, window: Option<i64>) -> Result<Kept, String> {
        let s = self.s;
        let function = self.flash.ok_or("this libtorch has no flash attention")?;
        let mut views = self.views(qkv);
        if documents.is_some() {
            // Documents lie behind each other whatever window they are in.
            views = views.map(|x| x.flatten(0, 1));
        }
        let [q, k, v] = &views;
        let cumulative = documents.map(|documents| handle(&documents.cumulative));
        let longest = documents.map_or(s.t, |documents| documents.longest);
        let cumulative = cumulative.as_ref().map_or(null(), from_ref);
        // Keys before and behind a query's own.
        let (before, behind) = (window.map(|window| window - 1), 0_i64);
        let keys = before.as_ref().map_or((null(), null()), |before| (from_ref(before), from_ref(&behind)));
        let mut made = [null_mut(); 5];
        // SAFETY: the declared types; handles of tensors that live through the call, null for what is not given.
        let failed = unsafe {
            let [m0, m1, m2, m3, m4] = &mut made;
            function(
                handle(q),
                handle(k),
                handle(v),
                cumulative,
                cumulative,
                longest,
                longest,
                0.0,
                1,
                0,
                from_ref(&self.scale),
                keys.0,
                keys.1,
                null(),
                null(),
                m0,
                m1,
                m2,
                m3,
                m4,
            )
        };
        if failed != 0 {
            return Err("flash attention was refused".to_owned());
        }
        let [out, lse, state, unused, _] = made.map(owned);
        let rows = out.view([s.b * s.t, s.n * s.d]);
        let documents = documents.map(|documents| (documents.cumulative.shallow_clone(), documents.longest));
        Ok(Kept { inside: Inside::Flash { out, lse, random: [state, unused], documents, before }, qkv: views, rows })
    }

    fn by_cudnn(&self, qkv: &Tensor) -> Result<Kept, String> {
        let s = self.s;
        let function = self.cudnn.ok_or("this libtorch has no cuDNN attention")?;
        let qkv = self.views(qkv);
        let [q, k, v] = [0, 1, 2].map(|i: usize| qkv[i].transpose(1, 2));
        let (mut made, mut most) = ([null_mut(); 7], [0; 2]);
        // SAFETY: as above.
        let failed = unsafe {
            let ([m0, m1, m2, m3, m4, m5, m6], [q_most, k_most]) = (&mut made, &mut most);
            function(
                handle(&q),
                handle(&k),
                handle(&v),
                null(),
                1,
                0.0,
                1,
                0,
                from_ref(&self.scale),
                m0,
                m1,
                m2,
                m3,
                q_most,
                k_most,
                m4,
                m5,
                m6,
            )
        };
        if failed != 0 {
            return Err("cuDNN attention was refused".to_owned());
        }
        let [out, lse, of_q, of_k, seed, offset, _] = made.map(owned);
        let rows = out.transpose(1, 2).reshape([s.b * s.t, s.n * s.d]);
        let inside = Inside::Cudnn { out, lse, random: [seed, offset], cumulative: [of_q, of_k] };
        Ok(Kept { inside, qkv, rows })
    }

    fn by_autograd(&self, qkv: &Tensor, documents: Option<&Documents>, window: Option<i64>) -> Kept {
        let Heads { b, t, n, g, d } = self.s;
        let leaves = self.views(qkv).map(|x| x.detach().copy().set_requires_grad(true));
        let is_hidden = documents.is_some() || window.is_some();
        let first = documents.map(|documents| &documents.first);
        let seen = is_hidden.then(|| windows::seen(window, (0..t, 0..t), first, qkv.device()));
        let out = with_grad(|| {
            let turned = |x: &Tensor| x.transpose(1, 2);
            let repeat = |x: Tensor| {
                if n == g { x } else { x.unsqueeze(2).expand([b, g, n / g, t, d], false).reshape([b, n, t, d]) }
            };
            let (q, k, v) = (turned(&leaves[0]), repeat(turned(&leaves[1])), repeat(turned(&leaves[2])));
            let causal = seen.is_none();
            Tensor::scaled_dot_product_attention(&q, &k, &v, seen.as_ref(), 0.0, causal, Some(self.scale), false)
        });
        let rows = out.detach().transpose(1, 2).reshape([b * t, n * d]);
        Kept { inside: Inside::Autograd { out }, qkv: leaves, rows }
    }
}

/// As it is where heads lie at the boundaries of packs, else copied.
fn packed(x: Tensor) -> Tensor {
    let strides = x.stride();
    let lies = strides[3] == 1 && strides[..3].iter().all(|stride| stride % 8 == 0);
    if lies { x } else { x.contiguous() }
}

fn handle(tensor: &Tensor) -> Handle {
    tensor.as_ptr().cast_mut().cast()
}

/// A tensor that libtorch made for us.
fn owned(handle: Handle) -> Tensor {
    // SAFETY: a handle of libtorch's C interface is a pointer to a tensor, and this one is ours to free.
    unsafe { Tensor::from_ptr(handle.cast()) }
}
