//! How values look on disk: the trait behind which encryption at rest stands. Keys stay readable; what is in memory is clear.

/// Why a value cannot be encrypted or decrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CipherError(pub String);

/// A value that was read from the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// None where the bytes on disk are the value.
    pub value: Option<Vec<u8>>,
    /// It would be written differently now.
    pub stale: bool,
}

/// Seals values for the disk and opens them again. Called by the threads that write and read files: it may block when it
/// opens, and should not when it seals.
pub trait Cipher: Send + Sync {
    /// The bytes to write for the value of a key; None where they are the value.
    fn seal(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, CipherError>;

    /// The same for a value that is on disk already, in a file that is about to be replaced: that must not stop for want of something
    /// that only new values need.
    fn seal_again(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, CipherError> {
        self.seal(key, value)
    }

    /// What was sealed for a key, now or earlier.
    fn open(&self, key: &str, stored: &[u8]) -> Result<Opened, CipherError>;

    /// Whether a value is one that `open` had to leave as it was stored, for want of a key. The store holds it so, and tries again
    /// whenever it is told to rewrite.
    fn is_sealed(&self, _value: &[u8]) -> bool {
        false
    }
}
