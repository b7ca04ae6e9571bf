//! Security descriptors: what a caller's SDDL means for a device node.
//!
//! NULL gives the node the owner, group and mode of the image file; NO_SECURITY_DESCRIPTOR
//! leaves it as the system makes it (R-ATT-13). An SDDL text is accepted where owner and mode
//! say the same, and refused otherwise (design 3).

use virtdisk::AttachFlags;

use crate::entry::Owner;

/// What to do with a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeOwner {
    /// Nothing.
    Default,
    /// Give it this owner, group and mode.
    As(Owner),
}

/// What a descriptor asks for.
///
/// # Errors
/// The part that has no counterpart, in words.
pub fn node_owner(sddl: &str, image: Owner, flags: AttachFlags) -> Result<NodeOwner, String> {
    if flags.contains(AttachFlags::NO_SECURITY_DESCRIPTOR) {
        return Ok(NodeOwner::Default);
    }
    if sddl.is_empty() {
        return Ok(NodeOwner::As(Owner {
            mode: image.mode & 0o666,
            ..image
        }));
    }
    let mut owner = Owner {
        uid: image.uid,
        gid: image.gid,
        mode: 0,
    };
    let mut rest = sddl.trim();
    while !rest.is_empty() {
        let (part, tail) = next_part(rest);
        rest = tail;
        match part.split_once(':') {
            Some(("O", who)) => owner.uid = administrator(who)?,
            Some(("G", who)) => owner.gid = administrator(who)?,
            Some(("D", list)) => owner.mode = mode_of(list)?,
            _ => {
                return Err(format!(
                    "the security descriptor's part {part:?} means nothing here"
                ));
            }
        }
    }
    Ok(NodeOwner::As(owner))
}

/// Splits off the first of `O:`, `G:`, `D:`, `S:`.
fn next_part(text: &str) -> (&str, &str) {
    let mut depth = 0_i32;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b':' if depth == 0 && at > 1 && b"OGDS".contains(&bytes[at - 1]) => {
                return text.split_at(at - 1);
            }
            _ => {}
        }
    }
    (text, "")
}

/// Administrators and the system are root.
fn administrator(who: &str) -> Result<u32, String> {
    match who {
        "BA" | "SY" | "LA" => Ok(0),
        _ => Err(format!(
            "the security descriptor's owner {who:?} is nobody here"
        )),
    }
}

/// The permission bits of a discretionary list: everyone, or administrators only.
fn mode_of(list: &str) -> Result<u32, String> {
    let entries = list.trim_start_matches(['P', 'A', 'I', 'R']);
    let mut mode = 0;
    for entry in entries.split_inclusive(')') {
        let inner = entry.strip_prefix('(').and_then(|e| e.strip_suffix(')'));
        let fields: Vec<&str> = inner.unwrap_or_default().split(';').collect();
        let [kind, "", rights, "", "", who] = fields[..] else {
            return Err(format!(
                "the security descriptor's entry {entry:?} means nothing here"
            ));
        };
        let bits = match (kind, rights) {
            ("A", "GA" | "FA") => 0o6,
            ("A", "GR" | "FR") => 0o4,
            _ => {
                return Err(format!(
                    "the security descriptor's entry {entry:?} can't be kept"
                ));
            }
        };
        mode |= match who {
            "WD" | "AU" => bits << 6 | bits << 3 | bits,
            "BA" | "SY" | "LA" => bits << 6,
            // Application packages are a thing of Windows alone.
            "AC" => 0,
            _ => return Err(format!("the security descriptor's {who:?} is nobody here")),
        };
    }
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: Owner = Owner {
        uid: 7,
        gid: 8,
        mode: 0o755,
    };

    fn asked(sddl: &str) -> Result<NodeOwner, String> {
        node_owner(sddl, IMAGE, AttachFlags::NONE)
    }

    // R-ATT-13
    #[test]
    fn null_takes_the_files_owner_and_the_flag_leaves_the_node_alone() {
        let as_file = Owner {
            uid: 7,
            gid: 8,
            mode: 0o644,
        };
        assert_eq!(asked(""), Ok(NodeOwner::As(as_file)));
        let left = node_owner("", IMAGE, AttachFlags::NO_SECURITY_DESCRIPTOR);
        assert_eq!(left, Ok(NodeOwner::Default));
    }

    #[test]
    fn descriptors_of_windows_programs_keep_their_meaning() {
        let everyone = Owner {
            uid: 0,
            gid: 0,
            mode: 0o666,
        };
        assert_eq!(asked("O:BAG:BAD:(A;;GA;;;WD)"), Ok(NodeOwner::As(everyone)));
        let mine = Owner {
            uid: 7,
            gid: 8,
            mode: 0o666,
        };
        assert_eq!(
            asked("D:P(A;;GA;;;WD)(A;;GA;;;AC)"),
            Ok(NodeOwner::As(mine))
        );
        let root_only = Owner {
            uid: 7,
            gid: 8,
            mode: 0o600,
        };
        assert_eq!(asked("D:(A;;GA;;;SY)"), Ok(NodeOwner::As(root_only)));
    }

    #[test]
    fn what_can_not_be_kept_is_refused() {
        for sddl in [
            "D:(D;;GA;;;WD)",
            "D:(A;;GA;;;S-1-5-21-1)",
            "O:S-1-5-21-1",
            "S:(AU;SA;GA;;;WD)",
            "garbage",
            "D:(A;;GX;;;WD",
            "D:(A;OI;GA;;;WD)",
        ] {
            assert!(asked(sddl).is_err(), "{sddl}");
        }
    }
}
