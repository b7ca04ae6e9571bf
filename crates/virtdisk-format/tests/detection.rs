//! What a file is taken for (formats sheet, sections 4 and 5): signatures, polyglots, names.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;

use disk::{Disk, named, pattern, reading, refusal, refused, writing};
use virtdisk_format::{ErrorKind, Format, Kind, OpenOptions, Place, probe};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::{MemoryStore, Pages};

const MIB: u64 = 1 << 20;

fn probed(file: &Pages, extension: Option<&str>) -> Result<Format, ErrorKind> {
    probe(&MemoryStore::from_pages(file.clone()), extension).map_err(|error| error.kind())
}

fn raw(len: u64) -> Pages {
    Pages::from_bytes(&pattern(len, 1))
}

/// A file of `len` bytes with a primary volume descriptor of that block size, and a terminator.
fn iso(len: u64, block_size: u16) -> Pages {
    let mut file = Pages::zeroed(len);
    file.write(b"\x01CD001\x01", 32768);
    file.write(&block_size.to_le_bytes(), 32768 + 128);
    file.write(&block_size.to_be_bytes(), 32768 + 130);
    file.write(b"\xFFCD001\x01", 34816);
    file
}

/// A pure UDF volume: recognition sequence and one anchor at that block.
fn udf(len: u64, anchor: u64) -> Pages {
    let mut file = Pages::zeroed(len);
    for (index, name) in [b"BEA01", b"NSR03", b"TEA01"].into_iter().enumerate() {
        file.write(name, 32769 + 2048 * index as u64);
    }
    let mut tag = [0; 16];
    tag[..4].copy_from_slice(&[2, 0, 3, 0]);
    tag[12..].copy_from_slice(&(anchor as u32).to_le_bytes());
    tag[4] = tag.iter().fold(0, |sum: u8, &byte| sum.wrapping_add(byte));
    file.write(&tag, anchor * 2048);
    file
}

fn forced(format: Format) -> OpenOptions {
    OpenOptions {
        format: Some(format),
        ..OpenOptions::default()
    }
}

#[test]
fn a_vhdx_is_one_whatever_it_is_called() {
    // Section 5, step 1.
    let mut file = raw(MIB);
    file.write(b"vhdxfile", 0);
    for name in ["vhdx", "vhd", "iso", "img", "avhdx"] {
        assert_eq!(probed(&file, Some(name)), Ok(Format::Vhdx));
        let error = refused(&file, &named(name));
        assert_eq!(error.kind(), ErrorKind::HeaderCorrupt);
        assert!(error.to_string().contains("VHDX"), "{error}");
    }
    let error = refused(&file, &forced(Format::Vhd));
    assert!(error.to_string().contains("VHDX"), "{error}");
    // Called VHDX and none: neither that nor a raw disk.
    assert_eq!(
        probed(&raw(MIB), Some("vhdx")),
        Err(ErrorKind::FormatUnknown)
    );
    assert_eq!(
        probed(&raw(MIB), Some("AVHDX")),
        Err(ErrorKind::FormatUnknown)
    );
}

#[test]
fn a_vhd_set_is_refused_by_name() {
    let mut signed = raw(MIB);
    signed.write(b"vhdxfile", 0);
    for file in [raw(260 << 10), signed] {
        let error = refused(&file, &named("vhds"));
        assert_eq!(error.kind(), ErrorKind::UnsupportedFeature);
        assert!(error.to_string().contains("VHD Set"), "{error}");
    }
}

#[test]
fn the_trailing_footer_makes_a_vhd_whatever_it_is_called() {
    // Section 5, step 2.
    let fixed = VhdBuilder::fixed(&pattern(MIB, 1)).build();
    let dynamic = VhdBuilder::dynamic(MIB, 65536).build();
    for name in [
        None,
        Some("vhd"),
        Some("img"),
        Some("iso"),
        Some("vhdx"),
        Some("vhds"),
    ] {
        assert_eq!(probed(&fixed, name), Ok(Format::Vhd));
        assert_eq!(probed(&dynamic, name), Ok(Format::Vhd));
    }
}

#[test]
fn a_damaged_end_does_not_make_a_dynamic_disk_raw() {
    // Section 5, step 3.
    let mut builder = VhdBuilder::dynamic(MIB, 65536);
    builder.block(0, &pattern(65536, 2));
    builder.write_footer = false;
    assert_eq!(probed(&builder.build(), Some("img")), Ok(Format::Vhd));
    builder.cut = Some(1536);
    assert_eq!(probed(&builder.build(), Some("img")), Ok(Format::Vhd));
    // The copy alone is no VHD: it may be anybody's first sector.
    builder.header().cookie = [0; 8];
    assert_eq!(probed(&builder.build(), Some("img")), Ok(Format::Raw));
    assert_eq!(
        refusal(&builder.build(), &named("vhd")),
        ErrorKind::FooterMissing
    );
}

#[test]
fn a_footer_with_a_wrong_checksum_is_a_damaged_vhd_and_not_a_raw_disk() {
    // V-3, section 5
    let mut builder = VhdBuilder::fixed(&pattern(MIB, 1));
    builder.footer.checksum = Some(1);
    assert_eq!(probed(&builder.build(), Some("img")), Ok(Format::Vhd));
    assert_eq!(
        refusal(&builder.build(), &writing()),
        ErrorKind::FooterChecksum
    );
    let mut builder = VhdBuilder::dynamic(MIB, 65536);
    builder.footer.checksum = Some(1);
    builder.write_footer = false;
    assert_eq!(
        refusal(&builder.build(), &writing()),
        ErrorKind::FooterChecksum
    );
}

#[test]
fn a_vhd_in_the_first_sectors_of_a_fixed_disk_is_the_guests_affair() {
    // Section 5, step 4.
    let mut inner = VhdBuilder::dynamic(64 << 10, 4096);
    inner.block(0, &pattern(4096, 5));
    let mut data = pattern(MIB, 1);
    let inner = inner.build().to_vec();
    data[..inner.len()].copy_from_slice(&inner);
    let disk = Disk::open_pages(&VhdBuilder::fixed(&data).build(), &writing()).unwrap();
    assert_eq!((disk.image.facts().kind, disk.size()), (Kind::Fixed, MIB));
    assert!(disk.read(0, MIB).unwrap() == data);
    // The same of a fixed one, and of an ISO.
    let inner = VhdBuilder::fixed(&pattern(512, 3)).build().to_vec();
    data[..1024].copy_from_slice(&inner);
    let disk = Disk::open_pages(&VhdBuilder::fixed(&data).build(), &reading()).unwrap();
    assert!(disk.read(0, MIB).unwrap() == data);
    let disc = iso(MIB, 2048).to_vec();
    let disk = Disk::open_pages(&VhdBuilder::fixed(&disc).build(), &named("iso")).unwrap();
    assert_eq!((disk.image.facts().format, disk.size()), (Format::Vhd, MIB));
}

#[test]
fn descriptors_make_a_disc_and_stray_ones_do_not() {
    // Section 5, step 5; section 4: "CD001" elsewhere is not enough.
    assert_eq!(probed(&iso(MIB, 2048), Some("img")), Ok(Format::Iso));
    assert_eq!(probed(&iso(MIB, 512), None), Ok(Format::Iso));
    for block_size in [0, 1, 2047, 4096, 32768] {
        assert_eq!(
            probed(&iso(MIB, block_size), None),
            Ok(Format::Raw),
            "{block_size}"
        );
    }
    for at in [0, 1, 32767, 32768, 32770, 34817, 40961] {
        let mut file = raw(MIB);
        file.write(b"CD001", at);
        assert_eq!(probed(&file, None), Ok(Format::Raw), "{at}");
    }
    // The orders disagree; a boot record alone; an unknown version.
    let mut file = iso(MIB, 2048);
    file.write(&[0, 4], 32768 + 130);
    assert_eq!(probed(&file, None), Ok(Format::Raw));
    let mut file = iso(MIB, 2048);
    file.write(&[0], 32768);
    assert_eq!(probed(&file, None), Ok(Format::Raw));
    let mut file = iso(MIB, 2048);
    file.write(&[2], 32768 + 6);
    assert_eq!(probed(&file, None), Ok(Format::Raw));
    // A boot record before the primary descriptor.
    let mut file = iso(MIB, 2048);
    let primary = file.to_vec()[32768..34816].to_vec();
    file.write(b"\x00CD001\x01EL TORITO SPECIFICATION", 32768);
    file.write(&primary, 34816);
    assert_eq!(probed(&file, None), Ok(Format::Iso));
    // Descriptors without end are not followed for ever.
    let mut file = Pages::zeroed(MIB);
    for index in 0..400 {
        file.write(b"\x02CD001\x01", 32768 + index * 2048);
    }
    assert_eq!(probed(&file, None), Ok(Format::Raw));
}

#[test]
fn a_udf_volume_needs_an_anchor() {
    for anchor in [256, 511, 255] {
        assert_eq!(probed(&udf(MIB, anchor), None), Ok(Format::Iso), "{anchor}");
    }
    assert_eq!(probed(&udf(MIB, 300), None), Ok(Format::Raw));
    let mut file = udf(MIB, 256);
    file.write(&[1], 256 * 2048 + 8);
    assert_eq!(
        probed(&file, None),
        Ok(Format::Raw),
        "the tag's sum is wrong"
    );
    // A bridge disc: UDF behind the ISO descriptors.
    let mut file = udf(MIB, 256);
    file.write(&iso(MIB, 2048).to_vec()[32768..36864], 32768);
    file.write(b"BEA01", 36865);
    assert_eq!(probed(&file, None), Ok(Format::Iso));
}

#[test]
fn a_dump_of_whole_cd_sectors_is_refused_by_name() {
    for header in [16, 24] {
        let mut file = Pages::zeroed(MIB);
        let sync = [0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0];
        file.write(&sync, 0);
        file.write(b"CD001", 16 * 2352 + header + 1);
        for options in [named("iso"), named("bin"), forced(Format::Iso)] {
            let error = refused(&file, &options);
            assert_eq!(error.kind(), ErrorKind::UnsupportedFeature);
            assert!(error.to_string().contains("2352"), "{error}");
        }
        file.write(&[1], 0);
        assert_eq!(probed(&file, None), Ok(Format::Raw));
    }
}

#[test]
fn a_disc_is_read_only_and_padded_to_its_sector() {
    let len = MIB - 1000;
    let disk = Disk::open_pages(&iso(len, 2048), &writing()).unwrap();
    let facts = disk.image.facts();
    assert_eq!(
        (facts.logical_sector_size, facts.physical_sector_size),
        (2048, 2048)
    );
    assert_eq!(facts.virtual_size, MIB);
    assert!(facts.read_only && disk.notices("no multiple of 2048"));
    assert_eq!(disk.image.whole(), None);
    assert_eq!(disk.read(len, 1000).unwrap(), [0; 1000]);
    assert_eq!(disk.extents(0, MIB).unwrap().len(), 2);
    assert_eq!(
        disk.write(&[0; 512], 0).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    assert_eq!(
        disk.image.trim(0, 512).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    disk.image.flush().unwrap();
    disk.image.validate().unwrap();
    let even = Disk::open_pages(&iso(MIB, 2048), &reading()).unwrap();
    assert_eq!(
        (even.image.whole(), even.image.facts().notices.len()),
        (Some(0), 0)
    );
    // A hybrid image says so.
    let mut hybrid = iso(MIB, 2048);
    hybrid.write(&[0x80], 446);
    hybrid.write(&[0x55, 0xAA], 510);
    assert!(
        Disk::open_pages(&hybrid, &reading())
            .unwrap()
            .notices("partition table")
    );
    // The descriptors changed under us.
    let store = Arc::new(MemoryStore::from_pages(iso(MIB, 2048)));
    let disk = Disk::open(store.clone(), &reading()).unwrap();
    store.poke(b"X", 32769);
    assert_eq!(
        disk.image.validate().unwrap_err().kind(),
        ErrorKind::IsoCorrupt
    );
    store.cut(MIB / 2);
    assert_eq!(
        disk.image.validate().unwrap_err().kind(),
        ErrorKind::InvalidFileSize
    );
}

#[test]
fn everything_else_is_raw_unless_its_name_says_otherwise() {
    // Section 5, step 6; R-PROV-1: the extension breaks ties only.
    for name in [None, Some("img"), Some("raw"), Some("bin"), Some("")] {
        assert_eq!(probed(&raw(MIB), name), Ok(Format::Raw));
    }
    for name in ["vhd", "VHD", "avhd", "vud"] {
        assert_eq!(probed(&raw(MIB), Some(name)), Ok(Format::Vhd));
        assert_eq!(refusal(&raw(MIB), &named(name)), ErrorKind::FooterMissing);
    }
    assert_eq!(refusal(&raw(MIB), &named("iso")), ErrorKind::IsoCorrupt);
    for len in [1, 7, 8, 511] {
        assert_eq!(probed(&raw(len), None), Ok(Format::Raw), "{len}");
    }
    assert_eq!(probed(&Pages::default(), None), Ok(Format::Raw));
    assert_eq!(
        refusal(&Pages::default(), &reading()),
        ErrorKind::InvalidSize
    );
}

#[test]
fn a_format_that_the_content_contradicts_is_refused() {
    // R-PROV-3
    let fixed = VhdBuilder::fixed(&pattern(MIB, 1)).build();
    assert_eq!(refusal(&fixed, &forced(Format::Iso)), ErrorKind::IsoCorrupt);
    assert_eq!(
        refusal(&raw(MIB), &forced(Format::Vhd)),
        ErrorKind::FooterMissing
    );
    assert_eq!(
        refusal(&raw(MIB), &forced(Format::Iso)),
        ErrorKind::IsoCorrupt
    );
    let disc = iso(MIB, 2048);
    assert_eq!(
        refusal(&disc, &forced(Format::Vhd)),
        ErrorKind::FormatUnknown
    );
    let disk = Disk::open_pages(&fixed, &forced(Format::Vhd)).unwrap();
    assert_eq!(disk.size(), MIB);
}

#[test]
fn a_file_that_is_two_things_can_be_opened_as_either_when_asked() {
    // S-12: an ISO with a VHD footer behind it.
    let file = VhdBuilder::fixed(&iso(MIB, 2048).to_vec()).build();
    let as_format = |format: Option<Format>| {
        let options = OpenOptions {
            format,
            ..OpenOptions::default()
        };
        let disk = Disk::open_pages(&file, &options).unwrap();
        (
            disk.image.facts().format,
            disk.size(),
            disk.image.facts().notices.len(),
        )
    };
    assert_eq!(as_format(None), (Format::Vhd, MIB, 0));
    assert_eq!(as_format(Some(Format::Vhd)), (Format::Vhd, MIB, 0));
    assert_eq!(as_format(Some(Format::Iso)).0, Format::Iso);
    assert_eq!(as_format(Some(Format::Raw)), (Format::Raw, MIB + 512, 1));
    // A VHDX signature in front of a VHD footer.
    let mut data = pattern(MIB, 1);
    data[..8].copy_from_slice(b"vhdxfile");
    let file = VhdBuilder::fixed(&data).build();
    assert_eq!(refusal(&file, &reading()), ErrorKind::HeaderCorrupt);
    let disk = Disk::open_pages(&file, &forced(Format::Vhd)).unwrap();
    assert!(disk.read(0, MIB).unwrap() == data);
    let disk = Disk::open_pages(&file, &forced(Format::Raw)).unwrap();
    assert_eq!(disk.size(), MIB + 512);
}

#[test]
fn a_raw_file_of_odd_length_is_read_only_and_ends_in_zeros() {
    let data = pattern(MIB - 100, 1);
    let file = Pages::from_bytes(&data);
    let disk = Disk::open_pages(&file, &writing()).unwrap();
    assert_eq!((disk.size(), disk.image.whole()), (MIB, None));
    assert!(disk.image.facts().read_only && disk.notices("no multiple of 512"));
    assert!(disk.read(0, MIB - 100).unwrap() == data);
    assert_eq!(disk.read(MIB - 100, 100).unwrap(), [0; 100]);
    assert_eq!(
        disk.write(&[0; 512], 0).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
}

#[test]
fn a_raw_disk_is_written_in_place() {
    let store = Arc::new(MemoryStore::from_pages(raw(MIB)));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    let extent = disk.extents(4096, 8192).unwrap()[0];
    assert_eq!(extent.place, Place::Data { file_offset: 4096 });
    disk.write(&pattern(8192, 7), 4096).unwrap();
    disk.image.trim(65536, 4096).unwrap();
    disk.image.close().unwrap();
    assert_eq!(
        disk.write(&[0; 512], 0).unwrap_err().kind(),
        ErrorKind::WritesRefused
    );
    let mut wanted = pattern(MIB, 1);
    wanted[4096..12288].copy_from_slice(&pattern(8192, 7));
    wanted[65536..69632].fill(0);
    assert_eq!(store.to_vec(), wanted);
    let reader = Disk::open(store.clone(), &reading()).unwrap();
    assert_eq!(
        reader.write(&[0; 512], 0).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    store.cut(MIB - 512);
    assert_eq!(
        reader.image.validate().unwrap_err().kind(),
        ErrorKind::InvalidFileSize
    );
}
