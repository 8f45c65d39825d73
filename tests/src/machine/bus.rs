//! What a disk hangs on, and the disks themselves.

use std::path::{Path, PathBuf};

use super::{Arguments, escaped};
use crate::esxi::host::{Address, SATA};

/// Slot of the first controller that is not on the board.
const FIRST_SLOT: u8 = 0x10;

/// The IDE channels of the PIIX3 chip on the `pc` board.
const PIIX_IDE: Address = Address::new(0, 1, 1);

/// What a disk hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// The SATA controller of the board, 0000:00:1f.2.
    Ahci,
    /// The two IDE channels of [`super::Board::Pc`], 0000:00:01.1.
    PiixIde,
    /// NVMe.
    Nvme,
    /// virtio-blk.
    VirtioBlk,
    /// A SCSI disk of virtio-scsi.
    VirtioScsi,
    /// A SCSI disk of a MegaRAID SAS controller of the second generation (SAS2108).
    MegaRaid,
    /// A SCSI disk of a MegaRAID SAS controller of the first generation (SAS1078).
    MegaRaid1078,
    /// A SAS disk of an LSI SAS1068.
    MptSas1068,
    /// A parallel SCSI disk of an LSI 53c895a.
    Lsi53c895a,
    /// A SCSI disk of VMware's paravirtual controller.
    Pvscsi,
    /// A USB stick on an xHCI controller.
    Usb,
    /// A USB stick on an EHCI controller.
    UsbEhci,
    /// A disk in a USB case that speaks UAS, on an xHCI controller.
    Uas,
    /// A card in an SD slot. Its image must be a power of two in size; one to a machine.
    SdCard,
}

impl Bus {
    /// Where the controller of the machine's disk number `index` is.
    pub fn address(self, index: usize) -> Address {
        match self {
            Self::Ahci => SATA,
            Self::PiixIde => PIIX_IDE,
            // A slot of its own for each, above the ones that QEMU fills by itself.
            _ => Address::new(0, FIRST_SLOT + u8::try_from(index).unwrap_or(u8::MAX), 0),
        }
    }

    /// QEMU's controller for it, and the device that is plugged into it; `None`: the disk is a
    /// function of its own, or the board has the controller.
    fn controller(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Ahci | Self::PiixIde | Self::Nvme | Self::VirtioBlk => return None,
            Self::VirtioScsi => ("virtio-scsi-pci", "scsi-hd"),
            Self::MegaRaid => ("megasas-gen2", "scsi-hd"),
            Self::MegaRaid1078 => ("megasas", "scsi-hd"),
            // The controller tells the driver of its disks by their SAS addresses.
            Self::MptSas1068 => ("mptsas1068", "scsi-hd,wwn=0x5000c50015ea71ac"),
            Self::Lsi53c895a => ("lsi53c895a", "scsi-hd"),
            Self::Pvscsi => ("pvscsi", "scsi-hd"),
            Self::Usb => ("qemu-xhci", "usb-storage,removable=on"),
            Self::UsbEhci => ("usb-ehci", "usb-storage,removable=on"),
            Self::Uas => ("qemu-xhci", "scsi-hd"),
            Self::SdCard => ("sdhci-pci", "sd-card"),
        })
    }
}

/// A disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What it hangs on.
    pub bus: Bus,
    /// Its image, raw.
    pub image: PathBuf,
    /// Logical sector size in bytes.
    pub sector_bytes: u32,
    /// QEMU's cache mode, such as `writeback` or `none`.
    pub cache: &'static str,
    /// The most writes that it takes in a second; `None`: as many as it can.
    pub writes_per_second: Option<u32>,
}

/// A flush of the guest would wait for the disk that the image is on, which other tests keep busy. What was written is in
/// the image's file even if QEMU is killed.
const CACHE: &str = "unsafe";

/// QEMU's `-drive` for an image that the guest writes to, for a device that a test adds itself.
pub fn drive(id: &str, image: &Path) -> String {
    let file = escaped(image);
    format!("if=none,id={id},format=raw,cache={CACHE},file={file}")
}

impl Disk {
    /// A disk of 512-byte sectors.
    pub fn new(bus: Bus, image: &Path) -> Self {
        Self {
            bus,
            image: image.to_owned(),
            sector_bytes: 512,
            cache: CACHE,
            writes_per_second: None,
        }
    }

    pub(super) fn add(&self, arguments: &mut Arguments, index: usize) {
        let (id, file) = (format!("disk{index}"), escaped(&self.image));
        let cache = self.cache;
        let limit = self.writes_per_second;
        let limit = limit.map_or(String::new(), |limit| {
            format!(",throttling.iops-write={limit}")
        });
        arguments.pair(
            "-drive",
            format!("if=none,id={id},format=raw,cache={cache}{limit},file={file}"),
        );
        let device = self.device(arguments, index);
        let sector = self.sector_bytes;
        let sizes = match self.bus {
            // Cards have sectors of 512 bytes and nothing to set.
            Bus::SdCard => String::new(),
            _ => format!(",logical_block_size={sector},physical_block_size={sector}"),
        };
        arguments.pair("-device", format!("{device},drive={id}{sizes}"));
    }

    /// Adds the controller, if it needs one, and gives the device to plug into it.
    fn device(&self, arguments: &mut Arguments, index: usize) -> String {
        let slot = self.bus.address(index).slot;
        let Some((controller, device)) = self.bus.controller() else {
            return match self.bus {
                // Of the two units of a channel one each.
                Bus::PiixIde => format!("ide-hd,bus=ide.{index},unit=0"),
                Bus::Nvme => format!("nvme,serial=nvme{index},addr={slot:#x}"),
                Bus::VirtioBlk => format!("virtio-blk-pci,addr={slot:#x}"),
                // The first unit of each of the controller's ports.
                _ => format!("ide-hd,bus=ide.{index}"),
            };
        };
        let bus = format!("bus{index}");
        arguments.pair("-device", format!("{controller},id={bus},addr={slot:#x}"));
        match self.bus {
            Bus::Uas => {
                arguments.pair("-device", format!("usb-uas,id=case{index},bus={bus}.0"));
                format!("{device},bus=case{index}.0")
            }
            // QEMU gives this bus no name of the controller's.
            Bus::SdCard => format!("{device},bus=sd-bus"),
            _ => format!("{device},bus={bus}.0"),
        }
    }
}
