//! Makes ESXi boot disks with outside tools: fdisk, sfdisk, mkfs.fat, mtools, GNU tar,
//! gzip, sqlite3, and a Python script that seals envelopes.
//!
//! Every disk is a sparse file with the real positions and sizes of its ESXi version. What is inside
//! follows the formats as they are documented from real disks; no code of the agent is used, so
//! that a misreading cannot hide in both. VMFS is a pattern of bytes: it must never be touched.

pub mod archive;
pub mod boot_cfg;
pub mod changes;
pub mod config_store;
pub mod fat;
pub mod host;
pub mod layout;
pub mod local_boot;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tools::{Tool, crate_file};
use archive::{Archive, Dialect, Flaw, Layers, Member, Seal, noise, touch};
use boot_cfg::BootCfg;
use config_store::StoreLeft;
use fat::Volume;
use host::{Address, Device, Owner, SATA, Spelling};
use layout::{Layout, Partition, Role};

/// When the newer bank was saved: 2023-05-04 10:11:12 UTC.
const SAVED: u64 = 1_683_195_072;

/// When the older bank was saved: some months earlier.
const SAVED_BEFORE: u64 = SAVED - 120 * 86_400;

/// When the files of the installation are from.
const INSTALLED: u64 = SAVED_BEFORE - 86_400;

/// One boot bank of a disk to be made.
#[derive(Debug, Clone)]
pub struct Bank {
    /// Its boot.cfg; `None`: the volume has none.
    pub boot_cfg: Option<BootCfg>,
    /// Its state archive.
    pub archive: Archive,
    /// Whether the second sector carries VMware's marker.
    pub marker: bool,
    /// Whether names are stored in lower case, by the case bits of the directory entry.
    pub lower_case: bool,
    /// Bytes left free; `None`: nothing is filled up.
    pub free_bytes: Option<u64>,
    /// Further files of its root.
    pub files: Vec<(String, Vec<u8>)>,
    /// The `onetime.tgz` of a scripted installation.
    pub onetime: Option<Archive>,
}

impl Bank {
    /// Sets who owns a device.
    pub fn own(&mut self, address: Address, owner: Owner) -> &mut Self {
        for device in &mut self.archive.devices {
            if device.address == address {
                device.owner = owner;
            }
        }
        self
    }

    /// Has the ConfigStore contradict esx.conf about a device.
    pub fn own_in_store(&mut self, address: Address, owner: Owner) -> &mut Self {
        for device in &mut self.archive.devices {
            if device.address == address {
                device.store_owner = Some(owner);
            }
        }
        self
    }

    /// Sets what is wrong with the archive.
    pub fn flaw(&mut self, flaw: Flaw) -> &mut Self {
        self.archive.flaw = flaw;
        self
    }

    /// Adds a `onetime.tgz` with an esx.conf of its own, and names it in boot.cfg.
    pub fn add_onetime(&mut self) -> &mut Self {
        let members = vec![Member::file("etc/motd", 0o644, "scripted\n")];
        let onetime = Archive {
            members,
            layers: Layers::Local,
            backup_counter: None,
            ..self.archive.clone()
        };
        self.onetime = Some(onetime);
        if let Some(boot_cfg) = &mut self.boot_cfg {
            boot_cfg.modules.push("onetime.tgz".into());
        }
        self
    }

    /// Puts the boot controller somewhere else.
    pub fn move_boot_controller(&mut self, to: Address) -> &mut Self {
        for device in &mut self.archive.devices {
            if device.address == SATA {
                device.address = to;
            }
        }
        self
    }

    /// Makes it the second bank of a fresh installation: never booted, one generation ahead,
    /// marked invalid, without an archive.
    pub fn never_booted(&mut self, updated: u32) -> &mut Self {
        if let Some(boot_cfg) = &mut self.boot_cfg {
            boot_cfg.bootstate = "3".into();
            boot_cfg.updated = updated.to_string();
        }
        self.flaw(Flaw::Missing)
    }
}

/// Something odd about the partition table, as fixtures/gpt_edit.py calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GptOddity {
    /// All names are 72 bytes of 0xFF.
    NamesOfFf,
    /// The protective MBR's sector count is not "disk size − 1".
    OddProtectiveMbr,
    /// The primary header's checksum is wrong.
    BrokenPrimary,
}

impl GptOddity {
    fn word(self) -> &'static str {
        match self {
            Self::NamesOfFf => "names-ff",
            Self::OddProtectiveMbr => "odd-protective",
            Self::BrokenPrimary => "break-primary",
        }
    }
}

/// An ESXi disk to be made.
#[derive(Debug, Clone)]
pub struct EsxiDisk {
    /// Its partitions.
    pub layout: Layout,
    /// Its banks, in order.
    pub banks: Vec<Bank>,
    /// Oddities of its partition table.
    pub oddities: Vec<GptOddity>,
}

/// Makes the disk of a version.
pub type Maker = fn() -> EsxiDisk;

/// Every version there is a disk for.
pub const VERSIONS: [(&str, Maker); 8] = [
    ("4.1 embedded", EsxiDisk::v41_embedded),
    ("4.1 installable", EsxiDisk::v41_installable),
    ("5.5", EsxiDisk::v55),
    ("6.7", EsxiDisk::v67),
    ("7.0.0", EsxiDisk::v700),
    ("7.0.3", EsxiDisk::v703),
    ("8.0", EsxiDisk::v80),
    ("9.0", EsxiDisk::v90),
];

/// A disk that has been made.
#[derive(Debug, Clone)]
pub struct Made {
    /// The image.
    pub image: PathBuf,
    /// Its partitions.
    pub layout: Layout,
    /// What its banks were made from.
    pub banks: Vec<Bank>,
}

impl EsxiDisk {
    /// 4.1 embedded: MBR, `local.tgz` in the bank's root.
    pub fn v41_embedded() -> Self {
        let modules = &["k.b00", "s.z00", "c.z00", "local.tgz"];
        Self::new(Layout::mbr_4(), "4.1.0-260247", modules, |archive| {
            archive.layers = Layers::Local;
            archive.spelling = Spelling::BusSlot;
        })
    }

    /// 4.1 installable: MBR, `state.tgz` around `local.tgz`.
    pub fn v41_installable() -> Self {
        let modules = &["k.b00", "s.z00", "c.z00", "state.tgz"];
        Self::new(Layout::mbr_4(), "4.1.0-348481", modules, |archive| {
            archive.spelling = Spelling::BusSlot;
        })
    }

    /// 5.5: GPT.
    pub fn v55() -> Self {
        Self::new(
            Layout::gpt_5_and_6(),
            "5.5.0-1331820",
            MODULES_5_AND_6,
            |_| (),
        )
    }

    /// 6.7: GPT; the reported case.
    pub fn v67() -> Self {
        Self::new(
            Layout::gpt_5_and_6(),
            "6.7.0-8169922",
            MODULES_5_AND_6,
            |_| (),
        )
    }

    /// 7.0 GA: banks of 4095 MiB; not sealed, owners in esx.conf and in the ConfigStore.
    pub fn v700() -> Self {
        Self::new(
            Layout::gpt_7_large(),
            "7.0.0-1.0.15843807",
            MODULES_7,
            |archive| {
                archive.config_store = true;
            },
        )
    }

    /// 7.0 Update 3: sealed, owners in the ConfigStore only.
    pub fn v703() -> Self {
        Self::new(
            Layout::gpt_7_large(),
            "7.0.3-0.0.18644231",
            MODULES_7,
            sealed,
        )
    }

    /// 8.0 Update 2 on a medium of 16 GiB: sealed, owners in the ConfigStore only.
    pub fn v80() -> Self {
        Self::new(
            Layout::gpt_7_medium(),
            "8.0.2-0.0.22380479",
            MODULES_7,
            sealed,
        )
    }

    /// Like 9.0: sealed, as far as is known nothing else changed.
    pub fn v90() -> Self {
        Self::new(
            Layout::gpt_7_large(),
            "9.0.0-0.0.24755229",
            MODULES_7,
            |archive| {
                sealed(archive);
                archive.layers = Layers::Sealed(Seal {
                    keystore: ".#encryption.info",
                    ..Seal::default()
                });
            },
        )
    }

    /// A disk of another system, without ESXi.
    pub fn foreign() -> Self {
        Self {
            layout: Layout::foreign(),
            banks: Vec::new(),
            oddities: Vec::new(),
        }
    }

    fn new(layout: Layout, build: &str, modules: &[&str], shape: fn(&mut Archive)) -> Self {
        let mut banks = vec![newer_bank(build, modules), older_bank(build, modules)];
        for bank in &mut banks {
            shape(&mut bank.archive);
        }
        Self {
            layout,
            banks,
            oddities: Vec::new(),
        }
    }

    /// Changes one bank.
    ///
    /// # Panics
    /// When the disk has no such bank.
    #[must_use]
    pub fn bank(mut self, index: usize, change: impl FnOnce(&mut Bank)) -> Self {
        change(&mut self.banks[index]);
        self
    }

    /// Changes every bank.
    #[must_use]
    pub fn every_bank(mut self, mut change: impl FnMut(&mut Bank)) -> Self {
        self.banks.iter_mut().for_each(&mut change);
        self
    }

    /// Uses another partition table.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Adds an oddity of the partition table.
    #[must_use]
    pub fn oddity(mut self, oddity: GptOddity) -> Self {
        self.oddities.push(oddity);
        self
    }

    /// Adds a third bank in the locker's place, as in the middle of an upgrade.
    #[must_use]
    pub fn third_bank(mut self) -> Self {
        for partition in &mut self.layout.partitions {
            if partition.role == Role::Locker {
                partition.role = Role::Bank(2);
            }
        }
        let mut bank = self.banks[0].clone();
        if let Some(boot_cfg) = &mut bank.boot_cfg {
            boot_cfg.updated = "3".into();
            boot_cfg.bootstate = "1".into();
        }
        self.banks.push(bank);
        self
    }

    /// A disk on which the boot controller is owned by ESXi in both banks.
    #[must_use]
    pub fn nothing_to_do(self) -> Self {
        self.every_bank(|bank| {
            bank.own(SATA, Owner::Vmkernel);
        })
    }

    /// Makes the disk as `NAME.img` in a folder.
    ///
    /// # Errors
    /// When an outside tool is missing or fails.
    pub fn make(&self, folder: &Path, name: &str) -> Result<Made> {
        let image = folder.join(format!("{name}.img"));
        let scratch = tempfile::Builder::new()
            .prefix("making-")
            .tempdir_in(folder)?;
        self.make_in(&image, scratch.path())
            .with_context(|| format!("making the disk {name}"))?;
        Ok(Made {
            image,
            layout: self.layout.clone(),
            banks: self.banks.clone(),
        })
    }

    fn make_in(&self, image: &Path, scratch: &Path) -> Result<()> {
        File::create(image)?.set_len(self.layout.sectors * self.layout.sector_bytes)?;
        self.layout.write(image)?;
        self.apply_oddities(image)?;
        for partition in &self.layout.partitions {
            match partition.role {
                Role::Bank(index) => self.make_bank(image, scratch, partition, index)?,
                Role::Esp => self.make_esp(image, scratch, partition)?,
                Role::Locker | Role::Scratch | Role::Foreign => {
                    self.make_other_volume(image, scratch, partition)?;
                }
                Role::CoreDump
                | Role::Vmfs
                | Role::OsData
                | Role::VsanHeader
                | Role::VsanData
                | Role::Reserved => self.leave_pattern(image, partition)?,
                Role::Extended => {}
            }
        }
        self.leave_pattern_around_banks(image)
    }

    fn apply_oddities(&self, image: &Path) -> Result<()> {
        if self.oddities.is_empty() {
            return Ok(());
        }
        Tool::new("python3")?
            .arg(crate_file("fixtures/gpt_edit.py"))
            .arg(image)
            .arg(self.layout.sector_bytes.to_string())
            .args(self.oddities.iter().map(|oddity| oddity.word()))
            .run()?;
        Ok(())
    }

    fn format<'a>(&self, image: &'a Path, partition: &Partition, mark: bool) -> Result<Volume<'a>> {
        let serial = 0x5e5c_0000 + partition.number;
        let volume = Volume::format(image, &self.layout, partition, serial)?;
        if mark {
            let mut uuid = [0x5b; 16];
            uuid[..4].copy_from_slice(&serial.to_le_bytes());
            volume.mark(self.layout.sector_bytes, uuid)?;
        }
        Ok(volume)
    }

    fn make_bank(
        &self,
        image: &Path,
        scratch: &Path,
        partition: &Partition,
        index: usize,
    ) -> Result<()> {
        // A layout may have room for more banks than the disk has.
        let Some(bank) = self.banks.get(index) else {
            return Ok(());
        };
        let volume = self.format(image, partition, bank.marker)?;
        let folder = scratch.join(format!("bank{index}"));
        fs::create_dir(&folder)?;
        let put = |name: &str, bytes: &[u8], time: u64| -> Result<()> {
            let file = folder.join("file");
            fs::write(&file, bytes)?;
            touch(&file, time)?;
            volume.put(&file, &cased(name, bank.lower_case))
        };
        for (name, bytes) in bank.installed_files(index) {
            put(&name, &bytes, INSTALLED)?;
        }
        if let Some(file) = bank.archive.pack(&folder, &format!("bank{index}"))? {
            volume.put(&file, &cased(bank.archive.root_name(), bank.lower_case))?;
        }
        if let Some(onetime) = &bank.onetime {
            let folder = folder.join("onetime");
            fs::create_dir(&folder)?;
            if let Some(file) = onetime.pack(&folder, &format!("onetime{index}"))? {
                volume.put(&file, &cased("ONETIME.TGZ", bank.lower_case))?;
            }
        }
        // boot.cfg is written last by an installer, and files may follow the archive.
        if let Some(boot_cfg) = &bank.boot_cfg {
            put("BOOT.CFG", boot_cfg.text().as_bytes(), bank.archive.saved)?;
        }
        for (name, bytes) in &bank.files {
            put(name, bytes, bank.archive.saved)?;
        }
        match bank.free_bytes {
            Some(leave) => volume.fill(scratch, leave),
            None => Ok(()),
        }
    }

    fn make_esp(&self, image: &Path, scratch: &Path, partition: &Partition) -> Result<()> {
        let volume = self.format(image, partition, !self.banks.is_empty())?;
        volume.make_directory("EFI")?;
        let file = scratch.join("loader");
        fs::write(&file, noise("loader", 60_000))?;
        volume.put(&file, "EFI/SAFEBOOT.EFI")
    }

    fn make_other_volume(&self, image: &Path, scratch: &Path, partition: &Partition) -> Result<()> {
        let volume = self.format(image, partition, partition.role != Role::Foreign)?;
        let file = scratch.join("other");
        fs::write(&file, noise("other", 30_000))?;
        // A file of this name outside a bank is none of our business.
        volume.put(&file, "STATE.TGZ")
    }

    /// Bytes that must be there afterwards, at the start, the middle and the end of a partition.
    fn leave_pattern(&self, image: &Path, partition: &Partition) -> Result<()> {
        let range = self.layout.bytes(partition);
        let bytes = noise(&format!("partition {}", partition.number), 65_536);
        let length = u64::try_from(bytes.len())?;
        let file = OpenOptions::new().write(true).open(image)?;
        for at in [
            range.start,
            range.start + (range.end - range.start) / 2,
            range.end - length,
        ] {
            file.write_all_at(&bytes, at)?;
        }
        Ok(())
    }

    /// The sector before each bank's partition and the one after it, where they lie in no other.
    fn leave_pattern_around_banks(&self, image: &Path) -> Result<()> {
        let sector = self.layout.sector_bytes;
        let file = OpenOptions::new().write(true).open(image)?;
        let gap = noise("gap", usize::try_from(sector)?);
        for bank in self.layout.banks() {
            for lba in [bank.first - 1, bank.last + 1] {
                let taken = |other: &Partition| {
                    other.role != Role::Extended && (other.first..=other.last).contains(&lba)
                };
                // The gaps of an MBR hold the chain of extended boot records.
                if self.layout.scheme == layout::Scheme::Gpt
                    && !self.layout.partitions.iter().any(taken)
                {
                    file.write_all_at(&gap, lba * sector)?;
                }
            }
        }
        Ok(())
    }
}

impl Bank {
    /// The files an installation leaves in a bank's root.
    fn installed_files(&self, index: usize) -> Vec<(String, Vec<u8>)> {
        let Some(boot_cfg) = &self.boot_cfg else {
            return Vec::new();
        };
        let archives = ["state.tgz", "local.tgz", "onetime.tgz"];
        std::iter::once(&boot_cfg.kernel)
            .chain(&boot_cfg.modules)
            .filter(|name| !archives.contains(&name.as_str()))
            .enumerate()
            .map(|(place, name)| {
                // Lengths around the sizes of clusters, from none to some hundred thousand bytes.
                let length = (place * 7919) % 60_000 + if place % 3 == 0 { 65_536 } else { 0 };
                (
                    name.to_uppercase(),
                    noise(&format!("{index}/{name}"), length),
                )
            })
            .collect()
    }
}

/// Module lists as boot.cfg has them, shortened.
const MODULES_5_AND_6: &[&str] = &[
    "jumpstrt.gz",
    "useropts.gz",
    "features.gz",
    "k.b00",
    "chardevs.b00",
    "a.b00",
    "user.b00",
    "uc_intel.b00",
    "sb.v00",
    "s.v00",
    "net_e100.v00",
    "ne1000.v00",
    "vmw_ahci.v00",
    "xorg.v00",
    "imgdb.tgz",
    "state.tgz",
];

/// As [`MODULES_5_AND_6`], from 7.0 on.
const MODULES_7: &[&str] = &[
    "jumpstrt.gz",
    "useropts.gz",
    "features.gz",
    "k.b00",
    "uc_intel.b00",
    "procfs.b00",
    "vmx.v00",
    "vim.v00",
    "tpm.v00",
    "sb.v00",
    "s.v00",
    "vmw_ahci.v00",
    "basemisc.tgz",
    "imgdb.tgz",
    "state.tgz",
];

fn sealed(archive: &mut Archive) {
    archive.layers = Layers::Sealed(Seal::default());
    archive.config_store = true;
    archive.device_lines = false;
}

fn cased(name: &str, lower_case: bool) -> String {
    if lower_case {
        name.to_lowercase()
    } else {
        name.to_owned()
    }
}

fn bank(build: &str, updated: u32, modules: &[&str], archive: Archive) -> Bank {
    Bank {
        boot_cfg: Some(BootCfg::new(build, updated, modules)),
        archive,
        marker: true,
        lower_case: false,
        free_bytes: None,
        files: Vec::new(),
        onetime: None,
    }
}

/// The bank in use: saved lately, every kind of member.
fn newer_bank(build: &str, modules: &[&str]) -> Bank {
    let mut members = common_members("newer");
    let long = "a-name-that-is-longer-than-the-hundred-bytes-of-a-tar-header/";
    members.extend([
        Member::file("etc/vmware/.#esx.conf", 0o1600, ""),
        Member::file(
            "etc/vmware/vpxa/.#esx.conf",
            0o644,
            "/device/00000:000:31.2/owner = \"passthru\"\n",
        ),
        Member::file(&format!("etc/vmware/{long}{long}file"), 0o644, "long\n"),
        Member::link("etc/localtime", "/usr/share/zoneinfo/UTC"),
        Member::file(
            "etc/vmware/hostd/vmInventory.xml",
            0o1644,
            "<ConfigRoot/>\n",
        ),
    ]);
    let mut bank = bank(build, 2, modules, archive(members, 47, SAVED));
    bank.archive.backup_counter = Some(47);
    bank
}

/// The other bank: saved months earlier, fewer members, the time before an update.
fn older_bank(build: &str, modules: &[&str]) -> Bank {
    let mut bank = bank(
        build,
        1,
        modules,
        archive(common_members("older"), 12, SAVED_BEFORE),
    );
    bank.lower_case = true;
    // One more card was built in since.
    bank.archive
        .devices
        .retain(|device: &Device| device.address != Address::new(1, 0, 1));
    bank
}

fn archive(members: Vec<Member>, counter: u32, saved: u64) -> Archive {
    Archive {
        devices: host::demonstration_host(),
        spelling: Spelling::LongSegment,
        esx_conf: true,
        system_uuid: None,
        device_lines: true,
        config_store: false,
        store_left: StoreLeft::Closed,
        members,
        backup_counter: Some(counter),
        saved,
        dialect: Dialect::OldGnu,
        dot_slash: false,
        layers: Layers::State,
        flaw: Flaw::None,
    }
}

fn common_members(seed: &str) -> Vec<Member> {
    let secret = |name: &str, length| noise(&format!("{seed}/{name}"), length);
    vec![
        Member::file("etc/hosts", 0o1644, "127.0.0.1 localhost\n"),
        Member::file("etc/resolv.conf", 0o644, "nameserver 192.0.2.1\n"),
        Member::file("etc/random-seed", 0o600, secret("random-seed", 512)),
        Member::file(
            "etc/shadow",
            0o1600,
            "root:$6$not$a-real-hash:17000:0:99999:7:::\n",
        ),
        Member::file("etc/ssh/ssh_host_rsa_key", 0o1600, secret("key", 1679)),
        Member::file(
            "etc/vmware/license.cfg",
            0o644,
            "<ConfigRoot><epoc>AQD</epoc></ConfigRoot>\n",
        ),
        Member::file("etc/vmware/ssl/rui.key", 0o1400, secret("rui", 1704)),
        Member::file(
            "etc/vmware/hostd/config.xml",
            0o644,
            format!("<config><!-- {seed} --></config>\n"),
        ),
        Member::file("etc/vmware/firewall/empty.xml", 0o644, ""),
        Member::file("var/lib/noise", 0o644, secret("noise", 20_000)),
    ]
}
