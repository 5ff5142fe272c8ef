//! The kernels for cards compile with NVIDIA's run-time compiler, and what it made is kept. No card is needed: the
//! compiler comes from PyPI (`scripts/setup-nvrtc`).
#![cfg(feature = "torch")]

use senmon_kernels::device::{Form, Kernel};
use senmon_worker::train::cuda::compile::{Target, kernels};
use std::path::{Path, PathBuf};

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn check(capability: u32, bf16: bool, pack: i64, norm_packs: i64) {
    let cache = tempfile::tempdir().unwrap();
    let target = Target { capability, form: Form { bf16, pack }, norm_packs };
    let code = kernels(target, Some(cache.path())).unwrap_or_else(|error| panic!("{target:?}: {error}"));
    assert!(code.starts_with(b"\x7fELF"), "machine code is an ELF file");
    for kernel in Kernel::ALL {
        let name = kernel.name().as_bytes();
        assert!(code.windows(name.len()).any(|at| at == name), "{target:?}: no {}", kernel.name());
    }
    // A second time it comes from the disk; what was cut short there is made anew.
    let file = only_file(cache.path());
    assert_eq!(std::fs::read(&file).unwrap(), code);
    assert_eq!(kernels(target, Some(cache.path())).unwrap(), code);
    std::fs::write(&file, &code[..code.len() / 2]).unwrap();
    assert_eq!(kernels(target, Some(cache.path())).unwrap(), code);
    assert_eq!(std::fs::read(only_file(cache.path())).unwrap(), code);
}

#[test]
fn the_kernels_compile_for_ampere() {
    check(80, true, 8, 1);
}

#[test]
fn the_kernels_compile_for_hopper_in_every_form() {
    for (bf16, pack, norm_packs) in [(true, 8, 2), (true, 1, 2), (false, 8, 1), (false, 1, 4)] {
        check(90, bf16, pack, norm_packs);
    }
}

#[test]
fn the_kernels_compile_for_blackwell() {
    check(100, true, 8, 1);
}
