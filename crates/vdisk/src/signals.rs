//! Waits for the end: of standard input, of a child, or by a signal.
//!
//! Promises: from [`Events::listen`] on, SIGINT, SIGTERM and SIGHUP no longer end the process but
//! arrive as events, so that a disk is detached before it ends; a child gets none of this.

use std::io::{self, Read as _};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{Failure, Result};

/// Something that ends the wait, or should be passed on.
#[derive(Debug)]
pub(crate) enum Event {
    /// A signal, by its number.
    Signal(i32),
    /// Standard input has ended.
    InputEnded,
    /// The child has ended.
    ChildEnded(io::Result<std::process::ExitStatus>),
}

/// Where events arrive.
pub(crate) struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Events {
    /// Begins to take signals as events.
    pub(crate) fn listen() -> Result<Events> {
        let (sender, receiver) = channel();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(|error| Failure::new(format!("signals can't be received: {error}")))?;
        let to = sender.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                if to.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        });
        Ok(Events { sender, receiver })
    }

    /// Also waits for the end of standard input. A standard input that was closed from the start
    /// has ended; what is written to it is thrown away.
    pub(crate) fn watch_input(&self) {
        let to = self.sender.clone();
        thread::spawn(move || {
            let mut input = io::stdin().lock();
            let mut buffer = [0; 4096];
            loop {
                match input.read(&mut buffer) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                }
            }
            drop(to.send(Event::InputEnded));
        });
    }

    /// Also waits for `child`.
    pub(crate) fn watch_child(&self, mut child: std::process::Child) {
        let to = self.sender.clone();
        thread::spawn(move || drop(to.send(Event::ChildEnded(child.wait()))));
    }

    /// The next event.
    pub(crate) fn next(&self) -> Event {
        // We hold a sender ourselves, so the channel never closes.
        self.receiver.recv().unwrap_or(Event::InputEnded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_child_is_an_event() {
        let events = Events::listen().unwrap();
        events.watch_child(std::process::Command::new("true").spawn().unwrap());
        loop {
            match events.next() {
                Event::ChildEnded(Ok(status)) => return assert!(status.success()),
                // The other test's: a signal comes to everybody in the process.
                Event::Signal(SIGHUP) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_signal_is_an_event() {
        let events = Events::listen().unwrap();
        signal_hook::low_level::raise(SIGHUP).unwrap();
        assert!(matches!(events.next(), Event::Signal(SIGHUP)));
    }
}
