//! The only place where a caller's pointer is followed.
//!
//! Each function is one access. NULL is looked for before; alignment is not assumed, since callers
//! pack structs. What a caller promises in `virtdisk.h` is what makes these calls sound: that a
//! pointer which is not NULL stands for as much memory as the function says it uses.

use crate::fence::{INVALID, Outcome};

/// Reads a value; 87 for NULL.
///
/// # Safety
/// `pointer` is NULL or readable for `size_of::<T>()` bytes that are a valid `T`.
pub(crate) unsafe fn read<T: Copy>(pointer: *const T) -> Outcome<T> {
    if pointer.is_null() {
        return Err(INVALID);
    }
    // SAFETY: not NULL, and readable by the caller's promise; unaligned reads are allowed.
    Ok(unsafe { pointer.read_unaligned() })
}

/// Writes a value; 87 for NULL.
///
/// # Safety
/// `pointer` is NULL or writable for `size_of::<T>()` bytes.
pub(crate) unsafe fn write<T: Copy>(pointer: *mut T, value: T) -> Outcome {
    if pointer.is_null() {
        return Err(INVALID);
    }
    // SAFETY: not NULL, and writable by the caller's promise; unaligned writes are allowed.
    unsafe { pointer.write_unaligned(value) };
    Ok(())
}

/// Copies `values` to `pointer`; 87 for NULL.
///
/// # Safety
/// `pointer` is NULL or writable for the bytes of all `values`, and does not overlap them.
pub(crate) unsafe fn write_all<T: Copy>(pointer: *mut T, values: &[T]) -> Outcome {
    if pointer.is_null() {
        return Err(INVALID);
    }
    let bytes = size_of_val(values);
    // SAFETY: not NULL, writable for that many bytes by the caller's promise; bytes need no
    // alignment, and our own slice cannot overlap the caller's memory.
    unsafe {
        pointer
            .cast::<u8>()
            .copy_from_nonoverlapping(values.as_ptr().cast(), bytes)
    };
    Ok(())
}

/// Reads the elements before the first that is zero; `None` when there are more than `limit`.
/// 87 for NULL.
///
/// # Safety
/// `pointer` is NULL or readable up to and with the first zero element, or for `limit` + 1.
pub(crate) unsafe fn read_until_zero<T: Copy + Default + PartialEq>(
    pointer: *const T,
    limit: usize,
) -> Outcome<Option<Vec<T>>> {
    let mut elements = Vec::new();
    for index in 0..=limit {
        if pointer.is_null() {
            return Err(INVALID);
        }
        let place = pointer.wrapping_add(index);
        // SAFETY: no zero came before, so this element is still the caller's.
        let element = unsafe { read(place) }?;
        if element == T::default() {
            return Ok(Some(elements));
        }
        elements.push(element);
    }
    Ok(None)
}
