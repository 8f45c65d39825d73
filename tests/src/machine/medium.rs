//! What a machine starts from: a CD, a stick, the network, or a kernel that QEMU itself loads.

use std::path::PathBuf;

use super::{Arguments, Board, bus, escaped};

/// What it starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Medium {
    /// A CD in a drive of the board.
    Cd(PathBuf),
    /// A CD that gives so many bytes in a second, as virtual media over a line do.
    SlowCd(PathBuf, u32),
    /// A USB stick, whose image no run changes.
    Stick(PathBuf),
    /// A USB stick that keeps what is written to it.
    WritableStick(PathBuf),
    /// The network, by DHCP and TFTP: QEMU's own server, which nobody else can reach. Under BIOS the
    /// network card's ROM asks for it, which is iPXE; under UEFI the firmware does.
    Tftp {
        /// The folder that is served.
        folder: PathBuf,
        /// What DHCP names as the file to start.
        file: &'static str,
    },
    /// The network, by DHCP, which names this address as the file to start: for iPXE.
    Ipxe(String),
    /// UEFI HTTP Boot from this address. The machine of the test is 10.0.2.2 there.
    Http(String),
    /// A kernel that QEMU loads by itself, without any boot loader.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The initramfs.
        initramfs: PathBuf,
        /// The kernel command line.
        command_line: String,
    },
}

impl Medium {
    /// The address that the firmware is told to start from.
    pub(super) fn boot_uri(&self) -> Option<&str> {
        match self {
            Self::Http(uri) => Some(uri),
            _ => None,
        }
    }

    pub(super) fn add(&self, arguments: &mut Arguments, board: Board, uefi: bool) {
        match self {
            Self::Cd(path) => cd(arguments, path, board, ""),
            Self::SlowCd(path, speed) => {
                let limit = format!(",throttling.bps-read={speed}");
                cd(arguments, path, board, &limit);
            }
            Self::Stick(path) | Self::WritableStick(path) => {
                arguments.words("-device qemu-xhci,id=xhci-medium,addr=0xf");
                match self {
                    Self::WritableStick(_) => arguments.pair("-drive", bus::drive("medium", path)),
                    _ => unwritten(arguments, path, ""),
                }
                arguments.words(
                    "-device usb-storage,bus=xhci-medium.0,removable=on,bootindex=0,drive=medium",
                );
            }
            Self::Tftp { folder, file } => {
                let folder = escaped(folder);
                network(
                    arguments,
                    &format!(",restrict=on,tftp={folder},bootfile={file}"),
                    uefi,
                );
            }
            Self::Ipxe(uri) => network(arguments, &format!(",bootfile={uri}"), uefi),
            Self::Http(_) => network(arguments, "", uefi),
            Self::Kernel {
                kernel,
                initramfs,
                command_line,
            } => {
                arguments.pair("-kernel", kernel.display().to_string());
                arguments.pair("-initrd", initramfs.display().to_string());
                arguments.pair("-append", command_line.clone());
            }
        }
    }
}

/// The address of the network card that a machine starts from, as files are named after it.
pub const CARD: &str = "52-54-00-12-34-56";

fn cd(arguments: &mut Arguments, path: &std::path::Path, board: Board, more: &str) {
    // Away from where the disks are.
    let place = match board {
        Board::Q35 => "ide.5",
        Board::Pc => "ide.1,unit=1",
    };
    unwritten(arguments, path, &format!(",media=cdrom{more}"));
    let device = format!("ide-cd,bus={place},bootindex=0,drive=medium");
    arguments.pair("-device", device);
}

/// A medium that is not written: every run starts from the same bytes.
fn unwritten(arguments: &mut Arguments, path: &std::path::Path, more: &str) {
    let file = escaped(path);
    arguments.pair(
        "-drive",
        format!("if=none,id=medium,format=raw,snapshot=on,file={file}{more}"),
    );
}

fn network(arguments: &mut Arguments, more: &str, uefi: bool) {
    arguments.pair("-netdev", format!("user,id=network{more}"));
    let mac = CARD.replace('-', ":");
    // QEMU's cards carry iPXE, for BIOS and for UEFI. Under UEFI the firmware's own network code is
    // what hosts have; the card's would come before it.
    let rom = if uefi { ",romfile=" } else { "" };
    arguments.pair(
        "-device",
        format!("virtio-net-pci,netdev=network,mac={mac},addr=0xe,bootindex=0{rom}"),
    );
}
