//! Metrics in the OpenMetrics text format, version 1.0.
//!
//! Guarantee: labels and help are escaped, so that no text of a CRM or of a user can add a line.

use std::fmt::Write;

/// The media type of what [`render`] returns.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// With the suffix that its type prescribes, such as `_total`.
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    pub help: String,
}

impl Sample {
    /// The name of its family: without the suffix that samples of its type have.
    fn family(&self) -> &str {
        let suffixes: &[&str] = match &*self.kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => &[],
        };
        let bare = suffixes.iter().find_map(|s| self.name.strip_suffix(s));
        bare.unwrap_or(&self.name)
    }
}

/// Samples whose families stand together, as text.
pub fn render(samples: &[Sample]) -> String {
    let mut text = String::with_capacity(samples.len() * 96);
    for family in samples.chunk_by(|a, b| a.family() == b.family()) {
        let first = &family[0];
        let name = first.family();
        let _ = writeln!(text, "# TYPE {name} {}", first.kind);
        let _ = writeln!(text, "# HELP {name} {}", escaped(&first.help));
        for sample in family {
            text.push_str(&sample.name);
            for (i, (label, value)) in sample.labels.iter().enumerate() {
                let open = if i == 0 { '{' } else { ',' };
                let _ = write!(text, "{open}{label}=\"{}\"", escaped(value));
            }
            if !sample.labels.is_empty() {
                text.push('}');
            }
            let _ = writeln!(text, " {}", number(sample.value));
        }
    }
    text.push_str("# EOF\n");
    text
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            // Other line breaks and control characters that a reader may split at.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN".to_owned(),
        v if v.is_infinite() => if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        v => v.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, kind: &str, labels: &[(&str, &str)], value: f64) -> Sample {
        Sample {
            name: name.to_owned(),
            labels: labels
                .iter()
                .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
                .collect(),
            value,
            kind: kind.to_owned(),
            help: "What it is".to_owned(),
        }
    }

    #[test]
    fn families_are_announced_once() {
        let samples = [
            sample("up", "gauge", &[], 1.0),
            sample("records_total", "counter", &[("map", "1")], 2.0),
            sample("records_total", "counter", &[("map", "2")], 3e6),
            sample("took_bucket", "histogram", &[("le", "0.5")], 1.0),
            sample("took_bucket", "histogram", &[("le", "+Inf")], 2.0),
            sample("took_count", "histogram", &[], 2.0),
            sample("took_sum", "histogram", &[], 0.75),
        ];
        assert_eq!(
            render(&samples),
            "# TYPE up gauge\n# HELP up What it is\nup 1\n\
             # TYPE records counter\n# HELP records What it is\n\
             records_total{map=\"1\"} 2\nrecords_total{map=\"2\"} 3000000\n\
             # TYPE took histogram\n# HELP took What it is\n\
             took_bucket{le=\"0.5\"} 1\ntook_bucket{le=\"+Inf\"} 2\ntook_count 2\ntook_sum 0.75\n\
             # EOF\n"
        );
    }

    #[test]
    fn no_label_ends_its_line() {
        let hostile = "a\"} 1\n# EOF\r\\\u{2028}";
        let text = render(&[sample("up", "gauge", &[("name", hostile)], f64::INFINITY)]);
        let line = text.lines().nth(2).unwrap();
        assert_eq!(line, "up{name=\"a\\\"} 1\\n# EOF \\\\\u{2028}\"} +Inf");
        assert_eq!(text.matches("\n# EOF\n").count(), 1);
    }
}
