//! fram-store: a revisioned key-value store with watch, the ground that the API server stands on.
//!
//! The trait `Store` says what every engine does; `Embedded` keeps everything in memory over a write-ahead log, `Etcd` over etcd. The
//! store knows nothing of Kubernetes objects: keys are text, values are bytes that it never looks into.

mod cipher;
mod clock;
mod error;
mod index;
mod snapshot;
mod state;
mod store;
mod timeline;
mod types;
mod watch;

pub mod disk;
pub mod embedded;
pub mod etcd;

pub use cipher::{Cipher, CipherError, Opened};
pub use clock::{Clock, ClockListener, ManualClock, SystemClock, UnixMillis};
pub use embedded::{Embedded, Options};
pub use error::StoreError;
pub use etcd::{Etcd, EtcdOptions};
pub use index::Selected;
pub use snapshot::Snapshot;
pub use store::Store;
pub use types::{Committed, Condition, Entry, Event, EventKind, Key, MAX_KEY_BYTES, MAX_OPERATIONS, Operation, Revision, Transaction};
pub use watch::{Facet, ProgressRequester, Watch, WatchItem};
