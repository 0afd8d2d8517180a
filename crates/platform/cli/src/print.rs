//! Standard output and error. Output that nobody reads any more ends the command, quietly.

use std::io::{ErrorKind, Write};

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
