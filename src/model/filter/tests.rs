//! What parses, what does not, and that nothing panics.

use proptest::prelude::*;

use super::*;

const FIELDS: &[Field] = &[
    Field { name: "state", kind: Kind::Enum(&["PENDING", "ACTIVE"]) },
    Field { name: "labels", kind: Kind::Map },
    Field { name: "owner", kind: Kind::Text },
    Field { name: "use_time", kind: Kind::Time },
    Field { name: "priority", kind: Kind::Integer },
    Field { name: "enabled", kind: Kind::Bool },
];

fn parse(text: &str) -> Result<Option<Filter>> {
    Filter::parse(text, FIELDS)
}

fn one(text: &str) -> Compare {
    match parse(text).unwrap() {
        Some(Filter::Compare(compare)) => compare,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn the_example_of_the_contract() {
    let text = r#"state = ACTIVE AND labels.job = "4711" AND use_time < "2026-11-23T00:00:00Z""#;
    let filter = parse(text).unwrap().unwrap();
    let [state, job, time] = filter.comparisons()[..] else { panic!("{filter:?}") };
    assert_eq!((state.field.name, state.op, &state.value), ("state", Op::Equal, &Value::Text("ACTIVE".to_owned())));
    assert_eq!((job.key.as_deref(), &job.value), (Some("job"), &Value::Text("4711".to_owned())));
    assert_eq!((time.op, &time.value), (Op::Less, &Value::Integer(1_795_392_000_000_000)));
}

#[test]
fn values_of_all_kinds() {
    assert_eq!(one("state=STATE_ACTIVE").value, Value::Text("ACTIVE".to_owned()));
    assert_eq!(one("owner = uid:1000@build-7").value, Value::Text("uid:1000@build-7".to_owned()));
    assert_eq!(one("owner = ci-*").value, Value::Prefix("ci-".to_owned()));
    assert_eq!(one(r#"owner != "ci *""#).value, Value::Prefix("ci ".to_owned()));
    assert_eq!(one(r#"owner = "ci\*""#).value, Value::Text("ci*".to_owned()));
    assert_eq!(one(r#"labels.a-b.c = 'say "hi"'"#).value, Value::Text("say \"hi\"".to_owned()));
    assert_eq!(one(r#"labels.a-b.c = """#).key.as_deref(), Some("a-b.c"));
    assert_eq!(one("(((priority >= -3)))").value, Value::Integer(-3));
    assert_eq!(one("enabled = true").value, Value::Bool(true));
    assert_eq!(one("use_time > 2026-11-23T01:00:00.5+01:00").value, Value::Integer(1_795_392_000_500_000));
    assert!(
        matches!(parse("owner = a AND (owner = b AND owner = c)").unwrap(), Some(Filter::And(all)) if all.len() == 2)
    );
    assert_eq!(parse("  \n").unwrap(), None);
}

#[test]
fn errors_say_where_and_what() {
    let cases = [
        ("colour = red", "character 1: there is no field \"colour\"; known fields: state, labels.KEY, owner"),
        ("state = ACTIVE AND  x=1", "character 21"),
        ("state = active", "one of PENDING, ACTIVE"),
        ("state < ACTIVE", "character 7: state can only be compared with = and !="),
        ("state = ACTIVE OR state = PENDING", "only AND joins"),
        ("NOT state = ACTIVE", "NOT cannot stand here"),
        ("state = ACTIVE AND", "a field should come here"),
        ("state", "one of = != < <= > >="),
        ("state =", "a value should come here"),
        ("labels = x", "labels needs a key"),
        ("owner.x = y", "no field"),
        ("owner = a*b", "last character"),
        ("owner = \"a", "does not end"),
        ("owner = \"a\\", "does not end"),
        ("owner < a*", "trailing *"),
        ("priority = 1.5", "a whole number"),
        ("priority = 9999999999999999999", "a whole number"),
        ("use_time = yesterday", "a time as in"),
        ("enabled = 1", "true or false"),
        ("(owner = a", "a `(` without its `)`"),
        ("owner = a)", "a `)` without its `(`"),
        ("(owner = a owner = b)", "AND or `)`"),
    ];
    for (text, part) in cases {
        let error = parse(text).unwrap_err();
        assert_eq!(error.reason, Reason::InvalidFilter);
        assert!(error.message.contains(part), "{text}: {error}");
    }
}

#[test]
fn there_is_a_longest_and_a_deepest() {
    let nested = |depth: usize| format!("{}owner = a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert!(parse(&nested(MAX_DEPTH + 1)).is_err());
    assert!(parse(&" ".repeat(MAX_LENGTH)).is_ok());
    assert!(parse(&" ".repeat(MAX_LENGTH + 1)).is_err());
}

#[test]
fn times_are_reckoned() {
    for (text, seconds) in [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", -1),
        ("2000-02-29T12:00:00Z", 951_825_600),
        ("2000-03-01T00:00:00-00:30", 951_870_600),
        ("2100-03-01T00:00:00Z", 4_107_542_400),
        ("0001-01-01T00:00:00Z", -62_135_596_800),
        ("0000-01-01T00:00:00Z", -62_167_219_200),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
    ] {
        assert_eq!(time(text), Some(seconds * 1_000_000), "{text}");
    }
    assert_eq!(time("1970-01-01T00:00:00.1234567Z"), Some(123_456));
    for text in [
        "2100-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T24:00:00Z",
        "+026-01-01T00:00:00Z",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00ä",
    ] {
        assert_eq!(time(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in ".*") {
        let _ = parse(&text);
    }

    #[test]
    fn nothing_that_looks_like_a_filter_does(text in r#"((state|labels\.a|owner|use_time|priority|AND|OR|[()=<>!"'\\*.é ]|20[0-9:TZ.+-]{0,20}|-?[0-9]{1,20}) ?){0,12}"#) {
        let _ = parse(&text);
    }

    #[test]
    fn any_text_can_be_asked_for(value in ".*") {
        let quoted: String = value.chars().flat_map(|c| if matches!(c, '"' | '\\' | '*') { vec!['\\', c] } else { vec![c] }).collect();
        prop_assume!(quoted.len() < MAX_LENGTH - 20);
        prop_assert_eq!(one(&format!("owner = \"{quoted}\"")).value, Value::Text(value));
    }
}
