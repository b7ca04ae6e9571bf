//! One connection: a Varlink session whose calls all go to one handle.
//!
//! The only module that knows `zlink`. Each connection gets a server of its own with a
//! [`Session`] as its state, so that the end of the connection is the end of the handle. Calls
//! block (they talk to the kernel and to workers), so they run on the runtime's blocking
//! threads; the connections of all handles share one thread.

// zlink's macro makes public items without documents.
#![allow(missing_docs)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtdisk::Code;
use virtdisk::frame::{
    AttachReply, AttachRequest, AttachedDisk, CreateRequest, DetachReply, DetachRequest,
    EmptyRequest, Failure, Holder, Information, ListReply, NeededParent, OpenAttachedRequest,
    OpenParentRequest, OpenReply, OpenRequest, ParentHint, PathReply,
};
use zlink::connection::socket::FetchPeerCredentials;
use zlink::{ReadyListener, Server};

use crate::caller::{Caller, Peer};
use crate::engine::{Engine, HandleId, no_handle};
use crate::failure::fail;
use crate::limited::Limited;
use crate::verb::parent::{Opened, Pending, receive_parent};

/// The interface's only error.
#[derive(Debug, Clone, PartialEq, zlink::ReplyError, zlink::introspect::ReplyError)]
#[zlink(interface = "io.virtdisk")]
pub enum SessionError {
    /// See [`Failure`].
    Failed {
        /// The Windows code, never 0.
        code: u32,
        /// One sentence with the file's name.
        message: String,
        /// What to do next.
        hint: String,
        /// Who holds the device, for code 170.
        holders: Vec<Holder>,
    },
}

impl From<Failure> for SessionError {
    fn from(failure: Failure) -> Self {
        let Failure {
            code,
            message,
            hint,
            holders,
        } = failure;
        Self::Failed {
            code,
            message,
            hint,
            holders,
        }
    }
}

/// Result of a call.
type Answer<T> = Result<T, SessionError>;

/// What a call without an answer of its own says.
#[derive(Debug, Clone, Serialize, Deserialize, zlink::introspect::Type)]
pub struct Empty {}

/// The state of one connection.
pub struct Session {
    engine: Arc<Engine>,
    caller: Caller,
    peer: Peer,
    handle: Option<HandleId>,
    /// An open that waits for a parent.
    pending: Option<Box<Pending>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            let engine = Arc::clone(&self.engine);
            // Ending a handle may wait for the kernel.
            tokio::task::spawn_blocking(move || engine.close_handle(handle));
        }
    }
}

impl Session {
    /// Runs `work` where it may block.
    async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, &Caller) -> Result<T, Failure> + Send + 'static,
    ) -> Answer<T> {
        let (engine, caller) = (Arc::clone(&self.engine), self.caller.clone());
        match tokio::task::spawn_blocking(move || work(&engine, &caller)).await {
            Ok(answer) => answer.map_err(SessionError::from),
            Err(error) => {
                tracing::error!("a call broke: {error}");
                Err(fail(
                    Code::ERROR_GEN_FAILURE,
                    "the service broke while doing this",
                )
                .into())
            }
        }
    }

    /// The connection's handle.
    fn handle(&self) -> Answer<HandleId> {
        self.handle.ok_or_else(|| no_handle().into())
    }

    /// A connection has one handle at most.
    fn refuse_second(&self) -> Answer<()> {
        if self.handle.is_none() && self.pending.is_none() {
            return Ok(());
        }
        Err(fail(
            Code::ERROR_BAD_COMMAND,
            "this connection is a handle already; open another connection",
        )
        .into())
    }

    /// Keeps what an open became.
    fn keep(&mut self, opened: Opened) -> OpenReply {
        match opened {
            Opened::Handle(handle, reply) => {
                self.handle = Some(handle);
                reply
            }
            Opened::Pending(pending, reply) => {
                self.pending = Some(pending);
                reply
            }
        }
    }
}

/// The one descriptor that a call takes.
fn one(mut fds: Vec<OwnedFd>) -> Answer<OwnedFd> {
    match (fds.pop(), fds.is_empty()) {
        (Some(fd), true) => Ok(fd),
        _ => Err(fail(
            Code::ERROR_INVALID_PARAMETER,
            "this call takes exactly one file descriptor: the image",
        )
        .into()),
    }
}

#[zlink::service(
    interface = "io.virtdisk",
    vendor = "virtdisk",
    product = "virtdiskd",
    version = env!("CARGO_PKG_VERSION"),
    url = "https://github.com/virtdisk/virtdisk",
    types = [
        OpenRequest, OpenParentRequest, OpenAttachedRequest, CreateRequest, AttachRequest,
        DetachRequest, EmptyRequest, AttachedDisk, Holder, NeededParent, ParentHint
    ]
)]
impl Session {
    async fn open(
        &mut self,
        request: OpenRequest,
        #[zlink(fds)] fds: Vec<OwnedFd>,
    ) -> Result<OpenReply, SessionError> {
        self.refuse_second()?;
        let fd = one(fds)?;
        let opened = self
            .block(move |engine, _| engine.open(&request, fd))
            .await?;
        Ok(self.keep(opened))
    }

    async fn open_parent(
        &mut self,
        request: OpenParentRequest,
        #[zlink(fds)] fds: Vec<OwnedFd>,
    ) -> Result<OpenReply, SessionError> {
        let _ = request;
        let fd = one(fds)?;
        // What is no image file at all leaves the open as it is.
        let file = self.block(move |_, _| receive_parent(fd)).await?;
        let pending = match self.pending.take() {
            Some(pending) => pending,
            None => Box::new(Pending::of(self.handle()?)),
        };
        let opened = self
            .block(move |engine, _| engine.open_parent(*pending, file))
            .await?;
        Ok(self.keep(opened))
    }

    async fn open_attached(
        &mut self,
        request: OpenAttachedRequest,
    ) -> Result<OpenReply, SessionError> {
        self.refuse_second()?;
        let (handle, reply) = self
            .block(move |engine, caller| engine.open_attached(caller, &request))
            .await?;
        self.handle = Some(handle);
        Ok(reply)
    }

    async fn create(
        &mut self,
        request: CreateRequest,
        #[zlink(fds)] fds: Vec<OwnedFd>,
    ) -> Result<OpenReply, SessionError> {
        self.refuse_second()?;
        let peer = self.peer.clone();
        let opened = self
            .block(move |engine, _| engine.create(&request, fds, peer))
            .await?;
        Ok(self.keep(opened))
    }

    #[zlink(return_fds)]
    async fn attach(
        &mut self,
        request: AttachRequest,
    ) -> (Result<AttachReply, SessionError>, Vec<OwnedFd>) {
        let handle = match self.handle() {
            Ok(handle) => handle,
            Err(error) => return (Err(error), Vec::new()),
        };
        let made = self
            .block(move |engine, caller| engine.attach(caller, handle, &request))
            .await;
        match made {
            Ok((reply, raw)) => (Ok(reply), raw.into_iter().collect()),
            Err(error) => (Err(error), Vec::new()),
        }
    }

    async fn detach(&mut self, request: DetachRequest) -> Result<DetachReply, SessionError> {
        let handle = self.handle()?;
        self.block(move |engine, caller| engine.detach(caller, handle, &request))
            .await
    }

    async fn get_physical_path(
        &mut self,
        request: EmptyRequest,
    ) -> Result<PathReply, SessionError> {
        let _ = request;
        let handle = self.handle()?;
        self.block(move |engine, _| engine.physical_path(handle))
            .await
    }

    async fn get_information(
        &mut self,
        request: EmptyRequest,
    ) -> Result<Information, SessionError> {
        let _ = request;
        let handle = self.handle()?;
        self.block(move |engine, _| engine.information(handle))
            .await
    }

    async fn list_attached(&mut self, request: EmptyRequest) -> Result<ListReply, SessionError> {
        let _ = request;
        self.block(move |engine, caller| Ok(engine.list(caller)))
            .await
    }
}

/// Serves one connection until it ends.
///
/// # Errors
/// When the connection can't be served at all.
pub async fn serve(engine: Arc<Engine>, stream: UnixStream) -> anyhow::Result<()> {
    let peer_socket = stream.try_clone()?.into();
    let stream = zlink::tokio::unix::Stream::try_from(stream)?;
    let peer = stream.fetch_peer_credentials().await?;
    let gids: Vec<u32> = std::iter::once(peer.unix_primary_group_id())
        .chain(peer.unix_supplementary_group_ids().iter().copied())
        .map(|gid| gid.as_raw())
        .collect();
    let pidfd = peer.process_fd();
    let alive = || pidfd.is_none_or(is_alive);
    let pid = peer.process_id().as_raw_nonzero().get();
    let caller = Caller::new(peer.unix_user_id().as_raw(), &gids, pid, alive);
    let session = Session {
        engine,
        caller,
        peer: Peer::new(peer_socket),
        handle: None,
        pending: None,
    };
    Server::new(ReadyListener::new(Limited::new(stream)), session)
        .run()
        .await?;
    Ok(())
}

/// A pidfd becomes readable when its process has ended.
fn is_alive(pidfd: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut fds = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    let now = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
}
