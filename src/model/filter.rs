//! Filters of listings: `state = ACTIVE AND labels.job = "4711"`, a subset of AIP-160.
//!
//! ```text
//! filter  = term { AND term }
//! term    = "(" filter ")" | field op value
//! field   = NAME | NAME "." KEY            (KEY of a map, to the next blank or operator)
//! op      = "=" | "!=" | "<" | "<=" | ">" | ">="
//! value   = WORD | "quoted" | 'quoted'     (a trailing * matches any rest, with = and != on texts)
//! ```

use crate::error::{Error, Reason, Result};

/// Longest filter, in bytes.
const MAX_LENGTH: usize = 8 * 1024;
/// Parentheses within parentheses.
const MAX_DEPTH: usize = 32;

/// A field that a listing can be filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// As in the API, for example `create_time`.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string, in byte order.
    Text,
    /// A time: RFC 3339 in the filter, microseconds since 1970 in the value.
    Time,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Bool,
    /// One of these, without prefix; in a filter `ACTIVE` and `STATE_ACTIVE` mean the same. Only = and !=.
    Enum(&'static [&'static str]),
    /// Strings by string, asked for as `labels.job`. Only = and !=.
    Map,
}

/// A filter that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// All of these.
    And(Vec<Self>),
    /// One comparison.
    Compare(Compare),
}

/// `field op value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// One of the fields that were allowed.
    pub field: Field,
    /// Of a map.
    pub key: Option<String>,
    /// How.
    pub op: Op,
    /// With what; of the field's kind.
    pub value: Value,
}

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Op {
    /// As written, which is how SQL writes it too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    const fn is_equality(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual)
    }
}

/// What to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The whole text; an enum value without its prefix.
    Text(String),
    /// Any text that starts so.
    Prefix(String),
    /// A number, or a time in microseconds since 1970.
    Integer(i64),
    /// Yes or no.
    Bool(bool),
}

impl Filter {
    /// Understands a filter over these fields. Nothing but blanks is no filter.
    ///
    /// # Errors
    /// `INVALID_FILTER` says where, what is wrong, and what is allowed.
    pub fn parse(text: &str, fields: &[Field]) -> Result<Option<Self>> {
        if text.len() > MAX_LENGTH {
            let message = format!("the filter is {} bytes long; at most {MAX_LENGTH} are allowed", text.len());
            return Err(Error::new(Reason::InvalidFilter, message));
        }
        let mut parser = Parser { text, at: 0, fields };
        parser.blanks();
        if parser.rest().is_empty() {
            return Ok(None);
        }
        let filter = parser.terms(0)?;
        match parser.rest() {
            "" => Ok(Some(filter)),
            rest if rest.starts_with(')') => Err(parser.wrong("a `)` without its `(`")),
            _ => Err(parser.wrong("only AND joins comparisons; quote values with blanks or other signs")),
        }
    }

    /// All comparisons, in the order written: since only AND joins them, each one must hold.
    #[must_use]
    pub fn comparisons(&self) -> Vec<&Compare> {
        match self {
            Self::And(filters) => filters.iter().flat_map(Self::comparisons).collect(),
            Self::Compare(compare) => vec![compare],
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    fields: &'a [Field],
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        self.wrong_at(self.at, what)
    }

    fn wrong_at(&self, at: usize, what: impl std::fmt::Display) -> Error {
        let position = self.text[..at].chars().count() + 1;
        Error::new(Reason::InvalidFilter, format!("the filter is wrong at character {position}: {what}"))
            .with("position", position.to_string())
    }

    fn terms(&mut self, depth: usize) -> Result<Filter> {
        let mut terms = vec![self.term(depth)?];
        loop {
            self.blanks();
            let Some(rest) = self.rest().strip_prefix("AND") else { break };
            if rest.starts_with(is_word) {
                break;
            }
            self.at += "AND".len();
            self.blanks();
            terms.push(self.term(depth)?);
        }
        Ok(match terms.pop() {
            Some(only) if terms.is_empty() => only,
            last => {
                terms.extend(last);
                Filter::And(terms)
            }
        })
    }

    fn term(&mut self, depth: usize) -> Result<Filter> {
        if !self.rest().starts_with('(') {
            return self.compare().map(Filter::Compare);
        }
        if depth == MAX_DEPTH {
            return Err(self.wrong(format!("more than {MAX_DEPTH} parentheses within each other")));
        }
        let open = self.at;
        self.at += 1;
        self.blanks();
        let inner = self.terms(depth + 1)?;
        if !self.rest().starts_with(')') {
            return Err(if self.rest().is_empty() {
                self.wrong_at(open, "a `(` without its `)`")
            } else {
                self.wrong("AND or `)` should come here")
            });
        }
        self.at += 1;
        Ok(inner)
    }

    fn compare(&mut self) -> Result<Compare> {
        let start = self.at;
        let name = self.take(is_word);
        if name.is_empty() {
            return Err(self.wrong(format!("a field should come here; {}", self.known())));
        }
        if matches!(name, "NOT" | "OR" | "AND") {
            return Err(
                self.wrong_at(start, format!("{name} cannot stand here; a filter is comparisons joined by AND"))
            );
        }
        let (field, key) = self.field(start, name)?;
        self.blanks();
        let at = self.at;
        let op = self.op()?;
        if !op.is_equality() && matches!(field.kind, Kind::Map | Kind::Enum(_) | Kind::Bool) {
            return Err(self.wrong_at(at, format!("{name} can only be compared with = and !=")));
        }
        self.blanks();
        let value = self.value(name, field, op)?;
        Ok(Compare { field, key, op, value })
    }

    fn known(&self) -> String {
        let names: Vec<String> = self
            .fields
            .iter()
            .map(|field| if field.kind == Kind::Map { format!("{}.KEY", field.name) } else { field.name.to_owned() })
            .collect();
        format!("known fields: {}", names.join(", "))
    }

    fn field(&self, at: usize, word: &str) -> Result<(Field, Option<String>)> {
        let (name, key) = word.split_once('.').map_or((word, None), |(name, key)| (name, Some(key)));
        let unknown = || self.wrong_at(at, format!("there is no field {word:?}; {}", self.known()));
        let field = *self.fields.iter().find(|field| field.name == name).ok_or_else(unknown)?;
        match (field.kind, key) {
            (Kind::Map, None | Some("")) => Err(self.wrong_at(at, format!("{name} needs a key, as in {name}.job"))),
            (Kind::Map, Some(key)) => Ok((field, Some(key.to_owned()))),
            (_, Some(_)) => Err(unknown()),
            (_, None) => Ok((field, None)),
        }
    }

    fn op(&mut self) -> Result<Op> {
        // The longer ones first.
        let all = [Op::NotEqual, Op::LessOrEqual, Op::GreaterOrEqual, Op::Equal, Op::Less, Op::Greater];
        let found = all.into_iter().find(|op| self.rest().starts_with(op.as_str()));
        let op = found.ok_or_else(|| self.wrong("one of = != < <= > >= should come here"))?;
        self.at += op.as_str().len();
        Ok(op)
    }

    fn value(&mut self, name: &str, field: Field, op: Op) -> Result<Value> {
        let at = self.at;
        let (text, prefix) = match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote)?,
            _ => self.bare()?,
        };
        if prefix && !(op.is_equality() && matches!(field.kind, Kind::Text | Kind::Map)) {
            return Err(self.wrong_at(
                at,
                format!("a trailing * goes with = and != on texts only; {name} {} takes none", op.as_str()),
            ));
        }
        let wrong = |what: String| self.wrong_at(at, format!("{name} must be {what}, not {text:?}"));
        match field.kind {
            Kind::Text | Kind::Map if prefix => Ok(Value::Prefix(text)),
            Kind::Text | Kind::Map => Ok(Value::Text(text)),
            Kind::Time => {
                time(&text).map(Value::Integer).ok_or_else(|| wrong("a time as in \"2026-11-23T00:00:00Z\"".to_owned()))
            }
            Kind::Integer => text.parse().map(Value::Integer).map_err(|_| wrong("a whole number".to_owned())),
            Kind::Bool => text.parse().map(Value::Bool).map_err(|_| wrong("true or false".to_owned())),
            Kind::Enum(values) => {
                let bare = text.strip_prefix("STATE_").unwrap_or(&text);
                let value = values
                    .iter()
                    .find(|value| **value == bare)
                    .ok_or_else(|| wrong(format!("one of {}", values.join(", "))))?;
                Ok(Value::Text((*value).to_owned()))
            }
        }
    }

    /// A value without quotes, and whether a `*` followed.
    fn bare(&mut self) -> Result<(String, bool)> {
        let start = self.at;
        let word = self.take(|c| is_word(c) || matches!(c, ':' | '/' | '+' | '@' | '*' | '%' | ','));
        if word.is_empty() {
            return Err(self.wrong("a value should come here"));
        }
        let (stem, prefix) = word.strip_suffix('*').map_or((word, false), |stem| (stem, true));
        if stem.contains('*') {
            return Err(self.wrong_at(start, "a * can only be the last character"));
        }
        Ok((stem.to_owned(), prefix))
    }

    /// A value in quotes, and whether it ends with a `*` that is not escaped.
    fn quoted(&mut self, quote: char) -> Result<(String, bool)> {
        let start = self.at;
        let (mut value, mut star) = (String::new(), false);
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((offset, c)) = chars.next() {
            if c == quote {
                self.at += offset + c.len_utf8();
                return Ok((value, star));
            }
            if star {
                return Err(self.wrong_at(start, "a * can only be the last character; write \\* for the sign itself"));
            }
            match c {
                '*' => star = true,
                '\\' => value.push(chars.next().ok_or_else(|| self.wrong_at(start, "a quote that does not end"))?.1),
                _ => value.push(c),
            }
        }
        Err(self.wrong_at(start, "a quote that does not end"))
    }

    fn take(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Microseconds since 1970 of an RFC 3339 time; what is finer is cut off.
fn time(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let sign = |at: usize, signs: &[u8]| text.as_bytes().get(at).filter(|byte| signs.contains(byte)).copied();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    sign(4, b"-").and(sign(7, b"-")).and(sign(10, b"Tt ")).and(sign(13, b":")).and(sign(16, b":"))?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let longest = *days.get(usize::try_from(month - 1).ok()?)?;
    // 60 is a leap second.
    if day < 1 || day > longest || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut zone = text.get(19..)?;
    let mut micros = 0;
    if let Some(rest) = zone.strip_prefix('.') {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let fraction: String = rest[..end].chars().chain("000000".chars()).take(6).collect();
        micros = (end > 0).then(|| fraction.parse().ok())??;
        zone = &rest[end..];
    }
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let digit = |byte: &u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
            let (hours, minutes) = (digit(h1)? * 10 + digit(h2)?, digit(m1)? * 10 + digit(m2)?);
            let minutes = (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let before: i64 = days.iter().take(usize::try_from(month - 1).ok()?).sum();
    // Leap days of the years before this one, and the same for 1970.
    let leaps = |years: i64| years / 4 - years / 100 + years / 400;
    let since = if year > 0 { leaps(year - 1) + 366 } else { 0 };
    let epoch = leaps(1969) + 366;
    let days = if year > 0 { (year - 1) * 365 + since } else { 0 } - (1969 * 365 + epoch) + before + day - 1;
    Some((((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1_000_000 + micros)
}

#[cfg(test)]
mod tests;
