//! A lock that survives its holders.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock whose holder panicked still guards usable data: what is guarded by it is changed by one assignment at a time.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
