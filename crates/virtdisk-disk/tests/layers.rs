//! A leaf and its parents as one disk, over images that are no format.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

use std::ops::ControlFlow;
use std::sync::Arc;

use virtdisk_disk::{Disk, ErrorKind, Place, Store, Stored};
use virtdisk_testkit::conformance::{self, must_agree};
use virtdisk_testkit::toy::{FlatImage, flat_disk};
use virtdisk_testkit::toy_child::ChildImage;
use virtdisk_testkit::{MemoryStore, Pages, Rng, SectorModel};

const MIB: u64 = 1 << 20;

type Parent = Stored<'static>;

/// A base of these bytes.
fn base(bytes: &[u8]) -> (Parent, Arc<MemoryStore>) {
    let memory = Arc::new(MemoryStore::from_bytes(bytes));
    let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&memory);
    let image = FlatImage::new(Arc::clone(&store), 0, bytes.len() as u64);
    ((Box::new(image), store, "base"), memory)
}

/// A layer between leaf and base.
fn middle(image: &ChildImage) -> Parent {
    (Box::new(image.clone()), image.store(), "middle")
}

fn over(leaf: &ChildImage, parents: Vec<Parent>) -> Disk {
    Disk::over_parents((Box::new(leaf.clone()), leaf.store(), "leaf"), parents)
}

/// The bytes of a base as a disk of another size must read them (P-10).
fn model(bytes: &[u8], size: u64) -> SectorModel {
    let mut model = SectorModel::new(size);
    let len = bytes.len().min(size as usize);
    model.write(&bytes[..len], 0);
    model
}

fn read(disk: &Disk, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0x5A; len];
    disk.read_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn a_leaf_over_parents_conforms() {
    let mut rng = Rng::announced("a_leaf_over_parents_conforms");
    for (sector, block) in [(512, 64 << 10), (4096, 1 << 20)] {
        let leaf = ChildImage::new(5 * MIB, sector, block);
        let (parent, memory) = base(&rng.bytes(3 * MIB as usize));
        let before = memory.to_vec();
        let between = ChildImage::new(6 * MIB, sector, block);
        let disk = over(&leaf, vec![middle(&between), parent]);
        conformance::run(&disk, &mut rng);
        assert!(memory.to_vec() == before, "a parent was written to");
        assert_eq!(
            between.parents_sectors() as u64,
            6 * MIB / u64::from(sector)
        );
    }
}

#[test]
fn bytes_come_from_the_nearest_layer_that_has_them() {
    // P-10, X-42
    let mut rng = Rng::announced("bytes_come_from_the_nearest_layer_that_has_them");
    for (size, base_size, middle_size) in [(4, 2, 8), (4, 8, 2), (2, 4, 4), (4, 4, 4)] {
        let bytes = rng.bytes((base_size * MIB) as usize);
        let between = ChildImage::new(middle_size * MIB, 512, 64 << 10);
        let mut wanted = model(&bytes, middle_size * MIB);
        let (parent, _) = base(&bytes);
        let disk = over(&between, vec![parent]);
        conformance::random_verbs(&disk, &mut wanted, &mut rng, 60);

        let leaf = ChildImage::new(size * MIB, 512, 64 << 10);
        let shown = wanted.read(0, (middle_size * MIB).min(size * MIB));
        let mut wanted = model(&shown, size * MIB);
        let (parent, _) = base(&bytes);
        let disk = over(&leaf, vec![middle(&between), parent]);
        must_agree(&disk, &wanted);
        conformance::random_verbs(&disk, &mut wanted, &mut rng, 60);
    }
}

#[test]
fn a_write_into_half_a_sector_keeps_the_parents_half() {
    let mut rng = Rng::announced("a_write_into_half_a_sector_keeps_the_parents_half");
    let bytes = rng.bytes(MIB as usize);
    for sector in [512_u64, 4096] {
        for (offset, len) in [
            (1, 1),
            (sector - 1, 2),
            (100, 3 * sector),
            (sector, 2 * sector),
            (sector, sector + 7),
            (MIB - 3, 3),
        ] {
            let leaf = ChildImage::new(MIB, sector as u32, 64 << 10);
            let (parent, _) = base(&bytes);
            let disk = over(&leaf, vec![parent]);
            let mut wanted = model(&bytes, MIB);
            let new = rng.bytes(len as usize);
            disk.write_at(&new, offset).unwrap();
            wanted.write(&new, offset);
            must_agree(&disk, &wanted);
            let own = (offset + len).div_ceil(sector) - offset / sector;
            let left = (MIB / sector - own) as usize;
            assert_eq!(leaf.parents_sectors(), left, "{len} bytes at {offset}");
            assert_eq!(leaf.completed(), 1);
        }
    }
}

#[test]
fn writers_of_one_sector_do_not_lose_each_others_bytes() {
    let mut rng = Rng::announced("writers_of_one_sector_do_not_lose_each_others_bytes");
    let bytes = rng.bytes(MIB as usize);
    let leaf = ChildImage::new(MIB, 4096, 64 << 10);
    let (parent, _) = base(&bytes);
    let disk = over(&leaf, vec![parent]);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let disk = &disk;
            scope.spawn(move || {
                for stripe in 0..128_u64 {
                    let offset = stripe * 4096 + thread * 1000;
                    disk.write_at(&[thread as u8 + 1; 900], offset).unwrap();
                }
            });
        }
    });
    let mut wanted = model(&bytes, MIB);
    for thread in 0..4_u64 {
        for stripe in 0..128_u64 {
            wanted.write(&[thread as u8 + 1; 900], stripe * 4096 + thread * 1000);
        }
    }
    must_agree(&disk, &wanted);
}

#[test]
fn a_trim_leaves_out_what_reads_zero_through_all_layers() {
    // V-35
    let mut bytes = vec![0; MIB as usize];
    bytes[300_000] = 1;
    let leaf = ChildImage::new(4 * MIB, 512, 64 << 10);
    let (parent, _) = base(&bytes);
    // The base is one run of data: only a layer between can say that it is zero.
    let between = ChildImage::new(4 * MIB, 512, 64 << 10);
    let quiet = over(&between, vec![parent]);
    quiet.trim(0, 256 << 10).unwrap();
    let (parent, _) = base(&bytes);
    let disk = over(&leaf, vec![middle(&between), parent]);
    for unmap in [true, false] {
        disk.zero(0, 256 << 10, unmap).unwrap();
        disk.zero(MIB, 3 * MIB, unmap).unwrap();
    }
    disk.trim(0, 256 << 10).unwrap();
    assert_eq!(leaf.trimmed(), 0, "what is zero was stored");
    // By whole blocks of the leaf, so that it can free them.
    disk.trim(0, 4 * MIB).unwrap();
    assert_eq!(leaf.trimmed(), 768 << 10);
    must_agree(&disk, &SectorModel::new(4 * MIB));
}

#[test]
fn a_trim_gives_whole_blocks_to_the_leaf_so_that_it_can_free_them() {
    let leaf = ChildImage::new(MIB, 512, 64 << 10);
    let between = ChildImage::new(MIB, 512, 64 << 10);
    let disk = over(&between, vec![base(&[9; 4096]).0]);
    disk.trim(0, MIB).unwrap();
    disk.write_at(&[1; 512], 100 << 10).unwrap();
    let (parent, _) = base(&[9; 4096]);
    let disk = over(&leaf, vec![middle(&between), parent]);
    disk.write_at(&[2; 512], 300 << 10).unwrap();
    disk.trim(1024, MIB - 1024).unwrap();
    // The one sector of block 1 and the one of block 4, each with the rest of its block.
    assert_eq!(leaf.trimmed(), 128 << 10);
    assert_eq!(read(&disk, 1024, 1 << 19), vec![0; 1 << 19]);
}

#[test]
fn zeros_over_the_parents_bytes_are_stored_and_halves_of_sectors_kept() {
    // V-35, X-42
    let mut rng = Rng::announced("zeros_over_the_parents_bytes_are_stored");
    let bytes = rng.bytes(8 * MIB as usize);
    for unmap in [false, true] {
        for (offset, len) in [
            (0, 8 * MIB),
            (1, 1),
            (100, 5000),
            (4000, 200),
            (8192, 4096),
            (777, 7 * MIB),
        ] {
            let leaf = ChildImage::new(8 * MIB, 4096, 64 << 10);
            let (parent, _) = base(&bytes);
            let disk = over(&leaf, vec![parent]);
            let mut wanted = model(&bytes, 8 * MIB);
            disk.write_at(&[7; 5000], 2000).unwrap();
            wanted.write(&[7; 5000], 2000);
            disk.zero(offset, len, unmap).unwrap();
            wanted.zero(offset, len);
            must_agree(&disk, &wanted);
        }
    }
}

#[test]
fn extents_say_which_layer_they_are_of() {
    let leaf = ChildImage::new(MIB, 512, 64 << 10);
    let between = ChildImage::new(MIB, 512, 64 << 10);
    let (parent, _) = base(&[9; 512 << 10]);
    over(&between, Vec::new())
        .write_at(&[1; 1024], 4096)
        .unwrap();
    let disk = over(&leaf, vec![middle(&between), parent]);
    disk.write_at(&[2; 512], 4096).unwrap();
    disk.trim(8192, 512).unwrap();
    let found = disk.extents(4000, MIB - 4000).unwrap();
    let found: Vec<(u64, u64, u32, bool)> = found
        .iter()
        .map(|extent| (extent.start, extent.len, extent.layer, extent.is_zero()))
        .collect();
    let wanted = [
        (4000, 96, 2, false),
        (4096, 512, 0, false),
        (4608, 512, 1, false),
        (5120, 3072, 2, false),
        (8192, 512, 0, true),
        (8704, (512 << 10) - 8704, 2, false),
        (512 << 10, 512 << 10, 2, true),
    ];
    assert_eq!(found, wanted);
    let first = disk.extents(4608, 1).unwrap()[0];
    assert_eq!(first.place, Place::Data { file_offset: 4608 });
    let names: Vec<String> = disk.layers().into_iter().map(|layer| layer.name).collect();
    assert_eq!(names, ["leaf", "middle", "base"]);
}

#[test]
fn a_walk_meets_every_extent_once_and_ends_when_told() {
    let leaf = ChildImage::new(16 * MIB, 512, 64 << 10);
    let (parent, _) = base(&[9; 8 << 20]);
    let disk = over(&leaf, vec![parent]);
    // Every second sector of a part is the leaf's: more extents than one look takes.
    for sector in (4096..20_000).step_by(2) {
        disk.write_at(&[1; 512], sector * 512).unwrap();
    }
    let mut next = 100;
    let mut extents = 0;
    let walked = disk.walk(100, 16 * MIB - 100, &mut |extent| {
        assert!(
            extent.start == next && extent.len > 0,
            "gap or overlap at {next}"
        );
        let (layer, zero) = match extent.start / 512 {
            sector @ 4096..20_000 if sector % 2 == 0 => (0, false),
            sector => (1, sector >= 16_384),
        };
        assert_eq!((extent.layer, extent.is_zero()), (layer, zero), "at {next}");
        // The disk may be used meanwhile.
        disk.read_at(&mut [0; 1], extent.start).unwrap();
        next = extent.end();
        extents += 1;
        ControlFlow::Continue(())
    });
    walked.unwrap();
    assert_eq!(next, 16 * MIB);
    assert!(extents > 15_900, "{extents}");
    let mut visits = 0;
    let walked = disk.walk(0, 16 * MIB, &mut |_| {
        visits += 1;
        ControlFlow::Break(())
    });
    walked.unwrap();
    assert_eq!(visits, 1);
    let outside = disk.walk(1, 16 * MIB, &mut |_| ControlFlow::Continue(()));
    assert_eq!(outside.unwrap_err().kind(), ErrorKind::OutOfRange);
}

#[test]
fn a_child_alone_never_takes_its_parents_bytes_for_zeros() {
    // P-6, V-8
    let leaf = ChildImage::new(MIB, 512, 64 << 10);
    let disk = over(&leaf, Vec::new());
    assert!(disk.lacks_parent());
    disk.write_at(&[1; 512], 512).unwrap();
    assert_eq!(read(&disk, 512, 512), [1; 512]);
    let missing = [
        disk.read_at(&mut [0; 1024], 512),
        disk.write_at(&[2; 10], 2048),
        disk.write_at(&[2; 512], 1000),
    ];
    for answer in missing {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ParentMissing);
    }
    let extents = disk.extents(0, 2048).unwrap();
    let places: Vec<Place> = extents.iter().map(|extent| extent.place).collect();
    assert!(matches!(
        places[..],
        [Place::Parent, Place::Data { .. }, Place::Parent]
    ));
    assert!(extents.iter().all(|extent| extent.layer == 0));
    // Zeros are known without the parent.
    disk.trim(0, 2048).unwrap();
    assert_eq!(read(&disk, 0, 2048), [0; 2048]);
}

#[test]
fn an_error_of_a_parent_names_the_parent() {
    let leaf = ChildImage::new(MIB, 512, 64 << 10);
    let (parent, memory) = base(&[9; MIB as usize]);
    let disk = over(&leaf, vec![parent]);
    memory.cut(4096);
    let error = disk.read_at(&mut [0; 512], 8192).unwrap_err();
    assert_eq!(
        (error.kind(), error.file()),
        (ErrorKind::InvalidFileSize, "base")
    );
    assert_eq!(read(&disk, 0, 512), [9; 512]);
}

#[test]
fn a_chain_of_many_layers_is_read_to_its_base() {
    let (parent, _) = base(&[9; 64 << 10]);
    let layers: Vec<ChildImage> = (0..249)
        .map(|_| ChildImage::new(64 << 10, 512, 4096))
        .collect();
    let mut parents: Vec<Parent> = layers[1..].iter().map(middle).collect();
    parents.push(parent);
    let disk = over(&layers[0], parents);
    assert_eq!(read(&disk, 100, 60_000), vec![9; 60_000]);
    assert_eq!(disk.extents(0, 64 << 10).unwrap()[0].layer, 249);
}

#[test]
fn a_closed_disk_over_parents_refuses_everything() {
    let leaf = ChildImage::new(MIB, 512, 64 << 10);
    let (parent, _) = base(&[9; 4096]);
    let disk = over(&leaf, vec![parent]);
    disk.close().unwrap();
    let answers = [
        disk.read_at(&mut [0], 0),
        disk.write_at(&[0], 1),
        disk.trim(1, 1),
        disk.zero(1, 1, false),
        disk.extents(0, 1).map(drop),
        disk.validate(),
        disk.touch(),
    ];
    for (verb, answer) in answers.into_iter().enumerate() {
        let kind = answer.err().map(|error| error.kind());
        assert_eq!(kind, Some(ErrorKind::WritesRefused), "verb {verb}");
    }
}

#[test]
fn a_disk_without_parents_has_one_layer() {
    let disk = flat_disk(Pages::zeroed(MIB));
    assert!(!disk.lacks_parent());
    assert_eq!(disk.layers().len(), 1);
    let extents = disk.extents(512, 4096).unwrap();
    assert_eq!((extents.len(), extents[0].layer), (1, 0));
    disk.touch().unwrap();
}
