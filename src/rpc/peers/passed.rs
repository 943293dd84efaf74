//! Who asked in the first place, as one daemon tells another. It is believed at the door to other daemons and nowhere else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::super::doors::{Door, Principal};
use crate::error::{Error, Reason, Result};

/// The header that carries it: JSON in base64, since a principal's name may hold any characters.
const HEADER: HeaderName = HeaderName::from_static("drydock-principal-bin");

#[derive(Serialize, Deserialize)]
struct Passed {
    name: String,
    admin: bool,
    door: String,
}

/// Tells on whose behalf a call is made. What the caller itself sent by this name is gone.
///
/// # Errors
/// `INTERNAL` for what no header can carry; there is no such principal.
pub(super) fn tell(headers: &mut HeaderMap, principal: &Principal) -> Result<()> {
    let door = principal.door.as_str().to_owned();
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| Error::internal("cannot pass on who asks", error);
    let told = Passed { name: principal.name.clone(), admin: principal.admin, door };
    let json = serde_json::to_vec(&told).map_err(|error| failed(error.into()))?;
    let value = HeaderValue::try_from(STANDARD_NO_PAD.encode(json)).map_err(|error| failed(error.into()))?;
    headers.insert(HEADER, value);
    Ok(())
}

/// Takes what a peer tells from the headers.
///
/// # Errors
/// `UNAUTHENTICATED` when it does not tell.
pub(super) fn take(headers: &mut HeaderMap) -> Result<Principal> {
    let read = |value: HeaderValue| -> Option<Passed> {
        serde_json::from_slice(&STANDARD_NO_PAD.decode(value.as_bytes()).ok()?).ok()
    };
    let Some(Passed { name, admin, door }) = headers.remove(HEADER).and_then(read) else {
        return Err(Error::new(Reason::Unauthenticated, "the daemon does not say who asks; it is of another release"));
    };
    let door = if door == Door::Socket.as_str() { Door::Socket } else { Door::Token };
    Ok(Principal { name, admin, door })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_arrives_as_it_was_whatever_the_caller_sent() {
        for (name, admin, door) in [("uid:1000@build-7", true, Door::Socket), ("Zoë \"x\"\n", false, Door::Token)] {
            let principal = Principal { name: name.to_owned(), admin, door };
            let mut headers = HeaderMap::new();
            headers.append(HEADER, HeaderValue::from_static("e30"));
            headers.append(HEADER, HeaderValue::from_static("eyJuYW1lIjoicm9vdCJ9"));
            tell(&mut headers, &principal).unwrap();
            assert_eq!(headers.len(), 1);
            assert_eq!(take(&mut headers).unwrap(), principal);
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn nothing_and_nonsense_are_refused() {
        for value in [None, Some("e30"), Some("%"), Some("")] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(HEADER, HeaderValue::from_static(value));
            }
            assert_eq!(take(&mut headers).unwrap_err().reason, Reason::Unauthenticated, "{value:?}");
        }
    }
}
