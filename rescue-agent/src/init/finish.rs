//! The end: flush, let the consoles finish, restart or switch off. PID 1 must never return.

use std::thread;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::unistd::sync;

use super::console::Consoles;
use crate::settings::Finish;

/// How long the last lines may take to leave the machine.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How often a machine that will not stop is looked after.
const IDLE: Duration = Duration::from_secs(3600);

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
    sync();
    consoles.line(invitation);
    // From here on nothing can be interrupted, so that Ctrl-Alt-Del may act at once.
    let _ = set_cad_enabled(true);
    consoles.forget_keys();
    let _ = consoles.wait_key(None);
    leave(consoles, RebootMode::RB_AUTOBOOT)
}

fn leave(consoles: &Consoles, mode: RebootMode) -> ! {
    sync();
    consoles.drain(DRAIN_PATIENCE);
    let Err(error) = reboot(mode);
    consoles.line(&format!(
        "The machine did not stop by itself ({error}). Everything is written: switch it off."
    ));
    // PID 1 must not end: that would be a kernel panic.
    loop {
        thread::sleep(IDLE);
    }
}
