//! Get and list: views of a persistent snapshot, without a lock.

use std::sync::Arc;

use base64::Engine;
use fram_api::Kind;
use fram_machinery::labels::{FieldSelector, Selector};
use fram_machinery::{Status, Value, json, meta, object};
use fram_store::{Entry, Facet, Revision, Snapshot};

use super::record::field_text;
use super::{Place, Record, Registry, Served, store_status};

/// Which objects of a collection are meant.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub labels: Selector,
    pub fields: FieldSelector,
}

/// Events of events.k8s.io are stored, and selected, under the names of the core group.
fn stored_names(kind: &Kind, mut selector: FieldSelector) -> FieldSelector {
    if kind.group == "events.k8s.io" {
        for requirement in &mut selector.requirements {
            requirement.path = match requirement.path.as_str() {
                "reportingController" => "reportingComponent".into(),
                path => path.strip_prefix("regarding.").map_or_else(|| path.to_string(), |rest| format!("involvedObject.{rest}")),
            };
        }
    }
    selector
}

/// What kinds say that have fields of their own to select by, and what the others say.
fn unknown_field(kind: &Kind, path: &str) -> String {
    let own = kind.selectable.iter().any(|field| !field.starts_with("metadata."));
    match own || kind.custom.is_some() {
        true => format!("field label not supported: {path}"),
        false => format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
    }
}

impl Selection {
    /// Parses both selectors; a field that the kind does not declare is refused.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, Status> {
        let labels = Selector::parse(labels).map_err(|e| Status::bad_request(e.to_string()))?;
        let fields = FieldSelector::parse(fields).map_err(|e| Status::bad_request(e.to_string()))?;
        let fields = stored_names(kind, fields);
        let known = |path: &str| {
            let core = path.starts_with("involvedObject.") || path == "reportingComponent";
            kind.selectable.iter().any(|s| *s == path)
                || matches!(path, "metadata.name" | "metadata.namespace")
                || kind.group == "events.k8s.io" && core
        };
        match fields.requirements.iter().find(|r| !known(&r.path)) {
            Some(r) => Err(Status::bad_request(unknown_field(kind, &r.path))),
            None => Ok(Self { labels, fields }),
        }
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub fn matches(&self, served: &Served, record: &Record<'_>) -> bool {
        record.matches_labels(&self.labels) && (self.fields.is_everything() || self.matches_fields(served, record))
    }

    /// By what a watch of these objects can be told from others before they are looked at: the first field that has to have a value,
    /// of those that records carry. Those of a custom resource may have been written under another definition.
    pub(super) fn facet(&self, stored: &Kind) -> Option<Facet> {
        let required = self.fields.requirements.iter().filter(|r| r.equal && stored.custom.is_none());
        let place = |path: &str| stored.selectable.iter().position(|s| *s == path);
        let (field, text) = required.filter_map(|r| Some((place(&r.path)?, &r.value))).next()?;
        Some(Facet { read: |bytes, field| Record::parse(bytes).ok()?.nth_field(field), field, text: text.as_str().into() })
    }

    /// The record's header has the fields of the definition under which it was written; another one's are looked up.
    fn matches_fields(&self, served: &Served, record: &Record<'_>) -> bool {
        if served.kind.custom.is_none() || served.verbatim() {
            return record.matches_fields(&served.stored.selectable, &self.fields);
        }
        let Ok(object) = record.to_object(0) else { return false };
        self.matches_object(&served.kind, &fram_api::convert(object, &served.stored, &served.kind))
    }

    /// Whether an object of a kind that is not stored is chosen.
    pub(crate) fn chooses(&self, kind: &Kind, object: &Value) -> bool {
        self.labels.matches(meta::labels(object)) && self.matches_object(kind, object)
    }

    /// Whether the fields of an object match, which is of this kind already.
    pub(super) fn matches_object(&self, kind: &Kind, object: &Value) -> bool {
        self.fields.is_everything() || self.fields.matches_with(|path| field_text(kind, object, path))
    }
}

#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    pub selection: Selection,
    /// 0 for all.
    pub limit: usize,
    pub continue_token: String,
    pub resource_version: String,
    pub resource_version_match: String,
}

impl ListRequest {
    /// Whether the newest state answers it, rather than that of one revision.
    fn of_newest(&self) -> bool {
        let exact = self.resource_version_match == "Exact" || self.resource_version_match.is_empty() && self.limit > 0;
        self.continue_token.is_empty() && (matches!(self.resource_version.as_str(), "" | "0") || !exact)
    }
}

/// A part of a collection at one revision.
pub struct Listing {
    pub revision: u64,
    pub items: Vec<Arc<Entry>>,
    /// Not empty where more follows.
    pub continue_token: String,
    pub remaining: Option<usize>,
    /// The objects, where they had to be converted to be chosen.
    pub objects: Option<Vec<Value>>,
}

/// Where a list goes on: at which revision, after which key. Without a revision it goes on at the newest one, though that
/// is not consistent with what came before.
struct Continue {
    revision: Option<u64>,
    after: String,
}

/// What a token says in place of a revision; see apiserver's storage.EncodeContinue.
const INCONSISTENT: i64 = -1;

impl Continue {
    fn encode(&self, prefix: &str) -> String {
        let token = object!({ "v": "meta.k8s.io/v1", "rv": (self.revision.map_or(INCONSISTENT, |r| r as i64)),
            "start": (self.after.strip_prefix(prefix).unwrap_or(&self.after)) });
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json::to_vec(&token))
    }

    fn decode(token: &str, prefix: &str) -> Result<Self, Status> {
        let bad = || Status::bad_request("continue key is not valid: encoding is not as expected");
        let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
        let token = json::from_slice(&raw).map_err(|_| bad())?;
        let revision = token.int_at(&["rv"]).ok_or_else(bad)?;
        let start = token.str_at(&["start"]);
        if start.is_empty() || start.split('/').any(|s| s == "..") {
            return Err(bad());
        }
        let revision = match revision {
            INCONSISTENT => None,
            other => Some(u64::try_from(other).map_err(|_| bad())?),
        };
        Ok(Self { revision, after: format!("{prefix}{start}") })
    }
}

pub(crate) fn parse_revision(text: &str) -> Result<Option<u64>, Status> {
    match text {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"))),
    }
}

impl Registry {
    pub async fn snapshot(&self) -> Result<Snapshot, Status> {
        self.store.snapshot(None).await.map_err(store_status)
    }

    /// Everything as this process has seen it, for whom that is new enough: nobody is asked.
    pub fn seen(&self) -> Result<Snapshot, Status> {
        self.store.seen().map_err(store_status)
    }

    /// The objects of a collection that are chosen, as this process has seen them; those of one field's text are found without a look at
    /// the others.
    pub(crate) fn seen_of(&self, served: &Served, namespace: &str, selection: &Selection) -> Result<Vec<Arc<Entry>>, Status> {
        let prefix = self.collection_prefix(&served.stored, namespace);
        let chosen = |entry: &Arc<Entry>| {
            let record = Record::parse(&entry.value).map_err(Status::internal)?;
            Ok(selection.matches(served, &record).then(|| entry.clone()))
        };
        let Some(facet) = selection.facet(&served.stored) else {
            return self.seen()?.prefix(&prefix).filter_map(|entry| chosen(entry).transpose()).collect();
        };
        let selected = self.store.seen_of(&self.collection_prefix(&served.stored, ""), &facet).map_err(store_status)?;
        selected.entries(&prefix).filter_map(|entry| chosen(entry).transpose()).collect()
    }

    /// The stored object, or NotFound.
    pub async fn get(&self, place: &Place) -> Result<Arc<Entry>, Status> {
        let snapshot = self.snapshot().await?;
        snapshot.get(&self.key_of(place)).cloned().ok_or_else(|| place.not_found())
    }

    /// The object itself, or NotFound.
    pub async fn get_object(&self, place: &Place) -> Result<Value, Status> {
        let entry = self.get(place).await?;
        self.object(&place.served, &entry).await
    }

    pub async fn list(&self, place: &Place, request: &ListRequest) -> Result<Listing, Status> {
        let stored = &place.served.stored;
        let prefix = self.collection_prefix(stored, &place.namespace);
        let from = match request.continue_token.as_str() {
            "" => None,
            token => Some(Continue::decode(token, &prefix)?),
        };
        let snapshot = self.snapshot_for(request, from.as_ref(), &prefix).await?;
        let revision = snapshot.revision().0;
        let mut listing = Listing { revision, items: Vec::new(), continue_token: String::new(), remaining: None, objects: None };
        if let Some(facet) = request.of_newest().then(|| request.selection.facet(stored)).flatten() {
            let selected = self.store.seen_of(&self.collection_prefix(stored, ""), &facet).map_err(store_status)?;
            listing.revision = selected.snapshot().revision().0;
            return self.page(place, request, listing, &prefix, selected.entries(&prefix));
        }
        let entries = snapshot.prefix_after(&prefix, from.as_ref().map(|f| f.after.as_str()));
        if place.served.needs_webhook() {
            let labelled = |e: &&Arc<Entry>| Record::parse(&e.value).is_ok_and(|r| r.matches_labels(&request.selection.labels));
            let entries: Vec<Arc<Entry>> = entries.filter(labelled).cloned().collect();
            return self.list_converted(place, request, entries, listing, &prefix).await;
        }
        self.page(place, request, listing, &prefix, entries)
    }

    /// Adds to a listing what is chosen among entries, as far as it has room.
    fn page<'a>(
        &self,
        place: &Place,
        request: &ListRequest,
        mut listing: Listing,
        prefix: &str,
        mut entries: impl Iterator<Item = &'a Arc<Entry>>,
    ) -> Result<Listing, Status> {
        for entry in entries.by_ref() {
            if !request.selection.is_everything() {
                let record = Record::parse(&entry.value).map_err(Status::internal)?;
                if !request.selection.matches(&place.served, &record) {
                    continue;
                }
            }
            listing.items.push(entry.clone());
            if request.limit > 0 && listing.items.len() == request.limit {
                break;
            }
        }
        if request.limit > 0 && listing.items.len() == request.limit {
            let remaining = entries.count();
            if remaining > 0 {
                let after = listing.items.last().map(|e| e.key.as_str().to_string()).unwrap_or_default();
                listing.continue_token = Continue { revision: Some(listing.revision), after }.encode(prefix);
                listing.remaining = request.selection.is_everything().then_some(remaining);
            }
        }
        Ok(listing)
    }

    /// A part of a collection whose objects are converted by a webhook before fields select among them.
    async fn list_converted(
        &self,
        place: &Place,
        request: &ListRequest,
        entries: Vec<Arc<Entry>>,
        mut listing: Listing,
        prefix: &str,
    ) -> Result<Listing, Status> {
        let objects = self.objects(&place.served, &entries).await?;
        let chosen = |o: &Value| request.selection.matches_object(&place.served.kind, o);
        let mut all = entries.into_iter().zip(objects).filter(|(_, o)| chosen(o));
        let limit = if request.limit > 0 { request.limit } else { usize::MAX };
        let (items, objects) = all.by_ref().take(limit).unzip();
        (listing.items, listing.objects) = (items, Some(objects));
        let remaining = all.count();
        if remaining > 0 {
            let after = listing.items.last().map(|e| e.key.as_str().to_string()).unwrap_or_default();
            listing.continue_token = Continue { revision: Some(listing.revision), after }.encode(prefix);
            listing.remaining = request.selection.is_everything().then_some(remaining);
        }
        Ok(listing)
    }

    async fn snapshot_for(&self, request: &ListRequest, from: Option<&Continue>, prefix: &str) -> Result<Snapshot, Status> {
        if let Some(from) = from {
            if !request.resource_version.is_empty() && request.resource_version != "0" {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            let snapshot = self.store.snapshot(from.revision.map(Revision)).await;
            return snapshot.map_err(|error| match store_status(error) {
                status if status.is(fram_machinery::Reason::Expired) => Status { continue_token: Continue { revision: None, after: from.after.clone() }.encode(prefix), ..Status::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
                ) },
                status => status,
            });
        }
        let wanted = parse_revision(&request.resource_version)?;
        let matching = request.resource_version_match.as_str();
        match (matching, wanted) {
            ("" | "NotOlderThan", Some(0)) => self.seen(),
            ("", None) => self.snapshot().await,
            // A page at a version is that version's; see "limit set, resourceVersionMatch unset" in the API concepts.
            ("", Some(revision)) if request.limit > 0 => self.store.snapshot(Some(Revision(revision))).await.map_err(store_status),
            ("Exact", Some(revision)) if revision > 0 => self.store.snapshot(Some(Revision(revision))).await.map_err(store_status),
            ("" | "NotOlderThan", Some(revision)) => {
                let snapshot = self.snapshot().await?;
                if snapshot.revision().0 < revision {
                    let error = fram_store::StoreError::FutureRevision { revision: Revision(revision), current: snapshot.revision() };
                    return Err(store_status(error));
                }
                Ok(snapshot)
            }
            (other, None) if !other.is_empty() => Err(Status::bad_request(format!(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided ({other})"
            ))),
            (other, _) => Err(Status::bad_request(format!(
                "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
            ))),
        }
    }
}
