//! Where the service is, and how a connection to it comes about.
//!
//! A connection is a handle. Three kinds of place: a runtime directory with a socket in it, whose
//! service is started on demand; a captive service of this process, reached over a socket pair;
//! and the default chain, which decides between them for every connection anew.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::process::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::code::Code;
use crate::error::{Error, Result};
use crate::frame::{AttachedDisk, EmptyRequest, ListReply, SOCKET_NAME, method};
use crate::parent::ParentPolicy;
use crate::path::absolute;
use crate::program::{self, Started, trusted_variable};
use crate::wire::Wire;

/// Runtime directory of the system's service.
const SYSTEM_DIRECTORY: &str = "/run/virtdisk";
/// How long a started service may take until it accepts.
const START_LIMIT: Duration = Duration::from_secs(5);
/// How long another service may take to accept after the one started here gave up.
const OTHER_LIMIT: Duration = Duration::from_millis(500);
/// Pause between two tries to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The captive service of the default chain: one for the whole process, so that two opens of one
/// image meet in one service.
static CAPTIVE: Mutex<Option<Arc<Captive>>> = Mutex::new(None);

/// A way to reach the service. Cheap to clone; holds no connection.
#[derive(Debug, Clone)]
pub struct Service {
    place: Place,
    /// Where the parents of differencing disks may lie.
    parents: Arc<ParentPolicy>,
}

#[derive(Debug, Clone)]
enum Place {
    /// The default chain.
    Default,
    /// A runtime directory.
    Directory(PathBuf),
    /// A service that serves whoever holds this.
    Captive(Arc<Captive>),
}

/// A service at the other end of a socket pair. It ends when this and every handle are closed and
/// nothing is attached.
#[derive(Debug)]
struct Captive {
    control: OwnedFd,
    program: PathBuf,
}

impl Service {
    /// The service a program should use: `$VIRTDISK_RUNTIME_DIR` when it is set; for root
    /// `/run/virtdisk`; for others `/run/virtdisk` when a service accepts there, else
    /// `$XDG_RUNTIME_DIR/virtdisk`, else a captive service of this process. Variables are ignored
    /// in programs with raised rights. Connects to nothing yet.
    #[must_use]
    pub fn find() -> Self {
        Self::over(Place::Default)
    }

    /// The service of a runtime directory, started there on demand.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self::over(Place::Directory(directory.to_owned()))
    }

    /// A new captive service, for scripts, tests and offline work. It is gone when this and all
    /// handles are closed and nothing is attached.
    ///
    /// ```no_run
    /// use virtdisk::{AccessMask, OpenOptions, Service};
    ///
    /// # fn main() -> virtdisk::Result<()> {
    /// let service = Service::private()?;
    /// let options = OpenOptions::with_access(AccessMask::GET_INFO);
    /// println!("{}", service.open("disk.vhd", &options)?.information()?.virtual_size);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// 1060 not installed, 1062 not startable, host errors.
    pub fn private() -> Result<Self> {
        Ok(Self::over(Place::Captive(Arc::new(Captive::start()?))))
    }

    fn over(place: Place) -> Self {
        Self {
            place,
            parents: Arc::default(),
        }
    }

    /// The same service; parents of differencing disks are looked for by this policy. Without it
    /// a parent lies in the folder of the disk that was named, or below it.
    #[must_use]
    pub fn with_parents(self, policy: ParentPolicy) -> Self {
        Self {
            parents: Arc::new(policy),
            ..self
        }
    }

    /// Where parents may lie.
    pub(crate) fn parents(&self) -> &ParentPolicy {
        &self.parents
    }

    /// Every attached disk the caller may see, in order of attachment.
    ///
    /// # Errors
    /// When the service can't be reached or talks nonsense.
    pub fn attached(&self) -> Result<Vec<AttachedDisk>> {
        let request = EmptyRequest::default();
        let wire = self.connect()?;
        let (_, reply): (_, ListReply) =
            self.begin(wire, method::LIST_ATTACHED, &request, &[], || true)?;
        Ok(reply.disks)
    }

    /// The first call on `wire`, a fresh connection. A service that ends just as it is called,
    /// because it was idle, is called once more when `repeatable` says that nothing happened yet.
    pub(crate) fn begin<Q: Serialize, R: DeserializeOwned>(
        &self,
        wire: Wire,
        method: &str,
        request: &Q,
        fds: &[BorrowedFd<'_>],
        repeatable: impl Fn() -> bool,
    ) -> Result<(Wire, R)> {
        match wire.call(method, request, fds, 0) {
            Ok((reply, _)) => Ok((wire, reply)),
            Err(error) if error.code() == Code::ERROR_BROKEN_PIPE && repeatable() => {
                let wire = self.connect()?;
                let (reply, _) = wire.call(method, request, fds, 0)?;
                Ok((wire, reply))
            }
            Err(error) => Err(error),
        }
    }

    /// A fresh connection, which becomes a handle.
    pub(crate) fn connect(&self) -> Result<Wire> {
        let stream = match &self.place {
            Place::Default => connect_default()?,
            Place::Directory(directory) => connect_or_start(directory)?,
            Place::Captive(captive) => captive.connect()?,
        };
        Ok(Wire::new(stream))
    }
}

fn connect_default() -> Result<UnixStream> {
    if let Some(directory) = trusted_variable("VIRTDISK_RUNTIME_DIR") {
        return connect_or_start(&directory);
    }
    let system = Path::new(SYSTEM_DIRECTORY);
    if geteuid().is_root() {
        return connect_or_start(system);
    }
    if let Ok(stream) = connect(&system.join(SOCKET_NAME)) {
        return Ok(stream);
    }
    let user = trusted_variable("XDG_RUNTIME_DIR");
    match user.filter(|directory| directory.is_absolute() && directory.is_dir()) {
        Some(directory) => connect_or_start(&directory.join("virtdisk")),
        None => connect_captive(),
    }
}

/// Through the process's captive service, which is started again when it has ended.
fn connect_captive() -> Result<UnixStream> {
    let mut held = CAPTIVE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(captive) = held.as_ref()
        && let Ok(stream) = captive.connect()
    {
        return Ok(stream);
    }
    let captive = held.insert(Arc::new(Captive::start()?));
    captive.connect()
}

/// Connects to the socket of a runtime directory; starts the service when nobody accepts there.
fn connect_or_start(directory: &Path) -> Result<UnixStream> {
    let directory = &absolute(directory)?;
    let socket = directory.join(SOCKET_NAME);
    let unreachable = |source: io::Error| {
        let message = format!(
            "{}: the virtual disk service can't be reached",
            socket.display()
        );
        let code = match source.kind() {
            io::ErrorKind::PermissionDenied => Code::ERROR_ACCESS_DENIED,
            io::ErrorKind::InvalidInput => Code::ERROR_INVALID_NAME,
            _ => Code::ERROR_SERVICE_NOT_ACTIVE,
        };
        Error::new(code, message).with_source(source)
    };
    match connect(&socket) {
        Ok(stream) => return Ok(stream),
        Err(error) if nobody_accepts(&error) => {}
        Err(error) => return Err(unreachable(error)),
    }
    let started = program::start(directory)?;
    let mut limit = Instant::now() + START_LIMIT;
    let mut ended = None;
    loop {
        match connect(&socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if !nobody_accepts(&error) => return Err(unreachable(error)),
            Err(error) if Instant::now() >= limit => {
                return Err(not_started(&started, ended.flatten(), directory, error));
            }
            Err(_) => {}
        }
        // It may have lost against a service started by somebody else at the same time.
        if ended.is_none() {
            ended = started.ended();
            if ended.is_some_and(|status| !status.is_some_and(|status| status.success())) {
                limit = limit.min(Instant::now() + OTHER_LIMIT);
            }
        }
        thread::sleep(RETRY_PAUSE);
    }
}

/// Connects, also when a signal comes in between.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn nobody_accepts(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn not_started(
    started: &Started,
    ended: Option<std::process::ExitStatus>,
    directory: &Path,
    source: io::Error,
) -> Error {
    let program = started.program.display();
    let message = match ended {
        Some(status) => format!("{program}: the service ended at once, {status}"),
        None => format!("{program}: the service does not accept connections"),
    };
    let hint = format!(
        "see why with: {program} --runtime-dir {}",
        directory.display()
    );
    Error::new(Code::ERROR_SERVICE_NOT_ACTIVE, message)
        .with_hint(hint)
        .with_source(source)
}

impl Captive {
    fn start() -> Result<Self> {
        let (control, theirs) = pair(SocketType::SEQPACKET)?;
        let started = program::start_private(theirs)?;
        Ok(Self {
            control,
            program: started.program,
        })
    }

    /// Makes a socket pair for a handle and sends one end over the control socket.
    fn connect(&self) -> Result<UnixStream> {
        let (ours, theirs) = pair(SocketType::STREAM)?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [theirs.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let iov = [io::IoSlice::new(&[0])];
        sendmsg(&self.control, &iov, &mut control, SendFlags::NOSIGNAL).map_err(|errno| {
            let message = format!("{}: the captive service has ended", self.program.display());
            Error::new(Code::ERROR_SERVICE_NOT_ACTIVE, message).with_source(io::Error::from(errno))
        })?;
        Ok(UnixStream::from(ours))
    }
}

fn pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::from_io("no socket pair for the service", io::Error::from(errno)))
}

/// The device as the service names it: symbolic links such as `/dev/disk/by-id/...` resolved.
pub(crate) fn real_device(device: &Path) -> PathBuf {
    fs::canonicalize(device).unwrap_or_else(|_| device.to_owned())
}
