//! Delete: preconditions, grace, finalizers and propagation.

use fram_api::{Kind, strategy};
use fram_client::{DeleteOptions, Propagation};
use fram_machinery::{Status, Value, meta, normalize};
use fram_store::{Condition, Entry, Key, Operation, StoreError, Transaction};

use super::write::finished;
use super::{ListRequest, Place, Record, Registry, Write, store_status};
use crate::admission::{Operation as Verb, Request};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a deletion led to.
pub struct Deleted {
    pub object: Value,
    /// The object is gone; else it waits for its finalizers or its grace period.
    pub gone: bool,
    /// What admission had to say.
    pub warnings: Vec<String>,
}

impl Registry {
    pub async fn delete(&self, place: &Place, options: &DeleteOptions, write: &Write) -> Result<Deleted, Status> {
        let key = Key::from(self.key_of(place));
        let stored = place.served.stored.clone();
        loop {
            let entry = self.get(place).await?;
            let old = self.stored(&entry)?;
            // Who follows the kind is shown the last object.
            self.trees.put(entry.value.clone(), (), old.clone());
            check_preconditions(place, options, &old)?;
            let mut request = Request::new(self, place, "", Verb::Delete, write);
            if !write.housekeeping {
                self.admission.admit(&mut request, Value::Null, Some(&old)).await?;
                self.admission.validate(&request, None, Some(&old)).await?;
            }
            let (object, unheld) = self.marked(&stored, &old, options);
            let (warnings, stored) = (request.take_warnings(), &stored);
            let answer = |object: Value, gone| async move {
                let object = self.convert(object, stored, &place.served.kind).await?;
                Ok(Deleted { object, gone, warnings })
            };
            let gone = unheld || finished(stored, &object);
            if write.dry_run {
                return answer(object, gone).await;
            }
            if gone {
                match self.remove(place, &key, &entry, &object).await? {
                    Some(object) => return answer(object, true).await,
                    None => continue,
                }
            }
            if object == old {
                return answer(old, false).await;
            }
            match self.mark(stored, &key, &entry, object).await? {
                Some(object) => return answer(object, false).await,
                None => continue,
            }
        }
    }

    async fn mark(&self, stored: &Kind, key: &Key, entry: &Entry, mut object: Value) -> Result<Option<Value>, Status> {
        let value = Record::encode(stored, object.clone());
        self.trees.put(value.clone(), (), object.clone());
        let put = Operation::put(key.clone(), value);
        let transaction = Transaction::new(vec![put]).when(Condition::ModifiedAt(key.clone(), entry.modified));
        match self.store.commit(transaction).await {
            Ok(committed) => {
                object.set(&["metadata", "resourceVersion"], committed.revision.to_string());
                Ok(Some(object))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(store_status(error)),
        }
    }

    /// The object as its deletion begins, or goes on with a shorter grace period, and whether nothing holds it: then it is
    /// deleted as it is.
    fn marked(&self, kind: &Kind, old: &Value, options: &DeleteOptions) -> (Value, bool) {
        let mut object = old.clone();
        set_propagation(kind, &mut object, options.propagation);
        let own = strategy(kind).marks_deletion();
        if !kind.graceful && !own && !meta::is_terminating(old) && meta::finalizers(&object).next().is_none() {
            return (object, true);
        }
        let grace = if kind.graceful { pod_grace(old, options) } else { 0 };
        let now = self.environment.now();
        if !meta::is_terminating(old) {
            let end = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(jiff::Timestamp::MAX);
            object.set(&["metadata", "deletionTimestamp"], normalize::format_time(end, 0));
            if !own {
                object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
            }
            if !own && meta::generation(old) > 0 {
                object.set(&["metadata", "generation"], meta::generation(old) + 1);
            }
            strategy(kind).prepare_delete(&mut object);
            return (object, false);
        }
        let running = old.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
        if kind.graceful && grace < running {
            // The time of deletion moves forward by the difference; a period once given is never extended.
            let end = old.str_at(&["metadata", "deletionTimestamp"]).parse::<jiff::Timestamp>().unwrap_or(now);
            let sooner = jiff::SignedDuration::from_secs(running.saturating_sub(grace));
            let end = if grace == 0 { now } else { end.checked_sub(sooner).unwrap_or(now) };
            object.set(&["metadata", "deletionTimestamp"], normalize::format_time(end, 0));
            object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
        }
        (object, false)
    }

    /// Deletes every object of a collection that is selected; answers with those that were there.
    pub async fn delete_collection(
        &self,
        place: &Place,
        options: &DeleteOptions,
        list: &ListRequest,
        write: &Write,
    ) -> Result<Vec<Value>, Status> {
        let listing = self.list(place, list).await?;
        let mut all = Vec::with_capacity(listing.items.len());
        let objects = match listing.objects {
            Some(objects) => objects,
            None => self.objects(&place.served, &listing.items).await?,
        };
        for object in objects {
            let one = Place {
                served: place.served.clone(),
                namespace: meta::namespace(&object).to_string(),
                name: meta::name(&object).to_string(),
            };
            match self.delete(&one, options, write).await {
                Ok(_) => all.push(object),
                Err(status) if status.is(fram_machinery::Reason::NotFound) => {}
                Err(status) => return Err(status),
            }
        }
        Ok(all)
    }
}

fn check_preconditions(place: &Place, options: &DeleteOptions, object: &Value) -> Result<(), Status> {
    let pairs = [
        ("UID", &options.preconditions.uid, meta::uid(object)),
        ("ResourceVersion", &options.preconditions.resource_version, meta::resource_version(object)),
    ];
    for (what, wanted, found) in pairs {
        if let Some(wanted) = wanted.as_deref().filter(|w| *w != found) {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
            return Err(place.conflict(&why));
        }
    }
    Ok(())
}

fn set_propagation(kind: &Kind, object: &mut Value, asked: Option<Propagation>) {
    let waiting = |f: &str| meta::has_finalizer(object, f);
    let policy = match asked {
        Some(policy) => policy,
        None if waiting(ORPHAN) => Propagation::Orphan,
        None if waiting(FOREGROUND) => Propagation::Foreground,
        None if kind.orphans_by_default => Propagation::Orphan,
        None => Propagation::Background,
    };
    for (finalizer, wanted) in [(ORPHAN, policy == Propagation::Orphan), (FOREGROUND, policy == Propagation::Foreground)] {
        if wanted {
            meta::add_finalizer(object, finalizer);
        } else {
            meta::remove_finalizer(object, finalizer);
        }
    }
}

/// The grace period of a pod's deletion; a pod that runs nowhere needs none. See podStrategy.CheckGracefulDelete.
fn pod_grace(pod: &Value, options: &DeleteOptions) -> i64 {
    let asked = options.grace_period_seconds.or(pod.int_at(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(30);
    let ended = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    let unscheduled = pod.str_at(&["spec", "nodeName"]).is_empty();
    if ended || unscheduled {
        0
    } else if asked < 0 {
        1
    } else {
        asked
    }
}
