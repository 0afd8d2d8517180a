//! Follows APIServices by the store's watch, so that requests go where they say, and keeps those of this server itself. What has to
//! be done about one of these is decided in `local`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fram_client::{DeleteOptions, Preconditions};
use fram_machinery::{Reason, Status, Value, meta};
use tokio_util::sync::CancellationToken;

use super::local::{self, Before, Local, Step};
use super::service::{ApiService, OWN_GROUP, Services};
use crate::definitions::{settled, write};
use crate::keeping::keep;
use crate::registry::{ChangeKind, ListRequest, Place, Registry, WatchRequest};
use crate::server::Server;

pub(super) fn place(registry: &Registry, name: &str) -> Result<Place, Status> {
    let served = registry.served(OWN_GROUP, "v1", "apiservices").ok_or_else(Status::no_such_path)?;
    Ok(Place { served, namespace: String::new(), name: name.into() })
}

/// Takes in all APIServices as they are; returns them, and the revision from which to watch.
pub(super) async fn load(server: &Server) -> Result<(u64, Vec<Value>), Status> {
    let registry = &server.registry;
    let all = place(registry, "")?;
    let listing = registry.list(&all, &ListRequest::default()).await?;
    let objects = listing.items.iter().map(|entry| registry.decode(&all.served, entry)).collect::<Result<Vec<_>, _>>()?;
    server.aggregator.change_services(|_| Services::new(objects.iter().map(ApiService::read)));
    Ok((listing.revision, objects))
}

pub(super) async fn follow(server: Arc<Server>, stop: CancellationToken) {
    let keeper = Keeper { server, synced: BTreeSet::new(), at_start: None, current: BTreeMap::new(), wanted: BTreeMap::new() };
    keep(stop, "following APIServices", keeper, |keeper| Box::pin(keeper.follow())).await;
}

struct Keeper {
    server: Arc<Server>,
    /// Those that were brought into order once.
    synced: BTreeSet<String>,
    /// Those that were there when the server started.
    at_start: Option<BTreeSet<String>>,
    current: BTreeMap<String, Value>,
    wanted: BTreeMap<String, Local>,
}

impl Keeper {
    async fn follow(&mut self) -> Result<(), Status> {
        let registry = self.server.registry.clone();
        let mut api = registry.follow_api();
        let (revision, objects) = load(&self.server).await?;
        self.current = objects.into_iter().map(|o| (meta::name(&o).to_string(), o)).collect();
        self.at_start.get_or_insert_with(|| self.current.keys().cloned().collect());
        let request = WatchRequest { resource_version: revision.to_string(), ..Default::default() };
        let mut watching = registry.watch(&place(&registry, "")?, request).await?;
        let wanted = local::wanted(&api.borrow_and_update());
        self.kinds_changed(wanted).await?;
        let served = place(&registry, "")?.served;
        loop {
            let change = tokio::select! {
                biased;
                change = watching.next() => change?,
                changed = api.changed() => {
                    changed.map_err(Status::internal)?;
                    let wanted = local::wanted(&api.borrow_and_update());
                    self.kinds_changed(wanted).await?;
                    continue;
                }
            };
            let Some(entry) = change.entry else { continue };
            let object = registry.decode(&served, &entry)?;
            self.changed(object, change.kind == ChangeKind::Deleted).await?;
        }
    }

    async fn changed(&mut self, object: Value, gone: bool) -> Result<(), Status> {
        let name = meta::name(&object).to_string();
        let service = (!gone).then(|| ApiService::read(&object));
        self.server.aggregator.change_services(|services| services.with(&name, service));
        if gone {
            self.current.remove(&name);
        } else {
            self.current.insert(name.clone(), object);
        }
        self.put_right(&name).await
    }

    /// Brings all into order that differ from what was wanted before, and those that were left by an earlier start.
    async fn kinds_changed(&mut self, wanted: BTreeMap<String, Local>) -> Result<(), Status> {
        let before = std::mem::replace(&mut self.wanted, wanted);
        let names: BTreeSet<String> = before.keys().chain(self.wanted.keys()).chain(self.current.keys()).cloned().collect();
        for name in names {
            self.put_right(&name).await?;
        }
        Ok(())
    }

    async fn put_right(&mut self, name: &str) -> Result<(), Status> {
        let at_start = self.at_start.as_ref().is_some_and(|known| known.contains(name));
        let before = Before { synced: self.synced.contains(name), at_start };
        let registry = &self.server.registry;
        let target = place(registry, name)?;
        match local::plan(self.wanted.get(name), self.current.get(name), before) {
            Step::Nothing => {}
            Step::Create(object) => match registry.create(&target, object, &write()).await {
                Err(status) if !status.is(Reason::AlreadyExists) => return Err(status),
                _ => {}
            },
            // The object carries the version that was seen.
            Step::Update(object) => settled(registry.update(&target, "", &write(), |_| Ok(object.clone())).await.map(drop))?,
            Step::Delete { uid } => {
                let preconditions = Preconditions { uid: Some(uid), resource_version: None };
                let options = DeleteOptions { preconditions, ..Default::default() };
                settled(registry.delete(&target, &options, &write()).await.map(drop))?;
            }
        }
        self.synced.insert(name.to_string());
        Ok(())
    }
}
