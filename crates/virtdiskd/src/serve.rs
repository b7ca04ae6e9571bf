//! The broker's life: one per runtime directory, started on demand, gone when nothing is left.
//!
//! A lock file keeps a second broker of the same directory away. The socket comes from systemd,
//! is made here, or does not exist: a private broker gets its connections over the packet socket
//! that is its standard input, and ends with the process that holds the other end.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use rustix::process::{Resource, Rlimit};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use virtdisk::frame::SOCKET_NAME;

use crate::engine::Engine;
use crate::{packet, session};

/// How long a broker that comes second waits for the first to end or to accept.
const SECOND_PATIENCE: Duration = Duration::from_secs(4);
/// How often an idle broker looks whether it may end.
const LOOK: Duration = Duration::from_millis(100);

/// How to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Runtime directory.
    pub dir: PathBuf,
    /// Connections come over standard input.
    pub private: bool,
    /// Ends after this long without handle and attachment.
    pub idle: Duration,
}

/// Runs the broker until nothing is left to do.
///
/// # Errors
/// When the directory, the lock or the socket can't be had.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    raise_descriptor_limit();
    // A terminal's signals are not for the service; a session leader has none already.
    let _ = rustix::process::setsid();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    if settings.private {
        let dir = PrivateDirectory::make()?;
        let engine = start(&dir.0)?;
        runtime.block_on(local.run_until(serve_private(engine)))
    } else {
        prepare(&settings.dir)?;
        let Some(_lock) = lock(&settings.dir)? else {
            return Ok(());
        };
        let listener = Listening::open(&settings.dir)?;
        let engine = start(&settings.dir)?;
        engine.adopt();
        runtime.block_on(local.run_until(serve_socket(engine, listener, settings.idle)))
    }
}

/// An engine with its watch.
fn start(dir: &Path) -> anyhow::Result<Arc<Engine>> {
    for name in ["worker", "attachment"] {
        let path = dir.join(name);
        make_directory(&path, 0o700)?;
        // One that was there may have been made with another mask.
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
    }
    let engine = Engine::new(dir);
    engine.watch();
    Ok(engine)
}

/// Every disk and handle takes descriptors.
fn raise_descriptor_limit() {
    let mut limit: Rlimit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

/// Makes a directory, or takes one that is there.
fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// The runtime directory: made, ours, and writable by nobody else.
///
/// # Errors
/// When it is somebody else's, or others can write it.
pub fn prepare(dir: &Path) -> anyhow::Result<()> {
    let root = rustix::process::geteuid().is_root();
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    make_directory(dir, if root { 0o755 } else { 0o700 })?;
    let found = fs::symlink_metadata(dir)?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !ours || found.mode() & 0o022 != 0 {
        bail!(
            "{}: must be a directory that only this user can write",
            dir.display()
        );
    }
    Ok(())
}

/// The lock of a runtime directory; `None` when another broker serves it.
fn lock(dir: &Path) -> anyhow::Result<Option<File>> {
    let path = dir.join("lock");
    // Anybody who can open it could lock it, and keep the service from starting.
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)?;
    let deadline = Instant::now() + SECOND_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(e) => return Err(io::Error::from(e)).context(path.display().to_string()),
        }
        let accepts = UnixStream::connect(dir.join(SOCKET_NAME)).is_ok();
        if accepts || Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The listening socket, and whether it is ours to remove.
struct Listening {
    socket: UnixListener,
    path: Option<PathBuf>,
}

impl Listening {
    /// systemd's socket, or one of our own.
    fn open(dir: &Path) -> anyhow::Result<Self> {
        if let Some(socket) = activated() {
            socket.set_nonblocking(true)?;
            return Ok(Self { socket, path: None });
        }
        let path = dir.join(SOCKET_NAME);
        let socket = bind(&path)?;
        Ok(Self {
            socket,
            path: Some(path),
        })
    }
}

/// Makes the socket anew; the lock says that nobody listens on the old one.
fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let _ = fs::remove_file(path);
    // Bound under another name, so that nobody meets it before its mode is right.
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let socket = UnixListener::bind(&temporary).with_context(|| path.display().to_string())?;
    let mode = if rustix::process::geteuid().is_root() {
        0o666
    } else {
        0o600
    };
    fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, 4096)?;
    fs::rename(&temporary, path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The socket that systemd made, copied from the number it is passed under.
fn activated() -> Option<UnixListener> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let number = sd_notify::listen_fds().ok()?.next()?;
    let own = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let copy = pidfd_getfd(own, number, PidfdGetfdFlags::empty());
    match copy {
        Ok(fd) => Some(UnixListener::from(fd)),
        Err(error) => {
            tracing::error!("the socket that systemd passed: {error}");
            None
        }
    }
}

/// Accepts connections until nothing is left to do.
async fn serve_socket(
    engine: Arc<Engine>,
    listening: Listening,
    idle: Duration,
) -> anyhow::Result<()> {
    let mut listener = tokio::net::UnixListener::from_std(listening.socket)?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let open = Rc::new(Cell::new(0_usize));
    let mut quiet_since = Instant::now();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(&engine, stream.into_std()?, &open),
                Err(error) => {
                    // Out of descriptors: those that end will make room.
                    tracing::error!("accepting a connection: {error}");
                    tokio::time::sleep(LOOK).await;
                }
            },
            () = tokio::time::sleep(LOOK) => {}
        }
        if open.get() > 0 || !engine.is_idle() {
            quiet_since = Instant::now();
        } else if quiet_since.elapsed() >= idle {
            let Some(path) = &listening.path else {
                return Ok(());
            };
            match last_look(&listener, path)? {
                None => return Ok(()),
                Some(stream) => {
                    listener = tokio::net::UnixListener::from_std(bind(path)?)?;
                    admit(&engine, stream, &open);
                    quiet_since = Instant::now();
                }
            }
        }
    }
}

/// Takes the socket's name away; a client that was quicker is still served.
fn last_look(
    listener: &tokio::net::UnixListener,
    path: &Path,
) -> anyhow::Result<Option<UnixStream>> {
    fs::remove_file(path)?;
    match rustix::net::accept_with(
        listener.as_fd(),
        rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
    ) {
        Ok(fd) => Ok(Some(UnixStream::from(fd))),
        Err(_) => Ok(None),
    }
}

/// Serves one connection in a task of its own.
fn admit(engine: &Arc<Engine>, stream: UnixStream, open: &Rc<Cell<usize>>) {
    let (engine, open) = (Arc::clone(engine), Rc::clone(open));
    open.set(open.get() + 1);
    tokio::task::spawn_local(async move {
        if let Err(error) = session::serve(engine, stream).await {
            tracing::debug!("a connection ended: {error:#}");
        }
        open.set(open.get() - 1);
    });
}

/// Serves the connections that come over standard input.
async fn serve_private(engine: Arc<Engine>) -> anyhow::Result<()> {
    let control = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let (sender, mut receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("private".into())
        .spawn(move || receive_connections(&control, &sender))?;
    let open = Rc::new(Cell::new(0_usize));
    let mut owned = true;
    loop {
        tokio::select! {
            stream = receiver.recv(), if owned => match stream {
                Some(stream) => admit(&engine, stream, &open),
                None => {
                    owned = false;
                }
            },
            () = tokio::time::sleep(LOOK) => {}
        }
        if !owned && open.get() == 0 {
            // Nobody can reach this service any more.
            engine.end_all_lifetimes();
            if engine.is_idle() {
                return Ok(());
            }
        }
    }
}

/// Takes connections from the control socket until its other end is closed.
fn receive_connections(control: &OwnedFd, sender: &mpsc::UnboundedSender<UnixStream>) {
    loop {
        match packet::receive_fds(control.as_fd()) {
            Ok(Some(fds)) => {
                for fd in fds {
                    if sender.send(UnixStream::from(fd)).is_err() {
                        return;
                    }
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!("the control socket: {error}");
                return;
            }
        }
    }
}

/// A directory that is gone with the broker.
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    /// Makes it where temporary files go.
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("virtdiskd-{}", uuid::Uuid::new_v4()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
