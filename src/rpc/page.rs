//! Pages: how long they are, and the opaque tokens that lead from one to the next.
//!
//! A token holds all that is needed, so any daemon on the same database can go on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Reason, Result};

/// Entries on a page when the caller names no number.
pub const DEFAULT_SIZE: u32 = 50;
/// Entries on a page at most.
pub const MAX_SIZE: u32 = 500;

const VERSION: u8 = 1;
const SCOPE: usize = 8;

/// One page of a listing: how much, and after which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Entries at most, 1 to 500.
    pub size: u32,
    /// Sort key of the last entry of the page before; `None` on the first page.
    pub after: Option<String>,
    scope: [u8; SCOPE],
}

impl Page {
    /// Reads `page_size` and `page_token` of a request to `method`. `rest` is the same request with both fields cleared: a
    /// token is good only for the listing that it came from.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a negative size, `INVALID_PAGE_TOKEN` for a token of another listing or of nobody.
    pub fn open(method: &str, page_size: i32, page_token: &str, rest: &impl prost::Message) -> Result<Self> {
        let scope = scope(method, &rest.encode_to_vec());
        let after = if page_token.is_empty() { None } else { Some(decode(page_token, scope)?) };
        Ok(Self { size: size(page_size)?, after, scope })
    }

    /// The token for the page after the entry with this sort key.
    #[must_use]
    pub fn token(&self, last: &str) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.scope);
        bytes.extend_from_slice(last.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Cuts a listing that was read one entry further than the page is long, and gives the token of the next page, empty
    /// when there is none.
    pub fn cut<T>(&self, entries: &mut Vec<T>, key: impl Fn(&T) -> String) -> String {
        let size = self.size as usize;
        if entries.len() <= size {
            return String::new();
        }
        entries.truncate(size);
        entries.last().map(|last| self.token(&key(last))).unwrap_or_default()
    }
}

/// 0 means 50; more than 500 means 500.
fn size(asked: i32) -> Result<u32> {
    match u32::try_from(asked) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) => Err(Error::invalid(format!("page_size is {asked}; it must be 0 (for {DEFAULT_SIZE}) to {MAX_SIZE}"))),
    }
}

fn scope(method: &str, rest: &[u8]) -> [u8; SCOPE] {
    let mut hash = Sha256::new();
    hash.update(method.as_bytes());
    hash.update([0]);
    hash.update(rest);
    let mut scope = [0; SCOPE];
    scope.copy_from_slice(&hash.finalize()[..SCOPE]);
    scope
}

fn decode(token: &str, scope: [u8; SCOPE]) -> Result<String> {
    let wrong = |why: &str| Error::new(Reason::InvalidPageToken, format!("page_token {why}; start again without it"));
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong("is not one of ours"))?;
    let (version, bytes) = bytes.split_first().ok_or_else(|| wrong("is not one of ours"))?;
    if *version != VERSION {
        return Err(wrong("is of another version"));
    }
    let (theirs, key) = bytes.split_at_checked(SCOPE).ok_or_else(|| wrong("is not one of ours"))?;
    if theirs != scope {
        return Err(wrong("belongs to another listing: all other fields must stay the same from page to page"));
    }
    String::from_utf8(key.to_vec()).map_err(|_| wrong("is not one of ours"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::ListLeasesRequest;

    fn open(size: i32, token: &str, filter: &str) -> Result<Page> {
        let rest = ListLeasesRequest { filter: filter.to_owned(), ..ListLeasesRequest::default() };
        Page::open("ListLeases", size, token, &rest)
    }

    #[test]
    fn sizes_are_coerced() {
        for (asked, size) in [(0, 50), (1, 1), (500, 500), (501, 500), (i32::MAX, 500)] {
            assert_eq!(open(asked, "", "").unwrap().size, size);
        }
        assert_eq!(open(-1, "", "").unwrap_err().reason, Reason::InvalidArgument);
    }

    #[test]
    fn a_token_leads_on_with_any_size_but_only_in_its_listing() {
        let first = open(2, "", "state = ACTIVE").unwrap();
        assert_eq!(first.after, None);
        let mut entries = vec!["c", "b", "a"];
        let token = first.cut(&mut entries, |entry| (*entry).to_owned());
        assert_eq!(entries, ["c", "b"]);
        let second = open(7, &token, "state = ACTIVE").unwrap();
        assert_eq!(second.after.as_deref(), Some("b"));
        assert_eq!(second.cut(&mut vec!["a"], |entry| (*entry).to_owned()), "");
        assert_eq!(open(2, &token, "state = BROKEN").unwrap_err().reason, Reason::InvalidPageToken);
        let other = Page::open(
            "ListTasks",
            2,
            &token,
            &ListLeasesRequest { filter: "state = ACTIVE".to_owned(), ..ListLeasesRequest::default() },
        );
        assert_eq!(other.unwrap_err().reason, Reason::InvalidPageToken);
    }

    #[test]
    fn nonsense_is_refused() {
        for token in ["!", "AA", "AQ", "AQAAAAAAAAAA", "=", "ä"] {
            assert_eq!(open(0, token, "").unwrap_err().reason, Reason::InvalidPageToken, "{token}");
        }
    }
}
