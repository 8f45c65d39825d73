//! Machines to boot the artefacts in: QEMU's, in software emulation.
//!
//! The SATA controller of the board is 0000:00:1f.2. A reboot of the guest ends QEMU, unless told
//! otherwise, so that a test sees the disk as the guest left it. Every run has a deadline; one that misses it is ended by
//! force and fails with the end of its serial console. Only so many run at once, see `turns`.

mod bus;
mod firmware;
mod medium;
mod qmp;
mod turns;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::tools::find;
pub use bus::{Bus, Disk, drive};
pub use firmware::Firmware;
pub use medium::{CARD, Medium};
use qmp::Qmp;
use turns::Turn;

/// Time from power-on to the end that a machine gets unless told otherwise. A whole boot takes 7 to
/// 22 s alone on a slow machine; tests share it.
pub const DEADLINE: Duration = Duration::from_secs(480);

/// Memory unless told otherwise.
const MEMORY_MIB: u32 = 1024;

/// How often a running machine is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Lines of the serial console that a failure shows.
const TAIL_LINES: usize = 60;

/// What begins the report on the serial console.
const REPORT_BEGIN: &str = "-----BEGIN ESXI-RESCUE REPORT-----";

/// What ends it.
const REPORT_END: &str = "-----END ESXI-RESCUE REPORT-----";

/// What begins the last line of a run.
const RESULT: &str = "esxi-rescue: result=";

/// The board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// QEMU's `q35`: SATA, PCI Express.
    Q35,
    /// QEMU's `pc`, of 1996: IDE, PCI. BIOS only.
    Pc,
}

/// Where the serial console goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Console {
    /// To a file.
    File,
    /// To a file, and to our standard output for a person to watch.
    Shown,
    /// To a file, and a test may type at the other end of the line.
    Typed,
}

/// A machine to be started.
#[derive(Debug, Clone)]
pub struct Machine {
    firmware: Firmware,
    board: Board,
    medium: Option<Medium>,
    disks: Vec<Disk>,
    memory_mib: u32,
    deadline: Duration,
    console: Console,
    restarts: bool,
    counted: bool,
    variables: Option<PathBuf>,
    more: Vec<OsString>,
}

/// The feature that no processor of the tests has. After `cmpxchg16b`, QEMU 7.2 takes the flags from the operands of an
/// older instruction: its helper reads which instruction set them before the translator has stored that. Linux allocates
/// memory with `cmpxchg16b` if the processor has it. An interrupt at the next instruction makes the wrong flags permanent,
/// virtual-8086 mode among them, and the kernel ends with "PANIC: double fault" (`target/i386/tcg/translate.c`; QEMU 8.0
/// has no helper any more).
pub const PROCESSOR_WITHOUT: &str = "cx16";

/// The kernel's last words on a machine whose emulation stood still (`arch/x86/kernel/apic/io_apic.c`).
const KERNEL_WITHOUT_TIMER: &str = "IO-APIC + timer doesn't work";

impl Machine {
    /// A machine without any disk.
    pub fn new(firmware: Firmware) -> Self {
        Self {
            firmware,
            board: Board::Q35,
            medium: None,
            disks: Vec::new(),
            memory_mib: MEMORY_MIB,
            deadline: DEADLINE,
            console: Console::File,
            restarts: false,
            counted: false,
            variables: None,
            more: Vec::new(),
        }
    }

    /// Uses another board.
    #[must_use]
    pub fn board(mut self, board: Board) -> Self {
        self.board = board;
        self
    }

    /// Starts from this.
    #[must_use]
    pub fn medium(mut self, medium: Medium) -> Self {
        self.medium = Some(medium);
        self
    }

    /// Adds a disk of 512-byte sectors.
    #[must_use]
    pub fn disk(self, bus: Bus, image: &Path) -> Self {
        self.add_disk(Disk::new(bus, image))
    }

    /// Adds a disk.
    #[must_use]
    pub fn add_disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Sets its memory.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Sets the time it gets from power-on to its end.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Shows the serial console on standard output, too.
    #[must_use]
    pub fn shown(mut self) -> Self {
        self.console = Console::Shown;
        self
    }

    /// Lets the guest restart rather than end the machine with that.
    #[must_use]
    pub fn restarts(mut self) -> Self {
        self.restarts = true;
        self
    }

    /// Keeps QEMU after the guest's end, for [`Running::finish_counted`].
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// Keeps the variables of UEFI firmware in this file; a fresh store is made if there is none.
    #[must_use]
    pub fn variables(mut self, store: &Path) -> Self {
        self.variables = Some(store.to_owned());
        self
    }

    /// Lets a test type at the serial console.
    #[must_use]
    pub fn typed(mut self) -> Self {
        self.console = Console::Typed;
        self
    }

    /// Adds arguments of QEMU.
    #[must_use]
    pub fn args<I, S>(mut self, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.more.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Switches it on, after waiting until few enough others run.
    ///
    /// # Errors
    /// When QEMU or the firmware is missing, or QEMU refuses.
    pub fn start(&self) -> Result<Running> {
        self.start_with(&[])
    }

    /// Lets it go on from where [`Running::save`] stopped the same machine, with the disks as their
    /// images are now.
    ///
    /// # Errors
    /// As [`Machine::start`], and when the saved machine is another one.
    pub fn resume(&self, saved: &Path) -> Result<Running> {
        let from = format!("exec:cat {}", quoted(saved));
        let mut running = self.start_with(&["-incoming".into(), from.into()])?;
        running.wait_until("the saved machine", |running| {
            let status = running.command("query-status", json!({}))?;
            Ok(status["status"] == "paused")
        })?;
        running.command("cont", json!({}))?;
        Ok(running)
    }

    fn start_with(&self, more: &[OsString]) -> Result<Running> {
        self.start_in(Turn::wait(), more)
    }

    fn start_in(&self, turn: Turn, more: &[OsString]) -> Result<Running> {
        let folder = tempfile::Builder::new().prefix("vm-").tempdir()?;
        let errors = folder.path().join("qemu.err");
        let mut command = Command::new(find("qemu-system-x86_64")?);
        command.args(self.arguments(folder.path())?).args(more);
        command.stderr(File::create(&errors)?);
        let (input, output) = match self.console {
            Console::File => (Stdio::null(), Stdio::null()),
            Console::Shown => (Stdio::null(), Stdio::inherit()),
            Console::Typed => (
                Stdio::piped(),
                File::create(folder.path().join("serial"))?.into(),
            ),
        };
        command.stdin(input).stdout(output);
        let child = command.spawn().context("starting QEMU")?;
        let mut running = Running {
            machine: self.clone(),
            child,
            qmp: None,
            start: Instant::now(),
            folder,
            turn: Some(turn),
            may_start_again: true,
        };
        running.connect()?;
        Ok(running)
    }

    /// Switches it on and waits for its end.
    ///
    /// # Errors
    /// As [`Machine::start`] and [`Running::finish`].
    pub fn run(&self) -> Result<Finished> {
        self.start()?.finish()
    }

    fn arguments(&self, folder: &Path) -> Result<Vec<OsString>> {
        let mut arguments = Arguments::default();
        // Hardware acceleration is not there everywhere; whole boots are short enough without.
        // One thread for both processors: with a thread each, QEMU 7.2 lets one processor run into the breakpoint with
        // which the other one patches the kernel ("Oops: int3" in 3 of 100 boots of Linux 6.12).
        arguments.words("-nodefaults -no-user-config -accel tcg,thread=single -smp 2");
        arguments.pair("-cpu", format!("max,-{PROCESSOR_WITHOUT}"));
        arguments.words("-vga std -display none");
        arguments.words(if self.restarts { "" } else { "-no-reboot" });
        arguments.words(if self.counted { "-no-shutdown" } else { "" });
        arguments.words(match self.board {
            Board::Q35 => self.firmware.machine(),
            Board::Pc => "-machine pc",
        });
        arguments.pair("-m", self.memory_mib.to_string());
        arguments.pair(
            "-qmp",
            format!("unix:{},server=on,wait=off", escaped(&folder.join("qmp"))),
        );
        let serial = escaped(&folder.join("serial"));
        arguments.pair(
            "-chardev",
            match self.console {
                Console::File => format!("file,id=serial,path={serial}"),
                Console::Shown => format!("stdio,id=serial,signal=off,logfile={serial}"),
                // Not a socket with a log: what QEMU finds no room for in the socket is in the log
                // twice.
                Console::Typed => "stdio,id=serial,signal=off".to_owned(),
            },
        );
        arguments.words("-serial chardev:serial");
        let boot_uri = self.medium.as_ref().and_then(Medium::boot_uri);
        let variables = folder.join("variables.fd");
        let variables = self.variables.as_deref().unwrap_or(&variables);
        self.firmware.add(&mut arguments, variables, boot_uri)?;
        if let Some(medium) = &self.medium {
            medium.add(&mut arguments, self.board, self.firmware.is_uefi());
        }
        for (index, disk) in self.disks.iter().enumerate() {
            disk.add(&mut arguments, index);
        }
        arguments.list.extend(self.more.iter().cloned());
        Ok(arguments.list)
    }
}

#[derive(Debug, Default)]
struct Arguments {
    list: Vec<OsString>,
}

impl Arguments {
    fn words(&mut self, words: &str) {
        self.list
            .extend(words.split_whitespace().map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: String) {
        self.list.extend([option.into(), value.into()]);
    }
}

/// A path inside a comma-separated option of QEMU.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// A path as a word of the shell, which QEMU gives its commands to.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest rebooted.
    Rebooted,
    /// The guest switched it off.
    SwitchedOff,
    /// The guest crashed, or QEMU gave another reason.
    Other,
}

/// A machine that runs. Dropping it ends it by force, as a power cut would.
#[derive(Debug)]
pub struct Running {
    machine: Machine,
    child: Child,
    qmp: Option<Qmp>,
    start: Instant,
    folder: tempfile::TempDir,
    turn: Option<Turn>,
    /// Whether nobody has touched it, and this is its first start.
    may_start_again: bool,
}

/// What a machine left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub ending: Ending,
    /// Its serial console.
    pub serial: String,
    /// From power-on to the end.
    pub elapsed: Duration,
}

impl Running {
    fn connect(&mut self) -> Result<()> {
        let socket = self.folder.path().join("qmp");
        loop {
            if let Some(status) = self.child.try_wait()? {
                let errors = fs::read_to_string(self.folder.path().join("qemu.err"))?;
                bail!("QEMU ended at once with {status}:\n{errors}");
            }
            if let Some(qmp) = Qmp::connect(&socket)? {
                self.qmp = Some(qmp);
                return Ok(());
            }
            self.check_deadline("QEMU's monitor")?;
            thread::sleep(POLL);
        }
    }

    /// The serial console up to now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn serial(&self) -> Result<String> {
        match fs::read(self.folder.path().join("serial")) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).replace('\r', "")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).context("reading the serial console"),
        }
    }

    /// Waits until the serial console shows a text.
    ///
    /// # Errors
    /// When the machine ends or its deadline passes before.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        self.wait_for_after(0, text).map(drop)
    }

    /// Waits until the serial console shows a text beyond its first `read` bytes. Gives the number
    /// of bytes from there to the end of the text.
    ///
    /// # Errors
    /// When the machine ends or its deadline passes before.
    pub fn wait_for_after(&mut self, read: usize, text: &str) -> Result<usize> {
        let place = |serial: &str| serial.get(read..)?.find(text);
        loop {
            // What was printed last may come between the two looks.
            let ended = self.child.try_wait()?.is_some();
            let serial = self.serial()?;
            if let Some(place) = place(&serial) {
                return Ok(place + text.len());
            }
            if ended && read == 0 && self.is_started_again(&serial)? {
                continue;
            }
            ensure!(
                !ended,
                "the machine ended without printing {text:?}:\n{}",
                tail(&serial)
            );
            self.check_deadline(text)?;
            thread::sleep(POLL);
        }
    }

    /// Starts a machine that has ended once more if its kernel got no timer ticks, and says whether it did.
    ///
    /// An emulated machine on a busy one can miss its timer for so long that the kernel gives up before it starts the
    /// first process. Nothing of ours has run then.
    fn is_started_again(&mut self, serial: &str) -> Result<bool> {
        if !self.may_start_again || !serial.contains(KERNEL_WITHOUT_TIMER) {
            return Ok(false);
        }
        eprintln!("The guest's kernel got no timer ticks; it is started once more.");
        let turn = self.turn.take().context("the machine has its turn")?;
        *self = self.machine.clone().start_in(turn, &[])?;
        self.may_start_again = false;
        Ok(true)
    }

    /// Like [`Running::finish`] for a machine made with [`Machine::counted`]: also how many bytes the guest read from its
    /// medium.
    ///
    /// # Errors
    /// As [`Running::finish`].
    pub fn finish_counted(mut self) -> Result<(Finished, u64)> {
        self.wait_until("a reboot", |running| {
            let status = running.command("query-status", json!({}))?;
            Ok(status["status"] == "shutdown")
        })?;
        let elapsed = self.start.elapsed();
        let bytes = self.statistic("medium", "rd_bytes")?;
        self.command("quit", json!({}))?;
        let finished = self.finish()?;
        Ok((
            Finished {
                elapsed,
                ..finished
            },
            bytes,
        ))
    }

    /// Waits for the guest to reboot or to switch off.
    ///
    /// # Errors
    /// When its deadline passes before, or QEMU itself fails.
    pub fn finish(mut self) -> Result<Finished> {
        let (status, serial) = loop {
            if let Some(status) = self.child.try_wait()? {
                let serial = self.serial()?;
                if !self.is_started_again(&serial)? {
                    break (status, serial);
                }
            }
            self.check_deadline("a reboot")?;
            thread::sleep(POLL);
        };
        let elapsed = self.start.elapsed();
        let errors = fs::read_to_string(self.folder.path().join("qemu.err"))?;
        ensure!(
            status.success(),
            "QEMU ended with {status}:\n{errors}\n{}",
            tail(&serial)
        );
        let reason = self.qmp.take().and_then(Qmp::shutdown_reason);
        let ending = match reason.as_deref() {
            Some("guest-reset") => Ending::Rebooted,
            Some("guest-shutdown") => Ending::SwitchedOff,
            _ => Ending::Other,
        };
        Ok(Finished {
            ending,
            serial,
            elapsed,
        })
    }

    /// Stops it and writes what it is doing, its memory and its devices but not its disks, to a file
    /// for [`Machine::resume`]. `unread`: a disk, by number, that the guest must not have read a byte
    /// of, because it will be another one then.
    ///
    /// # Errors
    /// When the guest has read that disk, or QEMU cannot write the file.
    pub fn save(mut self, to: &Path, unread: Option<usize>) -> Result<()> {
        self.command("stop", json!({}))?;
        if let Some(disk) = unread {
            let reads = self.reads(disk)?;
            ensure!(reads == 0, "the guest has read disk {disk} {reads} times");
        }
        // QEMU is done before the program that it gives the rest to.
        let part = to.with_extension("part");
        let uri = format!("exec:cat > {0} && mv {0} {1}", quoted(&part), quoted(to));
        self.command("migrate", json!({ "uri": uri }))?;
        self.wait_until("its state to be saved", |running| {
            let answer = running.command("query-migrate", json!({}))?;
            ensure!(answer["status"] != "failed", "QEMU did not save: {answer}");
            Ok(answer["status"] == "completed" && to.exists())
        })?;
        self.cut_power()
    }

    /// How often the guest has read from a disk, by number.
    fn reads(&mut self, disk: usize) -> Result<u64> {
        self.statistic(&format!("disk{disk}"), "rd_operations")
    }

    /// What QEMU counted at a drive.
    fn statistic(&mut self, drive: &str, what: &str) -> Result<u64> {
        let answer = self.command("query-blockstats", json!({}))?;
        let mut drives = answer.as_array().into_iter().flatten();
        drives
            .find(|one| one["device"] == drive)
            .and_then(|one| one["stats"][what].as_u64())
            .with_context(|| format!("QEMU tells nothing of {drive}: {answer}"))
    }

    fn wait_until(
        &mut self,
        awaited: &str,
        mut there: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        while !there(self)? {
            self.check_deadline(awaited)?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// How long ago it was switched on.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Cuts the power of a machine that has nothing more to do, and gives what it left behind.
    ///
    /// # Errors
    /// When its console cannot be read, or QEMU cannot be ended.
    pub fn halt(self) -> Result<Finished> {
        let (serial, elapsed) = (self.serial()?, self.start.elapsed());
        self.cut_power()?;
        Ok(Finished {
            ending: Ending::Other,
            serial,
            elapsed,
        })
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// When QEMU cannot be ended.
    pub fn cut_power(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Presses a key and lets it go; names as QEMU has them, such as `ret` or `spc`.
    ///
    /// # Errors
    /// When QEMU does not take it.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let keys = json!([{ "type": "qcode", "data": key }]);
        self.command("send-key", json!({ "keys": keys }))?;
        Ok(())
    }

    /// Sends what a terminal at the serial console of a machine made with [`Machine::typed`] sends for some keys, such
    /// as `"a"`, `"\r"` or `"\x1b[A"`.
    ///
    /// # Errors
    /// When it was not made so, or has ended.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        self.may_start_again = false;
        let line = self.child.stdin.as_mut();
        let line = line.context("nobody can type at this serial console")?;
        line.write_all(keys.as_bytes())
            .context("typing at the serial line")
    }

    /// Writes what the screen shows, as a PNG picture.
    ///
    /// # Errors
    /// When QEMU cannot write it.
    pub fn screenshot(&mut self, to: &Path) -> Result<()> {
        self.command("screendump", json!({ "filename": to, "format": "png" }))?;
        Ok(())
    }

    /// Sends a command of QEMU's machine protocol and gives its answer.
    ///
    /// # Errors
    /// When QEMU refuses it or does not answer.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        self.may_start_again = false;
        self.qmp
            .as_mut()
            .context("the monitor is connected")?
            .command(name, arguments)
    }

    /// Ends it if it has missed its deadline.
    ///
    /// # Errors
    /// When it has: with the end of its console.
    pub fn check_deadline(&mut self, awaited: &str) -> Result<()> {
        if self.start.elapsed() < self.machine.deadline {
            return Ok(());
        }
        self.child.kill()?;
        self.child.wait()?;
        let seconds = self.machine.deadline.as_secs();
        bail!(
            "{seconds} s passed without {awaited}; the serial console ends with:\n{}",
            tail(&self.serial()?)
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Fails unless it ended so and its last line says this result.
    ///
    /// # Errors
    /// When it did not; shows the end of its console.
    pub fn expect(&self, ending: Ending, result: &str) -> Result<()> {
        let end = tail(&self.serial);
        ensure!(
            self.ending == ending,
            "it ended by {:?}, not {ending:?}:\n{end}",
            self.ending
        );
        let found = self.result()?;
        ensure!(
            found == result,
            "the result is {found}, not {result}:\n{end}"
        );
        Ok(())
    }

    /// The JSON report that the guest printed last.
    ///
    /// # Errors
    /// When there is none, or it is not JSON.
    pub fn report(&self) -> Result<Value> {
        let inside = self
            .serial
            .rsplit_once(REPORT_BEGIN)
            .and_then(|(_, rest)| rest.split_once(REPORT_END));
        let (text, _) =
            inside.with_context(|| format!("no report on the console:\n{}", tail(&self.serial)))?;
        serde_json::from_str(text.trim()).with_context(|| format!("the report is not JSON: {text}"))
    }

    /// The word of the last line, `esxi-rescue: result=<word> …`.
    ///
    /// # Errors
    /// When there is no such line.
    pub fn result(&self) -> Result<String> {
        let line = self
            .serial
            .lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix(RESULT));
        let line =
            line.with_context(|| format!("no result on the console:\n{}", tail(&self.serial)))?;
        Ok(line
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned())
    }
}

/// The last lines of a console.
pub fn tail(serial: &str) -> String {
    let lines: Vec<&str> = serial.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
