//! Etags for files over sftp, which tells of a change only its second and the size.
//!
//! What is written through this daemon gets a number besides, so that two writes in one second differ. What others change,
//! a command of the lease for example, within the second of the last change and without another size, is not seen.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use super::sftp::Attributes;

/// Numbers that are remembered. One that is forgotten makes an etag look older than it is, which is the safe side.
const REMEMBERED: usize = 10_000;

/// The numbers of what was written lately.
#[derive(Debug, Default)]
pub(super) struct Versions {
    known: HashMap<PathBuf, u64>,
    order: VecDeque<PathBuf>,
}

impl Versions {
    /// What is at this path is new.
    pub(super) fn renew(&mut self, path: &Path) {
        if self.known.insert(path.to_owned(), fastrand::u64(..)).is_none() {
            self.order.push_back(path.to_owned());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// The etag of an entry.
    pub(super) fn etag(&self, path: &Path, attributes: &Attributes) -> String {
        let Attributes { size, owner, mode, changed } = attributes;
        let number = self.known.get(path).copied().unwrap_or(0);
        format!("{size:x}-{changed:x}-{mode:x}-{:x}.{:x}-{number:x}", owner.0, owner.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_twice_in_one_second_has_two_etags() {
        let mut versions = Versions::default();
        let (path, attributes) = (Path::new("/a"), Attributes { size: 1, ..Attributes::default() });
        let mut seen = vec![versions.etag(path, &attributes)];
        for _ in 0..3 {
            versions.renew(path);
            let etag = versions.etag(path, &attributes);
            assert_eq!(etag, versions.etag(path, &attributes));
            assert!(!seen.contains(&etag));
            seen.push(etag);
        }
        assert_ne!(versions.etag(path, &attributes), versions.etag(path, &Attributes { size: 2, ..attributes }));
    }

    #[test]
    fn memory_is_bounded() {
        let mut versions = Versions::default();
        for number in 0..2 * REMEMBERED {
            versions.renew(&PathBuf::from(number.to_string()));
        }
        assert_eq!((versions.known.len(), versions.order.len()), (REMEMBERED, REMEMBERED));
    }
}
