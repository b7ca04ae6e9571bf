//! A path of another system, taken apart.
//!
//! Windows spells one path in many ways: `C:\vm\a.vhdx`, `\\?\C:\vm\a.vhdx`, `C:/vm/a.vhdx`. Here
//! a path is what it starts from and the names below that; `.` and `..` are worked off by the text
//! alone, as Windows does it. A text that can be no path is none.

/// What a [`Hint`]'s text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HintKind {
    /// A Windows path relative to the child's folder: `.\base.vhdx`.
    Relative,
    /// A whole Windows path: `C:\vm\base.vhdx`, with or without `\\?\`.
    Absolute,
    /// A Windows path below a volume: `\\?\Volume{...}\vm\base.vhdx`.
    Volume,
    /// A `file:` URL.
    Url,
    /// A name or path without a base.
    Name,
}

/// One place where the child says that its parent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint<'a> {
    /// What the text is.
    pub kind: HintKind,
    /// The text, as it stands in the file.
    pub text: &'a str,
}

/// What a path starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The child's folder.
    Child,
    /// The root of a system like this one.
    Root,
    /// A drive, a volume or the current drive: nothing that is here. Its name in lower case.
    Drive(String),
    /// A share of another machine: that machine's name in lower case.
    Machine(String),
}

/// A path, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spelled {
    pub(crate) base: Base,
    /// Folders to go up from the base before the names count.
    pub(crate) up: usize,
    /// Names from there on, none of them empty, `.` or `..`.
    pub(crate) names: Vec<String>,
}

impl Spelled {
    /// What a hint says; `None` if it names no file.
    pub(crate) fn of(hint: Hint<'_>) -> Option<Self> {
        let spelled = match hint.kind {
            HintKind::Url => url(hint.text),
            _ => path(hint.text),
        }?;
        (!spelled.names.is_empty()).then_some(spelled)
    }

    /// A folder of the other system.
    pub(crate) fn folder(text: &str) -> Option<Self> {
        path(text)
    }

    /// The name of the file.
    pub(crate) fn name(&self) -> Option<&str> {
        self.names.last().map(String::as_str)
    }

    /// The names below `folder`; `None` if the path is not below it.
    pub(crate) fn below(&self, folder: &Self) -> Option<&[String]> {
        let same = |(a, b): (&String, &String)| a.to_lowercase() == b.to_lowercase();
        let inside = self.base == folder.base
            && self.up == folder.up
            && folder.names.len() < self.names.len()
            && folder.names.iter().zip(&self.names).all(same);
        inside.then(|| &self.names[folder.names.len()..])
    }
}

/// `file:///C:/vm/base.vhd`, `file://localhost/Users/x/base.vhd`, `file:base.vhd`.
fn url(text: &str) -> Option<Spelled> {
    let rest = match text.get(..5) {
        Some(scheme) if scheme.eq_ignore_ascii_case("file:") => &text[5..],
        _ => return None,
    };
    let path = unescaped(rest)?;
    let Some(after) = path.strip_prefix("//") else {
        return self::path(&path);
    };
    let (machine, below) = after.split_once('/')?;
    if !machine.is_empty() && !machine.eq_ignore_ascii_case("localhost") {
        return names(Base::Machine(machine.to_lowercase()), below);
    }
    match drive(below) {
        Some((drive, below)) => names(drive, below),
        None => names(Base::Root, below),
    }
}

/// Bytes that a URL writes as `%XX`.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// A path as Windows, or a program on a system like this one, writes it.
fn path(text: &str) -> Option<Spelled> {
    let text = text.strip_suffix('\0').unwrap_or(text);
    let plain = [r"\\?\", r"\??\", r"\\.\"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix));
    if let Some(plain) = plain {
        if let Some(share) = strip_word(plain, r"unc\") {
            return machine(share);
        }
        let (volume, below) = plain.split_once('\\').unwrap_or((plain, ""));
        return names(Base::Drive(volume.to_lowercase()), below);
    }
    if let Some(share) = text.strip_prefix(r"\\").or_else(|| text.strip_prefix("//")) {
        return machine(share);
    }
    if let Some((drive, below)) = drive(text) {
        return names(drive, below);
    }
    if let Some(below) = text.strip_prefix('/') {
        return names(Base::Root, below);
    }
    match text.strip_prefix('\\') {
        Some(below) => names(Base::Drive(String::new()), below),
        None => names(Base::Child, text),
    }
}

fn machine(share: &str) -> Option<Spelled> {
    let (name, below) = share.split_once(['\\', '/'])?;
    names(Base::Machine(name.to_lowercase()), below)
}

/// `C:` and what stands behind it.
fn drive(text: &str) -> Option<(Base, &str)> {
    let letter = text.chars().next().filter(char::is_ascii_alphabetic)?;
    let below = text.get(1..)?.strip_prefix(':')?;
    Some((
        Base::Drive(format!("{}:", letter.to_ascii_lowercase())),
        below,
    ))
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.get(..word.len())?;
    head.eq_ignore_ascii_case(word).then(|| &text[word.len()..])
}

/// Works off `.` and `..`; a `..` at the root of anything but the child's folder stays there.
fn names(base: Base, text: &str) -> Option<Spelled> {
    let mut spelled = Spelled {
        base,
        up: 0,
        names: Vec::new(),
    };
    for name in text.split(['\\', '/']) {
        match name {
            "" | "." => {}
            ".." => {
                if spelled.names.pop().is_none() && spelled.base == Base::Child {
                    spelled.up += 1;
                }
            }
            name if name.contains('\0') => return None,
            name => spelled.names.push(name.to_owned()),
        }
    }
    Some(spelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: HintKind, text: &str) -> Option<(Base, usize, String)> {
        let spelled = Spelled::of(Hint { kind, text })?;
        Some((spelled.base, spelled.up, spelled.names.join("|")))
    }

    fn drive(name: &str) -> Base {
        Base::Drive(name.to_owned())
    }

    // P-3
    #[test]
    fn one_windows_path_in_many_spellings_is_one() {
        let wanted = Some((drive("c:"), 0, "vm|a.vhdx".to_owned()));
        for text in [
            r"C:\vm\a.vhdx",
            r"\\?\C:\vm\a.vhdx",
            r"\??\c:\vm\a.vhdx",
            "C:/vm/a.vhdx",
            r"C:\vm\.\b\..\a.vhdx",
            r"C:\..\vm\\a.vhdx",
        ] {
            assert_eq!(of(HintKind::Absolute, text), wanted, "{text}");
        }
        let volume = r"\\?\Volume{AB-cd}\vm\a.vhdx";
        let wanted = Some((drive("volume{ab-cd}"), 0, "vm|a.vhdx".to_owned()));
        assert_eq!(of(HintKind::Volume, volume), wanted);
        let rooted = Some((drive(""), 0, "vm|a.vhdx".to_owned()));
        assert_eq!(of(HintKind::Relative, r"\vm\a.vhdx"), rooted);
    }

    #[test]
    fn relative_paths_say_how_far_they_go_up() {
        let child = |up, names: &str| Some((Base::Child, up, names.to_owned()));
        assert_eq!(of(HintKind::Relative, r".\a.vhd"), child(0, "a.vhd"));
        assert_eq!(of(HintKind::Relative, r"..\x\a.vhd"), child(1, "x|a.vhd"));
        assert_eq!(of(HintKind::Relative, r"x\..\..\a.vhd"), child(1, "a.vhd"));
        assert_eq!(of(HintKind::Name, "a.vhd"), child(0, "a.vhd"));
    }

    #[test]
    fn shares_and_urls_are_known() {
        let share = Some((Base::Machine("srv".into()), 0, "d|a.vhd".into()));
        assert_eq!(of(HintKind::Absolute, r"\\SRV\d\a.vhd"), share);
        assert_eq!(of(HintKind::Absolute, r"\\?\UNC\srv\d\a.vhd"), share);
        assert_eq!(of(HintKind::Url, "file://srv/d/a.vhd"), share);
        let root = Some((Base::Root, 0, "Users|a b.vhd".into()));
        assert_eq!(of(HintKind::Url, "file://localhost/Users/a%20b.vhd"), root);
        assert_eq!(of(HintKind::Url, "FILE:///Users/a%20b.vhd"), root);
        let windows = Some((drive("c:"), 0, "a.vhd".into()));
        assert_eq!(of(HintKind::Url, "file:///C:/a.vhd"), windows);
    }

    #[test]
    fn what_names_no_file_is_none() {
        for text in ["", ".", r"..\..", r"C:\", r"\\srv", "a\0b"] {
            assert_eq!(of(HintKind::Absolute, text), None, "{text:?}");
        }
        for text in ["http://a/b.vhd", "file:///%zz", "file:///%4", "é"] {
            assert_eq!(of(HintKind::Url, text), None, "{text:?}");
        }
    }
}
