//! Waits for disks: by event, with a deadline, and no longer than there is a reason to.
//!
//! The rule. All disks that will come by themselves are there once
//! 1. no driver is being loaded. Loading a module lasts until all scans that its driver started
//!    are over (Linux `do_init_module`: `async_synchronize_full`), so that this covers SATA, NVMe,
//!    virtio and SCSI host adapters, however slow their disks are;
//! 2. every USB storage device with a driver shows a disk, or had [`USB_STORAGE_TIMEOUT`] to;
//! 3. no device has come, and no driver has finished, for [`QUIET`]; and on buses whose drivers
//!    are loaded at once and find out by and by what is there (USB, memory cards, SAS, Fibre
//!    Channel), no device has come for [`QUIET_SLOW_BUS`].
//!
//! A disk that comes later still (a stick plugged in by a person) is found by
//! [`Devices::more_disks`].
//!
//! Out of scope: what is on the disks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::drivers::load::{LoadedModule, ModuleFailure, StartingModule};
use super::drivers::{Drivers, NoDriverReason, WithoutDriver, sysfs};
use super::uevent::{EventSource, News, Uevent};

/// How long no device may have come and no driver have finished.
pub const QUIET: Duration = Duration::from_millis(300);
/// How long no device may have come on a slow bus. A USB hub powers its ports, lets contacts settle for 100 ms and
/// resets each device before it shows (Linux `drivers/usb/core/hub.c`); hubs may hang on hubs.
pub const QUIET_SLOW_BUS: Duration = Duration::from_millis(1200);
/// How long a USB storage device may take to show its disk: its driver lets it settle for 1 s
/// (`usb_storage.delay_use`), and some take seconds to say how large they are.
pub const USB_STORAGE_TIMEOUT: Duration = Duration::from_secs(8);
/// How often drivers and USB storage are looked after while they are waited for.
const TICK: Duration = Duration::from_millis(20);
/// A wait that ends so much later than it was to end: the machine stood still.
const STOOD_STILL: Duration = Duration::from_millis(100);
/// How often the list of disks is looked at when no message says that there are more.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What a wait for disks that no message announces is called, for adding up.
const LATE_DISKS: &str = "late disks";
/// Longest time to settle after a late disk, even if the deadline is over: others come with it.
const SETTLE_AFTER_NEW: Duration = Duration::from_secs(3);

/// What is being waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending {
    /// Drivers that are starting.
    Drivers(Vec<StartingModule>),
    /// USB storage devices without a disk.
    UsbStorage(Vec<String>),
    /// A slow bus could still find something, for so long.
    SlowBus(Duration),
    /// Anything could still come, for so long.
    Anything(Duration),
}

impl Pending {
    /// What it is, in a word or two, for adding up.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Pending::Drivers(_) => "drivers",
            Pending::UsbStorage(_) => "usb storage",
            Pending::SlowBus(_) => "slow buses",
            Pending::Anything(_) => "quiet",
        }
    }

    fn look_again_after(&self) -> Duration {
        match self {
            Pending::Drivers(_) | Pending::UsbStorage(_) => TICK,
            Pending::SlowBus(left) | Pending::Anything(left) => *left,
        }
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pending::Drivers(modules) => {
                let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
                write!(f, "drivers that are starting: {}", names.join(", "))
            }
            Pending::UsbStorage(names) => {
                write!(
                    f,
                    "USB storage that shows no disk yet: {}",
                    names.join(", ")
                )
            }
            Pending::SlowBus(_) => f.write_str("devices on USB and other slow buses"),
            Pending::Anything(_) => f.write_str("more devices"),
        }
    }
}

/// A part of the time that was waited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitedFor {
    /// What for: [`Pending::kind`].
    pub what: &'static str,
    /// How long, in milliseconds.
    pub milliseconds: u64,
}

/// What was waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitReport {
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// How long it could have taken: the deadline, in milliseconds from its beginning.
    pub limit_milliseconds: u64,
    /// The parts of it.
    pub waited_for: Vec<WaitedFor>,
    /// What was still being waited for when the time was over; none if nothing was.
    pub gave_up_on: Option<String>,
    /// The disks that were there at the end.
    pub disks: Vec<String>,
}

/// The devices of this machine: their drivers, and the disks that come of them.
pub struct Devices {
    root: PathBuf,
    events: Box<dyn EventSource>,
    drivers: Drivers,
    started: Instant,
    last_news: Instant,
    last_slow_bus_news: Option<Instant>,
    /// USB storage without a disk, and since when.
    bare_usb_storage: HashMap<String, Instant>,
    known_disks: BTreeSet<String>,
    waits: Vec<WaitReport>,
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices")
            .field("root", &self.root)
            .field("disks", &self.known_disks)
            .finish_non_exhaustive()
    }
}

impl Devices {
    /// Starts the drivers of all devices of the machine whose `/` is `root`. Returns at once.
    /// `events` must have been listening before.
    #[must_use]
    pub fn start(root: &Path, events: Box<dyn EventSource>, mut drivers: Drivers) -> Devices {
        drivers.start_for_present(root);
        let now = Instant::now();
        Devices {
            root: root.to_owned(),
            events,
            drivers,
            started: now,
            last_news: now,
            last_slow_bus_news: sysfs::has_slow_bus(root).then_some(now),
            bare_usb_storage: HashMap::new(),
            known_disks: BTreeSet::new(),
            waits: Vec::new(),
        }
    }

    /// The moment when `wait`, counted from the start of the drivers, is over.
    #[must_use]
    pub fn deadline(&self, wait: Duration) -> Instant {
        self.started + wait
    }

    /// Waits until all disks are there that will come by themselves, or until `deadline`.
    /// `progress` is called again and again with what is being waited for.
    pub fn settle(&mut self, deadline: Instant, progress: &mut dyn FnMut(&Pending)) -> WaitReport {
        let begun = Instant::now();
        let mut parts: BTreeMap<&'static str, Duration> = BTreeMap::new();
        let gave_up_on = loop {
            let now = Instant::now();
            let Some(pending) = self.pending(now) else {
                // What came since the last look may give a reason to wait.
                self.take_news(Duration::ZERO);
                match self.pending(now) {
                    Some(_) => continue,
                    None => break None,
                }
            };
            if now >= deadline {
                break Some(pending.to_string());
            }
            progress(&pending);
            self.take_news(pending.look_again_after().min(deadline - now));
            *parts.entry(pending.kind()).or_default() += now.elapsed();
        };
        self.known_disks = sysfs::disks(&self.root);
        self.note_wait(begun, deadline, parts, gave_up_on)
    }

    fn note_wait(
        &mut self,
        begun: Instant,
        deadline: Instant,
        parts: BTreeMap<&'static str, Duration>,
        gave_up_on: Option<String>,
    ) -> WaitReport {
        let report = WaitReport {
            milliseconds: milliseconds(begun.elapsed()),
            limit_milliseconds: milliseconds(deadline.saturating_duration_since(begun)),
            waited_for: parts
                .into_iter()
                .map(|(what, time)| WaitedFor {
                    what,
                    milliseconds: milliseconds(time),
                })
                .collect(),
            gave_up_on,
            disks: self.known_disks.iter().cloned().collect(),
        };
        self.waits.push(report.clone());
        report
    }

    /// Waits until there are disks that were not there when [`Devices::settle`] or this function
    /// last returned, lets what comes with them settle, and returns their names; none if
    /// `deadline` came first.
    pub fn more_disks(
        &mut self,
        deadline: Instant,
        progress: &mut dyn FnMut(&Pending),
    ) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let before = self.known_disks.clone();
            let present = sysfs::disks(&self.root);
            // A disk that was pulled out and comes back is a new one.
            self.known_disks.retain(|disk| present.contains(disk));
            if present.difference(&self.known_disks).next().is_some() {
                let limit = deadline.max(Instant::now() + SETTLE_AFTER_NEW);
                self.settle(limit, progress);
                let new: Vec<String> = self.known_disks.difference(&before).cloned().collect();
                // One that is gone again does not end the wait.
                if !new.is_empty() {
                    return new;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let parts = BTreeMap::from([(LATE_DISKS, begun.elapsed())]);
                self.note_wait(begun, deadline, parts, Some("a late disk".into()));
                return Vec::new();
            }
            progress(&Pending::Anything(left));
            self.take_news(left.min(LOOK_AGAIN));
        }
    }

    /// All waits so far, in order.
    #[must_use]
    pub fn waits(&self) -> &[WaitReport] {
        &self.waits
    }

    /// All waits so far in a line for a person: how long, at most how long, what for, and what
    /// did not come.
    #[must_use]
    pub fn waits_in_words(&self, limit: Duration) -> String {
        let mut parts: Vec<(&str, u64)> = Vec::new();
        for part in self.waits.iter().flat_map(|wait| &wait.waited_for) {
            match parts.iter_mut().find(|(what, _)| *what == part.what) {
                Some((_, sum)) => *sum += part.milliseconds,
                None => parts.push((part.what, part.milliseconds)),
            }
        }
        let sum = parts.iter().map(|(_, time)| time).sum();
        let what: Vec<String> = parts
            .iter()
            .map(|(what, time)| format!("{what} {} s", tenths(*time)))
            .collect();
        let missing: Vec<&str> = self
            .waits
            .iter()
            .filter_map(|wait| wait.gave_up_on.as_deref())
            .collect();
        let mut words = format!(
            "{} s of at most {} s (setting `wait`): {}",
            tenths(sum),
            limit.as_secs(),
            what.join(", ")
        );
        if !missing.is_empty() {
            words += &format!("; did not appear: {}", missing.join(", "));
        }
        words
    }

    /// Whether something that was waited for did not appear.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        self.waits.iter().any(|wait| wait.gave_up_on.is_some())
    }

    /// The controllers that disks may hang on and no driver runs now.
    #[must_use]
    pub fn without_driver(&self) -> Vec<WithoutDriver> {
        self.drivers.without_driver(&self.root)
    }

    /// The modules that could not be loaded.
    #[must_use]
    pub fn driver_failures(&self) -> Vec<ModuleFailure> {
        self.drivers.failures()
    }

    /// What is wrong with the drivers, a line each: the controllers that no driver runs, and the
    /// modules that failed without being the driver of one of those.
    #[must_use]
    pub fn driver_problems(&self) -> Vec<String> {
        let without_driver = self.without_driver();
        let told = |failure: &ModuleFailure| {
            without_driver
                .iter()
                .any(|without_driver| match &without_driver.reason {
                    NoDriverReason::Failed(failures) => failures.contains(failure),
                    NoDriverReason::NoDriver
                    | NoDriverReason::StillStarting(_)
                    | NoDriverReason::NotTaken(_) => false,
                })
        };
        let others = self.driver_failures();
        let others = others
            .iter()
            .filter(|failure| !told(failure))
            .map(|failure| format!("driver {} failed: {}", failure.name, failure.reason));
        let controllers = without_driver.iter().map(ToString::to_string);
        controllers.chain(others).collect()
    }

    /// The modules that were loaded.
    #[must_use]
    pub fn drivers_loaded(&self) -> Vec<LoadedModule> {
        self.drivers.loaded()
    }

    /// Starts the drivers of all network cards, for sending the report: `false` if this image has none.
    /// [`Devices::settle`] waits for them.
    pub fn start_network(&mut self) -> bool {
        self.drivers.start_network(&self.root)
    }

    /// The rule: what there is a reason to wait for.
    fn pending(&mut self, now: Instant) -> Option<Pending> {
        let starting = self.drivers.starting();
        if !starting.is_empty() {
            // What a driver leaves to do in the background, it does after it has finished.
            self.last_news = now;
            return Some(Pending::Drivers(starting));
        }
        if let Some(left) = left_of(QUIET, self.last_news, now) {
            return Some(Pending::Anything(left));
        }
        let bare = self.late_usb_storage(now);
        if !bare.is_empty() {
            return Some(Pending::UsbStorage(bare));
        }
        let left = left_of(QUIET_SLOW_BUS, self.last_slow_bus_news?, now)?;
        Some(Pending::SlowBus(left))
    }

    /// USB storage that shows no disk, and has not had long enough for that.
    fn late_usb_storage(&mut self, now: Instant) -> Vec<String> {
        let mut bare = sysfs::usb_storage_without_disk(&self.root);
        self.bare_usb_storage.retain(|name, _| bare.contains(name));
        bare.retain(|name| {
            let since = *self.bare_usb_storage.entry(name.clone()).or_insert(now);
            now.duration_since(since) < USB_STORAGE_TIMEOUT
        });
        bare
    }

    fn take_news(&mut self, timeout: Duration) {
        let begun = Instant::now();
        self.take_events(timeout);
        // Time in which the machine stood still, as a virtual one may, is not quiet.
        let late = begun.elapsed().saturating_sub(timeout);
        if late > STOOD_STILL {
            self.last_news += late;
            self.last_slow_bus_news = self.last_slow_bus_news.map(|news| news + late);
        }
    }

    fn take_events(&mut self, timeout: Duration) {
        match self.events.wait(timeout) {
            News::Events(events) => events.iter().for_each(|event| self.take_event(event)),
            News::Lost => {
                if self.drivers.start_for_present(&self.root) {
                    self.note_news(sysfs::has_slow_bus(&self.root));
                }
            }
        }
    }

    fn take_event(&mut self, event: &Uevent) {
        if event.action != "add" {
            return;
        }
        if event.subsystem == "module" {
            self.drivers.is_live(event.name());
            return;
        }
        if let Some(modalias) = &event.modalias {
            self.drivers.start_for(modalias);
        }
        if may_lead_to_disks(&event.subsystem) {
            self.note_news(is_slow_bus(&event.subsystem));
        }
    }

    fn note_news(&mut self, on_slow_bus: bool) {
        let now = Instant::now();
        self.last_news = now;
        if on_slow_bus {
            self.last_slow_bus_news = Some(now);
        }
    }
}

fn left_of(quiet: Duration, since: Instant, now: Instant) -> Option<Duration> {
    let left = quiet.saturating_sub(now.duration_since(since));
    (!left.is_zero()).then_some(left)
}

fn is_slow_bus(subsystem: &str) -> bool {
    matches!(subsystem, "usb" | "mmc" | "mmc_host")
        || ["sas_", "fc_"]
            .iter()
            .any(|kind| subsystem.starts_with(kind))
}

/// Kinds of devices whose coming announces disks. Others (keyboards, sensors, terminals) come at
/// any time and mean nothing here.
fn may_lead_to_disks(subsystem: &str) -> bool {
    is_slow_bus(subsystem)
        || matches!(
            subsystem,
            "pci" | "block" | "scsi" | "scsi_host" | "nvme" | "virtio"
        )
        || ["ata_", "nvme-"]
            .iter()
            .any(|kind| subsystem.starts_with(kind))
}

/// Seconds, with one decimal.
fn tenths(milliseconds: u64) -> String {
    let tenths = milliseconds.saturating_add(50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::super::drivers::load::{LoadError, ModuleLoader};
    use super::super::drivers::table::{Catalog, Module};
    use super::*;
    use crate::host::sysfs::tests::Machine;

    /// Loads in no time, except the module `slow`, which takes as long as it says, and modules that
    /// are bad, which fail.
    struct Loader(Duration);

    impl ModuleLoader for Loader {
        fn load(&self, module: &Module) -> Result<(), LoadError> {
            if module.name == "slow" {
                thread::sleep(self.0);
            }
            match module.name.starts_with("bad") {
                true => Err(LoadError::Parameters),
                false => Ok(()),
            }
        }
    }

    /// What happens to the machine at a given time.
    type Step = (Duration, Uevent, Box<dyn FnOnce() + Send>);

    /// Plays steps at their times.
    struct Play {
        begun: Instant,
        steps: Arc<Mutex<VecDeque<Step>>>,
    }

    impl EventSource for Play {
        fn wait(&mut self, timeout: Duration) -> News {
            let next = self.steps.lock().unwrap().pop_front();
            let Some((at, event, act)) = next else {
                thread::sleep(timeout);
                return News::Events(Vec::new());
            };
            let left = at.saturating_sub(self.begun.elapsed());
            if left > timeout {
                self.steps.lock().unwrap().push_front((at, event, act));
                thread::sleep(timeout);
                return News::Events(Vec::new());
            }
            thread::sleep(left);
            act();
            News::Events(vec![event])
        }
    }

    fn event(subsystem: &str, modalias: Option<&str>) -> Uevent {
        Uevent {
            action: "add".into(),
            path: "/devices/x".into(),
            subsystem: subsystem.into(),
            modalias: modalias.map(str::to_owned),
        }
    }

    fn step(at: u64, event: Uevent, act: impl FnOnce() + Send + 'static) -> Step {
        (Duration::from_millis(at), event, Box::new(act))
    }

    fn devices(machine: &Machine, slow: u64, steps: Vec<Step>) -> Devices {
        let table = br#"{"schema":"esxi-rescue-drivers/1","kernel":"","modules":[
            {"name":"slow","file":"x","aliases":["pci:slow*"]},
            {"name":"bad_ahci","file":"x","aliases":["pci:bad*"]},
            {"name":"bad_sd","file":"x","aliases":["scsi:bad*"]},
            {"name":"sd_mod","file":"x","aliases":["scsi:t-0x00*"]}]}"#;
        let loader = Box::new(Loader(Duration::from_millis(slow)));
        let drivers = Drivers::new(Catalog::parse(table).unwrap(), loader);
        let steps = Arc::new(Mutex::new(VecDeque::from(steps)));
        let play = Play {
            begun: Instant::now(),
            steps,
        };
        Devices::start(machine.root(), Box::new(play), drivers)
    }

    fn settle(devices: &mut Devices, wait: Duration) -> WaitReport {
        devices.settle(devices.deadline(wait), &mut |_| {})
    }

    const LONG: Duration = Duration::from_secs(30);
    const AHCI_DISK: &str = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
    const STICK: &str = "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0";

    #[test]
    fn a_machine_without_anything_is_settled_after_a_moment() {
        let begun = Instant::now();
        let machine = Machine::new();
        let report = settle(&mut devices(&machine, 0, Vec::new()), LONG);
        let lasted = begun.elapsed().as_millis();
        assert!((290..10_000).contains(&lasted), "{lasted} ms: {report:?}");
        assert!((1..=lasted).contains(&report.milliseconds.into()));
        assert_eq!(report.gave_up_on, None);
    }

    #[test]
    fn a_scan_that_lasts_is_waited_for_and_what_it_finds_gets_its_driver() {
        let begun = Instant::now();
        let machine = Arc::new(Machine::new());
        machine.pci("0000:00:1f.2", ("0x8086", "0x2922"), "0x010601", "pci:slow");
        let after = Arc::clone(&machine);
        let steps = vec![
            step(700, event("scsi", Some("scsi:t-0x00")), || {}),
            step(750, event("block", None), move || {
                after.block(AHCI_DISK, "sda")
            }),
        ];
        let mut devices = devices(&machine, 800, steps);
        let mut seen = BTreeSet::new();
        let deadline = devices.deadline(LONG);
        let report = devices.settle(deadline, &mut |pending| {
            seen.insert(pending.to_string());
        });
        assert_eq!(report.disks, ["sda"]);
        let lasted = begun.elapsed().as_millis();
        assert!((1040..10_000).contains(&lasted), "{lasted} ms: {report:?}");
        assert!(seen.contains("drivers that are starting: slow"), "{seen:?}");
        let loaded: Vec<String> = devices
            .drivers_loaded()
            .into_iter()
            .map(|module| module.name)
            .collect();
        assert_eq!(loaded, ["slow", "sd_mod"]);
    }

    #[test]
    fn usb_is_given_more_time_and_a_stick_until_its_disk_is_there() {
        let begun = Instant::now();
        let machine = Arc::new(Machine::new());
        let (hub, stick) = (Arc::clone(&machine), Arc::clone(&machine));
        let steps = vec![
            step(100, event("usb", None), || {}),
            step(1000, event("usb", None), move || {
                hub.device("usb", STICK, &[("bInterfaceClass", "08")]);
                hub.bind(STICK, "usb-storage");
            }),
            step(2600, event("block", None), move || {
                stick.block(&format!("{STICK}/host6/target6:0:0/6:0:0:0"), "sdb");
            }),
        ];
        let report = settle(&mut devices(&machine, 0, steps), LONG);
        assert_eq!(report.disks, ["sdb"]);
        let lasted = begun.elapsed().as_millis();
        assert!((2850..10_000).contains(&lasted), "{lasted} ms: {report:?}");
        let kinds: Vec<&str> = report.waited_for.iter().map(|part| part.what).collect();
        assert_eq!(kinds, ["quiet", "slow buses", "usb storage"]);
    }

    #[test]
    fn the_deadline_ends_every_wait_and_says_what_was_missing() {
        let begun = Instant::now();
        let machine = Machine::new();
        machine.pci("0000:00:1f.2", ("0x8086", "0x2922"), "0x010601", "pci:slow");
        let report = settle(
            &mut devices(&machine, 20_000, Vec::new()),
            Duration::from_millis(200),
        );
        assert_eq!(
            report.gave_up_on.as_deref(),
            Some("drivers that are starting: slow")
        );
        let lasted = begun.elapsed().as_millis();
        assert!((200..10_000).contains(&lasted), "{lasted} ms: {report:?}");
    }

    #[test]
    fn noise_does_not_hold_up_the_machine() {
        let machine = Machine::new();
        let noise = |at| step(at, event("power_supply", None), || {});
        let steps = (0..400).map(|number| noise(number * 50)).collect();
        let report = settle(&mut devices(&machine, 0, steps), LONG);
        assert!(report.milliseconds < 10_000, "{report:?}");
    }

    #[test]
    fn late_disks_are_found_until_the_deadline() {
        let machine = Arc::new(Machine::new());
        machine.block(AHCI_DISK, "sda");
        let later = Arc::clone(&machine);
        let steps = vec![step(900, event("block", None), move || {
            later.block(STICK, "sdb")
        })];
        let mut devices = devices(&machine, 0, steps);
        assert_eq!(settle(&mut devices, LONG).disks, ["sda"]);
        let deadline = devices.deadline(LONG);
        assert_eq!(devices.more_disks(deadline, &mut |_| {}), ["sdb"]);
        let deadline = Instant::now() + Duration::from_millis(100);
        assert!(!devices.gave_up());
        assert!(devices.more_disks(deadline, &mut |_| {}).is_empty());
        assert_eq!(devices.waits().len(), 3);
        let words = devices.waits_in_words(LONG);
        assert!(
            words.contains(" of at most 30 s (setting `wait`): quiet ")
                && words.ends_with("; did not appear: a late disk"),
            "{words}"
        );
        assert!(devices.gave_up());
    }

    #[test]
    fn a_failed_driver_is_told_once_with_its_controller_or_alone() {
        let machine = Machine::new();
        machine.pci("0000:00:1f.2", ("0x8086", "0x2922"), "0x010601", "pci:bad");
        machine.device("scsi", "0:0:0:0", &[("modalias", "scsi:bad")]);
        let mut devices = devices(&machine, 0, Vec::new());
        settle(&mut devices, LONG);
        assert_eq!(
            devices.driver_problems(),
            [
                "0000:00:1f.2 8086:2922 class 010601: driver bad_ahci failed: its parameters on the kernel command line contain a zero byte",
                "driver bad_sd failed: its parameters on the kernel command line contain a zero byte",
            ]
        );
    }

    #[test]
    fn without_messages_the_machine_is_looked_at_instead() {
        let machine = Machine::new();
        let mut devices = devices(&machine, 0, Vec::new());
        devices.events = Box::new(super::super::uevent::NoEvents);
        machine.device("scsi", "0:0:0:0", &[("modalias", "scsi:t-0x00")]);
        assert_eq!(settle(&mut devices, LONG).gave_up_on, None);
        assert_eq!(devices.drivers_loaded().len(), 1);
    }
}
