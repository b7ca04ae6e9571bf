//! Over 200 images made here, over block sizes, sector sizes, sizes that end inside a block and
//! kinds of content: qemu-img compares and checks the plain ones, 7-Zip extracts all of them,
//! children with their parents too. And images of qemu-img over the same, read here.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use disk::{Disk, reading, writing};
use layered::{Layered, inherited};
use virtdisk_format::{CreateOptions, Format, Kind, NewParent, create};
use virtdisk_testkit::{MemoryStore, Pages, Rng, SectorModel, has_program};

const MIB: u64 = 1 << 20;

/// Threads that make and check images.
const WORKERS: usize = 2;

/// What is written into an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    /// The first and the last sector, and something in the middle.
    Sparse,
    /// Everything.
    Dense,
}

/// An image to be made.
#[derive(Clone, Copy, Debug)]
struct Shape {
    format: Format,
    kind: Kind,
    size: u64,
    block: u32,
    sector: u32,
    content: Content,
}

impl Shape {
    fn extension(&self) -> &'static str {
        if self.format == Format::Vhd {
            "vhd"
        } else {
            "vhdx"
        }
    }

    /// Whether QEMU reads it right (V-8, X-9).
    fn is_for_qemu(&self) -> bool {
        self.kind != Kind::Differencing && self.sector == 512
    }

    /// Whether 7-Zip reads it: of a VHDX it wants a multiple of eight sectors, which is a byte of a
    /// sector bitmap.
    fn is_for_seven_zip(&self) -> bool {
        self.format == Format::Vhd || self.size.is_multiple_of(8 * u64::from(self.sector))
    }
}

/// All shapes.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut add = |format, kind, block: u32, sector: u32, sizes: &[u64]| {
        for &size in sizes {
            for content in [Content::Nothing, Content::Sparse, Content::Dense] {
                let (sector, size) = (sector, size.next_multiple_of(sector.into()));
                shapes.push(Shape {
                    format,
                    kind,
                    size,
                    block,
                    sector,
                    content,
                });
            }
        }
    };
    let vhd_sizes = [3 * MIB, 4 * MIB + 512, 5 * MIB - 1536];
    add(Format::Vhd, Kind::Fixed, 0, 512, &vhd_sizes);
    for block in [64 << 10, 512 << 10, 1 << 20, 2 << 20] {
        add(Format::Vhd, Kind::Dynamic, block, 512, &vhd_sizes);
    }
    for block in [64 << 10, 512 << 10, 2 << 20] {
        add(Format::Vhd, Kind::Differencing, block, 512, &vhd_sizes[1..]);
    }
    for sector in [512, 4096] {
        let eighth = 8 * u64::from(sector);
        let sizes = match sector {
            512 => [MIB + 512, 3 * MIB, 4 * MIB + eighth, 6 * MIB - 512],
            _ => [MIB + eighth, 3 * MIB, 4 * MIB + eighth, 6 * MIB - eighth],
        };
        for block in [1 << 20, 2 << 20, 4 << 20, 32 << 20] {
            let sizes = if block == 32 << 20 {
                &sizes[..2]
            } else {
                &sizes[..]
            };
            add(Format::Vhdx, Kind::Dynamic, block, sector, sizes);
        }
        for block in [1 << 20, 2 << 20] {
            add(Format::Vhdx, Kind::Fixed, block, sector, &sizes[1..]);
            let sizes = [4 * MIB + eighth, 6 * MIB - eighth];
            add(Format::Vhdx, Kind::Differencing, block, sector, &sizes);
        }
    }
    shapes
}

/// Writes a file without its zeros.
fn save(pages: &Pages, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(pages.len()).unwrap();
    for at in (0..pages.len()).step_by(65536) {
        let mut piece = vec![0; 65536.min(pages.len() - at) as usize];
        assert!(pages.read(&mut piece, at));
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(&piece, at).unwrap();
        }
    }
}

/// Runs a program that must succeed; answers what it printed.
#[track_caller]
fn must(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = [
        &output.stdout[..output.stdout.len().min(500)],
        &output.stderr,
    ]
    .concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}

fn created(shape: &Shape, kind: Kind, parent: Option<NewParent>) -> Arc<MemoryStore> {
    let options = CreateOptions {
        format: shape.format,
        kind,
        virtual_size: shape.size,
        block_size: shape.block,
        logical_sector_size: shape.sector,
        physical_sector_size: if shape.format == Format::Vhd { 0 } else { 4096 },
        identifier: None,
        parent,
        created_unix: 1_700_000_000,
        sparse: true,
    };
    let store = Arc::new(MemoryStore::new());
    create(&*store, &options).unwrap();
    store
}

/// Fills an image, and the model beside it.
fn fill(layers: &Layered, model: &mut SectorModel, shape: &Shape, rng: &mut Rng) {
    let sector = u64::from(shape.sector);
    let mut write = |at: u64, len: u64| {
        let bytes = rng.bytes(len as usize);
        layers.write(&bytes, at).unwrap();
        model.write(&bytes, at);
    };
    match shape.content {
        Content::Nothing => {}
        Content::Sparse => {
            write(0, sector);
            write(shape.size - sector, sector);
            write(shape.size / 2 / sector * sector, 3 * sector);
        }
        Content::Dense => write(0, shape.size),
    }
}

/// Makes an image and its model; a child's parent is written beside it.
fn made(shape: &Shape, folder: &Path, rng: &mut Rng) -> (Pages, SectorModel) {
    let (mut base, mut parent) = (SectorModel::new(shape.size), None);
    if shape.kind == Kind::Differencing {
        let whole = Shape {
            content: Content::Dense,
            block: shape.block.max(512 << 10),
            ..*shape
        };
        let store = created(&whole, Kind::Dynamic, None);
        let layers = Layered::open(store.clone(), &writing(), &base).unwrap();
        fill(&layers, &mut base, &whole, rng);
        layers.disk.image.close().unwrap();
        let name = format!("base.{}", shape.extension());
        save(&store.pages(), &folder.join(&name));
        let again = Disk::open(store, &reading()).unwrap();
        parent = Some(NewParent {
            content_id: again.image.facts().content_id,
            modified_unix: 0,
            relative_path: format!(".\\{name}"),
            absolute_path: format!("C:\\vm\\{name}"),
            inherited: again.image.inherited().unwrap(),
        });
    }
    let mut model = inherited(&base, shape.size);
    let store = created(shape, shape.kind, parent);
    let layers = Layered::open(store.clone(), &writing(), &base).unwrap();
    fill(&layers, &mut model, shape, rng);
    layers.disk.image.close().unwrap();
    (store.pages(), model)
}

/// Makes one image and shows it to those that are there.
fn check(shape: &Shape, folder: &Path, rng: &mut Rng, qemu: bool, seven_zip: bool) {
    let (pages, model) = made(shape, folder, rng);
    let image = folder.join(format!("ours.{}", shape.extension()));
    let raw = folder.join("model.raw");
    save(&pages, &image);
    let (image, raw_name) = (image.to_str().unwrap(), raw.to_str().unwrap());
    let bytes = model.read(0, shape.size);
    if qemu && shape.is_for_qemu() {
        save(&Pages::from_bytes(&bytes), &raw);
        let format = if shape.format == Format::Vhd {
            "vpc"
        } else {
            "vhdx"
        };
        must(
            "qemu-img",
            &["compare", "-f", format, "-F", "raw", image, raw_name],
        );
        if shape.format == Format::Vhdx {
            must("qemu-img", &["check", "-f", "vhdx", image]);
        }
    }
    assert!(shape.is_for_qemu() || shape.is_for_seven_zip());
    if seven_zip && shape.is_for_seven_zip() {
        // Without -t it would go on into what it takes for the disk's own contents.
        let kind = format!("-t{}", shape.extension());
        let found = must("7z", &["x", "-so", &kind, image]);
        assert!(found == bytes, "{shape:?}: 7-Zip sees other bytes");
    }
}

#[test]
fn two_hundred_images_read_alike_in_qemu_and_seven_zip() {
    let (qemu, seven_zip) = (has_program("qemu-img"), has_program("7z"));
    let shapes = shapes();
    assert!(shapes.len() >= 200, "{}", shapes.len());
    let seed = Rng::announced("two_hundred_images").seed();
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let folder = tempfile::tempdir().unwrap();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(shape) = shapes.get(index as usize) else {
                        break;
                    };
                    let mut rng = Rng::new(seed ^ index);
                    let done = catch_unwind(AssertUnwindSafe(|| {
                        check(shape, folder.path(), &mut rng, qemu, seven_zip);
                    }));
                    if done.is_err() {
                        failed.lock().unwrap().push(shape);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} failed: {failed:#?}", failed.len());
    println!("{} images", shapes.len());
    if !qemu {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    if !seven_zip {
        virtdisk_testkit::skip!("7z (p7zip-full) is not installed");
    }
}

#[test]
fn vhdx_of_qemu_read_as_their_source() {
    //
    if !has_program("qemu-img") {
        virtdisk_testkit::skip!("qemu-img is not installed");
    }
    let mut rng = Rng::announced("vhdx_of_qemu_read_as_their_source");
    let folder = tempfile::tempdir().unwrap();
    let (raw, image) = (folder.path().join("a.raw"), folder.path().join("a.vhdx"));
    for size in [MIB, 3 * MIB + 512, 9 * MIB - 4096] {
        let mut source = Pages::zeroed(size);
        source.write(&rng.bytes(70_000), size / 3);
        source.write(&rng.bytes(4096), size - 4096);
        save(&source, &raw);
        let wanted = SectorModel::from_bytes(&source.to_vec());
        for subformat in ["fixed", "dynamic"] {
            for block in [1, 2, 8, 64] {
                let options = format!("subformat={subformat},block_size={}", block * MIB);
                let (raw, image) = (raw.to_str().unwrap(), image.to_str().unwrap());
                must(
                    "qemu-img",
                    &[
                        "convert", "-f", "raw", "-O", "vhdx", "-o", &options, raw, image,
                    ],
                );
                let file = Pages::from_bytes(&std::fs::read(image).unwrap());
                for open in [reading(), writing()] {
                    let disk = Disk::open_pages(&file, &open).unwrap();
                    assert_eq!(disk.size(), size, "{options}");
                    disk.must_be(&wanted);
                    disk.image.close().unwrap();
                }
            }
        }
    }
}
