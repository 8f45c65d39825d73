//! Machines as folders, with real disk images, and the agent between: what several tests share.
//!
//! A machine of a description is read from its sysfs tree, saved to a file, and given to the command
//! line with images of its disks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rescue_agent::host::Host;
use rescue_tests::agent::{self, DONE, Run};
use rescue_tests::artefacts::workspace;
use rescue_tests::esxi::host::{Address, Device, NO_ID, Owner};
use rescue_tests::esxi::layout::{Layout, Partition, Role, Scheme};
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::scratch;
use rescue_tests::sparse;
use rescue_tests::sysfs::{Description, Disk, Expected};
use rescue_tests::tools::Tool;
use serde_json::Value;

/// A machine with its disks, and the file it was saved to.
pub struct Case {
    pub folder: tempfile::TempDir,
    pub description: Description,
    pub disks: BTreeMap<String, Made>,
    /// Those that ESXi boots from.
    pub judges: Vec<Judge>,
    /// All others.
    pub bystanders: Vec<Judge>,
}

impl Case {
    /// A machine of `rescue-agent/tests/machines`.
    pub fn new(name: &str) -> Result<Self> {
        Self::with(name, |disk| disk)
    }

    /// The same with other disks.
    pub fn with(name: &str, change: impl Fn(EsxiDisk) -> EsxiDisk) -> Result<Self> {
        let description = Description::read(&machines().join(format!("{name}.toml")))?;
        Self::made(description, change)
    }

    pub fn of(description: Description) -> Result<Self> {
        Self::made(description, |disk| disk)
    }

    fn made(description: Description, change: impl Fn(EsxiDisk) -> EsxiDisk) -> Result<Self> {
        let folder = scratch::folder()?;
        let (mut disks, mut judges, mut bystanders) = (BTreeMap::new(), Vec::new(), Vec::new());
        for disk in &description.disk {
            let made = match disk.holds.split_once(' ') {
                Some(("later-copy-of", name)) => {
                    let later = image(disk, &description.passed_through)?
                        .every_bank(|bank| bank.archive.backup_counter = Some(99))
                        .make(folder.path(), &disk.name)?;
                    let known = disks.get(name).context("its original comes before it")?;
                    with_table_of(known, later)?
                }
                Some((how, name)) => again(how, disks.get(name), folder.path(), &disk.name)?,
                None => {
                    let holds = change(image(disk, &description.passed_through)?);
                    holds.make(folder.path(), &disk.name)?
                }
            };
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
    pub fn run_on(&self, arguments: &[&str], disks: &[&str]) -> Result<Run> {
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

    pub fn run(&self, arguments: &[&str]) -> Result<Run> {
        let names: Vec<&str> = self.disks.keys().map(String::as_str).collect();
        self.run_on(arguments, &names)
    }

    /// The report's devices are the expected ones, with the expected verdicts.
    pub fn verdicts_hold(&self, report: &Value) -> Result<()> {
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
    pub fn reverts_as_judged(&self) -> Result<Run> {
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

pub fn machines() -> PathBuf {
    workspace().join("rescue-agent/tests/machines")
}

pub fn device<'a>(report: &'a Value, address: &str) -> Result<&'a Value> {
    let devices = report["devices"].as_array().context("no devices")?;
    devices
        .iter()
        .find(|device| device["address"] == address)
        .with_context(|| format!("{address} is not among {devices:#?}"))
}

/// An address as Linux spells it.
pub fn parse(text: &str) -> Result<Address> {
    let address: rescue_agent::config::pci::PciAddress = text.parse()?;
    Ok(Address {
        segment: u16::try_from(address.segment)?,
        bus: address.bus,
        slot: address.slot,
        function: address.function,
    })
}

/// The disk of another one's bytes: a copy, or itself under another name.
fn again(how: &str, known: Option<&Made>, folder: &Path, name: &str) -> Result<Made> {
    let known = known.context("the disk it is like comes before it")?;
    let image = folder.join(format!("{name}.img"));
    match how {
        "copy-of" => sparse::copy(&known.image, &image)?,
        "path-to" => std::fs::hard_link(&known.image, &image)?,
        unknown => anyhow::bail!("{unknown}?"),
    }
    Ok(Made {
        image,
        ..known.clone()
    })
}

/// A disk of the same layout with the partition table of another one, GUIDs included.
fn with_table_of(known: &Made, made: Made) -> Result<Made> {
    let end = (made.layout.sectors - 33).to_string();
    for (at, count) in [("0", "34"), (end.as_str(), "33")] {
        Tool::new("dd")?
            .arg(format!("if={}", known.image.display()))
            .arg(format!("of={}", made.image.display()))
            .args(["bs=512", "conv=notrunc", "status=none"])
            .args([format!("skip={at}"), format!("seek={at}")])
            .arg(format!("count={count}"))
            .run()?;
    }
    Ok(made)
}

/// What a disk of a description holds.
fn image(disk: &Disk, passed_through: &[Expected]) -> Result<EsxiDisk> {
    let devices = passed_through
        .iter()
        .map(recorded)
        .collect::<Result<Vec<_>>>()?;
    let disk = match disk.holds.as_str() {
        later if later.starts_with("later-copy-of ") => EsxiDisk::v67(),
        "esxi-4.1" => EsxiDisk::v41_installable(),
        "esxi-5.5" => EsxiDisk::v55(),
        "esxi-6.7" => EsxiDisk::v67(),
        "esxi-8.0" => EsxiDisk::v80(),
        "datastore" => return Ok(only(&[Role::Vmfs])),
        "vsan" => return Ok(only(&[Role::VsanHeader, Role::VsanData])),
        "core-dump" => return Ok(only(&[Role::CoreDump])),
        "reserved" => return Ok(only(&[Role::Reserved])),
        "other" => return Ok(EsxiDisk::foreign()),
        unknown => anyhow::bail!("{} holds {unknown}?", disk.name),
    };
    Ok(disk.every_bank(|bank| bank.archive.devices = devices.clone()))
}

fn recorded(expected: &Expected) -> Result<Device> {
    let id = match expected.id.as_deref() {
        Some("none") => NO_ID,
        id => {
            let id: rescue_agent::config::pci::VendorDevice = id.unwrap_or("ffff:ffff").parse()?;
            (id.vendor, id.device)
        }
    };
    let class = expected.class.clone().unwrap_or_else(|| "ffffff".into());
    Ok(Device {
        address: parse(&expected.address)?,
        id,
        class: class.leak(),
        vmkname: None,
        owner: Owner::Passthru,
        store_owner: None,
    })
}

/// A disk with partitions of VMware's, and no bank.
fn only(roles: &[Role]) -> EsxiDisk {
    let partitions = (0..).zip(roles).map(|(index, role)| Partition {
        number: index + 1,
        first: 2048 + u64::from(index) * (1 << 20),
        last: 2047 + (u64::from(index) + 1) * (1 << 20),
        role: *role,
        fat: None,
    });
    EsxiDisk {
        layout: Layout {
            scheme: Scheme::Gpt,
            sector_bytes: 512,
            sectors: 3 << 20,
            partitions: partitions.collect(),
        },
        banks: Vec::new(),
        oddities: Vec::new(),
    }
}
