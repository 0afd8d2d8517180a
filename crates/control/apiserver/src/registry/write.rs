//! Create and update. An update is a transformation of the current object that is tried again when the object changed
//! meanwhile, unless the client said which version it meant.

use std::sync::Arc;

use bytes::Bytes;
use fram_api::{Kind, names, strategy};
use fram_machinery::normalize::TypeError;
use fram_machinery::{Reason, Status, Value, json, managed, meta, normalize};
use fram_store::{Condition, Entry, Key, Operation, StoreError, Transaction};

use super::prepare::{Change, bump_generation, check_namespace, check_new, fill_metadata, identify, keep_metadata, refuse};
use super::{Place, Record, Registry, Write, store_status};
use crate::admission::{Operation as Verb, Request};
use crate::quota;

/// How often an update is tried when others write the same object.
const RETRIES: usize = 32;
/// How many names are tried for an object that is to get one; upstream's maxNameGenerationCreateAttempts.
const NAMES: usize = 8;

/// How long Events live; see kube-apiserver's --event-ttl.
const EVENT_TTL: std::time::Duration = std::time::Duration::from_secs(3600);

/// What a write led to.
pub struct Written {
    pub object: Value,
    /// The same as it was stored, where the kind that was asked for is the stored one.
    pub entry: Option<Stored>,
    pub created: bool,
    /// What admission and the kind had to say.
    pub warnings: Vec<String>,
}

/// The bytes of a stored object, and its revision.
#[derive(Debug, Clone)]
pub struct Stored {
    pub value: Bytes,
    pub revision: u64,
}

/// An object as a client sent it.
#[derive(Debug, Clone)]
pub struct Body {
    pub value: Value,
    /// What is to be said of keys that stood twice.
    pub duplicates: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Strict,
    Warn,
    Ignore,
}

impl Registry {
    /// Decodes an object of a kind: checks what it says of itself, drops and reports unknown fields.
    /// Returns the object and the warnings to send along.
    pub fn decode_body(&self, kind: &Kind, body: Body, validation: FieldValidation) -> Result<(Value, Vec<String>), Status> {
        self.decode_saying(kind, body, validation, |e| {
            format!("{} in version {:?} cannot be handled as a {}: {e}", kind.kind, kind.version, kind.kind)
        })
    }

    /// The same, with other words for values of the wrong type.
    pub(crate) fn decode_saying(
        &self,
        kind: &Kind,
        body: Body,
        validation: FieldValidation,
        unfit: impl Fn(&TypeError) -> String,
    ) -> Result<(Value, Vec<String>), Status> {
        let (version, name) = (body.value.str_at(&["apiVersion"]).to_string(), body.value.str_at(&["kind"]).to_string());
        if !version.is_empty() && version != kind.api_version() || !name.is_empty() && kind.kind != name.as_str() {
            return Err(Status::bad_request(format!(
                "{name} in version {version:?} cannot be handled as a {}: the API version in the data ({version}) does not match the expected API version ({}) or kind",
                kind.kind,
                kind.api_version()
            )));
        }
        let mut sent = body.value;
        // Decoding drops empty lists, but this one says that nobody is to own anything; see upstream's isResetManagedFields.
        if sent.at(&MANAGED_FIELDS).and_then(Value::as_list).is_some_and(|list| list.is_empty()) {
            sent.set(&MANAGED_FIELDS, vec![Value::Map(Default::default())]);
        }
        let decoded = normalize::decode(&kind.schema, kind.ty, sent).map_err(|e| Status::bad_request(unfit(&e)))?;
        let unknown = decoded.unknown.iter().map(|path| format!("unknown field {path:?}"));
        // Custom resources are parsed first and pruned then; built-in kinds do both at once.
        let problems: Vec<String> = match kind.custom {
            Some(_) => body.duplicates.into_iter().chain(unknown).collect(),
            None => unknown.chain(body.duplicates).collect(),
        };
        let mut value = decoded.value;
        value.set(&["apiVersion"], kind.api_version());
        value.set(&["kind"], &kind.kind);
        match validation {
            FieldValidation::Strict if !problems.is_empty() => Err(Status::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                kind.kind,
                kind.version,
                kind.kind,
                problems.join(", ")
            ))),
            FieldValidation::Ignore => Ok((value, Vec::new())),
            _ => Ok((value, problems)),
        }
    }

    /// Brings a decoded object into its stored version, with defaults.
    pub(super) async fn to_stored(&self, place: &Place, object: Value) -> Result<Value, Status> {
        let (kind, stored) = (&place.served.kind, &place.served.stored);
        let mut object = object;
        // Defaults belong to the version that the client spoke.
        self.default(kind, &mut object);
        let mut object = self.convert(object, kind, stored).await?;
        if kind.version != stored.version || kind.group != stored.group {
            self.default(stored, &mut object);
        }
        Ok(object)
    }

    fn default(&self, kind: &Kind, object: &mut Value) {
        normalize::apply_defaults(&kind.schema, kind.ty, object);
        strategy(kind).default(object);
    }

    /// Makes an object. What it says is its manager's; what admission, the kind's own rules and allocators add belongs to nobody.
    pub async fn create(&self, place: &Place, object: Value, write: &Write) -> Result<Written, Status> {
        let stored = place.served.stored.clone();
        let mut object = self.to_stored(place, object).await?;
        let applied = object.at(&["metadata", "managedFields"]).cloned().filter(|_| write.apply);
        fill_metadata(place, &mut object)?;
        if let Some(applied) = applied {
            object.set(&["metadata", "managedFields"], applied);
        }
        let has_own_status = stored.subresource("status").is_some() && !stored.status_on_create;
        if has_own_status {
            object.remove(&["status"]);
        }
        let mut object = self.formed(&stored, object, true)?;
        self.track(place, &mut object, None, "", write)?;
        // Refusals speak of what is yet to get a name by what that will begin with.
        let is_unnamed = meta::name(&object).is_empty();
        let called = if is_unnamed { object.str_at(&["metadata", "generateName"]) } else { meta::name(&object) };
        let asked = Place { name: called.to_string(), ..place.clone() };
        let mut request = Request::new(self, &asked, "", Verb::Create, write);
        request.is_unnamed = is_unnamed;
        let owners = object.at(&MANAGED_FIELDS).cloned();
        object = self.admission.admit(&mut request, object, None).await?;
        keep_owners(&mut object, owners);
        check_namespace(place, &object)?;
        if has_own_status {
            object.remove(&["status"]);
        }
        fram_api::drop_unserved(&stored, &mut object, None);
        let mut warnings = request.take_warnings();
        let base = object.str_at(&["metadata", "generateName"]).to_string();
        if base.is_empty() || !meta::name(&object).is_empty() {
            return self.create_named(place, object, write, &mut warnings).await;
        }
        let mut names = NAMES;
        loop {
            names -= 1;
            object.set(&["metadata", "name"], self.environment.generate_name(&base));
            match self.create_named(place, object.clone(), write, &mut warnings).await {
                Err(status) if status.is(Reason::AlreadyExists) && names > 0 => {}
                done => return done.map_err(unnamed),
            }
        }
    }

    /// Makes an object that has its name and has been through the changing half of admission.
    async fn create_named(&self, place: &Place, mut object: Value, write: &Write, warnings: &mut Vec<String>) -> Result<Written, Status> {
        let place = Place { name: meta::name(&object).to_string(), ..place.clone() };
        let stored = place.served.stored.clone();
        identify(&self.environment, &place, &mut object);
        strategy(&stored).prepare_create(&mut object);
        strategy(&stored).stamp(&mut object, None, &self.environment.now_text());
        let mut object = self.normalized(&stored, object)?;
        self.validate(&place, &object, Change::Create)?;
        let request = Request::new(self, &place, "", Verb::Create, write);
        self.admission.validate(&request, Some(&object), None).await?;
        check_new(&object)?;
        strategy(&stored).read_back(&mut object);
        let mut turn = None;
        for _ in 0..RETRIES {
            let Some((written, entry)) = self.try_create(&place, object.clone(), write).await? else {
                // One at a time from now on: of many who want the same quota only one would win each round.
                if turn.is_none() {
                    turn = Some(self.turns.wait(&place.namespace).await);
                }
                continue;
            };
            warnings.extend(fram_api::strategy::warnings(&stored, "", &written, None));
            let object = self.convert(written, &stored, &place.served.kind).await?;
            warnings.extend(request.take_warnings());
            return Ok(Written { object, entry, created: true, warnings: std::mem::take(warnings) });
        }
        Err(place.conflict("quotas and numbers of the object are taken by others all the time; please try again"))
    }

    /// Commits an object that is ready, with what must be written beside it; None where what it was to get went to another.
    async fn try_create(&self, place: &Place, object: Value, write: &Write) -> Result<Option<(Value, Option<Stored>)>, Status> {
        let stored = &place.served.stored;
        let charge = quota::charge(self, place, "", &object, None).await?;
        let asked = object.clone();
        let allocation = self.allocators.allocate(self, place, object, None).await?;
        let mut object = allocation.object;
        let key = Key::from(self.key_of(place));
        if write.dry_run {
            return if self.snapshot().await?.get(&key).is_some() { Err(place.already_exists()) } else { Ok(Some((object, None))) };
        }
        let value = Record::encode(stored, object.clone());
        self.trees.put(value.clone(), (), object.clone());
        let put = Operation::Put { key: key.clone(), value: value.clone(), ttl: ttl(stored) };
        let mut transaction = Transaction::new(vec![put]).when(Condition::Absent(key.clone()));
        transaction.conditions.extend(charge.conditions.into_iter().chain(allocation.conditions));
        transaction.operations.extend(charge.operations.into_iter().chain(allocation.operations));
        match self.store.commit(transaction).await {
            Ok(committed) => {
                object.set(&["metadata", "resourceVersion"], committed.revision.to_string());
                let entry = Stored { value, revision: committed.revision.0 };
                Ok(Some((object, place.served.verbatim().then_some(entry))))
            }
            Err(StoreError::Conflict { key: found, .. }) if found == key => Err(place.already_exists()),
            Err(StoreError::Conflict { key: found, .. }) if quota::is_quota(&found) => Ok(None),
            Err(StoreError::Conflict { key: found, .. }) => self.allocators.taken(place, &asked, &found).map_or(Ok(None), Err),
            Err(error) => Err(store_status(error)),
        }
    }

    /// Drops what Go would not write, so that every stored object has the same form.
    fn normalized(&self, stored: &Kind, object: Value) -> Result<Value, Status> {
        // Upstream stores what extends the API as JSON, all else as protobuf, in which empty lists are nothing.
        let as_json = stored.custom.is_some() || matches!(&*stored.group, "apiextensions.k8s.io" | "apiregistration.k8s.io");
        self.formed(stored, object, as_json)
    }

    fn formed(&self, stored: &Kind, object: Value, as_json: bool) -> Result<Value, Status> {
        if normalize::is_formed(&stored.schema, stored.ty, &object, !as_json) {
            return Ok(object);
        }
        let decode = if as_json { normalize::decode } else { normalize::decode_stored };
        let decoded = decode(&stored.schema, stored.ty, object).map_err(Status::internal)?;
        Ok(decoded.value)
    }

    /// Replaces the current object by what `transform` makes of it. For subresources the transformation has already
    /// put the part that may change into the current object.
    pub async fn update<F>(&self, place: &Place, subresource: &str, write: &Write, mut transform: F) -> Result<Written, Status>
    where
        F: FnMut(&Value) -> Result<Value, Status> + Send,
    {
        let key = Key::from(self.key_of(place));
        for _ in 0..RETRIES {
            let entry = self.get(place).await?;
            let current = self.object(&place.served, &entry).await?;
            let asked = transform(&current)?;
            let wanted = meta::resource_version(&asked);
            // Zero says as little as nothing; see upstream's ParseResourceVersion.
            let pinned = !matches!(wanted, "" | "0") && wanted != meta::resource_version(&current);
            if pinned {
                return Err(place.conflict("the object has been modified; please apply your changes to the latest version and try again"));
            }
            // Where both are the same kind, nothing is decoded twice.
            let old = if place.served.verbatim() { current } else { self.stored(&entry)? };
            match self.try_update(place, subresource, write, &key, (&entry, old), asked).await? {
                Some(written) => return Ok(written),
                None => continue,
            }
        }
        Err(place.conflict("the object is being modified by others all the time; please try again"))
    }

    /// One attempt; None where the object changed meanwhile.
    async fn try_update(
        &self,
        place: &Place,
        subresource: &str,
        write: &Write,
        key: &Key,
        (entry, old): (&Arc<Entry>, Value),
        asked: Value,
    ) -> Result<Option<Written>, Status> {
        let stored = place.served.stored.clone();
        if !meta::uid(&asked).is_empty() && meta::uid(&asked) != meta::uid(&old) {
            let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", meta::uid(&asked), meta::uid(&old));
            return Err(place.conflict(&why));
        }
        // A binding sets some fields of what is stored: but for these the object has its defaults and its form already.
        let own = subresource == "binding" && place.served.verbatim();
        let mut object = if own { asked } else { self.to_stored(place, asked).await? };
        keep_metadata(&mut object, &old);
        let mut request = Request::new(self, place, subresource, Verb::Update, write);
        // Of a binding admission has seen the Binding itself.
        let is_admitted = subresource == "binding";
        if !is_admitted {
            keep_other_parts(&stored, subresource, &mut object, &old);
            object = self.formed(&stored, object, true)?;
            self.track(place, &mut object, Some(&old), subresource, write)?;
            let owners = object.at(&MANAGED_FIELDS).cloned();
            object = self.admission.admit(&mut request, object, Some(&old)).await?;
            keep_owners(&mut object, owners);
            keep_metadata(&mut object, &old);
        }
        keep_other_parts(&stored, subresource, &mut object, &old);
        fram_api::drop_unserved(&stored, &mut object, Some(&old));
        match subresource {
            "" => strategy(&stored).prepare_update(&mut object, &old),
            part => strategy(&stored).prepare_subresource(part, &mut object, &old),
        }
        strategy(&stored).stamp(&mut object, Some(&old), &self.environment.now_text());
        let mut object = if own { object } else { self.normalized(&stored, object)? };
        if !is_admitted {
            // A pod's generation counts what users change; see KEP-5067.
            bump_generation(&stored, &mut object, &old);
        }
        self.validate_change(place, subresource, &object, &old)?;
        let mut warnings = request.take_warnings();
        warnings.extend(fram_api::strategy::warnings(&stored, subresource, &object, Some(&old)));
        if !is_admitted {
            self.admission.validate(&request, Some(&object), Some(&old)).await?;
        }
        warnings.extend(request.take_warnings());
        let charge = quota::charge(self, place, subresource, &object, Some(&old)).await?;
        let wanted = object.clone();
        let allocation = self.allocators.allocate(self, place, object, Some(&old)).await?;
        let mut object = allocation.object;
        let answer = |object: Value, entry: Option<Stored>| async {
            let object = self.convert(object, &stored, &place.served.kind).await?;
            let entry = entry.filter(|_| place.served.verbatim());
            Ok(Some(Written { object, entry, created: false, warnings }))
        };
        if write.dry_run {
            return answer(object, None).await;
        }
        if finished(&stored, &object) {
            return match self.remove(place, key, entry, &object).await? {
                Some(gone) => answer(gone, None).await,
                None => Ok(None),
            };
        }
        let value = Record::encode(&stored, object.clone());
        if value == entry.value {
            return answer(old, None).await;
        }
        self.trees.put(value.clone(), (), object.clone());
        let put = Operation::Put { key: key.clone(), value: value.clone(), ttl: ttl(&stored) };
        let mut transaction = Transaction::new(vec![put]).when(Condition::ModifiedAt(key.clone(), entry.modified));
        transaction.conditions.extend(charge.conditions.into_iter().chain(allocation.conditions));
        transaction.operations.extend(charge.operations.into_iter().chain(allocation.operations));
        match self.store.commit(transaction).await {
            Ok(committed) => {
                object.set(&["metadata", "resourceVersion"], committed.revision.to_string());
                answer(object, Some(Stored { value, revision: committed.revision.0 })).await
            }
            Err(StoreError::Conflict { key: found, .. }) if quota::is_quota(&found) && found != *key => Ok(None),
            Err(StoreError::Conflict { key: found, current }) if found == *key => match current {
                Some(_) => Ok(None),
                None => Err(place.not_found()),
            },
            Err(StoreError::Conflict { key: found, .. }) => self.allocators.taken(place, &wanted, &found).map_or(Ok(None), Err),
            Err(error) => Err(store_status(error)),
        }
    }

    fn validate_change(&self, place: &Place, subresource: &str, object: &Value, old: &Value) -> Result<(), Status> {
        match subresource {
            _ if place.served.stored.custom.is_some() => self.validate(place, object, Change::Update(old)),
            "" | "scale" | "ephemeralcontainers" | "resize" => {
                let whole = subresource.is_empty() || subresource == "scale";
                let mut errors = self.errors(place, object, if whole { Change::Update(old) } else { Change::Part(old) });
                errors.extend(strategy(&place.served.stored).validate_subresource(subresource, object, old));
                refuse(place, object, errors)
            }
            _ => self.validate_part(place, subresource, object, old),
        }
    }

    /// Keeps `metadata.managedFields` true to who wrote which field, as the version shows them in which it was written. What an apply
    /// found is already there.
    pub(crate) fn track(
        &self,
        place: &Place,
        object: &mut Value,
        old: Option<&Value>,
        subresource: &str,
        write: &Write,
    ) -> Result<(), Status> {
        if write.apply {
            return Ok(());
        }
        let (kind, stored) = (place.kind(), &place.served.stored);
        let manager = managed::Manager {
            name: write.field_manager.clone(),
            operation: managed::Operation::Update,
            api_version: kind.api_version(),
            subresource: subresource.into(),
        };
        // Versions of custom resources have the same fields, or another server knows which.
        let written = if kind.custom.is_some() || place.served.verbatim() { stored } else { &place.served.kind };
        let now = self.environment.now_text();
        let track = |object: &mut Value, old: Option<&Value>| -> Result<(), Status> {
            let mut before = match old {
                Some(old) => old.clone(),
                None => self.empty_object(written)?,
            };
            reset(written, subresource, &mut before, object, old.is_none());
            match old {
                Some(_) => managed::track(&written.schema, written.ty, &before, object, &manager, &now),
                None => managed::track_new(&written.schema, written.ty, &before, object, &manager, &now),
            }
            Ok(())
        };
        if Arc::ptr_eq(written, stored) {
            return track(object, old);
        }
        let shown = |value: &Value| fram_api::convert(value.clone(), stored, written);
        let mut changed = shown(object);
        track(&mut changed, old.map(shown).as_ref())?;
        keep_owners(object, changed.at(&MANAGED_FIELDS).cloned());
        Ok(())
    }

    /// An object as who applies to it finds it: of one of which nobody owns anything, all that is there is owned by `before-first-apply`. See
    /// upstream's skipNonAppliedManager.
    pub(crate) fn owned_before_apply(&self, kind: &Kind, live: &Value) -> Result<Value, Status> {
        let mut live = live.clone();
        if !meta::uid(&live).is_empty() && live.list_at(&MANAGED_FIELDS).is_empty() {
            let mut nothing = self.empty_object(kind)?;
            reset(kind, "", &mut nothing, &live, true);
            let manager = managed::Manager {
                name: "before-first-apply".into(),
                operation: managed::Operation::Update,
                api_version: kind.api_version(),
                subresource: String::new(),
            };
            managed::track_new(&kind.schema, kind.ty, &nothing, &mut live, &manager, &self.environment.now_text());
        }
        Ok(live)
    }

    /// An object of a kind before anyone has written to it.
    pub(crate) fn empty_object(&self, kind: &Kind) -> Result<Value, Status> {
        let empty = normalize::decode(&kind.schema, kind.ty, Value::Map(Default::default()));
        empty.map(|d| d.value).map_err(Status::internal)
    }

    /// Deletes a key whose object has nothing that keeps it; None where the object changed meanwhile.
    pub(super) async fn remove(&self, place: &Place, key: &Key, entry: &Arc<Entry>, object: &Value) -> Result<Option<Value>, Status> {
        let mut transaction =
            Transaction::new(vec![Operation::delete(key.clone())]).when(Condition::ModifiedAt(key.clone(), entry.modified));
        self.allocators.release(self, place, object, &mut transaction).await?;
        match self.store.commit(transaction).await {
            Ok(committed) => {
                let mut object = object.clone();
                object.set(&["metadata", "resourceVersion"], committed.revision.to_string());
                Ok(Some(object))
            }
            Err(StoreError::Conflict { key: found, current: None }) if found == *key => Err(place.not_found()),
            // It changed, or what is to go with it did.
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(store_status(error)),
        }
    }
}

fn ttl(kind: &Kind) -> Option<std::time::Duration> {
    (kind.kind == "Event" && kind.group.is_empty()).then_some(EVENT_TTL)
}

/// Of a part of the object only one field is taken as it was asked for.
fn only(part: &str, field: &str, object: &mut Value, old: &Value) {
    let asked = object.at(&[part, field]).cloned();
    match old.get(part) {
        Some(kept) => object.set(&[part], kept.clone()),
        None => drop(object.remove(&[part])),
    }
    match asked {
        Some(asked) => object.set(&[part, field], asked),
        None => drop(object.remove(&[part, field])),
    }
}

/// The metadata before, but for who wrote which field: that is worked out from the request.
fn keep_all_metadata(object: &mut Value, old: &Value) {
    let managers = object.at(&["metadata", "managedFields"]).cloned();
    object.set(&["metadata"], old.get("metadata").cloned());
    match managers {
        Some(managers) => object.set(&["metadata", "managedFields"], managers),
        None => drop(object.remove(&["metadata", "managedFields"])),
    }
}

/// Why an object got no name, where all that were tried are taken; see upstream's NewGenerateNameConflict.
fn unnamed(mut status: Status) -> Status {
    if status.is(Reason::AlreadyExists) {
        status.message.push_str(", the server was not able to generate a unique name for the object");
        status.retry_after_seconds = 1;
    }
    status
}

const MANAGED_FIELDS: [&str; 2] = ["metadata", "managedFields"];

/// Who owns what is worked out from what was written: admission has no say in it.
fn keep_owners(object: &mut Value, owners: Option<Value>) {
    match owners {
        Some(owners) => object.set(&MANAGED_FIELDS, owners),
        None => drop(object.remove(&MANAGED_FIELDS)),
    }
}

/// Makes what a write through a door cannot say appear as it was: it belongs to nobody. See the GetResetFields of upstream's strategies.
fn reset(kind: &Kind, subresource: &str, before: &mut Value, object: &Value, is_new: bool) {
    let of_request: &[&[&str]] = match subresource {
        _ if !kind.is("certificates.k8s.io", "CertificateSigningRequest") => &[],
        "status" => &[&["spec"], &["status", "conditions"]],
        "approval" => &[&["spec"], &["status", "certificate"]],
        _ => &[&["spec"]],
    };
    let status: &[&[&str]] = if is_new && kind.subresource("status").is_some() { &[&["status"]] } else { &[] };
    for path in of_request.iter().chain(status) {
        before.set(path, object.at(path).cloned());
    }
}

/// A write to the object leaves its status alone, a write to the status leaves the rest alone, and of other subresources only
/// their own part is taken, whatever the request brought along.
fn keep_other_parts(kind: &Kind, subresource: &str, object: &mut Value, old: &Value) {
    let keep = |object: &mut Value, field: &str| match old.get(field) {
        Some(kept) => object.set(&[field], kept.clone()),
        None => drop(object.remove(&[field])),
    };
    match subresource {
        "status" => {
            let fields: Vec<String> = old
                .as_map()
                .into_iter()
                .chain(object.as_map())
                .flat_map(|m| m.keys())
                .map(|k| k.to_string())
                .filter(|k| !matches!(k.as_str(), "status" | "metadata" | "apiVersion" | "kind"))
                .collect();
            fields.iter().for_each(|f| keep(object, f));
            if kind.status_keeps_labels {
                object.set(&["metadata", "labels"], old.at(&["metadata", "labels"]).cloned());
            }
            if kind.status_keeps_metadata {
                keep_all_metadata(object, old);
            }
        }
        // A binding sets the node and the condition that says so.
        "binding" => {}
        "approval" => {
            only("status", "conditions", object, old);
            keep(object, "spec");
        }
        "finalize" => {
            only("spec", "finalizers", object, old);
            keep(object, "status");
        }
        "ephemeralcontainers" => {
            only("spec", "ephemeralContainers", object, old);
            keep(object, "status");
            keep_all_metadata(object, old);
        }
        _ if kind.subresource("status").is_some() => keep(object, "status"),
        _ => {}
    }
}

/// Whether a terminating object has nothing left that keeps it.
pub(super) fn finished(kind: &Kind, object: &Value) -> bool {
    meta::is_terminating(object)
        && meta::finalizers(object).next().is_none()
        && object.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
        && !strategy(kind).is_held(object)
}

impl Body {
    /// Reads a JSON or YAML body.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Status> {
        let parsed = json::parse_named(bytes, names())
            .map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?;
        let duplicates = parsed.duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
        Ok(Self { value: parsed.value, duplicates })
    }

    pub fn new(value: Value) -> Self {
        Self { value, duplicates: Vec::new() }
    }
}
