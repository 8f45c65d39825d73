//! Interfaces and routes of the kernel: the ioctls of `linux/sockios.h`, as netdevice(7) has them.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::settings::addressing::MAX_INTERFACE_NAME;

mod raw {
    #![allow(missing_docs)]
    use nix::libc;
    nix::ioctl_readwrite_bad!(siocgifflags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifflags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifaddr, libc::SIOCSIFADDR, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifnetmask, libc::SIOCSIFNETMASK, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocaddrt, libc::SIOCADDRT, libc::rtentry);
}

/// The kernel's interfaces.
#[derive(Debug)]
pub(super) struct Interfaces {
    socket: OwnedFd,
}

impl Interfaces {
    /// Opens the way to them.
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        Ok(Self { socket })
    }

    /// Switches an interface on.
    pub(super) fn switch_on(&self, name: &str) -> Result<(), Errno> {
        let mut request = request(name)?;
        // SAFETY: the descriptor is open for the whole call and the kernel writes one ifreq.
        unsafe { raw::siocgifflags(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: SIOCGIFFLAGS has filled the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let up = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
        request.ifr_ifru.ifru_flags = flags | up;
        // SAFETY: the descriptor is open for the whole call and the kernel reads one ifreq.
        unsafe { raw::siocsifflags(self.socket.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    /// Gives an interface its address. The unspecified address takes it away, and its routes.
    pub(super) fn set_address(&self, name: &str, address: Ipv4Addr) -> Result<(), Errno> {
        let mut request = request(name)?;
        request.ifr_ifru.ifru_addr = socket_address(address);
        // SAFETY: the descriptor is open for the whole call and the kernel reads one ifreq.
        unsafe { raw::siocsifaddr(self.socket.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    /// Says how large the network of an interface is that has its address.
    pub(super) fn set_netmask(&self, name: &str, netmask: Ipv4Addr) -> Result<(), Errno> {
        let mut request = request(name)?;
        request.ifr_ifru.ifru_addr = socket_address(netmask);
        // SAFETY: the descriptor is open for the whole call and the kernel reads one ifreq.
        unsafe { raw::siocsifnetmask(self.socket.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    /// Sends everything that is not for a network of its own to `gateway`.
    pub(super) fn add_default_route(&self, name: &str, gateway: Ipv4Addr) -> Result<(), Errno> {
        let device = CString::new(name).map_err(|_| Errno::ENODEV)?;
        // SAFETY: an rtentry of zeros is a valid one: numbers, addresses of no family, null.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        route.rt_dev = device.as_ptr().cast_mut();
        // SAFETY: the descriptor is open for the whole call, and the kernel reads one rtentry and
        // the name it points to, which lives until the end of this function.
        unsafe { raw::siocaddrt(self.socket.as_raw_fd(), &raw const route) }?;
        Ok(())
    }
}

/// A request about the interface `name`, with nothing else in it.
fn request(name: &str) -> Result<libc::ifreq, Errno> {
    if name.is_empty() || name.len() > MAX_INTERFACE_NAME {
        return Err(Errno::ENODEV);
    }
    // SAFETY: an ifreq of zeros is a valid one: an empty name and a union of plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

/// A `sockaddr_in` in the shape that an ifreq or an rtentry holds.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // After the family: the port (2 bytes), then the address.
    for (to, from) in data.iter_mut().skip(2).zip(address.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or(2),
        sa_data: data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_refused() {
        let interfaces = Interfaces::open().unwrap();
        for name in ["", "a-name-that-is-too-long", "nonesuch0"] {
            assert_eq!(interfaces.switch_on(name), Err(Errno::ENODEV), "{name}");
            assert!(
                interfaces
                    .set_address(name, Ipv4Addr::new(10, 0, 0, 1))
                    .is_err(),
                "{name}"
            );
        }
        assert_eq!(interfaces.switch_on("lo"), Ok(()));
    }
}
