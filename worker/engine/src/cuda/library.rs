//! Libraries opened at run time, and functions in them by name.

#![expect(unsafe_code, reason = "dlopen(3) and dlsym(3)")]

use std::{
    ffi::{CStr, CString, OsStr, c_void},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// An open library; never closed.
#[derive(Debug, Clone, Copy)]
pub struct Library(*mut c_void);

// SAFETY: a handle of dlopen may be used by any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Opens the first of `names` that is there.
    ///
    /// # Errors
    /// What the loader says of the last.
    pub fn open(names: &[PathBuf]) -> Result<Self, String> {
        let mut said = "no name was given".to_owned();
        for name in names {
            let Ok(name) = CString::new(name.as_os_str().as_bytes()) else { continue };
            // SAFETY: plain dlopen of a vendor's library; the handle is kept for ever.
            let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
            if !handle.is_null() {
                return Ok(Self(handle));
            }
            // SAFETY: dlerror returns a string of this thread, valid until the next call.
            said = unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned();
        }
        Err(said)
    }

    /// What the process has loaded already.
    #[must_use]
    pub fn loaded() -> Self {
        Self(libc::RTLD_DEFAULT)
    }

    /// A function as `F`, a pointer to a function.
    ///
    /// # Safety
    /// `F` must be the function's type.
    ///
    /// # Errors
    /// When there is none of that name.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, String> {
        assert!(size_of::<F>() == size_of::<*mut c_void>());
        let symbol = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: plain dlsym; the caller answers for the type.
        unsafe {
            let found = libc::dlsym(self.0, symbol.as_ptr());
            if found.is_null() {
                return Err(format!("found no function {name}; another version of the library is needed"));
            }
            Ok(std::mem::transmute_copy(&found))
        }
    }
}

/// Where a loaded library lies whose file name begins with `name`.
#[must_use]
pub fn folder_of(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .find(|path| path.file_name().and_then(OsStr::to_str).is_some_and(|file| file.starts_with(name)))?;
    path.parent().map(Path::to_path_buf)
}
