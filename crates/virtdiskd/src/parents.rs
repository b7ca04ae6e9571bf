//! The worker's two gates to parents, which are files that the broker sends and nothing else.
//!
//! One holds the files that came along with the image. The other asks the broker over the link,
//! for one parent after the other, and thereby the caller who opens the disk.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use virtdisk_disk::{Candidate, Gate, Need, Result};

use crate::code_map::code_of_kind;
use crate::packet;
use crate::question::{Answer, Link, NeedParent, Question, Refusal, format_name};

/// The files that came along, nearest parent first.
pub struct Given {
    files: VecDeque<Candidate>,
}

impl Given {
    /// Files and their names, in the same order.
    pub fn new(files: Vec<OwnedFd>, names: &[String]) -> Self {
        let name = |index: usize| names.get(index).cloned().unwrap_or_default();
        let files = files.into_iter().enumerate();
        Self {
            files: files
                .map(|(index, file)| Candidate {
                    file: File::from(file),
                    name: name(index),
                })
                .collect(),
        }
    }
}

impl Gate for Given {
    fn parent(&mut self, need: &Need<'_>) -> Result<Option<Candidate>> {
        // Each file stands for one layer: what was not taken has no successor.
        Ok(match need.rejected {
            [] => self.files.pop_front(),
            _ => None,
        })
    }
}

/// Asks over the link.
pub struct Asked<'a> {
    /// The link to the broker.
    pub link: &'a OwnedFd,
}

impl Gate for Asked<'_> {
    fn parent(&mut self, need: &Need<'_>) -> Result<Option<Candidate>> {
        let rejected = need.rejected.last().map(|last| Refusal {
            code: code_of_kind(last.kind).0,
            message: format!("{}: {}", last.name, last.reason),
        });
        let answer = Answer::NeedParent(NeedParent {
            depth: need.depth.saturating_sub(1),
            format: format_name(need.format).to_owned(),
            link: Link::new(need.link),
            rejected,
        });
        // A broker that is gone, or asks something else, has no parent to give.
        if packet::send(self.link.as_fd(), &answer, &[]).is_err() {
            return Ok(None);
        }
        let Ok(Some((Question::Parent(name), mut files))) =
            packet::receive::<Question>(self.link.as_fd())
        else {
            return Ok(None);
        };
        Ok(files.pop().map(|file| Candidate {
            file: File::from(file),
            name,
        }))
    }
}
