//! Paths as callers name them: Linux paths, made absolute.
//!
//! A path of Windows form is refused and not guessed at: as a Linux path it would silently name a
//! file called `C:\...` in the current directory. Symbolic links are left to the open itself.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::code::Code;
use crate::error::{Error, Result};

/// The absolute form of `path`, without looking at the disk.
///
/// Errors: 87 for an empty path (R-OPEN-2), 123 for a Windows path or a NUL inside, the host's
/// own code when the current directory is gone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(Error::new(
            Code::ERROR_INVALID_PARAMETER,
            "the path is empty",
        ));
    }
    if bytes.contains(&0) {
        let message = format!("{}: the path contains a NUL byte", escaped(path));
        return Err(Error::new(Code::ERROR_INVALID_NAME, message));
    }
    if is_windows_form(bytes) {
        let message = format!("{}: this is a Windows path", escaped(path));
        let hint = "name the file by its Linux path, such as /mnt/c/disk.vhd";
        return Err(Error::new(Code::ERROR_INVALID_NAME, message).with_hint(hint));
    }
    std::path::absolute(path)
        .map_err(|source| Error::from_io(format!("{}: no absolute path", escaped(path)), source))
}

/// True for `X:\...`, `X:/...`, `X:`, `\\server\share`, `\\?\...`, `\\.\...`.
fn is_windows_form(bytes: &[u8]) -> bool {
    match bytes {
        [b'\\', b'\\', ..] => true,
        [letter, b':'] | [letter, b':', b'\\' | b'/', ..] => letter.is_ascii_alphabetic(),
        _ => false,
    }
}

/// The path for messages: lossy, with control characters escaped.
pub(crate) fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_paths_are_refused_with_a_hint() {
        for path in [
            r"C:\disk.vhd",
            "c:/disk.vhd",
            "D:",
            r"\\server\share\disk.vhd",
            r"\\?\C:\disk.vhd",
            r"\\.\PhysicalDrive1",
        ] {
            let error = absolute(Path::new(path)).unwrap_err();
            assert_eq!(error.code(), Code::ERROR_INVALID_NAME, "{path}");
            assert!(error.hint().contains("/mnt/c/"), "{path}");
        }
    }

    #[test]
    fn linux_paths_become_absolute() {
        for path in ["/a/b.vhd", "/a/c:d.vhd", "/C:/x"] {
            assert_eq!(absolute(Path::new(path)).unwrap(), Path::new(path));
        }
        for path in ["b.vhd", "x:y.vhd", r"dir\b.vhd", "./b.vhd"] {
            assert!(absolute(Path::new(path)).unwrap().is_absolute(), "{path}");
        }
    }

    // R-OPEN-2
    #[test]
    fn empty_path_is_an_invalid_parameter() {
        assert_eq!(
            absolute(Path::new("")).unwrap_err().code(),
            Code::ERROR_INVALID_PARAMETER
        );
        assert_eq!(
            absolute(Path::new("a\0b")).unwrap_err().code(),
            Code::ERROR_INVALID_NAME
        );
    }

    #[test]
    fn messages_hold_no_control_characters() {
        assert_eq!(escaped(Path::new("/a\n\u{1b}[2Jb")), r"/a\n\u{1b}[2Jb");
    }
}
