//! A service that starts takes over what an earlier one left attached (design 2.4).
//!
//! Handles ended with the earlier service's connections, so only permanent attachments stay;
//! the others end as if their last handle had been closed, when nobody uses their device.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use virtdisk_disk::lock::Level;

use crate::attachment::{Attachment, Served, Stage};
use crate::chain::{ParentFile, Parents};
use crate::engine::Engine;
use crate::entry::{ImageFile, State, watch_worker};
use crate::packet;
use crate::record::{self, Record};
use crate::verb::open::receive;
use crate::worker_link::WorkerLink;

/// What a worker hands over.
struct Met {
    link: WorkerLink,
    image: ImageFile,
    served: Served,
    parents: Parents,
}

impl Engine {
    /// Takes over everything that is still attached.
    pub fn adopt(&self) {
        for record in record::all(&self.dir) {
            self.skip_numbers(record.serial);
            let serial = record.serial;
            let alive = record.device.as_ref().is_some_and(|d| d.is_ours());
            if !alive {
                record::remove(&self.dir, serial);
                if let Some(socket) = &record.socket {
                    let _ = std::fs::remove_file(socket);
                }
                continue;
            }
            match self.adopt_one(record) {
                Ok(()) => {}
                Err(error) => tracing::error!("attachment {serial} is lost: {error}"),
            }
        }
    }

    /// Takes over one attachment.
    fn adopt_one(&self, record: Record) -> io::Result<()> {
        let (worker, image, served, parents) = match &record.socket {
            None => (None, None, None, Parents::new()),
            Some(socket) => {
                let met = self.meet(&record, socket)?;
                (
                    Some(met.link),
                    Some(met.image),
                    Some(met.served),
                    met.parents,
                )
            }
        };
        let permanent = record.permanent && record.stage == Stage::Attached;
        let attachment = Attachment {
            serial: record.serial,
            device: record.device,
            partitions: record.partitions,
            served,
            read_only: record.read_only,
            permanent,
            attaching_handle: None,
            stage: record.stage,
            node_owner: record.node_owner,
            deaths: VecDeque::new(),
        };
        let state = State {
            id: record.id,
            ended: self.ended(),
            gone: false,
            file: record.file,
            open: record.open,
            owner: record.owner,
            image,
            parents,
            facts: record.facts,
            worker,
            handles: BTreeMap::new(),
            attachment: Some(attachment),
        };
        let entry = self.find_or_insert(state.id, || state);
        let mut state = entry.state.lock();
        // Its end was told while the disk was not in the table yet.
        if state.worker.as_ref().is_some_and(WorkerLink::has_ended) {
            state.worker = None;
            self.revive(&mut state);
        }
        if !permanent {
            self.end_lifetime(&mut state);
        }
        self.tidy(&entry, state);
        Ok(())
    }

    /// Meets a worker at its socket; it hands over image, connection, socket and parents.
    fn meet(&self, record: &Record, socket: &Path) -> io::Result<Met> {
        let link = packet::connect(socket)?;
        let (link, introduction, fds) = WorkerLink::adopt(link)?;
        let link = watch_worker(record.id, link, None, &self.ended())?;
        let mut fds = fds.into_iter();
        let (Some(image), Some(connection), Some(listener)) = (fds.next(), fds.next(), fds.next())
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let parent = |fd| match receive(fd) {
            Ok(received) => Ok(ParentFile::adopted(received, self.registry())),
            Err(failure) => Err(io::Error::new(io::ErrorKind::InvalidData, failure.message)),
        };
        let parents = fds.map(parent).collect::<io::Result<Parents>>()?;
        let image = ImageFile {
            file: Arc::new(image),
            writable: introduction.open.writable,
            level: if introduction.open.writable {
                Level::Write
            } else {
                Level::Read
            },
        };
        let served = Served {
            connection,
            listener,
            socket: socket.to_owned(),
            asked: introduction.serve,
        };
        Ok(Met {
            link,
            image,
            served,
            parents,
        })
    }
}
