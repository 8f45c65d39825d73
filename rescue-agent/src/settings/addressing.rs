//! How the machine is to get an address on the network: the setting `network`, and what a network
//! boot leaves on the kernel command line (`ip=`, `BOOTIF=`).
//!
//! Out of scope: doing it.
//!
//! The syntax of `ip=` is the kernel's, Linux `Documentation/admin-guide/nfs/nfsroot.rst`; what
//! its parts mean together follows `ip_auto_config` in `net/ipv4/ipconfig.c`: an address in it is
//! used as it stands, and without one the network is asked by DHCP. `BOOTIF=` is PXELINUX's
//! (`ipappend 2`): the hardware type and the address of the card that the machine booted from.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

/// The fields of `ip=`; the last, a time server, is read by nobody here.
const FIELDS: usize = 10;
/// Longest name of an interface, in bytes: `IFNAMSIZ` in `linux/if.h`, less the zero at its end.
pub const MAX_INTERFACE_NAME: usize = 15;

/// How the machine is to get an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addressing {
    /// The interface to use; none: whichever has a network behind it.
    pub interface: Option<String>,
    /// The address to use; none: DHCP is asked.
    pub fixed: Option<FixedAddress>,
    /// Name servers to ask before those that DHCP names.
    pub name_servers: Vec<Ipv4Addr>,
}

/// An address that was given rather than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedAddress {
    /// The machine's address.
    pub address: Ipv4Addr,
    /// How many bits of it are those of the network.
    pub prefix: u8,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
}

/// What is wrong with an `ip=`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressingError {
    /// More fields than there can be.
    #[error("{found} fields separated by colons; there are at most {FIELDS}")]
    TooManyFields {
        /// How many.
        found: usize,
    },
    /// A field that should be an IPv4 address.
    #[error("the {field} {value:?} is not a usable IPv4 address")]
    Address {
        /// Which field.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// The netmask is none.
    #[error("the netmask {0} has ones after zeros, or leaves no addresses")]
    Netmask(Ipv4Addr),
    /// The gateway cannot be reached from the address.
    #[error("the gateway {gateway} is not in the network of {address}/{prefix}")]
    Gateway {
        /// The router.
        gateway: Ipv4Addr,
        /// The machine's address.
        address: Ipv4Addr,
        /// The bits of its network.
        prefix: u8,
    },
    /// The name of the interface is none.
    #[error("{0:?} is not the name of a network interface")]
    Interface(String),
    /// A way to get an address that is not known here.
    #[error("{0:?} is not a known method to get an address; use dhcp, or give the address itself")]
    Method(String),
}

impl FixedAddress {
    /// The netmask as an address.
    #[must_use]
    pub fn netmask(self) -> Ipv4Addr {
        netmask(self.prefix)
    }
}

impl fmt::Display for FixedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn netmask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
}

impl FromStr for Addressing {
    type Err = AddressingError;

    fn from_str(text: &str) -> Result<Self, AddressingError> {
        if !text.contains(':') && text.parse::<Ipv4Addr>().is_err() {
            return asks_dhcp(text)
                .then(Addressing::default)
                .ok_or_else(|| AddressingError::Method(text.to_owned()));
        }
        let fields: Vec<&str> = text.split(':').collect();
        if fields.len() > FIELDS {
            return Err(AddressingError::TooManyFields {
                found: fields.len(),
            });
        }
        Addressing::from_fields(|index| fields.get(index).copied().unwrap_or_default())
    }
}

impl Addressing {
    fn from_fields<'a>(field: impl Fn(usize) -> &'a str) -> Result<Self, AddressingError> {
        let (client, gateway) = (host("address", field(0))?, host("gateway", field(2))?);
        let mask = address("netmask", field(3))?;
        let interface = interface(field(5))?;
        let mut name_servers = Vec::new();
        for index in [7, 8] {
            name_servers.extend(host("name server", field(index))?);
        }
        let fixed = match client {
            Some(address) => Some(fixed(address, mask, gateway)?),
            // `off` asks nobody, which without an address leaves no network.
            None if asks_dhcp(field(6)) => None,
            None => return Err(AddressingError::Method(field(6).to_owned())),
        };
        Ok(Addressing {
            interface,
            fixed,
            name_servers,
        })
    }
}

/// The kernel's words that mean DHCP, alone or among others; nothing means any way there is.
fn asks_dhcp(word: &str) -> bool {
    matches!(word, "" | "dhcp" | "on" | "any" | "both")
}

fn address(field: &'static str, value: &str) -> Result<Option<Ipv4Addr>, AddressingError> {
    if value.is_empty() {
        return Ok(None);
    }
    let address: Ipv4Addr = value.parse().map_err(|_| AddressingError::Address {
        field,
        value: value.to_owned(),
    })?;
    Ok((!address.is_unspecified()).then_some(address))
}

/// An address that a single machine may have.
fn host(field: &'static str, value: &str) -> Result<Option<Ipv4Addr>, AddressingError> {
    match address(field, value)? {
        Some(found) if !is_host(found) => Err(AddressingError::Address {
            field,
            value: value.to_owned(),
        }),
        found => Ok(found),
    }
}

/// Whether a single machine other than this one may have the address.
pub(crate) fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // 0 is "this network", 127 this machine, from 224 on are groups and what is reserved.
    (1..224).contains(&first) && first != 127
}

fn fixed(
    address: Ipv4Addr,
    mask: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
) -> Result<FixedAddress, AddressingError> {
    let prefix = match mask {
        None => class_prefix(address),
        Some(mask) => prefix(mask).ok_or(AddressingError::Netmask(mask))?,
    };
    let network = |address: Ipv4Addr| address.to_bits() & netmask(prefix).to_bits();
    match gateway {
        Some(gateway) if network(gateway) != network(address) => Err(AddressingError::Gateway {
            gateway,
            address,
            prefix,
        }),
        gateway => Ok(FixedAddress {
            address,
            prefix,
            gateway,
        }),
    }
}

/// Without a netmask the kernel takes that of the address's class.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let ones = mask.to_bits().leading_ones();
    let prefix = u8::try_from(ones).ok()?;
    (netmask(prefix) == mask && prefix > 0 && prefix < 32).then_some(prefix)
}

fn interface(name: &str) -> Result<Option<String>, AddressingError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match name {
        "" => Ok(None),
        "." | ".." => Err(AddressingError::Interface(name.to_owned())),
        name if name.len() <= MAX_INTERFACE_NAME && name.bytes().all(plain) => {
            Ok(Some(name.to_owned()))
        }
        name => Err(AddressingError::Interface(name.to_owned())),
    }
}

/// As it is written: `dhcp`, or the kernel's fields.
impl fmt::Display for Addressing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Addressing::default() {
            return f.write_str("dhcp");
        }
        let text = |value: Option<String>| value.unwrap_or_default();
        let fixed = self.fixed;
        let fields = [
            text(fixed.map(|fixed| fixed.address.to_string())),
            String::new(),
            text(fixed.and_then(|fixed| fixed.gateway.map(|gateway| gateway.to_string()))),
            text(fixed.map(|fixed| fixed.netmask().to_string())),
            String::new(),
            text(self.interface.clone()),
            if fixed.is_some() { "none" } else { "dhcp" }.to_owned(),
            text(self.name_servers.first().map(Ipv4Addr::to_string)),
            text(self.name_servers.get(1).map(Ipv4Addr::to_string)),
        ];
        f.write_str(fields.join(":").trim_end_matches(':'))
    }
}

/// The address of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Reads six bytes in hex, separated by colons or dashes.
    #[must_use]
    pub fn parse(text: &str) -> Option<MacAddress> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            // `from_str_radix` alone would also take a sign.
            part.bytes()
                .all(|digit| digit.is_ascii_hexdigit())
                .then_some(())?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(MacAddress(bytes))
    }

    /// Reads the value of `BOOTIF=`: 01, the hardware type of Ethernet, before the address.
    #[must_use]
    pub fn parse_bootif(text: &str) -> Option<MacAddress> {
        let rest = text.strip_prefix("01")?;
        MacAddress::parse(rest.strip_prefix(['-', ':'])?)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&parts.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Addressing {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_kernels_own_examples_mean_what_the_kernel_means() {
        // From nfsroot.rst, and what iPXE leaves of variables that are empty.
        for text in [
            "",
            "dhcp",
            "on",
            "any",
            "both",
            "::::::dhcp",
            ":::",
            "0.0.0.0:::::",
        ] {
            assert_eq!(parsed(text), Addressing::default(), "{text}");
        }
        assert_eq!(
            parsed(
                "192.168.0.9:192.168.0.1:192.168.0.2:255.255.255.0:client:eth1:off:8.8.8.8:9.9.9.9:1.1.1.1"
            ),
            Addressing {
                interface: Some("eth1".into()),
                fixed: Some(FixedAddress {
                    address: Ipv4Addr::new(192, 168, 0, 9),
                    prefix: 24,
                    gateway: Some(Ipv4Addr::new(192, 168, 0, 2)),
                }),
                name_servers: vec![Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(9, 9, 9, 9)],
            }
        );
        let with_card = parsed(":::::eth7:dhcp");
        assert_eq!(with_card.interface.as_deref(), Some("eth7"));
        assert_eq!(with_card.fixed, None);
        let alone = parsed("10.1.2.3").fixed.unwrap();
        assert_eq!((alone.prefix, alone.gateway), (8, None));
        // An address that is given is used, whatever else is allowed.
        assert!(parsed("172.16.0.2::::::dhcp").fixed.is_some());
        assert_eq!(
            parsed("172.16.0.2").fixed.unwrap().netmask().to_string(),
            "255.255.0.0"
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "dhcp",
            "10.0.0.2::10.0.0.1:255.255.254.0::eth0:none:10.0.0.53",
            ":::::eth3:dhcp",
        ] {
            assert_eq!(parsed(text).to_string(), text);
            assert_eq!(parsed(&parsed(text).to_string()), parsed(text));
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let cases = [
            ("eth0:dhcp", "the address \"eth0\""),
            ("off", "\"off\" is not a known method"),
            ("bootp", "\"bootp\" is not a known method"),
            ("::::::off", "\"off\" is not a known method"),
            ("10.0.0.256", "\"10.0.0.256\" is not a known method"),
            ("10.0.0.256::", "the address \"10.0.0.256\""),
            ("127.0.0.1", "the address \"127.0.0.1\""),
            ("255.255.255.255::", "the address"),
            (
                "10.0.0.1::10.0.1.1:255.255.255.0",
                "the gateway 10.0.1.1 is not in the network of 10.0.0.1/24",
            ),
            ("10.0.0.1:::255.0.255.0", "ones after zeros"),
            ("10.0.0.1:::255.255.255.255", "leaves no addresses"),
            ("10.0.0.1::::: eth0", "\" eth0\" is not the name"),
            ("10.0.0.1:::::../x", "\"../x\" is not the name"),
            ("10.0.0.1:::::a-name-that-is-too-long", "is not the name"),
            ("10.0.0.1::::::none:224.0.0.1", "the name server"),
            ("1:2:3:4:5:6:7:8:9:10:11", "11 fields"),
            ("[fe80::1]:", "the address"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Addressing>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_of_cards_are_read() {
        let mac = MacAddress([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        assert_eq!(MacAddress::parse_bootif("01-52-54-00-AB-cd-ef"), Some(mac));
        assert_eq!(MacAddress::parse("52:54:00:ab:cd:ef"), Some(mac));
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
        for text in [
            "",
            "01",
            "01-",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:ef:01",
            "52:54:00:ab:cd:+f",
            "5254.00ab.cdef",
        ] {
            assert_eq!(MacAddress::parse(text), None, "{text}");
            assert_eq!(MacAddress::parse_bootif(text), None, "{text}");
        }
        assert_eq!(MacAddress::parse_bootif("06-52-54-00-ab-cd-ef"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_it_reads_it_writes(text in "[0-9a-z:.%/]{0,60}") {
            if let Ok(read) = text.parse::<Addressing>() {
                prop_assert_eq!(read.to_string().parse::<Addressing>(), Ok(read));
            }
            let _ = MacAddress::parse_bootif(&text);
        }
    }
}
