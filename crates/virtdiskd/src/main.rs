//! `virtdiskd`: the virtual disk service, and its workers.
//!
//! One binary, two roles: without a verb it is the broker that owns attachments; `virtdiskd
//! worker` is started by the broker alone. `virtdiskd node-owner` is what udev's rule asks.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use virtdiskd::{log, record, serve, worker};

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
    /// Prints user, group and mode of an attached disk's node, for udev's rule.
    #[command(hide = true)]
    NodeOwner {
        /// Name of the node, without its folder.
        node: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::NodeOwner { node }) = &arguments.role {
        return print_owner(&arguments.runtime_dir, node);
    }
    let worker = arguments.role.is_some();
    if !worker && !arguments.private {
        // The log lies in there; what is wrong with the directory is told by `run`.
        let _ = serve::prepare(&arguments.runtime_dir);
    }
    log::start(Some(arguments.runtime_dir.as_path()).filter(|_| !worker && !arguments.private));
    let done = match arguments.role {
        Some(_) => worker::run(),
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

/// Prints the owner of a node, or fails where the node is none of an attached disk.
fn print_owner(dir: &std::path::Path, node: &str) -> ExitCode {
    match record::node_owner(dir, node) {
        Some(owner) => {
            println!("{} {} {:04o}", owner.uid, owner.gid, owner.mode);
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}
