//! The table: bound, measured, verdict.

use std::process::ExitCode;

/// Lines so far that are out of their bound.
#[derive(Default)]
pub(crate) struct Table {
    part: &'static str,
    lines: usize,
    out: Vec<String>,
}

impl Table {
    /// The next lines belong to this part.
    pub(crate) fn begin(&mut self, part: &'static str) {
        if self.lines == 0 {
            println!("{:<54} {:<34} {:<62} VERDICT", "WHAT", "BOUND", "MEASURED");
        }
        self.part = part;
    }

    /// A line.
    pub(crate) fn line(&mut self, what: &str, bound: &str, measured: &str, holds: bool) {
        self.lines += 1;
        println!("{what:<54} {bound:<34} {measured:<62} {}", if holds { "OK" } else { "OUT" });
        if !holds {
            self.out.push(format!("{}: {what}: {measured}, and the bound is {bound}", self.part));
        }
    }

    /// A line that explains the one before it.
    #[expect(clippy::unused_self, reason = "it belongs to the table")]
    pub(crate) fn note(&self, words: &str) {
        println!("  {words}");
    }

    /// Names what is out.
    pub(crate) fn end(self) -> ExitCode {
        if self.out.is_empty() {
            println!("\nall {} lines are within their bounds", self.lines);
            return ExitCode::SUCCESS;
        }
        println!("\n{} of {} lines are out of their bounds:", self.out.len(), self.lines);
        for line in &self.out {
            println!("  {line}");
        }
        ExitCode::FAILURE
    }
}
