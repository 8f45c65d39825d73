//! The menu for a person who has stopped the countdown, or stays after the work.
//!
//! Here is what is shown and read; which key does what is decided by values without a terminal
//! ([`entries`], [`devices`], [`pager`]). Every console shows the same, and keys count from all.
//! Nothing is written while the menu is open, so Ctrl-Alt-Del restarts at once.

mod devices;
mod entries;
mod key_line;
mod pager;
mod shell;

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

use self::devices::DeviceList;
use self::entries::{Choice, Menu, Offer, Reaction};
use self::key_line::KeyLine;
use self::pager::Pager;
use super::import;
use super::look::Findings;
use super::say;
use super::task::{self, Decision, Newer, Task, Trust};
use crate::archive::RecoveryKey;
use crate::init::console::{Consoles, OnSerial};
use crate::init::keys::{Key, Keyboard};
use crate::init::{Machine, finish};
use crate::plan::{self, PlanError};
use crate::policy::Source;
use crate::report::{self, Detail, Line, Tone};
use crate::settings::{Finish, Mode};

/// Messages of the kernel that are shown at most.
const KERNEL_MESSAGES: usize = 5000;

/// Opens the menu, and comes back with what the person wants. `task` is what `apply` stands for.
pub(super) fn open(machine: &Machine, seen: &Findings, task: Task) -> Decision {
    finish::allow_ctrl_alt_del(true);
    let mut dialogue = Dialogue {
        keyboard: Keyboard::new(&machine.consoles),
        machine,
        seen,
    };
    let decision = dialogue.menu(task);
    finish::allow_ctrl_alt_del(false);
    decision
}

/// A person and the machine.
struct Dialogue<'m> {
    machine: &'m Machine,
    seen: &'m Findings,
    keyboard: Keyboard,
}

impl Dialogue<'_> {
    fn menu(&mut self, task: Task) -> Decision {
        let mut menu = Menu::new(self.offer(&task));
        loop {
            let (choice, console) = self.choose(&mut menu);
            let words = choice.words();
            self.say(&[Line::plain(format!("Menu     {words} ({console})"))]);
            match choice {
                Choice::Apply => {
                    self.show_again(&task);
                    return Decision::CarryOut(task);
                }
                Choice::LocalDisk => return Decision::LocalDisk,
                Choice::Reboot => return Decision::Leave(Finish::Reboot),
                Choice::PowerOff => return Decision::Leave(Finish::Poweroff),
                Choice::Devices => {
                    if let Some(task) = self.devices() {
                        return Decision::CarryOut(task);
                    }
                }
                Choice::Newest => {
                    if let Some(task) = self.newest() {
                        return Decision::CarryOut(task);
                    }
                }
                Choice::Restore => {
                    if let Some(task) = self.restoring() {
                        return Decision::CarryOut(task);
                    }
                }
                Choice::RecoveryKey => {
                    if let Some(key) = self.recovery_key() {
                        return Decision::LookWith(key);
                    }
                }
                Choice::Import => {
                    if let Some(task) = self.importing() {
                        return Decision::CarryOut(task);
                    }
                }
                Choice::Recipe => self.read(Pager::new(self.recipe())),
                Choice::Details => self.read(Pager::new(self.details(&task))),
                Choice::Log => self.read(Pager::new(self.log()).at_end()),
                Choice::Shell => self.shell(&console),
            }
            self.show_again(&task);
        }
    }

    fn offer(&self, task: &Task) -> Offer {
        let machine = self.machine;
        Offer {
            writing: machine.settings.mode != Mode::Inspect,
            plan: task.writes(),
            devices: !DeviceList::new(&task::judged(machine, self.seen)).is_empty(),
            import: import::is_there(machine, self.seen),
            recipe: !self.seen.recipe_pages().is_empty(),
            newest: plan::newest_cures(&self.seen.inventory),
            originals: [Newer::Stays, Newer::IsSetAside]
                .into_iter()
                .any(|newer| Task::restore(machine, self.seen, newer).writes()),
            shell: shell::is_there(&machine.root),
        }
    }

    fn choose(&mut self, menu: &mut Menu) -> (Choice, String) {
        loop {
            self.picture(&menu.lines(), &menu.status(), OnSerial::StatusOnly);
            let (key, console) = self.keyboard.next_key();
            if let Reaction::Chosen(choice) = menu.press(key) {
                return (choice, console);
            }
        }
    }

    /// The devices that a person chooses, and the plan for them, if it is confirmed.
    fn devices(&mut self) -> Option<Task> {
        let mut list = DeviceList::new(&task::judged(self.machine, self.seen));
        self.begin_page(&[
            Line::new(
                Tone::Title,
                "Which devices go back to ESXi, and which does it need?",
            ),
            Line::plain("A device without [x] stays passed through."),
            Line::plain("Number or Space: on, off.   Enter: make the plan.   q: back to the menu."),
            Line::empty(),
        ]);
        loop {
            self.picture(&list.lines(), &list.status(), OnSerial::StatusOnly);
            match list.press(self.keyboard.next_key().0) {
                devices::Reaction::None | devices::Reaction::Changed => {}
                devices::Reaction::Back => return None,
                devices::Reaction::Done => break,
            }
        }
        let Some(selection) = list.selection() else {
            self.pause("Nothing is chosen, so there is nothing to do.");
            return None;
        };
        let source = task::source(self.machine);
        self.planned(Task::revert(self.machine, self.seen, selection, source))
    }

    /// The newest archive of each disk for every bank of it, if it is confirmed.
    fn newest(&mut self) -> Option<Task> {
        let devices = self.machine.settings.devices.clone();
        let source = Source::Newest;
        self.planned(Task::revert(self.machine, self.seen, devices, source))
    }

    /// A plan that a person asked for, if there is one and it is confirmed.
    fn planned(&mut self, task: Result<Task, PlanError>) -> Option<Task> {
        match task {
            Ok(task) => self.confirmed(task),
            Err(error) => {
                self.pause(&error.to_string());
                None
            }
        }
    }

    /// The return to the originals, if it is confirmed. Where something newer is in place, a person is
    /// asked about that first.
    fn restoring(&mut self) -> Option<Task> {
        let task = Task::restore(self.machine, self.seen, Newer::Stays);
        let insisting = Task::restore(self.machine, self.seen, Newer::IsSetAside);
        if !insisting.plan.sets_aside() {
            return self.confirmed(task);
        }
        self.begin_page(&[Line::new(
            Tone::Title,
            "ESXi has saved its configuration since the repair",
        )]);
        self.say(&task.lines(self.seen));
        let consoles = &self.machine.consoles;
        consoles
            .status("d: restore the older one, keep the newer one as a copy. Any other key: no.");
        let key = self.keyboard.next_key().0;
        consoles.status("");
        match (key == Key::Character('d'), task.writes()) {
            (true, _) => self.confirmed(insisting),
            (false, true) => self.confirmed(task),
            (false, false) => None,
        }
    }

    /// The archive on the medium into the banks, if that is confirmed. Where it is not certain that it is of
    /// this host, a person is asked about that first.
    fn importing(&mut self) -> Option<Task> {
        let import = |trust| Task::import(self.machine, self.seen, trust);
        let (checked, vouched) = match (import(Trust::Checked), import(Trust::Vouched)) {
            (Ok(checked), Ok(vouched)) => (checked, vouched),
            (Err(error), _) | (_, Err(error)) => {
                self.pause(&error.to_string());
                return None;
            }
        };
        if checked.plan.banks_replaced() == vouched.plan.banks_replaced() {
            return self.confirmed(checked);
        }
        self.begin_page(&[Line::new(
            Tone::Title,
            "It is not certain that this archive is from this host",
        )]);
        self.say(&checked.lines(self.seen));
        let consoles = &self.machine.consoles;
        consoles.status("t: it is from this host, use it. Any other key: no.");
        let key = self.keyboard.next_key().0;
        consoles.status("");
        match (key == Key::Character('t'), checked.writes()) {
            (true, _) => self.confirmed(vouched),
            (false, true) => self.confirmed(checked),
            (false, false) => None,
        }
    }

    /// Shows a new plan and asks.
    fn confirmed(&mut self, task: Task) -> Option<Task> {
        self.begin_page(&[Line::new(Tone::Title, "The new plan")]);
        self.say(&task.lines(self.seen));
        if !task.writes() {
            self.pause("There is nothing to write.");
            return None;
        }
        let consoles = &self.machine.consoles;
        consoles.status("Carry this out? y: yes. Any other key: back to the menu.");
        let key = self.keyboard.next_key().0;
        consoles.status("");
        (key == Key::Character('y')).then_some(task)
    }

    fn pause(&mut self, why: &str) {
        self.say(&[Line::new(Tone::Warning, why)]);
        self.machine.consoles.status("Any key: back to the menu.");
        self.keyboard.next_key();
    }

    fn details(&self, task: &Task) -> Vec<Line> {
        let (inventory, host) = (&self.seen.inventory, Some(&self.seen.host));
        let mut lines = self.seen.overview(self.machine, Detail::Full);
        lines.extend(report::intentions(inventory, &task.plan, Detail::Full));
        lines.extend(report::explain(inventory, host, &task.plan));
        lines
    }

    /// The recovery key that a person types; every group has been checked.
    fn recovery_key(&mut self) -> Option<RecoveryKey> {
        self.begin_page(&[
            Line::new(Tone::Title, "The recovery key of this host"),
            Line::plain("Type its 96 digits; blanks and - may be left out. ESXi shows them by"),
            Line::plain("esxcli system settings encryption recovery list"),
            Line::plain("What is typed is not shown, not stored, and in no report."),
            Line::plain(
                "VMware does not document what this key opens. Whether it opens the archive",
            ),
            Line::plain("is checked before anything is written."),
            Line::empty(),
        ]);
        let mut line = KeyLine::new();
        let key = loop {
            self.picture(&line.lines(), &line.status(), OnSerial::StatusOnly);
            match line.press(self.keyboard.next_key().0) {
                key_line::Reaction::None | key_line::Reaction::Changed => {}
                key_line::Reaction::Back => break None,
                key_line::Reaction::Done(key) => break Some(key),
            }
        };
        self.keyboard.forget();
        key
    }

    fn recipe(&self) -> Vec<Line> {
        let title = "Sealed by the TPM: how ESXi on this host takes its controller back";
        let lines = self.seen.recipe_pages().into_iter().map(Line::plain);
        std::iter::once(Line::new(Tone::Title, title))
            .chain(lines)
            .collect()
    }

    fn log(&self) -> Vec<Line> {
        let mut lines = vec![Line::new(Tone::Title, "The kernel's messages")];
        lines.extend(kernel_messages(&self.machine.root));
        lines.push(Line::new(Tone::Title, "The output on the consoles"));
        lines.extend(self.machine.consoles.transcript().lines().map(Line::plain));
        lines
    }

    fn read(&mut self, mut pager: Pager) {
        self.begin_page(&[]);
        loop {
            self.picture(&pager.page(), &pager.status(), OnSerial::Again);
            loop {
                match pager.press(self.keyboard.next_key().0) {
                    pager::Reaction::None => {}
                    pager::Reaction::Turned => break,
                    pager::Reaction::Done => return,
                }
            }
        }
    }

    fn shell(&mut self, console: &str) {
        self.begin_page(&[Line::new(
            Tone::Title,
            format!("A shell on {console}; `exit` leads back to the menu"),
        )]);
        let consoles = &self.machine.consoles;
        consoles.drain(std::time::Duration::from_secs(1));
        let names = consoles.names().join(",");
        let ended = shell::run(&self.machine.root, console);
        // The shell's console has been hung up.
        consoles.replace_with(Consoles::open(&self.machine.root, Some(&names)));
        if let Err(error) = ended {
            self.pause(&format!("No shell on {console}: {error}"));
        }
        self.keyboard = Keyboard::new(&self.machine.consoles);
    }

    /// What was shown before the menu, because something else has taken its place.
    fn show_again(&self, task: &Task) {
        let mut lines = self.seen.overview(self.machine, Detail::Brief);
        lines.extend(task.lines(self.seen));
        lines.push(Line::empty());
        self.begin_page(&lines);
    }

    /// A fresh screen that begins with these lines, which are not new.
    fn begin_page(&self, lines: &[Line]) {
        self.machine.consoles.begin_page();
        self.machine.consoles.picture(lines, "", OnSerial::Again);
        self.machine.consoles.end_picture();
    }

    fn picture(&self, lines: &[Line], status: &str, on_serial: OnSerial) {
        self.machine.consoles.picture(lines, status, on_serial);
    }

    fn say(&self, lines: &[Line]) {
        say(self.machine, lines);
    }
}

/// What the kernel has to say of this start, as far as it still has it.
///
/// Source: Linux `Documentation/ABI/testing/dev-kmsg`: one message for each read.
fn kernel_messages(root: &Path) -> Vec<Line> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(root.join("dev/kmsg"));
    let Ok(mut file) = file else {
        return vec![Line::plain("They cannot be read.")];
    };
    let mut lines = Vec::new();
    let mut buffer = [0; 8192];
    // A failed read is the end, or a message that was dropped meanwhile.
    while let Ok(length) = file.read(&mut buffer) {
        if length == 0 || lines.len() == KERNEL_MESSAGES {
            break;
        }
        let message = String::from_utf8_lossy(&buffer[..length]);
        lines.extend(kernel_message(&message));
    }
    lines
}

/// Seconds since the start, and the text: `6,339,5140900,-;text`, with more lines behind it.
fn kernel_message(record: &str) -> Option<Line> {
    let (head, text) = record.split_once(';')?;
    let microseconds: u64 = head.split(',').nth(2)?.parse().ok()?;
    let text = text.lines().next().unwrap_or_default();
    let (seconds, rest) = (microseconds / 1_000_000, microseconds / 1000 % 1000);
    Some(Line::plain(format!("[{seconds:>5}.{rest:03}] {text}")).cut())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_kernel_are_shown_with_their_time() {
        let shown = |record| kernel_message(record).map(|line| line.text);
        assert_eq!(
            shown("6,339,5140900,-;NET: it\n SUBSYSTEM=acpi\n").as_deref(),
            Some("[    5.140] NET: it")
        );
        assert_eq!(
            shown("4,1,2,c,caller=T1;\\x1b[2Ja\u{1b}b").as_deref(),
            Some("[    0.000] \\x1b[2Ja\\u{1b}b")
        );
        for odd in ["", "6;x", "6,1,x,-;t", "no message"] {
            assert_eq!(shown(odd), None, "{odd:?}");
        }
    }
}
