//! Whatever names a metric names one that exists: the page for operators, the dashboard, the alerts.

use std::collections::BTreeSet;
use std::path::Path;

use drydock::metrics::Metrics;

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Words that begin as our metrics do, without what a histogram's series end in.
fn named(text: &str, histograms: &BTreeSet<String>) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    let words = words.filter(|word| word.starts_with("drydock_"));
    let whole = |word: &str| {
        let of = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| word.strip_suffix(end));
        of.filter(|of| histograms.contains(*of)).unwrap_or(word).to_owned()
    };
    words.map(whole).collect()
}

#[test]
fn pages_name_metrics_that_exist_and_all_of_them_are_explained() {
    let metrics = Metrics::new();
    let all: BTreeSet<String> = metrics.described().iter().map(|metric| metric.name.clone()).collect();
    let histograms: BTreeSet<String> =
        metrics.described().iter().filter(|it| it.kind == "histogram").map(|it| it.name.clone()).collect();
    for path in ["docs/operations.md", "examples/grafana-dashboard.json", "examples/prometheus-alerts.yaml"] {
        let named = named(&text(path), &histograms);
        let unknown: Vec<_> = named.difference(&all).collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}");
        assert!(named.len() > 10, "{path} names {named:?}");
    }
    // The table has each of them in a row of its own, with its type.
    let page = text("docs/operations.md");
    for metric in metrics.described() {
        let row = format!("| `{}` | {} |", metric.name, metric.kind);
        assert!(page.contains(&row), "docs/operations.md has no row that begins {row}");
    }
}

#[test]
fn the_dashboard_is_json_and_the_alerts_are_yaml() {
    let dashboard: serde_json::Value = serde_json::from_str(&text("examples/grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let (title, targets) = (&panel["title"], panel["targets"].as_array().unwrap());
        assert!(targets.iter().all(|it| it["expr"].as_str().is_some_and(|it| it.contains("drydock_"))), "{title}");
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids of panels are unique");

    let alerts: serde_json::Value = serde_saphyr::from_str(&text("examples/prometheus-alerts.yaml")).unwrap();
    let page = text("docs/operations.md");
    let mut names = BTreeSet::new();
    for rule in alerts["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let name = rule["alert"].as_str().unwrap();
        assert!(rule["expr"].as_str().unwrap().contains("drydock_"), "{name}");
        for words in ["summary", "description"] {
            assert!(rule["annotations"][words].as_str().is_some_and(|text| !text.is_empty()), "{name}: {words}");
        }
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("page" | "ticket")), "{name}");
        assert!(page.contains(&format!("**{name}**")), "docs/operations.md does not say what to do about {name}");
        assert!(names.insert(name.to_owned()), "{name} is there twice");
    }
    assert!(names.len() >= 8, "{names:?}");
}
