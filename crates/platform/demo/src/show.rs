//! What the user sees of the demo: a spinner that says what goes on, on a terminal; plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use fram_cli::say;
use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// The steps of a demo, one after the other.
pub(crate) struct Show {
    steps: usize,
    done: usize,
    terminal: bool,
}

/// A step that goes on.
pub(crate) struct Step {
    number: String,
    title: &'static str,
    begun: Instant,
    bar: Option<ProgressBar>,
    last: String,
}

impl Show {
    pub(crate) fn new(steps: usize) -> Self {
        Self { steps, done: 0, terminal: std::io::stdout().is_terminal() }
    }

    pub(crate) fn step(&mut self, title: &'static str) -> Step {
        self.done += 1;
        let number = format!("[{}/{}]", self.done, self.steps);
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, indicatif::ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(format!("{number} {title}"));
            bar.enable_steady_tick(TICK);
            bar
        });
        Step { number, title, begun: Instant::now(), bar, last: String::new() }
    }
}

impl Step {
    /// What goes on, for who looks on; it leaves no line.
    pub(crate) fn hint(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_string());
        }
    }

    /// How far it has come; said once.
    pub(crate) fn goes_on(&mut self, text: &str) {
        if text == self.last {
            return;
        }
        self.last = text.into();
        match &self.bar {
            Some(bar) => bar.set_message(text.to_string()),
            None => say(&format!("      {text}")),
        }
    }

    pub(crate) fn done(self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        say(&format!("{} {}: {text} ({:.1} s)", self.number, self.title, self.begun.elapsed().as_secs_f64()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // Where a step fails, its error stands on a line of its own.
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
