//! The end: flush, let the consoles finish, restart or switch off. PID 1 must never return.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::unistd::sync;

use thiserror::Error;

use super::console::Consoles;
use crate::settings::Finish;

/// How long the last lines may take to leave the machine: the report of an ordinary host at 9600 baud.
/// A line that takes nothing at all is given up much sooner.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the disks may take to flush what is left.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a machine that will not stop is looked after.
const IDLE: Duration = Duration::from_secs(3600);

/// What does not do at the end what it is told.
#[derive(Debug, Error)]
pub(crate) enum Stuck {
    #[error("The machine did not stop by itself ({0}). Everything is written: switch it off.")]
    Machine(Errno),
    #[error("A disk does not answer any more; continuing without it.")]
    Disk,
}

/// Does what `how` says. Does not come back.
pub fn finish(consoles: &Consoles, how: Finish) -> ! {
    match how {
        Finish::Reboot => leave(consoles, RebootMode::RB_AUTOBOOT),
        Finish::Poweroff => leave(consoles, RebootMode::RB_POWER_OFF),
        Finish::Stay => halt_until_key(consoles, "Done. Press any key to restart."),
    }
}

/// Shows `invitation`, waits for a key as long as it takes, and restarts. Does not come back.
pub fn halt_until_key(consoles: &Consoles, invitation: &str) -> ! {
    allow_ctrl_alt_del(true);
    // Before the line is shown: who answers it at once must be heard.
    consoles.forget_keys();
    consoles.line(invitation);
    let _ = consoles.wait_key(None);
    leave(consoles, RebootMode::RB_AUTOBOOT)
}

/// Whether Ctrl-Alt-Del restarts the machine at once: only where nothing can be interrupted by it.
pub fn allow_ctrl_alt_del(allow: bool) {
    // What the kernel refuses here, it refuses to every program: then the keys do nothing.
    let _ = set_cad_enabled(allow);
}

fn leave(consoles: &Consoles, mode: RebootMode) -> ! {
    sync_with_timeout(consoles);
    consoles.drain(DRAIN_TIMEOUT);
    let Err(error) = reboot(mode);
    consoles.line(&Stuck::Machine(error).to_string());
    // PID 1 must not end: that would be a kernel panic.
    loop {
        thread::sleep(IDLE);
    }
}

/// Flushes what is left. The repair has flushed its own writes one by one, so that a disk which no
/// longer answers need not keep the machine from restarting.
fn sync_with_timeout(consoles: &Consoles) {
    let (done, finished) = mpsc::channel();
    let started = thread::Builder::new().spawn(move || {
        sync();
        // Whoever asked may have stopped waiting.
        let _ = done.send(());
    });
    // Without memory for a thread the kernel still flushes what it restarts from.
    if started.is_ok() && finished.recv_timeout(SYNC_TIMEOUT).is_err() {
        consoles.line(&Stuck::Disk.to_string());
    }
}
