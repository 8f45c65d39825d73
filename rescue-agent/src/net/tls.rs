//! TLS to the receiver of reports, and whom it trusts: a pinned certificate, or the public roots.
//!
//! The public roots are compiled in (Mozilla's, crate `webpki-roots`, about 100 KiB): Debian's
//! bundle would be twice that in the image, next to a parser for it. A laboratory's own certificate
//! authority is not among either; that is what the pin is for.
//!
//! A pin is the hash of the server's certificate. Who shows that certificate must also sign the
//! handshake with its key, so a copy of the certificate is worth nothing. Name and dates of a pinned
//! certificate do not matter: a host with a dead battery can still report.

use std::error::Error as StdError;
use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError,
    RootCertStore, SignatureScheme, StreamOwned,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

use crate::fat::FatTime;
use crate::settings::target::Pin;

/// How many wrappers of an error are looked into for its cause.
const MAX_CAUSES: usize = 16;

/// Why the receiver is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Distrust {
    /// It shows another certificate than the pinned one.
    #[error(
        "the receiver shows the certificate {found}, the setting report_pin wants {wanted}; if the \
         receiver has a new certificate, set its SHA-256 as report_pin, otherwise another machine answers"
    )]
    Pin {
        /// The certificate that was shown.
        found: Pin,
        /// The certificate that was wanted.
        wanted: Pin,
    },
    /// The certificate and this machine's clock contradict each other.
    #[error(
        "the receiver's certificate {word} on {date} UTC, which is this machine's date; set the clock in \
         the firmware, or set report_pin, for which the date does not matter"
    )]
    Date {
        /// What is wrong with the date.
        word: &'static str,
        /// This machine's date.
        date: String,
    },
    /// No authority that the image trusts has issued it.
    #[error(
        "the receiver's certificate is not from a public authority; set its SHA-256 as report_pin"
    )]
    Issuer,
    /// It is for another name.
    #[error(
        "the receiver's certificate is not for the name in the URL; use the name in it, or set its \
         SHA-256 as report_pin"
    )]
    Name,
    /// Anything else about the certificate.
    #[error("the receiver's certificate is not accepted: {0}")]
    Certificate(String),
}

impl Distrust {
    /// What `error` says about the receiver's certificate, if it is about that.
    pub(super) fn find(error: &(dyn StdError + 'static)) -> Option<Distrust> {
        let mut cause = Some(error);
        for _ in 0..MAX_CAUSES {
            let current = cause?;
            if let Some(found) = current.downcast_ref::<rustls::Error>() {
                return Distrust::from_tls(found);
            }
            // An `io::Error` does not count what it wraps as its source.
            let wrapped = current
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::get_ref);
            cause = match wrapped {
                Some(inner) => Some(inner),
                None => current.source(),
            };
        }
        None
    }

    fn from_tls(error: &rustls::Error) -> Option<Distrust> {
        let rustls::Error::InvalidCertificate(problem) = error else {
            return None;
        };
        let date = |word| Distrust::Date {
            word,
            date: FatTime::now().to_string(),
        };
        Some(match problem {
            CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<Distrust>() {
                Some(distrust) => distrust.clone(),
                None => Distrust::Certificate(problem.to_string()),
            },
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                date("is not valid yet")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                date("is out of date")
            }
            CertificateError::UnknownIssuer => Distrust::Issuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Distrust::Name
            }
            other => Distrust::Certificate(other.to_string()),
        })
    }
}

/// The SHA-256 of a certificate.
fn fingerprint(certificate: &CertificateDer<'_>) -> Pin {
    Pin(Sha256::digest(certificate).into())
}

/// Believes whoever has the key of one certificate.
#[derive(Debug)]
struct PinnedCertificate {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = fingerprint(end_entity);
        if found == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let distrust = Distrust::Pin {
            found,
            wanted: self.pin,
        };
        Err(CertificateError::Other(OtherError(Arc::new(distrust))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The TLS part of the HTTP client's way to the receiver.
pub(super) struct Tls {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// TLS that believes `pin`, or else the public roots.
    pub(super) fn new(pin: Option<Pin>) -> Result<Tls, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match pin {
            Some(pin) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(PinnedCertificate { pin, provider })),
            None => {
                let roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
                builder.with_root_certificates(RootCertStore { roots })
            }
        };
        Ok(Tls {
            config: Arc::new(builder.with_no_client_auth()),
        })
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, Encrypted>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().to_owned();
        let name = ServerName::try_from(host)
            .map_err(|_| ureq::Error::Tls("no name for TLS in the URL"))?;
        let mut connection =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(wrapped)?;
        let mut socket =
            TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        let stream = StreamOwned::new(connection, socket);
        Ok(Some(Either::B(Encrypted { buffers, stream })))
    }
}

fn wrapped(error: rustls::Error) -> ureq::Error {
    ureq::Error::Other(Box::new(error))
}

/// A connection under TLS.
pub(super) struct Encrypted {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encrypted")
    }
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output();
        self.stream
            .write_all(output.get(..amount).unwrap_or(output))?;
        self.stream.flush()?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
