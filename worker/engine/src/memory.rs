//! Memory that runs out: libtorch says so with an exception, which reaches Rust as a panic with its text.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

/// What libtorch, its CUDA libraries and C++ say when there is no more.
const SAID: [&str; 4] = ["out of memory", "can't allocate memory", "ALLOC_FAILED", "std::bad_alloc"];

/// Runs `work`; Err is what was said when it ended for want of memory. Other panics go on.
///
/// # Errors
/// When memory runs out; what `work` owned is free again, what it borrowed may be half written.
pub fn within_memory<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = said(&*panic);
        if is_out_of_memory(text) { first_line(text) } else { resume_unwind(panic) }
    })
}

/// Whether a panic's text tells of memory.
#[must_use]
pub fn is_out_of_memory(text: &str) -> bool {
    SAID.iter().any(|said| text.contains(said))
}

/// The text of a panic.
#[must_use]
pub fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a message")
}

/// The sentence with the sizes, without the stack below it.
fn first_line(text: &str) -> String {
    let line = text.split("\\n").next().unwrap_or(text).lines().next().unwrap_or(text);
    let start = SAID.iter().filter_map(|said| line.find(said)).min().unwrap_or(0);
    line[start..].trim_end_matches(['"', ')']).to_owned()
}

/// Resident memory of this process, bytes.
#[must_use]
pub fn resident_bytes() -> f64 {
    let pages =
        std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    pages.map_or(f64::NAN, |pages| pages * 4096.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_want_of_memory_is_answered() {
        let cuda = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free\\nException raised from malloc\\nframe #0\")";
        let found = within_memory(|| std::panic::panic_any(cuda.to_owned())).unwrap_err();
        assert_eq!(found, "out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free");
        assert_eq!(within_memory(|| 5), Ok(5));
        let other = catch_unwind(|| within_memory(|| panic!("shapes differ"))).unwrap_err();
        assert_eq!(said(&*other), "shapes differ");
    }
}
