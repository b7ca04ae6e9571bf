//! Changing the file: not here yet.
//!
//! An image that is asked for writing is opened with a [`Writer`] that answers every change with
//! `UnsupportedFeature` and leaves the file as it is.

use super::map::Vhdx;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extents;
use crate::image::Ticket;

/// Who changes the file of an open image.
pub(crate) struct Writer;

fn not_yet() -> Error {
    Error::new(
        ErrorKind::UnsupportedFeature,
        "image",
        "is a VHDX, which is not written yet",
    )
}

impl Writer {
    pub(crate) fn reserve(
        &self,
        _image: &Vhdx,
        _start: u64,
        _len: u64,
        _out: &mut Extents,
    ) -> Result<Ticket> {
        Err(not_yet())
    }

    pub(crate) fn complete(&self, _image: &Vhdx, _ticket: Ticket) -> Result<()> {
        Err(not_yet())
    }

    pub(crate) fn touch(&self, _image: &Vhdx) -> Result<()> {
        Err(not_yet())
    }

    pub(crate) fn trim(&self, _image: &Vhdx, _start: u64, _len: u64) -> Result<()> {
        Err(not_yet())
    }

    pub(crate) fn flush(&self, image: &Vhdx) -> Result<()> {
        image
            .store
            .flush()
            .map_err(|error| Error::io("image", "cannot be made durable", error))
    }

    pub(crate) fn close(&self, image: &Vhdx) -> Result<()> {
        self.flush(image)
    }
}
