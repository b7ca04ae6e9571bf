//! The footer: checked once, and built for new images.
//!
//! [`Footer::check`] turns raw bytes into facts that cannot be wrong in themselves; whether they
//! fit the file is `open`'s part. Oddities that Windows and other writers are known for are
//! accepted and noted (V-7).

use zerocopy::{FromZeros, IntoBytes};

use super::geometry::Geometry;
use super::layout::{
    CREATOR_APPLICATION, CREATOR_HOST, CREATOR_VERSION, EPOCH_2000, FEATURE_RESERVED,
    FEATURE_TEMPORARY, FOOTER_CHECKSUM_AT, FOOTER_COOKIE, HEADER_AT, NO_OFFSET, NO_OFFSET_SHORT,
    RawFooter, SECTOR, TYPE_DIFFERENCING, TYPE_DYNAMIC, TYPE_FIXED, VERSION, checksum,
};
use crate::error::{Error, ErrorKind, Result};
use crate::facts::Kind;
use crate::finding::{Severity, Sink};

/// What 512 bytes are, as a footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// No cookie: not a footer.
    Missing,
    /// The cookie and a wrong checksum.
    Broken,
    /// The cookie and the right checksum; or right but for XenServer's hidden byte, which early
    /// versions set without a new sum (1.10).
    Sound,
}

impl RawFooter {
    /// Looks at cookie and checksum.
    pub(crate) fn seal(&self) -> Seal {
        let mut shown = *self;
        shown.reserved[0] = 0;
        if self.cookie != FOOTER_COOKIE {
            Seal::Missing
        } else if self.sum() == self.checksum.get() || shown.sum() == self.checksum.get() {
            Seal::Sound
        } else {
            Seal::Broken
        }
    }

    /// The checksum that the other bytes make.
    pub(crate) fn sum(&self) -> u32 {
        checksum(self.as_bytes(), FOOTER_CHECKSUM_AT)
    }

    /// Whether the disk type is one with a dynamic header.
    pub(crate) fn has_header(&self) -> bool {
        matches!(self.disk_type.get(), TYPE_DYNAMIC | TYPE_DIFFERENCING)
    }
}

/// A footer whose fields make sense.
#[derive(Clone)]
pub(crate) struct Footer {
    /// As it stands in the file; one of 511 bytes has a 0 added.
    pub(crate) raw: RawFooter,
    pub(crate) kind: Kind,
    /// File offset of the dynamic header in bytes; means nothing for a fixed disk.
    pub(crate) data_offset: u64,
    /// Bytes.
    pub(crate) current_size: u64,
    pub(crate) geometry: Geometry,
}

impl Footer {
    /// Checks the fields of a footer found at `offset`.
    pub(crate) fn check(raw: RawFooter, offset: u64, sink: &mut dyn Sink) -> Result<Footer> {
        let version = raw.version.get();
        if version >> 16 != VERSION >> 16 {
            let error = Error::new(
                ErrorKind::VersionUnsupported,
                "VHD footer",
                "has a format version that is not known",
            )
            .at(offset.saturating_add(12))
            .with_found(format_args!("{}.{}", version >> 16, version & 0xFFFF))
            .with_wanted("1.0");
            sink.fault(error)?;
        }
        let kind = match raw.disk_type.get() {
            TYPE_FIXED => Kind::Fixed,
            TYPE_DYNAMIC => Kind::Dynamic,
            TYPE_DIFFERENCING => Kind::Differencing,
            other => {
                let error = Error::new(
                    ErrorKind::FooterCorrupt,
                    "VHD footer",
                    "has an impossible disk type",
                )
                .at(offset.saturating_add(60))
                .with_found(other)
                .with_wanted("2 (fixed), 3 (dynamic) or 4 (differencing)")
                .by("V-6");
                sink.fault(error)?;
                if raw.data_offset.get() < NO_OFFSET_SHORT {
                    Kind::Dynamic
                } else {
                    Kind::Fixed
                }
            }
        };
        note_oddities(&raw, offset, kind, sink);
        Ok(Footer {
            kind,
            data_offset: raw.data_offset.get(),
            current_size: raw.current_size.get(),
            geometry: Geometry {
                cylinders: raw.cylinders.get(),
                heads: raw.heads,
                sectors_per_track: raw.sectors_per_track,
            },
            raw,
        })
    }

    /// The footer of a new disk (V-41).
    pub(crate) fn create(kind: Kind, size: u64, id: [u8; 16], created_unix: u64) -> RawFooter {
        let geometry = Geometry::of_size(size);
        let mut raw = RawFooter::new_zeroed();
        raw.cookie = FOOTER_COOKIE;
        raw.features.set(FEATURE_RESERVED);
        raw.version.set(VERSION);
        raw.data_offset.set(if kind == Kind::Fixed {
            NO_OFFSET
        } else {
            HEADER_AT
        });
        raw.time_stamp.set(time_stamp(created_unix));
        raw.creator_application = CREATOR_APPLICATION;
        raw.creator_version.set(CREATOR_VERSION);
        raw.creator_host = CREATOR_HOST;
        raw.original_size.set(size);
        raw.current_size.set(size);
        raw.cylinders.set(geometry.cylinders);
        raw.heads = geometry.heads;
        raw.sectors_per_track = geometry.sectors_per_track;
        raw.disk_type.set(kind as u32);
        raw.unique_id = id;
        raw.checksum.set(raw.sum());
        raw
    }

    /// Who wrote it, printable: application and version, such as "win 10.0".
    pub(crate) fn creator(&self) -> String {
        let version = self.raw.creator_version.get();
        let name: &[u8] = self.raw.creator_application.trim_ascii_end();
        let end = name
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        let name = name.get(..end).unwrap_or_default().escape_ascii();
        format!("{name} {}.{}", version >> 16, version & 0xFFFF)
    }

    /// When it was made, in seconds since 1970; 0 where the footer has no time.
    pub(crate) fn created_unix(&self) -> u64 {
        match self.raw.time_stamp.get() {
            0 => 0,
            stamp => EPOCH_2000 + u64::from(stamp),
        }
    }
}

/// Seconds since 2000, on a counter that starts again in 2136 (1.1).
pub(crate) fn time_stamp(unix: u64) -> u32 {
    let seconds = unix.saturating_sub(EPOCH_2000) & u64::from(u32::MAX);
    u32::try_from(seconds).unwrap_or(0)
}

/// What is accepted and told (V-6, V-7, V-21).
fn note_oddities(raw: &RawFooter, offset: u64, kind: Kind, sink: &mut dyn Sink) {
    let odd = |field: u64, rule, message: &'static str| {
        Error::new(ErrorKind::FooterCorrupt, "VHD footer", message)
            .at(offset.saturating_add(field))
            .by(rule)
    };
    let features = raw.features.get();
    if features & !FEATURE_TEMPORARY != FEATURE_RESERVED {
        let error = odd(8, "V-7", "has unusual features");
        let error = error.with_found(format_args!("{features:#010x}"));
        sink.oddity(Severity::Warning, error.with_wanted("0x00000002"));
    }
    let data = raw.data_offset.get();
    if kind == Kind::Fixed && data == NO_OFFSET_SHORT {
        let error = odd(16, "V-7", "has a data offset of 32 one bits");
        let error = error.with_found(format_args!("{data:016X}"));
        sink.oddity(Severity::Warning, error.with_wanted("64 one bits"));
    } else if kind == Kind::Fixed && data != NO_OFFSET {
        let error = odd(
            16,
            "V-6",
            "has a data offset, which means nothing in a fixed disk",
        );
        let error = error.with_found(data);
        sink.oddity(Severity::Warning, error.with_wanted("64 one bits"));
    }
    if raw.saved_state > 1 {
        let error = odd(84, "V-21", "has an unknown saved state").with_found(raw.saved_state);
        sink.oddity(Severity::Warning, error.with_wanted("0 or 1"));
    }
    if let Some(at) = (0_u64..).zip(&raw.reserved).find(|(_, byte)| **byte != 0) {
        let error = odd(
            85 + at.0,
            "V-7",
            "has bytes other than 0 in its reserved field",
        );
        sink.oddity(Severity::Warning, error.with_found(at.1));
    }
    if raw.sum() != raw.checksum.get() {
        let error = odd(64, "V-3", "has a checksum that leaves out the hidden byte");
        let error = error.with_found(format_args!("{:08x}", raw.checksum.get()));
        sink.oddity(
            Severity::Warning,
            error.with_wanted(format_args!("{:08x}", raw.sum())),
        );
    }
}

/// What is harmless and still not what the specification says (V-41).
pub(crate) fn note_details(footer: &Footer, offset: u64, sink: &mut dyn Sink) {
    let raw = &footer.raw;
    let mut note = |field: u64, rule, message: &'static str, found: String, wanted: String| {
        let error = Error::new(ErrorKind::FooterCorrupt, "VHD footer", message)
            .at(offset.saturating_add(field))
            .with_found(found)
            .with_wanted(wanted)
            .by(rule);
        sink.oddity(Severity::Note, error);
    };
    if !matches!(&raw.creator_host, b"Wi2k" | b"Mac " | &[0, 0, 0, 0]) {
        let found = raw.creator_host.escape_ascii().to_string();
        note(
            36,
            "V-41",
            "has an unknown creator host",
            found,
            "Wi2k or Mac".into(),
        );
    }
    for (field, size) in [(40, raw.original_size.get()), (48, raw.current_size.get())] {
        if size == 0 || !size.is_multiple_of(SECTOR) {
            let wanted = "a positive multiple of 512".to_owned();
            note(
                field,
                "V-41",
                "has a size that no disk can have",
                size.to_string(),
                wanted,
            );
        }
    }
    let (here, usual) = (footer.geometry, Geometry::of_size(footer.current_size));
    if here != usual && !here.is_no_answer() {
        let wanted = usual.to_string();
        note(
            56,
            "V-41",
            "has an unusual geometry",
            here.to_string(),
            wanted,
        );
    }
    if raw.saved_state == 1 {
        let found = "saved state 1".to_owned();
        note(
            84,
            "V-21",
            "is that of a suspended machine's disk",
            found,
            String::new(),
        );
    }
    if raw.unique_id == [0; 16] {
        let message = "has no unique id, so that no child can name this disk";
        note(68, "V-14", message, "zeros".into(), String::new());
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::super::layout::{HEADER_CHECKSUM_AT, RawHeader};
    use super::*;

    fn bytes(hexadecimal: &str, len: usize) -> Vec<u8> {
        let digits: Vec<u8> = hexadecimal.bytes().filter(u8::is_ascii_hexdigit).collect();
        let mut bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        bytes.resize(len, 0);
        bytes
    }

    const FIXED: &str = "636f6e6563746978 00000002 00010000 ffffffffffffffff 2715ab07 77696e20
        000a0000 5769326b 0000000000400000 0000000000400000 0078 04 11 00000002 ffffe8af
        be061b1528ce014a8fc6ecc139a451c1 00";
    const DYNAMIC: &str = "636f6e6563746978 00000002 00010000 0000000000000200 2715ab0a 77696e20
        000a0000 5769326b 0000000000400000 0000000000400000 0078 04 11 00000003 fffff073
        b71b9577b88c1646993c471798ca53ee 00";
    const HEADER: &str = "6378737061727365 ffffffffffffffff 0000000000000600 00010000 00000002
        00200000 fffff475";

    #[test]
    fn checksums_of_windows_structures_come_out_as_stored() {
        // 1.3, the three vectors.
        for (text, wanted) in [(FIXED, 0xFFFF_E8AF), (DYNAMIC, 0xFFFF_F073)] {
            let mut raw = RawFooter::read_from_bytes(&bytes(text, 512)).unwrap();
            assert_eq!((raw.sum(), raw.checksum.get()), (wanted, wanted));
            assert_eq!(raw.seal(), Seal::Sound);
            raw.current_size.set(512);
            assert_eq!(raw.seal(), Seal::Broken);
            raw.cookie[0] = 0;
            assert_eq!(raw.seal(), Seal::Missing);
        }
        let header = bytes(HEADER, 1024);
        assert_eq!(checksum(&header, HEADER_CHECKSUM_AT), 0xFFFF_F475);
        assert_eq!(
            RawHeader::read_from_bytes(&header).unwrap().checksum.get(),
            0xFFFF_F475
        );
    }

    #[test]
    fn a_created_footer_is_the_one_that_windows_writes() {
        // V-41: everything equals the footer of diskpart but id and time, which are given.
        let windows = RawFooter::read_from_bytes(&bytes(FIXED, 512)).unwrap();
        let stamp = u64::from(windows.time_stamp.get());
        let ours = Footer::create(Kind::Fixed, 4 << 20, windows.unique_id, EPOCH_2000 + stamp);
        assert_eq!(ours.as_bytes(), windows.as_bytes());
    }

    #[test]
    fn a_hidden_byte_without_a_new_checksum_is_accepted() {
        // 1.10
        let mut raw = RawFooter::read_from_bytes(&bytes(DYNAMIC, 512)).unwrap();
        raw.reserved[0] = 1;
        assert_eq!(raw.seal(), Seal::Sound);
        let mut notices: Vec<String> = Vec::new();
        Footer::check(raw, 0, &mut notices).unwrap();
        assert!(
            notices.iter().any(|notice| notice.contains("hidden")),
            "{notices:?}"
        );
    }

    #[test]
    fn a_creator_is_printed_without_control_bytes() {
        let mut raw = Footer::create(Kind::Fixed, 512, [1; 16], 0);
        let creator = |raw: &RawFooter| {
            Footer::check(*raw, 0, &mut Vec::<String>::new())
                .map(|footer| footer.creator())
                .unwrap()
        };
        assert_eq!(creator(&raw), "win 10.0");
        raw.creator_application = *b"d2v\0";
        assert_eq!(creator(&raw), "d2v 10.0");
        raw.creator_application = *b"\x1b[0m";
        assert_eq!(creator(&raw), "\\x1b[0m 10.0");
        assert_eq!(time_stamp(0), 0);
        assert_eq!(time_stamp(EPOCH_2000 + (1 << 32) + 5), 5);
    }
}
