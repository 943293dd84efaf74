//! The page in the format that every scraper knows, made of the newer one.

use std::collections::HashMap;

/// Content type of `OpenMetrics`.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the older text format.
pub(super) const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `OpenMetrics` describes a counter by its name without `_total`, and has an end and units: the older format has neither.
pub(super) fn plain(page: &str) -> String {
    let types: HashMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut text = String::with_capacity(page.len());
    for line in page.lines() {
        let about = ["# HELP ", "# TYPE "].into_iter().find_map(|word| Some((word, line.strip_prefix(word)?)));
        match about.and_then(|(word, rest)| Some((word, rest.split_once(' ')?))) {
            Some((word, (name, rest))) => {
                let end = if types.get(name) == Some(&"counter") { "_total" } else { "" };
                text.extend([word, name, end, " ", rest]);
            }
            None if line.starts_with('#') => continue,
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn counters_are_described_by_their_whole_names() {
        let page = "# HELP a A thing.\n# TYPE a counter\na_total{x=\"# y\"} 1\n# HELP b B.\n# TYPE b gauge\n# UNIT b seconds\nb 2.0\n# EOF\n";
        let text = "# HELP a_total A thing.\n# TYPE a_total counter\na_total{x=\"# y\"} 1\n# HELP b B.\n# TYPE b gauge\nb 2.0\n";
        assert_eq!(plain(page), text);
    }
}
