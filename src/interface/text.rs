//! Bytes as text, for people: what is not UTF-8 becomes U+FFFD, and no character is torn by the border of two chunks.

use std::fmt::Write as _;

/// Repairs a stream chunk by chunk.
#[derive(Debug, Default)]
pub struct Repair {
    /// At most three bytes that may yet become a character.
    carried: Vec<u8>,
}

impl Repair {
    /// The text of the bytes so far that is certain, and how many bytes of it came before this chunk.
    pub fn push(&mut self, chunk: &[u8]) -> (usize, String) {
        let before = self.carried.len();
        let mut all = std::mem::take(&mut self.carried);
        all.extend_from_slice(chunk);
        let complete = all.len() - unfinished(&all);
        self.carried = all.split_off(complete);
        (before, String::from_utf8_lossy(&all).into_owned())
    }

    /// What is left at the end: one U+FFFD for a character that never came whole, and how many bytes it stands for.
    pub fn finish(&mut self) -> Option<(usize, String)> {
        let rest = std::mem::take(&mut self.carried);
        (!rest.is_empty()).then(|| (rest.len(), String::from_utf8_lossy(&rest).into_owned()))
    }
}

/// Bytes at the end that begin a character without ending it.
fn unfinished(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(3);
    (from..bytes.len())
        .find(|start| {
            bytes[*start] >= 0xC0
                && std::str::from_utf8(&bytes[*start..])
                    .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .map_or(0, |start| bytes.len() - start)
}

/// A name as text: bytes that are not UTF-8 become `\xNN`.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_survives_every_border() {
        let text = "aä€😀z";
        for border in 0..text.len() {
            let mut repair = Repair::default();
            let (_, mut got) = repair.push(&text.as_bytes()[..border]);
            let (_, rest) = repair.push(&text.as_bytes()[border..]);
            got.push_str(&rest);
            assert_eq!(got, text, "{border}");
            assert_eq!(repair.finish(), None);
        }
    }

    #[test]
    fn what_never_becomes_whole_is_replaced() {
        let mut repair = Repair::default();
        assert_eq!(repair.push(b"a\xE2\x82"), (0, "a".to_owned()));
        assert_eq!(repair.finish(), Some((2, "\u{FFFD}".to_owned())));
        assert_eq!(repair.push(b"\xFF"), (0, "\u{FFFD}".to_owned()));
    }

    #[test]
    fn names_show_their_bytes() {
        assert_eq!(escaped(b"caf\xE9/\xC3\xA9"), "caf\\xE9/é");
    }

    proptest! {
        #[test]
        fn chunks_give_what_the_whole_gives(bytes in prop::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let cut = cut.min(bytes.len());
            let mut repair = Repair::default();
            let mut got = repair.push(&bytes[..cut]).1;
            got.push_str(&repair.push(&bytes[cut..]).1);
            got.extend(repair.finish().map(|(_, rest)| rest));
            prop_assert_eq!(got, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
