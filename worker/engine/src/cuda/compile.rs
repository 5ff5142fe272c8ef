//! Kernels from text: NVRTC, opened at run time, compiles for one architecture; what it made is kept on disk.
//!
//! Machine code, not PTX: a driver refuses PTX that is newer than itself.

#![expect(unsafe_code, reason = "calls into NVRTC")]

use super::library::{Library, folder_of};
use senmon_corpus::hex;
use senmon_kernels::device::{Form, HEADERS, SOURCE};
use sha2::{Digest, Sha256};
use std::{
    ffi::{CString, c_char, c_int, c_void},
    path::{Path, PathBuf},
    ptr::null_mut,
};

type Program = *mut c_void;
type Texts = *const *const c_char;

/// NVRTC's functions.
struct Nvrtc {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    create: unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Texts, Texts) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, Texts) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    code_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    code: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

/// What a compilation depends on beside the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Compute capability, 90 for 9.0.
    pub capability: u32,
    /// Number format and width.
    pub form: Form,
    /// Packs that one thread takes of a row of a norm.
    pub norm_packs: i64,
}

impl Target {
    fn options(&self) -> Vec<String> {
        vec![
            format!("--gpu-architecture=sm_{}", self.capability),
            "--std=c++17".to_owned(),
            format!("-DNUMBER_BF16={}", i32::from(self.form.bf16)),
            format!("-DPACK={}", self.form.pack),
            format!("-DNORM_PACKS={}", self.norm_packs),
        ]
    }

    /// Name of the code in a cache: its text, its options and the compiler.
    fn key(&self, version: (i32, i32)) -> String {
        let mut hash = Sha256::new();
        for text in HEADERS.iter().map(|(_, text)| *text).chain([SOURCE]) {
            hash.update(text.as_bytes());
        }
        hash.update(format!("{:?} {version:?}", self.options()).as_bytes());
        hex(&hash.finalize())
    }
}

/// Machine code of all kernels for `target`, out of `cache` where it lies there.
///
/// # Errors
/// When NVRTC is missing, or refuses; its own words.
pub fn kernels(target: Target, cache: Option<&Path>) -> Result<Vec<u8>, String> {
    let nvrtc = Nvrtc::open()?;
    let file = cache.map(|folder| folder.join(format!("{}.cubin", target.key(nvrtc.version()))));
    if let Some(code) = file.as_ref().and_then(|file| std::fs::read(file).ok()).filter(|code| is_whole(code)) {
        return Ok(code);
    }
    let code = nvrtc.compile(&target.options())?;
    if let Some(file) = file {
        keep(&file, &code).unwrap_or_else(|error| tracing::debug!(%error, "compiled kernels are not kept"));
    }
    Ok(code)
}

/// Where compiled kernels are kept: `SENMON_KERNEL_CACHE`, or the user's cache folder.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    of("SENMON_KERNEL_CACHE").or_else(|| Some(user()?.join("senmon/kernels")))
}

/// Code as [`keep`] wrote it: an ELF file with its digest behind it.
fn is_whole(code: &[u8]) -> bool {
    let Some((body, digest)) = code.split_last_chunk::<32>() else { return false };
    body.starts_with(b"\x7fELF") && digest[..] == Sha256::digest(body)[..]
}

/// Several workers may write the same file: each under a name of its own, then moved into place.
fn keep(file: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let part = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, code)?;
    std::fs::rename(&part, file)
}

impl Nvrtc {
    /// The one that came with libtorch, else the machine's. `SENMON_NVRTC` names a file instead.
    fn open() -> Result<Self, String> {
        const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
        let mut names: Vec<PathBuf> = std::env::var_os("SENMON_NVRTC").map(PathBuf::from).into_iter().collect();
        // site-packages/torch/lib beside site-packages/nvidia/cu13/lib.
        if let Some(packages) = folder_of("libtorch_cpu.so").and_then(|lib| Some(lib.parent()?.parent()?.to_path_buf()))
        {
            names.extend(["cu13", "cuda_nvrtc"].iter().flat_map(|part| {
                let lib = packages.join("nvidia").join(part).join("lib");
                NAMES.map(|name| lib.join(name))
            }));
        }
        names.extend(NAMES.map(PathBuf::from));
        let names: Vec<PathBuf> = names.into_iter().filter(|name| !name.is_absolute() || name.exists()).collect();
        if let Some(folder) = names.first().and_then(|name| name.parent()) {
            open_builtins(folder);
        }
        let library = Library::open(&names)
            .map_err(|said| format!("NVRTC does not load ({said}); SENMON_CUDA=1 scripts/setup-libtorch fetches it"))?;
        // SAFETY: the types are those of nvrtc.h.
        unsafe {
            Ok(Self {
                version: library.function("nvrtcVersion")?,
                create: library.function("nvrtcCreateProgram")?,
                destroy: library.function("nvrtcDestroyProgram")?,
                compile: library.function("nvrtcCompileProgram")?,
                log_size: library.function("nvrtcGetProgramLogSize")?,
                log: library.function("nvrtcGetProgramLog")?,
                code_size: library.function("nvrtcGetCUBINSize")?,
                code: library.function("nvrtcGetCUBIN")?,
            })
        }
    }

    fn version(&self) -> (i32, i32) {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two numbers.
        unsafe { (self.version)(&raw mut major, &raw mut minor) };
        (major, minor)
    }

    fn compile(&self, options: &[String]) -> Result<Vec<u8>, String> {
        let text = |text: &str| CString::new(text).map_err(|error| error.to_string());
        let (source, name) = (text(SOURCE)?, text("kernels.cu")?);
        let texts = |of: &mut dyn Iterator<Item = &str>| of.map(text).collect::<Result<Vec<_>, _>>();
        let bodies = texts(&mut HEADERS.iter().map(|(_, body)| *body))?;
        let names = texts(&mut HEADERS.iter().map(|(name, _)| *name))?;
        let options = texts(&mut options.iter().map(String::as_str))?;
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (bodies, names, options) = (pointers(&bodies), pointers(&names), (pointers(&options), options));
        let count = |list: &[*const c_char]| c_int::try_from(list.len()).unwrap_or(0);
        let mut program: Program = null_mut();
        // SAFETY: all texts live to the end of this function; sizes are asked for before each buffer is filled.
        unsafe {
            let made = (self.create)(
                &raw mut program,
                source.as_ptr(),
                name.as_ptr(),
                count(&bodies),
                bodies.as_ptr(),
                names.as_ptr(),
            );
            if made != 0 {
                return Err(format!("NVRTC made no program (error {made})"));
            }
            let compiled = (self.compile)(program, count(&options.0), options.0.as_ptr());
            let (size, read) = if compiled == 0 { (self.code_size, self.code) } else { (self.log_size, self.log) };
            let mut bytes = 0;
            size(program, &raw mut bytes);
            let mut found = vec![0_u8; bytes];
            read(program, found.as_mut_ptr().cast());
            (self.destroy)(&raw mut program);
            if compiled != 0 {
                let said = String::from_utf8_lossy(&found);
                return Err(format!("NVRTC refused the kernels (error {compiled}): {}", said.trim_end_matches('\0')));
            }
            let digest = Sha256::digest(&found);
            found.extend_from_slice(&digest);
            Ok(found)
        }
    }
}

/// NVRTC looks for its other half by a bare name, which the loader finds only when it is open already.
fn open_builtins(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so") {
            drop(Library::open(&[entry.path()]));
        }
    }
}
