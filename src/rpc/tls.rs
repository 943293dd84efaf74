//! TLS for callers from other machines: the daemon's certificate, which can be changed while it runs, and connections whose
//! handshake holds up nobody else.

use std::fmt;
use std::fs::{self, File};
use std::future::Future as _;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tonic::transport::server::{Connected, TcpConnectInfo};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::clock::{Micros, micros, utc};

/// From when on a certificate that runs out is worth a warning.
const SOON: Duration = Duration::from_hours(14 * 24);
/// A file with more is neither a certificate nor a key.
const MAX_FILE: u64 = 1024 * 1024;

/// What is wrong with the files of a certificate. Never shows what is in a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error("cannot read {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The certificate's file is none.
    #[error("{} holds no certificate: it must be PEM, the daemon's own certificate first, then those that lead to its CA", .0.display())]
    NoCertificate(PathBuf),
    /// The key's file is none.
    #[error("{} holds no private key that is known here: it must be PEM, not encrypted, of kind RSA, ECDSA or Ed25519", .0.display())]
    NoKey(PathBuf),
    /// Others could read the key.
    #[error("the key {} has mode {mode:04o}; it must be 0600, or 0640 for a group that may read it (chmod 600)", .path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is someone else's.
    #[error("the key {} belongs to uid {uid}; it must belong to the daemon's user or to root", .path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// They are not of one pair.
    #[error("the key {} does not fit the certificate {}; take the two that were made together", .key.display(), .cert.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The library wants it otherwise.
    #[error("the certificate {} cannot be used", .0.display())]
    Unusable(PathBuf, #[source] rustls::Error),
}

/// A certificate with its key, as they were read.
struct Loaded {
    key: Arc<CertifiedKey>,
    /// Seconds since the epoch.
    not_before: i64,
    not_after: i64,
    /// Host names and addresses that clients may know the daemon by.
    names: Vec<String>,
}

/// The daemon's certificate and key, read from two files, and again when asked to.
pub struct Identity {
    cert: PathBuf,
    key: PathBuf,
    present: RwLock<Arc<Loaded>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("cert", &self.cert).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a certificate (with those that lead to its CA) and its key, both PEM.
    ///
    /// # Errors
    /// Says which file is wrong, and how.
    pub fn open(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let present = RwLock::new(Arc::new(load(cert, key)?));
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), present })
    }

    /// Reads both files again; on an error what was there stays. Connections that are open go on with theirs.
    ///
    /// # Errors
    /// Says which file is wrong, and how.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = Arc::new(load(&self.cert, &self.key)?);
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    fn present(&self) -> Arc<Loaded> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// For whom the certificate is and until when.
    #[must_use]
    pub fn describe(&self) -> String {
        let present = self.present();
        let until = utc(present.not_after.saturating_mul(1_000_000));
        format!("the certificate {} is for {}, until {until}", self.cert.display(), listed(&present.names))
    }

    /// What clients will complain of, now or soon; nothing when all is well.
    #[must_use]
    pub fn concerns(&self, now: Micros) -> Vec<String> {
        let present = self.present();
        let mut found = Vec::new();
        let (from, until) = (present.not_before.saturating_mul(1_000_000), present.not_after.saturating_mul(1_000_000));
        let which = self.cert.display();
        if until <= now {
            found.push(format!(
                "the certificate {which} ran out at {}; clients refuse it, put a new one there",
                utc(until)
            ));
        } else if until <= now.saturating_add(micros(SOON)) {
            found.push(format!(
                "the certificate {which} runs out at {}; put a new one there and send SIGHUP",
                utc(until)
            ));
        }
        if from > now {
            found.push(format!("the certificate {which} holds only from {}; clients refuse it until then", utc(from)));
        }
        if present.names.is_empty() {
            found.push(format!("the certificate {which} names no host (subjectAltName); clients refuse it"));
        }
        found
    }

    /// What handshakes go by: this certificate as it is then, HTTP/2, no client certificates.
    ///
    /// # Errors
    /// When the library cannot do TLS 1.2 and 1.3.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable(self.cert.clone(), error))?;
        let mut config =
            builder.with_no_client_auth().with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Sessions are not taken up again: whoever comes anew is shown the present certificate.
        config.send_tls13_tickets = 0;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.present().key))
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "no host".to_owned() } else { names.join(", ") }
}

fn load(cert: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let text = fs::read(cert).map_err(|error| TlsError::File(cert.to_owned(), error))?;
    let none = || TlsError::NoCertificate(cert.to_owned());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|_| none())?;
    let first = chain.first().ok_or_else(none)?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(|_| none())?;
    let (not_before, not_after) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    let names = names(&parsed);

    let secret = private(key)?;
    let unknown = || TlsError::NoKey(key.to_owned());
    let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|_| unknown())?;
    let pair = CertifiedKey::from_der(chain, secret, &ring::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Pair { cert: cert.to_owned(), key: key.to_owned() },
        // Of the key: what it is is not repeated.
        rustls::Error::General(_) => unknown(),
        error => TlsError::Unusable(cert.to_owned(), error),
    })?;
    Ok(Loaded { key: Arc::new(pair), not_before, not_after, names })
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(name).collect()
}

/// Reads a file that nobody but us, root and perhaps a group of our choice can read.
fn private(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error| TlsError::File(path.to_owned(), error);
    let file = File::open(path).map_err(failed)?;
    // Of the open file: the one at this path may be another by now.
    let facts = file.metadata().map_err(failed)?;
    if facts.uid() != 0 && facts.uid() != rustix::process::geteuid().as_raw() {
        return Err(TlsError::Owner { path: path.to_owned(), uid: facts.uid() });
    }
    if facts.mode() & 0o037 != 0 {
        return Err(TlsError::Mode { path: path.to_owned(), mode: facts.mode() & 0o7777 });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A connection that makes its handshake when it is first read or written, in the task that serves it: so the limits of all
/// connections hold for it, and one that dawdles holds up nobody but itself.
pub(super) struct Secured {
    stage: Stage,
    peer: TcpConnectInfo,
}

enum Stage {
    Greeting(Box<Accept<TcpStream>>),
    Open(Box<TlsStream<TcpStream>>),
    Failed,
}

impl Secured {
    pub(super) fn new(acceptor: &TlsAcceptor, stream: TcpStream) -> Self {
        let peer = stream.connect_info();
        Self { stage: Stage::Greeting(Box::new(acceptor.accept(stream))), peer }
    }

    fn open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TlsStream<TcpStream>>>> {
        if let Stage::Greeting(greeting) = &mut self.stage {
            self.stage = match ready!(Pin::new(greeting.as_mut()).poll(cx)) {
                Ok(stream) => Stage::Open(Box::new(stream)),
                Err(error) => {
                    tracing::debug!(peer = ?self.peer.remote_addr(), %error, "a TLS handshake failed");
                    self.stage = Stage::Failed;
                    return Poll::Ready(Err(error));
                }
            };
        }
        Poll::Ready(match &mut self.stage {
            Stage::Open(stream) => Ok(Pin::new(stream.as_mut())),
            Stage::Greeting(_) | Stage::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl Connected for Secured {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.open(cx))?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.open(cx))?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.open(cx))?.poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.open(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stage {
            Stage::Open(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            // Nothing was said yet, so nothing is to be said at the end.
            Stage::Greeting(_) | Stage::Failed => Poll::Ready(Ok(())),
        }
    }
}
