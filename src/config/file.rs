//! Settings from a TOML file: every complaint names the file and the line.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{KEYS, Key, Layer, Origin, Said, Shape};
use crate::error::{Error, Result};

/// Reads a file.
///
/// # Errors
/// `INVALID_ARGUMENT`: cannot be read, is not TOML, an unknown key, a value of the wrong shape.
pub(super) fn read(path: &Path) -> Result<Layer> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::invalid(format!("config {}", path.display())).because(error))?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Layer> {
    let at = |offset: usize| text[..offset.min(text.len())].bytes().filter(|byte| *byte == b'\n').count() + 1;
    let refuse = |line: usize, what: String| Error::invalid(format!("{}:{line}: {what}", path.display()));
    let table = DeTable::parse(text).map_err(|error| {
        refuse(error.span().map_or(1, |span| at(span.start)), error.message().lines().collect::<Vec<_>>().join("; "))
    })?;

    let mut layer = Layer::new();
    for (name, value) in table.get_ref() {
        let line = at(name.span().start);
        let key = known(name.get_ref()).map_err(|what| refuse(line, what))?;
        let items = items(key, value).map_err(|what| refuse(line, what))?;
        layer.insert(key.name, Said { items, origin: Origin::File(path.to_owned(), line) });
    }
    // Paths in a file are meant from where the file is.
    let folder = path.parent().unwrap_or(Path::new("."));
    for key in KEYS.iter().filter(|key| key.shape == Shape::Path) {
        if let Some(said) = layer.get_mut(key.name) {
            for item in &mut said.items {
                *item = folder.join(&*item).display().to_string();
            }
        }
    }
    Ok(layer)
}

/// The key of that name, or what to say instead.
fn known(name: &str) -> Result<&'static Key, String> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Ok(key);
    }
    let near = KEYS
        .iter()
        .map(|key| (strsim::damerau_levenshtein(key.name, &name.replace('-', "_").to_lowercase()), key.name))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(6) / 3)
        .min();
    if let Some((_, candidate)) = near {
        return Err(format!("unknown key {name:?}, did you mean {candidate:?}?"));
    }
    let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    Err(format!("unknown key {name:?}; there are {}", names.join(", ")))
}

fn items(key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, String> {
    let value = value.get_ref();
    let wanted = match key.shape {
        Shape::Path | Shape::Text | Shape::Span => "a string",
        Shape::Number => "a number",
        Shape::Switch => "true or false",
        Shape::List => "a list of strings",
    };
    let wrong = || format!("{} must be {wanted}, not {}", key.name, value.type_str());
    match (key.shape, value) {
        (Shape::Path | Shape::Text | Shape::Span, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Shape::Number, DeValue::Integer(number)) => Ok(vec![number.as_str().replace('_', "")]),
        (Shape::Switch, DeValue::Boolean(on)) => Ok(vec![on.to_string()]),
        (Shape::List, DeValue::Array(list)) => {
            list.iter().map(|item| item.get_ref().as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        parse(text, Path::new("/etc/d.toml")).unwrap_err().message
    }

    #[test]
    fn values_keep_their_line() {
        let text = "# words\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n\ntokens = \"tokens\"\nsweep = false\n";
        let layer = parse(text, Path::new("/etc/d.toml")).unwrap();
        assert_eq!(layer["listen"].items, ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(layer["listen"].origin.to_string(), "/etc/d.toml:2");
        assert_eq!(layer["tokens"].items, ["/etc/tokens"]);
        assert_eq!(layer["sweep"].items, ["false"]);
    }

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion() {
        assert_eq!(complaint("\nworkres = 4"), "/etc/d.toml:2: unknown key \"workres\", did you mean \"workers\"?");
        assert_eq!(
            complaint("data-dir = \"/x\""),
            "/etc/d.toml:1: unknown key \"data-dir\", did you mean \"data_dir\"?"
        );
        assert!(complaint("zebra = 1").contains("there are data_dir, socket"));
    }

    #[test]
    fn wrong_shapes_and_wrong_toml_name_the_line() {
        assert_eq!(complaint("workers = \"4\""), "/etc/d.toml:1: workers must be a number, not string");
        assert!(complaint("a = 1\nworkers = ").starts_with("/etc/d.toml:2: "));
        assert!(complaint("workers = 1\nworkers = 2").starts_with("/etc/d.toml:2: "));
    }
}
