//! The trait behind which every engine stands. What it promises is written as code in `tests/contract`.

use async_trait::async_trait;

use crate::error::StoreError;
use crate::index::Selected;
use crate::snapshot::Snapshot;
use crate::types::{Committed, Revision, Transaction};
use crate::watch::{Facet, Watch};

/// A revisioned key-value store with watch.
#[async_trait]
pub trait Store: Send + Sync {
    /// Applies the transaction if all its conditions hold, and returns when it is durable and visible to snapshots.
    ///
    /// A call that is dropped while it waits may still be applied.
    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError>;

    /// The revision of the latest transaction, as of some moment after the call began.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// All keys as they are now, or as they were at a revision that history still holds.
    async fn snapshot(&self, at: Option<Revision>) -> Result<Snapshot, StoreError>;

    /// All keys as this process has seen them: nobody is asked, and what others committed may be missing for a moment.
    fn seen(&self) -> Result<Snapshot, StoreError>;

    /// What is seen, and which of its entries concern the facet, found without a look at the others. `collection` is what the keys of
    /// all those start with that have the facet's field.
    fn seen_of(&self, collection: &str, facet: &Facet) -> Result<Selected, StoreError>;

    /// Every change to keys that start with `prefix` in transactions after `after`: each once, in the order of the
    /// revisions, the changes of one transaction in one batch.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.watch_facet(prefix, None, after).await
    }

    /// The same without the changes that do not concern the facet; others may be among them.
    async fn watch_facet(&self, prefix: &str, facet: Option<Facet>, after: Revision) -> Result<Watch, StoreError>;

    /// Forgets the history before `to`: snapshots at `to` and watches after it stay possible. Forgetting what is
    /// already forgotten is no error. A revision once forgotten may become readable again when the store is reopened.
    async fn compact(&self, to: Revision) -> Result<(), StoreError>;

    /// The oldest revision that can be read and watched after.
    async fn oldest(&self) -> Result<Revision, StoreError>;

    /// How many bytes the database takes on its disk, with what was deleted and not yet cleared away.
    async fn size(&self) -> Result<u64, StoreError>;

    /// Finishes what was begun, ends all watches and refuses everything from then on. Closing twice is no error.
    async fn close(&self) -> Result<(), StoreError>;
}
