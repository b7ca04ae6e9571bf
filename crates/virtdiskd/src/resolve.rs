//! A chain in the making: a worker that has the leaf open for reading asks for its parents.
//!
//! It lives beside the table of disks, in the connection that asked, so that a caller who takes
//! its time keeps nobody else waiting. Nothing is locked and nothing written yet: the disk is
//! opened anew, with all files, once they are known.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use virtdisk::Code;
use virtdisk::frame::{NeededParent, ParentHint};

use crate::chain::{ParentFile, Parents, Registry};
use crate::entry::{FileId, start_worker};
use crate::failure::{Result, fail, system};
use crate::question::{Answer, NeedParent, Open, PARENTS_LIMIT, Question, Refusal};
use crate::verb::open::Received;
use crate::worker_link::WorkerLink;

/// Most files that one caller may offer for one chain.
const OFFERS_LIMIT: usize = 4096;

/// A worker that waits for the next parent.
#[derive(Debug)]
pub struct Resolving {
    link: WorkerLink,
    leaf: FileId,
    leaf_name: String,
    parents: Parents,
    need: NeedParent,
    offers: usize,
}

/// Where a chain is after a step.
#[derive(Debug)]
pub enum Progress {
    /// A parent is missing.
    Needs(Box<Resolving>),
    /// All are there.
    Complete(Parents),
}

impl Resolving {
    /// Opens the leaf in a worker of its own and sees what it needs.
    ///
    /// # Errors
    /// What the format says of the leaf, or what went wrong with the worker.
    pub fn begin(leaf: FileId, file: &Arc<OwnedFd>, open: &Open) -> Result<Progress> {
        let nobody: crate::entry::Ended = Arc::new(|_, _| {});
        let link = start_worker(leaf, &nobody).map_err(|e| system("starting a worker", &e))?;
        let question = Question::Resolve(Open {
            writable: false,
            alone: false,
            parents: Vec::new(),
            ..open.clone()
        });
        let answer = link
            .ask(&question, &[file.as_fd()])
            .map_err(|e| e.into_failure(&open.name))?;
        let (name, parents) = (open.name.clone(), Vec::new());
        Self::went(link, (leaf, name), parents, answer, 0)
    }

    /// Offers a file for the parent that is needed.
    ///
    /// # Errors
    /// 0xC03A0018 for a chain that is too long, 0xC03A000D when too many files were offered, and
    /// what went wrong with the worker.
    pub fn offer(
        mut self: Box<Self>,
        file: Received,
        registry: &Arc<Registry>,
    ) -> Result<Progress> {
        self.offers += 1;
        if self.offers > OFFERS_LIMIT {
            return Err(fail(
                Code::ERROR_VHD_PARENT_VHD_NOT_FOUND,
                format!("{}: too many files were tried as its parent", self.child()),
            ));
        }
        if self.parents.len() >= PARENTS_LIMIT {
            return Err(fail(
                Code::ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED,
                format!(
                    "{}: its chain has more than {PARENTS_LIMIT} parents",
                    self.leaf_name
                ),
            ));
        }
        if file.id == self.leaf || self.parents.iter().any(|parent| parent.id() == file.id) {
            self.need.rejected = Some(Refusal {
                code: Code::ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED.0,
                message: format!("{}: is in the chain already", file.name),
            });
            return Ok(Progress::Needs(self));
        }
        let question = Question::Parent(file.name.clone());
        let answer = self
            .link
            .ask(&question, &[file.file.as_fd()])
            .map_err(|e| e.into_failure(&self.leaf_name))?;
        self.parents.push(ParentFile::new(file, registry));
        let Self {
            link,
            leaf,
            leaf_name,
            parents,
            offers,
            ..
        } = *self;
        Self::went(link, (leaf, leaf_name), parents, answer, offers)
    }

    /// What an answer of the worker means. The parent offered last is in `parents`.
    fn went(
        link: WorkerLink,
        (leaf, leaf_name): (FileId, String),
        mut parents: Parents,
        answer: Answer,
        offers: usize,
    ) -> Result<Progress> {
        match answer {
            Answer::Facts(_) => Ok(Progress::Complete(parents)),
            Answer::NeedParent(need) => {
                let found = usize::try_from(need.depth).unwrap_or(usize::MAX);
                if found > parents.len() || parents.len() - found > 1 {
                    let nonsense = link.nonsense(&Answer::NeedParent(need));
                    return Err(nonsense.into_failure(&leaf_name));
                }
                parents.truncate(found);
                Ok(Progress::Needs(Box::new(Self {
                    link,
                    leaf,
                    leaf_name,
                    parents,
                    need,
                    offers,
                })))
            }
            other => Err(link.nonsense(&other).into_failure(&leaf_name)),
        }
    }

    /// Name of the file whose parent is needed.
    fn child(&self) -> &str {
        self.parents
            .last()
            .map_or(&self.leaf_name, |parent| parent.name())
    }

    /// What is needed, in the words of the interface.
    pub fn needed(&self) -> NeededParent {
        let link = &self.need.link;
        let hint = |(kind, text): &(String, String)| ParentHint {
            kind: kind.clone(),
            text: text.clone(),
        };
        let rejected = self.need.rejected.as_ref();
        NeededParent {
            depth: self.need.depth,
            child: self.child().to_owned(),
            format: self.need.format.clone(),
            identities: link.identities.iter().map(ToString::to_string).collect(),
            hints: link.hints.iter().map(hint).collect(),
            rejected_code: rejected.map_or(0, |refusal| refusal.code),
            rejected: rejected.map_or_else(String::new, |refusal| refusal.message.clone()),
        }
    }
}
