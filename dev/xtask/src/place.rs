//! Where things lie: the workspace, what cargo builds, scratch folders.
//!
//! May assume: cargo started us, so that our own executable lies in the profile folder of the
//! target directory. Promises: a [`Scratch`] folder is removed when it is dropped, on every way
//! out but a kill.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// Root folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Profile that cargo builds with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build; tests and demo.
    Dev,
    /// Quick to run; benches.
    Release,
}

/// Folder in which cargo puts the programs of `profile`.
pub(crate) fn built(profile: Profile) -> Result<PathBuf> {
    let ours = std::env::current_exe().context("where xtask itself lies")?;
    let target = ours
        .ancestors()
        .nth(2)
        .context("xtask does not lie in a target directory")?;
    Ok(target.join(match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    }))
}

/// A folder of our own below `parent`, removed with all it holds when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes `PARENT/virtdisk-NAME-PID-N`.
    pub(crate) fn new(parent: &Path, name: &str) -> Result<Scratch> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("virtdisk-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder)
            .with_context(|| format!("make the folder {}", folder.display()))?;
        Ok(Scratch(folder))
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("xtask: can't remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_is_where_the_root_manifest_is() {
        let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn scratch_folder_is_gone_after_use() {
        let scratch = Scratch::new(&std::env::temp_dir(), "place").unwrap();
        let folder = scratch.path().to_path_buf();
        std::fs::write(folder.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!folder.exists());
    }
}
