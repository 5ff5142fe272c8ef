//! Sets the process up for long tensor loops: the allocator, the thread pool and the CUDA libraries read their settings
//! from the environment, the first two before `main`, so the worker starts itself once more with them.
//!
//! Never overrides a setting that somebody made.

use std::{collections::BTreeMap, ffi::OsString};

/// Malloc keeps the buffers of a step for the next one instead of giving them back to the system and faulting them
/// in again: 1.35 times the speed of bf16 training on a CPU. `hugetlb=1` asks for transparent huge pages.
/// One arena for all threads, because only that one can be given back whole when an attempt ends: four slots of the
/// demo then take 1.8 GiB at most instead of 4.5.
const TUNABLES: [(&str, &str); 5] = [
    ("glibc.malloc.mmap_threshold", "4294967296"),
    ("glibc.malloc.trim_threshold", "4294967296"),
    ("glibc.malloc.top_pad", "67108864"),
    ("glibc.malloc.hugetlb", "1"),
    ("glibc.malloc.arena_max", "1"),
];

/// OpenMP threads sleep while they wait, so that several slots side by side do not take each other's cores by
/// spinning, and are not all bound to the first core.
const OPENMP: [(&str, &str); 3] = [("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_PROC_BIND", "false"), ("GOMP_SPINCOUNT", "0")];

/// CUDA counts devices in the order of the bus, as the driver's tools do. Its products are the same from run to run
/// (cuBLAS, Results reproducibility).
const CUDA: [(&str, &str); 2] = [("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")];

/// libtorch reads this one only: whether fp32 products may go through TF32.
const TF32: &str = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE";

/// Says that this process was started again already, should the system change the settings on the way.
const DONE: &str = "SENMON_TUNED";

/// The variables to set, given the present ones; empty when all are set, or were once.
#[must_use]
pub fn missing(environment: &BTreeMap<OsString, OsString>, tf32: bool) -> Vec<(&'static str, String)> {
    let get = |name: &str| environment.get(&OsString::from(name)).map(|value| value.to_string_lossy().into_owned());
    if get(DONE).is_some() {
        return Vec::new();
    }
    let mut missing = vec![(DONE, "1".to_owned())];
    let present = get("GLIBC_TUNABLES").unwrap_or_default();
    let absent: Vec<_> = TUNABLES.iter().filter(|(key, _)| !present.contains(key)).collect();
    if !absent.is_empty() {
        let mut parts: Vec<_> = absent.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if !present.is_empty() {
            parts.insert(0, present);
        }
        missing.push(("GLIBC_TUNABLES", parts.join(":")));
    }
    let rounds = tf32.then_some((TF32, "1"));
    let others = OPENMP.iter().chain(&CUDA).chain(&rounds).filter(|(name, _)| get(name).is_none());
    missing.extend(others.map(|&(name, value)| (name, value.to_owned())));
    if missing.len() > 1 { missing } else { Vec::new() }
}

/// Starts this program again in the same process with the missing settings, once. Comes back when there is nothing
/// to set, or when the system refuses (the settings are for speed only).
#[cfg(target_os = "linux")]
pub fn restart_if_needed(tf32: bool) {
    let missing = missing(&std::env::vars_os().collect(), tf32);
    if missing.is_empty() {
        return;
    }
    let error = restart(missing);
    eprintln!("senmon-worker: goes on without its allocator settings: {error}");
}

/// Replaces this process by a new one of the same program, arguments and number. Comes back only with an error.
#[must_use]
pub fn restart(variables: Vec<(&'static str, String)>) -> std::io::Error {
    use std::os::unix::process::CommandExt as _;
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into_os_string());
    std::process::Command::new(&program).arg0(name).args(arguments).envs(variables).exec()
}

/// Elsewhere there is nothing to set.
#[cfg(not(target_os = "linux"))]
pub fn restart_if_needed(_tf32: bool) {}

/// Gives the memory of a finished attempt back to the system: with the settings above malloc keeps it for a next
/// step that will not come.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper")]
pub fn release_memory() {
    // SAFETY: takes malloc's own locks and touches free blocks only.
    unsafe { libc::malloc_trim(0) };
}

/// Elsewhere the allocator decides.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn release_memory() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        pairs.iter().map(|&(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn after_one_restart_nothing_is_missing() {
        let mut settings = environment(&[("PATH", "/bin")]);
        let first = missing(&settings, true);
        assert!(!first.is_empty());
        settings.extend(first.into_iter().map(|(name, value)| (name.into(), value.into())));
        assert_eq!(missing(&settings, true), []);
    }

    #[test]
    fn a_setting_that_somebody_made_stays() {
        let settings = environment(&[("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0"), ("OMP_WAIT_POLICY", "ACTIVE")]);
        let missing = missing(&settings, true);
        let tunables = &missing.iter().find(|(name, _)| *name == "GLIBC_TUNABLES").unwrap().1;
        assert!(tunables.starts_with("glibc.malloc.hugetlb=0:") && !tunables.contains("hugetlb=1"));
        assert!(missing.iter().all(|(name, _)| *name != "OMP_WAIT_POLICY"));
    }
}
