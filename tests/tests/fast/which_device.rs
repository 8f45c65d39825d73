//! Which device goes back to ESXi: machines as folders, real disk images, and the agent between.
//!
//! Each machine of `rescue-agent/tests/machines` is read from its sysfs tree, saved to a file, and
//! given to the command line with images of its disks. The verdicts must be the expected ones, and
//! `revert` must change exactly the owners they name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rescue_agent::host::Host;
use rescue_tests::agent::{self, DONE, REFUSED, Run, USAGE};
use rescue_tests::artefacts::workspace;
use rescue_tests::esxi::archive::{Layers, Seal};
use rescue_tests::esxi::host::{Address, Device, Owner, SATA};
use rescue_tests::esxi::layout::{Layout, Partition, Role, Scheme};
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::sysfs::{Description, Disk, Expected};
use serde_json::Value;

/// A machine with its disks, and the file it was saved to.
struct Case {
    folder: tempfile::TempDir,
    description: Description,
    disks: BTreeMap<String, Made>,
    /// Those that ESXi boots from.
    judges: Vec<Judge>,
    /// All others.
    bystanders: Vec<Judge>,
}

impl Case {
    fn new(name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = machines().join(format!("{name}.toml"));
        let description = Description::read(&file)?;
        let (mut disks, mut judges, mut bystanders) = (BTreeMap::new(), Vec::new(), Vec::new());
        for disk in &description.disk {
            let made = image(disk, &description.passed_through)?.make(folder.path(), &disk.name)?;
            let judge = Judge::new(&made, folder.path())?;
            match made.banks.is_empty() {
                true => bystanders.push(judge),
                false => judges.push(judge),
            }
            disks.insert(disk.name.clone(), made);
        }
        let root = folder.path().join("machine");
        description.make(&root, |disk| Ok(disks[&disk.name].image.metadata()?.len()))?;
        Host::read(&root).save(&folder.path().join("host.json"))?;
        Ok(Self {
            folder,
            description,
            disks,
            judges,
            bystanders,
        })
    }

    /// Runs the agent on images of these disks.
    fn run_on(&self, arguments: &[&str], disks: &[&str]) -> Result<Run> {
        let snapshot = self.folder.path().join("host.json");
        let snapshot = snapshot.display().to_string();
        let mut pairs: Vec<String> = disks
            .iter()
            .map(|name| {
                let node = self.folder.path().join("machine/dev").join(name);
                format!("{}={}", self.disks[*name].image.display(), node.display())
            })
            .collect();
        let last = pairs.pop().context("a machine has a disk")?;
        let mut all = arguments.to_vec();
        all.extend(["--pci", &snapshot]);
        all.extend(pairs.iter().map(String::as_str));
        agent::run(&all, Path::new(&last))
    }

    fn run(&self, arguments: &[&str]) -> Result<Run> {
        let names: Vec<&str> = self.disks.keys().map(String::as_str).collect();
        self.run_on(arguments, &names)
    }

    /// The report's devices are the expected ones, with the expected verdicts.
    fn verdicts_hold(&self, report: &Value) -> Result<()> {
        let devices = report["devices"].as_array().context("no devices")?;
        ensure!(
            devices.len() == self.description.passed_through.len(),
            "{devices:#?}"
        );
        for expected in &self.description.passed_through {
            let found = device(report, &expected.address)?;
            let reason = found["reason"].as_str().unwrap_or_default();
            ensure!(
                found["verdict"] == expected.verdict.as_str() && reason.contains(&expected.reason),
                "expected {expected:?}, found {found:#}"
            );
            ensure!(found["recorded_id"].as_str() == expected.was.as_deref());
        }
        Ok(())
    }

    /// `revert` on its own changes what the verdicts say, in both banks, and nothing else.
    fn reverts_as_judged(&self) -> Result<Run> {
        let run = self.run(&["revert", "--yes", "--json"])?.expect(DONE)?;
        self.verdicts_hold(&run.report()?)?;
        let given_back: Vec<Address> = self
            .description
            .passed_through
            .iter()
            .filter(|expected| expected.verdict == "give-back")
            .map(|expected| parse(&expected.address))
            .collect::<Result<_>>()?;
        for judge in &self.judges {
            match given_back.is_empty() {
                true => judge.nothing_changed()?,
                false => judge.repaired(&[0, 1], &given_back)?,
            }
        }
        self.bystanders
            .iter()
            .try_for_each(Judge::nothing_changed)?;
        Ok(run)
    }
}

fn machines() -> PathBuf {
    workspace().join("rescue-agent/tests/machines")
}

fn device<'a>(report: &'a Value, address: &str) -> Result<&'a Value> {
    let devices = report["devices"].as_array().context("no devices")?;
    devices
        .iter()
        .find(|device| device["address"] == address)
        .with_context(|| format!("{address} is not among {devices:#?}"))
}

/// An address as Linux spells it.
fn parse(text: &str) -> Result<Address> {
    let address: rescue_agent::config::pci::PciAddress = text.parse()?;
    Ok(Address {
        segment: u16::try_from(address.segment)?,
        bus: address.bus,
        slot: address.slot,
        function: address.function,
    })
}

/// What a disk of a description holds.
fn image(disk: &Disk, passed_through: &[Expected]) -> Result<EsxiDisk> {
    let devices = passed_through
        .iter()
        .map(recorded)
        .collect::<Result<Vec<_>>>()?;
    let disk = match disk.holds.as_str() {
        "esxi-4.1" => EsxiDisk::v41_installable(),
        "esxi-5.5" => EsxiDisk::v55(),
        "esxi-6.7" => EsxiDisk::v67(),
        "esxi-8.0" => EsxiDisk::v80(),
        "datastore" => return Ok(datastore()),
        "other" => return Ok(EsxiDisk::foreign()),
        unknown => anyhow::bail!("{} holds {unknown}?", disk.name),
    };
    Ok(disk.every_bank(|bank| bank.archive.devices = devices.clone()))
}

fn recorded(expected: &Expected) -> Result<Device> {
    let id: rescue_agent::config::pci::VendorDevice =
        expected.id.as_deref().unwrap_or("ffff:ffff").parse()?;
    let class = expected.class.clone().unwrap_or_else(|| "ffffff".into());
    Ok(Device {
        address: parse(&expected.address)?,
        id: (id.vendor, id.device),
        class: class.leak(),
        vmkname: None,
        owner: Owner::Passthru,
        store_owner: None,
    })
}

/// A disk with nothing but a VMFS partition.
fn datastore() -> EsxiDisk {
    let sectors = 1 << 21;
    let vmfs = Partition {
        number: 1,
        first: 2048,
        last: sectors - 64,
        role: Role::Vmfs,
        fat: None,
    };
    EsxiDisk {
        layout: Layout {
            scheme: Scheme::Gpt,
            sector_bytes: 512,
            sectors,
            partitions: vec![vmfs],
        },
        banks: Vec::new(),
        oddities: Vec::new(),
    }
}

// --- every machine -------------------------------------------------------------------------------

#[test]
fn every_machine_gets_its_expected_verdicts_and_only_those_owners_change() -> Result<()> {
    let mut count = 0;
    for entry in std::fs::read_dir(machines())? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .context("a file has a name")?
            .to_string_lossy();
        let check = || -> Result<()> {
            let case = Case::new(&name)?;
            let seen = case.run(&["inspect", "--json"])?.expect(DONE)?;
            case.verdicts_hold(&seen.report()?)?;
            case.reverts_as_judged()?;
            Ok(())
        };
        check().with_context(|| name.to_string())?;
        count += 1;
    }
    ensure!(count >= 12, "only {count} machines");
    Ok(())
}

// --- what people asked for -----------------------------------------------------------------------

#[test]
fn the_onboard_sata_controller_with_the_boot_disk_and_the_only_datastore_goes_back() -> Result<()> {
    Case::new("onboard-sata")?.reverts_as_judged().map(drop)
}

#[test]
fn the_lsi_hba_under_an_11_tb_datastore_goes_back() -> Result<()> {
    Case::new("hba-behind-bridge")?
        .reverts_as_judged()
        .map(drop)
}

#[test]
fn the_usb_controller_of_the_boot_stick_goes_back_and_the_ehci_that_stays_is_explained()
-> Result<()> {
    let run = Case::new("usb-stick")?.reverts_as_judged()?;
    let report = run.report()?;
    ensure!(device(&report, "0000:00:1a.7")?["verdict"] == "unsure");
    Ok(())
}

#[test]
fn an_nvme_boot_ssd_that_inherited_a_moved_gpus_address_goes_back_and_the_move_is_said()
-> Result<()> {
    let case = Case::new("moved-gpu")?;
    let said = case.run(&["inspect"])?.expect(DONE)?.said();
    let expected = "was 10de:2786, now 144d:a80a: a card was moved";
    ensure!(said.contains(expected), "{said}");
    case.reverts_as_judged().map(drop)
}

#[test]
fn a_storage_vms_hba_stays_and_the_report_says_that_nothing_was_written_and_how_to_choose()
-> Result<()> {
    let case = Case::new("storage-vm")?;
    let run = case.reverts_as_judged()?;
    ensure!(run.result()? == "clean");
    let report = run.report()?;
    let (summary, next) = (
        report["summary"].to_string(),
        report["next_steps"].to_string(),
    );
    ensure!(summary.contains("no device that ESXi needs"), "{summary}");
    ensure!(next.contains("--devices=0000:02:00.0"), "{next}");
    let said = case.run(&["revert", "--yes"])?.expect(DONE)?.said();
    ensure!(said.contains("--devices=0000:02:00.0"), "{said}");
    Ok(())
}

#[test]
fn which_bank_is_live_is_said() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    let run = case.run(&["inspect", "--json"])?.expect(DONE)?;
    assert_eq!(run.boots_next()?, Some(5));
    Ok(())
}

#[test]
fn both_banks_are_fixed_so_that_the_settings_do_not_come_back() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    case.reverts_as_judged()?;
    for bank in [0, 1] {
        ensure!(case.judges[0].owners(bank)?["00000:000:31.2"] == "vmkernel");
    }
    Ok(())
}

#[test]
fn what_is_inside_what_is_shown() -> Result<()> {
    let case = Case::new("nvme-behind-root-port")?;
    let said = case.run(&["inspect", "--explain"])?.expect(DONE)?.said();
    for part in [
        "bank 5",
        "STATE.TGZ",
        "encrypted",
        "0000:00:1b.0 in ConfigStore",
    ] {
        ensure!(said.contains(part), "{part} is missing:\n{said}");
    }
    Ok(())
}

#[test]
fn decimal_or_hex_is_told_by_the_explanation() -> Result<()> {
    let case = Case::new("gone-and-ambiguous")?;
    let said = case.run(&["inspect", "--explain"])?.expect(DONE)?.said();
    for part in [
        "00000:010:00.0 in esx.conf",
        "read as decimal: 0000:0a:00.0",
        "read as hex it would be 0000:10:00.0 there: Ethernet controller 8086:1572",
    ] {
        ensure!(said.contains(part), "{part} is missing:\n{said}");
    }
    Ok(())
}

#[test]
fn what_to_do_about_an_archive_sealed_by_a_tpm_is_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v80()
        .every_bank(|bank| {
            bank.archive.layers = Layers::Sealed(Seal {
                mode: "TPM",
                ..Seal::default()
            });
        })
        .make(folder.path(), "disk")?;
    let run = agent::revert("0000:00:1f.2", &made.image)?.expect(REFUSED)?;
    ensure!(
        run.said().contains("encryptionRecoveryKey"),
        "{}",
        run.said()
    );
    Ok(())
}

#[test]
fn the_datastore_is_never_written() -> Result<()> {
    let case = Case::new("hba-behind-bridge")?;
    case.reverts_as_judged()?;
    ensure!(case.bystanders.len() == 1);
    case.bystanders[0].nothing_changed()
}

#[test]
fn after_the_fix_it_says_what_a_vm_that_owned_the_device_needs() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    let said = case.run(&["revert", "--yes"])?.expect(DONE)?.said();
    for part in ["pciPassthru", "Do not move cards"] {
        ensure!(said.contains(part), "{part} is missing:\n{said}");
    }
    Ok(())
}

// --- selectors -----------------------------------------------------------------------------------

/// The verdicts of a dry run, `give-back` only.
fn given_back(case: &Case, devices: &str) -> Result<Vec<String>> {
    let run = case.run(&["revert", "--dry-run", "--json", "--devices", devices])?;
    let report = run.report()?;
    let all = report["devices"].as_array().into_iter().flatten();
    Ok(all
        .filter(|device| device["verdict"] == "give-back")
        .filter_map(|device| device["address"].as_str().map(str::to_owned))
        .collect())
}

#[test]
fn selectors_add_up_and_take_away() -> Result<()> {
    const BOOT: &str = "0000:00:1f.2";
    const GPU: &str = "0000:01:00.0";
    let case = Case::new("onboard-sata")?;
    let cases: [(&str, &[&str]); 8] = [
        ("auto", &[BOOT]),
        ("all", &[BOOT, GPU]),
        ("auto,10de:1b80", &[BOOT, GPU]),
        ("all,-class:display", &[BOOT]),
        ("-8086:2922", &[]),
        ("class:display", &[GPU]),
        ("class:storage,class:display", &[BOOT, GPU]),
        ("all,-0000:00:1f.2", &[GPU]),
    ];
    for (selection, expected) in cases {
        assert_eq!(given_back(&case, selection)?, expected, "{selection}");
    }
    Ok(())
}

#[test]
fn a_needed_controller_that_the_request_leaves_is_said_in_the_result() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    for devices in [
        "10de:1b80",
        "0000:01:00.0",
        "-0000:00:1f.2",
        "class:display",
    ] {
        for mode in [&["--dry-run"][..], &["--yes"]] {
            let words = ["revert", "--json", "--devices", devices];
            let run = case.run(&[&words[..], mode].concat())?.expect(REFUSED)?;
            let report = run.report()?;
            let summary = report["summary"].to_string();
            ensure!(
                summary.contains("the request leaves 0000:00:1f.2 passed through")
                    && summary.contains("drives the boot disk"),
                "{devices}: {summary}"
            );
            ensure!(
                report["next_steps"]
                    .to_string()
                    .contains("--devices=0000:00:1f.2")
            );
            let all = report["devices"].as_array().into_iter().flatten();
            let of_boot: Vec<_> = all
                .filter(|device| device["address"] == "0000:00:1f.2")
                .collect();
            ensure!(
                of_boot.len() == 1 && of_boot[0]["need"] == "needed",
                "{of_boot:?}"
            );
            ensure!(!of_boot[0]["reason"].to_string().contains("no ESXi disk"));
        }
    }
    Ok(())
}

#[test]
fn an_unknown_or_malformed_selector_is_a_usage_error_that_shows_what_exists() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    for selection in [
        "dead:beef",
        "0000:07:00.0",
        "all,-dead:beef",
        "class:gpu",
        "1f.2",
        "",
    ] {
        let run = case
            .run(&["revert", "--yes", "--devices", selection])?
            .expect(USAGE)?;
        let said = run.said();
        ensure!(
            said.contains("0000:00:1f.2 (8086:2922)") && said.contains("0000:01:00.0 (10de:1b80)"),
            "{selection:?}: {said}"
        );
    }
    case.judges[0].nothing_changed()
}

#[test]
fn a_class_is_not_guessed_where_nothing_tells_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v80().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    // Without the machine nothing says that one of them is a GPU.
    let run = agent::revert("all,-class:display", &made.image)?.expect(USAGE)?;
    ensure!(run.said().contains("--pci"), "{}", run.said());
    judge.nothing_changed()
}

// --- machines elsewhere --------------------------------------------------------------------------

#[test]
fn an_image_without_a_machine_still_gets_its_list() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let run = agent::run(&["inspect", "--json"], &made.image)?.expect(DONE)?;
    let report = run.report()?;
    ensure!(device(&report, &SATA.to_string())?["verdict"] == "unsure");
    ensure!(
        report["devices"]
            .as_array()
            .is_some_and(|all| all.len() == 2)
    );
    let run = agent::run(&["revert", "--yes"], &made.image)?.expect(USAGE)?;
    for flag in ["--pci", "--save-host", "--devices"] {
        ensure!(run.said().contains(flag), "{}", run.said());
    }
    Ok(())
}

#[test]
fn an_image_finds_its_disk_by_size_where_only_one_has_it() -> Result<()> {
    let case = Case::new("storage-vm")?;
    let snapshot = case.folder.path().join("host.json").display().to_string();
    let arguments = [
        "revert",
        "--dry-run",
        "--json",
        "--devices",
        "all",
        "--pci",
        &snapshot,
    ];
    let run = agent::run(&arguments, &case.disks["sda"].image)?.expect(DONE)?;
    let report = run.report()?;
    ensure!(
        report["disks"][0]["pci_path"][0][0] == "0000:00:1f.2",
        "{report:#}"
    );
    // Of no disk's size: asked for.
    std::fs::File::options()
        .write(true)
        .open(&case.disks["sda"].image)?
        .set_len(17 << 30)?;
    let run = agent::run(&arguments, &case.disks["sda"].image)?.expect(USAGE)?;
    ensure!(run.said().contains("say which one it is"), "{}", run.said());
    Ok(())
}

#[test]
fn a_disk_that_was_not_looked_at_makes_its_controller_unsure() -> Result<()> {
    let case = Case::new("storage-vm")?;
    let run = case
        .run_on(&["inspect", "--json"], &["sda"])?
        .expect(DONE)?;
    let report = run.report()?;
    let hba = device(&report, "0000:02:00.0")?;
    ensure!(
        hba["verdict"] == "unsure" && hba["reason"] == "leads to sdb, which was not examined",
        "{hba:#}"
    );
    Ok(())
}

#[test]
fn this_machine_can_be_saved() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let file = folder.path().join("host.json");
    let text = file.display().to_string();
    agent::run(&["inspect", "--save-host", &text], &made.image)?.expect(DONE)?;
    let (saved, here) = (Host::load(&file)?, Host::read(Path::new("/")));
    ensure!((saved.pci, saved.disks) == (here.pci, here.disks));
    Ok(())
}
