//! The border to C++: the table of kernels, its argument types, and the choice of a level.
//!
//! Order and types are those of `cpp/kernels.cpp`.

#![expect(unsafe_code, reason = "the border to C++")]

use half::bf16;
use std::sync::OnceLock;

/// Shape of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Heads {
    /// Sequences.
    pub b: i64,
    /// Tokens of one.
    pub t: i64,
    /// Query heads.
    pub n: i64,
    /// Key and value heads.
    pub g: i64,
    /// Size of a head.
    pub d: i64,
}

impl Heads {
    /// Elements of the projections, `[b·t, (n + 2g)·d]`.
    #[must_use]
    pub fn projections(&self) -> i64 {
        self.b * self.t * (self.n + 2 * self.g) * self.d
    }
    /// Elements of all queries.
    #[must_use]
    pub fn queries(&self) -> i64 {
        assert!(self.g > 0 && self.n % self.g == 0, "{self:?}: query heads are no multiple of key heads");
        self.b * self.t * self.n * self.d
    }
    /// Elements of all keys.
    #[must_use]
    pub fn keys(&self) -> i64 {
        self.b * self.t * self.g * self.d
    }
}

/// As C++ sees parts of rows that are normed each for itself: which, and from row to row how far, in numbers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawParts {
    pub(crate) rows: i64,
    pub(crate) heads: i64,
    pub(crate) width: i64,
    pub(crate) stride: i64,
    pub(crate) stride_hats: i64,
    pub(crate) stride_rstd: i64,
}

/// Which scores a softmax sees: the queries of some key heads and tokens against the keys 0..columns.
#[derive(Debug, Clone, Copy)]
pub struct Scores<'a> {
    /// Shape of the whole.
    pub heads: Heads,
    /// First of the `b·g` key heads.
    pub pair_first: i64,
    /// Number of them.
    pub pairs: i64,
    /// First token of the queries.
    pub token_first: i64,
    /// Number of them.
    pub tokens: i64,
    /// First token of each token's document, `[b, t]`; None where attention crosses documents.
    pub document_first: Option<&'a [i32]>,
}

/// As C++ sees it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawScores {
    pair_first: i64,
    pairs: i64,
    token_first: i64,
    tokens: i64,
    columns: i64,
    t: i64,
    g: i64,
    rep: i64,
    document_first: *const i32,
}

impl Scores<'_> {
    /// Keys that any of the queries may see.
    #[must_use]
    pub fn columns(&self) -> i64 {
        self.token_first + self.tokens
    }
    /// Elements of the scores.
    #[must_use]
    pub fn size(&self) -> i64 {
        self.pairs * self.tokens * (self.heads.n / self.heads.g) * self.columns()
    }
    /// Elements of `lse` that may be touched.
    pub(crate) fn reach(&self) -> i64 {
        (self.pair_first + self.pairs) * self.heads.t * (self.heads.n / self.heads.g)
    }
    pub(crate) fn raw(&self) -> RawScores {
        let Heads { b, t, n, g, .. } = self.heads;
        assert!(self.pair_first >= 0 && self.pair_first + self.pairs <= b * g && self.columns() <= t);
        let document_first = self.document_first.map_or(std::ptr::null(), |first| {
            assert!(i64::try_from(first.len()) == Ok(b * t));
            let causal =
                |(i, &first): (usize, &i32)| first >= 0 && i64::from(first) <= i64::try_from(i).unwrap_or(0) % t;
            assert!(first.iter().enumerate().all(causal), "a document begins after its token");
            first.as_ptr()
        });
        RawScores {
            pair_first: self.pair_first,
            pairs: self.pairs,
            token_first: self.token_first,
            tokens: self.tokens,
            columns: self.columns(),
            t,
            g,
            rep: n / g,
            document_first,
        }
    }
}

/// Settings of one step of `AdamW` (Loshchilov & Hutter 2019, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct AdamW {
    /// Learning rate.
    pub rate: f32,
    /// Decoupled weight decay.
    pub decay: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// `1 − beta1^step`.
    pub correction1: f32,
    /// `√(1 − beta2^step)`.
    pub correction2: f32,
    /// Gradients are multiplied by this first (clipping).
    pub grad_scale: f32,
}

type Norm<T> = unsafe extern "C" fn(*const T, *const T, *const f32, f32, *mut T, *mut T, *mut f32, i64, i64);
type NormBackward<T> =
    unsafe extern "C" fn(*const T, *const T, *const f32, *const f32, *mut T, bool, *mut f32, bool, i64, i64);
type Split<T> = unsafe extern "C" fn(*const T, *const f32, *const f32, *const f32, *mut T, *mut T, *mut T, Heads);
type JoinBackward<T> = unsafe extern "C" fn(*const T, *const T, *const T, *const f32, *const f32, *mut T, Heads);
type SoftmaxBackward<T> = unsafe extern "C" fn(*mut T, *mut T, *const f32, *const f32, f32, f32, RawScores);
type NormParts<T> = unsafe extern "C" fn(*mut T, *mut T, *mut f32, *const f32, f32, RawParts);
type NormPartsBackward<T> = unsafe extern "C" fn(*mut T, *const T, *const f32, *const f32, *mut f32, bool, RawParts);
type Step<G> = unsafe extern "C" fn(*mut f32, *const G, *mut f32, *mut f32, *mut bf16, i64, AdamW);

/// The kernels of one number format.
#[repr(C)]
pub struct Kernels<T> {
    pub(crate) add_rms_norm: Norm<T>,
    pub(crate) rms_norm_again: unsafe extern "C" fn(*const T, *const f32, *const f32, *mut T, i64, i64),
    pub(crate) rms_norm_backward: NormBackward<T>,
    pub(crate) norm_parts: NormParts<T>,
    pub(crate) norm_parts_backward: NormPartsBackward<T>,
    pub(crate) column_sums: unsafe extern "C" fn(*const T, *mut f32, bool, i64, i64),
    pub(crate) split_heads: Split<T>,
    pub(crate) join_heads_backward: JoinBackward<T>,
    pub(crate) join_heads: unsafe extern "C" fn(*const T, *mut T, Heads),
    pub(crate) split_heads_backward: unsafe extern "C" fn(*const T, *const T, *mut T, *mut f32, Heads),
    pub(crate) softmax_forward: unsafe extern "C" fn(*mut T, *mut f32, f32, f32, RawScores),
    pub(crate) softmax_backward: SoftmaxBackward<T>,
    pub(crate) swiglu: unsafe extern "C" fn(*const T, *mut T, i64, i64),
    pub(crate) swiglu_backward: unsafe extern "C" fn(*mut T, *mut T, i64, i64),
    pub(crate) geglu: unsafe extern "C" fn(*const T, *mut T, i64, i64),
    pub(crate) geglu_backward: unsafe extern "C" fn(*mut T, *mut T, i64, i64),
    pub(crate) embed: unsafe extern "C" fn(*const T, *const i64, *mut T, i64, i64),
    pub(crate) embed_backward_same: unsafe extern "C" fn(*const T, *const i64, *mut T, i64, i64),
    pub(crate) embed_backward_wide: unsafe extern "C" fn(*const T, *const i64, *mut f32, i64, i64),
    pub(crate) cross_entropy: unsafe extern "C" fn(*mut T, *const i64, *mut f32, f32, f32, bool, i64, i64),
    pub(crate) sum_of_squares: unsafe extern "C" fn(*const T, i64) -> f64,
    pub(crate) accumulate: unsafe extern "C" fn(*const T, *mut f32, i64),
    pub(crate) adamw: Step<T>,
}

#[repr(C)]
pub(crate) struct Table {
    fp32: Kernels<f32>,
    half: Kernels<bf16>,
    pub(crate) to_bf16: unsafe extern "C" fn(*const f32, *mut bf16, i64),
}

unsafe extern "C" {
    static senmon_kernels_base: Table;
    #[cfg(target_arch = "x86_64")]
    static senmon_kernels_v3: Table;
    #[cfg(target_arch = "x86_64")]
    static senmon_kernels_v4: Table;
}

/// The best level of this machine.
pub(crate) fn table() -> (&'static str, &'static Table) {
    static CHOSEN: OnceLock<(&'static str, &'static Table)> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let v3 = has!("avx2")
                && has!("fma")
                && has!("bmi1")
                && has!("bmi2")
                && has!("f16c")
                && has!("lzcnt")
                && has!("movbe");
            let v4 = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
            if v3 && v4 {
                // SAFETY: an immutable table of the library that build.rs links.
                return ("v4", unsafe { &senmon_kernels_v4 });
            }
            if v3 {
                // SAFETY: as above.
                return ("v3", unsafe { &senmon_kernels_v3 });
            }
        }
        // SAFETY: as above.
        ("base", unsafe { &senmon_kernels_base })
    })
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// A number format with kernels: `f32` or `bf16`.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// Its kernels on this machine.
    fn kernels() -> &'static Kernels<Self>;
}

impl Element for f32 {
    fn kernels() -> &'static Kernels<Self> {
        &table().1.fp32
    }
}

impl Element for bf16 {
    fn kernels() -> &'static Kernels<Self> {
        &table().1.half
    }
}
