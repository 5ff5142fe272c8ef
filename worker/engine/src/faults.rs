//! A device that fails: libtorch and its CUDA libraries say so with an exception, which reaches Rust as a panic with its
//! text. The context is lost then, and with it everything that this process has on the device.

use super::memory::is_out_of_memory;

/// What CUDA, its libraries and our own launches say. Want of memory is not among it: that is answered.
const SAID: [&str; 8] = [
    "CUDA error",
    "CUDA driver error",
    "uncorrectable ECC",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "NCCL error",
];
/// Characters of it that are kept.
const CHARS_MAX: usize = 200;

/// The driver's words, where a panic's text tells of a device that failed.
#[must_use]
pub fn device_fault(text: &str) -> Option<String> {
    if is_out_of_memory(text) {
        return None;
    }
    let start = SAID.iter().filter_map(|said| text.find(said)).min()?;
    // One line: below it libtorch gives advice for debugging, and a stack.
    let line = text[start..].split("\\n").next()?.lines().next()?;
    Some(line.trim_end_matches(['"', ')']).chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect())
}

/// Whether two computations of the same differ by more than they may: not at all where they are `exact`, otherwise by what
/// sums in another order make.
#[must_use]
pub fn differ(first: f64, second: f64, exact: bool) -> bool {
    const ROUNDING: f64 = 1e-2;
    let same = first == second || (first.is_nan() && second.is_nan());
    let is_near = (first - second).abs() <= ROUNDING * first.abs().min(second.abs());
    !(same || (is_near && !exact))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_words_are_found_and_want_of_memory_is_no_fault() {
        let torch = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA error: uncorrectable ECC error encountered\\nCUDA kernel errors might be asynchronously reported\\nException raised from c10\")";
        assert_eq!(device_fault(torch).as_deref(), Some("CUDA error: uncorrectable ECC error encountered"));
        let own = "CUDA error 700 (an illegal memory access was encountered) in the pass";
        assert_eq!(device_fault(own).as_deref(), Some(own));
        assert_eq!(device_fault("CUDA out of memory. Tried to allocate 2.00 GiB"), None);
        assert_eq!(device_fault("CUDA error: out of memory"), None);
        assert_eq!(device_fault("shapes differ"), None);
        assert_eq!(device_fault(&"CUDA error ".repeat(100)).map(|text| text.chars().count()), Some(CHARS_MAX));
    }

    #[test]
    fn what_is_exact_may_not_differ_at_all() {
        assert!(!differ(2.5, 2.5, true) && !differ(f64::NAN, f64::NAN, true));
        assert!(differ(2.5, 2.500_000_1, true) && !differ(2.5, 2.500_000_1, false));
        assert!(differ(2.5, 2.6, false) && differ(2.5, f64::NAN, false) && differ(f64::INFINITY, 2.5, false));
    }
}
