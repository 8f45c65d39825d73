//! PID 1 of the rescue image: makes the machine usable, waits for its disks, hands over to the
//! rescue, and ends the machine.
//!
//! In order: mounts → consoles → settings → drivers → waiting for disks → [`Rescue::run`] →
//! [`finish`]. PID 1 must neither end nor die, because that is a kernel panic: a failure of any
//! kind, also a panic of the program, becomes a message and a halt that waits for a key.
//!
//! Out of scope: what is done with the disks, and all that is said about them.

pub mod console;
pub mod countdown;
pub mod devices;
pub mod drivers;
pub mod finish;
pub mod keys;
pub mod mounts;
pub mod paint;
pub mod uevent;

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::reboot::set_cad_enabled;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, getpid};
use serde::Serialize;
use thiserror::Error;

use console::Consoles;
use devices::{Devices, Pending};
use drivers::Drivers;
use drivers::load::KernelLoader;
use drivers::table::{Catalog, DriverTableError, MAX_TABLE_BYTES};
use uevent::{EventSource, KernelEvents, NoEvents};

use crate::files::read_up_to;
use crate::firmware::UEFI;
use crate::medium::Medium;
use crate::report::{self, ResultWord, WIDTH};
use crate::settings::{Finish, MAX_FILE_BYTES, Settings, SettingsErrors, SettingsSources};

/// The settings in the image, relative to `/`.
const IMAGE_SETTINGS: &str = "rescue.toml";
/// The driver table in the image, relative to `/`.
const DRIVER_TABLE: &str = "lib/rescue/drivers.json";
/// The driver table of the network drivers, relative to `/`; only there if they are.
const NETWORK_DRIVER_TABLE: &str = "lib/rescue/drivers-net.json";
/// The modules in the image, relative to `/`.
const MODULES: &str = "lib/rescue/modules";
/// The module that shows the firmware's variables.
const UEFI_VARIABLES_MODULE: &str = "efivarfs";
/// How long something may take before a person is told what is being waited for.
const SILENT_WAIT: Duration = Duration::from_secs(1);

/// How long keyboards may take to come when the machine is about to halt.
const KEYBOARD_TIMEOUT: Duration = Duration::from_secs(5);
/// How often that text is renewed, at most.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// What PID 1 runs once the disks are there.
pub trait Rescue {
    /// Does the work and says what it did. May take over the consoles and keys as it likes, and
    /// change [`Machine::settings`] (a layer found on the medium) and so the way it ends.
    fn run(&mut self, machine: &mut Machine) -> Outcome;
}

/// How the rescue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well: the machine does what the setting `finish` says.
    Done,
    /// A person must read what is on the screen: halt until a key is pressed, then restart.
    NeedsAttention,
    /// A person chose this.
    Chosen(Finish),
}

impl Machine {
    /// Puts a settings file between those that were known and the kernel command line.
    ///
    /// # Errors
    /// Everything that is wrong with the settings then; they stay what they were.
    pub fn add_settings(&mut self, name: &str, content: Vec<u8>) -> Result<(), SettingsErrors> {
        let sources = self.sources.clone().with_file(name, content);
        let settings = sources.resolve()?;
        if let Some(names) = &settings.console
            && settings.console != self.settings.console
        {
            use_chosen_consoles(&self.root, &self.consoles, names, &mut self.warnings);
        }
        self.sources = sources;
        self.settings = settings;
        Ok(())
    }
}

/// Everything that the rescue gets.
#[derive(Debug)]
pub struct Machine {
    /// Where `/` is.
    pub root: PathBuf,
    /// The consoles.
    pub consoles: Consoles,
    /// The settings from the image and the kernel command line.
    pub settings: Settings,
    /// What those were made from, so that a layer from the medium can be put between them.
    pub sources: SettingsSources,
    /// Drivers and disks. They have settled once.
    pub devices: Devices,
    /// When each phase ended.
    pub times: PhaseTimes,
    /// What went wrong on the way and did not stop it.
    pub warnings: Vec<String>,
    /// The stick the image was started from, once it was found.
    pub medium: Option<Medium>,
}

/// Why PID 1 cannot begin.
#[derive(Debug, Error)]
pub enum InitError {
    /// This is no process that owns a machine.
    #[error(
        "this process is number {pid}, not 1: `init` takes over a whole machine and only runs as \
         the first process of the rescue image; use `inspect` or `revert` here"
    )]
    NotPidOne {
        /// The number of this process.
        pid: i32,
    },
}

/// What stops PID 1 on its way to the rescue.
#[derive(Debug, Error)]
pub(crate) enum Stop {
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    #[error("cannot read the kernel command line: {0}")]
    CommandLine(io::Error),
    #[error("cannot read {IMAGE_SETTINGS} in the image: {0}")]
    ImageSettings(io::Error),
    #[error("The settings are wrong, so nothing was done and nothing was written:\n{0}")]
    Settings(#[from] SettingsErrors),
}

/// What goes wrong on the way and does not stop it.
#[derive(Debug, Error)]
pub(crate) enum Warning {
    #[error("cannot silence the kernel's messages: {0}")]
    NotSilenced(io::Error),
    #[error("cannot use {name} as a console (setting console)")]
    NoConsole { name: String },
    #[error("the kernel does not report new devices: {0}")]
    NoEvents(Errno),
}

/// Why there are no drivers; not the end, since the kernel has some of its own.
#[derive(Debug, Error)]
pub(crate) enum NoDrivers {
    #[error("cannot read /{DRIVER_TABLE}: {0}; only drivers that are part of the kernel work")]
    Read(io::Error),
    #[error("{0}; only drivers that are part of the kernel work")]
    Table(#[from] DriverTableError),
}

/// When the phases of this start ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PhaseTimes(pub Vec<PhaseEnd>);

/// When a phase ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhaseEnd {
    /// The phase, e.g. `disks`.
    pub phase: &'static str,
    /// Milliseconds since the start of the kernel.
    pub since_kernel_start_ms: u64,
}

impl PhaseTimes {
    /// Notes that `phase` ends now.
    pub fn mark(&mut self, phase: &'static str) {
        self.0.push(PhaseEnd {
            phase,
            since_kernel_start_ms: milliseconds_since_kernel_start(),
        });
    }
}

/// Zero if the kernel has no such clock, which none that can run this does.
fn milliseconds_since_kernel_start() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    let milliseconds = time.unwrap_or_default().as_millis();
    u64::try_from(milliseconds).unwrap_or(u64::MAX)
}

/// Whether this process is to take over a whole machine: it is the first one, or was called as
/// `rescue-agent init`.
pub fn is_called() -> bool {
    let named = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "init");
    named || std::process::id() == 1
}

/// Runs the machine from the first process to the end. Comes back only if it may not begin.
///
/// # Errors
/// When this process is not the first one.
pub fn run(rescue: &mut dyn Rescue) -> Result<Infallible, InitError> {
    let pid = getpid().as_raw();
    if pid != 1 {
        return Err(InitError::NotPidOne { pid });
    }
    let root = Path::new("/");
    let mut times = PhaseTimes::default();
    times.mark("kernel");
    // Ctrl-Alt-Del must not cut off a repair; as a signal it does nothing to PID 1.
    let _ = set_cad_enabled(false);
    let mounted = mount_essentials(root);
    times.mark("mounts");
    let consoles = open_consoles(root);
    report_panics(&consoles);
    times.mark("consoles");
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        mounted?;
        rescue_machine(root, &consoles, times, rescue)
    }));
    match outcome {
        Ok(Ok(how)) => finish::finish(&consoles, how),
        Ok(Err(stop)) => {
            consoles.line(&format!("\n{stop}\n"));
            consoles.serial_line(&report::last_line(ResultWord::Refused, 0, 0));
        }
        // The panic hook has said what happened.
        Err(_) => {
            consoles.line(&format!("\n{PROGRAM_STOPPED}\n"));
            consoles.serial_line(&report::last_line(ResultWord::Failed, 0, 0));
        }
    }
    finish::halt_until_key(&consoles, HALTED)
}

/// What a person reads after a defect of this program; before it stands what it was.
pub(crate) const PROGRAM_STOPPED: &str = "The program stopped because of an internal error.";

/// What a person reads last when the machine halts.
pub(crate) const HALTED: &str = "Halted. Press any key to restart the machine.";

fn mount_essentials(root: &Path) -> Result<(), mounts::MountError> {
    mounts::ESSENTIAL
        .iter()
        .try_for_each(|mount| mount.mount(root))
}

fn open_consoles(root: &Path) -> Consoles {
    let consoles = Consoles::open(root, None);
    if !consoles.names().is_empty() {
        // What is printed in the ordinary way could block on a stuck serial line.
        let _ = detach_standard_streams(root);
    }
    consoles
}

fn detach_standard_streams(root: &Path) -> Result<(), Errno> {
    let path = root.join("dev/null");
    let null = OpenOptions::new().read(true).write(true).open(path);
    let null: File = null.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}

/// Panics are shown on the consoles, whichever thread they come from.
fn report_panics(consoles: &Consoles) {
    let consoles = consoles.clone();
    panic::set_hook(Box::new(move |panic| {
        consoles.line_if_free(&format!("\nInternal error: {panic}"));
    }));
}

fn rescue_machine(
    root: &Path,
    consoles: &Consoles,
    mut times: PhaseTimes,
    rescue: &mut dyn Rescue,
) -> Result<Finish, Stop> {
    let mut warnings = Vec::new();
    prepare_lesser_things(root, &mut warnings);
    let sources = settings_sources(root)?;
    let settings = match sources.resolve() {
        Ok(settings) => settings,
        Err(errors) => {
            start_keyboards(root, &sources, &mut warnings);
            return Err(errors.into());
        }
    };
    if let Some(names) = &settings.console {
        use_chosen_consoles(root, consoles, names, &mut warnings);
    }
    times.mark("settings");
    let mut devices = start_devices(root, &sources, &mut warnings);
    times.mark("drivers");
    let deadline = devices.deadline(settings.wait);
    devices.settle(deadline, &mut waiting_line(consoles, deadline));
    consoles.status("");
    if let Err(error) = mounts::mount_firmware_variables(root) {
        warnings.push(error.to_string());
    }
    times.mark("disks");
    let mut machine = Machine {
        root: root.to_owned(),
        consoles: consoles.clone(),
        settings,
        sources,
        devices,
        times,
        warnings,
        medium: None,
    };
    match rescue.run(&mut machine) {
        Outcome::Done => Ok(machine.settings.finish),
        Outcome::Chosen(how) => Ok(how),
        Outcome::NeedsAttention => finish::halt_until_key(consoles, HALTED),
    }
}

/// What is good to have and no reason to stop.
fn prepare_lesser_things(root: &Path, warnings: &mut Vec<String>) {
    if let Err(error) = console::silence_kernel(root) {
        warnings.push(Warning::NotSilenced(error).to_string());
    }
    for mount in mounts::TEMPORARY {
        if let Err(error) = mount.mount(root) {
            warnings.push(error.to_string());
        }
    }
}

fn settings_sources(root: &Path) -> Result<SettingsSources, Stop> {
    let command_line = fs::read(root.join("proc/cmdline")).map_err(Stop::CommandLine)?;
    let sources = SettingsSources {
        files: Vec::new(),
        command_line: String::from_utf8_lossy(&command_line).into_owned(),
    };
    // One byte beyond the limit is enough for the parser to see that the file is too long.
    match read_up_to(&root.join(IMAGE_SETTINGS), MAX_FILE_BYTES as u64 + 1) {
        Ok(content) => Ok(sources.with_file("rescue.toml in the image", content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(sources),
        Err(error) => Err(Stop::ImageSettings(error)),
    }
}

fn use_chosen_consoles(root: &Path, consoles: &Consoles, names: &str, warnings: &mut Vec<String>) {
    let chosen = Consoles::open(root, Some(names));
    let open = chosen.names();
    for name in names
        .split(',')
        .filter(|name| !open.iter().any(|open| open == name))
    {
        warnings.push(
            Warning::NoConsole {
                name: name.to_owned(),
            }
            .to_string(),
        );
    }
    if !open.is_empty() {
        consoles.replace_with(chosen);
    }
}

/// Listens first and looks afterwards, so that nothing is missed in between.
fn start_devices(root: &Path, sources: &SettingsSources, warnings: &mut Vec<String>) -> Devices {
    let events: Box<dyn EventSource> = match KernelEvents::open() {
        Ok(events) => Box::new(events),
        Err(error) => {
            warnings.push(Warning::NoEvents(error).to_string());
            Box::new(NoEvents)
        }
    };
    let catalog = read_catalog(root, warnings).unwrap_or_else(|error| {
        warnings.push(error.to_string());
        Catalog::empty()
    });
    let loader = KernelLoader::new(root.join(MODULES), &sources.command_line);
    let mut drivers = Drivers::new(catalog, Box::new(loader));
    if root.join(UEFI).is_dir() {
        drivers.start_named(UEFI_VARIABLES_MODULE);
    }
    Devices::start(root, events, drivers)
}

/// Without drivers nobody could press the key that the machine halts for.
fn start_keyboards(root: &Path, sources: &SettingsSources, warnings: &mut Vec<String>) {
    let mut devices = start_devices(root, sources, warnings);
    let deadline = devices.deadline(KEYBOARD_TIMEOUT);
    devices.settle(deadline, &mut |_| {});
}

fn read_catalog(root: &Path, warnings: &mut Vec<String>) -> Result<Catalog, NoDrivers> {
    let table = read_up_to(&root.join(DRIVER_TABLE), MAX_TABLE_BYTES as u64 + 1);
    let table = table.map_err(NoDrivers::Read)?;
    if let Ok(further) = read_up_to(&root.join(NETWORK_DRIVER_TABLE), MAX_TABLE_BYTES as u64 + 1) {
        match Catalog::parse_both(&table, &further) {
            Ok(catalog) => return Ok(catalog),
            Err(error) => warnings.push(format!("no network drivers: {error}")),
        }
    }
    Ok(Catalog::parse(&table)?)
}

/// Shows what is being waited for, once it takes so long that a person wonders.
pub fn waiting_line(consoles: &Consoles, deadline: Instant) -> impl FnMut(&Pending) {
    let mut next = Instant::now() + SILENT_WAIT;
    move |pending| {
        let now = Instant::now();
        if now < next {
            return;
        }
        next = now + STATUS_INTERVAL;
        let left = deadline.saturating_duration_since(now).as_secs();
        let text = format!("Waiting up to {left} s for {pending}");
        let text: String = text.chars().take(WIDTH).collect();
        consoles.status(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Never;

    impl Rescue for Never {
        fn run(&mut self, _: &mut Machine) -> Outcome {
            unreachable!("this is not PID 1")
        }
    }

    #[test]
    fn an_ordinary_process_does_not_take_over_the_machine() {
        let error = run(&mut Never).unwrap_err();
        assert!(error.to_string().contains("not 1"), "{error}");
    }

    #[test]
    fn settings_come_from_the_image_and_the_command_line() {
        let root = tempfile::tempdir().unwrap();
        assert!(settings_sources(root.path()).is_err());
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/cmdline"), "quiet rescue.wait=7\n").unwrap();
        let settings = settings_sources(root.path()).unwrap().resolve().unwrap();
        assert_eq!(settings.wait.as_secs(), 7);
        fs::write(root.path().join("rescue.toml"), "countdown = 0\nwait = 3\n").unwrap();
        let settings = settings_sources(root.path()).unwrap().resolve().unwrap();
        assert_eq!(
            (settings.countdown.as_secs(), settings.wait.as_secs()),
            (0, 7)
        );
        fs::write(
            root.path().join("rescue.toml"),
            vec![b' '; MAX_FILE_BYTES * 2],
        )
        .unwrap();
        assert!(settings_sources(root.path()).unwrap().resolve().is_err());
    }

    #[test]
    fn an_image_without_drivers_goes_on_with_a_warning() {
        let root = tempfile::tempdir().unwrap();
        let error = read_catalog(root.path(), &mut Vec::new()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("cannot read /lib/rescue/drivers.json"),
            "{error}"
        );
        let mut warnings = Vec::new();
        let sources = SettingsSources::default();
        let devices = start_devices(root.path(), &sources, &mut warnings);
        assert!(devices.driver_failures().is_empty());
        assert!(
            warnings
                .iter()
                .any(|warning| warning.contains("drivers.json"))
        );
    }

    #[test]
    fn a_damaged_table_of_network_drivers_costs_only_those() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("lib/rescue")).unwrap();
        let table = br#"{"schema":"esxi-rescue-drivers/1","kernel":"6","modules":[{"name":"ahci","file":"a"}]}"#;
        fs::write(root.path().join(DRIVER_TABLE), table).unwrap();
        let mut warnings = Vec::new();
        for (further, modules, said) in [
            (&b"{"[..], 1, 1),
            (
                br#"{"schema":"esxi-rescue-drivers/1","kernel":"6","modules":[{"name":"igb","file":"b"}]}"#,
                2,
                1,
            ),
        ] {
            fs::write(root.path().join(NETWORK_DRIVER_TABLE), further).unwrap();
            let catalog = read_catalog(root.path(), &mut warnings).unwrap();
            assert_eq!((catalog.modules().len(), warnings.len()), (modules, said));
        }
    }

    #[test]
    fn phases_are_in_order() {
        let mut times = PhaseTimes::default();
        times.mark("mounts");
        times.mark("disks");
        assert!(times.0[0].since_kernel_start_ms > 0);
        assert!(times.0[0].since_kernel_start_ms <= times.0[1].since_kernel_start_ms);
    }

    #[test]
    fn a_long_wait_is_explained_in_one_line() {
        let consoles = Consoles::from_files(Vec::new());
        let mut line = waiting_line(&consoles, Instant::now() + Duration::from_secs(30));
        line(&Pending::UsbStorage(vec!["1-1:1.0".into(); 40]));
        assert_eq!(consoles.transcript(), "");
    }
}
