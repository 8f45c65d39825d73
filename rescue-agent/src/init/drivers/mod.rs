//! Drivers: which the hardware of this machine asks for, and getting them into the kernel.
//!
//! Only what a device asks for by its `modalias` is loaded, with what that needs. The table
//! ([`table`]) comes from the builder of the image.
//!
//! Out of scope: waiting for what the drivers find.

pub mod load;
pub mod sysfs;
pub mod table;

use std::collections::HashSet;
use std::path::Path;

use serde::{Serialize, Serializer};

use load::{LoadedModule, Loading, ModuleFailure, ModuleLoader, StartingModule};
use table::{Catalog, Class, ModuleId};

use crate::host::PciFunction;
use crate::host::sysfs::modalias;

/// The drivers of USB keyboards. A machine with USB gets them even if no keyboard asks for them
/// yet: whoever comes to a machine that waits for a key plugs one in.
const USB_KEYBOARD_MODULES: [&str; 2] = ["usbhid", "hid_generic"];

/// A controller that disks may hang on (storage, USB, SD cards, Fibre Channel) and no driver runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WithoutDriver {
    /// The controller.
    #[serde(flatten, serialize_with = "in_numbers")]
    pub function: PciFunction,
    /// Why no driver runs it.
    pub reason: NoDriverReason,
    /// Firmware files that its drivers may ask for; the image has none of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<String>,
}

/// A function as reports list it: its IDs and class as numbers.
fn in_numbers<S: Serializer>(function: &PciFunction, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct InNumbers<'a> {
        address: String,
        vendor: u16,
        device: u16,
        class: u32,
        driver: &'a Option<String>,
    }
    InNumbers {
        address: function.address.to_string(),
        vendor: function.id.vendor,
        device: function.id.device,
        class: function.class.0,
        driver: &function.driver,
    }
    .serialize(to)
}

/// Why no driver runs a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoDriverReason {
    /// The image has no driver for it.
    NoDriver,
    /// Its driver could not be loaded.
    Failed(Vec<ModuleFailure>),
    /// Its driver is still starting; it may yet handle it.
    StillStarting(Vec<StartingModule>),
    /// Its driver is there and does not handle it.
    NotTaken(Vec<String>),
}

impl std::fmt::Display for WithoutDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PciFunction {
            address, id, class, ..
        } = &self.function;
        write!(f, "{address} {id} class {:06x}: ", class.0)?;
        match &self.reason {
            NoDriverReason::NoDriver => f.write_str("no driver for it in this image"),
            NoDriverReason::Failed(failures) => {
                let texts = failures
                    .iter()
                    .map(|failure| format!("driver {} failed: {}", failure.name, failure.reason));
                f.write_str(&texts.collect::<Vec<String>>().join("; "))
            }
            NoDriverReason::StillStarting(drivers) => {
                let texts = drivers.iter().map(|driver| {
                    let seconds = driver.since.as_secs();
                    format!("driver {} is still starting after {seconds} s", driver.name)
                });
                f.write_str(&texts.collect::<Vec<String>>().join("; "))
            }
            NoDriverReason::NotTaken(names) => {
                write!(f, "driver {} does not handle it", names.join(", "))?;
                match self.firmware.is_empty() {
                    true => Ok(()),
                    false => f.write_str("; it may need firmware, which is not in this image"),
                }
            }
        }
    }
}

/// The drivers of this machine.
#[derive(Debug)]
pub struct Drivers {
    catalog: Catalog,
    loading: Loading,
    /// What was asked for already.
    seen: HashSet<String>,
    with_network: bool,
}

impl Drivers {
    /// Drivers out of `catalog`; not those of network cards, which cost time and which the repair
    /// does not need: [`Drivers::start_network`] is for them.
    #[must_use]
    pub fn new(catalog: Catalog, loader: Box<dyn ModuleLoader>) -> Drivers {
        let loading = Loading::new(&catalog, loader);
        Drivers {
            catalog,
            loading,
            seen: HashSet::new(),
            with_network: false,
        }
    }

    /// Starts the drivers of all devices that are there now. Returns at once: whether any of them
    /// was of a kind not met before.
    pub fn start_for_present(&mut self, root: &Path) -> bool {
        if PciFunction::all(root)
            .iter()
            .any(|function| function.class.is_usb_host())
        {
            for name in USB_KEYBOARD_MODULES {
                self.start_named(name);
            }
        }
        let new = sysfs::modaliases(root)
            .into_iter()
            .map(|modalias| self.start_for(&modalias));
        new.fold(false, |any, new| any | new)
    }

    /// Starts the drivers that a device with this `modalias` asks for. Returns at once: whether
    /// such a device was not met before.
    pub fn start_for(&mut self, modalias: &str) -> bool {
        let new = self.seen.insert(modalias.to_owned());
        if new {
            self.loading
                .request(&self.catalog, &self.wanted_by(modalias));
        }
        new
    }

    /// Starts a module that no device asks for, such as a file system: `false` if the image does
    /// not have it.
    pub fn start_named(&mut self, name: &str) -> bool {
        match self.catalog.find(name) {
            Some(id) => {
                self.loading.request(&self.catalog, &[id]);
                true
            }
            None => self.catalog.is_builtin(name),
        }
    }

    /// Starts the drivers of all network cards that are there now, and from now on of those that come. Returns at once:
    /// `false` if this image has no network drivers.
    pub fn start_network(&mut self, root: &Path) -> bool {
        self.with_network = true;
        for modalias in sysfs::modaliases(root) {
            let wanted = self.wanted_by(&modalias);
            self.loading.request(&self.catalog, &wanted);
            self.seen.insert(modalias);
        }
        let mut modules = self.catalog.modules().iter();
        modules.any(|module| module.class == Class::Net)
    }

    /// Takes note that the kernel says this module can be used now.
    pub fn is_live(&mut self, name: &str) {
        if let Some(id) = self.catalog.find(name) {
            self.loading.is_live(id);
        }
    }

    /// The modules that are not done yet.
    #[must_use]
    pub fn starting(&self) -> Vec<StartingModule> {
        self.loading.starting()
    }

    /// The modules that were loaded.
    #[must_use]
    pub fn loaded(&self) -> Vec<LoadedModule> {
        self.loading.loaded()
    }

    /// The modules that could not be loaded.
    #[must_use]
    pub fn failures(&self) -> Vec<ModuleFailure> {
        self.loading.failures()
    }

    /// The controllers that disks may hang on and no driver runs.
    #[must_use]
    pub fn without_driver(&self, root: &Path) -> Vec<WithoutDriver> {
        let functions = PciFunction::all(root).into_iter();
        functions
            .filter(|function| function.class.drives_storage() && function.driver.is_none())
            .map(|function| {
                let modalias = modalias(root, function.address);
                WithoutDriver {
                    reason: self.reason_without_driver(&modalias),
                    firmware: self.firmware_for(&modalias),
                    function,
                }
            })
            .collect()
    }

    fn firmware_for(&self, modalias: &str) -> Vec<String> {
        let wanted = self.wanted_by(modalias).into_iter();
        wanted
            .flat_map(|id| self.catalog.module(id).firmware.clone())
            .collect()
    }

    fn reason_without_driver(&self, modalias: &str) -> NoDriverReason {
        let wanted = self.wanted_by(modalias).into_iter();
        let names: Vec<String> = wanted
            .map(|id| self.catalog.module(id).name.clone())
            .collect();
        let mut failures = self.failures();
        failures.retain(|failure| names.contains(&failure.name));
        let mut starting = self.starting();
        starting.retain(|driver| names.contains(&driver.name));
        match (names.is_empty(), failures.is_empty(), starting.is_empty()) {
            (true, _, _) => NoDriverReason::NoDriver,
            (_, _, false) => NoDriverReason::StillStarting(starting),
            (_, false, _) => NoDriverReason::Failed(failures),
            (_, true, true) => NoDriverReason::NotTaken(names),
        }
    }

    fn wanted_by(&self, modalias: &str) -> Vec<ModuleId> {
        let mut wanted = self.catalog.wanted_by(modalias);
        if !self.with_network {
            wanted.retain(|id| self.catalog.module(*id).class != Class::Net);
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use nix::errno::Errno;

    use super::load::LoadError;
    use super::table::Module;
    use super::*;
    use crate::host::sysfs::tests::Machine;

    struct Recorder(Arc<Mutex<Vec<String>>>);

    impl ModuleLoader for Recorder {
        fn load(&self, module: &Module) -> Result<(), LoadError> {
            self.0.lock().unwrap().push(module.name.clone());
            match module.name.as_str() {
                "megaraid_sas" => Err(LoadError::Kernel(Errno::EKEYREJECTED)),
                _ => Ok(()),
            }
        }
    }

    fn drivers() -> (Drivers, Arc<Mutex<Vec<String>>>) {
        let table = br#"{"schema":"esxi-rescue-drivers/1","kernel":"6.1.0","builtin":["ext4"],"modules":[
            {"name":"libata","file":"x"},
            {"name":"ahci","file":"x","depends":["libata"],"aliases":["pci:ahci*"],"class":"storage"},
            {"name":"megaraid_sas","file":"x","aliases":["pci:mega*"],"class":"storage"},
            {"name":"xhci_pci","file":"x","aliases":["pci:xhci*"],"class":"usb"},
            {"name":"qla2xxx","file":"x","aliases":["pci:qla*"],"class":"storage","firmware":["ql2400_fw.bin"]},
            {"name":"efivarfs","file":"x"},
            {"name":"usbhid","file":"x","depends":["xhci_pci"]},
            {"name":"e1000","file":"x","aliases":["pci:net*"],"class":"net"}]}"#;
        let log = Arc::new(Mutex::new(Vec::new()));
        let loader = Box::new(Recorder(Arc::clone(&log)));
        (Drivers::new(Catalog::parse(table).unwrap(), loader), log)
    }

    /// A machine with one controller.
    fn with_ahci() -> Machine {
        let machine = Machine::new();
        machine.pci(
            "0000:00:1f.2",
            ("0x8086", "0x2922"),
            "0x010601",
            "pci:ahci1",
        );
        machine
    }

    fn machine() -> Machine {
        let machine = with_ahci();
        machine.pci(
            "0000:00:01.0",
            ("0x1000", "0x005d"),
            "0x010400",
            "pci:mega1",
        );
        machine.pci(
            "0000:00:02.0",
            ("0x1b36", "0x000d"),
            "0x0c0330",
            "pci:xhci1",
        );
        machine.pci("0000:00:03.0", ("0x9999", "0x0001"), "0x010700", "pci:none");
        machine.pci("0000:00:05.0", ("0x1077", "0x2432"), "0x0c0400", "pci:qla1");
        machine.pci("0000:00:06.0", ("0x9999", "0x0002"), "0x080501", "pci:sd");
        machine.pci("0000:00:04.0", ("0x8086", "0x100e"), "0x020000", "pci:net");
        machine
    }

    #[test]
    fn only_what_the_hardware_asks_for_is_loaded() {
        let (mut drivers, log) = drivers();
        drivers.start_for_present(machine().root());
        drivers.start_for("pci:ahci1");
        assert!(drivers.loading.wait_until_done(Duration::from_secs(10)));
        assert_eq!(log.lock().unwrap().len(), 6);
        assert!(drivers.start_named("efivarfs") && drivers.start_named("ext4"));
        assert!(!drivers.start_named("vfat"));
    }

    #[test]
    fn network_drivers_can_be_asked_for_later() {
        let (mut drivers, log) = drivers();
        drivers.start_for_present(machine().root());
        assert!(drivers.start_network(machine().root()));
        drivers.start_for("pci:net2");
        assert!(drivers.loading.wait_until_done(Duration::from_secs(10)));
        let log = log.lock().unwrap();
        assert_eq!(log.iter().filter(|name| *name == "e1000").count(), 1);
        assert_eq!(log.len(), 7);
    }

    /// A driver of a slow machine: it is not done before it is let go.
    struct Slow(Mutex<std::sync::mpsc::Receiver<()>>);

    impl ModuleLoader for Slow {
        fn load(&self, _: &Module) -> Result<(), LoadError> {
            let _ = self.0.lock().unwrap().recv();
            Ok(())
        }
    }

    #[test]
    fn a_driver_that_is_still_starting_is_not_said_to_refuse_its_controller() {
        let table = br#"{"schema":"esxi-rescue-drivers/1","kernel":"6.1.0","builtin":[],"modules":[
            {"name":"ahci","file":"x","aliases":["pci:ahci*"],"class":"storage"}]}"#;
        let (let_go, held) = std::sync::mpsc::channel();
        let loader = Box::new(Slow(Mutex::new(held)));
        let mut drivers = Drivers::new(Catalog::parse(table).unwrap(), loader);
        let machine = with_ahci();
        drivers.start_for_present(machine.root());
        let said = || drivers.without_driver(machine.root())[0].to_string();
        assert_eq!(
            said(),
            "0000:00:1f.2 8086:2922 class 010601: driver ahci is still starting after 0 s"
        );
        drop(let_go);
        assert!(drivers.loading.wait_until_done(Duration::from_secs(10)));
        assert!(said().ends_with("driver ahci does not handle it"));
    }

    #[test]
    fn controllers_without_a_driver_are_named_with_the_reason() {
        let machine = machine();
        machine.bind("pci0000:00/0000:00:1f.2", "ahci");
        let (mut drivers, _) = drivers();
        drivers.start_for_present(machine.root());
        assert!(drivers.loading.wait_until_done(Duration::from_secs(10)));
        let shown: Vec<String> = drivers
            .without_driver(machine.root())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "0000:00:01.0 1000:005d class 010400: driver megaraid_sas failed: the kernel refused it: EKEYREJECTED: Key was rejected by service",
                "0000:00:02.0 1b36:000d class 0c0330: driver xhci_pci does not handle it",
                "0000:00:03.0 9999:0001 class 010700: no driver for it in this image",
                "0000:00:05.0 1077:2432 class 0c0400: driver qla2xxx does not handle it; it may need firmware, which is not in this image",
                "0000:00:06.0 9999:0002 class 080501: no driver for it in this image",
            ]
        );
    }
}
