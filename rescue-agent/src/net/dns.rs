//! Looks up the address of a name, without the C library: its own resolver loads parts of itself
//! at run time, which a static program cannot.
//!
//! Out of scope: everything but IPv4 addresses, search domains, and anything over TCP.
//!
//! Messages: RFC 1035; encoded and decoded by `smoltcp::wire`.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData,
    DnsRepr,
};
use thiserror::Error;

/// How often each server is asked.
const ROUNDS: usize = 3;
/// How long a server may take to answer one question.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer that is read, in bytes: the largest that is allowed without extensions.
const MAX_MESSAGE: usize = 512;
/// Most addresses of one name that are used.
pub const MAX_ADDRESSES: usize = 8;
/// Most records of one answer that are looked at: more do not fit into [`MAX_MESSAGE`].
const MAX_RECORDS: u16 = 64;

/// Why the address of a name is not known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LookupError {
    /// There is nobody to ask.
    #[error(
        "the name {name} cannot be looked up, because the network has no name server; give one in the setting network, or use an address in the setting report"
    )]
    NoServer {
        /// The name.
        name: String,
    },
    /// The name server says so.
    #[error(
        "the name server {server} knows no IPv4 address of {name}; write the full name, or use an address in the setting report"
    )]
    UnknownName {
        /// The name.
        name: String,
        /// Who says so.
        server: SocketAddr,
    },
    /// Nobody answered in a way that helps.
    #[error("no name server gave the address of {name}: {}", .problems.join("; "))]
    NoAnswer {
        /// The name.
        name: String,
        /// What went wrong with each.
        problems: Vec<String>,
    },
}

/// What a message says about a name.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Addresses(Vec<Ipv4Addr>),
    UnknownName,
    /// The server cannot or will not say.
    Refused(u8),
}

/// Asks the servers, in order and again, for the IPv4 addresses of `name`; at least one.
///
/// # Errors
/// When no server gives one before `deadline`.
pub fn lookup(
    name: &str,
    servers: &[SocketAddr],
    deadline: Instant,
) -> Result<Vec<Ipv4Addr>, LookupError> {
    if servers.is_empty() {
        return Err(LookupError::NoServer {
            name: name.to_owned(),
        });
    }
    let mut problems = Vec::new();
    for _ in 0..ROUNDS {
        problems.clear();
        for server in servers {
            let until = deadline.min(Instant::now() + TIMEOUT);
            match ask(name, *server, until) {
                Ok(Answer::Addresses(addresses)) => return Ok(addresses),
                Ok(Answer::UnknownName) => {
                    return Err(LookupError::UnknownName {
                        name: name.to_owned(),
                        server: *server,
                    });
                }
                Ok(Answer::Refused(code)) => {
                    problems.push(format!("{server} answers with error {code}"))
                }
                Err(error) if is_timeout(&error) => {
                    problems.push(format!("{server} does not answer"))
                }
                Err(error) => problems.push(format!("{server}: {error}")),
            }
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(LookupError::NoAnswer {
        name: name.to_owned(),
        problems,
    })
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// One question to one server. Each has a socket of its own, hence a port that others have to guess.
fn ask(name: &str, server: SocketAddr, until: Instant) -> io::Result<Answer> {
    // An address and no text: text would bring the C library's resolver into the program.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    let id = random_id();
    let encoded = encode_name(name);
    socket.send(&query(id, &encoded))?;
    let mut buffer = [0; MAX_MESSAGE];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        // What is no answer to this question is somebody else's, or worse.
        if let Some(answer) = buffer
            .get(..length)
            .and_then(|message| parse(message, id, &encoded))
        {
            return Ok(answer);
        }
    }
}

/// The hasher's keys come from the kernel's random numbers.
fn random_id() -> u16 {
    let [low, high, ..] = RandomState::new().hash_one(0_u8).to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// The name as messages carry it. Only names that passed as a host of a URL come here: their parts
/// have 1 to 63 bytes.
fn encode_name(name: &str) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        encoded.push(u8::try_from(label.len()).unwrap_or(0));
        encoded.extend_from_slice(label.as_bytes());
    }
    encoded.push(0);
    encoded
}

fn query(id: u16, name: &[u8]) -> Vec<u8> {
    let query = DnsRepr {
        transaction_id: id,
        opcode: DnsOpcode::Query,
        flags: DnsFlags::RECURSION_DESIRED,
        question: DnsQuestion {
            name,
            type_: DnsQueryType::A,
        },
    };
    let mut message = vec![0; query.buffer_len()];
    query.emit(&mut DnsPacket::new_unchecked(message.as_mut_slice()));
    message
}

/// What `message` answers to the question `id` for `name`; `None` if it does not answer it. Also a
/// chain of aliases is followed by the server and not here: any address in the answer is one of
/// the name's.
fn parse(message: &[u8], id: u16, name: &[u8]) -> Option<Answer> {
    let packet = DnsPacket::new_checked(message).ok()?;
    let is_answer =
        packet.flags().contains(DnsFlags::RESPONSE) && packet.opcode() == DnsOpcode::Query;
    if packet.transaction_id() != id || !is_answer || packet.question_count() != 1 {
        return None;
    }
    let (mut rest, question) = DnsQuestion::parse(packet.payload()).ok()?;
    if question.type_ != DnsQueryType::A || !question.name.eq_ignore_ascii_case(name) {
        return None;
    }
    match packet.rcode() {
        DnsRcode::NoError => {}
        DnsRcode::NXDomain => return Some(Answer::UnknownName),
        code => return Some(Answer::Refused(code.into())),
    }
    let mut addresses = Vec::new();
    for _ in 0..packet.answer_record_count().min(MAX_RECORDS) {
        // A cut message still holds what came before the cut.
        let Ok((next, record)) = DnsRecord::parse(rest) else {
            break;
        };
        if let DnsRecordData::A(address) = record.data
            && addresses.len() < MAX_ADDRESSES
        {
            addresses.push(address);
        }
        rest = next;
    }
    Some(if addresses.is_empty() {
        Answer::UnknownName
    } else {
        Answer::Addresses(addresses)
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "collector.lab.example";

    /// An answer to the question 7 for [`NAME`], byte by byte as RFC 1035 has it.
    fn answer(flags: u16, records: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![0, 7];
        message.extend(flags.to_be_bytes());
        message.extend([0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
        message.extend(encode_name(NAME));
        message.extend([0, 1, 0, 1]);
        records
            .iter()
            .for_each(|record| message.extend_from_slice(record));
        message
    }

    /// An address for the name at offset 12.
    const A: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3];
    /// An alias `x.` for the name at offset 12.
    const CNAME: &[u8] = &[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 3, 1, b'x', 0];
    const GOOD: u16 = 0x8180;

    fn parsed(message: &[u8]) -> Option<Answer> {
        parse(message, 7, &encode_name(NAME))
    }

    #[test]
    fn a_question_has_the_bytes_of_the_standard() {
        let mut expected = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        expected.extend(b"\x09collector\x03lab\x07example\0\0\x01\0\x01");
        assert_eq!(query(0x1234, &encode_name(NAME)), expected);
    }

    #[test]
    fn addresses_are_found_behind_aliases() {
        let address = Answer::Addresses(vec![Ipv4Addr::new(10, 1, 2, 3)]);
        assert_eq!(parsed(&answer(GOOD, &[A])), Some(address));
        let both = Answer::Addresses(vec![Ipv4Addr::new(10, 1, 2, 3); 2]);
        assert_eq!(parsed(&answer(GOOD, &[CNAME, A, A])), Some(both));
        let many = answer(GOOD, &[A; 20]);
        assert_eq!(
            parsed(&many),
            Some(Answer::Addresses(vec![
                Ipv4Addr::new(10, 1, 2, 3);
                MAX_ADDRESSES
            ]))
        );
        // Upper and lower case are the same name.
        let shouted: Vec<u8> = answer(GOOD, &[A]).to_ascii_uppercase();
        assert!(parsed(&shouted).is_some());
    }

    #[test]
    fn refusals_are_told_from_names_that_do_not_exist() {
        assert_eq!(parsed(&answer(0x8183, &[])), Some(Answer::UnknownName));
        assert_eq!(parsed(&answer(GOOD, &[])), Some(Answer::UnknownName));
        assert_eq!(parsed(&answer(GOOD, &[CNAME])), Some(Answer::UnknownName));
        assert_eq!(parsed(&answer(0x8182, &[])), Some(Answer::Refused(2)));
        assert_eq!(parsed(&answer(0x8185, &[])), Some(Answer::Refused(5)));
    }

    #[test]
    fn hostile_messages_are_no_answers() {
        let good = answer(GOOD, &[A]);
        for end in 0..good.len() - A.len() {
            assert_eq!(parsed(&good[..end]), None, "cut at {end}");
        }
        let mut other_id = good.clone();
        other_id[1] = 8;
        assert_eq!(parsed(&other_id), None);
        assert_eq!(parsed(&answer(0x0180, &[A])), None, "a question");
        let mut other_name = good.clone();
        other_name[13] = b'X';
        assert_eq!(parsed(&other_name), None);
        let mut two_questions = good.clone();
        two_questions[5] = 2;
        assert_eq!(parsed(&two_questions), None);
        let mut endless = good.clone();
        endless[6] = 0xff;
        assert!(matches!(parsed(&endless), Some(Answer::Addresses(_))));
        // A name that is a pointer to itself.
        let looped = [0xc0, 40, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3];
        assert!(parsed(&answer(GOOD, &[&looped])).is_some());
    }

    #[test]
    fn servers_are_asked_in_turn_and_liars_are_not_heard() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let honest = UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = [silent.local_addr().unwrap(), honest.local_addr().unwrap()];
        let server = thread::spawn(move || {
            let mut question = [0; 512];
            let (length, client) = honest.recv_from(&mut question).unwrap();
            honest.send_to(b"nonsense", client).unwrap();
            let mut reply = question[..length].to_vec();
            (reply[2], reply[3], reply[7]) = (0x81, 0x80, 1);
            reply.extend_from_slice(A);
            let mut other = reply.clone();
            other[0] ^= 0xff;
            honest.send_to(&other, client).unwrap();
            honest.send_to(&reply, client).unwrap();
        });
        let found = lookup(NAME, &servers, Instant::now() + Duration::from_secs(20));
        server.join().unwrap();
        assert_eq!(found, Ok(vec![Ipv4Addr::new(10, 1, 2, 3)]));
    }

    #[test]
    fn nobody_to_ask_and_nobody_who_answers_are_said() {
        let none = lookup(NAME, &[], Instant::now() + Duration::from_secs(9)).unwrap_err();
        assert!(none.to_string().contains("has no name server"), "{none}");
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = silent.local_addr().unwrap();
        let error =
            lookup(NAME, &[server], Instant::now() + Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(head in any::<[u8; 12]>(), tail in proptest::collection::vec(any::<u8>(), 0..200), fitting in any::<bool>()) {
            let mut message = head.to_vec();
            if fitting {
                message = answer(GOOD, &[]);
                message[7] = 3;
            }
            message.extend(tail);
            let _ = parsed(&message);
        }
    }
}
