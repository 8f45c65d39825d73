//! The receiver's certificate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rescue_agent::files;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

/// What a connection needs to become HTTPS.
pub struct Tls {
    /// Does it.
    pub acceptor: TlsAcceptor,
    /// The SHA-256 of the certificate, as the setting `report_pin` takes it.
    pub fingerprint: String,
}

/// Longest file of a certificate chain or a key, many times what they are.
const MAX_PEM_BYTES: u64 = 1 << 20;

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    files::read_whole(path, MAX_PEM_BYTES)
        .with_context(|| format!("reading the {what} {}", path.display()))
}

/// Loads certificate chain and key.
///
/// # Errors
/// When one of them is missing, no PEM, or they do not belong together.
pub fn load(certificate: &Path, key: &Path) -> Result<Tls> {
    let text = read(certificate, "certificate")?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<CertificateDer<'static>>, _>>()
        .with_context(|| format!("reading the certificate {}", certificate.display()))?;
    let first = chain
        .first()
        .with_context(|| format!("{} holds no certificate", certificate.display()))?;
    let fingerprint = Sha256::digest(first)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let text = read(key, "key")?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .with_context(|| format!("reading the key {}", key.display()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("certificate and key do not match")?;
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        fingerprint,
    })
}
