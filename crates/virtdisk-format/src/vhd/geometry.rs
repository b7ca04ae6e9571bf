//! Cylinders, heads, sectors; and which of a footer's sizes is the one the disk has (1.4, 1.5).
//!
//! Some writers round a disk's size to what its geometry reaches and others don't. The footer tells
//! who wrote it, and that decides; the caller may overrule it.

use std::fmt;

use super::layout::SECTOR;
use crate::open::SizeRule;

/// A disk's geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) cylinders: u16,
    pub(crate) heads: u8,
    pub(crate) sectors_per_track: u8,
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Geometry {
            cylinders,
            heads,
            sectors_per_track,
        } = self;
        write!(f, "{cylinders}/{heads}/{sectors_per_track}")
    }
}

/// The geometry that says "too large for CHS" (1.4).
const TOO_LARGE: Geometry = Geometry {
    cylinders: 65535,
    heads: 16,
    sectors_per_track: 255,
};

impl Geometry {
    /// The geometry of a disk of `size` bytes, by the specification's algorithm (1.5).
    pub(crate) fn of_size(size: u64) -> Geometry {
        let total = (size / SECTOR).min(65535 * 16 * 255);
        let (mut track, mut heads, mut tracks);
        if total >= 65535 * 16 * 63 {
            (track, heads) = (255, 16);
            tracks = total / track;
        } else {
            track = 17;
            tracks = total / track;
            heads = tracks.div_ceil(1024).max(4);
            if tracks >= heads * 1024 || heads > 16 {
                (track, heads) = (31, 16);
                tracks = total / track;
            }
            if tracks >= heads * 1024 {
                (track, heads) = (63, 16);
                tracks = total / track;
            }
        }
        Geometry {
            cylinders: u16::try_from(tracks / heads).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(u8::MAX),
            sectors_per_track: u8::try_from(track).unwrap_or(u8::MAX),
        }
    }

    /// Whether it says nothing of the size: too large for it, or left out (1.4).
    pub(crate) fn is_no_answer(self) -> bool {
        let none = (self.cylinders, self.heads, self.sectors_per_track) == (0, 0, 0);
        none || self == TOO_LARGE
    }

    /// Bytes that this geometry reaches.
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.cylinders)
            * u64::from(self.heads)
            * u64::from(self.sectors_per_track)
            * SECTOR
    }

    /// The visible size in bytes: by `rule`, else by who wrote the image (1.4, V-1, V-2).
    pub(crate) fn visible_size(
        self,
        creator_application: [u8; 4],
        current_size: u64,
        rule: SizeRule,
    ) -> u64 {
        let by_geometry = match rule {
            SizeRule::Chs => true,
            SizeRule::CurrentSize => false,
            SizeRule::ByCreator => {
                matches!(&creator_application, b"vpc " | b"qemu") && self != TOO_LARGE
            }
        };
        if by_geometry {
            self.bytes()
        } else {
            current_size
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(cylinders: u16, heads: u8, sectors_per_track: u8) -> Geometry {
        Geometry {
            cylinders,
            heads,
            sectors_per_track,
        }
    }

    #[test]
    fn the_algorithm_gives_the_measured_geometries() {
        // 1.5, measured on images of Windows and Virtual PC.
        assert_eq!(Geometry::of_size(4 << 20), geometry(120, 4, 17));
        assert_eq!(Geometry::of_size(10 << 20), geometry(301, 4, 17));
        let large = Geometry::of_size(136_365_211_648);
        assert_eq!(large, geometry(65278, 16, 255));
        assert_eq!(large.bytes(), 136_363_130_880);
        assert_eq!(Geometry::of_size(u64::MAX), TOO_LARGE);
        assert_eq!(Geometry::of_size(0), geometry(0, 4, 17));
    }

    #[test]
    fn the_geometry_never_reaches_past_the_size() {
        for shift in 0..42 {
            for extra in [0_u64, 512, 4096, 123 * 512] {
                let size = (1_u64 << shift) + extra;
                assert!(Geometry::of_size(size).bytes() <= size, "{size}");
            }
        }
    }

    #[test]
    fn the_creator_decides_which_size_counts() {
        // V-1, V-2
        let by = |creator: &[u8; 4], geometry: Geometry, rule| {
            geometry.visible_size(*creator, 4 << 20, rule)
        };
        let small = geometry(120, 4, 17);
        for creator in [b"vpc ", b"qemu"] {
            assert_eq!(by(creator, small, SizeRule::ByCreator), 4_177_920);
            assert_eq!(by(creator, TOO_LARGE, SizeRule::ByCreator), 4 << 20);
            assert_eq!(by(creator, small, SizeRule::CurrentSize), 4 << 20);
        }
        for creator in [
            b"win ",
            b"d2v\0",
            b"tap\0",
            b"CTXS",
            b"wa\0\0",
            b"qem2",
            b"\0\0\0\0",
            b"abcd",
            b"vs  ",
        ] {
            assert_eq!(by(creator, small, SizeRule::ByCreator), 4 << 20);
            assert_eq!(by(creator, small, SizeRule::Chs), 4_177_920);
        }
    }
}
