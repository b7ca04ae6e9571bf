//! `vdisk map`: where the bytes of a disk lie.
//!
//! Promises: the ranges cover the disk without gaps, in order; memory does not grow with their
//! number. On a terminal a picture follows: how much of each part of the disk each layer holds.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::PathBuf;

use clap::{Args, ValueHint};
use virtdisk_disk::work::runs;
use virtdisk_disk::{Disk, LayerExtent, Place};

use crate::failure::{Failure, Result};
use crate::offline;
use crate::output::plain;
use crate::parents::Parents;
use crate::picture::Picture;
use crate::size;

/// Show where the bytes of a virtual disk lie.
///
/// Each line is a range of the disk: its start and length in bytes, whether it is data or zeros,
/// the layer that says so (0 is the image, 1 its parent), and where it begins in that file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vdisk map disk.vhdx                                       for people
  vdisk map disk.vhdx --json                                one JSON object
  vdisk map disk.vhdx --json | jq '.extents | length'       how many ranges")]
pub(crate) struct Map {
    /// The image
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    parents: Parents,
}

/// Prints the map.
pub(crate) fn run(verb: &Map) -> Result<()> {
    let disk = offline::open(&verb.file, &verb.parents)?;
    let stdout = io::stdout();
    let picture = stdout.is_terminal() && !verb.json;
    let mut out = BufWriter::new(stdout.lock());
    let mut sheet = if verb.json {
        Sheet::json(&disk)
    } else {
        Sheet::table(&disk)
    };
    let mut totals = Picture::new(disk.facts().virtual_size);
    let mut write = |text: String| out.write_all(text.as_bytes()).map_err(unwritten);
    write(sheet.head())?;
    for run in runs(&disk) {
        let run = run?;
        totals.add(&run);
        write(sheet.line(&run))?;
    }
    write(sheet.tail())?;
    if picture {
        write(totals.draw(&names(&disk)))?;
    }
    out.flush().map_err(unwritten)
}

fn unwritten(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::closed_pipe(),
        _ => Failure::new(format!("standard output can't be written: {error}")),
    }
}

/// The files of the layers, the image first.
fn names(disk: &Disk) -> Vec<String> {
    disk.layers().into_iter().map(|layer| layer.name).collect()
}

/// How ranges are written.
struct Sheet {
    names: Vec<String>,
    virtual_size: u64,
    json: bool,
    /// Digits of the largest number.
    width: usize,
    lines: u64,
}

impl Sheet {
    fn table(disk: &Disk) -> Sheet {
        let virtual_size = disk.facts().virtual_size;
        Sheet {
            names: names(disk),
            virtual_size,
            json: false,
            width: virtual_size.to_string().len().max("LENGTH".len()),
            lines: 0,
        }
    }

    fn json(disk: &Disk) -> Sheet {
        Sheet {
            json: true,
            ..Sheet::table(disk)
        }
    }

    fn head(&self) -> String {
        if !self.json {
            let width = self.width;
            return format!(
                "{:>width$}  {:>width$}  STATE   LAYER  {:>width$}  FILE\n",
                "START", "LENGTH", "OFFSET"
            );
        }
        let layers = serde_json::json!(self.names);
        format!(
            "{{\n  \"virtual_size\": {},\n  \"layers\": {layers},\n  \"extents\": [",
            self.virtual_size
        )
    }

    fn line(&mut self, run: &LayerExtent) -> String {
        let first = self.lines == 0;
        self.lines += 1;
        let LayerExtent {
            start, len, layer, ..
        } = run;
        let (state, offset) = match run.place {
            Place::Data { file_offset } => ("data", Some(file_offset)),
            Place::Zero => ("zero", None),
            Place::Parent => ("parent", None),
        };
        if self.json {
            let comma = if first { "" } else { "," };
            let offset = offset.map_or("null".to_string(), |offset| offset.to_string());
            return format!(
                "{comma}\n    {{ \"start\": {start}, \"length\": {len}, \"state\": \"{state}\", \
                 \"layer\": {layer}, \"file_offset\": {offset} }}"
            );
        }
        let width = self.width;
        let offset = offset.map_or("-".to_string(), |offset| offset.to_string());
        let name = usize::try_from(*layer)
            .ok()
            .and_then(|layer| self.names.get(layer));
        let name = name.map_or("-".to_string(), |name| plain(name));
        format!(
            "{start:>width$}  {len:>width$}  {state:<6}  {layer:>5}  {offset:>width$}  {name}\n"
        )
    }

    fn tail(&self) -> String {
        if self.json {
            return "\n  ]\n}\n".to_string();
        }
        let ranges = if self.lines == 1 { "range" } else { "ranges" };
        format!(
            "{} {ranges}, {}\n",
            self.lines,
            size::show(self.virtual_size)
        )
    }
}
