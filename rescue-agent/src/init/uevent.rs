//! What the kernel says when devices come: uevents.
//!
//! Format: Linux `lib/kobject_uevent.c`: `ACTION@DEVPATH`, then `KEY=VALUE` fields, each ended by
//! a zero byte, as one datagram of a netlink socket.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt,
    socket, sockopt,
};

/// The multicast group in which the kernel speaks; the other one is for udev.
const KERNEL_GROUP: u32 = 1;
/// Room for messages that nobody has read yet, in bytes: a start with hundreds of devices.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// Longest message, in bytes. The kernel's own limit is 2 KiB of fields (`UEVENT_BUFFER_SIZE`).
const MAX_MESSAGE: usize = 16 * 1024;

/// A message of the kernel about a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uevent {
    /// What happened: `add`, `remove`, `bind`, ...
    pub action: String,
    /// Where the device is under `/sys`.
    pub path: String,
    /// What kind of device it is: `pci`, `block`, `module`, ...
    pub subsystem: String,
    /// What it asks for drivers by.
    pub modalias: Option<String>,
}

impl Uevent {
    /// Reads a message; `None` if it is not one.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Uevent> {
        let text = String::from_utf8_lossy(message);
        let mut fields = text.split('\0');
        fields.next().filter(|header| header.contains('@'))?;
        let mut event = Uevent::default();
        for field in fields {
            match field.split_once('=') {
                Some(("ACTION", value)) => event.action = value.to_owned(),
                Some(("DEVPATH", value)) => event.path = value.to_owned(),
                Some(("SUBSYSTEM", value)) => event.subsystem = value.to_owned(),
                Some(("MODALIAS", value)) => event.modalias = Some(value.to_owned()),
                _ => {}
            }
        }
        let complete = !event.action.is_empty() && !event.path.is_empty();
        complete.then_some(event)
    }

    /// The last part of the path: the name of the device or module.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// These messages, in order; perhaps none.
    Events(Vec<Uevent>),
    /// Some messages may have been missed: only a look at the whole machine shows what is new.
    Lost,
}

/// Where messages come from. Tests have their own.
pub trait EventSource: Send {
    /// Waits for messages, for `timeout` at most, and takes all there are.
    fn wait(&mut self, timeout: Duration) -> News;
}

/// The kernel's messages.
#[derive(Debug)]
pub struct KernelEvents {
    socket: OwnedFd,
}

impl KernelEvents {
    /// Starts to listen. Nothing that happens from now on is missed.
    ///
    /// # Errors
    /// When the kernel gives no such socket.
    pub fn open() -> Result<KernelEvents, Errno> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Only root may; the usual room does nearly always too, and what is lost is noticed.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(KernelEvents { socket })
    }

    fn take_all(&self) -> Result<Vec<Uevent>, Errno> {
        let mut events = Vec::new();
        let mut buffer = vec![0_u8; MAX_MESSAGE];
        loop {
            match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, Some(sender))) if sender.pid() == 0 => {
                    events.extend(Uevent::parse(&buffer[..length]));
                }
                // Not from the kernel.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(events),
                Err(error) => return Err(error),
            }
        }
    }
}

impl EventSource for KernelEvents {
    fn wait(&mut self, timeout: Duration) -> News {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // Rounded up, else the last millisecond would be spent spinning.
        let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1));
        if poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)).is_err() {
            return News::Lost;
        }
        self.take_all().map_or(News::Lost, News::Events)
    }
}

/// No messages at all: the machine is looked at again and again instead.
#[derive(Debug, Clone, Copy)]
pub struct NoEvents;

impl EventSource for NoEvents {
    fn wait(&mut self, timeout: Duration) -> News {
        thread::sleep(timeout);
        News::Lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_kernel_are_read() {
        let message = b"add@/devices/pci0000:00/0000:00:1f.2\0ACTION=add\0DEVPATH=/devices/pci0000:00/0000:00:1f.2\0SUBSYSTEM=pci\0PCI_ID=8086:2922\0MODALIAS=pci:v00008086d00002922sv1\0SEQNUM=1042\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!(
            (event.action.as_str(), event.subsystem.as_str()),
            ("add", "pci")
        );
        assert_eq!(event.name(), "0000:00:1f.2");
        assert_eq!(event.modalias.as_deref(), Some("pci:v00008086d00002922sv1"));
    }

    #[test]
    fn anything_else_is_none() {
        let cases: [&[u8]; 5] = [
            b"",
            b"libudev\0\xfe\xed\xca\xfe",
            b"add@/devices/x",
            b"add@/x\0ACTION=add\0",
            b"\xff\xff@\0ACTION\0DEVPATH",
        ];
        for message in cases {
            assert_eq!(Uevent::parse(message), None, "{message:?}");
        }
    }
}
