//! `google.protobuf.Struct` and JSON values. Numbers of a Struct are all floating; whole ones become whole again.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// Whole numbers beyond this are not exact in a Struct.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A JSON object as a Struct; what is no object is an empty one.
pub(crate) fn to_struct(value: &Value) -> Struct {
    let fields =
        value.as_object().map(|object| object.iter().map(|(key, value)| (key.clone(), to_value(value))).collect());
    Struct { fields: fields.unwrap_or_default() }
}

fn to_value(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(to_value).collect() }),
        Value::Object(_) => Kind::StructValue(to_struct(value)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// A Struct that a caller sent, as a JSON object.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the place within `field`: NUL bytes, numbers that JSON does not have.
pub(crate) fn from_struct(field: &str, sent: &Struct) -> Result<Value> {
    let mut object = Map::new();
    for (key, value) in &sent.fields {
        let place = format!("{field}.{key}");
        if key.contains('\0') {
            return Err(Error::invalid(format!("{field} has a key with a NUL byte")).with("field", field));
        }
        object.insert(key.clone(), from_value(&place, value)?);
    }
    Ok(Value::Object(object))
}

fn from_value(place: &str, sent: &prost_types::Value) -> Result<Value> {
    Ok(match &sent.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(*flag),
        Some(Kind::NumberValue(number)) => Value::Number(number_of(place, *number)?),
        Some(Kind::StringValue(text)) if text.contains('\0') => {
            return Err(Error::invalid(format!("{place} has a NUL byte")).with("field", place));
        }
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::StructValue(inner)) => from_struct(place, inner)?,
        Some(Kind::ListValue(list)) => {
            let items = list.values.iter().enumerate();
            Value::Array(items.map(|(at, item)| from_value(&format!("{place}[{at}]"), item)).collect::<Result<_>>()?)
        }
    })
}

fn number_of(place: &str, number: f64) -> Result<Number> {
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within the range of i64, as just checked")]
        return Ok(Number::from(number as i64));
    }
    Number::from_f64(number)
        .ok_or_else(|| Error::invalid(format!("{place} is not a finite number")).with("field", place))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_survive_the_way_there_and_back() {
        let value =
            json!({"a": 1, "b": -2.5, "c": [true, null, "x"], "d": {"e": 9_007_199_254_740_991_i64}, "f": 1e300});
        assert_eq!(from_struct("config", &to_struct(&value)).unwrap(), value);
        assert_eq!(from_struct("config", &to_struct(&json!([]))).unwrap(), json!({}));
    }

    #[test]
    fn what_is_not_json_is_named() {
        let of = |kind| Struct { fields: [("x".to_owned(), prost_types::Value { kind: Some(kind) })].into() };
        for wrong in [Kind::NumberValue(f64::NAN), Kind::NumberValue(f64::INFINITY), Kind::StringValue("\0".to_owned())]
        {
            assert!(from_struct("config", &of(wrong)).unwrap_err().message.starts_with("config.x "));
        }
        let nul = Struct { fields: [("\0".to_owned(), prost_types::Value { kind: None })].into() };
        assert!(from_struct("config", &nul).is_err());
    }
}
