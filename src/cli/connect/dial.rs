//! One connection to one address: TLS, and why it did not come about.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderValue, Uri};
use tokio_rustls::rustls;
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::address::Address;
use crate::cli::exit::{Failure, PERMISSION, Result};

/// Largest HTTP/2 frame taken, in bytes: a chunk of output comes in one, not in several of the default size of 16 KiB.
const MAX_FRAME: u32 = 256 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A variable of the environment.
type Said<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Whose certificates are believed.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// The CAs that this system trusts.
    System,
    /// Those in a file, and no others.
    File {
        /// `DRYDOCK_CA_FILE`.
        path: PathBuf,
        /// What is in it.
        pem: Vec<u8>,
    },
}

impl Trust {
    /// What the environment says; only addresses with TLS ask for it.
    pub(super) fn of(addresses: &[Address], said: Said<'_>) -> Result<Self> {
        if !addresses.iter().any(|address| matches!(address, Address::Https(_))) {
            return Ok(Self::System);
        }
        let said = |name: &str| said(name).filter(|value| !value.is_empty());
        if let Some(name) = ["DRYDOCK_CERT_FILE", "DRYDOCK_KEY_FILE"].into_iter().find(|name| said(name).is_some()) {
            return Err(Failure::usage(format!(
                "{name}: client certificates are not supported yet; unset it, and say who you are by DRYDOCK_TOKEN_FILE"
            )));
        }
        let Some(path) = said("DRYDOCK_CA_FILE").map(PathBuf::from) else { return Ok(Self::System) };
        let wrong = |why: String| Failure::configuration(format!("DRYDOCK_CA_FILE {}: {why}", path.display()));
        let pem = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
        let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        if found.is_ok_and(|found| !found.is_empty()) {
            return Ok(Self::File { path, pem });
        }
        Err(wrong("it holds no certificate; it must be PEM".to_owned()))
    }
}

/// Connects, or says why not.
pub(super) async fn dial(address: &Address, trust: &Trust) -> Result<Channel, String> {
    let endpoint = match address {
        // The HTTP/2 library refuses a path as authority.
        Address::Unix(path) => Endpoint::from_shared(format!("unix:{}", path.display()))
            .map(|it| it.origin(Uri::from_static("http://localhost"))),
        Address::Http(url) => Endpoint::from_shared(url.clone()),
        Address::Https(url) => Endpoint::from_shared(url.clone()).and_then(|it| it.tls_config(tls(url, trust))),
    };
    let endpoint = endpoint
        .and_then(|it| it.user_agent(concat!("drydock-cli/", env!("CARGO_PKG_VERSION"))))
        .map_err(|error| why(&error, trust))?
        .max_frame_size(MAX_FRAME)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    endpoint.connect().await.map_err(|error| why(&error, trust))
}

fn tls(url: &str, trust: &Trust) -> ClientTlsConfig {
    let config = match trust {
        Trust::System => ClientTlsConfig::new().with_native_roots(),
        Trust::File { pem, .. } => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
    };
    let uri: Option<Uri> = url.parse().ok();
    match uri.as_ref().and_then(Uri::host) {
        // An IPv6 address stands in brackets in a URL, and nowhere else.
        Some(host) => config.domain_name(host.trim_matches(['[', ']'])),
        None => config,
    }
}

/// What lies at the bottom, in words that say what to do.
fn why(error: &tonic::transport::Error, trust: &Trust) -> String {
    let mut deepest: &dyn std::error::Error = error;
    loop {
        let of_tls = deepest.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(error) = of_tls.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return of_handshake(error, trust);
        }
        match deepest.source() {
            Some(cause) => deepest = cause,
            None => return deepest.to_string(),
        }
    }
}

fn of_handshake(error: &rustls::Error, trust: &Trust) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    match error {
        // Another CA of the same name is another CA.
        rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) => match trust {
            Trust::System => {
                "no CA that this system trusts vouches for its certificate; name its CA in DRYDOCK_CA_FILE".to_owned()
            }
            Trust::File { path, .. } => {
                format!("its certificate is not from a CA in {}, which DRYDOCK_CA_FILE names", path.display())
            }
        },
        rustls::Error::InvalidCertificate(NotValidForNameContext { presented, .. }) => format!(
            "its certificate is for {} and not for this name; use a name that it has",
            if presented.is_empty() { "no host".to_owned() } else { presented.join(", ") }
        ),
        rustls::Error::InvalidCertificate(NotValidForName) => {
            "its certificate is not for this name; use a name that it has".to_owned()
        }
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "its certificate has expired, or the clock of this machine is wrong".to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "its certificate is not valid yet, or the clock of this machine is wrong".to_owned()
        }
        rustls::Error::InvalidCertificate(other) => format!("its certificate is refused: {other}"),
        rustls::Error::InvalidMessage(_) => "it does not speak TLS; on loopback try http://".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("it refuses the TLS handshake: {alert:?}"),
        other => format!("TLS: {other}"),
    }
}

/// `Bearer …` with the token of `DRYDOCK_TOKEN`, or of the file in `DRYDOCK_TOKEN_FILE`.
pub(super) fn token(said: Said<'_>) -> Result<Option<HeaderValue>> {
    let said = |name: &str| said(name).filter(|value| !value.is_empty());
    let secret = match (said("DRYDOCK_TOKEN"), said("DRYDOCK_TOKEN_FILE")) {
        (Some(token), _) => token,
        (None, None) => return Ok(None),
        (None, Some(path)) => std::fs::read_to_string(&path).map_err(|error| {
            Failure::new(PERMISSION, "UNAUTHENTICATED", format!("DRYDOCK_TOKEN_FILE {path}: {error}"))
        })?,
    };
    let mut value: HeaderValue = format!("Bearer {}", secret.trim())
        .parse()
        .map_err(|_| Failure::new(PERMISSION, "UNAUTHENTICATED", "the token holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}
