//! The kernels for cards compile with NVIDIA's run-time compiler, and what it made is kept. No card is needed: the
//! compiler comes from `PyPI` (`scripts/setup-nvrtc`).
#![cfg(feature = "torch")]

use senmon_engine::cuda::compile::{Target, kernels};
use senmon_kernels::device::{Form, Kernel};
use std::path::{Path, PathBuf};

fn compile(capability: u32, bf16: bool, pack: i64, norm_packs: i64, cache: Option<&Path>) -> Vec<u8> {
    let target = Target { capability, form: Form { bf16, pack }, norm_packs };
    let code = kernels(target, cache).unwrap_or_else(|error| panic!("{target:?}: {error}"));
    assert!(code.starts_with(b"\x7fELF"), "machine code is an ELF file");
    for kernel in Kernel::ALL {
        let name = kernel.name().as_bytes();
        assert!(code.windows(name.len()).any(|at| at == name), "{target:?}: no {}", kernel.name());
    }
    code
}

#[test]
fn the_kernels_compile_for_ampere_and_blackwell() {
    compile(80, true, 8, 1, None);
    compile(100, true, 8, 1, None);
}

#[test]
fn the_kernels_compile_for_hopper_in_every_form() {
    for (bf16, pack, norm_packs) in [(true, 8, 2), (true, 1, 2), (false, 8, 1), (false, 1, 4)] {
        compile(90, bf16, pack, norm_packs, None);
    }
}

#[test]
fn what_was_compiled_comes_from_the_disk_and_what_was_cut_short_there_is_made_anew() {
    let cache = tempfile::tempdir().unwrap();
    let only_file = || {
        let files: Vec<PathBuf> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    };
    let code = compile(90, true, 1, 1, Some(cache.path()));
    assert_eq!(std::fs::read(only_file()).unwrap(), code);
    let written = std::fs::metadata(only_file()).unwrap().modified().unwrap();
    assert_eq!(compile(90, true, 1, 1, Some(cache.path())), code);
    assert_eq!(std::fs::metadata(only_file()).unwrap().modified().unwrap(), written, "read, not written again");
    std::fs::write(only_file(), &code[..code.len() / 2]).unwrap();
    assert_eq!(compile(90, true, 1, 1, Some(cache.path())), code);
    assert_eq!(std::fs::read(only_file()).unwrap(), code);
}
