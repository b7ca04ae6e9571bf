//! The real images: every VHD and ISO of the corpus, read through the map, is the disk that its
//! table says, and reading it changes nothing.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use disk::{Disk, named, reading, writing};
use virtdisk_format::{Format, Kind, Place};
use virtdisk_testkit::corpus::{corpus_of, sample_named, sha256_of};
use virtdisk_testkit::{MemoryStore, Pages};

/// SHA-256 of the whole disk. Of zeros only the length counts, so that a large empty disk costs
/// what it holds.
fn hash(disk: &Disk) -> String {
    sha256_of(disk.size(), |buf, offset| disk.read_at(buf, offset)).unwrap()
}

fn extension(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

#[test]
fn every_vhd_and_iso_of_the_corpus_reads_as_its_table_says() {
    let names = [
        ("fat-parent.vhd", Format::Vhd, Kind::Fixed),
        ("ntfs-parent.vhd", Format::Vhd, Kind::Fixed),
        ("ntfs-fixed.vhd", Format::Vhd, Kind::Fixed),
        ("ntfs-dynamic.vhd", Format::Vhd, Kind::Dynamic),
        ("apple-test.iso", Format::Iso, Kind::Fixed),
        ("iso9660.iso", Format::Iso, Kind::Fixed),
    ];
    let corpus = match corpus_of(&names.map(|(name, ..)| name)) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    for (name, format, kind) in names {
        let sample = sample_named(name);
        let bytes = corpus.bytes(name);
        for options in [reading(), named(extension(name)), writing()] {
            let store = std::sync::Arc::new(MemoryStore::from_bytes(&bytes));
            let disk = Disk::open(store.clone(), &options).unwrap();
            let facts = disk.image.facts();
            assert_eq!((facts.format, facts.kind), (format, kind), "{name}");
            assert_eq!(facts.notices, [""; 0], "{name}");
            assert_eq!(disk.size(), sample.virtual_size, "{name}");
            assert_eq!(hash(&disk), sample.sha256, "{name}");
            disk.image.validate().unwrap();
            disk.image.close().unwrap();
            assert!(store.to_vec() == bytes, "{name} was changed");
        }
    }
}

#[test]
fn virtual_pcs_disk_has_the_size_of_its_geometry() {
    // V-1: 136363130880 bytes, all zeros; the hash of that many zeros is the table's (hashing them
    // takes minutes, so the map is asked instead).
    let corpus = match corpus_of(&["virtualpc-dynamic.vhd"]) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    let pages = Pages::from_bytes(&corpus.bytes("virtualpc-dynamic.vhd"));
    let disk = Disk::open_pages(&pages, &reading()).unwrap();
    assert_eq!(disk.size(), 136_363_130_880);
    assert_eq!(
        disk.size(),
        sample_named("virtualpc-dynamic.vhd").virtual_size
    );
    assert_eq!(disk.image.facts().creator, "vpc 1.0");
    let extents = disk.extents(0, disk.size()).unwrap();
    assert_eq!((extents.len(), extents[0].place), (1, Place::Zero));
    // It can be written, from its first to its last sector.
    let disk = Disk::open_pages(&pages, &writing()).unwrap();
    disk.write(&disk::pattern(4096, 1), disk.size() - 4096)
        .unwrap();
    assert!(disk.read(disk.size() - 4096, 4096).unwrap() == disk::pattern(4096, 1));
}

#[test]
fn blocks_are_added_where_windows_would_have_added_them() {
    // V-30: the footer of ntfs-dynamic.vhd stands where the next bitmap would.
    let corpus = match corpus_of(&["ntfs-dynamic.vhd"]) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    let bytes = corpus.bytes("ntfs-dynamic.vhd");
    let disk = Disk::open_pages(&Pages::from_bytes(&bytes), &reading()).unwrap();
    let physical = disk.image.physical().unwrap();
    assert_eq!(
        (physical.blocks_allocated, physical.data_aligned_4k),
        (2, true)
    );
    assert_eq!(physical.fragmentation_percent, Some(0));
    let (first, second) = (
        disk.extents(0, 1).unwrap()[0],
        disk.extents(2 << 20, 1).unwrap()[0],
    );
    assert_eq!(
        first.place,
        Place::Data {
            file_offset: 0x2000
        }
    );
    assert_eq!(
        second.place,
        Place::Data {
            file_offset: 0x20_3000
        }
    );
    assert_eq!(bytes.len(), 0x20_3000 + (2 << 20) + 4096);
}
