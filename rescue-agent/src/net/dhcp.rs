//! Asks for an address by DHCP, on an interface that has none yet.
//!
//! The protocol is `smoltcp`'s, over a packet socket: answers are addressed to an address that the
//! kernel does not have yet and would not take. The kernel gets the lease from others, and all
//! else that happens on the network is the kernel's.
//!
//! Out of scope: renewing a lease. The shortest ones last longer than a report takes.
//!
//! RFC 2131, RFC 2132.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::Ipv4Addr;
use std::time::Instant;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, Device, DeviceCapabilities, Medium, RawSocket, RxToken as _};
use smoltcp::socket::dhcpv4;
use smoltcp::time::{Duration as WireDuration, Instant as WireInstant};
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    HardwareAddress, IpProtocol, Ipv4Packet, UdpPacket,
};

use crate::settings::addressing::{FixedAddress, MacAddress, is_host};

/// How long an answer to the first question is waited for.
const DISCOVER_TIMEOUT: WireDuration = WireDuration::from_secs(3);
/// How long the confirmation of an offer is waited for at first.
const REQUEST_TIMEOUT: WireDuration = WireDuration::from_secs(2);
/// How many frames of others are passed over in one go.
const MAX_FOREIGN_FRAMES: usize = 512;
/// The lease that `smoltcp` assumes where the server names none, in seconds.
const DEFAULT_LEASE: u32 = 120;

/// What a DHCP server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The machine's address, its network and the router.
    pub address: FixedAddress,
    /// The name servers.
    pub name_servers: Vec<Ipv4Addr>,
}

/// A question for an address that is under way on one interface.
pub struct Client<D: Device = Card> {
    device: D,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    begun: Instant,
}

impl<D: Device> fmt::Debug for Client<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client<Card> {
    /// Prepares to ask on the interface `name`, whose card has the address `mac`.
    ///
    /// # Errors
    /// When the kernel gives no packet socket.
    pub fn open(name: &str, mac: MacAddress) -> io::Result<Self> {
        Ok(Client::new(
            Card(RawSocket::new(name, Medium::Ethernet)?),
            mac,
        ))
    }
}

impl<D: Device> Client<D> {
    fn new(mut device: D, mac: MacAddress) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        config.random_seed = RandomState::new().hash_one(mac);
        let interface = Interface::new(config, &mut device, WireInstant::ZERO);
        let mut socket = dhcpv4::Socket::new();
        let mut retries = socket.get_retry_config();
        retries.discover_timeout = DISCOVER_TIMEOUT;
        retries.initial_request_timeout = REQUEST_TIMEOUT;
        socket.set_retry_config(retries);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Client {
            device,
            interface,
            sockets,
            handle,
            begun: Instant::now(),
        }
    }

    /// Takes what has come and sends what is due; never waits. To be called again and again until
    /// there is a lease.
    pub fn poll(&mut self) -> Option<Lease> {
        let since = i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX);
        let now = WireInstant::from_micros(since);
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.handle);
        match socket.poll()? {
            dhcpv4::Event::Configured(config) => lease(&config),
            dhcpv4::Event::Deconfigured => None,
        }
    }
}

fn lease(config: &dhcpv4::Config<'_>) -> Option<Lease> {
    let address = config.address.address();
    let address = FixedAddress {
        address,
        prefix: config.address.prefix_len(),
        gateway: config.router.filter(|router| is_host(*router)),
    };
    is_host(address.address).then(|| Lease {
        address,
        name_servers: config.dns_servers.iter().copied().collect(),
    })
}

/// A card as the client sees it: one on which nothing but answers of DHCP servers arrives.
pub struct Card(RawSocket);

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Card")
    }
}

/// A frame that came in.
#[derive(Debug)]
pub struct Frame(Vec<u8>);

impl phy::RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl Device for Card {
    type RxToken<'a> = Frame;
    type TxToken<'a> = <RawSocket as Device>::TxToken<'a>;

    fn receive(&mut self, now: WireInstant) -> Option<(Frame, Self::TxToken<'_>)> {
        for _ in 0..MAX_FOREIGN_FRAMES {
            let (token, _) = self.0.receive(now)?;
            let frame = token.consume(|frame| is_dhcp_answer(frame).then(|| Frame(frame.to_vec())));
            if let Some(frame) = frame {
                return Some((frame, self.0.transmit(now)?));
            }
        }
        None
    }

    fn transmit(&mut self, now: WireInstant) -> Option<Self::TxToken<'_>> {
        self.0.transmit(now)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = self.0.capabilities();
        // A frame from this very host (a virtual switch) may come without a checksum, because the
        // card would have made it; Ethernet's own protects the others.
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

/// Whether a frame is what a DHCP server may send. Times that contradict each other are kept from
/// `smoltcp`, which subtracts them.
fn is_dhcp_answer(frame: &[u8]) -> bool {
    let parse = || {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let is_ip = frame.ethertype() == EthernetProtocol::Ipv4;
        let packet = is_ip.then(|| Ipv4Packet::new_checked(frame.payload()).ok())??;
        let is_udp = packet.next_header() == IpProtocol::Udp;
        let datagram = is_udp.then(|| UdpPacket::new_checked(packet.payload()).ok())??;
        let is_ours = datagram.dst_port() == DHCP_CLIENT_PORT;
        let message = is_ours.then(|| DhcpPacket::new_checked(datagram.payload()).ok())??;
        let message = DhcpRepr::parse(&message).ok()?;
        let lease = message.lease_duration.unwrap_or(DEFAULT_LEASE);
        Some(message.renew_duration.unwrap_or(0) <= lease)
    };
    parse() == Some(true)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{DhcpMessageType, DhcpOption, EthernetRepr, Ipv4Repr, UdpRepr};

    use super::*;

    const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 1, 2, 3]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
    const OFFERED: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

    /// What the server changes in its messages.
    type Twist = fn(&mut DhcpRepr<'_>);

    /// A network with a DHCP server on it.
    struct Network {
        twist: Twist,
        inbox: VecDeque<Vec<u8>>,
        asked: Vec<DhcpMessageType>,
    }

    struct Cable<'a>(&'a mut Network);

    impl phy::TxToken for Cable<'_> {
        fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
            let mut frame = vec![0; length];
            let result = fill(&mut frame);
            self.0.hear(&frame);
            result
        }
    }

    impl Device for Network {
        type RxToken<'a> = Frame;
        type TxToken<'a> = Cable<'a>;

        fn receive(&mut self, _: WireInstant) -> Option<(Frame, Cable<'_>)> {
            while let Some(frame) = self.inbox.pop_front() {
                if is_dhcp_answer(&frame) {
                    return Some((Frame(frame), Cable(self)));
                }
            }
            None
        }

        fn transmit(&mut self, _: WireInstant) -> Option<Cable<'_>> {
            Some(Cable(self))
        }

        fn capabilities(&self) -> DeviceCapabilities {
            let mut capabilities = DeviceCapabilities::default();
            capabilities.max_transmission_unit = 1514;
            capabilities.medium = Medium::Ethernet;
            capabilities
        }
    }

    impl Network {
        fn hear(&mut self, frame: &[u8]) {
            let frame = EthernetFrame::new_checked(frame).unwrap();
            let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
            let datagram = UdpPacket::new_checked(packet.payload()).unwrap();
            let message = DhcpPacket::new_checked(datagram.payload()).unwrap();
            let question = DhcpRepr::parse(&message).unwrap();
            assert_eq!(question.client_hardware_address, EthernetAddress(MAC.0));
            self.asked.push(question.message_type);
            let kind = match question.message_type {
                DhcpMessageType::Discover => DhcpMessageType::Offer,
                _ => DhcpMessageType::Ack,
            };
            let mut reply = DhcpRepr {
                message_type: kind,
                your_ip: OFFERED,
                server_ip: SERVER,
                router: Some(SERVER),
                subnet_mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
                requested_ip: None,
                client_identifier: None,
                server_identifier: Some(SERVER),
                parameter_request_list: None,
                max_size: None,
                lease_duration: Some(86400),
                dns_servers: None,
                additional_options: &[DhcpOption {
                    kind: 6,
                    data: &[10, 0, 2, 3, 0, 0, 0, 0],
                }],
                ..question
            };
            (self.twist)(&mut reply);
            self.inbox.push_back(b"not for us".to_vec());
            self.inbox.push_back(framed(&reply));
        }
    }

    fn framed(reply: &DhcpRepr<'_>) -> Vec<u8> {
        let sums = ChecksumCapabilities::default();
        let udp = UdpRepr {
            src_port: 67,
            dst_port: 68,
        };
        let ip = Ipv4Repr {
            src_addr: SERVER,
            dst_addr: OFFERED,
            next_header: IpProtocol::Udp,
            payload_len: 8 + reply.buffer_len(),
            hop_limit: 64,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_addr: EthernetAddress(MAC.0),
            ethertype: EthernetProtocol::Ipv4,
        };
        let mut bytes = vec![0; 14 + 20 + 8 + reply.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.emit(&mut frame);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &sums);
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        let fill =
            |payload: &mut [u8]| reply.emit(&mut DhcpPacket::new_unchecked(payload)).unwrap();
        udp.emit(
            &mut datagram,
            &SERVER.into(),
            &OFFERED.into(),
            reply.buffer_len(),
            fill,
            &sums,
        );
        bytes
    }

    /// A renewal after 121 seconds (option 58), later than the end of the lease.
    const LATE_RENEWAL: &[DhcpOption<'_>] = &[DhcpOption {
        kind: 58,
        data: &[0, 0, 0, 121],
    }];

    /// What comes of asking for `time`.
    fn ask(twist: Twist, time: Duration) -> (Option<Lease>, Vec<DhcpMessageType>) {
        let network = Network {
            twist,
            inbox: VecDeque::new(),
            asked: Vec::new(),
        };
        let mut client = Client::new(network, MAC);
        let until = Instant::now() + time;
        loop {
            if let Some(lease) = client.poll() {
                return (Some(lease), client.device.asked);
            }
            if Instant::now() >= until {
                return (None, client.device.asked);
            }
        }
    }

    /// Time in which there must be a lease.
    const LONG: Duration = Duration::from_secs(20);

    /// Time in which there must be none.
    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn a_lease_is_asked_for_and_taken() {
        let (lease, asked) = ask(|_| {}, LONG);
        assert_eq!(asked, [DhcpMessageType::Discover, DhcpMessageType::Request]);
        let expected = Lease {
            address: FixedAddress {
                address: OFFERED,
                prefix: 24,
                gateway: Some(SERVER),
            },
            name_servers: vec![Ipv4Addr::new(10, 0, 2, 3)],
        };
        assert_eq!(lease, Some(expected));
    }

    #[test]
    fn answers_that_cannot_be_meant_give_no_lease() {
        let twists: [Twist; 7] = [
            |reply| reply.your_ip = Ipv4Addr::UNSPECIFIED,
            |reply| reply.your_ip = Ipv4Addr::new(127, 0, 0, 1),
            |reply| reply.subnet_mask = Some(Ipv4Addr::new(255, 0, 255, 0)),
            |reply| reply.server_identifier = None,
            |reply| reply.transaction_id ^= 1,
            |reply| (reply.lease_duration, reply.additional_options) = (Some(120), LATE_RENEWAL),
            |reply| (reply.lease_duration, reply.additional_options) = (None, LATE_RENEWAL),
        ];
        for (index, twist) in twists.into_iter().enumerate() {
            assert_eq!(ask(twist, SHORT).0, None, "twist {index}");
        }
        let (lease, _) = ask(|reply| reply.router = Some(Ipv4Addr::BROADCAST), LONG);
        assert_eq!(lease.unwrap().address.gateway, None);
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic(damage in proptest::collection::vec((0_usize..300, any::<u8>()), 0..12), length in 0_usize..400) {
            let network = Network { twist: |_| {}, inbox: VecDeque::new(), asked: Vec::new() };
            let mut client = Client::new(network, MAC);
            let _ = client.poll();
            // Each answer, also the one to what follows from a damaged one.
            for _ in 0..4 {
                for frame in &mut client.device.inbox {
                    for (at, value) in &damage {
                        if let Some(byte) = frame.get_mut(*at) {
                            *byte = *value;
                        }
                    }
                    frame.truncate(length);
                }
                let _ = client.poll();
            }
        }
    }
}
