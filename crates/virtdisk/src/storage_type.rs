//! Storage types: a device id and the GUID of the vendor whose provider reads it.
//!
//! Numbers and GUIDs of Microsoft's provider are those of `virtdisk.h` (API sheet 2.1). Raw images
//! belong to a vendor of our own, so that no number of a future Windows can mean something else.

use std::path::Path;

use uuid::{Uuid, uuid};

/// `VIRTUAL_STORAGE_TYPE`: which provider reads an image (API sheet 1.23).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StorageType {
    /// `VIRTUAL_STORAGE_TYPE_DEVICE_*`.
    pub device_id: u32,
    /// `VIRTUAL_STORAGE_TYPE_VENDOR_*`.
    pub vendor_id: Uuid,
}

impl StorageType {
    /// `VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN`: find out.
    pub const DEVICE_UNKNOWN: u32 = 0;
    /// `VIRTUAL_STORAGE_TYPE_DEVICE_ISO`.
    pub const DEVICE_ISO: u32 = 1;
    /// `VIRTUAL_STORAGE_TYPE_DEVICE_VHD`.
    pub const DEVICE_VHD: u32 = 2;
    /// `VIRTUAL_STORAGE_TYPE_DEVICE_VHDX`.
    pub const DEVICE_VHDX: u32 = 3;
    /// `VIRTUAL_STORAGE_TYPE_DEVICE_VHDSET`.
    pub const DEVICE_VHDSET: u32 = 4;
    /// Raw image of [`StorageType::VENDOR_VIRTDISK`]. The number (the letters "re") lies far from
    /// Microsoft's small numbers; it means nothing under any other vendor.
    pub const DEVICE_RAW: u32 = 0x7265;

    /// `VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN`: find out.
    pub const VENDOR_UNKNOWN: Uuid = Uuid::nil();
    /// `VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT`: VHD, VHDX, VHD Set, ISO.
    pub const VENDOR_MICROSOFT: Uuid = uuid!("ec984aec-a0f9-47e9-901f-71415a66345b");
    /// Our own vendor: raw images.
    pub const VENDOR_VIRTDISK: Uuid = uuid!("0270623c-6b75-4def-93a4-e3b7ef3976f8");

    /// The service finds out: by content when opening, by extension when creating.
    pub const UNKNOWN: Self = Self::new(Self::DEVICE_UNKNOWN, Self::VENDOR_UNKNOWN);
    /// ISO 9660 or UDF image, read-only.
    pub const ISO: Self = Self::new(Self::DEVICE_ISO, Self::VENDOR_MICROSOFT);
    /// VHD.
    pub const VHD: Self = Self::new(Self::DEVICE_VHD, Self::VENDOR_MICROSOFT);
    /// VHDX.
    pub const VHDX: Self = Self::new(Self::DEVICE_VHDX, Self::VENDOR_MICROSOFT);
    /// VHD Set.
    pub const VHDSET: Self = Self::new(Self::DEVICE_VHDSET, Self::VENDOR_MICROSOFT);
    /// Raw image: the file's bytes are the disk's bytes.
    pub const RAW: Self = Self::new(Self::DEVICE_RAW, Self::VENDOR_VIRTDISK);

    /// A type from its two parts; says nothing about whether a provider knows it.
    #[must_use]
    pub const fn new(device_id: u32, vendor_id: Uuid) -> Self {
        Self {
            device_id,
            vendor_id,
        }
    }

    /// True when a provider exists for it, or when it asks to find out (R-PROV-5).
    #[must_use]
    pub fn is_known(self) -> bool {
        [
            Self::UNKNOWN,
            Self::ISO,
            Self::VHD,
            Self::VHDX,
            Self::VHDSET,
            Self::RAW,
        ]
        .contains(&self)
    }

    /// The type that a file name's extension stands for, in any case of letters: `vhd`, `avhd`,
    /// `vhdx`, `avhdx`, `vhds`, `iso`, `img`, `raw`. `None` for every other name (R-PROV-1).
    ///
    /// ```
    /// use virtdisk::StorageType;
    ///
    /// let storage_type = StorageType::from_extension("/images/disk.VHD".as_ref());
    /// assert_eq!(storage_type, Some(StorageType::VHD));
    /// ```
    #[must_use]
    pub fn from_extension(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "vhd" | "avhd" => Some(Self::VHD),
            "vhdx" | "avhdx" => Some(Self::VHDX),
            "vhds" => Some(Self::VHDSET),
            "iso" => Some(Self::ISO),
            "img" | "raw" => Some(Self::RAW),
            _ => None,
        }
    }
}

impl Default for StorageType {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microsoft_vendor_has_the_bytes_of_the_header() {
        let bytes: [u8; 16] = [
            0xEC, 0x4A, 0x98, 0xEC, 0xF9, 0xA0, 0xE9, 0x47, 0x90, 0x1F, 0x71, 0x41, 0x5A, 0x66,
            0x34, 0x5B,
        ];
        assert_eq!(StorageType::VENDOR_MICROSOFT.to_bytes_le(), bytes);
    }

    #[test]
    fn own_vendor_is_a_random_guid() {
        assert_eq!(StorageType::VENDOR_VIRTDISK.get_version_num(), 4);
        assert_eq!(
            StorageType::VENDOR_VIRTDISK.get_variant(),
            uuid::Variant::RFC4122
        );
    }

    // R-PROV-5
    #[test]
    fn mixed_up_types_are_unknown_to_every_provider() {
        assert!(StorageType::UNKNOWN.is_known() && StorageType::RAW.is_known());
        let mixed = [
            StorageType::new(StorageType::DEVICE_UNKNOWN, StorageType::VENDOR_MICROSOFT),
            StorageType::new(StorageType::DEVICE_VHD, StorageType::VENDOR_UNKNOWN),
            StorageType::new(StorageType::DEVICE_VHD, StorageType::VENDOR_VIRTDISK),
            StorageType::new(StorageType::DEVICE_RAW, StorageType::VENDOR_MICROSOFT),
            StorageType::new(5, StorageType::VENDOR_MICROSOFT),
        ];
        for storage_type in mixed {
            assert!(!storage_type.is_known(), "{storage_type:?}");
        }
    }

    // R-PROV-1
    #[test]
    fn extension_names_the_type_in_any_case() {
        for (name, storage_type) in [
            ("/a/b.VHD", Some(StorageType::VHD)),
            ("/a/b.avhdx", Some(StorageType::VHDX)),
            ("/a/b.vhds", Some(StorageType::VHDSET)),
            ("/a/b.Iso", Some(StorageType::ISO)),
            ("/a/b.img", Some(StorageType::RAW)),
            ("/a/b.txt", None),
            ("/a/vhd", None),
            ("/a/.vhd", None),
        ] {
            assert_eq!(
                StorageType::from_extension(Path::new(name)),
                storage_type,
                "{name}"
            );
        }
    }
}
