//! The worker makes an image: empty, as the child of another, or as a copy of one.
//!
//! The file is new and the caller removes it when this fails. A copy is written sparsely: what
//! reads zero in the source takes no space. The parent is opened alone and only asked.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use virtdisk::Code;
use virtdisk_disk::work::{self, Job, Stopped};
use virtdisk_disk::{CreateOptions, Disk, Format, Kind, NewParent, OpenOptions};

use crate::parents::Given;
use crate::question::{Answer, Base, Create, Open, Refusal, UseAs, format_of};
use crate::worker::{refusal, take};

/// Opens an image with the parents that came along.
pub fn open(asked: &Open, file: File, parents: Vec<OwnedFd>) -> Result<Disk, Refusal> {
    let options = options(asked);
    let disk = if asked.alone {
        Disk::open_alone(file, &asked.name, &options)
    } else {
        let mut gate = Given::new(parents, &asked.parents);
        Disk::open_with(file, &asked.name, &options, &mut gate)
    };
    disk.map_err(|e| refusal(&e))
}

/// How an image is opened.
pub fn options(asked: &Open) -> OpenOptions {
    OpenOptions {
        writable: asked.writable,
        format: asked.format.as_deref().and_then(format_of),
        extension: asked.extension.clone(),
        ..OpenOptions::default()
    }
}

/// Makes the image that `asked` describes in the first of `fds`.
pub fn create(asked: &Create, mut fds: Vec<OwnedFd>) -> Result<Answer, Refusal> {
    let Some(format) = format_of(&asked.format) else {
        let what = "images of this format are not made here";
        return Err(no(&asked.name, Code::ERROR_NOT_SUPPORTED, what));
    };
    let file = File::from(take(&mut fds)?);
    let options = blank(asked, format);
    let Some(base) = &asked.base else {
        return write(asked, file, &options);
    };
    let from = open(&base.open, File::from(take(&mut fds)?), fds)?;
    match &base.use_as {
        UseAs::Source => copy_of(asked, file, options, &from),
        UseAs::Parent {
            relative_path,
            inherit,
        } => {
            let mut parent = from.as_parent(relative_path, "").map_err(|e| refusal(&e))?;
            if !inherit {
                parent.inherited.clear();
            }
            let options = child(asked, base, options, &from, parent)?;
            write(asked, file, &options)
        }
    }
}

/// What is created where there is no base.
fn blank(asked: &Create, format: Format) -> CreateOptions {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    CreateOptions {
        format,
        kind: match asked.fixed {
            true => Kind::Fixed,
            false => Kind::Dynamic,
        },
        virtual_size: asked.virtual_size,
        block_size: asked.block_size,
        logical_sector_size: asked.sector_size,
        physical_sector_size: asked.physical_sector_size,
        identifier: (!asked.identifier.is_nil()).then_some(asked.identifier),
        parent: None,
        created_unix: now.map_or(0, |since| since.as_secs()),
        sparse: asked.sparse,
    }
}

/// What is created as a child (R-CRE-10): size and sectors are the parent's, and the blocks where
/// the caller does not say and the format says so.
fn child(
    asked: &Create,
    base: &Base,
    options: CreateOptions,
    from: &Disk,
    parent: NewParent,
) -> Result<CreateOptions, Refusal> {
    let facts = from.facts();
    if facts.format != options.format || !matches!(facts.format, Format::Vhd | Format::Vhdx) {
        return Err(no(
            &base.open.name,
            Code::ERROR_VHD_INVALID_TYPE,
            &format!(
                "can't be the parent of a disk in the format {}",
                asked.format
            ),
        ));
    }
    let sectors = facts.logical_sector_size;
    if ![0, sectors].contains(&asked.sector_size) {
        let what = format!("the parent has sectors of {sectors} bytes, and so has its child");
        return Err(no(&asked.name, Code::ERROR_INVALID_PARAMETER, &what));
    }
    let block_size = match (options.block_size, facts.format) {
        (0, Format::Vhd) => facts.block_size,
        (size, _) => size,
    };
    let physical_sector_size = match asked.physical_sector_size {
        0 => facts.physical_sector_size,
        size => size,
    };
    Ok(CreateOptions {
        kind: Kind::Differencing,
        virtual_size: facts.virtual_size,
        block_size,
        logical_sector_size: sectors,
        physical_sector_size,
        parent: Some(parent),
        ..options
    })
}

/// Writes the empty image.
fn write(asked: &Create, file: File, options: &CreateOptions) -> Result<Answer, Refusal> {
    let written = Disk::create(file, &asked.name, options);
    written.map(|()| Answer::Done).map_err(|e| refusal(&e))
}

/// Makes an image with the bytes of `from` (R-CRE-11).
fn copy_of(
    asked: &Create,
    file: File,
    options: CreateOptions,
    from: &Disk,
) -> Result<Answer, Refusal> {
    let source_size = from.facts().virtual_size;
    let virtual_size = virtdisk::check::source_size(&asked.name, asked.virtual_size, source_size)
        .map_err(|failure| Refusal {
        code: failure.code,
        message: failure.message,
    })?;
    let options = CreateOptions {
        virtual_size,
        ..options
    };
    match work::convert(from, file, &asked.name, &options, &Job::new()) {
        Ok(()) => Ok(Answer::Done),
        Err(Stopped::Disk(error)) => Err(refusal(&error)),
        Err(stopped) => {
            let what = format!("the copy was stopped: {stopped}");
            Err(no(&asked.name, Code::ERROR_OPERATION_ABORTED, &what))
        }
    }
}

fn no(name: &str, code: Code, what: &str) -> Refusal {
    Refusal {
        code: code.0,
        message: format!("{name}: {what}"),
    }
}
