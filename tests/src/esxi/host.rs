//! The host whose configuration a bank holds: its devices, and who owns each.

use std::fmt;
use std::fmt::Write as _;

/// Position of a PCI function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Segment (domain).
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Slot.
    pub slot: u8,
    /// Function.
    pub function: u8,
}

impl Address {
    /// A function of segment 0.
    pub const fn new(bus: u8, slot: u8, function: u8) -> Self {
        Self {
            segment: 0,
            bus,
            slot,
            function,
        }
    }

    /// As esx.conf spells it: decimal.
    pub fn spelled(self, spelling: Spelling) -> String {
        let Self {
            segment,
            bus,
            slot,
            function,
        } = self;
        match spelling {
            Spelling::BusSlot => format!("{bus:03}:{slot:02}.{function}"),
            Spelling::ShortSegment => format!("{segment:04}:{bus:02}:{slot:02}.{function}"),
            Spelling::LongSegment => format!("{segment:05}:{bus:03}:{slot:02}.{function}"),
        }
    }
}

impl fmt::Display for Address {
    /// As the ConfigStore, sysfs and lspci spell it: hex.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            bus,
            slot,
            function,
        } = self;
        write!(f, "{segment:04x}:{bus:02x}:{slot:02x}.{function}")
    }
}

/// The three spellings of an address in esx.conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// `000:31.2`, from 4.x on.
    BusSlot,
    /// `0000:00:31.2`.
    ShortSegment,
    /// `00000:000:31.2`, 5.1 to 6.x.
    LongSegment,
}

/// Who drives a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// ESXi itself.
    Vmkernel,
    /// Handed to virtual machines.
    Passthru,
}

impl Owner {
    /// The word of esx.conf.
    pub fn esx_conf(self) -> &'static str {
        match self {
            Self::Vmkernel => "vmkernel",
            Self::Passthru => "passthru",
        }
    }

    /// The word of the ConfigStore.
    pub fn config_store(self) -> &'static str {
        match self {
            Self::Vmkernel => "OWNER_VMKERNEL",
            Self::Passthru => "OWNER_PASSTHRU",
        }
    }
}

/// One PCI function of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where it is.
    pub address: Address,
    /// Vendor and device, such as `8086:2922`.
    pub id: (u16, u16),
    /// PCI class, six hex digits.
    pub class: &'static str,
    /// ESXi's name for it, such as `vmhba0`.
    pub vmkname: Option<&'static str>,
    /// Who drives it.
    pub owner: Owner,
    /// What the ConfigStore says of that, where it contradicts esx.conf.
    pub store_owner: Option<Owner>,
}

/// The SATA controller of QEMU's q35 machine, where the boot disk is: the reported case.
pub const SATA: Address = Address::new(0, 31, 2);

/// In place of IDs: a line that somebody added by hand, for which ESXi recorded none.
pub const NO_ID: (u16, u16) = (0, 0);

/// A graphics card that is passed through on purpose.
pub const GPU: Address = Address::new(1, 0, 0);

/// The first `count` of all addresses that a segment has (65 536), each with a device that is passed through.
pub fn every_device(count: usize) -> Vec<Device> {
    let buses = 0..=u8::MAX;
    let addresses = buses.flat_map(|bus| {
        (0..32).flat_map(move |slot| (0..8).map(move |function| Address::new(bus, slot, function)))
    });
    let device = |address| Device {
        address,
        id: (0x8086, 0x10d3),
        class: "020000",
        vmkname: None,
        owner: Owner::Passthru,
        store_owner: None,
    };
    addresses.take(count).map(device).collect()
}

/// The devices of the demonstration host: boot controller and GPU passed through.
pub fn demonstration_host() -> Vec<Device> {
    let device = |address, id, class, vmkname, owner| Device {
        address,
        id,
        class,
        vmkname,
        owner,
        store_owner: None,
    };
    vec![
        device(
            Address::new(0, 2, 0),
            (0x8086, 0x10d3),
            "020000",
            Some("vmnic0"),
            Owner::Vmkernel,
        ),
        device(
            Address::new(0, 29, 7),
            (0x8086, 0x293a),
            "0c0320",
            Some("vmhba32"),
            Owner::Vmkernel,
        ),
        device(
            Address::new(0, 31, 0),
            (0x8086, 0x2918),
            "060100",
            None,
            Owner::Vmkernel,
        ),
        device(
            SATA,
            (0x8086, 0x2922),
            "010601",
            Some("vmhba0"),
            Owner::Passthru,
        ),
        device(
            Address::new(0, 31, 3),
            (0x8086, 0x2930),
            "0c0500",
            None,
            Owner::Vmkernel,
        ),
        device(GPU, (0x10de, 0x1b80), "030000", None, Owner::Passthru),
        device(
            Address::new(1, 0, 1),
            (0x10de, 0x10f0),
            "040300",
            None,
            Owner::Vmkernel,
        ),
    ]
}

/// Text of `etc/vmware/esx.conf`.
///
/// Holds every place where the word `passthru` stands without being an owner, so that an edit by
/// word instead of by key shows.
pub fn esx_conf(devices: &[Device], spelling: Spelling) -> String {
    let mut text = String::from(TRAPS_BEFORE);
    for device in devices {
        write_device(&mut text, device, spelling);
    }
    text.push_str(TRAPS_AFTER);
    text
}

fn write_device(text: &mut String, device: &Device, spelling: Spelling) {
    let address = device.address.spelled(spelling);
    let (vendor, id) = device.id;
    let mut line = |key: &str, value: &str| {
        // Writing into a String does not fail.
        let _ = writeln!(text, "/device/{address}/{key} = \"{value}\"");
    };
    if device.id == NO_ID {
        return line("owner", device.owner.esx_conf());
    }
    line("class", device.class);
    line("device", &format!("{id:x}"));
    line("owner", device.owner.esx_conf());
    line("subdev", "1100");
    line("subven", "1af4");
    line("vendor", &format!("{vendor:x}"));
    if let Some(vmkname) = device.vmkname {
        line("vmkname", vmkname);
    }
}

/// The system's UUID in [`esx_conf`].
pub const SYSTEM_UUID: &str = "5b2e4a9c-1f3d-7a60-9c11-525400123456";

const TRAPS_BEFORE: &str = r#"/adv/Misc/HostName = "esx01.example.org"
/adv/UserVars/HostClientWelcomeMessage = "passthru"
/adv/Net/FollowHardwareMac = "1"
"#;

const TRAPS_AFTER: &str = r#"# /device/00000:000:31.2/owner = "passthru"
/devices/00000:000:31.2/owner = "passthru"
/device/00000:000:31.2/previous/owner = "passthru"
/device/00000:000:31.2/options = "passthru"
/graphics/defaultGraphicsType = "SHARED_PASSTHRU"
/hardware/usb/passthrough/switch = "passthru"
/net/pnic/child[0000]/name = "vmnic0"
/net/pnic/child[0000]/mac = "52:54:00:12:34:56"
/resourceGroups/version = "6.7.0"
/system/uuid = "5b2e4a9c-1f3d-7a60-9c11-525400123456"
/vmkdevmgr/pci/m00000501 = "vmhba0"
/vmkdevmgr/version = "1"
"#;
