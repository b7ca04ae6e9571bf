//! UTF-16 and UTF-8 text across the ABI: one code for both, so that they can't drift apart.
//!
//! Text comes in up to its NUL, bounded by what Windows allows for a path. Sizes of buffers are
//! bytes and include the NUL. Unpaired surrogates are no path; UTF-8 names take any bytes, as file
//! names on Linux do.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use api::Code;

use crate::fence::Outcome;
use crate::pointer;

/// Longest path, in letters without the NUL.
const PATH_LIMIT: usize = 32_767;
/// Longest text that is no path.
const TEXT_LIMIT: usize = 100_000;

/// An element of a string: `u16` in the Windows names, `u8` in the names that end in A.
pub(crate) trait Letter: Copy + Default + PartialEq {
    /// The letters of a text, without a NUL.
    fn encode(text: &str) -> Vec<Self>;
    /// The text of letters; `None` when they are none.
    fn decode(letters: Vec<Self>) -> Option<OsString>;
}

impl Letter for u16 {
    fn encode(text: &str) -> Vec<Self> {
        text.encode_utf16().collect()
    }

    fn decode(letters: Vec<Self>) -> Option<OsString> {
        String::from_utf16(&letters).ok().map(OsString::from)
    }
}

impl Letter for u8 {
    fn encode(text: &str) -> Vec<Self> {
        text.as_bytes().to_vec()
    }

    fn decode(letters: Vec<Self>) -> Option<OsString> {
        Some(OsString::from_vec(letters))
    }
}

/// A path; 87 for NULL, 123 when it is too long or no text.
///
/// # Safety
/// `text` is NULL or readable up to and with its NUL.
pub(crate) unsafe fn path<L: Letter>(text: *const L) -> Outcome<PathBuf> {
    // SAFETY: the caller's promise, passed on.
    let letters = unsafe { pointer::read_until_zero(text, PATH_LIMIT) }?;
    let path = letters
        .and_then(L::decode)
        .ok_or(Code::ERROR_INVALID_NAME)?;
    Ok(PathBuf::from(path))
}

/// A path that may be missing: NULL and empty text are `None`.
///
/// # Safety
/// As [`path`].
pub(crate) unsafe fn optional_path<L: Letter>(text: *const L) -> Outcome<Option<PathBuf>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise, passed on.
    let path = unsafe { path(text) }?;
    Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
}

/// UTF-8 text that may be missing: NULL and empty text are `None`; 87 when it is no UTF-8.
///
/// # Safety
/// As [`path`].
pub(crate) unsafe fn optional_text(text: *const u8) -> Outcome<Option<String>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise, passed on.
    let letters = unsafe { pointer::read_until_zero(text, TEXT_LIMIT) }?;
    let text = letters.and_then(|letters| String::from_utf8(letters).ok());
    let text = text.ok_or(Code::ERROR_INVALID_PARAMETER)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Answers letters, NULs included, in a buffer whose size is told and answered in bytes
/// (R-PATH-2, R-PATH-3): 122 with the size needed when the buffer is NULL or too small, 87 when
/// there is no place for the size.
///
/// # Safety
/// `size` is NULL or readable and writable; `buffer` is NULL or writable for `*size` bytes.
pub(crate) unsafe fn answer<L: Letter>(letters: &[L], size: *mut u32, buffer: *mut L) -> Outcome {
    // SAFETY: the caller's promise, passed on.
    let given = unsafe { pointer::read(size) }?;
    let bytes = size_of_val(letters);
    let needed = u32::try_from(bytes).map_err(|_| Code::ERROR_NOT_ENOUGH_MEMORY)?;
    if buffer.is_null() || given < needed {
        // SAFETY: the caller's promise, passed on.
        unsafe { pointer::write(size, needed) }?;
        return Err(Code::ERROR_INSUFFICIENT_BUFFER.into());
    }
    // SAFETY: the buffer is writable for `given` bytes, which are enough.
    unsafe { pointer::write_all(buffer, letters) }?;
    // SAFETY: the caller's promise, passed on.
    unsafe { pointer::write(size, needed) }
}

/// Texts, each ended by a NUL; a list of them is ended by one more (R-PATH-5). A NUL inside a text
/// would begin a text of its own, so such a text is left out.
pub(crate) fn list<'a, L: Letter>(texts: impl IntoIterator<Item = &'a str>, ended: bool) -> Vec<L> {
    let mut letters = Vec::new();
    for text in texts.into_iter().filter(|text| !text.contains('\0')) {
        letters.extend(L::encode(text));
        letters.push(L::default());
    }
    if ended {
        letters.push(L::default());
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(text: &str) -> Vec<u16> {
        text.encode_utf16().chain([0]).collect()
    }

    #[test]
    fn text_of_both_kinds_ends_at_its_nul() {
        let both = |text: &str| {
            let narrow = format!("{text}\0rest");
            let wide = wide(&narrow);
            // SAFETY: both have a NUL.
            let paths = unsafe { (path(wide.as_ptr()), path(narrow.as_ptr())) };
            assert_eq!(paths.0.unwrap().to_str(), Some(text));
            assert_eq!(paths.1.unwrap().to_str(), Some(text));
        };
        both("");
        both("/images/döner \u{1F4BE}.vhd");
    }

    #[test]
    fn what_is_no_text_is_an_invalid_name() {
        let lone_surrogate = [u16::from(b'/'), 0xD800, 0];
        // SAFETY: it has a NUL.
        let result = unsafe { path(lone_surrogate.as_ptr()) };
        assert_eq!(result.unwrap_err().0, Code::ERROR_INVALID_NAME);
        let endless = vec![b'a'; PATH_LIMIT + 1];
        // SAFETY: one letter more than the limit is readable.
        let result = unsafe { path(endless.as_ptr()) };
        assert_eq!(result.unwrap_err().0, Code::ERROR_INVALID_NAME);
        // SAFETY: NULL is allowed.
        let result = unsafe { path::<u16>(std::ptr::null()) };
        assert_eq!(result.unwrap_err().0, Code::ERROR_INVALID_PARAMETER);
    }

    // R-PATH-2, R-PATH-3
    #[test]
    fn answer_counts_bytes_with_the_nul() {
        let letters = wide("/dev/loop0");
        let mut buffer = [0xAAAA_u16; 16];
        for (given, code, told) in [(0, 122, 22), (21, 122, 22), (22, 0, 22), (32, 0, 22)] {
            let mut size = given;
            // SAFETY: the buffer has 32 bytes.
            let result = unsafe { answer(&letters, &raw mut size, buffer.as_mut_ptr()) };
            assert_eq!(result.err().map_or(0, |failed| failed.0.0), code, "{given}");
            assert_eq!(size, told);
        }
        assert_eq!(&buffer[..11], letters);
        assert_eq!(buffer[11..], [0xAAAA; 5]);
        let mut size = 100;
        // SAFETY: NULL is allowed.
        let result = unsafe { answer(&letters, &raw mut size, std::ptr::null_mut()) };
        assert_eq!(result.unwrap_err().0, Code::ERROR_INSUFFICIENT_BUFFER);
        // SAFETY: NULL is allowed.
        let result = unsafe { answer(&letters, std::ptr::null_mut(), buffer.as_mut_ptr()) };
        assert_eq!(result.unwrap_err().0, Code::ERROR_INVALID_PARAMETER);
    }

    // R-PATH-5, R-PATH-6
    #[test]
    fn list_has_two_nuls_at_its_end_and_one_when_empty() {
        assert_eq!(list::<u8>(["/a", "/b"], true), b"/a\0/b\0\0");
        assert_eq!(list::<u8>([], true), b"\0");
        assert_eq!(list::<u16>(["\u{F6}"], true), [0xF6, 0, 0]);
        assert_eq!(list::<u8>(["/a"], false), b"/a\0");
    }
}
