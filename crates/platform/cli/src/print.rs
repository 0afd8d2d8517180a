//! Standard output and error. Output that nobody reads any more ends a command that only reads, quietly; one that changes
//! things finishes them first.

use std::io::{ErrorKind, IsTerminal, Write};

use crate::error::{CliError, Result};

/// Writes to standard output at once.
pub(crate) fn out(bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes.as_ref()).and_then(|()| stdout.flush());
    written.map_err(|source| match source.kind() {
        ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::Io { operation: "write to", path: "standard output".into(), source },
    })
}

/// Tells the user something that is not output.
pub(crate) fn note(text: &str) {
    // Where standard error is closed, nobody wants to be told.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// kubectl's words where there is nothing to show.
pub(crate) fn nothing_found(namespace: Option<&str>) -> String {
    namespace.map_or_else(|| "No resources found".into(), |namespace| format!("No resources found in {namespace} namespace."))
}

/// Says a line on standard output, for programs that go on whether anybody listens or not.
pub fn say(text: &str) {
    // A reader that has gone is no reason to end what runs.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Warns, in kubectl's form.
pub(crate) fn warn(text: &str) {
    let stderr = std::io::stderr();
    let plain = std::env::var_os("NO_COLOR").is_some() || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    let (begin, end) = if stderr.is_terminal() && !plain { ("\x1b[33;1m", "\x1b[0m") } else { ("", "") };
    note(&format!("{begin}Warning:{end} {}", escaped(text)));
}

/// A text without what terminals take for orders (CVE-2021-25743); see cli-runtime's printers.WriteEscaped.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\x1b', "^[").replace('\r', "\\r")
}

/// What a command that changes things says of them: it goes on with them when nobody reads any more.
#[derive(Default)]
pub(crate) struct Report {
    failed: Option<CliError>,
}

impl Report {
    pub(crate) fn say(&mut self, text: impl AsRef<[u8]>) {
        if self.failed.is_none() {
            self.failed = out(text).err();
        }
    }

    /// What went wrong with the things themselves, else with the words about them.
    pub(crate) fn end(self, mut errors: Vec<CliError>) -> Result<()> {
        errors.extend(self.failed);
        CliError::all(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_no_orders() {
        assert_eq!(escaped("a\x1b[2Jb\rc"), "a^[[2Jb\\rc");
    }

    #[test]
    fn what_was_not_done_outweighs_what_was_not_said() {
        let report = || Report { failed: Some(CliError::OutputClosed) };
        assert!(matches!(report().end(Vec::new()), Err(CliError::OutputClosed)));
        assert!(matches!(report().end(vec![CliError::failed("x")]), Err(CliError::Failed(_))));
        assert!(Report::default().end(Vec::new()).is_ok());
    }
}
