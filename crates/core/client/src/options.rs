//! Options of requests, as the API's query parameters and DeleteOptions have them.

use fram_machinery::Value;

#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// At most this many objects; 0 for all.
    pub limit: u32,
    pub continue_token: String,
    pub resource_version: String,
    pub resource_version_match: String,
    /// Watches only: bookmarks tell of progress where nothing happened.
    pub allow_bookmarks: bool,
    /// Watches only: begin with what exists, then a bookmark.
    pub send_initial_events: bool,
    pub timeout_seconds: Option<u32>,
    /// Lists of custom metrics only: which of the metric's own labels.
    pub metric_selector: String,
}

#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    pub field_manager: String,
    /// `Strict`, `Warn` or `Ignore`; empty for the server's default.
    pub field_validation: String,
    pub dry_run: bool,
    /// Server-side apply only: take fields from other managers.
    pub force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchKind {
    pub fn content_type(self) -> &'static str {
        match self {
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
            PatchKind::Apply => "application/apply-patch+yaml",
        }
    }

    pub fn from_content_type(text: &str) -> Option<Self> {
        let all = [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic, PatchKind::Apply];
        all.into_iter().find(|k| k.content_type() == text)
    }
}

#[derive(Debug, Clone)]
pub struct Patch {
    pub kind: PatchKind,
    pub body: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl Propagation {
    pub fn as_str(self) -> &'static str {
        match self {
            Propagation::Orphan => "Orphan",
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Propagation::Orphan, Propagation::Background, Propagation::Foreground].into_iter().find(|p| p.as_str() == text)
    }
}

/// What must be true of the object when it is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub preconditions: Preconditions,
    pub dry_run: bool,
}
