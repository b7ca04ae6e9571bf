//! Differencing images in real files, and a gate that finds their parents as programs do.

#![allow(dead_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use virtdisk_disk::{
    Candidate, CreateOptions, Disk, Format, Gate, HintKind, Kind, Need, NewParent, OpenOptions,
    Rejected, Result,
};
use virtdisk_parent::{Finder, Hint, Policy};

/// A folder where a flush costs nothing, for tests with thousands of them.
pub(crate) fn quick_folder() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

pub(crate) fn options(writable: bool) -> OpenOptions {
    OpenOptions {
        writable,
        ..OpenOptions::default()
    }
}

pub(crate) fn file(path: &Path, writable: bool) -> File {
    let mut options = File::options();
    options.read(true).write(writable).open(path).unwrap()
}

/// What to create.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) format: Format,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) block: u32,
    /// Logical sector in bytes; 0 is 512.
    pub(crate) sector: u32,
}

impl Shape {
    pub(crate) fn create(self, path: &Path, parent: Option<NewParent>) {
        let new = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        let options = CreateOptions {
            format: self.format,
            kind: self.kind,
            virtual_size: self.size,
            block_size: self.block,
            logical_sector_size: self.sector,
            physical_sector_size: 0,
            identifier: None,
            created_unix: 1_800_000_000,
            sparse: true,
            parent,
        };
        Disk::create(new, &path.to_string_lossy(), &options).unwrap();
    }

    /// Creates the child of an image in the same folder.
    pub(crate) fn create_child(self, path: &Path, parent: &Path) {
        let open = Disk::open_alone(file(parent, false), "parent", &options(false)).unwrap();
        let name = parent.file_name().unwrap().to_str().unwrap();
        let parent = open.as_parent(&format!(r".\{name}"), &format!(r"C:\vm\{name}"));
        let parent = parent.unwrap();
        self.create(path, Some(parent));
    }
}

/// Finds parents by `virtdisk-parent`, and keeps what it was asked.
pub(crate) struct Found {
    policy: Policy,
    child: PathBuf,
    offered: PathBuf,
    look: Option<(u32, Finder)>,
    pub(crate) asked: Vec<(String, u32, Vec<Rejected>)>,
}

impl Found {
    pub(crate) fn new(child: &Path, policy: Policy) -> Self {
        Self {
            policy,
            child: child.to_owned(),
            offered: child.to_owned(),
            look: None,
            asked: Vec::new(),
        }
    }
}

impl Gate for Found {
    fn parent(&mut self, need: &Need<'_>) -> Result<Option<Candidate>> {
        let rejected = need.rejected.to_vec();
        self.asked
            .push((need.child.to_owned(), need.depth, rejected));
        if self
            .look
            .as_ref()
            .is_none_or(|(depth, _)| *depth != need.depth)
        {
            self.child.clone_from(&self.offered);
            let hint = |hint: &virtdisk_disk::ParentHint| (kind(hint.kind), hint.text.clone());
            let hints: Vec<_> = need.link.hints.iter().map(hint).collect();
            let hints: Vec<Hint<'_>> = hints
                .iter()
                .map(|(kind, text)| Hint { kind: *kind, text })
                .collect();
            self.look = Some((need.depth, Finder::new(&self.child, &hints, &self.policy)));
        }
        let found = self
            .look
            .as_mut()
            .and_then(|(_, finder)| finder.next_file());
        Ok(found.map(|(path, file)| {
            let name = path.to_string_lossy().into_owned();
            self.offered = path;
            Candidate { file, name }
        }))
    }
}

fn kind(kind: HintKind) -> virtdisk_parent::HintKind {
    match kind {
        HintKind::Relative => virtdisk_parent::HintKind::Relative,
        HintKind::Absolute => virtdisk_parent::HintKind::Absolute,
        HintKind::Volume => virtdisk_parent::HintKind::Volume,
        HintKind::Url => virtdisk_parent::HintKind::Url,
        HintKind::Name => virtdisk_parent::HintKind::Name,
    }
}

/// Opens an image with the parents that lie where it says.
pub(crate) fn open(path: &Path, writable: bool) -> Result<Disk> {
    let mut gate = Found::new(path, Policy::default());
    let name = path.to_string_lossy();
    Disk::open_with(file(path, writable), &name, &options(writable), &mut gate)
}

/// The bytes of files, to see that they did not change.
pub(crate) fn bytes_of(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}
