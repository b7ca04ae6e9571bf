//! Long work as a person sees it: a bar with rate and time left, and Ctrl-C.
//!
//! Promises: the bar is on stderr, and only where that is a terminal; SIGINT, SIGTERM and SIGHUP
//! tell the work to stop and are not deadly while it goes on, so that what it began is undone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use virtdisk_disk::work::{Job, Stopped};

use crate::failure::{Failure, Result};

/// How often the bar moves and a signal is looked for.
const TICK: Duration = Duration::from_millis(50);
/// What the bar says.
const TEMPLATE: &str = "{msg} {wide_bar:.cyan/dim} {percent:>3} %  {binary_bytes_per_sec}  {eta}";

/// Work that is watched: begun before the work makes anything that a signal would leave behind.
pub(crate) struct Watch {
    interrupted: Arc<AtomicBool>,
    bar: ProgressBar,
}

impl Watch {
    /// From here on signals only stop the work; the bar is called `name`.
    pub(crate) fn begin(name: &str) -> Result<Watch> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .map_err(|error| Failure::new(format!("signals can't be received: {error}")))?;
        }
        let bar = bar(name)?;
        Ok(Watch { interrupted, bar })
    }

    /// Does `work` and answers what it says.
    pub(crate) fn over<T: Send>(
        self,
        work: impl FnOnce(&Job) -> std::result::Result<T, Stopped> + Send,
    ) -> std::result::Result<T, Stopped> {
        let job = Job::new();
        let done = std::thread::scope(|scope| {
            let (alive, ended) = channel::<()>();
            let job = &job;
            let worker = scope.spawn(move || {
                let done = work(job);
                drop(alive);
                done
            });
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if self.interrupted.load(Ordering::Relaxed) {
                    job.cancel();
                }
                let progress = job.progress();
                self.bar.set_length(progress.total);
                self.bar.set_position(progress.done);
            }
            worker.join()
        });
        self.bar.finish_and_clear();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn bar(name: &str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template(TEMPLATE)
        .map_err(|error| Failure::new(format!("the progress bar is no good: {error}")))?;
    // Hidden by itself where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    Ok(bar
        .with_style(style)
        .with_message(crate::output::plain(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_drawn_and_the_work_s_result_comes_back() {
        let done = Watch::begin("a").unwrap().over(|_| Ok(7));
        assert_eq!(done.unwrap(), 7);
    }
}
