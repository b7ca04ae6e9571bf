//! `virtdiskd`: the virtual disk service, and its workers.
//!
//! One binary, two roles: without a verb it is the broker that owns attachments; `virtdiskd
//! worker` is started by the broker alone.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use virtdiskd::{log, serve, worker};

/// The virtual disk service. Started by the first client, or by systemd's socket.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory of the socket and of what is known of attachments.
    #[arg(long, value_name = "DIR", default_value = "/run/virtdisk")]
    runtime_dir: PathBuf,
    /// Serve the connections that come over the packet socket on descriptor 3, and end with it.
    #[arg(long)]
    private: bool,
    /// Seconds without handle and attachment after which the service ends.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    idle: u64,
    #[command(subcommand)]
    role: Option<Role>,
}

/// Roles other than the broker.
#[derive(Debug, Subcommand)]
enum Role {
    /// Parses and serves one image; started by the service alone.
    #[command(hide = true)]
    Worker,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let worker = arguments.role.is_some();
    if !worker && !arguments.private {
        // The log lies in there; what is wrong with the directory is told by `run`.
        let _ = serve::prepare(&arguments.runtime_dir);
    }
    log::start(Some(arguments.runtime_dir.as_path()).filter(|_| !worker && !arguments.private));
    let done = match arguments.role {
        Some(Role::Worker) => worker::run(),
        None => serve::run(&serve::Settings {
            dir: arguments.runtime_dir,
            private: arguments.private,
            idle: std::time::Duration::from_secs(arguments.idle),
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
