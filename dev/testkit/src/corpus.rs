//! The corpus: real images made by Windows, Hyper-V and Virtual PC, unpacked for one test.
//!
//! The folder is `VIRTDISK_CORPUS`, or `../shared/corpus` beside the workspace. Files there are
//! gzip-compressed and never touched; a test works on the copy in its own temporary folder. The
//! table is that of the corpus' README: the SHA-256 is of the whole virtual disk as a reader must
//! see it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// One image of the corpus.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The file's name without `.gz`.
    pub name: &'static str,
    /// Size of the virtual disk in bytes.
    pub virtual_size: u64,
    /// SHA-256 of the virtual disk, in hexadecimal. For an ISO: of the file.
    pub sha256: &'static str,
}

/// Every image that the corpus' README lists.
pub const SAMPLES: [Sample; 18] = [
    sample(
        "fat-parent.vhd",
        4_194_304,
        "bbdb657bc5aa2fde44e2456149f9257a862cb84f4668e338b90e357b0fbdf118",
    ),
    sample(
        "fat-differential.vhd",
        4_194_304,
        "f4b61a33ee2f7e8c19f737792a4107e46340026a9a829e4169b751901cc3ef02",
    ),
    sample(
        "ntfs-parent.vhd",
        4_194_304,
        "c91d1766dd4b3327f33a082cbf958d3566dd84a3d71c2473a5ae6155e53171de",
    ),
    sample(
        "ntfs-differential.vhd",
        4_194_304,
        "b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144",
    ),
    sample(
        "ntfs-dynamic.vhd",
        4_194_304,
        "8b10b52e3d1e76075d05a5101a6536b9fa8376a5b8f7c22f502d0987d165c876",
    ),
    sample(
        "ntfs-fixed.vhd",
        4_194_304,
        "cd81fade3878f1b2957f1ece168201876bdf4e90c9b30f60c2f232eba5fea76c",
    ),
    sample(
        "fat-parent.vhdx",
        4_194_304,
        "2d1954fec68faefe81dd3687282a9b387bf8417f6d2cf0da3825fa1445b64cfb",
    ),
    sample(
        "fat-differential.vhdx",
        4_194_304,
        "a538161f34bc44c12bf9a542ce9218741c62728723ea18d0e4f6ea92e9f32e93",
    ),
    sample(
        "ntfs-parent.vhdx",
        4_194_304,
        "c5523065bc6ef82267be56c5f8888e2876ead8ba7edba2a65a3da8b076231b68",
    ),
    sample(
        "ntfs-differential.vhdx",
        4_194_304,
        "1ef1fb5360247aa7d36a38415bc7bf6e1e52f62af5e6bd1283815e82584c7efc",
    ),
    sample(
        "ntfs-dynamic.vhdx",
        4_194_304,
        "b92731f8e4bf3532418444d22a9086823a8122569500acd09cd8d2ce20eb98e9",
    ),
    sample(
        "ntfs-fixed.vhdx",
        4_194_304,
        "5237dd895f38052344e2ef35a207fe9df08cd18d17b6ea857a1b93cc475e1f2e",
    ),
    sample(
        "hyperv-btrfs.vhdx",
        1_073_741_824,
        "0b959f9cb4e18348ad8b646f152178282542c8304f02fddf765e3fd1a1de6864",
    ),
    sample(
        "hyperv-swap.vhdx",
        10_737_418_240,
        "60dd30b4c74361427d1089510cabb36e2eeda0cc4747f467ea43173acd358c49",
    ),
    sample(
        "virtualpc-dynamic.vhd",
        136_363_130_880,
        "2a4f06d5c9672ce7acfe68d55f16be1e1c96891af6a79eefe50eefae0cc5ae8d",
    ),
    sample(
        "windows8-dynamic.vhdx",
        1_073_741_824,
        "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478",
    ),
    sample(
        "apple-test.iso",
        362_496,
        "43f4639f885ffb030ac92341bb3ad04d14a7a30f0b9507b875e688001d90e408",
    ),
    sample(
        "iso9660.iso",
        366_592,
        "7b9d0c5fbd5a22458eeb2288f2076d65b3541c6e27df449f96e372270fce7720",
    ),
];

const fn sample(name: &'static str, virtual_size: u64, sha256: &'static str) -> Sample {
    Sample {
        name,
        virtual_size,
        sha256,
    }
}

/// The unpacked corpus; the folder goes away with the value.
pub struct Corpus {
    folder: TempDir,
}

/// Unpacks the whole corpus into a temporary folder.
///
/// # Errors
/// The reason for [`crate::skip!`]: there is no corpus, or no room for it.
pub fn corpus() -> Result<Corpus, String> {
    let names: Vec<&str> = SAMPLES.iter().map(|sample| sample.name).collect();
    corpus_of(&names)
}

/// Unpacks only these files.
///
/// # Errors
/// As [`corpus`].
pub fn corpus_of(names: &[&str]) -> Result<Corpus, String> {
    let source = corpus_folder();
    let folder = TempDir::with_prefix("virtdisk-corpus-").map_err(|error| error.to_string())?;
    for name in names {
        let packed = source.join(format!("{name}.gz"));
        unpack(&packed, &folder.path().join(name))
            .map_err(|error| format!("corpus file {}: {error}", packed.display()))?;
    }
    Ok(Corpus { folder })
}

/// Where the packed corpus is looked for.
#[must_use]
pub fn corpus_folder() -> PathBuf {
    match std::env::var_os("VIRTDISK_CORPUS") {
        Some(folder) => PathBuf::from(folder),
        // This crate stands in dev/testkit of the workspace.
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus"),
    }
}

fn unpack(packed: &Path, target: &Path) -> io::Result<()> {
    let mut reader = flate2::read::GzDecoder::new(File::open(packed)?);
    io::copy(&mut reader, &mut File::create(target)?)?;
    Ok(())
}

impl Corpus {
    /// The folder with the unpacked files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path of one unpacked file.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The bytes of one unpacked file.
    ///
    /// # Panics
    /// If the file was not unpacked.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        match std::fs::read(self.path(name)) {
            Ok(bytes) => bytes,
            Err(error) => panic!("{name} of the corpus: {error}"),
        }
    }
}

/// The row of the table with that name.
///
/// # Panics
/// If there is none.
#[must_use]
#[allow(clippy::panic)]
pub fn sample_named(name: &str) -> Sample {
    match SAMPLES.iter().find(|sample| sample.name == name) {
        Some(sample) => *sample,
        None => panic!("the corpus has no {name}"),
    }
}

/// SHA-256, in hexadecimal, of `size` bytes that `read` delivers piece by piece.
///
/// # Errors
/// The first error of `read`.
pub fn sha256_of<E>(
    size: u64,
    mut read: impl FnMut(&mut [u8], u64) -> Result<(), E>,
) -> Result<String, E> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < size {
        let len = (size - offset).min(piece.len() as u64) as usize;
        read(&mut piece[..len], offset)?;
        hash.update(&piece[..len]);
        offset += len as u64;
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
