//! A daemon's key: made at its start, never written down. Its certificate is in the daemon's row of the database, and nothing
//! else vouches for it.

use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme,
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity as OfClient};

use crate::error::{Error, Result};

/// The name in all certificates. Daemons are told apart by their keys.
const NAME: &str = "daemon.drydock.internal";

/// A key and what is told of it.
pub(super) struct Identity {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Identity {
    /// A new one.
    ///
    /// # Errors
    /// `INTERNAL` when the system gives no randomness.
    pub(super) fn make() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])
            .map_err(|error| Error::internal("cannot make a key for the door to other daemons", error))?;
        Ok(Self { certificate: cert.der().clone(), pem: cert.pem(), key: signing_key })
    }

    /// PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.pem
    }

    /// How we meet who comes in: with our certificate, and asking for one.
    ///
    /// # Errors
    /// `INTERNAL` when the key is of no use.
    pub(super) fn of_server(&self) -> Result<Arc<ServerConfig>> {
        let provider = Arc::new(ring::default_provider());
        let anybody = Arc::new(Anybody { algorithms: provider.signature_verification_algorithms });
        let failed = |error: TlsError| Error::internal("cannot use the key of the door to other daemons", error);
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(provider as Arc<CryptoProvider>)
            .with_protocol_versions(&[&TLS13])
            .map_err(failed)?
            .with_client_cert_verifier(anybody)
            .with_single_cert(vec![self.certificate.clone()], key.into())
            .map_err(failed)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// How we go to a daemon with this certificate: we believe no other one, and show ours.
    pub(super) fn of_client(&self, theirs: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .domain_name(NAME)
            .ca_certificate(Certificate::from_pem(theirs))
            .identity(OfClient::from_pem(&self.pem, self.key.serialize_pem()))
    }
}

/// Takes whoever has the key of the certificate that they show. Who that is, the roll says, for every call: it is in the
/// database, which cannot be asked in the middle of a handshake.
#[derive(Debug)]
struct Anybody {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.3 alone is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
