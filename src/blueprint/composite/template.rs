//! Texts with references: `${part.lease_id}`, `${part.FACT}`, `${parameters.NAME}`; `$${` stands for `${` itself.

/// A parsed text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Reference(Reference),
}

/// What a text refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// A part, or `parameters`.
    pub(super) of: String,
    /// `lease_id`, a fact or a parameter.
    pub(super) key: String,
}

impl Template {
    /// Parses it.
    ///
    /// # Errors
    /// What is malformed.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                plain.push_str(&rest[..at]);
                plain.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            plain.push_str(&rest[..at]);
            let Some((inside, after)) = rest[at + 2..].split_once('}') else {
                return Err(format!("{:?} has no closing brace", &rest[at..]));
            };
            let Some((of, key)) = inside.split_once('.').filter(|(of, key)| !of.is_empty() && !key.is_empty()) else {
                return Err(format!(
                    "\"${{{inside}}}\" is no reference; write ${{PART.lease_id}}, ${{PART.FACT}} or ${{parameters.NAME}}"
                ));
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Reference(Reference { of: of.to_owned(), key: key.to_owned() }));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self { pieces })
    }

    /// What it refers to, in order.
    pub(super) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Reference(reference) => Some(reference),
            Piece::Text(_) => None,
        })
    }

    /// The parts it refers to.
    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        self.references().map(|reference| reference.of.as_str()).filter(|of| *of != PARAMETERS)
    }

    /// The text, with what `value` knows of each reference.
    ///
    /// # Errors
    /// The first error of `value`.
    pub(super) fn render<E>(&self, value: impl Fn(&Reference) -> Result<String, E>) -> Result<String, E> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Reference(reference) => text.push_str(&value(reference)?),
            }
        }
        Ok(text)
    }
}

/// The name under which parameters are referred to; no part may have it.
pub(super) const PARAMETERS: &str = "parameters";

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<String, String> {
        Template::parse(text)?.render(|reference| Ok(format!("<{}/{}>", reference.of, reference.key)))
    }

    #[test]
    fn references_are_replaced_and_all_else_is_kept() {
        assert_eq!(render("${copy.path}/public").unwrap(), "<copy/path>/public");
        assert_eq!(render("a${b.c}d${e.f.g}").unwrap(), "a<b/c>d<e/f.g>");
        assert_eq!(render("$HOME costs 5$").unwrap(), "$HOME costs 5$");
        assert_eq!(render("$${copy.path}").unwrap(), "${copy.path}");
        assert_eq!(render("").unwrap(), "");
    }

    #[test]
    fn malformed_references_are_refused() {
        for text in ["${copy", "${copy}", "${.path}", "${copy.}", "${}"] {
            assert!(render(text).is_err(), "{text}");
        }
    }
}
